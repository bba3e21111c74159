"""What each kind of figure is drawn from."""

from collections.abc import Callable

from ._checks import Check, any_text, each, flag, name, number, number_or_none, one_of, record, text
from ._place import Place

numbers = each(number, least=1)
loose = each(number_or_none, least=1)
grid = each(loose, least=1)
texts = each(text, least=1)


def same_length(place: Place, *keys: str) -> None:
    """These lists, where they are there, are equally long."""
    first = len(place.value[keys[0]])
    for key in keys[1:]:
        if place.has(key) and len(place.value[key]) != first:
            place.at(key).wrong(
                f"`{key}` has {len(place.value[key])} items and `{keys[0]}` has {first}",
                "Make them equally long, with null for what is not there.",
            )


def shaped(place: Place, rows: str, columns: str, *grids: str) -> None:
    """These grids have a row for each of `rows` and in it an item for each of `columns`."""
    high, wide = len(place.value[rows]), len(place.value[columns])
    for key in grids:
        if not place.has(key):
            continue
        found = [len(row) for row in place.value[key]]
        if found != [wide] * high:
            widest = f"{len(found)} rows of {min(found)} to {max(found)}"
            place.at(key).wrong(
                f"`{key}` has {widest} items; `{rows}` and `{columns}` ask for {high} of {wide}",
                f"Give one row for each of `{rows}`: it may have to be transposed.",
            )


def series(place: Place) -> None:
    styles = one_of("line", "dashed", "dotted", "points", "steps")
    extra: dict[str, Check] = {"low": loose, "high": loose, "style": styles}
    record({"name": any_text, "x": numbers, "y": loose}, extra)(place)
    same_length(place, "x", "y", "low", "high")


def points(place: Place) -> None:
    record({"name": any_text, "x": loose, "y": loose})(place)
    same_length(place, "x", "y")


def bar_group(place: Place) -> None:
    record({"name": any_text, "values": loose}, {"low": loose, "high": loose})(place)
    same_length(place, "values", "low", "high")


def mark(of: str) -> Check:
    return record({of: number}, {"label": any_text})


AXES: dict[str, Check] = {"xlabel": any_text, "ylabel": any_text}
LOGS: dict[str, Check] = {"xlog": flag, "ylog": flag}
MARKS: dict[str, Check] = {"hlines": each(mark("y")), "vlines": each(mark("x"))}
OVER: dict[str, Check] = {"points": each(points), "paths": each(points)}
CURVE = record({"x": numbers, "y": loose}, {"name": any_text})

# kind: (what it needs, what it may have)
KINDS: dict[str, tuple[dict[str, Check], dict[str, Check]]] = {
    "lines": ({"series": each(series, least=1)}, AXES | LOGS | MARKS),
    "bars": ({"labels": texts, "groups": each(bar_group, least=1)}, AXES | {"null": number}),
    "scatter": ({"groups": each(points, least=1)}, AXES | LOGS | MARKS | {"diagonal": flag}),
    "heat": ({"x": numbers, "y": numbers, "z": grid}, AXES | LOGS | OVER | {"label": any_text}),
    "field": (
        {"x": numbers, "y": numbers, "u": grid, "v": grid},
        AXES | OVER | {"z": grid, "label": any_text},
    ),
    "matrix": (
        {"rows": texts, "columns": texts, "values": grid},
        AXES | {"label": any_text},
    ),
    "histogram": ({"edges": numbers, "counts": numbers}, AXES | MARKS | {"curve": CURVE}),
}


def bare_figure(place: Place, named: dict[str, Check], optional: dict[str, Check]) -> None:
    kind = place.value["kind"]
    if kind not in KINDS:
        place.at("kind").wrong("this kind is not known", f"Write one of {', '.join(KINDS)}.")
    needs, may = KINDS[kind]
    record(named | {"kind": text} | needs, optional | may)(place)
    AFTER.get(kind, lambda _: None)(place)


def bars(place: Place) -> None:
    for group in place.each("groups"):
        if len(group.value["values"]) != len(place.value["labels"]):
            group.at("values").wrong(
                f"there are {len(place.value['labels'])} labels", "Give a value for each, or null."
            )


def edged(place: Place) -> None:
    if len(place.value["edges"]) != len(place.value["counts"]) + 1:
        place.at("edges").wrong(
            f"there are {len(place.value['counts'])} counts", "Give one edge more than counts."
        )
    rising(place, "edges")


def rising(place: Place, *keys: str) -> None:
    for key in keys:
        values = place.value[key]
        if any(b <= a for a, b in zip(values, values[1:])):
            place.at(key).wrong("these numbers do not rise", f"Sort `{key}`, without repeats.")


def heat(place: Place) -> None:
    rising(place, "x", "y")
    shaped(place, "y", "x", "z")


def field(place: Place) -> None:
    rising(place, "x", "y")
    shaped(place, "y", "x", "u", "v", "z")


AFTER: dict[str, Callable[[Place], None]] = {
    "bars": bars,
    "histogram": edged,
    "heat": heat,
    "field": field,
    "matrix": lambda place: shaped(place, "rows", "columns", "values"),
}


def with_kind(place: Place) -> None:
    if not isinstance(place.value, dict) or "kind" not in place.value:
        place.wrong("there is no `kind`", f"Write one of {', '.join(KINDS)}, panels.")


def panel(place: Place) -> None:
    with_kind(place)
    bare_figure(place, {}, {"title": any_text})


def figure(place: Place) -> None:
    """A figure with its id, title, caption and what it says to those who do not see it."""
    named: dict[str, Check] = {"id": name, "title": text, "caption": text, "alt": text}
    with_kind(place)
    if place.value["kind"] == "panels":
        record(named | {"kind": text, "panels": each(panel, least=1, most=4)})(place)
    else:
        bare_figure(place, named, {})
