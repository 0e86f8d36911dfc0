"""The raw files of a public data set, fetched where they are absent: resumed, verified and never half there.

A download grows as `NAME.part`; `NAME.part.json` says which version of the file that is, so that a half is only ever
continued by its own other half. What was downloaded is recorded in the folder's `downloads.json`.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen
from zipfile import BadZipFile, ZipFile

from filelock import FileLock
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TaskID, TransferSpeedColumn

from seqgen import __version__
from seqgen.errors import SettingError, UserError

RECORDS = "downloads.json"
LOCK = ".download.lock"
CHUNK = 2**20
TIMEOUT = 30.0  # seconds of silence after which a connection counts as broken
UNPACKED = 200  # times its size, to which no published archive unpacks
WAITS = (1.0, 3.0, 9.0)  # seconds before the second, third and fourth try


def obtain(
    folder: Path,
    names: Sequence[str],
    *,
    page: str,
    url: str | None = None,
    checksum: str | None = None,
    remote: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """The raw files `names` of a set below `folder`: local ones first, else downloaded, verified and kept there.

    Args:
        folder: The set's folder; nothing is written to it where all files are there.
        names: Names of the files.
        page: The web page where a person gets the set.
        url: An archive (ends in `.zip`) that holds the files, or the address below which they lie; None: no download.
        checksum: Published checksum of the archive, or of the only file, as `md5:…` or `sha256:…`.
        remote: For files below an address, their names there where they differ.

    Raises:
        UserError: A file is absent and cannot be had; the sentence says what to do.
    """
    files = tuple(folder / name for name in names)
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return files
    elsewhere = f"or set SEQGEN_DATA (or paths.data_dir) to the folder that holds {folder.name}/."
    if url is None:
        raise UserError(
            f"The data set needs the file {missing[0]}, which is absent: get it from {page} and put it there, "
            f"{elsewhere}"
        )
    archive = _check_source(url, checksum)
    try:
        with _folder(folder):
            missing = [file for file in files if not file.is_file()]  # another process may just have fetched them
            if archive and missing:
                _fetch(url, folder / archive, missing, checksum)
            for file in [] if archive else missing:
                address = f"{url.rstrip('/')}/{quote((remote or {}).get(file.name, file.name))}"
                _fetch(address, file, [file], checksum if len(files) == 1 else None)
    except URLError as error:
        wanted = " and ".join(file.name for file in missing if not file.is_file())
        by_hand = f"{archive} from {page} and unpack {wanted}" if archive else f"{wanted} from {page} and put that"
        raise UserError(f"{error.reason}: get {by_hand} into {folder}, {elsewhere}") from error
    except OSError as error:
        raise UserError(
            f"The download of {url} cannot be written to {folder} ({_line(error.strerror or error)}): correct that, "
            f"or set SEQGEN_DATA (or paths.data_dir) to a folder that can be written and has room."
        ) from error
    return files


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """A folder, made and locked; what a failure leaves of it that holds nothing is taken away again."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):
            try:
                yield
            except BaseException:
                if made and [file.name for file in folder.iterdir()] == [LOCK]:
                    (folder / LOCK).unlink()  # who waits for it makes it anew
                raise
    except BaseException:
        with suppress(OSError):  # it holds a half that the next call continues
            for place in made:
                place.rmdir()
        raise


def recorded(file: Path) -> str | None:
    """The sha256 that `file` had when `obtain` downloaded it; None where it did not."""
    entry = _records(file.parent).get(file.name)
    return entry["sha256"] if entry else None


def _check_source(url: str, checksum: str | None) -> str | None:
    """Refuses what cannot be fetched or compared; returns the name of the archive, if `url` is one."""
    if not url.lower().startswith(("http://", "https://")):
        raise SettingError(f"url={_line(url)} must begin with http:// or https://.")
    if checksum is not None and not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", str(checksum).lower()):
        raise SettingError(
            f"checksum={_line(checksum)} must be md5: and 32 hexadecimal digits, or sha256: and 64 of them."
        )
    address = re.split("[?#]", url)[0]
    return address.rpartition("/")[2] if address.lower().endswith(".zip") else None


def _fetch(url: str, download: Path, files: Sequence[Path], checksum: str | None) -> None:
    """Downloads the only one of `files`, or an archive of them; all of them are put in place, or none."""
    records = _records(download.parent)  # a broken record is reported before the download, not after it
    part = download.with_name(download.name + ".part")
    unpacked = {file: file.with_name(file.name + ".tmp") for file in files if file != download}
    _download(url, part)
    try:
        kind, _, expected = (checksum or "").lower().partition(":")
        if kind and (actual := _digest(part, kind)) != expected:
            raise UserError(
                f"{url} has the {kind} {actual[:12]}…, but data.source.checksum is {expected[:12]}…: the download "
                f"was removed; run the same command again, or compare with the checksum that is published."
            )
        entries = {download.name: _entry(url, download, part)}
        _unpack(url, part, unpacked)
        entries |= {file.name: _entry(url, file, content) for file, content in unpacked.items()}
        _write(download.parent / RECORDS, records | entries)
        for file, content in (unpacked or {download: part}).items():
            os.replace(content, file)
        _remove(part)
    except UserError:
        _remove(part)
        raise
    finally:
        for content in unpacked.values():
            content.unlink(missing_ok=True)


def _unpack(url: str, archive: Path, targets: Mapping[Path, Path]) -> None:
    """Writes the members named like the keys of `targets`, in whatever folder of the archive, to its values."""
    if not targets:
        return
    try:
        with ZipFile(archive) as zipped:
            for file, target in targets.items():
                found = [info for info in zipped.infolist() if re.split(r"[/\\]", info.filename)[-1] == file.name]
                if len(found) != 1:
                    raise BadZipFile(f"it holds {len(found)} files named {file.name}")
                if found[0].file_size > UNPACKED * archive.stat().st_size:
                    raise BadZipFile(f"{file.name} unpacks to more than {UNPACKED} times the size of the archive")
                with zipped.open(found[0]) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, CHUNK)
    except (BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted, or packed otherwise
        raise UserError(
            f"The archive {url} cannot be unpacked ({_line(error)}) and was removed: run the same command again, "
            f"or check data.source.url."
        ) from error


def _download(url: str, part: Path) -> None:
    """Fetches all of `url` into `part`, going on from where an earlier try or call broke off."""
    file = part.with_suffix("")
    print(f"downloading {url} to {file}", file=sys.stderr)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    reason, begun = "", False
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(file.name, total=None)
        for wait in (0.0, *WAITS):
            time.sleep(wait)
            try:
                return _try(url, part, bar, task)
            except ConnectionError:
                reason, begun = "", True
            except HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code < 500:
                    break
            except URLError as error:
                # Waiting gains nothing where there is no network, unless there was one a moment ago.
                reason = "" if begun else str(error.reason) or "no connection"
                if not begun:
                    break
    if reason:
        raise URLError(f"{url} could not be downloaded ({_line(reason)})")
    start, state = _half(url, part)
    goes_on = ", and it goes on from there" if state.get("validator") else ""
    raise UserError(
        f"The download of {url} broke off after {start} of {state.get('size') or 'an unknown number of'} bytes; "
        f"run the same command again{goes_on}."
    )


def _try(url: str, part: Path, bar: Progress, task: TaskID) -> None:
    """Adds to `part` what one connection brings; a ConnectionError says that it did not bring all."""
    start, state = _half(url, part)
    if start and start == state["size"]:
        return  # complete, but interrupted before it was put in place
    response, start = _open(url, start if state.get("validator") else 0, state)
    with response, part.open("ab" if start else "wb") as out:
        size = None if response.length is None else start + response.length
        size = (start and state["size"]) or size  # a server may send less than the whole rest
        if not start:
            # Only now, when the old half is gone: its bytes must never carry the name of the new version.
            _write(_state_file(part), {"url": url, "validator": _validator(response), "size": size})
        bar.reset(task, total=size, completed=start)
        while size is None or start < size:
            try:
                # read1 hands over what has come, so that a break loses nothing.
                chunk = response.read1(CHUNK if size is None else min(CHUNK, size - start))
            except (OSError, HTTPException) as error:
                raise ConnectionError from error
            if not chunk:
                break
            out.write(chunk)
            start += len(chunk)
            bar.advance(task, len(chunk))
    if size is not None and start < size:
        raise ConnectionError("fewer bytes than announced")


def _open(url: str, start: int, state: Mapping[str, Any]) -> tuple[HTTPResponse, int]:
    """The server's answer and the byte of the file it begins at: `start`, or 0 where the half cannot be continued."""
    headers = {"User-Agent": f"seqgen/{__version__}"}
    headers |= {"Range": f"bytes={start}-", "If-Range": state["validator"]} if start else {}
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
        if response.status == 200:
            return response, 0
        span = re.fullmatch(rf"bytes {start}-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        same_size = span and (span[1] == "*" or state.get("size") in (None, int(span[1])))
        # The version is compared here too, since some servers ignore If-Range.
        if start and same_size and _validator(response) in (None, state["validator"]):
            return response, start
        response.close()
    except HTTPError as error:
        error.close()
        if not start or error.code != 416:
            raise
    except URLError:
        raise
    except (InvalidURL, ValueError) as error:
        raise URLError(str(error)) from error
    except (OSError, HTTPException) as error:
        raise ConnectionError from error
    if start:
        return _open(url, 0, {})
    raise HTTPError(url, response.status, response.reason, response.headers, None)


def _validator(response: HTTPResponse) -> str | None:
    """What names the version of a file; weak tags do not promise equal bytes."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _half(url: str, part: Path) -> tuple[int, dict[str, Any]]:
    """How many bytes of `url` have come so far, and what is known of that version (`validator` and `size`)."""
    try:
        state = json.loads(_state_file(part).read_text("utf-8"))
        if state["url"] == url:
            return part.stat().st_size, {"validator": state["validator"], "size": state["size"]}
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        pass
    return 0, {}


def _state_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remove(part: Path) -> None:
    for file in (part, _state_file(part)):
        file.unlink(missing_ok=True)


def _entry(url: str, file: Path, content: Path) -> dict[str, Any]:
    """What is recorded of `file`, whose bytes lie in `content`; refused where they were others before."""
    digest, first = _digest(content, "sha256"), recorded(file)
    if first and first != digest:
        raise UserError(
            f"{file.name} from {url} differs from what was first downloaded on this machine (sha256 {digest[:12]}…, "
            f"expected {first[:12]}…) and was removed: if the publisher has changed it, delete its entry in "
            f"{file.parent / RECORDS}."
        )
    return {"url": url, "sha256": digest, "bytes": content.stat().st_size}


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / RECORDS
    if not file.is_file():
        return {}
    try:
        records = json.loads(file.read_text("utf-8"))
        if all(isinstance(entry["sha256"], str) for entry in records.values()):
            return records
        error: Exception | str = "a sha256 is no text"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as caught:
        error = caught
    raise UserError(
        f"{file}, the record of what was downloaded, cannot be read ({_line(error)}): correct or delete it."
    )


def _write(file: Path, content: dict[str, Any]) -> None:
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    os.replace(temporary, file)


def _digest(file: Path, kind: str) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _line(text: object) -> str:
    """On one line, whatever a server or the system says."""
    return " ".join(str(text).split())
