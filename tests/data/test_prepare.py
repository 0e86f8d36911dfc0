"""Filtering, order and numbering against plain Python; the cache by content."""

import resource
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import itemgetter

import numpy as np
import polars as pl
import pytest
from memory import interactions, memory_source
from polars.testing import assert_frame_equal

from seqgen.data.prepare import Filters, prepare
from seqgen.errors import UserError

EVERYTHING = Filters(min_user_interactions=1, min_item_interactions=1)
FOUR = [(1, 10), (1, 11), (2, 10), (2, 12)]


def written(cache):
    """What lies in the cache beside the locks."""
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def original(prepared):
    """Rows by original ids, in the prepared order."""
    users, items = prepared.users["user_id"].to_list(), prepared.items["item_id"].to_list()
    return [(users[u], items[i - 1]) for u, i in interactions(prepared).rows()]


@pytest.mark.parametrize("timed", [True, False])
def test_order_and_numbers(tmp_path, timed):
    rng = np.random.default_rng(3)
    # Ids with gaps, 0 among them; a handful of stamps, so most rows tie with others.
    columns = (rng.integers(80, size=6000) * 7, rng.integers(900, size=6000) * 3, rng.integers(4, size=6000))
    rows = [tuple(map(int, row)) for row in zip(*columns, strict=True)]
    rows = rows if timed else [row[:2] for row in rows]
    prepared = prepare(memory_source(rows), cache_dir=tmp_path, filters=EVERYTHING)
    by = itemgetter(0, 2) if timed else itemgetter(0)
    assert original(prepared) == [row[:2] for row in sorted(rows, key=by)]
    users, items = prepared.users["user_id"].to_list(), prepared.items["item_id"].to_list()
    assert users == sorted({row[0] for row in rows})
    assert items == sorted({row[1] for row in rows})
    assert set(interactions(prepared)["user"]) == set(range(len(users)))
    assert set(interactions(prepared)["item"]) == set(range(1, len(items) + 1))


def test_numbers_are_contiguous_after_filtering(tmp_path):
    rows = [("b", 9), ("a", 9), ("a", 4), ("c", 9), ("c", 4), ("c", 5), ("a", 2)]
    prepared = prepare(
        memory_source(rows), cache_dir=tmp_path, filters=Filters(min_user_interactions=2, min_item_interactions=2)
    )
    assert prepared.users["user_id"].to_list() == ["a", "c"]
    assert prepared.items["item_id"].to_list() == [4, 9]
    assert interactions(prepared).rows() == [(0, 2), (0, 1), (1, 2), (1, 1)]
    raw, core = prepared.meta["steps"]
    assert (raw["users"], raw["items"], raw["interactions"]) == (3, 4, 7)
    assert (core["users"], core["items"], core["interactions"]) == (2, 2, 4)


def test_items_keep_titles_and_categories(tmp_path):
    known = pl.DataFrame({"item_id": [12, 99, 10, 11], "title": list("lzjk"), "categories": [["x"], ["z"], [], ["y"]]})
    source = memory_source(FOUR, items=lambda: known)
    items = prepare(source, cache_dir=tmp_path, filters=EVERYTHING).items
    assert items.select("item_id", "title", "categories").rows() == [(10, "j", []), (11, "k", ["y"]), (12, "l", ["x"])]


def test_second_time_reads_the_cache(tmp_path):
    reads = []
    known = pl.DataFrame({"item_id": [10, 11, 12], "title": ["j", "k", "l"], "categories": [["x", "y"], [], ["x"]]})
    log = memory_source(FOUR).interactions

    def read():
        reads.append(1)
        return log()

    source = memory_source(FOUR, interactions=read, items=lambda: known)
    first = prepare(source, cache_dir=tmp_path, filters=EVERYTHING)
    second = prepare(source, cache_dir=tmp_path, filters=EVERYTHING)
    assert len(reads) == 1
    assert_frame_equal(interactions(first), interactions(second))
    for table in ("users", "items"):
        assert_frame_equal(getattr(first, table), getattr(second, table))
    assert first.meta == second.meta
    assert written(tmp_path) == [f"memory-{first.meta['fingerprint']}"]


def test_whatever_matters_is_in_the_fingerprint(tmp_path):
    file, twin = tmp_path / "log.csv", tmp_path / "twin.csv"
    file.write_bytes(b"one")
    twin.write_bytes(b"one")

    def fingerprint(settings=EVERYTHING, **more):
        source = memory_source(FOUR, **{"files": (file,), **more})
        return prepare(source, cache_dir=tmp_path / "cache", filters=settings).meta["fingerprint"]

    base = fingerprint()
    assert fingerprint() == base
    others = [
        fingerprint(replace(EVERYTHING, min_user_interactions=2)),
        fingerprint(replace(EVERYTHING, min_item_interactions=2), interactions=memory_source(FOUR * 2).interactions),
        fingerprint(replace(EVERYTHING, repeats="drop_repeats")),
        fingerprint(name="other"),
        fingerprint(parameters={"seed": 1}),
        fingerprint(files=(twin,)),
        fingerprint(files=(file, twin)),
    ]
    file.write_bytes(b"two")
    others.append(fingerprint())
    assert len({base, *others}) == 9
    file.write_bytes(b"one")
    assert fingerprint() == base


def test_nothing_left(tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(UserError) as error:
        prepare(memory_source(FOUR), cache_dir=cache, filters=Filters(min_user_interactions=2, min_item_interactions=3))
    sentence = str(error.value)
    assert "data.min_user_interactions=2" in sentence
    assert "data.min_item_interactions=3" in sentence
    assert "4 before" in sentence
    assert "\n" not in sentence
    assert written(cache) == []


@pytest.mark.parametrize("folder", ["file/cache", "x" * 300], ids=["below a file", "name too long"])
def test_unwritable_cache(tmp_path, folder):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="SEQGEN_CACHE") as error:
        prepare(memory_source(FOUR), cache_dir=tmp_path / folder, filters=EVERYTHING)
    assert str(tmp_path / folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_full_disk(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # no file may grow past 100 bytes
    try:
        with pytest.raises(Exception, match=r".") as error:
            prepare(memory_source(FOUR), cache_dir=tmp_path, filters=EVERYTHING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert written(tmp_path) == []
    assert error.type is UserError
    assert "SEQGEN_CACHE" in str(error.value)


def test_cut_off_while_writing(tmp_path, monkeypatch):
    def cut_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", cut_off)  # meta.json, after the tables
        with pytest.raises(KeyboardInterrupt):
            prepare(memory_source(FOUR), cache_dir=tmp_path, filters=EVERYTHING)
    assert written(tmp_path) == []
    assert original(prepare(memory_source(FOUR), cache_dir=tmp_path, filters=EVERYTHING)) == FOUR


def test_two_at_once_prepare_once(tmp_path):
    reads, frame = [], memory_source(FOUR).interactions()

    def read():
        reads.append(1)
        time.sleep(0.2)  # long enough for the other to find no cache
        return frame

    source = memory_source(FOUR, interactions=read)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: prepare(source, cache_dir=tmp_path, filters=EVERYTHING), range(2)))
    assert [original(result) for result in results] == [FOUR, FOUR]
    assert len(reads) == 1
    (folder,) = written(tmp_path)
    files = {"values.npy", "offsets.npy", "users.parquet", "items.parquet", "meta.json"}
    assert {file.name for file in (tmp_path / folder).iterdir()} == files
