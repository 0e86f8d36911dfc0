"""What cannot work in a composed configuration, refused before anything is built.

A key that nothing reads, a value of the wrong type, a choice without effect, a combination that would fail late.
"""

import netrc
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from seqgen.config import CONFIG_DIR, choices, is_sweep, plain
from seqgen.errors import UserError, nearest
from seqgen.metric_table import METRICS, row_of
from seqgen.signatures import check_node, check_type

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
    "trust": list[str],
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
            check_node(container[group], group)
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
        check_type(key, container.get(key), hint)
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
    check_type("metrics.k", lengths, list[int])
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
