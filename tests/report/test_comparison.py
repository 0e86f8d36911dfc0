"""The frames of a comparison, by hand: best rows, Pareto front, curves, groups of cases, costs, unfinished runs."""

import math

import polars as pl
import pytest
from run_folders import sentence_of, write_run

from seqgen.report import compute


def model(name, **config):
    return {"choices": {"model": name}, "config": {"model": {"name": name}} | config}


def test_the_best_and_what_is_not_worse_are_marked_in_each_data_set(tmp_path):
    for name, rank in (("good", 1), ("near", 1), ("bad", 5)):
        ranks = [rank] * 40
        ranks[0] = 2 if name == "near" else rank
        write_run(tmp_path / name, **model(name), ranks=ranks)
    write_run(tmp_path / "other", choices={"data": "yelp"}, ranks=[1, 1], data={"fingerprint": "f2"})
    found = compute([tmp_path], baseline="near").summary
    marks = {row["model"]: (row["best"], row["not_worse"]) for row in found.iter_rows(named=True)}
    assert marks == {"good": (True, True), "near": (False, True), "bad": (False, False), "sasrec": (False, False)}
    # Of 10,000 samples none crosses 0, twice; both differences are corrected for two.
    p = found.filter(pl.col("model") == "bad").select("p", "p_holm").row(0)
    assert p == pytest.approx((2 / 10_001, 4 / 10_001))


def test_too_few_samples_for_holm_are_told(tmp_path):
    for number in range(4):
        write_run(tmp_path / f"{number}", **model(f"m{number}"), ranks=[1 + number] * 3)
    told = "no p-value can fall below 0.05 after Holm's correction with 99 samples and 3 differences: use --samples 120"
    assert compute([tmp_path], samples=99).notes == [told]
    assert compute([tmp_path], samples=120).notes == []


def test_the_front_of_accuracy_coverage_and_time(tmp_path):
    for name, accuracy, coverage, seconds in (
        ("exact", 0.5, 0.1, [9, 9]),
        ("broad", 0.3, 0.9, [9, 9]),
        ("fast", 0.2, 0.1, []),
        ("beaten", 0.3, 0.8, [10, 9]),
    ):
        metrics = {"test/ndcg@10": accuracy, "test/coverage@10": coverage}
        write_run(tmp_path / name, **model(name), ranks=[1], metrics=metrics, timing={"train_epoch_s": seconds})
    # One that only tested a checkpoint has no time of training, and so no place.
    timing = {"train_epoch_s": []}
    write_run(
        tmp_path / "tested", **model("tested", train=False), ranks=[1], metrics={"test/ndcg@10": 1}, timing=timing
    )
    found = compute([tmp_path], samples=200)
    assert found.axes == ("test/ndcg@10", "test/coverage@10", "train_s")
    front = dict(found.summary.select("model", "pareto").iter_rows())
    assert front == {"exact": True, "broad": True, "fast": True, "beaten": False, "tested": False}
    assert dict(found.summary.select("model", "train_s").iter_rows())["beaten"] == 19


def test_curves_of_each_label_and_seed(tmp_path):
    history = [{"epoch": 0, "train/loss": 3.0, "val/ndcg@10": 0.1, "val/hr@5": 1}, {"epoch": 1, "train/loss": 2.0}]
    for seed in (1, 2):
        write_run(tmp_path / f"{seed}", seed=seed, config={"monitor": "val/ndcg@10"}, history=history, ranks=[1])
    write_run(tmp_path / "3", **model("b", monitor="val/hr@5"), history=history, ranks=[1])
    found = compute([tmp_path], samples=200)
    ours, theirs = found.summary["label"]
    assert found.monitor == "val/ndcg@10"
    assert found.curves.rows() == [
        ("ml1m", ours, 1, 0, 3.0, 0.1),
        ("ml1m", ours, 1, 1, 2.0, None),
        ("ml1m", ours, 2, 0, 3.0, 0.1),
        ("ml1m", ours, 2, 1, 2.0, None),
        ("ml1m", theirs, 1, 0, 3.0, None),
        ("ml1m", theirs, 1, 1, 2.0, None),
    ]
    assert "no validation curve of 1 runs, which watch another metric than val/ndcg@10" in found.notes


def test_metrics_by_group_are_worked_by_hand(tmp_path):
    cases = pl.DataFrame(
        {
            "user": [0, 1, 2, 3, 4, 5],
            "target": [1, 2, 3, 4, 5, 6],
            "history_len": [4, 4, 4, 5, 9, 30],
            "target_count": [0, 0, 7, 7, 7, 80],
            "transition_seen": [True, False, False, False, False, True],
        }
    )
    for seed, ranks in ((1, [1, 9, 1, 9, 9, 1]), (2, [9, 9, 1, 9, 9, 1])):
        folder = write_run(tmp_path / f"{seed}", seed=seed)
        shuffled = cases.with_columns(rank=pl.Series(ranks)).sample(fraction=1, shuffle=True, seed=seed)
        shuffled.write_parquet(folder / "ranks.parquet")
    found = compute([tmp_path], compare="hr@5").groups
    assert found.drop("data", "label").rows() == [
        ("history length", "4", 3, (0.5 + 0 + 1) / 3),
        ("history length", "5", 1, 0.0),
        ("history length", "9", 1, 0.0),
        ("history length", "30", 1, 1.0),
        ("target popularity", "0 (cold)", 2, 0.25),
        ("target popularity", "7", 3, pytest.approx(1 / 3)),
        ("target popularity", "80", 1, 1.0),
        ("transition seen", "not seen", 4, 0.25),
        ("transition seen", "seen", 2, 0.75),
    ]
    assert found["data"].unique().to_list() == ["ml1m"]


def test_many_values_are_put_into_five_buckets_of_whole_ranges(tmp_path):
    folder = write_run(tmp_path / "0")
    lengths = [4] * 500 + list(range(5, 505))
    cases = {"user": range(1000), "target": 1, "rank": 1, "history_len": lengths}
    frame = pl.DataFrame(cases).with_columns(target_count=0, transition_seen=pl.lit(True))
    frame.write_parquet(folder / "ranks.parquet")
    found = compute([tmp_path]).groups
    assert found.filter(pl.col("grouping") == "history length").select("bucket", "cases").rows() == [
        ("4", 500),
        ("5 to 104", 100),
        ("105 to 304", 200),
        ("305 to 504", 200),
    ]
    assert found.filter(pl.col("grouping") != "history length")["bucket"].to_list() == ["0 (cold)", "seen"]


def test_costs_are_means_over_seeds(tmp_path):
    for seed, device in ((1, None), (2, 100.0)):
        timing = {"train_epoch_s": [1.0, 3.0 * seed, 9.0], "train_epoch_cpu_s": [2.0], "total_s": 10.0 * seed}
        memory = {"host": 500.0 * seed, "device": device}
        write_run(tmp_path / f"{seed}", seed=seed, timing=timing, peak_memory_mb=memory, ranks=[1])
    row = compute([tmp_path]).summary.row(0, named=True)
    names = ("train_epoch_cpu_s", "train_s", "total_s", "peak_memory_mb", "peak_device_memory_mb", "parameters")
    assert [row[name] for name in names] == [2.0, (13 + 16) / 2, 15.0, 750.0, None, 100.0]


def test_unfinished_runs_say_how_they_go_on(tmp_path):
    write_run(tmp_path / "0", ranks=[1])
    stopped = write_run(tmp_path / "1", status="stopped", error="The run was interrupted.")
    (stopped / "checkpoints").mkdir()
    (stopped / "checkpoints" / "last.ckpt").touch()
    write_run(tmp_path / "2", config={"test": False})
    (folder, status, sentence), *others = compute([tmp_path]).unfinished.rows()
    assert (folder, status, others) == (str(stopped), "stopped", [])
    assert "go on with: python -m seqgen.run ckpt_path=" in sentence


def test_runs_under_another_protocol_are_refused_or_told(tmp_path):
    ours = {"metrics": {"k": [5, 10]}, "data": {"mask_seen": True, "split": "leave_one_out"}}
    write_run(tmp_path / "0", **model("a", **ours), ranks=[1], device="cpu")
    write_run(tmp_path / "1", **model("b", **ours | {"metrics": {"k": [10]}}), ranks=[2], device="NVIDIA H100")
    write_run(tmp_path / "2", **model("c", **ours), ranks=[1], data={"fingerprint": "f2"})
    assert compute([tmp_path], samples=200).notes == [
        "ml1m is 2 data sets (f1, f2): rows of one are not compared to another's",
        "runs on ml1m differ in metrics.k ([5, 10], [10]): where one lacks a metric stands -",
        "times on ml1m are of several devices: cpu, NVIDIA H100",
    ]
    write_run(tmp_path / "3", **model("d", **ours | {"data": {"mask_seen": False}}), ranks=[2])
    assert "differ in data.mask_seen (True and False): report them apart" in sentence_of(tmp_path)


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        (((1,), (1,)), "One seed a row: only users are resampled"),
        (
            ((1, 2), (1, 2)),
            "Seeds and users are resampled, the same seeds for a row and its baseline. Intervals over fewer",
        ),
        (((1, 2), (3, 4)), "Seeds and users are resampled; independently in 1 of 1 differences"),
        (((1, 2, 3, 4, 5), (1,)), "baseline's seeds; of a row with one seed only users."),
    ],
)
def test_the_design_says_what_was_resampled(tmp_path, seeds, told):
    for name, numbers in zip("ab", seeds, strict=True):
        for seed in numbers:
            write_run(tmp_path / f"{name}{seed}", **model(name), seed=seed, ranks=[1, 2, seed])
    assert told in compute([tmp_path], samples=100).design


def test_seeds_in_common_are_resampled_together(tmp_path):
    """Both rows move with their seeds alike: the same seeds know it, others do not."""
    for name, shift, first in (("a", 0, 1), ("b", 1, 1), ("c", 1, 11)):
        for seed in range(3):
            ranks = [10**seed + shift] * 30
            write_run(tmp_path / f"{name}{seed}", **model(name), seed=first + seed, ranks=ranks)
    rows = compute([tmp_path], compare="mrr", samples=2000).summary.rows_by_key("model", named=True, unique=True)
    b, c = rows["b"], rows["c"]
    assert b["difference"] == pytest.approx(sum(1 / (10**s + 1) - 1 / 10**s for s in range(3)) / 3)
    assert b["difference"] == c["difference"]
    assert b["high"] - b["low"] < 0.7 * (c["high"] - c["low"])
    assert not math.isclose(b["p"], c["p"])
