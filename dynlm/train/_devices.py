"""Placing arrays: batches split over the devices of a mesh, all else on every device."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from .._io import BadArgument

AXIS = "data"


def data_mesh() -> Mesh | None:
    """All devices on one axis, or None where there is only one."""
    if jax.device_count() == 1:
        return None
    return Mesh(np.array(jax.devices()), (AXIS,))


def checked_mesh(mesh: Mesh | None, rows: int) -> Mesh | None:
    """The mesh; refused without the axis, or where it cannot split a batch of so many rows."""
    if mesh is None:
        return None
    if AXIS not in mesh.axis_names:
        raise BadArgument(
            f"`mesh` has the axes {mesh.axis_names}. It needs one called {AXIS!r}: "
            f'`jax.make_mesh((n,), ("{AXIS}",))`.'
        )
    if rows % mesh.shape[AXIS]:
        raise BadArgument(
            f"A batch has {rows} items and the mesh {mesh.shape[AXIS]} devices along {AXIS!r}. "
            "Make the size of the batch a multiple, or pass a `mesh` of fewer devices."
        )
    # What `jax.make_mesh` gives would have every operation of a loss say how its result is split.
    return Mesh(mesh.devices, mesh.axis_names)


def on_all(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The tree with its arrays on every device."""
    return _placed(tree, mesh, PartitionSpec())


def split_rows(tree: PyTree, mesh: Mesh | None, axis: int) -> PyTree:
    """The arrays with their `axis` split over the devices; each process passes its own part."""
    return _placed(tree, mesh, PartitionSpec(*[None] * axis, AXIS))


def same_on_all(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Inside a compiled call: its results are on every device, so that the next one takes them."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    keep = lambda x: lax.with_sharding_constraint(x, sharding) if eqx.is_array(x) else x  # noqa: E731
    return jax.tree.map(keep, tree)


def rows_apart(tree: PyTree, mesh: Mesh | None, axis: int) -> PyTree:
    """Inside a compiled call: rows along `axis` are split over the devices, if they divide."""
    if mesh is None or any(x.shape[axis] % mesh.shape[AXIS] for x in jax.tree.leaves(tree)):
        return tree
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    return jax.tree.map(lambda x: lax.with_sharding_constraint(x, sharding), tree)


def is_key(x: Any) -> bool:
    """Whether it is an array of random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _placed(tree: PyTree, mesh: Mesh | None, spec: PartitionSpec) -> PyTree:
    def place(x: Any) -> Any:
        if not eqx.is_array(x) and not isinstance(x, np.ndarray):
            return x
        if mesh is None:
            return jnp.asarray(x)
        sharding = NamedSharding(mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        if is_key(x):
            return jr.wrap_key_data(place(jr.key_data(x)), impl=jr.key_impl(x))
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(place, tree)
