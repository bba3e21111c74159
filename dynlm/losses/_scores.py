"""Scores of simulated paths against the one path that was observed: the lower, the better.

Everywhere here `draws` is a batched `Trajectory`, two draws or more of one model, from the first
state of `path` and at its times. That state is the same in all and counts for nothing; the steps
after it count where `path.mask` is True, whatever the masks of the draws. All estimates are
unbiased in the number of draws: they have the expectation that infinitely many would have, and may
therefore be below the least value of that expectation. A path without a seen step scores 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._io import BadArgument
from ..trajectory import Trajectory


def energy_score(draws: Trajectory, path: Trajectory) -> Float[Array, ""]:
    r"""$E|X - o| - \tfrac12 E|X - X'|$ of the whole path as one vector.

    A strictly proper score of the law of the path given its start, among laws with a finite first
    moment. Norms are divided by the square root of the number of seen entries, steps times
    dimensions, so that the size of the score does not grow with the path: the energy scores of
    `dynlm.predict.score`, of one state, are not, and are the root of the dimension times this. The
    second expectation is the mean over pairs of different draws. Memory is that of the draws: pairs
    are never held at once.
    """
    x, o, seen = compared(draws, path)
    entries = jnp.sum(seen, dtype=o.dtype) * o.shape[1]
    root = jnp.sqrt(jnp.maximum(entries, 1))
    x, o = x.reshape(len(x), -1) / root, o.reshape(-1) / root
    return jnp.mean(norm(x - o[None])) - 0.5 * mean_over_pairs(x)


def step_energy_score(draws: Trajectory, path: Trajectory) -> Float[Array, ""]:
    """Mean over steps of the energy score of the state at that step.

    Strictly proper for the law of each step's state given the start, and not for the law of the
    path: it does not see how the states of one path depend on each other. Norms are divided by the
    square root of the dimension.
    """
    x, o, seen = compared(draws, path)
    root = max(o.shape[1], 1) ** 0.5
    x, o = x / root, o / root
    return mean_where(jnp.mean(norm(x - o[None]), axis=0) - 0.5 * mean_over_pairs(x), seen)


def crps(draws: Trajectory, path: Trajectory) -> Float[Array, ""]:
    r"""Mean over steps and components of $E|x - o| - \tfrac12 E|x - x'|$ of that component.

    The continuous ranked probability score. Strictly proper for the law of each component at each
    step given the start; it does not see how components or steps depend on each other. The mean
    over pairs comes from sorted draws, $\sum_i (2 i - m + 1)\, x_{(i)}$ with $i$ from 0.
    """
    x, o, seen = compared(draws, path)
    m = len(x)
    e = jnp.sort(x - o[None], axis=0)
    i = jnp.arange(m, dtype=o.dtype)[:, None, None]
    apart = jnp.sum((2 * i - (m - 1)) * e, axis=0) * (2 / (m * (m - 1)))
    return mean_where(jnp.mean(jnp.mean(jnp.abs(e), axis=0) - 0.5 * apart, axis=1), seen)


def forecast_error(draws: Trajectory, path: Trajectory) -> Float[Array, ""]:
    r"""Mean over steps and components of $(E x - o)^2$: the error of a rollout of many steps.

    Proper for the mean of each state given the start, and for nothing else: a law with the right
    means scores best, whatever its spread. Unbiased: $\bar x$ of m draws is off by a variance of
    $s^2 / m$, which is subtracted, so that the noise of the model is not punished; the result may
    be negative.
    """
    x, o, seen = compared(draws, path)
    m = len(x)
    mean = jnp.mean(x, axis=0)
    variance = jnp.sum((x - mean[None]) ** 2, axis=0) / (m - 1)
    return mean_where(jnp.mean((mean - o) ** 2 - variance / m, axis=1), seen)


class Compared(NamedTuple):
    x: Float[Array, "draw step dim"]
    o: Float[Array, "step dim"]
    seen: Bool[Array, " step"]


def compared(draws: Trajectory, path: Trajectory) -> Compared:
    """The states after the start, with zeros where the path is padding, and where it is not."""
    if path.ys.ndim != 2 or draws.ys.ndim != 3 or draws.ys.shape[1:] != path.ys.shape:
        raise BadArgument(
            f"`draws` has states {draws.ys.shape} and `path` {path.ys.shape}. Pass draws at the "
            "times of one path, (draws, time, dim) and (time, dim); use `jax.vmap` over paths."
        )
    if len(draws.ys) < 2:
        raise BadArgument("`draws` is a single draw, which has no spread. Pass two or more.")
    seen = path.mask[:-1] & path.mask[1:]
    x = jnp.where(seen[None, :, None], draws.ys[:, 1:], 0)
    return Compared(x, jnp.where(seen[:, None], path.ys[1:], 0), seen)


def norm(z: Float[Array, "*rows dim"]) -> Float[Array, "*rows"]:
    """The length of vectors, with derivative 0 where it is 0."""
    s = jnp.sum(z**2, axis=-1)
    zero = s < jnp.finfo(s.dtype).tiny  # roots of subnormal numbers may be flushed to 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, s)))


def mean_over_pairs(x: Float[Array, "draw *steps dim"]) -> Float[Array, "*steps"]:
    """Mean of $|x_i - x_j|$ over $i$ other than $j$, from differences, a row of pairs at a time.

    The Gram form $x_i x_i + x_j x_j - 2 x_i x_j$ would be quicker, and would lose the distance of
    two draws that are near each other and far from the rest.
    """

    def to_all(one: Array) -> Array:
        return jnp.sum(norm(x - one[None]), axis=0)

    m = len(x)
    return jnp.sum(lax.map(jax.checkpoint(to_all), x), axis=0) / (m * (m - 1))


def mean_where(values: Float[Array, " step"], seen: Bool[Array, " step"]) -> Float[Array, ""]:
    """The mean of what was seen, 0 if nothing was."""
    count = jnp.maximum(jnp.sum(seen, dtype=values.dtype), 1)
    return jnp.sum(jnp.where(seen, values, 0)) / count
