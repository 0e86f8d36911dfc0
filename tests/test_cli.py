"""The sentence for an error: of the user's, not of ours (those of settings: `test_config.py`)."""

import pytest

from seqgen import cli


def test_a_lost_process_is_one_sentence() -> None:
    lost = RuntimeError("[/__w/pytorch/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer.")
    assert (cli.sentence(lost, []) or "").startswith("Another process of this run was lost")


def test_the_sentence_for_an_error_of_ours_is_none() -> None:
    assert cli.sentence(KeyError("a bug"), []) is None
    assert cli.sentence(ValueError("a bug"), []) is None


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (
            ["-m", "model=a,b", "optimizer.lr=1e-3", "seed=1"],
            ["-m", "model=a,b", "optimizer.lr=choice(1e-3)", "seed=1"],
        ),
        (["-m", "attention=glob(*)", "attention.k=[1,2]"], ["-m", "attention=glob(*)", "attention.k=choice([1,2])"]),
        (
            ["-m", "model=a,b", "loss=bce", "loss.n=1,2", "data.k=3"],
            ["-m", "model=a,b", "loss=bce", "loss.n=1,2", "data.k=3"],
        ),
        (["-m", "model=a", "seed=1,2", "model.x=1"], ["-m", "model=a", "seed=1,2", "model.x=1"]),
        (["model=a,b", "model.x=1"], ["model=a,b", "model.x=1"]),
    ],
)
def test_in_a_sweep_over_groups_the_jobs_are_given_the_settings_of_groups(typed: list[str], given: list[str]) -> None:
    assert cli.for_each_job(typed) == given
    assert cli.as_typed(given) == typed
