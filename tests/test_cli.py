"""The sentence for an error: of the user's, not of ours (those of settings: `test_config.py`)."""

from seqgen import cli


def test_a_lost_process_is_one_sentence() -> None:
    lost = RuntimeError("[/__w/pytorch/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer.")
    assert (cli.sentence(lost, []) or "").startswith("Another process of this run was lost")


def test_the_sentence_for_an_error_of_ours_is_none() -> None:
    assert cli.sentence(KeyError("a bug"), []) is None
    assert cli.sentence(ValueError("a bug"), []) is None
