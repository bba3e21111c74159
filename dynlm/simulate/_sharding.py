"""Paths spread over the devices of a mesh."""

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from .._types import RandomKey
from ._saves import AbstractSave
from ._stepper import Model, Steps

T = TypeVar("T")


def sharded(
    of_shard: Callable,
    mesh: Mesh,
    per_path: bool,
    model: Model,
    y0s: Array,
    steps: Steps,
    key: RandomKey,
    save: AbstractSave,
) -> Any:
    """`of_shard` on every device of `mesh`, with its share of the paths."""
    axes = tuple(mesh.axis_names)
    spread, whole = PartitionSpec(axes), PartitionSpec()
    own = (model.controls, y0s, steps.times if steps.axis == 0 else None)
    shared, static = eqx.partition((model.sde, steps, save), eqx.is_array)

    def one(own: Any, shared: Any, words: Array) -> Any:
        controls, y0s, times = own
        sde, steps, save = eqx.combine(shared, static)
        if times is not None:
            steps = Steps(None, None, times, steps.number)
        shard = lax.axis_index(axes).astype(jnp.uint32)
        here = jr.wrap_key_data(words, impl=jr.key_impl(key)) if typed else words
        return of_shard(shard, Model(sde, controls), y0s, steps, here, save)

    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words = jr.key_data(key) if typed else key
    if steps.axis == 0:
        shared = eqx.tree_at(lambda s: s[1].times, shared, replace=None)
    return jax.shard_map(
        one,
        mesh=mesh if _explicit(y0s) else Mesh(mesh.devices, axes),
        in_specs=(spread, whole, whole),
        out_specs=spread if per_path else whole,
        check_vma=False,
    )(own, shared, words)


def _explicit(x: Array) -> bool:
    """Whether the type of `x` says how it is sharded; else JAX is left to move it."""
    return AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


def moved(arguments: T, mesh: Mesh) -> T:
    """`arguments` with what is bound to other devices copied to all of `mesh`."""
    devices = set(mesh.devices.flat)
    everywhere = NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec())

    def move(x: Any) -> Any:
        if not isinstance(x, jax.Array) or isinstance(x, Tracer):
            return x
        bound = x.committed and set(x.sharding.device_set) != devices
        return jax.device_put(x, everywhere) if bound else x

    return jax.tree.map(move, arguments)


def joined(left: Any, join: Callable[[Any, Any], Any], mesh: Mesh) -> Any:
    """What is left of all paths, from what is left of those of each device."""
    every = jax.tree.map(lambda x: lax.all_gather(x, tuple(mesh.axis_names)), left)
    return reduce(join, [jax.tree.map(lambda x, i=i: x[i], every) for i in range(mesh.size)])
