"""Diffusions that mix components: `Constant`, `LowRank` and `Full`."""

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._factors import cholesky, inverse_and_log, log_abs_det, solve_cholesky, solve_lower
from .._nets import Depends, Features, field, raw_time
from .._operators import LowRankRoot
from .._types import NoiseClass, RandomKey, State, Time, concrete
from ._base import (
    STRENGTH,
    AbstractDiffusion,
    Value,
    correction_by_columns,
    dim_of,
    evaluate,
    noise_class,
    value_of,
)
from ._learned import Cholesky, Positive


@final
class Constant(AbstractDiffusion):
    """A constant square matrix g; additive. `Full` keeps a learned one invertible."""

    g: Float[Array, "dim dim"]

    def __check_init__(self) -> None:
        shape = jnp.shape(self.g)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                f"`g` has shape {shape}. Pass a square matrix; `diffusions.Scalar` takes a number, "
                "`Diagonal` a vector, `Function` a rectangular matrix."
            )
        g = concrete(self.g)
        if g is not None and np.linalg.matrix_rank(g) < len(g):
            raise ValueError(
                f"`g` has rank {np.linalg.matrix_rank(g)} in dimension {len(g)}, so its covariance "
                "has no inverse. Use `diffusions.Function` for degenerate noise."
            )

    @property
    def dim(self) -> int:
        return self.g.shape[0]

    @property
    def noise_dim(self) -> int:
        return self.g.shape[1]

    @property
    def noise(self) -> NoiseClass:
        return "additive"

    def __call__(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return lx.MatrixLinearOperator(self.g)

    def covariance(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return lx.MatrixLinearOperator(self.g @ self.g.T, lx.positive_semidefinite_tag)

    def solve(self, t: Time, y: State, r: State) -> State:
        inverse = inverse_and_log(self.g)[0]
        return inverse.T @ (inverse @ r)

    def logdet(self, t: Time, y: State) -> Float[Array, ""]:
        return 2 * log_abs_det(self.g)

    def quadratic(self, t: Time, y: State, r: State) -> tuple[Float[Array, ""], Float[Array, ""]]:
        inverse, log = inverse_and_log(self.g)
        q = inverse @ r
        return q @ q, 2 * log

    def correction(self, t: Time, y: State) -> State:
        return jnp.zeros_like(y)


@final
class LowRank(AbstractDiffusion):
    r"""$g = [\mathrm{diag}(s)\;\; U]$, so $\Sigma = \mathrm{diag}(s^2) + U U^\top$.

    Products cost dim * (1 + rank), solves dim * rank^2 (Woodbury). The noise has dim + rank
    components.

    Args:
        s: A vector, or a callable `(t, y) -> vector`; must not be zero.
        u: A (dim, rank) matrix, or a callable `(t, y) -> matrix`.
        dim, rank: Sizes; read off arrays.
        depends: What callables depend on, the stronger of the two.
    """

    s: Value
    u: Value
    dim: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    depends: Depends = eqx.field(static=True)

    def __init__(
        self,
        s: ArrayLike | Value,
        u: ArrayLike | Value,
        dim: int | None = None,
        rank: int | None = None,
        depends: Depends | None = None,
    ):
        self.dim = dim_of(s, dim)
        if rank is None:
            if callable(u):
                raise ValueError("`rank` is None and `u` is a callable. Pass `rank`.")
            if jnp.ndim(u) != 2:
                raise ValueError(f"`u` has shape {jnp.shape(u)}. Pass a (dim, rank) matrix.")
            rank = jnp.shape(u)[1]
        self.rank = rank
        self.s, on_s = value_of(s, depends, (self.dim,), component=False)
        self.u, on_u = value_of(u, depends, (self.dim, rank), component=False)
        self.depends = max(on_s, on_u, key=STRENGTH.index)

    @staticmethod
    def learned(
        dim: int,
        *,
        rank: int,
        on: Depends = "state",
        width: int = 64,
        depth: int = 2,
        time: Features | None = raw_time,
        scale: float = 1.0,
        floor: float = 1e-3,
        key: RandomKey,
    ) -> "LowRank":
        """A positive diagonal and a factor, learned as constants or networks of time or state."""
        s_key, u_key = jr.split(key)
        sizes: dict[str, Any] = dict(dim=dim, width=width, depth=depth, time=time)
        s = Positive(field((dim,), on, **sizes, key=s_key), scale, floor)
        return LowRank(s, field((dim, rank), on, **sizes, key=u_key), dim, rank)

    @property
    def noise_dim(self) -> int:
        return self.dim + self.rank

    @property
    def noise(self) -> NoiseClass:
        return noise_class(self.depends, commutes=False)

    def __call__(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return LowRankRoot(
            evaluate(self.s, t, y, (self.dim,)), evaluate(self.u, t, y, (self.dim, self.rank))
        )

    def covariance(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        u = lx.MatrixLinearOperator(evaluate(self.u, t, y, (self.dim, self.rank)))
        sigma = lx.DiagonalLinearOperator(evaluate(self.s, t, y, (self.dim,)) ** 2) + u @ u.T
        return lx.TaggedLinearOperator(sigma, lx.positive_semidefinite_tag)

    def _woodbury(self, t: Time, y: State) -> tuple[State, Array, Array]:
        """The diagonal s^2, V = U / s, and the Cholesky factor of I + V^T V."""
        s, u = evaluate(self.s, t, y, (self.dim,)), evaluate(self.u, t, y, (self.dim, self.rank))
        v = u / s[:, None]
        return s, v, cholesky(jnp.eye(self.rank, dtype=v.dtype) + v.T @ v)

    def solve(self, t: Time, y: State, r: State) -> State:
        s, v, factor = self._woodbury(t, y)
        q = r / s
        return (q - v @ solve_cholesky(factor, v.T @ q)) / s

    def logdet(self, t: Time, y: State) -> Float[Array, ""]:
        s, _, factor = self._woodbury(t, y)
        return 2 * jnp.sum(jnp.log(jnp.abs(s))) + 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))

    def quadratic(self, t: Time, y: State, r: State) -> tuple[Float[Array, ""], Float[Array, ""]]:
        s, v, factor = self._woodbury(t, y)
        q = r / s
        w = solve_cholesky(factor, v.T @ q)
        rest = (
            q - v @ w
        )  # |q|^2 less what the factor explains would be a difference of two large ones
        logs = jnp.sum(jnp.log(jnp.abs(s))) + jnp.sum(jnp.log(jnp.diagonal(factor)))
        return rest @ rest + w @ w, 2 * logs

    def correction(self, t: Time, y: State) -> State:
        return correction_by_columns(self, t, y)


@final
class Full(AbstractDiffusion):
    r"""$g(t, y) = L(t, y)$, lower triangular with a non-zero diagonal: any covariance.

    Args:
        l: A (dim, dim) matrix, or a callable `(t, y) -> matrix`; its lower triangle is used.
        dim: Dimension of the state; read off a matrix.
        depends: What a callable `l` depends on.
    """

    l: Value
    dim: int = eqx.field(static=True)
    depends: Depends = eqx.field(static=True)

    def __init__(
        self, l: ArrayLike | Value, dim: int | None = None, depends: Depends | None = None
    ):
        self.dim = dim_of(l, dim)
        self.l, self.depends = value_of(l, depends, (self.dim, self.dim), component=False)

    @staticmethod
    def learned(
        dim: int,
        *,
        on: Depends = "state",
        width: int = 64,
        depth: int = 2,
        time: Features | None = raw_time,
        scale: float = 1.0,
        floor: float = 1e-3,
        key: RandomKey,
    ) -> "Full":
        """A Cholesky factor with positive diagonal, learned constant or of time or state."""
        entries = field(
            (dim * (dim + 1) // 2,), on, dim=dim, width=width, depth=depth, time=time, key=key
        )
        return Full(Cholesky(entries, dim, scale, floor), dim)

    @property
    def noise_dim(self) -> int:
        return self.dim

    @property
    def noise(self) -> NoiseClass:
        return noise_class(self.depends, commutes=self.dim == 1)

    def _lower(self, t: Time, y: State) -> Float[Array, "dim dim"]:
        return jnp.tril(evaluate(self.l, t, y, (self.dim, self.dim)))

    def __call__(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return lx.MatrixLinearOperator(self._lower(t, y), lx.lower_triangular_tag)

    def covariance(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        lower = self._lower(t, y)
        return lx.MatrixLinearOperator(lower @ lower.T, lx.positive_semidefinite_tag)

    def solve(self, t: Time, y: State, r: State) -> State:
        return solve_cholesky(self._lower(t, y), r)

    def logdet(self, t: Time, y: State) -> Float[Array, ""]:
        return 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self._lower(t, y)))))

    def quadratic(self, t: Time, y: State, r: State) -> tuple[Float[Array, ""], Float[Array, ""]]:
        lower = self._lower(t, y)
        z = solve_lower(lower, r)
        return z @ z, 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(lower))))

    def correction(self, t: Time, y: State) -> State:
        return correction_by_columns(self, t, y)
