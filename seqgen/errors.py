"""The one kind of error that is the user's to mend, and the word that was probably meant."""

import difflib
from collections.abc import Sequence


class UserError(ValueError):
    """Bad input, configuration or file, told in one sentence that says what to do.

    The command lines print the sentence and exit with code 1; a stack trace is shown only under ``HYDRA_FULL_ERROR=1``.
    """


def nearest(word: str, words: Sequence[str]) -> str:
    """The end of a sentence that names the likeliest word meant: `; did you mean X`, or nothing."""
    parent, _, name = word.rpartition(".")
    siblings = [w for w in words if w.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(name, [w.rpartition(".")[2] for w in siblings], n=1)
    if close:
        return f"; did you mean {f'{parent}.{close[0]}' if parent else close[0]}"
    # The right key under the wrong parent, or under none.
    close = [w for w in words if w.rpartition(".")[2] == name]
    return f"; did you mean {close[0]}" if close else ""
