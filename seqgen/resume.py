"""A run that goes on from a checkpoint: whose configuration it has, what it may change, and how far it trains.

`ckpt_path=` alone is enough: the checkpoint's own configuration, changed by the rest of the command line.
"""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqgen import config
from seqgen.checkpoint import read_checkpoint, stored_config
from seqgen.errors import UserError
from seqgen.settings import flatten, key_of

# What a resumed run must share with the run it goes on from: its state was made with these.
SHARED = ("seed", "monitor", "data", "diffusion", "attention", "loss", "optimizer", "scheduler", "model", "callbacks")
# Keys below them that change cost or place, not the training.
FREE = re.compile(
    r"data\.(cache_dir|source\.data_dir|source\.url|eval_batch_size|num_workers|storage)"
    r"|model\.shard_items|callbacks\.(\w+\.dirpath|best\.resumed_from)"
)
# What the command line decides, whatever the checkpoint says: what is done, and the places on this machine.
OF_THE_COMMAND = ("ckpt_path", "train", "trust", "paths", "data.cache_dir", "data.source.data_dir", "data.source.url")
DEVICES = ("accelerator", "devices", "num_nodes", "strategy")
# Choices that are not handed on: of Hydra, of a machine, and of a sweep, whose values are in the configuration.
NOT_HANDED_ON = ("hydra", "paths", "local", "hparams_search")


def with_choices(arguments: Sequence[str]) -> list[str]:
    """A command line with `ckpt_path=`, and the choices of the checkpoint's run that it does not make itself.

    Hydra then knows the keys of the checkpoint's model and data.

    Args:
        arguments: Overrides, and any flags of Hydra.
    """
    given_paths = [a for a in arguments if a.startswith("ckpt_path=")]
    try:
        path = OverridesParser.create().parse_overrides(given_paths)[-1].value()
        checkpoint = _newest(str(path), resumed=True)[1]
    except (HydraException, UserError, LookupError):  # none; or the run itself says so, on record
        return list(arguments)
    stored = _choices(checkpoint)
    given = {key.lstrip("+"): value for key, _, value in (a.partition("=") for a in arguments)}
    if any(name in given and given[name] != stored.get(name) for name in ("model", "experiment")):
        return list(arguments)
    new = [f"{g}={option}" for g, option in stored.items() if g not in given and _file(g, option).is_file()]
    # Beside it: flags of Hydra may stand before and behind, but not between overrides.
    place = arguments.index(given_paths[-1])
    return [*arguments[:place], *new, *arguments[place:]]


def continued(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """The configuration of a run from a checkpoint: the checkpoint's, but for what the command line says.

    Args:
        cfg: As composed; without `ckpt_path` it is the answer.

    Returns:
        The configuration, and the overrides that lead to it.

    Raises:
        UserError: The checkpoint cannot be read, or its configuration names what is not trusted.
    """
    if not isinstance(cfg.ckpt_path, str):
        return cfg, config.overrides()
    path, checkpoint = _newest(cfg.ckpt_path, resumed=cfg.train, say=True)
    cfg = cfg.copy()
    cfg.ckpt_path = path
    stored = _plain(stored_config(checkpoint, path))
    choices = _choices(checkpoint)
    touched = _touched(cfg, choices)
    if touched is None or not choices:  # another model or experiment, or an old checkpoint: as composed
        return cfg, config.overrides()
    if "${" in json.dumps(stored, default=str):
        raise UserError(f"{path} has a configuration that refers to other values, which no run of seqgen writes.")
    if not cfg.train:
        touched |= {"test"}
    merged = _Merged(cfg, stored, touched)
    merged.refuse_untrusted(path, cfg.trust)
    # In a sweep over checkpoints the choices were composed for none of them.
    given = {key_of(text) for text in config.overrides()}
    for group, option in choices.items():
        if group not in given:
            config.choose(group, option)
    now = [o for o in config.overrides() if o != f"{key_of(o)}={choices.get(key_of(o))}"]
    keys = {key_of(text) for text in now}
    kept = [o for o in checkpoint["record"]["overrides"] if key_of(o) not in keys and key_of(o) != "ckpt_path"]
    return merged.config(), [*(o for o in kept if not o.startswith(("hydra.", "paths."))), *now]


def _newest(path: str, *, resumed: bool, say: bool = False) -> tuple[str, dict[str, Any]]:
    """A checkpoint, or to resume in place of a broken one the newest other of its folder."""
    try:
        return path, read_checkpoint(path)
    except UserError as error:
        broken = Path(path).is_file() or Path(path).name == "last.ckpt"
        others = {}
        for other in Path(path).parent.glob("*.ckpt") if resumed and broken else ():
            try:
                found = read_checkpoint(other)
                refuse_unresumable(found, str(other))
            except UserError:
                continue
            others[found["epoch"]] = (str(other), found)
        if not others:
            raise UserError(f"ckpt_path={error}") from error
        epoch = max(others)
        if say:
            print(f"Warning: {error} The run goes on from {others[epoch][0]}, after epoch {epoch}.")
        return others[epoch]


def _choices(checkpoint: dict[str, Any]) -> dict[str, str]:
    choices = checkpoint.get("record", {}).get("choices", {})
    texts = {str(group): str(option) for group, option in choices.items() if group not in NOT_HANDED_ON}
    return {g: o for g, o in texts.items() if re.fullmatch(r"\w+(@[\w.]+)?", g) and re.fullmatch(r"[\w-]+", o)}


def _file(group: str, option: str) -> Path:
    return Path(config.CONFIG_DIR, group.partition("@")[0], f"{option}.yaml")


def _plain(node: Any) -> dict[str, Any]:
    """A node as plain containers, its references unresolved."""
    container = OmegaConf.to_container(node, resolve=False)
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


def _touched(cfg: DictConfig, stored: dict[str, str]) -> set[str] | None:
    """Keys that the command line decides; None where it chooses another model or experiment.

    A group's choice that the run had already decides nothing.
    """
    now, touched = config.choices(), set(OF_THE_COMMAND)
    for text in config.overrides():
        group, option = key_of(text), text.partition("=")[2]
        if group not in now and not Path(config.CONFIG_DIR, group).is_dir():
            touched.add(group)
            continue
        if stored.get(group) == now.get(group):
            continue
        if group in ("model", "experiment"):
            return None
        file = _file(group, option)
        content = file.read_text(encoding="utf-8") if file.is_file() else ""
        if group == "trainer":  # what the choice says of itself; the number of epochs stays
            usual, chosen = (_plain(node) for node in (OmegaConf.load(_file("trainer", "auto")), cfg.trainer))
            touched |= {f"trainer.{k}" for k, v in chosen.items() if k in DEVICES or v != usual.get(k)}
        elif "@package _global_" in content:
            named = _plain(OmegaConf.create(content))
            touched |= {group, *flatten({key: value for key, value in named.items() if key != "defaults"})}
        else:
            touched.add(group.partition("@")[2] or group)
    return touched


class _Merged:
    """A stored configuration over a composed one, whose references to other keys stay where they gave what is stored.

    Args:
        cfg: As composed.
        stored: Plain and resolved, out of a file.
        touched: Keys that stay as composed.
    """

    def __init__(self, cfg: DictConfig, stored: dict[str, Any], touched: Collection[str]) -> None:
        self.touched = touched
        self.stored = OmegaConf.create(stored)
        self.own = config.plain(cfg)
        self.taken: dict[str, Any] = {}  # by key, what came out of the file
        self.raw = _plain(cfg)
        self._merge(self.raw, self.own, stored, "")

    def config(self) -> DictConfig:
        return OmegaConf.create(self.raw, flags={"struct": True})

    def _merge(self, raw: dict[str, Any], own: dict[str, Any], stored: dict[str, Any], path: str) -> None:
        for name in list(dict.fromkeys([*own, *stored])):
            key = f"{path}{name}"
            if key in self.touched or (name not in stored and not path):
                continue
            now, then = raw.get(name), stored.get(name)
            if name not in stored:
                del raw[name]
            elif isinstance(now, dict) and (isinstance(then, dict) or self._touches_below(key)):
                self._merge(now, own[name], then if isinstance(then, dict) else {}, f"{key}.")
            elif not self._refers(now, then, key):
                raw[name] = then
                if name not in own or own[name] != then:
                    self.taken[key] = then

    def _touches_below(self, key: str) -> bool:
        return any(other.startswith(f"{key}.") for other in self.touched)

    def _refers(self, raw: Any, stored: Any, key: str) -> bool:
        """Whether a reference, resolved within the stored configuration, gives the stored value."""
        if not (isinstance(raw, str) and "${" in raw):
            return False
        OmegaConf.update(self.stored, key, raw, merge=False)
        try:
            found = OmegaConf.select(self.stored, key)
            return bool(
                (OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found) == stored
            )
        except OmegaConfBaseException:
            return False
        finally:
            OmegaConf.update(self.stored, key, stored, merge=False)

    def refuse_untrusted(self, path: str, trust: Sequence[str]) -> None:
        """Refuse classes that seqgen does not build from a file, and places and addresses that a file chooses.

        Raises:
            UserError: Names the key.
        """
        config.refuse_foreign(self.taken, trust)
        for key, value in self.taken.items():
            group = key.partition(".")[0]
            node = flatten(value, key)
            texts = [json.loads(text) for text in node.values()]
            leads = [t for t in texts if isinstance(t, str) and re.search(r"[/\\]|^\.", t)]
            leads = [t for t in leads if not re.fullmatch(r"(train|val|test)/[\w@]+", t)]
            named = [k for k in node if re.search(r"\.(dirpath|save_dir|default_root_dir|root_dir|dir)$", k)]
            unknown = group == "logger" and (OmegaConf.select(OmegaConf.create(self.own), key) is None)
            if group in ("logger", "callbacks", "trainer") and (leads or named or unknown):
                raise UserError(
                    f"{path} sets {key}={value}, and a file decides neither where is written nor where is logged to: "
                    f"repeat {key}= on the command line if you mean it."
                )


def refuse_unresumable(checkpoint: dict[str, Any], path: str) -> None:
    """Refuse a checkpoint from which a run cannot go on to the result it would have had.

    Args:
        checkpoint: From `read_checkpoint`.
        path: For the sentence.

    Raises:
        UserError: It holds weights alone, or was written in the middle of an epoch.
    """
    if not checkpoint.get("optimizer_states") or "record" not in checkpoint:
        raise UserError(f"ckpt_path={path} holds weights alone; resume from last.ckpt, or test it with train=false.")
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    if progress["ready"] != progress["processed"]:
        raise UserError(
            f"ckpt_path={path} was written in the middle of epoch {checkpoint['epoch']}, from where the result "
            "would be another; resume from one of an epoch's end, such as last.ckpt (save_on_train_epoch_end: true)."
        )


def refuse_changed_settings(checkpoint: dict[str, Any], settings: dict[str, Any], path: str) -> None:
    """Refuse to resume under other settings, which the checkpoint's state would silently overrule or mix.

    Args:
        checkpoint: From `read_checkpoint`.
        settings: The run's composed configuration.
        path: For the sentence.

    Raises:
        UserError: Names the first key that differs.
    """
    kept = checkpoint["seqgen"]["config"]
    theirs, ours = ({key: flatten(node.get(key), key) for key in SHARED} for node in (kept, settings))
    for group in SHARED:
        # Another class has other settings: it is named before them.
        for key in sorted(theirs[group].keys() | ours[group].keys(), key=lambda k: (not k.endswith("._target_"), k)):
            before, now = theirs[group].get(key), ours[group].get(key)
            # model.attention and its like repeat the group; the data's fingerprint speaks for its files.
            if before != now and not FREE.fullmatch(key) and not key.startswith(tuple(f"model.{g}." for g in SHARED)):
                raise UserError(
                    f"{key}={now} differs from {before} in ckpt_path={path}; a resumed run keeps its settings "
                    "(only trainer.* and what is logged may change)."
                )


def last_epoch(checkpoint: dict[str, Any], trainer: dict[str, Any], path: str) -> int:
    """How many epochs the resumed run has in all; as many as the checkpoint, where training is over.

    Args:
        checkpoint: From `read_checkpoint`.
        trainer: Settings of the trainer.
        path: For the sentence.

    Raises:
        UserError: It has trained more epochs than it is given.
    """
    done, wanted = checkpoint["epoch"] + 1, trainer["max_epochs"]
    if done > wanted:
        raise UserError(
            f"ckpt_path={path} has trained {done} epochs already; set trainer.max_epochs={done} to test it, or a "
            "larger one to train on."
        )
    # Early stopping is for good, whatever the epochs that trainer.min_epochs adds bring.
    from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

    reasons = [state.get("stopping_reason") for state in checkpoint["callbacks"].values()]
    stopped = any(reason not in (None, EarlyStoppingReason.NOT_STOPPED.value) for reason in reasons)
    return max(done, trainer.get("min_epochs") or 0) if stopped else wanted
