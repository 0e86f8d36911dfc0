"""Every public set from small files of exactly the published form, downloaded from a local server, then found again."""

import functools
import gzip
import hashlib
import io
import json
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import QUIET

from seqgen import config
from seqgen.errors import UserError

# Six users with six items each, which a 5-core keeps whole, newest first within a user; and one user too few.
ROWS = [(u, (u + t) % 6, 1 + t % 5, 1_300_000_000 + (10 - t) * 86_400) for u in range(6) for t in range(6)] + [
    (6, 0, 5, 1_300_000_000)
]
EXPECTED = [[(u + t) % 6 for t in range(5, -1, -1)] for u in range(6)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Address of a server of the folder `served`."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def archive(folder, **files):
    """A GroupLens archive: its files in a folder of its name, beside others."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(f"{folder}/README.txt", "terms")
        for name, content in files.items():
            zipped.writestr(f"{folder}/{name.replace('_', '.')}", content)
    return buffer.getvalue()


def movielens_1m():
    ratings = "".join(f"{u + 1}::{i + 10}::{r}::{t}\n" for u, i, r, t in ROWS)
    movies = "".join(f"{i + 10}::L\xe9on: Part {i} (1994)::Drama|War\n" for i in range(6))
    return {"ml-1m.zip": archive("ml-1m", ratings_dat=ratings, movies_dat=movies.encode("latin-1"))}


def movielens_100k():
    genres = ["unknown", "Action", *(f"genre {n}" for n in range(2, 19))]
    flags = "|".join("1" if name in ("Action", "genre 4") else "0" for name in genres)
    files = {
        "u_data": "".join(f"{u + 1}\t{i + 10}\t{r}\t{t}\n" for u, i, r, t in ROWS),
        "u_item": "".join(f"{i + 10}|L\xe9on {i}|01-Jan-1994||http://x|{flags}\n" for i in range(6)).encode("latin-1"),
        "u_genre": "".join(f"{name}|{n}\n" for n, name in enumerate(genres)) + "\n",
    }
    return {"ml-100k.zip": archive("ml-100k", **files)}


def movielens_csv(folder):
    ratings = "userId,movieId,rating,timestamp\r\n" + "".join(f"{u + 1},{i + 10},{r}.5,{t}\r\n" for u, i, r, t in ROWS)
    movies = "movieId,title,genres\r\n" + "".join(f'{i + 10},"Le\xf3n, {i} (1994)",Drama|War\r\n' for i in range(6))
    return {f"{folder}.zip": archive(folder, ratings_csv=ratings, movies_csv=movies)}


def asin(i):
    return f"B0000{i:05d}"


def lines(objects, dump=json.dumps):
    return gzip.compress("".join(dump(row) + "\n" for row in objects).encode())


def reviews():
    return lines(
        {
            "reviewerID": f"A{u}",
            "asin": asin(i),
            "reviewerName": 'J. "Jay"',
            "helpful": [0, 1],
            "reviewText": "it's, well, \u2014 fine\n",
            "overall": float(r),
            "summary": "ok",
            "unixReviewTime": t,
            "reviewTime": "03 13, 2011",
        }
        for u, i, r, t in ROWS
    )


def amazon_2014(category):
    products = [{"asin": "B9", "title": "nobody's", "categories": [["x"]]}]
    products += [
        {"asin": asin(i), "related": {"also_bought": ["B9"]}, "title": f"It's {i}", "categories": [["All", "War"]]}
        for i in range(6)
    ]
    products[-1] = {"asin": asin(5), "categories": [["All", "War"], ["All", "Tea"]]}  # some have no title
    ratings = "".join(f"A{u},{asin(i)},{r}.0,{t}\n" for u, i, r, t in ROWS)
    return {
        f"reviews_{category}_5.json.gz": reviews(),
        f"meta_{category}.json.gz": lines(products, repr),  # Python literals, as published
        f"ratings_{category}.csv": ratings.encode(),
    }


def amazon_2018():
    products = [{"asin": asin(i), "title": f"T {i}", "category": ["All", "War"], "price": ""} for i in range(6)]
    ratings = "".join(f"{asin(i)},A{u},{r}.0,{t}\n" for u, i, r, t in ROWS)
    return {
        "categoryFilesSmall/Gift_Cards_5.json.gz": reviews(),
        "categoryFilesSmall/Gift_Cards.csv": ratings.encode(),
        "metaFiles2/meta_Gift_Cards.json.gz": lines(products),
    }


def amazon_2023():
    products = [{"parent_asin": asin(i), "title": f"T {i}", "categories": ["All", "War"]} for i in range(6)]
    log = "user_id,parent_asin,rating,timestamp\n" + "".join(f"A{u},{asin(i)},{r}.0,{t}123\n" for u, i, r, t in ROWS)
    return {
        "benchmark/5core/rating_only/Gift_Cards.csv.gz": gzip.compress(log.encode()),
        "benchmark/0core/rating_only/Gift_Cards.csv.gz": gzip.compress(log.encode()),
        "raw/meta_categories/meta_Gift_Cards.jsonl.gz": lines(products),
    }


MOVIELENS = {"ml1m": ("ml-1m", movielens_1m), "ml100k": ("ml-100k", movielens_100k)} | {
    name: (folder, functools.partial(movielens_csv, folder))
    for name, folder in (
        ("ml_latest_small", "ml-latest-small"),
        ("ml20m", "ml-20m"),
        ("ml25m", "ml-25m"),
        ("ml32m", "ml-32m"),
    )
}
AMAZON_2014 = {
    "beauty": "Beauty",
    "sports": "Sports_and_Outdoors",
    "toys": "Toys_and_Games",
    "tools": "Tools_and_Home_Improvement",
    "office": "Office_Products",
}
FORMS = [(name, make, "", "checksum") for name, (_, make) in MOVIELENS.items()]
FORMS += [
    (name, functools.partial(amazon_2014, category), form, "")
    for name, category in AMAZON_2014.items()
    for form in ("5core", "ratings")
]
FORMS += [("amazon_2018", amazon_2018, form, "") for form in ("5core", "ratings")]
FORMS += [("amazon_2023", amazon_2023, form, "") for form in ("5core", "0core")]


def serve(tmp_path, files):
    for name, content in files.items():
        (tmp_path / "served" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "served" / name).write_bytes(content)


def build(tmp_path, name, *overrides):
    category = ["data.source.category=Gift_Cards"] if name.startswith("amazon_") else []
    place = [f"paths.data_dir={tmp_path}/data", f"paths.cache_dir={tmp_path}/cache"]
    return config.build(
        config.compose([f"data={name}", *category, *place, *overrides, *QUIET], output_dir=tmp_path), "data"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make", "form", "checked"), FORMS)
def test_a_published_set_is_downloaded_and_read(tmp_path, server, name, make, form, checked):
    files = make()
    serve(tmp_path, files)
    overrides = [f"data.source.form={form}"] if form else []
    url = server
    if checked:
        (file,) = files
        url = f"{server}/{file}"
        overrides.append(f"data.source.checksum=md5:{hashlib.md5(files[file]).hexdigest()}")
    data = build(tmp_path, name, f"data.source.url={url}", *overrides)
    items = data.prepared.items
    sequences = data.sequences.values.split(data.sequences.lengths.tolist())
    first = 10 if checked else 0
    ids = [int(str(item)[-5:]) - first for item in items["item_id"]]
    assert [[ids[i - 1] for i in items.tolist()] for items in sequences] == EXPECTED
    assert data.prepared.meta["steps"][0]["interactions"] == len(ROWS)
    assert data.prepared.meta["time_unit"] == ("ms" if name == "amazon_2023" else "s")
    assert data.prepared.times.min() // 10**6 == 1_300_000_000 + 5 * 86_400
    assert {"War", "Action"} & set(data.catalog.categories[0])
    assert data.catalog.titles[0] is not None

    # From now on the local files serve: no address is asked.
    again = build(tmp_path, name, "data.source.url=http://127.0.0.1:9/none", *overrides)
    assert again.prepared.meta == data.prepared.meta


@pytest.mark.parametrize("name", [name for name in MOVIELENS if name in ("ml1m", "ml100k", "ml20m", "ml25m")])
def test_a_download_that_is_not_the_published_archive_is_refused(tmp_path, server, name):
    folder, make = MOVIELENS[name]
    serve(tmp_path, make())
    with pytest.raises(UserError, match=r"data\.source\.checksum"):
        build(tmp_path, name, f"data.source.url={server}/{folder}.zip")
    assert not (tmp_path / "data").exists()


def test_low_ratings_of_a_public_set_can_be_dropped(tmp_path, server):
    serve(tmp_path, movielens_csv("ml-20m"))
    overrides = [f"data.source.url={server}/ml-20m.zip", "data.source.checksum=null", "data.min_rating=2"]
    data = build(tmp_path, "ml20m", *overrides, "data.min_item_interactions=1", "data.min_user_interactions=4")
    kept = sum(r + 0.5 >= 2 for u, _, r, _ in ROWS if u < 6)
    assert [step["interactions"] for step in data.prepared.meta["steps"]] == [len(ROWS), kept + 1, kept]


def test_a_file_changed_after_its_download_is_refused(tmp_path, server):
    serve(tmp_path, amazon_2023())
    build(tmp_path, "amazon_2023", f"data.source.url={server}").prepared  # noqa: B018
    file = tmp_path / "data/amazon-2023/5core/Gift_Cards.csv.gz"
    file.write_bytes(file.read_bytes() + gzip.compress(b"A9,B9,5.0,1300000000000\n"))
    with pytest.raises(UserError, match=r"Gift_Cards\.csv\.gz has another checksum than when it was downloaded"):
        build(tmp_path, "amazon_2023").prepared  # noqa: B018


def test_an_item_that_cannot_be_read_is_named_with_its_line(tmp_path, server):
    files = amazon_2014("Beauty")
    meta = gzip.decompress(files["meta_Beauty.json.gz"]).splitlines(keepends=True)
    meta[3] = meta[3][:40] + b"\n"
    files["meta_Beauty.json.gz"] = gzip.compress(b"".join(meta))
    serve(tmp_path, files)
    with pytest.raises(UserError, match=r"meta_Beauty\.json\.gz, line 4: it describes no item"):
        build(tmp_path, "beauty", f"data.source.url={server}").prepared  # noqa: B018
    kept = build(tmp_path, "beauty", f"data.source.url={server}", "data.source.metadata=false")
    assert kept.catalog.titles is None


def test_no_network_tells_what_to_do_by_hand(tmp_path):
    with pytest.raises(UserError) as error:
        build(tmp_path, "amazon_2023", "data.source.url=http://127.0.0.1:9/")
    for part in ("Gift_Cards.csv.gz", "amazon-reviews-2023.github.io", "5core", "SEQGEN_DATA"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
