"""What cannot work in a composed configuration, refused before anything is built.

A key that nothing reads, a value of the wrong type, a choice without effect, a combination that would fail late, a run
that would finish without meaning, a folder that another run has.
"""

import datetime
import functools
import math
import netrc
import os
import pkgutil
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from seqgen.config import choices, choose, is_job, named_by_the_user, options, plain, sweeps_over
from seqgen.errors import UserError, nearest
from seqgen.metric_table import METRICS, row_of
from seqgen.results import is_alive, read_results
from seqgen.settings import REFERRED_GROUPS
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
GROUPS = ("data", *REFERRED_GROUPS, "model", "trainer", "callbacks", "logger")
OPTIONAL_GROUPS = (*REFERRED_GROUPS, "callbacks", "logger")
# Groups that build nothing, with their keys.
FIXED_KEYS: dict[str, dict[str, Any]] = {
    "metrics": {"k": list[int]},
    "paths": {"data_dir": str, "cache_dir": str, "output_dir": str},
    "sweep": {"resume": bool},
    "show": {"users": int, "pictures": bool},
}


def check_shape(cfg: DictConfig) -> None:
    """Refuse a configuration that lacks a key or a group of the run, or its folder, before anything is read from it.

    Raises:
        UserError: Names the key or group.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    for key in RUN_KEYS:
        if key not in raw:
            raise UserError(f"{key} is not given: set {key}=.")
    for group in (*GROUPS, *FIXED_KEYS):
        node = raw.get(group)
        if (isinstance(node, dict) and node) or (group in raw and node is None and group in OPTIONAL_GROUPS):
            continue
        listed = [option for option in options(group) if option != "none" or group in OPTIONAL_GROUPS]
        advice = f"choose one of {', '.join(listed)}" if listed else f"it holds {', '.join(FIXED_KEYS[group])}"
        raise UserError(f"{group}={node} is not a group of settings; {advice}.")
    for group, hints in FIXED_KEYS.items():
        known = [f"{group}.{name}" for name in hints]
        for key in raw[group]:
            if key not in hints:
                raise UserError(f"{group}.{key} is a key that nothing reads; choose one of {', '.join(known)}.")
        for key, hint in hints.items():
            if key not in raw[group]:
                raise UserError(f"{group}.{key} is not given: set {group}.{key}=.")
            check_type(f"{group}.{key}", plain(cfg[group])[key], hint)


def drop_unused(cfg: DictConfig) -> None:
    """In a job of a sweep over models, take out what its model has no use for, and print so; alone it is refused."""
    if not sweeps_over("model", "experiment"):
        return
    for key in unused(cfg):
        without = False if key == "compile" else None
        then, now = ("true", "false") if key == "compile" else (choices()[key], "none")
        _say(f"model={choices()['model']} has no use for {key}={then}: its jobs have {key}={now}.")
        cfg[key] = without
        if key != "compile":
            choose(key, "none")


def unused(cfg: DictConfig) -> list[str]:
    """What is set but has no effect on the model: groups that nothing refers to, and `compile`."""
    referred = _referred(cfg)
    groups = [group for group in REFERRED_GROUPS if cfg.get(group) is not None and group not in referred]
    return [*groups, *(["compile"] if cfg.get("compile") and "optimizer" not in referred else [])]


@functools.cache
def _say(text: str) -> None:
    """Print a line, once for all jobs of a sweep."""
    print(text)


def check_folder(cfg: DictConfig) -> None:
    """Refuse the folder of a run that is going on in another process, or of a finished one that is not resumed there.

    Raises:
        UserError: Names the folder.
    """
    folder = Path(cfg.paths.output_dir)
    there = read_results(folder)
    if there is None:  # or none of ours
        return
    pid = there.get("pid")
    if pid != os.getpid() and is_alive(there):
        raise UserError(f"{folder} is the folder of a run that is going on (process {pid}); choose another folder.")
    resumed = cfg.train and cfg.ckpt_path is not None and folder.resolve() in Path(cfg.ckpt_path).resolve().parents
    if there.get("status") == "finished" and not resumed:
        advice = "go on with the sweep by sweep.resume=true, or choose" if is_job() else "choose"
        raise UserError(f"{folder} holds a finished run, which would be lost; {advice} another folder, or remove it.")


def check(cfg: DictConfig) -> None:
    """Refuse, before anything is built, what would fail late or have no effect.

    Raises:
        UserError: Names the key and says what to do.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{missing[0]} is not given: set {missing[0]}=.")
    check_shape(cfg)
    _check_numbers(OmegaConf.to_container(cfg, resolve=False), "")
    _check_run_keys(cfg)
    _check_groups(cfg)
    container = plain(cfg)
    _check_nodes(cfg, container)
    if not cfg.train and not cfg.test:
        raise UserError("train=false test=false leaves nothing to do; set one of them to true.")
    if cfg.ckpt_path is not None and not Path(cfg.ckpt_path).is_file():
        raise UserError(
            f"ckpt_path={cfg.ckpt_path} is not a file; name a checkpoint such as .../checkpoints/last.ckpt."
        )
    _check_trainer(cfg)
    _check_monitors(cfg, container)
    check_wandb(cfg)
    if "hparams_search" in choices() and not is_job():
        raise UserError("hparams_search= has no effect on a single run; add --multirun.")
    for text in [] if is_job() else HydraConfig.get().overrides.hydra:
        if text.startswith(("hydra/sweeper=", "hydra/launcher=")):
            raise UserError(f"{text} has no effect on a single run; add --multirun.")
    if cfg.sweep.resume and not is_job():
        raise UserError(
            "sweep.resume=true has no effect on a single run; add --multirun, or resume it with ckpt_path=."
        )


def _check_numbers(node: Any, path: str) -> None:
    """Refuse numbers that no setting can have, wherever they stand."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            _check_numbers(value, f"{path}.{name}" if path else str(name))
    elif isinstance(node, float) and not math.isfinite(node):
        raise UserError(f"{path}={node} must be a finite number.")
    elif isinstance(node, int) and abs(node) >= 2**63:
        raise UserError(f"{path} must be a smaller number: one of 64 bits.")


def _check_nodes(cfg: DictConfig, container: dict[str, Any]) -> None:
    """Hold all groups against the signatures of what they build."""
    import pytorch_lightning as L
    from pytorch_lightning.loggers import Logger

    from seqgen.data.datamodule import SequenceDataModule
    from seqgen.model.base import SequentialRecommender
    from seqgen.model.encoded import EncodedRecommender

    made = {"data": SequenceDataModule, "model": SequentialRecommender, "trainer": L.Trainer}
    made |= {f"callbacks.{name}": L.Callback for name in container["callbacks"] or {}}
    made |= {f"logger.{name}": Logger for name in container["logger"] or {}}
    with named_by_the_user(cfg):
        # By its own keys first: the sentence about a copy, as `model.loss`, would propose keys of the copy.
        for group in filter(container.get, REFERRED_GROUPS):
            check_node(container[group], group)
        for key, product in made.items():
            group, _, name = key.partition(".")
            node = container[group][name] if name else container[group]
            check_node(node, key, product, given=("catalog",) if key == "model" else ())
    read, given = container["model"].get("max_len"), container["data"].get("max_len")
    model = pkgutil.resolve_name(container["model"]["_target_"])
    encoded = isinstance(model, type) and issubclass(model, EncodedRecommender)
    if encoded and isinstance(read, int) and isinstance(given, int) and read < given:
        raise UserError(f"model.max_len={read} is below data.max_len={given}; set data.max_len, which both follow.")


def _check_trainer(cfg: DictConfig) -> None:
    """Refuse limits under which a run would finish without training or testing anything."""
    trainer = cfg.trainer
    epochs = trainer.get("max_epochs")
    if epochs is None or epochs < 1:
        raise UserError(f"trainer.max_epochs={epochs} must be at least 1: warm-ups and schedules count in epochs.")
    if (trainer.get("min_epochs") or 0) > epochs:
        raise UserError(f"trainer.min_epochs={trainer.min_epochs} is above trainer.max_epochs={epochs}.")
    if cfg.train:
        for key in ("limit_train_batches", "max_steps"):
            if trainer.get(key) == 0:
                raise UserError(f"trainer.{key}={trainer[key]} leaves nothing to train; raise it, or set train=false.")
        _check_max_time(plain(trainer).get("max_time"))
    clips, fused = trainer.get("gradient_clip_val"), (cfg.get("optimizer") or {}).get("fused")
    if clips and fused and str(trainer.get("precision")).endswith("-mixed"):
        raise UserError(
            f"trainer.gradient_clip_val={clips} with trainer.precision={trainer.precision} needs optimizer.fused=false."
        )
    without = {"gradient_clip_val": "gradients are not clipped", "val_check_interval": "once an epoch"}
    for key, otherwise in without.items():
        value = trainer.get(key)
        if value is not None and value <= 0:
            raise UserError(f"trainer.{key}={value} must be above 0, or null: {otherwise}.")
    if cfg.test and trainer.get("limit_test_batches") == 0:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to test; set test=false.")


def _check_max_time(value: Any) -> None:
    if value is None:
        return
    parts = re.fullmatch(r"(\d+):(\d+):(\d+):(\d+)", value) if isinstance(value, str) else None
    try:
        named = zip(("days", "hours", "minutes", "seconds"), map(int, parts.groups()), strict=True) if parts else value
        length = datetime.timedelta(**dict(named))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"trainer.max_time={value} must be days:hours:minutes:seconds, such as 00:01:30:00.") from error
    if length.total_seconds() <= 0:
        raise UserError(f"trainer.max_time={value} leaves no time to train; raise it, or set train=false.")


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
    every, epochs = cfg.trainer.get("check_val_every_n_epoch"), cfg.trainer.max_epochs
    unvalidated = {"limit_val_batches": cfg.trainer.get("limit_val_batches") == 0}
    unvalidated["check_val_every_n_epoch"] = every is not None and every > epochs
    for key, without in unvalidated.items():
        if without and len(monitors(container)) > 1 and cfg.train:
            raise UserError(
                f"trainer.{key}={cfg.trainer[key]} leaves callbacks without the metric they watch; use callbacks=none."
            )


def monitors(container: dict[str, Any]) -> dict[str, str]:
    """The metrics that a plain configuration has watched, by key."""
    nodes = (container["callbacks"] or {}).items()
    own = {f"callbacks.{name}.monitor": node["monitor"] for name, node in nodes if node.get("monitor") is not None}
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
    known = [*RUN_KEYS, *GROUPS, *FIXED_KEYS]
    for key in map(str, cfg):
        if key not in known:
            raise UserError(f"{key} is a key that nothing reads{nearest(key, known)}; remove it.")
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    for key, hint in RUN_KEYS.items():
        check_type(key, container.get(key), hint)
    for group in ("callbacks", "logger"):
        for name, node in (container[group] or {}).items():
            if not isinstance(node, dict) or "_target_" not in node:
                raise UserError(f"{group}.{name} builds nothing: it has no _target_; remove it.")
    lengths = container["metrics"]["k"]
    if not lengths or min(lengths) < 1:
        raise UserError(f"metrics.k={lengths} must hold at least one list length, each at least 1.")
    if cfg.show.users < 0:
        raise UserError(f"show.users={cfg.show.users} must be at least 0.")
    if not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed} must lie between 0 and {2**32 - 1}.")


def _check_groups(cfg: DictConfig) -> None:
    referred = _referred(cfg)
    chosen = choices()
    for group in REFERRED_GROUPS:
        option, model = chosen.get(group, "none"), chosen.get("model")
        if cfg.get(group) is not None and group not in referred:
            nested = [f", or {name}={option}" for name in chosen if name.startswith(f"{group}@")]
            raise UserError(f"{group}={option} has no effect on model={model}; choose {group}=none{''.join(nested)}.")
        if cfg.get(group) is None and group in referred and group != "scheduler":
            listed = ", ".join(option for option in options(group) if option != "none")
            raise UserError(f"model={model} needs {group}=; choose one of {listed}.")


def _referred(cfg: DictConfig) -> set[str]:
    """The groups that another node refers to."""
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    return {group for node in raw.values() for group in _references(node)}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _references(value)
    elif isinstance(node, str) and (found := re.fullmatch(r"\$\{(\w+)\}", node)):
        yield found[1]
