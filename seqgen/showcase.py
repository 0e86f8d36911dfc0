"""What the tested weights recommend and attend to, for loggers that take tables and pictures: W&B, TensorBoard."""

import copy
import logging
from typing import Any

import pytorch_lightning as L
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from seqgen.callbacks import Recorder
from seqgen.data.datamodule import SequenceDataModule
from seqgen.model.base import SequentialRecommender
from seqgen.report.tables import pipes

HISTORY, LISTED = 10, 10  # items of a history, and of a list, that are shown
BATCHES = 2  # of training, for the loss by step of a diffusion
LOG = logging.getLogger(__name__)


class Showcase(L.Callback):
    """After a test: the lists of some users, with titles, and those pictures of `seqgen.diagnose` that are soon made.

    Args:
        users: Test cases whose lists are shown, spread evenly over the split; 0 shows none.
        pictures: Maps and statistics of attention; of a diffusion, the schedule and the loss by step.
    """

    def __init__(self, *, users: int, pictures: bool) -> None:
        self.users, self.pictures = users, pictures

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hand all of it to the loggers, once the test is on record."""
        assert isinstance(pl_module, SequentialRecommender)
        state = pl_module.state_dict() if self.pictures else {}  # of which each process may have a part
        if not trainer.is_global_zero:
            return
        data: SequenceDataModule = trainer.datamodule  # type: ignore[attr-defined]  # which `test(datamodule=)` sets
        loggers = [logger for logger in trainer.loggers if takes_pictures(logger)]
        recorder = next(callback for callback in trainer.callbacks if isinstance(callback, Recorder))  # type: ignore[attr-defined]
        if self.users:
            columns, rows = examples(data, recorder.ranked, users=self.users)
            for logger in loggers:
                _log_table(logger, "examples", columns, rows)
        if self.pictures:
            try:
                figures = _figures(pl_module, state, data)
            except Exception as error:  # the run itself is done, and must not end as failed
                LOG.warning("Pictures left out, as they could not be drawn: %r. See show.pictures=false.", error)
                return
            for name, figure in figures.items():
                for logger in loggers:
                    _log_figure(logger, f"diagnose/{name}", figure)


def takes_pictures(logger: Logger) -> bool:
    """Whether a logger has a place for tables and pictures."""
    return isinstance(logger, TensorBoardLogger) or (hasattr(logger, "log_table") and hasattr(logger, "log_image"))


def examples(
    data: SequenceDataModule, ranked: list[dict[str, torch.Tensor]], *, users: int
) -> tuple[list[str], list[list[Any]]]:
    """The columns and the rows of a table: what some users had, what came next, its rank, what was recommended.

    Args:
        data: The run's data.
        ranked: Case indices (B,), ranks (B,) and recommended items (B, K) of each tested batch.
        users: Number of rows, at most.
    """
    case, rank, top = (torch.cat([part[name] for part in ranked]) for name in ("case", "rank", "top"))
    order = case.argsort()
    chosen = order[torch.linspace(0, len(order) - 1, min(users, len(order)), dtype=torch.float64).round().long()]
    listed = min(LISTED, top.shape[1])
    catalog, tests, values = data.catalog, data.split.test, data.sequences.values
    rows: list[list[Any]] = []
    for place in chosen.tolist():
        number = int(case[place])
        first, stop = int(tests.start[number]), int(tests.stop[number])
        history = [catalog.name(item) for item in values[max(first, stop - HISTORY) : stop].tolist()]
        titles = [catalog.name(item) if item else "" for item in top[place, :listed].tolist()]
        user = str(catalog.user_ids[int(tests.users[number])])
        rows.append([user, " → ".join(history), catalog.name(int(values[stop])), int(rank[place]), *titles])
    columns = ["user", f"history, the newest last (at most {HISTORY})", "target", "rank of the target"]
    return [*columns, *(f"{position}." for position in range(1, listed + 1))], rows


def _figures(model: SequentialRecommender, state: dict[str, Any], data: SequenceDataModule) -> dict[str, Any]:
    from seqgen.diagnosis import TrainedRun, whole  # only where something is drawn

    if not whole.can_be_diagnosed(model):
        return {}
    checkpoint: dict[str, Any] = {"state_dict": state}
    model.on_save_checkpoint(checkpoint)
    alone = copy.copy(data)
    alone.trainer = None  # whole batches on the CPU: this process draws alone
    trained = TrainedRun(config=OmegaConf.create(model.config), data=alone, checkpoint=checkpoint, trust=None)
    return whole.look_into(trained, batches=BATCHES, validate=False).figures


def _log_table(logger: Any, name: str, columns: list[str], rows: list[list[Any]]) -> None:
    if not isinstance(logger, TensorBoardLogger):
        logger.log_table(key=name, columns=columns, data=rows)
        return
    logger.experiment.add_text(name, pipes(columns, [[str(cell) for cell in row] for row in rows]))


def _log_figure(logger: Any, name: str, figure: Any) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(name, figure)
    else:
        logger.log_image(key=name, images=[figure])
