"""Forecasts several steps ahead, drawn from the predictor itself, and their scores."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._types import RandomKey, State
from ..trajectory import Trajectory
from ._predictor import AbstractPredictor, Carry
from ._steps import Lift, by_rows

AT_ONCE = 4096  # laws that are held at a time


class ForecastSums(NamedTuple):
    """Sums over the forecasts of one path, an entry for each horizon.

    Args:
        count: How many forecasts there are.
        crps: Of their continuous ranked probability scores, each a mean over components.
        energy: Of their energy scores.
        raw_crps: The first in raw units.
        raw_energy: The second in raw units.
        lost: In how many of them a score was not finite, because a draw was not.
    """

    count: Array
    crps: Array
    energy: Array
    raw_crps: Array
    raw_energy: Array
    lost: Array


@eqx.filter_jit
def forecast_sums(
    model: AbstractPredictor,
    paths: Trajectory,
    *,
    key: RandomKey,
    horizons: tuple[int, ...],
    draws: int,
    origins: int,
    burn: int,
    lift: Lift | None,
    raw: Array | None,
) -> ForecastSums:
    """Of each path: the scores of forecasts from evenly spread states, `horizons` steps on."""

    def one(key: RandomKey, path: Trajectory, raw: Array | None) -> ForecastSums:
        at, real = origins_of(path, origins, burn)
        carries = _carries(model, path, at)

        def forecast(k: Int[Array, ""], real: Bool[Array, ""], carry: Carry) -> ForecastSums:
            good, ys = _simulated(model, path, k, carry, key, draws, horizons)
            good = good & real
            there = jnp.clip(k + jnp.array(horizons), 0, len(path.ts) - 1)
            scores = jax.vmap(_both)(ys, path.ys[there])
            raw_scores = (jnp.zeros(len(horizons)),) * 2
            if lift is not None:
                truth = jax.vmap(lift)(path.ys[there]) if raw is None else raw[there]
                lifted = jax.vmap(jax.vmap(lift))(ys)
                raw_scores = jax.vmap(_both)(lifted, truth.astype(lifted.dtype))
            four = jnp.where(good[None], jnp.stack([*scores, *raw_scores]), 0)
            lost = ~jnp.all(jnp.isfinite(four), axis=0)
            return ForecastSums(good, four[0], four[1], four[2], four[3], lost)

        each = jax.vmap(forecast)(at, real, carries)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)

    size = max(AT_ONCE // (origins * draws), 1)
    keys = jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(len(paths.ts)))
    return by_rows(one, (keys, paths, raw), size)


def origins_of(
    path: Trajectory, origins: int, burn: int
) -> tuple[Int[Array, " origin"], Bool[Array, " origin"]]:
    """Evenly spread states from `burn` to the last but one, and which of them are real and new.

    A path with fewer states than `origins` takes each once.
    """
    room = jnp.sum(path.mask) - 1 - burn  # states that another one follows
    j = jnp.arange(origins)
    at = burn + j * (room - 1) // max(origins - 1, 1)
    new = jnp.concatenate([jnp.ones(1, bool), at[1:] > at[:-1]])
    return jnp.clip(at, 0, len(path.ts) - 1), new & (room > 0)


def crps(draws: Float[Array, "draw dim"], y: State) -> Float[Array, ""]:
    r"""$\frac1m\sum_i|x_i - y| - \frac{1}{2m(m-1)}\sum_{i,j}|x_i - x_j|$, mean over components.

    Fair: its expectation is that of infinitely many draws. Sorting makes the double sum single.
    """
    m = len(draws)
    x = jnp.sort(draws, axis=0)
    rank = (2 * jnp.arange(1, m + 1) - m - 1).astype(x.dtype)
    each = jnp.mean(jnp.abs(x - y[None]), axis=0) - rank @ x / (m * (m - 1))
    return jnp.mean(each)


def energy(draws: Float[Array, "draw dim"], y: State) -> Float[Array, ""]:
    r"""$\frac1m\sum_i\|x_i - y\| - \frac{1}{2m(m-1)}\sum_{i,j}\|x_i - x_j\|$, fair likewise.

    $\sqrt{\mathrm{dim}}$ times `dynlm.losses.energy_score`, whose norms are per entry so that
    losses of paths of any length compare. The unit of this is that of the states.
    """
    m = len(draws)
    x = draws - jnp.mean(draws, axis=0)[None]  # or the products below would lose its digits
    products = jnp.matmul(x, x.T, precision="highest")
    norms = jnp.diagonal(products)
    squared = norms[:, None] + norms[None, :] - 2 * products
    apart = jnp.sqrt(jnp.maximum(squared, 0)) * (1 - jnp.eye(m, dtype=x.dtype))
    near = jnp.sqrt(jnp.sum((draws - y[None]) ** 2, axis=1))
    return jnp.mean(near) - jnp.sum(apart) / (2 * m * (m - 1))


def _both(draws: Float[Array, "draw dim"], y: State) -> tuple[Array, Array]:
    return crps(draws, y), energy(draws, y)


def _carries(model: AbstractPredictor, path: Trajectory, at: Int[Array, " origin"]) -> Carry:
    """What the model carries once it saw the path up to each of some states."""

    def kept(kept: Carry, carry: Carry, k: Int[Array, ""] | int) -> Carry:
        def one(old: Array, new: Array) -> Array:
            hit = (at == k).reshape(-1, *[1] * new.ndim)
            return jnp.where(hit, new[None], old)

        return jax.tree.map(one, kept, carry)

    def step(state: tuple, x: tuple) -> tuple[tuple, None]:
        k, t, y = x
        carry = model.see(state[0], t, y)
        return (carry, kept(state[1], carry, k)), None

    carry = jax.tree.map(jnp.asarray, model.see(model.start(), path.ts[0], path.ys[0]))
    first = jax.tree.map(lambda c: jnp.broadcast_to(c, (len(at), *c.shape)), carry)
    later = (jnp.arange(1, len(path.ts)), path.ts[1:], path.ys[1:])
    return lax.scan(step, (carry, first), later)[0][1]


def _simulated(
    model: AbstractPredictor,
    path: Trajectory,
    k: Int[Array, ""],
    carry: Carry,
    key: RandomKey,
    draws: int,
    horizons: tuple[int, ...],
) -> tuple[Bool[Array, " horizon"], Float[Array, "horizon draw dim"]]:
    """Draws of the states `horizons` steps after state k, and which horizons the path reaches."""
    reach = jnp.arange(1, max(horizons) + 1)
    there = jnp.clip(k + reach, 0, len(path.ts) - 1)
    ts = path.ts[there]
    moved = jnp.diff(ts, prepend=path.ts[k][None]) > 0
    inside = (k + reach < len(path.ts)) & path.mask[there] & moved
    good = jnp.cumprod(inside.astype(int)) > 0
    ts = jnp.where(good, ts, path.ts[k] + reach.astype(ts.dtype))  # a law needs time to pass
    wanted = jnp.array(horizons)

    def draw(i: Int[Array, ""]) -> Float[Array, "horizon dim"]:
        def step(state: tuple, x: tuple) -> tuple[tuple, None]:
            carry, found = state
            j, t = x
            # One number for origin, draw and step: keys split from keys compile for seconds.
            number = (k * draws + i) * len(reach) + j
            y = model.law(carry, t).sample(jr.fold_in(key, number))
            found = jnp.where((wanted == j)[:, None], y[None], found)
            return (model.see(carry, t, y), found), None

        found = jnp.zeros((len(horizons), path.ys.shape[1]), path.ys.dtype)
        return lax.scan(step, (carry, found), (reach, ts))[0][1]

    return good[wanted - 1], jnp.moveaxis(jax.vmap(draw)(jnp.arange(draws)), 0, 1)
