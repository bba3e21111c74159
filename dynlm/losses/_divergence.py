r"""The divergence between two SDEs with one diffusion, along a path."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..sde import SDE
from ..trajectory import Trajectory
from ._likelihood import transitions


def girsanov(p: SDE, q: SDE, path: Trajectory) -> Float[Array, ""]:
    r"""$\tfrac12 \sum_k |f_p - f_q|^2_{\Sigma^{-1}}\,\Delta t$ over the seen steps of a path of p.

    Its mean over paths that Euler's method made of p at these times is the divergence
    $KL(P \| Q)$ of that chain from q's, exactly; as the steps shrink it is that of the processes
    (Girsanov). Over paths of another law it is neither. It is a sum, not a mean per step.

    Args:
        p: Where the path is from. Its diffusion is the one that is used.
        q: An SDE with the same diffusion, which is not looked at (except to convert a
            Stratonovich drift): with another one the divergence between processes is infinite.
    """
    if p.dim != q.dim:
        raise ValueError(f"`p` has dimension {p.dim}, `q` {q.dim}. Compare SDEs of one dimension.")
    f_p, f_q = p.to_ito().drift, q.to_ito().drift

    def rate(t: Float[Array, ""], y: Float[Array, " dim"]) -> Float[Array, ""]:
        return 0.5 * p.diffusion.quadratic(t, y, f_p(t, y) - f_q(t, y))[0]

    t, y, dt, _, seen = transitions(path)
    return jnp.sum(jnp.where(seen, jax.vmap(rate)(t, y) * dt, 0.0))
