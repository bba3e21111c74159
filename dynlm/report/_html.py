"""HTML from places: text and numbers that carry the pointer to where they stand in the JSON."""

import html

from ._place import Place, digits, is_number

VERDICTS = {
    "above": ("▲", "above its null value"),
    "below": ("▼", "below its null value"),
    "level": ("≈", "not told apart from null"),
    "stated": ("·", "stated, not tested"),
    "withheld": ("○", "withheld"),
}


def escaped(text: str) -> str:
    return html.escape(text, quote=True)


def words(place: Place, tag: str = "span", **attributes: str) -> str:
    """A string of the document; `data-text` says which."""
    more = "".join(f' {k.rstrip("_")}="{escaped(v)}"' for k, v in attributes.items())
    return f'<{tag} data-text="{escaped(place.path)}"{more}>{escaped(place.value)}</{tag}>'


def number(place: Place) -> str:
    """A number of the document: three digits to read, all of them in `data-value`."""
    value, path = repr(place.value), escaped(place.path)
    more = f'data-path="{path}" data-value="{value}"'
    return f'<data value="{value}" {more}>{digits(place.value)}</data>'


def value(place: Place) -> str:
    """A string, a number, an interval or nothing."""
    if place.value is None:
        return '<span class="none">none</span>'
    if isinstance(place.value, dict):
        between = interval(place)
        return value(place.at("value")) + (f" {between}" if between else "")
    return number(place) if is_number(place.value) else words(place)


def interval(place: Place) -> str:
    """Its two ends, in brackets, or nothing where it has none."""
    if place.value["low"] is None or place.value["high"] is None:
        return ""
    low, high = number(place.at("low")), number(place.at("high"))
    return f'<span class="interval">[{low}, {high}]</span>'


def with_unit(place: Place) -> str:
    """The estimate of a finding and what it is counted in."""
    text = value(place.at("value"))
    return text + (" " + words(place.at("unit"), class_="unit") if place.has("unit") else "")


def null(place: Place) -> str:
    """The null value of a finding and what it is of."""
    if place.value["null"] is None:
        return '<span class="none">none</span>'
    text = number(place.at("null"))
    return text + (" " + words(place.at("of_null"), class_="of") if place.has("of_null") else "")


def badge(verdict: str) -> str:
    """A verdict in words; its sign and colour only repeat them."""
    sign, text = VERDICTS[verdict]
    return f'<span class="badge {verdict}"><span aria-hidden="true">{sign}</span> {text}</span>'


def strip(place: Place) -> str:
    """The interval as a line, its estimate as a dot and its null value as a tick."""
    found = place.value
    ends = [found[key] for key in ("low", "high")]
    if None in ends or found["null"] is None:
        return ""
    least, most = min(*ends, found["null"]), max(*ends, found["null"])
    wide = (most - least) or 1.0
    low, high, dot, zero = (
        round(6 + 108 * (found[key] - least) / wide, 1) for key in ("low", "high", "value", "null")
    )
    return (
        f'<svg class="strip {found["verdict"]}" viewBox="0 0 120 16" aria-hidden="true">'
        f'<line class="axis" x1="0" x2="120" y1="8" y2="8"/>'
        f'<line class="null" x1="{zero}" x2="{zero}" y1="1" y2="15"/>'
        f'<line class="range" x1="{low}" x2="{high}" y1="8" y2="8"/>'
        f'<circle cx="{dot}" cy="8" r="3.6"/></svg>'
    )
