"""A command line on a configuration: every error that the user can correct is one sentence and exit code 1."""

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqgen.config import CONFIG_DIR, composed, is_sweep, options
from seqgen.errors import UserError, nearest, too_large
from seqgen.launched import is_first

T = TypeVar("T")
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
        if is_first():
            print(f"seqgen: {text}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        if is_first():
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
    try:
        # What there is to warn of was warned of when the command line was composed.
        with warnings.catch_warnings(action="ignore"):
            whole = OmegaConf.to_container(composed(chosen), resolve=False)
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
