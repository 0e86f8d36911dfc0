"""Prepared sets on disk, found by their content.

The folder `<cache_dir>/<name>-<fingerprint>` holds `values.npy`, `offsets.npy` and, where times are known, `times.npy`
(users ascending, each user's items oldest first), `users.parquet`, `items.parquet` and `meta.json`. The fingerprint
covers the bytes of the raw files, the settings and `VERSION`, so a changed file or rule never meets an old cache.
`meta.json` holds a checksum of every file, itself among them, compared whenever the set is read.
"""

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from filelock import FileLock, Timeout

from seqgen.data.download import recorded
from seqgen.data.table import UNREADABLE
from seqgen.errors import UserError

if TYPE_CHECKING:  # of a source it looks at values alone
    from seqgen.data.sources import Source

VERSION = 2
CHUNK = 2**20
HALF = ".half"  # ends the name of a folder that is being written


class BrokenError(Exception):
    """A prepared set that is not as it was written."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared set.

    Attributes:
        values: Item numbers from 1, users ascending, each user's oldest first, (n,) int32.
        offsets: User u owns `values[offsets[u]:offsets[u + 1]]`, (U + 1,) int64.
        times: Microseconds since 1970, or numbers that only order (see `meta["time_unit"]`), (n,) int64, or None.
        users: `user_id` and `user`.
        items: `item_id` and `item`, `title` and `categories` where known.
        meta: Name, fingerprint, settings, steps and sizes.
    """

    values: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None
    users: pl.DataFrame
    items: pl.DataFrame
    meta: dict[str, Any]


def digests(source: "Source") -> list[str]:
    """Hash of each raw file.

    Raises:
        UserError: A file is not the one that was downloaded.
    """
    found = []
    for file in source.files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if recorded(file) not in (None, digest):
            raise UserError(
                f"{file} has another checksum than when it was downloaded; delete it, and it is downloaded again."
            )
        found.append(digest)
    return found


def fingerprint(source: "Source", raw: list[str], settings: dict[str, Any]) -> str:
    """Hash of all that decides the content of a prepared set, the hashes of its raw files among it."""
    files = [[file.name, digest] for file, digest in zip(source.files, raw, strict=True)]
    content = {"version": VERSION, "name": source.name, "files": files, "parameters": source.parameters} | settings
    return _sealed(content)[:16]


def _checksum(file: Path) -> int:
    """CRC-32: against accidents, and five times as fast as a hash against intent."""
    value = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _sealed(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def exists(folder: Path) -> bool:
    """Whether a whole prepared set is there."""
    return os.path.exists(folder / "meta.json")  # Path.exists raises on a folder that may not be entered


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from preparing the same set at the same time; clear away what killed ones have left.

    Raises:
        UserError: The cache cannot be written.
    """
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = FileLock(_lock_file(folder), mode=0o644)
        lock.acquire()
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        _clear(folder)
        yield
    finally:
        lock.release()


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _clear(folder: Path) -> None:
    """Remove the half-written folders of preparations that were killed: those that nobody holds the lock of."""
    for half in folder.parent.glob(".*"):
        owner = folder.parent / half.name[1 : -len(HALF)]
        if not half.match(f".*{HALF}") or not half.is_dir() or not _lock_file(owner).is_file():
            continue
        if owner == folder:  # its lock is ours
            shutil.rmtree(half, ignore_errors=True)
            continue
        with contextlib.suppress(Timeout, OSError), FileLock(_lock_file(owner), timeout=0):
            shutil.rmtree(half, ignore_errors=True)


def read(folder: Path, *, mapped: bool) -> Prepared:
    """Read a prepared set, and compare every file with its checksum.

    Raises:
        BrokenError: It is not whole, or not as it was written.
    """
    how: Any = {"mmap_mode": "c" if mapped else None}  # copy on write: torch wants writable memory
    try:
        meta = json.loads((folder / "meta.json").read_text())
        checksums = meta.pop("checksums")
        actual = {name: _sealed(meta) if name == "meta.json" else _checksum(folder / name) for name in checksums}
        if differing := [name for name, checksum in checksums.items() if actual[name] != checksum]:
            raise ValueError(f"{', '.join(differing)} has another checksum than when it was written")
        times = np.load(folder / "times.npy", **how) if meta["time_unit"] else None
        prepared = Prepared(
            values=np.load(folder / "values.npy", **how),
            offsets=np.load(folder / "offsets.npy"),
            times=times,
            users=pl.read_parquet(folder / "users.parquet"),
            items=pl.read_parquet(folder / "items.parquet"),
            meta=meta,
        )
        sizes = (len(prepared.values), prepared.offsets[-1], prepared.users.height + 1, prepared.items.height)
        stated = (meta["num_interactions"], meta["num_interactions"], len(prepared.offsets), meta["num_items"])
        if sizes != stated:
            raise ValueError(f"{sizes} is not {stated}")
    except (*UNREADABLE, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "a file or an entry is missing or unreadable"
        raise BrokenError(f"The prepared set in {folder} is broken ({reason})") from error
    return prepared


def write(prepared: Prepared, folder: Path) -> None:
    """Write a prepared set, as a whole or not at all, in the place of one that may be there.

    Raises:
        UserError: The cache cannot be written.
    """
    # Written beside and moved as a whole: a run that is cut off never leaves half a cache.
    try:
        beside = folder.parent / f".{folder.name}{HALF}"
        beside.mkdir(mode=0o700)
        try:
            for name in ("values", "offsets", "times"):
                if (array := getattr(prepared, name)) is not None:
                    _save(array, beside / f"{name}.npy")
            prepared.users.write_parquet(beside / "users.parquet")
            prepared.items.write_parquet(beside / "items.parquet")
            checksums: dict[str, Any] = {file.name: _checksum(file) for file in sorted(beside.iterdir())}
            checksums["meta.json"] = _sealed(prepared.meta)
            (beside / "meta.json").write_text(json.dumps(prepared.meta | {"checksums": checksums}, indent=1))
            for file in beside.iterdir():
                file.chmod(file.stat().st_mode & 0o644)  # whatever the umask: others may read, not change
            beside.chmod(0o755)  # a cache may be shared by several users
            if folder.exists():  # a broken one; who has mapped it keeps what it was
                shutil.rmtree(folder)
            os.replace(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unwritable(folder, error) from error


def _save(array: np.ndarray, file: Path) -> None:
    with file.open("wb") as stream:  # np.save does not notice that a disk is too full for the last few kilobytes
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(np.ascontiguousarray(array).data)


def _unwritable(folder: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"The cache folder {folder.parent} cannot be written ({reason}); "
        "set SEQGEN_CACHE (or paths.cache_dir) to a folder that can."
    )
