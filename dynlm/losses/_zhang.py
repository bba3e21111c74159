r"""The drift and diffusion losses after Zhang (2024), reconstructed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._factors import cholesky
from ..sde import SDE
from ..trajectory import Trajectory
from ._flow import Matrix
from ._likelihood import mean_seen, transitions


class Zhang(NamedTuple):
    """The two losses and their sum."""

    drift: Float[Array, ""]
    diffusion: Float[Array, ""]
    total: Float[Array, ""]


def zhang(sde: SDE, path: Trajectory, *, shrinkage: float | None = None) -> Float[Array, ""]:
    """The sum of `zhang_pair`, to be trained with."""
    return zhang_pair(sde, path, shrinkage=shrinkage).total


def zhang_pair(sde: SDE, path: Trajectory, *, shrinkage: float | None = None) -> Zhang:
    r"""Squared error for the drift and a KL divergence for the diffusion, after Zhang (2024).

    $L_\mathrm{drift} = \mathrm{mean}\,|\Delta y/\Delta t - f|^2$ and
    $L_\mathrm{diffusion} = \mathrm{mean}\,KL\big(N(0, S)\,\|\,N(0, \Sigma)\big)$ over the seen
    steps, where S is the second moment about zero of the path's residuals
    $(\Delta y - f\,\Delta t)/\sqrt{\Delta t}$, shrunk towards its diagonal. The source names the
    two kinds of loss; these forms are ours. Each path has its own S, so that a diffusion that
    varies along the path is drawn to one that does not: unlike `transition_nll`, which is the
    default, this is not a proper score.

    S is held fixed in derivatives: the diffusion's loss does not move the drift. Nor does
    the drift's loss move the diffusion, unless a Stratonovich drift is converted by it.

    Args:
        shrinkage: From 0, S as it is, to 1, its diagonal. By default the estimate of the best
            one by Schaefer and Strimmer (after Ledoit and Wolf): the summed sampling variances
            of the entries off the diagonal over their summed squares, at most 1.
    """
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise ValueError(f"`shrinkage` is {shrinkage}. Use 0 to 1, or None to estimate it.")
    t, y, dt, y_next, seen = transitions(path)
    f = jax.vmap(sde.to_ito().drift)(t, y)
    off = (y_next - y) / dt[:, None] - f
    l_drift = mean_seen(jnp.sum(off**2, axis=1), seen)

    s = lax.stop_gradient(_second_moment(off * jnp.sqrt(dt)[:, None], seen, shrinkage))
    root = cholesky(s)
    logdet_s = 2 * jnp.sum(jnp.log(jnp.diagonal(root)))

    def kl(t: Float[Array, ""], y: Float[Array, " dim"]) -> Float[Array, ""]:
        squares, logdets = jax.vmap(lambda r: sde.diffusion.quadratic(t, y, r))(root.T)
        return 0.5 * (jnp.sum(squares) - len(y) + logdets[0] - logdet_s)

    l_diffusion = mean_seen(jax.vmap(kl)(t, y), seen)
    return Zhang(l_drift, l_diffusion, l_drift + l_diffusion)


def _second_moment(
    r: Float[Array, "steps dim"], seen: Bool[Array, " steps"], shrinkage: float | None
) -> Matrix:
    """Of the seen residuals, shrunk, and positive definite however few there are."""
    n, dim = jnp.sum(seen), r.shape[1]
    count = jnp.maximum(n, 1).astype(r.dtype)
    r = jnp.where(seen[:, None], r, 0.0)
    s = r.T @ r / count
    other = 1 - jnp.eye(dim, dtype=r.dtype)
    if shrinkage is None:
        variances = ((r**2).T @ r**2 / count - s**2) / jnp.maximum(count - 1, 1.0)
        squares = jnp.sum(other * s**2)
        some = squares > 0
        estimate = jnp.sum(other * variances) / jnp.where(some, squares, 1.0)
        # of one residual no variance is known, and its second moment has rank one
        share = jnp.where((n > 1) & some, jnp.clip(estimate, 0.0, 1.0), 1.0)
    else:
        share = jnp.asarray(shrinkage, r.dtype)
    s = s * (1 - share * other)
    size = jnp.trace(s) / dim
    floor = 8 * dim * jnp.finfo(r.dtype).eps * jnp.where(size > 0, size, 1.0)
    return s + floor * jnp.eye(dim, dtype=r.dtype)
