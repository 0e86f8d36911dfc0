"""Numbers that others published on our data sets, with their protocol, in ``published.csv``.

A row of that file names its source, the model as the source calls it, our choices that it corresponds to (empty where
there are none), and whether its protocol is ours: leave-one-out, 5-core, all items ranked, seen items removed.
"""

from pathlib import Path

import polars as pl

from seqgen.report.runs import Groups, Run

FILE = Path(__file__).with_name("published.csv")
CHOICES = ("model", "attention", "loss")
OURS = {
    "data.split": "leave_one_out",
    "data.mask_seen": True,
    "data.min_user_interactions": 5,
    "data.min_item_interactions": 5,
    "data.min_rating": None,
}


def read_published() -> pl.DataFrame:
    """All numbers: paper, table, name, model, attention, loss, data, metric, value, comparable, protocol."""
    return pl.read_csv(FILE, schema_overrides={"value": pl.Float64, "comparable": pl.Boolean})


def published_beside(groups: Groups) -> pl.DataFrame:
    """The numbers on the data sets of some groups.

    Returns:
        The columns of the file and ``label``: the group of the same choices, under the same protocol; a number that
        several groups correspond to stands there for each, one that none does once, with null. By data, comparable ones
        first.
    """
    published = read_published()
    rows: list[dict[str, object]] = []
    for row in published.iter_rows(named=True):
        own = {label: group for label, group in groups.items() if group[0].names[2] == row["data"]}
        if not own:
            continue
        fits = [label for label, (run, *_) in own.items() if row["comparable"] and _corresponds(run, row)]
        rows += [row | {"label": label} for label in fits] or [row | {"label": None}]
    frame = pl.DataFrame(rows, schema={**published.schema, "label": pl.String})
    return frame.sort("data", "comparable", "metric", descending=[False, True, False], maintain_order=True)


def _corresponds(run: Run, row: dict[str, str | None]) -> bool:
    ours = all(run.protocol[key] == value for key, value in OURS.items())
    known = [(name, row[name]) for name in CHOICES if row[name]]
    return ours and bool(row["model"]) and all(run.choices.get(name) == option for name, option in known)
