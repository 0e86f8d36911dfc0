"""The raw files of each public data set: where they lie, where they come from, and how they are read.

One function per form of file. Each returns a `Source`: it finds the files, or downloads them, and says how to read
them; nothing is read before `seqgen.data.prepare` asks for it. Rows come in the order of the file, since that order
decides between interactions with equal timestamps.
"""

import ast
import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from seqgen.data.download import obtain
from seqgen.data.ids import MissingIds
from seqgen.data.table import Table
from seqgen.errors import SettingError, UserError

GROUPLENS = "https://grouplens.org/datasets/movielens/"
AMAZON_2014 = "https://jmcauley.ucsd.edu/data/amazon/"
AMAZON_2018 = "https://nijianmo.github.io/amazon/"
AMAZON_2023 = "https://amazon-reviews-2023.github.io/"
YELP = "https://business.yelp.com/data/resources/open-dataset/"
INTEGERS = {"user": pl.Int64, "item": pl.Int64, "timestamp": pl.Int64, "rating": pl.Float32}
REVIEW_COLUMNS = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"}
TEXTS = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float32}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set that can be read.

    Attributes:
        name: Name of the set, part of its cache folder's name.
        files: The raw files; their content is part of the fingerprint.
        log: The interactions as a table; None where `interactions` makes them otherwise.
        interactions: Reads `user_id`, `item_id` and, where known, `timestamp` and `rating`, in file order.
        items: Reads `item_id` and, where known, `title` (str) and `categories` (list of str).
        time_unit: Of numeric timestamps; None is inferred from their size.
        parameters: What, beside its files, decides the content of the set; part of the fingerprint.
        truth: For generated sets, the arrays its true next-item probabilities are made of.
        date_format: Of timestamps that are dates written as text or as one number; None is inferred.
        missing_ids: What becomes of rows whose id is a word for a missing value; None takes ids as they are written.
        notices: Sentences printed before the set is used.
    """

    name: str
    files: tuple[Path, ...] = ()
    log: Table | None = None
    interactions: Callable[[], pl.LazyFrame] | None = None
    items: Callable[[], pl.DataFrame] | None = None
    time_unit: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    truth: Callable[[], dict[str, Any]] | None = None
    date_format: str | None = None
    missing_ids: MissingIds | None = None
    notices: tuple[str, ...] = ()

    def read(self) -> pl.LazyFrame:
        """The interactions, with all columns that are known."""
        if self.log is not None:
            return self.log.scan(*(role for role in self.log.columns if role != "category"))
        assert self.interactions is not None
        return self.interactions()


def movielens_1m(data_dir: str, url: str | None = None, checksum: str | None = None) -> Source:
    """MovieLens-1M: `ratings.dat` (`UserID::MovieID::Rating::Timestamp`) and `movies.dat`.

    Where only a rebuilt `ratings_rebuilt.dat.gz` is there, it is used with a notice; its name is in the fingerprint.
    """
    folder = Path(data_dir, "ml-1m")
    ratings, rebuilt = folder / "ratings.dat", folder / "ratings_rebuilt.dat.gz"
    notices: tuple[str, ...] = ()
    if not ratings.exists() and rebuilt.exists():
        notices = (
            f"{ratings} is absent: using {rebuilt.name}, whose order is exact and whose times are partly estimated.",
        )
        ratings = rebuilt
    files = obtain(folder, [ratings.name, "movies.dat"], page=GROUPLENS + "1m/", url=url, checksum=checksum)
    # polars takes separators of one byte only: "::" gives an empty column between two values.
    names = ("UserID", "_1", "MovieID", "_2", "Rating", "_3", "Timestamp")
    columns = {"user": "UserID", "item": "MovieID", "timestamp": "Timestamp", "rating": "Rating"}
    log = Table(files=files[:1], columns=columns, types=INTEGERS, separator=":", names=names)

    def items() -> pl.DataFrame:
        # Titles hold colons and are latin-1, which the CSV reader takes neither of.
        rows = list(_split_lines(files[1], "::", 3))
        ids, titles, genres = zip(*rows, strict=True)
        frame = pl.DataFrame({"item_id": list(map(int, ids)), "title": titles, "categories": genres})
        return frame.with_columns(_split_bars("categories"))

    return Source(name="ml1m", files=files, log=log, items=items, time_unit="s", notices=notices)


def movielens_100k(data_dir: str, url: str | None = None, checksum: str | None = None) -> Source:
    """MovieLens-100K: `u.data` (tabs), `u.item` (bars, latin-1, 19 genre columns of 0 and 1) and `u.genre`."""
    folder = Path(data_dir, "ml-100k")
    files = obtain(folder, ["u.data", "u.item", "u.genre"], page=GROUPLENS + "100k/", url=url, checksum=checksum)
    names = ("user", "item", "rating", "timestamp")
    log = Table(files=files[:1], columns={name: name for name in names}, types=INTEGERS, separator="\t", names=names)

    def items() -> pl.DataFrame:
        genres = [line.split("|")[0] for line in files[2].read_text("latin-1").splitlines() if line]
        rows = list(_split_lines(files[1], "|", 5 + len(genres)))
        return pl.DataFrame(
            {
                "item_id": [int(row[0]) for row in rows],
                "title": [row[1] for row in rows],
                "categories": [[g for g, flag in zip(genres, row[5:], strict=True) if flag == "1"] for row in rows],
            }
        )

    return Source(name="ml100k", files=files, log=log, items=items, time_unit="s")


def movielens_csv(data_dir: str, folder: str, url: str | None = None, checksum: str | None = None) -> Source:
    """MovieLens with headers (`ratings.csv`, `movies.csv`), as in ml-latest-small and the sets from 20M on."""
    place = Path(data_dir, folder)
    files = obtain(place, ["ratings.csv", "movies.csv"], page=GROUPLENS, url=url, checksum=checksum)
    columns = {"user": "userId", "item": "movieId", "timestamp": "timestamp", "rating": "rating"}
    log = Table(files=files[:1], columns=columns, types=INTEGERS)

    def items() -> pl.DataFrame:
        frame = pl.read_csv(files[1], null_values={"genres": "(no genres listed)"})
        return frame.select("title", item_id="movieId", categories=_split_bars("genres"))

    return Source(name=folder.replace("-", "_"), files=files, log=log, items=items, time_unit="s")


def interaction_table(data_dir: str, folder: str, categories: str, page: str = YELP) -> Source:
    """A prepared table: `interactions.csv.gz` (user_id, item_id, timestamp) and `items.csv.gz`.

    Args:
        data_dir: Where the data sets lie.
        folder: The set's folder.
        categories: The column of `items.csv.gz` that holds an item's categories, joined by a bar.
        page: Where a human finds the set; its terms do not allow a download without one.
    """
    files = obtain(Path(data_dir, folder), ["interactions.csv.gz", "items.csv.gz"], page=page)
    columns = {"user": "user_id", "item": "item_id", "timestamp": "timestamp"}
    log = Table(files=files[:1], columns=columns, types=INTEGERS)

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
    return Source(name=folder, files=files, log=log, items=items, time_unit="s", parameters=parameters)


def sequence_lines(data_dir: str, folder: str, page: str = AMAZON_2014) -> Source:
    """A benchmark file without times: `sequences.txt.gz`, one user a line, `user item item ...`, oldest first."""
    (file,) = obtain(Path(data_dir, folder), ["sequences.txt.gz"], page=page)

    def interactions() -> pl.LazyFrame:
        users, histories = [], []
        with gzip.open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    user, *items = map(int, line.split())
                except ValueError as error:
                    raise UserError(
                        f"{file}, line {number}: it should hold whole numbers (a user, then items) and does not; "
                        "get the file again."
                    ) from error
                users.append(user)
                histories.append(items)
        return pl.LazyFrame({"user_id": users, "item_id": histories}).explode("item_id", empty_as_null=False)

    return Source(name=folder, files=(file,), interactions=interactions)


def amazon_2014(
    data_dir: str,
    folder: str,
    category: str,
    *,
    form: Literal["table", "sequences", "5core", "ratings"] | None = None,
    categories: str | None = None,
    metadata: bool = True,
    url: str | None = None,
) -> Source:
    """Amazon reviews of May 1996 to July 2014, one category (McAuley et al., SIGIR 2015).

    Args:
        data_dir: Where the data sets lie.
        folder: The set's folder.
        category: As in the published file names, such as `Beauty`.
        form: `table` (`interactions.csv.gz` and `items.csv.gz`) and `sequences` (`sequences.txt.gz`) are prepared
            forms; `5core` (`reviews_<category>_5.json.gz`) and `ratings` (`ratings_<category>.csv`) the published
            ones. None takes the first of the four that is there, else downloads `5core`.
        categories: Column of `items.csv.gz` to take categories from, for `table`.
        metadata: Read titles and categories from `meta_<category>.json.gz`, for the published forms.
        url: Where the published files lie; None: never download.
    """
    place = Path(data_dir, folder)
    logs = {"table": "interactions.csv.gz", "sequences": "sequences.txt.gz"}
    logs |= {"5core": f"reviews_{category}_5.json.gz", "ratings": f"ratings_{category}.csv"}
    found: str = form or next((name for name, file in logs.items() if (place / file).is_file()), "5core")
    if found == "table":
        if categories is None:
            raise SettingError("form=table needs categories, a column of items.csv.gz.")
        return interaction_table(data_dir, folder, categories, AMAZON_2014)
    if found == "sequences":
        return sequence_lines(data_dir, folder)
    names = [logs[found], *([f"meta_{category}.json.gz"] if metadata else [])]
    files = obtain(place, names, page=AMAZON_2014, url=url)
    if found == "5core":
        log = Table(files=files[:1], columns=REVIEW_COLUMNS, types=TEXTS)
    else:
        log = _ratings_without_header(files[0], ("user", "item", "rating", "timestamp"))
    items = partial(_amazon_items, files[1], log, "asin", "categories") if metadata else None
    return Source(name=f"{folder}-{found}", files=files, log=log, items=items, time_unit="s")


def amazon_2018(
    data_dir: str,
    category: str,
    *,
    form: Literal["5core", "ratings"] = "5core",
    metadata: bool = True,
    url: str | None = None,
) -> Source:
    """Amazon reviews of May 1996 to October 2018, one category (Ni, Li, McAuley, EMNLP 2019).

    Args:
        data_dir: Where the data sets lie; the files are in its folder `amazon-2018`.
        category: As in the published file names, such as `All_Beauty`.
        form: `5core` is `<category>_5.json.gz`, `ratings` is `<category>.csv`.
        metadata: Read titles and categories from `meta_<category>.json.gz`.
        url: Where the published files lie; None: never download.
    """
    log_name = f"{category}_5.json.gz" if form == "5core" else f"{category}.csv"
    names = [log_name, *([f"meta_{category}.json.gz"] if metadata else [])]
    parents = ("categoryFilesSmall/", "metaFiles2/")
    remote = {name: parent + name for name, parent in zip(names, parents, strict=False)}
    files = obtain(Path(data_dir, "amazon-2018"), names, page=AMAZON_2018, url=url, remote=remote)
    if form == "5core":
        log = Table(files=files[:1], columns=REVIEW_COLUMNS, types=TEXTS)
    else:  # the item comes first, other than in 2014
        log = _ratings_without_header(files[0], ("item", "user", "rating", "timestamp"))
    items = partial(_amazon_items, files[1], log, "asin", "category") if metadata else None
    return Source(name=f"amazon-2018-{category}-{form}", files=files, log=log, items=items, time_unit="s")


def amazon_2023(
    data_dir: str,
    category: str,
    *,
    form: Literal["0core", "5core"] = "5core",
    metadata: bool = True,
    url: str | None = None,
) -> Source:
    """Amazon reviews of May 1996 to September 2023, one category (Hou et al., 2024).

    Args:
        data_dir: Where the data sets lie; the files are in its folder `amazon-2023/<form>`.
        category: As in the published file names, such as `All_Beauty`.
        form: Of the published `rating_only` files: all interactions (`0core`) or the 5-core.
        metadata: Read titles and categories from `meta_<category>.jsonl.gz`.
        url: Where the published files lie; None: never download.
    """
    names = [f"{category}.csv.gz", *([f"meta_{category}.jsonl.gz"] if metadata else [])]
    parents = (f"benchmark/{form}/rating_only/", "raw/meta_categories/")
    remote = {name: parent + name for name, parent in zip(names, parents, strict=False)}
    files = obtain(Path(data_dir, "amazon-2023", form), names, page=AMAZON_2023, url=url, remote=remote)
    columns = {"user": "user_id", "item": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
    log = Table(files=files[:1], columns=columns, types=TEXTS)
    items = partial(_amazon_items, files[1], log, "parent_asin", "categories") if metadata else None
    return Source(name=f"amazon-2023-{category}-{form}", files=files, log=log, items=items, time_unit="ms")


def _ratings_without_header(file: Path, names: tuple[str, ...]) -> Table:
    return Table(files=(file,), columns={name: name for name in names}, types=TEXTS, names=names)


def _amazon_items(file: Path, log: Table, item: str, categories: str) -> pl.DataFrame:
    """Titles and categories of the items of a log, from one object a line: JSON, or a Python literal as in 2014."""
    wanted = set(log.scan("item").unique().collect()["item_id"])
    named = re.compile(rf"""["']{item}["']:\s*["'](\w+)["']""")
    rows: dict[str, tuple[str | None, list[str]]] = {}
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            found = named.search(line)
            if found and found[1] not in wanted:  # a literal is slow to read
                continue
            try:
                product = json.loads(line) if line.startswith('{"') else ast.literal_eval(line)
                names = product.get(categories) or []
                paths = names if names and isinstance(names[0], list) else [names]
                rows[product[item]] = (product.get("title"), list(dict.fromkeys(n for path in paths for n in path)))
            except (ValueError, SyntaxError, LookupError, TypeError, AttributeError) as error:
                raise UserError(f"{file}, line {number}: it describes no item; get the file again.") from error
    known = [(key, *values) for key, values in rows.items()]
    schema: Any = {"item_id": pl.String, "title": pl.String, "categories": pl.List(pl.String)}
    return pl.DataFrame(known, schema=schema, orient="row")


def _split_lines(file: Path, separator: str, count: int) -> Iterator[list[str]]:
    """Values of each line of a latin-1 file."""
    for number, line in enumerate(file.read_text("latin-1").splitlines(), start=1):
        values = line.split(separator)
        if len(values) != count or not values[0].isdecimal():
            raise UserError(
                f"{file}, line {number}: it should hold a number and {count - 1} more values with {separator!r} "
                "between them; get the file again."
            )
        yield values


def _split_bars(column: str) -> pl.Expr:
    """Values joined by a bar as a list; no value at all is an empty list."""
    return pl.col(column).replace("", None).str.split("|").fill_null(pl.lit([], dtype=pl.List(pl.String)))
