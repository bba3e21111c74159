"""Expectation maximisation for regimes of a VAR(1): forward, backward, and weighted regressions."""

from functools import partial
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float

from .._factors import cholesky, solve_cholesky, solve_lower
from ..laws import LOG_2PI

PSEUDO = 0.1  # added to every count of a regime or of a change between two
SPREAD = 0.01  # of the VAR(1)'s noise: the covariance that a regime has before it sees data

Rows = Float[Array, "row time dim"]
Seen = Bool[Array, "row time"]
Shares = Float[Array, "row time regime"]
Emissions = Float[Array, "time regime"]


@final
class Prior(NamedTuple):
    """Coefficients [F b] that regimes are drawn to, how strongly, and a sum of squares."""

    coefficients: Float[Array, "dim feature"]
    precision: Float[Array, "feature feature"]
    scatter: Float[Array, "dim dim"]
    weight: float


@final
class Regimes(NamedTuple):
    """The parameters."""

    start_log: Float[Array, " regime"]
    change_log: Float[Array, "regime regime"]
    matrices: Float[Array, "regime dim dim"]
    biases: Float[Array, "regime dim"]
    roots: Float[Array, "regime dim dim"]

    @staticmethod
    def prior(f: Array, b: Array, q: Array) -> Prior:
        dim = len(b)
        weight = float(dim + 2)
        one = jnp.eye(dim + 1, dtype=f.dtype)
        return Prior(jnp.concatenate([f, b[:, None]], axis=1), one, weight * SPREAD * q, weight)


def forward_backward(
    start_log: Float[Array, " regime"],
    change_log: Float[Array, "regime regime"],
    emissions: Emissions,
    seen: Bool[Array, " time"],
) -> tuple[Emissions, Float[Array, "regime regime"], Float[Array, ""]]:
    """Of one row: regimes at each transition, the sum of changes, and the log-likelihood.

    Logarithms throughout. Padding at the end has no emissions, and does not count.
    """
    e = jnp.where(seen[:, None], emissions, 0.0)

    def ahead(log_p: Array, e: Array) -> tuple[Array, Array]:
        here = log_p + e
        return logsumexp(here[:, None] + change_log, axis=0), here

    def back(log_b: Array, e: Array) -> tuple[Array, Array]:
        return logsumexp(change_log + (e + log_b)[None, :], axis=1), log_b

    _, a = lax.scan(ahead, start_log, e)
    _, b = lax.scan(back, jnp.zeros_like(start_log), e, reverse=True)
    log_likelihood = logsumexp(a[-1])
    shares = jnp.where(seen[:, None], jnp.exp(a + b - log_likelihood), 0.0)
    pair = a[:-1, :, None] + change_log[None] + (e + b)[1:, None, :] - log_likelihood
    pair = jnp.where(seen[1:, None, None], jnp.exp(pair), 0.0)
    return shares, jnp.sum(pair, axis=0), log_likelihood


def emissions_of(regimes: Regimes, x: Rows, y: Rows) -> Shares:
    """Log densities of all transitions in each regime."""

    def one(f: Array, b: Array, l: Array) -> Array:
        r = y - b[None, None] - x @ f.T
        z = solve_lower(l, r.reshape(-1, len(b)).T)
        log = jnp.sum(jnp.log(jnp.diagonal(l)))
        return (-0.5 * (jnp.sum(z**2, axis=0) + len(b) * LOG_2PI) - log).reshape(x.shape[:2])

    each = jax.vmap(one)(regimes.matrices, regimes.biases, regimes.roots)
    return jnp.moveaxis(each, 0, 2)


def expectation(
    regimes: Regimes, x: Rows, y: Rows, seen: Seen
) -> tuple[Shares, Float[Array, "regime regime"], Float[Array, ""]]:
    """Of all rows: regimes, the sum of changes, the log-likelihood."""
    emissions = emissions_of(regimes, x, y)
    rows = jax.vmap(forward_backward, in_axes=(None, None, 0, 0))
    shares, changes, log = rows(regimes.start_log, regimes.change_log, emissions, seen)
    # A row without transitions has the likelihood one.
    return shares, jnp.sum(changes, axis=0), jnp.sum(jnp.where(seen[:, 0], log, 0.0))


def maximisation(
    shares: Shares, changes: Float[Array, "regime regime"], x: Rows, y: Rows, prior: Prior
) -> Regimes:
    """The parameters of greatest posterior density given who was where."""
    weights = shares.reshape(-1, shares.shape[2])
    ones = jnp.ones_like(x[:, :, :1])
    u = jnp.concatenate([x, ones], axis=2).reshape(-1, x.shape[2] + 1)
    v = y.reshape(-1, y.shape[2])

    def one(w: Float[Array, " step"]) -> tuple[Array, Array, Array]:
        wu = w[:, None] * u
        left = wu.T @ u + prior.precision
        right = wu.T @ v + prior.precision @ prior.coefficients.T
        c = solve_cholesky(cholesky(left), right).T
        r, away = v - u @ c.T, c - prior.coefficients
        scatter = (w[:, None] * r).T @ r + away @ prior.precision @ away.T + prior.scatter
        q = scatter / (jnp.sum(w) + prior.weight)
        return c[:, :-1], c[:, -1], cholesky((q + q.T) / 2)

    matrices, biases, roots = lax.map(one, weights.T)
    first = jnp.sum(shares[:, 0], axis=0) + PSEUDO
    changes = changes + PSEUDO
    return Regimes(
        jnp.log(first / jnp.sum(first)),
        jnp.log(changes / jnp.sum(changes, axis=1, keepdims=True)),
        matrices,
        biases,
        roots,
    )


def log_prior(regimes: Regimes, prior: Prior) -> Float[Array, ""]:
    """Up to a constant; what `maximisation` climbs beside the likelihood."""

    def one(f: Array, b: Array, l: Array) -> Array:
        away = jnp.concatenate([f, b[:, None]], axis=1) - prior.coefficients
        scatter = away @ prior.precision @ away.T + prior.scatter
        inner = jnp.trace(solve_cholesky(l, scatter))
        return -0.5 * inner - prior.weight * jnp.sum(jnp.log(jnp.diagonal(l)))

    each = jax.vmap(one)(regimes.matrices, regimes.biases, regimes.roots)
    return jnp.sum(each) + PSEUDO * (jnp.sum(regimes.start_log) + jnp.sum(regimes.change_log))


@partial(jax.jit, static_argnames="iterations")
def fit_regimes(
    x: Rows, y: Rows, seen: Seen, shares: Shares, prior: Prior, iterations: int
) -> tuple[Regimes, Float[Array, " iteration"]]:
    """From a guess of who is where; the parameters, and the log posterior of each iteration's."""
    number = shares.shape[2]
    shares = jnp.where(seen[:, :, None], shares, 0.0)
    # As guessed, changes are those between neighbours if the two were independent.
    changes = jnp.einsum("rti,rtj->ij", shares[:, :-1], shares[:, 1:]) + 1.0 / number

    def step(regimes: Regimes, _: None) -> tuple[Regimes, Array]:
        shares, changes, log = expectation(regimes, x, y, seen)
        better = maximisation(shares, changes, x, y, prior)
        return better, log + log_prior(regimes, prior)

    regimes, history = lax.scan(step, maximisation(shares, changes, x, y, prior), length=iterations)
    last = expectation(regimes, x, y, seen)[2] + log_prior(regimes, prior)
    return regimes, jnp.append(history, last)
