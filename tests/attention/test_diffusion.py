"""Diffusion attention: the reverse process and the losses, row by row, from the layer's own weights."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
    plain_output,
    real_rows,
)
from conftest import mechanism
from torch import Tensor

from seqgen.attention import SequenceMask
from seqgen.attention.diffusion import TEACHER_SHARE, DiffusionAttention
from seqgen.diffusion import schedules
from seqgen.errors import SettingError

STEPS = 8


def make(**settings: Any) -> DiffusionAttention:
    schedule = settings.pop("schedule", None) or schedules.cosine(steps=STEPS)
    given = {"schedule": schedule, "denoiser_dim": 6, "reverse_steps": 2}
    layer: DiffusionAttention = make_layer("diffusion", **given | settings)
    return layer


def read(layer: DiffusionAttention, state: Tensor, length: int, position: int) -> Tensor:
    """What the denoiser sees of a row: state (H, position + 1) -> (F,)."""
    cells = torch.zeros(HEADS, MAX_LEN, dtype=torch.float64)
    for column in range(position + 1):
        cells[:, place(layer.columns, length, position, column)] = state[:, column]
    if layer.rank:
        cells = torch.stack([cells[head] @ layer.compress[head] for head in range(HEADS)])
    return layer.map_in.weight @ cells.flatten() + layer.map_in.bias


def denoised(layer: DiffusionAttention, state: Tensor, query: Tensor, context: Tensor, position: int, t: int) -> Tensor:
    """A_0 of a row from A_t (H, position + 1); query (D,), context (length, D)."""
    given = layer.context_in(plain_context(layer.context, query, context, position))
    if layer.context.kind != "prefix":
        given = given + layer.row.weight[len(context) - 1 - position]
    hidden = F.gelu(read(layer, state, len(context), position) + given + layer.step.weight[t - 1])
    logits = plain_logits(layer.logits, F.gelu(layer.inner(hidden)), context, position)
    return logits - logits.mean(dim=1, keepdim=True)


def generated(
    layer: DiffusionAttention, state: Tensor, query: Tensor, context: Tensor, position: int, ends: list[int]
) -> Tensor:
    """The reverse process written out: DDIM without noise (Song et al., equation 12)."""
    signal = layer.schedule.alpha_bar
    for t, s in pairwise(ends):
        clean = denoised(layer, state, query, context, position, t)
        noise = (state - signal[t].sqrt() * clean) / (1 - signal[t]).sqrt()
        state = signal[s].sqrt() * clean + (1 - signal[s]).sqrt() * noise
    return clean


def error(layer: DiffusionAttention, clean: Tensor, noise: Tensor, t: int, *row: Any) -> Tensor:
    """Squared errors of a row's cells, (H, position + 1)."""
    signal = layer.schedule.alpha_bar[t]
    return (denoised(layer, signal.sqrt() * clean + (1 - signal).sqrt() * noise, *row, t) - clean) ** 2


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("reverse_steps", "ends"), [(1, [8, 0]), (2, [8, 4, 0]), (4, [8, 6, 4, 2, 0])])
@pytest.mark.parametrize("settings", [{}, {"rank": 2}, {"content": False}, {"content": False, "rank": 3}], ids=str)
@pytest.mark.parametrize("columns", ["relative", "absolute"])
@pytest.mark.parametrize("context_kind", CONTEXTS, ids=lambda kind: kind["context"])
def test_the_reverse_process_from_0(
    context_kind: dict[str, Any],
    columns: str,
    settings: dict[str, Any],
    reverse_steps: int,
    ends: list[int],
    last: bool,
) -> None:
    layer = make(columns=columns, reverse_steps=reverse_steps, **context_kind, **settings).eval()
    query, context, mask = drawn_input(last=last)
    hidden, aux = layer(query, context, mask)
    assert aux == {}
    for b, row, position, length in real_rows(mask):
        start = torch.zeros(HEADS, position + 1, dtype=torch.float64)
        given = query[b, row], context[b, :length], position
        logits = generated(layer, start, *given, ends)
        torch.testing.assert_close(hidden[b, row], plain_output(layer, logits, context[b, :length]))
    assert torch.equal(layer(query, context, mask)[0], hidden)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("columns", ["relative", "absolute"])
def test_the_reverse_process_from_given_noise(columns: str, last: bool) -> None:
    """A draw is one value a head and place: the same for all rows and users."""
    layer = make(columns=columns, reverse_steps=2).eval()
    layer.sample(1, 1.5, torch.Generator().manual_seed(2))
    layer.double()
    query, context, mask = drawn_input(last=last)
    hidden, _ = layer(query, context, mask)
    for b, row, position, length in real_rows(mask):
        cells = [place(columns, length, position, column) for column in range(position + 1)]
        start = layer.noise[0, :, 0, cells]
        logits = generated(layer, start, query[b, row], context[b, :length], position, [8, 4, 0])
        torch.testing.assert_close(hidden[b, row], plain_output(layer, logits, context[b, :length]))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("context_kind", CONTEXTS, ids=lambda kind: kind["context"])
@pytest.mark.parametrize("clean_map", ["uniform", "own", "teacher"])
def test_training_draws_a_map_and_holds_the_denoiser_to_the_forward_process(
    clean_map: str, context_kind: dict[str, Any], last: bool
) -> None:
    layer = make(clean_map=clean_map, diffusion_weight=0.3, **context_kind).train()
    query, context, mask = drawn_input(last=last)
    shape = (len(LENGTHS), HEADS, query.shape[1], NUM_COLUMNS)
    torch.manual_seed(4)
    hidden, aux = layer(query, context, mask)
    torch.manual_seed(4)
    start = torch.randn(shape, dtype=torch.float64)
    attends = [False] * len(LENGTHS)
    if clean_map == "teacher":
        attends = (torch.rand(len(LENGTHS), 1, 1, 1).flatten() < TEACHER_SHARE).tolist()
        assert len(set(attends)) == 2
    t = torch.randint(1, STEPS + 1, (len(LENGTHS),)).tolist()
    noise = torch.randn(shape, dtype=torch.float64)
    # With context=last a sequence has one target, so its rows are one mean, whatever their number.
    by_part: dict[Any, list[Tensor]] = defaultdict(list)
    for b, row, position, length in real_rows(mask):
        cells = (b, slice(None), row, slice(position + 1))
        given = query[b, row], context[b, :length], position
        own = generated(layer, start[cells], *given, [8, 4, 0])
        taught = teacher(layer, query[b, row], context[b, : position + 1]) if clean_map == "teacher" else own
        clean = {"uniform": torch.zeros_like(own), "own": own, "teacher": taught}[clean_map]
        part = b if context_kind["context"] == "last" else (b, row)
        errors = error(layer, clean, noise[cells], t[b], *given)
        by_part[part].append(torch.stack([errors.mean(), own.square().mean()]))
        expected = plain_output(layer, taught if attends[b] else own, context[b, :length])
        torch.testing.assert_close(hidden[b, row], expected)
    assert {name: one.weight for name, one in aux.items()} == {"diffusion": 0.3, "logit_variance": 0.0}
    expected = torch.stack([torch.stack(rows).mean(0) for rows in by_part.values()]).mean(0)
    torch.testing.assert_close(torch.stack([aux["diffusion"][0], aux["logit_variance"][0]]), expected)
    assert not aux["logit_variance"][0].requires_grad


def teacher(layer: DiffusionAttention, query: Tensor, context: Tensor) -> Tensor:
    """Query-key logits of a row over what it may read, (H, position + 1)."""
    q, k, width = layer.teacher_query(query), layer.teacher_key(context), WIDTH // HEADS
    parts = [slice(head * width, (head + 1) * width) for head in range(HEADS)]
    logits = torch.stack([8 * torch.tanh(k[:, part] @ q[part] / width**0.5 / 8) for part in parts])
    return logits - logits.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("clean_map", ["own", "teacher"])
def test_no_gradient_reaches_the_clean_map(clean_map: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the denoiser of the loss cut off, nothing of the loss is left to learn from."""
    layer = make(clean_map=clean_map).train()
    query, context, mask = drawn_input(last=False)
    calls = []

    def denoise(*given: Any) -> Tensor:
        calls.append(given)
        clean = DiffusionAttention.denoise(layer, *given)
        return clean.detach().requires_grad_() if len(calls) == 3 else clean  # after two reverse steps

    monkeypatch.setattr(layer, "denoise", denoise)
    _, aux = layer(query, context, mask)
    assert len(calls) == 3
    noisy = calls[2][0]
    assert not noisy.requires_grad
    value = aux["diffusion"][0]
    assert all(g is None for g in torch.autograd.grad(value, list(layer.parameters()), allow_unused=True))


def test_the_teacher_attends_in_half_of_the_sequences_of_training_only() -> None:
    layer = make(clean_map="teacher")
    for linear in (layer.teacher_query, layer.teacher_key):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)  # its map is the uniform one
    x = torch.randn(1, 5, WIDTH, dtype=torch.float64).expand(2000, 5, WIDTH)
    mask = SequenceMask(torch.full((2000,), 5), 5)
    uniform = torch.ones(5, 5, dtype=torch.float64).tril() / torch.arange(1.0, 6.0)[:, None]
    expected = layer.out(uniform @ layer.value(x[0]))
    attends = torch.isclose(layer(x, x, mask)[0], expected).all(-1)
    assert attends[:, 0].all()  # one cell: every map is the same
    assert torch.equal(attends[:, 1:].any(1), attends[:, 1:].all(1))
    assert attends[:, 1].double().mean().item() == pytest.approx(TEACHER_SHARE, abs=0.05)
    assert not torch.isclose(layer.eval()(x, x, mask)[0], expected).all(-1)[:, 1:].any()


def test_the_teacher_learns_from_the_recommendation_alone() -> None:
    layer = make(clean_map="teacher").train()
    query, context, mask = drawn_input(last=False)
    weights = [layer.teacher_query.weight, layer.teacher_key.weight, layer.teacher_query.bias, layer.teacher_key.bias]
    torch.manual_seed(4)
    hidden, aux = layer(query, context, mask)
    assert all(gradient.any() for gradient in torch.autograd.grad(hidden.square().sum(), weights, retain_graph=True))
    left = torch.autograd.grad(aux["diffusion"][0], weights, allow_unused=True)
    assert all(gradient is None for gradient in left)
    assert not hasattr(make(clean_map="own"), "teacher_query")


def test_without_a_weight_there_is_no_diffusion_loss() -> None:
    layer = make(diffusion_weight=0.0).train()
    query, context, mask = drawn_input(last=False)
    assert list(layer(query, context, mask)[1]) == ["logit_variance"]


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_cells_that_are_not_allowed_hold_0_at_every_step(
    last: bool, training: bool, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make(reverse_steps=4).train(training)
    lengths = LENGTHS.repeat(samples or 1)
    layer.sample(samples, 1.0, torch.Generator())
    query, context, mask = drawn_input(last=last, lengths=lengths)
    states = []

    def denoise(state: Tensor, *given: Any) -> Tensor:
        states.append(state)
        return DiffusionAttention.denoise(layer, state, *given)

    monkeypatch.setattr(layer, "denoise", denoise)
    layer(query, context, mask)
    assert len(states) == (5 if training else 4)
    for state in states:
        assert not state[~mask.allowed.expand_as(state)].any()
    first = states[0][mask.allowed.expand_as(states[0])]
    assert first.any() == bool(training or samples)


def test_the_diffusion_loss_draws_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, seen = make().train(), []

    def denoise(state: Tensor, given: Tensor, keys: Tensor, t: Tensor, mask: SequenceMask) -> Tensor:
        seen.append(t.unique().tolist())
        return torch.zeros_like(state)

    monkeypatch.setattr(layer, "denoise", denoise)
    x = torch.randn(400, 1, WIDTH, dtype=torch.float64)
    layer(x, x, SequenceMask(torch.ones(400, dtype=torch.long), 1))
    assert seen == [[8], [4], list(range(1, STEPS + 1))]


@pytest.mark.parametrize("clean_map", ["uniform", "own"])
def test_grouping_changes_no_auxiliary_loss(clean_map: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make(clean_map=clean_map).train()
    query, context, mask = drawn_input(last=False)
    monkeypatch.setattr(torch, "randn", torch.zeros)
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, device: torch.full(shape, 3))
    _, whole = layer(query, context, mask)
    for name, (value, *_) in whole.items():
        by_group = 0.0
        for rows, columns in (([0], 5), ([1, 3], 2), ([2], 3)):
            lengths = LENGTHS[rows]
            part = layer(query[rows, :columns], context[rows, :columns], SequenceMask(lengths, columns))[1]
            by_group = by_group + part[name][0] * lengths.sum() / LENGTHS.sum()
        torch.testing.assert_close(by_group, value)


def test_the_schedule_stays_in_64_bits() -> None:
    layer = make().to(torch.bfloat16)
    assert layer.schedule.alpha_bar.dtype == torch.float64
    assert not any("alpha_bar" in key for key in layer.state_dict())
    x = torch.randn(4, 5, WIDTH, dtype=torch.bfloat16)
    for training in (True, False):
        hidden, aux = layer.train(training)(x, x, SequenceMask(LENGTHS, 5))
        assert hidden.dtype == torch.bfloat16
        assert all(value.dtype == torch.float32 and value.isfinite() for value, *_ in aux.values())


def test_training_starts_near_uniform_attention() -> None:
    torch.manual_seed(0)
    layer = mechanism("diffusion", schedule=schedules.cosine(steps=10))(hidden_dim=16, max_len=20)
    x = torch.randn(2, 20, 16)
    mask = SequenceMask(torch.tensor([20, 20]), 20)
    uniform = layer.out(layer.value(x).cumsum(dim=1) / torch.arange(1, 21)[:, None])
    for training in (True, False):
        hidden, _ = layer.train(training)(x, x, mask)
        assert (hidden - uniform).abs().max() < 0.1 * uniform.abs().max()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"reverse_steps": 9}, r"reverse_steps=9 is above schedule\.steps=8\."),
        ({"reverse_steps": 0}, r"reverse_steps=0 must be at least 1\."),
        ({"denoiser_dim": 0}, r"denoiser_dim=0 must be at least 1\."),
        ({"diffusion_weight": -0.1}, r"diffusion_weight=-0\.1 must be a number of at least 0\."),
        ({"clean_map": "uniform", "diffusion_weight": 0.0}, r"clean_map=uniform has no effect with"),
        ({"clean_map": "teacher", "diffusion_weight": 0.0}, r"clean_map=teacher has no effect with"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        make(**setting)


@pytest.mark.parametrize("reverse_steps", [1, STEPS])
def test_as_many_reverse_steps_as_steps(reverse_steps: int) -> None:
    assert make(reverse_steps=reverse_steps).ends == ([8, 0] if reverse_steps == 1 else list(range(8, -1, -1)))
