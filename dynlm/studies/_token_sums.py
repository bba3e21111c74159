"""Forecast states as next-token distributions, summed row by row on the device."""

import math
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from .._types import RandomKey
from ..predict import AbstractPredictor
from ..predict._forecast import _carries, _simulated, origins_of
from ..predict._steps import by_rows
from ..store import Projection
from ..trajectory import Trajectory
from ._unembedded import States, divergence, lifted, log_probs, rows_at_once


@final
class TokenSums(NamedTuple):
    """Sums over the forecasts of a row: how many, of log probabilities, of divergences."""

    count: Float[Any, "*row horizon"]
    score: Float[Any, "*row horizon"]
    divergence: Float[Any, "*row horizon"]


@eqx.filter_jit
def known_sums(
    decoder: Any,
    projection: Projection,
    unigram: Float[Any, " vocab"],
    states: States,
    tokens: Int[Array, "row time"],
    *,
    horizons: tuple[int, ...],
    origins: int,
    burn: int,
) -> tuple[TokenSums, TokenSums, TokenSums]:
    """What needs no forecast: the model itself, its projected states, shares of tokens."""

    def one(states: States, tokens: Int[Array, " time"]) -> tuple[TokenSums, ...]:
        at, real = origins_of(states.paths, origins, burn)

        def origin(x: tuple[Array, Array]) -> tuple[TokenSums, ...]:
            k, real = x
            there, after, good = _ahead(states.paths, k, horizons)
            log_p = log_probs(decoder, states.final[there])
            z = states.paths.ys[there]
            projected = log_probs(decoder, lifted(projection, z, states.final.dtype))
            plain = jnp.broadcast_to(jnp.asarray(unigram, log_p.dtype), log_p.shape)
            known = (log_p, projected, plain)
            return tuple(_told(log_p, q, tokens[after], good & real) for q in known)

        return jax.tree.map(lambda x: jnp.sum(x, axis=0), lax.map(origin, (at, real)))

    size = rows_at_once(4 * len(horizons) * len(unigram))
    return by_rows(one, (states, tokens), size)


@eqx.filter_jit
def forecast_sums(
    decoder: Any,
    projection: Projection,
    model: AbstractPredictor,
    states: States,
    tokens: Int[Array, "row time"],
    *,
    key: RandomKey,
    horizons: tuple[int, ...],
    draws: int,
    origins: int,
    burn: int,
    size: int,
) -> TokenSums:
    """Of each row: how the mean law of states does, of which `draws` were drawn."""

    def one(row: Int[Array, ""], states: States, tokens: Int[Array, " time"]) -> TokenSums:
        path = states.paths
        at, real = origins_of(path, origins, burn)
        row_key = jr.fold_in(key, row)

        def origin(x: tuple[Array, Array, Any]) -> TokenSums:
            k, real, carry = x
            good, ys = _simulated(model, path, k, carry, row_key, draws, horizons)
            there, after, followed = _ahead(path, k, horizons)
            log_p = log_probs(decoder, states.final[there])
            log_q = log_of_mean(log_probs(decoder, lifted(projection, ys, states.final.dtype)))
            return _told(log_p, log_q, tokens[after], good & followed & real)

        each = lax.map(origin, (at, real, _carries(model, path, at)))
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)

    return by_rows(one, (jnp.arange(len(tokens)), states, tokens), size)


def log_of_mean(
    log_q: Float[Array, "horizon draw vocab"],
) -> Float[Array, "horizon vocab"]:
    r"""The logarithm of a mean law of which there are some draws, without the bias of few.

    $\log \bar q$ of n draws is too low by $\operatorname{Var} q / (2 n \bar q^2)$ and terms of
    second order. Those of both halves of the draws are too low by as much for their number:
    subtracted with the right weight they cancel it. The sum over a vocabulary is then one in the
    mean only.
    """
    n = log_q.shape[1]
    a = n // 2
    weight = 1 / (n * n / (a * (n - a)) - 2)  # a half of two equal halves

    def mean(x: Float[Array, "horizon _ vocab"]) -> Float[Array, "horizon vocab"]:
        return logsumexp(x, axis=1) - math.log(x.shape[1])

    halves = mean(log_q[:, :a]) + mean(log_q[:, a:])
    return (1 + 2 * weight) * mean(log_q) - weight * halves


def _ahead(
    path: Trajectory, k: Int[Array, ""], horizons: tuple[int, ...]
) -> tuple[Int[Array, " horizon"], Int[Array, " horizon"], Bool[Array, " horizon"]]:
    """The states that are forecast, the tokens after them, and whether there are such."""
    last = len(path.ts) - 1
    there = k + jnp.array(horizons, k.dtype)
    after = jnp.minimum(there + 1, last)
    return jnp.minimum(there, last), after, (there < last) & path.mask[after]


def _told(
    log_p: Float[Array, "horizon vocab"],
    log_q: Float[Array, "horizon vocab"],
    tokens: Int[Array, " horizon"],
    good: Bool[Array, " horizon"],
) -> TokenSums:
    score = jnp.take_along_axis(log_q, tokens[:, None], axis=1)[:, 0]
    kl = jax.vmap(divergence)(log_p, log_q)
    zero = jnp.zeros((), score.dtype)
    return TokenSums(good.astype(score.dtype), *(jnp.where(good, x, zero) for x in (score, kl)))
