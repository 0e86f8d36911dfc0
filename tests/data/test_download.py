"""Downloads from a small server on this machine that breaks off: what is fetched, and gone on with."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from web import ARCHIVE, BYTES, OTHER, PAGE, Site, listing, refusal, served, sha256, without_waits_and_proxy

from seqgen.data import download
from seqgen.data.download import obtain, recorded


@pytest.fixture
def site() -> Iterator[Site]:
    with served() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waits_and_proxy(monkeypatch)


def test_local_files_need_no_network_and_no_writing(site: Site, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("a.csv", "b.csv"):
        (folder / name).write_bytes(b"mine")
    for url in (None, site.url, site.url + "/set.zip", "file:///etc"):
        assert obtain(folder, ["b.csv", "a.csv"], page=PAGE, url=url) == (folder / "b.csv", folder / "a.csv")
    assert site.requests == []
    assert {file.name for file in folder.iterdir()} == {"a.csv", "b.csv"}
    assert recorded(folder / "a.csv") is None


def test_without_an_address_the_sentence_says_where_to_get_the_file(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.csv").write_bytes(b"mine")
    refusal(
        f"needs the file {folder / 'b.csv'}",
        f"get it from {PAGE} and put it there",
        "SEQGEN_DATA",
        "paths.data_dir",
        "holds set/",
        call=lambda: obtain(folder, ["a.csv", "b.csv", "c.csv"], page=PAGE),
    )
    assert listing(folder) == {"a.csv"}


def test_plain_files(site: Site, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.files = {"/set/odd%20n%C3%A4me.csv": BYTES, "/set/b.csv.gz": OTHER}
    remote = {"a.csv": "odd näme.csv"}
    files = obtain(folder, ["a.csv", "b.csv.gz"], page=PAGE, url=site.url + "/set/", remote=remote)
    assert [file.read_bytes() for file in files] == [BYTES, OTHER]
    assert listing(folder) == {"a.csv", "b.csv.gz", "downloads.json"}
    assert json.loads((folder / "downloads.json").read_text()) == {
        "a.csv": {"url": f"{site.url}/set/odd%20n%C3%A4me.csv", "sha256": sha256(BYTES), "bytes": len(BYTES)},
        "b.csv.gz": {"url": f"{site.url}/set/b.csv.gz", "sha256": sha256(OTHER), "bytes": len(OTHER)},
    }
    assert recorded(files[0]) == sha256(BYTES)
    assert recorded(folder / "c.csv") is None
    assert all(agent.startswith("seqgen/") for agent in site.asked("User-Agent"))
    # A log gets a line a file, and no bar.
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"downloading {site.url}/set/odd%20n%C3%A4me.csv to {files[0]}",
        f"downloading {site.url}/set/b.csv.gz to {files[1]}",
    ]


def test_a_terminal_gets_a_bar(
    site: Site, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    site.files["/a.csv"] = BYTES
    obtain(folder, ["a.csv"], page=PAGE, url=site.url)
    assert "100%" in capsys.readouterr().err


def test_archive(site: Site, folder: Path) -> None:
    site.files["/set.zip"] = ARCHIVE
    folder.mkdir(parents=True)
    (folder / "b.csv").write_bytes(b"mine")
    md5 = "md5:" + hashlib.md5(ARCHIVE).hexdigest()
    files = obtain(folder, ["a.csv", "b.csv"], page=PAGE, url=site.url + "/set.zip", checksum=md5)
    assert [file.read_bytes() for file in files] == [BYTES, b"mine"]
    assert listing(folder) == {"a.csv", "b.csv", "downloads.json"}
    assert recorded(files[0]) == sha256(BYTES)
    assert recorded(folder / "set.zip") == sha256(ARCHIVE)
    assert recorded(files[1]) is None
    # The records of one download outlive the next.
    site.files["/c.csv"] = OTHER
    obtain(folder, ["c.csv"], page=PAGE, url=site.url, checksum="sha256:" + sha256(OTHER).upper())
    assert recorded(folder / "c.csv") == sha256(OTHER)
    assert recorded(files[0]) == sha256(BYTES)


@pytest.mark.parametrize("headers", [{"ETag": '"one"'}, {"ETag": 'W/"weak"', "Last-Modified": "a while ago"}])
def test_a_broken_connection_is_resumed(site: Site, folder: Path, headers: dict[str, str]) -> None:
    site.files["/a.csv"], site.cuts, site.headers = BYTES, [1001, 70_001], headers
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url)
    assert file.read_bytes() == BYTES
    assert site.asked("Range") == [None, "bytes=1001-", "bytes=71002-"]
    assert site.asked("If-Range")[1:] == [list(headers.values())[-1]] * 2
    assert listing(folder) == {"a.csv", "downloads.json"}


def test_after_four_breaks_the_next_call_goes_on(site: Site, folder: Path) -> None:
    site.files["/a.csv"], site.cuts = BYTES, [1000] * 4
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=site.url)
    refusal(f"{site.url}/a.csv broke off after 4000 of {len(BYTES)} bytes; run the same command again, and", call=call)
    assert len(site.requests) == 4
    assert listing(folder) == {"a.csv.part", "a.csv.part.json"}
    (file,) = call()
    assert file.read_bytes() == BYTES
    assert site.asked("Range")[4:] == ["bytes=4000-"]
    assert listing(folder) == {"a.csv", "downloads.json"}


def test_a_killed_process_leaves_a_half_that_is_continued(site: Site, folder: Path) -> None:
    site.files["/a.csv"] = BYTES
    arrived, killed = threading.Event(), threading.Event()

    def midway() -> None:
        arrived.set()
        killed.wait(20)

    site.midway = midway
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=site.url)
    code = (
        "import pathlib; from seqgen.data.download import obtain; "
        f"obtain(pathlib.Path({str(folder)!r}), ['a.csv'], page='', url={site.url!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert arrived.wait(20)
    part = folder / "a.csv.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size >= len(BYTES) // 2 - 8192):
        os.sched_yield()
    process.kill()
    process.wait()
    brought = part.stat().st_size
    killed.set()
    site.midway = lambda: None
    assert listing(folder) == {"a.csv.part", "a.csv.part.json"}
    (file,) = call()
    assert file.read_bytes() == BYTES
    assert site.asked("Range") == [None, f"bytes={brought}-"]


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("other", [OTHER, OTHER[:2000], OTHER[:5000]])
def test_a_changed_file_is_never_glued_to_the_old_half(
    site: Site, folder: Path, heeds_if_range: bool, other: bytes
) -> None:
    site.files["/a.csv"], site.cuts, site.heeds_if_range = BYTES, [1000] * 4, heeds_if_range
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=site.url)
    refusal("broke off", call=call)
    site.files["/a.csv"], site.headers = other, {"ETag": '"two"'}
    (file,) = call()
    assert file.read_bytes() == other


@pytest.mark.parametrize(
    "content_range", ["bytes 0-{last}/{total}", "bytes {start}-{last}/7", "bytes */{total}", "", "items {start}"]
)
def test_another_range_than_the_one_asked_for_is_refused(site: Site, folder: Path, content_range: str) -> None:
    site.files["/a.csv"], site.cuts, site.content_range = BYTES, [1000, 99], content_range
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url)
    assert file.read_bytes() == BYTES
    assert site.asked("Range") == [None, "bytes=1000-", None, None][: len(site.requests)]


def test_a_server_that_hands_out_pieces(site: Site, folder: Path) -> None:
    site.files["/a.csv"], site.cuts, site.piece = BYTES, [1000], len(BYTES) // 2
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url)
    assert file.read_bytes() == BYTES
    assert len(site.requests) == 3


def test_silence_counts_as_a_break(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    site.files["/a.csv"] = BYTES
    over = threading.Event()
    site.midway = lambda: over.set() if len(site.requests) > 1 else over.wait(5)
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url)
    assert file.read_bytes() == BYTES
    assert site.asked("Range") == [None, f"bytes={len(BYTES) // 2}-"]


def test_a_network_that_vanishes_midway_counts_as_a_break(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download, "WAITS", (1.0, 2.0, 3.0))
    monkeypatch.setattr(download.time, "sleep", waits.append)
    site.files["/a.csv"], site.cuts, site.midway = BYTES, [1000], site.vanish
    refusal(
        f"broke off after 1000 of {len(BYTES)} bytes; run the same command again, and it goes on from there",
        call=lambda: obtain(folder, ["a.csv"], page=PAGE, url=site.url),
    )
    assert waits == [0.0, 1.0, 2.0, 3.0]
    assert listing(folder) == {"a.csv.part", "a.csv.part.json"}


def test_the_half_of_another_address_is_not_continued(site: Site, folder: Path) -> None:
    site.files, site.cuts = {"/one/a.csv": BYTES, "/two/a.csv": OTHER}, [1000] * 4
    refusal("broke off", call=lambda: obtain(folder, ["a.csv"], page=PAGE, url=site.url + "/one"))
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url + "/two")
    assert file.read_bytes() == OTHER
    assert site.asked("Range")[4:] == [None]


@pytest.mark.parametrize("broken", ["ranges", "headers"])
def test_a_server_that_cannot_resume_starts_from_nothing(site: Site, folder: Path, broken: str) -> None:
    site.files["/a.csv"], site.cuts = BYTES, [1000] * 3
    setattr(site, broken, False if broken == "ranges" else {})
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url)
    assert file.read_bytes() == BYTES
    assert (site.asked("Range")[3] is None) == (broken == "headers")


def test_no_length_is_announced(site: Site, folder: Path) -> None:
    site.files["/a.csv"], site.announces_length = BYTES, False
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url)
    assert file.read_bytes() == BYTES


def test_fewer_bytes_than_announced_are_no_file(site: Site, folder: Path) -> None:
    site.files["/a.csv"], site.extra_length, site.ranges = BYTES, 7, False
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=site.url)
    refusal(f"broke off after {len(BYTES)} of {len(BYTES) + 7} bytes", call=call)
    assert len(site.requests) == 4
    assert not (folder / "a.csv").exists()
