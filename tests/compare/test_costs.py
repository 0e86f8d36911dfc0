"""What a comparison costs, from measured epochs."""

import pytest

from seqgen.compare.costs import Cost, cost_of, table_of, wall_seconds

RECORD = {
    "epochs": 1,
    "timing": {"train_epoch_s": [2.0], "validate_s": 0.5, "total_s": 5.5},
    "peak_memory_mb": {"host": 500.0, "device": None},
    "parameters": 1234,
}


def test_the_cost_of_a_candidate() -> None:
    cost = cost_of("sasrec on ml100k", RECORD, jobs=10, max_epochs=20)
    assert (cost.epoch_s, cost.rest_s, cost.epochs) == (2.5, 3.0, 20)
    assert cost.seconds == 10 * (3.0 + 20 * 2.5)


def test_a_model_without_epochs_costs_what_it_took() -> None:
    record = RECORD | {"epochs": 0, "timing": {"total_s": 2.0}, "peak_memory_mb": {}}
    cost = cost_of("popularity on ml100k", record, jobs=3, max_epochs=20)
    assert (cost.epochs, cost.seconds, cost.memory_mb) == (0, 6.0, (0.0, None))


def test_the_table_and_what_it_comes_to() -> None:
    costs = [Cost("a", 2, 10, 1.0, 5.0, (400.0, None), 7), Cost("b", 4, 20, 3.0, 5.0, (900.0, 2000.0), 8)]
    table, total = table_of(costs, slots=2)
    assert wall_seconds(costs, 2) == (2 * 15 + 4 * 65) / 2
    assert table.row_count == 2
    assert total.startswith("6 runs, at most 100 epochs, 2m with 2 side by side, which need up to 1,800 MB.")
    assert list(table.columns[5].cells) == ["400 MB", "900 MB + 2,000 MB GPU"]


@pytest.mark.parametrize("missing", ["validate_s"])
def test_a_run_without_validation(missing: str) -> None:
    timing = {key: value for key, value in RECORD["timing"].items() if key != missing}  # type: ignore[attr-defined]
    assert cost_of("a", RECORD | {"timing": timing}, jobs=1, max_epochs=1).epoch_s == 2.0
