"""Linear Gaussian models in discrete time: random walk, i.i.d., VAR(1), autoregression."""

from typing import Any, final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import State, Time
from ..laws import Mixture
from ..predict._predictor import AbstractPredictor
from ..trajectory import Trajectory
from ._pairs import (
    Moments,
    Square,
    Vector,
    added,
    blocks,
    check_paths,
    floating,
    folds_of,
    moments,
    on_device,
    origin_of,
    root_of,
    sums,
)

Matrix = Float[Array, "dim dim"]

RIDGES = (0.0, *np.logspace(-8, 2, 31).tolist())
FOLDS = 10
LEAST = 1e-6  # the least gap of a random walk, as a share of the mean one


def one_gaussian(mean: State, root: Matrix) -> Mixture:
    """The Gaussian of a mean and a Cholesky factor."""
    return Mixture(jnp.zeros(1, mean.dtype), mean[None], root[None])


@final
class RandomWalk(AbstractPredictor):
    r"""$y' \sim N(y,\; \Delta t\,L L^\top)$.

    Args:
        root: $L$.
        least: Gaps count as no shorter than this, so that equal times have a density.
    """

    root: Matrix
    least: Float[Array, ""]

    def start(self) -> tuple[Array, State]:
        return jnp.zeros((), self.root.dtype), jnp.zeros(len(self.root), self.root.dtype)

    def see(self, carry: tuple[Array, State], t: Time, y: State) -> tuple[Array, State]:
        return jnp.asarray(t, self.root.dtype), y.astype(self.root.dtype)

    def law(self, carry: tuple[Array, State], t: Time) -> Mixture:
        before, y = carry
        dt = jnp.maximum(jnp.asarray(t, self.root.dtype) - before, self.least)
        return one_gaussian(y, jnp.sqrt(dt) * self.root)


@final
class Independent(AbstractPredictor):
    r"""$y' \sim N(m,\; L L^\top)$, whatever was seen."""

    mean: State
    root: Matrix

    def start(self) -> tuple[()]:
        return ()

    def see(self, carry: tuple[()], t: Time, y: State) -> tuple[()]:
        return ()

    def law(self, carry: tuple[()], t: Time) -> Mixture:
        return one_gaussian(self.mean, self.root)


@final
class Autoregressive(AbstractPredictor):
    r"""$y_{k+1} \sim N(b + \sum_j F_j\,y_{k-j},\; L L^\top)$, a step being a step whatever its gap.

    Before as many states were seen as it has matrices, the oldest one seen stands for those that
    are missing. VAR(1) is the one with a single matrix.

    Args:
        matrices: $F_0, F_1, ...$, for the newest state first.
        bias: $b$.
        root: $L$.
        ridge: The penalty it was fitted with, as a share of the features' variance.
    """

    matrices: Float[Array, "order dim dim"]
    bias: State
    root: Matrix
    ridge: Float[Array, ""]

    @property
    def matrix(self) -> Matrix:
        """$F$ of a VAR(1)."""
        if len(self.matrices) != 1:
            raise BadArgument(
                f"This autoregression has {len(self.matrices)} matrices. Use `matrices`."
            )
        return self.matrices[0]

    def start(self) -> tuple[Array, Array]:
        order, dim, _ = self.matrices.shape
        return jnp.zeros((), bool), jnp.zeros((order, dim), self.bias.dtype)

    def see(self, carry: tuple[Array, Array], t: Time, y: State) -> tuple[Array, Array]:
        begun, past = carry
        y = y.astype(self.bias.dtype)
        shifted = jnp.concatenate([y[None], past[:-1]])
        return jnp.ones((), bool), jnp.where(begun, shifted, jnp.broadcast_to(y, past.shape))

    def law(self, carry: tuple[Array, Array], t: Time) -> Mixture:
        return one_gaussian(self.bias + jnp.einsum("kij,kj->i", self.matrices, carry[1]), self.root)


def random_walk(paths: Trajectory, *, burn: int = 1) -> RandomWalk:
    r"""$y' \sim N(y,\; \Delta t\,C)$ with the $C$ of greatest likelihood.

    Args:
        paths: Training rows. Pairs of equal times are left out.
        burn: Transitions out of a row's first `burn` states are left out: a first token is special.
    """
    check_paths(paths, burn)
    dim = paths.ys.shape[2]
    count, gaps, c = 0, 0.0, np.zeros((dim, dim))
    for block in blocks(paths, burn):
        apart = block.dt > 0
        dy = (block.y - block.x)[apart] / np.sqrt(block.dt[apart])[:, None]
        count, gaps, c = count + len(dy), gaps + float(block.dt.sum()), c + dy.T @ dy
    if count == 0:
        raise BadArgument("`paths` has no two states at different times. Give times that increase.")
    dtype = floating(paths)
    return RandomWalk(
        on_device(root_of(c / count), dtype), on_device(np.asarray(LEAST * gaps / count), dtype)
    )


def iid(paths: Trajectory, *, burn: int = 1) -> Independent:
    r"""$y' \sim N(m, C)$: the mean and covariance of the states that are predicted."""
    check_paths(paths, burn)
    m = moments(paths, burn)
    dtype = floating(paths)
    return Independent(on_device(m.y, dtype), on_device(root_of(m.yy / m.count), dtype))


def var1(paths: Trajectory, *, ridge: float = 1e-10, burn: int = 1) -> Autoregressive:
    r"""$y' \sim N(F y + b,\; C)$ by least squares, which is greatest likelihood.

    A step counts as a step, whatever its gap.

    Args:
        paths: Training rows.
        ridge: Penalty on $F$, as a share of the mean variance of the states. The smallest one
            that keeps states of deficient rank from blowing up: what cannot be told apart then
            gets the solution of least norm, and well-conditioned fits change in the tenth digit.
        burn: Transitions out of a row's first `burn` states are left out.
    """
    return autoregression(paths, 1, ridge=ridge, burn=burn)


def autoregression(
    paths: Trajectory, order: int, *, docs: Any = None, ridge: float | None = None, burn: int = 1
) -> Autoregressive:
    r"""$y_{k+1} \sim N(b + \sum_{j < p} F_j\,y_{k-j},\; C)$ by ridge regression.

    A step counts as a step, whatever its gap. Early steps, where fewer states than `order` were
    seen, repeat the oldest one, in fitting as in predicting.

    Args:
        paths: Training rows.
        order: $p$, how many states it looks back.
        docs: The document of each row; by default each row is one.
        ridge: Penalty, as a share of the features' mean variance. None: the one of a grid that
            predicts left-out documents best, in ten folds of documents, all from the same sums of
            products; of one document, in ten stretches of it. $C$ then is the covariance of the
            errors on what was left out.
        burn: Transitions out of a row's first `burn` states are left out.
    """
    if not (isinstance(order, int) and order >= 1):
        raise BadArgument(f"`order` is {order!r}. Use 1 or more: how many states to look back.")
    if ridge is not None and not (np.isfinite(ridge) and ridge >= 0):
        raise BadArgument(f"`ridge` is {ridge}. Use 0 or more, or None to have it chosen.")
    check_paths(paths, burn)
    dim = paths.ys.shape[2]
    if ridge is None:
        m, ridge, covariance = _chosen(paths, docs, order, burn)
        f, b = _regression(m, ridge)
    else:
        m = moments(paths, burn, order)
        f, b = _regression(m, ridge)
        covariance = _errors(m, f, b) / m.count
    dtype = floating(paths)
    matrices = f.reshape(order, dim, dim).transpose(0, 2, 1)
    return Autoregressive(
        on_device(matrices, dtype),
        on_device(b, dtype),
        on_device(root_of(covariance), dtype),
        on_device(np.asarray(ridge), dtype),
    )


def _regression(m: Moments, ridge: float) -> tuple[Any, Vector]:
    """Coefficients (feature, dim) and bias, by the eigenvectors of the features' covariance."""
    w, v = np.linalg.eigh(m.xx)
    return _solved(m, w, v, ridge)


def _solved(m: Moments, w: Any, v: Any, ridge: float) -> tuple[Any, Vector]:
    w = np.maximum(w, 0) + ridge * max(float(np.mean(np.diagonal(m.xx))), 1e-30)
    # With no ridge at all, directions that do not vary get a coefficient of zero.
    inverse = np.where(w > 1e-14 * max(float(w[-1]), 1e-30), 1 / np.maximum(w, 1e-300), 0.0)
    f = (v * inverse) @ (v.T @ m.xy)
    return f, m.y - m.x @ f


def _errors(m: Moments, f: Any, b: Vector) -> Square:
    """The sum of squares and products of y - f^T x - b."""
    off = m.y - m.x @ f - b
    cross = f.T @ m.xy
    return m.yy - cross - cross.T + f.T @ m.xx @ f + m.count * np.outer(off, off)


def _chosen(paths: Trajectory, docs: Any, order: int, burn: int) -> tuple[Moments, float, Square]:
    """Moments of all, the best ridge, and the covariance of its errors on left-out documents."""
    fold = folds_of(paths, docs, burn, FOLDS)
    folds = range(int(fold.max()) + 1)
    origin = origin_of(paths, order)
    parts = [sums(paths, burn, order, fold == k, origin) for k in folds]
    features = order * paths.ys.shape[2]
    whole = added(parts).moments(features)
    scale = np.maximum(np.diagonal(whole.yy), 1e-30)
    errors = np.zeros((len(RIDGES), *whole.yy.shape))
    for k, part in enumerate(parts):
        rest = added(parts[:k] + parts[k + 1 :]).moments(features)
        left = part.moments(features)
        w, v = np.linalg.eigh(rest.xx)
        for i, ridge in enumerate(RIDGES):
            errors[i] += _errors(left, *_solved(rest, w, v, ridge))
    score = (np.diagonal(errors, axis1=1, axis2=2) / scale).sum(axis=1)
    best = int(np.argmin(score))
    return whole, RIDGES[best], errors[best] / whole.count
