"""Downloads from a small server on this machine that breaks off, lies and changes its files."""

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from seqgen.data import download
from seqgen.data.download import obtain, recorded
from seqgen.errors import UserError

PAGE = "https://example.org/set/"
BYTES = bytes(range(256)) * 1200  # differs at every offset within 256, so that a wrongly glued half shows
OTHER = BYTES[::-1]


class Site:
    """What the server holds and how it behaves; `requests` lists the path and the headers of each request."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.ranges = True
        self.heeds_if_range = True
        self.announces_length = True
        self.piece = len(BYTES)  # the most that an answer to a range brings
        self.content_range = "bytes {start}-{last}/{total}"
        self.statuses: list[int] = []  # of the next requests, 200 after that
        self.cuts: list[int] = []  # bytes after which the next connections break
        self.extra_length = 0  # how much more than is sent Content-Length promises
        self.midway: Callable[[], object] = lambda: None  # called when half of a body is sent
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.vanish: Callable[[], None] = lambda: None  # from then on the port is closed

    def asked(self, header: str) -> list[str | None]:
        return [headers.get(header) for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        site = self.server.site
        site.requests.append((self.path, dict(self.headers)))
        body = site.files.get(self.path)
        if site.statuses or body is None:
            self.send_error(site.statuses.pop(0) if site.statuses else 404)
            return
        start, total = 0, len(body)
        tag = site.headers.get("ETag", "")
        validator = tag if tag.startswith('"') else site.headers.get("Last-Modified")
        same = self.headers["If-Range"] == validator or not site.heeds_if_range
        if site.ranges and "Range" in self.headers and same:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= total:
            self.send_error(416)
            return
        cut = site.cuts.pop(0) if site.cuts else None  # before the client knows enough to ask again
        self.send_response(206 if start else 200)
        for name, value in site.headers.items():
            self.send_header(name, value)
        end = min(start + site.piece, total) if start else total
        if start:
            self.send_header("Content-Range", site.content_range.format(start=start, last=end - 1, total=total))
        if site.announces_length:
            self.send_header("Content-Length", str(end - start + site.extra_length))
        self.end_headers()
        end = end if cut is None else start + cut
        half = (start + end) // 2
        self.wfile.write(body[start:half])
        self.wfile.flush()
        site.midway()
        self.wfile.write(body[half:end])

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    site: Site


@pytest.fixture
def site() -> Iterator[Site]:
    server = Server(("127.0.0.1", 0), Handler)
    server.site = Site()
    server.site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))

    def vanish() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    server.site.vanish = vanish
    thread.start()
    yield server.site
    vanish()


@pytest.fixture(autouse=True)
def _no_waits_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # The standard opener reads the proxies once in the life of a process.
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set"


def zipped(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listing(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*")} - {download.LOCK}


def refusal(*words: str, call: Callable[[], object]) -> str:
    """The one sentence of the UserError, which holds all the words."""
    with pytest.raises(UserError) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    for word in words:
        assert word in sentence
    return sentence


ARCHIVE = zipped({"set-1/README": b"read me", "set-1/a.csv": BYTES, "set-1/deep/b.csv": OTHER})


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
