"""Nodes are held against signatures, dataclasses and TypedDicts."""

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import pytest

from seqgen.errors import UserError
from seqgen.signatures import check_node, check_type


@dataclass(frozen=True, kw_only=True)
class Decoder:
    heads: int
    ffn_dim: int | None
    time_in: Literal["query", "memory"] = "query"
    ratios: list[float] = field(default_factory=list)


class WideDecoder(Decoder):
    pass


def decoder() -> Decoder:
    return Decoder(heads=1, ffn_dim=None)


class Inference(TypedDict):
    samples: int


class Model:
    def __init__(self, *, decoder: Decoder, views: Decoder | None = None, inference: Inference | None = None) -> None:
        pass


NAME = f"{__name__}.Decoder"
GOOD: dict[str, Any] = {"_target_": NAME, "heads": 2, "ffn_dim": None}


@pytest.fixture(autouse=True)
def _by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes of this file, whose module has no name that can be imported from everywhere."""
    monkeypatch.setattr(pkgutil, "resolve_name", lambda name: globals()[name.rpartition(".")[2]])


def sentence(**nodes: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_node({"_target_": f"{__name__}.Model", "decoder": GOOD, **nodes}, "model")
    return str(caught.value)


@pytest.mark.parametrize(
    "nodes",
    [
        {},
        {"views": None, "inference": None},
        {"views": {**GOOD, "time_in": "memory", "ratios": [0.5]}, "inference": {"samples": 1}},
        {"decoder": {**GOOD, "_target_": f"{__name__}.WideDecoder"}},
        {"decoder": {"_target_": f"{__name__}.decoder"}},
    ],
)
def test_nodes_that_fit(nodes: dict[str, Any]) -> None:
    check_node({"_target_": f"{__name__}.Model", "decoder": GOOD, **nodes}, "model")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads": 1.5}, "model.decoder.heads=1.5 must be an integer."),
        ({"ffn_dim": "wide"}, "model.decoder.ffn_dim=wide must be an integer or null."),
        ({"time_in": "both"}, "model.decoder.time_in=both must be query or memory."),
        ({"ratios": 1}, "model.decoder.ratios=1 must be a list of float."),
        ({"head": 1}, f"model.decoder.head is not a key of {NAME}; did you mean model.decoder.heads."),
        ({"_target_": f"{__name__}.Model"}, f"model.decoder._target_={__name__}.Model must be {NAME}."),
    ],
)
def test_fields_of_a_dataclass(change: dict[str, Any], text: str) -> None:
    assert sentence(decoder=GOOD | change) == text
    assert sentence(views=GOOD | change) == text.replace("decoder.", "views.")


def test_a_dataclass_must_be_there_and_whole() -> None:
    without = {key: value for key, value in GOOD.items() if key != "heads"}
    assert sentence(decoder=without) == f"model.decoder.heads is not given, but {NAME} needs it."
    assert (
        sentence(decoder={"heads": 2}) == f"model.decoder builds nothing: it has no _target_; give it _target_={NAME}."
    )
    assert sentence(decoder=None) == "model.decoder=None must be a node of heads, ffn_dim, time_in, ratios."
    assert sentence(views=3) == "model.views=3 must be a node of heads, ffn_dim, time_in, ratios or null."


def test_the_keys_of_a_typed_dict() -> None:
    for node in ({}, {"samples": 1, "draws": 2}):
        assert sentence(inference=node) == f"model.inference={node} must hold samples, and nothing else."
    assert sentence(inference={"samples": "one"}) == "model.inference.samples=one must be an integer."
    assert sentence(inference=1) == "model.inference=1 must be a node of samples or null."


def test_what_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"^model\._target_=seqgen\.nowhere\.Model cannot be imported: "):
        check_node({"_target_": "seqgen.nowhere.Model"}, "model")


class Loss:
    def __init__(self, *, make: Callable[[int], Decoder], rate: float | None, sizes: Sequence[int]) -> None:
        pass


class Called:
    def __call__(self, number: int) -> Model:
        return Model(decoder=decoder())


def anything() -> Any:
    return 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, None),
        ({"make": {"_target_": f"{__name__}.anything"}}, None),  # which may be called, for all that is known
        ({"make": 3}, "loss.make=3 must be a node with _target_ and _partial_: true."),
        (
            {"make": {"a": 1}},
            "loss.make builds nothing: it has no _target_; it must be a node with _target_ and _part",
        ),
        ({"make": GOOD}, f"loss.make._target_={NAME} does not make a node with _target_ and _partial_: true."),
        ({"make": {"_target_": NAME}}, "loss.make._partial_ must be true: the run itself gives heads, ffn_dim."),
        (
            {"make": {"_target_": f"{__name__}.Model", "_partial_": True}},
            f"loss.make._target_={__name__}.Model does not make a node with _target_ and _partial_: true.",
        ),
        ({"rate": {"a": 1}}, "loss.rate={'a': 1} must be a number or null."),
        ({"rate": {**GOOD, "_partial_": True}}, "loss.rate._partial_=True must be false: the part is built at once."),
        ({"sizes": "12"}, "loss.sizes=12 must be a list of int."),
        ({"_args_": [1]}, "loss._args_ is not read; give each argument by its name."),
        ({"_convert_": "some"}, "loss._convert_=some must be none or partial or object or all."),
        ({"_target_": 3}, "loss._target_=3 must be the full name of a class or function, such as package.Class."),
        (
            {"_target_": "x.GOOD"},
            "loss._target_=x.GOOD is neither a class nor a function, so it builds nothing.",
        ),
    ],
)
def test_what_a_node_builds(change: dict[str, Any], text: str | None) -> None:
    node = {"_target_": f"{__name__}.Loss", "make": {**GOOD, "_partial_": True}, "rate": 1.0, "sizes": [1]} | change
    if text is None:
        check_node(node, "loss", Loss)
        return
    with pytest.raises(UserError) as caught:
        check_node(node, "loss", Loss)
    assert str(caught.value).startswith(text)


def test_a_node_is_complete_but_for_what_its_builder_gives() -> None:
    node = {"_target_": NAME, "heads": 1}
    with pytest.raises(UserError, match=r"^part\.ffn_dim is not given, but .*Decoder needs it\.$"):
        check_node(node, "part", object)
    check_node(node, "part", object, given=("ffn_dim",))


@pytest.mark.parametrize(
    ("value", "hint"),
    [(True, int), (True, float), (1, str), (0, bool), (None, int), ([1, 2, 3], tuple[int, int]), ([1, "a"], list[int])],
)
def test_values_of_another_type(value: Any, hint: Any) -> None:
    with pytest.raises(UserError, match=r"^key=.* must be "):
        check_type("key", value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [(1, float), (None, int | None), ([1, 2], tuple[int, int]), ([], list[int]), ([1], tuple[int, ...])],
)
def test_values_that_fit(value: Any, hint: Any) -> None:
    check_type("key", value, hint)
