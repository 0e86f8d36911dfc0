"""A checkpoint that a run is given: read, and held against what the run would do with it."""

from typing import Any

import torch

from seqgen.errors import UserError
from seqgen.settings import flatten

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


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of ours.

    Raises:
        UserError: The file is broken, or something else.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if "seqgen" in checkpoint:
            return checkpoint
    except Exception as error:  # torch raises many kinds for a file that is cut off or no checkpoint
        raise UserError(f"ckpt_path={path} cannot be read as a checkpoint; it is cut off, or no checkpoint.") from error
    raise UserError(f"ckpt_path={path} is a checkpoint that seqgen did not write.")


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
    theirs, ours = ({key: flatten(config.get(key), key) for key in SHARED} for config in (kept, settings))
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
