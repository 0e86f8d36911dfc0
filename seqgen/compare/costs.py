"""What a comparison will cost, reckoned from one measured epoch of each candidate. Free of torch and of Hydra."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from seqgen.results import duration


@dataclass(frozen=True)
class Cost:
    """Of one candidate.

    Attributes:
        name: Of the candidate and its data set.
        jobs: Runs: trials and seeds.
        epochs: Of each run, at most.
        epoch_s: Seconds of an epoch with its validation.
        rest_s: Seconds of a run before and after its epochs.
        memory_mb: Largest memory of a run, of the host and of the device; None where there is none.
        parameters: Of the model.
    """

    name: str
    jobs: int
    epochs: int
    epoch_s: float
    rest_s: float
    memory_mb: tuple[float, float | None]
    parameters: int

    @property
    def seconds(self) -> float:
        """Of all runs, one after another, if none stops early."""
        return self.jobs * (self.rest_s + self.epochs * self.epoch_s)


def cost_of(name: str, record: Mapping[str, Any], *, jobs: int, max_epochs: int) -> Cost:
    """The cost of a candidate.

    Args:
        name: Of the candidate and its data set.
        record: The `results.json` of its measured epoch.
        jobs: Runs it will have.
        max_epochs: Of each.
    """
    timing = record["timing"]
    epochs, memory = record["epochs"], record["peak_memory_mb"]
    # A model that is not trained by steps has no epochs.
    epoch_s = (sum(timing["train_epoch_s"]) / epochs + timing.get("validate_s", 0.0)) if epochs else 0.0
    return Cost(
        name=name,
        jobs=jobs,
        epochs=max_epochs if epochs else 0,
        epoch_s=epoch_s,
        rest_s=max(0.0, timing["total_s"] - epochs * epoch_s),
        memory_mb=(memory.get("host") or 0.0, memory.get("device")),
        parameters=record["parameters"],
    )


def wall_seconds(costs: Sequence[Cost], slots: int) -> float:
    """Seconds that all runs take with so many side by side, as if they could be divided evenly."""
    return sum(cost.seconds for cost in costs) / slots


def table_of(costs: Sequence[Cost], *, slots: int) -> tuple[Table, str]:
    """The costs as a table, and what they come to.

    Args:
        costs: Of each candidate.
        slots: Runs side by side.
    """
    columns = ("candidate", "runs", "epochs of each", "s / epoch", "time", "memory", "parameters")
    table = Table(*columns, title="What it costs at most")
    for cost in costs:
        host, device = cost.memory_mb
        memory = (f"{host:,.0f} MB" if host else "-") + (f" + {device:,.0f} MB GPU" if device else "")
        cells = (str(cost.jobs), str(cost.epochs), f"{cost.epoch_s:.2f}", duration(cost.seconds), memory)
        table.add_row(cost.name, *cells, f"{cost.parameters:,}")
    jobs, epochs = sum(cost.jobs for cost in costs), sum(cost.jobs * cost.epochs for cost in costs)
    largest = slots * max(cost.memory_mb[0] for cost in costs)
    total = (
        f"{jobs} runs, at most {epochs:,} epochs, {duration(wall_seconds(costs, slots))} with {slots} side by side, "
        f"which need up to {largest:,.0f} MB. Runs stop early where the validation no longer gains, hopeless trials "
        "are pruned, and other settings than those measured may cost more."
    )
    return table, total
