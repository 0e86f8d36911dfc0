"""Callbacks of every run: noise that a resumed run repeats, a best checkpoint that survives it, and the record."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as L
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from seqgen.checkpoint import read_checkpoint
from seqgen.data.sequences import SequenceBatch
from seqgen.errors import UserError
from seqgen.model.base import SequentialRecommender
from seqgen.results import RunRecord, write_ranks

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class StepSeed(L.Callback):
    """Reseeds torch at each training step from (seed, epoch, step), so that resuming needs counters only.

    Of several processes each has a seed of its own, and one in common, for what is drawn for the whole batch: that of a
    process alone.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: SequenceBatch, batch_idx: int
    ) -> None:
        """Before any noise of the step is drawn."""
        counters = (self.seed, trainer.current_epoch, batch_idx)
        common, own = hash((*counters, 0)), hash((*counters, 1 + trainer.global_rank))  # the same in every process
        torch.manual_seed(common if batch.whole is None else own)
        batch.seed = common
        if batch.whole is not None:
            batch.whole.generator = torch.Generator(batch.targets.device).manual_seed(common)


class BestCheckpoint(ModelCheckpoint):
    """The checkpoint of the best epoch, which neither a kill nor a resume in a new folder loses.

    Each checkpoint of the run holds the weights of the best epoch, so that it can be resumed alone. The previous best
    checkpoint is removed only once all checkpoints of the epoch are on disk.
    """

    def __init__(self, *, resumed_from: str | None = None, **settings: Any) -> None:
        """Take ModelCheckpoint's settings, and the checkpoint that the run resumes from."""
        super().__init__(**settings)
        self.resumed_from = resumed_from
        self.best_weights: dict[str, Any] | None = None  # the epoch, and on the first process its state_dict
        self.outdated: list[str] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove what the previous epoch made superfluous."""
        self._remove_outdated(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove what the last epoch made superfluous."""
        super().on_train_end(trainer, pl_module)
        self._remove_outdated(trainer)

    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        self.outdated.append(filepath)

    def _remove_outdated(self, trainer: L.Trainer) -> None:
        while self.outdated:
            super()._remove_checkpoint(trainer, self.outdated.pop())

    def _get_metric_interpolated_filepath_name(
        self, monitor_candidates: dict[str, torch.Tensor], trainer: L.Trainer, del_filepath: str | None = None
    ) -> str:
        # Lightning would write over the previous best, to which the last checkpoint still refers.
        return super()._get_metric_interpolated_filepath_name(monitor_candidates, trainer)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if filepath == self.best_model_path:
            weights = trainer.strategy.lightning_module_state_dict()
            kept = weights if trainer.is_global_zero else {}
            self.best_weights = {
                "epoch": trainer.current_epoch,
                "state_dict": {name: value.detach().cpu().clone() for name, value in kept.items()},
            }
        super()._save_checkpoint(trainer, filepath)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the best weights in the checkpoint of another epoch."""
        kept = checkpoint.setdefault("best", {})
        if self.best_weights is not None and self.best_weights["epoch"] != checkpoint["epoch"]:
            kept[self.state_key] = self.best_weights

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the best checkpoint along into this run's folder; Lightning forgets its score when the folder changes.

        Raises:
            UserError: An old checkpoint lacks the best weights, and their own file is gone.
        """
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if trainer.state.fn != TrainerFn.FITTING or not state or not state["best_model_path"] or self.dirpath is None:
            return
        own = {name: checkpoint[name] for name in ("epoch", "state_dict")}
        self.best_weights = checkpoint["best"].get(self.state_key, own) if "best" in checkpoint else None
        best = Path(self.dirpath, Path(state["best_model_path"]).name)
        if trainer.is_global_zero:
            self._establish(best, Path(state["best_model_path"]), checkpoint)
        checkpoint["callbacks"][self.state_key] = state | {
            "dirpath": self.dirpath,
            "best_model_path": str(best),
            "best_k_models": {str(best): state["best_model_score"]},
            "kth_best_model_path": str(best),
            "last_model_path": "",
        }

    def _establish(self, best: Path, written: Path, checkpoint: dict[str, Any]) -> None:
        """Have the best checkpoint in this run's folder: the whole file where there is one, or else its weights."""
        beside = [Path(self.resumed_from).parent / written.name] if self.resumed_from else []
        for place in (written, *beside, best):
            try:
                found = read_checkpoint(place)
            except UserError:
                continue
            if self.best_weights is None or found["epoch"] == self.best_weights["epoch"]:
                if place.resolve() != best.resolve():
                    AtomicCheckpointIO().save_checkpoint(found, best)
                return
        if self.best_weights is None:
            raise UserError(f"The best checkpoint of the resumed run is gone: put it back at {written}.")
        kept = {name: checkpoint[name] for name in ("pytorch-lightning_version", "global_step", "seqgen", "record")}
        AtomicCheckpointIO().save_checkpoint(kept | self.best_weights, best)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, so that a cut-off run leaves the previous one whole.

    The last epoch's takes the place of `previous.ckpt` when the next comes: should a file be damaged on disk, at most
    one epoch is lost.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write all of it to disk, then replace; the new name is on disk too before anything else is removed."""
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(f"{path}.part")
        try:
            with beside.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                if Path(path).name == LAST and Path(path).exists():
                    os.replace(path, folder / PREVIOUS)  # killed here, the run is resumed from that one
            finally:  # a signal that raises between the two leaves no run without its last.ckpt
                os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # a file system that knows no open folders
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read onto the CPU, from where Lightning distributes it."""
        return read_checkpoint(path)


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
        self.validate_s: float | None = None  # of the newest validation
        self.evaluate_s = 0.0
        self.started = self.paused = (0.0, 0.0)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run's record goes on from."""
        names = ("history", "epoch_s", "epoch_cpu_s", "targets", "rows")
        run = {name: self.record.content[name] for name in ("choices", "overrides")}
        checkpoint["record"] = {name: getattr(self, name) for name in names} | run

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from the record of the run that is resumed; a test of a checkpoint leaves this run's own alone."""
        if trainer.state.fn == TrainerFn.FITTING:
            for name, value in checkpoint["record"].items():
                if name not in ("choices", "overrides"):
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
        if trainer.state.fn == TrainerFn.FITTING:
            now = _clocks(trainer)
            self.validate_s = now[0] - self.paused[0]
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
        newest = self.history[-1] if self.history else {}
        chosen = newest if best is None else epochs.get(best, {})
        metrics = {k: v for k, v in chosen.items() if k.startswith("val/")}
        # Also of a run that is resumed after its last epoch.
        self.record.update(history=self.history, epochs=len(self.history), **self._costs(trainer))
        self.record.update(best_epoch=best, metrics=metrics)

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
            self.record.update(test_cases_ranked=sum(len(part["rank"]) for part in self.ranked))
            write_ranks(self.record.folder, data.test_cases(), self.ranked, data.catalog.item_ids)

    def _costs(self, trainer: L.Trainer, **more: float) -> dict[str, Any]:
        timing = {**self.record.content["timing"], **more}
        if self.epoch_s:
            timing |= {"train_epoch_s": self.epoch_s, "train_epoch_cpu_s": self.epoch_cpu_s}
            timing |= {} if self.validate_s is None else {"validate_s": self.validate_s}
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
    epoch: int = read_checkpoint(callback.best_model_path)["epoch"]
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
