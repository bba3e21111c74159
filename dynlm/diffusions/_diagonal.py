"""Diffusions that act on each component alone: `Scalar` and `Diagonal`."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float

from .._nets import Depends, Features, field, raw_time
from .._types import NoiseClass, RandomKey, State, Time
from ._base import AbstractDiffusion, Value, dim_of, evaluate, noise_class, value_of
from ._learned import Positive


@final
class Scalar(AbstractDiffusion):
    r"""$g(t, y) = s(t, y)\, I$: the same noise strength in every direction.

    Args:
        s: A number, or a callable `(t, y) -> number`.
        dim: Dimension of the state.
        depends: What a callable `s` depends on. State dependence is general noise if dim > 1.
    """

    s: Value
    dim: int = eqx.field(static=True)
    depends: Depends = eqx.field(static=True)

    def __init__(self, s: ArrayLike | Value, dim: int, depends: Depends | None = None):
        self.s, self.depends = value_of(s, depends, (), component=False)
        self.dim = dim

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
    ) -> "Scalar":
        """A positive number learned as a constant, or as a network of time or state."""
        return Scalar(
            Positive(
                field((), on, dim=dim, width=width, depth=depth, time=time, key=key), scale, floor
            ),
            dim,
        )

    @property
    def noise_dim(self) -> int:
        return self.dim

    @property
    def noise(self) -> NoiseClass:
        return noise_class(self.depends, commutes=self.dim == 1)

    def __call__(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return lx.DiagonalLinearOperator(jnp.full_like(y, evaluate(self.s, t, y, ())))

    def covariance(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return lx.DiagonalLinearOperator(jnp.full_like(y, evaluate(self.s, t, y, ()) ** 2))

    def solve(self, t: Time, y: State, r: State) -> State:
        return r / evaluate(self.s, t, y, ()) ** 2

    def logdet(self, t: Time, y: State) -> Float[Array, ""]:
        return 2 * self.dim * jnp.log(jnp.abs(evaluate(self.s, t, y, ())))

    def quadratic(self, t: Time, y: State, r: State) -> tuple[Float[Array, ""], Float[Array, ""]]:
        s = evaluate(self.s, t, y, ())
        q = r / s
        return q @ q, 2 * self.dim * jnp.log(jnp.abs(s))

    def correction(self, t: Time, y: State) -> State:
        if self.noise == "additive":
            return jnp.zeros_like(y)
        s, pullback = jax.vjp(
            lambda y: evaluate(self.s, t, y, ()), y
        )  # g_ij = s d_ij: (Dg_j g_j)_i = s ds/dy_i
        return 0.5 * pullback(s)[0]


@final
class Diagonal(AbstractDiffusion):
    r"""$g(t, y) = \mathrm{diag}(s(t, y))$.

    Args:
        s: A vector, or a callable `(t, y) -> vector`.
        dim: Dimension of the state; read off a vector.
        depends: What a callable `s` depends on: "time", "component" ($s_i$ sees only $y_i$;
            commutative) or "state" (general if dim > 1).
    """

    s: Value
    dim: int = eqx.field(static=True)
    depends: Depends = eqx.field(static=True)

    def __init__(
        self, s: ArrayLike | Value, dim: int | None = None, depends: Depends | None = None
    ):
        self.dim = dim_of(s, dim)
        self.s, self.depends = value_of(s, depends, (self.dim,), component=True)

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
    ) -> "Diagonal":
        """A positive vector learned as a constant, or as networks of time, component or state."""
        s = field((dim,), on, dim=dim, width=width, depth=depth, time=time, key=key)
        return Diagonal(Positive(s, scale, floor), dim)

    @property
    def noise_dim(self) -> int:
        return self.dim

    @property
    def noise(self) -> NoiseClass:
        return noise_class(self.depends, commutes=self.depends == "component" or self.dim == 1)

    def __call__(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return lx.DiagonalLinearOperator(evaluate(self.s, t, y, (self.dim,)))

    def covariance(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return lx.DiagonalLinearOperator(evaluate(self.s, t, y, (self.dim,)) ** 2)

    def solve(self, t: Time, y: State, r: State) -> State:
        return r / evaluate(self.s, t, y, (self.dim,)) ** 2

    def logdet(self, t: Time, y: State) -> Float[Array, ""]:
        return 2 * jnp.sum(jnp.log(jnp.abs(evaluate(self.s, t, y, (self.dim,)))))

    def quadratic(self, t: Time, y: State, r: State) -> tuple[Float[Array, ""], Float[Array, ""]]:
        s = evaluate(self.s, t, y, (self.dim,))
        return jnp.sum((r / s) ** 2), 2 * jnp.sum(jnp.log(jnp.abs(s)))

    def correction(self, t: Time, y: State) -> State:
        if self.noise == "additive":
            return jnp.zeros_like(y)
        s = evaluate(self.s, t, y, (self.dim,))
        if self.noise == "commutative":  # the Jacobian is diagonal: one product with it is enough
            return 0.5 * jax.jvp(lambda y: evaluate(self.s, t, y, (self.dim,)), (y,), (s,))[1]
        return 0.5 * s * jnp.diagonal(jax.jacfwd(lambda y: evaluate(self.s, t, y, (self.dim,)))(y))
