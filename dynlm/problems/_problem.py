"""`Problem`, and how its constructors read their parameters."""

from collections.abc import Callable, Sequence
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._types import Noise, Scalar, State, Time, concrete, jax_dtype
from ..sde import AbstractSDE

Numbers = ArrayLike | Sequence  # a parameter: a number, an array, or nested lists
Matrix = Float[Array, "dim dim"]


@final
class Problem(eqx.Module):
    r"""An SDE, a start and a horizon, with what is known about its solution; None: no closed form.

    Time starts at 0, where the state is `y0`; the densities need $t > 0$. Everything is a pytree
    whose leaves are the parameters, so a problem passes through `jit`, and constructors through
    `vmap` and `grad`.

    Args:
        name: The constructor's name.
        t1: The customary end time.
        exact: The strong solution at t as a function of the Brownian value $w = W(t)$ alone.
        mean: $E\,y(t)$ given y0.
        covariance: $\mathrm{Cov}\,y(t)$ given y0.
        transition_logpdf: Log density of $y(t)$ at y, given y0.
        stationary_logpdf: Normalised log density of the stationary law at y.
        stationary_mean: Its mean.
        stationary_covariance: Its covariance.
    """

    name: str = eqx.field(static=True)
    sde: AbstractSDE
    y0: State
    t1: float = eqx.field(static=True)
    exact: Callable[[Time, State, Noise], State] | None = None
    mean: Callable[[Time, State], State] | None = None
    covariance: Callable[[Time, State], Matrix] | None = None
    transition_logpdf: Callable[[State, Time, State], Scalar] | None = None
    stationary_logpdf: Callable[[State], Scalar] | None = None
    stationary_mean: State | None = None
    stationary_covariance: Matrix | None = None

    def __check_init__(self) -> None:
        if not self.t1 > 0:
            raise ValueError(f"`t1` is {self.t1}. Use a positive end time.")
        if self.y0.shape != (self.sde.dim,):
            raise ValueError(
                f"`y0` has shape {self.y0.shape}, the SDE has dimension {self.sde.dim}. "
                "Pass one number per component."
            )


def arrays(**values: Any) -> list[Array]:
    """The values as arrays of one dtype: that of the floating arrays among them, else JAX's."""
    dtypes = [jax_dtype(getattr(v, "dtype", int)) for v in values.values()]
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    dtype = jnp.result_type(*floating) if floating else jax_dtype(float)
    out = [jnp.asarray(v, dtype) for v in values.values()]
    for name, x in zip(values, map(concrete, out), strict=True):
        if x is not None and not np.isfinite(x).all():
            raise ValueError(f"`{name}` is {x}. Use finite numbers.")
    return out


def vectors(dim: int | None = None, **values: Any) -> list[Array]:
    """The values as vectors of one dtype and one length; numbers are repeated."""
    out = arrays(**values)
    if dim is None:
        dim = max([1] + [len(x) for x in out if x.ndim > 0])
    if not all(x.shape in ((), (dim,)) for x in out):
        named = ", ".join(f"`{k}` {x.shape}" for k, x in zip(values, out, strict=True))
        raise ValueError(
            f"The shapes are {named} in dimension {dim}. Use numbers, or vectors of that length."
        )
    return [jnp.broadcast_to(x, (dim,)) for x in out]


def matrix(name: str, x: Array, dim: int) -> Matrix:
    """A number as a multiple of the identity; a square matrix as it is."""
    x = x * jnp.eye(dim, dtype=x.dtype) if x.ndim == 0 else x
    if x.shape != (dim, dim):
        raise ValueError(
            f"`{name}` has shape {x.shape} in dimension {dim}. Use a number or ({dim}, {dim})."
        )
    return x


def check_positive(**values: Array) -> None:
    """Refuses values that are known and not positive."""
    for name, value in values.items():
        x = concrete(value)
        if x is not None and not (x > 0).all():
            raise ValueError(f"`{name}` is {x}. Use positive numbers.")


def check_not_negative(**values: Array) -> None:
    """Refuses values that are known and negative."""
    for name, value in values.items():
        x = concrete(value)
        if x is not None and (x < 0).any():
            raise ValueError(f"`{name}` is {x}. Use positive numbers, or 0 for no noise.")
