"""The composed configuration: found, built, and its errors as one sentence (`seqgen.check` checks it).

The one place that knows Hydra's and OmegaConf's ways; nothing else sees `cfg` but `run`.
"""

import contextlib
import functools
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from seqgen.errors import SettingError, UserError, nearest
from seqgen.jobs import MARK

T = TypeVar("T")
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
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = hydra_compose("config", [*overrides], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(output_dir)
        cfg.hydra.job.num = 0
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


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
    """Whether this run is one job of a --multirun, in the sweep's process or in one of its own (`seqgen.jobs`)."""
    return is_sweep() or MARK in os.environ


def sweeps_over(*groups: str) -> bool:
    """Whether this run is a job of a --multirun that goes through several choices of one of these groups."""
    if MARK in os.environ:
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
            built = re.search(r"full_key: (\S+)\s*$", str(error))
            raise UserError(_whole(cfg, f"{built[1] if built else key}.{error.__cause__}")) from error
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
    built, target = re.search(r"full_key: (\S+)\s*$", text), re.search(r"target '([\w.]+)'", text)
    return _whole(cfg, built[1] if built else key), target[1] if target else ""


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


_failure: list[Exception] = []


def kept(task: Callable[[DictConfig], T], cfg: DictConfig) -> T | None:
    """Run a task below `hydra.main`; an error is kept for `command`, since Hydra would print a line of its own."""
    try:
        return task(cfg)
    except Exception as error:
        if is_sweep():  # the sweep's launcher has to know
            raise
        _failure.append(error)
        return None


def _register_launcher() -> None:
    """Make `hydra/launcher=ray` known also where the package is installed for editing, which Hydra does not search."""
    from hydra.core.plugins import Plugins

    from hydra_plugins.seqgen_ray import RayLauncher

    Plugins.instance().register(RayLauncher)


def command(hydra_main: Callable[[], Any]) -> None:
    """A command line: for an error that the user can correct, one sentence and exit code 1."""
    # Hydra must not print errors itself. The processes that DDP starts inherit both variables.
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1" and "SEQGEN_SENTENCES" not in os.environ
    if not wants_trace:
        os.environ |= {"HYDRA_FULL_ERROR": "1", "SEQGEN_SENTENCES": "1"}
    _register_launcher()
    try:
        hydra_main()
        if _failure:
            raise _failure[0]
    except Exception as error:
        text = sentence(error, sys.argv[1:])
        if wants_trace or text is None:
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"seqgen: {text}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("".join(getattr(error, "__notes__", ["seqgen: stopped before it began"])), file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def sentence(error: BaseException, arguments: Sequence[str]) -> str | None:
    """The one sentence for an error that the user can correct, or None for one that is ours.

    Args:
        error: What was raised.
        arguments: The command line.
    """
    text = str(error).strip()
    if isinstance(error, UserError):
        return text
    if isinstance(error, OverrideParseException):
        return _unread_sentence(str(error.override), arguments)
    if type(error) is ValueError and text.startswith("Config group override must be"):  # Hydra's, of `logger=null`
        return _group_sentence(arguments)
    if too_large(error):
        return f"This needs more memory than there is; set smaller sizes or batches ({' '.join(text.split())[:200]})."
    # Recognised by its name, so that an error at the command line does not wait for the import of Lightning.
    if type(error).__name__ == "MisconfigurationException":
        return f"trainer: {' '.join(text.split())}"
    if isinstance(error, RuntimeError) and re.search(r"[/\[]gloo/|NCCL error|Connection (reset|closed) by peer", text):
        return "Another process of this run was lost; its own output says why. Go on with ckpt_path= of last.ckpt."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, InstantiationException):  # a constructor of ours failed otherwise than by a bad value
        return None
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _hydra_sentence(text, arguments)
    return None


def too_large(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that something does not fit into memory."""
    if error is None:
        return False
    words = r"out of memory|can't allocate memory|Storage size calculation overflowed|Unable to allocate"
    return isinstance(error, MemoryError) or bool(re.search(words, str(error))) or too_large(error.__cause__)


def _unread_sentence(override: str, arguments: Sequence[str]) -> str:
    """The sentence for an argument that Hydra's grammar cannot read."""
    key, equals, value = override.partition("=")
    if equals and not key.isascii():
        return f"{key} is not a key of this configuration{nearest(key, _known_keys(arguments))}."
    if strange := next((letter for letter in value if not letter.isascii()), None):
        quoted = f"""'{key}="{value}"'""" if re.fullmatch(r"[^\[\]{}'\",]*", value) else """'tags=["größe"]'"""
        return f"{override!r} cannot be read: a text with a letter such as {strange} needs quotes of its own: {quoted}."
    return f"{override!r} cannot be read as key=value; quote it where it holds brackets, commas or spaces."


def _group_sentence(arguments: Sequence[str]) -> str:
    """The sentence for a value such as null where the name of an option is needed."""
    for argument in arguments:
        group, _, option = argument.lstrip("+~").partition("=")
        if not group:
            return _unread_sentence(argument, arguments)
        if (known := options(group)) and option not in known and "," not in option:
            return f"{group}={option} does not exist; choose one of {', '.join(known)}."
    return "A group is set to something that is no option; choose one by its name (see --help)."


def _hydra_sentence(text: str, arguments: Sequence[str]) -> str:
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]} lists several choices, which makes a sweep: add --multirun (-m)."
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"{found[1]} is not a key of this configuration{nearest(found[1], _known_keys(arguments))}."
    if found := re.search(r"Could not find '([^']+)/([^/']+)'", text):
        options = [line.strip() for line in text.partition("Available options")[2].splitlines()[1:] if line.strip()]
        options = [option for option in options if re.fullmatch(r"[\w-]+", option)]
        listed = f" choose one of {', '.join(options)}" if options else " see --help"
        return f"{found[1]}={found[2]} does not exist{nearest(found[2], options)};{listed}."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0] if lines else "unknown error") + " (see --help for the keys and choices)."


def _known_keys(arguments: Sequence[str]) -> list[str]:
    """All keys of the configuration that the group choices of a command line give."""
    chosen = [a for a in arguments if re.match(r"\w+=[\w-]+$", a) and Path(CONFIG_DIR, a.split("=")[0]).is_dir()]
    chosen += [a for a in arguments if a.startswith("hydra.searchpath=")]
    GlobalHydra.instance().clear()
    try:
        # What there is to warn of was warned of when the command line was composed.
        with warnings.catch_warnings(action="ignore"), initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            cfg = hydra_compose("config", chosen)
    except HydraException:
        return []
    keys = [part.name for part in Path(CONFIG_DIR).iterdir() if part.is_dir()]

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            keys.append(f"{prefix}{key}")
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")

    walk(OmegaConf.to_container(cfg, resolve=False), "")
    return keys
