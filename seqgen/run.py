"""`python -m seqgen.run`: one run from the command line to the result table.

compose -> seed -> data -> model -> trainer -> fit -> test -> summary
"""

import io
import logging
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from seqgen import cli, config, explain, launched
from seqgen.allocator import keep_large_blocks
from seqgen.check import check, check_folder, check_shape, drop_unused
from seqgen.errors import UserError

if TYPE_CHECKING:  # torch is imported inside `run`, so that --help and tab completion answer at once
    from seqgen.data.datamodule import SequenceDataModule
    from seqgen.model.base import SequentialRecommender
    from seqgen.results import RunRecord


@dataclass(frozen=True)
class RunResult:
    """What a finished run gives back.

    Attributes:
        folder: The run's output folder.
        status: How it ended, `finished`: whatever else happens is raised.
        objective: The best value of `monitor`, which sweeps maximise.
        best_epoch: Counted from 0; None where no checkpoint of the best was kept.
        metrics: Validation of the best epoch and test, such as `test/ndcg@10`.
        checkpoint: What was tested, for `seqgen.load`; None where none was kept.
        record: The content of `results.json`: `history`, `timing`, `run_id`, `config` and so on.
    """

    folder: Path
    status: str
    objective: float
    best_epoch: int | None
    metrics: dict[str, float]
    checkpoint: Path | None
    record: dict[str, Any]


def run(cfg: DictConfig) -> RunResult:
    """Train, evaluate and record one composed configuration.

    Args:
        cfg: From the command line, or from `seqgen.config.compose`.

    Raises:
        UserError: Something in the configuration, the data or a file is wrong.
    """
    import pytorch_lightning as L
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    from seqgen import resume, stages, summary
    from seqgen.callbacks import reset_peak_memory
    from seqgen.results import RunRecord, recorded

    summary.quiet()
    started = time.perf_counter()
    first = getattr(rank_zero_only, "rank", 0) == 0 and launched.is_first()
    check_shape(cfg)
    drop_unused(cfg)
    if first:
        check_folder(cfg)
        config.keep(cfg, Path(cfg.paths.output_dir))
    record = RunRecord(
        Path(cfg.paths.output_dir),
        config=config.plain(cfg),
        choices=config.choices(),
        overrides=config.overrides(),
        write=first,
    )
    announce = config.is_sweep() and not config.is_marked()
    with recorded(record, lambda error: cli.sentence(error, sys.argv[1:]), announce=announce):
        cfg, overrides = resume.continued(cfg)
        record.update(config=config.plain(cfg), choices=config.choices(), overrides=overrides, seed=cfg.seed)
        if first and cfg.print_config:
            summary.print_config(record.content["config"], config.choices())
        check(cfg)
        reset_peak_memory()
        L.seed_everything(cfg.seed, verbose=False)
        data: SequenceDataModule = config.build(cfg, "data")
        record.update(data=data.facts())
        record.identify(data.catalog.fingerprint)
        record.update(timing={"prepare_s": time.perf_counter() - started})

        model: SequentialRecommender = config.build_model(cfg, catalog=data.catalog)
        record.update(parameters=sum(p.numel() for p in model.parameters()))
        if cfg.compile:
            model.compile_network()
        trainer = stages.make_trainer(cfg, model, record)
        if cfg.train:
            stages.fit(cfg, trainer, model, data)
        if cfg.test and not cfg.trainer.fast_dev_run:
            stages.test(cfg, trainer, model, data)
        if first:
            summary.print_profile(trainer)
        record.content["timing"]["total_s"] = time.perf_counter() - started
        stages.log_summary(trainer, record)
    if trainer.is_global_zero:
        summary.print_summary(record)
    kept = Path(getattr(trainer.checkpoint_callback, "best_model_path", "") or record.folder / "checkpoints/last.ckpt")
    return _result(record, monitor=cfg.monitor, checkpoint=kept if kept.is_file() else None)


def _result(record: "RunRecord", *, monitor: str, checkpoint: Path | None) -> RunResult:
    from seqgen.results import best_of

    return RunResult(
        folder=record.folder,
        status=record.content["status"],
        objective=best_of(record.content, monitor),
        best_epoch=record.content["best_epoch"],
        metrics=record.content["metrics"],
        checkpoint=checkpoint,
        record=record.content,
    )


@hydra.main(config_path=config.CONFIG_DIR, config_name="config", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> float | None:
    keep_large_blocks()  # here, not in `run`: the process of someone who calls that is his own
    result = cli.kept(run, cfg)
    return None if result is None else result.objective


def main() -> None:
    """The command line: for an error that the user can correct, one sentence and exit code 1."""
    if any(argument.startswith("ckpt_path=") for argument in sys.argv):
        from seqgen.resume import with_choices

        sys.argv[1:] = with_choices(sys.argv[1:])
    try:
        sys.argv[1:] = launched.completed(sys.argv[1:])
    except UserError as error:
        launched.refused(error)
    sys.argv[1:] = cli.for_each_job(sys.argv[1:])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log that is followed shows each line at once
    logging.captureWarnings(True)  # into run.log, besides the terminal
    try:
        explain.command("config", _hydra_main)
    finally:
        logging.captureWarnings(False)


class _CallableModule(types.ModuleType):
    """This module, called as `seqgen.run(cfg)`: it and its function would otherwise compete for one name."""

    def __call__(self, cfg: DictConfig) -> RunResult:
        return run(cfg)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    main()
