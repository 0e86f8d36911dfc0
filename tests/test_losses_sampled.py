"""Losses against samples of the catalogue: plain formulas, expectations, several processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import among
from test_losses import HISTORIES, NUM_ITEMS, dense_cross_entropy, is_uniform, leaves, make_batch
from torch import Tensor

from seqgen import losses
from seqgen.data.ragged import Sequences
from seqgen.data.sequences import SequenceBatch, sliced, training_batch
from seqgen.data.split import leave_one_out
from seqgen.errors import SettingError

COUNTS = torch.tensor([0, 40, 7, 1, 0, 12, 3, 3, 90, 25, 1, 2, 16])  # item 4 has no interaction
SAMPLED = [(sampler, shared) for sampler in ("uniform", "popularity") for shared in (True, False)]


def sampled_softmax(**settings: Any) -> losses.SampledSoftmax:
    loss = losses.SampledSoftmax(**{"num_negatives": 7, "sampler": "uniform", "alpha": None, "shared": True} | settings)
    loss.prepare(COUNTS)
    return loss


def in_batch(counts: Tensor = COUNTS + 1) -> losses.InBatchSoftmax:
    loss = losses.InBatchSoftmax()
    loss.prepare(counts)
    return loss


def gbce(*given: Any, num_negatives: int = 7, calibration: float = 0.75) -> Tensor:
    return losses.gbce(*given, num_negatives=num_negatives, calibration=calibration)


ALL: dict[str, Callable[..., Tensor]] = {
    **{f"{sampler}, shared={shared}": sampled_softmax(sampler=sampler, shared=shared) for sampler, shared in SAMPLED},
    "in batch": in_batch(),
    "gbce": gbce,
}


def check_equal(value: Tensor, expected: Tensor, parameters: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(value, expected)
    found, wanted = (torch.autograd.grad(v, parameters, retain_graph=True) for v in (value, expected))
    torch.testing.assert_close(found, wanted)
    assert all(gradient.any() for gradient in wanted)


@pytest.mark.parametrize(("sampler", "shared"), SAMPLED)
def test_sampled_softmax_is_its_formula(sampler: str, shared: bool) -> None:
    batch = replace(make_batch(HISTORIES), normalizer=7.0)
    hidden, table = leaves(batch, torch.float64)
    loss = sampled_softmax(sampler=sampler, shared=shared, alpha=0.5 if sampler == "popularity" else None)
    torch.manual_seed(3)
    items, _ = loss.draw(batch, NUM_ITEMS)
    torch.manual_seed(3)
    value = loss(hidden, table, batch.targets, batch)
    weights = torch.ones(NUM_ITEMS) if sampler == "uniform" else COUNTS[1:].clamp(min=1).sqrt()
    q = (weights / weights.sum()).tolist()
    terms, hits = [], 0
    for n, target in enumerate(batch.targets.tolist()):
        own = hidden[n] @ table[target]
        whole = own.exp()
        for item in (items if shared else items[n]).tolist():
            hits += item == target
            if item != target:
                whole = whole + (hidden[n] @ table[item]).exp() / (7 * q[item - 1])
        terms.append(whole.log() - own)
    assert hits > 0
    check_equal(value, torch.stack(terms).sum() / 7.0, (hidden, table))


def test_in_batch_softmax_is_its_formula() -> None:
    batch = replace(make_batch(HISTORIES), normalizer=7.0)
    hidden, table = leaves(batch, torch.float64)
    counts = COUNTS + 1
    counts[0] = 0
    targets, terms = batch.targets.tolist(), []
    assert len(set(targets)) < len(targets)
    for n, target in enumerate(targets):
        own = hidden[n] @ table[target]
        whole = own.exp()
        for other in targets:
            if other != target:
                share = counts[other] / counts.sum()
                whole = whole + (hidden[n] @ table[other]).exp() / ((len(targets) - 1) * share)
        terms.append(whole.log() - own)
    value = in_batch(counts)(hidden, table, batch.targets, batch)
    check_equal(value, torch.stack(terms).sum() / 7.0, (hidden, table))


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_is_its_formula(calibration: float) -> None:
    batch = replace(make_batch(HISTORIES), normalizer=7.0)
    hidden, table = leaves(batch, torch.float64)
    torch.manual_seed(3)
    value = gbce(hidden, table, batch.targets, batch, num_negatives=3, calibration=calibration)
    torch.manual_seed(3)
    negatives = torch.randint(1, NUM_ITEMS, (len(batch.targets), 3))
    alpha = 3 / (NUM_ITEMS - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    assert beta == pytest.approx({0.0: 1.0, 1.0: alpha}.get(calibration, beta))
    expected = torch.zeros((), dtype=torch.float64)
    for h, target, drawn in zip(hidden, batch.targets, negatives, strict=True):
        expected = expected - torch.log(torch.sigmoid(h @ table[target]) ** beta) / 4
        for item in drawn:
            expected = expected - torch.log(1 - torch.sigmoid(h @ table[item + (item >= target)])) / 4
    check_equal(value, expected / 7.0, (hidden, table))


def test_gbce_draws_evenly_among_all_items_but_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    picked = losses.picked_products
    monkeypatch.setattr(losses, "picked_products", lambda h, t, ids: seen.append(ids) or picked(h, t, ids))
    torch.manual_seed(0)
    batch = make_batch(HISTORIES)
    for _ in range(400):
        gbce(*leaves(batch), batch.targets, batch, num_negatives=11)
    ids = torch.stack(seen)
    for row, target in enumerate(batch.targets.tolist()):
        assert (ids[:, row, 0] == target).all()
        counts = ids[:, row, 1:].flatten().bincount(minlength=NUM_ITEMS + 1)
        assert counts[[0, target]].tolist() == [0, 0]
        assert is_uniform(counts[[i for i in range(1, NUM_ITEMS + 1) if i != target]])


@pytest.mark.parametrize("alpha", [None, 0.3, 1.0, 40.0])
def test_popular_items_are_drawn_as_their_probability_says(alpha: float | None) -> None:
    loss, batch = sampled_softmax(sampler="popularity", alpha=alpha, num_negatives=50_000), make_batch(HISTORIES)
    torch.manual_seed(0)
    items, probability = loss.draw(batch, NUM_ITEMS)
    weights = COUNTS[1:].clamp(min=1).double() ** (alpha or 0.75)
    expected = weights / weights.sum()
    torch.testing.assert_close(probability, expected[items - 1], rtol=1e-9, atol=1e-15)
    found = items.bincount(minlength=NUM_ITEMS + 1)[1:]
    spread = (50_000 * expected * (1 - expected)).sqrt()
    assert ((found - 50_000 * expected).abs() <= 5 * spread + 1).all()
    assert alpha == 40.0 or found.min() > 0


def estimates(loss: Callable[..., Tensor], hidden: Tensor, table: Tensor, draws: int, **more: Any) -> Tensor:
    """Of the softmax's denominator, which a loss of one target leaves in its value, relative to the true one."""
    batch = replace(make_batch([[1, 9]]), normalizer=1.0)
    own = hidden[0] @ table[9]
    values = torch.stack([loss(hidden, table, batch.targets, batch) for _ in range(draws)])
    return ((values + own).exp() / (table[1:] @ hidden[0]).exp().sum()).detach()


@pytest.mark.parametrize(("sampler", "shared"), SAMPLED)
def test_the_sampled_denominator_is_the_full_one_in_expectation(sampler: str, shared: bool) -> None:
    torch.manual_seed(0)
    hidden, table = (x.detach() for x in leaves(make_batch([[1, 9]]), torch.float64))
    found = estimates(sampled_softmax(sampler=sampler, shared=shared, num_negatives=64), hidden, table, 2000)
    error = found.std() / len(found) ** 0.5
    assert error < 0.01  # where hits were left in, the target's share of the sum, 0.4, would be there twice
    assert (found.mean() - 1.0).abs() < 4 * error


@pytest.mark.parametrize("sampler", ["uniform", "popularity"])
def test_the_expected_loss_approaches_the_full_one_as_one_over_k(sampler: str) -> None:
    torch.manual_seed(0)
    hidden, table = (x.detach() for x in leaves(make_batch([[1, 9]]), torch.float64))
    gaps = []
    for k, draws in ((16, 2000), (256, 500)):
        found = estimates(sampled_softmax(sampler=sampler, num_negatives=k), hidden, table, draws)
        bias, error = found.log().mean(), found.log().std() / draws**0.5
        assert (bias + found.var() / 2).abs() < 4 * error + 0.2 * found.var()  # half the relative variance below
        gaps.append(-bias)
    assert gaps[0] > 5 * gaps[1].abs()


def test_the_denominator_of_a_batch_is_the_full_one_in_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the targets are independent draws from the training counts, as the correction supposes."""
    counts, size, draws = COUNTS.clamp(min=1), 64, 1000
    counts[0] = 0
    found = []

    def denominators(hidden: Tensor, own: Tensor, rows: Tensor, shift: Tensor, hits: Any, weights: Tensor) -> Tensor:
        terms = (hidden @ rows.T + shift).masked_fill(hits[0][:, None] == hits[1], -torch.inf)
        found.append(torch.cat([own[:, None], terms], dim=1).exp().sum(dim=1).mean())
        return own.sum()

    monkeypatch.setattr(losses, "sampled_cross_entropy", denominators)
    torch.manual_seed(0)
    (state, *_), table = (x.detach() for x in leaves(make_batch([[1, 9]]), torch.float64))
    loss, batch = in_batch(counts), make_batch([[1, 9]])
    for _ in range(draws):
        targets = counts.double().multinomial(size, replacement=True)
        loss(state.expand(size, -1), table, targets, replace(batch, targets=targets))
    estimate = torch.stack(found) / (table[1:] @ state).exp().sum()
    error = estimate.std() / draws**0.5
    assert error < 0.02
    assert (estimate.mean() - 1.0).abs() < 4 * error


def test_softmax_against_every_item_once_is_the_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = replace(make_batch(HISTORIES), normalizer=7.0)
    hidden, table = leaves(batch, torch.float64)
    every = torch.arange(1, NUM_ITEMS + 1)
    for shared in (True, False):
        loss = sampled_softmax(num_negatives=NUM_ITEMS, shared=shared)
        items = every if shared else every.expand(len(batch.targets), -1)
        probability = torch.full_like(items, 1 / NUM_ITEMS, dtype=torch.float64)
        monkeypatch.setattr(loss, "draw", lambda *_, given=(items, probability): given)
        value = loss(hidden, table, batch.targets, batch)
        check_equal(value, dense_cross_entropy(hidden, table, batch), (hidden, table))


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_of_no_target_and_of_large_scores(loss: Callable[..., Tensor]) -> None:
    empty, batch = make_batch([[1], [2]]), make_batch(HISTORIES)
    hidden, table = leaves(empty)
    value = loss(hidden, table, empty.targets, empty)
    value.backward()
    assert value.item() == 0.0
    assert hidden.grad is not None
    hidden, table = leaves(batch, scale=1e4)
    loss(hidden, table, batch.targets, batch).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (hidden, table))
    assert table.grad is not None
    assert not table.grad[0].any()


def test_a_batch_of_one_target_has_no_negative() -> None:
    batch = make_batch([[1, 9]])
    hidden, table = leaves(batch)
    value = in_batch()(hidden, table, batch.targets, batch)
    value.backward()
    assert value.item() == 0.0
    assert table.grad is not None
    assert not table.grad.any()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_losses_of_half_precision_are_computed_in_32_bits(loss: Callable[..., Tensor], autocast: bool) -> None:
    batch = make_batch(HISTORIES)
    hidden, table = leaves(batch, torch.bfloat16)
    values = []
    for h, t, on in ((hidden, table, autocast), (hidden.double(), table.double(), False)):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            values.append(loss(h, t, batch.targets, batch))
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-5, atol=0)
    values[0].backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_negatives": 0}, "num_negatives=0 must be at least 1"),
        ({"alpha": 0.5}, "alpha=0.5 has no effect with sampler=uniform; leave it null"),
        ({"sampler": "popularity", "alpha": 0.0}, "alpha=0.0 must be a number above 0"),
        ({"sampler": "popularity", "alpha": float("nan")}, "alpha=nan must be a number above 0"),
    ],
)
def test_sampled_softmax_refuses(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError) as error:
        sampled_softmax(**settings)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_negatives": 0}, "num_negatives=0 must be at least 1"),
        ({"num_negatives": 12}, "num_negatives=12 must be at most 11, the other items; or use loss=ce"),
        ({"calibration": -0.1}, r"calibration=-0.1 must lie in [0, 1]"),
        ({"calibration": 1.1}, r"calibration=1.1 must lie in [0, 1]"),
        ({"calibration": float("nan")}, r"calibration=nan must lie in [0, 1]"),
    ],
)
def test_gbce_refuses(settings: dict[str, Any], told: str) -> None:
    batch = make_batch(HISTORIES)
    with pytest.raises(SettingError) as error:
        gbce(*leaves(batch), batch.targets, batch, **settings)
    assert str(error.value).startswith(told)


def slice_of(rank: int, processes: int) -> SequenceBatch:
    """A process's slice of the batch of all histories, as the data module makes it."""
    values = torch.tensor([item for history in HISTORIES for item in history]).int()
    offsets = torch.tensor([0, *map(len, HISTORIES)]).cumsum(0)
    sequences, index = Sequences(values=values, offsets=offsets), torch.arange(len(HISTORIES))
    cases = leave_one_out(sequences, held_out=0)
    batch = training_batch(sequences, cases, index[rank::processes], max_len=20)
    whole = sliced(cases.stop - cases.start - 1, rank, processes)
    whole.generator = torch.Generator().manual_seed(3)
    return replace(batch, normalizer=whole.targets / processes, whole=whole)


def process(rank: int, processes: int) -> dict[str, list[Tensor | None]]:
    kept = {}
    for name, loss in ALL.items():
        batch = slice_of(rank, processes)
        hidden, table = leaves(make_batch(HISTORIES), torch.float64)
        assert batch.whole is not None
        value = loss(hidden[batch.whole.place], table, batch.targets, batch)
        value.backward()
        kept[name] = [value.detach(), hidden.grad, table.grad]
    return kept


@pytest.mark.parametrize("processes", [2, 4])
def test_the_mean_over_processes_is_the_loss_of_one(processes: int, tmp_path: Path) -> None:
    kept = among(processes, tmp_path / "processes", process, processes)
    for name, loss in ALL.items():
        batch = make_batch(HISTORIES)
        hidden, table = leaves(batch, torch.float64)
        torch.manual_seed(3)
        value = loss(hidden, table, batch.targets, batch)
        value.backward()
        for found, wanted in zip(
            zip(*(one[name] for one in kept), strict=True), (value, hidden.grad, table.grad), strict=True
        ):
            torch.testing.assert_close(
                torch.stack(found).mean(0), wanted.detach(), msg=lambda text, n=name: f"{n}: {text}"
            )
