"""The sections on the process: order in time, memory, residuals, passages, and scales."""

from typing import Any

import numpy as np

from .. import analysis
from .._io import counted
from .._judge import shuffled_rows
from .._types import RandomKey
from ._frames import section, table
from ._given import Given, some
from ._plan import Plan
from ._sde import Basis

ORDER = {
    "none": "No dynamics beyond independent states were found in the order in time.",
    "linear": "A linear model of the next state suffices: nothing beyond it was found.",
    "nonlinear": "The next state depends on this one in a way that no linear model holds.",
    "undecided": "There are too few documents to say what the order in time holds.",
}
FAIR = {
    "fair": "At the scale of {scale} a diffusion is a fair model of these states.",
    "jumps": "At every scale that could be decided steps are not Gaussian given the state: no "
    "diffusion is a fair model.",
    "undecided": "There are too few steps to say at which scale a diffusion is a fair model.",
}


def order_section(given: Given, plan: Plan) -> tuple[dict[str, Any], Any]:
    """What the order in time holds, asked of the training documents by closed-form models."""
    found = analysis.order(given.train.paths, given.train.docs, seed=plan.seed, burn=plan.burn)
    made = section(
        "order",
        "Does the order in time hold anything?",
        "Before any network: do states predict the next one on documents not seen, and better than "
        "a linear model does?",
        "Two tests must agree: an interval by document, and 39 random orders of the same states. "
        "Chance alone passes the second once in forty.",
        found=[_order_said(found)],
        findings=found.findings,
        mark="ours",
    )
    return made, found


def _order_said(found: Any) -> str:
    """The verdict in words, and whether it is of the mean or of the variance."""
    said = ORDER[found.verdict.value]
    if found.verdict.value != "nonlinear":
        return said
    there = {"drift": found.mean_beyond, "noise": found.variance_beyond}
    parts = [name for name, beyond in there.items() if beyond]
    return f"{said} That is of its {' and its '.join(parts)}." if parts else said


def memory_section(b: Basis) -> dict[str, Any]:
    """Autocorrelation, relaxation, stationarity and Markov order of the data."""
    how: dict[str, Any] = dict(burn=b.plan.burn, seed=b.plan.seed)
    some_rows = some(b.given.test, 4 * b.plan.states)
    paths, docs = some_rows.paths, some_rows.docs
    longest = int(np.asarray(paths.mask).sum(axis=1).max()) - b.plan.burn
    lags = [k for k in (1, 2, 4, 8, 16) if k < longest // 2]
    auto = analysis.autocorrelation(paths, docs, lags=lags, **how)
    slow = analysis.relaxation(paths, docs, lags=[k for k in (1, 2, 4) if k < longest // 4], **how)
    still = analysis.stationarity(paths, docs, **how)
    order = analysis.markov_order(paths, docs, **how)
    value, low, high = auto.trace.T
    series = {"name": "states", "x": auto.lags, "y": value, "low": low, "high": high}
    shuffled = {"name": "same states in random order", "x": auto.lags, "y": auto.shuffled}
    return section(
        "memory",
        "Memory",
        "How long do states remember, does their law change along a text, and is the last state "
        "all that counts?",
        "Taken from the data alone, no fit is involved. A document has a mean of its own, which "
        "correlates its states in any order: the null value is that of a random order.",
        findings=[*auto.findings, *slow.findings, *still.findings, *order.findings],
        figures=[
            {
                "id": "autocorrelation",
                "title": "Autocorrelation",
                "kind": "lines",
                "series": [series, shuffled | {"style": "dashed"}],
                "xlabel": "lag, tokens",
                "ylabel": "correlation",
                "hlines": [{"y": 0.0, "label": "none"}],
                "caption": "Of all components together, with intervals by document.",
                "alt": "Correlation by lag: "
                + ", ".join(f"{v:.2f} at {k}" for k, v in zip(auto.lags, value)),
            }
        ],
        mark="ours",
    )


def residual_section(b: Basis) -> dict[str, Any]:
    """What the fit has missed: its one-step residuals, beside those of the linear model."""
    rows = some(b.given.test, 4 * b.plan.states)
    how: dict[str, Any] = dict(burn=b.plan.burn, seed=b.plan.seed)
    mine = analysis.residuals(b.run.predictor(), rows.paths, rows.docs, **how)
    linear = analysis.residuals(b.linear, rows.paths, rows.docs, **how)
    varied = analysis.variation(b.run.model, rows.paths, rows.docs, **how)
    rest = {one.what: one for one in linear.findings}
    heads = ["measure", "neural SDE", "VAR(1)", "where nothing is missed"]
    body: list[list[Any]] = [[x.what, x, rest.get(x.what), x.null] for x in mine.findings]
    if b.fits.null is not None:
        mixed = shuffled_rows(rows, seed=b.plan.seed, burn=b.plan.burn)
        null = analysis.residuals(b.fits.null.predictor(), mixed.paths, mixed.docs, **how)
        rest = {one.what: one for one in null.findings}
        heads.append("neural SDE, shuffled states")
        body = [[*row, rest.get(row[0])] for row in body]
    edges = np.linspace(0.0, 1.0, len(mine.histogram) + 1)
    return section(
        "residuals",
        "What the fit has missed",
        "Are its one-step residuals independent, of equal strength and Gaussian, as they are if "
        "the fit is right, and does its noise have the size of what is seen?",
        "Correlated residuals are dynamics not learned, or a drift that was learned and is not "
        "there: the last column shows how much of it fits of shuffled states have, of such states. "
        "Correlated squares are noise not followed, or followed where there is none; kurtosis is "
        "jumps, which no diffusion fitted at this step has.",
        findings=[*mine.findings, *varied.findings],
        found=b.caution,
        tables=[table("Residuals", heads, body)],
        figures=[
            {
                "id": "calibration",
                "title": "Calibration of one step",
                "kind": "histogram",
                "edges": edges,
                "counts": mine.histogram * len(mine.histogram),
                "curve": {"x": [0.0, 1.0], "y": [1.0, 1.0], "name": "a true model"},
                "xlabel": "distribution function at what came",
                "ylabel": "density",
                "caption": "Flat where the predicted law is right; a hump in the middle is a law "
                "that is too wide or has tails too light.",
                "alt": "Histogram of the probability integral transform in 20 bins.",
            }
        ],
        mark="ours",
    )


def passage_section(b: Basis, key: RandomKey) -> dict[str, Any]:
    """First passages and conditional moments along the first principal direction."""
    rows = some(b.given.test, 4 * b.plan.states)
    how: dict[str, Any] = dict(burn=b.plan.burn, seed=b.plan.seed)
    times = analysis.passage(b.run.predictor(), rows.paths, rows.docs, key=key, **how)
    known = analysis.kramers_moyal(rows.paths, rows.docs, sde=b.run.model, bins=12, **how)
    value, low, high = times.survival.T
    seen = {"name": "data", "x": times.times, "y": value, "low": low, "high": high}
    fit = {"name": "simulated fit", "x": times.times, "y": times.model_survival[:, 0]}
    figures = [
        {
            "id": "passages",
            "title": "First passages that last longer",
            "kind": "lines",
            "series": [seen, fit | {"style": "dashed"}],
            "xlabel": "tokens",
            "ylabel": "share",
            "caption": "From the lower to the upper quartile along the first principal direction; "
            "passages that the end of a text cuts off count as far as they went.",
            "alt": "Two survival curves, of the data and of the fit.",
        },
        {
            "id": "kramers-moyal",
            "title": "Drift and diffusion straight from the data",
            "kind": "panels",
            "panels": [
                _coefficient(known, "drift", known.drift, known.sde_drift),
                _coefficient(known, "diffusion", known.diffusion, known.sde_diffusion),
            ],
            "caption": "Averages of the increments and of half their squares given the state, "
            "beside what the fit expects at the same states.",
            "alt": "Two panels: drift and diffusion by position along the first direction.",
        },
    ]
    return section(
        "passage",
        "Passages and conditional moments",
        "Does the simulated fit cross from one side to the other as often as the data, and do its "
        "nets agree with what averages of the increments say?",
        "One direction of many. Coefficients are of one step, so they are compared exactly, and "
        "are no drift and diffusion of a process between tokens. What leaves its null value here "
        "is wrong with the fit; it is no dynamics.",
        findings=[*times.findings, *known.findings],
        found=b.caution,
        figures=figures,
        mark="ours",
    )


def _coefficient(known: Any, name: str, data: np.ndarray, fit: Any) -> dict[str, Any]:
    value, low, high = data.T
    seen = {"name": "data", "x": known.centres, "y": value, "style": "points"}
    series = [seen | {"low": low, "high": high}]
    if fit is not None:
        series.append({"name": "fit", "x": known.centres, "y": fit})
    return {
        "kind": "lines",
        "title": name,
        "series": series,
        "xlabel": "first direction",
        "ylabel": name,
    }


def scales_section(
    given: Given, plan: Plan, key: RandomKey, marks: np.ndarray | None = None
) -> tuple[dict[str, Any], Any]:
    """Jump tests from token to token and at coarser scales."""
    rows = given.train
    longest = int(np.asarray(rows.paths.mask).sum(axis=1).max())
    widths = [w for w in plan.scales if longest // w >= 4]
    mixture = tuple(widths) if plan.mixture else False
    found = analysis.diffusive(
        rows.paths, rows.docs, key=key, widths=widths, how="averaged", marks=marks,
        mixture=mixture, seed=plan.seed, burn=plan.burn,
    )  # fmt: skip
    said = [FAIR[found.fairness.value].format(scale=counted(found.scale or 0, "token"))]
    if not plan.mixture and found.scale is not None:
        said = [
            f"At {counted(found.scale, 'token')} the tests that need no network are passed. The "
            "one that sees jumps best, a mixture density, was not made: no scale is called fair."
        ]
    if found.scale is not None and found.coarser:
        said.append(f"It is no fair model at {', '.join(found.coarser)}.")
    if found.scale is not None and found.shuffled is not None:
        often = counted(found.shuffled, "token")
        said.append(f"The same states in random order are fair at {often} too.")
        if 1 < found.scale >= found.shuffled:
            said.append("So averaging alone explains it, and nothing is said of text.")
    body = []
    kinds = list(dict.fromkeys(one.what for scale in found.scales for one in scale.findings))
    for scale in found.scales:
        cells = {one.what: one for one in scale.findings}
        passed = scale.fairness.value
        passed = "passed" if passed == "fair" and not plan.mixture else passed
        row = [scale.name, passed, scale.transitions]
        body.append([*row, *(cells.get(kind) for kind in kinds)])
    margins = ", ".join(f"{k} {v:g}" for k, v in found.margins._asdict().items())
    note = f"Margins within which a diffusion counts as fair: {margins}."
    made = section(
        "scales",
        "Is it diffusive, and at which scale?",
        "From token to token, or averaged over more of them: are steps Gaussian given the state, "
        "as those of a diffusion are, or do states jump?",
        "A scale counts as fair only where intervals are narrow enough to have shown jumps; few "
        "data make no scale fair.",
        found=said,
        findings=found.findings[:1] if plan.mixture else found.findings[1:4],
        tables=[table("Tests by scale", ["scale", "verdict", "steps", *kinds], body, note)],
        figures=[_by_scale(found, kinds)],
        mark="ours",
    )
    return made, found


def _by_scale(found: Any, kinds: list[str]) -> dict[str, Any]:
    panels = []
    for kind in kinds[:3]:
        xs, values, lows, highs, null = [], [], [], [], None
        for scale in found.scales:
            one = next((x for x in scale.findings if x.what == kind), None)
            if one is None or one.value is None or scale.name == "sentences":
                continue
            xs.append(scale.width)
            values.append(one.value)
            lows.append(one.low)
            highs.append(one.high)
            null = one.null
        if len(xs) < 1:
            continue
        lines = {"name": kind, "x": xs, "y": values, "low": lows, "high": highs}
        panel: dict[str, Any] = {
            "kind": "lines", "title": kind, "series": [lines], "xlabel": "tokens averaged",
            "xlog": True,
        }  # fmt: skip
        if null is not None:
            panel["hlines"] = [{"y": null, "label": "Gaussian steps"}]
        panels.append(panel)
    return {
        "id": "by-scale",
        "title": "Jump tests by scale",
        "kind": "panels",
        "panels": panels,
        "caption": "Each test beside its value for Gaussian steps.",
        "alt": "A panel a test, over the number of tokens that are averaged.",
    }
