"""A comparison as tables: on a terminal, in Markdown, in LaTeX."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from rich.table import Column, Table

from seqgen.report.comparison import Comparison
from seqgen.report.statistics import LEVEL

LABEL = "model / attention / data"
NARROW_LABEL = 26  # characters of a label's line where not all columns fit beside it
FORMS = {
    "parameters": ",.0f",
    "peak_memory_mb": ",.0f",
    "peak_device_memory_mb": ",.0f",
    "total_s": ",.1f",
    "train_s": ",.1f",
    "train_epoch_s": ".2f",
    "train_epoch_cpu_s": ".2f",
    "energy_kj": ",.2f",
}
MARKS = {"best": "best", "not_worse": "not worse"}


def columns(comparison: Comparison) -> dict[str, list[str]]:
    """The cells of each column of the table, but for the labels."""
    frame, compare = comparison.summary, comparison.compare
    found = {"seeds": [str(seeds) for seeds in frame["seeds"]]}
    for name in metrics_of(frame):
        form = FORMS.get(name, ".4f")
        pairs = zip(frame[name], frame[f"{name} std"], strict=True)
        cells = [" ± ".join(f"{value:{form}}" for value in pair if value is not None) for pair in pairs]
        found[name.removeprefix("test/")] = [cell or "-" for cell in cells]
    rows = list(frame.iter_rows(named=True))
    found[f"Δ {compare.removeprefix('test/')}"] = [_delta(row) for row in rows]
    if frame["p_holm"].count():
        found["p (Holm)"] = [_p(row["p_holm"]) for row in rows]
    if frame["best"].any():
        found["best"] = [MARKS["best"] if r["best"] else MARKS["not_worse"] if r["not_worse"] else "" for r in rows]
    if frame["pareto"].any() and len(frame) > 1 and len(comparison.axes) > 1:
        found["Pareto"] = ["yes" if row["pareto"] else "" for row in rows]
    if frame["published"].count():
        found["published"] = ["" if value is None else f"{value:.4f}" for value in frame["published"]]
    return found


def metrics_of(frame: pl.DataFrame) -> list[str]:
    """The metrics of a summary, those with a standard deviation over seeds."""
    return [name for name in frame.columns if f"{name} std" in frame.columns]


def _delta(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return "baseline" if row["baseline"] == row["label"] else "-"
    stars = (row["low"] > 0 or row["high"] < 0) + (row["p_holm"] < LEVEL)
    certain = f" {'*' * stars}" if stars else ""
    return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]{certain}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def caption(comparison: Comparison) -> str:
    """What the table's signs mean."""
    frame, compare, samples = comparison.summary, comparison.compare, comparison.samples
    parts = ["Metrics are those of the test. ±: sample standard deviation over seeds."]
    if baselines := frame["baseline"].drop_nulls().unique(maintain_order=True).to_list():
        parts.append(
            f"Δ: mean paired difference in {compare} to the baseline, seeds averaged first, and its 95 % bootstrap "
            f"interval ({samples} samples); * excludes 0, ** also p < {LEVEL} after Holm's correction over all "
            f"differences of the table. Baseline: {'; '.join(baselines)}."
        )
    if comparison.design:
        parts.append(comparison.design)
    if frame["best"].any():
        parts.append(f"Best: of its data set, in {compare}; not worse: p >= {LEVEL} against the best, after Holm.")
    if frame["pareto"].any() and len(frame) > 1 and len(comparison.axes) > 1:
        axes = ", ".join(name.removeprefix("test/") for name in comparison.axes)
        parts.append(f"Pareto: no row of its data set is better in one of {axes} and as good in the others.")
    if frame["published"].count():
        parts.append(f"Published: {compare} as others report it under the same protocol.")
    return " ".join(parts)


def terminal(comparison: Comparison, width: int) -> list[Table]:
    """The table, as several below one another where its columns do not fit into a width; each row has its label."""
    cells = columns(comparison)
    widths = {name: max(map(len, (name, *own))) + 3 for name, own in cells.items()}
    labels = comparison.summary["label"].to_list()
    label_width = max(map(len, (LABEL, *labels)))
    if label_width + 4 + sum(widths.values()) > width:
        label_width = min(label_width, NARROW_LABEL)
    blocks: list[list[str]] = [[]]
    for name in cells:
        if blocks[-1] and label_width + 4 + sum(widths[n] for n in [*blocks[-1], name]) > width:
            blocks.append([])
        blocks[-1].append(name)
    tables = []
    for block in blocks:
        table = Table(Column(LABEL, max_width=label_width, overflow="fold"), *block)
        for row, label in enumerate(labels):
            table.add_row(label, *(cells[name][row] for name in block))
        tables.append(table)
    return tables


def details(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """More tables, each with its title, header and rows: metrics by group of test cases, cost, published numbers."""
    found = []
    for (data, grouping), part in comparison.groups.group_by("data", "grouping", maintain_order=True):
        sizes = part.unique(["bucket", "cases"], maintain_order=True)
        header = [LABEL, *(f"{bucket} ({cases:,})" for bucket, cases in sizes.select("bucket", "cases").iter_rows())]
        rows = [
            [str(label), *(f"{value:.4f}" for value in own["value"])]
            for (label,), own in part.group_by("label", maintain_order=True)
        ]
        found.append((f"{data}: {comparison.compare} by {grouping} (cases)", header, rows))
    summary = comparison.summary
    costs = [name for name in FORMS if name in summary.columns and summary[name].count()]
    rows = [
        [row["label"], *("-" if row[name] is None else f"{row[name]:{FORMS[name]}}" for name in costs)]
        for row in summary.iter_rows(named=True)
    ]
    found.append(("Cost, mean over seeds (train_epoch: median epoch)", [LABEL, *costs], rows))
    if len(published := comparison.published):
        shown = published.with_columns(pl.col("value").map_elements("{:.4f}".format, return_dtype=pl.String))
        names = ("data", "name", "metric", "value", "paper", "protocol", "label")
        rows = [["" if cell is None else cell for cell in row] for row in shown.select(names).iter_rows()]
        header = ["data", "model", "metric", "value", "source", "protocol", "beside our"]
        found.append(("Published numbers on these data sets", header, rows))
    return found


def markdown(comparison: Comparison) -> str:
    """The table, what its signs mean, the notes, and `details`."""
    parts = [pipes(*_marked(comparison, lambda text: text, ("**{}**", "_{}_"))), caption(comparison)]
    parts.append("Bold: best; italic: not worse." if comparison.summary["best"].any() else "")
    parts += [f"- {note}" for note in comparison.notes]
    for title, header, rows in details(comparison):
        parts += [f"**{title}**", pipes(header, rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def latex(comparison: Comparison) -> str:
    """The table for a document that uses the package booktabs; best bold, not worse underlined."""
    marks = (r"\textbf{{{}}}", r"\underline{{{}}}")
    header, rows = _marked(comparison, _escaped, marks)
    lines = [" & ".join(row) + r" \\" for row in rows]
    text = [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", " & ".join(header) + r" \\", r"\midrule"]
    note = "".join(f"% {line}\n" for line in [caption(comparison), *comparison.notes])
    return "\n".join([*text, *lines, r"\bottomrule", r"\end{tabular}"]) + f"\n{note}"


def _marked(
    comparison: Comparison, escape: Callable[[str], str], marks: tuple[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; the compared metric of the best rows is marked, their label where it is no column."""
    cells = {name: own for name, own in columns(comparison).items() if name != "best"}
    summary = comparison.summary
    table: Mapping[str, list[str]] = {LABEL: summary["label"].to_list(), **cells}
    name = comparison.compare.removeprefix("test/")
    place = name if name in table else LABEL
    rows = []
    for number, row in enumerate(summary.iter_rows(named=True)):
        mark = marks[0] if row["best"] else marks[1] if row["not_worse"] else "{}"
        texts = {column: escape(own[number]) for column, own in table.items()}
        rows.append([mark.format(text) if column == place else text for column, text in texts.items()])
    return [escape(column) for column in table], rows


def _escaped(text: str) -> str:
    """A text in LaTeX."""
    text = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    signs = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$"}
    for sign, written in signs.items():
        text = text.replace(sign, written)
    return text
