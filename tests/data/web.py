"""A small server on this machine that breaks off, lies and changes its files; what is asked of a refusal."""

import hashlib
import io
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from seqgen.data import download
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


@contextmanager
def served() -> Iterator[Site]:
    """The server, while the context lasts."""
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


def without_waits_and_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # The standard opener reads the proxies once in the life of a process.
    monkeypatch.setattr(urllib.request, "_opener", None)


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
