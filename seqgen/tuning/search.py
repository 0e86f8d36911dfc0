"""From a command line to the study that it asks for: what is searched and what is fixed.

The settings of a study are those of `hydra/sweeper=optuna`, which the files of `hparams_search` choose.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from seqgen.config import composed, options
from seqgen.errors import UserError, nearest
from seqgen.settings import flatten, key_of, quoted
from seqgen.signatures import check_type
from seqgen.tuning import space
from seqgen.tuning.study import Pruner, Study

SEARCH = "hparams_search"
FIRST = ("experiment", "model")  # choices that decide others
NUMBERS = ("n_trials", "seed", "startup_trials")


def study_of(arguments: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Study:
    """The study that a command line asks for.

    Args:
        arguments: Overrides as on the command line, Hydra's own among them, such as
            `["hparams_search=sasrec", "data=ml100k", "hydra.sweeper.n_trials=50", "hydra.sweep.dir=out"]`.
        environment: Variables of the trials' processes.

    Raises:
        UserError: The space or a setting of the study is wrong, or the model has nothing to tune.
        HydraException: The configuration cannot be composed.
    """
    ours = [text for text in arguments if not key_of(text).startswith(("hydra.", "hydra/"))]
    hydra = [text for text in arguments if text not in ours]
    cfg = composed([*hydra, *(text for text in ours if not _is_sweep(text))])
    sweeper: Any = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    if not str(sweeper["_target_"]).endswith("OptunaSweeper"):
        raise UserError(f"{_search_file(ours)}is no study: add hydra/sweeper=optuna.")
    for key in NUMBERS:
        check_type(f"hydra.sweeper.{key}", sweeper[key], int)
    if "://" in sweeper["storage"]:
        raise UserError(f"hydra.sweeper.storage={sweeper['storage']} must be a file, which all workers share.")
    searched, fixed = space.split(_params(cfg, sweeper), ours)
    # Jobs find other people's configurations as the study does.
    passed_on = [text for text in hydra if key_of(text) == "hydra.searchpath"]
    start = _check_space(cfg, searched, [*passed_on, *fixed])
    return Study(
        name=str(sweeper["study_name"]),
        storage=Path(sweeper["storage"]).resolve(),
        folder=Path(str(cfg.hydra.sweep.dir)).resolve(),
        space=searched,
        overrides=without_search([*passed_on, *fixed]),
        monitor=str(cfg.monitor),
        start=start,
        n_trials=sweeper["n_trials"],
        seed=sweeper["seed"],
        startup_trials=sweeper["startup_trials"],
        pruner=_pruner(sweeper["pruner"]),
        environment=environment or {},
    )


def _is_sweep(text: str) -> bool:
    try:
        return OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:  # which `composed` raises again, or the search space says in words
        return bool(re.search(r"=\s*(interval|range|choice|tag|int|float|sort|shuffle|glob)\(", text))


def _search_file(arguments: Sequence[str]) -> str:
    return next((f"{text} " for text in arguments if key_of(text) == SEARCH), "")


def _pruner(settings: Mapping[str, Any] | None) -> Pruner | None:
    if settings is None:
        return None
    for key, value in settings.items():
        check_type(f"hydra.sweeper.pruner.{key}", value, int)
    pruner = Pruner(**settings)
    pruner.check()
    return pruner


def _params(cfg: DictConfig, sweeper: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the study's YAML, those for the chosen attention among them."""
    by_attention, kinds = sweeper["params_by_attention"], options("attention")
    if unknown := sorted(set(by_attention) - set(kinds)):
        raise UserError(f"hydra.sweeper.params_by_attention.{unknown[0]} is no attention{nearest(unknown[0], kinds)}.")
    chosen = str(cfg.hydra.runtime.choices.get("attention"))
    return {**sweeper["params"], **(by_attention.get(chosen) or {})}


def _check_space(cfg: DictConfig, searched: dict[str, str], fixed: Sequence[str]) -> dict[str, Any]:
    """Refuse what has nothing to tune, and keys that the configuration does not have.

    Returns:
        The parameters of the configuration as it is, moved into the space.
    """
    if cfg.get("optimizer") is None:
        raise UserError(f"model={cfg.hydra.runtime.choices.model} is not trained by steps, and has nothing to tune.")
    if not searched:
        searches = ", ".join(name for name in options(SEARCH) if name in options("model"))
        raise UserError(
            f"hydra.sweeper.params is empty; choose {SEARCH}= ({searches}), or name what to search, such as "
            "optimizer.lr='tag(log, interval(1e-4, 1e-2))'."
        )
    firsts = {}
    for key, drawn in space.distributions(searched).items():
        firsts[key] = drawn.choices[0] if hasattr(drawn, "choices") else drawn.low  # type: ignore[attr-defined]
    composed([*fixed, *space.overrides(firsts, searched)])
    found = {}
    for key in searched:
        value = OmegaConf.select(cfg, key_of(key))
        plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        found[key] = cfg.hydra.runtime.choices.get(key, plain)
    return space.within(found, searched)


def without_search(fixed: Sequence[str]) -> list[str]:
    """Overrides that compose the same without `hparams_search=`, so that trials and winner are runs of their own.

    Args:
        fixed: Overrides of single runs.
    """
    kept = [text for text in fixed if key_of(text) != SEARCH]
    if len(kept) == len(fixed):
        return kept
    wanted, now = composed(fixed), composed(kept)
    choices = {str(k): option for k, option in wanted.hydra.runtime.choices.items() if not str(k).startswith("hydra")}
    choices.pop(SEARCH)
    for group in sorted(choices, key=lambda group: group not in FIRST):
        if now.hydra.runtime.choices.get(group) != choices[group]:
            kept.append(f"{group}={'null' if choices[group] is None else choices[group]}")
            now = composed(kept)
    have, need = (flatten(_task(cfg)) for cfg in (now, wanted))
    for key, text in need.items():
        if have.get(key) != text:
            value = json.loads(text)
            kept.append(f"{'' if key in have else '+'}{key}={quoted(value) if isinstance(value, str) else text}")
    return kept


def _task(cfg: DictConfig) -> dict[str, Any]:
    whole = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(whole, dict)
    return {str(key): value for key, value in whole.items() if key != "hydra"}
