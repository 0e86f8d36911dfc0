"""A comparison of runs as one run of Weights & Biases: its tables, and learning curves as a plot."""

from typing import TYPE_CHECKING

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
    return str(run.url or run.dir)


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
