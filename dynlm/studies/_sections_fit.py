"""The sections on what a fit is worth, and on what it is a law of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._judge import Verdict as Judged
from .._judge import beyond_linear
from ..analysis.findings import Finding, finding, shown, stated, withheld
from ..predict import ScoreTable
from ..predict._table import Failure
from ..stats import Interval
from ._fits import Fits
from ._frames import section, table

NATS = "nats per step and dimension"
CAUTION = (
    "A fit to states that are independent in time has a drift too, towards their mean. So what "
    "counts is the gain over a linear model on documents that were not seen, beside the same fit "
    "to the same states in random order."
)
NAMES = {
    "fit": "neural SDE",
    "fit of shuffled": "neural SDE, fitted to shuffled states",
    "iid": "independent Gaussian",
    "var1": "VAR(1)",
    "ou": "Ornstein-Uhlenbeck",
    "ar4": "autoregression of order 4",
    "switching4": "switching, 4 regimes",
    "mixture8": "mixture density, 8",
}


def chosen(best: str) -> str:
    """Which baseline, and that the choice itself favours it."""
    return f"That is {NAMES.get(best, best)}, chosen as the best on these same documents."


def gain_of(scores: ScoreTable, name: str, what: str, note: str = "") -> Finding:
    """The gain of a model over the linear one."""
    gain = scores.models[name].gain
    if isinstance(gain, Interval):
        return finding(what, gain, 0.0, unit=NATS, of_null="of the linear model itself", note=note)
    return withheld(what, gain.reason if isinstance(gain, Failure) else "there is no linear model")


def worth_section(
    judged: Judged, fits: Fits, best: tuple[str, Finding], by_seed: Sequence[float] = ()
) -> dict[str, Any]:
    """Scores of all fits and baselines on held-out documents."""
    scores = judged.scores
    main = next(iter(fits.runs))
    found = [
        gain_of(scores, "fit", "gain of the neural SDE over VAR(1)"),
        best[1]._replace(note=chosen(best[0])) if best[0] else best[1],
        shuffled_gain(judged),
        *_over_seeds(by_seed),
        *(
            gain_of(scores, name, f"gain of the neural SDE with {name} over VAR(1)")
            for name in list(fits.runs)[1:]
        ),
    ]
    return section(
        "worth",
        "What is the fit worth?",
        f"Does the neural SDE ({main}) predict held-out {scores.unit} better than simple models?",
        CAUTION,
        findings=found,
        found=[beyond_linear(judged)],
        tables=[_scores_table(scores), _seeds_table(fits)],
        figures=[_bars(scores)],
        mark="ours",
    )


def _over_seeds(gains: Sequence[float]) -> list[Finding]:
    """How much a gain owes to the seed that was kept."""
    if len(gains) < 2:
        return []
    note = (
        f"Gains are {shown(min(gains))} to {shown(max(gains))} over {len(gains)} seeds; the one "
        "that is analysed was chosen on validation documents"
    )
    what = "standard deviation over seeds of the gain over VAR(1)"
    return [stated(what, float(np.std(gains, ddof=1)), unit=NATS, note=note)]


def shuffled_gain(judged: Judged) -> Finding:
    """What the fit of shuffled states gains, where there is nothing to gain."""
    gain = judged.null_gain
    what = "gain of the same fit to states shuffled in time"
    if isinstance(gain, Interval):
        note = ""
        if gain.value > 0:
            note = "So much is gained without any order in time, and counts against the gain above."
        return finding(what, gain, 0.0, unit=NATS, of_null="of nothing learned", note=note)
    return withheld(what, gain.reason if isinstance(gain, Failure) else "it was not fitted")


def _scores_table(scores: ScoreTable) -> dict[str, Any]:
    rows = []
    for name, one in scores.models.items():
        row = [NAMES.get(name, name), one.nll, one.gain, one.r2, one.pit.distance]
        rows.append([*row, *(one.energy[h] for h in scores.horizons)])
    heads = ["model", "nats per step and dimension", f"gain over {scores.reference}", "R2"]
    heads += ["calibration error", *(f"energy score, {h} ahead" for h in scores.horizons)]
    note = (
        f"{scores.documents:,} {scores.unit}, {scores.transitions:,} transitions; intervals of "
        f"{scores.level:.0%}. Lower is better, but for gain and R2."
    )
    return table("On held-out documents", heads, rows, note)


def _seeds_table(fits: Fits) -> dict[str, Any]:
    rows = [
        [name, len(worth), min(worth), max(worth), fits.spread[name]]
        for name, worth in fits.held_out.items()
    ]
    heads = ["fit", "seeds", "least held-out loss", "greatest", "standard deviation"]
    note = (
        "Of the validation documents, per step, in the units of each loss: different "
        "losses do not compare. Of several seeds the one with the least is kept."
    )
    return table("Seeds", heads, rows, note)


def _bars(scores: ScoreTable) -> dict[str, Any]:
    named = [(NAMES.get(n, n), m.gain) for n, m in scores.models.items() if n != scores.reference]
    kept = [(name, gain) for name, gain in named if isinstance(gain, Interval)]
    ends = {k: [getattr(gain, k) for _, gain in kept] for k in ("value", "low", "high")}
    return {
        "id": "gains",
        "title": f"Gain over {scores.reference}",
        "kind": "bars",
        "labels": [name for name, _ in kept],
        "groups": [
            {"name": "gain", "values": ends["value"], "low": ends["low"], "high": ends["high"]}
        ],
        "null": 0.0,
        "xlabel": NATS,
        "caption": "Bars to the right of zero predict held-out documents better than the linear "
        "model does; lines are intervals by document.",
        "alt": "Gains over the linear model, a bar a model: "
        + ", ".join(f"{name} {gain.value:.3f}" for name, gain in kept),
    }


def law_section(judged: Judged, fits: Fits, others: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the fit is a process in continuous time, and the linear one too.

    Args:
        judged: What was found of the main fit.
        fits: All fits.
        others: Of the other fits, by name, their `Refinement`, and why not.
    """
    found: list[Finding] = []
    rows = []
    first = judged.refinement, judged.reason
    for name, (one, reason) in {next(iter(fits.runs)): first, **others}.items():
        if one is None:
            rows.append([name, None, None, None, reason])
            continue
        moved = max(abs(c - one.correlation[0]) for c in one.correlation)
        rows.append([name, max(one.mean), max(one.covariance), moved, one.reason])
    main = judged.refinement
    if main is not None:
        found.append(
            stated(
                "change of the lag-1 correlation when the fit is solved 16 times more finely",
                float(abs(main.correlation[-1] - main.correlation[0])),
                0.0,
                of_null="of a process in continuous time",
            )
        )
    may = (
        "Claims in continuous time may be made" if judged.continuous
        else "Claims in continuous time are withheld"
    )  # fmt: skip
    linear = []
    if judged.embedding is not None and judged.embedding.reason not in judged.reason:
        linear = [f"The linear one-step model: {_ended(judged.embedding.reason)}"]
    heads = ["fit", "change of mean, in noises", "change of covariance"]
    heads += ["change of lag-1 correlation", "verdict"]
    return section(
        "law",
        "Is it a process in continuous time?",
        "A fit by Euler at one step a token is a law from token to token. Is it also the law of a "
        "process between tokens, so that rates, relaxation times and exponents mean something?",
        "Where it is not, every number on this page is of the chain with the scheme and step of "
        "the fit, and says so.",
        findings=found,
        found=[f"{may}: {_ended(judged.reason)}", *linear],
        tables=[table("Solved 4 and 16 times more finely", heads, rows)],
        mark="ours",
    )


def _ended(text: str) -> str:
    return text if text.endswith(".") else text + "."
