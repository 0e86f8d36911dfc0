"""Runs as rows: groups over seeds, labels, columns, baselines."""

import math

import pytest
from run_folders import MODEL_A, MODEL_B, sentence_of, write_ranks, write_run, write_two_runs

from seqgen.report import report


@pytest.fixture
def two_runs(tmp_path):
    return write_two_runs(tmp_path)


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
    after = ["difference", "low", "high", "baseline", "p", "p_holm", "best", "not_worse", "pareto"]
    assert [name for name in frame.columns if name in after] == after
    assert frame.columns[-1] == "published"


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


def test_an_ambiguous_baseline_is_refused(two_runs):
    write_run(two_runs / "2", choices={"model": "b"}, config={"model": {"name": "b", "dim": 2}}, ranks=[1, 2])
    sentence = sentence_of(two_runs, baseline="b")
    assert sentence.startswith("baseline b fits several groups")
    assert "b / softmax / ml1m, model.dim=2" in sentence


def test_runs_that_differ_in_a_nested_seed_both_count(tmp_path):
    for order in (1, 2):
        write_run(tmp_path / str(order), config={"data": {"seed": order}}, metrics={"test/mrr": order})
    assert report([tmp_path]).select("seeds", "test/mrr").row(0) == (2, 1.5)
