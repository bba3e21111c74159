r"""Cholesky factors, triangular solves and determinants, of which `vmap` may make thousands.

Written for one matrix, as all else here. On a CPU none of them hands a batch to LAPACK: jaxlib 0.10
splits such a batch over the threads that the program itself runs on and waits for its parts, and
where as many batches as there are threads come at once, all wait for ever. So matrices of up to
`MOST` rows are factored by blocks in plain operations, which is no slower there, and larger ones
one after another. Other devices use the library's own.

Each has a derivative of its own, made of products with what the value has needed, so that no
derivative goes through a loop.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jax import lax
from jaxtyping import Array, Float, Int

Matrix = Float[Array, "dim dim"]
Right = Float[Array, " dim"] | Float[Array, "dim column"]

BLOCK = 16  # rows of the blocks at which loops take over
MOST = 64  # rows that are factored by blocks; the program grows with them


def cholesky(a: Matrix) -> Matrix:
    """Lower triangular L with $L L^T = A$; NaN where the symmetric A is not positive definite."""
    return root_and_inverse(a)[0]


@jax.custom_jvp
def root_and_inverse(a: Matrix) -> tuple[Matrix, Matrix]:
    """The Cholesky factor and its inverse, which costs little more than the factor."""
    return _root_and_inverse(a)


@root_and_inverse.defjvp
def _root_and_inverse_jvp(
    primals: tuple[Matrix], tangents: tuple[Matrix]
) -> tuple[tuple[Matrix, Matrix], tuple[Matrix, Matrix]]:
    r"""$dL = L\,\Phi(L^{-1}\,dA\,L^{-\top})$; $\Phi$ is the lower triangle, its diagonal halved."""
    (a,), (da,) = primals, tangents
    l, w = root_and_inverse(a)
    s = w @ ((da + da.T) / 2) @ w.T
    dl = l @ (jnp.tril(s) - jnp.diag(jnp.diagonal(s)) / 2)
    return (l, w), (dl, -w @ dl @ w)


@jax.custom_jvp
def inverse_lower(l: Matrix) -> Matrix:
    """The inverse of a lower triangular matrix; what stands above its diagonal is not read."""
    return _inverse_lower(l)


@inverse_lower.defjvp
def _inverse_lower_jvp(primals: tuple[Matrix], tangents: tuple[Matrix]) -> tuple[Matrix, Matrix]:
    (l,), (dl,) = primals, tangents
    w = inverse_lower(l)
    return w, -w @ jnp.tril(dl) @ w


def solve_lower(l: Matrix, b: Right) -> Right:
    """The x with $L x = b$, of a vector or of columns; only the lower triangle of L is read."""
    return lax.custom_linear_solve(
        lambda x: jnp.tril(l) @ x,
        _beside(l, b),
        solve=lambda _, b: _forward(l, b),
        transpose_solve=lambda _, b: _backward(l, b),
    )


def solve_cholesky(l: Matrix, b: Right) -> Right:
    r"""The x with $L L^\top x = b$, of a vector or of columns."""

    def product(x: Right) -> Right:
        lower = jnp.tril(l)
        return lower @ (lower.T @ x)

    return lax.custom_linear_solve(
        product,
        _beside(l, b),
        solve=lambda _, b: _backward(l, _forward(l, b)),
        symmetric=True,
    )


def _beside(l: Matrix, b: Right) -> Right:
    """b; split over devices too if l is, which JAX asks for inside `shard_map`."""
    return b + jnp.zeros_like(l[0, 0])


def log_abs_det(a: Matrix) -> Float[Array, ""]:
    r"""$\log|\det A|$ of any square matrix; minus infinity where a pivot is zero."""
    return inverse_and_log(a)[1]


@jax.custom_jvp
def inverse_and_log(a: Matrix) -> tuple[Matrix, Float[Array, ""]]:
    r"""The inverse of any square matrix and $\log|\det A|$; what is not used costs nothing."""
    return _inverse_and_log(a)


@inverse_and_log.defjvp
def _inverse_and_log_jvp(
    primals: tuple[Matrix], tangents: tuple[Matrix]
) -> tuple[tuple[Matrix, Array], tuple[Matrix, Array]]:
    (a,), (da,) = primals, tangents
    inverse, log = inverse_and_log(a)
    return (inverse, log), (-inverse @ da @ inverse, jnp.sum(inverse.T * da))


# By platform. Each is compiled once for each shape, wherever it is called.


def _choose(rows: int, blocks: Callable, library: Callable, *args: Array) -> Any:
    one_by_one = jax.custom_batching.sequential_vmap(library)
    cpu = blocks if rows <= MOST else one_by_one
    return lax.platform_dependent(*args, cpu=cpu, default=library)


@jax.jit
def _root_and_inverse(a: Matrix) -> tuple[Matrix, Matrix]:
    def library(a: Matrix) -> tuple[Matrix, Matrix]:
        l = jnp.linalg.cholesky(a)
        return l, _library_lower(l, jnp.eye(len(l), dtype=l.dtype))

    a = (a + a.T) / 2
    return _choose(len(a), _blocks_root, library, a)


@jax.jit
def _inverse_lower(l: Matrix) -> Matrix:
    def library(l: Matrix) -> Matrix:
        return _library_lower(l, jnp.eye(len(l), dtype=l.dtype))

    return _choose(len(l), _blocks_inverse, library, l)


@jax.jit
def _forward(l: Matrix, b: Right) -> Right:
    return _choose(len(l), _blocks_forward, _library_lower, l, b)


@jax.jit
def _backward(l: Matrix, b: Right) -> Right:
    def library(l: Matrix, b: Right) -> Right:
        return _library_lower(l, b, transposed=True)

    return _choose(len(l), _blocks_backward, library, l, b)


@jax.jit
def _inverse_and_log(a: Matrix) -> tuple[Matrix, Float[Array, ""]]:
    def library(a: Matrix) -> tuple[Matrix, Float[Array, ""]]:
        factors = jsl.lu_factor(a)
        log = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factors[0]))))
        return jsl.lu_solve(factors, jnp.eye(len(a), dtype=a.dtype)), log

    return _choose(len(a), _blocks_general, library, a)


def _library_lower(l: Matrix, b: Right, *, transposed: bool = False) -> Right:
    columns = b if b.ndim == 2 else b[:, None]
    x = lax.linalg.triangular_solve(l, columns, left_side=True, lower=True, transpose_a=transposed)
    return x.reshape(b.shape)


# By blocks. A matrix above BLOCK rows is cut in two; what couples the parts is a product.


def _blocks_root(a: Matrix) -> tuple[Matrix, Matrix]:
    l, w = _root_of_blocks(a)
    # A pivot that is not positive leaves one that is not at the end.
    bad = jnp.tril(jnp.full_like(a, jnp.nan))
    good = l[-1, -1] > 0
    return jnp.where(good, l, bad), jnp.where(good, w, bad)


def _root_of_blocks(a: Matrix) -> tuple[Matrix, Matrix]:
    if len(a) <= BLOCK:
        l = _columns(a)
        return l, _rows(l, jnp.eye(len(l), dtype=l.dtype))
    k = _half(len(a))
    l, w = _root_of_blocks(a[:k, :k])
    m = a[k:, :k] @ w.T
    rest, under = _root_of_blocks(a[k:, k:] - m @ m.T)
    return _assembled(l, m, rest), _assembled(w, -under @ (m @ w), under)


def _blocks_inverse(l: Matrix) -> Matrix:
    if len(l) <= BLOCK:
        return _rows(l, jnp.eye(len(l), dtype=l.dtype))
    k = _half(len(l))
    w, under = _blocks_inverse(l[:k, :k]), _blocks_inverse(l[k:, k:])
    return _assembled(w, -under @ (l[k:, :k] @ w), under)


def _blocks_forward(l: Matrix, b: Right) -> Right:
    if len(l) <= BLOCK:
        return _rows(l, b)
    k = _half(len(l))
    x = _blocks_forward(l[:k, :k], b[:k])
    return jnp.concatenate([x, _blocks_forward(l[k:, k:], b[k:] - l[k:, :k] @ x)])


def _blocks_backward(l: Matrix, b: Right) -> Right:
    if len(l) <= BLOCK:
        return _rows_backward(l, b)
    k = _half(len(l))
    x = _blocks_backward(l[k:, k:], b[k:])
    return jnp.concatenate([_blocks_backward(l[:k, :k], b[:k] - l[k:, :k].T @ x), x])


def _blocks_general(a: Matrix) -> tuple[Matrix, Float[Array, ""]]:
    q, r = _orthogonal(a)
    return _blocks_backward(r, q.T), jnp.sum(jnp.log(jnp.diagonal(r)))


def _orthogonal(a: Float[Array, "dim column"]) -> tuple[Array, Array]:
    r"""Q and $R^\top$ of A = Q R; the right half is freed twice of what the left half spans."""
    if a.shape[1] <= BLOCK:
        return _columns_orthogonal(a)
    k = _half(a.shape[1])
    (q, r), a = _orthogonal(a[:, :k]), a[:, k:]
    once = a.T @ q
    a = a - q @ once.T
    again = a.T @ q
    rest, under = _orthogonal(a - q @ again.T)
    return jnp.concatenate([q, rest], axis=1), _assembled(r, once + again, under)


def _half(rows: int) -> int:
    """Where to cut: in the middle, if that is a multiple of eight, or near it."""
    return 8 * max(1, round(rows / 16))


def _assembled(top: Array, under: Array, rest: Array) -> Array:
    zero = jnp.zeros_like(under).T
    return jnp.concatenate(
        [jnp.concatenate([top, zero], axis=1), jnp.concatenate([under, rest], axis=1)]
    )


def _columns(a: Matrix) -> Matrix:
    """Cholesky's factor, a column at a time."""
    here = jnp.arange(len(a))

    def column(j: Int[Array, ""], l: Matrix) -> Matrix:
        c = a[:, j] - l @ l[j]
        return l.at[:, j].set(jnp.where(here >= j, c / jnp.sqrt(c[j]), 0.0))

    return lax.fori_loop(0, len(a), column, jnp.zeros_like(a))


def _rows(l: Matrix, b: Right) -> Right:
    """Substitution. What is still to come is zero, so nothing above the diagonal counts."""

    def row(i: Int[Array, ""], x: Right) -> Right:
        return x.at[i].set((b[i] - l[i] @ x) / l[i, i])

    return lax.fori_loop(0, len(l), row, jnp.zeros_like(_beside(l, b)))


def _rows_backward(l: Matrix, b: Right) -> Right:
    """Substitution with the transpose."""

    def row(i: Int[Array, ""], x: Right) -> Right:
        j = len(l) - 1 - i
        return x.at[j].set((b[j] - l[:, j] @ x) / l[j, j])

    return lax.fori_loop(0, len(l), row, jnp.zeros_like(_beside(l, b)))


def _columns_orthogonal(a: Float[Array, "dim column"]) -> tuple[Array, Array]:
    """The same, a column at a time."""

    def column(j: Int[Array, ""], qr: tuple[Array, Array]) -> tuple[Array, Array]:
        q, r = qr
        once = a[:, j] @ q
        v = a[:, j] - q @ once
        again = v @ q
        v = v - q @ again
        length = jnp.sqrt(v @ v)
        q = q.at[:, j].set(v / jnp.where(length > 0, length, 1.0))
        return q, r.at[j].set((once + again).at[j].set(length))

    square = jnp.zeros_like(a[: a.shape[1]])
    return lax.fori_loop(0, a.shape[1], column, (jnp.zeros_like(a), square))
