r"""Quadratic variation: how much noise a path has seen, whatever drove it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..sde import SDE
from ..trajectory import Trajectory
from ._flow import Matrix
from ._likelihood import transitions


def quadratic_variation(sde: SDE, path: Trajectory) -> Float[Array, ""]:
    r"""$\|R - M\|^2 / \|R\|^2$ in Frobenius' norm: realised against modelled noise.

    $R = \sum_k \Delta y_k\,\Delta y_k^\top$ and $M = \sum_k \Sigma(t_k, y_k)\,\Delta t_k$ over the
    seen steps. Not a proper score: it is blind to the drift, and to where along the path
    the noise is. R holds the drift as well, by $\sum f f^\top \Delta t^2$, which vanishes with
    the step. A path without a seen step, or without movement, has loss 0.
    """
    t, y, dt, y_next, seen = transitions(path)
    dy = jnp.where(seen[:, None], y_next - y, 0.0)

    def weighted(t: Float[Array, ""], y: Float[Array, " dim"], dt: Float[Array, ""]) -> Matrix:
        return sde.diffusion.covariance(t, y).as_matrix() * dt

    modelled = jax.vmap(weighted)(t, y, dt)
    m = jnp.sum(jnp.where(seen[:, None, None], modelled, 0.0), axis=0)
    r = dy.T @ dy
    size = jnp.sum(r**2)
    moved = size > 0
    return jnp.where(moved, jnp.sum((r - m) ** 2) / jnp.where(moved, size, 1.0), 0.0)
