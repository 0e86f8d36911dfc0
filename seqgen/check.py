"""What is wrong with a composed configuration, told before anything is built.

A key that nothing reads, a value of the wrong type, a choice without effect, a combination that would fail late.
"""

import inspect
import netrc
import os
import pkgutil
import re
import types
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from omegaconf import DictConfig, OmegaConf

from seqgen.config import CONFIG_DIR, choices, is_sweep, plain
from seqgen.errors import UserError, nearest
from seqgen.metric_table import METRICS, row_of

RUN_KEYS: dict[str, Any] = {
    "task": str,
    "seed": int,
    "tags": list[str],
    "train": bool,
    "test": bool,
    "ckpt_path": str | None,
    "compile": bool,
    "monitor": str,
    "print_config": bool,
}
# Groups that build nothing by themselves: something else must refer to them, or they have no effect.
REFERRED_GROUPS = ("diffusion", "attention", "loss", "optimizer", "scheduler")
GROUPS = ("data", *REFERRED_GROUPS, "model", "trainer", "callbacks", "logger")


def check(cfg: DictConfig) -> None:
    """Refuse, before anything is built, what would fail late or have no effect.

    Raises:
        UserError: Names the key and says what to do.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{missing[0]} is not given: set {missing[0]}=.")
    _check_run_keys(cfg)
    _check_groups(cfg)
    container = plain(cfg)
    for group in GROUPS:
        if isinstance(container.get(group), dict):
            _check_node(container[group], group)
    if not cfg.train and not cfg.test:
        raise UserError("train=false test=false leaves nothing to do; set one of them to true.")
    if cfg.ckpt_path is not None and not Path(cfg.ckpt_path).is_file():
        raise UserError(
            f"ckpt_path={cfg.ckpt_path} is not a file; name a checkpoint such as .../checkpoints/last.ckpt."
        )
    epochs = cfg.trainer.get("max_epochs")
    if epochs is None or epochs < 1:
        raise UserError(f"trainer.max_epochs={epochs} must be at least 1: warm-ups and schedules count in epochs.")
    if (cfg.trainer.get("min_epochs") or 0) > epochs:
        raise UserError(f"trainer.min_epochs={cfg.trainer.min_epochs} is above trainer.max_epochs={epochs}.")
    _check_monitors(cfg, container)
    if cfg.test and cfg.trainer.get("limit_test_batches") == 0:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to test; set test=false.")
    check_wandb(cfg)
    if "hparams_search" in choices() and not is_sweep():
        raise UserError("hparams_search= has no effect on a single run; add --multirun.")


def _check_monitors(cfg: DictConfig, container: dict[str, Any]) -> None:
    rows = [row for row in METRICS.values() if row.higher_is_better is not None]
    known = [f"val/{name}" for row in rows for name in row.names(cfg.metrics.k)]
    callbacks = container["callbacks"] or {}
    # A model of somebody else's may log metrics of its own.
    ours = str(container["model"].get("_target_")).startswith("seqgen.")
    for key, value in monitors(container).items():
        watches_training = key != "monitor" and value.startswith("train/")
        if ours and value not in known and not watches_training:
            lengths = f" with K in metrics.k={list(cfg.metrics.k)}"
            raise UserError(f"{key}={value} is no validation metric{lengths}{nearest(value, known)}.")
        mode = "max" if key == "monitor" else callbacks[key.split(".")[1]].get("mode")
        row = row_of(value)
        if row is not None and mode == ("max" if row.smaller_is_better else "min"):
            better, counts = ("small", "largest") if row.smaller_is_better else ("large", "smallest")
            raise UserError(f"{key}={value} is better when {better}, but the {counts} counts as best; choose another.")
    if len(monitors(container)) > 1 and cfg.trainer.get("limit_val_batches") == 0 and cfg.train:
        raise UserError(
            "trainer.limit_val_batches=0 leaves callbacks without the metric they watch; use callbacks=none."
        )


def monitors(container: dict[str, Any]) -> dict[str, str]:
    """The metrics that a plain configuration has watched, by key."""
    nodes = (container["callbacks"] or {}).items()
    own = {f"callbacks.{name}.monitor": node["monitor"] for name, node in nodes if node.get("monitor")}
    return {"monitor": container["monitor"], **own}


def check_wandb(cfg: DictConfig) -> None:
    """W&B would ask for a key at the prompt, which stops a script."""
    wandb = (cfg.logger or {}).get("wandb")
    if wandb is None or wandb.get("offline") or os.environ.get("WANDB_MODE", "online") != "online":
        return
    host = urllib.parse.urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        stored = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        stored = None
    if not os.environ.get("WANDB_API_KEY") and stored is None:
        raise UserError(
            "logger=wandb needs an account: run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline, "
            "or choose logger=csv."
        )


def _check_run_keys(cfg: DictConfig) -> None:
    known = [*RUN_KEYS, *GROUPS, "metrics", "paths"]
    for key in map(str, cfg):
        if key not in known:
            raise UserError(f"{key} is a key that nothing reads{nearest(key, known)}; remove it.")
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    for key, hint in RUN_KEYS.items():
        _check_type(key, container.get(key), hint)
    for group, names in {"metrics": ["k"], "paths": ["data_dir", "cache_dir", "output_dir"]}.items():
        for key in container[group]:
            if key not in names:
                known = [f"{group}.{name}" for name in names]
                raise UserError(f"{group}.{key} is a key that nothing reads; choose one of {', '.join(known)}.")
    for group in ("callbacks", "logger"):
        for name, node in (container[group] or {}).items():
            if not isinstance(node, dict) or "_target_" not in node:
                raise UserError(f"{group}.{name} builds nothing: it has no _target_; remove it.")
    lengths = container["metrics"]["k"]
    _check_type("metrics.k", lengths, list[int])
    if not lengths or min(lengths) < 1:
        raise UserError(f"metrics.k={lengths} must hold at least one list length, each at least 1.")
    if not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed} must lie between 0 and {2**32 - 1}.")


def _check_groups(cfg: DictConfig) -> None:
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    referred = {group: by for by, node in raw.items() for group in _references(node)}
    chosen = choices()
    for group in REFERRED_GROUPS:
        option, model = chosen.get(group, "none"), chosen.get("model")
        if cfg.get(group) is not None and group not in referred:
            nested = [f", or {name}={option}" for name in chosen if name.startswith(f"{group}@")]
            raise UserError(f"{group}={option} has no effect on model={model}; choose {group}=none{''.join(nested)}.")
        if cfg.get(group) is None and group in referred and group != "scheduler":
            options = sorted(path.stem for path in Path(CONFIG_DIR, group).glob("*.yaml") if path.stem != "none")
            raise UserError(f"model={model} needs {group}=; choose one of {', '.join(options)}.")


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _references(value)
    elif isinstance(node, str) and (found := re.fullmatch(r"\$\{(\w+)\}", node)):
        yield found[1]


def _check_node(node: dict[str, Any], path: str, hint: Any = None) -> None:
    """Hold the keys of a node, and of all nodes below it, against the signature of what they build, or a TypedDict."""
    hints: dict[str, Any] = {}
    if is_typeddict(hint):
        hints = get_type_hints(hint)
        if set(node) - set(hints) or hint.__required_keys__ - set(node):
            raise UserError(f"{path}={node} must hold {', '.join(hints)}, and nothing else.")
    if "_target_" in node:
        target = _locate(node["_target_"], path)
        parameters, open_ended = _parameters(target)
        hints = _hints(target)
        for key in node:
            if not key.startswith("_") and key not in parameters and not open_ended:
                names = [f"{path}.{name}" for name in parameters]
                raise UserError(f"{path}.{key} is not a key of {node['_target_']}{nearest(f'{path}.{key}', names)}.")
    for key, value in node.items():
        if isinstance(value, dict):
            _check_node(value, f"{path}.{key}", hints.get(key))
        elif key in hints:
            _check_type(f"{path}.{key}", value, hints[key])


def _locate(name: str, path: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}._target_={name} cannot be imported: {error}.") from error
    return found


def _parameters(target: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names that a target takes, and whether it takes any other; `**settings` of a class of ours are its parent's."""
    names: list[str] = []
    ours = target.__module__.startswith("seqgen.")
    for step in inspect.getmro(target) if isinstance(target, type) and ours else [target]:
        parameters = inspect.signature(step).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names, False
    return names, True


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    classes = reversed(inspect.getmro(target)) if inspect.isclass(target) else ()
    steps = [vars(step)["__init__"] for step in classes if "__init__" in vars(step)] or [target]
    try:
        return {name: hint for step in steps for name, hint in get_type_hints(step).items()}
    except Exception:  # annotations of other people's code that cannot be read are not checked
        return {}


def _check_type(path: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise UserError(f"{path}={value} must be {' or '.join(dict.fromkeys(_described(hint)))}.")


def _described(hint: Any) -> Iterator[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        yield from map(str, arguments)
    elif origin in (Union, types.UnionType):
        for part in filter(_checkable, arguments):
            yield from _described(part)
    elif is_typeddict(hint):
        yield f"a node of {', '.join(get_type_hints(hint))}"
    elif arguments:
        count = f"{len(arguments)} " if origin is tuple and Ellipsis not in arguments else ""
        listed = get_origin(arguments[0]) is Literal
        of = ", ".join(_described(arguments[0])) if listed else getattr(arguments[0], "__name__", "values")
        yield f"a list of {count}{of}"
    else:
        yield {int: "an integer", float: "a number", bool: "true or false", str: "a text"}.get(hint, "null")


def _checkable(hint: Any) -> bool:
    """Whether a plain value can be held against a hint; a class, such as Tensor, says nothing about a number."""
    return hint in (int, float, bool, str, type(None)) or get_origin(hint) is not None


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in filter(_checkable, arguments))
    if is_typeddict(hint):  # of a node, whose keys are looked at, nothing comes here
        return False
    if hint is type(None):
        return value is None
    if origin is Literal:
        return value in arguments
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if origin is tuple and Ellipsis not in arguments:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin in (list, tuple, Sequence) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        parts = [part for part in arguments if part is not Ellipsis]
        return isinstance(value, list) and all(_fits(v, parts[0]) for v in value if parts)
    return True
