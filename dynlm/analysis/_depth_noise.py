"""What a map from layer to layer leaves over: how it grows, and its shape."""

from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from .. import stats
from ..stats import Interval
from ._depth_maps import Pairs, Sums, steps_of
from .findings import Finding, Verdict, finding, shown, withheld

Columns = Float[np.ndarray, "token column"]
PerPair = Float[np.ndarray, " pair"]
Tokens = Float[np.ndarray, " token"]

GROWTH = "growth exponent of the noise per layer"
SLOPE = "change of the noise's log variance per layer between the two"
NO_LAW = (
    "the law is not shown to explain anything from layer to layer, and then its noise is the states"
    " themselves"
)


def growth_parts(sums: Sums, pairs: Pairs) -> dict[str, Columns]:
    r"""Coefficients of $\log V$, as numbers whose mean over tokens they are: the delta method.

    Args:
        sums: Of each pair.
        pairs: The layers' numbers, so that growth is by layer whichever layers there are.
    """
    error = sums.errors["law"]
    mean = error.mean(axis=0)
    log = np.log(mean / sums.residuals.shape[2])
    target, apart = pairs[:, 1].astype(float), (pairs[:, 1] - pairs[:, 0]).astype(float)
    ones, found = np.ones(len(pairs)), {}

    def fit(*columns: Float[np.ndarray, " pair"]) -> Columns | None:
        x = np.stack(columns, axis=1)
        if np.linalg.matrix_rank(x) < x.shape[1]:
            return None
        c = np.linalg.pinv(x)
        return c @ log + (error / mean - 1) @ c.T

    if (two := fit(ones, target)) is not None:
        found |= {"amplitude": two[:, :1], "growth": two[:, 1:]}
    if (three := fit(ones, target, apart)) is not None:
        found["slope"] = three[:, 2:]
    return found


def growth_findings(
    growth: Interval | None,
    slope: Interval | None,
    variance: PerPair,
    fitted: PerPair,
    amplitude: Interval | None,
    share: Finding,
) -> tuple[Finding, ...]:
    """Of noise, which there is if the law's share of the variance is above nothing."""
    if growth is None or amplitude is None:
        return (withheld(GROWTH, "the residuals are rounding, or end at one layer only"),)
    if share.verdict is not Verdict.ABOVE:
        why = f"{NO_LAW}. {share._replace(note='').sentence()}"
        return withheld(GROWTH, why), *(() if slope is None else (withheld(SLOPE, NO_LAW),))
    log, line = np.log(variance), np.log(fitted)
    fit = 1 - np.sum((log - line) ** 2) / max(float(np.sum((log - log.mean()) ** 2)), 1e-300)
    held = (
        f"The exponential law explains {fit:.2f} of the variance of log variances over "
        f"{len(log)} pairs of layers, and its factor is {shown(amplitude.value)}"
    )
    found = finding(GROWTH, growth, 0.0, note=held)
    if slope is None:
        return (found,)
    note = "By the law the noise depends on the later layer alone."
    return found, finding(SLOPE, slope, 0.0, note=note)


def beside(found: Finding, null: Finding) -> Finding:
    """The growth with that of the untrained model in its note."""
    if found.verdict is Verdict.WITHHELD:
        return found
    value = "withheld" if null.value is None else shown(null.value)
    if null.low is not None and null.high is not None:
        value += f" [{shown(null.low)}, {shown(null.high)}]"
    return found._replace(note=f"{found.note}. In the untrained model it is {value}")


def laws_of_growth(
    sums: Sums, docs: np.ndarray, pairs: Pairs, seed: int
) -> tuple[Interval | None, Interval | None, Interval | None]:
    r"""$l$, $a$, and what the law has as zero: the slope in the layers between the two."""
    one = np.ones((len(docs), 1))
    parts = growth_parts(sums, pairs)
    found = {k: stats.ratios(x, one, docs, seed=seed)[0] for k, x in parts.items()}
    if (log := found.get("amplitude")) is not None:
        ends = {k: float(np.exp(getattr(log, k))) for k in ("value", "low", "high")}
        found["amplitude"] = log._replace(**ends)
    return found.get("growth"), found.get("amplitude"), found.get("slope")


@final
class Shape(NamedTuple):
    """Numbers whose mean over tokens is the excess kurtosis, or the isotropy."""

    kurtosis: Float[np.ndarray, " token"]
    isotropy: Float[np.ndarray, " token"]


def shape_of(r: Float[np.ndarray, "token dim"], docs: np.ndarray) -> Shape:
    r"""Of the residuals of one pair of layers.

    $\operatorname{tr} C^2$ is the mean of $(r_i \cdot r_j)^2$ over tokens of different documents,
    which neither few tokens nor tokens that are alike within a document bias.
    """
    variance = np.maximum(np.mean(r**2, axis=0), 1e-300)
    z = r**2 / variance
    k = np.mean(z**2, axis=0)
    kurtosis = np.mean(z**2 - 2 * k * (z - 1), axis=1) - 3
    e, q = np.sum(r**2, axis=1), _beside_others(r, docs)
    trace, square = max(float(e.mean()), 1e-300), max(float(q.mean()), 1e-300)
    flat = trace**2 / (r.shape[1] * square)
    return Shape(kurtosis, flat * (1 + 2 * (e / trace - 1) - 2 * (q / square - 1)))


def _beside_others(r: Float[np.ndarray, "token dim"], docs: np.ndarray) -> Tokens:
    r"""Of each token the mean of $(r_i \cdot r_j)^2$ over tokens of other documents."""
    names, number = np.unique(docs, return_inverse=True)
    if len(names) < 2:
        return np.sum((r @ (r.T @ r / len(r))) * r, axis=1)
    whole, found = r.T @ r, np.empty(len(r))
    for k in range(len(names)):
        mine = r[number == k]
        others = (whole - mine.T @ mine) / (len(r) - len(mine))
        found[number == k] = np.sum((mine @ others) * mine, axis=1)
    return found


def shape_findings(
    shapes: list[Shape], docs: np.ndarray, pairs: Pairs, seed: int, rounding: bool
) -> tuple[Finding, ...]:
    """Whether they are Gaussian, and alike in all directions, from one layer to the next."""
    kurtosis, isotropy = "excess kurtosis of the residuals", "isotropy of the residuals"
    if rounding:
        why = "the law leaves no residuals beyond rounding"
        return withheld(kurtosis, why), withheld(isotropy, why)
    some = [one for one, step in zip(shapes, steps_of(pairs), strict=True) if step]
    both = np.stack([np.mean([getattr(x, k) for x in some], axis=0) for k in Shape._fields], 1)
    k, flat = stats.ratios(both, np.ones((len(docs), 1)), docs, seed=seed)
    return (
        finding(kurtosis, k, 0.0, of_null="of Gaussian noise"),
        finding(isotropy, flat, 1.0, of_null="of isotropic noise"),
    )
