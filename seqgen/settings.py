"""Configurations as flat settings, to be compared. Free of torch and of Hydra."""

import json
from typing import Any


def flatten(value: Any, key: str = "") -> dict[str, str]:
    """Dotted key -> JSON text of each value below a node.

    Args:
        value: Plain containers.
        key: Where the node stands; without one, the keys begin with the node's own.
    """
    if not isinstance(value, dict) or not value:
        return {key: json.dumps(value, sort_keys=True)}
    return {
        k: text for name, inner in value.items() for k, text in flatten(inner, f"{key}.{name}" if key else name).items()
    }
