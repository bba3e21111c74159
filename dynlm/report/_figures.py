"""Figures drawn once: as SVG whose colours the page decides, and as PNG.

The only module that knows matplotlib. It keeps no figure of its own and never meets pyplot.
"""

import io
import re
import warnings
from typing import Any, NamedTuple, final

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from . import _kinds as kinds
from ._kinds import COLOURS, CYCLE, INK
from ._place import Place

WIDTH = 5.0  # inches; small, so that the text is readable where a figure fills a phone
DPI = 130  # of the PNG, and of pictures inside the SVG
HEAVY = 250_000  # characters of an SVG above which its curves become a picture

STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "text.color": INK["ink"],
    "axes.labelcolor": INK["soft"],
    "axes.edgecolor": INK["line"],
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.prop_cycle": cycler(color=CYCLE),
    "grid.color": INK["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": INK["line"],
    "ytick.color": INK["line"],
    "xtick.labelcolor": INK["soft"],
    "ytick.labelcolor": INK["soft"],
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": INK["paper"],
    "svg.fonttype": "none",  # text stays text
}


@final
class Drawn(NamedTuple):
    """A figure.

    Args:
        svgs: One for each panel; none where there was nothing to draw.
        png: All panels in a row, light.
        left_out: Whether values had no place on a logarithmic axis.
    """

    svgs: tuple[str, ...]
    png: bytes
    left_out: bool


def draw(figure: dict[str, Any], path: str = "") -> Drawn:
    """Draws a figure of a checked document; `path` is its JSON pointer there."""
    place = Place(figure, path)
    panels = list(place.each("panels")) if figure["kind"] == "panels" else [place]
    svgs, pictures = [], []
    with mpl.rc_context(STYLE), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page has it
        tallest = max(kinds.height(panel.value) for panel in panels)
        for k, panel in enumerate(panels):
            if not kinds.has_numbers(panel.value):
                continue
            name = f"{figure.get('id', 'figure')}-{k}"
            one = made(panel, tallest, titled=figure["kind"] == "panels")
            pictures.append(pixels(one))
            svgs.append(svg(one, name, panel))
    about = {"Title": figure.get("title", ""), "Description": figure.get("caption", "")}
    dropped = any(kinds.left_out(panel.value) for panel in panels)
    return Drawn(tuple(svgs), png(pictures, about), dropped)


def made(place: Place, tall: float, titled: bool) -> Figure:
    """A matplotlib figure with all there is to see."""
    spec = place.value
    fig = Figure(figsize=(WIDTH, tall), dpi=DPI, layout="constrained")
    ax = fig.add_subplot()
    kinds.DRAW[spec["kind"]](ax, place)
    kinds.marks(ax, spec)
    for axis, log in ((ax.xaxis, spec.get("xlog")), (ax.yaxis, spec.get("ylog"))):
        named = spec["kind"] == "matrix" or (spec["kind"] == "bars" and axis is ax.yaxis)
        scaled(axis, bool(log), named)
    for child in ax.child_axes:
        scaled(child.yaxis, False, False)
    ax.set_xlabel(kinds.wrapped(spec.get("xlabel"), 50))
    ax.set_ylabel(kinds.wrapped(spec.get("ylabel"), 34))
    if titled:
        ax.set_title(kinds.wrapped(spec.get("title"), 46))
    entries = sorted(zip(*ax.get_legend_handles_labels()), key=lambda e: e[1] == kinds.NOTHING)
    if entries:
        handles = [handle for handle, _ in entries]
        names = [kinds.wrapped(name, 50) for _, name in entries]
        columns = max(1, min(len(names), 58 // (max(map(len, names)) + 5)))
        where = "outside lower left" if titled else "outside upper left"
        fig.legend(handles, names, loc=where, ncols=columns)
        rows = sum(1 + name.count("\n") for name in names) / columns
        fig.set_figheight(tall + 0.19 * max(0.0, rows - 1))
    return fig


def scaled(axis: Any, log: bool, named: bool) -> None:
    """Ticks in plain numbers."""
    if log:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        low, high = axis.get_view_interval()
        if low > 0 and high / low < 100:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    if not named:
        axis.set_major_formatter(FuncFormatter(lambda x, _: tick(x)))


def tick(x: float) -> str:
    """A number at an axis."""
    if abs(x) < 1e-12:
        return "0"
    text = f"{x:.6g}" if 1e-3 <= abs(x) < 1e5 else f"{x:.3g}"
    return re.sub(r"e([+-])0*(\d+)", lambda m: "e" + m[1].strip("+") + m[2], text).replace("-", "−")


def pixels(fig: Figure) -> np.ndarray:
    """The figure on white paper; also settles where everything stands."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    fig.set_layout_engine("none")
    return np.asarray(canvas.buffer_rgba()).copy()


def png(pictures: list[np.ndarray], about: dict[str, str]) -> bytes:
    """Pictures in a row, equally high."""
    if not pictures:
        return b""
    high = max(len(picture) for picture in pictures)
    level = [np.pad(p, ((0, high - len(p)), (0, 0), (0, 0)), constant_values=255) for p in pictures]
    out = io.BytesIO()
    imsave(out, np.concatenate(level, axis=1), format="png", dpi=DPI, metadata=about)
    return out.getvalue()


def svg(fig: Figure, name: str, place: Place) -> str:
    """The figure with CSS variables for colours and with ids of its own."""
    text = raw_svg(fig, name)
    if len(text) > HEAVY:
        for artist in [*fig.axes[0].lines, *fig.axes[0].collections]:
            artist.set_rasterized(True)
        for line in fig.axes[0].lines:
            line.set_color(kinds.MIDDLE.get(str(line.get_color()), kinds.INK["soft"]))
        text = raw_svg(fig, name)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    _, box, body = re.split(r'(viewBox="[^"]*")[^>]*>', text, maxsplit=1)
    body = re.sub(r'(id=")(?!number:)', rf"\1{name}-", body)
    body = re.sub(r'(url\(#|href="#)', rf"\1{name}-", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda m: NAMES.get(m[0], m[0]), body)
    body = re.sub(r"(font-family: |font: (?:[\w.]+ )*?[\d.]+px )[^;\"]+", r"\1var(--sans)", body)
    body = re.sub(r' transform="rotate\(-?0 [^"]*"', "", body)
    body = re.sub(r'id="number:([^"]*)"', lambda m: numbered(m[1], place), body)
    body = re.sub(r">\s+<", "><", body)
    return f'<svg {box} aria-hidden="true" focusable="false">{body}'


NAMES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}


def numbered(path: str, place: Place) -> str:
    """The attributes of a number that stands in a figure."""
    for key in path.removeprefix(place.path + "/").split("/"):
        place = place.at(int(key) if key.isdigit() else key)
    return f'data-path="{path}" data-value="{place.value!r}"'


def raw_svg(fig: Figure, name: str) -> str:
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        fig.savefig(out, format="svg", transparent=True, metadata=nothing)
    return out.getvalue()
