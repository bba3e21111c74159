"""`order`: does the order of states in time hold anything, and anything beyond a linear model?"""

import enum
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from .._io import BadArgument
from ..stats import bootstrap
from ..trajectory import Trajectory
from ._ridge import FEATURES, Ridge
from ._scales import FOLDS, Rows, States, states_of, too_few
from .findings import Finding, Verdict, finding, shown, withheld

SQUARES = 9.0  # a squared standard residual counts as no more
SQUARE_NOISE = 2.0  # the variance of a squared standard residual that is Gaussian
ROUNDING = 1e-8  # nats; so little comes of what keeps covariances regular
RANGE = 4.0  # variances move at most by this factor either way
KINDS = (
    "gain of a linear model over none",
    "gain of a nonlinear model over the linear one",
    "part of it from the mean",
    "part of it from the variance",
)
NULL = "where time has no order"
LINEAR_NULL = "of a linear model"

Vector = Float[np.ndarray, " number"]
Parts = Float[np.ndarray, " part"]
Orders = Float[np.ndarray, "order part"]


@final
class Order(enum.Enum):
    """What the order in time holds."""

    NONE = "none"  # nothing that was found
    LINEAR = "linear"  # a linear model of the next state gains; a nonlinear one no more than it
    NONLINEAR = "nonlinear"  # mean or variance of the next state is no linear function of this one
    UNDECIDED = "undecided"  # too few documents to say


@final
class OrderTest(NamedTuple):
    """What `order` found; gains are in nats per step and dimension.

    Args:
        verdict: In a word.
        findings: The linear gain; the nonlinear one; and its parts from mean and variance.
        linear: What the statistic of the linear question is in the order given.
        linear_shuffled: What it is in each random order.
        nonlinear: What the statistic of the nonlinear question is in the order given.
        nonlinear_shuffled: What it is in each random order of the states.
        nonlinear_permuted: What it is in each random order of the linear model's residuals.
        documents: How many were used.
        transitions: How many were used.
        mean_beyond: Whether the mean of the next state is no linear function of this one: the
            interval of that part is above zero, and the part is above that of all random orders.
        variance_beyond: Likewise, whether its variance depends on this one.
    """

    verdict: Order
    findings: tuple[Finding, ...]
    linear: float
    linear_shuffled: Vector
    nonlinear: float
    nonlinear_shuffled: Vector
    nonlinear_permuted: Vector
    documents: int
    transitions: int
    mean_beyond: bool
    variance_beyond: bool


def order(
    paths: Trajectory,
    docs: Any,
    *,
    seed: int = 0,
    burn: int = 1,
    orders: int = 39,
    features: int = FEATURES,
    most: int = 2**15,
    level: float = 0.95,
) -> OrderTest:
    r"""Two questions on held-out documents, each answered by an interval and by permutations.

    Linear: what $y' \sim N(Fy + b, S)$ gains over $y' \sim N(m, S_0)$. Nonlinear: what
    $r \sim N(W^\top\phi(y), \mathrm{diag}\,v(y))$ gains over $r \sim N(0, I)$ for the standard
    residual r of the linear model, with ridge regressions of r and of its square on functions
    $\phi$ of many components, or of one direction (`Ridge`). Models are of four fifths of the
    documents and scored on the others. A gain is claimed where its interval by document is above
    zero, and the order given also gains more than all random ones: of the states within each path;
    for the nonlinear question also of the linear model's residuals within each path.

    Args:
        paths: A batch of paths.
        docs: The document of each path.
        seed: Of folds, cosines, random orders and resampling.
        burn: The first states of each path, which are left out.
        orders: How many random orders; with 39, chance alone is above all with 1/40.
        features: How many cosines of all components at once.
        most: Transitions; of more, whole documents drawn at random are used.
        level: Of the intervals.
    """
    if orders < 19:
        raise BadArgument(f"`orders` is {orders}. Use 19 or more; 39 is usual.")
    rng = np.random.default_rng(seed)
    s = states_of(paths, docs, burn=burn, seed=seed, most=most)
    documents = len(np.unique(s.doc))
    if why := too_few(s):
        told, none = tuple(withheld(kind, why) for kind in KINDS[:2]), np.zeros(0)
        return OrderTest(Order.UNDECIDED, told, 0.0, none, 0.0, none, none, documents, len(s.x),
                         False, False)  # fmt: skip
    ridge = Ridge(s, features, rng)
    linear, shuffled, bent, by_states, by_residuals = _statistics(s, ridge, orders, rng)
    of_doc, weights = _linear_gains(s)
    gains = refined(s, ridge).gains
    gains = np.where(np.abs(gains) < ROUNDING, 0.0, gains)
    ones, names, dim = np.ones(len(s.x)), np.unique(s.doc), s.z.shape[1]

    def told_of(kind: str, values: Vector, weights: Vector, docs: Any, null: str) -> Finding:
        found = bootstrap(values / dim, weights, docs, seed=seed, level=level)
        return finding(kind, found, 0.0, unit="nats per step and dimension", of_null=null)

    first = told_of(KINDS[0], of_doc / weights, weights, names, NULL)
    each = gains.sum(axis=1), gains[:, 0], gains[:, 1]
    first = _permuted(first, linear, shuffled, "orders of the states")
    told = [
        told_of(kind, values, ones, s.doc, LINEAR_NULL)
        for kind, values in zip(KINDS[1:], each, strict=True)
    ]
    for others, of_what in ((by_states, "states"), (by_residuals, "residuals")):
        told = [
            _permuted(one, real, values, f"orders of the {of_what}")
            for one, real, values in zip(told, bent, others.T, strict=True)
        ]
    second, mean, variance = told
    verdict = Order.NONE
    if first.verdict is Verdict.ABOVE:
        verdict = Order.LINEAR
    if second.verdict is Verdict.ABOVE:
        verdict = Order.NONLINEAR
    return OrderTest(
        verdict, (first, *told), linear, shuffled, float(bent[0]), by_states[:, 0],
        by_residuals[:, 0], documents, len(s.x), mean.verdict is Verdict.ABOVE,
        variance.verdict is Verdict.ABOVE,
    )  # fmt: skip


@final
class Refined(NamedTuple):
    """The one-step model with nonlinear mean and variance, on documents it was not fitted to.

    Args:
        linear: Residuals of the linear model, with covariance one on its training documents.
        residual: Those of the nonlinear model over its standard deviations.
        gains: Nats per step over the linear model: from the mean, and from the variance.
    """

    linear: Rows
    residual: Rows
    gains: Float[np.ndarray, "step 2"]


def refined(s: States, ridge: Ridge) -> Refined:
    """Fits by fold, and what they say of the fold left out."""
    x, y, dim = s.z[s.x], s.z[s.x + 1], s.z.shape[1]
    both = np.column_stack([np.ones(len(x)), x, y])
    parts = np.stack([both[s.fold == k].T @ both[s.fold == k] for k in range(FOLDS)])
    phi = ridge.phi[s.x]
    linear, residual, gains = np.zeros_like(y), np.zeros_like(y), np.zeros((len(y), 2))
    for k in range(FOLDS):
        train, test = s.fold != k, s.fold == k
        f, covariance, _ = _regressed(parts.sum(axis=0) - parts[k], 1 + dim)
        r = np.linalg.solve(np.linalg.cholesky(covariance), (y - both[:, : 1 + dim] @ f).T).T
        size = r[train].std(axis=0)
        r /= np.where(size > 0, size, 1.0)  # where a linear model is exact, what rounding left

        def mean_of(values: Rows, noise: float, k: int = k) -> Rows:
            full = np.zeros((len(s.z), dim))
            full[s.x] = values
            index, weights = ridge.solve(k, ridge.sums(full), noise)
            return phi[:, index] @ weights

        e = r - mean_of(r, 1.0)
        v0 = np.maximum(np.mean(e[train] ** 2, axis=0), 1e-12)
        u = np.minimum(e**2 / v0, SQUARES)
        change = mean_of(u - u[train].mean(axis=0), SQUARE_NOISE)
        v = v0 * np.clip(1 + change, 1 / RANGE, RANGE)
        v *= np.mean(e[train] ** 2 / v[train], axis=0)
        by_mean = 0.5 * (r**2 - e**2 / v0 - np.log(v0))
        by_variance = 0.5 * (e**2 / v0 - e**2 / v - np.log(v / v0))
        gains[test] = np.stack([by_mean.sum(axis=1), by_variance.sum(axis=1)], axis=1)[test]
        linear[test], residual[test] = r[test], (e / np.sqrt(v))[test]
    return Refined(linear, residual, gains)


def _statistics(
    s: States, ridge: Ridge, orders: int, rng: np.random.Generator
) -> tuple[float, Vector, Parts, Orders, Orders]:
    """Both statistics in the order given and in random ones, per step and dimension.

    The nonlinear one is followed by its parts, of the mean and of the variance.
    """
    unit = len(s.x) * s.z.shape[1]
    dim, start = s.z.shape[1], np.flatnonzero(np.diff(s.path[s.x], prepend=-1))
    size = np.diff(start, append=len(s.x))

    def nonlinear(values: np.ndarray, at: Int[np.ndarray, " step"]) -> Parts:
        full = np.zeros((len(s.z), 2 * dim))
        full[at] = values
        c = ridge.sums(full)
        mean, variance = ridge.gain(c[:, :, :dim], 1.0), ridge.gain(c[:, :, dim:], SQUARE_NOISE)
        parts = mean / 2 / unit, variance / 4 / unit
        return np.array([sum(parts), *parts])

    def both(at: Int[np.ndarray, " state"]) -> tuple[float, Parts, np.ndarray]:
        """In the order in which state `at[i]` stands where state i stood."""
        x, y = s.z[at[s.x]], s.z[at[s.x + 1]]
        values = _residuals(x, y, start, size)
        sums = _sums(x, y, s.fold, FOLDS)
        gain = _gains(sums, np.arange(FOLDS), sums, dim).sum()
        return gain / unit, nonlinear(values, at[s.x]), values

    real, bent, values = both(np.arange(len(s.z)))
    turned = [both(_shuffled(s.path, rng))[:2] for _ in range(orders)]
    permuted = [
        nonlinear(values[_shuffled(s.path[s.x], rng)], s.x) for _ in range(orders)
    ]  # fmt: skip
    shuffled, by_states = (np.array(values) for values in zip(*turned))
    return real, shuffled, bent, by_states, np.array(permuted)


def _shuffled(path: Int[np.ndarray, " state"], rng: np.random.Generator) -> np.ndarray:
    """A random order within each path."""
    return np.lexsort((rng.random(len(path)), path))


def _residuals(
    x: Rows, y: Rows, start: np.ndarray, size: np.ndarray
) -> Float[np.ndarray, "state both"]:
    """Standard residuals of a linear model with a constant of each path, and their squares."""

    def centred(values: Rows) -> Rows:
        return values - np.repeat(np.add.reduceat(values, start) / size[:, None], size, axis=0)

    x, y = centred(x), centred(y)
    r = y - x @ np.linalg.lstsq(x.T @ x, x.T @ y, rcond=None)[0]
    covariance = r.T @ r / len(r)
    covariance += 1e-9 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    r = np.linalg.solve(np.linalg.cholesky(covariance), r.T).T
    return np.concatenate([r, centred(np.minimum(r**2, SQUARES))], axis=1)


def _sums(x: Rows, y: Rows, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums of products of one, this state and the next one; groups stand one after another."""
    both = np.column_stack([np.ones(len(x)), x, y])
    ends = np.searchsorted(group, np.arange(groups + 1))
    return np.stack([both[a:b].T @ both[a:b] for a, b in zip(ends, ends[1:])])


def _regressed(a: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients and the residual's covariance from sums of products, and its log determinant."""
    n, dim = a[0, 0], (len(a) - 1) // 2
    xx, xy, yy = a[:features, :features], a[:features, 1 + dim :], a[1 + dim :, 1 + dim :]
    least = 1e-9 * np.trace(xx) / len(xx)
    f = np.linalg.solve(xx + least * np.eye(len(xx)), xy)
    covariance = (yy - f.T @ xy - xy.T @ f + f.T @ xx @ f) / n
    covariance += 1e-9 * np.trace(yy) / dim / n * np.eye(dim)
    return f, covariance, float(np.linalg.slogdet(covariance)[1])


def _gains(
    groups: np.ndarray, fold: Int[np.ndarray, " group"], folds: np.ndarray, dim: int
) -> Vector:
    """The linear model's gain in each group, in nats, from models of the other folds."""
    gains = np.zeros(len(groups))
    for k in range(FOLDS):
        b = groups[fold == k]
        for sign, features in ((1, 1 + dim), (-1, 1)):
            f, covariance, log = _regressed(folds.sum(axis=0) - folds[k], features)
            xx, xy = b[:, :features, :features], b[:, :features, 1 + dim :]
            cross = f.T @ xy
            error = b[:, 1 + dim :, 1 + dim :] - cross - cross.transpose(0, 2, 1) + f.T @ xx @ f
            square = np.einsum("ij,gji->g", np.linalg.inv(covariance), error)
            gains[fold == k] -= sign * 0.5 * (b[:, 0, 0] * log + square)
    return gains


def _linear_gains(s: States) -> tuple[Vector, Vector]:
    """The linear model's gain in each document, and the transitions in it."""
    names, first, which = np.unique(s.doc, return_index=True, return_inverse=True)
    turn = np.argsort(first)  # documents stand in the order of their folds
    place = np.empty_like(turn)
    place[turn] = np.arange(len(turn))
    x, y = s.z[s.x], s.z[s.x + 1]
    groups = _sums(x, y, place[which], len(names))[place]
    gains = _gains(groups, s.fold[first], _sums(x, y, s.fold, FOLDS), s.z.shape[1])
    return gains, groups[:, 0, 0]


def _permuted(found: Finding, real: float, others: Vector, what: str) -> Finding:
    """The finding, no longer above where random orders do as well."""
    if found.verdict is not Verdict.ABOVE:
        return found
    as_high = int(np.sum(others >= real))
    if as_high:
        note = f"{as_high} of {len(others)} random {what} gain as much"
        return found._replace(verdict=Verdict.LEVEL, note=note)
    note = f"{found.note}; and " if found.note else ""
    told = f"{len(others)} random {what} gain less, {shown(float(np.mean(others)))} on average"
    return found._replace(note=note + told)
