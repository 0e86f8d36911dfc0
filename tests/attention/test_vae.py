"""VAE attention against a row by row computation from its own weights."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from seqgen.attention import SequenceMask
from seqgen.attention.vae import VAEAttention, branches
from seqgen.errors import UserError

LENGTHS = torch.tensor([5, 2, 3])
MAX_LEN, WIDTH, HEADS, LATENT = 7, 4, 2, 3


def make_layer(**settings: Any) -> VAEAttention:
    torch.manual_seed(0)
    [(weight, make)] = branches(num_heads=HEADS, latent_dim=LATENT, decoder_dim=5, **settings)
    assert weight == 1.0
    layer = make(hidden_dim=WIDTH, max_len=MAX_LEN)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    layer.log_variance.bias.data[:2] = torch.tensor([50.0, -50.0])  # beyond the bounds of the log-variance
    return layer.double()


def posterior(layer: VAEAttention, query: Tensor, context: Tensor) -> Normal:
    """Of the row whose query is (D,) and whose context, itself included, is (n, D)."""
    hidden = F.gelu(layer.encoder(query + sum(context) / len(context)))
    log_variance = layer.log_variance(hidden).clamp(-8, 4)
    return Normal(layer.mean(hidden), torch.exp(log_variance / 2))


def plain(layer: VAEAttention, latent: Tensor, context: Tensor) -> Tensor:
    """Output of the row with latent (Z,): one logit per head and distance to the newest of context (n, D)."""
    first, _, second, _ = layer.shared_decoder
    logits = layer.head_decoders(F.gelu(second(F.gelu(first(latent))))).reshape(HEADS, MAX_LEN)
    value, newest, width = layer.value(context), len(context) - 1, WIDTH // HEADS
    mixed = []
    for head in range(HEADS):
        exp = torch.stack([logits[head, newest - j].exp() for j in range(newest + 1)])
        mixed.append((exp[:, None] * value[:, head * width : (head + 1) * width]).sum(dim=0) / exp.sum())
    return layer.out(torch.cat(mixed))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_rows_are_decoded_from_their_own_latent(last: bool, training: bool) -> None:
    layer = make_layer(kl_weight=0.5, kl_warmup=0.0).train(training)
    query, context = torch.randn(2, 3, 5, WIDTH, dtype=torch.float64)
    mask = SequenceMask(LENGTHS, 5, last=last)
    torch.manual_seed(1)
    hidden, aux = layer(mask.query_rows(query), context, mask, 1.0)
    torch.manual_seed(1)
    noise = torch.randn(3, 1 if last else 5, LATENT, dtype=torch.float64) if training else torch.zeros(3, 5, LATENT)
    divergences = []
    for b, length in enumerate(LENGTHS.tolist()):
        for i in [length - 1] if last else range(length):
            row, past = 0 if last else i, context[b, : i + 1]
            normal = posterior(layer, query[b, i], past)
            divergences.append(kl_divergence(normal, Normal(0.0, 1.0)).sum())
            expected = plain(layer, normal.mean + normal.stddev * noise[b, row], past)
            torch.testing.assert_close(hidden[b, row], expected, rtol=1e-9, atol=1e-9)
    if training:
        value, weight = aux["kl"]
        assert weight == 0.5
        torch.testing.assert_close(value, torch.stack(divergences).mean())
    else:
        assert aux == {}


def test_dropout_hits_the_attention_weights() -> None:
    layer = make_layer(dropout=0.5)
    torch.nn.init.zeros_(layer.value.weight)
    torch.nn.init.ones_(layer.value.bias)
    layer.out = torch.nn.Identity()  # all values are 1, so an output is the sum of the row's weights
    x, mask = torch.zeros(500, 1, WIDTH, dtype=torch.float64), SequenceMask(torch.ones(500, dtype=torch.long), 1)
    assert set(layer(x, x, mask, 1.0)[0].unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(layer.eval()(x, x, mask, 1.0)[0], torch.ones_like(x))


@pytest.mark.parametrize(
    ("warmup", "progress", "share"),
    [(0.2, 0.0, 0.0), (0.2, 0.05, 0.25), (0.2, 0.2, 1.0), (0.2, 0.9, 1.0), (1.0, 0.5, 0.5), (0.0, 0.0, 1.0)],
)
def test_weight_of_the_divergence_warms_up(warmup: float, progress: float, share: float) -> None:
    layer = make_layer(kl_weight=0.4, kl_warmup=warmup)
    x = torch.randn(3, 5, WIDTH, dtype=torch.float64)
    assert layer(x, x, SequenceMask(LENGTHS, 5), progress)[1]["kl"][1] == pytest.approx(0.4 * share)


def test_training_starts_near_uniform_attention() -> None:
    torch.manual_seed(0)
    [(_, make)] = branches()
    layer = make(hidden_dim=16, max_len=20).eval()
    x = torch.randn(2, 20, 16)
    hidden, _ = layer(x, x, SequenceMask(torch.tensor([20, 20]), 20), 1.0)
    uniform = layer.out(layer.value(x).cumsum(dim=1) / torch.arange(1, 21)[:, None])
    assert (hidden - uniform).abs().max() < 0.1 * uniform.abs().max()


@pytest.mark.parametrize(
    "setting",
    [{"latent_dim": 0}, {"decoder_dim": 0}, {"kl_weight": -1.0}, {"kl_warmup": 1.5}, {"kl_warmup": -0.5}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(UserError, match=rf"^attention\.{name}={value} must"):
        branches(**setting)


def test_width_and_dropout_are_checked_when_the_layer_is_built() -> None:
    with pytest.raises(UserError, match=r"attention\.num_heads=2"):
        branches(num_heads=2)[0][1](hidden_dim=5, max_len=4)
    with pytest.raises(UserError, match=r"attention\.dropout=1\.0"):
        branches(dropout=1.0)[0][1](hidden_dim=4, max_len=4)
