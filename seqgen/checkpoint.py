"""A checkpoint: read and verified in one place, and made into a model again (`seqgen.resume` trains on from it)."""

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf

from seqgen import config
from seqgen.data.catalog import Catalog
from seqgen.errors import UserError

if TYPE_CHECKING:
    from seqgen.model.base import SequentialRecommender


# What each of our checkpoints holds, by the names of its parts; a run's record and what training goes on from may lack.
FORM: dict[str, type] = {
    "seqgen.model": str,
    "seqgen.catalog.fingerprint": str,
    "seqgen.catalog.num_items": int,
    "state_dict": dict,
    "epoch": int,
    "record.choices": dict,
    "record.overrides": list,
    "record.history": list,
    "loops.fit_loop.epoch_progress.current": dict,
    "optimizer_states": list,
    "callbacks": dict,
}
MAY_LACK = ("record", "loops", "optimizer_states", "callbacks")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours, once its checksums are right: tensors and plain containers, which execute nothing.

    Raises:
        UserError: The file is absent, cut off, altered, or something else.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file; name a checkpoint such as outputs/.../checkpoints/last.ckpt.")
    try:
        # torch writes a zip file, with the CRC-32 of each part, but does not verify it.
        with zipfile.ZipFile(path) as archive:
            altered = archive.testzip()
        if altered is None:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise many kinds for a file that is cut off or no checkpoint
        raise UserError(f"{path} cannot be read as a checkpoint; it is cut off, or no checkpoint.") from error
    if altered is not None:
        raise UserError(f"{path} was altered after it was written: the checksum of its part {altered} is wrong.")
    if not isinstance(checkpoint, dict) or "seqgen" not in checkpoint:
        raise UserError(f"{path} is a checkpoint that seqgen did not write.")
    _check_form(checkpoint, path)
    return checkpoint


def _check_form(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuse a file that says it is ours and lacks what all of ours hold.

    Raises:
        UserError: Names the part.
    """
    for place, kind in FORM.items():
        part: Any = checkpoint
        for name in place.split("."):
            part = part.get(name) if isinstance(part, dict) else None
        first = place.partition(".")[0]
        absent = first in MAY_LACK and first not in checkpoint
        if not absent and not isinstance(part, kind):
            raise UserError(f"{path} is no whole checkpoint: its part {place} is missing or of another form.")


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
    cfg: DictConfig, checkpoint: dict[str, Any], *, catalog: Catalog, trust: Collection[str] | None
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
    if "shard_items" in cfg.model:
        without.model.shard_items = False  # the one process here keeps all
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
