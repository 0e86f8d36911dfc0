"""A cache that is broken, left half written, that cannot be written, or that two processes fill at once."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from filelock import FileLock
from logs import COLUMNS, EVERYTHING, assert_one_sentence, left, original, prepared_of, table

from seqgen.data.custom import interaction_log
from seqgen.data.prepare import prepare
from seqgen.errors import UserError


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def half_zeroed(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def anew(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, mapped: bool = False) -> None:
    """A broken cache is found, said, and made again as it was."""
    whole = original(prepared_of(path, tmp_path / "whole"))
    capsys.readouterr()
    source = interaction_log(str(path), columns=COLUMNS)
    for times in (1, 0):  # and the second time nothing is wrong any more
        prepared = prepare(source, cache_dir=tmp_path / "cache", filters=EVERYTHING, mapped=mapped)
        shown = capsys.readouterr().out
        (found,) = left(tmp_path / "cache")
        assert shown.count(f"Notice: The prepared set in {tmp_path / 'cache' / found} is broken (") == times
        assert shown.count("): it is prepared anew.\n") == shown.count("Preparation of log") == times
        assert original(prepared) == whole
        assert "checksums" not in prepared.meta


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", ["values.npy", "offsets.npy", "times.npy", "users.parquet", "items.parquet"])
@pytest.mark.parametrize(
    "harm",
    [Path.unlink, truncate, half_zeroed, flipped, lambda file: file.write_bytes(b"")],
    ids=["gone", "cut", "half zeroed", "flipped bit", "empty"],
)
def test_a_broken_cache_is_prepared_anew(
    harm: Any, name: str, mapped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "log.csv")
    prepared_of(path, tmp_path)
    (found,) = left(tmp_path / "cache")
    harm(tmp_path / "cache" / found / name)
    anew(path, tmp_path, capsys, mapped=mapped)


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: json.dumps(meta | {"num_interactions": 3}),
        lambda meta: json.dumps(meta | {"time_unit": "ms"}),
        lambda meta: json.dumps({name: value for name, value in meta.items() if name != "checksums"}),
        lambda meta: json.dumps(meta)[:40],
        lambda meta: "[1, 2]",
        lambda meta: "",
    ],
    ids=["sizes", "a word", "older", "cut", "list", "empty"],
)
def test_a_cache_without_sense_is_prepared_anew(
    change: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "log.csv")
    prepared_of(path, tmp_path)
    (found,) = left(tmp_path / "cache")
    file = tmp_path / "cache" / found / "meta.json"
    file.write_text(change(json.loads(file.read_text())))
    anew(path, tmp_path, capsys)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_nobody_else_can_change_a_prepared_set(mask: int, tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv")
    before = os.umask(mask)
    try:
        prepared_of(path, tmp_path)
    finally:
        os.umask(before)
    for file in (tmp_path / "cache", *(tmp_path / "cache").rglob("*")):
        mode = file.stat().st_mode & 0o777
        assert mode & ~(0o755 if file.is_dir() else 0o644) == 0, (file, oct(mode))


KILLED = """
import os, signal, sys
from pathlib import Path
import polars as pl
from seqgen.data import prepare
from seqgen.data.sources import Source
pl.DataFrame.write_parquet = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # after the arrays
source = Source(name="killed", interactions=lambda: pl.LazyFrame({"user_id": [1, 1, 2, 2], "item_id": [1, 2, 1, 2]}))
minima = prepare.Filters(min_user_interactions=1, min_item_interactions=1)
prepare.prepare(source, cache_dir=sys.argv[1], filters=minima)
"""


@pytest.mark.slow
def test_what_a_killed_preparation_left_is_removed_by_the_next(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "cache")], cwd=ROOT, check=False)
    assert done.returncode == -9
    (half,) = left(tmp_path / "cache")
    assert (tmp_path / "cache" / half / "values.npy").is_file()
    held = tmp_path / "cache" / ".held.half"  # one that another process is just writing
    held.mkdir()
    with FileLock(tmp_path / "cache" / ".held.lock"):
        prepared_of(table(tmp_path / "log.csv"), tmp_path)
    (*kept, found) = left(tmp_path / "cache")
    assert kept == [".held.half"]
    assert found.startswith("log-")


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
