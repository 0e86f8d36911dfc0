"""Context, decoded logits and draws of generated attention against loops over rows and cells."""

from functools import partial
from typing import Any

import pytest
import torch
from attention_cases import (
    CONTEXTS,
    HEADS,
    LENGTHS,
    MAX_LEN,
    NUM_COLUMNS,
    WIDTH,
    drawn_input,
    make_layer,
    place,
    plain_context,
    plain_logits,
    real_rows,
)
from conftest import mechanism
from torch import Tensor, nn

from seqgen.attention import SequenceMask, diffusion, masked_softmax
from seqgen.attention.generation import (
    LOGIT_BOUND,
    Context,
    LogitDecoder,
    from_columns,
    to_columns,
)
from seqgen.diffusion import schedules
from seqgen.errors import SettingError
from seqgen.layers import Encoder, Inference

diffused = partial(mechanism, "diffusion", schedule=schedules.cosine(steps=6))


@pytest.mark.parametrize("one_for_all", [False, True])
@pytest.mark.parametrize("known", [NUM_COLUMNS, MAX_LEN])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("columns", ["relative", "absolute"])
def test_values_by_place_to_columns_and_back(columns: Any, last: bool, known: int, one_for_all: bool) -> None:
    mask = SequenceMask(LENGTHS, NUM_COLUMNS, last=last)
    rows = 1 if one_for_all else mask.query_valid.shape[1]
    values = torch.arange(1.0, 1 + 4 * HEADS * rows * known).reshape(4, HEADS, rows, known)
    by_column = to_columns(values, mask, columns)
    assert by_column.shape == (4, HEADS, mask.query_valid.shape[1], NUM_COLUMNS)
    allowed = by_column.masked_fill(~mask.allowed, 0.0)
    back = from_columns(allowed, mask, columns, known)
    assert back.shape == (4, HEADS, mask.query_valid.shape[1], known)
    for b, row, position, length in real_rows(mask):
        source = values[b, :, 0 if one_for_all else row]
        expected = torch.zeros(HEADS, known)
        for column in range(position + 1):
            cell = place(columns, length, position, column, known)
            assert torch.equal(by_column[b, :, row, column], source[:, cell])
            expected[:, cell] = source[:, cell]
        assert torch.equal(back[b, :, row], expected)
    again = to_columns(back, mask, columns)
    real = mask.query_valid[:, None, :, None] & mask.allowed
    assert torch.equal((again * real), (allowed * real))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("columns", ["relative", "absolute"])
def test_gradients_follow_the_cells(columns: Any, last: bool) -> None:
    mask = SequenceMask(LENGTHS, NUM_COLUMNS, last=last)
    rows = mask.query_valid.shape[1]
    values = torch.randn(4, 1, rows, MAX_LEN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: to_columns(x, mask, columns).masked_fill(~mask.allowed, 0.0), values)
    cells = torch.randn(4, 1, rows, NUM_COLUMNS, dtype=torch.float64, requires_grad=True)
    back = lambda x: from_columns(x.masked_fill(~mask.allowed, 0.0), mask, columns, MAX_LEN)  # noqa: E731
    assert torch.autograd.gradcheck(back, cells)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["prefix", "global", "last"])
def test_context_is_the_mean_of_what_the_row_may_read(kind: Any, last: bool) -> None:
    torch.manual_seed(0)
    module = Context(hidden_dim=WIDTH, kind=kind).double()
    nn.init.normal_(module.dense.bias)
    query, context, mask = drawn_input(last=last)
    found = module(query, context, mask)
    assert found.shape == (4, query.shape[1] if kind == "prefix" else 1, WIDTH)
    for b, row, position, length in real_rows(mask):
        expected = plain_context(module, query[b, row], context[b, :length], position)
        torch.testing.assert_close(found[b, row if kind == "prefix" else 0], expected)
    if kind != "prefix":  # padding is left out, whatever it holds; the newest item is not
        other = context.clone()
        other[3, 1:] = 1e6
        other[2, 2] += 1.0
        assert (module(query, other, mask) == found).all(dim=-1)[:, 0].tolist() == [True, True, False, True]


def make_decoder(**settings: Any) -> LogitDecoder:
    torch.manual_seed(0)
    decoder = LogitDecoder(in_features=3, hidden_dim=WIDTH, num_heads=HEADS, max_len=MAX_LEN, **settings)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=2.0)
    return decoder.double()


@pytest.mark.parametrize("last", [False, True])
# A whole map comes from one vector for all rows.
@pytest.mark.parametrize(("whole", "one_for_all"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("columns", ["relative", "absolute"])
def test_logits_cell_by_cell(
    columns: Any, rank: int | None, content: bool, whole: bool, one_for_all: bool, last: bool
) -> None:
    decoder = make_decoder(columns=columns, content=content, rank=rank, whole=whole)
    _, context, mask = drawn_input(last=last)
    rows = 1 if one_for_all else mask.query_valid.shape[1]
    hidden = torch.randn(4, rows, 3, dtype=torch.float64)
    logits = decoder(hidden, decoder.keys(context), mask)
    assert logits.shape[-1] == NUM_COLUMNS
    assert logits.abs().max() <= LOGIT_BOUND
    for b, row, position, length in real_rows(mask):
        expected = plain_logits(decoder, hidden[b, 0 if one_for_all else row], context[b, :length], position)
        torch.testing.assert_close(logits[b, :, row, : position + 1], expected)


def test_logits_stay_within_the_bound_and_keep_their_order() -> None:
    decoder = make_decoder(columns="relative", content=True, rank=None, whole=False)
    _, context, mask = drawn_input(last=False)
    hidden = 100 * torch.randn(4, NUM_COLUMNS, 3, dtype=torch.float64)
    logits = decoder(hidden, decoder.keys(context), mask)
    assert 0.999 * LOGIT_BOUND < logits.abs().max() <= LOGIT_BOUND
    small = decoder(1e-6 * hidden, None, mask)
    plain = to_columns(
        decoder.position(1e-6 * hidden).unflatten(-1, (HEADS, -1)).transpose(1, 2)[..., -5:], mask, "relative"
    )
    torch.testing.assert_close(small[:, :, 4], 8 * torch.tanh(plain / 8)[:, :, 4])


def test_low_rank_has_fewer_parameters() -> None:
    def size(whole: bool, rank: int | None) -> int:
        sizes = {"in_features": 64, "hidden_dim": 8, "num_heads": 2, "max_len": 50}
        decoder = LogitDecoder(**sizes, columns="absolute", content=False, rank=rank, whole=whole)
        return sum(p.numel() for p in decoder.parameters())

    assert size(False, 4) == 65 * 2 * 4 + 2 * 4 * 50
    assert size(False, None) == 65 * 2 * 50
    assert size(True, 4) == 65 * 2 * (2 * 4 * 50)
    assert size(True, None) == 65 * 2 * 50**2
    for whole, rank in ((True, 25), (False, 50)):
        with pytest.raises(SettingError, match=rf"^rank={rank} saves nothing with max_len=50; leave it null"):
            size(whole, rank)


@pytest.mark.parametrize("last", [False, True])
def test_centered_rows_have_mean_0_and_the_same_softmax(last: bool) -> None:
    _, _, mask = drawn_input(last=last)
    logits = torch.randn(4, HEADS, mask.query_valid.shape[1], NUM_COLUMNS, dtype=torch.float64)
    found = diffusion.centered(logits, mask)
    allowed = mask.allowed.expand_as(found)
    assert not found[~allowed].any()
    for b, row, position, _ in real_rows(mask):
        cells = logits[b, :, row, : position + 1]
        torch.testing.assert_close(found[b, :, row, : position + 1], cells - cells.mean(-1, keepdim=True))
    torch.testing.assert_close(masked_softmax(found, mask.allowed), masked_softmax(logits, mask.allowed))


@pytest.mark.parametrize("name", ["vae", "diffusion", "synthesizer"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"context": "global"}, r"context=global shows each position its own target.*allow_leak=true"),
        ({"allow_leak": True}, r"allow_leak has no effect without context=global"),
        ({"allow_leak": True, "context": "last"}, r"allow_leak has no effect"),
        ({"rank": 0}, r"rank=0 must be at least 1\."),
        ({"rank": -3}, r"rank=-3 must be at least 1\."),
    ],
)
def test_shared_settings_out_of_range_are_refused(name: str, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        make_layer(name, **setting)


def test_a_leak_that_is_asked_for_is_no_error() -> None:
    make_layer("vae", context="global", allow_leak=True)


DRAWING = {"vae": partial(mechanism, "vae", latent_dim=3), "diffusion": diffused}
SHAPES = {"vae": (3,), "diffusion": (HEADS, 1, MAX_LEN)}


def make_encoder(name: str, samples: int, temperature: float = 1.0, **settings: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(
        DRAWING[name](num_heads=HEADS, **settings),
        hidden_dim=WIDTH,
        num_layers=2,
        ffn_dim=5,
        activation="gelu",
        norm="post",
        dropout=0.0,
        max_len=MAX_LEN,
    )
    # A temperature without samples is refused where a user sets it.
    encoder.sample(Inference(samples=samples, temperature=temperature if samples else 1.0))
    generator = torch.Generator().manual_seed(1)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, generator=generator)
    return encoder.double().eval()


def noises(encoder: Encoder) -> list[Tensor]:
    return [block.attention.noise for stack in encoder.stacks for block in stack]


@pytest.mark.parametrize("name", DRAWING)
def test_noise_is_the_same_in_every_run_differs_by_layer_and_is_in_no_checkpoint(name: str) -> None:
    first, second = make_encoder(name, 3), make_encoder(name, 3)
    assert [noise.shape for noise in noises(first)] == [(3, *SHAPES[name])] * 2
    assert all(torch.equal(a, b) for a, b in zip(noises(first), noises(second), strict=True))
    assert not torch.equal(*noises(first))
    assert not any("noise" in key for key in first.state_dict())
    assert first.state_dict().keys() == make_encoder(name, 0).state_dict().keys()
    hot = make_encoder(name, 3, 2.5)
    for a, b in zip(noises(hot), noises(first), strict=True):
        torch.testing.assert_close(a, 2.5 * b)
    many = torch.cat([noise.flatten() for noise in noises(make_encoder(name, 4000))])
    assert (many.mean().item(), many.std().item()) == pytest.approx((0.0, 1.0), abs=0.02)


@pytest.mark.parametrize("name", DRAWING)
def test_a_model_that_draws_draws_nothing_from_the_runs_seed(name: str) -> None:
    """So that training is the same with and without samples."""
    states = []
    for samples in (0, 5):
        make_encoder(name, samples)
        torch.manual_seed(0)
        make_encoder(name, samples)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("columns", ["relative", "absolute"])
@pytest.mark.parametrize("context_kind", CONTEXTS, ids=lambda kind: kind["context"])
@pytest.mark.parametrize("name", DRAWING)
def test_samples_are_the_mean_over_single_draws(
    name: str, context_kind: dict[str, Any], columns: str, last_only: bool
) -> None:
    settings = {"columns": columns, **context_kind}
    three, one = make_encoder(name, 3, 2.0, **settings), make_encoder(name, 1, 2.0, **settings)
    _, x, _ = drawn_input(last=False)
    singles = []
    for draw in range(3):
        for here, there in zip(noises(one), noises(three), strict=True):
            here.copy_(there[draw : draw + 1])
        singles.append(one(x, LENGTHS, last_only=last_only)[0])
    real = torch.ones_like(singles[0]).bool()
    if not last_only:
        real = (torch.arange(NUM_COLUMNS) < LENGTHS[:, None])[..., None].expand_as(singles[0])
    assert not torch.isclose(singles[0], singles[1])[real].all()
    mean, aux = three(x, LENGTHS, last_only=last_only)
    assert aux == {}
    torch.testing.assert_close(mean[real], torch.stack(singles).mean(0)[real])
    each, _ = three(x, LENGTHS, last_only=last_only, each=True)
    torch.testing.assert_close(each.unflatten(0, (3, -1))[:, real], torch.stack(singles)[:, real])


@pytest.mark.parametrize("name", DRAWING)
def test_noise_is_the_same_for_every_row_and_user(name: str) -> None:
    """Two users with one history get one state, and a row does not depend on the batch."""
    encoder = make_encoder(name, 2)
    _, x, _ = drawn_input(last=False)
    x[1] = x[0]
    every, _ = encoder(x, torch.tensor([5, 5, 3, 1]))
    torch.testing.assert_close(every[0], every[1])
    alone, _ = encoder(x[2:3, :3], torch.tensor([3]))
    torch.testing.assert_close(alone[0], every[2, :3])


@pytest.mark.parametrize("name", DRAWING)
def test_without_noise_samples_are_the_deterministic_map(name: str) -> None:
    _, x, _ = drawn_input(last=False)
    still, cold = make_encoder(name, 0), make_encoder(name, 2, 1e-12)
    torch.testing.assert_close(cold(x, LENGTHS)[0][:, 0], still(x, LENGTHS)[0][:, 0])
    torch.manual_seed(0)
    trained = [encoder.train()(x, LENGTHS)[0] for encoder in (still, cold) if torch.manual_seed(3)]
    assert torch.equal(*trained)  # samples change nothing in training


@pytest.mark.parametrize("name", DRAWING)
def test_context_last_asks_for_one_target(name: str) -> None:
    assert make_encoder(name, 0, context="last").one_target
    assert not make_encoder(name, 0).one_target
    assert not make_encoder(name, 0, context="global", allow_leak=True).one_target


def test_values_are_mixed_by_the_map_and_projected() -> None:
    layer = make_layer("synthesizer").eval()
    query, context, mask = drawn_input(last=False)
    weights = layer.weights(query, context, mask)
    value = layer.value(context)
    for b, row, position, _ in real_rows(mask):
        mixed = [weights[b, h, row, : position + 1] @ value[b, : position + 1, 2 * h : 2 * h + 2] for h in range(HEADS)]
        torch.testing.assert_close(layer(query, context, mask)[0][b, row], layer.out(torch.cat(mixed)))
