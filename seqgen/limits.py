"""Ranges of settings that torch's and Lightning's classes take without a check, and fail at or ignore later."""

from collections.abc import Callable
from typing import Any

from seqgen.errors import UserError

# By class, or by a class it is built on: the least value of an argument.
LEAST: dict[str, dict[str, float]] = {
    "Trainer": {
        "accumulate_grad_batches": 1,
        "check_val_every_n_epoch": 1,
        "log_every_n_steps": 1,
        "min_epochs": 0,
        "num_nodes": 1,
    },
    "CosineAnnealingLR": {"T_max": 1, "eta_min": 0},
    "LinearLR": {"total_iters": 1},
    "StepLR": {"step_size": 1},
    "EarlyStopping": {"patience": 0},
    "CSVLogger": {"flush_logs_every_n_steps": 1},
}
MOST = {"num_nodes": 100_000}
OTHERS = ("torch.", "pytorch_lightning.")


def check_limits(node: dict[str, Any], path: str, target: Callable[..., Any]) -> None:
    """Refuse a number out of the range that another package's class can use.

    Args:
        node: The settings of what is built, as plain containers.
        path: The key of the node.
        target: What is built.

    Raises:
        UserError: Names the key, and its least or largest value.
    """
    for step in target.__mro__ if isinstance(target, type) else ():
        if not step.__module__.startswith(OTHERS):
            continue
        for name, least in LEAST.get(step.__name__, {}).items():
            value = node.get(name)
            if isinstance(value, int | float) and value < least:
                raise UserError(f"{path}.{name}={value} must be at least {least}.")
            if isinstance(value, int | float) and value > MOST.get(name, value):
                raise UserError(f"{path}.{name}={value} must be at most {MOST[name]}.")
