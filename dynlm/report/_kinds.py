"""Each kind of figure, drawn on axes. Every number drawn is taken from the document."""

import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from ._place import Place, digits

# The colours of a light page. In the SVG each becomes the CSS variable of its name, so one drawing
# serves light and dark: no two may be equal.
INK = {
    "ink": "#1b2430",
    "soft": "#57616e",
    "line": "#b9c1ca",
    "grid": "#e4e8ec",
    "paper": "#ffffff",
}
SERIES = {
    "c1": "#0b6b74",
    "c2": "#b4540a",
    "c3": "#6a4cb5",
    "c4": "#4b780f",
    "c5": "#b02e63",
    "c6": "#6c7480",
}
COLOURS = INK | SERIES
CYCLE = list(SERIES.values())
# Inside a picture no colour can follow the page: tones between those of light and of dark.
MIDDLE = dict(zip(CYCLE, "#2a9aa3 #d9782d #8f78d8 #76a530 #d65a8c #868e99".split()))
MARKERS = "osD^vX"
STYLES = {"line": "-", "dashed": (0, (5, 2)), "dotted": (0, (1.2, 1.8)), "steps": "-"}
NOTHING = "value where there is nothing"  # the legend of a null value

Axes = Any  # matplotlib stays in `_figures`


def floats(values: list, log: bool = False) -> np.ndarray:
    """An array, null as NaN, and so is what has no place on a logarithmic axis."""
    array = np.asarray(values, dtype=float)
    return np.where(array > 0, array, np.nan) if log else array


def wrapped(text: str | None, width: int) -> str:
    """Text over several lines, so that it leaves room for what is drawn."""
    return "\n".join(textwrap.wrap(text or "", width))


def height(spec: dict) -> float:
    """How high a figure of this kind is, in inches, its legend aside."""
    if spec["kind"] == "bars":
        bars = 0.14 + 0.2 * len(spec["groups"])
        return max(1.7, 0.95 + sum(max(bars, tall(label)) for label in spec["labels"]))
    if spec["kind"] == "matrix":
        across = 1.0 if tilted(spec) else max(map(tall, spec["columns"]))
        return max(2.2, 1.0 + across + sum(max(0.36, tall(name)) for name in spec["rows"]))
    return {"heat": 3.9, "field": 4.3, "scatter": 3.7}.get(spec["kind"], 3.2)


def tall(label: str) -> float:
    """How high a label is, in inches."""
    return 0.17 * (1 + wrapped(label, 24).count("\n"))


def tilted(spec: dict) -> bool:
    """Whether the columns of a matrix have names too long to stand side by side."""
    return max(map(len, spec["columns"])) * len(spec["columns"]) > 44


def lines(ax: Axes, place: Place) -> None:
    xlog, ylog = bool(place.value.get("xlog")), bool(place.value.get("ylog"))
    for k, one in enumerate(place.value["series"]):
        colour, style = CYCLE[k % 6], one.get("style") or "line"
        x, y = floats(one["x"], xlog), floats(one["y"], ylog)
        if one.get("low") and one.get("high"):
            low, high = floats(one["low"], ylog), floats(one["high"], ylog)
            if style == "points":
                bars = np.stack([y - low, high - y]).clip(0)
                ax.errorbar(x, y, bars, fmt="none", ecolor=colour, elinewidth=1.2, alpha=0.7)
            else:
                step = "post" if style == "steps" else None
                ax.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, step=step)
        look: dict[str, Any] = {"color": colour, "label": one["name"] or None}
        if style == "points" or np.isfinite(y).sum() == 1:
            ax.plot(x, y, MARKERS[k % 6], markersize=4.5, **look)
        else:
            draw = "steps-post" if style == "steps" else "default"
            marker = MARKERS[k % 6] if len(x) <= 12 and style == "line" else None
            look |= {"linestyle": STYLES[style], "marker": marker, "markersize": 4}
            ax.plot(x, y, drawstyle=draw, linewidth=1.8, **look)


def bars(ax: Axes, place: Place) -> None:
    spec = place.value
    groups, at = spec["groups"], np.arange(len(spec["labels"]), dtype=float)
    thick = 0.74 / len(groups)
    for k, one in enumerate(groups):
        values, where = floats(one["values"]), at + (k - (len(groups) - 1) / 2) * thick
        colour = CYCLE[k % 6]
        ax.barh(where, values, thick * 0.86, color=colour, alpha=0.85, label=one["name"] or None)
        if one.get("low") and one.get("high"):
            low, high = floats(one["low"]), floats(one["high"])
            ends = np.stack([values - low, high - values]).clip(0)
            ax.errorbar(values, where, xerr=ends, fmt="none", ecolor=INK["ink"], elinewidth=1.1)
    ax.axvline(0, color=INK["line"], linewidth=0.8)
    if spec.get("null") is not None:
        ax.axvline(
            spec["null"], color=INK["ink"], linewidth=1, linestyle=(0, (4, 3)), label=NOTHING
        )
    ax.set_yticks(at, [wrapped(label, 24) for label in spec["labels"]])
    ax.set_ylim(at[-1] + 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def dots(
    ax: Axes,
    groups: list[dict],
    first: int = 0,
    size: float = 14.0,
    xlog: bool = False,
    ylog: bool = False,
) -> None:
    """Points of several groups; many of them become a picture inside the drawing."""
    many = sum(len(one["x"]) for one in groups) > 500
    for k, one in enumerate(groups, start=first):
        x, y = floats(one["x"], xlog), floats(one["y"], ylog)
        ax.scatter(
            x,
            y,
            s=6 if many else size,
            c=MIDDLE[CYCLE[k % 6]] if many else CYCLE[k % 6],
            marker=MARKERS[k % 6],
            alpha=0.45 if many else 0.85,
            linewidths=0,
            rasterized=many,
            label=one["name"] or None,
        )


def scatter(ax: Axes, place: Place) -> None:
    logs = {key: bool(place.value.get(key)) for key in ("xlog", "ylog")}
    dots(ax, place.value["groups"], **logs)
    if place.value.get("diagonal"):
        ax.axline((0, 0), slope=1, color=INK["ink"], linewidth=1, linestyle=(0, (4, 3)))


def tinted(z: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colour and transparency: towards one side, or from zero to both where the sign changes.

    The page shows through what is small, so that one picture reads well on light and on dark.
    """
    up, down = (0.05, 0.52, 0.56), (0.80, 0.42, 0.10)
    if low < 0 < high:
        share = np.abs(z) / max(-low, high)
    else:
        share = np.abs(z - (low if low >= 0 else high)) / (high - low)
    below = (z < 0)[..., None]
    alpha = np.where(np.isfinite(z), 0.03 + 0.8 * share, 0.0)
    return np.concatenate([np.where(below, down, up), alpha[..., None]], axis=-1)


def mesh(ax: Axes, x: np.ndarray, y: np.ndarray, z: np.ndarray, spec: dict) -> None:
    """Colours on a plane and beside it what they mean."""
    low, high = float(np.nanmin(z)), float(np.nanmax(z))
    if low == high:
        low, high = low - 0.5, high + 0.5
    ax.pcolormesh(x, y, tinted(z, low, high), shading="nearest", rasterized=True)
    ax.grid(visible=False)
    bar = ax.inset_axes((1.03, 0, 0.035, 1))
    steps = np.linspace(low, high, 65)
    middle = (steps[:-1] + steps[1:])[:, None] / 2
    bar.pcolormesh([0, 1], steps, tinted(middle, low, high), rasterized=True)
    bar.set(xticks=[], ylabel=wrapped(spec.get("label"), 34))
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.grid(visible=False)
    bar.spines[:].set_visible(False)


def over(ax: Axes, spec: dict) -> None:
    """Paths and points over a plane."""
    for k, one in enumerate(spec.get("paths") or []):
        look: dict[str, Any] = {"color": CYCLE[(k + 1) % 6], "label": one["name"] or None}
        ax.plot(floats(one["x"]), floats(one["y"]), linewidth=1.4, alpha=0.9, **look)
    dots(ax, spec.get("points") or [], first=1, size=42.0)


def heat(ax: Axes, place: Place) -> None:
    spec = place.value
    mesh(ax, floats(spec["x"]), floats(spec["y"]), floats(spec["z"]), spec)
    over(ax, spec)


def field(ax: Axes, place: Place) -> None:
    spec = place.value
    x, y, u, v = (floats(spec[key]) for key in "xyuv")
    if spec.get("z"):
        mesh(ax, x, y, floats(spec["z"]), spec)
    i, j = (slice(None, None, -(-len(axis) // 20)) for axis in (y, x))  # arrows that can be seen
    look: dict[str, Any] = {"angles": "xy", "pivot": "mid", "width": 0.0036, "color": INK["ink"]}
    ax.quiver(x[j], y[i], u[i, j], v[i, j], alpha=0.75, **look)
    over(ax, spec)


def matrix(ax: Axes, place: Place) -> None:
    spec, values = place.value, floats(place.value["values"])
    across, down = np.arange(len(spec["columns"])), np.arange(len(spec["rows"]))
    mesh(ax, across, down, values, spec)
    tilt = 40 if tilted(spec) else 0
    names = [wrapped(name, 24) for name in spec["columns"]]
    ax.set_xticks(across, names, rotation=tilt, ha="right" if tilt else "center")
    ax.set_yticks(down, [wrapped(name, 24) for name in spec["rows"]])
    ax.set_ylim(down[-1] + 0.5, -0.5)
    ax.tick_params(length=0)
    if values.size <= 64 and len(across) <= 8:
        for row in place.each("values"):
            for j, cell in enumerate(row.each()):
                if cell.value is not None:  # `_figures` makes the pointer an attribute
                    i = int(row.path.rsplit("/", 1)[1])
                    look = {"ha": "center", "va": "center", "fontsize": 9}
                    text = ax.text(j, i, digits(cell.value), **look)
                    text.set_gid("number:" + cell.path)


def histogram(ax: Axes, place: Place) -> None:
    spec = place.value
    ax.stairs(floats(spec["counts"]), floats(spec["edges"]), fill=True, color=CYCLE[0], alpha=0.55)
    curve = spec.get("curve")
    if curve:
        look: dict[str, Any] = {"color": CYCLE[1], "label": curve.get("name") or None}
        ax.plot(floats(curve["x"]), floats(curve["y"]), linewidth=1.8, **look)


def marks(ax: Axes, spec: dict) -> None:
    """Lines across: values to compare with."""
    for key, draw, of in (("hlines", ax.axhline, "y"), ("vlines", ax.axvline, "x")):
        for k, one in enumerate(spec.get(key) or []):
            style = (0, (4, 3)) if k == 0 else (0, (1.5, 2))
            label = one.get("label") or None
            draw(one[of], color=INK["ink"], linewidth=1, linestyle=style, label=label)


DRAW: dict[str, Callable[[Axes, Place], None]] = {
    "lines": lines,
    "bars": bars,
    "scatter": scatter,
    "heat": heat,
    "field": field,
    "matrix": matrix,
    "histogram": histogram,
}


def has_numbers(spec: dict) -> bool:
    """Whether anything of it can be drawn."""
    of = {"lines": ("series", "y"), "bars": ("groups", "values"), "scatter": ("groups", "y")}
    if spec["kind"] in of:
        many, key = of[spec["kind"]]
        log = bool(spec.get("ylog"))
        return any(np.isfinite(floats(one[key], log)).any() for one in spec[many])
    key = {"heat": "z", "field": "u", "matrix": "values", "histogram": "counts"}[spec["kind"]]
    return bool(np.isfinite(floats(spec[key])).any())


def left_out(spec: dict) -> bool:
    """Whether a value that is not positive has no place on a logarithmic axis."""
    many = spec.get("series") or spec.get("groups") or []
    logs = [key for key in "xy" if spec.get(key + "log")]
    values = [v for key in logs for one in many for v in one[key]]
    return any(v is not None and v <= 0 for v in values)
