"""Search spaces in Hydra's words: what Optuna draws from, what an override is made of it, what is refused."""

import pytest

from seqgen.errors import UserError
from seqgen.tuning import space

distributions = pytest.importorskip("optuna.distributions", reason="the extra seqgen[tune] is not installed")


@pytest.mark.parametrize(
    ("text", "kind", "arguments"),
    [
        ("interval(0, 1)", "FloatDistribution", {"low": 0.0, "high": 1.0, "log": False}),
        ("tag(log, interval(1e-4, 1e-2))", "FloatDistribution", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("int(interval(1, 3))", "IntDistribution", {"low": 1, "high": 3}),
        ("tag(log, int(interval(16, 256)))", "IntDistribution", {"low": 16, "high": 256, "log": True}),
        ("range(1, 4)", "IntDistribution", {"low": 1, "high": 3}),
        ("range(10, 40, 10)", "IntDistribution", {"low": 10, "high": 30, "step": 10}),
        ("range(7, 1, -3)", "IntDistribution", {"low": 4, "high": 7, "step": 3}),
        ("range(0.1, 0.6, 0.1)", "FloatDistribution", {"low": 0.1, "high": 0.5, "step": 0.1}),
        ("choice(32, 64)", "CategoricalDistribution", {"choices": ("32", "64")}),
        ("adam,adamw", "CategoricalDistribution", {"choices": ("adam", "adamw")}),
        ("choice([0.9, 0.99], [0.9, 0.999])", "CategoricalDistribution", {"choices": ("[0.9,0.99]", "[0.9,0.999]")}),
    ],
)
def test_a_space_is_what_hydras_grammar_says(text: str, kind: str, arguments: dict[str, object]) -> None:
    searched, fixed = space.split({"a.b": text}, [])
    assert (searched, fixed) == ({"a.b": text}, [])
    assert space.distributions(searched) == {"a.b": getattr(distributions, kind)(**arguments)}


def test_the_command_line_counts_more_and_values_are_fixed() -> None:
    given = {"a": "range(1, 4)", "b": "interval(0, 1)", "c": 0, "d": None, "e": False, "f": "text"}
    searched, fixed = space.split(given, ["a=2", "b=interval(0,2)", "+g=choice(1,2)", "h=3"])
    assert searched == {"b": "interval(0,2)", "+g": "choice(1,2)"}
    assert fixed == ["c=0", "d=null", "e=false", "f=text", "a=2", "h=3"]


def test_numbers_are_rounded_within_their_space() -> None:
    searched = {"a": "interval(0.12344, 0.98765)", "b": "tag(log, interval(1e-4, 1e-2))", "c": "choice(64, 128)"}
    drawn = {"a": 0.98764999, "b": 0.000123456789, "c": "64"}
    assert space.overrides(drawn, searched) == ["a=0.9876", "b=0.0001235", "c=64"]
    assert space.overrides({"a": 0.12344}, searched) == ["a=0.12344"]
    assert space.values(["a=0.12345", "b=1e-05", "c=64", "d=x"]) == {"a": 0.12345, "b": 1e-5, "c": 64, "d": "x"}


def test_a_configuration_is_moved_into_a_space() -> None:
    searched = {
        "a": "tag(log, interval(1e-4, 1e-2))",
        "b": "range(10, 40, 10)",
        "c": "choice(64, 128)",
        "d": "choice(1, 2)",
        "e": "range(1, 4)",
        "f": "interval(0.1, 0.5)",
    }
    settings = {"a": 0, "b": 24, "c": 128, "d": 3, "e": 9, "f": 0.3}
    assert space.within(settings, searched) == {"a": 1e-4, "b": 20, "c": "128", "e": 3, "f": 0.3}
    assert space.within({"a": None, "e": True}, searched) == {}
    lists = {"g": "choice([0.9,0.98],[0.9,0.999])", "h": "choice(0, 1e-4)", "i": "choice(a, b)"}
    assert space.within({"g": [0.9, 0.98], "h": 0.0, "i": "b"}, lists) == {"g": "[0.9,0.98]", "h": "0", "i": "b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log(1, 2)", "cannot be read as a search space; write interval"),
        ("interval(a, b)", "cannot be read as a search space"),
        ("choice()", "cannot be read as a search space"),
        ("interval(1, 0)", "holds nothing to choose from; write interval(lowest, highest)"),
        ("interval(0, inf)", "holds nothing to choose from"),
        ("tag(log, interval(0, 1))", "must begin above 0"),
        ("tag(lg, interval(1, 2))", "has a tag without effect"),
        ("tag(log, choice(1, 2))", "has a tag without effect"),
        ("range(5, 1)", "holds nothing to choose from; write range(first, end, step)"),
        ("range(1, 4, 0)", "holds nothing to choose from"),
        ("range(1, 10000000000)", "holds nothing to choose from"),
        ("choice(1)", "holds nothing to choose from"),
        ("glob(*)", "holds nothing to choose from"),
        ("shuffle(range(1, 4))", "is drawn at random anyway"),
    ],
)
def test_what_is_no_space_is_refused_with_its_key(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        space.distributions(space.split({"optimizer.lr": text}, [])[0])
    assert str(caught.value).startswith(f"optimizer.lr={text} ")
    assert words in str(caught.value)


@pytest.mark.parametrize("key", ["model", "attention", "data", "seed", "data.source.seed", "hparams_search"])
def test_a_study_is_of_one_model_on_one_data_set(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}=1,2: a study tunes one model on one data set"):
        space.split({}, [f"{key}=1,2"])
