"""Ranking in blocks against ranking of whole rows of scores."""

import pytest
import torch
from torch import Tensor

from seqgen import numerics, ranking
from seqgen.metrics import target_ranks, top_items

USERS, ITEMS, WIDTH = 11, 53, 6


def case(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Small whole numbers: products are exact in any order, and many are equal."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randint(-2, 3, (USERS, WIDTH), generator=generator).to(dtype)
    vectors = torch.randint(-1, 2, (ITEMS + 1, WIDTH), generator=generator).to(dtype)
    targets = torch.randint(1, ITEMS + 1, (USERS,), generator=generator)
    seen_rows = torch.arange(USERS).repeat_interleave(9)
    seen_items = torch.randint(1, ITEMS + 1, (9 * USERS,), generator=generator)
    seen_items[9 * 4] = targets[4]  # a target that cannot be hit
    state[0] = 0.0  # all scores are equal
    seen_items[seen_rows == 7] = 1 + torch.arange(9)
    return state, vectors, targets, (seen_rows, seen_items)


def whole(state: Tensor, vectors: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, ...]:
    scores = state.float() @ vectors.float().T
    scores[:, 0] = scores[seen] = float("-inf")
    return target_ranks(scores, targets), top_items(scores, k)


@pytest.mark.parametrize("k", [1, 5, ITEMS])
@pytest.mark.parametrize(("users", "chunk"), [(1, 1), (3, 30), (4, 28), (11, 1), (5, 10_000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_and_lists_of_blocks_are_those_of_whole_rows(
    users: int, chunk: int, k: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "USERS", users)
    monkeypatch.setattr(numerics, "CHUNK_CPU", chunk)
    given = case(dtype)
    found, wanted = ranking.rank_in_blocks(*given, k), whole(*given, k)
    assert wanted[0].max() == ITEMS + 1
    assert wanted[0].min() < 5
    assert [x.dtype for x in found] == [torch.int64, torch.int64]
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("chunk", [1, 30, 10_000])
def test_scores_that_are_no_numbers_count_against_the_model(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "CHUNK_CPU", chunk)
    monkeypatch.setattr(ranking, "USERS", 4)
    state, vectors, targets, seen = case()
    state[1] = float("nan")
    vectors[[3, 20, int(targets[5])]] = float("nan")
    vectors[30] = float("inf")  # and NaN, where a state has a zero
    vectors[41, 0] = float("-inf")
    for ours, theirs in zip(
        ranking.rank_in_blocks(state, vectors, targets, seen, 7), whole(state, vectors, targets, seen, 7), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_equal_vectors_are_ties_whatever_their_block() -> None:
    """A model that has collapsed gets nothing."""
    generator = torch.Generator().manual_seed(0)
    state, vector = (torch.randn(n, 128, generator=generator) for n in (515, 1))
    none = torch.empty(0, dtype=torch.long)
    targets = torch.randint(1, 6001, (515,), generator=generator)
    ranks, top = ranking.rank_in_blocks(state, vector.expand(6001, -1), targets, (none, none), 4)
    assert (ranks == 6000).all()
    assert (top == torch.arange(1, 5)).all()
