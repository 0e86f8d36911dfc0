"""Each reader on a few lines of exactly the published form."""

import gzip
import re
from functools import partial
from pathlib import Path

import pytest

from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.prepare import Filters, prepare
from seqgen.data.sources import (
    amazon_2014,
    interaction_table,
    movielens_1m,
    movielens_100k,
    movielens_csv,
    sequence_lines,
)
from seqgen.errors import UserError

CHOICES = {file.stem for file in (Path(__file__).parents[2] / "conf" / "data").glob("*.yaml")}
RATINGS = b"1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"
MOVIES = (
    "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
    "1193::Star Wars: Episode IV - A New Hope (1977)::Sci-Fi\n"
    "1212::Mis\xe9rables, Les: Part 1 (1995)::Drama|Musical\n"
).encode("latin-1")
EVERYTHING = Filters(min_user_interactions=1, min_item_interactions=1)

READERS = [
    (movielens_1m, "ml-1m", ["ratings.dat", "movies.dat"], "grouplens.org"),
    (movielens_100k, "ml-100k", ["u.data", "u.item", "u.genre"], "grouplens.org"),
    (partial(movielens_csv, folder="ml-20m"), "ml-20m", ["ratings.csv", "movies.csv"], "grouplens.org"),
    (
        partial(amazon_2014, folder="amazon-toys", category="Toys_and_Games", form="table", categories="category"),
        "amazon-toys",
        ["interactions.csv.gz", "items.csv.gz"],
        "jmcauley.ucsd.edu",
    ),
    (
        partial(interaction_table, folder="yelp", categories="categories"),
        "yelp",
        ["interactions.csv.gz", "items.csv.gz"],
        "yelp.com",
    ),
    (partial(sequence_lines, folder="amazon-office"), "amazon-office", ["sequences.txt.gz"], "jmcauley.ucsd.edu"),
]
ABSENT = [(make, folder, files, file, at) for make, folder, files, at in READERS for file in files]


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def log(source, *columns):
    return source.read().select("user_id", "item_id", *columns).collect().rows()


def table(source):
    return source.items().select("item_id", "title", "categories").rows()


def test_movielens_1m(tmp_path):
    write(tmp_path / "ml-1m", {"ratings.dat": RATINGS, "movies.dat": MOVIES})
    source = movielens_1m(str(tmp_path))
    assert log(source, "timestamp") == [(1, 1193, 978300760), (1, 661, 978302109), (2, 1193, 978298413)]
    assert table(source) == [
        (661, "James and the Giant Peach (1996)", ["Animation", "Children's", "Musical"]),
        (1193, "Star Wars: Episode IV - A New Hope (1977)", ["Sci-Fi"]),
        (1212, "Mis\xe9rables, Les: Part 1 (1995)", ["Drama", "Musical"]),
    ]
    assert source.notices == ()


def test_movielens_1m_takes_the_rebuilt_file_with_a_notice(tmp_path, capsys):
    write(tmp_path / "ml-1m", {"ratings_rebuilt.dat.gz": RATINGS, "movies.dat": MOVIES})
    source = movielens_1m(str(tmp_path))
    assert log(source, "timestamp")[1] == (1, 661, 978302109)
    rebuilt = prepare(source, cache_dir=tmp_path / "cache", filters=EVERYTHING)
    notice, *_ = capsys.readouterr().out.splitlines()
    assert "ratings.dat" in notice
    assert "ratings_rebuilt.dat.gz" in notice
    assert rebuilt.meta["files"] == ["ratings_rebuilt.dat.gz", "movies.dat"]

    write(tmp_path / "ml-1m", {"ratings.dat": RATINGS})  # the original goes first where both lie
    original = prepare(movielens_1m(str(tmp_path)), cache_dir=tmp_path / "cache", filters=EVERYTHING)
    assert "Notice" not in capsys.readouterr().out
    assert original.meta["files"] == ["ratings.dat", "movies.dat"]
    assert original.meta["fingerprint"] != rebuilt.meta["fingerprint"]


def test_movielens_100k(tmp_path):
    genres = ["unknown", "Action", "Drama", "War"]
    flags = {1: "0|1|0|1", 2: "0|0|0|0", 267: "1|0|0|0"}
    titles = {1: "L\xe9on (1994)", 2: 'He Said "No" (1996)', 267: "unknown"}
    # Item 267 of the published file has neither date nor address.
    dates = {1: "01-Jan-1994||http://us.imdb.com/?a%20(1994)", 2: "01-Jan-1996||http://us.imdb.com/?b", 267: "||"}
    items = "".join(f"{i}|{titles[i]}|{dates[i]}|{flags[i]}\n" for i in titles)
    files = {
        "u.data": b"196\t267\t3\t881250949\n186\t1\t5\t891717742\n",
        "u.item": items.encode("latin-1"),
        "u.genre": "".join(f"{name}|{i}\n" for i, name in enumerate(genres)).encode() + b"\n",
    }
    write(tmp_path / "ml-100k", files)
    source = movielens_100k(str(tmp_path))
    assert log(source, "timestamp") == [(196, 267, 881250949), (186, 1, 891717742)]
    assert table(source) == [
        (1, "L\xe9on (1994)", ["Action", "War"]),
        (2, 'He Said "No" (1996)', []),
        (267, "unknown", ["unknown"]),
    ]


def test_movielens_csv(tmp_path):
    movies = (
        "movieId,title,genres\r\n"
        '11,"American President, The (1995)",Comedy|Children\'s\r\n'
        '30,"City of Lost Children, The (Cit\xe9 des enfants perdus, La) (1995)",Drama\r\n'
        '40,"""Great Performances"" Cats (1998)",(no genres listed)\r\n'
        "50,Plain (2001),Sci-Fi\r\n"
    )
    ratings = b"userId,movieId,rating,timestamp\r\n1,11,4.0,964982703\r\n1,50,0.5,964981247\r\n"
    write(tmp_path / "ml-latest-small", {"ratings.csv": ratings, "movies.csv": movies.encode()})
    source = movielens_csv(str(tmp_path), "ml-latest-small")
    assert log(source, "timestamp") == [(1, 11, 964982703), (1, 50, 964981247)]
    assert table(source) == [
        (11, "American President, The (1995)", ["Comedy", "Children's"]),
        (30, "City of Lost Children, The (Cit\xe9 des enfants perdus, La) (1995)", ["Drama"]),
        (40, '"Great Performances" Cats (1998)', []),
        (50, "Plain (2001)", ["Sci-Fi"]),
    ]


def write_table(data_dir, folder="amazon-toys"):
    log = b"user_id,item_id,timestamp\n7,0,1318896000\n7,2,1318896000\n3,1,1000000000\n"
    items = b"item_id,asin,category,attributes\n0,B004756YJA,2,173|1|162\n1,B004ZT0SSG,11,6\n2,B000052YM1,2,4\n"
    items += b'3,B000052YM2,"",""\n4,B000052YM3,,\n'  # none, as in the Yelp file; and nothing at all
    write(data_dir / folder, {"interactions.csv.gz": log, "items.csv.gz": items})


@pytest.mark.parametrize(
    ("column", "categories"),
    [("attributes", [["173", "1", "162"], ["6"], ["4"], [], []]), ("category", [["2"], ["11"], ["2"], [], []])],
)
def test_interaction_table(tmp_path, column, categories):
    write_table(tmp_path)
    source = interaction_table(str(tmp_path), "amazon-toys", column)
    assert log(source, "timestamp") == [(7, 0, 1318896000), (7, 2, 1318896000), (3, 1, 1000000000)]
    assert source.items().select("item_id", "categories").rows() == list(enumerate(categories))


def test_another_column_of_categories_meets_no_old_cache(tmp_path):
    write_table(tmp_path)
    found = []
    for column in ("category", "attributes"):
        source = interaction_table(str(tmp_path), "amazon-toys", column)
        found.append(prepare(source, cache_dir=tmp_path / "cache", filters=EVERYTHING).items["categories"].to_list())
    assert found == [[["2"], ["11"], ["2"]], [["173", "1", "162"], ["6"], ["4"]]]


def test_a_column_of_categories_that_is_not_there_is_refused(tmp_path):
    write_table(tmp_path)
    with pytest.raises(UserError, match=r"data\.source\.categories=brand"):
        prepare(
            interaction_table(str(tmp_path), "amazon-toys", "brand"), cache_dir=tmp_path / "cache", filters=EVERYTHING
        )


def test_an_item_that_the_table_lacks_has_no_categories(tmp_path):
    rows = b"user_id,item_id,timestamp\n1,5,1\n1,6,2\n1,7,3\n"
    items = b"item_id,categories\n5,Bars|Wine\n7,Food\n"
    write(tmp_path / "yelp", {"interactions.csv.gz": rows, "items.csv.gz": items})
    source = interaction_table(str(tmp_path), "yelp", "categories")
    data = SequenceDataModule(source=source, cache_dir=str(tmp_path), min_user_interactions=3, min_item_interactions=1)
    assert data.catalog.categories == [["Bars", "Wine"], [], ["Food"]]


def test_sequence_lines(tmp_path):
    write(tmp_path / "amazon-office", {"sequences.txt.gz": b"0 4 0 12\n1 4\n10 3 3 2419\n"})
    source = sequence_lines(str(tmp_path), "amazon-office")
    assert log(source) == [(0, 4), (0, 0), (0, 12), (1, 4), (10, 3), (10, 3), (10, 2419)]
    assert source.items is None


@pytest.mark.parametrize(("make", "folder", "files", "absent", "address"), ABSENT)
def test_absent_file(tmp_path, make, folder, files, absent, address):
    write(tmp_path / folder, {name: b"" for name in files if name != absent})
    with pytest.raises(UserError) as error:
        make(str(tmp_path))
    sentence = str(error.value)
    assert str(tmp_path / folder / absent) in sentence
    assert address in sentence
    assert "put it there" in sentence
    assert "SEQGEN_DATA" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "make",
    [
        movielens_1m,
        movielens_100k,
        partial(movielens_csv, folder="ml-latest-small"),
        partial(interaction_table, folder="amazon-beauty", categories="attributes"),
        partial(sequence_lines, folder="amazon-office"),
    ],
)
def test_a_choice_named_by_a_sentence_can_be_chosen(tmp_path, make):
    with pytest.raises(UserError) as error:
        make(str(tmp_path))
    assert choices_named(error) <= CHOICES


def test_a_choice_named_where_nothing_is_left_can_be_chosen(tmp_path):
    write_table(tmp_path)
    source = interaction_table(str(tmp_path), "amazon-toys", "category")
    with pytest.raises(UserError) as error:
        prepare(source, cache_dir=tmp_path / "cache", filters=Filters(min_user_interactions=3, min_item_interactions=3))
    assert choices_named(error) <= CHOICES


def choices_named(error):
    return set(re.findall(r"\bdata=([\w.-]+)", str(error.value)))
