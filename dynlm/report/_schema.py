"""What a report is made of: the format `dynlm-report-1`, checked before anything is drawn."""

from collections.abc import Sequence
from typing import Any

from ..analysis.findings import Finding, Verdict
from ._checks import Check, any_text, each, name, number, number_or_none, one_of, record, text
from ._figure_schema import figure
from ._place import Place

FORMAT = "dynlm-report-1"


def check(results: Any) -> None:
    """Raises `BadArgument` where `results` is no report, with the place and what to do there."""
    root = Place(results)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        found = results.get("format") if isinstance(results, dict) else type(results).__name__
        Place(found, "/format").wrong(f"this is not the format {FORMAT!r}", f"Write {FORMAT!r}.")
    _report(root)
    _unique([s.at("id") for s in root.each("sections")])
    _unique([f.at("id") for s in root.each("sections") for f in s.each("figures")])


def _unique(ids: Sequence[Place]) -> None:
    seen = set()
    for place in ids:
        if place.value in seen:
            place.wrong("this id stands here a second time", "Give each its own id.")
        seen.add(place.value)


_FINDING = record(
    {"what": text, "value": number_or_none, "verdict": one_of(*(v.value for v in Verdict))}
    | {key: number_or_none for key in ("low", "high", "null")}
    | {key: any_text for key in ("unit", "of_null", "note")}
    | {"level": number, "sentence": text}
)


def finding(place: Place) -> None:
    """A `Finding.to_json()` whose verdict and sentence are what its numbers say."""
    _FINDING(place)
    do = "Make it with `dynlm.analysis.findings` and do not change it."
    fields: dict[str, Any] = {k: v for k, v in place.value.items() if k != "sentence"}
    fields["verdict"] = Verdict(fields["verdict"])
    found = Finding(**fields)
    if (found.value is None) != (found.verdict is Verdict.WITHHELD):
        place.at("value").wrong("a value is none if, and only if, it is withheld", do)
    if found.beyond or found.verdict is Verdict.LEVEL:
        low, high, null = found.low, found.high, found.null
        tested = found.note and low is None and high is None  # by a test that has no interval
        if null is None or not tested and (low is None or high is None):
            need = "a verdict needs an interval, or a note that names its test, and a null value"
            place.at("verdict").wrong(need, do)
        if low is None or high is None:
            says = found.verdict.value
        else:
            says = "above" if low > null else "below" if high < null else "level"
        careful = found.verdict is Verdict.LEVEL and found.note  # as after many tests
        if says != found.verdict.value and not careful:
            place.at("verdict").wrong(f"its interval says {says!r}", do)
    if place.value["sentence"] != found.sentence():
        place.at("sentence").wrong("this is not what its numbers say", do)


def cell(place: Place) -> None:
    """Of a table: a string, a number, null, or an interval."""
    if isinstance(place.value, dict):
        record({key: number_or_none for key in ("value", "low", "high")})(place)
    elif not isinstance(place.value, str):
        number_or_none(place)


def table(place: Place) -> None:
    row: Check = each(cell)
    fields: dict[str, Check] = {"title": text, "columns": each(text, least=1), "rows": each(row)}
    record(fields, {"note": any_text})(place)
    for row_place in place.each("rows"):
        if len(row_place.value) != len(place.value["columns"]):
            row_place.wrong("a row has as many cells as there are columns", "Fill it up with null.")


def section(place: Place) -> None:
    record(
        {"id": name, "title": text, "asked": text, "found": each(text), "trust": text}
        | {"findings": each(finding), "tables": each(table), "figures": each(figure)},
        {"mark": one_of("read", "told", "ours"), "error": text},
    )(place)
    if not any(place.has(key) for key in ("found", "findings", "tables", "figures", "error")):
        place.wrong("nothing stands in this section", "Say in `error` why, or leave it out.")


def fact(place: Place) -> None:
    if not isinstance(place.value, str):
        number(place)


def facts(place: Place) -> None:
    if not isinstance(place.value, dict):
        place.wrong("a dict is needed", "Give names with a string or a number each.")
    for item in place.each():
        fact(item)


def card(place: Place) -> None:
    record({"label": text, "finding": finding, "why": text})(place)


def stage(place: Place) -> None:
    record({"stage": text, "seconds": number, "compiled": number, "compile_seconds": number})(place)


_report = record(
    {"format": text, "title": text, "lead": text}
    | {"cards": each(card, most=8), "sections": each(section)},
    {"marks": any_text, "budget": each(stage), "facts": facts},
)
