"""The page as a text: its sections, what it escapes, that it needs nothing else."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import plotly.graph_objects
import polars as pl
import pytest
from comparisons import DATA, HOSTILE, NAMES, comparison, label, summary

from seqgen.report import page as pages
from seqgen.report import plots
from seqgen.report.page import page, write_page

NOTHING = {name: getattr(comparison(), name).clear() for name in ("curves", "groups", "unfinished", "published")}


class Reader(HTMLParser):
    """Elements with their attributes, and the text by the element it stands in."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        self.texts.append((self.open, data))


def figures(text):
    (found,) = [data for (tag, attrs), data in zip(*scripts(text), strict=True) if attrs.get("id") == "plots"]
    return json.loads(found)


def scripts(text):
    read = Reader(text)
    return [e for e in read.elements if e[0] == "script"], [data for tag, data in read.texts if tag == "script"]


@pytest.fixture(scope="module")
def text():
    return page(comparison(), "var Plotly = {};")


def headings(text):
    return re.findall(r"<h[234][^>]*>(.*?)</h[234]>", text)


def test_sections_from_top_to_bottom(text):
    assert "<h1>6 settings on beauty, &lt;i&gt;toys&lt;/i&gt;</h1>" in text
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts["runs"] == "12 runs of 6 settings"
    assert facts["seeds"] == "1, 2"
    assert facts["results of"] == "1970-01-01 00:00 UTC to 1970-01-02 00:00 UTC"
    assert facts["made with"] == "seqgen 0.1.0 abcdef0, torch 2.13.0, Python 3.11.7, cpu"
    own = ["Differences, trade-offs and training", "Difference to the baseline", "ndcg@10 against seconds of training"]
    own += ["ndcg@10 against coverage@10", "val/ndcg@10 by epoch", "training loss by epoch", "By group of test cases"]
    own += ["ndcg@10 by history length", "ndcg@10 by transition seen", "Cost", "Seconds of a training epoch"]
    own += ["Seconds of training", "Peak memory in MB", "Parameters"]
    after = ["Published numbers beside ours", "Unfinished runs", "Notes", "How to read this page"]
    assert headings(text)[: 2 * len(own) + 6] == ["beauty", *own, "&lt;i&gt;toys&lt;/i&gt;", *own, *after]
    assert "ckpt_path=outputs/a/checkpoints/last.ckpt" in text


def test_the_table_says_what_is_best_and_puts_the_difference_in_front(text):
    table = text[text.index("<table>") : text.index("</table>")]
    heads = re.findall(r'<button type="button">(.*?)</button>', table)
    assert heads[:5] == ["setting", "seeds", "ndcg@10", "Δ ndcg@10", "p (Holm)"]
    assert {"Pareto", "training (s)", "memory (MB)", "parameters", "published"} <= set(heads)
    assert table.count('scope="col" aria-sort="none"') == len(heads)
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', table)
    assert "badge" not in rows[0]
    assert "<strong>0.1500 ± 0.0040</strong>" in rows[1]
    assert 'badge best">best<' in rows[1]
    assert '"badge">not worse<' in rows[2]
    assert "+0.0400 [+0.0200, +0.0600] **" in rows[1]


def test_no_text_of_a_file_becomes_a_part_of_the_page(text):
    read = Reader(text)
    assert not [tag for tag, _ in read.elements if tag in ("img", "i", "b", "iframe", "link", "object")]
    assert len(scripts(text)[0]) == 3
    assert not [attrs for _, attrs in read.elements if any(name.startswith("on") for name in attrs)]
    # What plotly shows it would read tags in; `meta` and what JavaScript compares are shown nowhere.
    shown = json.dumps([without_meta(figure) for figure in figures(text).values()])
    assert "<img" not in shown
    assert "<b>" not in shown
    assert "&lt;img" in shown
    assert "hovertemplate" not in shown


def without_meta(figure):
    return figure | {"data": [{k: v for k, v in trace.items() if k != "meta"} for trace in figure["data"]]}


def test_nothing_is_loaded_from_elsewhere(text):
    places = ("src", "href", "srcset", "action", "data", "poster")
    links = [attrs[name] for _, attrs in Reader(text).elements for name in places if name in attrs]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_the_whole_page_holds_plotly(tmp_path):
    file = write_page(comparison(), tmp_path / "new" / "page.html")
    text = file.read_text()
    assert "plotly.js v" in text
    assert len(scripts(text)[0]) == 3


def test_figures_are_plotlys(text):
    found = figures(text)
    assert len(found) == 2 * 11
    for figure in found.values():
        plotly.graph_objects.Figure(figure)  # refuses a property or value that plotly does not know
        assert all("x" in trace and "y" in trace for trace in figure["data"])


def test_a_setting_has_one_color_on_all_data_sets_and_in_all_plots(text):
    known = plots.styles(summary())
    assert [known[label(*NAMES[0][:2], data)] for data in DATA] == [known[label(*NAMES[0][:2], DATA[0])]] * 2
    colors = {}
    for figure in figures(text).values():
        for trace in figure["data"]:
            if "meta" in trace:
                color = trace.get("fillcolor", "")[:7] or (trace.get("marker") or trace["line"])["color"]
                colors.setdefault(trace["meta"], set()).add(color)
    assert sorted(map(len, colors.values())) == [1, 1, 1]
    assert set(colors) == {"sasrec / softmax", "mqsa_ted / multi_query", HOSTILE}


def test_settings_beyond_the_colors_differ_in_dash_and_symbol():
    rows = summary().head(1)
    many = pl.concat([rows.with_columns(label=pl.lit(f"sasrec / softmax / beauty, n={n}")) for n in range(25)])
    looks = {(style.color, style.dash, style.symbol) for style in plots.styles(many).values()}
    assert len(looks) == 25


def test_the_front_of_two_axes_and_the_sign_of_a_difference():
    rows = summary().head(3).to_dicts()
    known = plots.styles(summary())
    drawn = plots.trade_off(rows, known, "train_s", "test/ndcg@10", ())
    assert (drawn.figure["data"][0]["x"], drawn.figure["data"][0]["y"]) == ([95, 300, 12_000], [0.11, 0.12, 0.15])
    assert drawn.figure["layout"]["xaxis"]["type"] == "log"
    other = plots.trade_off(rows, known, "test/coverage@10", "test/ndcg@10", ()).figure["data"][0]
    assert other["x"] == [0.6, 0.9]
    better, worse = plots.forest(rows, known, "test/ndcg@10").figure["data"][::-1]
    assert (better["x"], better["error_x"]["array"], better["marker"]["symbol"]) == ([0.04], [0.02], "circle")
    assert worse["marker"]["symbol"] == "circle-open"


def test_a_band_holds_all_seeds():
    known = plots.styles(summary())
    curves = comparison().curves.filter(pl.col("data") == "beauty")
    curves = curves.filter((pl.col("seed") == 1) | (pl.col("epoch") < 4))  # one seed stops early
    drawn = plots.learning(curves, known, "value", "val/ndcg@10").figure["data"]
    band, line = drawn[0], drawn[3]
    assert (len(line["x"]), len(band["x"])) == (6, 12)
    assert band["y"][0] == pytest.approx(0.11 * 2 / 9, rel=1e-5)
    assert line["y"][0] == pytest.approx(0.11 * 1.5 / 9, rel=1e-5)
    assert "2 seeds" in line["hovertext"][3]
    assert "seeds" not in line["hovertext"][4]


def test_what_is_not_there_is_said_and_not_drawn():
    bare = summary().with_columns(pl.lit(None, pl.Float64).alias(n) for n in ("difference", "low", "high", "p_holm"))
    bare = bare.with_columns(best=False, not_worse=False, pareto=False, published=pl.lit(None, pl.Float64))
    text = page(comparison(summary=bare, notes=[], **NOTHING), "0;")
    for sentence in ("No differences with intervals", "No learning curves", "No metrics by group", "All runs that"):
        assert sentence in text
    assert not {"Notes", "Published numbers beside ours", "By group of test cases"} & set(headings(text))
    assert all(figure["data"] for figure in figures(text).values())
    assert "Δ ndcg@10" not in re.findall(r'<button type="button">(.*?)</button>', text)


def test_one_run_alone_has_a_page():
    text = page(replace(comparison(**NOTHING), summary=summary().head(1), axes=()), "0;")
    assert "<h1>1 setting on beauty</h1>" in text


def test_without_plotly_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(pages.UserError, match="--html needs plotly: pip install plotly"):
        write_page(comparison(), tmp_path / "page.html")
