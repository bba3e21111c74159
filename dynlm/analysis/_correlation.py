"""Memory: how alike states some steps apart are, and how long that lasts."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int

from .._io import BadArgument, counted
from ..baselines._pairs import check_paths, documents_of
from ..stats import Interval, by_document, ratios
from ..trajectory import Trajectory
from .findings import Finding, finding, withheld

PerPath = Float[np.ndarray, "path column"]
Weights = Float[np.ndarray, "path weight"]  # one for each column, or one for all
LONGEST = 200  # lags that an integrated correlation time may sum over
WINDOW = 5.0  # it stops at the first lag that is so many times the time found beyond random order
LEAST = 4  # so many times what it is summed over must the longest path have, or it may not end
RANDOM = "of the same states in random order"
UNKNOWN = Interval(float("nan"), float("-inf"), float("inf"), 0.95, 0)


@final
class Rows(NamedTuple):
    """Paths on the host: zero wherever a state is not looked at.

    Args:
        ts: Times.
        ys: States.
        seen: Which states are real, and not among the first `burn` of their path.
        docs: The document of each path.
    """

    ts: Float[np.ndarray, "path time"]
    ys: Float[np.ndarray, "path time dim"]
    seen: Bool[np.ndarray, "path time"]
    docs: np.ndarray

    @property
    def steps(self) -> Bool[np.ndarray, "path step"]:
        """Which transitions count: both states seen, and time moves."""
        return self.seen[:, :-1] & self.seen[:, 1:] & (np.diff(self.ts, axis=1) > 0)

    @property
    def dt(self) -> float:
        """The middle gap between two states."""
        return float(np.median(np.diff(self.ts, axis=1)[self.steps]))

    def centred(self) -> Float[np.ndarray, "path time dim"]:
        """The states less the mean of all: a path's own mean would take memory away with it."""
        mean = self.ys.sum(axis=(0, 1)) / self.seen.sum()
        return np.where(self.seen[:, :, None], self.ys - mean, 0.0)


def rows_of(paths: Trajectory, docs: Any, burn: int) -> Rows:
    """The states that an analysis looks at, in float64."""
    check_paths(paths, burn)
    seen = np.asarray(paths.mask).copy()
    seen[:, :burn] = False
    ys = np.where(seen[:, :, None], np.asarray(paths.ys), 0).astype(float)
    rows = Rows(np.asarray(paths.ts).astype(float), ys, seen, documents_of(paths, docs))
    if not rows.steps.any():
        raise BadArgument("`paths` has no two states at different times. Give times that increase.")
    return rows


def measured(numerators: PerPath, denominators: Weights, docs: Any, seed: int) -> list[Interval]:
    """The ratio of sums of each column by document, and nothing where a denominator is zero."""
    b = np.broadcast_to(denominators, numerators.shape)
    known = np.flatnonzero(b.sum(axis=0) > 0)
    found = [UNKNOWN] * numerators.shape[1]
    if len(known):
        for j, one in zip(known, ratios(numerators[:, known], b[:, known], docs, seed=seed)):
            found[j] = one
    return found


def by_influence(value: float, influence: Any, docs: Any, seed: int) -> Interval:
    r"""A smooth function of sums, by its first-order change $\psi_i$ with each path's weight.

    The estimate under resampled documents is $\hat\theta + \sum_i w_i \psi_i$ to first order.
    """
    if not np.isfinite(value):
        return UNKNOWN
    sums = by_document(np.asarray(influence, float)[:, None], docs)
    pseudo = value + len(sums) * sums
    (found,) = ratios(pseudo, np.ones_like(pseudo), np.arange(len(sums)), seed=seed)
    return found._replace(value=float(value))


def reordered(rows: Rows, rng: np.random.Generator) -> Rows:
    """The same with the states that are seen of each path in random order."""
    before = np.cumsum(rows.seen, axis=1) == 0
    keys = np.where(rows.seen, rng.random(rows.seen.shape), np.where(before, -1.0, 2.0))
    order = np.argsort(keys, axis=1, kind="stable")  # what is seen has no holes, so it stays put
    return rows._replace(ys=np.take_along_axis(rows.ys, order[:, :, None], axis=1))


def by_chance(x: Any, seen: Any, pairs: Any) -> Any:
    r"""What $x_k^* x_{k+l}$ sum to on average in random order: by path, and by column of `pairs`.

    Args:
        x: States or numbers of each path, zero where nothing is seen.
        seen: Where something is.
        pairs: How many pairs are summed.
    """
    n, square = seen.sum(axis=1), (np.abs(x) ** 2).sum(axis=(1, 2))
    total = (np.abs(x.sum(axis=1)) ** 2).sum(axis=1)
    return pairs * ((total - square) / np.maximum(n * (n - 1), 1))[:, None]


def against(what: str, beyond: Interval, null: float, **kwargs: Any) -> Finding:
    """A number that is `null` plus a paired difference, with the interval of that difference.

    So the verdict is that of the difference, in which the null value's own errors are counted.
    """
    moved = _between(beyond, [v + null for v in beyond[:3]])
    return finding(what, moved, float(null), **({"of_null": RANDOM} | kwargs))


def crossed(found: Interval) -> Interval:
    r"""The interval of a number for which each half of the documents chose what the other measures.

    Where there is nothing, both halves' parts are $A \cdot B$ over a size: equal, not independent.
    So the standard error there is $\sqrt2$ times that by document: the end next to 0 moves.
    """
    low, high = (found.value + (v - found.value) * math.sqrt(2) for v in found[1:3])
    return found._replace(low=low) if found.value > 0 else found._replace(high=high)


def with_tails(found: Interval, count: int, scale: float = 1.0) -> Interval:
    r"""The interval of a kurtosis, its upper end no nearer than that of so many Gaussian numbers.

    Resampling does not know of tails that few numbers do not show: where they are short, both the
    kurtosis and its resampled spread are too small. That of n Gaussian numbers has a standard error
    of $\sqrt{24/n}$; `scale` is that of the number in units of a kurtosis.
    """
    least = NormalDist().inv_cdf((1 + found.level) / 2) * scale * math.sqrt(24 / max(count, 1))
    return found._replace(high=max(float(found.high), float(found.value) + least))


def halves(docs: Any) -> Int[np.ndarray, " path"]:
    """0 or 1 for each path, by its document in turn; all 0 if there is one document."""
    names, which = np.unique(docs, return_inverse=True)
    return which % min(2, len(names))


def others(half: Int[np.ndarray, " path"], h: Any) -> Bool[np.ndarray, " path"]:
    """The paths that a choice for half `h` is made on: the other half, if there is one."""
    return half != h if half.any() else half == h


def ends(found: Sequence[Interval]) -> Float[np.ndarray, "column 3"]:
    """Value, lower and upper end of each, to draw from."""
    return np.array([[one.value, one.low, one.high] for one in found])


@final
class Autocorrelation(NamedTuple):
    """What `autocorrelation` found.

    Args:
        lags: In steps.
        trace: Of all components together: value, lower and upper end for each lag.
        component: The same of each component.
        shuffled: What the trace is on average for the states of each path in random order.
        findings: One for each lag.
    """

    lags: Int[np.ndarray, " lag"]
    trace: Float[np.ndarray, "lag 3"]
    component: Float[np.ndarray, "lag dim 3"]
    shuffled: Float[np.ndarray, " lag"]
    findings: tuple[Finding, ...]


def autocorrelation(
    paths: Trajectory,
    docs: Any,
    *,
    lags: Sequence[int] = (1, 2, 4, 8, 16),
    burn: int = 1,
    seed: int = 0,
) -> Autocorrelation:
    r"""$r_l = \sum_k x_k^\top x_{k+l} \,/\, \tfrac12\sum_k (|x_k|^2 + |x_{k+l}|^2)$, x centred.

    The mean over all paths is taken away, not that of each path. Paths that lie apart then have a
    correlation without any order in time: that of a path's states in random order, whose
    expectation is known, is the null value. The interval of a finding is that of the paired
    difference from it, moved by the null value; those of `trace` are of the correlation alone.

    Args:
        paths: A batch of paths; a lag is a number of steps, whatever their gaps.
        docs: The document of each path.
        lags: In steps.
        burn: How many first states of each path are left out.
        seed: Of the resampling.
    """
    _check_lags(lags)
    rows = rows_of(paths, docs, burn)
    x, number = rows.centred(), len(lags)
    dim = x.shape[2]
    sums = [lagged(x, rows.seen, lag) for lag in lags]
    a, b = (np.stack([s[i] for s in sums], axis=1) for i in (0, 1))  # (path, lag, dim)
    chance = by_chance(x, rows.seen, np.stack([s[2] for s in sums], axis=1))
    whole, under = a.sum(axis=2), b.sum(axis=2)
    every = np.concatenate([whole, whole - chance, a.reshape(len(a), -1)], axis=1)
    denominators = np.concatenate([under, under, b.reshape(len(a), -1)], axis=1)
    found = measured(every, denominators, rows.docs, seed)
    with np.errstate(invalid="ignore"):
        shuffled = chance.sum(axis=0) / under.sum(axis=0)
    results: list[Finding] = []
    for i, lag in enumerate(lags):
        what = f"correlation of states {counted(lag, 'step')} apart"
        if not under[:, i].sum() > 0:
            results += [withheld(what, "no path is that long, or no state differs from the mean")]
        else:
            results += [against(what, found[i + number], shuffled[i])]
    component = ends(found[2 * number :]).reshape(number, dim, 3)
    return Autocorrelation(
        np.array(lags), ends(found[:number]), component, shuffled, tuple(results)
    )


def lagged(x: Any, seen: Any, lag: int) -> tuple[PerPath, PerPath, Any]:
    """Per path and component: products at a lag, what they are measured by; and how many pairs."""
    a, b = x[:, :-lag], x[:, lag:]
    both = (seen[:, :-lag] & seen[:, lag:])[:, :, None]
    product = np.where(both, a * b, 0).sum(axis=1)
    return product, np.where(both, a**2 + b**2, 0).sum(axis=1) / 2, both.sum(axis=(1, 2))


@final
class Relaxation(NamedTuple):
    r"""What `relaxation` found; times in the unit of `paths.ts`.

    Args:
        integrated: The integrated correlation time, with ends.
        window: Up to which lag it was summed.
        lags: Of the implied times.
        modulus: $\mu_l$, the correlation along the slowest direction: value, ends.
        times: The implied times $-l\,\Delta t/\log \mu_l$ with ends; infinite from $\mu = 1$ on.
        dt: The step.
        findings: The integrated time, the slowest correlation and its time, and how its rate
            changes with the lag.
    """

    integrated: Float[np.ndarray, " 3"]
    window: int
    lags: Int[np.ndarray, " lag"]
    modulus: Float[np.ndarray, "lag 3"]
    times: Float[np.ndarray, "lag 3"]
    dt: float
    findings: tuple[Finding, ...]


def relaxation(
    paths: Trajectory,
    docs: Any,
    *,
    lags: Sequence[int] = (1, 2, 4),
    burn: int = 1,
    seed: int = 0,
) -> Relaxation:
    r"""$\tau = \Delta t(\tfrac12 + \sum_l r_l)$, and the slowest $\tau_l = -l\Delta t/\log|\mu_l|$.

    The slowest left eigenvector $w$ of the regression of $x_{k+1}$ on $x_k$ makes $s = w^* x$, for
    which $E[s_{k+1} \mid x_k] = \lambda s_k$. It is found on half of the documents, and
    $\mu_l = \mathrm{Re}\sum_k e^{-il\arg\lambda}\, s_{k+l}\, \bar s_k / \sum_k |s_k|^2$ is measured
    on the others. The implied times agree at all lags where the process is linear and Markov.

    Documents with means of their own have correlations that are no memory. So $\tau$ and $\mu_l$
    have the null values that the states of each path have on average in random order, and intervals
    of the paired differences from these; rates are compared only where both are beyond them.

    Args:
        paths: A batch of evenly spaced paths.
        docs: The document of each path.
        lags: Of the implied times, in steps; the first is what the others are compared with.
        burn: How many first states of each path are left out.
        seed: Of the resampling.
    """
    _check_lags(lags)
    rows = rows_of(paths, docs, burn)
    x, dt = rows.centred(), rows.dt
    whole, beyond, window = _integrated(rows, x, seed)
    whole, beyond = (_between(one, [dt * v for v in one[:3]]) for one in (whole, beyond))
    num, den, chance = _slowest(rows, x, lags)
    both = measured(np.hstack([num, num - chance]), np.hstack([den, den]), rows.docs, seed)
    mu, more = both[: len(lags)], [crossed(one) for one in both[len(lags) :]]
    nulls = [m.value - d.value for m, d in zip(mu, more)]
    times = np.array([[_time(v, lag * dt) for v in m[:3]] for m, lag in zip(mu, lags)])
    what = f"lag-{lags[0]} correlation along the slowest direction"
    results = [
        _summed(beyond, whole.value - beyond.value, window, rows),
        against(what, more[0], nulls[0]),
        _slowest_time(mu[0], more[0], lags[0] * dt),
    ]
    for j, lag in enumerate(lags[1:], 1):
        what = f"slowest rate at lag {lag} less that at lag {lags[0]}"
        if not all(0 < min(mu[i].low, more[i].low) for i in (0, j)):
            why = "the correlation at one of them may be none, or that of random order"
            results.append(withheld(what, why))
            continue
        change, total = 0.0, 0.0
        for i, sign in ((j, -1.0), (0, 1.0)):
            scale = sign / (lags[i] * dt)
            total += scale * float(np.log(mu[i].value))
            part = (num[:, i] - mu[i].value * den[:, i]) / (den[:, i].sum() * mu[i].value)
            change = change + scale * part
        one = by_influence(total, change, rows.docs, seed)
        results.append(_rates(what, one, mu[0].value, nulls[0], (lags[0] * dt, lag * dt)))
    return Relaxation(ends([whole])[0], window, np.array(lags), ends(mu), times, dt, tuple(results))


def _slowest_time(mu: Interval, beyond: Interval, dt: float) -> Finding:
    """The time of the slowest correlation: as the correlation, beside that of random order."""
    what = "slowest relaxation time"
    null = mu.value - beyond.value
    if not (mu.value < 1 - 1e-9 and null < 1):
        return withheld(what, "the slowest direction does not decay")
    moved = _between(mu, [_time(v + null, dt) for v in beyond[:3]])
    note = "its upper end is infinite" if np.isinf(moved.high) and mu.documents > 1 else ""
    return finding(what, moved, _time(null, dt), of_null=RANDOM, note=note)


def _rates(what: str, one: Interval, mu: float, chance: float, dt: tuple[float, float]) -> Finding:
    r"""A change of the rate with the lag, beyond what means of documents' own can explain.

    If all of the correlation c in random order is theirs, and $\mu_1 = c + (1 - c)e^{-\kappa l_1}$,
    the rate at a longer lag is lower though the process is linear and Markov about each mean.
    """
    of_null = "of a linear Markov process"
    if not one.high < 0:
        return finding(what, one, 0.0, of_null=of_null)
    c = max(chance, 0.0)
    later = c + (1 - c) * ((mu - c) / (1 - c)) ** (dt[1] / dt[0])
    null = float(np.log(mu) / dt[0] - np.log(later) / dt[1])
    if one.low > null:
        return withheld(what, "documents with means of their own may make it negative")
    return finding(what, one, null, of_null=f"{of_null} whose documents have means of their own")


def _summed(beyond: Interval, null: float, window: int, rows: Rows) -> Finding:
    """The integrated correlation time, unless paths are too short to say that it ends."""
    what, most = "integrated correlation time", rows.seen.sum(axis=1).max() / LEAST
    if window > most:
        why = (
            f"correlations up to lag {window} matter, and paths have {most * LEAST:.0f} states: "
            f"pass paths {LEAST} times as long as that"
        )
        return withheld(what, why)
    found = against(what, beyond, null)
    return found._replace(note=found.note or f"Summed up to lag {window}")


def _integrated(rows: Rows, x: Any, seed: int) -> tuple[Interval, Interval, int]:
    """A half plus the sum of correlations, in steps, up to a window; and what is not of chance.

    The window grows with the part that is beyond random order: the rest does not decay.
    """
    total, beyond = 0.5, 0.0
    change, more = np.zeros(len(x)), np.zeros(len(x))
    lag = 0
    for lag in range(1, min(LONGEST, x.shape[1] - 1) + 1):
        a, b, pairs = (s.sum(axis=1) if s.ndim == 2 else s for s in lagged(x, rows.seen, lag))
        if not b.sum() > 0:
            lag -= 1
            break
        excess = a - by_chance(x, rows.seen, pairs[:, None])[:, 0]
        r, e = a.sum() / b.sum(), excess.sum() / b.sum()
        total, change = total + r, change + (a - r * b) / b.sum()
        beyond, more = beyond + e, more + (excess - e * b) / b.sum()
        if lag >= WINDOW * (0.5 + beyond):
            break
    whole, rest = (by_influence(*v, rows.docs, seed) for v in ((total, change), (beyond, more)))
    return whole, rest, lag


def _slowest(rows: Rows, x: Any, lags: Sequence[int]) -> tuple[PerPath, PerPath, PerPath]:
    """Products along the slowest direction, what they are measured by, and those of chance."""
    half = halves(rows.docs)
    num, den, chance = (np.zeros((len(x), len(lags))) for _ in range(3))
    step = rows.seen[:, :-1] & rows.seen[:, 1:]
    for h in np.unique(half):
        use, seen = others(half, h), rows.seen[half == h]
        a, b = x[use, :-1][step[use]], x[use, 1:][step[use]]
        values, vectors = np.linalg.eig(np.linalg.lstsq(a, b, rcond=None)[0])  # F^T, so left ones
        top = int(np.argmax(np.abs(values)))
        value, w = values[top], vectors[:, top]
        turn = np.conj(value) / max(abs(value), 1e-300)
        s = x[half == h] @ w
        for j, lag in enumerate(lags):
            both = seen[:, :-lag] & seen[:, lag:]
            product = np.real(turn**lag * s[:, lag:] * np.conj(s[:, :-lag]))
            size = np.abs(s[:, :-lag]) ** 2 / 2 + np.abs(s[:, lag:]) ** 2 / 2
            num[half == h, j] = np.where(both, product, 0).sum(axis=1)
            den[half == h, j] = np.where(both, size, 0).sum(axis=1)
            pairs = np.real(turn**lag) * both.sum(axis=1)
            chance[half == h, j] = by_chance(s[:, :, None], seen, pairs[:, None])[:, 0]
    return num, den, chance


def _between(found: Interval, values: Any) -> Interval:
    value, low, high = (float(v) for v in values)
    return found._replace(value=value, low=low, high=high)


def _time(mu: float, dt: float) -> float:
    """How long a correlation of `mu` after `dt` lasts."""
    if not np.isfinite(mu):
        return float("nan") if np.isnan(mu) else 0.0 if mu < 0 else float("inf")
    return 0.0 if mu <= 0 else float("inf") if mu >= 1 else float(-dt / np.log(mu))


def _check_lags(lags: Sequence[int]) -> None:
    if not lags or not all(isinstance(lag, int) and lag >= 1 for lag in lags):
        raise BadArgument(f"`lags` is {lags!r}. Use whole numbers of steps from 1 on.")
