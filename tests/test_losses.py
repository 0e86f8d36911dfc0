"""Losses against dense formulas; negatives against counting."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqgen import losses, numerics
from seqgen.data.ragged import Sequences
from seqgen.data.sequences import SequenceBatch, training_batch
from seqgen.data.split import leave_one_out
from seqgen.errors import SettingError

NUM_ITEMS = 12
LARGE = 500  # items of a catalogue that a loss must not hold once for each target
# Training parts of users, of three groups of length; the third comes back to items, the last misses only item 7.
HISTORIES = [[1, 2, 3], [12, 5, 2, 11, 4, 9], [5, 8, 5, 8, 5], [2, 12], [i for i in range(1, 13) if i != 7]]


def make_batch(histories: list[list[int]]) -> SequenceBatch:
    lengths = torch.tensor([0, *map(len, histories)])
    sequences = Sequences(values=torch.tensor([i for h in histories for i in h]).int(), offsets=lengths.cumsum(0))
    cases = leave_one_out(sequences, held_out=0)
    return training_batch(sequences, cases, torch.arange(len(histories)), max_len=20)


def leaves(batch: SequenceBatch, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(len(batch.targets), 6, generator=generator)
    table = torch.randn(NUM_ITEMS + 1, 6, generator=generator)
    return hidden.to(dtype).requires_grad_(), table.to(dtype).requires_grad_()


def dense_cross_entropy(hidden: Tensor, table: Tensor, batch: SequenceBatch) -> Tensor:
    logits = hidden.double() @ table[1:].double().T
    return F.cross_entropy(logits, batch.targets - 1, reduction="sum") / batch.normalizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_the_softmax_over_items_1_to_i(dtype: torch.dtype) -> None:
    batch = replace(make_batch(HISTORIES), normalizer=7.0)
    hidden, table = leaves(batch, dtype)
    value = losses.cross_entropy(hidden, table, batch.targets, batch)
    expected = dense_cross_entropy(hidden, table, batch)
    torch.testing.assert_close(value, expected.to(dtype))
    found, wanted = (torch.autograd.grad(v, (hidden, table)) for v in (value, expected))
    torch.testing.assert_close(found, wanted)
    assert not found[1][0].any()


@pytest.mark.parametrize("autocast", [False, True])
def test_cross_entropy_of_half_precision_is_computed_in_32_bits(autocast: bool) -> None:
    batch = make_batch(HISTORIES)
    hidden, table = leaves(batch, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = losses.cross_entropy(hidden, table, batch.targets, batch)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), dense_cross_entropy(hidden, table, batch), rtol=1e-6, atol=0)
    value.backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


def test_losses_of_no_target_are_zero() -> None:
    batch = make_batch([[1], [2]])
    for loss in (losses.cross_entropy, losses.binary_cross_entropy):
        hidden, table = leaves(batch)
        value = loss(hidden, table, batch.targets, batch)
        value.backward()
        assert (len(batch.targets), value.item()) == (0, 0.0)
        assert hidden.grad is not None
        assert hidden.grad.shape == (0, 6)


def test_binary_cross_entropy_of_given_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = replace(make_batch(HISTORIES), normalizer=11.0)
    hidden, table = leaves(batch, torch.float64)
    negatives = torch.randint(1, NUM_ITEMS + 1, (len(batch.targets), 3))

    def fixed(given: SequenceBatch, num_items: int, *, num_negatives: int, exclude_seen: bool) -> Tensor:
        assert (given, num_items, num_negatives, exclude_seen) == (batch, NUM_ITEMS, 3, False)
        return negatives

    monkeypatch.setattr(losses, "sample_negatives", fixed)
    value = losses.binary_cross_entropy(hidden, table, batch.targets, batch, num_negatives=3, exclude_seen=False)
    expected = torch.zeros((), dtype=torch.float64)
    for h, target, drawn in zip(hidden, batch.targets, negatives, strict=True):
        expected = expected - torch.log(torch.sigmoid(h @ table[target]))
        for item in drawn:
            expected = expected - torch.log(1 - torch.sigmoid(h @ table[item])) / 3
    torch.testing.assert_close(value, expected / 11.0)
    found, wanted = (torch.autograd.grad(v, (hidden, table)) for v in (value, expected / 11.0))
    torch.testing.assert_close(found, wanted)


def test_binary_cross_entropy_of_large_scores_is_finite() -> None:
    batch = make_batch(HISTORIES)
    hidden, table = leaves(batch, scale=1e4)
    value = losses.binary_cross_entropy(hidden, table, batch.targets, batch)
    value.backward()
    assert value.isfinite()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("num_negatives", [0, -1])
def test_binary_cross_entropy_needs_a_negative(num_negatives: int) -> None:
    batch = make_batch(HISTORIES)
    with pytest.raises(SettingError, match=rf"^num_negatives={num_negatives} must be at least 1"):
        losses.binary_cross_entropy(*leaves(batch), batch.targets, batch, num_negatives=num_negatives)


def is_uniform(counts: Tensor) -> bool:
    """Chi-square within 5 standard deviations of its mean."""
    expected, freedom = counts.double().mean(), len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum()) < freedom + 5 * (2 * freedom) ** 0.5 + 1e-9


@pytest.fixture
def draw() -> Callable[..., tuple[SequenceBatch, Tensor]]:
    def drawn(histories: list[list[int]], **settings: bool) -> tuple[SequenceBatch, Tensor]:
        torch.manual_seed(0)
        batch = make_batch(histories)
        return batch, losses.sample_negatives(batch, NUM_ITEMS, num_negatives=5000, **settings)

    return drawn


def test_negatives_are_uniform_over_what_the_user_has_not_seen(
    draw: Callable[..., tuple[SequenceBatch, Tensor]],
) -> None:
    batch, negatives = draw(HISTORIES, exclude_seen=True)
    assert len(batch.groups) == 3
    for target, (row, drawn) in enumerate(zip(batch.target_rows.tolist(), negatives, strict=True)):
        assert int(batch.targets[target]) in HISTORIES[row]
        counts = drawn.bincount(minlength=NUM_ITEMS + 1)
        unseen = sorted(set(range(1, NUM_ITEMS + 1)) - set(HISTORIES[row]))
        assert counts.nonzero().flatten().tolist() == unseen
        assert is_uniform(counts[unseen])


def test_a_negative_is_that_of_its_draw_among_the_sorted_unseen_items() -> None:
    batch, num_items = make_batch(HISTORIES), 40
    torch.manual_seed(3)
    found = losses.sample_negatives(batch, num_items, num_negatives=50, exclude_seen=True)
    torch.manual_seed(3)
    points = batch.draw(torch.rand, found.shape, dtype=torch.float64)
    for row, drawn, own in zip(batch.target_rows.tolist(), found.tolist(), points.tolist(), strict=True):
        unseen = sorted(set(range(1, num_items + 1)) - set(HISTORIES[row]))
        assert drawn == [unseen[int(point * len(unseen))] for point in own]


def test_negatives_of_all_items_where_seen_ones_are_allowed(draw: Callable[..., tuple[SequenceBatch, Tensor]]) -> None:
    _, negatives = draw([*HISTORIES, list(range(1, 13))], exclude_seen=False)
    counts = negatives.flatten().bincount(minlength=NUM_ITEMS + 1)
    assert counts[0] == 0
    assert is_uniform(counts[1:])


def test_negatives_of_a_user_who_has_seen_every_item(draw: Callable[..., tuple[SequenceBatch, Tensor]]) -> None:
    with pytest.raises(SettingError, match=r"^exclude_seen=true leaves no negative"):
        draw([*HISTORIES, list(range(1, 13))], exclude_seen=True)
    draw([*HISTORIES, [*range(1, 12), *range(1, 12)]], exclude_seen=True)  # more interactions than items, but one left


def counted(loss: losses.CountedLoss) -> losses.CountedLoss:
    loss.prepare(torch.arange(LARGE + 1))
    return loss


@pytest.mark.parametrize(
    ("loss", "largest"),
    [
        (losses.cross_entropy, 5_000),
        (counted(losses.SampledSoftmax(num_negatives=20, sampler="uniform", alpha=None, shared=True)), 5_000),
        (counted(losses.SampledSoftmax(num_negatives=20, sampler="popularity", alpha=None, shared=False)), 12_600),
        (counted(losses.InBatchSoftmax()), 5_500),  # chunks are rounded up
        (partial(losses.gbce, num_negatives=20, calibration=0.5), 12_600),
    ],
)
def test_a_loss_never_holds_positions_times_items(
    loss: Callable[..., Tensor], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor positions times negatives times width: 600 x 20 x 4, beside which a table of 500 x 4 is small."""

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.elements = max(self.elements, out.numel())
            return out

    monkeypatch.setattr(numerics, "LEAST_ROWS", 1)
    monkeypatch.setattr(numerics, "WIDTHS", 1)
    monkeypatch.setattr(numerics, "CHUNK_CPU", 5_000)
    width = 4
    hidden, table = torch.randn(600, width, requires_grad=True), torch.randn(LARGE + 1, width, requires_grad=True)
    targets = torch.randint(1, LARGE + 1, (600,))
    batch = replace(make_batch(HISTORIES), targets=targets, normalizer=600.0)
    with Largest() as seen:
        loss(hidden, table, targets, batch).backward()
    assert seen.elements <= largest < 600 * 20 * width
