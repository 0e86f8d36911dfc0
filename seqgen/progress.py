"""What a run says while it trains: a line per epoch, and on a terminal a bar for the batches."""

import logging
import math
import sys
import time
from collections import deque
from typing import Any

import pytorch_lightning as L
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import ProcessingSpeedColumn

from seqgen.results import RunRecord, duration

LOG = logging.getLogger(__name__)  # Hydra writes it into run.log
RECENT = 5  # epochs that the time left is reckoned from


class Progress(RichProgressBar):
    """Prints a line after each epoch: the monitored metric, its best so far and in which epoch, and the time left.

    Epochs count from 0, as in the files' names. On a terminal there is a bar for the batches as well, which shows the
    monitored metric; a log gets the lines alone. Only the first process prints.
    """

    def __init__(self, record: RunRecord, *, monitor: str) -> None:
        """Take the run's record, which its recorder has brought up to date by the end of an epoch.

        Args:
            record: The run's.
            monitor: The metric that decides the best epoch, such as `val/ndcg@10`.
        """
        super().__init__(refresh_rate=10 if sys.stdout.isatty() else 0)
        self.record, self.monitor = record, monitor
        self.seconds: deque[float] = deque(maxlen=RECENT)
        self.since = 0.0

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands beside the bar: the training loss, and the newest validation."""
        shown = {"loss": trainer.progress_bar_metrics.get("train/loss", math.nan)}
        return shown | {k: float(v) for k, v in trainer.callback_metrics.items() if k == self.monitor}

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """The usual ones without the speed, so that the metrics fit beside them in 80 columns."""
        return [c for c in super().configure_columns(trainer) if not isinstance(c, ProcessingSpeedColumn)]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the first epoch."""
        super().on_train_start(trainer, pl_module)
        self.since = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch's line."""
        super().on_train_epoch_end(trainer, pl_module)
        now = time.perf_counter()
        self.seconds.append(now - self.since)
        self.since = now
        if trainer.is_global_zero:
            line = epoch_line(self.record.content["history"], self.monitor, trainer.max_epochs or 0)
            _say(line + self._time_left(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so where the training did not reach its last epoch."""
        super().on_train_end(trainer, pl_module)
        if trainer.is_global_zero and trainer.current_epoch < (trainer.max_epochs or 0):
            done = [callback for callback in _stoppers(trainer) if callback.wait_count >= callback.patience]
            reasons = [f": no gain in {callback.monitor} in {callback.patience} validations" for callback in done]
            _say("stopped early" + "".join(reasons[:1]))

    def _time_left(self, trainer: L.Trainer) -> str:
        epochs = (trainer.max_epochs or 0) - trainer.current_epoch - 1
        if epochs <= 0:
            return ""
        # Reckoned to the last epoch, which a run need not reach.
        limited = trainer.max_steps != -1 or self.record.content["config"]["trainer"].get("max_time")
        left = duration(epochs * sum(self.seconds) / len(self.seconds))
        return f"  {'at most ' if limited or _stoppers(trainer) else ''}{left} left"


def _stoppers(trainer: L.Trainer) -> list[EarlyStopping]:
    return [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]  # type: ignore[attr-defined]


def _say(line: str) -> None:
    print(line, flush=True)
    LOG.info(line)


def epoch_line(history: list[dict[str, Any]], monitor: str, epochs: int) -> str:
    """What the newest epoch brought: its loss, the monitored metric, and the best of all epochs with its number.

    Args:
        history: Of each epoch its number, `epoch`, and its metrics; not every epoch is validated.
        monitor: The metric, of which the largest value is the best.
        epochs: Number of the whole run.
    """
    newest = history[-1]
    parts = [f"epoch {newest['epoch']:{len(str(epochs - 1))}}/{epochs - 1}"]
    if "train/loss" in newest:
        parts.append(f"loss {newest['train/loss']:#.4g}")
    if monitor in newest:
        parts.append(f"{monitor} {newest[monitor]:.4f}")
    # Of equal values the first, as for the checkpoint.
    known = [entry for entry in history if not math.isnan(entry.get(monitor, math.nan))]
    if known:
        best = max(known, key=lambda entry: entry[monitor])
        parts.append(f"best {best[monitor]:.4f} ({best['epoch']})")
    return "  ".join(parts)
