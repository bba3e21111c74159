r"""The Gaussian law of a linear SDE after a step, for any matrix: singular, zero, not symmetric."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .._factors import root_and_inverse
from .._types import Scalar, State

Matrix = Float[Array, "dim dim"]

DOUBLINGS = 16  # the most; what needs more has |A| t above 2^15


class _Flow(NamedTuple):
    f: Matrix
    c: Matrix
    v: State
    w: State


def linear_flow(a: Matrix, b: State, m: State, q: Matrix, t: Scalar) -> tuple[State, Matrix]:
    r"""Mean and covariance of z(t), where $dz = (A z + b + m s)\,ds + \sqrt{Q}\,dW$, $z(0) = 0$.

    These are $v = \int_0^t e^{A(t-s)} (b + m s)\,ds$ and
    $C = \int_0^t e^{As}\,Q\,e^{A^\top s}\,ds$, blocks of the exponential of Van Loan's matrix. They
    are summed as power series over a step $h = t/2^k$ with $|A| h \le 1/2$, and then doubled k
    times: $F \to F F$, $C \to C + F C F^\top$, $v \to F v + v + h w$, where
    $w = \int_0^h e^{A(h-s)} m\,ds$. Nothing is inverted, so A may be singular. Both are NaN where
    $|A| t$ is above 2^15.
    """
    t = jnp.asarray(t, b.dtype)
    size = lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(a), axis=0)) * t)
    k = jnp.maximum(jnp.ceil(jnp.log2(jnp.maximum(2 * size, 1.0))), 0)
    h = t * 0.5**k
    start = _series(a * h, b * h, m * h, q * h)
    start = start._replace(v=start.v + _twice_integrated(a * h, m * h) * h)

    most = _most(k)

    def double(i: Int[Array, ""], flow: _Flow) -> _Flow:
        f, c, v, w = flow
        once = _Flow(f @ f, c + f @ c @ f.T, f @ v + v + (h * 2.0**i) * w, f @ w + w)
        return jax.tree.map(lambda new, old: jnp.where(i < k, new, old), once, flow)

    # Without the checkpoint, reverse mode keeps zeros for what a skipped branch would have made.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def maybe(i: Int[Array, ""], flow: _Flow) -> _Flow:
        return lax.cond(i < most, double, lambda i, flow: flow, i, flow)

    _, c, v, _ = lax.fori_loop(0, DOUBLINGS, maybe, start)
    # `jsl.expm` would do for a single matrix; under `vmap` it runs each of its five Pade
    # approximations for every matrix, on blocks of twice the size.
    bad = jnp.where(k <= DOUBLINGS, 0.0, jnp.nan).astype(b.dtype)
    return v + bad, (c + c.T) / 2 + bad


@jax.custom_batching.custom_vmap
def _most(k: Array) -> Array:
    """k itself; under `vmap` the largest of the batch, which is then one number for all.

    So a `cond` on it stays a branch, where one on k would run both sides for every matrix.
    """
    return k


@_most.def_vmap
def _most_of_batch(size: int, batched: list[bool], k: Array) -> tuple[Array, bool]:
    return _most(jnp.max(k, axis=0) if batched[0] else k), False


def _terms(dtype: jnp.dtype) -> int:
    """How many terms of the series for C matter: the first left out is below a rounding."""
    return 18 if dtype == jnp.float64 else 11


def _series(a: Matrix, b: State, m: State, q: Matrix) -> _Flow:
    r"""All four over a step of length one, as sums of terms each made from the one before.

    $F = \sum A^j/j!$, $v = \sum A^j b/(j+1)!$, $w = \sum A^j m/(j+1)!$, and $C = \sum C_j$ with
    $C_0 = Q$, $C_j = (A C_{j-1} + C_{j-1} A^\top)/(j+1)$.
    """
    one = jnp.eye(len(a), dtype=a.dtype)

    def add(j: Int[Array, ""], carry: tuple[_Flow, _Flow]) -> tuple[_Flow, _Flow]:
        total, (f, c, v, w) = carry
        j = j.astype(a.dtype)
        ac = a @ c
        term = _Flow(a @ f / j, (ac + ac.T) / (j + 1), a @ v / (j + 1), a @ w / (j + 1))
        return jax.tree.map(jnp.add, total, term), term

    first = _Flow(one, q, b, m)
    return lax.fori_loop(1, _terms(a.dtype), add, (first, first))[0]


def _twice_integrated(a: Matrix, m: State) -> State:
    r"""$\sum_j A^j m / (j+2)!$."""

    def add(j: Int[Array, ""], carry: tuple[State, State]) -> tuple[State, State]:
        total, term = carry
        term = a @ term / (j.astype(a.dtype) + 2)
        return total + term, term

    return lax.fori_loop(1, _terms(a.dtype), add, (m / 2, m / 2))[0]


@jax.custom_jvp
def normal_logpdf(r: State, covariance: Matrix) -> Float[Array, ""]:
    """Log density of a centred normal law; NaN where its covariance is not positive definite.

    Its derivative takes the inverse that the value has, so that none goes through a factor.
    """
    return _with_inverse(r, covariance)[0]


@normal_logpdf.defjvp
def _normal_logpdf_jvp(
    primals: tuple[State, Matrix], tangents: tuple[State, Matrix]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r, covariance = primals
    dr, dcovariance = tangents
    value, inverse = _with_inverse(r, covariance)
    precision = inverse.T @ inverse
    p = precision @ r
    change = 0.5 * (p @ dcovariance @ p - jnp.sum(precision * dcovariance)) - p @ dr
    return value, change


def _with_inverse(r: State, covariance: Matrix) -> tuple[Float[Array, ""], Matrix]:
    """The log density, and the inverse of the Cholesky factor."""
    root, inverse = root_and_inverse(covariance)
    z = inverse @ r
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(root)))
    return -0.5 * (z @ z + logdet + len(r) * math.log(2 * math.pi)), inverse
