"""The end of a trial that its study gives up."""

import pytorch_lightning as L

from seqgen.errors import Pruned
from seqgen.results import RunRecord
from seqgen.tuning.journal import Reporter


class Pruning(L.Callback):
    """Tells the study each validation, and ends the training where its pruner says so.

    A training that ends by itself in that epoch is left to its end.

    Args:
        record: The run's, which its recorder has brought up to date by the end of an epoch.
        reporter: The way to the study; None on all processes but the first.
        monitor: The metric of the study, such as `val/ndcg@10`.

    Attributes:
        reason: Why the training was ended; None where it was not.
    """

    def __init__(self, record: RunRecord, reporter: Reporter | None, *, monitor: str) -> None:
        self.record, self.reporter, self.monitor = record, reporter, monitor
        self.reason: str | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask the study, which only the first process can."""
        epoch = trainer.current_epoch
        entry = self.record.content["history"][-1]
        value = entry.get(self.monitor)
        if value is None:  # not validated in this epoch
            return
        hopeless = False
        if self.reporter is not None:
            self.reporter.report(epoch, value)
            hopeless = self.reporter.is_hopeless()
        ends = trainer.should_stop or epoch + 1 == trainer.max_epochs or epoch + 1 < (trainer.min_epochs or 0)
        if trainer.strategy.broadcast(hopeless) and not ends:
            trainer.should_stop = True
            best = max(e[self.monitor] for e in self.record.content["history"] if e.get(self.monitor) is not None)
            self.reason = f"pruned after epoch {epoch}: {self.monitor} {best:.4f} is below the median of the trials."

    def refuse_the_rest(self) -> None:
        """What would follow a whole training does not follow this one.

        Raises:
            Pruned: It was ended.
        """
        if self.reason is not None:
            raise Pruned(self.reason)
