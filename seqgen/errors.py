"""Errors that the user can correct, each one sentence; what is too large; and the word that was probably meant."""

import contextlib
import difflib
import math
import re
from collections.abc import Iterator, Sequence


class UserError(ValueError):
    """Bad input, configuration or file: one sentence that says what to do.

    The command lines print the sentence and exit with code 1; a stack trace is shown only under ``HYDRA_FULL_ERROR=1``.
    """


class SettingError(UserError):
    """A setting that a constructor refuses. The text begins with the name of the argument, as in `rank=0 must be ...`.

    A part does not know where it stands in a configuration: `config.settings_of` puts the path before the name.
    """


class Pruned(UserError):
    """A training that its study ended early. Nothing is wrong with it; it only has no end of its own."""


@contextlib.contextmanager
def argument(name: str) -> Iterator[None]:
    """Name the argument that a part was built from, where that part refuses one of its own settings.

    Raises:
        SettingError: The part's, with `name.` before it.
    """
    try:
        yield
    except SettingError as error:
        raise SettingError(f"{name}.{error}") from error


def check_sizes(**sizes: int) -> None:
    """Refuse sizes and counts below 1, and those that nothing could hold.

    Raises:
        SettingError: Names the first of them.
    """
    for name, value in sizes.items():
        if value < 1:
            raise SettingError(f"{name}={value} must be at least 1.")
        if value >= 2**31:
            raise SettingError(f"{name}={value} must be below {2**31}.")


def check_weights(**weights: float) -> None:
    """Refuse weights that are negative, NaN or infinite.

    Raises:
        SettingError: Names the first of them.
    """
    for name, value in weights.items():
        if not 0 <= value < math.inf:
            raise SettingError(f"{name}={value} must be a number of at least 0.")


def check_positive(**values: float) -> None:
    """Refuse values that are 0, negative, NaN or infinite.

    Raises:
        SettingError: Names the first of them.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise SettingError(f"{name}={value} must be a number above 0.")


def check_probability(**values: float) -> None:
    """Refuse dropout probabilities outside [0, 1).

    Raises:
        SettingError: Names the first of them.
    """
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise SettingError(f"{name}={value} must lie in [0, 1).")


def too_large(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that something does not fit into memory."""
    if error is None:
        return False
    words = r"out of memory|can't allocate memory|Storage size calculation overflowed|Unable to allocate"
    return isinstance(error, MemoryError) or bool(re.search(words, str(error))) or too_large(error.__cause__)


def nearest(word: str, words: Sequence[str]) -> str:
    """The end of a sentence that names the likeliest word meant: `; did you mean X`, or nothing."""
    parent, _, name = word.rpartition(".")
    siblings = [w for w in words if w.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(name, [w.rpartition(".")[2] for w in siblings], n=1)
    if close:
        return f"; did you mean {f'{parent}.{close[0]}' if parent else close[0]}"
    # The right key under the wrong parent, or under none; or a word whose dots divide nothing, as in `lr=0.01`.
    same = [w for w in words if w.rpartition(".")[2] == name]
    close = same or difflib.get_close_matches(word, words, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}" if close else ""
