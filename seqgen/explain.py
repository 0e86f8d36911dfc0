"""`--help` of the commands on a configuration: the choices, and each key with the comment that stands beside it.

The comments are those of the YAML files that the command line chose; a key without one has what the docstring of the
class says that it feeds. Nothing of ours is imported for that, only read, so that help comes at once.
"""

import ast
import functools
import importlib.util
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from seqgen import cli
from seqgen.config import CONFIG_DIR, composed

FLAGS = ("--help", "-h", "--multirun", "-m")
COLUMN = 44  # where the explanations begin
LEAST = 30  # their width on a narrow terminal
WORDS = ("null", "true", "false")  # YAML takes them for no text
HIDDEN = ("hydra", "paths")  # groups that nobody chooses from


def command(config_name: str, hydra_main: Callable[[], Any]) -> None:
    """A command line on a configuration: its help, or what it does, with its errors as one sentence.

    Args:
        config_name: Of the command's configuration.
        hydra_main: What `hydra.main` made.
    """
    arguments = sys.argv[1:]
    cli.command(functools.partial(print_help, config_name, arguments) if _wants_help(arguments) else hydra_main)


def _wants_help(arguments: Sequence[str]) -> bool:
    """Whether help is asked for, and nothing that only Hydra knows."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    return any(flag in ("--help", "-h") for flag in flags) and all(flag in FLAGS for flag in flags)


def print_help(config_name: str, arguments: Sequence[str]) -> None:
    """Print a command's help, with the configuration as its command line composes it.

    Args:
        config_name: Of the command's configuration.
        arguments: The command line; errors in it are Hydra's.
    """
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    cfg = composed(overrides, config_name=config_name)
    choices = {str(group): option for group, option in cfg.hydra.runtime.choices.items() if "hydra/" not in str(group)}
    folders = [Path(CONFIG_DIR), *_others(cfg)]
    said = [cfg.hydra.help.header, "== Groups (group=option) ==\n"]
    for group in sorted({group.partition("@")[0] for group in choices} - {*HIDDEN}):
        options = {file.stem for folder in folders for file in (folder / group).glob("*.yaml")}
        said += [f"{group}: {', '.join(sorted(options))}"] if options else []
    said.append("\n== Keys (key=value), as this command line composes them ==\n")
    own = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(own, dict)
    del own["hydra"]
    width = max(COLUMN + LEAST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
    lines = _lines(own, _comments(folders, choices))  # type: ignore[arg-type]
    said += [_beside(text, explanation, width) for text, explanation in lines]
    print("\n".join([*said, "", cfg.hydra.help.footer]))  # at once, for a reader who closes the pipe early


def _others(cfg: DictConfig) -> list[Path]:
    """Folders of `hydra.searchpath`, where other people's models lie."""
    folders: list[Path] = []
    for path in cfg.hydra.searchpath or []:
        kind, _, place = str(path).rpartition("://")
        found = importlib.util.find_spec(place) if kind == "pkg" else None
        folders += map(Path, (found and found.submodule_search_locations) or ([] if kind == "pkg" else [place]))
    return folders


def _beside(text: str, explanation: str, width: int | None) -> str:
    if not explanation:
        return text
    if width is None:
        return f"{text:{COLUMN - 1}} # {explanation}"
    lines = textwrap.wrap(explanation, width - COLUMN - 2, break_long_words=False)
    first = [f"{text:{COLUMN}}# {lines[0]}"] if len(text) < COLUMN else [text, f"{'':{COLUMN}}# {lines[0]}"]
    return "\n".join([*first, *(f"{'':{COLUMN}}# {line}" for line in lines[1:])])


def _lines(node: dict[str, Any], comments: dict[str, str], path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """The lines of a node as YAML, each with its explanation."""
    documented = _arguments(str(node.get("_target_")))
    for name, value in node.items():
        if name == "_partial_":  # of no use to whoever types
            continue
        key = f"{path}{name}"
        explanation = comments.get(key) or documented.get(str(name), "")
        branch = isinstance(value, dict) and bool(value)
        yield f"{'  ' * depth}{name}:{'' if branch else f' {_scalar(value)}'}", explanation
        if branch:
            yield from _lines(value, comments, f"{key}.", depth + 1)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_$?][\w.${}/@?-]*", value) and value not in WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)  # a value of JSON is one of YAML


def _comments(folders: Sequence[Path], choices: dict[str, str | None]) -> dict[str, str]:
    """The comment of each key, from the files that were chosen; of a group, what its choice is."""
    found: dict[str, str] = {}
    root = Path(CONFIG_DIR, "config.yaml")
    files = [(root, "")] if "data" in choices else []
    for name, option in choices.items():
        group, _, package = name.partition("@")
        chosen = (folder / group / f"{option}.yaml" for folder in folders)
        if option is not None and (file := next((f for f in chosen if f.is_file()), None)):
            files.append((file, package.removeprefix("_global_.") or group))
    for file, package in files:
        found |= _of_file(file, package)
        if file != root:
            found |= {package: head} if (head := _head(file.read_text(encoding="utf-8"))) else {}
    return found


def _of_file(file: Path, package: str) -> dict[str, str]:
    """The comments of a file and of those that its list of defaults includes into the same place."""
    text = file.read_text(encoding="utf-8")
    if "# @package _global_" in text:
        package = ""
    found: dict[str, str] = {}
    for included in re.findall(r"^  - ([\w/]+)(?:@_here_)?$", text, flags=re.MULTILINE):
        other = file.parent / f"{included}.yaml"
        if included != "_self_" and other.is_file():
            found |= _of_file(other, package)
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not (match := re.match(r"( *)(\w+):(.*)", line)):
            continue
        indent, name, rest = len(match[1]), match[2], match[3]
        parents = [*(parent for parent in parents if parent[0] < indent), (indent, name)]
        if comment := re.search(r"(?:^|\s)# (.*)", rest):
            key = ".".join([*([package] if package else []), *(parent for _, parent in parents)])
            found[key] = comment[1]
    return found


def _head(text: str) -> str:
    """The comment that a file begins with, up to its first empty line."""
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    comment: list[str] = []
    for line in lines:
        if not line.startswith("#") or line == "#":
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).removesuffix(".")


@functools.cache
def _arguments(target: str) -> dict[str, str]:
    """What the docstring of a class or function of ours says about its arguments, those of its bases included."""
    module, _, name = target.rpartition(".")
    file = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    if not module.startswith("seqgen.") or not file.is_file():
        return {}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    origins = {
        alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name != name:
            continue
        parts: list[ast.ClassDef | ast.FunctionDef] = [node]
        if isinstance(node, ast.ClassDef):
            for base in (base.id for base in node.bases if isinstance(base, ast.Name)):
                found |= _arguments(origins.get(base, f"{module}.{base}"))
            parts += [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        for part in parts:
            found |= _args_section(ast.get_docstring(part) or "")
    return found


def _args_section(docstring: str) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, flags=re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section[1] if section else "", flags=re.MULTILINE)
    texts = {name: " ".join(text.split()).partition(". ")[0].removesuffix(".") for name, text in entries}
    return {name: text[0].lower() + text[1:] if text[1:2].islower() else text for name, text in texts.items()}
