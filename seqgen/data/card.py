"""The card of a data set: what it holds, what was filtered, and how far its split can be trusted.

`card` gives plain numbers, those of the plots included; printing and the page (`seqgen.data.page`) read nothing else.
`python -m seqgen.data` makes one from the command line.
"""

from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.prepare import first_of_repeats
from seqgen.data.split import Cases
from seqgen.data.times import day, spell
from seqgen.metrics import gini

MONTHS_FROM_DAYS = 120  # a shorter log is drawn by day
Section = tuple[str, str, tuple[str, ...], list[tuple[str, ...]]]  # title, note for the page, header, rows of texts


def card(data: SequenceDataModule) -> dict[str, Any]:
    """What is told of a data set, as numbers, texts and lists of them, which JSON takes.

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
    told = dict(zip(names, np.quantile(lengths, (0, 0.05, 0.5, 0.95, 1)).tolist(), strict=True))
    beyond = np.maximum(train - (max_len + 1), 0)  # a window holds one item more than a model sees: its last target
    told |= {"mean": float(lengths.mean()), "users_above_max_len": float((lengths > max_len).mean())}
    told |= {"beyond_last_window": int(beyond.sum()) / max(int(train.sum()), 1)}
    edges = np.unique(np.geomspace(lengths.min(), lengths.max() + 1, 31).round().astype(int))
    return told, {"edges": edges.tolist(), "users": np.histogram(lengths, edges)[0].tolist()}


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
    told = {"gini": float(gini(torch.from_numpy(rising))), **{name: count / total for name, count in top.items()}}
    return told, {name: curve.tolist() for name, curve in curves.items()}


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
    told = {"cases": count, "users": len(cases.users.unique()), "history_median": float(history)}
    told |= {"left_out": data.split.facts[f"{part}_cold_targets"] if data.exclude_cold else 0}
    told |= {"cold": cold, "cold_share": cold / count, "repeated": int(repeated.sum())}
    told |= {"unhittable": hidden, "unhittable_share": hidden / count}
    if late is not None:
        early = int((late > 0).sum())
        told |= {"leak_mean": float(late.mean()), "leak_median": float(np.median(late))}
        told |= {"early": early, "early_share": early / count}
    return told


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
    told = {part: np.histogram(times[stop], edges)[0].tolist() for part, stop in stops.items()}
    marks = [facts[name] for name in ("val_from", "test_from") if name in facts]
    interactions = np.histogram(times, edges)[0].tolist()
    return {"edges": (edges if shown is None else shown).tolist(), "interactions": interactions, **told, "marks": marks}


def _percent(share: float) -> str:
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.3g} %"


def sections(card: dict[str, Any]) -> list[Section]:
    """What is shown of a card, printed or on its page: tables of texts."""
    pairs = [", ".join(f"{k}={v}" for k, v in card[key].items() if v is not None) for key in ("settings", "protocol")]
    categories = card["categories"]
    told: list[tuple[str, ...]] = [("fingerprint", card["fingerprint"]), ("files", "\n".join(card["files"]) or "none")]
    told += [("times", card["time"]["spelled"] if card["time"] else "none"), ("filters", pairs[0])]
    told += [("protocol", pairs[1]), ("categories", f"{categories['number']:,}" if categories else "none")]
    if categories:
        told.append(("items without category", f"{categories['items_without']:,}"))
    names = ("step", "users", "items", "interactions", "mean length", "density")
    steps: list[tuple[str, ...]] = []
    before = card["steps"][0]["interactions"]
    for step in card["steps"]:
        left = "" if step["interactions"] == before else f" (-{_percent(1 - step['interactions'] / before)})"
        sizes = (f"{step['users']:,}", f"{step['items']:,}", f"{step['interactions']:,}{left}")
        steps.append((step["step"], *sizes, f"{step['mean_length']:.2f}", _percent(step["density"])))
        before = step["interactions"]
    return [
        ("Data", "What was read, and the settings that decide what is left of it.", (), told),
        ("Preparation", "What each step left; density is interactions / (users x items).", names, steps),
        _sequence_section(card),
        _split_section(card),
    ]


def _sequence_section(card: dict[str, Any]) -> Section:
    lengths, ties, repeats, popularity = (card[name] for name in ("lengths", "ties", "repeats", "popularity"))
    quantiles = " / ".join(f"{lengths[name]:,.4g}" for name in ("min", "p05", "median", "mean", "p95", "max"))
    rows: list[tuple[str, ...]] = [("length: min / 5 % / median / mean / 95 % / max", quantiles)]
    shares = {f"users with more than max_len={card['protocol']['max_len']} items": lengths["users_above_max_len"]}
    shares["training interactions beyond the last window"] = lengths["beyond_last_window"]
    if ties:
        shares["interactions at the time of the user's one before"] = ties["interactions"]
        shares["users whose last two interactions tie"] = ties["users_last_two"]
    shares["interactions with an item the user had before"] = repeats["interactions"]
    if repeats["interactions"]:
        shares["of these, with the item just before"] = repeats["consecutive"]
    shares |= {f"interactions on the top {n} % of items": popularity[f"top_{n}_percent"] for n in (1, 10)}
    rows += [(name, _percent(share)) for name, share in shares.items()]
    rows.append(("Gini coefficient of item counts", f"{popularity['gini']:.3f}"))
    note = "Beyond the last window lies what windows=last never trains on. Where times tie, the order of the file "
    note += "decides which interaction comes first, and so what is held out."
    return ("Sequences and items", note, (), rows)


def _split_section(card: dict[str, Any]) -> Section:
    def column(part: dict[str, Any]) -> dict[str, str]:
        count = {name: f"{part[name]:,}" for name in ("cases", "users", "left_out", "repeated")}
        share = {k: f"{part[k]:,} ({_percent(part[f'{k}_share'])})" for k in part if f"{k}_share" in part}
        told = {"cases": count["cases"], "users": count["users"]}
        if card["protocol"]["cold_targets"] == "exclude":
            told["cases left out, their target being cold"] = count["left_out"]
        told["cold targets: never in training"] = share["cold"]
        told["unhittable targets: seen before, so masked"] = share["unhittable"]
        if not card["protocol"]["mask_seen"]:
            told["targets seen before, not masked"] = count["repeated"]
        told["history length, median"] = f"{part['history_median']:,.4g}"
        if card["time"]:
            told |= {f"training after the target, {k}": _percent(part[f"leak_{k}"]) for k in ("mean", "median")}
            told["targets before the end of training"] = share["early"]
        return told

    val, test = (column(card["split"][part]) for part in ("val", "test"))
    note = "A cold target is ranked by luck or by what is known of the item; an unhittable one is a hit for no model. "
    note += "Where training interactions come after a target, a model has learned from what was then the future."
    rows = [(label, text, test[label]) for label, text in val.items()]
    return (f"Split {card['protocol']['split']}", note, ("", "validation", "test"), [*rows])


def print_card(card: dict[str, Any]) -> None:
    """Print the tables of a card."""
    console = Console(markup=False, emoji=False)
    for title, _, header, rows in sections(card):
        table = Table(title=f"{title}: {card['name']}", title_justify="left", show_header=bool(header))
        for index, name in enumerate(header or [""] * len(rows[0])):
            table.add_column(name, justify="right" if index and title != "Data" else "left", overflow="fold")
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
