"""Memory: how alike states some steps apart are, and how long that lasts."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int

from .._io import BadArgument
from ..baselines._pairs import check_paths, documents_of
from ..stats import Interval, by_document, ratios
from ..trajectory import Trajectory
from .findings import Finding, finding, withheld

PerPath = Float[np.ndarray, "path column"]
Weights = Float[np.ndarray, "path weight"]  # one for each column, or one for all
LONGEST = 200  # lags that an integrated correlation time may sum over
WINDOW = 5.0  # it stops at the first lag that is so many times the time found so far
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
        findings: Two for each lag.
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
    expectation is known, is given beside it.

    Args:
        paths: A batch of paths; a lag is a number of steps, whatever their gaps.
        docs: The document of each path.
        lags: In steps.
        burn: How many first states of each path are left out.
        seed: Of the resampling.
    """
    _check_lags(lags)
    rows = rows_of(paths, docs, burn)
    x, n = rows.centred(), rows.seen.sum(axis=1)
    dim, number = x.shape[2], len(lags)
    total, square = x.sum(axis=1), (x**2).sum(axis=1)
    pair = (total**2 - square) / np.maximum(n * (n - 1), 1)[:, None]  # E[x_i x_j] in random order
    sums = [lagged(x, rows.seen, lag) for lag in lags]
    a, b = (np.stack([s[i] for s in sums], axis=1) for i in (0, 1))  # (path, lag, dim)
    pairs = np.stack([s[2] for s in sums], axis=1)
    chance = pairs * pair.sum(axis=1)[:, None]
    whole, under = a.sum(axis=2), b.sum(axis=2)
    every = np.concatenate([whole, whole - chance, a.reshape(len(a), -1)], axis=1)
    denominators = np.concatenate([under, under, b.reshape(len(a), -1)], axis=1)
    found = measured(every, denominators, rows.docs, seed)
    results: list[Finding] = []
    for i, lag in enumerate(lags):
        what = f"lag-{lag} autocorrelation"
        if not under[:, i].sum() > 0:
            results += [withheld(what, "no path is that long, or no state differs from the mean")]
            continue
        results += [
            finding(what, found[i], 0.0),
            finding(
                f"{what} beyond that of the same states in random order", found[i + number], 0.0
            ),
        ]
    with np.errstate(invalid="ignore"):
        shuffled = chance.sum(axis=0) / under.sum(axis=0)
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
        integrated: The integrated correlation time.
        window: Up to which lag it was summed.
        lags: Of the implied times.
        modulus: $\mu_l$, the correlation along the slowest direction: value, ends.
        times: The implied times $-l\,\Delta t/\log \mu_l$ with ends; infinite from $\mu = 1$ on.
        dt: The step.
        findings: The integrated time, the slowest time, and how it changes with the lag.
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
    on the others, so that it is zero on average where there is no memory. The implied times agree
    at all lags where the process is linear and Markov.

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
    whole, window = _integrated(rows, x, seed)
    whole = _between(whole, [dt * v for v in whole[:3]])
    num, den = _slowest(rows, x, lags)
    mu = measured(num, den, rows.docs, seed)
    times = np.array([[_time(v, lag * dt) for v in m[:3]] for m, lag in zip(mu, lags)])
    note = "its upper end is infinite" if np.isinf(times[0, 2]) and mu[0].documents > 1 else ""
    slow = finding("slowest relaxation time", _between(mu[0], times[0]), 0.0, note=note)
    if not mu[0].value < 1 - 1e-9:
        slow = withheld("slowest relaxation time", "the slowest direction does not decay")
    results = [
        finding("integrated correlation time", whole, dt / 2, of_null="of independent states"),
        finding(f"lag-{lags[0]} correlation along the slowest direction", mu[0], 0.0),
        slow,
    ]
    for j, lag in enumerate(lags[1:], 1):
        what = f"slowest rate at lag {lag} less that at lag {lags[0]}"
        if not (0 < mu[0].low and 0 < mu[j].low):
            results.append(withheld(what, "the correlation at one of them may be zero"))
            continue
        change, total = 0.0, 0.0
        for i, sign in ((j, -1.0), (0, 1.0)):
            scale = sign / (lags[i] * dt)
            total += scale * float(np.log(mu[i].value))
            part = (num[:, i] - mu[i].value * den[:, i]) / (den[:, i].sum() * mu[i].value)
            change = change + scale * part
        results.append(
            finding(
                what,
                by_influence(total, change, rows.docs, seed),
                0.0,
                of_null="of a linear Markov process",
            )
        )
    return Relaxation(ends([whole])[0], window, np.array(lags), ends(mu), times, dt, tuple(results))


def _integrated(rows: Rows, x: Any, seed: int) -> tuple[Interval, int]:
    """A half plus the sum of correlations, in steps, up to a window that grows with it."""
    total, change = 0.5, np.zeros(len(x))
    lag = 0
    for lag in range(1, min(LONGEST, x.shape[1] - 1) + 1):
        a, b, _ = (s.sum(axis=1) if s.ndim == 2 else s for s in lagged(x, rows.seen, lag))
        if not b.sum() > 0:
            lag -= 1
            break
        r = a.sum() / b.sum()
        total, change = total + r, change + (a - r * b) / b.sum()
        if lag >= WINDOW * total:
            break
    return by_influence(total, change, rows.docs, seed), lag


def _slowest(rows: Rows, x: Any, lags: Sequence[int]) -> tuple[PerPath, PerPath]:
    half = halves(rows.docs)
    num, den = (np.zeros((len(x), len(lags))) for _ in range(2))
    step = rows.seen[:, :-1] & rows.seen[:, 1:]
    for h in np.unique(half):
        use = others(half, h)
        a, b = x[use, :-1][step[use]], x[use, 1:][step[use]]
        values, vectors = np.linalg.eig(np.linalg.lstsq(a, b, rcond=None)[0])  # F^T, so left ones
        top = int(np.argmax(np.abs(values)))
        value, w = values[top], vectors[:, top]
        turn = np.conj(value) / max(abs(value), 1e-300)
        s = x[half == h] @ w
        for j, lag in enumerate(lags):
            both = rows.seen[half == h][:, :-lag] & rows.seen[half == h][:, lag:]
            product = np.real(turn**lag * s[:, lag:] * np.conj(s[:, :-lag]))
            size = np.abs(s[:, :-lag]) ** 2 / 2 + np.abs(s[:, lag:]) ** 2 / 2
            num[half == h, j] = np.where(both, product, 0).sum(axis=1)
            den[half == h, j] = np.where(both, size, 0).sum(axis=1)
    return num, den


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
