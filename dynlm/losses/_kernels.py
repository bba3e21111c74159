"""Gaussian kernels on whole paths: the discrepancy of two sets, and the score of one model."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._io import BadArgument
from .._types import concrete
from ..trajectory import Trajectory
from ._scores import compared

Scales = Sequence[float] | Float[Array, " scale"]
Origins = tuple[Int[Array, " x"], Int[Array, " y"]] | None

_MOST = 512  # paths that `median_scale` looks at


def kernel_score(draws: Trajectory, path: Trajectory, scales: Scales) -> Float[Array, ""]:
    r"""$\tfrac12 E\,k(X, X') - E\,k(X, o)$, $k(x, y) = \sum_s \exp(-|x - y|^2 / 2 s^2)$.

    A strictly proper score of the law of the path given its start: its expectation is half the
    squared maximum mean discrepancy, up to what no model can change. The square is the mean over
    seen entries after the start, so that a scale does not depend on the length of the path. As all
    of `dynlm.losses` that take draws, it is unbiased, by pairs of different draws.

    Args:
        draws: Two draws or more from the first state of `path`, at its times.
        scales: $s$, in units of the state; see `median_scale`.
    """
    x, o, seen = compared(draws, path)
    scales = _scales(scales, o.dtype)
    m = len(x)
    entries = jnp.maximum(jnp.sum(seen, dtype=o.dtype) * o.shape[1], 1)

    def to_all(one: Float[Array, "step dim"]) -> Float[Array, ""]:
        return jnp.sum(_gaussian(jnp.sum((x - one[None]) ** 2, axis=(1, 2)) / entries, scales))

    each = jnp.sum(lax.map(jax.checkpoint(to_all), x))
    between = (each - m * len(scales)) / (m * (m - 1))  # without the m pairs of a draw and itself
    return jnp.where(jnp.any(seen), 0.5 * between - to_all(o) / m, 0)


def mmd(
    xs: Trajectory, ys: Trajectory, scales: Scales, *, origins: Origins = None
) -> Float[Array, ""]:
    r"""$E\,k(X, X') + E\,k(Y, Y') - 2 E\,k(X, Y)$: squared maximum mean discrepancy of two sets.

    $k(x, y) = \sum_s \exp(-|x - y|^2 / 2 s^2)$, where the square is the mean over the entries of
    the steps that both paths have, the first included. Unbiased, by pairs of different paths, and
    so negative at times. For paths of one length it is zero in expectation for equal laws and
    positive for others. Where lengths differ, prefixes of the common length are compared; this
    keeps that meaning only if lengths are alike in both sets and say nothing about the states.
    States are compared step by step, whatever their times.

    Squared distances come from the Gram form about the mean of `ys`; memory grows with the square
    of the number of paths, and not with that times their length.

    Args:
        xs: Two paths or more.
        ys: Two paths or more of as many steps.
        scales: $s$, in units of the state; see `median_scale`.
        origins: For each path of `xs`, and of `ys`, the number of what it came from. Pairs of one
            origin are left out: a path and a simulation from its start are not independent, nor
            are two windows of one document. By default each path has its own.
    """
    of = Pairs.of(xs, ys, origins)
    scales = _scales(scales, ys.ys.dtype)
    seen = ys.mask[:, :, None]
    count = jnp.maximum(jnp.sum(seen, axis=0, dtype=ys.ys.dtype), 1)
    centre = lax.stop_gradient(jnp.sum(jnp.where(seen, ys.ys, 0), axis=0) / count)
    x, y = _flat(xs, centre), _flat(ys, centre)

    def term(a: _Flat, b: _Flat, free: Bool[Array, "a b"]) -> tuple[Array, Array]:
        squares, common = _squares(a, b)
        return _gaussian(squares, scales), free & common

    return discrepancy(term(x, x, of.xx), term(y, y, of.yy), term(x, y, of.xy))


def median_scale(ys: Trajectory) -> float:
    """The median distance between paths of a set, per entry: a usual scale for their kernels.

    Common choices are this times 1/2, 1 and 2. For concrete paths, outside of `jax.jit`; of more
    than 512 paths, 512 evenly chosen ones are looked at.
    """
    values, mask = concrete(ys.ys), concrete(ys.mask)
    if values is None or mask is None:
        raise BadArgument("`ys` is being traced. Call `median_scale` outside of `jax.jit`.")
    if values.ndim != 3:
        raise BadArgument(f"`ys` has states {values.shape}. Pass a batch, as from `dynlm.stack`.")
    kept = np.unique(np.linspace(0, max(len(values) - 1, 0), _MOST).astype(int))
    values, mask = values[kept].astype(np.float64), mask[kept]
    values = np.where(mask[:, :, None], values, 0)
    distances = []
    for i in range(len(values) - 1):
        both = mask[i] & mask[i + 1 :]
        squares = ((values[i] - values[i + 1 :]) ** 2).sum(axis=2)
        steps = both.sum(axis=1)
        mean = (squares * both).sum(axis=1) / np.maximum(steps, 1) / values.shape[2]
        distances.append(np.sqrt(mean[steps > 0]))
    found = np.concatenate(distances) if distances else np.zeros(0)
    scale = float(np.median(found)) if found.size else 0.0
    if not (np.isfinite(scale) and scale > 0):
        raise BadArgument(
            f"`ys` has {len(values)} paths whose median distance is {scale}. Pass two or more "
            "paths that differ, or choose `scales` by hand."
        )
    return scale


class Pairs(NamedTuple):
    """Which pairs of two sets are of different origin."""

    xx: Bool[Array, "x x"]
    yy: Bool[Array, "y y"]
    xy: Bool[Array, "x y"]

    @staticmethod
    def of(xs: Trajectory, ys: Trajectory, origins: Origins) -> "Pairs":
        shapes = xs.ys.shape, ys.ys.shape
        if xs.ys.ndim != 3 or ys.ys.ndim != 3 or shapes[0][1:] != shapes[1][1:]:
            raise BadArgument(
                f"`xs` has states {shapes[0]} and `ys` {shapes[1]}. Pass two batches, (paths, "
                "time, dim), of as many steps: `dynlm.stack(paths, length)`."
            )
        n, m = len(xs.ys), len(ys.ys)
        if min(n, m) < 2:
            raise BadArgument(f"`xs` has {n} paths and `ys` {m}. Pass two or more in each set.")
        if origins is None:
            a, b = jnp.arange(n), n + jnp.arange(m)
        else:
            a, b = origins
            if a.shape != (n,) or b.shape != (m,):
                raise BadArgument(
                    f"`origins` has {a.shape} and {b.shape} numbers, for {n} and {m} paths. Pass "
                    "one number for each path of `xs`, and one for each of `ys`."
                )
        return Pairs(*(i[:, None] != j[None] for i, j in ((a, a), (b, b), (a, b))))


Term = tuple[Array, Array]  # a value for each pair, and whether it counts


def discrepancy(xx: Term, yy: Term, xy: Term) -> Float[Array, ""]:
    """Mean of `xx`, plus that of `yy`, less twice that of `xy`; 0 where one has no pair."""
    means, counts = zip(*(_mean(*term) for term in (xx, yy, xy)))
    enough = (counts[0] > 0) & (counts[1] > 0) & (counts[2] > 0)
    return jnp.where(enough, means[0] + means[1] - 2 * means[2], 0)


def _mean(values: Float[Array, "a b"], use: Bool[Array, "a b"]) -> tuple[Array, Array]:
    count = jnp.sum(use, dtype=values.dtype)
    return jnp.sum(jnp.where(use, values, 0)) / jnp.maximum(count, 1), count


class _Flat(NamedTuple):
    states: Float[Array, "path step dim"]
    squares: Float[Array, "path step"]
    seen: Float[Array, "path step"]


def _flat(paths: Trajectory, centre: Float[Array, "step dim"]) -> _Flat:
    z = jnp.where(paths.mask[:, :, None], paths.ys - centre[None], 0)
    return _Flat(z, jnp.sum(z**2, axis=2), paths.mask.astype(z.dtype))


def _squares(a: _Flat, b: _Flat) -> tuple[Float[Array, "a b"], Bool[Array, "a b"]]:
    """Mean squared differences over the steps that both have, and whether there are any."""

    def product(u: Array, v: Array) -> Array:
        u, v = u.reshape(len(u), -1), v.reshape(len(v), -1)
        return jnp.matmul(u, v.T, precision=lax.Precision.HIGHEST)

    steps = product(a.seen, b.seen)
    total = product(a.squares, b.seen) + product(a.seen, b.squares)
    total = total - 2 * product(a.states, b.states)
    entries = jnp.maximum(steps * a.states.shape[2], 1)
    return jnp.maximum(total, 0) / entries, steps > 0


def _gaussian(squares: Float[Array, "*pairs"], scales: Float[Array, " scale"]) -> Array:
    s = scales.reshape((-1,) + (1,) * squares.ndim)
    return jnp.sum(jnp.exp(-squares[None] / (2 * s**2)), axis=0)


def _scales(scales: Scales, dtype: jnp.dtype) -> Float[Array, " scale"]:
    values = concrete(scales)
    if values is not None and (values.ndim != 1 or not values.size or not (values > 0).all()):
        raise BadArgument(
            f"`scales` is {scales}. Pass positive numbers, such as `(0.5 * s, s, 2 * s)` with "
            "`s = median_scale(ys)`."
        )
    return jnp.asarray(scales, dtype)
