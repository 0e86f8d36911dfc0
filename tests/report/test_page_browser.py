"""The page as Chromium shows it, on a desktop and on a phone."""

import time

import pytest
from browser import CHROMIUM, DRIVER, chromium
from comparisons import HOSTILE, comparison

from seqgen.report.page import write_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver: apt-get install chromium chromium-driver"
    ),
]

DRAWN = """
return new Promise((done) => {
  const look = () => (document.body.dataset.drawn ? done(Number(document.body.dataset.drawn)) : setTimeout(look, 20));
  look();
});"""
# Siblings that stand in one another's place, by more than a pixel: parts of the page, and texts within a plot.
OVERLAPS = """
const groups = ["body > *", "main > *", "section > *", ".plots > *", "figure > *", "dl > *", ".legend > *"]
  .flatMap((path) => Object.values(Object.groupBy([...document.querySelectorAll(path)], (e) =>
    (e.parentElement.dataset.at ??= Math.random()))));
for (const plot of document.querySelectorAll(".plot")) {
  groups.push([...plot.querySelectorAll(".xtick text, .ytick text, .xtitle, .ytitle, .annotation-text")]);
}
const found = [];
for (const group of groups) {
  const boxes = group.map((element) => [element, element.getBoundingClientRect()]);
  const real = boxes.filter(([, box]) => box.width && box.height);
  real.forEach(([one, a], place) => real.slice(place + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && down > 1) found.push([one, other].map((e) => `${e.tagName} ${e.textContent.slice(0, 40)}`));
  }));
}
return [groups.flat().length, found];"""
PLOTS = """
return [...document.querySelectorAll(".plot")].map((plot) => {
  const box = plot.getBoundingClientRect();
  const marks = [...plot.querySelectorAll(".trace path, .bars .point path")];
  const texts = [...plot.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
  return {
    drawn: marks.filter((mark) => mark.getBoundingClientRect().width + mark.getBoundingClientRect().height > 0).length,
    size: [box.width, box.height],
    outside: texts.filter((text) => text.width && (text.left < box.left - 1 || text.right > box.right + 1)).length,
  };
});"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_page(comparison(), tmp_path_factory.mktemp("page") / "page.html")


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_drawn_in_its_place(browser, file, width):
    browser.requested()
    browser.open(file, width)
    assert browser.run(DRAWN) == 22
    assert browser.errors() == []
    assert browser.requested() == [file.as_uri()]
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [width, True]
    assert browser.run("return document.title") == "6 settings on beauty, <i>toys</i>"
    for plot in browser.run(PLOTS):
        assert plot["drawn"] > 0
        assert min(plot["size"]) > 100
        assert plot["outside"] == 0
    compared, overlaps = browser.run(OVERLAPS)
    assert compared > 300
    assert overlaps == []
    # What is wider than the screen scrolls within its own box.
    boxes = browser.run(
        "return [...document.querySelectorAll('.table')].map((e) => [e.scrollWidth > e.clientWidth, e.clientWidth])"
    )
    assert all(own <= width for _, own in boxes)
    assert boxes[0][0]


def click(browser, selector, place):
    browser.run(f"document.querySelectorAll({selector!r})[{place}].click()")


def column(browser, place):
    return browser.run(
        f"return [...document.querySelector('table').tBodies[0].rows].map((r) => r.cells[{place}].textContent)"
    )


def test_a_click_on_a_header_sorts(browser, file):
    browser.open(file, 1280)
    browser.run(DRAWN)
    values = ["0.1100 ± 0.0040", "0.1500 ± 0.0040", "0.1200 ± 0.0040"]
    assert column(browser, 2) == values
    click(browser, "table thead button", 2)
    assert column(browser, 2) == sorted(values, reverse=True)
    click(browser, "table thead button", 2)
    assert column(browser, 2) == sorted(values)
    states = (
        "return [...document.querySelectorAll('table')[0].querySelectorAll('th[aria-sort]')].map((h) => h.ariaSort)"
    )
    assert browser.run(states)[:4] == ["none", "none", "ascending", "none"]
    # By size and not by digits; and what is no number stands last.
    place = browser.run(
        "return [...document.querySelector('table').rows[0].cells].findIndex((h) => h.innerText.startsWith('training'))"
    )
    click(browser, "table thead button", place)
    assert column(browser, place) == ["12,000.0", "300.0", "95.0"]
    click(browser, "table thead button", 3)
    assert [text[:7] for text in column(browser, 3)] == ["+0.0400", "+0.0100", "baselin"]
    click(browser, "table thead button", 0)
    assert [text[:6] for text in column(browser, 0)][1:] == ["mqsa_t", "sasrec"]


def test_a_name_in_the_legend_hides_the_setting_in_its_section_alone(browser, file):
    browser.open(file, 390)
    browser.run(DRAWN)
    shown = """return [...document.querySelectorAll('section')].slice(0, 2).map((section) =>
      [...section.querySelectorAll('.plot')].flatMap((plot) => plot.data).filter(
        (trace) => trace.visible !== false && trace.meta === document.querySelectorAll('.legend button')[2].dataset.name
      ).length)"""
    before = browser.run(shown)
    assert browser.run("return document.querySelectorAll('.legend button')[2].textContent") == HOSTILE
    assert before[0] == before[1] > 8
    click(browser, ".legend button", 2)
    assert browser.run(shown) == [0, before[1]]
    assert browser.run("return document.querySelectorAll('.legend button')[2].ariaPressed") == "false"
    click(browser, ".legend button", 2)
    assert browser.run(shown) == before


def test_the_plots_follow_the_colors_of_the_system(browser, file):
    browser.open(file, 1280)
    browser.run(DRAWN)
    ink = "return [getComputedStyle(document.querySelector('.xtitle')).fill, getComputedStyle(document.body).color]"
    light = browser.run(ink)
    assert light[0] == light[1]
    browser.command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    limit = time.monotonic() + 5
    while (dark := browser.run(ink))[0] == light[0] and time.monotonic() < limit:
        time.sleep(0.05)
    browser.command("Emulation.setEmulatedMedia", {"features": []})
    assert dark[0] == dark[1] != light[0]
    assert browser.errors() == []
