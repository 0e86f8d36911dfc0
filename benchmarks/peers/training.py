"""What the `*_sasrec.py` scripts share: the work they are given, the sequences of all, the lists they give back.

Each is started by ../compare_peers.py twice: with `lay_out` to bring the sequences into the form that its project
reads, which is not measured, and to train, rank and tell what that took. Imports numpy and the standard library only:
it runs in any environment.
"""

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from meter import EpochMeter, report

KS = (5, 10, 20)  # list lengths of the metrics that a project computes while it ranks
LISTED = 10
EVALUATION_BATCH = 512


class Sequences(NamedTuple):
    """All users' items, in order of time, users one after another.

    Attributes:
        values: Items from 1 on, of all users.
        offsets: Where each user's items begin, and the end.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def read(cls, spec: dict[str, Any]) -> "Sequences":
        """From the file that all projects read."""
        with np.load(spec["sequences"]) as stored:
            return cls(stored["values"], stored["offsets"])

    @property
    def digest(self) -> str:
        """Of the content, whatever the integers' width."""
        return sha256(self.values.astype("<i8").tobytes() + self.offsets.astype("<i8").tobytes()).hexdigest()

    @property
    def lengths(self) -> np.ndarray:
        """Of each user."""
        return np.diff(self.offsets)

    def without_last(self, count: int) -> "Sequences":
        """Without each user's newest items: two leave the training part, one the history of the test."""
        within = np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)
        kept = within < np.repeat(self.lengths - count, self.lengths)
        return Sequences(self.values[kept], self.offsets - count * np.arange(len(self.offsets)))

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User, from 0, item and place in the user's sequence of each interaction."""
        users = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return users, self.values, np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)


class EpochHooks:
    """Lightning's hooks for an `EpochMeter`, for a callback of either of Lightning's two packages.

    Args:
        meter: What is told.
        targets: Number of targets of a batch.
    """

    def __init__(self, meter: EpochMeter, targets: Callable[[Any], int]) -> None:
        self.meter, self.targets = meter, targets

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """An epoch begins; its first batch is still to be made."""
        self.meter.begin()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """A batch is there."""
        self.meter.batch(self.targets(batch))

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """The epoch ends."""
        self.meter.end()


# A Trainer without what nobody else has either.
BARE = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def trained_by(spec: dict[str, Any]) -> dict[str, Any]:
    """Arguments of Lightning's Trainer for the epochs of the work."""
    return {"max_epochs": spec["epochs"], "limit_train_batches": spec["steps"] or 1.0, "limit_val_batches": 0, **BARE}


def keep_lists(spec: dict[str, Any], name: str, users: Any, items: Any) -> None:
    """Write recommended lists for the neutral function of ../compare_peers.py.

    Args:
        spec: The work.
        name: `seen_removed` or `all_items`.
        users: From 0, (U,).
        items: From 1, best first, (U, 10).
    """
    np.savez(Path(spec["folder"]) / f"lists_{name}.npz", users=np.asarray(users), items=np.asarray(items))


def main(lay_out: Callable[[dict[str, Any]], None], train: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read the work, do what it asks for, and report."""
    spec = json.load(sys.stdin)
    if spec["lay_out"]:
        lay_out(spec)
        report({"digest": Sequences.read(spec).digest})
    else:
        report(train(spec))
