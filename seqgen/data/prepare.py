"""From raw interactions to what training reads: k-core, order, reindexing, and a cache by content.

The cache folder `<cache_dir>/<name>-<fingerprint>` holds `interactions.parquet` (user, item; users ascending, each
user's items oldest first), `users.parquet`, `items.parquet` and `meta.json`. The fingerprint covers the bytes of the
raw files, the settings and `VERSION`, so a changed file or rule never meets an old cache.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from seqgen.data.sources import Source
from seqgen.errors import UserError

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared set: `interactions` (user, item), `users` (user_id), `items` (item_id, title?, categories?), meta."""

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    meta: dict[str, Any]


def prepare(
    source: Source, *, cache_dir: str | Path, min_user_interactions: int, min_item_interactions: int
) -> Prepared:
    """Return the prepared set, from the cache where it is there.

    Users are numbered from 0 and items from 1 in the order of their original ids. A user's interactions are ordered by
    timestamp; the file's order decides between equal ones.

    Raises:
        UserError: Nothing is left after filtering, or the cache cannot be written.
    """
    settings = {
        "min_user_interactions": min_user_interactions,
        "min_item_interactions": min_item_interactions,
    }
    fingerprint = _fingerprint(source, settings)
    folder = Path(cache_dir).expanduser() / f"{source.name}-{fingerprint}"
    if source.notice:
        print(f"Notice: {source.notice}")
    if not os.path.exists(folder / "meta.json"):  # Path.exists raises on a folder that may not be entered
        prepared = _build(source, settings, fingerprint)
        _write(prepared, folder)
        return prepared
    try:
        return Prepared(
            interactions=pl.read_parquet(folder / "interactions.parquet"),
            users=pl.read_parquet(folder / "users.parquet"),
            items=pl.read_parquet(folder / "items.parquet"),
            meta=json.loads((folder / "meta.json").read_text()),
        )
    except (OSError, pl.exceptions.PolarsError, ValueError) as error:
        raise UserError(f"The prepared set in {folder} is broken; delete that folder, and it is made again.") from error


def k_core(frame: pl.DataFrame, *, min_user_interactions: int, min_item_interactions: int) -> pl.DataFrame:
    """Drop rare users and items again and again until every one left has its minimum; the order of rows is kept."""
    height = -1
    while frame.height != height:
        height = frame.height
        frame = frame.filter(pl.len().over("item_id") >= min_item_interactions)
        frame = frame.filter(pl.len().over("user_id") >= min_user_interactions)
    return frame


def _build(source: Source, settings: dict[str, int], fingerprint: str) -> Prepared:
    try:
        raw = source.interactions()
        has_time = "timestamp" in raw.collect_schema().names()
        frame = raw.select("user_id", "item_id", *(["timestamp"] if has_time else [])).collect()
    except pl.exceptions.PolarsError as error:
        places = " or ".join(map(str, source.files))
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{places} is not of the form that this data set has: {reason}") from error
    steps = [_count("raw", frame)]
    frame = k_core(frame, **settings)
    steps.append(_count("k-core", frame))
    if frame.is_empty():
        raise UserError(
            f"{source.name}: no interaction is left after filtering (data.min_user_interactions="
            f"{settings['min_user_interactions']}, data.min_item_interactions={settings['min_item_interactions']}, "
            f"{steps[0]['interactions']:,} before); lower these minima."
        )
    users, items = _numbered(frame, "user_id", "user", 0), _numbered(frame, "item_id", "item", 1)
    frame = frame.join(users, on="user_id", maintain_order="left").join(items, on="item_id", maintain_order="left")
    frame = frame.sort(["user", "timestamp"] if has_time else ["user"], maintain_order=True)
    if source.items is not None:
        items = items.join(source.items(), on="item_id", how="left", maintain_order="left")
        if "categories" in items.columns:  # an item that the table lacks has none
            items = items.with_columns(pl.col("categories").fill_null([]))
    meta = {
        "name": source.name,
        "version": VERSION,
        "fingerprint": fingerprint,
        "settings": settings,
        "steps": steps,
    }
    meta |= {"files": [file.name for file in source.files]}
    meta |= {f"num_{name}": steps[-1][name] for name in ("users", "items", "interactions")}
    return Prepared(interactions=frame.select("user", "item"), users=users, items=items, meta=meta)


def _numbered(frame: pl.DataFrame, column: str, name: str, first: int) -> pl.DataFrame:
    distinct = frame.select(pl.col(column).unique().sort())
    return distinct.with_columns((pl.int_range(pl.len(), dtype=pl.Int32) + first).alias(name))


def _count(step: str, frame: pl.DataFrame) -> dict[str, Any]:
    users, items = frame["user_id"].n_unique(), frame["item_id"].n_unique()
    return {"step": step, "users": users, "items": items, "interactions": frame.height}


def _fingerprint(source: Source, settings: dict[str, int]) -> str:
    files = []
    for file in source.files:
        with file.open("rb") as stream:
            files.append([file.name, hashlib.file_digest(stream, "sha256").hexdigest()])
    content = {
        "version": VERSION,
        "name": source.name,
        "files": files,
        "parameters": source.parameters,
    } | settings
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _write(prepared: Prepared, folder: Path) -> None:
    # Written beside and moved as a whole: a run that is cut off, or a second one that prepares the same set, never
    # leaves or meets half a cache.
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            prepared.interactions.write_parquet(beside / "interactions.parquet")
            prepared.users.write_parquet(beside / "users.parquet")
            prepared.items.write_parquet(beside / "items.parquet")
            (beside / "meta.json").write_text(json.dumps(prepared.meta, indent=1))
            beside.chmod(0o755)  # a cache may be shared by several users; mkdtemp makes it one user's own
            os.replace(beside, folder)
        except OSError:
            if not os.path.exists(folder / "meta.json"):
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"The cache folder {folder.parent} cannot be written ({reason}); "
            "set SEQGEN_CACHE (or paths.cache_dir) to a folder that can."
        ) from error
