"""Makes the picture of a report on the page `reports.md`: needs Chromium."""

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from chromium import Chromium  # noqa: E402
from report_example import example  # noqa: E402

from dynlm.report import write_report  # noqa: E402


def main(target: Path = ROOT / "docs/_static/analysis/report_page.png") -> None:
    document = example() | {"title": "An example of a report"}
    document["sections"] = document["sections"][:1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = write_report(document, folder)
        browser = Chromium(folder / "profile")
        parts = []
        for wide, dark in ((1180, False), (390, True)):
            browser.open(page, wide, 1000, dark=dark)
            browser.picture(folder / "part.png", whole=False)
            parts.append(Image.open(folder / "part.png").convert("RGB"))
        browser.close()
    both = Image.new("RGB", (sum(p.width for p in parts) + 20, 1000), "#8a929b")
    both.paste(parts[0], (0, 0))
    both.paste(parts[1], (parts[0].width + 20, 0))
    both.resize((both.width * 3 // 4, 750)).quantize(
        64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(target, optimize=True)


if __name__ == "__main__":
    main()
