"""One-step predictions of many paths, summed path by path."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from .._types import State, Time
from ..trajectory import Trajectory
from ._predictor import AbstractPredictor

ROWS = 256  # paths that are worked on at once
LEVELS = 100  # bins of the probability integral transform, of which a reader is shown fewer

Lift = Callable[[State], Float[Array, " raw"]]


class StepSums(NamedTuple):
    """Sums over the transitions of one path that count.

    Args:
        count: How many count.
        nll: Of the negative log density, in nats.
        sse: Of the squared error of the expectation.
        raw_sse: The same in raw units.
        pit: How many components' distribution functions fell into each bin.
        lost: How many were not finite, of densities, expectations, raw expectations and
            distribution functions.
    """

    count: Array
    nll: Array
    sse: Array
    raw_sse: Array
    pit: Array
    lost: Array


def scored(path: Trajectory, burn: int) -> Bool[Array, " step"]:
    """Which transitions count: both states real, time moves, and `burn` states stand before."""
    later = jnp.arange(len(path.ts) - 1) >= burn
    return path.mask[:-1] & path.mask[1:] & (jnp.diff(path.ts) > 0) & later


def gaps_filled(path: Trajectory, counts: Bool[Array, " step"]) -> Float[Array, " step"]:
    """The time that each step leads to; one past its start where the step does not count.

    Padding repeats the last time, and no law over a gap of zero has a density.
    """
    return jnp.where(counts, path.ts[1:], path.ts[:-1] + 1)


@eqx.filter_jit
def nll_sums(model: AbstractPredictor, paths: Trajectory, burn: int) -> tuple[Array, Array]:
    """Of each path: the negative log density of the transitions that count, and their number."""

    def one(path: Trajectory) -> tuple[Array, Array]:
        counts = scored(path, burn)

        def step(t1: Time, y1: State, carry: Any) -> Array:
            return -model.law(carry, t1).logpdf(y1)

        nll = _along(model, path, counts, step, ())
        return jnp.sum(nll, where=counts), jnp.sum(counts)

    return by_rows(one, (paths,), ROWS)


@eqx.filter_jit
def step_sums(
    model: AbstractPredictor, paths: Trajectory, burn: int, lift: Lift | None, raw: Array | None
) -> StepSums:
    """Of each path: what its one-step predictions are worth."""

    def one(path: Trajectory, raw: Array | None) -> StepSums:
        counts = scored(path, burn)

        def step(t1: Time, y1: State, carry: Any, x1: Array | None = None) -> tuple:
            law = model.law(carry, t1)
            mean = law.mean()
            raw_sse = jnp.zeros(())
            if lift is not None:
                x1 = lift(y1) if x1 is None else x1
                raw_sse = jnp.sum((lift(mean).astype(x1.dtype) - x1) ** 2)
            return -law.logpdf(y1), jnp.sum((mean - y1) ** 2), raw_sse, law.cdf(y1)

        extra = () if raw is None else (raw[1:],)
        nll, sse, raw_sse, cdf = _along(model, path, counts, step, extra)
        known = counts[:, None] & jnp.isfinite(cdf)
        level = jnp.where(known, jnp.clip(jnp.floor(cdf * LEVELS), 0, LEVELS - 1), 0)
        pit = jnp.zeros(LEVELS).at[level.astype(int)].add(known.astype(float))
        lost = [jnp.sum(counts & ~jnp.isfinite(x)) for x in (nll, sse, raw_sse)]
        lost.append(jnp.sum(counts & ~jnp.all(jnp.isfinite(cdf), axis=1)))
        n, nll, sse, raw_sse = [jnp.sum(x, where=counts) for x in (counts, nll, sse, raw_sse)]
        return StepSums(n, nll, sse, raw_sse, pit, jnp.stack(lost))

    return by_rows(one, (paths, raw), ROWS)


@eqx.filter_jit
def spread(
    paths: Trajectory, burn: int, lift: Lift | None, raw: Array | None
) -> tuple[Array, Array]:
    """Of each path: the squared distances of the counted next states from their mean over all.

    In the states' units, and in raw units.
    """

    def states(path: Trajectory, raw: Array | None) -> tuple[Array, Array]:
        if lift is None:
            return path.ys[1:], jnp.zeros((len(path.ts) - 1, 1))
        return path.ys[1:], jax.vmap(lift)(path.ys[1:]) if raw is None else raw[1:]

    def total(path: Trajectory, raw: Array | None) -> tuple:
        counts = scored(path, burn)
        sums = [jnp.sum(x, axis=0, where=counts[:, None]) for x in states(path, raw)]
        return *sums, jnp.sum(counts)

    *sums, number = by_rows(total, (paths, raw), ROWS)
    number = jnp.maximum(jnp.sum(number), 1)
    means = [jnp.sum(x, axis=0) / number.astype(x.dtype) for x in sums]

    def distances(path: Trajectory, raw: Array | None) -> tuple:
        counts = scored(path, burn)[:, None]
        both = zip(states(path, raw), means, strict=True)
        return tuple(jnp.sum((x - m[None]) ** 2, where=counts) for x, m in both)

    return by_rows(distances, (paths, raw), ROWS)


def _along(
    model: AbstractPredictor,
    path: Trajectory,
    counts: Bool[Array, " step"],
    step: Callable,
    extra: tuple,
) -> Any:
    """`step` at each transition of a path, with the law's carry there. One law at a time."""

    def body(carry: Any, x: tuple) -> tuple[Any, Any]:
        t1, used, y1, *rest = x
        return model.see(carry, t1, y1), step(used, y1, carry, *rest)

    carry = model.see(model.start(), path.ts[0], path.ys[0])
    steps = (path.ts[1:], gaps_filled(path, counts), path.ys[1:], *extra)
    return lax.scan(body, carry, steps)[1]


def by_rows(one: Callable, rows: tuple, size: int) -> Any:
    """`one` of each row, `size` rows at a time."""
    count = jax.tree.leaves(rows)[0].shape[0]
    size = min(size, max(count, 1))

    if count % size:  # fill the last batch, for which `lax.map` would compile a second program
        again = jnp.minimum(jnp.arange(count + -count % size), count - 1)
        rows = jax.tree.map(lambda x: x[again], rows)
    out = lax.map(lambda row: one(*row), rows, batch_size=size)
    return jax.tree.map(lambda x: x[:count], out)


def on_host(x: Any) -> Any:
    """Its arrays as float64 numpy arrays."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), x)
