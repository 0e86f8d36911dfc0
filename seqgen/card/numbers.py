"""The numbers of a data card, those of the plots included: all that its tables and its page read."""

from typing import Any

import numpy as np
import polars as pl
import torch

from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.log import first_of_repeats
from seqgen.data.ragged import Cases
from seqgen.data.times import day, spell
from seqgen.metrics import gini

MONTHS_FROM_DAYS = 120  # a shorter log is drawn by day


def card(data: SequenceDataModule) -> dict[str, Any]:
    """The card of a data set: numbers, texts and lists of them, which JSON takes.

    Shares lie between 0 and 1. What needs times is None where there are none, `categories` likewise.
    """
    prepared, split, facts = data.prepared, data.split, data.facts()
    values, times, lengths = np.asarray(prepared.values), prepared.times, np.diff(prepared.offsets)
    user = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    first = first_of_repeats(user, values, everywhere=True)
    long, bins = _lengths(lengths, (split.train.stop - split.train.start).numpy(), data.max_len)
    popularity, curves = _popularity(np.bincount(values, minlength=prepared.items.height + 1)[1:])
    protocol: dict[str, Any] = {k: facts[k] for k in ("split", "target", "val_from", "test_from") if k in facts}
    protocol |= {"cold_targets": "exclude" if data.exclude_cold else "keep", "mask_seen": data.mask_seen}
    protocol |= {"max_len": data.max_len, "windows": "all" if data.stride else "last", "stride": data.stride}
    stops = {"val": split.val.stop.numpy(), "test": split.test.stop.numpy()}
    late = {} if times is None else _late(times, split.train, stops, lengths)
    return {
        "name": prepared.meta["name"],
        "fingerprint": facts["fingerprint"],
        "files": [str(file) for file in data.source.files],
        "settings": prepared.meta["settings"],
        "protocol": protocol,
        "time": None if times is None else _span(times, prepared.meta["time_unit"]),
        "steps": _steps(prepared.meta["steps"]),
        "lengths": long,
        "ties": None if times is None else _ties(times, user, prepared.offsets),
        "repeats": _repeats(user, values, first),
        "popularity": popularity,
        "split": {part: _part(data, part, ~first[stop], late.get(part)) for part, stop in stops.items()},
        "categories": _categories(prepared.items),
        "plots": {
            "lengths": bins,
            "popularity": curves,
            "timeline": None if times is None else _timeline(times, prepared.meta["time_unit"], stops, facts),
            "leak": {name: np.histogram(share, bins=25, range=(0, 1))[0].tolist() for name, share in late.items()},
        },
    }


def _span(times: np.ndarray, unit: str) -> dict[str, Any]:
    low, high = int(times.min()), int(times.max())
    ends = (low, high) if unit == "order" else (day(low), day(high))
    return {"unit": unit, "first": ends[0], "last": ends[1], "spelled": spell(unit, np.array([low, high]))}


def _steps(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sizes = [(step["users"], step["items"], step["interactions"]) for step in steps]
    more = [{"mean_length": count / users, "density": count / (users * items)} for users, items, count in sizes]
    return [step | extra for step, extra in zip(steps, more, strict=True)]


def _lengths(lengths: np.ndarray, train: np.ndarray, max_len: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """From the interactions and training interactions of each user, both (U,): numbers, and users by length."""
    names = ("min", "p05", "median", "p95", "max")
    numbers = dict(zip(names, np.quantile(lengths, (0, 0.05, 0.5, 0.95, 1)).tolist(), strict=True))
    beyond = np.maximum(train - (max_len + 1), 0)  # a window holds one item more than a model sees: its last target
    numbers |= {"mean": float(lengths.mean()), "users_above_max_len": float((lengths > max_len).mean())}
    numbers |= {"beyond_last_window": int(beyond.sum()) / max(int(train.sum()), 1)}
    edges = np.unique(np.geomspace(lengths.min(), lengths.max() + 1, 31).round().astype(int))
    return numbers, {"edges": edges.tolist(), "users": np.histogram(lengths, edges)[0].tolist()}


def _ties(times: np.ndarray, user: np.ndarray, offsets: np.ndarray) -> dict[str, float]:
    tied = np.zeros(len(times), dtype=bool)
    tied[1:] = (times[1:] == times[:-1]) & (user[1:] == user[:-1])
    return {"interactions": float(tied.mean()), "users_last_two": float(tied[offsets[1:] - 1].mean())}


def _repeats(user: np.ndarray, values: np.ndarray, first: np.ndarray) -> dict[str, float]:
    repeats = len(first) - int(first.sum())
    consecutive = len(first) - int(first_of_repeats(user, values, everywhere=False).sum())
    return {"interactions": repeats / len(first), "consecutive": consecutive / max(repeats, 1)}


def _popularity(counts: np.ndarray) -> tuple[dict[str, float], dict[str, list[float]]]:
    """From the interactions of each item, (I,): numbers; counts at some ranks and the Lorenz curve at some shares."""
    rising, items, total = np.sort(counts), len(counts), int(counts.sum())
    top = {f"top_{percent}_percent": int(rising[items + (-items * percent) // 100 :].sum()) for percent in (1, 10)}
    ranks = np.unique(np.geomspace(1, items, 200).round().astype(int))
    some = np.unique(np.linspace(0, items, 201).round().astype(int))
    held = np.concatenate([[0], rising.cumsum()])[some] / total
    curves = {"ranks": ranks, "counts": rising[items - ranks], "items": some / items, "held": held}
    numbers = {"gini": float(gini(torch.from_numpy(rising))), **{name: count / total for name, count in top.items()}}
    return numbers, {name: curve.tolist() for name, curve in curves.items()}


def _late(times: np.ndarray, train: Cases, stops: dict[str, np.ndarray], lengths: np.ndarray) -> dict[str, np.ndarray]:
    """For each target `values[stop]` of each part the share of all training interactions that come after it, (C,)."""
    kept = (train.stop - train.start).numpy()  # a training part begins with its user's first interaction
    pieces = np.stack([kept, lengths - kept], axis=1).ravel()
    trained = np.sort(times[np.repeat(np.tile([True, False], len(lengths)), pieces)])
    after = {part: len(trained) - np.searchsorted(trained, times[stop], side="right") for part, stop in stops.items()}
    return {part: count / len(trained) for part, count in after.items()}


def _part(data: SequenceDataModule, part: str, repeated: np.ndarray, late: np.ndarray | None) -> dict[str, Any]:
    """Of the cases of `val` or `test`; whether the user had the target before, hence saw it, (C,); `_late`, (C,)."""
    cases: Cases = getattr(data.split, part)
    cold = int((data.catalog.item_counts[data.sequences.values[cases.stop].long()] == 0).sum())
    hidden, count = int(repeated.sum()) if data.mask_seen else 0, len(cases)
    history = np.median((cases.stop - cases.start).numpy())
    numbers = {"cases": count, "users": len(cases.users.unique()), "history_median": float(history)}
    numbers |= {"left_out": data.split.facts[f"{part}_cold_targets"] if data.exclude_cold else 0}
    numbers |= {"cold": cold, "cold_share": cold / count, "repeated": int(repeated.sum())}
    numbers |= {"unhittable": hidden, "unhittable_share": hidden / count}
    if late is not None:
        early = int((late > 0).sum())
        numbers |= {"leak_mean": float(late.mean()), "leak_median": float(np.median(late))}
        numbers |= {"early": early, "early_share": early / count}
    return numbers


def _categories(items: pl.DataFrame) -> dict[str, int] | None:
    if "categories" not in items.columns:
        return None
    distinct = items["categories"].explode().drop_nulls().n_unique()
    return {"number": distinct, "items_without": int((items["categories"].list.len() == 0).sum())}


def _timeline(times: np.ndarray, unit: str, stops: dict[str, np.ndarray], facts: dict[str, Any]) -> dict[str, Any]:
    """Interactions and targets by month, by day, or where times only order in 60 equal pieces; T1 and T2."""
    edges, shown = np.linspace(times.min(), times.max() + 1, 61), None
    if unit != "order":
        low, high = (np.datetime64(int(moment), "us") for moment in (times.min(), times.max()))
        step = "M" if high - low > np.timedelta64(MONTHS_FROM_DAYS, "D") else "D"
        bounds = np.arange(low.astype(f"datetime64[{step}]"), high.astype(f"datetime64[{step}]") + 2)
        edges, shown = bounds.astype("datetime64[us]").astype(np.int64), bounds.astype("datetime64[D]").astype(str)
    numbers = {part: np.histogram(times[stop], edges)[0].tolist() for part, stop in stops.items()}
    marks = [facts[name] for name in ("val_from", "test_from") if name in facts]
    interactions = np.histogram(times, edges)[0].tolist()
    return {
        "edges": (edges if shown is None else shown).tolist(),
        "interactions": interactions,
        **numbers,
        "marks": marks,
    }
