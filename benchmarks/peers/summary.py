"""What the stored cells of ../compare_peers.py come to: medians over rounds, whole epochs, ratios. Pure functions."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Cell = Mapping[str, Any]
# Costs of a row, each with how many decimals it is shown with. All but the targets are better where they are smaller.
COSTS = {
    "epoch_cpu_s": 1,
    "targets_per_cpu_s": 0,
    "peak_mb": 0,
    "evaluate_cpu_s": 1,
    "start_cpu_s": 1,
    "start_s": 1,
}


def whole_epochs(cell: Cell) -> list[float]:
    """CPU-seconds of each counted epoch; of one that was cut, times the steps of a whole one."""
    return [epoch["cpu_s"] * cell["steps_of_epoch"] / epoch["steps"] for epoch in counted(cell)]


def counted(cell: Cell) -> Sequence[Mapping[str, Any]]:
    """The epochs of a process without the first, which also warms up, unless it is the only one."""
    epochs: Sequence[Mapping[str, Any]] = cell["epochs"]
    return epochs[1:] or epochs


def summarised(cells: Sequence[Cell]) -> dict[str, Any]:
    """A row of the table: one project at one work.

    Args:
        cells: Of its rounds, those that failed included.

    Returns:
        `error` where no round finished. Else medians over the epochs of all rounds, or over rounds; the quality is the
        mean over rounds, each of which has a seed of its own.
    """
    done = [cell for cell in cells if "error" not in cell]
    if not done:
        return {"error": cells[-1]["error"]}
    epochs = [epoch for cell in done for epoch in counted(cell)]
    row: dict[str, Any] = {
        "rounds": len(done),
        "epochs": len(epochs),
        "measured_steps": statistics.median(epoch["steps"] for epoch in epochs),
        "steps_of_epoch": done[-1]["steps_of_epoch"],
        "targets_of_epoch": done[-1]["targets_of_epoch"],
        "measured_cpu_s": statistics.median(epoch["cpu_s"] for epoch in epochs),
        "epoch_cpu_s": statistics.median(s for cell in done for s in whole_epochs(cell)),
        "targets_per_cpu_s": statistics.median(epoch["targets"] / epoch["cpu_s"] for epoch in epochs),
    }
    for name in ("peak_mb", "evaluate_cpu_s", "start_cpu_s", "start_s"):
        row[name] = statistics.median(cell[name] for cell in done)
    row["cut"] = row["measured_steps"] < row["steps_of_epoch"]
    row["quality"] = {
        kind: {name: statistics.mean(cell["quality"][kind][name] for cell in done) for name in done[0]["quality"][kind]}
        for kind in done[0]["quality"]
    }
    row["load_average"] = [cell["load_average"] for cell in done]
    return row | {"versions": done[-1]["versions"], "parameters": done[-1]["parameters"]}


def summary(cells: Mapping[str, Mapping[str, Sequence[Cell]]]) -> dict[str, dict[str, Any]]:
    """Rows of all works by project, with ratios to seqgen: a peer's cost divided by ours.

    Args:
        cells: Of each work, of each project, its rounds.
    """
    works = {}
    for work, projects in cells.items():
        rows = {name: summarised(rounds) for name, rounds in projects.items()}
        ours = rows.get("seqgen", {"error": ""})
        for row in rows.values():
            if "error" not in row and "error" not in ours:
                row["ratios"] = {name: row[name] / ours[name] for name in COSTS}
        works[work] = rows
    return works
