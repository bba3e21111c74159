"""The loss of a model on items that are held out."""

from collections.abc import Callable
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from .._io import BadArgument
from .._types import RandomKey
from ._devices import rows_apart
from ._trainer import Model, weighs, weight_of, weighted


@final
class HeldOut(eqx.Module):
    """The loss of a model on items that are held out, part by part, with the same key each time.

    Args:
        loss: As for `trainer`.
        items: A pytree of arrays with one leading axis.
        key: For losses with noise.
        size: Items in a part.
        mesh: Devices that each part is split over; `fit` passes its own.
    """

    loss: Callable
    items: PyTree
    key: RandomKey
    size: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.size < 1 or not jax.tree.leaves(self.items):
            raise BadArgument(
                f"`size` is {self.size}, and `items` has {len(jax.tree.leaves(self.items))} arrays."
                " Use 1 or more of both."
            )

    def __call__(self, model: Model) -> Float[Array, ""]:
        count = jax.tree.leaves(self.items)[0].shape[0]
        whole = count - count % self.size
        if count - whole == 1 and whole:  # one item is no set for a loss to look at
            whole -= self.size

        def part(items: PyTree, key: RandomKey) -> tuple[Array, Array]:
            weight = weight_of(self.loss, items)
            return weighted(self.loss(model, items, key).astype(jnp.float32), weight), weight

        values, weights = [jnp.zeros(1, jnp.float32)], [jnp.zeros(1, jnp.float32)]
        if whole:
            cut = lambda x: x[:whole].reshape(-1, self.size, *x.shape[1:])  # noqa: E731
            parts = rows_apart(jax.tree.map(cut, self.items), self.mesh, axis=1)
            keys = jr.split(self.key, whole // self.size)
            value, weight = jax.lax.map(lambda one: part(*one), (parts, keys))
            values, weights = [*values, value], [*weights, weight]
        if count > whole:
            value, weight = part(jax.tree.map(lambda x: x[whole:], self.items), self.key)
            # A weight that is always one does not know of the size of a part.
            share = 1.0 if weighs(self.loss) else (count - whole) / self.size
            values, weights = [*values, value[None] * share], [*weights, weight[None] * share]
        total = jnp.sum(jnp.concatenate(weights))
        return jnp.sum(jnp.concatenate(values)) / jnp.where(total > 0, total, 1.0)
