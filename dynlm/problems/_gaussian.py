r"""Moments and densities of $dy = A y\,dt + \sqrt{Q}\,dW$."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float, Int

from .._factors import cholesky, solve_lower
from .._types import State, Time
from ._problem import Matrix

DOUBLINGS = 24  # the most: as many as |A| t asks for are made


def flow(a: Matrix, q: Matrix, t: Time) -> tuple[Matrix, Matrix]:
    r"""$F = e^{At}$ and $C = \int_0^t e^{As}\,Q\,e^{A^\top s}\,ds$, by Van Loan's block matrix.

    The block matrix holds $e^{-A^\top t}$ too, which drowns the rest where A decays fast. So it is
    exponentiated over a step $h = t/2^k$ with $|A|h \le 1$, and then
    $C(2h) = C(h) + F(h)\,C(h)\,F(h)^\top$, k times.
    """
    n = len(a)
    size = jax.lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(a), axis=0)) * t)
    k = jnp.clip(jnp.ceil(jnp.log2(jnp.maximum(size, 1.0))), 0, DOUBLINGS)
    block = jsl.expm(jnp.block([[a, q], [jnp.zeros_like(a), -a.T]]) * (t * 0.5**k))
    f = block[:n, :n]

    def double(i: Int[Array, ""], fc: tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix]:
        f, c = fc
        more = i < k
        return jnp.where(more, f @ f, f), jnp.where(more, c + f @ c @ f.T, c)

    f, c = jax.lax.fori_loop(0, DOUBLINGS, double, (f, block[:n, n:] @ f.T))
    return f, (c + c.T) / 2


@jax.jit
def lyapunov(a: Matrix, q: Matrix) -> Matrix:
    r"""The S with $A S + S A^\top + Q = 0$, as one linear system of dim^2 unknowns."""
    n = len(a)
    return jnp.linalg.solve(kron_sum(a), -q.reshape(n * n)).reshape(n, n)


def kron_sum(a: Matrix) -> Float[Array, "dim2 dim2"]:
    r"""The matrix of $P \mapsto A P + P A^\top$ on P read row by row."""
    one = jnp.eye(len(a), dtype=a.dtype)
    return jnp.kron(a, one) + jnp.kron(one, a)


def normal_logpdf(y: State, mean: State, covariance: Matrix) -> Float[Array, ""]:
    """Log density of a normal law; NaN where the covariance is not positive definite."""
    root = cholesky(covariance)
    z = solve_lower(root, y - mean)
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(root)))
    return -0.5 * (z @ z + logdet + len(y) * jnp.log(2 * jnp.pi))
