"""Where the normals of a rollout come from: the counter hash, or `jax.random`."""

import abc
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, UInt32

from .._types import RandomKey
from . import _noise


class AbstractNoise(eqx.Module):
    """Normals as a function of (path's key, step, component), drawn anew wherever they are needed.

    Whatever a draw is made together with, other steps, other paths, other devices, it is the same.
    """

    @property
    @abc.abstractmethod
    def chunk(self) -> int:
        """How many steps are best drawn at once."""

    @abc.abstractmethod
    def stream(self, key: RandomKey) -> Array:
        """What a path carries instead of its `key`."""

    @abc.abstractmethod
    def normals(
        self,
        stream: Array,
        step: UInt32[Array, ""],
        components: int,
        dtype: Any,
        kind: _noise.Kind = _noise.W,
    ) -> Float[Array, " components"]:
        """Standard normals of one step; the areas of the path are other kinds."""


@final
class CounterNoise(AbstractNoise):
    """The counter hash of `CounterBrownianPath`: the same draws, so the same path."""

    @property
    def chunk(self) -> int:
        return 1  # a draw fuses with the step that uses it

    def stream(self, key: RandomKey) -> UInt32[Array, "2"]:
        return _noise.stream(key)

    def normals(
        self,
        stream: Array,
        step: UInt32[Array, ""],
        components: int,
        dtype: Any,
        kind: _noise.Kind = _noise.W,
    ) -> Float[Array, " components"]:
        return _noise.normals(stream, step, components, dtype, kind=kind)


@final
class JaxNoise(AbstractNoise):
    """`jax.random.normal` under the key folded with the step: slower, and JAX's own."""

    @property
    def chunk(self) -> int:
        return 16

    def stream(self, key: RandomKey) -> Array:
        return jax.vmap(lambda kind: jr.fold_in(key, kind))(jnp.arange(3))

    def normals(
        self,
        stream: Array,
        step: UInt32[Array, ""],
        components: int,
        dtype: Any,
        kind: _noise.Kind = _noise.W,
    ) -> Float[Array, " components"]:
        z = jr.normal(jr.fold_in(stream[kind], step), (components,), dtype)
        return lax.optimization_barrier(z)  # or its last operations round with those of the step
