"""RecBole: SASRec, trained and ranked; run by ../compare_peers.py.

Its atomic file lies ready. RecBole makes a training sequence of every prefix of a history, with one target each, which
it cannot turn off for its own files; and its sequential models rank all items, seen ones included.
"""

import itertools
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from meter import Clock, EpochMeter
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from recbole.utils.case_study import full_sort_topk
from training import EVALUATION_BATCH, KS, LISTED, Sequences, keep_lists, main

NAME = "sequences"


def lay_out(spec: dict[str, Any]) -> None:
    """Write the atomic file."""
    folder = Path(spec["forms"]) / NAME
    folder.mkdir(exist_ok=True)
    rows = zip(*Sequences.read(spec).columns(), strict=True)
    lines = (f"{user}\t{item}\t{place}\n" for user, item, place in rows)
    (folder / f"{NAME}.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(lines))


class Metered:
    """The first batches of a training loader, of which a meter is told.

    Args:
        loader: RecBole's.
        steps: How many; None is all.
        meter: What is told.
    """

    shuffle = True

    def __init__(self, loader: Any, steps: int | None, meter: EpochMeter) -> None:
        self.loader, self.steps, self.meter = loader, min(steps or len(loader), len(loader)), meter

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        for batch in itertools.islice(iter(self.loader), self.steps):
            self.meter.batch(len(batch))
            yield batch


def train(spec: dict[str, Any]) -> dict[str, Any]:
    meter = EpochMeter(spec["started"])
    torch.set_num_threads(1)
    settings = {
        "data_path": spec["forms"],
        "checkpoint_dir": spec["folder"],
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "MAX_ITEM_LIST_LENGTH": spec["max_len"],
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "hidden_size": spec["width"],
        "inner_size": spec["width"],
        "n_layers": spec["blocks"],
        "n_heads": spec["heads"],
        "hidden_dropout_prob": spec["dropout"],
        "attn_dropout_prob": spec["dropout"],
        "learning_rate": spec["lr"],
        "epochs": spec["epochs"],
        "train_batch_size": spec["batch_size"],
        "eval_batch_size": EVALUATION_BATCH,
        "metrics": ["Hit", "NDCG", "MRR"],
        "topk": list(KS),
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "seed": spec["seed"],
        "reproducibility": True,
        "show_progress": False,
        "state": "ERROR",
    }
    config = Config(model="SASRec", dataset=NAME, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train_data, _, test_data = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    for epoch in range(spec["epochs"]):
        meter.begin()
        trainer._train_epoch(Metered(train_data, spec["steps"], meter), epoch, show_progress=False)
        meter.end()
    clock = Clock()
    own = trainer.evaluate(test_data, load_best_model=False, show_progress=False)
    told = clock.lap("evaluate")
    if spec["lists"]:
        keep_all_items(spec, dataset, model, test_data)
    names = ("recbole", "torch", "pandas", "numpy")
    return {**meter.told(), **told, "own_metrics": {name: float(value) for name, value in own.items()}} | {
        "steps_of_epoch": len(train_data),
        "targets_of_epoch": len(train_data.dataset),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {name: version(name) for name in names},
    }


def keep_all_items(spec: dict[str, Any], dataset: Any, model: Any, test_data: Any) -> None:
    """The lists of all users, by the numbers that the sequences have."""
    users = range(spec["num_users"])
    numbers = dataset.token2id(dataset.uid_field, [str(user) for user in users])
    lists = []
    for start in range(0, len(numbers), EVALUATION_BATCH):
        part = numbers[start : start + EVALUATION_BATCH]
        _, top = full_sort_topk(part, model, test_data, k=LISTED, device=torch.device("cpu"))
        lists += [[int(item) for item in row] for row in dataset.id2token(dataset.iid_field, top)]
    keep_lists(spec, "all_items", list(users), lists)


if __name__ == "__main__":
    main(lay_out, train)
