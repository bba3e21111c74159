r"""The divergence between two SDEs with one diffusion, along a path."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import concrete
from ..sde import SDE
from ..trajectory import Trajectory
from ._likelihood import transitions

SAME = 1e-4  # share of a covariance by which two that count as one may differ


def girsanov(p: SDE, q: SDE, path: Trajectory) -> Float[Array, ""]:
    r"""$\tfrac12 \sum_k |f_p - f_q|^2_{\Sigma^{-1}}\,\Delta t$ over the seen steps of a path of p.

    Its mean over paths that Euler's method made of p at these times is the divergence
    $KL(P \| Q)$ of that chain from q's, exactly; as the steps shrink it is that of the processes
    (Girsanov). Over paths of another law it is neither. It is a sum, not a mean per step.

    Args:
        p: Where the path is from. Its diffusion is the one that is used.
        q: An SDE with the same diffusion: with another one the divergence between processes is
            infinite. That it is the same is assumed. Where the numbers of both are known, outside
            of `jit` and `grad`, it is looked at in one state, all ones at time zero.
    """
    if p.dim != q.dim:
        raise ValueError(f"`p` has dimension {p.dim}, `q` {q.dim}. Compare SDEs of one dimension.")
    _check_shared(p, q, path)
    f_p, f_q = p.to_ito().drift, q.to_ito().drift

    def rate(t: Float[Array, ""], y: Float[Array, " dim"]) -> Float[Array, ""]:
        return 0.5 * p.diffusion.quadratic(t, y, f_p(t, y) - f_q(t, y))[0]

    t, y, dt, _, seen = transitions(path)
    return jnp.sum(jnp.where(seen, jax.vmap(rate)(t, y) * dt, 0.0))


def _check_shared(p: SDE, q: SDE, path: Trajectory) -> None:
    """Refuses two diffusions that are seen to differ."""
    arrays = jax.tree.leaves(eqx.filter((p.diffusion, q.diffusion), eqx.is_array))
    if any(concrete(x) is None for x in arrays):
        return
    with jax.ensure_compile_time_eval():
        t, y = jnp.zeros((), path.ts.dtype), jnp.ones(p.dim, path.ys.dtype)
        one, other = (concrete(sde.diffusion.covariance(t, y).as_matrix()) for sde in (p, q))
    if one is None or other is None or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return
    apart, size = np.abs(one - other).max(), np.abs(one).max()
    if apart > SAME * size:
        raise BadArgument(
            f"`q` has another diffusion than `p`: at the state of ones their covariances differ by "
            f"{apart:.3g}, where that of `p` reaches {size:.3g}. Give both one diffusion: "
            "`SDE(q.drift, p.diffusion)`."
        )
