"""Any interaction log: the same rows in every form give the same data; what is wrong is told in one sentence."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import QUIET
from memory import interactions

from seqgen import config
from seqgen.check import check
from seqgen.data.custom import interaction_log
from seqgen.data.prepare import Filters, prepare
from seqgen.errors import UserError

COLUMNS: dict[str, str | None] = {"user": "who", "item": "what", "timestamp": "when"}
# Five users with five items each, newest first within a user; two interactions of equal time keep the file's order.
ROWS = [
    (f"u{u}", f"i{(u + t) % 5}", 100 - t // 2, 1 + t % 5, "even" if (u + t) % 2 else "odd")
    for u in range(5)
    for t in range(5)
]
FRAME = pl.DataFrame(ROWS, schema=["who", "what", "when", "stars", "kind"], orient="row")
EXPECTED = [  # of u0: times 100, 100, 99, 99, 98, so oldest first the last comes first
    "i4", "i2", "i3", "i0", "i1",
]  # fmt: skip


def write(folder: Path, ending: str, frame: pl.DataFrame = FRAME) -> Path:
    path = folder / f"log{ending}"
    if ending == ".parquet":
        frame.write_parquet(path)
        return path
    text = frame.write_csv(separator="\t" if ".tsv" in ending else ",")
    if ending == ".jsonl":
        frame.write_ndjson(path)
    elif ending.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def sequences(path: Path | str, cache: Path, **settings: Any) -> dict[str, list[str]]:
    source = interaction_log(str(path), columns=settings.pop("columns", COLUMNS))
    filters = Filters(min_user_interactions=3, min_item_interactions=1, **settings)
    prepared = prepare(source, cache_dir=cache, filters=filters)
    rows = interactions(prepared).join(prepared.users, on="user", maintain_order="left")
    rows = rows.join(prepared.items, on="item", maintain_order="left")
    found: dict[str, list[str]] = {}
    for user, item in rows.select("user_id", "item_id").iter_rows():
        found.setdefault(user, []).append(item)
    return found


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".tsv.gz"])
def test_every_form_gives_the_same_sequences(ending: str, tmp_path: Path) -> None:
    found = sequences(write(tmp_path, ending), tmp_path / "cache")
    assert found["u0"] == EXPECTED
    assert sorted(found) == [f"u{u}" for u in range(5)]


def test_parts_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for part, rows in (("b", FRAME[12:]), ("a", FRAME[:12])):
        rows.write_csv(tmp_path / f"parts/{part}.csv")
    (tmp_path / "parts/notes.md").write_text("not a part")
    columns = COLUMNS | {"timestamp": None}
    whole = sequences(write(tmp_path, ".csv"), tmp_path / "cache", columns=columns)
    assert sequences(tmp_path / "parts", tmp_path / "cache", columns=columns) == whole
    assert sequences(tmp_path / "parts/*.csv", tmp_path / "cache", columns=columns) == whole
    assert whole["u0"] == ["i0", "i1", "i2", "i3", "i4"]


def test_dates_order_as_numbers_do(tmp_path: Path) -> None:
    dated = FRAME.with_columns(when=pl.format("2024-01-01 00:{}:00", (pl.col("when") - 60).cast(pl.String)))
    assert sequences(write(tmp_path, ".csv", dated), tmp_path / "cache")["u0"] == EXPECTED


def test_low_ratings_are_dropped_and_categories_collected(tmp_path: Path) -> None:
    path = write(tmp_path, ".csv")
    columns = COLUMNS | {"rating": "stars", "category": "kind"}
    assert sequences(path, tmp_path / "cache", columns=columns, min_rating=2)["u0"] == ["i4", "i2", "i3", "i1"]
    source = interaction_log(str(path), columns=columns)
    assert source.items is not None
    items = dict(source.items().sort("item_id").iter_rows())
    assert items["i0"] == ["even", "odd"]


def test_lists_of_categories_are_their_categories(tmp_path: Path) -> None:
    columns = COLUMNS | {"category": "kind"}
    listed = write(tmp_path, ".parquet", FRAME.with_columns(kind=pl.concat_list("kind", pl.lit("all"))))
    source = interaction_log(str(listed), columns=columns)
    assert source.items is not None
    assert dict(source.items().sort("item_id").iter_rows())["i0"] == ["all", "even", "odd"]
    nested = write(tmp_path, ".parquet", FRAME.with_columns(kind=pl.struct("kind", "who")))
    source = interaction_log(str(nested), columns=columns)
    assert source.items is not None
    with pytest.raises(UserError, match="has a category column of nested values; give texts, or lists of texts"):
        source.items()


@pytest.mark.parametrize(
    ("ending", "columns", "min_rating", "told"),
    [
        (
            ".csv",
            {"user": "whom", "item": "what"},
            None,
            "data.columns.user=whom is no column of {path}; did you mean who.",
        ),
        (".csv", {"user": "x", "item": "what"}, None, "it has who, what, when, stars, kind."),
        (".csv", {"user": "who", "item": None}, None, "columns.item is needed"),
        (".csv", {"user": "who", "item": "who"}, None, "columns names one column twice (who, who)"),
        (
            ".csv",
            {"user": "who", "item": "what", "price": "stars"},
            None,
            "columns.price is no column seqgen reads",
        ),
        (
            ".csv",
            {"user": "who", "item": "what"},
            3.0,
            "data.min_rating has no effect on log, which has no ratings; leave it null, or name the column in",
        ),
        (".xlsx", {"user": "who", "item": "what"}, None, "holds files ending in .xlsx; give files of one kind of .csv"),
    ],
)
def test_refused(ending: str, columns: Any, min_rating: float | None, told: str, tmp_path: Path) -> None:
    path = write(tmp_path, ending)
    with pytest.raises(UserError) as caught:
        sequences(path, tmp_path / "cache", columns=columns, min_rating=min_rating)
    assert told.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/log*"))


@pytest.mark.parametrize("column", ["who", "what", "when"])
def test_empty_ids_and_timestamps_are_refused(column: str, tmp_path: Path) -> None:
    holes = FRAME.with_columns(
        pl.when(pl.int_range(pl.len()) % 10 == 3).then(None).otherwise(pl.col(column)).alias(column)
    )
    name = {value: key for key, value in COLUMNS.items()}[column]
    with pytest.raises(UserError, match=rf"log\.parquet, row 4: the {name} is empty \(and in 2 more rows\); fill"):
        sequences(write(tmp_path, ".parquet", holes), tmp_path / "cache")


@pytest.mark.parametrize("text", ["", "who,what,when\nu0,i0\nu1,i1,5,6,7\n", "who,what,when\nu0,i0,not a date\n"])
def test_files_that_cannot_be_read_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        sequences(path, tmp_path / "cache")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no file; give a file, a pattern, or a folder"):
        interaction_log(f"{tmp_path}/none*.csv", columns=COLUMNS)


def test_a_run_on_a_log_of_ones_own(tmp_path: Path) -> None:
    from seqgen.run import run

    rows = [(f"u{u}", f"i{(u + t) % 20:02d}", t) for u in range(60) for t in range(8)]
    pl.DataFrame(rows, schema=["who", "what", "when"], orient="row").write_csv(tmp_path / "log.csv")
    named = [f"data.columns.{name}={column}" for name, column in COLUMNS.items()]
    model = ["model=transition", "data=custom", f"data.path={tmp_path}/log.csv", *named, *QUIET]
    run(config.compose(model, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"]["test/hr@1"] == 1.0
    assert pl.read_parquet(tmp_path / "ranks.parquet")["target"][0] == "i07"


def test_a_key_of_the_parent_is_known_and_a_wrong_one_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path is not given: set data\.path="):
        check(config.compose(["data=custom"], output_dir=tmp_path))
    check(config.compose(["data=custom", "data.path=x", "data.max_len=7"], output_dir=tmp_path))
    with pytest.raises(
        UserError, match=r"data\.max_length is not a key of .*CustomDataModule; did you mean data\.max_len"
    ):
        check(config.compose(["data=custom", "data.path=x", "+data.max_length=7"], output_dir=tmp_path))
    with pytest.raises(UserError, match=r"data\.max_len=many must be an integer"):
        check(config.compose(["data=custom", "data.path=x", "data.max_len=many"], output_dir=tmp_path))
