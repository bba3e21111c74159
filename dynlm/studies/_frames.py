"""The parts of a results document: sections, tables and figures, as plain values."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._io import BadArgument
from ..analysis.findings import Finding, plain
from ..predict._table import Failure
from ..stats import Interval

SENTENCES = 6  # of findings that are said at once; all of them stand in their table
POINTS = 400  # of a line, or groups of a cloud, that are drawn at most


def section(
    id: str,
    title: str,
    asked: str,
    trust: str,
    *,
    findings: Sequence[Finding] = (),
    found: Sequence[str] = (),
    tables: Sequence[dict[str, Any]] = (),
    figures: Sequence[dict[str, Any]] = (),
    mark: str | None = None,
    most: int = SENTENCES,
) -> dict[str, Any]:
    """A section; what was found are sentences of the first findings, after those of `found`."""
    document = {
        "id": id,
        "title": title,
        "asked": asked,
        "found": [*found, *(one.sentence() for one in findings[:most])],
        "trust": trust,
        "findings": plain(list(findings)),
        "tables": plain(list(tables)),
        "figures": plain(list(figures)),
    }
    return document | ({} if mark is None else {"mark": mark})


def guarded(id: str, title: str, asked: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A section, or one that says why there is none: the others stand."""
    return guarded_all(id, title, asked, lambda: [make()])[0]


def guarded_all(
    id: str, title: str, asked: str, make: Callable[[], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Sections, or one that says why there are none."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - what failed late must not lose what took hours
        trust = "Nothing follows from this section."
        why = str(error) if isinstance(error, BadArgument) else f"{type(error).__name__}: {error}"
        one = section(id, title, asked or "This was not answered.", trust)
        return [one | {"error": why}]


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = ""
) -> dict[str, Any]:
    """A table; a cell may be a text, a number, nothing, or a number with its interval."""
    made = {"title": title, "columns": list(columns), "rows": [[cell(x) for x in r] for r in rows]}
    return made | ({"note": note} if note else {})


def cell(x: Any) -> Any:
    """What stands in a cell."""
    if isinstance(x, Interval):
        return plain({"value": x.value, "low": x.low, "high": x.high})
    if isinstance(x, Finding):
        return plain({"value": x.value, "low": x.low, "high": x.high})
    if isinstance(x, Failure):
        return f"none ({x.reason})"
    return plain(x)


def some_points(*columns: np.ndarray, most: int = POINTS, seed: int = 0) -> list[np.ndarray]:
    """The same rows of each, at most so many, drawn once."""
    count = len(columns[0])
    if count <= most:
        return [np.asarray(x) for x in columns]
    kept = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
    return [np.asarray(x)[kept] for x in columns]
