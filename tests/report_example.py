"""A whole report document: every kind of figure, cell, verdict and section."""

import math

import numpy as np

from dynlm.analysis.findings import Finding, finding, plain, stated, withheld
from dynlm.stats import Interval


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value, low, high, documents=40, level=0.95)


GAIN = finding(
    "gain over the linear model", interval(0.1234567, 0.0712, 0.1761), 0.0, unit="nats a token"
)
LAG = finding(
    "lag-1 correlation",
    interval(0.4211, 0.383, 0.4604),
    0.0312,
    of_null="of states shuffled in time",
)
TAIL = finding(
    "tail index of the steps",
    interval(3.1, 2.7, 3.6),
    4.0,
    note="Below 4 the fourth moment is not finite",
)
CURL = finding(
    "rotational share of the drift",
    interval(0.021, -0.017, 0.062),
    0.0,
    note="Both parts are estimated on held-out documents",
)
RADIUS = stated("radius outside which the generator is negative", 12345.678, unit="units of state")
EXPONENT = withheld(
    "largest Lyapunov exponent", "the fit changes with the step, so nothing may be said of it"
)


def draws() -> np.random.Generator:
    return np.random.default_rng(7)


def lines() -> dict:
    x = np.arange(1, 13)
    y = np.exp(-x / 4)
    fitted = {"name": "neural SDE", "x": x, "y": y, "low": y - 0.05, "high": y + 0.05}
    text = {"name": "text", "x": x, "y": y + 0.03 * np.cos(x), "style": "points"}
    shuffled = {"name": "shuffled in time", "x": x, "y": 0 * x + 0.02, "style": "dashed"}
    return {
        "id": "autocorrelation",
        "title": "Autocorrelation of the states",
        "caption": "The first principal direction; the band holds 95 % of resampled documents.",
        "alt": "Correlation falls from .8 to .05 within twelve tokens; shuffled states stay at 0.",
        "kind": "lines",
        "series": [fitted, text, shuffled],
        "xlabel": "lag (tokens)",
        "ylabel": "correlation",
        "hlines": [{"y": 0.0, "label": "no correlation"}],
    }


def scales() -> dict:
    x = 2.0 ** np.arange(6)
    ratio = {"name": "jumps", "x": x, "y": [0.62, 0.41, 0.22, None, 0.04, 0.0]}
    return {
        "id": "scales",
        "title": "Share of jumps at each scale",
        "caption": "Quadratic variation that bipower variation misses.",
        "alt": "The share of jumps falls by half whenever the scale doubles.",
        "kind": "lines",
        "series": [ratio],
        "xlabel": "tokens averaged",
        "ylabel": "share of jumps",
        "xlog": True,
        "ylog": True,
    }


def bars() -> dict:
    return {
        "id": "models",
        "title": "Held-out log likelihood over the random walk",
        "caption": "Nats a token, intervals by document.",
        "alt": "The neural SDE gains most, the linear model nearly as much.",
        "kind": "bars",
        "labels": ["neural SDE", "linear (VAR(1))", "switching linear", "i.i.d. Gaussian"],
        "groups": [
            {
                "name": "text",
                "values": [1.42, 1.30, 1.33, 0.71],
                "low": [1.31, 1.2, 1.22, 0.6],
                "high": [1.5, 1.4, 1.44, 0.8],
            },
            {"name": "shuffled in time", "values": [0.70, 0.71, 0.69, None]},
        ],
        "null": 0.7,
        "xlabel": "nats a token",
    }


def plane() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x, y = np.linspace(-2, 2, 17), np.linspace(-1.5, 1.5, 15)
    u, v = x - x**3 + 0 * y[:, None], -y[:, None] + 0.4 * x
    return x, y, u, v


def panels() -> dict:
    x, y, u, v = plane()
    size, t = np.hypot(u, v), np.linspace(0, 1, 60)
    path = {"name": "a rollout", "x": 2 - t, "y": 1.4 * np.exp(-3 * t)}
    fixed = {"name": "fixed points", "x": [-1.0, 0.0, 1.0], "y": [-0.4, 0.0, 0.4]}
    drift = {
        "kind": "field",
        "title": "Drift",
        "x": x,
        "y": y,
        "u": u,
        "v": v,
        "z": size,
        "label": "size of the drift",
        "points": [fixed],
        "paths": [path],
        "xlabel": "direction 1",
        "ylabel": "direction 2",
    }
    divergence = {
        "kind": "heat",
        "title": "Divergence",
        "x": x,
        "y": y,
        "z": 1 - 3 * x**2 - 1 + 0 * y[:, None] + 2,
        "label": "divergence",
        "xlabel": "direction 1",
        "ylabel": "direction 2",
    }
    return {
        "id": "plane",
        "title": "The plane of the first two principal directions",
        "caption": "Two wells with a saddle between them.",
        "alt": "Arrows lead into two wells, left and right; divergence is negative in both.",
        "kind": "panels",
        "panels": [drift, divergence],
    }


def scatter() -> dict:
    x = draws().normal(size=(2, 80))
    groups = [
        {"name": "train", "x": x[0], "y": x[0] + 0.3 * x[1]},
        {"name": "held out", "x": x[1], "y": x[1] + 0.4 * x[0]},
    ]
    return {
        "id": "predicted",
        "title": "Predicted against seen",
        "caption": "One step ahead.",
        "alt": "Points lie along the diagonal.",
        "kind": "scatter",
        "groups": groups,
        "diagonal": True,
        "xlabel": "seen",
        "ylabel": "predicted",
    }


def matrix() -> dict:
    return {
        "id": "regimes",
        "title": "Changes between regimes",
        "caption": "From rows to columns, per token.",
        "alt": "Each regime stays with itself nine times of ten.",
        "kind": "matrix",
        "rows": ["calm", "quoting", "lists"],
        "columns": ["calm", "quoting", "lists"],
        "values": [[0.91, 0.06, 0.03], [0.08, 0.9, 0.02], [0.05, 0.05, None]],
        "label": "probability",
    }


def histogram() -> dict:
    counts, edges = np.histogram(draws().normal(size=4000), 24, density=True)
    x = np.linspace(-4, 4, 81)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return {
        "id": "residuals",
        "title": "Standardised residuals",
        "caption": "Beside the normal density.",
        "alt": "The histogram follows the bell curve.",
        "kind": "histogram",
        "edges": edges,
        "counts": counts,
        "curve": {"x": x, "y": density, "name": "normal density"},
        "vlines": [{"x": 0.0, "label": "mean of a normal"}],
        "xlabel": "residual",
        "ylabel": "density",
    }


def table() -> dict:
    return {
        "title": "Held-out scores",
        "columns": ["model", "parameters", "nats a token", "over random walk", "withheld"],
        "rows": [
            ["neural SDE", 41216, -12.6412345, {"value": 1.42, "low": 1.31, "high": 1.5}, "no"],
            ["linear (VAR(1))", 272, -12.76, {"value": 1.3, "low": 1.2, "high": 1.4}, "no"],
            ["i.i.d. Gaussian", 152, -13.35, {"value": 0.71, "low": None, "high": None}, "no"],
            ["Éti-mov €5 “quoted”", 9, None, None, "<b>yes</b> & no"],
        ],
        "note": "Likelihood of documents that no fit has seen.",
    }


def section(id: str, title: str, found: list[Finding], **more) -> dict:
    return {
        "id": id,
        "title": title,
        "asked": "Does the next state depend on more than the mean of all states?",
        "found": [one.sentence() for one in found],
        "trust": "Intervals are by document; 40 documents are few for tails.",
        "findings": found,
        "tables": [],
        "figures": [],
    } | more


def example() -> dict:
    """A report that uses all that the format has."""
    return plain(
        {
            "format": "dynlm-report-1",
            "title": "The dynamics of <script>alert(1)</script> “text” & 日本語",
            "lead": "Hidden states of a small model, read as a stochastic differential equation. "
            "What it finds is set beside states shuffled in time and beside the linear model.",
            "marks": "Read: seen in the paper. Told: from summaries. Ours: our reconstruction.",
            "cards": [
                {"label": "Beyond linear", "finding": GAIN, "why": "The claim that counts."},
                {"label": "Memory", "finding": LAG, "why": "Whether order matters at all."},
                {"label": "Tails", "finding": TAIL, "why": "Whether a diffusion can be fair."},
                {"label": "Rotation", "finding": CURL, "why": "Whether an energy is enough."},
                {"label": "Chaos", "finding": EXPONENT, "why": "Whether nearby texts part."},
            ],
            "sections": [
                section(
                    "process",
                    "The process",
                    [LAG, CURL],
                    mark="ours",
                    figures=[lines(), scales(), histogram()],
                ),
                section(
                    "models",
                    "What predicts the next state?",
                    [GAIN, TAIL],
                    mark="read",
                    tables=[table()],
                    figures=[bars(), scatter()],
                ),
                section(
                    "stability",
                    "Fixed points & stability",
                    [RADIUS, EXPONENT],
                    mark="told",
                    figures=[panels(), matrix()],
                ),
                section("depth", "Along depth", [], error="There are 2 layers; 3 are needed."),
            ],
            "budget": [
                {"stage": "fit", "seconds": 61.25, "compiled": 6, "compile_seconds": 18.5},
                {"stage": "analyses", "seconds": 48.0, "compiled": 14, "compile_seconds": 29.75},
            ],
            "facts": {"model": "demo, 6 layers", "documents": 1200, "seed": 0, "level": 0.95},
        }
    )


def heavy() -> dict:
    """More points and longer curves than a page wants as shapes."""
    x = draws().normal(size=(2, 20000))
    curve = {"name": "a long path", "x": np.arange(20000), "y": x[0] * np.arange(20000) % 7}
    return lines() | {"series": [curve, curve | {"name": "again", "style": "points"}]}


LONG = (
    "a name that goes on for much longer than anybody would think sensible, and then still goes on"
)
WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3


def odd() -> list[dict]:
    """Figures at the edge of what can be drawn."""
    one = {"name": "", "x": [3.0], "y": [2.0], "low": [None], "high": [3.0]}
    gaps = {"name": "gaps", "x": [1, 2, 3, 4], "y": [1.0, None, 2.0, None]}
    many = [{"name": f"{LONG} {k}", "x": [0, 1], "y": [k, k + 1]} for k in range(9)]
    tiny = {"name": "tiny", "x": [1e-9, 1e9], "y": [1e-30, 1e30]}
    named = {"labels": [LONG, WORD], "groups": [{"name": LONG, "values": [0.0, 0.0]}]}
    figures = [
        {"title": "one point", "kind": "lines", "series": [one]},
        {"title": "gaps", "kind": "lines", "series": [gaps | {"style": "steps"}]},
        {"title": "many", "kind": "lines", "series": many, "xlabel": LONG, "ylabel": LONG},
        {"title": "wide scales", "kind": "lines", "series": [tiny], "xlog": True, "ylog": True},
        {"title": "long labels", "kind": "bars", "null": 0.0} | named,
        {
            "title": "one bar",
            "kind": "bars",
            "labels": ["a"],
            "groups": [{"name": "", "values": [1]}],
        },
        {"title": "one cell", "kind": "matrix", "rows": ["a"], "columns": ["b"], "values": [[3]]},
        {"title": "flat", "kind": "heat", "x": [1, 2], "y": [1], "z": [[0, 0]], "label": LONG},
        {
            "title": "holes",
            "kind": "heat",
            "x": [1, 2, 4],
            "y": [1, 9],
            "z": [[0, None, 2], [-1] * 3],
        },
        {
            "title": "still",
            "kind": "field",
            "x": [1, 2],
            "y": [1, 2],
            "u": [[0, 0]] * 2,
            "v": [[0, 0]] * 2,
        },
        {"title": "one bin", "kind": "histogram", "edges": [0, 1], "counts": [0]},
        {
            "title": "a cross",
            "kind": "scatter",
            "groups": [{"name": LONG, "x": [1, None], "y": [1, 2]}],
        },
    ]
    return [f | {"id": f"odd-{k}", "caption": LONG, "alt": LONG} for k, f in enumerate(figures)]


def crowded() -> dict:
    """A report of names and numbers that are far too long."""
    document = example()
    found = finding(
        LONG + " " + WORD,
        interval(1.234e-9, -5.4321e12, 1e15),
        0.0,
        unit=LONG,
        of_null=LONG,
        note=LONG,
    )
    held = withheld(WORD, LONG)
    wide = {
        "title": WORD,
        "columns": [LONG] * 3 + [WORD] * 2 + ["n"] * 9,
        "rows": [[LONG, WORD, None, *[{"value": -1e-7, "low": -1e-7, "high": 1e7}] * 11]] * 3,
        "note": WORD,
    }
    one = section("long", LONG + WORD, [found, held], mark="told", tables=[wide], figures=odd())
    one |= {"asked": WORD, "trust": WORD}
    bare = section("bare", WORD, [found], error=WORD)
    cards = [{"label": WORD, "finding": f, "why": WORD} for f in (found, held, RADIUS)]
    return plain(
        document
        | {"title": WORD, "lead": WORD, "marks": WORD, "cards": cards, "sections": [one, bare]}
        | {"facts": {WORD: WORD, LONG: LONG, "a/b~c": 10**14}}
    )
