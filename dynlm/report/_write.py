"""Writing a report: the page last, so that what it names is there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._io import BadArgument, write_atomic
from ..analysis.findings import plain
from ._figures import draw
from ._page import page
from ._place import Place
from ._schema import check


def write_report(results: Mapping[str, Any] | str | Path, folder: str | Path) -> Path:
    """Writes `report.html`, `figures/*.png` and `results.json` and returns the page's path.

    Args:
        results: A document in the format `dynlm-report-1`, or the path of a JSON file with one.
            In a mapping, findings, arrays and named tuples are made plain, and what is not finite
            becomes null.
        folder: Where to write; files of the same names are replaced, each at once.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadArgument(f"`folder` is the file {folder}. Name a folder, or one to be made.")
    given = isinstance(results, Mapping)
    document = plain(dict(results)) if given else read(Path(results))
    check(document)
    drawn = {}
    for place in (f for s in Place(document).each("sections") for f in s.each("figures")):
        drawn[place.value["id"]] = one = draw(place.value, place.path)
        if one.png:
            write_atomic(folder / "figures" / f"{place.value['id']}.png", one.png)
    if given:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)
        write_atomic(folder / "results.json", text.encode() + b"\n")
    write_atomic(folder / "report.html", page(document, drawn).encode())
    return folder / "report.html"


def read(path: Path) -> Any:
    """A JSON file."""
    if not path.is_file():
        raise BadArgument(f"`results` is {path}, and no file is there. Name a results.json.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadArgument(
            f"`results` is {path}, which is no JSON: {error}. Write it anew."
        ) from None
