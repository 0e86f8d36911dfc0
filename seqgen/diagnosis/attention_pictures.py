"""The pictures of `seqgen.diagnosis.attention`."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABELLED = 30  # items of a history whose names can still be read
NAME_LENGTH = 22  # characters of a name that are shown
BARS = {
    "entropy_share": "entropy, share of its largest",
    "effective_rank": "effective rank of the logits",
    "distance": "distance of mass from newest (items)",
    "spread": "sd of a weight over draws",
}
LAYER_BARS = {"kl": "KL (nats)", "active_units": "active latent units"}


def draw_maps(numbers: dict[str, Any]) -> Figure:
    """The maps of one user, a line for each layer, a column for each head; rows are positions, the newest last.

    Args:
        numbers: From `seqgen.diagnosis.attention.maps_of_user`.
    """
    maps = {name: np.asarray(rows) for name, rows in numbers["maps"].items()}
    heads, length = max(len(rows) for rows in maps.values()), len(numbers["items"])
    names = [_short(name) for name in numbers["items"]] if length <= LABELLED else None
    size = 3.2 + (0.16 * length if names else 0.0)
    figure = Figure(figsize=(1.5 + size * heads, 0.5 + size * len(maps)), layout="constrained")
    title = f"user {numbers['user']}: weight of each item (column) at each position (row), the newest last"
    # A narrow picture, of one head, has the title in several lines; a character is about 0.1 inch wide.
    figure.suptitle(textwrap.fill(title, max(20, int(10 * figure.get_figwidth()))))
    axes = figure.subplots(len(maps), heads, squeeze=False)
    for line, (layer, rows) in zip(axes, maps.items(), strict=True):
        for head, (axis, weights) in enumerate(zip(line, rows, strict=True), start=1):
            _draw_map(axis, weights)
            axis.set_title(f"{layer}, head {head}", fontsize=9)
            if names:
                axis.set_xticks(range(length), names, rotation=90, fontsize=7)
                axis.set_yticks(range(length), names if head == 1 else [], fontsize=7)
            else:
                axis.set(xlabel="item, the oldest first")
                if head == 1:
                    axis.set(ylabel="position")
    return figure


def _draw_map(axis: Axes, weights: np.ndarray) -> None:
    allowed = np.tri(len(weights), dtype=bool)
    # The oldest rows have few items to share among, and would leave all others dark.
    largest = np.abs(weights[len(weights) // 2 :]).max() or 1.0
    signed = bool((weights < 0).any())
    colours, least = ("RdBu_r", -largest) if signed else ("viridis", 0.0)
    image = axis.imshow(np.where(allowed, weights, np.nan), cmap=colours, vmin=least, vmax=largest)
    axis.figure.colorbar(image, ax=axis, shrink=0.7, extend="both" if signed else "max")


def _short(name: str) -> str:
    # matplotlib takes what stands between two dollar signs for a formula
    return (name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…").replace("$", r"\$")


def draw_statistics(layers: list[dict[str, Any]], *, cases: int) -> Figure:
    """The statistics of all layers and heads: bars for single numbers, a curve for the mass by distance.

    Args:
        layers: From `seqgen.diagnosis.attention.measure`.
        cases: Number of test cases they were taken over.
    """
    heads = {
        f"{layer['name']}, head {number}": head
        for layer in layers
        for number, head in enumerate(layer["heads"], start=1)
    }
    bars = {title: {name: head[key] for name, head in heads.items() if key in head} for key, title in BARS.items()}
    bars |= {
        title: {layer["name"]: layer[key] for layer in layers if key in layer} for key, title in LAYER_BARS.items()
    }
    bars = {title: values for title, values in bars.items() if values}
    columns = 3
    lines = -(-(len(bars) + 1) // columns)
    figure = Figure(figsize=(5 * columns, lines * (1.6 + 0.3 * len(heads))), layout="constrained")
    figure.suptitle(f"{cases} test cases")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (title, values) in zip(axes, bars.items(), strict=False):
        drawn = axis.barh([*values][::-1], [*values.values()][::-1])
        axis.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
        axis.margins(x=0.2)
        axis.set_title(title, fontsize=10)
    _draw_mass(axes[len(bars)], heads)
    for axis in axes[len(bars) + 1 :]:
        axis.set_axis_off()
    return figure


def _draw_mass(axis: Axes, heads: dict[str, dict[str, Any]]) -> None:
    for name, head in heads.items():
        axis.plot(head["mass_by_distance"], marker=".", label=name)
    axis.set_title("mass of the newest row by distance", fontsize=10)
    axis.set(xlabel="distance from the newest item", ylim=(0, None))
    axis.legend(fontsize=7)
