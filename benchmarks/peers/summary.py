"""What the stored cells of ../compare_peers.py come to: medians over rounds, whole epochs, ratios, words. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Cell = Mapping[str, Any]  # one process: a project's training, ranking and lists at one work; or its error
PROJECTS = {"seqgen": "seqgen", "replay": "RePlay", "rectools": "RecTools", "recbole": "RecBole"}
# Costs, each with its column and its decimals. All but the targets are better where they are smaller.
COSTS = {
    "epoch_cpu_s": ("CPU-s an epoch", 1),
    "targets_per_cpu_s": ("targets a CPU-s", 0),
    "peak_mb": ("peak MB", 0),
    "evaluate_cpu_s": ("ranking, CPU-s", 1),
    "start_cpu_s": ("start, CPU-s", 1),
    "start_s": ("start, s", 1),
}
SCORES = ("ndcg@10", "hr@10")
LISTS = {"seen_removed": "NDCG@10 / HR@10, seen items removed", "all_items": "the same, all items"}
COLUMNS = ["", *(title for title, _ in COSTS.values()), "steps measured", *LISTS.values()]


def counted(cell: Cell) -> Sequence[Mapping[str, Any]]:
    """The epochs of a process without the first, which also warms up, unless it is the only one."""
    epochs: Sequence[Mapping[str, Any]] = cell["epochs"]
    return epochs[1:] or epochs


def whole_epochs(cell: Cell) -> list[float]:
    """CPU-seconds of each counted epoch; of one that was cut, by as many times as a whole one has its steps."""
    return [epoch["cpu_s"] * cell["steps_of_epoch"] / epoch["steps"] for epoch in counted(cell)]


def summarised(cells: Sequence[Cell]) -> dict[str, Any]:
    """A row of the table: one project at one work.

    Args:
        cells: Of its rounds, those that failed included.

    Returns:
        `error` where no round finished. Else medians over the epochs of all rounds, or over rounds; the scores are
        means over rounds, each of which has a seed of its own.
    """
    done = [cell for cell in cells if "error" not in cell]
    if not done:
        return {"error": cells[-1]["error"]}
    epochs = [epoch for cell in done for epoch in counted(cell)]
    last = done[-1]
    row: dict[str, Any] = {
        "rounds": len(done),
        "measured_steps": statistics.median(epoch["steps"] for epoch in epochs),
        "measured_cpu_s": statistics.median(epoch["cpu_s"] for epoch in epochs),
        **{name: last[name] for name in ("steps_of_epoch", "targets_of_epoch", "parameters", "versions")},
        "epoch_cpu_s": statistics.median(seconds for cell in done for seconds in whole_epochs(cell)),
        "targets_per_cpu_s": statistics.median(epoch["targets"] / epoch["cpu_s"] for epoch in epochs),
    }
    for name in ("peak_mb", "evaluate_cpu_s", "start_cpu_s", "start_s"):
        row[name] = statistics.median(cell[name] for cell in done)
    row["quality"] = {
        kind: {name: statistics.mean(cell["quality"][kind][name] for cell in done) for name in SCORES}
        for kind in last["quality"]
    }
    return row


def shared_rounds(projects: Mapping[str, Sequence[Cell]]) -> dict[str, list[Cell]]:
    """Of each project the rounds that all have finished, so that all have the same seeds and moments.

    A project that has finished none keeps what it has, and binds nobody; likewise all where no round is shared.
    """
    done = {p: {n for n, cell in enumerate(rounds) if "error" not in cell} for p, rounds in projects.items()}
    shared = set.intersection(*filter(None, done.values())) if any(done.values()) else set()
    return {
        project: [cell for n, cell in enumerate(rounds) if n in shared or not (shared and done[project])]
        for project, rounds in projects.items()
    }


def summary(cells: Mapping[str, Mapping[str, Sequence[Cell]]]) -> dict[str, dict[str, Any]]:
    """Rows of all works by project, with `ratios`: a peer's cost divided by seqgen's.

    Args:
        cells: Of each work, of each project, its rounds.
    """
    works = {}
    for work, projects in cells.items():
        kept = shared_rounds(projects)
        rows = {project: summarised(kept[project]) for project in PROJECTS if project in kept}
        ours = rows.get("seqgen", {"error": ""})
        for project, row in rows.items():
            if project != "seqgen" and "error" not in row and "error" not in ours:
                row["ratios"] = {name: row[name] / ours[name] for name in COSTS}
        works[work] = rows
    return works


def tables(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table of each work in words, its rows as COLUMNS has them: `title` and `rows`.

    Args:
        content: What is stored: `summary`, and `works` with their titles and epochs.
    """
    found = []
    for name, rows in content["summary"].items():
        work = content["works"][name]
        scored = sum(bool(row.get("quality")) for row in rows.values()) > 1  # one's alone would be no comparison
        title = work["title"] + (f", scores after {work['epochs']} epochs" if scored else "")
        worded_rows = [worded(project, row, scored=scored) for project, row in rows.items()]
        found.append({"title": title, "rows": worded_rows})
    return found


def worded(project: str, row: Mapping[str, Any], *, scored: bool) -> list[str]:
    """A row of a table, with or without its scores; a project that failed has its error in place of the costs."""
    if "error" in row:
        return [PROJECTS[project], row["error"].replace("|", " "), *[""] * (len(COLUMNS) - 2)]
    costs = [f"{row[name]:,.{digits}f}" for name, (_, digits) in COSTS.items()]
    if "ratios" in row:
        costs = [f"{text} ({times(row['ratios'][name])})" for text, name in zip(costs, COSTS, strict=True)]
    steps = f"{row['measured_steps']:,.0f} of {row['steps_of_epoch']:,}"
    quality = row["quality"] if scored else {}
    scores = {kind: " / ".join(f"{of[name]:.4f}"[1:] for name in SCORES) for kind, of in quality.items()}
    return [PROJECTS[project], *costs, steps, *(scores.get(kind, "") for kind in LISTS)]


def times(ratio: float) -> str:
    """A ratio with two digits or more: `236x`, `3.3x`, `.27x`, `.0043x`."""
    digits = 0 if ratio >= 10 else 1 if ratio >= 1 else 2 if ratio >= 0.1 else 3 if ratio >= 0.01 else 4
    return f"{ratio:.{digits}f}x".removeprefix("0")


def circumstances(cells: Mapping[str, Mapping[str, Sequence[Cell]]]) -> str:
    """With which versions, on which machine and how busy a one the rounds were measured."""
    kept = [shared_rounds(projects) for projects in cells.values()]
    done = [(p, c) for projects in kept for p, rounds in projects.items() for c in rounds if "error" not in c]
    if not done:
        return "Nothing was measured."
    own = {p: next(iter(cell["versions"].values())) for p, cell in done}  # the project's own version stands first
    versions = [f"{title} {own[project]}" for project, title in PROJECTS.items() if project in own]
    torch = sorted({cell["versions"]["torch"] for _, cell in done})
    loads = [cell["load_average"] for _, cell in done]
    rounds = sorted({len(rounds) for projects in kept for rounds in projects.values()})
    return (
        f"{', '.join(versions)}; torch {', '.join(torch)}; {', '.join(sorted({cell['cpu'] for _, cell in done}))}, "
        f"load average {min(loads):.1f} to {max(loads):.1f}; rounds: {' to '.join(map(str, rounds))}."
    )
