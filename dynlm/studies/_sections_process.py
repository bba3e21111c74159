"""The sections on the process: order in time, memory, residuals and passages."""

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
    "linear": "A linear model suffices as far as {documents} in {dimensions} can show: these tests "
    "found nothing beyond it. Weaker effects are not ruled out, and what a network finds is under "
    "'What is the fit worth?'.",
    "nonlinear": "The next state depends on this one in a way that no linear model holds.",
    "undecided": "There are too few documents to say what the order in time holds.",
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
        found=[_order_said(found, given.dim)],
        findings=found.findings,
        mark="ours",
    )
    return made, found


def _order_said(found: Any, dim: int) -> str:
    """The verdict in words, and whether it is of the mean or of the variance."""
    documents, dimensions = counted(found.documents, "document"), counted(dim, "dimension")
    said = ORDER[found.verdict.value].format(documents=documents, dimensions=dimensions)
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
        "there, as fits of shuffled states have too, where a column is of those. "
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
