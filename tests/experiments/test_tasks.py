"""The generated tasks of experiments/attention: answers found by brute force, batches, equal sizes, the verdict."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import script

ROWS = 200


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    return script("experiments/attention/tasks.py")


def test_recall_answers_with_the_value_the_key_had_first(tasks: ModuleType) -> None:
    items, answers = tasks.recall(ROWS, torch.Generator().manual_seed(1))
    assert items.shape == answers.shape == (ROWS, tasks.LENGTH)
    distances = set()
    for row, wanted in zip(items.tolist(), answers.tolist(), strict=True):
        first: dict[int, tuple[int, int]] = {}
        for column, (item, answer) in enumerate(zip(row, wanted, strict=True)):
            key, value = divmod(item - 1, tasks.VALUES)
            if key in first:
                assert answer == 1 + tasks.KEYS * tasks.VALUES + first[key][1]
                distances.add(column - first.pop(key)[0])  # a third time would be a first one
            else:
                assert answer == 0
                first[key] = column, value
        assert not first
    assert distances == set(range(1, tasks.LENGTH))
    assert int(items.max()) <= tasks.KEYS * tasks.VALUES < int(answers.max()) <= tasks.TASKS["recall"][1]


def test_control_answers_with_the_item_at_the_distance_it_says(tasks: ModuleType) -> None:
    items, answers = tasks.control(ROWS, torch.Generator().manual_seed(1))
    slots, controls = set(), set()
    for row, wanted in zip(items.tolist(), answers.tolist(), strict=True):
        (slot,) = (column for column, item in enumerate(row) if item > tasks.ITEMS)
        distance = tasks.DISTANCES[row[slot] - tasks.ITEMS - 1]
        slots.add(slot)
        controls.add(row[slot])
        for column, answer in enumerate(wanted):
            known = column > slot and column >= distance and column - distance != slot
            assert answer == (row[column - distance] if known else 0)
    assert slots == set(range(tasks.LENGTH - 1))
    assert max(controls) == tasks.TASKS["control"][1]
    assert len(controls) == len(tasks.DISTANCES)


@pytest.mark.parametrize("task", ["recall", "control"])
def test_targets_of_a_batch_are_the_answers_alone(tasks: ModuleType, task: str) -> None:
    (batch,) = tasks.batches(task, 1, seed=3)
    items, answers = tasks.TASKS[task][0](tasks.BATCH, torch.Generator().manual_seed(3))
    (group,) = batch.groups
    assert torch.equal(group.items, items)
    read = torch.zeros_like(answers).flatten()
    read[group.flat_index] = batch.targets
    assert torch.equal(read.view_as(answers), answers)
    assert torch.equal(items[batch.target_rows, group.flat_index % tasks.LENGTH], batch.inputs())


@pytest.mark.slow
def test_all_mechanisms_have_one_size(tasks: ModuleType, tmp_path: Path) -> None:
    folder = str(tmp_path)
    target = tasks.count_parameters(tasks.settings(tasks.LARGEST, "recall", folder), "recall")
    for name in tasks.MECHANISMS:
        cfg = tasks.settings(name, "recall", folder, target)
        assert abs(tasks.count_parameters(cfg, "recall") - target) < 0.01 * target
        assert cfg.model.hidden_dim == 32
        assert name in ("softmax", "multi_query", "linear", "hstu", "uniform") or cfg.model.ffn_dim == 128


def test_a_run_is_trained_and_read_with_draws(tasks: ModuleType, tmp_path: Path) -> None:
    row = tasks.one_run("vae", "control", seed=1, steps=2, folder=str(tmp_path))
    assert 0 <= row["accuracy"] < 0.2
    assert 0 <= row["sampled"] < 0.2


def test_the_verdict_is_about_recall_without_content(tasks: ModuleType) -> None:
    def rows(**accuracy: float) -> list[dict[str, object]]:
        return [{"task": "recall", "attention": name.replace("_", " "), "accuracy": a} for name, a in accuracy.items()]

    assert tasks.not_beaten(rows(softmax=0.9, vae=0.3, uniform=0.2, vae_content=1.0)) == []
    assert tasks.not_beaten(rows(softmax=0.3, vae=0.3, uniform=0.2)) == ["vae"]
    control = [{"task": "control", "attention": "vae", "accuracy": 1.0}]
    assert tasks.not_beaten(rows(softmax=0.9) + control) == []
