"""The raw files of each public data set: where they lie, and how they are read.

One function per form of file. Each returns a `Source`: it checks that the files are there and says how to read them;
nothing is read before `seqgen.data.prepare` asks for it. Rows come in the order of the file, since that order decides
between interactions with equal timestamps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from seqgen.errors import UserError

GROUPLENS = "https://grouplens.org/datasets/movielens/"
AMAZON_2014 = "https://jmcauley.ucsd.edu/data/amazon/"
YELP = "https://business.yelp.com/data/resources/open-dataset/"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set that can be read.

    Attributes:
        name: Name of the set, part of its cache folder's name.
        files: The raw files; their content is part of the fingerprint.
        interactions: Reads `user_id`, `item_id` and, where known, `timestamp` (Unix seconds), in file order.
        items: Reads `item_id` and, where known, `title` (str) and `categories` (list of str).
        parameters: What, beside its files, decides the content of the set; part of the fingerprint.
        truth: For generated sets, the arrays its true next-item probabilities are made of.
        notice: A sentence printed before the set is used.
    """

    name: str
    files: tuple[Path, ...] = ()
    interactions: Callable[[], pl.LazyFrame]
    items: Callable[[], pl.DataFrame] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    truth: Callable[[], dict[str, Any]] | None = None
    notice: str | None = None


def movielens_1m(data_dir: str) -> Source:
    """MovieLens-1M: `ratings.dat` (`UserID::MovieID::Rating::Timestamp`) and `movies.dat`.

    Where only a rebuilt `ratings_rebuilt.dat.gz` is there, it is used with a notice; its name is in the fingerprint.
    """
    folder = Path(data_dir, "ml-1m")
    ratings, rebuilt = folder / "ratings.dat", folder / "ratings_rebuilt.dat.gz"
    notice = None
    if not ratings.exists() and rebuilt.exists():
        notice = (
            f"{ratings} is absent: using {rebuilt.name}, whose order is exact and whose times are partly estimated."
        )
        ratings = rebuilt
    files = _existing(folder, [ratings.name, "movies.dat"], GROUPLENS + "1m/")

    def interactions() -> pl.LazyFrame:
        # polars takes separators of one byte only: "::" gives an empty column between two values.
        schema = {"user_id": pl.Int64, "_1": pl.String, "item_id": pl.Int64, "_2": pl.String}
        schema |= {"rating": pl.Float32, "_3": pl.String, "timestamp": pl.Int64}
        return pl.scan_csv(files[0], separator=":", has_header=False, schema=schema)

    def items() -> pl.DataFrame:
        # Titles hold colons and are latin-1, which the CSV reader takes neither of.
        rows = [line.split("::") for line in files[1].read_text("latin-1").splitlines()]
        ids, titles, genres = zip(*rows, strict=True)
        frame = pl.DataFrame({"item_id": list(map(int, ids)), "title": titles, "categories": genres})
        return frame.with_columns(_split_bars("categories"))

    return Source(name="ml1m", files=files, interactions=interactions, items=items, notice=notice)


def movielens_100k(data_dir: str) -> Source:
    """MovieLens-100K: `u.data` (tabs), `u.item` (bars, latin-1, 19 genre columns of 0 and 1) and `u.genre`."""
    folder = Path(data_dir, "ml-100k")
    files = _existing(folder, ["u.data", "u.item", "u.genre"], GROUPLENS + "100k/")

    def interactions() -> pl.LazyFrame:
        schema = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float32, "timestamp": pl.Int64}
        return pl.scan_csv(files[0], separator="\t", has_header=False, schema=schema)

    def items() -> pl.DataFrame:
        genres = [line.split("|")[0] for line in files[2].read_text("latin-1").splitlines() if line]
        rows = [line.split("|") for line in files[1].read_text("latin-1").splitlines()]
        return pl.DataFrame(
            {
                "item_id": [int(row[0]) for row in rows],
                "title": [row[1] for row in rows],
                "categories": [[g for g, flag in zip(genres, row[5:], strict=True) if flag == "1"] for row in rows],
            }
        )

    return Source(name="ml100k", files=files, interactions=interactions, items=items)


def movielens_csv(data_dir: str, folder: str) -> Source:
    """MovieLens with headers (`ratings.csv`, `movies.csv`), as in ml-latest-small and the sets from 20M on."""
    place = Path(data_dir, folder)
    files = _existing(place, ["ratings.csv", "movies.csv"], GROUPLENS)

    def interactions() -> pl.LazyFrame:
        columns = {"userId": "user_id", "movieId": "item_id", "rating": "rating", "timestamp": "timestamp"}
        return pl.scan_csv(files[0]).rename(columns)

    def items() -> pl.DataFrame:
        frame = pl.read_csv(files[1], null_values={"genres": "(no genres listed)"})
        return frame.select("title", item_id="movieId", categories=_split_bars("genres"))

    return Source(name=folder.replace("-", "_"), files=files, interactions=interactions, items=items)


def interaction_table(data_dir: str, folder: str, categories: str) -> Source:
    """A prepared table: `interactions.csv.gz` (user_id, item_id, timestamp) and `items.csv.gz`.

    Args:
        data_dir: Where the data sets lie.
        folder: The set's folder.
        categories: The column of `items.csv.gz` that holds an item's categories, joined by a bar.
    """
    place = Path(data_dir, folder)
    address = YELP if folder == "yelp" else AMAZON_2014
    files = _existing(place, ["interactions.csv.gz", "items.csv.gz"], address)

    def interactions() -> pl.LazyFrame:
        return pl.scan_csv(files[0])

    def items() -> pl.DataFrame:
        # Text even where all values look like numbers.
        frame = pl.read_csv(files[1], schema_overrides={categories: pl.String})
        if categories not in frame.columns:
            raise UserError(
                f"data.source.categories={categories} is no column of {files[1]}; "
                f"choose one of {', '.join(frame.columns)}."
            )
        return frame.select("item_id", categories=_split_bars(categories))

    parameters = {"categories": categories}
    return Source(name=folder, files=files, interactions=interactions, items=items, parameters=parameters)


def sequence_lines(data_dir: str, folder: str) -> Source:
    """A benchmark file without times: `sequences.txt.gz`, one user a line, `user item item ...`, oldest first."""
    files = _existing(Path(data_dir, folder), ["sequences.txt.gz"], AMAZON_2014)

    def interactions() -> pl.LazyFrame:
        lines = pl.scan_csv(files[0], separator="\x01", quote_char=None, has_header=False, new_columns=["line"])
        parts = lines.select(pl.col("line").str.split(" ").cast(pl.List(pl.Int64)))
        pair = parts.select(user_id=pl.col("line").list.first(), item_id=pl.col("line").list.slice(1))
        return pair.explode("item_id")

    return Source(name=folder, files=files, interactions=interactions)


def _split_bars(column: str) -> pl.Expr:
    """Values joined by a bar as a list; no value at all is an empty list."""
    return pl.col(column).replace("", None).str.split("|").fill_null(pl.lit([], dtype=pl.List(pl.String)))


def _existing(folder: Path, names: list[str], address: str) -> tuple[Path, ...]:
    files = tuple(folder / n for n in names)
    for file in files:
        if not file.is_file():
            raise UserError(
                f"The data set needs the file {file}, which is absent: get it from {address} and put it there, "
                f"or set SEQGEN_DATA (or paths.data_dir) to the folder that holds {folder.name}/."
            )
    return files
