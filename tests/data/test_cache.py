"""A cache that is broken, that cannot be written, or that two processes fill at once."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from logs import COLUMNS, EVERYTHING, assert_one_sentence, left, prepared_of, table

from seqgen.data import cache
from seqgen.data.custom import interaction_log
from seqgen.data.prepare import prepare
from seqgen.errors import UserError


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", ["values.npy", "offsets.npy", "times.npy", "users.parquet", "items.parquet"])
@pytest.mark.parametrize(
    "harm",
    [Path.unlink, truncate, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"\xff" * 300)],
    ids=["gone", "cut", "empty", "garbage"],
)
def test_a_broken_cache_is_reported(harm: Any, name: str, mapped: bool, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    prepared_of(path, tmp_path)
    (found,) = left(tmp_path / "cache")
    harm(tmp_path / "cache" / found / name)
    source = interaction_log(str(path), columns=COLUMNS)
    with pytest.raises(UserError) as caught:
        prepare(source, cache_dir=tmp_path / "cache", filters=EVERYTHING, mapped=mapped)
    expected = f"The prepared set in {tmp_path / 'cache' / found} is broken; delete that folder, and it is made again."
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (
            lambda meta: json.dumps(meta | {"version": cache.VERSION + 1}),
            "was made by another version of seqgen; delete",
        ),
        (
            lambda meta: json.dumps(meta | {"num_interactions": 3}),
            "is broken; delete that folder, and it is made again.",
        ),
        (lambda meta: json.dumps({"version": cache.VERSION}), "is broken; delete that folder"),
        (lambda meta: json.dumps(meta)[:40], "is broken; delete that folder"),
        (lambda meta: "[1, 2]", "is broken; delete that folder"),
        (lambda meta: "", "is broken; delete that folder"),
    ],
    ids=["version", "sizes", "keys", "cut", "list", "empty"],
)
def test_a_cache_of_another_version_or_without_sense(meta: Any, expected: str, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    prepared_of(path, tmp_path)
    (found,) = left(tmp_path / "cache")
    file = tmp_path / "cache" / found / "meta.json"
    file.write_text(meta(json.loads(file.read_text())))
    with pytest.raises(UserError) as caught:
        prepared_of(path, tmp_path)
    assert_one_sentence(str(caught.value), str(file.parent), expected)
    assert file.is_file()  # mended by the user, not behind their back


def test_a_cache_below_a_file(tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    with pytest.raises(UserError) as caught:
        prepare(interaction_log(str(path), columns=COLUMNS), cache_dir=path / "cache", filters=EVERYTHING)
    assert_one_sentence(str(caught.value), f"The cache folder {path / 'cache'} cannot be written", "SEQGEN_CACHE")
    assert [file.name for file in tmp_path.rglob("*")] == ["log.csv"]


@pytest.mark.parametrize("bytes_left", [100, 300, 1000])
def test_a_full_disk(bytes_left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # What is printed must not go to a file, as it does without capsys.
    source = interaction_log(str(table(tmp_path / "log.csv")), columns=COLUMNS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limits[1]))
    try:
        with pytest.raises(UserError) as caught:
            prepare(source, cache_dir=tmp_path / "cache", filters=EVERYTHING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_one_sentence(str(caught.value), f"The cache folder {tmp_path / 'cache'} cannot be written", "SEQGEN_CACHE")
    assert left(tmp_path / "cache") == []


PREPARING = """
import sys, time
from pathlib import Path
import polars as pl
from seqgen.data.prepare import Filters, prepare
from seqgen.data.sources import Source
folder = Path(sys.argv[1])
def read():
    (folder / f"read-{sys.argv[2]}").touch()
    time.sleep(0.5)
    return pl.LazyFrame({"user_id": [1, 1, 2, 2], "item_id": [1, 2, 1, 2]})
(folder / f"ready-{sys.argv[2]}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
source = Source(name="log", interactions=read)
minima = Filters(min_user_interactions=1, min_item_interactions=1)
prepared = prepare(source, cache_dir=folder / "cache", filters=minima)
print("fingerprint", prepared.meta["fingerprint"], prepared.values.tolist())
"""


@pytest.mark.slow
def test_two_processes_at_once_prepare_once(tmp_path: Path) -> None:
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARING, str(tmp_path), name], cwd=ROOT, stdout=-1, stderr=-1, text=True
        )
        for name in ("a", "b")
    ]
    shown = [process.communicate(timeout=60) for process in starts]
    assert [process.returncode for process in starts] == [0, 0], shown
    printed = {line for out, _ in shown for line in out.splitlines() if line.startswith("fingerprint")}
    (found,) = left(tmp_path / "cache")
    assert printed == {f"fingerprint {found.removeprefix('log-')} [1, 2, 1, 2]"}
    assert len(list(tmp_path.glob("read-*"))) == 1
