"""A checkpoint: read, made into a model again, and held against what a resumed run would do with it."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf

from seqgen import config
from seqgen.data.catalog import Catalog
from seqgen.errors import UserError
from seqgen.settings import flatten

if TYPE_CHECKING:
    from seqgen.model.base import SequentialRecommender

# What a resumed run must share with the run it goes on from: its state was made with these.
SHARED = ("seed", "data", "diffusion", "attention", "loss", "optimizer", "scheduler", "model")
# Keys below them that change cost or place, not the training.
FREE = (
    "data.cache_dir",
    "data.source.data_dir",
    "data.source.url",
    "data.eval_batch_size",
    "data.num_workers",
    "data.storage",
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours: tensors and plain containers, which execute nothing.

    Raises:
        UserError: The file is absent, broken, or something else.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file; name a checkpoint such as outputs/.../checkpoints/last.ckpt.")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if "seqgen" in checkpoint:
            return checkpoint
    except Exception as error:  # torch raises many kinds for a file that is cut off or no checkpoint
        raise UserError(f"{path} cannot be read as a checkpoint; it is cut off, or no checkpoint.") from error
    raise UserError(f"{path} is a checkpoint that seqgen did not write.")


def load(path: str | Path, *, trust: Collection[str] = ()) -> "SequentialRecommender":
    """The model of a checkpoint, to score with: in evaluation mode, on the CPU, without the data it was trained on.

    Its configuration and catalogue are the checkpoint's own. The file may come from anybody: it builds only parts of
    seqgen, and what is defined in trusted packages. To train on, `seqgen.run` with `ckpt_path`.

    Args:
        path: Of the checkpoint.
        trust: Packages whose classes the file may name, such as `["their_package"]`.

    Raises:
        UserError: The file is no checkpoint of a run, names what is not trusted, or holds a model that needs its data.
    """
    checkpoint = read_checkpoint(path)
    cfg = stored_config(checkpoint, path)
    try:
        catalog = Catalog(**checkpoint["seqgen"]["catalog"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} holds no catalogue that this version of seqgen reads.") from error
    return restore(cfg, checkpoint, catalog=catalog, trust=trust)


def stored_config(checkpoint: dict[str, Any], path: str | Path) -> DictConfig:
    """The configuration of the run that wrote a checkpoint; build from it with `trust`, as the file may lie.

    Args:
        checkpoint: From `read_checkpoint`.
        path: For the sentence.

    Raises:
        UserError: It was not written by a run.
    """
    stored = checkpoint["seqgen"].get("config")
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        raise UserError(f"{path} holds no configuration, so no run wrote it; take a checkpoint of seqgen.run.")
    return OmegaConf.create(stored)


def restore(
    cfg: DictConfig, checkpoint: dict[str, Any], *, catalog: Catalog, trust: Collection[str]
) -> "SequentialRecommender":
    """Build a checkpoint's model from a configuration out of a file, with the checkpoint's weights, to evaluate it.

    Args:
        cfg: As of `stored_config`.
        checkpoint: From `read_checkpoint`.
        catalog: Of the data, or of the checkpoint, without training part.
        trust: As of `config.build`.

    Raises:
        UserError: The model is not of trusted parts, needs the training part, or is not that of the checkpoint.
    """
    without = cfg.copy()
    without.model.update({name: None for name in ("optimizer", "scheduler") if name in cfg.model})  # nothing is trained
    model: SequentialRecommender = config.build(without, "model", catalog=catalog, trust=trust)
    model.config = config.plain(cfg)
    state = checkpoint["state_dict"]
    if catalog.train is None:  # what is counted in the data has the size it has in the checkpoint
        for name, buffer in model.named_buffers():
            if name in state and buffer.numel() == 0:
                buffer.resize_(state[name].shape)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(state)
    return model.eval()


def refuse_changed_settings(checkpoint: dict[str, Any], settings: dict[str, Any], path: str) -> None:
    """Refuse to resume under other settings, which the checkpoint's state would silently overrule or mix.

    Args:
        checkpoint: From `read_checkpoint`.
        settings: The run's composed configuration.
        path: For the sentence.

    Raises:
        UserError: Names the first key that differs, or says that nothing is left to train.
    """
    kept = checkpoint["seqgen"]["config"]
    theirs, ours = ({key: flatten(node.get(key), key) for key in SHARED} for node in (kept, settings))
    for group in SHARED:
        # Another class has other settings: it is named before them.
        for key in sorted(theirs[group].keys() | ours[group].keys(), key=lambda k: (not k.endswith("._target_"), k)):
            before, now = theirs[group].get(key), ours[group].get(key)
            # model.attention and its like repeat the group; the data's fingerprint speaks for its files.
            if before != now and key not in FREE and not key.startswith(tuple(f"model.{g}." for g in SHARED)):
                raise UserError(
                    f"{key}={now} differs from {before} in ckpt_path={path}; a resumed run keeps its settings "
                    "(only trainer.* and what is logged may change)."
                )
    done, wanted = checkpoint["epoch"] + 1, settings["trainer"]["max_epochs"]
    if done >= wanted:
        raise UserError(f"ckpt_path={path} has trained {done} epochs already; set trainer.max_epochs above that.")
