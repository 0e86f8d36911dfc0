"""Prepared sets on disk, found by their content.

The folder `<cache_dir>/<name>-<fingerprint>` holds `values.npy`, `offsets.npy` and, where times are known, `times.npy`
(users ascending, each user's items oldest first), `users.parquet`, `items.parquet` and `meta.json`. The fingerprint
covers the bytes of the raw files, the settings and `VERSION`, so a changed file or rule never meets an old cache.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock

from seqgen.data.download import recorded
from seqgen.data.sources import Source
from seqgen.data.table import UNREADABLE
from seqgen.errors import UserError

VERSION = 2


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


def fingerprint(source: Source, settings: dict[str, Any]) -> str:
    """Hash of all that decides the content of a prepared set.

    Raises:
        UserError: A file is not the one that was downloaded.
    """
    files = []
    for file in source.files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if recorded(file) not in (None, digest):
            raise UserError(
                f"{file} has another checksum than when it was downloaded; delete it, and it is downloaded again."
            )
        files.append([file.name, digest])
    content = {"version": VERSION, "name": source.name, "files": files, "parameters": source.parameters} | settings
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def exists(folder: Path) -> bool:
    """Whether a whole prepared set is there."""
    return os.path.exists(folder / "meta.json")  # Path.exists raises on a folder that may not be entered


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from preparing the same set at the same time.

    Raises:
        UserError: The cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder.parent / f".{folder.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def read(folder: Path, *, mapped: bool) -> Prepared:
    """Read a prepared set.

    Raises:
        UserError: It is broken.
    """
    how: Any = {"mmap_mode": "c" if mapped else None}  # copy on write: torch wants writable memory
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["version"] != VERSION:
            raise UserError(
                f"The prepared set in {folder} was made by another version of seqgen; delete that folder, "
                "and it is made again."
            )
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
    except (*UNREADABLE, EOFError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"The prepared set in {folder} is broken; delete that folder, and it is made again.") from error
    return prepared


def write(prepared: Prepared, folder: Path) -> None:
    """Write a prepared set, as a whole or not at all.

    Raises:
        UserError: The cache cannot be written.
    """
    # Written beside and moved as a whole: a run that is cut off never leaves half a cache.
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name in ("values", "offsets", "times"):
                if (array := getattr(prepared, name)) is not None:
                    _save(array, beside / f"{name}.npy")
            prepared.users.write_parquet(beside / "users.parquet")
            prepared.items.write_parquet(beside / "items.parquet")
            (beside / "meta.json").write_text(json.dumps(prepared.meta, indent=1))
            beside.chmod(0o755)  # a cache may be shared by several users; mkdtemp makes it one user's own
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
