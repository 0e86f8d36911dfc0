"""Ranks, recommended lists and metrics against sorting and against numbers worked out by hand."""

from math import log2

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgen.errors import UserError
from seqgen.metrics import RankingMetrics, target_ranks, top_items

INF, NAN = float("inf"), float("nan")


def messy_scores(rows: int = 400, num_items: int = 30, seed: int = 0) -> Tensor:
    """Scores with many ties, masked items and some NaN; column 0 is padding."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 4, (rows, num_items + 1), generator=generator).float()
    chance = torch.rand(scores.shape, generator=generator)
    scores[chance < 0.3] = -INF
    scores[rows // 2 :][chance[rows // 2 :] > 0.95] = NAN
    scores[: rows // 8, 4:] = -INF  # fewer candidates than places
    scores[:, 0] = -INF
    return scores


def test_rank_is_the_place_after_all_that_are_not_worse() -> None:
    scores = messy_scores()
    targets = torch.randint(1, 31, (len(scores),), generator=torch.Generator().manual_seed(1))
    for row, target, rank in zip(scores.numpy(), targets.tolist(), target_ranks(scores, targets).tolist(), strict=True):
        if np.isnan(row[target]) or row[target] == -INF:
            assert rank == 31
        else:  # NaN counts as better than everything
            ascending = np.sort(np.where(np.isnan(row[1:]), INF, row[1:]))
            assert rank == 30 - np.searchsorted(ascending, row[target], side="left")


def test_rank_of_a_broken_scorer_is_the_worst() -> None:
    targets = torch.tensor([1, 3, 5])
    for value in (0.0, NAN, -INF, INF):
        scores = torch.full((3, 6), value)
        scores[:, 0] = -INF
        worst = 6 if value in (-INF, NAN) or np.isnan(value) else 5
        assert target_ranks(scores, targets).tolist() == [worst] * 3


def test_rank_of_distinct_scores() -> None:
    scores = torch.tensor([[-INF, 0.5, 0.9, 0.1, -INF]])
    assert [int(target_ranks(scores, torch.tensor([t]))) for t in (1, 2, 3, 4)] == [2, 1, 3, 5]


@pytest.mark.parametrize("k", [1, 2, 7, 29, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_top_items_are_ordered_by_score_then_id(k: int, dtype: torch.dtype) -> None:
    scores = messy_scores(seed=k)
    given = scores.to(dtype)
    before = given.clone()
    top = top_items(given, k)
    assert top.shape == (len(scores), k)
    torch.testing.assert_close(given, before, equal_nan=True)
    ids = np.arange(31)
    for row, found in zip(scores.numpy(), top.tolist(), strict=True):
        value = np.where(np.isnan(row), -INF, row)
        best = np.lexsort((ids, -value))[:k]
        assert found == [int(item) if value[item] > -INF else 0 for item in best]


def test_top_items_of_equal_scores_are_the_lowest_ids() -> None:
    scores = torch.zeros(3, 5000)
    scores[:, 0] = -INF
    assert top_items(scores, 10).tolist() == [list(range(1, 11))] * 3


# Five items with 5, 2, 1, 1, 0 training interactions, and their bits; the item without any counts as one with 1.
COUNTS = torch.tensor([0, 5, 2, 1, 1, 0])
BITS = {1: log2(9 / 5), 2: log2(9 / 2), 3: log2(9), 4: log2(9), 5: log2(9)}
# User 0 hits at once; user 1 has the target third, in a tie for the second place; user 2 has seen it, and item 4.
SCORES = torch.tensor(
    [
        [-INF, 9.0, 5.0, 4.0, 1.0, 0.0],
        [-INF, 3.0, 9.0, 3.0, 0.0, 1.0],
        [-INF, -INF, -INF, 2.0, -INF, 7.0],
    ]
)
TARGETS = torch.tensor([1, 1, 4])
BY_HAND = {
    "hr@1": 1 / 3,
    "hr@3": 2 / 3,
    "ndcg@1": 1 / 3,
    "ndcg@3": (1 + 0.5) / 3,  # 1 / log2(3 + 1)
    "mrr": (1 + 1 / 3) / 3,
    "unhittable": 1 / 3,
    "coverage@1": 3 / 5,  # items 1, 2, 5
    "coverage@3": 4 / 5,  # items 1, 2, 3, 5: lists 1 2 3, 2 1 3 and 5 3
    "novelty@1": (BITS[1] + BITS[2] + BITS[5]) / 3,
    "novelty@3": (2 * BITS[1] + 2 * BITS[2] + 3 * BITS[3] + BITS[5]) / 8,
    "popularity@1": (5 + 2 + 0) / 3,
    "popularity@3": (5 + 2 + 1 + 2 + 5 + 1 + 0 + 1) / 8,
}


def test_metrics_worked_out_by_hand() -> None:
    metrics = RankingMetrics(COUNTS, k=[3, 1])
    ranks, top = target_ranks(SCORES, TARGETS), top_items(SCORES, 3)
    assert ranks.tolist() == [1, 3, 6]
    assert top.tolist() == [[1, 2, 3], [2, 1, 3], [5, 3, 0]]
    metrics.update(ranks, top)
    values = metrics.compute()
    assert {name: value.item() for name, value in values.items()} == pytest.approx(BY_HAND, rel=1e-14)
    assert {value.dtype for value in values.values()} == {torch.float64}


def test_constant_scorer_gets_next_to_nothing() -> None:
    metrics = RankingMetrics(COUNTS, k=[1, 3])
    scores = torch.zeros(5, 6)
    scores[:, 0] = -INF
    metrics.update(target_ranks(scores, torch.arange(1, 6)), top_items(scores, 3))
    values = metrics.compute()
    assert (values["hr@3"], values["ndcg@3"], values["unhittable"]) == (0, 0, 0)
    assert values["mrr"].item() == pytest.approx(1 / 5)


def test_any_split_into_batches_and_processes_gives_the_same_numbers() -> None:
    scores = messy_scores(rows=97)
    ranks, top = target_ranks(scores, torch.arange(97) % 30 + 1), top_items(scores, 10)
    counts = torch.arange(31)
    whole = RankingMetrics(counts, k=[1, 5, 10])
    whole.update(ranks, top)
    expected = whole.compute()
    for size in (1, 10, 96):
        parts = RankingMetrics(counts, k=[1, 5, 10])
        for some_ranks, some_top in zip(ranks.split(size), top.split(size), strict=True):
            parts.update(some_ranks, some_top)
        assert parts.compute() == expected
    processes = [RankingMetrics(counts, k=[1, 5, 10]) for _ in range(2)]
    for rank, process in enumerate(processes):
        process.update(ranks[rank::2], top[rank::2])
    first, second = (process.metric_state for process in processes)
    assert set(first) == {"histogram", "recommended"}
    for name, state in whole.metric_state.items():
        assert torch.equal(first[name] + second[name], state)


def test_reset_forgets() -> None:
    metrics = RankingMetrics(COUNTS, k=[1, 3])
    metrics.update(torch.tensor([6]), torch.tensor([[4, 3, 1]]))
    metrics.reset()
    metrics.update(target_ranks(SCORES, TARGETS), top_items(SCORES, 3))
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(BY_HAND)


@pytest.mark.parametrize("k", [[0], [1, 6], [-1, 3], []])
def test_list_lengths_out_of_range_are_refused(k: list[int]) -> None:
    with pytest.raises(UserError, match=r"^metrics\.k=.* between 1 and the 5 items\."):
        RankingMetrics(COUNTS, k=k)
