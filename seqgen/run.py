"""`python -m seqgen.run`: one run from the command line to the result table.

compose -> seed -> data -> model -> trainer -> fit -> test -> summary
"""

import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from seqgen import config
from seqgen.check import check

if TYPE_CHECKING:  # torch is imported inside `run`, so that --help and tab completion answer at once
    from seqgen.data.datamodule import SequenceDataModule
    from seqgen.model.base import SequentialRecommender


def run(cfg: DictConfig) -> float:
    """Train, evaluate and record one composed configuration.

    Args:
        cfg: From the command line, or from `seqgen.config.compose`.

    Returns:
        The best value of `monitor`, which sweeps maximise.

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
    first = getattr(rank_zero_only, "rank", 0) == 0
    record = RunRecord(
        Path(cfg.paths.output_dir),
        config=config.plain(cfg),
        choices=config.choices(),
        overrides=config.overrides(),
        write=first,
    )
    with recorded(record, lambda error: config.sentence(error, sys.argv[1:]), announce=config.is_sweep()):
        cfg, overrides = resume.continued(cfg)
        record.update(config=config.plain(cfg), overrides=overrides, seed=cfg.seed)
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
        record.content["timing"]["total_s"] = time.perf_counter() - started
    if trainer.is_global_zero:
        summary.print_summary(record)
    return record.best(cfg.monitor)


@hydra.main(config_path=config.CONFIG_DIR, config_name="config", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> float | None:
    return config.kept(run, cfg)


def main() -> None:
    """The command line: for an error that the user can mend, one sentence and exit code 1."""
    if any(argument.startswith("ckpt_path=") for argument in sys.argv):
        from seqgen.resume import with_choices

        sys.argv[1:] = with_choices(sys.argv[1:])
    config.command(_hydra_main)


class _CallableModule(types.ModuleType):
    """This module, called as `seqgen.run(cfg)`: it and its function would otherwise compete for one name."""

    def __call__(self, cfg: DictConfig) -> float:
        return run(cfg)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    main()
