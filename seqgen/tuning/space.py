"""Search spaces in Hydra's words for sweeps, such as `tag(log, interval(1e-4, 1e-2))`. Free of torch.

A space is a mapping from the key of a setting to the text that stands in `hydra.sweeper.params` or on the command line.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException

from seqgen.errors import UserError
from seqgen.settings import key_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

WORDS = "interval(0.0, 0.5), tag(log, interval(1e-4, 1e-2)), int(interval(1, 4)), range(1, 4) or choice(32, 64)"
MANY = 1_000_000  # values of a range that are too many to be one
DIGITS = 4  # significant digits of a number that is drawn: more only make commands longer
# A study finds the best settings of one model on one data set: values of these would not be compared, but mixed up.
ONE_OF = ("model", "attention", "data", "experiment", "hparams_search", "seed", "monitor", "metrics.k")


def split(given: Mapping[str, Any], arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Divide the settings of a study into those that are searched and those that are fixed.

    Args:
        given: Key -> value or space, as in `hydra.sweeper.params`.
        arguments: Overrides of the command line, which count more.

    Returns:
        The search space, and the overrides that all trials share.

    Raises:
        UserError: A space cannot be read, or is of a setting that a study cannot search.
    """
    typed = {key_of(argument): argument for argument in arguments}
    texts = [f"{key}={_text(value)}" for key, value in given.items() if key not in typed]
    space: dict[str, str] = {}
    fixed: list[str] = []
    for text in [*texts, *typed.values()]:
        override = _parsed(text)
        if override.is_sweep_override():
            space[override.get_key_element()] = text.partition("=")[2]
        else:
            fixed.append(text)
    for key, value in space.items():
        if key.lstrip("+") in ONE_OF or key.endswith(".seed"):
            raise UserError(f"{key}={value}: a study tunes one model on one data set; choose one, or a study for each.")
    return space, fixed


def _text(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"{text} cannot be read as a search space; write {WORDS}.") from error


def distributions(space: Mapping[str, str]) -> "dict[str, BaseDistribution]":
    """What Optuna draws from for each key of a space.

    Raises:
        UserError: Names the key whose space is empty, endless or no space.
    """
    return {key: _distribution(f"{key}={text}", _parsed(f"{key}={text}")) for key, text in space.items()}


def _distribution(text: str, override: Override) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    is_interval = isinstance(value, IntervalSweep)
    if tags - ({"log"} if is_interval else set()):
        raise UserError(f"{text} has a tag without effect; tag(log, interval(1e-4, 1e-2)) is the one that counts.")
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"{text} holds nothing to choose from; write interval(lowest, highest) with finite ends.")
        log = "log" in tags
        if log and low <= 0:
            raise UserError(f"{text} must begin above 0, since it is drawn on a logarithmic scale.")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(low, high, log=log)
    if getattr(value, "shuffle", False):
        raise UserError(f"{text} is drawn at random anyway; leave shuffle() out.")
    if isinstance(value, RangeSweep):
        return _of_range(text, value)
    # As texts: an override is made of them again, and Optuna takes no lists.
    listed = override.is_discrete_sweep() and not isinstance(value, Glob)
    choices = list(dict.fromkeys(override.sweep_string_iterator())) if listed else []
    if len(choices) < 2:
        raise UserError(f"{text} holds nothing to choose from; write {WORDS}.")
    return CategoricalDistribution(choices)


def _of_range(text: str, value: RangeSweep) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    assert value.start is not None
    assert value.stop is not None
    step = abs(value.step)
    values = list(value.range()) if step and abs(value.stop - value.start) / step < MANY else []
    if len(values) < 2:
        raise UserError(f"{text} holds nothing to choose from; write range(first, end, step), whose end is left out.")
    if all(isinstance(number, int) for number in (*values, step)):
        return IntDistribution(int(min(values)), int(max(values)), step=int(step))
    return FloatDistribution(min(values), max(values), step=step)


def within(settings: Mapping[str, Any], space: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of the trial that is nearest to a configuration: numbers moved into their space.

    Args:
        settings: Key -> value as composed; keys that are not there are left out.
        space: The search space.

    Returns:
        Key -> value as Optuna takes it, without choices that the space does not have.
    """
    found: dict[str, Any] = {}
    for key, drawn in distributions(space).items():
        value = settings.get(key)
        if hasattr(drawn, "choices"):
            same = [text for text in drawn.choices if values([f"{key}={text}"]) == {key.lstrip("+"): value}]
            if same:
                found[key] = same[0]
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high, step = drawn.low, drawn.high, drawn.step  # type: ignore[attr-defined]
            inside = min(max(value, low), high)
            found[key] = low + round((inside - low) / step) * step if step and not drawn.log else inside  # type: ignore[attr-defined]
    return found


def overrides(parameters: Mapping[str, Any], space: Mapping[str, str]) -> list[str]:
    """The overrides that a trial's parameters are: numbers rounded, within their space.

    Args:
        parameters: Key -> value, as Optuna drew it.
        space: The search space.
    """
    drawn_from = distributions(space)
    texts = []
    for key, value in parameters.items():
        shown = value
        if isinstance(value, float):
            low, high = getattr(drawn_from[key], "low", value), getattr(drawn_from[key], "high", value)
            shown = min(max(float(f"{value:.{DIGITS}g}"), low), high)
        texts.append(f"{key}={shown}")
    return texts


def values(overrides: Sequence[str]) -> dict[str, Any]:
    """Key -> value of some overrides, as Hydra reads it."""
    parsed = (OverridesParser.create().parse_override(text) for text in overrides)
    return {override.get_key_element(): override.value() for override in parsed}
