"""The server of the tests of downloads, and the folder they fill."""

import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from web import Handler, Server, Site

from seqgen.data import download


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


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait between two tries, and no proxy."""
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # The standard opener reads the proxies once in the life of a process.
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set"
