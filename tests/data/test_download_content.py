"""Downloads that are refused, are not what they were, or find no network, no place, or somebody else at it."""

import hashlib
import resource
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from web import (
    ARCHIVE,
    BYTES,
    OTHER,
    PAGE,
    Handler,
    Site,
    listing,
    refusal,
    served,
    sha256,
    without_waits_and_proxy,
    zipped,
)

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


@pytest.mark.parametrize("kind", ["md5", "sha256"])
@pytest.mark.parametrize("path", ["/set.zip", ""])
def test_a_wrong_checksum_removes_the_download(site: Site, folder: Path, kind: str, path: str) -> None:
    site.files = {"/set.zip": ARCHIVE, "/a.csv": ARCHIVE}
    expected, actual = hashlib.new(kind, b"other").hexdigest(), hashlib.new(kind, ARCHIVE).hexdigest()
    refusal(
        f"the {kind} {actual[:12]}…",
        f"data.source.checksum is {expected[:12]}…",
        site.url,
        call=lambda: obtain(folder, ["a.csv"], page=PAGE, url=site.url + path, checksum=f"{kind}:{expected}"),
    )
    assert listing(folder) == set()


def test_a_checksum_is_not_held_against_several_files(site: Site, folder: Path) -> None:
    site.files = {"/a.csv": BYTES, "/b.csv": OTHER}
    obtain(folder, ["a.csv", "b.csv"], page=PAGE, url=site.url, checksum="md5:" + "0" * 32)
    assert listing(folder) == {"a.csv", "b.csv", "downloads.json"}


@pytest.mark.parametrize("checksum", ["", "abc", "sha1:" + "0" * 40, "md5:" + "0" * 31, "sha256:" + "g" * 64, "md5:\n"])
def test_a_malformed_checksum_is_told_before_the_download(site: Site, folder: Path, checksum: str) -> None:
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=site.url + "/set.zip", checksum=checksum)
    refusal("checksum", "md5:", "sha256:", call=call)
    assert site.requests == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/set.zip", "example.org/set.zip"])
def test_only_http_is_spoken(folder: Path, url: str) -> None:
    refusal(f"url={url}", "https://", call=lambda: obtain(folder, ["passwd"], page=PAGE, url=url))
    assert not folder.exists()


@pytest.mark.parametrize("path", ["/set.zip", ""])
def test_content_other_than_the_first_time_is_refused(site: Site, folder: Path, path: str) -> None:
    site.files = {"/set.zip": ARCHIVE, "/a.csv": BYTES}
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=site.url + path)
    (file,) = call()
    file.unlink()
    call()  # the same bytes again
    file.unlink()
    site.files = {"/set.zip": zipped({"a.csv": OTHER}), "/a.csv": OTHER}
    name = "set.zip" if path else "a.csv"
    first, now = (sha256(data)[:12] for data in ((ARCHIVE if path else BYTES), site.files[f"/{name}"]))
    refusal(f"{name} from", "first downloaded on this machine", first, now, "downloads.json", call=call)
    assert listing(folder) == {"downloads.json"}
    assert recorded(file) == sha256(BYTES)
    # Deleting the entries is the cure the sentence names.
    (folder / "downloads.json").write_text("{}")
    call()
    assert file.read_bytes() == OTHER


def test_a_member_other_than_the_first_time_is_refused(site: Site, folder: Path) -> None:
    site.files = {"/a.csv": BYTES, "/set.zip": zipped({"a.csv": OTHER, "b.csv": BYTES})}
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url)
    file.unlink()
    call = partial(obtain, folder, ["b.csv", "a.csv"], page=PAGE, url=site.url + "/set.zip")
    refusal("a.csv from", "first downloaded", call=call)
    assert listing(folder) == {"downloads.json"}


@pytest.mark.parametrize("content", ["{", "[]", '{"a.csv": 1}', '{"a.csv": {}}', '{"a.csv": {"sha256": 1}}'])
def test_broken_records_are_named(site: Site, folder: Path, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / "downloads.json").write_text(content)
    refusal(str(folder / "downloads.json"), call=lambda: recorded(folder / "a.csv"))
    refusal(str(folder / "downloads.json"), call=lambda: obtain(folder, ["a.csv"], page=PAGE, url=site.url))
    assert site.requests == []
    assert (folder / "downloads.json").read_text() == content


def damaged(archive: bytes) -> bytes:
    """One byte of the first member's packed data is another."""
    at = archive.index(b"a.csv") + 200
    return archive[:at] + bytes([archive[at] ^ 255]) + archive[at + 1 :]


@pytest.mark.parametrize(
    ("archive", "word"),
    [
        (ARCHIVE[:-3000], "zip"),
        (damaged(zipped({"a.csv": BYTES, "b.csv": OTHER})), "a.csv"),
        (zipped({"set/a.csv": BYTES, "set/b.csv.txt": OTHER}), "0 files named b.csv"),
        (zipped({"a.csv": BYTES, "set/b.csv": OTHER, "old/b.csv": BYTES}), "2 files named b.csv"),
        (b"<html>please log in</html>", "not a zip file"),
        (
            zipped({"a.csv": BYTES, "b.csv": bytes(10**8)}),
            "b.csv unpacks to more than 200 times the size of the archive",
        ),
    ],
)
def test_a_broken_archive_leaves_nothing(site: Site, folder: Path, archive: bytes, word: str) -> None:
    site.files["/set.zip"] = archive
    call = partial(obtain, folder, ["a.csv", "b.csv"], page=PAGE, url=site.url + "/set.zip")
    sentence = refusal(f"{site.url}/set.zip cannot be unpacked", "removed", call=call)
    assert word in sentence or "decompressing" in sentence
    assert not folder.parent.exists()


def test_a_refused_file_tells_the_steps_by_hand(site: Site, folder: Path) -> None:
    site.files["/a.csv"] = BYTES
    refusal(
        f"{site.url}/b.csv could not be downloaded (HTTP 404 Not Found)",
        f"get b.csv from {PAGE} and put that into {folder}",
        "SEQGEN_DATA",
        "paths.data_dir",
        call=lambda: obtain(folder, ["a.csv", "b.csv"], page=PAGE, url=site.url),
    )
    assert len(site.requests) == 2
    assert listing(folder) == {"a.csv", "downloads.json"}
    site.statuses = [403]
    refusal(
        f"{site.url}/set.zip could not be downloaded (HTTP 403 Forbidden)",
        f"get set.zip from {PAGE} and unpack b.csv and c.csv into {folder}",
        call=lambda: obtain(folder, ["a.csv", "b.csv", "c.csv"], page=PAGE, url=site.url + "/set.zip"),
    )


def test_an_overloaded_server_is_asked_four_times(site: Site, folder: Path) -> None:
    site.files["/a.csv"] = BYTES
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=site.url)
    site.statuses = [503] * 4
    refusal("could not be downloaded (HTTP 503", call=call)
    assert site.statuses == []
    site.statuses = [503, 500, 502]
    assert call()[0].read_bytes() == BYTES


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}", "http://[", "http://127.0.0.1:port/a b", "http:///x"])
def test_no_network(folder: Path, address: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.server_close()
    url = address.format(port=server.server_port)
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=url)
    refusal(f"{url}/a.csv could not be downloaded (", f"get a.csv from {PAGE}", "SEQGEN_DATA", call=call)
    assert not folder.parent.exists()  # neither the set's folder nor the one it would have been in
    folder.mkdir(parents=True)
    refusal(f"{url}/a.csv could not be downloaded (", call=call)
    assert folder.is_dir()  # one that was there stays


def test_the_proxy_of_the_environment_is_used(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # To a proxy a request names the whole address; nothing else could answer for this one.
    site.files["http://data.invalid/set/a.csv"] = BYTES
    monkeypatch.setenv("http_proxy", site.url)
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url="http://data.invalid/set")
    assert file.read_bytes() == BYTES
    monkeypatch.setenv("no_proxy", "data.invalid")
    call = partial(obtain, folder, ["b.csv"], page=PAGE, url="http://data.invalid/set")
    refusal("http://data.invalid/set/b.csv could not be downloaded", call=call)
    assert len(site.requests) == 1


@pytest.mark.parametrize("below", ["", "set"])
def test_a_folder_that_cannot_be_is_named(site: Site, tmp_path: Path, below: str) -> None:
    (tmp_path / "data").write_text("a file, which not even root can put anything below")
    folder = tmp_path / "data" / below
    refusal(
        f"cannot be written to {folder} (",
        "paths.data_dir",
        "SEQGEN_DATA",
        call=lambda: obtain(folder, ["a.csv"], page=PAGE, url=site.url),
    )
    assert site.requests == []


def test_a_disk_that_fills_keeps_the_half(site: Site, folder: Path) -> None:
    site.files["/a.csv"] = BYTES
    call = partial(obtain, folder, ["a.csv"], page=PAGE, url=site.url)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        refusal(f"cannot be written to {folder} (File too large)", "SEQGEN_DATA", "paths.data_dir", call=call)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert listing(folder) == {"a.csv.part", "a.csv.part.json"}
    assert call()[0].read_bytes() == BYTES
    assert site.asked("Range") == [None, "bytes=50000-"]


def test_a_disk_that_fills_while_unpacking_keeps_the_archive(site: Site, folder: Path) -> None:
    site.files["/set.zip"] = ARCHIVE
    call = partial(obtain, folder, ["a.csv", "b.csv"], page=PAGE, url=site.url + "/set.zip")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert len(ARCHIVE) < 50_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        refusal("cannot be written", call=call)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert listing(folder) == {"set.zip.part", "set.zip.part.json"}
    assert [file.read_bytes() for file in call()] == [BYTES, OTHER]
    assert len(site.requests) == 1
    assert listing(folder) == {"a.csv", "b.csv", "downloads.json"}


@pytest.mark.parametrize("path", ["/set.zip", ""])
def test_a_file_has_its_name_only_when_it_is_whole(site: Site, folder: Path, path: str) -> None:
    site.files = {"/set.zip": ARCHIVE, "/a.csv": BYTES}
    seen: list[bool] = []
    site.midway = lambda: seen.append((folder / "a.csv").exists())
    (file,) = obtain(folder, ["a.csv"], page=PAGE, url=site.url + path)
    assert seen == [False]
    assert file.read_bytes() == BYTES


def test_two_at_once_download_once(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["/a.csv"] = BYTES
    both = threading.Barrier(3)

    class Announced(download.FileLock):
        def __enter__(self) -> "Announced":
            announced.release()
            return super().__enter__()

    announced = threading.Semaphore(0)
    monkeypatch.setattr(download, "FileLock", Announced)
    # The answer comes only when both have found the file absent.
    site.midway = lambda: [announced.acquire(timeout=5) for _ in range(2)]
    found: list[bytes] = []

    def call() -> None:
        both.wait(5)
        found.append(obtain(folder, ["a.csv"], page=PAGE, url=site.url)[0].read_bytes())

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    both.wait(5)
    for thread in threads:
        thread.join()
    assert found == [BYTES, BYTES]
    assert len(site.requests) == 1
