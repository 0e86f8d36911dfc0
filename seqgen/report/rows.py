"""The rows of the table: runs grouped over seeds and named, the baseline of each data set, the columns asked for."""

from collections.abc import Collection, Iterable
from typing import Any

from seqgen.errors import UserError, nearest
from seqgen.labels import distinguish
from seqgen.metric_table import METRICS
from seqgen.report.runs import Data, Groups, Run
from seqgen.settings import key_of

DEFAULT_METRICS = [f"test/{name}" for name in ("hr@10", "ndcg@10", "mrr", "coverage@10", "novelty@10")]
# What `diversity@K` stands for.
DIVERSITY = [row.name for row in METRICS.values() if row.at_k and row.kind in ("accuracy", "diversity")]


def grouped(runs: list[Run]) -> Groups:
    """Group runs over seeds: label -> runs, in the order of the rows.

    Groups of the same model, attention and data are told apart by the names of stored runs, or else by what differs.
    """
    data_sets = list(dict.fromkeys(run.data for run in runs))
    same: dict[Any, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.data[0], data_sets.index(run.data))):
        same.setdefault(tuple(sorted(run.settings.items())), []).append(run)
    labels = {key: " / ".join(group[0].names) for key, group in same.items()}
    for label in set(labels.values()):
        alike = [key for key in same if labels[key] == label]
        known = {key: {run.name for run in same[key]} for key in alike}
        if len(alike) > 1 and len(set.union(*known.values()) - {None}) == len(alike) == sum(map(len, known.values())):
            labels |= {key: f"{label}, {names.pop()}" for key, names in known.items()}
            continue
        groups = [same[key] for key in alike]
        typed = {key_of(override) for group in groups for run in group for override in run.overrides}
        more = distinguish([dict(key) for key in alike], [_shared_choices(group) for group in groups], typed)
        labels |= {key: label + text for key, text in zip(alike, more, strict=True)}
    return {labels[key]: group for key, group in same.items()}


def _shared_choices(group: list[Run]) -> dict[str, str]:
    """The choices that all runs of a group made."""
    first, *others = (run.choices for run in group)
    return {name: option for name, option in first.items() if all(run.get(name) == option for run in others)}


def _known(name: str, names: Iterable[str]) -> str:
    return nearest(name, list(names)) or f"; choose one of {', '.join(names)}"


def columns(metrics: Iterable[str], known: Collection[str]) -> list[str]:
    """The metrics asked for, `diversity@K` as the columns it stands for, as far as the runs have them.

    Raises:
        UserError: No run has one of them.
    """
    found: list[str] = []
    for metric in metrics:
        name, _, k = metric.partition("@")
        full = metric if metric in known or f"test/{metric}" not in known else f"test/{metric}"
        group = [f"test/{part}@{k}" for part in DIVERSITY] if name == "diversity" else [full]
        found += [column for column in group if column in known] or [metric]
    if unknown := [name for name in found if name not in known]:
        close = nearest(unknown[0], list(known)) or nearest(f"test/{unknown[0]}", list(known))
        raise UserError(f"unknown metric {unknown[0]}{close or _known(unknown[0], known)}")
    return list(dict.fromkeys(found))


def baselines(groups: Groups, name: str | None) -> dict[Data, str]:
    """Find the label of each data set's baseline: its first row, or the only group of that name.

    Raises:
        UserError: No group, or several of one data set, have the name.
    """
    names: list[tuple[str, str]] = []
    for label, (run, *_) in groups.items():
        extra = label.removeprefix(" / ".join(run.names)).replace(" ", "")
        names += [("/".join(run.names[:n]) + end, label) for end in ("", extra) for n in (1, 2, 3)]
        names.append((label.replace(" ", ""), label))
    fits = [label for label in groups if name is None or (name.replace(" ", ""), label) in names]
    if not fits:
        raise UserError(f"unknown baseline {name}{_known(str(name), dict(names))}")
    found = {groups[label][0].data: label for label in reversed(fits)}
    if name is not None and len(found) < len(fits):
        raise UserError(f"baseline {name} fits several groups, write one of: {'; '.join(fits)}")
    return found


def differing(groups: Groups, notes: list[str]) -> None:
    """Say where runs that bear the name of one data set cannot be, or are not wholly, compared."""
    runs = [run for group in groups.values() for run in group]
    for name in dict.fromkeys(run.data[0] for run in runs):
        own = [run for run in runs if run.data[0] == name]
        if len(prints := dict.fromkeys(run.data[1] for run in own)) > 1:
            notes.append(
                f"{name} is {len(prints)} data sets ({', '.join(prints)}): rows of one are not compared to another's"
            )
        lengths = dict.fromkeys(str(k) for run in own if (k := run.protocol["metrics.k"]) is not None)
        if len(lengths) > 1:
            notes.append(
                f"runs on {name} differ in metrics.k ({', '.join(lengths)}): where one lacks a metric stands -"
            )
