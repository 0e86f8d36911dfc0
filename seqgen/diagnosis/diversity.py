"""Accuracy against diversity on the validation cases, by temperature and number of draws of attention that draws."""

from typing import Any

from matplotlib.figure import Figure

from seqgen.diagnosis import TrainedRun
from seqgen.metric_table import METRICS

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
SAMPLES = (1, 4, 16)
ACROSS = 3  # pictures beside each other
LIST_LENGTH = 10  # K of the metrics, where the run has it


def measure(trained: TrainedRun) -> list[dict[str, Any]]:
    """Validation metrics of each setting; the first is deterministic, with no draw."""
    settings: list[dict[str, Any]] = [{"samples": 0, "temperature": 1.0}]
    settings += [{"samples": samples, "temperature": heat} for samples in SAMPLES for heat in TEMPERATURES]
    return [inference | trained.validate(**inference) for inference in settings]


def logged(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy and diversity of each setting, for the loggers."""
    return {
        f"samples={row['samples']},temperature={row['temperature']:g}/{name}": value
        for row in rows
        for name, value in row.items()
        if name.startswith("val/")
    }


def draw(rows: list[dict[str, Any]], *, lengths: list[int]) -> Figure:
    """NDCG against each measure of diversity, a curve along the temperature for each number of draws.

    Args:
        rows: From `measure`.
        lengths: List lengths K of the run's metrics.
    """
    k = LIST_LENGTH if LIST_LENGTH in lengths else max(lengths)
    accuracy = f"val/ndcg@{k}"
    kinds = [row.name for row in METRICS.values() if row.kind == "diversity"]
    measures = [name for name in (f"val/{kind}@{k}" for kind in kinds) if name in rows[0]]
    across = min(len(measures), ACROSS)
    down = -(-len(measures) // across)
    figure = Figure(figsize=(4.5 * across, 4 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(measures) :]:
        axis.remove()
    for axis, name in zip(axes, measures, strict=False):
        for samples in sorted({row["samples"] for row in rows} - {0}):
            curve = [row for row in rows if row["samples"] == samples]
            place = [row[name] for row in curve], [row[accuracy] for row in curve]
            axis.plot(*place, marker=".", label=f"{samples} draw{'s' * (samples > 1)}")
            for row in curve:
                axis.annotate(f"{row['temperature']:g}", (row[name], row[accuracy]), fontsize=7)
        axis.plot(rows[0][name], rows[0][accuracy], "k*", label="deterministic")
        axis.set(xlabel=name, ylabel=accuracy)
        axis.legend(fontsize=8)
    figure.suptitle("along a curve: the temperature of the noise")
    return figure
