"""A comparison of runs in Weights & Biases: a run with its tables and curves, and a report with W&B's own panels."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from seqgen.report.tables import markdown

if TYPE_CHECKING:
    import polars as pl

    from seqgen.report.comparison import Comparison


def log_comparison(comparison: "Comparison", project: str, entity: str | None = None) -> str:
    """Log the tables and the learning curves of a comparison to a W&B run of the type `report`.

    Args:
        comparison: What `seqgen.report` has compared.
        project: Of W&B.
        entity: User or team; None is the account's own.

    Returns:
        Where the run is: its address, or offline its folder.
    """
    import wandb

    address = None
    run = wandb.init(project=project, entity=entity, job_type="report", name=f"report {comparison.compare}")
    finished = False
    try:
        for name in ("summary", "curves", "groups"):
            frame: pl.DataFrame = getattr(comparison, name)
            if frame.height:
                # In rows of plain values: W&B knows no frames of polars.
                table = wandb.Table(columns=[*frame.columns], data=[list(row) for row in frame.rows()])
                run.log({f"report/{name}": table})
        _log_curves(run, comparison)
        run.summary["compare"] = comparison.compare
        finished = True
    finally:
        run.finish(exit_code=0 if finished else 1)
    if run.url and is_installed():  # offline there is nobody to keep a report
        print(f"W&B: {run.url}")
        address = report_of(comparison, project=run.project, entity=run.entity).save().url
    elif run.url:
        print("For a W&B report with panels of the runs: pip install 'seqgen[wandb-report]'")
    return str(address or run.url or run.dir)


def is_installed() -> bool:
    """Whether the package that writes reports is there; it does not come with W&B."""
    return importlib.util.find_spec("wandb_workspaces") is not None


def report_of(comparison: "Comparison", *, project: str, entity: str | None) -> Any:
    """A W&B report, not yet saved: the tables, and panels of the compared runs that were logged to the project.

    Args:
        comparison: What `seqgen.report` has compared.
        project: Of W&B.
        entity: User or team.
    """
    from wandb_workspaces import expr

    reports: Any = importlib.import_module("wandb_workspaces.reports.v2")
    place = {"project": project} | ({"entity": entity} if entity else {})
    keys = ["config.choices.data", "config.choices.model", "config.choices.attention"]
    logged = reports.Runset(
        **place,
        name="the compared runs",
        filters=expr.And(expr.Config("run_id").isin(list(comparison.run_ids))),
        groupby=keys,
    )
    curves = reports.LinePlot(x="epoch", y=[comparison.monitor], groupby_rangefunc="stddev", title=comparison.monitor)
    panels = [
        curves,
        reports.BarPlot(metrics=[comparison.compare], title=comparison.compare),
        reports.ScatterPlot(
            x="timing/train_epoch_s",
            y=comparison.compare,
            title="accuracy against time",
        ),
        reports.MediaBrowser(media_keys=["examples"]),
    ]
    blocks = [reports.MarkdownBlock(text=markdown(comparison)), reports.PanelGrid(runsets=[logged], panels=panels)]
    return reports.Report(
        **place, title=f"Comparison by {comparison.compare}", description=comparison.design, blocks=blocks
    )


def _log_curves(run: object, comparison: "Comparison") -> None:
    import polars as pl
    import wandb

    curves = comparison.curves.drop_nulls("value") if comparison.curves.height else comparison.curves
    for (data,), part in curves.group_by("data", maintain_order=True):
        means = part.group_by("label", "epoch").agg(pl.col("value").mean()).sort("label", "epoch")
        lines = means.partition_by("label", maintain_order=True)
        plot = wandb.plot.line_series(
            xs=[line["epoch"].to_list() for line in lines],
            ys=[line["value"].to_list() for line in lines],
            keys=[str(line["label"][0]) for line in lines],
            title=f"{comparison.monitor} on {data}, mean over seeds",
            xname="epoch",
        )
        run.log({f"report/curves/{data}": plot})  # type: ignore[attr-defined]
