"""Callbacks of every run: noise that a resumed run repeats, a best checkpoint that survives it, and the record."""

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as L
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from seqgen.data.sequences import SequenceBatch
from seqgen.errors import UserError
from seqgen.model.base import SequentialRecommender
from seqgen.results import RunRecord, write_ranks


class StepSeed(L.Callback):
    """Reseeds torch at each training step from (seed, epoch, step, rank), so that resuming needs counters only."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: SequenceBatch, batch_idx: int
    ) -> None:
        """Before any noise of the step is drawn."""
        counters = (trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(hash((self.seed, *counters)))  # a tuple of integers hashes the same in every process


class BestCheckpoint(ModelCheckpoint):
    """The checkpoint of the best epoch, which a run resumed in a new folder takes along.

    Lightning forgets the best score when the folder changes, so that the first resumed epoch would count as the best.
    """

    def __init__(self, *, resumed_from: str | None = None, **settings: Any) -> None:
        """Take ModelCheckpoint's settings, and the checkpoint that the run resumes from."""
        super().__init__(**settings)
        self.resumed_from = resumed_from

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, and copy the best checkpoint into this run's folder.

        Raises:
            UserError: It lies neither where it was written nor beside the checkpoint that is resumed.
        """
        written = state_dict["best_model_path"]
        if written and self.dirpath is not None and self.resumed_from is not None:
            name = Path(written).name
            # The last place serves the test at the end of a resumed run, when the first two may be gone.
            places = [Path(written), Path(self.resumed_from).parent / name, Path(self.dirpath) / name]
            best = next((place for place in places if place.is_file()), None)
            if best is None:
                raise UserError(f"The best checkpoint of the resumed run is gone: put it back at {places[0]}.")
            copied = Path(self.dirpath, best.name)
            if copied.resolve() != best.resolve():
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(best, copied)
            state_dict = state_dict | {
                "dirpath": self.dirpath,
                "best_model_path": str(copied),
                "best_k_models": {str(copied): state_dict["best_model_score"]},
                "kth_best_model_path": str(copied),
                "last_model_path": "",
            }
        super().load_state_dict(state_dict)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, so that a cut-off run leaves the previous one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write all of it to disk, then replace."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        beside = Path(f"{path}.{os.getpid()}.part")
        with beside.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)


class Recorder(L.Callback):
    """The one owner of what a run measures, in the run's record and its `ranks.parquet`.

    Metrics of each epoch and of the tested weights in full precision, the best epoch, the ranks of the test cases, time
    (validation apart), throughput, peak memory.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.validated: dict[str, float] = {}  # in this epoch
        self.ranked: list[dict[str, torch.Tensor]] = []  # case, rank and top of each tested batch
        self.history: list[dict[str, Any]] = []
        self.epoch_s: list[float] = []
        self.epoch_cpu_s: list[float] = []
        self.targets = self.rows = 0
        self.evaluate_s = 0.0
        self.started = self.paused = (0.0, 0.0)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run's record goes on from."""
        names = ("history", "epoch_s", "epoch_cpu_s", "targets", "rows")
        checkpoint["record"] = {name: getattr(self, name) for name in names}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from the record of the run that is resumed; a test of a checkpoint leaves this run's own alone."""
        if trainer.state.fn == TrainerFn.FITTING:
            for name, value in checkpoint["record"].items():
                setattr(self, name, value)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clocks, and forget the validation of an earlier epoch."""
        self.validated = {}
        self.started = _clocks(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: SequenceBatch,
        batch_idx: int,
    ) -> None:
        """Count what the whole batch held, over all processes."""
        self.targets += round(batch.normalizer * trainer.world_size)
        self.rows += len(batch) * trainer.world_size

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the epoch's clocks."""
        self.paused = _clocks(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the metrics, and let the epoch's clocks go on."""
        self.validated = _measured(trainer, pl_module, "val")
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.record.update(metrics=self.validated)
        if trainer.training:
            now = _clocks(trainer)
            self.started = (
                self.started[0] + now[0] - self.paused[0],
                self.started[1] + now[1] - self.paused[1],
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch to the history."""
        now = _clocks(trainer)
        self.epoch_s.append(now[0] - self.started[0])
        self.epoch_cpu_s.append(now[1] - self.started[1])
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        self.history.append({"epoch": trainer.current_epoch, **logged, **self.validated})
        self.record.update(history=self.history, epochs=trainer.current_epoch + 1, **self._costs(trainer))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the best epoch and its validation, or the newest validation where no best checkpoint was kept."""
        best = _best_epoch(trainer) if trainer.is_global_zero else None
        epochs = {entry["epoch"]: entry for entry in self.history}
        chosen = self.validated if best is None else epochs.get(best, {})
        self.record.update(best_epoch=best, metrics={k: v for k, v in chosen.items() if k.startswith("val/")})

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the evaluation, and forget the ranks of an earlier one."""
        self.ranked = []
        self.evaluate_s = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: SequenceBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the ranks of the batch."""
        self.ranked.append({name: values.cpu() for name, values in outputs.items()})

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock; record the metrics, and write the ranks of all processes."""
        evaluate_s = time.perf_counter() - self.evaluate_s
        metrics = {**self.record.content["metrics"], **_measured(trainer, pl_module, "test")}
        self.record.update(metrics=metrics, **self._costs(trainer, evaluate_s=evaluate_s))
        if trainer.world_size > 1:
            everyone: list[list[dict[str, torch.Tensor]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(everyone, self.ranked)
            self.ranked = [part for ranked in everyone for part in ranked]
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]  # which `test(datamodule=)` sets
            write_ranks(self.record.folder, data.test_cases(), self.ranked, data.catalog.item_ids)

    def _costs(self, trainer: L.Trainer, **more: float) -> dict[str, Any]:
        timing = {**self.record.content["timing"], **more}
        if self.epoch_s:
            timing |= {"train_epoch_s": self.epoch_s, "train_epoch_cpu_s": self.epoch_cpu_s}
            timing["train_targets_per_s"] = self.targets / sum(self.epoch_s)
            timing["train_sequences_per_s"] = self.rows / sum(self.epoch_s)
        return {"timing": timing, "peak_memory_mb": peak_memory_mb(gpu=_on_gpu(trainer))}


def _measured(trainer: L.Trainer, pl_module: L.LightningModule, split: Literal["val", "test"]) -> dict[str, float]:
    """The metrics of an evaluation: what the model logged, and in full precision what it ranked."""
    assert isinstance(pl_module, SequentialRecommender)
    logged = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith(f"{split}/")}
    return logged | pl_module.evaluation(split)


def _best_epoch(trainer: L.Trainer) -> int | None:
    """Epoch of the best checkpoint, counted from 0, as the file says; None where none was kept."""
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or callback.monitor is None or not callback.best_model_path:
        return None
    # Mapped, so that no weight is read.
    epoch: int = torch.load(callback.best_model_path, map_location="cpu", weights_only=True, mmap=True)["epoch"]
    return epoch


def _clocks(trainer: L.Trainer) -> tuple[float, float]:
    if _on_gpu(trainer):
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _on_gpu(trainer: L.Trainer) -> bool:
    return trainer.strategy.root_device.type == "cuda"


def reset_peak_memory() -> None:
    """Start peak memory anew: the jobs of a sweep share one process."""
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak of the whole process is reported
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb(*, gpu: bool) -> dict[str, float | None]:
    """Largest resident memory of the process, and largest allocated memory of the GPU, in MB."""
    try:
        status = Path("/proc/self/status").read_text()
        host = float(status.split("VmHWM:")[1].split()[0]) / 1e3
    except (OSError, IndexError):
        import resource

        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    device = torch.cuda.max_memory_allocated() / 1e6 if gpu else None
    return {"host": host, "device": device}
