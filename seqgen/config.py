"""The composed configuration: found, composed, and built (`seqgen.check` checks it, `seqgen.cli` says what is wrong).

With `seqgen.cli` the place that knows Hydra's and OmegaConf's ways.
"""

import contextlib
import functools
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from seqgen.errors import SettingError, UserError, too_large
from seqgen.sweeps.jobs import MARK

_PACKAGE = Path(__file__).resolve().parent
# A checkout has conf/ beside the package, a wheel inside it.
CONFIG_DIR = str(_PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf")


def compose(overrides: Sequence[str] = (), *, output_dir: str | Path) -> DictConfig:
    """Compose a configuration outside the command line, for notebooks and tests.

    Args:
        overrides: As on the command line, such as `["model=sasrec", "seed=1"]`.
        output_dir: The run's folder.
    """
    if any(text.startswith("ckpt_path=") for text in overrides):
        from seqgen.resume import with_choices

        overrides = with_choices(overrides)
    cfg = composed(overrides)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(output_dir)
        cfg.hydra.job.num = 0
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def composed(overrides: Sequence[str], *, config_name: str = "config") -> DictConfig:
    """What Hydra makes of overrides, its own node `hydra` included.

    Args:
        overrides: As on the command line, without flags.
        config_name: Of a command's configuration.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return hydra_compose(config_name, [*overrides], return_hydra_config=True)


def choices() -> dict[str, str]:
    """Option chosen in each group of the run, where one is."""
    chosen = {str(group): option for group, option in HydraConfig.get().runtime.choices.items()}
    return {group: str(o) for group, o in chosen.items() if o not in (None, "None") and "/" not in group}


def options(group: str) -> list[str]:
    """The options of a group that seqgen's own YAML files are."""
    return sorted(path.stem for path in Path(CONFIG_DIR, group).glob("*.yaml"))


def overrides() -> list[str]:
    """Overrides of the command line."""
    return list(HydraConfig.get().overrides.task)


def is_sweep() -> bool:
    """Whether this run is one job of a --multirun."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def is_job() -> bool:
    """Whether this run is a job of a --multirun, in the sweep's process or in one of its own (`seqgen.sweeps.jobs`)."""
    return is_sweep() or is_marked()


def is_marked() -> bool:
    """Whether this run is a job that its sweep has told what it goes through; the sweep then says how the job ended."""
    return MARK in os.environ


def sweeps_over(*groups: str) -> bool:
    """Whether this run is a job of a --multirun that goes through several choices of one of these groups."""
    if is_marked():
        return not set(groups).isdisjoint(os.environ[MARK].split(","))
    if not is_sweep():
        return False
    swept = {str(key): str(values) for key, values in (HydraConfig.get().sweeper.get("params") or {}).items()}
    given = [argument for argument in sys.argv[1:] if argument.partition("=")[0] in groups]
    parsed = OverridesParser.create().parse_overrides(
        [*given, *(f"{key}={swept[key]}" for key in groups if key in swept)]
    )
    return any(override.is_sweep_override() for override in parsed)


def choose(group: str, option: str) -> None:
    """Change the choice of a group after the configuration is composed."""
    hydra: Any = HydraConfig.get()
    with read_write(hydra), open_dict(hydra):
        hydra.runtime.choices[group] = option


def keep(cfg: DictConfig, folder: Path) -> None:
    """Write `.hydra/` as Hydra would, which does not ask whether the folder is another run's.

    Args:
        cfg: The configuration as composed.
        folder: The run's.
    """
    hydra: Any = HydraConfig.get()
    if hydra.output_subdir is not None:  # it was told to, and has done so
        return
    place = folder / ".hydra"
    place.mkdir(parents=True, exist_ok=True)
    parts = {"config": cfg, "hydra": OmegaConf.create({"hydra": hydra}), "overrides": hydra.overrides.task}
    for name, part in parts.items():
        (place / f"{name}.yaml").write_text(OmegaConf.to_yaml(part), encoding="utf-8")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain resolved containers: what is stored and logged."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


def build(cfg: DictConfig, key: str, *, trust: Collection[str] | None = None, **more: Any) -> Any:
    """Instantiate the node at a key.

    Args:
        cfg: The configuration.
        key: Of the node.
        trust: None where the configuration is the user's own, which may build anything. One that came out of a file
            builds only what seqgen's own YAML files name, and what is defined in these packages.
        more: Arguments that do not come from the configuration.

    Raises:
        UserError: The constructor refuses a value, or a file would build what is not trusted.
    """
    from hydra.utils import instantiate

    if trust is not None:
        _refuse_foreign(OmegaConf.to_container(cfg, resolve=False)[key], key, trust)  # type: ignore[index, call-overload]
    # Called apart from `instantiate`, which would turn arguments that are dataclasses into dictionaries.
    try:
        make = instantiate(cfg[key], _convert_="all", _partial_="_target_" in cfg[key])
    except InstantiationException as error:
        if isinstance(error.__cause__, SettingError):
            raise UserError(_whole(cfg, f"{_failed(key, str(error))}.{error.__cause__}")) from error
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        _refuse(error.__cause__ or error, *_place(cfg, key, str(error)))
        raise
    if not callable(make):
        return make
    if given := [name for name in more if name in cfg[key]]:
        raise UserError(f"{key}.{given[0]} is set by the run itself; remove it.")
    try:
        with settings_of(cfg, key):
            return make(**more)
    except Exception as error:
        if not isinstance(error, UserError):
            _refuse(error, key, str(cfg[key]["_target_"]))
        raise


def _place(cfg: DictConfig, key: str, text: str) -> tuple[str, str]:
    """The key a user sets, and the class or function, of what failed inside a node."""
    target = re.search(r"target '([\w.]+)'", text)
    return _whole(cfg, _failed(key, text)), target[1] if target else ""


def _failed(key: str, text: str) -> str:
    """Which key at or below the one that was built Hydra's error is about."""
    found = re.search(r"full_key: (\S+)\s*$", text)
    return found[1] if found else key


def _refuse(error: BaseException | None, key: str, target: str) -> None:
    """Say in one sentence why a constructor failed, unless the failure is one of ours that needs its trace."""
    text = " ".join(str(error).split())
    if isinstance(error, ImportError):
        raise UserError(f"{key} needs a package that is not installed: {text}") from error
    misconfigured = type(error).__name__ == "MisconfigurationException"  # Lightning's; known without its import
    incomplete = isinstance(error, TypeError) and re.search(r"missing \d+ required", text) is not None
    # The last one is Hydra's own refusal of a target.
    kinds = (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, OSError, AttributeError, HydraException)
    of_others = not target.startswith("seqgen.") and isinstance(error, kinds) and not too_large(error)
    if misconfigured or incomplete or of_others:
        raise UserError(f"{key}: {text}") from error


def refuse_foreign(taken: Mapping[str, Any], trust: Collection[str]) -> None:
    """Refuse, of values that came out of a file, what `build` would not build from one.

    Args:
        taken: The value by its dotted key.
        trust: As of `build`.

    Raises:
        UserError: Names the key.
    """
    for key, value in taken.items():
        path, _, name = key.rpartition(".")
        if name == "_target_":
            _refuse_foreign_target(value, path, trust)
        else:
            _refuse_foreign(value, key, trust)


def _refuse_foreign(node: Any, path: str, trust: Collection[str]) -> None:
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            if name == "_target_":
                _refuse_foreign_target(value, path, trust)
            else:
                _refuse_foreign(value, f"{path}.{name}", trust)
    elif isinstance(node, str) and "${" in node:  # such as an environment variable's value
        raise UserError(f"{path}={node} refers to another value, which a stored configuration does not.")


def _refuse_foreign_target(target: object, path: str, trust: Collection[str]) -> None:
    from hydra.utils import get_object

    target = str(target)
    if target in _own_targets(path.partition(".")[0]):
        return
    package = target.partition(".")[0]
    if package not in trust:
        advice = f"if you trust it and whoever made the file, add trust=[{package}]"
        advice = "the file is of another version" if package == "seqgen" else advice
        raise UserError(f"{path}._target_={target} is none of the parts that seqgen builds from a file; {advice}.")
    # `package.module.os.system` is found by its package's name, but is not the package's.
    try:
        module = str(getattr(get_object(target), "__module__", None))
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}._target_={target} cannot be imported; is {package} installed?") from error
    if module.partition(".")[0] != package:
        raise UserError(f"{path}._target_={target} is defined in {module}, not in the trusted {package}.")


@functools.cache
def _own_targets(group: str) -> frozenset[str]:
    """What seqgen's own YAML files build: of seqgen, and in this group of others (torch's optimisers, Lightning).

    A name below `seqgen.` alone may lead to any imported module.
    """
    names = set()
    for file in Path(CONFIG_DIR).rglob("*.yaml"):
        found = re.findall(r"\b_target_: *([\w.]+)", file.read_text(encoding="utf-8"))
        names |= {name for name in found if name.startswith("seqgen.") or file.is_relative_to(Path(CONFIG_DIR, group))}
    return frozenset(names)


def build_model(cfg: DictConfig, *, catalog: Any) -> Any:
    """Build the model of a configuration, and give it the whole configuration to keep in its checkpoints.

    Args:
        cfg: A run's composed configuration.
        catalog: The items and users of the run's data (`seqgen.data.catalog.Catalog`).

    Raises:
        UserError: The constructor refuses a value.
    """
    model = build(cfg, "model", catalog=catalog)
    model.config = plain(cfg)
    return model


@contextlib.contextmanager
def settings_of(cfg: DictConfig, key: str) -> Iterator[None]:
    """Give a setting that is refused, of what was built from a key, the path that a user sets it by.

    Raises:
        UserError: The refusal, with the whole key.
    """
    try:
        yield
    except SettingError as error:
        raise UserError(_whole(cfg, f"{key}.{error}")) from error


@contextlib.contextmanager
def named_by_the_user(cfg: DictConfig) -> Iterator[None]:
    """Give a refusal that begins with a whole key the key that a user sets, as `loss` for its copy `model.loss`.

    Raises:
        UserError: The refusal.
    """
    try:
        yield
    except UserError as error:
        raise UserError(_whole(cfg, str(error))) from error


def _whole(cfg: DictConfig, text: str) -> str:
    """Replace nodes that are copies of others, as `model.attention` of `attention`, in the key a text begins with."""
    path, node = list[str](), cfg
    key = re.match(r"[\w.]*", text)[0]  # type: ignore[index]
    for part in key.split("."):
        path.append(part)
        if not OmegaConf.is_dict(node) or part not in node:
            continue
        raw = OmegaConf.to_container(node, resolve=False)
        assert isinstance(raw, dict)
        if copied := re.fullmatch(r"\$\{([\w.]+)\}", str(raw[part])):
            path = copied[1].split(".")
        node = node[part]
    return ".".join(path) + text.removeprefix(key)
