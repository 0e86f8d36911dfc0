"""The studies that command lines ask for, and the stored search spaces."""

from pathlib import Path

import pytest
from conftest import ROOT, TINY
from hydra.errors import HydraException
from omegaconf import OmegaConf

from seqgen import cli, config
from seqgen.check import check
from seqgen.errors import UserError
from seqgen.tuning import space
from seqgen.tuning.search import study_of, without_search

pytest.importorskip("optuna", reason="the extra seqgen[tune] is not installed")
SEARCHES = [name for name in config.options("hparams_search") if name in config.options("model")]


def test_each_model_that_can_be_tuned_has_a_space() -> None:
    tuned = [name for name in config.options("model") if name not in ("popularity", "transition", "oracle")]
    assert tuned == SEARCHES


@pytest.mark.parametrize(
    ("name", "attention"),
    [*((name, None) for name in SEARCHES), *(("genatt", kind) for kind in ("multi_query", "diffusion", "synthesizer"))],
)
def test_both_ends_of_a_stored_space_are_runs(
    name: str, attention: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = [f"attention={attention}"] if attention else []
    study = study_of([f"hparams_search={name}", *chosen])
    plain = config.composed([f"model={name}", *chosen])
    ends = []
    for drawn in space.distributions(study.space).values():
        choices = getattr(drawn, "choices", None)
        ends.append((choices[0], choices[-1]) if choices else (drawn.low, drawn.high))  # type: ignore[attr-defined]
    for one in (0, 1):
        values = {key: pair[one] for key, pair in zip(study.space, ends, strict=True)}
        check(config.compose([*study.overrides, *space.overrides(values, study.space)], output_dir=tmp_path))
    # The default of most keys lies within, so that tuning cannot but find what was there, or better.
    outside = []
    for key, (low, high) in zip(study.space, ends, strict=True):
        default = OmegaConf.select(plain, key)
        outside += [key] if not isinstance(low, str) and not low <= default <= high else []
    assert set(outside) <= {"optimizer.weight_decay"}  # 0 has no place on a logarithmic scale


def test_each_range_of_a_stored_space_has_its_reason() -> None:
    for name in (*SEARCHES, "settings/attention"):
        text = (ROOT / f"conf/hparams_search/{name}.yaml").read_text()
        ranges = [line for line in text.splitlines() if "(" in line and not line.startswith("#")]
        assert ranges
        assert all(" # " in line for line in ranges), name


def test_the_chosen_attention_adds_its_own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    added = {}
    for kind in ("softmax", "vae"):
        study = study_of(
            ["hparams_search=sasrec", f"attention={kind}", "model.dropout=0.2", "hydra.sweeper.n_trials=7"]
        )
        added[kind] = set(study.space)
        assert study.overrides == [f"attention={kind}", "model.dropout=0.2", "model=sasrec"]
        assert (study.start["optimizer.lr"], study.start["optimizer.weight_decay"]) == (0.001, 1e-7)
        assert "model.dropout" not in study.start
        assert (study.n_trials, study.name) == (7, f"sasrec-{kind}-synthetic")
        assert study.folder == tmp_path / f"outputs/train/tuning/sasrec-{kind}-synthetic"
        assert study.storage == study.folder / "study.journal"
    assert added["vae"] - added["softmax"] == {"attention.kl_weight", "attention.latent_dim"}
    assert "model.dropout" not in added["softmax"]


def test_a_search_without_its_file_composes_the_same(tmp_path: Path) -> None:
    (tmp_path / "hparams_search").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /model: genatt\n  - override /attention: diffusion\n"
    text += "data:\n  max_len: 7\ntags: [a, 'b c']\nmonitor: val/mrr\nscheduler: null\n"
    (tmp_path / "hparams_search/mine.yaml").write_text(text)
    path = f"hydra.searchpath=[{tmp_path}]"
    kept = without_search([path, "hparams_search=mine", *TINY[:2], "data.batch_size=3"])
    assert kept[:2] == [path, TINY[0]]
    assert not any("hparams_search" in text for text in kept)
    with_file, without = (
        config.composed(o) for o in ([path, "hparams_search=mine", *TINY[:2], "data.batch_size=3"], kept)
    )
    keys = [key for key in with_file if key != "hydra"]
    assert OmegaConf.masked_copy(with_file, keys) == OmegaConf.masked_copy(without, keys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "hydra/sweeper=optuna",
            "hydra.sweeper.params is empty; choose hparams_search= (cddrec, genatt, mqsa_ted, sas",
        ),
        ("hparams_search=sasrec model=popularity", "model=popularity is not trained by steps, and has nothing to tune"),
        ("hparams_search=attention", "hparams_search=attention is no study: add hydra/sweeper=optuna"),
        ("hparams_search=sasrec model.dropuot=interval(0,1)", "model.dropuot is not a key of this configuration; did"),
        ("hparams_search=sasrec optimizer.lr=interval(1,0)", "optimizer.lr=interval(1,0) holds nothing to choose"),
        ("hparams_search=sasrec optimizer.lr=log(1,0)", "'optimizer.lr=log(1,0)' cannot be read as key=value"),
        ("hparams_search=sasrec model=sasrec,genatt", "model=sasrec,genatt: a study tunes one model on one data set"),
        ("hparams_search=sasrec test=true", "test=true: the trials of a study train without a test"),
        ("hparams_search=sasrec hydra.sweeper.n_trials=x", "hydra.sweeper.n_trials=x must be an integer"),
        ("hparams_search=sasrec hydra.sweeper.seed=-1", "hydra.sweeper.seed=-1 must be at least 0"),
        ("hparams_search=sasrec hydra.sweeper.storage=sqlite:///x", "hydra.sweeper.storage=sqlite:///x must be a file"),
        ("hparams_search=sasrec hydra.sweeper.pruner.min_trials=0", "hydra.sweeper.pruner.min_trials=0 must be at le"),
        (
            "hparams_search=sasrec +hydra.sweeper.params_by_attention.softmx={a:1}",
            "hydra.sweeper.params_by_attention.softmx is no attention; did you mean softmax",
        ),
    ],
)
def test_what_is_no_study_is_refused_in_one_sentence(arguments: str, words: str) -> None:
    with pytest.raises((UserError, HydraException)) as caught:
        study_of(arguments.split())
    text = cli.sentence(caught.value, arguments.split()) or ""
    assert words in text
    assert "\n" not in text
