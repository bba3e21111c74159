"""Markov order: whether older states tell what the newest one does not."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from .._io import BadArgument
from ..stats import Interval
from ..trajectory import Trajectory
from ._correlation import (
    RANDOM,
    Rows,
    against,
    crossed,
    ends,
    halves,
    measured,
    others,
    reordered,
    rows_of,
)
from .findings import Finding, finding, shown, stated, withheld

Square = Float[np.ndarray, "dim dim"]
FOLDS = 5
ORDERS = 5  # random orders of the states, the mean over which is the null value
WAVES = 64  # random cosines of a state, for the regression that is not linear
RIDGE = 1e-6  # of a regression, as a share of the features' mean square


@final
class MarkovOrder(NamedTuple):
    r"""What `markov_order` found.

    Args:
        orders: How many states a linear model looks back.
        gains: Nats per step that each gains over VAR(1) on held-out documents, with ends.
        nonlinear: What a second state gains over a regression that is not linear in the first.
        one: $F_1$, the regression of the next state.
        two: $F_2$, that of the state after next.
        confirmed: The share of $F_2 - F_1^2$ that other documents confirm, with ends.
        findings: Chapman and Kolmogorov's equation; a gain for each order; the nonlinear gain.
    """

    orders: Int[np.ndarray, " order"]
    gains: Float[np.ndarray, "order 3"]
    nonlinear: Float[np.ndarray, " 3"]
    one: Square
    two: Square
    confirmed: Float[np.ndarray, " 3"]
    findings: tuple[Finding, ...]


def markov_order(
    paths: Trajectory, docs: Any, *, most: int = 4, burn: int = 1, seed: int = 0
) -> MarkovOrder:
    r"""Chapman and Kolmogorov: is $F_2 = F_1^2$? And does an older state raise the likelihood?

    The first: the part $D\,y_k$ that $y_k$ adds to the prediction of $y_{k+2}$ from $y_{k+1}$ is
    fitted on half of the documents; the share of it that is there in the others is
    $\sum e^\top W D\tilde y_k / \sum |D\tilde y_k|_W^2$, $e$ and $\tilde y_k$ being what
    $y_{k+1}$ leaves unexplained of both: zero on average for a linear Markov process, near one
    where the deviation is real. The second: the log likelihood of held-out documents under
    $y_{k+1} \sim N(b + \sum_{j<p} F_j y_{k-j}, C)$ less that for $p = 1$, on the same transitions.
    Both take a Markov process that is not linear for one of a higher order; the third does so less:
    a second state's gain over a regression on the first and on 64 random cosines of it.

    Documents with means of their own fail all three, for older states tell the mean. So the null
    values are the means over 5 random orders of each path's states, and the intervals those of the
    paired differences from them; the two-step deviation in random order is counted in units of
    that in the given one. What is above 0 and below its value in random order is withheld; what is
    not above 0 is compared with 0. The intervals of the fields are of the numbers alone.

    Args:
        paths: A batch of evenly spaced paths.
        docs: The document of each path; two documents or more.
        most: The largest order.
        burn: How many first states of each path are left out.
        seed: Of the resampling, of the random orders and of the cosines.
    """
    if not (isinstance(most, int) and most >= 2):
        raise BadArgument(f"`most` is {most!r}. Use 2 or more: the largest order to try.")
    rows = rows_of(paths, docs, burn)
    here = _sums(rows, most, seed)
    rng = np.random.default_rng(seed)
    drawn = [_sums(reordered(rows, rng), most, seed) for _ in range(ORDERS)]
    apart, gains = (np.mean([getattr(d, n) for d in drawn], axis=0) for n in ("top", "gains"))
    both = measured(np.hstack([here.top, here.top - apart]), here.under, rows.docs, seed)
    slope, beyond = (crossed(one) for one in both)
    found = measured(np.hstack([here.gains, here.gains - gains]), here.steps, rows.docs, seed)
    own, more = found[:most], found[most:]
    what = "share of the two-step deviation that other documents confirm"
    results = [
        stated(
            "size of the two-step matrix less the square of the one-step one, of its size",
            here.size,
            float(np.mean([d.size for d in drawn])),
            of_null=RANDOM,
        ),
        _beyond(what, slope, beyond)
        if here.under.sum() > 0
        else withheld(what, "the two-step matrix is the square of the one-step one"),
    ]
    names = [f"gain of {p} states over one in a linear model" for p in range(2, most + 1)]
    names.append("gain of a second state over a nonlinear model of the first")
    for what, gain, rest in zip(names, own, more):
        results.append(_beyond(what, gain, rest, unit="nats per step"))
    return MarkovOrder(
        np.arange(2, most + 1), ends(own[:-1]), ends(own[-1:])[0], here.one, here.two,
        ends([slope])[0], tuple(results),
    )  # fmt: skip


def _beyond(what: str, own: Interval, rest: Interval, unit: str = "") -> Finding:
    """A number that has to be above 0 and above its value in random order as well.

    Slow memory raises the second: that a number is below it says nothing.
    """
    null = own.value - rest.value
    if null > 0 and not own.low > 0:
        return finding(what, own, 0.0, unit=unit, of_null="where older states tell nothing")
    if null > 0 and rest.high < 0:
        return withheld(what, f"it is {shown(own.value)}, and {shown(null)} in random order")
    return against(what, rest, null, unit=unit)


class _Sums(NamedTuple):
    """Of each path: confirmed deviation, what it is measured by, gains and steps; the matrices."""

    top: Any
    under: Any
    gains: Any
    steps: Any
    one: Square
    two: Square

    @property
    def size(self) -> float:
        off = np.linalg.norm(self.two - self.one @ self.one)
        return float(off / max(np.linalg.norm(self.two), 1e-300))


def _sums(rows: Rows, most: int, seed: int) -> _Sums:
    path, history, y = _histories(rows, most)
    number = len(np.unique(rows.docs[path]))
    if number < 2:
        raise BadArgument(
            f"{number} documents have {most + 1} states in a row. Pass more documents or longer "
            "paths, or use a smaller `most`: what older states tell is measured on other documents."
        )
    one, two, top, under = _two_steps(rows, path, history, y)
    designs = {p: history[:, :p].reshape(len(y), -1) for p in range(1, most + 1)}
    waves = np.concatenate([history[:, 0], _waves(history[:, 0], seed)], axis=1)
    nll = {p: _held_out(x, y, rows.docs[path]) for p, x in designs.items()}
    without = _held_out(waves, y, rows.docs[path])
    with_one = _held_out(np.concatenate([waves, history[:, 1]], axis=1), y, rows.docs[path])
    gains = [nll[1] - nll[p] for p in range(2, most + 1)] + [without - with_one]
    sums = np.stack([np.bincount(path, g, minlength=len(rows.ys)) for g in gains], axis=1)
    steps = np.bincount(path, minlength=len(rows.ys)).astype(float)[:, None]
    return _Sums(top, under, sums, steps, one, two)


def _histories(rows: Rows, most: int) -> tuple[Any, Any, Any]:
    """Of each transition: its path; the last `most` states, newest first; the next one. Scaled."""
    x = rows.centred()
    scale = np.sqrt((x**2).sum(axis=(0, 1)) / rows.seen.sum())
    x = x / np.where(scale > 0, scale, 1.0)
    length = x.shape[1]
    if length <= most:
        raise BadArgument(
            f"`paths` has {length} steps and `most` is {most}. Use longer paths, or a "
            "smaller `most`."
        )
    first, last = rows.seen[:, : length - most], rows.seen[:, most:]
    path, start = np.nonzero(first & last)  # what is seen of a path has no holes
    back = start[:, None] + most - 1 - np.arange(most)
    return path, x[path[:, None], back], x[path, start + most]


def _regression(x: Any, y: Any) -> Any:
    """The coefficients of y on x by least squares, with a ridge that keeps them finite."""
    return _solved(x.T @ x, x.T @ y)


def _solved(xx: Any, xy: Any) -> Any:
    ridge = RIDGE * max(float(np.trace(xx)) / len(xx), 1e-300)
    return np.linalg.solve(xx + ridge * np.eye(len(xx)), xy)


def _two_steps(rows: Rows, path: Any, history: Any, y: Any) -> tuple[Any, Any, Any, Any]:
    now, before = history[:, 0], history[:, 1]
    half, out = halves(rows.docs)[path], np.zeros((2, len(rows.ys), 1))
    for h in np.unique(half):
        (_, _, d), (e, left, _) = (
            _partial(now[use], before[use], y[use]) for use in (others(half, h), half == h)
        )
        predicted, weight = left @ d, 1 / np.maximum((e**2).mean(axis=0), 1e-300)
        for i, term in enumerate((e, predicted)):
            each = (term * weight * predicted).sum(axis=1)
            out[i, :, 0] += np.bincount(path[half == h], each, minlength=len(rows.ys))
    one, two = _regression(now, y).T, _regression(before, y).T
    return one, two, out[0], out[1]


def _partial(now: Any, before: Any, y: Any) -> tuple[Any, Any, Any]:
    """What `now` leaves of `y` and of `before`, and the regression of the first on the second."""
    e = y - now @ _regression(now, y)
    left = before - now @ _regression(now, before)
    return e, left, _regression(left, e)


def _waves(x: Any, seed: int) -> Any:
    """Random cosines of states, of two widths."""
    rng = np.random.default_rng(seed)
    width = np.repeat([1.0, 2.0], WAVES // 2) / np.sqrt(x.shape[1])
    return np.cos(x @ (rng.normal(size=(x.shape[1], WAVES)) * width) + rng.uniform(0, 6.3, WAVES))


def _held_out(x: Any, y: Any, docs: Any) -> Float[np.ndarray, " step"]:
    """The negative log density of each transition under a fit to other documents."""
    names, which = np.unique(docs, return_inverse=True)
    fold, nll = which % min(FOLDS, len(names)), np.zeros(len(y))
    both = np.concatenate([x, np.ones((len(x), 1)), y], axis=1)
    parts = [both[fold == k] for k in range(int(fold.max()) + 1)]
    products = [part.T @ part for part in parts]
    p, whole = x.shape[1] + 1, sum(products)
    for k, part in enumerate(parts):
        gram = whole - products[k]  # of all other documents
        xx, xy, yy = gram[:p, :p], gram[:p, p:], gram[p:, p:]
        f = _solved(xx, xy)
        c = (yy - f.T @ xy - xy.T @ f + f.T @ xx @ f) / (len(both) - len(part))
        c = c + 1e-9 * max(float(np.trace(c)) / len(c), 1e-300) * np.eye(len(c))
        z = np.linalg.solve(np.linalg.cholesky(c), (part[:, p:] - part[:, :p] @ f).T)
        nll[fold == k] = 0.5 * (z**2).sum(axis=0) + 0.5 * np.linalg.slogdet(2 * np.pi * c)[1]
    return nll
