"""Ranks, recommended lists and metrics against sorting and against numbers worked out by hand."""

from itertools import combinations
from math import log2

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgen import metrics as metrics_module
from seqgen.data.catalog import Catalog
from seqgen.errors import UserError
from seqgen.metric_table import METRICS, row_of
from seqgen.metrics import Counts, RankingMetrics, gini, target_ranks, top_items

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
    "gini@1": (2 * 1 + 4 * 1) / (5 * 3),  # 0, 0, 1, 1, 1 times, weighted -4, -2, 0, 2, 4
    "gini@3": (-2 * 1 + 2 * 2 + 4 * 3) / (5 * 8),  # 0, 1, 2, 2, 3 times
}


def test_metrics_worked_out_by_hand() -> None:
    metrics = RankingMetrics(COUNTS, k=[3, 1])
    ranks, top = target_ranks(SCORES, TARGETS), top_items(SCORES, 3)
    assert ranks.tolist() == [1, 3, 6]
    assert top.tolist() == [[1, 2, 3], [2, 1, 3], [5, 3, 0]]
    metrics.update(ranks, top)
    values = metrics.compute()
    assert {name: values[name].item() for name in BY_HAND} == pytest.approx(BY_HAND, rel=1e-14)
    assert {value.dtype for value in values.values()} == {torch.float64}


def test_constant_scorer_gets_next_to_nothing() -> None:
    metrics = RankingMetrics(COUNTS, k=[1, 3])
    scores = torch.zeros(5, 6)
    scores[:, 0] = -INF
    metrics.update(target_ranks(scores, torch.arange(1, 6)), top_items(scores, 3))
    values = metrics.compute()
    assert (values["hr@3"], values["ndcg@3"], values["unhittable"]) == (0, 0, 0)
    assert values["mrr"].item() == pytest.approx(1 / 5)


# Items 1 and 4 have the same categories, 3 and 5 none in common with any other; 2 has none, and is in no pair.
KINDS = [["a", "b", "a"], [], ["c"], ["b", "a"], ["d", "e", "f"]]


def category_ids(kinds: list[list[str]] | None, num_items: int = 5) -> tuple[Tensor, Tensor] | None:
    ids = list(range(num_items))
    counts = torch.ones(num_items + 1)
    known = {"num_items": num_items, "num_users": 0, "item_counts": counts, "item_ids": ids, "user_ids": []}
    return Catalog(fingerprint="", categories=kinds, **known).category_ids()


def random_kinds(num_items: int, names: int, widest: int, seed: int) -> list[list[str]]:
    """Categories of each item, some of them twice; one item in four has none."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, widest + 1, num_items) * (rng.random(num_items) > 0.25)
    return [[f"c{name}" for name in rng.integers(0, names, size)] for size in sizes]


def random_lists(rows: int, num_items: int, k: int, seed: int) -> Tensor:
    """Distinct items, and masked places at the end of some lists; the first list is empty, the second has one item."""
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(num_items)[:k] + 1 for _ in range(rows)])
    lengths = np.where(rng.random(rows) < 0.3, rng.integers(0, k, rows), k)
    lengths[:2] = 0, 1
    return torch.from_numpy(np.where(np.arange(k) < lengths[:, None], lists, 0))


def test_category_ids_of_items() -> None:
    assert category_ids(None) is None
    assert category_ids([[]] * 5) is None
    found = category_ids(KINDS)
    assert found is not None
    values, offsets = found
    assert values.tolist() == [0, 1, 2, 1, 0, 3, 4, 5]
    assert offsets.tolist() == [0, 0, 2, 2, 3, 5, 8]


def test_diversity_worked_out_by_hand() -> None:
    metrics = RankingMetrics(COUNTS, k=[3, 1], categories=category_ids(KINDS))
    metrics.update(torch.tensor([1, 3, 6, 6]), torch.tensor([[1, 4, 3], [1, 2, 4], [5, 3, 0], [2, 5, 0]]))
    values = {name: value.item() for name, value in metrics.compute().items()}
    accuracy = {1: 1 / 4, 3: (2 / 4 + 1.5 / 4) / 2}
    covered = {1: (2 + 2 + 3 + 0) / 4 / 6, 3: (3 + 2 + 4 + 3) / 4 / 6}
    by_hand = {
        # Pairs of the first list: 1 4, 1 3, 4 3; of the second: 1 4; of the third: 5 3; the fourth has none.
        "ild@3": ((0 + 1 + 1) / 3 + 0 + 1) / 3,
        **{f"category_coverage@{k}": covered[k] for k in (1, 3)},
        **{f"f@{k}": 2 * accuracy[k] * covered[k] / (accuracy[k] + covered[k]) for k in (1, 3)},
    }
    assert {name: values[name] for name in by_hand} == pytest.approx(by_hand, abs=1e-10)
    assert values["gini@1"] == pytest.approx((2 * 1 + 4 * 2) / (5 * 4))
    assert values["gini@3"] == 0  # every item twice; a masked place is no item


@pytest.mark.parametrize("elements", [1, 3000, 2**24])
@pytest.mark.parametrize(("names", "widest"), [(6, 3), (400, 25), (1, 1)])
def test_diversity_is_what_a_plain_loop_finds(
    names: int, widest: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "ELEMENTS", elements)
    lengths, items, rows = (1, 2, 5, 20), 40, 60
    kinds, top = random_kinds(items, names, widest, seed=names), random_lists(rows, items, 20, seed=widest)
    ranks = torch.arange(rows) % (items + 1) + 1
    metrics = RankingMetrics(torch.arange(items + 1), k=lengths, categories=category_ids(kinds, items))
    assert (metrics.rows < rows) == (elements < 2**24)
    metrics.update(ranks, top)
    values = {name: value.item() for name, value in metrics.compute().items()}
    sets = [set[str](), *map(set, kinds)]
    for k in lengths:
        lists = [[item for item in row[:k] if item > 0] for row in top.tolist()]
        share = np.mean([len(set().union(*(sets[item] for item in own))) for own in lists]) / len(set().union(*sets))
        assert values[f"category_coverage@{k}"] == pytest.approx(share, rel=1e-14)
        accuracy = np.mean([(1 + 1 / log2(rank + 1)) / 2 if rank <= k else 0.0 for rank in ranks.tolist()])
        assert values[f"f@{k}"] == pytest.approx(2 * accuracy * share / (accuracy + share), rel=1e-13)
        known = [[sets[item] for item in own if sets[item]] for own in lists]
        distances = [[1 - len(a & b) / len(a | b) for a, b in combinations(own, 2)] for own in known]
        means = [np.mean(own) for own in distances if own]
        assert means or k == 1
        assert values.get(f"ild@{k}") == (pytest.approx(np.mean(means), abs=1e-10) if k > 1 else None)
        times = np.bincount(np.concatenate(lists).astype(int), minlength=items + 1)[1:]
        pairs = np.abs(times[:, None] - times).mean()
        assert values[f"gini@{k}"] == pytest.approx(pairs / 2 / times.mean(), rel=1e-13)


def test_a_constant_recommender_repeats_itself() -> None:
    kinds = [["a"], ["b"]] * 500
    metrics = RankingMetrics(torch.ones(1001).long(), k=[1, 2], categories=category_ids(kinds, 1000))
    metrics.update(torch.full((300,), 1001), torch.tensor([[7, 9]]).expand(300, 2))
    values = {name: value.item() for name, value in metrics.compute().items()}
    assert values["gini@1"] == pytest.approx(1 - 1 / 1000)
    assert values["gini@2"] == pytest.approx(1 - 2 / 1000)
    assert (values["category_coverage@2"], values["ild@2"], values["f@2"]) == (1 / 2, 0, 0)


def test_gini_of_equal_counts_is_0_whatever_their_order() -> None:
    assert gini(torch.full((7,), 3)) == 0
    counts = torch.tensor([5, 0, 2, 9, 0])
    assert gini(counts) == gini(counts.flip(0))


@pytest.mark.parametrize("kinds", [None, [[]] * 5])
def test_only_data_with_categories_has_their_metrics(kinds: list[list[str]] | None) -> None:
    for categories in (category_ids(kinds), category_ids(KINDS)):
        metrics = RankingMetrics(COUNTS, k=[1, 3], categories=categories)
        metrics.update(target_ranks(SCORES, TARGETS), top_items(SCORES, 3))
        rows = [row for row in METRICS.values() if categories is not None or not row.needs_categories]
        assert list(metrics.compute()) == [name for row in rows for name in row.names([1, 3])]
        assert {"gini@1", "mrr"} < set(metrics.compute())


def test_each_row_of_the_table_has_its_method() -> None:
    assert {*METRICS} == {name for name in vars(Counts) if callable(getattr(Counts, name)) and name[0] != "_"}
    assert list(METRICS) == [row.name for row in METRICS.values()]


def test_names_by_list_length() -> None:
    assert METRICS["ild"].names([1, 2, 5]) == ["ild@2", "ild@5"]
    assert METRICS["mrr"].names([1, 2]) == ["mrr"]
    assert row_of("val/ndcg@10") == row_of("test/ndcg@5") == row_of("ndcg") == METRICS["ndcg"]
    assert row_of("train/loss") is None


def test_metrics_are_no_part_of_a_checkpoint() -> None:
    assert RankingMetrics(COUNTS, k=[1, 3], categories=category_ids(KINDS)).state_dict() == {}


def test_any_split_into_batches_and_processes_gives_the_same_numbers() -> None:
    scores = messy_scores(rows=97)
    ranks, top = target_ranks(scores, torch.arange(97) % 30 + 1), top_items(scores, 10)
    categories = category_ids(random_kinds(30, 9, 4, seed=0), 30)

    def make() -> RankingMetrics:
        return RankingMetrics(torch.arange(31), k=[1, 5, 10], categories=categories)

    whole = make()
    whole.update(ranks, top)
    expected = whole.compute()
    assert {"category_coverage@1", "ild@5", "f@10", "gini@10"} < set(expected)
    for size in (1, 10, 96):
        parts = make()
        for some_ranks, some_top in zip(ranks.split(size), top.split(size), strict=True):
            parts.update(some_ranks, some_top)
        parts.update(ranks[:0], top[:0])  # a process may have no row of the last batch
        assert parts.compute() == expected
    for count in (2, 4):
        processes = [make() for _ in range(count)]
        for rank, process in enumerate(processes):
            process.update(ranks[rank::count], top[rank::count])
        states = [process.metric_state for process in processes]
        assert set(states[0]) == {"histogram", "recommended", "gained", "distance", "paired"}
        for name, state in whole.metric_state.items():
            assert not state.is_floating_point()  # sums in any order are the same
            assert torch.equal(torch.stack([own[name] for own in states]).sum(0), state)


def test_reset_forgets() -> None:
    metrics = RankingMetrics(COUNTS, k=[1, 3])
    metrics.update(torch.tensor([6]), torch.tensor([[4, 3, 1]]))
    metrics.reset()
    metrics.update(target_ranks(SCORES, TARGETS), top_items(SCORES, 3))
    values = metrics.compute()
    assert {name: values[name].item() for name in BY_HAND} == pytest.approx(BY_HAND)


@pytest.mark.parametrize("k", [[0], [1, 6], [-1, 3], []])
def test_list_lengths_out_of_range_are_refused(k: list[int]) -> None:
    with pytest.raises(UserError, match=r"^metrics\.k=.* between 1 and the 5 items\."):
        RankingMetrics(COUNTS, k=k)
