"""The report against hand-worked tables and a slow plain bootstrap."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from seqgen.errors import UserError
from seqgen.report import _intervals, main, report


def write_run(folder, *, ranks=None, choices=(), config=(), metrics=(), seed=1, mtime=None, **keys):
    """Write a run folder; ``ranks`` is (user, target, rank) triples, or just ranks of users 0, 1, ..."""
    folder.mkdir(parents=True)
    paths = {"root": str(folder.parent), "output_dir": str(folder), "name": folder.name, "none": None}
    results = {
        "status": "finished",
        "error": None,
        "run_id": str(folder),
        "choices": {
            "model": "sasrec",
            "attention": "softmax",
            "diffusion": "none",
            "data": "ml1m",
            **dict(choices),
        },
        "seed": seed,
        "config": {"seed": seed, "paths": paths, **dict(config)},
        "data": {"fingerprint": "f1"},
        "parameters": 100,
        "metrics": dict(metrics),
        "timing": {"train_epoch_s": []},
    } | keys
    (folder / "results.json").write_text(json.dumps(results))
    if mtime:
        os.utime(folder / "results.json", (mtime, mtime))
    if ranks is not None:
        if not isinstance(ranks[0], tuple):
            ranks = [(user, 7, rank) for user, rank in enumerate(ranks)]
        write_ranks(folder, ranks)
    return folder


def write_ranks(folder, ranks):
    frame = pl.DataFrame(ranks, schema=["user", "target", "rank"], orient="row")
    frame.with_columns(history_len=5, top=[[1, 2]]).write_parquet(folder / "ranks.parquet")


MODEL_A = {"choices": {"model": "a"}, "config": {"model": {"name": "a"}}}
MODEL_B = {"choices": {"model": "b"}, "config": {"model": {"name": "b"}}}


def test_seeds_form_one_group_with_mean_and_sample_std(tmp_path):
    # Everything that may differ between the seeds of one group does.
    for job, (seed, hit, epochs) in enumerate([(1, 0.1, [9, 1, 2]), (2, 0.2, [4]), (3, 0.6, [6, 6])]):
        folder = tmp_path / str(job)
        ignored = {"tags": [job], "task": str(job), "logger": {"x": job}, "print_config": bool(job)}
        # Seed 2 equals the generator's, which is no reason to set its run apart.
        seeds = {"seed": seed, "source": {"seed": 2}, "sampler": {"seed": job}}
        own = {"callbacks": {"best": {"dirpath": f"{folder}/checkpoints"}}, "data": seeds}
        metrics = {"test/hr@10": hit, "val/hr@10": None}
        write_run(folder, seed=seed, config=ignored | own, metrics=metrics, timing={"train_epoch_s": epochs})
    write_run(tmp_path / "3", seed=1, config={"model": {"hidden_dim": 8}}, metrics={"test/hr@10": 0.5}, ranks=[1])
    for job in range(3):
        write_ranks(tmp_path / str(job), [(0, 7, 1)])
    row, single = report([tmp_path]).iter_rows(named=True)
    assert row["seeds"] == 3
    assert row["test/hr@10"] == pytest.approx(0.3)
    assert row["test/hr@10 std"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert row["train_epoch_s"] == pytest.approx((2 + 4 + 6) / 3)
    assert "val/hr@10" not in row
    assert (single["seeds"], single["test/hr@10"]) == (1, 0.5)
    assert (single["test/hr@10 std"], single["train_epoch_s"]) == (None, None)


def test_a_metric_that_a_seed_lacks_has_no_mean(tmp_path):
    write_run(tmp_path / "0", seed=1, metrics={"test/hr@10": 0.1, "test/mrr": 0.1})
    write_run(tmp_path / "1", seed=2, metrics={"test/hr@10": 0.3})
    row = report([tmp_path], metrics=["test/mrr", "test/hr@10", "parameters"]).row(0, named=True)
    assert (row["test/mrr"], row["test/mrr std"], row["parameters"]) == (None, None, 100)
    assert row["test/hr@10"] == pytest.approx(0.2)


def test_diversity_stands_for_the_columns_that_the_runs_have(tmp_path):
    names = ("hr", "ndcg", "coverage", "gini", "category_coverage", "ild", "f")
    have = {f"test/{name}@5": 0.1 * i for i, name in enumerate(names) if name != "ild"}
    write_run(tmp_path / "0", metrics=have | {"test/gini@10": 0.5, "test/mrr": 0.7})
    frame = report([tmp_path], metrics=["test/mrr", "diversity@5", "test/gini@5", "parameters"])
    assert [name for name in frame.columns if f"{name} std" in frame.columns] == ["test/mrr", *have, "parameters"]
    assert frame["test/f@5"].item() == have["test/f@5"]
    assert frame.equals(report([tmp_path], metrics=["test/mrr", *have, "parameters"]))
    assert report([tmp_path], metrics=["diversity@10"])["test/gini@10"].item() == 0.5
    assert sentence_of(tmp_path, metrics=["diversity@7"]).startswith(
        "unknown metric diversity@7; choose one of test/hr@5, "
    )


def test_labels_are_made_unique_by_the_differing_keys(tmp_path):
    for job, (window, loss) in enumerate([(2, "ce"), (4, "ce"), (4, "bce")]):
        attention = {"window": window, "heads": 2}
        config = {"attention": attention, "loss": {"kind": loss}, "model": {"attention": attention, "dim": 4}}
        write_run(tmp_path / str(job), config=config, ranks=[1])
    write_run(tmp_path / "3", **MODEL_A | {"choices": {"model": "a", "attention": "none"}}, ranks=[1])
    assert report([tmp_path])["label"].to_list() == [
        "sasrec / softmax / ml1m, attention.window=2, loss.kind=ce",
        "sasrec / softmax / ml1m, attention.window=4, loss.kind=ce",
        "sasrec / softmax / ml1m, attention.window=4, loss.kind=bce",
        "a / - / ml1m",
    ]


def test_settings_are_named_by_choice_and_what_follows_from_them_is_left_out(tmp_path):
    losses = {"ce": {"_target_": "seqgen.losses.ce"}, "bce": {"_target_": "seqgen.losses.bce", "num_negatives": 4}}
    for job, (loss, dim) in enumerate([("ce", 64), ("bce", 64), ("bce", 32)]):
        # The width of the feed-forward layer follows the model's; what is logged says nothing about a run.
        model = {"hidden_dim": dim, "ffn_dim": dim, "loss": losses[loss]}
        config = {
            "model": model,
            "loss": losses[loss],
            "logger": {"x": job},
            "trainer": {"profiler": [None, "simple"][dim < 64]},
        }
        choices = {"loss": loss, "logger": f"l{job}", "trainer": "auto"}
        write_run(
            tmp_path / str(job),
            config=config,
            choices=choices,
            overrides=[f"loss={loss}", f"model.hidden_dim={dim}"],
            ranks=[1],
        )
    assert [label.removeprefix("sasrec / softmax / ml1m") for label in report([tmp_path])["label"]] == [
        ", loss=ce, model.hidden_dim=64",
        ", loss=bce, model.hidden_dim=64",
        ", loss=bce, model.hidden_dim=32",
    ]


def test_a_nested_choice_is_one_setting_and_all_that_was_typed_is_named(tmp_path):
    for job, (schedule, rate) in enumerate([("linear", 0.1), ("cosine", 0.2)]):
        attention = {"schedule": {"_target_": schedule, "steps": rate}, "dropout": rate}
        choices = {"diffusion@attention.schedule": schedule}
        config = {"attention": attention, "model": {"attention": attention}}
        write_run(
            tmp_path / str(job), config=config, choices=choices, overrides=[f"++attention.dropout={rate}"], ranks=[1]
        )
    assert [label.removeprefix("sasrec / softmax / ml1m, ") for label in report([tmp_path])["label"]] == [
        "diffusion@attention.schedule=linear, attention.dropout=0.1",
        "diffusion@attention.schedule=cosine, attention.dropout=0.2",
    ]


def test_a_metric_without_its_split_is_the_test_s(tmp_path):
    write_run(tmp_path / "0", metrics={"test/ndcg@10": 0.1, "val/ndcg@10": 0.2})
    frame = report([tmp_path], metrics=["ndcg@10", "val/ndcg@10"], compare="ndcg@10")
    assert frame.select("test/ndcg@10", "val/ndcg@10").row(0) == (0.1, 0.2)


def test_the_table_fits_a_terminal_of_80_columns(two_runs, capsys, monkeypatch):
    file = two_runs / "0" / "results.json"
    names = [f"test/{name}@10" for name in ("hr", "ndcg", "coverage", "novelty", "popularity", "category_coverage")]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"metrics": dict.fromkeys(names, 0.123456)}))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    main([str(two_runs), "--metrics", ",".join(names), "--samples", "9"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for name in [name.removeprefix("test/") for name in names]:
        assert out.count(f"┃ {name} ") == 1  # whole, once
    assert out.count("a / softmax / ml1m ") == out.count("b / softmax / ml1m ") == out.count("┏━") >= 2


def test_values_that_read_alike_keep_their_groups_apart(tmp_path):
    write_run(tmp_path / "0", config={"x": 1}, ranks=[1])
    write_run(tmp_path / "1", config={"x": "1"}, ranks=[1])
    write_run(tmp_path / "2", config={"y": 1}, ranks=[1])
    labels = report([tmp_path])["label"].to_list()
    assert labels == [
        "sasrec / softmax / ml1m, x=1",
        'sasrec / softmax / ml1m, x="1"',
        "sasrec / softmax / ml1m, y=1",
    ]


def test_same_settings_on_other_data_are_told_apart_and_not_compared(tmp_path):
    write_run(tmp_path / "0", ranks=[1, 2], data={"fingerprint": "old"})
    write_run(tmp_path / "1", ranks=[1], data={"fingerprint": "new"})
    frame = report([tmp_path])
    assert frame["label"].str.split(", ").list.last().to_list() == [
        "data.fingerprint=old",
        "data.fingerprint=new",
    ]
    assert frame["difference"].null_count() == 2


def test_rows_stand_by_data_then_by_natural_folder_order(tmp_path):
    jobs = {"9": ("a", "ml1m"), "10": ("b", "ml1m"), "8": ("c", "yelp"), "11": ("d", "beauty")}
    for job, (model, data) in jobs.items():
        choices = {"model": model, "data": data}
        write_run(tmp_path / "jobs" / job, choices=choices, config={"m": model}, ranks=[1])
    frame = report([tmp_path, tmp_path / "jobs"])  # overlapping folders count a run once
    assert frame["model"].to_list() == ["d", "a", "b", "c"]
    assert frame.columns[:5] == ["data", "model", "attention", "label", "seeds"]
    assert frame.columns[-4:] == ["difference", "low", "high", "baseline"]


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        # Per user: a has ranks (1, 3) and (9, 9) over its two seeds, b has (2, 1).
        ("test/hr@2", ((1 - 1 / 2) + (1 - 0)) / 2),
        ("test/ndcg@3", ((1 / math.log2(3) - (1 + 1 / 2) / 2) + (1 - 0)) / 2),
        ("test/mrr", ((1 / 2 - (1 + 1 / 3) / 2) + (1 - 1 / 9)) / 2),
    ],
)
def test_difference_is_worked_by_hand(tmp_path, compare, expected):
    write_run(tmp_path / "0", **MODEL_A, seed=1, ranks=[1, 9])
    write_run(tmp_path / "1", **MODEL_A, seed=2, ranks=[3, 9])
    # Cases are matched by key, not by place.
    write_run(tmp_path / "2", **MODEL_B, ranks=[(1, 7, 1), (0, 7, 2)])
    base, row = report([tmp_path], compare=compare, samples=200).iter_rows(named=True)
    assert row["difference"] == pytest.approx(expected)
    assert row["low"] < row["difference"] < row["high"]
    assert (row["baseline"], base["baseline"], base["difference"]) == (base["label"], base["label"], None)


def test_equal_differences_leave_an_interval_of_no_width(tmp_path):
    write_run(tmp_path / "0", **MODEL_A, ranks=[2] * 30)
    write_run(tmp_path / "1", **MODEL_B, ranks=[1] * 30)
    row = report([tmp_path], samples=100).row(1, named=True)
    assert [row["difference"], row["low"], row["high"]] == pytest.approx([1 - 1 / math.log2(3)] * 3)


def test_seeds_in_another_order_are_no_difference(tmp_path):
    for model, order in ((MODEL_A, (1, 2, 7)), (MODEL_B, (1, 7, 2))):
        for seed, rank in enumerate(order):
            write_run(tmp_path / model["choices"]["model"] / str(seed), **model, seed=seed, ranks=[rank] * 5)
    row = report([tmp_path], samples=50).row(1, named=True)
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


def slow_interval(differences, rng, samples):
    """Resample whole users, given the list of differences of each."""
    means = []
    for _ in range(samples):
        cases = [case for user in rng.integers(len(differences), size=len(differences)) for case in differences[user]]
        means.append(sum(cases) / len(cases))
    return np.percentile(means, [2.5, 97.5])


def test_interval_agrees_with_a_slow_plain_bootstrap(tmp_path):
    rng = np.random.default_rng(3)
    # Users own one to six cases whose ranks are alike: an interval over cases would be much too narrow.
    owners = [(user, target) for user in range(60) for target in range(rng.integers(1, 7))]
    base = {user: int(rng.integers(1, 15)) for user in range(60)}
    other = {user: int(rng.integers(1, 8)) for user in range(60)}
    write_run(tmp_path / "0", **MODEL_A, ranks=[(user, target, base[user]) for user, target in owners])
    write_run(tmp_path / "1", **MODEL_B, ranks=[(user, target, other[user]) for user, target in owners])
    row = report([tmp_path], compare="test/mrr", samples=4000).row(1, named=True)
    gains = [1 / other[user] - 1 / base[user] for user, _ in owners]
    assert row["difference"] == pytest.approx(np.mean(gains))
    other_draws = report([tmp_path], compare="test/mrr", samples=4000, seed=1).row(1, named=True)
    assert row["low"] != other_draws["low"]
    by_user = [[gain for gain, (owner, _) in zip(gains, owners, strict=True) if owner == user] for user in range(60)]
    slow = slow_interval(by_user, np.random.default_rng(11), 4000)
    width = slow[1] - slow[0]
    assert [row["low"], row["high"]] == pytest.approx(slow, abs=0.06 * width)
    by_case = slow_interval([[gain] for gain in gains], np.random.default_rng(12), 2000)
    assert by_case[1] - by_case[0] < 0.75 * width


def test_interval_repeats_by_seed_and_covers_the_normal_range():
    gains = np.random.default_rng(0).normal(size=(2000, 2))
    counts = np.ones(2000, dtype=int)
    low, high = _intervals(gains, counts, 3000, 5)
    half = 1.96 * gains.std(axis=0) / math.sqrt(2000)
    assert low == pytest.approx(gains.mean(axis=0) - half, abs=0.08 * half.max())
    assert high == pytest.approx(gains.mean(axis=0) + half, abs=0.08 * half.max())
    assert (_intervals(gains, counts, 50, 5) == _intervals(gains, counts, 50, 5)).all()
    assert (_intervals(gains, counts, 50, 5) != _intervals(gains, counts, 50, 6)).all()


def test_each_data_set_has_its_own_baseline(tmp_path):
    beauty = {"data": "beauty"}
    write_run(
        tmp_path / "0",
        choices={"model": "a"} | beauty,
        config={"m": "a"},
        ranks=[1, 1],
        data={"fingerprint": "f2"},
    )
    write_run(
        tmp_path / "1",
        choices={"model": "b"} | beauty,
        config={"m": "b"},
        ranks=[9, 9],
        data={"fingerprint": "f2"},
    )
    write_run(tmp_path / "2", **MODEL_B, ranks=[("x", 1, 2), ("y", 1, 2)])
    write_run(tmp_path / "3", **MODEL_A, ranks=[("x", 1, 4), ("y", 1, 4)])
    frame = report([tmp_path], compare="test/mrr", samples=20)
    assert frame["baseline"].to_list() == ["a / softmax / beauty"] * 2 + ["b / softmax / ml1m"] * 2
    assert frame["difference"].to_list() == [None, pytest.approx(1 / 9 - 1), None, pytest.approx(-1 / 4)]


@pytest.mark.parametrize("name", ["b", "b/softmax", "b / softmax / ml1m", "b,x=2", "b / softmax / ml1m, x=2"])
def test_baseline_is_chosen_by_name(tmp_path, name):
    write_run(tmp_path / "0", choices={"model": "a"}, config={"m": "a"}, ranks=[1])
    write_run(tmp_path / "1", choices={"model": "b"}, config={"x": 2}, ranks=[2])
    if "x=2" in name:
        write_run(tmp_path / "2", choices={"model": "b"}, config={"x": 3}, ranks=[1])
    write_run(tmp_path / "3", choices={"data": "beauty"}, config={"d": 1}, ranks=[1])
    frame = report([tmp_path], baseline=name, compare="test/mrr", samples=5)
    label = frame["label"][2]
    assert label.startswith("b / softmax / ml1m")
    assert frame["baseline"].to_list() == [None] + [label] * (len(frame) - 1)
    assert frame["difference"].to_list()[:3] == [None, 1 - 1 / 2, None]


def test_a_run_found_twice_counts_once(tmp_path, capsys):
    write_run(tmp_path / "0", run_id="r", metrics={"test/mrr": 0.7}, mtime=2000)
    write_run(tmp_path / "1", run_id="r", metrics={"test/mrr": 0.1}, mtime=1000)
    write_run(tmp_path / "2", run_id="r", seed=2, metrics={"test/mrr": 0.5})
    write_run(tmp_path / "3", run_id="s", seed=2, config={"tags": ["x"]}, metrics={"test/mrr": 0.3}, mtime=500)
    notes = []
    row = report([tmp_path], notes=notes).row(0, named=True)
    assert (row["seeds"], row["test/mrr"]) == (2, pytest.approx(0.6))
    assert notes == [
        f"not in the table: {tmp_path / '1'} is the same run as {tmp_path / '0'}, which is newer",
        f"not in the table: {tmp_path / '3'} is the same run as {tmp_path / '2'}, which is newer",
    ]
    main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-2:] == notes


def test_runs_that_differ_in_a_nested_seed_both_count(tmp_path):
    for order in (1, 2):
        write_run(tmp_path / str(order), config={"data": {"seed": order}}, metrics={"test/mrr": order})
    assert report([tmp_path]).select("seeds", "test/mrr").row(0) == (2, 1.5)


def test_unfinished_runs_are_listed_below_the_table(tmp_path, capsys):
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", status="running", metrics={"test/mrr": 1})
    write_run(tmp_path / "2", status="failed", error="optimizer.lr=0 is not positive")
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "results.json").write_text('{"status": "stopped"}')
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines == [
        f"not in the table: {tmp_path / '1'}, running on None, or dead",
        f"not in the table: {tmp_path / '2'}, failed (optimizer.lr=0 is not positive)",
        f"not in the table: {tmp_path / '3'}, stopped (no error)",
    ]


def test_table_and_csv(tmp_path, capsys):
    third = 1 / 3
    for seed, hit in ((1, third), (2, 0.5)):
        metrics = {"test/hr@10": hit, "test/hr@1": 0.9}
        write_run(tmp_path / f"a{seed}", **MODEL_A, seed=seed, ranks=[2, 2, 9], metrics=metrics)
    write_run(
        tmp_path / "b",
        **MODEL_B,
        ranks=[1, 1, 1],
        metrics={"test/hr@10": 0.25},
        timing={"train_epoch_s": [1.5]},
    )
    write_run(tmp_path / "c", choices={"model": "[c]"}, ranks=[2, 2, 1], config={"m": "c"})
    file = tmp_path / "table.csv"
    main([str(tmp_path), "--csv", str(file), "--compare", "test/hr@1", "--samples", "77", "--seed", "4"])
    out = capsys.readouterr().out
    rows = {
        cells[0]: cells for cells in ([c.strip() for c in line.split("│")[1:-1]] for line in out.splitlines()) if cells
    }
    assert rows["a / softmax / ml1m"] == ["a / softmax / ml1m", "2", "0.4167 ± 0.1179", "-", "baseline"]
    assert rows["b / softmax / ml1m"] == [
        "b / softmax / ml1m",
        "1",
        "0.2500",
        "1.50",
        "+1.0000 [+1.0000, +1.0000] *",
    ]
    assert rows["[c] / softmax / ml1m"][-1] == "+0.3333 [+0.0000, +1.0000]"
    caption = " ".join(out.split())
    for part in (
        "±: sample standard deviation",
        "* excludes 0",
        "test/hr@1 to the baseline",
        "77 samples",
        "Baseline: a / softmax / ml1m.",
    ):
        assert part in caption
    header = "data,model,attention,label,seeds,test/hr@10,test/hr@10 std,train_epoch_s,train_epoch_s std,"
    assert file.read_text().splitlines()[0] == header + "difference,low,high,baseline"
    expected = report([tmp_path], compare="test/hr@1", samples=77, seed=4)
    frame = pl.read_csv(file, schema=expected.schema)
    assert frame["test/hr@10"].to_list() == [(third + 0.5) / 2, 0.25, None]
    assert frame["test/hr@10 std"][0] == np.std([third, 0.5], ddof=1)
    assert frame.equals(expected)


@pytest.fixture
def two_runs(tmp_path):
    write_run(tmp_path / "0", **MODEL_A, ranks=[1, 2], metrics={"test/ndcg@10": 0.1})
    write_run(tmp_path / "1", **MODEL_B, ranks=[1, 2], metrics={"test/ndcg@10": 0.1})
    return tmp_path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--metrics", "test/ndgc@10"], "unknown metric test/ndgc@10; did you mean test/ndcg@10"),
        (["--metrics", "ndgc@10"], "unknown metric ndgc@10; did you mean test/ndcg@10"),
        (
            ["--compare", "test/coverage@10"],
            "cannot compare test/coverage@10: use test/ndcg@K, test/hr@K or test/mrr",
        ),
        (["--compare", "val/ndcg@10"], "cannot compare val/ndcg@10: use test/ndcg@K, test/hr@K or test/mrr"),
        (["--compare", "test/hr@0"], "cannot compare test/hr@0: use test/ndcg@K, test/hr@K or test/mrr"),
        (["--baseline", "b/sofmax"], "unknown baseline b/sofmax; did you mean b/softmax"),
        (["--samples", "0"], "samples=0 must be at least 1 and seed=0 at least 0"),
        (["--seed", "-1"], "samples=10000 must be at least 1 and seed=-1 at least 0"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(two_runs, capsys, monkeypatch, options, sentence):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stop:
        main([str(two_runs), *options])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"seqgen.report: {sentence}\n")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError):
        main([str(two_runs), *options])


def sentence_of(folder, **options):
    with pytest.raises(UserError) as error:
        report([folder], **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_without_a_finished_run_are_refused(tmp_path):
    assert sentence_of(tmp_path / "no") == f"there is no folder {tmp_path / 'no'}"
    assert sentence_of(tmp_path) == f"no finished run under {tmp_path}"
    write_run(tmp_path / "0", status="failed", error="no data")
    assert sentence_of(tmp_path).endswith(f"; not in the table: {tmp_path / '0'}, failed (no data)")


@pytest.mark.parametrize("text", ['{"status": "fini', "[]", '{"status": "finished"}', "", '"text"'])
def test_a_broken_results_file_is_named_and_left_out(two_runs, text):
    (two_runs / "1" / "results.json").write_text(text)
    notes = []
    assert report([two_runs], notes=notes).height == 1
    assert [note.partition(" (")[0] for note in notes] == [
        f"not in the table: {two_runs / '1' / 'results.json'} is broken"
    ]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"test": False}, "not tested"),
        ({"trainer": {"fast_dev_run": True}}, "not tested"),
        ({"trainer": {"limit_test_batches": 2}}, "tested on a part of the users"),
    ],
)
def test_runs_without_a_whole_test_are_left_out(two_runs, config, told):
    file = two_runs / "1" / "results.json"
    results = json.loads(file.read_text())
    file.write_text(json.dumps(results | {"config": results["config"] | config}))
    notes = []
    assert report([two_runs], notes=notes).height == 1
    assert notes == [f"not in the table: {two_runs / '1'}, {told}"]


def test_missing_and_broken_ranks_are_named(two_runs):
    file = two_runs / "1" / "ranks.parquet"
    file.write_bytes(b"PAR1 nonsense")
    assert sentence_of(two_runs) == f"{file} is broken: run again with test=true, or leave {file.parent} out"
    file.unlink()
    assert sentence_of(two_runs) == f"{file} is missing: run again with test=true, or leave {file.parent} out"
    for ranks in ([(0, 7, 1), (1, 7, 0)], [(0, 7, 1), (1, 7, None)]):
        write_ranks(file.parent, ranks)
        assert sentence_of(two_runs).startswith(f"{file} is broken (no test case, or a rank below 1)")


def test_runs_that_are_not_compared_need_no_ranks(tmp_path):
    write_run(tmp_path / "0", metrics={"test/mrr": 0.5})
    write_run(tmp_path / "1", choices={"data": "yelp"}, data={"fingerprint": "f2"})
    assert report([tmp_path])["test/mrr"].to_list() == [0.5, None]
    assert sentence_of(tmp_path, compare="gini").startswith("cannot compare gini")


@pytest.mark.parametrize(
    "ranks", [[1], [1, 2, 3], [(0, 7, 1), (2, 7, 1)], [(0, 7, 1), (1, 8, 1)], [("a", 7, 1), ("b", 7, 1)]]
)
def test_groups_with_other_test_cases_are_refused(two_runs, ranks):
    (two_runs / "1" / "ranks.parquet").unlink()
    cases = ranks if isinstance(ranks[0], tuple) else [(user, 7, rank) for user, rank in enumerate(ranks)]
    write_ranks(two_runs / "1", cases)
    sentence = sentence_of(two_runs)
    assert "'a / softmax / ml1m' and 'b / softmax / ml1m'" in sentence
    assert "different test cases" in sentence


def test_an_ambiguous_baseline_is_refused(two_runs):
    write_run(two_runs / "2", choices={"model": "b"}, config={"model": {"name": "b", "dim": 2}}, ranks=[1, 2])
    sentence = sentence_of(two_runs, baseline="b")
    assert sentence.startswith("baseline b fits several groups")
    assert "b / softmax / ml1m, model.dim=2" in sentence


def test_an_unwritable_csv_is_refused(two_runs, capsys):
    with pytest.raises(SystemExit):
        main([str(two_runs), "--csv", str(two_runs / "no" / "table.csv")])
    assert "table.csv" in capsys.readouterr().err


def test_the_command_imports_no_torch_and_cuts_no_column(two_runs):
    code = "import sys, seqgen.report as r; r.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    names = [f"test/a_metric_with_a_long_name@{k}" for k in range(9)]
    file = two_runs / "0" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"metrics": dict.fromkeys(names, 0.123456)}))
    command = [sys.executable, "-c", code, str(two_runs), "--metrics", ",".join(names), "--samples", "9"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, check=True)
    header = next(line for line in done.stdout.splitlines() if "seeds" in line)
    assert [name for name in names if f" {name.removeprefix('test/')} " not in header] == []
    assert done.stdout.count("0.1235") == 9
