"""The page: one HTML file with all in it."""

from importlib import resources
from typing import Any

from ._figures import Drawn
from ._html import badge, escaped, interval, null, number, strip, value, with_unit, words
from ._place import Place, is_number

MARKS = {
    "read": "read in the paper",
    "told": "told in summaries of the paper",
    "ours": "our reconstruction",
}
NO_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def page(results: dict[str, Any], drawn: dict[str, Drawn]) -> str:
    """The page of a checked document; `drawn` has a drawing for the id of every figure."""
    root = Place(results)
    parts = [section(one, drawn) for one in root.each("sections")]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{NO_POLICY}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escaped(results["title"])}</title>
<style>
{packaged("page.css")}</style>
</head>
<body>
<a class="skip" href="#content">To the findings</a>
<header class="top">
<div class="bar"><span class="maker">dynlm report</span>
<button type="button" id="scheme" hidden>Dark</button></div>
{words(root.at("title"), "h1")}
{words(root.at("lead"), "p", class_="lead")}
</header>
<div class="body">
{contents(root)}
<main id="content">
{cards(root)}
{"".join(parts)}
{budget(root)}
{facts(root)}
</main>
</div>
<footer>
{words(root.at("marks"), "p") if root.has("marks") else ""}
<p>Every number of this page stands, with all its digits, in <code>results.json</code>, and every
figure as PNG in the folder <code>figures</code>. Page and figures need no network.</p>
</footer>
<dialog id="enlarged" aria-labelledby="enlarged-title">
<div class="head"><h2 id="enlarged-title"></h2><button type="button">Close</button></div>
<div class="canvas"></div><p class="caption"></p>
</dialog>
<script>
{packaged("page.js")}</script>
</body>
</html>
"""


def packaged(name: str) -> str:
    """A file that lies beside this one."""
    return resources.files(__name__.rpartition(".")[0]).joinpath(name).read_text(encoding="utf-8")


def contents(root: Place) -> str:
    links = [
        f'<li><a href="#{one.value["id"]}">{words(one.at("title"))}</a></li>'
        for one in root.each("sections")
    ]
    extra = (("budget", "Time and compilation"), ("facts", "Facts of this run"))
    links += [f'<li><a href="#of-{key}">{text}</a></li>' for key, text in extra if root.has(key)]
    if not links:
        return ""
    return f'<nav aria-label="Contents"><h2>Contents</h2><ol>{"".join(links)}</ol></nav>'


def cards(root: Place) -> str:
    if not root.has("cards"):
        return ""
    each = "".join(card(one) for one in root.each("cards"))
    return f"""<section class="figures-that-matter" aria-labelledby="of-cards">
<h2 id="of-cards">The figures that matter</h2>
<div class="cards">{each}</div>
</section>
"""


def card(place: Place) -> str:
    found = place.at("finding")
    verdict = found.value["verdict"]
    if verdict == "withheld":
        big, beside = (
            '<p class="big none">withheld</p>',
            words(found.at("note"), "p", class_="note"),
        )
    else:
        big = f'<p class="big">{with_unit(found)}</p>'
        against = f" beside {null(found)}" if found.value["null"] is not None else ""
        between = interval(found) + against
        beside = f'<p class="beside">{between}</p>' if between else ""
        beside += strip(found)
    return f"""<article class="card">
{words(place.at("label"), "h3")}
{big}
{words(found.at("what"), "p", class_="what")}
{beside}
<p>{badge(verdict)}</p>
{words(place.at("why"), "p", class_="why")}
</article>
"""


def section(place: Place, drawn: dict[str, Drawn]) -> str:
    mark = place.value.get("mark")
    head = f' <span class="mark">{MARKS[mark]}</span>' if mark else ""
    found = "".join(words(one, "li") for one in place.each("found"))
    inner = f'<h3>What was found</h3><ul class="found">{found}</ul>' if found else ""
    if place.has("error"):
        why = words(place.at("error"), "span")
        inner += f'<p class="error"><strong>This part could not be done.</strong> {why}</p>'
    inner += f"<h3>How far to trust it</h3>{words(place.at('trust'), 'p', class_='trust')}"
    figures = "".join(figure(one, drawn[one.value["id"]]) for one in place.each("figures"))
    inner += f'<div class="figures">{figures}</div>' if figures else ""
    inner += findings(place) + "".join(table(one) for one in place.each("tables"))
    id = place.value["id"]
    return f"""<section id="{id}" aria-labelledby="of-{id}">
<h2 id="of-{id}">{words(place.at("title"))}{head}</h2>
<h3>What was asked</h3>{words(place.at("asked"), "p", class_="asked")}
{inner}
</section>
"""


def figure(place: Place, drawn: Drawn) -> str:
    title, caption = words(place.at("title"), "h4"), words(place.at("caption"))
    if not drawn.svgs:
        why = '<p class="error">There is nothing to draw: every value is none.</p>'
        return f"<figure>{title}{why}<figcaption>{caption}</figcaption></figure>"
    note = " Values that are not positive have no place on a logarithmic axis and are left out."
    wide = " wide" if len(drawn.svgs) > 1 else ""
    label = escaped(place.value["alt"])
    return f"""<figure id="figure-{place.value["id"]}" class="drawn{wide}">
<div class="head">{title}<button type="button" class="enlarge" hidden>Enlarge</button></div>
<div class="canvas" role="img" aria-label="{label}">{"".join(drawn.svgs)}</div>
<figcaption>{caption}{note if drawn.left_out else ""}</figcaption>
</figure>
"""


def findings(place: Place) -> str:
    """Estimates, intervals, null values and verdicts of a section."""
    if not place.has("findings"):
        return ""
    rows = []
    for one in place.each("findings"):
        note = words(one.at("note"), "p", class_="note") if one.has("note") else ""
        cells = [
            f'<th scope="row"{key(one.at("what"))}>{words(one.at("what"))}{note}</th>',
            f'<td class="number"{key(one.at("value"))}>{with_unit(one)}</td>',
            f'<td class="number"{key(one.at("low"))}>{interval(one) or NONE}</td>',
            f'<td class="number"{key(one.at("null"))}>{null(one)}</td>',
            f"<td{key(one.at('verdict'))}>{strip(one)}{badge(one.value['verdict'])}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    with_ends = [one for one in place.each("findings") if one.value["low"] is not None]
    level = f"; intervals at level {number(with_ends[0].at('level'))}" if with_ends else ""
    same = len({one.value["level"] for one in with_ends}) == 1
    names = ["finding", "value", "interval", "null value", "verdict"]
    return scrolled(f"Findings{level if same else ''}", [escaped(n) for n in names], rows)


NONE = '<span class="none">none</span>'


def table(place: Place) -> str:
    rows = []
    for row in place.each("rows"):
        cells = [
            f"<td{key(one)}{'' if isinstance(one.value, str) else NUMERIC}>{value(one)}</td>"
            for one in row.each()
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    note = words(place.at("note"), "p", class_="note") if place.has("note") else ""
    names = [words(one) for one in place.each("columns")]
    return scrolled(words(place.at("title")), names, rows) + note


NUMERIC = ' class="number"'


def key(place: Place) -> str:
    """What a cell is sorted by: a number as a number; nothing goes last."""
    found = place.value["value"] if isinstance(place.value, dict) else place.value
    return "" if found is None else f' data-sort="{escaped(str(found))}"'


def scrolled(caption: str, names: list[str], rows: list[str]) -> str:
    """A table that is sorted by its heads and scrolls in a box of its own."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{one}</button></th>'
        for one in names
    )
    body = "".join(rows) or f'<tr><td colspan="{len(names)}">There are no rows.</td></tr>'
    box = 'class="scroll" tabindex="0" role="group" aria-label="Table, scrolls sideways"'
    return f"""<div {box}><table>
<caption>{caption}</caption>
<thead><tr>{heads}</tr></thead>
<tbody>{body}</tbody>
</table></div>
"""


def budget(root: Place) -> str:
    if not root.has("budget"):
        return ""
    names = {
        "stage": "stage",
        "seconds": "seconds",
        "compiled": "programs compiled",
        "compile_seconds": "seconds compiling",
    }
    rows = []
    for one in root.each("budget"):
        cells = [one.at(field) for field in names]
        row = [f"<td{key(c)}{NUMERIC if is_number(c.value) else ''}>{value(c)}</td>" for c in cells]
        rows.append(f"<tr>{''.join(row)}</tr>")
    inner = scrolled("Each stage of the run", list(names.values()), rows)
    head = '<h2 id="of-budget">Time and compilation</h2>'
    return f'<section aria-labelledby="of-budget">{head}{inner}</section>'


def facts(root: Place) -> str:
    if not root.has("facts"):
        return ""
    pairs = "".join(
        f'<div><dt data-key="{escaped(one.path)}">{escaped(name)}</dt><dd>{value(one)}</dd></div>'
        for name, one in zip(root.value["facts"], root.each("facts"))
    )
    head = '<h2 id="of-facts">Facts of this run</h2>'
    return f'<section aria-labelledby="of-facts">{head}<dl>{pairs}</dl></section>'
