"""Makes the picture of the README from the folder of a finished demo: needs Chromium."""

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from chromium import Chromium  # noqa: E402

WIDE, HIGH, GAP = 1180, 1500, 16
BOX = "(r => [r.top, r.bottom])({}.getBoundingClientRect())"


def main(folder: Path, target: Path = ROOT / "docs/_static/demo.png") -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        browser = Chromium(scratch / "profile")
        browser.open(folder / "report.html", WIDE, HIGH)

        def part(element: str, from_top: bool = False) -> Image.Image:
            found = f"document.querySelector('{element}')"
            browser.run(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
            if from_top:
                browser.run("window.scrollTo({top: 0, behavior: 'instant'})")
            top, bottom = browser.run(BOX.replace("{}", found))
            browser.picture(scratch / "part.png", whole=False)
            box = (0, 0 if from_top else top - GAP, WIDE, bottom + GAP)
            return Image.open(scratch / "part.png").convert("RGB").crop(box)

        parts = [part("section.figures-that-matter", from_top=True)]
        browser.run("document.querySelector('nav').style.visibility = 'hidden'")
        parts.append(part("#figure-plane"))
        browser.close()
    high = sum(p.height for p in parts)
    both = Image.new("RGB", (WIDE, high))
    for k, one in enumerate(parts):
        both.paste(one, (0, sum(p.height for p in parts[:k])))
    both.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        target, optimize=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
