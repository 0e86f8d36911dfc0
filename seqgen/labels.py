"""What tells groups of runs apart, in few words. Free of torch and of Hydra."""

from collections.abc import Collection, Mapping, Sequence

# Choices that say nothing about a run's outcome, and those that stand in the row's name already.
UNSAID = ("logger", "paths", "hydra", "local", "hparams_search", "model", "attention", "data")
# Choices whose settings lie in other groups.
WIDE = ("experiment", "debug")


def distinguish(
    settings: Sequence[Mapping[str, str]], choices: Sequence[Mapping[str, str]], typed: Collection[str]
) -> list[str]:
    """Tell groups apart by choices such as `loss=bce`, by the keys that were typed, and by others where needed.

    A setting that follows from what is shown, as `model.ffn_dim` from `model.hidden_dim`, is left out.

    Args:
        settings: Of each group, dotted key -> JSON text.
        choices: Of each group, the option chosen in each group of the configuration.
        typed: Keys that stood on a command line.

    Returns:
        Of each group what is to be added to its name, such as `, loss=bce, model.dropout=0.2`.
    """
    parts: list[list[str]] = [[] for _ in settings]
    keys = sorted({key for node in settings for key in node}, key=lambda key: (key.count("."), key))
    values = {key: [node.get(key) for node in settings] for key in keys}
    values = {key: found for key, found in values.items() if len(set(found)) > 1}
    for group in dict.fromkeys(name for chosen in choices for name in chosen):
        place = group.partition("@")[2] or group
        matters = group in WIDE or any(key == place or key.startswith(f"{place}.") for key in values)
        options = [chosen.get(group) for chosen in choices]
        if group not in UNSAID and matters and len(set(options)) > 1:
            _add(parts, group, options)
    for key in values:
        if key in typed:
            _add(parts, key, values[key])
    for key, found in values.items():
        same = {tuple(part) for part in parts}
        split = {(*part, value) for part, value in zip(parts, found, strict=True)}
        names = any(not part and value is not None for part, value in zip(parts, found, strict=True))
        if key not in typed and (len(split) > len(same) or names):
            _add(parts, key, found)
    return ["".join(f", {text}" for text in part) for part in parts]


def _add(parts: list[list[str]], key: str, values: Sequence[str | None]) -> None:
    bare = [value and value.strip('"') for value in values]
    shown = bare if len(set(bare)) == len(set(values)) else values  # "1" is not 1
    for part, value in zip(parts, shown, strict=True):
        if value is not None:
            part.append(f"{key}={value}")
