"""`python -m seqgen.run`: one run from the command line to the result table.

compose -> seed -> data -> model -> trainer -> fit -> test -> summary
"""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from seqgen import config
from seqgen.errors import UserError

if TYPE_CHECKING:  # torch is imported inside `run`, so that --help and tab completion answer at once
    import pytorch_lightning as L

    from seqgen.data.datamodule import SequenceDataModule
    from seqgen.model.base import SequentialRecommender
    from seqgen.results import RunRecord


def run(cfg: DictConfig) -> float:
    """Train, evaluate and record one composed configuration.

    Args:
        cfg: From the command line, or from `seqgen.config.compose`.

    Returns:
        The best value of `monitor`, which sweeps maximise.

    Raises:
        UserError: Something in the configuration, the data or a file is to be mended.
    """
    import pytorch_lightning as L
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    from seqgen import summary
    from seqgen.callbacks import reset_peak_memory
    from seqgen.results import RunRecord, recorded, write_ranks

    summary.quiet()
    started = time.perf_counter()
    first = getattr(rank_zero_only, "rank", 0) == 0
    settings = config.plain(cfg)
    folder = Path(cfg.paths.output_dir)
    record = RunRecord(folder, config=settings, choices=config.choices(), overrides=config.overrides(), write=first)
    if first and cfg.print_config:
        summary.print_config(settings, config.choices())
    with recorded(record, lambda error: config.sentence(error, sys.argv[1:]), announce=config.is_sweep()):
        config.check(cfg)
        reset_peak_memory()
        L.seed_everything(cfg.seed, verbose=False)
        data: SequenceDataModule = config.build(cfg, "data")
        catalog = data.catalog
        meta = data.prepared.meta
        record.update(data={**{k: v for k, v in meta.items() if k != "settings"}, "split": "leave_one_out"})
        record.identify(catalog.fingerprint)
        record.update(timing={"prepare_s": time.perf_counter() - started})

        model: SequentialRecommender = config.build(cfg, "model", catalog=catalog)
        model.config = settings
        record.update(parameters=sum(p.numel() for p in model.parameters()))
        if cfg.compile:
            model.compile_network()
        trainer = _trainer(cfg, model, record)
        if cfg.train:
            _fit(cfg, trainer, model, data)
        if cfg.test and not cfg.trainer.fast_dev_run:
            _test(cfg, trainer, model, data)
            if trainer.is_global_zero:
                write_ranks(folder, data.test_cases(), model.ranked, catalog.item_ids)
        best = summary.best_epoch(trainer) if cfg.train else None
        record.update(metrics=summary.metrics_of(best, model.evaluated, record.content["history"]), best_epoch=best)
        record.content["timing"]["total_s"] = time.perf_counter() - started
    if trainer.is_global_zero:
        summary.print_summary(record)
    return summary.objective(model.evaluated, record, cfg.monitor)


def _trainer(cfg: DictConfig, model: "SequentialRecommender", record: "RunRecord") -> "L.Trainer":
    from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

    from seqgen import summary
    from seqgen.callbacks import AtomicCheckpointIO, Recorder, StepSeed

    if not model.trainable and str(cfg.trainer.precision) in ("16-true", "bf16-true"):
        name = config.choices()["model"]
        raise UserError(f"trainer.precision={cfg.trainer.precision} rounds the scores of model={name} to ties.")
    loggers = list(config.build(cfg, "logger").values()) if cfg.logger else []
    callbacks = list(config.build(cfg, "callbacks").values()) if cfg.callbacks and model.trainable else []
    trainer: L.Trainer = config.build(
        cfg,
        "trainer",
        logger=loggers or False,
        callbacks=[StepSeed(cfg.seed), Recorder(record), *callbacks],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # the data module shards batches itself, without duplicates
    )
    if config.is_sweep() and isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        raise UserError(
            "--multirun with several devices would start the whole sweep again in every process; use "
            "trainer.devices=1, or trainer.strategy=ddp_spawn."
        )
    record.update(device=summary.device_name(trainer))
    parameters = record.content["parameters"]
    for logger in loggers:
        try:
            logger.log_hyperparams({"choices": config.choices(), **model.config, "parameters": parameters})
        except TypeError as error:  # W&B is given its settings only now
            raise UserError(f"logger: {error}") from error
    return trainer


def _fit(cfg: DictConfig, trainer: Any, model: "SequentialRecommender", data: "SequenceDataModule") -> None:
    if model.trainable:
        if cfg.ckpt_path:
            from seqgen.checkpoint import read_checkpoint, refuse_changed_settings

            refuse_changed_settings(read_checkpoint(cfg.ckpt_path), model.config, cfg.ckpt_path)
        trainer.fit(model, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
        return
    if cfg.ckpt_path:
        raise UserError(
            f"ckpt_path has no effect with model={config.choices()['model']}, which is not trained by steps."
        )
    trainer.validate(model, datamodule=data, verbose=False)
    if cfg.callbacks and not cfg.trainer.fast_dev_run:
        trainer.save_checkpoint(Path(cfg.paths.output_dir, "checkpoints", "last.ckpt"))


def _test(cfg: DictConfig, trainer: Any, model: "SequentialRecommender", data: "SequenceDataModule") -> None:
    if not cfg.train and cfg.ckpt_path:
        from seqgen.checkpoint import read_checkpoint

        read_checkpoint(cfg.ckpt_path)
    best = trainer.checkpoint_callback.best_model_path if cfg.train and trainer.checkpoint_callback else None
    if not cfg.train and model.trainable and cfg.ckpt_path is None:
        raise UserError("train=false needs ckpt_path=, the checkpoint to test.")
    checkpoint = best or (None if cfg.train else cfg.ckpt_path)
    trainer.test(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)


_failure: list[Exception] = []


@hydra.main(config_path=config.CONFIG_DIR, config_name="config", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> float | None:
    try:
        return run(cfg)
    except Exception as error:
        if config.is_sweep():  # the sweep's launcher has to know
            raise
        _failure.append(error)  # past Hydra, which would print a line of its own
        return None


def main() -> None:
    """The command line: errors that are the user's to mend are one sentence and exit code 1."""
    # Hydra must not print errors itself. The processes that DDP starts inherit both variables.
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1" and "SEQGEN_SENTENCES" not in os.environ
    if not wants_trace:
        os.environ |= {"HYDRA_FULL_ERROR": "1", "SEQGEN_SENTENCES": "1"}
    try:
        _hydra_main()
        if _failure:
            raise _failure[0]
    except Exception as error:
        text = config.sentence(error, sys.argv[1:])
        if wants_trace or text is None:
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"seqgen: {text}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
