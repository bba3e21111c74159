"""What every diffusion answers, and the pieces that they share."""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float

from .._nets import Depends, Parameter
from .._types import Noise, NoiseClass, State, Time

Value = Callable[[Time, State], Any]


class AbstractDiffusion(eqx.Module):
    """The matrix $g(t, y)$ that multiplies the Brownian motion, for one state."""

    if TYPE_CHECKING:  # pyright takes an `AbstractVar` for an argument of the constructor

        @property
        def dim(self) -> int: ...
        @property
        def noise_dim(self) -> int: ...
        @property
        def noise(self) -> NoiseClass: ...
    else:
        dim: eqx.AbstractVar[int]
        noise_dim: eqx.AbstractVar[int]
        noise: eqx.AbstractVar[NoiseClass]

    @abc.abstractmethod
    def __call__(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        r"""$g(t, y)$ as an operator whose `mv` is the fast product with noise."""

    @abc.abstractmethod
    def covariance(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        r"""$\Sigma = g g^\top$."""

    @abc.abstractmethod
    def solve(self, t: Time, y: State, r: State) -> State:
        r"""$\Sigma^{-1} r$."""

    @abc.abstractmethod
    def logdet(self, t: Time, y: State) -> Float[Array, ""]:
        r"""$\log\det\Sigma$."""

    @abc.abstractmethod
    def quadratic(self, t: Time, y: State, r: State) -> tuple[Float[Array, ""], Float[Array, ""]]:
        r"""$r^\top \Sigma^{-1} r$ and $\log\det\Sigma$: all that a Gaussian density asks for.

        Both come from one evaluation of what g is made of, where `solve` and `logdet` make one
        each, and reverse mode another of each.
        """

    @abc.abstractmethod
    def correction(self, t: Time, y: State) -> State:
        r"""$\tfrac12 \sum_j (D g_j)\, g_j$: what a Stratonovich drift gains when made Ito."""


def commutator(diffusion: AbstractDiffusion, t: Time, y: State) -> Float[Array, "noise noise dim"]:
    r"""$[g_i, g_j] = Dg_j\,g_i - Dg_i\,g_j$ for every pair of columns; zero iff noise commutes."""
    basis = jnp.eye(diffusion.noise_dim, dtype=y.dtype)

    def along(e_i: Noise, e_j: Noise) -> State:
        g_i = diffusion(t, y).mv(e_i)
        return jax.jvp(lambda y: diffusion(t, y).mv(e_j), (y,), (g_i,))[1]

    d = jax.vmap(lambda e_i: jax.vmap(lambda e_j: along(e_i, e_j))(basis))(basis)
    return d - jnp.swapaxes(d, 0, 1)


def correction_by_columns(diffusion: AbstractDiffusion, t: Time, y: State) -> State:
    """Half the sum over columns of (D g_j) g_j, by noise_dim forward derivatives."""
    if diffusion.noise == "additive":
        return jnp.zeros_like(y)
    g = diffusion(t, y)

    def along(e_j: Noise) -> State:
        return jax.jvp(lambda y: diffusion(t, y).mv(e_j), (y,), (g.mv(e_j),))[1]

    basis = jnp.eye(diffusion.noise_dim, dtype=y.dtype)
    return 0.5 * jnp.sum(jax.vmap(along)(basis), axis=0)


STRENGTH: list[Depends] = ["nothing", "time", "component", "state"]


def noise_class(depends: Depends, *, commutes: bool) -> NoiseClass:
    if depends in ("nothing", "time"):
        return "additive"
    return "commutative" if commutes else "general"


def value_of(
    value: ArrayLike | Value, depends: Depends | None, shape: tuple[int, ...], *, component: bool
) -> tuple[Value, Depends]:
    """`value` as a callable `(t, y)` and what it depends on."""
    if not callable(value):
        if depends not in (None, "nothing"):
            raise ValueError(f"`depends` is {depends!r}, but the value is an array. Leave it out.")
        array = jnp.asarray(value)
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        # With a dtype named, even its own, so that a Python number does not stay weakly typed.
        array = array.astype(array.dtype if floating else jnp.result_type(float))
        if array.shape != shape:
            raise ValueError(f"The value has shape {array.shape}; this diffusion needs {shape}.")
        return Parameter(array), "nothing"
    known = getattr(value, "depends", None)
    if None not in (known, depends) and known != depends:
        raise ValueError(
            f"`depends` is {depends!r}, but the value says that it depends on {known!r}. "
            "Leave `depends` out."
        )
    depends = depends or known
    allowed = [d for d in STRENGTH if component or d != "component"]
    if depends not in allowed:
        raise ValueError(
            f"`depends` is {depends!r}. Say what the callable depends on, one of {allowed}: it "
            "decides the noise class and so which solvers converge."
        )
    return value, depends


def evaluate(value: Value, t: Time, y: State, shape: tuple[int, ...]) -> Array:
    """`value(t, y)`, refused unless it has the shape that its family needs."""
    out = value(t, y)
    if jnp.shape(out) != shape:
        raise ValueError(
            f"The diffusion's callable returned shape {jnp.shape(out)}; it needs {shape} for a "
            f"state of shape {y.shape}. Return one value per component, or use another family."
        )
    return out


def dim_of(value: ArrayLike | Value, dim: int | None) -> int:
    if dim is not None:
        return dim
    if callable(value):
        raise ValueError("`dim` is None and the value is a callable. Pass `dim`.")
    if jnp.ndim(value) == 0:
        raise ValueError(
            f"The value {value} is a number. Pass a vector, or use `diffusions.Scalar`."
        )
    return jnp.shape(value)[0]
