"""The real data sets after preparation: published sizes, the benchmark files line by line, and the transition graph."""

import gzip
import os
from functools import partial

import pytest
from memory import interactions as table

from seqgen.data.datamodule import SequenceDataModule
from seqgen.data.ragged import count_transitions
from seqgen.data.sources import interaction_table, movielens_1m, movielens_100k, movielens_csv, sequence_lines

pytestmark = pytest.mark.data

READERS = {
    "ml-1m": movielens_1m,
    "ml-100k": movielens_100k,
    "ml-latest-small": partial(movielens_csv, folder="ml-latest-small"),
    "amazon-beauty": partial(interaction_table, folder="amazon-beauty", categories="attributes"),
    "amazon-sports": partial(interaction_table, folder="amazon-sports", categories="attributes"),
    "amazon-toys": partial(interaction_table, folder="amazon-toys", categories="category"),
    "amazon-tools": partial(interaction_table, folder="amazon-tools", categories="category"),
    "amazon-office": partial(sequence_lines, folder="amazon-office"),
    "yelp": partial(interaction_table, folder="yelp", categories="categories"),
}


@pytest.fixture
def data(real_data):
    def make(name):
        source = READERS[name](str(real_data(name).parent))
        return SequenceDataModule(source=source, cache_dir=os.environ["SEQGEN_CACHE"])

    return make


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [
        ("ml-1m", 6040, 3416, 999611),
        ("amazon-beauty", 22363, 12101, 198502),
        ("amazon-sports", 35598, 18357, 296337),
        ("amazon-toys", 19412, 11924, 167597),
        ("amazon-tools", 16638, 10217, 134476),
        ("yelp", 30431, 20033, 316354),
        ("amazon-office", 4905, 2420, 53258),
        ("ml-100k", 943, 1349, 99287),
        ("ml-latest-small", 610, 3650, 90274),
    ],
)
def test_sizes(data, name, users, items, interactions):
    prepared = data(name).prepared
    assert (prepared.users.height, prepared.items.height, table(prepared).height) == (users, items, interactions)
    assert table(prepared)["user"].n_unique() == users
    assert table(prepared)["item"].n_unique() == items
    assert [prepared.meta[key] for key in ("num_users", "num_items", "num_interactions")] == [
        users,
        items,
        interactions,
    ]


@pytest.mark.parametrize(
    "name", ["amazon-beauty", "amazon-sports", "amazon-toys", "amazon-tools", "amazon-office", "yelp"]
)
def test_sequences_equal_the_benchmark_file(data, real_data, name):
    with gzip.open(real_data(name) / "sequences.txt.gz", "rt") as file:
        benchmark = {int(user): list(map(int, items)) for user, *items in map(str.split, file)}
    prepared = data(name).prepared
    users, items = prepared.users["user_id"].to_list(), prepared.items["item_id"].to_list()
    ours = {user: [] for user in users}
    for user, item in table(prepared).iter_rows():
        ours[users[user]].append(items[item - 1])
    assert len(ours) == len(benchmark)
    assert [user for user in benchmark if ours[user] != benchmark[user]] == []


@pytest.mark.parametrize(
    ("name", "pairs", "distinct", "heads"),
    [
        ("amazon-beauty", 127895, 112191, 11996),
        ("amazon-sports", 187866, 179048, 18129),
        ("amazon-toys", 106484, 99664, 11765),
        ("yelp", 217423, 212269, 19975),
    ],
)
def test_transition_graph(data, name, pairs, distinct, heads):
    prepared = data(name)
    head, _, count = count_transitions(prepared.train_sequences(), num_items=prepared.catalog.num_items, last=50)
    assert (int(count.sum()), len(count), len(head.unique())) == (pairs, distinct, heads)


@pytest.mark.parametrize(
    ("name", "items", "categories", "without"),
    [
        ("ml-1m", 3883, 18, 0),
        ("ml-100k", 1682, 19, 0),
        ("ml-latest-small", 9742, 19, 34),
        ("amazon-beauty", 12101, 637, 0),
        ("amazon-sports", 18357, 2277, None),
        ("amazon-toys", 11924, 24, 0),
        ("amazon-tools", 10217, 18, 0),
        ("yelp", 20033, 426, 6),  # SOURCE.md says 427: it counts the empty text of the six items without a name
    ],
)
def test_categories(real_data, name, items, categories, without):
    known = READERS[name](str(real_data(name).parent)).items()
    assert known.height == known["item_id"].n_unique() == items
    assert known["categories"].explode().drop_nulls().n_unique() == categories
    assert known["categories"].null_count() == 0
    if without is not None:
        assert (known["categories"].list.len() == 0).sum() == without
    if "title" in known.columns:
        assert known["title"].str.len_chars().min() > 0
