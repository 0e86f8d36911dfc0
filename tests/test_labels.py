"""Groups of runs told apart in few words."""

from seqgen.labels import distinguish


def test_a_choice_stands_for_its_settings() -> None:
    settings = [{"loss._target_": '"a.bce"', "loss.num_negatives": "1"}, {"loss._target_": '"a.ce"'}]
    choices = [{"model": "sasrec", "loss": "bce"}, {"model": "sasrec", "loss": "ce"}]
    assert distinguish(settings, choices, []) == [", loss=bce", ", loss=ce"]


def test_what_was_typed_is_shown_and_what_follows_from_it_is_not() -> None:
    settings = [{"model.hidden_dim": d, "model.ffn_dim": d} for d in ("64", "128")]
    assert distinguish(settings, [{}, {}], ["model.hidden_dim"]) == [", model.hidden_dim=64", ", model.hidden_dim=128"]


def test_choices_of_no_consequence_are_left_out() -> None:
    settings = [{"model.dropout": "0.1"}, {"model.dropout": "0.2"}]
    choices = [{"logger": "csv"}, {"logger": "wandb"}]
    assert distinguish(settings, choices, []) == [", model.dropout=0.1", ", model.dropout=0.2"]


def test_a_number_and_a_text_differ() -> None:
    assert distinguish([{"tag": '"1"'}, {"tag": "1"}], [{}, {}], []) == [', tag="1"', ", tag=1"]
