"""Laws of one state: mixtures of Gaussians, which every one-step model here predicts with."""

import abc
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import log_ndtr, logsumexp
from jaxtyping import Array, Float, Int

from ._factors import cholesky, solve_lower
from ._types import RandomKey, State

LOG_2PI = 1.8378770664093453


class AbstractLaw(eqx.Module):
    """The law of one state."""

    @abc.abstractmethod
    def logpdf(self, y: State) -> Float[Array, ""]:
        """The log density at `y`."""

    @abc.abstractmethod
    def mean(self) -> State:
        """The expectation."""

    @abc.abstractmethod
    def sample(self, key: RandomKey) -> State:
        """One draw."""

    @abc.abstractmethod
    def cdf(self, y: State) -> State:
        r"""$P(Y_i \le y_i)$ of each component by itself."""


@final
class Mixture(AbstractLaw):
    r"""$\sum_k w_k\,N(m_k, L_k L_k^\top)$. One component makes a Gaussian: see `gaussian`.

    Args:
        log_weights: Logarithms of the weights, which sum to one.
        means: $m_k$.
        roots: $L_k$, lower triangular with a positive diagonal.
    """

    log_weights: Float[Array, " component"]
    means: Float[Array, "component dim"]
    roots: Float[Array, "component dim dim"]

    def logpdf(self, y: State) -> Float[Array, ""]:
        def one(m: State, l: Float[Array, "dim dim"]) -> Float[Array, ""]:
            z = solve_lower(l, y - m)
            return -0.5 * (z @ z + len(y) * LOG_2PI) - jnp.sum(jnp.log(jnp.diagonal(l)))

        return logsumexp(self.log_weights + jax.vmap(one)(self.means, self.roots))

    def mean(self) -> State:
        return jnp.exp(self.log_weights) @ self.means

    def sample(self, key: RandomKey) -> State:
        k, key = _chosen(self.log_weights, key)
        m, l = self.means[k], self.roots[k]
        return m + l @ jr.normal(key, m.shape, m.dtype)

    def cdf(self, y: State) -> State:
        scales = jnp.sqrt(jnp.sum(self.roots**2, axis=2))
        return _mixed_cdf(self.log_weights, self.means, scales, y)


@final
class DiagonalMixture(AbstractLaw):
    r"""$\sum_k w_k\,N(m_k, \mathrm{diag}(s_k^2))$."""

    log_weights: Float[Array, " component"]
    means: Float[Array, "component dim"]
    scales: Float[Array, "component dim"]

    def logpdf(self, y: State) -> Float[Array, ""]:
        z = (y[None] - self.means) / self.scales
        each = -0.5 * (z**2 + LOG_2PI) - jnp.log(self.scales)
        return logsumexp(self.log_weights + jnp.sum(each, axis=1))

    def mean(self) -> State:
        return jnp.exp(self.log_weights) @ self.means

    def sample(self, key: RandomKey) -> State:
        k, key = _chosen(self.log_weights, key)
        m, s = self.means[k], self.scales[k]
        return m + s * jr.normal(key, m.shape, m.dtype)

    def cdf(self, y: State) -> State:
        return _mixed_cdf(self.log_weights, self.means, self.scales, y)


def gaussian(mean: State, covariance: Float[Array, "dim dim"]) -> Mixture:
    """The Gaussian of a mean and a positive definite covariance."""
    root = cholesky(covariance)
    return Mixture(jnp.zeros(1, mean.dtype), mean[None], root[None])


def _chosen(
    log_weights: Float[Array, " component"], key: RandomKey
) -> tuple[Int[Array, ""] | int, RandomKey]:
    """A component, and the key for what is drawn from it."""
    if len(log_weights) == 1:  # nothing to draw, which halves the work of every Gaussian
        return 0, key
    which, noise = jr.split(key)
    return jr.categorical(which, log_weights), noise


def _mixed_cdf(
    log_weights: Float[Array, " component"],
    means: Float[Array, "component dim"],
    scales: Float[Array, "component dim"],
    y: State,
) -> State:
    below = log_ndtr((y[None] - means) / scales)
    # Rounding may leave the sum of the weights a little above one.
    return jnp.exp(jnp.minimum(logsumexp(log_weights[:, None] + below, axis=0), 0.0))
