"""`python -m seqgen.diagnose ckpt_path=…`: what a trained model does inside, drawn.

For a model that diffuses: the noise schedule, each part of the objective by step, and validation accuracy by inference
setting. The run's own configuration comes from the checkpoint. Writes one picture each and `diagnose.json`, and logs
the pictures to W&B with `logger=wandb`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from seqgen import config
from seqgen.check import check_wandb
from seqgen.errors import UserError

if TYPE_CHECKING:  # torch is imported inside `diagnose`, so that --help answers at once
    from seqgen.data.datamodule import SequenceDataModule
    from seqgen.model.base import SequentialRecommender

HELP = """seqgen: what a trained model does inside.

  python -m seqgen.diagnose ckpt_path=outputs/.../checkpoints/last.ckpt
  python -m seqgen.diagnose ckpt_path=outputs/.../checkpoints/last.ckpt logger=wandb
"""
ConfigStore.instance().store(
    name="diagnose",
    node={
        "defaults": ["_self_", {"logger": "none"}, {"paths": "default"}, {"hydra": "default"}],
        "ckpt_path": "???",
        "task": "diagnose",
        "seed": 1,
        "tags": [],
        "batches": 20,
        "hydra": {
            "job": {"name": "diagnose"},
            "run": {"dir": "outputs/diagnose/${now:%Y-%m-%d_%H-%M-%S-%f}"},
            "help": {"header": HELP},
        },
    },
)


def diagnose(cfg: DictConfig) -> dict[str, Any]:
    """Diagnose a checkpoint.

    Args:
        cfg: `ckpt_path`, `paths`, `logger`; `batches`, the number of training batches the losses are taken over.

    Returns:
        The numbers that were drawn.

    Raises:
        UserError: There is no such checkpoint, its data has changed, or its model has nothing that diffuses.
    """
    import torch

    from seqgen.checkpoint import read_checkpoint
    from seqgen.model.cddrec import CDDRec
    from seqgen.summary import quiet

    quiet()
    if OmegaConf.is_missing(cfg, "ckpt_path") or not Path(cfg.ckpt_path).is_file():
        given = "" if OmegaConf.is_missing(cfg, "ckpt_path") else f"={cfg.ckpt_path} is not a file"
        raise UserError(f"ckpt_path{given}: name a checkpoint such as outputs/.../checkpoints/last.ckpt.")
    if not isinstance(cfg.batches, int) or cfg.batches < 1:
        raise UserError(f"batches={cfg.batches} must be an integer of at least 1.")
    check_wandb(cfg)
    checkpoint = read_checkpoint(cfg.ckpt_path)
    run = OmegaConf.create(checkpoint["seqgen"]["config"])
    run.data.cache_dir = cfg.paths.cache_dir
    if "data_dir" in run.data.get("source", {}):
        run.data.source.data_dir = cfg.paths.data_dir
    torch.manual_seed(cfg.seed)
    data: SequenceDataModule = config.build(run, "data")
    model = _model(run, data, checkpoint)
    if not isinstance(model, CDDRec):
        raise UserError(f"ckpt_path holds a {type(model).__name__}, in which nothing diffuses: nothing to diagnose.")
    told = {
        "schedule": _schedule(model),
        "loss": _loss_by_step(model, data, cfg.batches),
        "inference": _accuracy_by_inference(run, data, checkpoint),
    }
    folder = Path(cfg.paths.output_dir)
    (folder / "diagnose.json").write_text(json.dumps(told, indent=1))
    pictures = _draw(told, folder, metric=run.monitor)
    if cfg.logger:
        _log(cfg, told, pictures, Path(cfg.ckpt_path))
    for picture in pictures.values():
        print(picture)
    return told


def _model(run: DictConfig, data: "SequenceDataModule", checkpoint: dict[str, Any]) -> "SequentialRecommender":
    """A model of this configuration, with the checkpoint's weights, in evaluation mode."""
    model: SequentialRecommender = config.build(run, "model", catalog=data.catalog)
    model.config = config.plain(run)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def _schedule(model: Any) -> dict[str, list[float]]:
    """By step 1..T: what is left of the signal, signal to noise, deviation of target and prediction."""
    import torch

    process = model.diffusion
    steps = torch.arange(1, process.num_steps + 1)
    told = {
        "signal": process.alpha_bar[1:],
        "signal_to_noise": process.signal_to_noise(),
        "noise_of_target": (1 - process.alpha_bar[1:]).sqrt(),
        "noise_of_prediction": model.deviation(steps),
    }
    return {name: values.tolist() for name, values in told.items()}


def _loss_by_step(model: Any, data: "SequenceDataModule", batches: int) -> dict[str, list[float]]:
    """Each part of the objective by step, mean over some training batches, without dropout."""
    import torch

    steps = torch.arange(1, model.diffusion.num_steps + 1)
    sums: dict[str, Any] = {}
    count = 0
    with torch.no_grad():
        for batch in data.train_dataloader():
            for name, values in model.step_losses(batch, steps)[0].items():
                sums[name] = sums.get(name, 0.0) + values
            count += 1
            if count == batches:
                break
    return {name: (values / count).tolist() for name, values in sums.items()}


def _accuracy_by_inference(
    run: DictConfig, data: "SequenceDataModule", checkpoint: dict[str, Any]
) -> list[dict[str, Any]]:
    """Validation metrics by number of steps (averaged, or of the reverse chain), and by samples of the noise."""
    import pytorch_lightning as L

    last = config.build(run, "diffusion").num_steps
    steps = sorted({1, *(2**k for k in range(1, 10) if 2**k < last), last})
    settings = [{"steps": count, "samples": 0, "noise": False} for count in steps]
    settings += [{"steps": 1, "samples": count, "noise": True} for count in (1, 10)]
    rows = []
    for inference in settings:
        changed = OmegaConf.merge(run, {"model": {"inference": inference}})
        assert isinstance(changed, DictConfig)
        model = _model(changed, data, checkpoint)
        trainer = L.Trainer(
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            devices=1,
            precision=run.trainer.precision,
        )
        trainer.validate(model, data, verbose=False)
        rows.append(inference | {k: v for k, v in model.evaluated.items() if k.startswith("val/")})
    return rows


def _draw(told: dict[str, Any], folder: Path, *, metric: str) -> dict[str, Path]:
    """One picture for each part; returns their paths."""
    from matplotlib.figure import Figure

    schedule, losses, rows = told["schedule"], told["loss"], told["inference"]
    steps = range(1, len(schedule["signal"]) + 1)
    drawn = {name: Figure(figsize=(7, 4), layout="constrained") for name in ("schedule", "loss", "inference")}
    axes = drawn["schedule"].subplots(1, 2)
    axes[0].plot(steps, schedule["signal_to_noise"], marker=".")
    axes[0].set(yscale="log", xlabel="step t", ylabel="signal to noise")
    for name in ("signal", "noise_of_target", "noise_of_prediction"):
        axes[1].plot(steps, schedule[name], marker=".", label=name.replace("_", " "))
    axes[1].set(xlabel="step t")
    axes[1].legend()
    plots = drawn["loss"].subplots(1, len(losses), squeeze=False)[0]
    for axis, (name, values) in zip(plots, losses.items(), strict=True):
        axis.plot(steps, values, marker=".")
        axis.set(xlabel="step t", title=name.replace("_", " "))
    axis = drawn["inference"].subplots()
    names = [f"{r['steps']} step(s)" + (f", noise, {r['samples']} sample(s)" if r["noise"] else "") for r in rows]
    axis.bar_label(axis.barh(names[::-1], [row[metric] for row in rows][::-1]), fmt="%.4f", padding=3)
    axis.margins(x=0.12)
    axis.set(xlabel=metric)
    paths = {name: folder / f"{name}.png" for name in drawn}
    for name, figure in drawn.items():
        figure.savefig(paths[name], dpi=150)
    return paths


def _log(cfg: DictConfig, told: dict[str, Any], pictures: dict[str, Path], checkpoint: Path) -> None:
    """Pictures to the loggers that take some, numbers to all."""
    if "wandb" in cfg.logger:
        cfg.logger.wandb.name = f"diagnose-{checkpoint.stem}"
    numbers = {
        f"diagnose/steps={row['steps']},samples={row['samples']}/{name}": value
        for row in told["inference"]
        for name, value in row.items()
        if name.startswith("val/")
    }
    for logger in config.build(cfg, "logger").values():
        logger.log_metrics(numbers)
        if hasattr(logger, "log_image"):
            for name, path in pictures.items():
                logger.log_image(key=f"diagnose/{name}", images=[str(path)])
        logger.finalize("success")


@hydra.main(config_path=config.CONFIG_DIR, config_name="diagnose", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> None:
    config.kept(diagnose, cfg)


if __name__ == "__main__":
    config.command(_hydra_main)
