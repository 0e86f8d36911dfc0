"""The stages of a run that Lightning carries out: the trainer, the fit, the test."""

import contextlib
import inspect
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as L
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import (
    _MultiProcessingLauncher,
    _SubprocessScriptLauncher,
    subprocess_script,
)
from torch.nn.parallel import DistributedDataParallel

from seqgen import config, resume, summary
from seqgen.callbacks import LAST, PREVIOUS, AtomicCheckpointIO, Recorder, StepSeed
from seqgen.check import monitors
from seqgen.checkpoint import read_checkpoint
from seqgen.data.datamodule import SequenceDataModule
from seqgen.ending import watch_children
from seqgen.energy import EnergyMeter
from seqgen.errors import UserError
from seqgen.finite import StopAtNonFinite
from seqgen.metric_table import METRICS, row_of
from seqgen.model.base import SequentialRecommender
from seqgen.progress import Progress
from seqgen.results import RunRecord
from seqgen.settings import key_of
from seqgen.tuning.journal import Reporter, place_of_trial
from seqgen.tuning.pruning import Pruning


def make_trainer(cfg: DictConfig, model: SequentialRecommender, record: RunRecord) -> L.Trainer:
    """The trainer with its loggers and callbacks, the record's among them.

    Raises:
        UserError: A setting does not go with the model, with the data, or with a sweep.
    """
    for key, value in monitors(record.content["config"]).items():
        row = row_of(value)
        if model.val_metrics.categories is None and row is not None and row.needs_categories:
            data = config.choices()["data"]
            raise UserError(f"{key}={value} needs categories, which no item of data={data} has; choose another metric.")
    if not model.trainable and str(cfg.trainer.precision) in ("16-true", "bf16-true"):
        name = config.choices()["model"]
        raise UserError(f"trainer.precision={cfg.trainer.precision} rounds the scores of model={name} to ties.")
    if "wandb" in (cfg.logger or {}) and "name" in cfg.logger.wandb:
        _name_by_sweep(cfg.logger.wandb)
    loggers = _built(cfg, "logger", Logger) if cfg.logger else []
    callbacks = _built(cfg, "callbacks", L.Callback) if cfg.callbacks and model.trainable else []
    shown = [Progress(record, monitor=cfg.monitor)] if cfg.trainer.get("enable_progress_bar") is not False else []
    if loggers and (cfg.show.users or cfg.show.pictures):
        from seqgen.showcase import Showcase, takes_pictures

        callbacks += [Showcase(**cfg.show)] if any(map(takes_pictures, loggers)) else []
    if model.trainable and (place := place_of_trial()):
        reporter = Reporter(place) if record.write_file else None
        callbacks.append(Pruning(record, reporter, monitor=cfg.monitor))
    trainer: L.Trainer = config.build(
        cfg,
        "trainer",
        logger=loggers or False,
        callbacks=[StepSeed(cfg.seed), StopAtNonFinite(), EnergyMeter(record), Recorder(record), *callbacks, *shown],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # the data module shards batches itself, without duplicates
    )
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise UserError(
            f"trainer.strategy={cfg.trainer.strategy} leaves the results in the processes it spawns; use "
            "trainer.strategy=ddp."
        )
    if config.is_sweep() and isinstance(launcher, _SubprocessScriptLauncher):
        raise UserError(
            "--multirun with several devices would start the whole sweep again in every process; use "
            "trainer.devices=1, and several devices in single runs only."
        )
    _send_no_buffers(trainer)
    subprocess_script._launch_process_observer = watch_children  # type: ignore[assignment]  # Lightning has no hook
    record.update(device=summary.device_name(trainer))
    found = {name: record.content[name] for name in ("run_id", "choices", "parameters")}
    for logger in loggers:
        try:
            logger.log_hyperparams({**record.content["config"], **found})
        except TypeError as error:  # W&B is given its settings only now
            raise UserError(f"logger: {error}") from error
    if "wandb" in (cfg.logger or {}):
        summarise_best(trainer.loggers, cfg.metrics.k)
    return trainer


def _send_no_buffers(trainer: L.Trainer) -> None:
    """Buffers are constants here, and MQSA-TED's teacher is a large one: by default each step would send them."""
    if not isinstance(trainer.strategy, DDPStrategy):
        return
    given = trainer.strategy._ddp_kwargs
    known = inspect.signature(DistributedDataParallel.__init__).parameters  # torch before 2.13 has the one name
    if not {"broadcast_buffers", "forward_sync_buffers"} & given.keys():
        given["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False


def _built(cfg: DictConfig, group: str, kind: type) -> list[Any]:
    """The parts of a group; a function that makes one may have said nothing of what it makes."""
    parts = config.build(cfg, group)
    for name, part in parts.items():
        if not isinstance(part, kind):
            target = cfg[group][name]["_target_"]
            raise UserError(f"{group}.{name}._target_={target} does not make a {kind.__name__}, but {part!r}.")
    return list(parts.values())


def _name_by_sweep(node: DictConfig) -> None:
    """Add what a sweep goes through to the name of a run, unless the user gave the name."""
    keys = {text: key_of(text) for text in config.overrides()}
    if "logger.wandb.name" not in keys.values():
        said = ("model", "attention", "data", "seed")  # in the name already
        swept = [text for text, key in keys.items() if key not in said and config.sweeps_over(key)]
        node.name = " ".join([str(node.name), *(text.lstrip("+~") for text in swept)])


def summarise_best(loggers: Sequence[Any], lengths: Sequence[int]) -> None:
    """Have W&B count in epochs, and show the best value of each validation metric in a run's summary.

    Args:
        loggers: Those that can, W&B's, are asked.
        lengths: List lengths K of the metrics.
    """
    for logger in loggers:
        if not hasattr(logger.experiment, "define_metric"):
            continue
        for kind in ("train", "test"):
            logger.experiment.define_metric(f"{kind}/*", step_metric="epoch")
        for row in METRICS.values():
            best = {True: "max", False: "min", None: "last"}[row.higher_is_better]
            for name in row.names(lengths):
                logger.experiment.define_metric(f"val/{name}", step_metric="epoch", summary=best)


def log_summary(trainer: L.Trainer, record: RunRecord) -> None:
    """Put the best epoch and its validation, time and memory into the summary of the loggers that have one, W&B's."""
    timing = record.content["timing"]
    costs = {f"timing/{name}": value for name, value in timing.items() if not isinstance(value, list)}
    if timing.get("train_epoch_s"):
        costs["timing/train_epoch_s"] = statistics.median(timing["train_epoch_s"])
    if (best := record.content["best_epoch"]) is not None:
        of_best = {name: value for name, value in record.content["metrics"].items() if name.startswith("val/")}
        costs |= {"best/epoch": best, **{f"best/{name}": value for name, value in of_best.items()}}
    costs |= {f"peak_memory_mb/{name}": value for name, value in record.content["peak_memory_mb"].items() if value}
    experiments: list[Any] = (
        [getattr(logger, "experiment", None) for logger in trainer.loggers] if trainer.is_global_zero else []
    )
    for experiment in experiments:
        if hasattr(experiment, "define_metric"):
            experiment.summary.update(costs)


def fit(cfg: DictConfig, trainer: L.Trainer, model: SequentialRecommender, data: SequenceDataModule) -> None:
    """Train, from a checkpoint where one is given; a model that is not trained by steps is validated and saved.

    Raises:
        UserError: The checkpoint does not go with the settings.
    """
    if model.trainable:
        finished = _prepare_resuming(cfg, trainer) if cfg.ckpt_path else None
        with config.settings_of(cfg, "model"), _validated():
            trainer.fit(model, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Pruning):
                callback.refuse_the_rest()
        if cfg.callbacks and trainer.is_global_zero:
            if finished is not None:
                AtomicCheckpointIO().save_checkpoint(finished, _last_checkpoint(cfg))
            _last_checkpoint(cfg).with_name(PREVIOUS).unlink(missing_ok=True)
        return
    if cfg.ckpt_path:
        raise UserError(
            f"ckpt_path has no effect with model={config.choices()['model']}, which is not trained by steps; set "
            "train=false to test it."
        )
    trainer.validate(model, datamodule=data, verbose=False)
    if cfg.callbacks and not cfg.trainer.fast_dev_run:
        trainer.save_checkpoint(_last_checkpoint(cfg))


@contextlib.contextmanager
def _validated() -> Iterator[None]:
    """Say in words that a training ended before anything was validated, which early stopping waits for."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise UserError(
            "Training ended before its first validation, so no epoch could be chosen; raise trainer.max_steps, or "
            "validate more often (trainer.check_val_every_n_epoch)."
        ) from error


def _last_checkpoint(cfg: DictConfig) -> Path:
    return Path(cfg.paths.output_dir, "checkpoints", LAST)


def _prepare_resuming(cfg: DictConfig, trainer: L.Trainer) -> dict[str, Any] | None:
    """Refuse a checkpoint that does not go with the settings; the checkpoint, where nothing is left to train."""
    settings, checkpoint = config.plain(cfg), read_checkpoint(cfg.ckpt_path)
    resume.refuse_unresumable(checkpoint, cfg.ckpt_path)
    resume.refuse_changed_settings(checkpoint, settings, cfg.ckpt_path)
    last = resume.last_epoch(checkpoint, settings["trainer"], cfg.ckpt_path)
    trainer.fit_loop.max_epochs = last
    if last > checkpoint["epoch"] + 1:
        return None
    if trainer.is_global_zero:
        print(f"{cfg.ckpt_path} has trained all its {last} epochs: what is left is the test.")
    return checkpoint


def test(cfg: DictConfig, trainer: L.Trainer, model: SequentialRecommender, data: SequenceDataModule) -> None:
    """Test the best checkpoint of the fit, the weights it ended with where none was kept, or the given checkpoint.

    Raises:
        UserError: There is nothing to test, or the checkpoint cannot be read.
    """
    best = getattr(trainer.checkpoint_callback, "best_model_path", None) if cfg.train else None
    if not cfg.train and model.trainable and cfg.ckpt_path is None:
        raise UserError("train=false needs ckpt_path=, the checkpoint to test.")
    checkpoint = best or (None if cfg.train else cfg.ckpt_path)
    trainer.test(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
