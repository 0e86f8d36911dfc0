"""Configurations as flat settings, and settings as typed."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from seqgen.settings import flatten, key_of, quoted


def test_flatten() -> None:
    node = {"a": 1, "b": {"c": "x", "d": {}, "e": [{"z": 1, "y": None}]}}
    flat = {"a": "1", "b.c": '"x"', "b.d": "{}", "b.e": '[{"y": null, "z": 1}]'}
    assert flatten(node) == flat
    assert flatten(node, "top") == {f"top.{key}": text for key, text in flat.items()}
    assert flatten(None, "top") == {"top": "null"}


@pytest.mark.parametrize("override", ["a.b=1", "+a.b=1", "++a.b='c=d'", "~a.b", "~a.b=1"])
def test_key_of(override: str) -> None:
    assert key_of(override) == "a.b" == OverridesParser.create().parse_override(override).get_key_element().lstrip("+~")


@pytest.mark.parametrize("end", ["", "\\", "\\\\", "'", "\\'", "\\\\'", '"'])
@pytest.mark.parametrize(
    "begin",
    ["/runs/a-1.0_b", "runs/größe", "a b/c", "a,b=c", "a\\b", "a\\\\b/", "it's", "${x}", "[a]", "", "null", "1"],
)
def test_hydra_reads_a_quoted_text_as_that_text(begin: str, end: str) -> None:
    text = begin + end
    read = OverridesParser.create().parse_override(f"key={quoted(text)}").value()
    assert str(read) == text
    assert read is not None
    assert not isinstance(read, int)


def test_a_plain_path_stays_bare() -> None:
    assert quoted("/home/me/runs/1-seed_1") == "/home/me/runs/1-seed_1"
    assert quoted("/home/me/seed=1") == "'/home/me/seed=1'"
