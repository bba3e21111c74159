"""Stationarity: whether the law of the states changes along a path."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float

from ..stats import Interval
from ..trajectory import Trajectory
from ._correlation import (
    PerPath,
    Rows,
    Weights,
    by_influence,
    crossed,
    ends,
    halves,
    measured,
    others,
    rows_of,
)
from .findings import Finding, finding, withheld


@final
class Stationarity(NamedTuple):
    """What `stationarity` found, in standard deviations of each component.

    Args:
        shift: Mean of the second half of a path less that of its first, by component, with ends.
        slope: Change of a component in a unit of time, with ends.
        spread: Logarithm of the variance in the second half over that in the first, with ends.
        findings: The shift and the slope along directions that other documents chose; the spread.
    """

    shift: Float[np.ndarray, "dim 3"]
    slope: Float[np.ndarray, "dim 3"]
    spread: Float[np.ndarray, " 3"]
    findings: tuple[Finding, ...]


def stationarity(paths: Trajectory, docs: Any, *, burn: int = 1, seed: int = 0) -> Stationarity:
    r"""Second half against first half of each path, and the slope in time within a path.

    A mean that moves, moves in some direction. That direction $u$ is found on half of the documents
    and $u^\top(\bar x_2 - \bar x_1)$ measured on the others, and the same the other way round: a
    positive number is a drift that other documents confirm, and its mean is zero if there is none.
    Each half then chose for the other, and the end of the interval next to 0 is moved for that.
    The spread is $\log \mathrm{tr}\,C_2 / \mathrm{tr}\,C_1$, each about the mean of its half.

    Args:
        paths: A batch of paths.
        docs: The document of each path.
        burn: How many first states of each path are left out.
        seed: Of the resampling.
    """
    rows = rows_of(paths, docs, burn)
    x = rows.centred()
    scale = np.sqrt((x**2).sum(axis=(0, 1)) / rows.seen.sum())
    x = np.where(scale > 0, x / np.where(scale > 0, scale, 1.0), 0.0)
    late = _late(rows)
    shift, slope = _shifts(rows, x, late), _slopes(rows, x)
    results = []
    for what, (vectors, weights) in (
        ("shift of the mean from the first half of a path to the second", shift),
        ("slope of the mean in time", slope),
    ):
        (one,) = measured(along_others(vectors, rows.docs), weights, rows.docs, seed)
        what = f"{what}, in standard deviations along the direction that other documents show"
        short = "no path has two states to compare"
        results.append(
            withheld(what, short) if not weights.sum() > 0 else finding(what, crossed(one), 0.0)
        )
    spread = _spread(rows, x, late, seed)
    results.append(
        finding("log ratio of the variances of the second half and the first", spread, 0.0)
    )
    each = [ends(measured(v, w, rows.docs, seed)) for v, w in (shift, slope)]
    return Stationarity(each[0], each[1], ends([spread])[0], tuple(results))


def along_others(vectors: PerPath, docs: Any) -> Float[np.ndarray, "path 1"]:
    """Each path's vector along the mean vector of the other half of the documents."""
    half, out = halves(docs), np.zeros((len(vectors), 1))
    for h in np.unique(half):
        direction = vectors[others(half, h)].sum(axis=0)
        size = np.linalg.norm(direction)
        if size > 0:
            out[half == h, 0] = vectors[half == h] @ (direction / size)
    return out


def _late(rows: Rows) -> Any:
    """True in the second half of the states that are seen of a path."""
    before = np.cumsum(rows.seen, axis=1) - 1
    return before >= (rows.seen.sum(axis=1, keepdims=True) + 1) // 2


def _shifts(rows: Rows, x: Any, late: Any) -> tuple[PerPath, Weights]:
    """Of each path: the difference of its halves' means, times its weight; and the weight."""
    first, second = (rows.seen & ~late)[:, :, None], (rows.seen & late)[:, :, None]
    n1, n2 = first.sum(axis=1), second.sum(axis=1)
    weight = n1 * n2 / np.maximum(n1 + n2, 1)
    means = [(x * part).sum(axis=1) / np.maximum(n, 1) for part, n in ((first, n1), (second, n2))]
    return weight * (means[1] - means[0]), weight


def _slopes(rows: Rows, x: Any) -> tuple[PerPath, Weights]:
    """Of each path: sums of products of time and state about the path's means, and of time."""
    n = np.maximum(rows.seen.sum(axis=1, keepdims=True), 1)
    t = np.where(rows.seen, rows.ts - (rows.ts * rows.seen).sum(axis=1, keepdims=True) / n, 0.0)
    return (t[:, :, None] * x).sum(axis=1), (t**2).sum(axis=1, keepdims=True)


def _spread(rows: Rows, x: Any, late: Any, seed: int) -> Interval:
    logs, change = [], 0.0
    for part, sign in ((rows.seen & late, 1.0), (rows.seen & ~late, -1.0)):
        part = part[:, :, None]
        n = part.sum(axis=(1, 2))
        off = np.where(part, x - (x * part).sum(axis=(0, 1)) / max(n.sum(), 1), 0.0)
        square = (off**2).sum(axis=(1, 2))
        if not square.sum() > 0:
            return by_influence(float("nan"), 0.0, rows.docs, seed)
        logs.append(sign * np.log(square.sum() / n.sum()))
        change = change + sign * (square / square.sum() - n / n.sum())
    return by_influence(float(sum(logs)), change, rows.docs, seed)
