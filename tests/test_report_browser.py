"""The report in a browser: Debian's Chromium, without a screen."""

import time

import pytest
from chromium import CHROMIUM, Chromium
from made_report import CHECKS
from report_example import crowded, example

from dynlm.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(example(), tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("wide", [390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_overlaps_is_empty_or_too_wide(browser, report, tmp_path, wide, dark):
    browser.open(report, wide, dark=dark)
    found = browser.run(CHECKS)
    assert found["overlaps"] == [] and found["empty"] == [] and found["wide"] == []
    assert found["page"] <= found["window"] == wide
    assert browser.complaints() == [] and browser.requests() == []
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(18, 22, 27)" if dark else "rgb(255, 255, 255)")
    drawn = browser.run("getComputedStyle(document.querySelector('.canvas svg text')).fill")
    assert drawn != ground
    assert len(browser.picture(tmp_path / "page.png")) > 50_000


@pytest.mark.parametrize("wide", [390, 1280])
def test_names_that_are_far_too_long(browser, tmp_path, wide):
    browser.open(write_report(crowded(), tmp_path), wide)
    found = browser.run(CHECKS)
    assert found["overlaps"] == [] and found["empty"] == [] and found["wide"] == []
    assert found["page"] <= found["window"] == wide


def test_the_checks_see_what_is_wrong(browser, report, tmp_path):
    """A page spoiled in each of the ways that are looked for."""
    text = report.read_text()
    bad = text.replace("<h2 id", "<h2 style='margin-bottom:-3rem' id").replace(
        "</main>",
        "<figure></figure><p style='width:3000px'>wide</p>"
        "<img src='https://example.invalid/a.png' alt='a'><script>gone()</script></main>",
    )
    (tmp_path / "bad.html").write_text(bad)
    browser.open(tmp_path / "bad.html", 390)
    found = browser.run(CHECKS)
    assert found["overlaps"] and found["empty"] and found["wide"]
    assert found["page"] > found["window"]
    said = " ".join(browser.complaints())
    assert "Uncaught" in said and "Content Security Policy" in said


def cells(browser, column: int) -> list[str]:
    return browser.run(
        f"""[...[...document.querySelectorAll("table")]
        .find((t) => t.caption.textContent === "Held-out scores").tBodies[0].rows]
        .map((row) => row.cells[{column}].textContent)"""
    )


def head(browser, column: int, do: str) -> str:
    return browser.run(
        f"""(() => {{ const th = [...document.querySelectorAll("table")]
        .find((t) => t.caption.textContent === "Held-out scores").tHead.rows[0].cells[{column}];
        {do}; return th.getAttribute("aria-sort"); }})()"""
    )


def test_tables_are_sorted_by_their_heads(browser, report):
    browser.open(report, 1280)
    click = "th.querySelector('button').click()"
    assert head(browser, 1, "") == "none"
    assert head(browser, 1, click) == "ascending"
    assert cells(browser, 1) == ["9", "152", "272", "41,216"]  # as numbers, not as words
    assert head(browser, 1, click) == "descending"
    assert cells(browser, 1) == ["41,216", "272", "152", "9"]
    assert head(browser, 2, click) == "ascending"
    assert head(browser, 1, "") == "none"
    assert cells(browser, 2) == ["-13.3", "-12.8", "-12.6", "none"]  # below zero; nothing is last
    assert head(browser, 2, click) == "descending"
    assert cells(browser, 2) == ["-12.6", "-12.8", "-13.3", "none"]
    head(browser, 3, click)  # intervals by their estimate
    assert [c[:4] for c in cells(browser, 3)] == ["0.71", "1.3 ", "1.42", "none"]
    assert head(browser, 0, "th.querySelector('button').focus()") == "none"
    browser.press("Enter")
    assert head(browser, 0, "") == "ascending"
    assert cells(browser, 0)[0].startswith("Éti")
    assert browser.complaints() == []


def test_figures_are_enlarged_by_click_and_by_key(browser, report):
    browser.open(report, 1280)
    shown = "document.getElementById('enlarged').open"
    wide = "document.querySelector('{} .canvas svg').getBoundingClientRect().width"
    assert browser.run(shown) is False
    browser.run("document.querySelector('figure .enlarge').focus()")
    browser.press("Enter")
    assert browser.run(shown) is True
    assert browser.run(wide.format("dialog")) > 1.5 * browser.run(wide.format("figure"))
    title = browser.run("document.querySelector('dialog h2').textContent")
    assert title == example()["sections"][0]["figures"][0]["title"]
    ids = browser.run("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    browser.press("Escape")
    assert browser.run(shown) is False
    assert browser.run("document.activeElement.className") == "enlarge"  # where one was
    browser.run("document.querySelector('figure.wide .canvas').click()")
    assert browser.run(shown) is True
    assert browser.run("document.querySelectorAll('dialog svg').length") == 2
    browser.run("document.querySelector('dialog button').click()")
    assert browser.run(shown) is False


def test_the_scheme_can_be_changed(browser, report):
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(report, 390, dark=True)
    assert browser.run("document.getElementById('scheme').textContent") == "Light"
    browser.run("document.getElementById('scheme').click()")
    assert browser.run(ground) == "rgb(255, 255, 255)"
    assert browser.run("document.getElementById('scheme').textContent") == "Dark"
    browser.open(report, 390, dark=True)
    assert browser.run(ground) == "rgb(255, 255, 255)"  # it is kept
    browser.run("localStorage.clear()")
    browser.open(report, 390, dark=True)
    assert browser.run(ground) == "rgb(18, 22, 27)"


def test_every_text_has_contrast(browser, report):
    """As the browser computes colours, over what each text stands on."""
    script = """(() => {
      const rgb = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
      const light = (c) => { const p = rgb(c).slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * p[0] + 0.7152 * p[1] + 0.0722 * p[2]; };
      const ground = (e) => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor; const p = rgb(c);
        if (p.length === 3 || p[3] === 1) return c; } return "rgb(255,255,255)"; };
      const low = []; let seen = 0;
      for (const e of document.querySelectorAll("body *")) {
        if (e.closest("dialog, script") || (e.closest("svg") && e.tagName !== "text")) continue;
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || !e.getClientRects().length) continue;
        const style = getComputedStyle(e), colour = e.tagName === "text" ? style.fill : style.color;
        const [a, b] = [light(colour), light(ground(e))].sort((x, y) => x - y);
        seen++;
        if ((b + 0.05) / (a + 0.05) < 4.5) low.push(e.textContent.slice(0, 30) + " " + colour);
      }
      return [seen, low];
    })()"""
    for dark in (False, True):
        browser.open(report, 1280, dark=dark)
        seen, low = browser.run(script)
        assert seen > 200 and low == []


def test_a_large_report_opens_at_once(browser, tmp_path):
    """Ten times the sections: the page stays quick."""
    document = example()
    document["sections"] = [
        dict(one, id=f"{one['id']}-{k}", figures=[])
        for one in document["sections"]
        for k in range(10)
    ]
    page = write_report(document, tmp_path)
    start = time.monotonic()
    browser.open(page, 390)
    assert time.monotonic() - start < 20
    assert browser.run("document.querySelectorAll('main section').length") == 43
