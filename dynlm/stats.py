"""Intervals for what was measured on documents: whole documents are resampled, never steps."""

import functools
import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float, Shaped

from ._io import BadArgument

Columns = Float[np.ndarray, "document column"]

BLOCK = 2**22  # documents times resamples that are drawn at a time


@final
class Interval(NamedTuple):
    """A number and the interval that holds it.

    Args:
        value: The number.
        low: The lower end: minus infinity where one document is all there is.
        high: The upper end, likewise.
        level: How often such an interval holds the true number.
        documents: How many documents have weight in it.
    """

    value: float
    low: float
    high: float
    level: float
    documents: int

    def __str__(self) -> str:
        if math.isinf(self.high - self.low):
            return f"{self.value:.3f} [no interval]"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    values: Any,
    weights: Any,
    docs: Any,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    r"""The weighted mean $\sum_i w_i v_i / \sum_i w_i$, with an interval by document.

    Steps of one document are alike, so steps drawn one by one would make the interval too narrow.

    Args:
        values: One number per row, such as a path's mean; any number where the weight is zero.
        weights: Their weights, such as the steps behind each.
        docs: The document of each row: numbers or names.
        seed: Of the resampling. Equal seeds draw equal documents.
        level: How often the interval shall hold the truth.
        resamples: How many times the documents are drawn anew.
    """
    values, weights = _numbers("values", values), _numbers("weights", weights)
    if values.shape != weights.shape or values.ndim != 1:
        raise BadArgument(
            f"`values` {values.shape} and `weights` {weights.shape} must be vectors of one length. "
            "Pass one value and one weight per row."
        )
    sums = np.where(weights == 0, 0.0, values) * weights
    (interval,) = ratios(
        sums[:, None], weights[:, None], docs, seed=seed, level=level, resamples=resamples
    )
    return interval


def difference(
    a: Any,
    b: Any,
    weights: Any,
    docs: Any,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """The weighted mean of `a - b`, two methods on the same rows, paired by document."""
    a, b = _numbers("a", a), _numbers("b", b)
    if a.shape != b.shape:
        raise BadArgument(
            f"`a` has shape {a.shape} and `b` {b.shape}. Pass both methods' values of each row."
        )
    return bootstrap(a - b, weights, docs, seed=seed, level=level, resamples=resamples)


def r_squared(
    sse: Any, sst: Any, docs: Any, *, seed: int, level: float = 0.95, resamples: int = 2000
) -> Interval:
    r"""$R^2 = 1 - \sum_i \mathrm{SSE}_i / \sum_i \mathrm{SST}_i$, with an interval by document."""
    sse, sst = _numbers("sse", sse)[:, None], _numbers("sst", sst)[:, None]
    (share,) = ratios(sse, sst, docs, seed=seed, level=level, resamples=resamples)
    return complement(share)


def complement(share: Interval) -> Interval:
    """One minus it."""
    return share._replace(value=1 - share.value, low=1 - share.high, high=1 - share.low)


def ratios(
    numerators: Any,
    denominators: Any,
    docs: Any,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> list[Interval]:
    r"""$\sum_i a_{ij} / \sum_i b_{ij}$ of each column j, with intervals by document.

    All columns see the same resamples, so that what is compared is paired. The ends are quantiles
    of the resampled ratios, moved out for the number of documents as Student's law is wider than
    the normal one. Resamples of very few documents (five or fewer, at level .95) do not spread far
    enough for any quantile; there the interval is the ratio and Student's multiple of its standard
    error. One document tells nothing of others.

    Args:
        numerators: One row per path, one column per number that is asked for.
        denominators: Likewise, not negative; one column serves all.
        docs: The document of each row.
        seed: Of the resampling.
        level: How often an interval shall hold the truth.
        resamples: How many times the documents are drawn anew.
    """
    a, b = _numbers("numerators", numerators), _numbers("denominators", denominators)
    _check(level, resamples)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or b.shape[1] not in (1, a.shape[1]):
        raise BadArgument(
            f"`numerators` {a.shape} and `denominators` {b.shape} must both be (row, column) with "
            "equal rows; `denominators` may have one column."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (b >= 0).all()):
        raise BadArgument(
            "`numerators` or `denominators` holds a number that is not finite, or a negative "
            "denominator. Leave such rows out, with weight zero and value zero."
        )
    a, b = by_document(a, docs), by_document(np.broadcast_to(b, a.shape), docs)
    total = b.sum(axis=0)
    if not (total > 0).all():
        raise BadArgument(
            f"Column {int(np.argmin(total > 0))} of `denominators` sums to zero: no document says "
            "anything about it. Leave the column out."
        )
    value, known = a.sum(axis=0) / total, (b > 0).sum(axis=0)
    ends = _quantile_ends(a, b, known, seed, level, resamples)
    few = known < 1 - math.log2(1 - level)  # a resample reaches the extremes with 2^(1 - n)
    ends[:, few] = _standard_ends(a, b, value, known, level)[:, few]
    ends[:, known < 2] = [[-math.inf], [math.inf]]
    columns = zip(value, *ends, known, strict=True)
    return [Interval(float(v), float(lo), float(hi), level, int(n)) for v, lo, hi, n in columns]


def largest_gap(counts: Any, expected: Any, docs: Any, *, seed: int, **kwargs: Any) -> Interval:
    r"""$D = \max_j |F_j - u_j|$: how far cumulative shares are from what they should be.

    The interval is $D \pm q$, where q bounds $\max_j |F^*_j - F_j|$ over the resamples, so that it
    holds the true distance at least as often as its level says; zero where D may be chance alone.

    Args:
        counts: How many of each row's numbers fell into each bin.
        expected: The share that should lie in each bin.
        docs: The document of each row.
        seed: Of the resampling.
        **kwargs: `level` and `resamples`, as for `bootstrap`.
    """
    counts, expected = _numbers("counts", counts), _numbers("expected", expected)
    level, resamples = kwargs.get("level", 0.95), kwargs.get("resamples", 2000)
    _check(level, resamples)
    sums = by_document(counts, docs)
    sums = sums[sums.sum(axis=1) > 0]
    if not len(sums):
        raise BadArgument("`counts` are all zero. Pass the rows that something was counted in.")
    below = np.cumsum(sums, axis=1)
    shares, n = below.sum(axis=0) / below[:, -1].sum(), len(sums)
    distance = float(np.abs(shares - np.cumsum(expected)).max())
    if n < 2:
        return Interval(distance, 0.0, 1.0, level, n)
    drawn = np.concatenate([w @ below for w in _draws(n, seed, resamples)])
    off = np.abs(drawn / drawn[:, -1:] - shares).max(axis=1)
    tail = (1 - level) / 2
    wider = student(tail, n - 1) / NormalDist().inv_cdf(tail) * math.sqrt(n / (n - 1))
    q = float(np.quantile(off, level)) * wider
    return Interval(distance, max(distance - q, 0.0), min(distance + q, 1.0), level, n)


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a probability, from how often it came true."""
    z, p = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    middle, scale = p + z * z / (2 * trials), 1 + z * z / trials
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def by_document(rows: Float[np.ndarray, "row column"], docs: Any) -> Columns:
    """The sums of the rows of each document."""
    docs = np.asarray(docs)
    if docs.shape != rows.shape[:1]:
        raise BadArgument(
            f"`docs` has shape {docs.shape}, and there are {len(rows)} rows. Pass the document of "
            "each row."
        )
    names, which = np.unique(docs, return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, which, rows)
    return sums


@functools.cache
def student(p: float, dof: int) -> float:
    r"""The quantile of Student's law, from its density over $\theta = \arctan(t/\sqrt\nu)$."""
    if dof > 10_000:  # where the density is too narrow for the grid, and the law is normal to 1e-4
        return NormalDist().inv_cdf(p)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
    density = np.cos(angle).clip(0) ** (dof - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sqrt(dof) * np.tan(np.interp(p, area / area[-1], angle)))


def _quantile_ends(
    a: Columns, b: Columns, known: Any, seed: int, level: float, resamples: int
) -> Float[np.ndarray, "2 column"]:
    both = np.concatenate([a, b], axis=1)
    drawn = np.concatenate([w @ both for w in _draws(len(a), seed, resamples)])
    above, under = drawn[:, : a.shape[1]], drawn[:, a.shape[1] :]
    # A resample may miss every document that has weight in a column.
    ratio = np.where(under > 0, above / np.where(under > 0, under, 1.0), np.nan)
    ends = np.zeros((2, a.shape[1]))
    for n in np.unique(known):
        if n > 1:
            wide = math.sqrt(n / (n - 1)) * student((1 - level) / 2, int(n) - 1)
            p = NormalDist().cdf(wide)
            ends[:, known == n] = np.nanquantile(ratio[:, known == n], [p, 1 - p], axis=0)
    return ends


def _standard_ends(
    a: Columns, b: Columns, value: Any, known: Any, level: float
) -> Float[np.ndarray, "2 column"]:
    n = np.maximum(known, 2)
    residual = a - value * b
    error = np.sqrt(np.sum(residual**2, axis=0) * n / (n - 1)) / b.sum(axis=0)
    t = np.array([student((1 + level) / 2, int(k) - 1) for k in n])
    return np.stack([value - t * error, value + t * error])


def _draws(
    documents: int, seed: int, resamples: int
) -> Iterator[Float[np.ndarray, "resample document"]]:
    """How often each document is drawn in each resample, some resamples at a time."""
    rng = np.random.default_rng(seed)
    size = max(BLOCK // documents, 1)
    for start in range(0, resamples, size):
        some = min(size, resamples - start)
        which = rng.integers(documents, size=(some, documents))
        which += documents * np.arange(some)[:, None]
        counts = np.bincount(which.ravel(), minlength=some * documents)
        yield counts.reshape(some, documents).astype(float)


def _numbers(name: str, x: Any) -> Shaped[np.ndarray, "..."]:
    try:
        return np.asarray(x, float)
    except (TypeError, ValueError):
        raise BadArgument(f"`{name}` is no array of numbers. Pass one number per row.") from None


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise BadArgument(f"`level` is {level}. Use a number between 0 and 1, such as .95.")
    if resamples < 100:
        raise BadArgument(f"`resamples` is {resamples}. Use 100 or more; 2000 is usual.")
