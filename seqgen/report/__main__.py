"""`python -m seqgen.report outputs/...`: one table over finished runs, and files and a page of it."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from seqgen.errors import UserError
from seqgen.report.assembly import compute
from seqgen.report.comparison import Comparison
from seqgen.report.tables import caption, details, latex, markdown, terminal

DESCRIPTION = "One table over finished runs: means over seeds, and paired differences to a baseline."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m seqgen.report", description=DESCRIPTION)
    add = parser.add_argument
    add("folders", nargs="+", help="folders, searched recursively for results.json and stored runs")
    add(
        "--metrics",
        type=lambda text: re.split(", *", text),
        help="hr@5,val/ndcg@10,diversity@10,train_epoch_s,total_s,peak_memory_mb,parameters",
    )
    add("--baseline", help="sasrec, sasrec/softmax or a whole label (default: first row of each data set)")
    add("--compare", default="test/ndcg@10", help="metric of Δ: ndcg@K, hr@K or mrr, of the test")
    add(
        "--lists",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="lists of another framework, a parquet of user, item and rank; NAME@DATA=FILE among several data sets",
    )
    add("--details", action="store_true", help="also print metrics by group of test cases, cost, published numbers")
    add("--csv", type=Path, help="also write the table to this file, in full precision")
    add("--markdown", type=Path, help="also write table and details to this file")
    add("--latex", type=Path, help="also write the table to this file, for booktabs")
    add("--html", type=Path, help="also write one page with tables and interactive plots to this file")
    add("--wandb", metavar="PROJECT", help="also log tables and learning curves to W&B, as a run of this project")
    add("--samples", type=int, default=10_000, help="number of bootstrap samples")
    add("--seed", type=int, default=0, help="seed of the bootstrap")
    return parser


def _named(lists: Sequence[str]) -> dict[str, str]:
    """`NAME=FILE` as name -> file.

    Raises:
        UserError: One has another form, or a name twice.
    """
    found: dict[str, str] = {}
    for text in lists:
        name, equals, file = text.partition("=")
        if not name or not equals or not file:
            raise UserError(f"--lists {text} has no name: write --lists rectools={file or text}")
        if name in found:
            raise UserError(f"--lists names {name} twice")
        found[name] = file
    return found


def _write(comparison: Comparison, args: argparse.Namespace) -> None:
    """Write the files asked for."""
    if args.csv:
        comparison.summary.write_csv(args.csv)
    for file, text in ((args.markdown, markdown), (args.latex, latex)):
        if file:
            file.write_text(text(comparison), encoding="utf-8")
    if args.html:
        from seqgen.report.page import write_page

        write_page(comparison, args.html)
    if args.wandb:
        from seqgen.report.dashboard import log_comparison

        print(f"W&B: {log_comparison(comparison, args.wandb)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; where it cannot be made, print one sentence and exit with code 1."""
    args = _parser().parse_args(argv)
    try:
        comparison = compute(
            args.folders,
            metrics=args.metrics,
            baseline=args.baseline,
            compare=args.compare,
            samples=args.samples,
            seed=args.seed,
            lists=_named(args.lists),
        )
        _write(comparison, args)
    except (UserError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"seqgen.report: {error}", file=sys.stderr)
        sys.exit(1)
    # A file or a pipe has no width to keep to: nothing is wrapped there.
    console = Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False, highlight=False)
    console.print(*terminal(comparison, console.width), caption(comparison), sep="\n")
    for title, header, rows in details(comparison) if args.details else []:
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if comparison.notes:
        console.print(*comparison.notes, sep="\n")


if __name__ == "__main__":
    main()
