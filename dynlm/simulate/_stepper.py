"""One step of many paths at once: their times, their noise and their models."""

from collections.abc import Callable
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from .._types import concrete
from ..sde import SDE
from ._generators import AbstractNoise
from ._schemes import Carry, Scheme

Index = int | Int[Array, ""]

_DEVIATIONS = (1.0, 12**-0.5)  # of W and H over a unit of time


class Model(NamedTuple):
    """What is differentiated besides the state: an SDE, or what makes one of each control."""

    sde: SDE | Callable[[Any], SDE]
    controls: PyTree[Array]  # a leading axis over paths, or None

    def of(self, control: Any) -> SDE:
        """The SDE of the path with this control."""
        return self.sde if isinstance(self.sde, SDE) else self.sde(control)


@final
class Steps(eqx.Module):
    """When step `k` begins and how long it is; even, or on `times`, which each path may have.

    Args:
        number: How many steps there are.
    """

    t0: Any  # numbers of numpy, which cost a call less than arrays
    h: Any
    times: Float[Array, "*paths times"] | None
    number: int = eqx.field(static=True)

    @property
    def axis(self) -> int | None:
        """The axis of paths in what `at` returns."""
        return 0 if self.times is not None and self.times.ndim == 2 else None

    def at(self, k: Index) -> tuple[Array, Array]:
        """The beginning and the length of step `k`."""
        if self.times is None:
            return self.time(k), jnp.asarray(self.h)
        times = lax.dynamic_slice_in_dim(self.times, k, 2, axis=-1)
        return times[..., 0], times[..., 1] - times[..., 0]

    def lengths(self, k: Int[Array, " steps"]) -> Float[Array, "*paths steps"]:
        """The length of each of these steps."""
        if self.times is None:
            return jnp.broadcast_to(jnp.asarray(self.h), k.shape)
        return self.times[..., k + 1] - self.times[..., k]

    def known(self) -> np.ndarray | None:
        """All times, if they are known and shared by all paths."""
        k = np.arange(self.number + 1)
        if self.times is not None:
            return concrete(self.times) if self.times.ndim == 1 else None
        if isinstance(self.t0, Tracer) or isinstance(self.h, Tracer):
            return None
        return np.asarray(self.t0) + k.astype(np.asarray(self.h).dtype) * np.asarray(self.h)

    def time(self, k: Any) -> Array:
        """The beginning of step `k`, or of each if it is a vector; the end, if it is `number`."""
        if self.times is None:
            t0, h = jnp.asarray(self.t0), jnp.asarray(self.h)
            return t0 + jnp.asarray(k).astype(h.dtype) * h
        return self.times[..., k]


@final
class Stepper(eqx.Module):
    """One step of all paths.

    Args:
        chunk: Steps whose noise is drawn at once.
        unroll: Steps in one turn of the innermost loop.
    """

    scheme: Scheme = eqx.field(static=True)
    noise: AbstractNoise
    streams: Array
    steps: Steps
    noise_dim: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    chunk: int = eqx.field(static=True)
    unroll: int = eqx.field(static=True)

    def init(self, model: Model, y0s: Float[Array, "paths dim"]) -> Carry:
        """What the scheme takes from step to step, at the start."""
        t = self.steps.time(0)
        return jax.vmap(
            lambda control, t, y: self.scheme.init(model.of(control), t, y),
            in_axes=(0, self.steps.axis, 0),
        )(model.controls, t, y0s)

    def draw(self, k: Int[Array, ""]) -> list[Float[Array, "paths noise"]]:
        """The normals that step `k` of every path is driven by, one array for each kind."""
        k = k.astype(jnp.uint32)

        def draw(kind: Any) -> Array:
            of = self.noise.normals
            return jax.vmap(lambda stream: of(stream, k, self.noise_dim, self.dtype, kind))(
                self.streams
            )

        return [draw(kind) for kind in range(self.scheme.areas)]

    def step(self, model: Model, carry: Carry, k: Index, normals: PyTree[Array]) -> Carry:
        """Every path after step `k`."""
        return self._mapped(self.scheme.step, model, carry, k, normals)

    def undo(self, model: Model, carry: Carry, k: Index, normals: PyTree[Array]) -> Carry:
        """Every path before step `k`."""
        assert self.scheme.undo is not None
        return self._mapped(self.scheme.undo, model, carry, k, normals)

    def states(self, carry: Carry) -> Float[Array, "paths dim"]:
        """The states among what is carried."""
        return self.scheme.state(carry)

    def _mapped(
        self, step: Callable, model: Model, carry: Carry, k: Index, normals: PyTree[Array]
    ) -> Carry:
        def one(control: Any, carry: Carry, t: Array, h: Array, normals: PyTree[Array]) -> Carry:
            areas = [
                jnp.sqrt(h) * jnp.asarray(deviation, h.dtype) * z
                for deviation, z in zip(_DEVIATIONS, normals)
            ]
            new = step(model.of(control), t, h, carry, *areas)
            if self.steps.times is None:
                return new
            return jax.tree.map(lambda x, y: jnp.where(h > 0, y, x), carry, new)

        t, h = self.steps.at(k)
        axis = self.steps.axis
        return jax.vmap(one, in_axes=(0, 0, axis, axis, 0))(model.controls, carry, t, h, normals)
