"""k-means on the device: where mixtures start."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, Int

from .._types import RandomKey

Points = Float[Array, "point dim"]


@partial(jax.jit, static_argnames=("number", "iterations"))
def clusters(
    points: Points, number: int, *, key: RandomKey, iterations: int = 20
) -> tuple[Float[Array, "cluster dim"], Int[Array, " point"]]:
    """Centres and the nearest one of each point: Lloyd's iteration from k-means++ seeds.

    A centre that loses all its points stays where it is.
    """

    def seeded(carry: tuple[Points, Array], key: RandomKey) -> tuple[tuple[Points, Array], None]:
        centres, k = carry
        far = jnp.min(_squares(points, centres), axis=1)
        chosen = points[jr.categorical(key, jnp.log(jnp.maximum(far, 1e-30)))]
        return (centres.at[k].set(chosen), k + 1), None

    first, others = jr.split(key)
    start = points[jr.randint(first, (), 0, len(points))]
    centres = jnp.broadcast_to(start, (number, points.shape[1]))
    one = jnp.asarray(1, jnp.int32)
    (centres, _), _ = lax.scan(seeded, (centres, one), jr.split(others, number - 1))

    def moved(centres: Points, _: None) -> tuple[Points, None]:
        member = jax.nn.one_hot(nearest(points, centres), number, dtype=points.dtype)
        count = jnp.sum(member, axis=0)[:, None]
        mean = (member.T @ points) / jnp.maximum(count, 1)
        return jnp.where(count > 0, mean, centres), None

    centres, _ = lax.scan(moved, centres, length=iterations)
    return centres, nearest(points, centres)


def nearest(points: Points, centres: Float[Array, "cluster dim"]) -> Int[Array, " point"]:
    """The number of the nearest centre."""
    return jnp.argmin(_squares(points, centres), axis=1)


def _squares(points: Points, centres: Float[Array, "cluster dim"]) -> Float[Array, "point cluster"]:
    of_points = jnp.sum(points**2, axis=1)[:, None]
    of_centres = jnp.sum(centres**2, axis=1)[None, :]
    return of_points - 2 * (points @ centres.T) + of_centres
