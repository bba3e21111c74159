"""What is wrong with a report that a command made; looked at in Chromium, if that is there.

    python tests/made_report.py dynlm-demo 480

prints it, and fails where there is anything, or where the stages took more seconds than that.
"""

import json
import sys
import tempfile
from pathlib import Path

from chromium import CHROMIUM, Chromium
from report_page import parsed, pointed

# Whether siblings, or texts of a drawing, stand on each other; and what is empty or too wide.
CHECKS = """(() => {
  const seen = (e) => e.getClientRects().length && getComputedStyle(e).visibility !== "hidden";
  const on = (a, b) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    return wide > 1.5 && high > 1.5;
  };
  const say = (e) => `${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 40)}`;
  const overlaps = [], empty = [], wide = [];
  const inSvg = (e) => e.closest("svg") && e.tagName !== "svg";
  for (const parent of document.querySelectorAll("body, body *")) {
    if (inSvg(parent) || parent.tagName === "svg" || parent.closest("dialog")) continue;
    const kids = [...parent.children].filter((e) => seen(e) && !e.matches(".skip, .enlarge + *"));
    for (let i = 0; i < kids.length; i++)
      for (let j = i + 1; j < kids.length; j++)
        for (const a of kids[i].getClientRects())  // words may go over several lines
          for (const b of kids[j].getClientRects())
            if (on(a, b)) overlaps.push(say(kids[i]) + " / " + say(kids[j]));
  }
  for (const svg of document.querySelectorAll(".canvas svg")) {
    const texts = [...svg.querySelectorAll("text")];
    const boxes = texts.map((e) => e.getBoundingClientRect());
    const frame = svg.getBoundingClientRect();
    for (let i = 0; i < texts.length; i++) {
      if (boxes[i].left < frame.left - 2 || boxes[i].right > frame.right + 2)
        wide.push("text " + say(texts[i]));
      for (let j = i + 1; j < texts.length; j++)
        if (on(boxes[i], boxes[j])) overlaps.push(say(texts[i]) + " / " + say(texts[j]));
    }
    if (frame.width < 200 || frame.height < 100 || texts.length < 3) empty.push(say(svg));
  }
  for (const e of document.querySelectorAll("td, th, .card, .card *, main h2, main p, li, dt, dd"))
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) wide.push("inside " + say(e));
  const filled = "main section, figure, .card, table, td, th, li, h1, h2, h3, h4, nav, footer, dd";
  for (const e of document.querySelectorAll(filled))
    if (!e.closest("dialog") && (!seen(e) || !e.textContent.trim())) empty.push(say(e));
  for (const e of document.querySelectorAll("body *"))
    if (!e.closest(".scroll") && !e.matches(".skip") && seen(e)
        && e.getBoundingClientRect().right > innerWidth + 1) wide.push(say(e));
  return { overlaps, empty, wide, page: document.documentElement.scrollWidth, window: innerWidth };
})()"""


def faults(folder: Path) -> list[str]:
    """Sections that failed, numbers that are not the JSON's, and what a browser complains of."""
    results = json.loads((folder / "results.json").read_text())
    found = [f"{one['id']}: {one['error']}" for one in results["sections"] if "error" in one]
    numbers = parsed((folder / "report.html").read_text()).all(having="data-value")
    for one in numbers:
        value, path = one.attributes["data-value"], one.attributes["data-path"]
        if float(value) != pointed(results, path):
            found.append(f"{path} is {value} on the page and {pointed(results, path)} in the JSON")
    if len(numbers) < 500:
        found.append(f"the page has {len(numbers)} numbers")
    return found + (seen(folder / "report.html") if CHROMIUM else [])


def seen(page: Path) -> list[str]:
    """In a browser, on a phone and on a desk: what overlaps, is empty or too wide, or fails."""
    found = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Chromium(Path(folder))
        try:
            for wide in (390, 1280):
                browser.open(page, wide)
                one = browser.run(CHECKS)
                found += [f"{wide}: {k} {x}" for k in ("overlaps", "empty", "wide") for x in one[k]]
                if one["page"] != wide:
                    found.append(f"{wide}: the page is {one['page']} wide")
                found += [f"{wide}: {x}" for x in (*browser.complaints(), *browser.requests())]
        finally:
            browser.close()
    return found


if __name__ == "__main__":
    where, most = Path(sys.argv[1]), float(sys.argv[2])
    budget = json.loads((where / "results.json").read_text())["budget"]
    seconds, programs = (sum(one[key] for one in budget) for key in ("seconds", "compiled"))
    wrong = faults(where)
    print(f"{seconds:.0f} s, {programs} programs", *wrong, sep="\n")
    sys.exit(bool(wrong) or seconds > most)
