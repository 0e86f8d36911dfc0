"""RecBole: from its atomic file (`ml1m.inter`, tabs) to the first training batch of SASRec; run by ../prepare_data.py.

Included: reading, 5-core, numbering, leave-one-out, and one training sequence of every prefix of a history, which
RecBole cannot turn off for its own files. Excluded: imports, and making the atomic file.
"""

import json
import sys

import recbole
from meter import Clock, report
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed


def main() -> None:
    spec = json.load(sys.stdin)
    clock = Clock()
    settings = {
        "data_path": spec["folder"],
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},  # not the ratings, which nothing needs
        "user_inter_num_interval": f"[{spec['k_core']},inf)",
        "item_inter_num_interval": f"[{spec['k_core']},inf)",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "MAX_ITEM_LIST_LENGTH": spec["max_len"],
        "train_batch_size": spec["batch_size"],
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    config = Config(model="SASRec", dataset="ml1m", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    # Counted here: making the prefixes changes the data set in place. One user and one item are padding.
    sizes = {"users": dataset.user_num - 1, "items": dataset.item_num - 1, "interactions": dataset.inter_num}
    train, _, _ = data_preparation(config, dataset)
    told = clock.lap()
    next(iter(train))
    told |= clock.lap("first_batch")
    report(told | {"version": recbole.__version__, "sizes": sizes, "train_rows": len(train.dataset)})


if __name__ == "__main__":
    main()
