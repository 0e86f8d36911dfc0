"""VAE attention against a row by row computation from its own weights."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_cases import (
    CONTEXTS,
    HEADS,
    LENGTHS,
    MAX_LEN,
    WIDTH,
    drawn_input,
    make_layer,
    plain_context,
    plain_logits,
    plain_output,
    real_rows,
)
from conftest import mechanism
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from seqgen.attention import SequenceMask
from seqgen.attention.vae import VAEAttention
from seqgen.errors import SettingError

LATENT = 3


def make(**settings: Any) -> VAEAttention:
    layer: VAEAttention = make_layer("vae", latent_dim=LATENT, decoder_dim=5, **settings)
    layer.log_variance.bias.data[:2] = torch.tensor([50.0, -50.0])  # beyond the bounds of the log-variance
    return layer


def posterior(layer: VAEAttention, query: Tensor, context: Tensor, position: int) -> Normal:
    """Of the row whose query is (D,); context (length, D)."""
    hidden = plain_context(layer.context, query, context, position)
    log_variance = layer.log_variance(hidden).clamp(-8, 4)
    return Normal(layer.mean(hidden), torch.exp(log_variance / 2))


def plain(layer: VAEAttention, latent: Tensor, context: Tensor, position: int) -> Tensor:
    """Output of the row with latent (Z,)."""
    first, _, second, _ = layer.shared_decoder
    decoded = F.gelu(second(F.gelu(first(latent))))
    return plain_output(layer, plain_logits(layer.logits, decoded, context, position), context)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("columns", ["relative", "absolute"])
@pytest.mark.parametrize("context_kind", CONTEXTS, ids=lambda kind: kind["context"])
def test_rows_are_decoded_from_their_latent(
    context_kind: dict[str, Any], columns: str, content: bool, rank: int | None, training: bool, last: bool
) -> None:
    settings = {"columns": columns, "content": content, "rank": rank, **context_kind}
    layer = make(kl_weight=0.5, kl_warmup=0, **settings).train(training)
    one_a_row = context_kind["context"] == "prefix"
    query, context, mask = drawn_input(last=last)
    torch.manual_seed(1)
    hidden, aux = layer(query, context, mask)
    torch.manual_seed(1)
    shape = (len(LENGTHS), query.shape[1] if one_a_row else 1, LATENT)
    noise = torch.randn(shape, dtype=torch.float64) if training else torch.zeros(shape)
    divergences = {}
    for b, row, position, length in real_rows(mask):
        latent_row = row if one_a_row else 0
        normal = posterior(layer, query[b, row], context[b, :length], position)
        divergences[b, latent_row] = kl_divergence(normal, Normal(0.0, 1.0)).sum()
        expected = plain(layer, normal.mean + normal.stddev * noise[b, latent_row], context[b, :length], position)
        torch.testing.assert_close(hidden[b, row], expected, rtol=1e-9, atol=1e-9)
    if training:
        value, weight, _ = aux["kl"]
        assert weight == 0.5
        torch.testing.assert_close(value, torch.stack([*divergences.values()]).mean())
    else:
        assert aux == {}


def test_one_vector_decodes_the_whole_map_of_the_figure() -> None:
    """n x n cells a head from one z, the newest item at the last slot of both axes."""
    layer = make(context="last", columns="absolute", content=False).eval()
    assert layer.logits.position.out_features == HEADS * MAX_LEN**2
    query, context, mask = drawn_input(last=False)
    map_of = layer.weights(query, context, mask)
    for b, length in enumerate(LENGTHS.tolist()):
        mean, _ = layer.posterior(plain_context(layer.context, query[b, 0], context[b, :length], 0))
        cells = layer.logits.position(layer.shared_decoder(mean)).reshape(HEADS, MAX_LEN, MAX_LEN)
        drawn = (8 * torch.tanh(cells / 8))[:, -length:, -length:]  # left-padded, as the paper draws it
        causal = drawn.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        torch.testing.assert_close(map_of[b, :, :length, :length], causal.softmax(-1))


def auxiliary(layer: VAEAttention, mean: Tensor, log_variance: Tensor, mask: SequenceMask) -> dict[str, Any]:
    return layer._auxiliary(mean, log_variance, mask)


@pytest.mark.parametrize("free_bits", [0.0, 0.3, 2.0])
def test_free_bits_are_what_each_dimension_has_for_nothing(free_bits: float) -> None:
    layer = make(kl_weight=0.1, free_bits=free_bits)
    mean, log_variance = torch.randn(2, 4, 5, LATENT, dtype=torch.float64) * torch.tensor([0.1, 1.0, 2.0])
    mean, log_variance = mean.requires_grad_(), log_variance.requires_grad_()
    mask = SequenceMask(LENGTHS, 5)
    rows = [(b, i) for b, _, i, _ in real_rows(mask)]
    nats = torch.stack([kl_divergence(Normal(mean[c], (log_variance[c] / 2).exp()), Normal(0.0, 1.0)) for c in rows])
    by_dimension = nats.mean(dim=0)
    assert by_dimension[0] < 0.3 < by_dimension[1]
    value = auxiliary(layer, mean, log_variance, mask)["kl"].value
    torch.testing.assert_close(
        value, torch.stack([d if d > free_bits else d * 0 + free_bits for d in by_dimension]).sum()
    )
    gradient = torch.autograd.grad(value, mean)[0]
    assert gradient.any(dim=0).any(dim=0).tolist() == [bool(d > free_bits) for d in by_dimension]
    padding = torch.tensor([[i >= n for i in range(5)] for n in LENGTHS.tolist()])
    assert not gradient[padding].any()


@pytest.mark.parametrize("rows", [1, 5])
def test_active_units_are_the_dimensions_whose_mean_varies(rows: int) -> None:
    layer = make(context="prefix" if rows > 1 else "last")
    mask = SequenceMask(LENGTHS, 5)
    # Collapsed to the prior, collapsed elsewhere, and alive; what padding holds counts for nothing.
    mean = torch.zeros(4, rows, LATENT, dtype=torch.float64)
    mean[..., 1] = 7.0
    mean[..., 2] = 0.3 * torch.arange(4.0)[:, None]
    count = lambda: auxiliary(layer, mean, torch.zeros_like(mean), mask)["active_units"]  # noqa: E731
    assert (count().value.item(), count().weight) == (1.0, 0.0)
    if rows > 1:
        mean[:, -1, 0] = torch.tensor([0.0, 50.0, -50.0, 50.0])
        assert count()[0].item() == 1.0
    mean[0, 0, 0] = 5.0
    assert count()[0].item() == 2.0
    mean[..., 2] *= 0.1  # below the threshold
    assert count()[0].item() == 1.0


def test_dropout_hits_the_attention_weights() -> None:
    layer = make(dropout=0.5)
    torch.nn.init.zeros_(layer.value.weight)
    torch.nn.init.ones_(layer.value.bias)
    layer.out = torch.nn.Identity()  # all values are 1, so an output is the sum of the row's weights
    x, mask = torch.zeros(500, 1, WIDTH, dtype=torch.float64), SequenceMask(torch.ones(500, dtype=torch.long), 1)
    assert set(layer(x, x, mask)[0].unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(layer.eval()(x, x, mask)[0], torch.ones_like(x))


def test_the_divergence_has_a_weight_that_warms_up() -> None:
    layer = make(kl_weight=0.4, kl_warmup=70)
    assert layer(*drawn_input(last=False))[1]["kl"][1:] == (0.4, 70)


@pytest.mark.parametrize("columns", ["relative", "absolute"])
@pytest.mark.parametrize("context_kind", CONTEXTS, ids=lambda kind: kind["context"])
def test_training_starts_near_uniform_attention(context_kind: dict[str, Any], columns: str) -> None:
    torch.manual_seed(0)
    layer = mechanism("vae", columns=columns, **context_kind)(hidden_dim=16, max_len=20).eval()
    x = torch.randn(2, 20, 16)
    hidden, _ = layer(x, x, SequenceMask(torch.tensor([20, 20]), 20))
    uniform = layer.out(layer.value(x).cumsum(dim=1) / torch.arange(1, 21)[:, None])
    assert (hidden - uniform).abs().max() < 0.1 * uniform.abs().max()


@pytest.mark.parametrize(
    "setting",
    [
        {"latent_dim": 0},
        {"decoder_dim": 0},
        {"kl_weight": -1.0},
        {"kl_weight": float("nan")},
        {"kl_weight": float("inf")},
        {"kl_warmup": -1},
        {"free_bits": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(SettingError, match=rf"^{name}={value} must"):
        make_layer("vae", **setting)


def test_free_bits_without_a_divergence_are_refused() -> None:
    with pytest.raises(SettingError, match=r"^free_bits has no effect with kl_weight=0"):
        make_layer("vae", kl_weight=0.0, free_bits=0.1)


def test_width_and_dropout_are_checked_when_the_layer_is_built() -> None:
    with pytest.raises(SettingError, match=r"^num_heads=3"):
        make_layer("vae", num_heads=3)
    with pytest.raises(SettingError, match=r"^dropout=1\.0"):
        make_layer("vae", dropout=1.0)
