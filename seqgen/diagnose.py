"""`python -m seqgen.diagnose ckpt_path=…`: what a trained model does inside, drawn.

- Attention: the maps of one user, and statistics of maps over test cases (`seqgen.diagnosis.attention`).
- Attention that draws: accuracy against diversity by temperature and number of draws (`seqgen.diagnosis.diversity`).
- A model that diffuses: noise schedule, each part of the objective by step, validation accuracy by setting of inference
  (`seqgen.diagnosis.denoising`).

The run's own configuration comes from the checkpoint. Writes one picture each and `diagnose.json`, and logs pictures
and numbers to W&B with `logger=wandb`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from seqgen import cli, config, explain
from seqgen.check import check_wandb
from seqgen.errors import UserError
from seqgen.signatures import check_type

if TYPE_CHECKING:  # torch is imported inside `diagnose`, so that --help answers at once
    from seqgen.diagnosis import TrainedRun
    from seqgen.diagnosis.whole import Diagnosis

HELP = """seqgen: what a trained model does inside.

  python -m seqgen.diagnose ckpt_path=outputs/.../checkpoints/last.ckpt
  python -m seqgen.diagnose ckpt_path=outputs/.../checkpoints/last.ckpt user=42 logger=wandb

  user=ID     whose attention is drawn; the first user that is tested, unless given
  cases=N     test cases that the statistics of the attention are taken over, at most (256)
  batches=N   training batches that the loss by step of model=cddrec is taken over (20)
  trust=[P]   packages, other than seqgen, whose classes the checkpoint may name
"""
ConfigStore.instance().store(
    name="diagnose",
    node={
        "defaults": [{"logger": "none"}, {"paths": "default"}, {"hydra": "default"}, "_self_"],
        "ckpt_path": "???",
        "task": "diagnose",
        "seed": 1,
        "tags": [],
        "user": None,
        "cases": 256,
        "batches": None,
        "trust": [],
        "hydra": {
            "job": {"name": "diagnose"},
            "output_subdir": ".hydra",
            "run": {"dir": "outputs/diagnose/${now:%Y-%m-%d_%H-%M-%S-%f}"},
            "help": {"header": HELP},
        },
    },
)


def diagnose(cfg: DictConfig) -> dict[str, Any]:
    """Diagnose a checkpoint.

    Args:
        cfg: `ckpt_path`, `paths`, `logger`, `seed`; `user`, `cases`, `batches` and `trust`, as in --help.

    Returns:
        The numbers that were drawn.

    Raises:
        UserError: There is no such checkpoint or user, the data has changed, or the model has nothing to look into.
    """
    checkpoint = _checked(cfg)
    import torch

    from seqgen.checkpoint import stored_config
    from seqgen.diagnosis import TrainedRun
    from seqgen.summary import quiet

    quiet()
    run = stored_config(checkpoint, cfg.ckpt_path)
    run.data.cache_dir = cfg.paths.cache_dir
    if "data_dir" in run.data.get("source", {}):
        run.data.source.data_dir = cfg.paths.data_dir
    if "url" in run.data.get("source", {}):
        run.data.source.url = None  # nothing is fetched from where a file points to
    torch.manual_seed(cfg.seed)
    trust = tuple(cfg.trust)
    trained = TrainedRun(config=run, data=config.build(run, "data", trust=trust), checkpoint=checkpoint, trust=trust)
    found = _looked_into(cfg, trained)
    folder = Path(cfg.paths.output_dir)
    (folder / "diagnose.json").write_text(json.dumps(found.numbers, indent=1))
    pictures = {name: folder / f"{name}.png" for name in found.figures}
    for name, figure in found.figures.items():
        figure.savefig(pictures[name], dpi=150)
    if cfg.logger:
        _log(cfg, found.logged, pictures, Path(cfg.ckpt_path))
    for picture in pictures.values():
        print(picture)
    return found.numbers


def _checked(cfg: DictConfig) -> dict[str, Any]:
    """The checkpoint, once what was asked for makes sense."""
    if OmegaConf.is_missing(cfg, "ckpt_path") or not Path(cfg.ckpt_path).is_file():
        given = "" if OmegaConf.is_missing(cfg, "ckpt_path") else f"={cfg.ckpt_path} is not a file"
        raise UserError(f"ckpt_path{given}: name a checkpoint such as outputs/.../checkpoints/last.ckpt.")
    for name in ("cases", "batches"):
        value = cfg[name]
        if not (isinstance(value, int) and value >= 1) and not (name == "batches" and value is None):
            raise UserError(f"{name}={value} must be an integer of at least 1.")
    check_type("trust", OmegaConf.to_container(cfg.trust) if OmegaConf.is_list(cfg.trust) else cfg.trust, list[str])
    check_wandb(cfg)
    from seqgen.checkpoint import read_checkpoint

    return read_checkpoint(cfg.ckpt_path)


def _looked_into(cfg: DictConfig, trained: "TrainedRun") -> "Diagnosis":
    """Of all parts that the model has; says what is left out."""
    from seqgen.diagnosis import attention, whole
    from seqgen.model.cddrec import CDDRec

    model = trained.model()
    kind = type(model).__name__
    if not whole.can_be_diagnosed(model):
        raise UserError(f"ckpt_path holds a {kind}, which has no encoder of attention blocks: nothing to diagnose.")
    if cfg.batches is not None and not isinstance(model, CDDRec):
        raise UserError(f"batches={cfg.batches} has no effect: {kind} does not diffuse; leave it null.")
    found = whole.look_into(trained, user=cfg.user, cases=cfg.cases, batches=cfg.batches)
    if not attention.draws(trained):
        print("Left out: diversity.png and the spread over draws, since this model's attention draws nothing.")
    return found


def _log(cfg: DictConfig, numbers: dict[str, float], pictures: dict[str, Path], checkpoint: Path) -> None:
    """Pictures to the loggers that take some, numbers to all."""
    if "wandb" in cfg.logger:
        cfg.logger.wandb.name = f"diagnose-{checkpoint.stem}"
        cfg.logger.wandb.group = cfg.task
    for logger in config.build(cfg, "logger").values():
        logger.log_metrics({f"diagnose/{name}": value for name, value in numbers.items()})
        if hasattr(logger, "log_image"):
            for name, path in pictures.items():
                logger.log_image(key=f"diagnose/{name}", images=[str(path)])
        logger.finalize("success")
        if hasattr(logger.experiment, "finish"):  # W&B's, which the next run of this process would go on with
            logger.experiment.finish()


@hydra.main(config_path=config.CONFIG_DIR, config_name="diagnose", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> None:
    cli.kept(diagnose, cfg)


if __name__ == "__main__":
    explain.command("diagnose", _hydra_main)
