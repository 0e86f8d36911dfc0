"""A comparison as one page of HTML with tables that sort and interactive plots, that needs no other file nor a network.

The page shows what files say: all of it is escaped, and its policy lets nothing be loaded.
"""

import html
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from seqgen import __version__
from seqgen.errors import UserError
from seqgen.report import plots
from seqgen.report.comparison import Comparison
from seqgen.report.plots import Plot, Style, bare
from seqgen.report.tables import FORMS, LABEL, caption, columns, details, metrics_of

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
# Where a first look asks for diversity: the first of these that the runs have.
DIVERSITY = ("category_coverage", "ild", "coverage")
TEXT_COLUMNS = {
    LABEL,
    "Pareto",
    "setting",
    "data",
    "model",
    "metric",
    "source",
    "protocol",
    "run",
    "status",
    "what to do",
}
SHORT = {
    "train_epoch_s": "epoch (s)",
    "train_epoch_cpu_s": "epoch, CPU (s)",
    "train_s": "training (s)",
    "total_s": "total (s)",
    "peak_memory_mb": "memory (MB)",
    "peak_device_memory_mb": "device memory (MB)",
    "energy_kj": "energy (kJ)",
}
READING = (
    (
        "What is compared",
        "Each row is one setting, the mean over its seeds. ± is the standard deviation over seeds: how much a result "
        "changes when only the random numbers do. One seed has none, and says little.",
    ),
    (
        "Intervals",
        "Δ compares two settings on the same test cases. Users, and seeds where there are several, are drawn again "
        "with replacement many times; 95 % of the differences found so lie in the interval. Where it excludes 0, the "
        "difference is more than the chance of these users and seeds.",
    ),
    (
        "Correction for many comparisons",
        "Of twenty differences that do not exist, one looks real at p < 0.05. Holm's correction raises p-values, so "
        "that the chance of any false finding in the table stays below 5 %. Read the corrected p.",
    ),
    (
        "Best and not worse",
        "Best is the largest mean of a data set. Not worse are those that cannot be told from the best at this number "
        "of users and seeds: that is no proof that they are equal.",
    ),
    (
        "Limits",
        "Intervals speak of these data sets, this split and these settings, not of other data or of better tuning. "
        "Few seeds know little of the spread between seeds. Times hold for the machine they were measured on. "
        "Random lists are diverse too: read diversity beside accuracy.",
    ),
)


def write_page(comparison: Comparison, path: str | Path) -> Path:
    """Write the page, with plotly.js inside.

    Args:
        comparison: What it shows; a frame without rows is left out, with a sentence.
        path: Of the file; its folder is made.

    Returns:
        The path.

    Raises:
        UserError: plotly is not installed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(comparison, _plotly()), encoding="utf-8")
    return path


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise UserError("--html needs plotly: pip install plotly") from error
    script: str = get_plotlyjs()
    return script


def page(comparison: Comparison, plotly: str) -> str:
    """The page as a text, around a text of plotly.js."""
    here, known = Path(__file__), plots.styles(comparison.summary)
    script, style = (here.with_suffix(end).read_text(encoding="utf-8") for end in (".js", ".css"))
    drawn: dict[str, Plot] = {}
    names = comparison.summary["data"].unique(maintain_order=True).to_list()
    title = _title(comparison, names)
    parts = ['<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">']
    parts.append(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">')
    parts.append('<meta name="viewport" content="width=device-width, initial-scale=1">')
    parts.append(f"<title>{_text(title)}</title><style>{style}</style></head><body>")
    parts += [f"<header><h1>{_text(title)}</h1>", *_facts(comparison, names), "</header><main>"]
    parts.append("<noscript><p>Without JavaScript the tables stand still and the plots are missing.</p></noscript>")
    for number, name in enumerate(names):
        parts += [f'<section id="data{number}">', *_data_set(comparison, name, known, drawn), "</section>"]
    parts += _published(comparison)
    parts += [*_unfinished(comparison), *_notes(comparison), *_reading(), "</main>"]
    figures = {f"plot{number}": plot.figure for number, plot in enumerate(drawn.values())}
    parts.append(f'<script type="application/json" id="plots">{_json(figures)}</script>')
    parts += [f"<script>{plotly}</script>", f"<script>{script}</script></body></html>\n"]
    return "\n".join(parts)


def _text(text: object) -> str:
    return html.escape(str(text))


def _json(value: object) -> str:
    """JSON that nothing within can end: no text holds a <."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _title(comparison: Comparison, names: Sequence[str]) -> str:
    count = len(comparison.summary)
    return f"{count} setting{'s' * (count != 1)} on {', '.join(names)}"


def _facts(comparison: Comparison, names: Sequence[str]) -> Iterator[str]:
    """What was compared, and where it stands."""
    summary = comparison.summary
    models = ", ".join(summary["model"].unique(maintain_order=True))
    kinds = [kind for kind in summary["attention"].unique(maintain_order=True) if kind != "-"]
    seeds = sorted(comparison.curves["seed"].drop_nulls().unique().to_list())
    runs = f"{summary['seeds'].sum()} runs of {len(summary)} settings"
    facts = {"data sets": ", ".join(names), "models": models, "attention": ", ".join(kinds), "runs": runs}
    facts["seeds"] = ", ".join(map(str, seeds))
    facts["compared by"] = f"{comparison.compare}, {comparison.samples:,} bootstrap samples"
    facts["best epoch by"] = comparison.monitor
    if comparison.written:
        facts["results of"] = " to ".join(dict.fromkeys(map(_minute, comparison.written)))
    facts["made with"] = "; ".join(comparison.versions)
    facts["page made"] = f"{_minute(time.time())} by seqgen {__version__}"
    yield "<dl>"
    yield from (f"<dt>{_text(key)}</dt><dd>{_text(fact)}</dd>" for key, fact in facts.items() if fact)
    yield "</dl>"
    links = {f"data{number}": name for number, name in enumerate(names)}
    links |= {"published": "published numbers"} if len(comparison.published) else {}
    links |= {"unfinished": f"{len(comparison.unfinished)} unfinished"} if len(comparison.unfinished) else {}
    links |= {"reading": "how to read"}
    yield '<nav aria-label="Sections"><ul>'
    yield from (f'<li><a href="#{place}">{_text(name)}</a></li>' for place, name in links.items())
    yield "</ul></nav>"


def _minute(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def _data_set(comparison: Comparison, name: str, known: Mapping[str, Style], drawn: dict[str, Plot]) -> Iterator[str]:
    """The section of a data set; its plots are added to ``drawn``."""
    own = replace(
        comparison,
        summary=comparison.summary.filter(pl.col("data") == name),
        curves=comparison.curves.filter(pl.col("data") == name),
        groups=comparison.groups.filter(pl.col("data") == name),
        published=comparison.published.clear(),
    )
    known = {label: known[label] for label in own.summary["label"]}
    rows = list(own.summary.iter_rows(named=True))
    yield f"<h2>{_text(name)}</h2>"
    yield _main_table(own, known)
    styles = list({style.name: style for style in known.values()}.values())
    yield '<div class="legend" role="group" aria-label="Settings shown in the plots">'
    yield from map(_legend, styles)
    yield "</div>"
    diversity = next((f"test/{kind}@{_k(own)}" for kind in DIVERSITY if f"test/{kind}@{_k(own)}" in rows[0]), None)
    clock = next((axis for axis in own.axes if axis in plots.COSTS), "train_epoch_s")
    first = [
        plots.forest(rows, known, own.compare),
        plots.trade_off(rows, known, clock, own.compare, own.axes),
        plots.trade_off(rows, known, diversity, own.compare, own.axes) if diversity else None,
        plots.learning(own.curves, known, "value", own.monitor),
        plots.learning(own.curves, known, "train_loss", "training loss"),
    ]
    yield from _figures("Differences, trade-offs and training", first, drawn)
    missing = ["No differences with intervals: the notes below say why."] if first[0] is None and len(rows) > 1 else []
    missing += ["No learning curves: the runs kept no values by epoch."] if not any(first[3:]) else []
    groups = [
        plots.by_group(part, known, str(grouping), own.compare)
        for (grouping,), part in own.groups.filter(pl.col("label").is_in(list(known))).group_by(
            "grouping", maintain_order=True
        )
    ]
    yield from _figures("By group of test cases", groups, drawn)
    missing += [] if groups else ["No metrics by group: the ranks of the test cases were not kept."]
    costs = [plots.cost(rows, known, cost) for cost in plots.DRAWN]
    yield from _figures("Cost", costs, drawn)
    yield from (f'<p class="soft">{_text(sentence)}</p>' for sentence in missing)
    yield "<details><summary>The numbers behind the plots</summary>"
    for title, header, lines in details(own):
        yield _table(title, header, [[_text(cell) for cell in line] for line in lines])
    yield "</details>"


def _k(comparison: Comparison) -> str:
    return comparison.compare.partition("@")[2] or "10"


def _legend(style: Style) -> str:
    key = f'<span class="key {style.dash}" style="border-color:{style.color}"></span>'
    name = _text(style.name)
    return f'<button type="button" aria-pressed="true" data-name="{name}">{key}{name}</button>'


def _figures(title: str, made: Sequence[Plot | None], drawn: dict[str, Plot]) -> Iterator[str]:
    """A heading and its plots, or nothing where there are none."""
    if not any(made):
        return
    yield f'<h3>{_text(title)}</h3><div class="plots">'
    for plot in filter(None, made):
        place = f"plot{len(drawn)}"
        drawn[place] = plot
        label = _text(f"{plot.title}. {plot.caption}")
        box = f'<div class="plot" id="{place}" role="img" aria-label="{label}" style="height:{plot.height}px"></div>'
        yield f'<figure class="{"wide" if plot.wide else ""}"><h4>{_text(plot.title)}</h4>{box}'
        yield f"<figcaption>{_text(plot.caption)}</figcaption></figure>"
    yield "</div>"


def _main_table(own: Comparison, known: Mapping[str, Style]) -> str:
    summary = own.summary
    cells = {name: list(map(_text, column)) for name, column in _ordered(own).items()}
    there = {bare(name) for name in metrics_of(summary)}
    for name, form in FORMS.items():
        if name in summary.columns and summary[name].count() and name not in there:
            cells[name] = ["-" if value is None else f"{value:{form}}" for value in summary[name]]
    labels = []
    for number, row in enumerate(summary.iter_rows(named=True)):
        mark = ""
        if row["best"]:
            mark = '<span class="badge best">best</span>'
            if bare(own.compare) in cells:
                cells[bare(own.compare)][number] = f"<strong>{cells[bare(own.compare)][number]}</strong>"
        elif row["not_worse"]:
            mark = '<span class="badge">not worse</span>'
        labels.append(_text(known[row["label"]].name) + mark)
    header = ["setting", *(SHORT.get(name, name) for name in cells)]
    lines = [list(line) for line in zip(labels, *cells.values(), strict=True)]
    title = f"{len(lines)} settings, mean and standard deviation over seeds"
    return f'{_table(title, header, lines)}<p class="soft">{_text(caption(own))}</p>'


def _ordered(own: Comparison) -> dict[str, list[str]]:
    """The columns that say something; what is compared and its difference stand first, where a phone shows them."""
    cells = {name: column for name, column in columns(own).items() if name != "best"}
    if not own.summary["difference"].count():
        del cells[f"Δ {bare(own.compare)}"]
    first = ("seeds", bare(own.compare), f"Δ {bare(own.compare)}", "p (Holm)")
    return {name: cells[name] for name in (*first, *cells) if name in cells}


def _table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table that scrolls within its box and sorts by its headers; cells are HTML, titles and headers texts."""
    kinds = ["" if name in TEXT_COLUMNS else ' class="number"' for name in header]
    heads = "".join(
        f'<th scope="col" aria-sort="none"{kind}><button type="button">{_text(name)}</button></th>'
        for name, kind in zip(header, kinds, strict=True)
    )
    body = []
    for first, *others in lines:
        row = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{row}</tr>')
    name = f"<caption><span>{_text(title)}</span></caption>"
    frame = f'<div class="table" tabindex="0" role="region" aria-label="{_text(title[:80])}">'
    return f"{frame}<table>{name}<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def _published(comparison: Comparison) -> Iterator[str]:
    """Numbers of others beside ours."""
    if not len(published := comparison.published):
        return
    ours = {row["label"]: row for row in comparison.summary.iter_rows(named=True)}
    lines = []
    for row in published.iter_rows(named=True):
        own = ours.get(row["label"], {}).get(row["metric"])
        cells = [row["data"], row["name"], bare(row["metric"]), f"{row['value']:.4f}"]
        cells += ["-" if own is None else f"{own:.4f}", row["label"], row["paper"], row["protocol"]]
        lines.append([_text("" if cell is None else cell) for cell in cells])
    header = ["data", "model", "metric", "published", "ours", "setting", "source", "protocol"]
    yield '<section id="published"><h2>Published numbers beside ours</h2>'
    yield _table("Ours stands only beside a number under the same protocol, where the metric is shown.", header, lines)
    yield "</section>"


def _unfinished(comparison: Comparison) -> Iterator[str]:
    yield '<section id="unfinished"><h2>Unfinished runs</h2>'
    if comparison.unfinished.is_empty():
        yield "<p>All runs that were found have finished.</p></section>"
        return
    rows = comparison.unfinished.select("folder", "status", "sentence").iter_rows()
    lines = [[_text(folder), _text(status), f"<code>{_text(told)}</code>"] for folder, status, told in rows]
    yield _table("In no row of the tables.", ["run", "status", "what to do"], lines) + "</section>"


def _notes(comparison: Comparison) -> Iterator[str]:
    if comparison.notes:
        yield '<section id="notes"><h2>Notes</h2><ul>'
        yield from (f"<li>{_text(note)}</li>" for note in comparison.notes)
        yield "</ul></section>"


def _reading() -> Iterator[str]:
    yield '<section id="reading"><h2>How to read this page</h2>'
    yield from itertools.chain.from_iterable(
        (f"<h3>{_text(head)}</h3>", f"<p>{_text(told)}</p>") for head, told in READING
    )
    yield "<p>A click on a header sorts a table; a click on a setting's name hides it in the plots.</p></section>"
