"""Reductions over paths: what can be said of many states without keeping them."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, UInt32

from .._types import Scalar, State, concrete

States = Float[Array, "paths dim"]


class AbstractReduction(eqx.Module):
    """A statistic of a set of states that can be joined with that of another set."""

    @abc.abstractmethod
    def of(self, ys: States, counted: Bool[Array, " paths"]) -> PyTree[Array]:
        """The statistic of those states that are counted."""

    @abc.abstractmethod
    def join(self, a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
        """The statistic of two sets together."""

    @abc.abstractmethod
    def finish(self, total: PyTree[Array]) -> Any:
        """What the user sees; `total` may have a leading axis over times."""


class MomentsResult(NamedTuple):
    """Mean and covariance.

    Args:
        count: How many states were counted; those that are not finite were not.
        mean: Their mean, or NaN if there are none.
        covariance: Their covariance, as a matrix, or its diagonal as a vector; divided by
            `count - 1`, or NaN if that is 0.
    """

    count: Float[Array, "*time"]
    mean: Float[Array, "*time dim"]
    covariance: Float[Array, "..."]


@final
class Moments(AbstractReduction):
    """Mean and covariance, joined without cancellation.

    Args:
        covariance: "full" for a matrix, "diagonal" for the variances alone.
    """

    covariance: Literal["full", "diagonal"] = eqx.field(static=True, default="full")

    def __check_init__(self) -> None:
        if self.covariance not in ("full", "diagonal"):
            raise ValueError(f"`covariance` is {self.covariance!r}. Use 'full' or 'diagonal'.")

    def of(self, ys: States, counted: Bool[Array, " paths"]) -> tuple[Array, Array, Array]:
        counted = counted & jnp.all(jnp.isfinite(ys), axis=1)
        n = jnp.sum(counted, dtype=ys.dtype)
        safe = jnp.where(counted[:, None], ys, 0)
        mean = jnp.sum(safe, axis=0) / jnp.maximum(n, 1)
        d = jnp.where(counted[:, None], safe - mean[None, :], 0)
        return n, mean, self._squares(d) / jnp.maximum(n, 1)

    def _squares(self, d: Float[Array, "rows dim"]) -> Array:
        return d.T @ d if self.covariance == "full" else jnp.sum(d * d, axis=0)

    def join(self, a: PyTree[Array], b: PyTree[Array]) -> tuple[Array, Array, Array]:
        (n, mean, spread), (m, other, more) = a, b
        total = jnp.maximum(n + m, 1)
        p, q = n / total, m / total
        d = other - mean
        return n + m, mean + q * d, p * spread + q * more + p * q * self._squares(d[None, :])

    def finish(self, total: PyTree[Array]) -> MomentsResult:
        n, mean, spread = total
        nan = jnp.asarray(jnp.nan, n.dtype)
        some, unbiased = jnp.where(n > 0, 1, nan), jnp.where(n > 1, n / jnp.maximum(n - 1, 1), nan)
        over = unbiased.reshape(n.shape + (1,) * (spread.ndim - n.ndim))
        return MomentsResult(n, mean * some[..., None], spread * over)


class HistogramResult(NamedTuple):
    """Counts between edges.

    Args:
        edges: The edges.
        counts: How many values were between each two; the last bin holds its right edge.
        below, above, lost: How many were outside, and how many were not numbers.
    """

    edges: Float[Array, " edges"]
    counts: UInt32[Array, "*time bins"]
    below: UInt32[Array, "*time"]
    above: UInt32[Array, "*time"]
    lost: UInt32[Array, "*time"]


@final
class Histogram(AbstractReduction):
    """Counts of a number made of each state, as uint32: beyond 2^32 states in a bin they wrap.

    Args:
        edges: Edges of the bins, increasing.
        of_state: What is counted: a component's number, or a callable `y -> number`.
    """

    edges: Float[Array, " edges"]
    value: Callable[[State], Scalar]

    def __init__(
        self, edges: ArrayLike | Sequence[float], of_state: int | Callable[[State], Scalar] = 0
    ):
        known = concrete(edges)
        if known is not None and (
            known.ndim != 1 or len(known) < 2 or not (np.diff(known) > 0).all()
        ):
            raise ValueError(f"`edges` is {known}. Pass a vector of two or more, increasing.")
        edges = jnp.asarray(edges)
        floating = jnp.issubdtype(edges.dtype, jnp.floating)
        self.edges = edges if floating else edges.astype(jnp.result_type(float))
        if not callable(of_state) and (isinstance(of_state, bool) or of_state != int(of_state)):
            raise ValueError(
                f"`of_state` is {of_state!r}. Pass a component's number, or a callable."
            )
        self.value = of_state if callable(of_state) else _Component(int(of_state))

    def of(self, ys: States, counted: Bool[Array, " paths"]) -> UInt32[Array, " slots"]:
        """Counts of: below, each bin, above, not a number."""
        if isinstance(self.value, _Component) and self.value.number not in range(ys.shape[1]):
            raise ValueError(
                f"`Histogram` counts component {self.value.number}, but states have "
                f"{ys.shape[1]}, from 0 on. Use one of them, or a callable `y -> number`."
            )
        x = jax.vmap(lambda y: jnp.asarray(self.value(y)))(ys)
        if x.ndim != 1 or jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise ValueError(
                f"`of_state` of `Histogram` returns {x.dtype}{list(x.shape[1:])}. Return a number."
            )
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(ys.dtype)
        edges = self.edges.astype(x.dtype)
        bins = edges.shape[0] - 1
        slot = jnp.searchsorted(edges, x, side="right")
        slot = jnp.where(x == edges[-1], bins, slot)
        slot = jnp.where(jnp.isnan(x), bins + 2, slot)
        return jnp.zeros(bins + 3, jnp.uint32).at[slot].add(counted.astype(jnp.uint32))

    def join(self, a: Array, b: Array) -> Array:
        return a + b

    def finish(self, total: Array) -> HistogramResult:
        return HistogramResult(
            self.edges, total[..., 1:-2], total[..., 0], total[..., -2], total[..., -1]
        )


@final
class _Component(eqx.Module):
    number: int = eqx.field(static=True)

    def __call__(self, y: State) -> Array:
        return y[self.number]
