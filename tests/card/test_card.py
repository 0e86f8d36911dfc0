"""The data card: every number against a plain formula on a small log, the page, and the command."""

import json
import os
import random
import re
import statistics
from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import count, pairwise

import polars as pl
import pytest
from commands import command, command_here
from conftest import TINY
from memory import memory_source

from seqgen.card.numbers import card
from seqgen.card.page import write_page
from seqgen.card.tables import print_card
from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.sources import amazon_2014

DAY, START = 86_400, 1_600_000_000 - 1_600_000_000 % 86_400
RNG = random.Random(3)
# Few days and skewed items: ties, repeats, consecutive repeats, targets that occur nowhere else. In no order.
ROWS = [
    (user, f"i{min(RNG.randint(1, 60), RNG.randint(1, 60))}", START + DAY * min(RNG.randint(0, 50), 30 + user % 20))
    for user in range(40)
    for _ in range(RNG.randint(3, 17))
]
ROWS += [(user, item, START + DAY * day) for user, item, day in [(2, "i1", 60), (2, "i1", 60), (5, "only", 60)]]
RNG.shuffle(ROWS)
T1, T2 = START + 26 * DAY, START + 34 * DAY
BOUNDS = {"val_from": 26, "test_from": 34}
MAX_LEN = 4


@pytest.fixture
def make(tmp_path):
    number = count()  # a folder each: sources in memory differ in nothing that the cache knows

    def data(rows=ROWS, source=None, **more):
        settings = {"min_user_interactions": 3, "min_item_interactions": 1, "max_len": MAX_LEN}
        settings |= {
            "source": memory_source(rows, **(source or {})),
            "cache_dir": str(tmp_path / f"cache{next(number)}"),
        }
        if more.get("split") == "global_time" and rows is ROWS:
            settings |= {name: date(START + DAY * day) for name, day in BOUNDS.items()}
        return SequenceDataModule(**(settings | more))

    return data


def date(second):
    return datetime.fromtimestamp(second, UTC).date().isoformat()


def histories(rows=ROWS):
    """Events (item, time) of each user, oldest first, in file order where times tie."""
    of = defaultdict(list)
    for user, item, time in rows:
        of[user].append((item, time))
    return {user: sorted(events, key=lambda event: event[1]) for user, events in sorted(of.items())}


def cut(events, split):
    """The training part of a user and the targets of validation and test, by index."""
    if split == "leave_one_out":
        return len(events) - 2, [len(events) - 2], [len(events) - 1]
    train = sum(time < T1 for _, time in events)
    until = sum(time < T2 for _, time in events)
    val = [until - 1] if 0 < train < until else []
    return train, val, [len(events) - 1] if 0 < until < len(events) else []


def expected_part(split, which, exclude=False):
    """What the card tells of `val` (1) or `test` (2), by loops."""
    trained = [event for events in histories().values() for event in events[: cut(events, split)[0]]]
    known = {item for item, _ in trained}
    cases = [(events[:at], events[at]) for events in histories().values() for at in cut(events, split)[which]]
    if exclude:
        cases = [(history, target) for history, target in cases if target[0] in known]
    late = [sum(time > target[1] for _, time in trained) / len(trained) for _, target in cases]
    total, cold = len(cases), sum(target[0] not in known for _, target in cases)
    again = sum(target[0] in {item for item, _ in history} for history, target in cases)
    early = sum(target[1] < max(time for _, time in trained) for _, target in cases)
    return {
        "cases": total,
        "users": total,
        "left_out": 0,
        "cold": cold,
        "cold_share": cold / total,
        "repeated": again,
        "unhittable": again,
        "unhittable_share": again / total,
        "history_median": statistics.median(len(history) for history, _ in cases),
        "leak_mean": statistics.mean(late),
        "leak_median": statistics.median(late),
        "early": early,
        "early_share": early / total,
    }


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
@pytest.mark.parametrize(("part", "which"), [("val", 1), ("test", 2)])
def test_split(make, split, part, which):
    numbers = card(make(split=split))["split"][part]
    assert numbers == pytest.approx(expected_part(split, which))
    assert min(numbers["cold"], numbers["unhittable"]) > 0, "the log has to hold what is counted"


def test_training_goes_on_after_targets_unless_split_by_time(make):
    apart = card(make(split="global_time", target="successive"))["split"]
    for part in ("val", "test"):
        assert [apart[part][name] for name in ("leak_mean", "leak_median", "early", "early_share")] == [0, 0, 0, 0]
    # User 0 is done at 5, before user 1 begins at 6: half of the training comes after the targets of user 0.
    rows = [(user, item, 1 + item + 5 * user) for user in (0, 1) for item in range(5)]
    numbers = card(make(rows))
    assert numbers["time"] == {"unit": "order", "first": 1, "last": 10, "spelled": "an order without a unit"}
    for part in ("val", "test"):
        assert [numbers["split"][part][name] for name in ("leak_mean", "leak_median", "early", "early_share")] == [
            0.25,
            0.25,
            1,
            0.5,
        ]
    assert sum(numbers["plots"]["leak"]["test"]) == 2
    assert numbers["plots"]["leak"]["test"][12] == 1  # the bin of one half


def test_a_training_interaction_at_the_moment_of_the_target_is_not_after_it(make):
    rows = [(user, item, 7 if item > 1 else item) for user in (0, 1) for item in range(5)]
    assert card(make(rows))["split"]["test"]["leak_mean"] == 0


def test_what_is_masked_is_what_the_batches_mask(make):
    for more, key in (({}, "unhittable"), ({"mask_seen": False}, "repeated")):
        data = make(**more)
        for part, loader in (("val", make().val_dataloader()), ("test", make().test_dataloader())):
            hidden = 0
            for batch in loader:
                targets = batch.targets[batch.seen_rows]
                hidden += len(batch.seen_rows[batch.seen_items == targets].unique())
            numbers = card(data)["split"][part]
            assert numbers[key] == hidden > 0
            assert numbers["unhittable"] == (hidden if data.mask_seen else 0)


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
def test_cold_targets_left_out_are_counted(make, split):
    numbers = card(make(split=split, cold_targets="exclude"))["split"]
    for part, which in (("val", 1), ("test", 2)):
        wanted = expected_part(split, which, exclude=True)
        wanted["left_out"] = expected_part(split, which)["cold"]
        assert numbers[part] == pytest.approx(wanted)


def test_lengths(make):
    lengths = [len(events) for events in histories().values()]
    train = [length - 2 for length in lengths]
    numbers = card(make())["lengths"]
    cuts = statistics.quantiles(lengths, n=20, method="inclusive")
    assert [numbers[name] for name in ("min", "p05", "p95", "max")] == pytest.approx(
        [min(lengths), cuts[0], cuts[-1], max(lengths)]
    )
    assert numbers["median"] == statistics.median(lengths)
    assert numbers["mean"] == pytest.approx(statistics.mean(lengths))
    assert numbers["users_above_max_len"] == pytest.approx(statistics.mean(length > MAX_LEN for length in lengths))
    beyond = sum(max(length - MAX_LEN - 1, 0) for length in train)
    assert numbers["beyond_last_window"] == pytest.approx(beyond / sum(train))
    assert beyond > 0


def test_what_lies_beyond_the_last_window_is_in_no_batch(make):
    data = make()
    numbers = card(data)["lengths"]["beyond_last_window"]
    inputs_and_targets = sum(len(batch.targets) + len(batch) for batch in data.train_dataloader())
    alone = sum(len(events) == 3 for events in histories().values())  # one training item: nothing to predict
    total = sum(len(events) - 2 for events in histories().values())
    assert round(numbers * total) == total - inputs_and_targets - alone


def test_ties_and_repeats(make):
    numbers, of = card(make()), histories().values()
    pairs = [pair for events in of for pair in pairwise(events)]
    tied = sum(one[1] == two[1] for one, two in pairs)
    assert numbers["ties"]["interactions"] == pytest.approx(tied / len(ROWS))
    assert numbers["ties"]["users_last_two"] == pytest.approx(statistics.mean(e[-1][1] == e[-2][1] for e in of))
    again = sum(event[0] in {item for item, _ in events[:at]} for events in of for at, event in enumerate(events))
    assert numbers["repeats"]["interactions"] == pytest.approx(again / len(ROWS))
    consecutive = sum(one[0] == two[0] for one, two in pairs)
    assert numbers["repeats"]["consecutive"] == pytest.approx(consecutive / again)
    assert 0 < consecutive < again
    assert 0 < tied < len(pairs)


def test_a_user_with_one_interaction_ties_with_no_other(make):
    rows = [(0, "a", 5), (1, "a", 5), (1, "b", 5), (2, "a", 1), (2, "b", 8), (3, "a", 2), (3, "b", 9)]
    data = make(rows, min_user_interactions=1, split="global_time", val_from=0.72, test_from=0.86)
    assert card(data)["ties"] == {"interactions": 1 / 7, "users_last_two": 1 / 4}


def test_popularity(make):
    counts = sorted(Counter(item for _, item, _ in ROWS).values(), reverse=True)
    numbers, items = card(make())["popularity"], len(counts)
    differences = sum(abs(one - two) for one in counts for two in counts)
    assert numbers["gini"] == pytest.approx(differences / (2 * items * sum(counts)))
    for percent in (1, 10):
        most = counts[: -(-items * percent // 100)]
        assert numbers[f"top_{percent}_percent"] == pytest.approx(sum(most) / sum(counts))
    assert card(make([(u, i) for u in range(4) for i in range(5)]))["popularity"]["gini"] == pytest.approx(0)


def test_steps_and_settings(make):
    numbers = card(make(min_item_interactions=3))
    for step in numbers["steps"]:
        assert step["mean_length"] == pytest.approx(step["interactions"] / step["users"])
        assert step["density"] == pytest.approx(step["interactions"] / step["users"] / step["items"])
    assert numbers["steps"][0]["interactions"] == len(ROWS) > numbers["steps"][-1]["interactions"]
    assert numbers["steps"][0]["items"] == len({item for _, item, _ in ROWS})
    assert numbers["settings"]["min_item_interactions"] == 3
    assert numbers["time"]["unit"] == "s"
    assert [numbers["time"]["first"], numbers["time"]["last"]] == [date(START), date(START + 60 * DAY)]


def test_fingerprint_is_that_of_a_run(make):
    data = make(split="global_time")
    numbers = card(data)
    assert numbers["fingerprint"] == data.facts()["fingerprint"] != card(make())["fingerprint"]
    assert numbers["protocol"]["val_from"] == date(T1)
    assert "val_from" not in card(make())["protocol"]


def test_categories(make):
    items = pl.DataFrame({"item_id": ["i1", "i2", "i3"], "categories": [["a", "b"], ["b"], []]})
    numbers = card(make(source={"items": lambda: items}))
    absent = len({item for _, item, _ in ROWS} - {"i1", "i2"})
    assert numbers["categories"] == {"number": 2, "items_without": absent}
    assert card(make())["categories"] is None


@pytest.mark.parametrize(("days", "bins"), [(1, 61), (10, 20)])
def test_timeline_counts_by_day_or_by_month(make, days, bins):
    rows = [(user, item, START + (time - START) * days) for user, item, time in ROWS]
    line = card(make(rows))["plots"]["timeline"]
    form = "%Y-%m-%d" if days == 1 else "%Y-%m-01"
    for name, events in (
        ("interactions", [time for _, _, time in rows]),
        ("val", [events[-2][1] for events in histories(rows).values()]),
        ("test", [events[-1][1] for events in histories(rows).values()]),
    ):
        wanted = Counter(datetime.fromtimestamp(time, UTC).strftime(form) for time in events)
        assert {d: n for d, n in zip(line["edges"], line[name], strict=False) if n} == wanted
    assert bins <= len(line["interactions"]) <= bins + 1


def test_curves_of_the_plots(make):
    plots = card(make())["plots"]
    counts = sorted(Counter(item for _, item, _ in ROWS).values())
    curve = plots["popularity"]
    assert [counts[-rank] for rank in curve["ranks"]] == curve["counts"]
    assert [curve["ranks"][0], curve["ranks"][-1]] == [1, len(counts)]
    held = [sum(counts[: round(share * len(counts))]) / len(ROWS) for share in curve["items"]]
    assert curve["held"] == pytest.approx(held)
    bins, lengths = plots["lengths"], [len(events) for events in histories().values()]
    bounds = list(zip(bins["edges"], bins["edges"][1:], strict=False))
    assert bins["users"] == [sum(low <= length < high for length in lengths) for low, high in bounds]
    assert sum(bins["users"]) == len(lengths)


def test_without_times_nothing_is_told_of_time(make, tmp_path, capsys):
    numbers = card(make([row[:2] for row in ROWS]))
    assert numbers["time"] is numbers["ties"] is numbers["plots"]["timeline"] is None
    assert not any(name.startswith(("leak", "early")) for part in numbers["split"].values() for name in part)
    print_card(numbers)
    page = write_page(numbers, tmp_path).read_text()
    for text in (capsys.readouterr().out, page):
        assert "cold targets" in text
        for word in ("over time", "training after the target", "tie<", "interactions tie"):
            assert word not in text
    assert page.count("<svg") == 4


def test_card_is_plain_and_kept_beside_the_page(make, tmp_path):
    numbers = card(make(storage="mmap"))
    page = write_page(numbers, tmp_path / "new" / "folder")
    assert page.name == "card.html"
    assert json.loads((page.parent / "card.json").read_text()) == numbers == card(make())


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
def test_page_stands_alone(make, tmp_path, split):
    file = tmp_path / "<img src=x>&.csv"
    file.write_text("x")
    numbers = card(make(source={"name": "<script>alert('a')<&", "files": (file,)}, split=split))
    page = write_page(numbers, tmp_path / "page").read_text()
    assert "&lt;script&gt;alert(&#x27;a&#x27;)&lt;&amp;" in page
    assert "&lt;img src=x&gt;&amp;.csv" in page
    assert not re.search("<script|<img|<link|@import|https?:", page)
    assert all(name.startswith("#plot") for name in re.findall(r'href="([^"]*)"', page))
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert {name for pair in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page) for name in pair if name} <= {*names}
    assert not re.search(r"#0[1-5]0[1-5]0[1-5]", page), "a colour that is no variable of the page"
    defined = set(re.findall(r"--(\w+):", page))
    assert set(re.findall(r"var\(--(\w+)\)", page)) <= defined
    assert page.count("<svg") == page.count("</svg>") == 6
    assert ("T2</text>" in page) == (split == "global_time")


def test_printed_numbers(make, capsys):
    numbers = card(make())
    print_card(numbers)
    out = capsys.readouterr().out
    test = numbers["split"]["test"]
    assert f"{test['unhittable']} ({100 * test['unhittable_share']:.3g} %)" in out
    assert f"{100 * test['leak_mean']:.3g} %" in out
    assert f"{numbers['popularity']['gini']:.3f}" in out


@pytest.mark.slow
def test_command_prints_and_writes(tmp_path):
    done = command("seqgen.data", "data=synthetic", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("outputs/cards/synthetic/*/card.html")
    assert done.stdout.splitlines()[-1] == f"Page: {page}"
    assert json.loads((page.parent / "card.json").read_text())["steps"][0]["users"] == 60
    assert (page.parent / ".hydra" / "config.yaml").is_file()
    assert "targets before the end of training" in done.stdout
    assert done.stderr == ""


def test_command_sweeps_and_takes_a_folder(tmp_path):
    where = f"hydra.sweep.dir={tmp_path}/both"
    done = command_here(
        "seqgen.data", "-m", "data=synthetic", "data.split=leave_one_out,global_time", where, *TINY, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    numbers = [json.loads((tmp_path / f"both/{job}-synthetic/card.json").read_text()) for job in (0, 1)]
    assert numbers[0]["split"]["test"]["leak_mean"] > 0 == numbers[1]["split"]["test"]["leak_mean"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data=beautyy"], "seqgen: data=beautyy does not exist; did you mean beauty;"),
        (
            ["data.max_length=3"],
            "seqgen: data.max_length is not a key of this configuration; did you mean data.max_len",
        ),
        (["data.max_len=0"], "seqgen: data.max_len=0 must be at least 1."),
        (["-m", "data.max_len=3,0", *TINY[:-2]], "seqgen: data.max_len=0 must be at least 1."),
    ],
)
def test_command_tells_an_error_in_one_sentence(tmp_path, arguments, sentence):
    done = command_here("seqgen.data", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert len(done.stderr.splitlines()) == 1 + ("-m" in arguments)  # Hydra names the job of a sweep
    assert not list(tmp_path.glob("outputs/cards/synthetic/*/card.html"))


@pytest.mark.data
def test_beauty(real_data):
    folder = str(real_data("amazon-beauty").parent)
    source = amazon_2014(folder, folder="amazon-beauty", category="Beauty", categories="attributes")
    data = SequenceDataModule(source=source, cache_dir=os.environ["SEQGEN_CACHE"])
    numbers = card(data)
    # Counted line by line in interactions.csv.gz: 39 %, 43 %.
    assert numbers["ties"] == pytest.approx({"interactions": 77_402 / 198_502, "users_last_two": 9_719 / 22_363})
    assert numbers["repeats"] == {"interactions": 0, "consecutive": 0}
    assert [numbers["time"]["first"], numbers["time"]["last"]] == ["2002-06-12", "2014-07-23"]
    assert round(numbers["lengths"]["mean"], 2) == 8.88
    assert [numbers["lengths"][name] for name in ("min", "median", "max")] == [5, 6, 204]
    assert numbers["categories"] == {"number": 637, "items_without": 0}
    assert round(numbers["steps"][-1]["density"], 5) == 0.00073
