"""A data card as one page of HTML, with its plots, that needs no other file."""

import html
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seqgen.card.tables import Section, sections

# Colours stand for variables of the page, so that one drawing serves light and dark.
INK, GRID, ALL, VAL, TEST = "#010101", "#020202", "#030303", "#040404", "#050505"
NUMBER = "{x:,.10g}"  # of ticks
VARIABLES = {INK: "ink", GRID: "grid", ALL: "all", VAL: "val", TEST: "test"}
STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"axes.edgecolor": GRID, "grid.color": GRID, "axes.grid": True, "grid.linewidth": 0.6, "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 9},
    **{"svg.fonttype": "none", "svg.hashsalt": "seqgen", "text.usetex": False, "date.converter": "concise"},
}
CSS = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1d2733;--soft:#5b6875;--grid:#d5dbe1;
--all:#9db7d1;--val:#b45f06;--test:#1f5fa8}
@media(prefers-color-scheme:dark){:root{--bg:#14181d;--ink:#e4e9ee;--soft:#9aa7b4;--grid:#3a444e;
--all:#4b6179;--val:#f0a04b;--test:#74b3f5}}
body{background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:auto;padding:1rem}
h1{margin-bottom:0}h2{margin:2rem 0 .2rem;font-size:1.15rem}p,figcaption{color:var(--soft);margin:.2rem 0 .6rem}
.table{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}td:first-child{min-width:8rem}
td,th{padding:.25rem 0;border-bottom:1px solid var(--grid);text-align:left;vertical-align:top;white-space:pre-line}
td+td,th+th{padding-left:1.5rem;overflow-wrap:anywhere}.numbers :is(td+td,th+th){text-align:right;white-space:nowrap}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.5rem}
figure{margin:0}svg{width:100%;height:auto}
"""


def write_page(card: dict[str, Any], folder: str | Path) -> Path:
    """Write `card.html`, which needs no other file, and `card.json` into a folder; returns the path of the page."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    last, title = card["steps"][-1], html.escape(f"Data card: {card['name']}")
    sizes = ", ".join(f"{last[name]:,} {name}" for name in ("users", "items", "interactions"))
    parts = [f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>']
    parts.append(f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head>')
    parts += [f"<body><h1>{title}</h1><p>{sizes}</p>", *map(_table, sections(card))]
    parts.append('<h2>Plots</h2><div class="plots">')
    for number, (heading, draw) in enumerate(_plots(card).items()):
        label = html.escape(heading)
        parts.append(f"<figure><figcaption>{label}</figcaption>{_svg(draw, number, label)}</figure>")
    page = folder / "card.html"
    page.write_text("\n".join([*parts, "</div></body></html>\n"]), encoding="utf-8")
    return page


def _table(section: Section) -> str:
    title, note, header, rows = section
    lines = [[f"<td>{html.escape(cell)}</td>" for cell in cells] for cells in rows]
    lines[:0] = [[f"<th>{html.escape(cell)}</th>" for cell in header]] if header else []
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    kind = "" if title == "Data" else ' class="numbers"'
    head = f"<h2>{html.escape(title)}</h2><p>{html.escape(note)}</p>"
    return f'{head}<div class="table"><table{kind}>{body}</table></div>'


def _svg(draw: Callable[[Any], None], number: int, label: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure, out = Figure(figsize=(5.2, 3.2), layout="constrained"), io.StringIO()
        draw(figure.add_subplot())
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    head, _, body = out.getvalue().partition("<svg")[2].partition(">")
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Names of one drawing must not meet those of the next, which stand in the same page.
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>plot{number}-", body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", body)
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    view = re.sub(r'.*(viewBox="[^"]*").*', r"\1", head, flags=re.DOTALL)
    return f'<svg {view} role="img" aria-label="{label}">{body}'


def _plots(card: dict[str, Any]) -> dict[str, Callable[[Any], None]]:
    """What draws each plot into its axes, by heading."""
    drawn: dict[str, Any] = {"Users by number of interactions": _draw_lengths}
    drawn["Interactions of each item, most frequent first"] = _draw_ranks
    drawn[f"Concentration on few items (Gini {card['popularity']['gini']:.3f})"] = _draw_lorenz
    if card["time"]:
        drawn["Interactions over time, with the targets"] = _draw_timeline
        drawn["How much training comes after a target"] = _draw_leak
    drawn["Interactions left after each step"] = _draw_steps
    return {heading: partial(draw, card=card) for heading, draw in drawn.items()}


def _logarithmic(axes: Any, x: list[float], y: list[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log")
    for axis, values in ((axes.xaxis, x), (axes.yaxis, y)):
        few = max(values) > 1000 * min(value for value in values if value)
        axis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
        axis.set_major_formatter(NUMBER)
        axis.set_minor_formatter(NullFormatter())


def _draw_lengths(axes: Any, card: dict[str, Any]) -> None:
    edges, users = (np.array(card["plots"]["lengths"][name]) for name in ("edges", "users"))
    height = users / np.diff(edges)  # wide bins would look frequent otherwise
    axes.axvline(card["protocol"]["max_len"], color=VAL, linestyle="--", label="max_len")
    _logarithmic(axes, edges.tolist(), height.tolist())
    axes.stairs(height, edges, fill=True, color=ALL, baseline=height[height > 0].min() / 2)
    axes.set(xlabel="interactions of a user", ylabel="users at each length")
    axes.legend()


def _draw_ranks(axes: Any, card: dict[str, Any]) -> None:
    curve = card["plots"]["popularity"]
    axes.plot(curve["ranks"], curve["counts"], color=TEST)
    _logarithmic(axes, curve["ranks"], curve["counts"])
    axes.set(xlabel="rank of the item", ylabel="interactions")


def _draw_lorenz(axes: Any, card: dict[str, Any]) -> None:
    curve = card["plots"]["popularity"]
    axes.fill_between(curve["items"], curve["held"], curve["items"], color=ALL, alpha=0.5, linewidth=0)
    axes.plot(curve["items"], curve["held"], color=TEST)
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1, label="all items alike")
    axes.set(xlabel="share of items, rarest first", ylabel="share of interactions", xlim=(0, 1), ylim=(0, 1))
    axes.legend()


def _draw_timeline(axes: Any, card: dict[str, Any]) -> None:
    line, moments = card["plots"]["timeline"], card["time"]["unit"] != "order"
    edges, marks = (np.array(line[k], dtype="datetime64[us]" if moments else float) for k in ("edges", "marks"))
    axes.fill_between(edges, [*line["interactions"], 0], step="post", color=ALL, linewidth=0, label="all")
    axes.step(edges, [*line["val"], 0], where="post", color=VAL, linewidth=1.2, label="validation targets")
    axes.step(edges, [*line["test"], 0], where="post", color=TEST, linewidth=1.2, label="test targets")
    for mark, label, side in zip(marks, ("T1 ", " T2"), ("right", "left"), strict=False):
        axes.axvline(mark, color=INK, linestyle="--", linewidth=1)
        axes.text(mark, 1, label, transform=axes.get_xaxis_transform(), ha=side, va="bottom")
    axes.set(ylabel="interactions")
    axes.yaxis.set_major_formatter(NUMBER)
    axes.legend()


def _draw_leak(axes: Any, card: dict[str, Any]) -> None:
    leak, edges = card["plots"]["leak"], np.linspace(0, 100, 26)
    axes.stairs(leak["test"], edges, fill=True, color=TEST, alpha=0.6, label="test")
    axes.stairs(leak["val"], edges, color=VAL, label="validation", linewidth=1.6)
    axes.set(xlabel="% of training interactions after the target", ylabel="cases")
    axes.yaxis.set_major_formatter(NUMBER)
    axes.legend()


def _draw_steps(axes: Any, card: dict[str, Any]) -> None:
    steps = card["steps"]
    axes.barh(range(len(steps)), [step["interactions"] for step in steps], height=0.4, color=ALL)
    for row, step in enumerate(steps):
        axes.text(0, row - 0.24, f"{step['step']}: {step['interactions']:,}", va="bottom")
    axes.set(xticks=[], yticks=[], ylim=(len(steps) - 0.6, -0.7))
    axes.spines[:].set_visible(False)
