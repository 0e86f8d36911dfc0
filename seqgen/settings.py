"""Configurations as flat settings, to be compared, and settings as typed. Free of torch and of Hydra."""

import json
import re
from typing import Any

# Groups that build nothing by themselves: something else must refer to them, or they have no effect.
REFERRED_GROUPS = ("diffusion", "attention", "loss", "optimizer", "scheduler")


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


def key_of(override: str) -> str:
    """The key of an override, as typed: `a.b` of `a.b=1`, of `+a.b=1` and of `~a.b`."""
    return override.lstrip("+~").partition("=")[0]


def quoted(text: str) -> str:
    """A text as the value of an override, in quotes where Hydra's grammar would read something else into it."""
    if re.fullmatch(r"[\w.-]*/[\w/.:@%+-]*", text, flags=re.ASCII):  # a path, and so no number and no null
        return text
    # Backslashes count only before a quote, the last one included.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + (found[2] and "\\'"), text) + "'"
