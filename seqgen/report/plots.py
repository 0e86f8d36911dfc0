"""The pictures of a comparison as plotly figures: plain dictionaries, which the tests hold to plotly's own schema.

Every text that plotly shows passes `shown`: it would read tags in it.
"""

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from seqgen.report.statistics import LEVEL, not_dominated

# Told apart on white and on black, and by most who see few colours; a second round of them has other dashes.
COLORS = ("#3b7dd8", "#d9782b", "#2a9d6f", "#b05cc6", "#d1495b", "#1f9eb3", "#94852f", "#7f7fd5", "#c06c93", "#7d8590")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
COSTS = {
    "train_epoch_s": "seconds of a training epoch",
    "train_s": "seconds of training",
    "total_s": "seconds in all",
    "peak_memory_mb": "peak memory in MB",
    "peak_device_memory_mb": "peak memory of the device in MB",
    "energy_kj": "energy in kJ",
    "parameters": "parameters",
}
DRAWN = ("train_epoch_s", "train_s", "peak_memory_mb", "peak_device_memory_mb", "energy_kj", "parameters")
ROW = 38  # pixels of a bar or interval with its name above
LONGEST = 44  # characters of a name within a plot on a phone; the whole name is in the legend
NARROW = 8  # characters of a bucket's name beside four others on a phone
WIDE = 20  # an axis of times or losses is logarithmic where its largest value is so many times its smallest


@dataclass(frozen=True)
class Style:
    """How a setting looks in every plot: on all data sets alike."""

    name: str
    color: str
    dash: str
    symbol: str


@dataclass(frozen=True)
class Plot:
    """A figure, and what is written around it.

    Attributes:
        title: Above it.
        caption: Below it: how it is read.
        figure: ``data`` and ``layout`` of plotly.
        height: In pixels.
        wide: Whether it takes a line of the page for itself.
    """

    title: str
    caption: str
    figure: dict[str, Any]
    height: int
    wide: bool = False


def shown(text: object) -> str:
    """A text as plotly is to show it, tags and all."""
    return html.escape(str(text), quote=False)


def bare(metric: str) -> str:
    """A metric's name without ``test/``."""
    return metric.removeprefix("test/")


def styles(summary: pl.DataFrame) -> dict[str, Style]:
    """Label -> style, with the label's name without the data set: equal names get equal colours."""
    found: dict[str, Style] = {}
    by_name: dict[str, Style] = {}
    for label, model, attention, data in summary.select("label", "model", "attention", "data").iter_rows():
        name = f"{model} / {attention}".removesuffix(" / -") + _extra(label, f"{model} / {attention} / {data}")
        if name not in by_name:
            around, place = divmod(len(by_name), len(COLORS))
            by_name[name] = Style(name, COLORS[place], DASHES[around % 4], SYMBOLS[around % 4])
        found[label] = by_name[name]
    return found


def _extra(label: str, head: str) -> str:
    return label.removeprefix(head) if label.startswith(head) else f", {label}"


def _number(value: float | None) -> float | None:
    """In six digits; None where there is no finite value, which JSON could not hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _axis(title: str = "", **more: Any) -> dict[str, Any]:
    axis: dict[str, Any] = {"automargin": True, "zeroline": False}
    return axis | ({"title": {"text": shown(title), "standoff": 10}} if title else {}) | more


def _layout(height: int, **more: Any) -> dict[str, Any]:
    margin = {"l": 8, "r": 16, "t": 12, "b": 8}  # the axes take what they need
    return {"height": height, "margin": margin, "showlegend": False, "hovermode": "closest"} | more


def _trace(style: Style, hover: Sequence[str], **more: Any) -> dict[str, Any]:
    """A trace of one setting; ``meta`` is what the page's legend switches."""
    return {"name": shown(style.name), "meta": style.name, "hovertext": hover, "hoverinfo": "text"} | more


def _names(names: Iterable[str]) -> list[dict[str, Any]]:
    """Names above the rows of a plot, row 0 first: beside them they would take the width of a phone."""
    short = [
        name if len(name) <= LONGEST else f"{name[: LONGEST // 3]}…{name[1 - LONGEST * 2 // 3 :]}" for name in names
    ]
    place = {"x": 0, "xref": "paper", "xanchor": "left", "yanchor": "bottom", "yshift": 8, "showarrow": False}
    return [{"text": shown(name), "y": row, "align": "left", **place} for row, name in enumerate(short)]


def forest(rows: Sequence[Mapping[str, Any]], known: Mapping[str, Style], compare: str) -> Plot | None:
    """Differences to the baseline with their intervals; None where there are none."""
    rows = [row for row in rows if row["difference"] is not None]
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: row["difference"])
    traces = []
    for place, row in enumerate(rows):
        style, (low, high) = known[row["label"]], (row["low"], row["high"])
        sure = row["p_holm"] is not None and row["p_holm"] < LEVEL
        told = f"{shown(style.name)}<br>{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        told += "" if row["p_holm"] is None else f"<br>p (Holm) {row['p_holm']:.4f}"
        marker = {"color": style.color, "size": 10, "symbol": style.symbol + ("" if sure else "-open")}
        ends = {"array": [_number(high - row["difference"])], "arrayminus": [_number(row["difference"] - low)]}
        error = {"type": "data", "symmetric": False, "color": style.color, "thickness": 2, "width": 4} | ends
        point = {
            "x": [_number(row["difference"])],
            "y": [place],
            "marker": marker | {"line": {"width": 2, "color": style.color}},
        }
        traces.append(_trace(style, [told], type="scatter", mode="markers", error_x=error, **point))
    height = ROW * len(rows) + 64
    baseline = known[rows[0]["baseline"]].name if rows[0]["baseline"] in known else rows[0]["baseline"]
    layout = _layout(
        height,
        xaxis=_axis(f"Δ {bare(compare)}", zeroline=True, rangemode="tozero"),
        yaxis={"visible": False, "range": [-0.5, len(rows) - 0.2], "fixedrange": True},
        annotations=_names(known[row["label"]].name for row in rows),
    )
    text = f"To the right of 0 is better than {baseline}. Bar: 95 % interval. Filled: p < {LEVEL} after Holm."
    return Plot("Difference to the baseline", text, {"data": traces, "layout": layout}, height, wide=True)


def trade_off(
    rows: Sequence[Mapping[str, Any]], known: Mapping[str, Style], x: str, compare: str, axes: Sequence[str]
) -> Plot | None:
    """The compared metric against a cost or another metric, with the front of the two; None with less than 2 rows."""
    rows = [row for row in rows if row.get(x) is not None and row.get(compare) is not None]
    if len(rows) < 2:
        return None
    cost = x in COSTS
    name = COSTS.get(x, bare(x))
    traces = [_front(rows, x, compare, smaller=cost)]
    for row in rows:
        style, spread = known[row["label"]], _number(row.get(f"{compare} std")) or 0
        told = f"{shown(style.name)}<br>{shown(bare(compare))} {row[compare]:.4f} ± {spread:.4f}"
        told += f"<br>{shown(name)} {row[x]:,.4g}" + ("<br>on the Pareto front of the table" * row["pareto"])
        ring = {"width": 3 if row["pareto"] else 0, "color": "#e8b23a"}
        marker = {"color": style.color, "size": 13, "symbol": style.symbol, "line": ring}
        error = {"type": "data", "array": [spread], "color": style.color, "thickness": 1, "width": 0}
        point = {"x": [_number(row[x])], "y": [_number(row[compare])], "marker": marker, "error_y": error}
        traces.append(_trace(style, [told], type="scatter", mode="markers", **point))
    values = [row[x] for row in rows]
    wide = cost and min(values) > 0 and max(values) / min(values) > WIDE
    layout = _layout(340, xaxis=_axis(name, type="log" if wide else "linear"), yaxis=_axis(bare(compare)))
    text = f"Up and to the {'left' if cost else 'right'} is better; bars: standard deviation over seeds. Line: rows "
    text += "that no other beats in both."
    if len(axes) > 1 and any(row["pareto"] for row in rows):
        text += f" Yellow ring: not beaten in {', '.join(COSTS.get(axis, bare(axis)) for axis in axes)} together."
    return Plot(f"{bare(compare)} against {name}", text, {"data": traces, "layout": layout}, 340)


def _front(rows: Sequence[Mapping[str, Any]], x: str, y: str, *, smaller: bool) -> dict[str, Any]:
    """The line through the rows that no other beats in both axes."""
    sign = -1 if smaller else 1
    best = not_dominated(np.array([(sign * row[x], row[y]) for row in rows]))
    points = sorted((row[x], row[y]) for row, kept in zip(rows, best, strict=True) if kept)
    line = {"color": "#8a94a0", "width": 1.5, "dash": "dot"}
    place = {"x": [_number(point[0]) for point in points], "y": [_number(point[1]) for point in points]}
    return {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "line": line, **place}


def learning(curves: pl.DataFrame, known: Mapping[str, Style], column: str, name: str) -> Plot | None:
    """A line for each setting: the mean over seeds, within the band of least and greatest; None without values."""
    curves = curves.filter(pl.col(column).is_not_null() & pl.col("label").is_in(list(known)))
    if curves.is_empty():
        return None
    value = pl.col(column)
    over_seeds = curves.group_by("label", "epoch", maintain_order=True).agg(
        value.mean().alias("mean"), value.min().alias("low"), value.max().alias("high"), pl.len().alias("seeds")
    )
    bands, lines = [], []
    for (label,), own in over_seeds.group_by("label", maintain_order=True):
        style, own = known[str(label)], own.sort("epoch")
        told = [
            f"{shown(style.name)}<br>epoch {row['epoch']}: {row['mean']:.4f}"
            + (f" ({row['low']:.4f} to {row['high']:.4f}, {row['seeds']} seeds)" if row["seeds"] > 1 else "")
            for row in own.iter_rows(named=True)
        ]
        x, mean, low, high = ([_number(v) for v in own[name]] for name in ("epoch", "mean", "low", "high"))
        line = {"color": style.color, "dash": style.dash, "width": 2}
        lines.append(_trace(style, told, type="scatter", x=x, y=mean, line=line))
        lines[-1]["mode"] = "lines" if len(x) > 1 else "markers"
        if own["seeds"].max() != 1:
            area = {"x": x + x[::-1], "y": high + low[::-1], "fill": "toself", "fillcolor": f"{style.color}33"}
            look = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "type": "scatter"}
            bands.append({"name": shown(style.name), "meta": style.name} | area | look)
    text, scale = "Line: mean of the seeds that reached the epoch; band: their least and greatest.", "linear"
    if column == "train_loss":
        text += " Losses of different objectives cannot be compared."
        values = curves[column].to_list()
        scale = "log" if min(values) > 0 and max(values) / min(values) > WIDE else "linear"
    layout = _layout(340, xaxis=_axis("epoch"), yaxis=_axis(name, type=scale))
    return Plot(f"{name} by epoch", text, {"data": bands + lines, "layout": layout}, 340)


def by_group(groups: pl.DataFrame, known: Mapping[str, Style], grouping: str, compare: str) -> Plot:
    """Bars of the compared metric for each bucket of test cases."""
    sizes = groups.unique(["bucket", "cases"], maintain_order=True)
    ticks = _ticks(sizes)
    places = dict(zip(sizes["bucket"], range(len(sizes)), strict=False))
    traces = []
    for (label,), own in groups.group_by("label", maintain_order=True):
        style = known[str(label)]
        cells = list(own.select("bucket", "cases", "value").iter_rows())
        told = [f"{shown(style.name)}<br>{shown(b)}, {cases:,} cases: {value:.4f}" for b, cases, value in cells]
        bars = {"x": [places[bucket] for bucket, *_ in cells], "y": [_number(value) for *_, value in cells]}
        traces.append(_trace(style, told, type="bar", marker={"color": style.color}, **bars))
    numbers = {"tickmode": "array", "tickvals": list(range(len(ticks))), "ticktext": ticks, "tickangle": 0}
    layout = _layout(
        330,
        barmode="group",
        bargap=0.25,
        xaxis=_axis(f"{grouping}, and number of cases", **numbers),
        yaxis=_axis(bare(compare)),
    )
    text = "Mean over the test cases of a group, seeds averaged. Few cases make an uncertain bar."
    return Plot(f"{bare(compare)} by {grouping}", text, {"data": traces, "layout": layout}, 330)


def _ticks(sizes: pl.DataFrame) -> list[str]:
    """Names of buckets with their cases below, in short lines where they would meet on a phone."""
    narrow = any(len(bucket) > NARROW for bucket in sizes["bucket"])
    ends = [bucket.replace(" to ", "–\n" if narrow else "–").split("\n") for bucket in sizes["bucket"]]
    lines = [[line for end in own for line in textwrap.wrap(end, 3 * NARROW)] for own in ends]
    cases = sizes["cases"]
    return ["<br>".join([*map(shown, own), f"{count:,}"]) for own, count in zip(lines, cases, strict=True)]


def cost(rows: Sequence[Mapping[str, Any]], known: Mapping[str, Style], name: str) -> Plot | None:
    """Bars of one cost, the least on top; None where no row has it."""
    rows = sorted((row for row in rows if row.get(name) is not None), key=lambda row: -row[name])
    if not rows:
        return None
    traces = []
    for place, row in enumerate(rows):
        style = known[row["label"]]
        bar = {"x": [_number(row[name])], "y": [place], "orientation": "h", "width": 0.36}
        told = f"{shown(style.name)}<br>{row[name]:,.5g} {COSTS[name]}"
        traces.append(_trace(style, [told], type="bar", marker={"color": style.color}, **bar))
    height = ROW * len(rows) + 50
    values = [f"{row[name]:,.4g}" if row[name] < 10_000 else f"{row[name]:,.0f}" for row in rows]
    names = [f"{value}  {known[row['label']].name}" for value, row in zip(values, rows, strict=True)]
    layout = _layout(
        height,
        xaxis=_axis("", rangemode="tozero", nticks=6),
        yaxis={"visible": False, "range": [-0.4, len(rows) - 0.2], "fixedrange": True},
        annotations=_names(names),
        barmode="overlay",
    )
    title = COSTS[name][0].upper() + COSTS[name][1:]
    return Plot(title, "Mean over seeds; short is good.", {"data": traces, "layout": layout}, height)
