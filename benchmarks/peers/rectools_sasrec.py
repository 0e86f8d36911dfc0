"""RecTools: SASRecModel, trained and ranked; run by ../compare_peers.py.

Its betas of Adam are fixed; the others, where they can be told, take the same.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as L
import torch
from meter import Clock, EpochMeter
from rectools import Columns
from rectools.dataset import Dataset
from rectools.metrics import MRR, NDCG, HitRate, calc_metrics
from rectools.models import SASRecModel
from training import EVALUATION_BATCH, KS, LISTED, EpochHooks, Sequences, keep_lists, main, trained_by


class Meter(EpochHooks, L.Callback):
    """Tells the meter of Lightning's epochs."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Meter":
        """Itself: RecTools trains with a copy of the trainer, and the meter is still to be told."""
        return self


def lay_out(spec: dict[str, Any]) -> None:
    """Nothing lies ready: RecTools builds its data set from a frame each time."""


def interactions(sequences: Sequences) -> pd.DataFrame:
    users, items, places = sequences.columns()
    moments = pd.to_datetime(places, unit="s")
    return pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1, Columns.Datetime: moments})


def train(spec: dict[str, Any]) -> dict[str, Any]:
    meter = EpochMeter(spec["started"])
    torch.set_num_threads(1)
    L.seed_everything(spec["seed"])
    sequences = Sequences.read(spec)

    def targets(batch: dict[str, torch.Tensor]) -> int:
        return int((batch["y"] != 0).sum())

    def trainer() -> L.Trainer:
        return L.Trainer(callbacks=[Meter(meter, targets)], **trained_by(spec))

    model = SASRecModel(
        n_blocks=spec["blocks"],
        n_heads=spec["heads"],
        n_factors=spec["width"],
        dropout_rate=spec["dropout"],
        session_max_len=spec["max_len"],
        loss="softmax",
        lr=spec["lr"],
        batch_size=spec["batch_size"],
        epochs=spec["epochs"],
        get_trainer_func=trainer,
        recommend_batch_size=EVALUATION_BATCH,
        recommend_torch_device="cpu",
    )
    model.fit(Dataset.construct(interactions(sequences.without_last(2))))

    history = Dataset.construct(interactions(sequences.without_last(1)))
    users = np.arange(len(sequences.lengths))
    held_out = pd.DataFrame({Columns.User: users, Columns.Item: sequences.values[sequences.offsets[1:] - 1]})
    clock = Clock()
    recommended = model.recommend(users=users, dataset=history, k=max(KS), filter_viewed=True)
    metrics = {f"{kind.__name__}@{k}": kind(k=k) for kind in (HitRate, NDCG, MRR) for k in KS}
    own = calc_metrics(metrics, recommended, held_out)
    told = clock.lap("evaluate")
    if spec["lists"]:
        keep(spec, "seen_removed", recommended)
        everything = model.recommend(users=users, dataset=history, k=LISTED, filter_viewed=False)
        keep(spec, "all_items", everything)
    names = ("rectools", "torch", "pytorch-lightning", "pandas", "numpy")
    return {**meter.told(), **told, "own_metrics": {name: float(value) for name, value in own.items()}} | {
        "parameters": sum(p.numel() for p in model.lightning_model.parameters()),
        "versions": {name: version(name) for name in names},
    }


def keep(spec: dict[str, Any], name: str, recommended: pd.DataFrame) -> None:
    first = recommended[recommended[Columns.Rank] <= LISTED].sort_values([Columns.User, Columns.Rank])
    of_users = first.groupby(Columns.User)[Columns.Item].agg(list)
    keep_lists(spec, name, of_users.index.to_numpy(), of_users.to_list())


if __name__ == "__main__":
    main(lay_out, train)
