"""What a run prints: its configuration at the start, one table at the end."""

import logging
import warnings
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.profilers import PassThroughProfiler
from rich import print as rich_print
from rich.markup import escape
from rich.table import Table

from seqgen.metric_table import row_of
from seqgen.results import RunRecord


def quiet() -> None:
    """Silence what Lightning says without need.

    Its notices at start, its use of a deprecated name, its advice on workers (data in memory needs none) and on logging
    by step (all is logged by epoch) and across processes (the metrics are summed over them already), and that a resumed
    run has a new folder (`BestCheckpoint` sees to it).
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    known = (
        "LeafSpec",
        "does not have many workers",
        "than the logging interval",
        "sync_dist=True",
        "dirpath has changed",
    )
    for message in known:
        warnings.filterwarnings("ignore", message=f".*{message}.*")


def print_config(settings: dict[str, Any], choices: dict[str, str]) -> None:
    """Print the choice of each group with its values, one line each; `.hydra/config.yaml` holds all of it."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    run_keys = {key: value for key, value in settings.items() if key not in choices}
    table.add_row("[bold]run", "", _pairs(run_keys))
    for group, option in choices.items():
        if group in ("trainer", "callbacks", "logger", "experiment", "debug"):  # long, or seen in the other lines
            table.add_row(f"[bold]{group}", option, "")
        elif isinstance(settings.get(group), dict):
            own = {key: value for key, value in settings[group].items() if key not in choices}
            table.add_row(f"[bold]{group}", option, _pairs(own))
    rich_print(table)


def _pairs(node: dict[str, Any]) -> str:
    shown = []
    for key, value in node.items():
        if isinstance(value, dict):
            shown.append(_pairs({f"{key}.{name}": inner for name, inner in value.items() if not name.startswith("_")}))
        elif not key.startswith("_") and value is not None:
            shown.append(f"{key}={value}")
    return escape(" ".join(shown))


def print_profile(trainer: L.Trainer) -> None:
    """Print where the time went, where the trainer has a profiler."""
    profiler = trainer.profiler  # type: ignore[attr-defined]
    if not isinstance(profiler, PassThroughProfiler):
        print(profiler.summary())


def print_summary(record: RunRecord) -> None:
    """Print metrics, time, throughput, memory and places of a finished run as one table."""
    content = record.content
    choices = content["choices"]
    print("\n" + " / ".join(choices[k] for k in ("model", "attention", "data") if choices.get(k, "none") != "none"))
    table = Table(show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    split = "test" if any(name.startswith("test/") for name in content["metrics"]) else "val"
    metrics = {k.removeprefix(f"{split}/"): v for k, v in content["metrics"].items() if k.startswith(f"{split}/")}
    for name, value in metrics.items():
        if "@" not in name:
            table.add_row(f"{split}/{name}", f"{value:.4f}")
    data = content["data"]
    cases = data[f"{split}_cases"]
    ranked = content.get("test_cases_ranked", cases) if split == "test" else cases
    part = f"{ranked:,} of " if ranked != cases else ""
    table.add_row(f"{split} cases ({data['split']})", f"{part}{cases:,}")
    left_out = ", left out" if data["cold_targets"] == "exclude" else ""
    table.add_row(f"cold targets{left_out}", f"{data[f'{split}_cold_targets']:,}")
    timing, memory = content["timing"], content["peak_memory_mb"]
    table.add_section()
    if content["best_epoch"] is not None:
        table.add_row("best epoch (from 0)", f"{content['best_epoch']} of {content['epochs']}")
    if "train_epoch_s" in timing:
        table.add_row("seconds per epoch", f"{sum(timing['train_epoch_s']) / len(timing['train_epoch_s']):.2f}")
        table.add_row("sequences per second", f"{timing['train_sequences_per_s']:,.0f}")
        table.add_row("targets per second", f"{timing['train_targets_per_s']:,.0f}")
    if memory.get("host"):
        table.add_row("peak memory, MB", f"{memory['host']:,.0f}")
    if memory.get("device"):
        table.add_row("peak GPU memory, MB", f"{memory['device']:,.0f}")
    table.add_row("parameters", f"{content['parameters']:,}")
    rich_print(_metric_table(metrics, split), table)
    print(f"Files: {record.folder}")


def _metric_table(metrics: dict[str, float], split: str) -> Table:
    """Metrics with a list length: one row per metric, one column per K; an arrow where smaller is better."""
    lengths = sorted({int(name.partition("@")[2]) for name in metrics if "@" in name})
    table = Table()
    table.add_column(f"{split}, K")
    for k in lengths:
        table.add_column(str(k), justify="right")
    for name in dict.fromkeys(name.partition("@")[0] for name in metrics if "@" in name):
        cells = (metrics.get(f"{name}@{k}") for k in lengths)  # not every metric has all K
        row = row_of(name)
        arrow = " ↓" if row is not None and row.smaller_is_better else ""
        table.add_row(name + arrow, *("-" if value is None else f"{value:.4g}" for value in cells))
    return table


def device_name(trainer: L.Trainer) -> str:
    """Name of the device that a trainer uses."""
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.get_device_name(trainer.strategy.root_device)
    return trainer.strategy.root_device.type
