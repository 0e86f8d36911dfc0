"""seqgen: train, compare and use generative and attention-based sequential recommenders.

    cfg = seqgen.compose(["model=sasrec", "data=ml1m"], output_dir="outputs/mine")
    result = seqgen.run(cfg)
    model = seqgen.load(result.checkpoint)

Each is imported when it is first used: `import seqgen` alone imports neither torch nor Hydra.
"""

import importlib
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqgen.checkpoint import load
    from seqgen.config import compose
    from seqgen.run import run

__version__ = "0.1.0"
__all__ = ["compose", "load", "run"]


def __getattr__(name: str) -> Any:
    if name == "compose":
        return importlib.import_module("seqgen.config").compose
    if name == "load":
        return importlib.import_module("seqgen.checkpoint").load
    if name == "run":  # the module, which can be called: it takes this name anyway as soon as anybody imports it
        return importlib.import_module("seqgen.run")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _in_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("seqgen: stopped before it began", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# Ctrl-C while `python -m seqgen.run` still imports what it needs: nobody else could say it.
if any(a == "-m" and b.startswith("seqgen.") for a, b in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)):
    sys.excepthook = _in_words
