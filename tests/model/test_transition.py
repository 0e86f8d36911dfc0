"""Transition: counts of direct successors, ties by popularity, then by id."""

import pytest
import torch
from model_cases import catalog_of, evaluation

from seqgen.data.catalog import Catalog
from seqgen.errors import SettingError
from seqgen.metrics import top_items
from seqgen.model.transition import Transition


def ranking(catalog: Catalog, newest: int, max_len: int = 10) -> list[int]:
    model = Transition(catalog=catalog, max_len=max_len, metrics_k=[1])
    batch = evaluation([[newest, 1]], mask_seen=False)
    assert len(model.scores(batch)[0].unique()) == catalog.num_items + 1
    scores: torch.Tensor = model.ranking_scores(batch)
    [top] = top_items(scores, catalog.num_items).tolist()
    return [int(item) for item in top]


# Item 1 is followed by 3, 3, 2, 5; counts: item 1 four times, 2 once, 3 twice, 4 three times, 5 once, 6 never.
HISTORIES = [[1, 3], [1, 2], [4, 1, 3], [4, 4, 1, 5]]


def test_order_by_count_then_popularity_then_id() -> None:
    catalog = catalog_of(HISTORIES, num_items=6)
    assert ranking(catalog, 1) == [3, 2, 5, 1, 4, 6]
    assert ranking(catalog, 4) == [1, 4, 3, 2, 5, 6]  # 1 follows twice, 4 itself once
    assert ranking(catalog, 3) == [1, 4, 3, 2, 5, 6]  # nothing follows: popularity


@pytest.mark.parametrize(("max_len", "expected"), [(3, [5, 1, 4, 6, 2, 3]), (2, [1, 4, 5, 6, 2, 3])])
def test_only_the_newest_training_items_count(max_len: int, expected: list[int]) -> None:
    catalog = catalog_of([[4, 5, 6], [4, 5, 6], [4, 1]], num_items=6)
    assert ranking(catalog, 4, max_len) == expected


def test_one_item_holds_no_transition() -> None:
    with pytest.raises(SettingError, match=r"^max_len=1 must be at least 2: "):
        Transition(catalog=catalog_of(HISTORIES, num_items=6), max_len=1, metrics_k=[1])


def test_every_row_starts_from_its_own_newest_item() -> None:
    model = Transition(catalog=catalog_of(HISTORIES, num_items=6), max_len=10, metrics_k=[1])
    rows = [[1, 9], [5, 4, 3, 2, 4, 1, 9], [3, 2, 5, 9], [1, 4, 9]]  # two groups, mixed
    together = model.scores(evaluation(rows))
    alone = torch.cat([model.scores(evaluation([row])) for row in rows])
    assert torch.equal(together, alone)
    assert together[0].argmax() == together[1].argmax() == 3
