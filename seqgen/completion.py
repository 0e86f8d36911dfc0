"""Tab completion of the command `seqgen` in bash; what a word of a configuration may be, Hydra knows."""

import io
import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

# `=` separates words where the shell says so; what stands before it is then no part of the word that is replaced.
BASH = r"""_seqgen() {
    local line=${COMP_LINE:0:COMP_POINT} word
    word=${line##*[[:space:]]}
    COMPREPLY=($(compgen -W "$(COMP_LINE=$line seqgen -sc query=bash 2> /dev/null)" -- "$word"))
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
    fi
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *[=./] ]]; then
        compopt +o nospace
    fi
}
complete -o nospace -o default -F _seqgen seqgen"""
REPORT = ("--metrics", "--baseline", "--compare", "--csv", "--wandb", "--samples", "--seed", "--help")


def wants_completion(arguments: Sequence[str]) -> bool:
    """Whether a command line is about completion in bash: `-sc install=bash`, with or without a command before it."""
    return list(arguments[-2:-1]) in (["-sc"], ["--shell-completion"]) and arguments[-1].endswith("=bash")


def complete(arguments: Sequence[str], commands: Sequence[str]) -> None:
    """Print what is to be evaluated by the shell, or the words that the line in `COMP_LINE` may go on with.

    Args:
        arguments: The command line.
        commands: Names of the commands.
    """
    wanted = arguments[-1].partition("=")[0]
    if wanted == "query":
        print(" ".join(_words(os.environ["COMP_LINE"], commands)))
    else:
        print(BASH if wanted == "install" else "complete -r seqgen; unset -f _seqgen")


def _words(line: str, commands: Sequence[str]) -> list[str]:
    _, *typed = line.split()
    if not typed or (len(typed) == 1 and not line[-1].isspace()):
        return list(commands)
    name, *rest = typed
    if name == "report":
        return list(REPORT) if rest and rest[-1].startswith("-") else []
    if name not in commands:
        return []
    os.environ["COMP_LINE"] = " ".join(["seqgen", *rest, *([""] if line[-1].isspace() else [])])
    sys.argv = ["seqgen", "-sc", "query=bash"]
    found = io.StringIO()
    with redirect_stdout(found):
        runpy.run_module(f"seqgen.{name}", run_name="__main__", alter_sys=True)
    # A group comes bare; what chooses from it is `group=`.
    return [word if "=" in word or word[-1] in "./" else f"{word}=" for word in found.getvalue().split()]
