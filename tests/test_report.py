"""The report: every number of the page against the document, figures against their data."""

import copy
import importlib.resources
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image
from report_example import example, heavy, interval, lines, matrix, odd, panels, scales
from report_page import Element, leaves, parsed, pointed

from dynlm._io import BadArgument
from dynlm.analysis.findings import Verdict, finding, plain, shown
from dynlm.report import _figures, check, draw, write_report
from dynlm.report._kinds import COLOURS, NOTHING
from dynlm.report._place import Place

FIGURES = {f["id"]: f for s in example()["sections"] for f in s["figures"]}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_report(example(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written) -> Element:
    return parsed(written.read_text())


# Numbers and strings


def test_every_number_of_the_page_is_that_of_the_document(page):
    document, numbers = example(), page.all(having="data-path")
    for one in numbers:
        value = pointed(document, one.attributes["data-path"])
        assert one.attributes["data-value"] == repr(value)
        assert float(one.attributes["data-value"]) == value
        if isinstance(value, int):  # counts are shown whole
            assert int(one.text.replace(",", "")) == value
        else:
            assert one.text.strip() == shown(value)
    assert len(numbers) > 60


def test_a_number_that_differs_is_seen(page):
    """The check above, on a document in which one number is another."""
    document = example()
    document["sections"][1]["findings"][0]["value"] += 1e-12
    wrong = [
        one.attributes["data-path"]
        for one in page.all(having="data-path")
        if one.attributes["data-value"] != repr(pointed(document, one.attributes["data-path"]))
    ]
    assert wrong == ["/sections/1/findings/0/value"]


def test_every_estimate_of_the_document_is_in_the_page(page):
    seen = {one.attributes["data-path"] for one in page.all(having="data-path")}
    kept = re.compile(
        r"/cards/\d+/finding/(value|low|high|null)|/sections/\d+/findings/\d+/(value|low|high|null)"
        r"|/sections/\d+/tables/\d+/rows/.*|/budget/.*|/facts/.*|.*/values/\d/\d"
    )
    document = example()
    asked = {
        path
        for path, value in leaves(document)
        if kept.fullmatch(path) and isinstance(value, int | float) and "groups" not in path
    }
    assert len(asked) > 60 and asked <= seen


def test_strings_are_those_of_the_document_and_no_digit_stands_elsewhere(page):
    document = example()
    for one in page.all(having="data-text"):
        assert one.text == pointed(document, one.attributes["data-text"])
    for one in page.all(having="data-key"):
        assert one.attributes["data-key"] == "/facts/" + one.text
    known = ("data-path", "data-text", "data-key")
    for one in [page, *page.all()]:
        around = [one, *one.above()]
        if any(a.tag in ("style", "script", "title", "svg") for a in around):
            continue
        if not any(key in a.attributes for a in around for key in known):
            own = "".join(c for c in one.children if isinstance(c, str))
            assert not re.search(r"\d", own), own


def test_words_in_a_drawing_are_those_of_the_document(page):
    """Ticks are counted off by the axes; nothing else in a drawing is of its own making."""
    strings = {value for _, value in leaves(example()) if isinstance(value, str)} | {NOTHING}
    words = 0
    for text in page.all("text"):
        groups = [a.attributes.get("id", "") for a in text.above()]
        labels = {"ytick", "xtick"} & {re.sub(r".*-(\w+)_\d+$", r"\1", g) for g in groups}
        number = any("data-path" in a.attributes for a in text.above())
        if not labels and not number:
            assert text.text in strings, text.text
            words += 1
    assert words > 30


def test_what_is_written_is_never_markup(page):
    assert len(page.all("script")) == 1 and not page.all("b")
    title = example()["title"]
    assert "<script>" in title
    assert page.all("h1")[0].text == page.all("title")[0].text == title
    images = [e for e in page.all(having="role") if e.attributes["role"] == "img"]
    assert images and all(e.attributes["aria-label"] for e in images)


def test_sentences_that_do_not_beat_their_null_say_so(page):
    found = [one.text for one in page.all("li") if one.parent.attributes.get("class") == "found"]
    level = [text for text in found if text.startswith("The rotational share")]
    assert level and all("not told apart from 0." in text for text in level)
    badges = {e.text for e in page.all("span") if "badge" in e.attributes.get("class", "")}
    assert {b.split(" ", 1)[1] for b in badges} == {
        "above its null value",
        "below its null value",
        "not told apart from null",
        "stated, not tested",
        "withheld",
    }


def test_the_page_asks_for_nothing_outside_itself(written, page):
    for one in page.all():
        for key in ("src", "href", "xlink:href", "action", "data", "poster"):
            target = one.attributes.get(key)
            assert target is None or target.startswith(("#", "data:")), (one.tag, target)
    text = written.read_text()
    assert "@import" not in text and not re.search(r"url\((?!#|data:)", text)
    policy = next(e for e in page.all("meta") if "http-equiv" in e.attributes)
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_ids_are_unique_and_found(written, page):
    ids = [e.attributes["id"] for e in page.all(having="id")]
    assert len(ids) == len(set(ids))
    named = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', written.read_text())
    assert named and {a or b for a, b in named} <= set(ids)
    for key in ("aria-labelledby", "aria-describedby"):
        assert {e.attributes[key] for e in page.all(having=key)} <= set(ids)


# Figures


def axes(spec: dict):
    return _figures.made(Place(plain(spec)), 3.0, titled=False).axes[0]


def test_lines_are_their_data():
    spec = plain(lines())
    drawn = axes(spec)
    for line, one in zip(drawn.lines, spec["series"]):
        np.testing.assert_array_equal(line.get_xdata(), one["x"])
        np.testing.assert_array_equal(line.get_ydata(), one["y"])
    band = drawn.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == max(spec["series"][0]["high"])
    assert band[:, 1].min() == min(spec["series"][0]["low"])
    assert drawn.lines[3].get_ydata() == [0, 0]  # the line across


def test_a_logarithmic_axis_leaves_out_what_is_not_positive_and_says_so(page):
    spec = plain(scales())
    drawn = axes(spec)
    assert drawn.get_xscale() == drawn.get_yscale() == "log"
    np.testing.assert_array_equal(
        drawn.lines[0].get_ydata(), [0.62, 0.41, 0.22, np.nan, 0.04, np.nan]
    )
    captions = [c.text for c in page.all("figcaption")]
    assert sum("have no place on a logarithmic axis" in c for c in captions) == 1
    assert draw(spec).left_out and not draw(plain(lines())).left_out


def test_bars_are_their_data():
    spec = FIGURES["models"]
    drawn = axes(spec)
    widths = [p.get_width() for p in drawn.patches]
    want = [v for g in spec["groups"] for v in g["values"]]
    np.testing.assert_array_equal(widths, np.array(want, float))
    ends = drawn.collections[0].get_segments()
    low, high = spec["groups"][0]["low"], spec["groups"][0]["high"]
    np.testing.assert_allclose([s[:, 0] for s in ends], np.transpose([low, high]))
    assert [t.get_text() for t in drawn.get_yticklabels()] == spec["labels"]
    assert drawn.get_ylim()[0] > drawn.get_ylim()[1]  # the first on top


def test_points_arrows_and_histogram_are_their_data():
    spec = FIGURES["predicted"]
    for dots, one in zip(axes(spec).collections, spec["groups"]):
        np.testing.assert_array_equal(dots.get_offsets(), np.transpose([one["x"], one["y"]]))
    field = FIGURES["plane"]["panels"][0]
    arrows = next(c for c in axes(field).collections if hasattr(c, "U"))
    np.testing.assert_array_equal(arrows.U, np.ravel(field["u"]))
    np.testing.assert_array_equal(arrows.V, np.ravel(field["v"]))
    across, up = np.meshgrid(field["x"], field["y"])
    np.testing.assert_array_equal(arrows.get_offsets(), np.transpose([across.ravel(), up.ravel()]))
    spec = FIGURES["residuals"]
    steps = axes(spec).patches[0].get_data()
    np.testing.assert_array_equal(steps.values, spec["counts"])
    np.testing.assert_array_equal(steps.edges, spec["edges"])


def test_colours_stand_where_their_numbers_are():
    """A single large number at the third x and the second y, in a drawing that is looked at."""
    z = np.zeros((4, 5))
    z[1, 2] = 9.0
    spec = {"kind": "heat", "x": np.arange(5), "y": np.arange(4), "z": z}
    fig = _figures.made(Place(plain(spec)), 3.0, titled=False)
    pixels, ax = _figures.pixels(fig), fig.axes[0]
    column, row = ax.transData.transform((2, 1))
    dark = pixels[pixels.shape[0] - 1 - int(row), int(column), :3].astype(int)
    assert dark.sum() < 400
    for x, y in itertools.product(range(5), range(4)):
        column, row = ax.transData.transform((x + 0.1, y + 0.1))
        here = pixels[pixels.shape[0] - 1 - int(row), int(column), :3].astype(int)
        assert (here.sum() < 500) == ((x, y) == (2, 1))


def test_a_change_of_sign_changes_the_colour():
    from dynlm.report._kinds import tinted

    colours = tinted(np.array([[-2.0, 0.0, 1.0, np.nan]]), -2.0, 1.0)[0]
    assert colours[0, 0] > colours[0, 2] and colours[2, 0] < colours[2, 2]  # orange, teal
    assert colours[0, 3] > colours[2, 3] > colours[1, 3] > colours[3, 3] == 0


def test_colours_of_a_drawing_are_those_of_the_scheme():
    for svg in [s for f in FIGURES.values() for s in draw(f).svgs]:
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?=[;\"])", re.sub(r'="#[^"]*"', "", svg))
        assert "var(--soft)" in svg and "var(--sans)" in svg and "DejaVu" not in svg
        assert len(svg) < 150_000


def test_a_figure_is_a_png_too(written):
    for name in FIGURES:
        pixels = image.imread(written.parent / "figures" / f"{name}.png")
        assert pixels.shape[1] >= 600 and pixels[..., :3].std() > 0.02
        np.testing.assert_array_equal(pixels[0, 0, :3], 1)  # on white
    assert image.imread(written.parent / "figures" / "plane.png").shape[1] >= 1200  # two panels


def test_names_are_no_formulas_and_may_be_in_any_script():
    spec = plain(lines())
    spec["series"][0]["name"] = "$x_1$ 日本語"
    svg = draw(spec).svgs[0]
    assert "$x_1$ 日本語" in svg


def test_many_points_become_a_picture():
    svg = draw(plain(heavy())).svgs[0]
    assert len(svg) < _figures.HEAVY and "data:image/png;base64" in svg


@pytest.mark.parametrize("spec", odd(), ids=lambda s: s["title"])
def test_odd_data_is_drawn_without_a_warning(spec):
    svgs = draw(plain(spec)).svgs
    assert len(svgs) == 1 and svgs[0].count("<path") > 3
    assert not re.search(r"\b(nan|inf)\b", svgs[0])


def test_nothing_to_draw_is_said(tmp_path):
    document = example()
    for one in document["sections"][0]["figures"][0]["series"]:
        one |= {"low": None, "high": None, "y": [None] * 12}
    written = write_report(document, tmp_path)
    assert not (tmp_path / "figures" / "autocorrelation.png").exists()
    assert "There is nothing to draw: every value is none." in written.read_text()


def test_numbers_in_a_matrix_point_to_themselves():
    svg = draw(plain(matrix()), "/sections/2/figures/1").svgs[0]
    assert 'data-path="/sections/2/figures/1/values/1/0" data-value="0.08"' in svg
    assert "values/2/2" not in svg  # which is none


# Written whole or not at all


def test_the_same_document_makes_the_same_page(tmp_path, written):
    again = write_report(written.parent / "results.json", tmp_path)
    assert again.read_bytes() == written.read_bytes()
    assert not (tmp_path / "results.json").exists()
    assert json.loads((written.parent / "results.json").read_text()) == example()


def test_findings_and_arrays_are_made_plain(tmp_path):
    document = example()
    good = finding("gain", interval(np.float32(2.0), 1.0, 3.0), 0.0)
    document["cards"][0]["finding"] = good
    document["facts"]["mean"] = np.float64("nan")
    with pytest.raises(BadArgument, match="/facts/mean"):
        write_report(document, tmp_path)
    assert not list(tmp_path.iterdir())
    document["facts"]["mean"] = np.int64(3)
    write_report(document, tmp_path)
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["cards"][0]["finding"] == good.to_json() and kept["facts"]["mean"] == 3


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path, written):
    old = write_report(written.parent / "results.json", tmp_path).read_bytes()
    document = example()
    document["sections"][2]["figures"][1]["values"][0][0] = "much"
    with pytest.raises(BadArgument):
        write_report(document, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == old
    assert not list(tmp_path.rglob(".*"))


def test_paths_that_are_wrong(tmp_path):
    with pytest.raises(BadArgument, match="no file is there"):
        write_report(tmp_path / "gone.json", tmp_path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BadArgument, match="is no JSON"):
        write_report(tmp_path / "bad.json", tmp_path)
    with pytest.raises(BadArgument, match="is the file"):
        write_report(example(), tmp_path / "bad.json")


# The format

MENDED = "Make it with `dynlm.analysis.findings`"
WRONG = [
    ("/format", "dynlm-report-2", "this is not the format", "Write 'dynlm-report-1'"),
    ("/title", " ", "/title: some text is needed", "Write it"),
    ("/lead", 3, "/lead: some text is needed", "Write it"),
    ("/extra", 3, "`extra` is no key of it", "Remove it"),
    ("/cards/0/finding/verdict", "below", "its interval says 'above'", MENDED),
    ("/cards/0/finding/verdict", "splendid", "this is not known here", "Write one of above"),
    ("/cards/0/finding/value", 0.2, "this is not what its numbers say", MENDED),
    ("/cards/0/finding/value", None, "a value is none if, and only if", MENDED),
    ("/cards/0/finding/low", None, "a verdict needs an interval", MENDED),
    ("/cards/4/finding/value", 0.2, "a value is none if, and only if", MENDED),
    ("/sections/0/found/0", "", "/sections/0/found/0: some text", "Write it"),
    ("/sections/0/id", "The process", "this is no id", "Use small letters"),
    ("/sections/1/id", "process", "stands here a second time", "its own id"),
    ("/sections/0/mark", "mine", "this is not known here", "read, told, ours"),
    ("/sections/3/error", None, "nothing stands in this section", "Say in `error` why"),
    ("/sections/1/tables/0/rows/1", ["a"], "/rows/1: a row has as many cells", "null"),
    ("/sections/1/tables/0/rows/1/1", True, "a finite number", "Write one"),
    ("/sections/1/figures/0/kind", "pie", "this kind is not known", "lines, bars"),
    ("/sections/1/figures/0/labels", ["a"], "there are 1 labels", "a value for each"),
    ("/sections/1/figures/1/alt", "", "/alt: some text is needed", "Write it"),
    ("/sections/0/figures/0/series/0/low", [1.0], "`low` has 1 items", "equally long"),
    ("/sections/0/figures/0/series/0/x/3", None, "a finite number", "Write one"),
    ("/sections/0/figures/0/series/0/y/3", float("inf"), "/y/3: a finite number", "or null"),
    ("/sections/0/figures/0/series/0/style", "wavy", "not known here", "dashed"),
    ("/sections/0/figures/1/id", "autocorrelation", "a second time", "its own id"),
    ("/sections/0/figures/2/edges", [1.0, 2.0], "there are 24 counts", "one edge more"),
    ("/sections/2/figures/0/panels/1/z", [[1.0]], "ask for 15 of 17", "transposed"),
    ("/sections/2/figures/0/panels/0/x/0", 5.0, "these numbers do not rise", "Sort `x`"),
    ("/sections/2/figures/0/panels/0/id", "a", "`id` is no key of it", "Remove it"),
    ("/sections/2/figures/0/panels", [], "a list of at least 1", "Give at least 1"),
    ("/budget/0/seconds", "long", "/budget/0/seconds: a finite number", "Write one"),
    ("/facts", [], "a dict is needed", "Give names"),
]


@pytest.mark.parametrize("pointer, value, what, do", WRONG, ids=lambda x: str(x)[:40])
def test_what_is_wrong_is_named_with_its_place_and_what_to_do(pointer, value, what, do):
    document = example()
    *parts, last = pointer.split("/")[1:]
    holder = pointed(document, "/".join(["", *parts]) if parts else "")
    holder[int(last) if isinstance(holder, list) else last] = value
    with pytest.raises(BadArgument) as caught:
        check(document)
    assert what in str(caught.value) and do in str(caught.value)


def test_a_careful_verdict_says_why():
    """After many tests an interval may leave the null value out and yet tell nothing."""
    document = example()
    good = finding("gain", interval(2.0, 1.0, 3.0), 0.0)
    document["cards"][0]["finding"] = plain(good._replace(verdict=Verdict.LEVEL))
    with pytest.raises(BadArgument, match="its interval says 'above'"):
        check(document)
    noted = good._replace(verdict=Verdict.LEVEL, note="Of 40 tests, after Holm")
    document["cards"][0]["finding"] = plain(noted)
    check(document)


def test_what_is_left_out_is_named():
    for pointer in ("/lead", "/sections/0/trust", "/cards/1/why", "/sections/0/figures/0/alt"):
        document = example()
        parts, last = pointer.rsplit("/", 1)
        del pointed(document, parts)[last]
        with pytest.raises(BadArgument, match=f"there is no `{last}`"):
            check(document)
    with pytest.raises(BadArgument, match="this is not the format"):
        check([])
    check(copy.deepcopy(example()))


# Looks


def schemes() -> dict[str, dict[str, str]]:
    css = importlib.resources.files("dynlm.report").joinpath("page.css").read_text()
    screen = css[: css.index("@media print")]
    blocks = re.findall(r"(:root[^{]*)\{([^}]*--paper[^}]*)\}", screen)
    assert len(blocks) == 3
    light, asked, chosen = ({k: v for k, v in COLOUR.findall(body)} for _, body in blocks)
    assert asked == chosen and light.keys() == chosen.keys()
    return {"light": light, "dark": chosen}


COLOUR = re.compile(r"--([\w-]+): (#[0-9a-f]{6,8});")


def luminance(colour: str) -> float:
    parts = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_in_both_schemes():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name, of in schemes().items():
        for text, ground in [
            *itertools.product(("ink", "soft", "accent"), ("paper", "sheet")),
            ("accent", "tint"),
            ("warn", "warn-tint"),
            *((f"c{k}", "paper") for k in range(1, 6)),
        ]:
            assert contrast(of[text], of[ground]) >= 4.5, (name, text, ground)


def test_a_drawing_has_the_colours_of_a_light_page():
    light = schemes()["light"]
    assert {name: light[name] for name in COLOURS} == COLOURS
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_the_style_and_the_script_are_packaged():
    for name in ("page.css", "page.js"):
        assert importlib.resources.files("dynlm.report").joinpath(name).is_file()


@pytest.mark.slow
def test_pyplot_is_left_alone(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests'); from report_example import example\n"
        "import matplotlib as mpl; from dynlm.report import write_report\n"
        "before = dict(mpl.rcParams)\n"
        f"write_report(example(), {str(tmp_path)!r})\n"
        "assert dict(mpl.rcParams) == before; print('matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.split() == ["False"], run.stderr


def test_panels_that_are_empty_are_left_out():
    spec = plain(panels())
    spec["panels"][1]["z"] = [[None] * 17] * 15
    assert len(draw(spec).svgs) == 1
