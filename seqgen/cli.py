"""A command line on a configuration: every error that the user can correct is one sentence and exit code 1."""

import contextlib
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqgen.config import CONFIG_DIR, composed, is_sweep, options
from seqgen.errors import UserError, nearest, too_large
from seqgen.launched import is_first
from seqgen.settings import REFERRED_GROUPS, key_of

T = TypeVar("T")
_failure: list[Exception] = []


def for_each_job(arguments: Sequence[str]) -> list[str]:
    """The command line of a sweep over groups, such as models, whose settings of groups are those of its jobs alone.

    Hydra would hold them against the configuration of the sweep itself, whose model need be none of those it goes
    through; a list of one value it leaves to the jobs.

    Args:
        arguments: Overrides, and any flags of Hydra.
    """
    groups = [a for a in arguments if Path(CONFIG_DIR, key_of(a)).is_dir() and re.search(r"=.*(,|\()", a)]
    if not groups or {"-m", "--multirun"}.isdisjoint(arguments):
        return list(arguments)
    plain = re.compile(r"([a-z]\w*\.[\w.]+)=([^,()]+|\[[^()]*\])")
    found = [(a, plain.fullmatch(a)) for a in arguments]
    of_groups = (*REFERRED_GROUPS, "model")
    return [f"{m[1]}=choice({m[2]})" if m and m[1].partition(".")[0] in of_groups else a for a, m in found]


def as_typed(arguments: Sequence[str]) -> list[str]:
    """A command line without the lists of one value that `for_each_job` makes."""
    return [re.sub(r"=choice\(([^,()]+|\[[^()]*\])\)$", r"=\1", argument) for argument in arguments]


def kept(task: Callable[[DictConfig], T], cfg: DictConfig) -> T | None:
    """Run a task below `hydra.main`; an error is kept for `command`, since Hydra would print a line of its own."""
    try:
        return task(cfg)
    except Exception as error:
        if is_sweep():  # the sweep's launcher has to know
            _forget_locals(error)
            raise
        _failure.append(error)
        return None


def _forget_locals(error: BaseException | None) -> None:
    """Let go of what a failed job held, such as a model on the GPU: its sweep keeps the error to its end."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _register_plugins() -> None:
    """Make ours known to Hydra also where the package is installed for editing, which Hydra does not search."""
    from hydra.core.plugins import Plugins

    plugins = Plugins.instance()  # before ours, since it loads Hydra's own anew, of which ours are subclasses
    from hydra_plugins.seqgen_compare import CompareSweeper
    from hydra_plugins.seqgen_grid import GridSweeper
    from hydra_plugins.seqgen_optuna import OptunaSweeper
    from hydra_plugins.seqgen_ray import RayLauncher

    for plugin in (CompareSweeper, GridSweeper, OptunaSweeper, RayLauncher):
        plugins.register(plugin)


def command(hydra_main: Callable[[], Any]) -> None:
    """A command line: for an error that the user can correct, one sentence and exit code 1."""
    # Hydra must not print errors itself. The processes that DDP starts inherit both variables.
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1" and "SEQGEN_SENTENCES" not in os.environ
    if not wants_trace:
        os.environ |= {"HYDRA_FULL_ERROR": "1", "SEQGEN_SENTENCES": "1"}
    _register_plugins()
    try:
        hydra_main()
        if _failure:
            raise _failure[0]
    except Exception as error:
        text = sentence(error, sys.argv[1:])
        if wants_trace or text is None:
            raise
        if is_first():
            print(f"seqgen: {text}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        if is_first():
            print("".join(getattr(error, "__notes__", ["seqgen: stopped before it began"])), file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


@contextlib.contextmanager
def stopped_in_words(text: str) -> Iterator[None]:
    """Where the context is interrupted, have the user told how what is stopped goes on."""
    try:
        yield
    except KeyboardInterrupt as end:  # `command` prints its notes
        end.add_note(f"seqgen: {text}")
        raise
    except SystemExit:
        print(f"seqgen: {text}", file=sys.stderr)
        raise


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
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, UserError):
        return str(error.__cause__)
    if isinstance(error, InstantiationException):  # a constructor of ours failed otherwise than by a bad value
        return None
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _hydra_sentence(text, arguments)
    return None


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
    chosen = any(argument.startswith("hydra/sweeper=") for argument in arguments)
    if chosen and "In 'hparams_search/" in text and "hydra.sweeper" in text:  # settings that this sweeper does not have
        return "hparams_search= chooses hydra/sweeper=optuna; leave the other hydra/sweeper= out."
    if key := unknown_key(text):
        known = _known_keys(arguments)  # of the first of several models; another need not have the key
        return f"{key} is not a key of this configuration{'' if key in known else nearest(key, known)}."
    if found := re.search(r"Could not find '([^']+)/([^/']+)'", text):
        options = [line.strip() for line in text.partition("Available options")[2].splitlines()[1:] if line.strip()]
        options = [option for option in options if re.fullmatch(r"[\w-]+", option)]
        listed = f" choose one of {', '.join(options)}" if options else " see --help"
        return f"{found[1]}={found[2]} does not exist{nearest(found[2], options)};{listed}."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0] if lines else "unknown error") + " (see --help for the keys and choices)."


def unknown_key(text: str) -> str | None:
    """The key that a configuration lacks, by the text of Hydra's error; None where the error is another one."""
    found = re.search(r"Could not override '([^']+)'", text)
    return found[1] if found else None


def _known_keys(arguments: Sequence[str]) -> list[str]:
    """All keys of the configuration that the group choices of a command line give."""
    chosen = [a for a in arguments if re.match(r"\w+=[\w-]+$", a) and Path(CONFIG_DIR, a.split("=")[0]).is_dir()]
    chosen += [a for a in arguments if a.startswith("hydra.searchpath=")]
    try:
        # What there is to warn of was warned of when the command line was composed.
        with warnings.catch_warnings(action="ignore"):
            name = "compare" if any(a.startswith("compare.") for a in arguments) else "config"
            whole = OmegaConf.to_container(composed(chosen, config_name=name), resolve=False)
    except HydraException:
        return []
    assert isinstance(whole, dict)
    del whole["hydra"]
    keys = [part.name for part in Path(CONFIG_DIR).iterdir() if part.is_dir()]

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            keys.append(f"{prefix}{key}")
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")

    walk(whole, "")
    return keys
