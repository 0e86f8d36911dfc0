"""The word that was probably meant."""

import pytest

from seqgen.errors import SettingError, argument, nearest


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("data.max_length", "data.max_len"),  # among its siblings
        ("seeds", "seed"),
        ("model.max_len", "data.max_len"),  # the right key under the wrong parent
        ("max_len", "data.max_len"),
        ("sasrec/sofmax,lr=0.01", "sasrec/softmax,lr=0.01"),  # dots that divide nothing
    ],
)
def test_the_nearest_word(word: str, meant: str) -> None:
    assert (
        nearest(word, ["data.max_len", "data.batch_size", "seed", "sasrec/softmax,lr=0.01"])
        == f"; did you mean {meant}"
    )


def test_nothing_is_near() -> None:
    assert nearest("abc", ["data.max_len", "seed"]) == nearest("abc", []) == ""


def test_a_part_refused_inside_a_part_is_named_from_outside() -> None:
    with pytest.raises(SettingError, match=r"^outer\.inner\.size=0 is wrong$"), argument("outer"), argument("inner"):
        raise SettingError("size=0 is wrong")
