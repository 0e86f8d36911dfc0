"""The tables of a data card, printed or shown on its page."""

from typing import Any

from rich.console import Console
from rich.table import Table

Section = tuple[str, str, tuple[str, ...], list[tuple[str, ...]]]  # title, note for the page, header, rows of texts


def _percent(share: float) -> str:
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.3g} %"


def sections(card: dict[str, Any]) -> list[Section]:
    """What is shown of a card, printed or on its page: tables of texts."""
    pairs = [", ".join(f"{k}={v}" for k, v in card[key].items() if v is not None) for key in ("settings", "protocol")]
    categories = card["categories"]
    rows: list[tuple[str, ...]] = [("fingerprint", card["fingerprint"]), ("files", "\n".join(card["files"]) or "none")]
    rows += [("times", card["time"]["spelled"] if card["time"] else "none"), ("filters", pairs[0])]
    rows += [("protocol", pairs[1]), ("categories", f"{categories['number']:,}" if categories else "none")]
    if categories:
        rows.append(("items without category", f"{categories['items_without']:,}"))
    names = ("step", "users", "items", "interactions", "mean length", "density")
    steps: list[tuple[str, ...]] = []
    before = card["steps"][0]["interactions"]
    for step in card["steps"]:
        left = "" if step["interactions"] == before else f" (-{_percent(1 - step['interactions'] / before)})"
        sizes = (f"{step['users']:,}", f"{step['items']:,}", f"{step['interactions']:,}{left}")
        steps.append((step["step"], *sizes, f"{step['mean_length']:.2f}", _percent(step["density"])))
        before = step["interactions"]
    return [
        ("Data", "What was read, and the settings that decide what is left of it.", (), rows),
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
        cells = {"cases": count["cases"], "users": count["users"]}
        if card["protocol"]["cold_targets"] == "exclude":
            cells["cases left out, their target being cold"] = count["left_out"]
        cells["cold targets: never in training"] = share["cold"]
        cells["unhittable targets: seen before, so masked"] = share["unhittable"]
        if not card["protocol"]["mask_seen"]:
            cells["targets seen before, not masked"] = count["repeated"]
        cells["history length, median"] = f"{part['history_median']:,.4g}"
        if card["time"]:
            cells |= {f"training after the target, {k}": _percent(part[f"leak_{k}"]) for k in ("mean", "median")}
            cells["targets before the end of training"] = share["early"]
        return cells

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
