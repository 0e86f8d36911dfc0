"""A run whose loss or weights are no longer finite stops in words."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import start
from pytorch_lightning.trainer.states import TrainerFn

from seqgen.errors import UserError
from seqgen.finite import EVERY, StopAtNonFinite

NAN = torch.tensor(math.nan)
ONE = torch.tensor(1.0)


class Trainer:
    current_epoch = 2
    state = SimpleNamespace(fn=TrainerFn.FITTING)

    def __init__(self, world_size: int = 1) -> None:
        self.world_size = world_size


def step(callback: StopAtNonFinite, trainer: Trainer, number: int, outputs: Any) -> None:
    callback.on_train_batch_end(trainer, None, outputs, None, number)  # type: ignore[arg-type]


def test_a_diverged_run_stops_in_words_and_its_record_is_json(tmp_path: Path) -> None:
    words = (
        r"^The training loss \(its part recommendation, distillation\) is NaN or infinite at step \d of epoch 0; try a "
    )
    with pytest.raises(UserError, match=words + r"smaller optimizer\.lr, "):
        start(tmp_path, "trainer.max_epochs=2", "optimizer.lr=1e20")
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["status"] == "failed"
    assert record["error"].startswith("The training loss (its part recommendation, ")
    assert record["history"] == []
    assert not list(tmp_path.glob("checkpoints/*"))


def test_the_part_that_was_first_is_named() -> None:
    callback, trainer = StopAtNonFinite(), Trainer()
    callback.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    step(callback, trainer, 0, {"recommendation": ONE, "kl": ONE, "loss": ONE})
    with pytest.raises(UserError, match=r"^The training loss \(its part kl\) is NaN or infinite at step 2 of epoch 2"):
        step(callback, trainer, 1, {"recommendation": ONE, "kl": NAN, "loss": NAN})


def test_a_step_of_another_model_may_give_nothing_or_more() -> None:
    callback, trainer = StopAtNonFinite(), Trainer()
    for outputs in (None, {}, {"loss": ONE, "logits": torch.full((3,), math.nan), "name": "x"}):
        step(callback, trainer, 0, outputs)
    with pytest.raises(UserError, match=r"^The training loss is NaN or infinite at step 1 of epoch 2; "):
        step(callback, trainer, 0, {"loss": torch.tensor(math.inf)})


@pytest.mark.parametrize("ours", [True, False], ids=["this process", "another"])
def test_several_processes_stop_together_at_the_next_look(ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def all_reduce(first: torch.Tensor, op: Any) -> None:
        looks.append(op)
        first.clamp_(max=7)  # the other process found something at its eighth step

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    callback, trainer = StopAtNonFinite(), Trainer(world_size=2)
    for number in range(EVERY - 1):
        step(callback, trainer, number, {"loss": NAN if ours and number > 5 else ONE})
    assert looks == []
    with pytest.raises(UserError, match=rf"at step {7 if ours else 8} of epoch 2"):
        step(callback, trainer, EVERY - 1, {"loss": ONE})
    assert looks == [torch.distributed.ReduceOp.MIN]


def test_scores_that_are_nan_are_no_result(tmp_path: Path) -> None:
    # One step an epoch: its loss is finite, and so are the weights that it leaves.
    with pytest.raises(UserError, match=r"^The scores of all items are NaN or infinite for every case; try a "):
        start(tmp_path, "model=sasrec", "trainer.max_epochs=1", "data.batch_size=64", "optimizer.lr=1e30")
    assert json.loads((tmp_path / "results.json").read_text())["history"] == []


def test_a_user_without_a_list_is_no_fault() -> None:
    callback, trainer = StopAtNonFinite(), Trainer()
    for name in ("validation", "test"):
        getattr(callback, f"on_{name}_start")(trainer, torch.nn.Linear(1, 1))
        for top in ([[0, 0], [3, 0]], [[0, 0]]):
            getattr(callback, f"on_{name}_batch_end")(trainer, None, {"top": torch.tensor(top)}, None, 0)
        getattr(callback, f"on_{name}_end")(trainer, None)


@pytest.mark.parametrize("hook", ["on_validation_start", "on_train_epoch_end"])
def test_weights_are_looked_at_before_they_are_used(hook: str) -> None:
    callback, layer = StopAtNonFinite(), torch.nn.Linear(2, 2)
    getattr(callback, hook)(Trainer(), layer)
    with torch.no_grad():
        layer.bias[0] = math.inf
    with pytest.raises(UserError, match=r"^The weights bias are not finite after epoch 2; try a smaller optimizer\.lr"):
        getattr(callback, hook)(Trainer(), layer)
