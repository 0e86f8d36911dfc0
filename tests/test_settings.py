"""Configurations as flat settings."""

from seqgen.settings import flatten


def test_flatten() -> None:
    node = {"a": 1, "b": {"c": "x", "d": {}, "e": [{"z": 1, "y": None}]}}
    flat = {"a": "1", "b.c": '"x"', "b.d": "{}", "b.e": '[{"y": null, "z": 1}]'}
    assert flatten(node) == flat
    assert flatten(node, "top") == {f"top.{key}": text for key, text in flat.items()}
    assert flatten(None, "top") == {"top": "null"}
