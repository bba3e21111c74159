"""`SDE`: a drift, a diffusion and the calculus they are read in; and underdamped `Langevin`."""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._types import Calculus, Noise, NoiseClass, Scalar, State, Time, concrete
from .diffusions import AbstractDiffusion
from .diffusions import Function as DiffusionFunction
from .drifts import AbstractDrift
from .drifts import Function as DriftFunction


class AbstractSDE(eqx.Module):
    """What can be solved: sizes, noise class, calculus, and the terms Diffrax steps with."""

    if TYPE_CHECKING:  # pyright takes an `AbstractVar` for an argument of the constructor

        @property
        def calculus(self) -> Calculus: ...
        @property
        def dim(self) -> int: ...
        @property
        def noise_dim(self) -> int: ...
        @property
        def noise(self) -> NoiseClass: ...
    else:
        calculus: eqx.AbstractVar[Calculus]
        dim: eqx.AbstractVar[int]
        noise_dim: eqx.AbstractVar[int]
        noise: eqx.AbstractVar[NoiseClass]

    @abc.abstractmethod
    def terms(self, brownian: dfx.AbstractBrownianPath) -> dfx.AbstractTerm:
        """The Diffrax terms of this SDE driven by a Brownian path."""


@final
class SDE(AbstractSDE):
    r"""$dy = f(t, y)\,dt + g(t, y)\,dW$ in the Ito sense, or $\circ\,dW$ in the Stratonovich sense.

    Args:
        drift: $f$.
        diffusion: $g$.
        calculus: "ito" or "stratonovich": which integral the two are read with.
        base_calculus: The one that `drift` was written for, if another; the drift is then
            corrected wherever it is used, by the diffusion as it is there and then.
    """

    base: AbstractDrift
    diffusion: AbstractDiffusion
    calculus: Calculus = eqx.field(static=True)
    base_calculus: Calculus = eqx.field(static=True)

    def __init__(
        self,
        drift: AbstractDrift,
        diffusion: AbstractDiffusion,
        calculus: Calculus = "ito",
        base_calculus: Calculus | None = None,
    ):
        self.base = drift
        self.diffusion = diffusion
        self.calculus = calculus
        self.base_calculus = calculus if base_calculus is None else base_calculus

    def __check_init__(self) -> None:
        for name in ("calculus", "base_calculus"):
            if getattr(self, name) not in ("ito", "stratonovich"):
                raise ValueError(
                    f"`{name}` is {getattr(self, name)!r}. Use 'ito' or 'stratonovich'."
                )
        if not isinstance(self.base, AbstractDrift):
            raise ValueError(
                f"`drift` is {self.base!r}. Use a family of `dynlm.drifts`; "
                "`dynlm.drifts.Function(f)` takes any `f(t, y)`."
            )
        if not isinstance(self.diffusion, AbstractDiffusion):
            raise ValueError(
                f"`diffusion` is {self.diffusion!r}. Use a family of `dynlm.diffusions`; "
                "`dynlm.diffusions.Scalar(s, dim)` takes a number or any `s(t, y)`."
            )

    @property
    def drift(self) -> AbstractDrift:
        """$f$ in this SDE's calculus: `base`, or `base` and its correction by the diffusion."""
        if self.calculus == self.base_calculus or self.noise == "additive":
            return self.base
        return _Corrected(self.base, self.diffusion, 1.0 if self.calculus == "ito" else -1.0)

    @property
    def dim(self) -> int:
        return self.diffusion.dim

    @property
    def noise_dim(self) -> int:
        return self.diffusion.noise_dim

    @property
    def noise(self) -> NoiseClass:
        return self.diffusion.noise

    def to_ito(self) -> "SDE":
        r"""The same process in Ito form: drift $f + \tfrac12\sum_j (Dg_j)\,g_j$.

        Every call of the new drift adds, by diffusion: additive noise nothing; a componentwise
        `Diagonal` one forward derivative of g; `Scalar` one reverse derivative; a full-state
        `Diagonal` `dim` forward derivatives; `LowRank`, `Full` and `Function` `noise_dim`.
        """
        return SDE(self.base, self.diffusion, "ito", self.base_calculus)

    def to_stratonovich(self) -> "SDE":
        r"""The same process in Stratonovich form: drift $f - \tfrac12\sum_j (Dg_j)\,g_j$.

        The cost is that of `to_ito`. Converting back is free.
        """
        return SDE(self.base, self.diffusion, "stratonovich", self.base_calculus)

    def terms(self, brownian: dfx.AbstractBrownianPath) -> dfx.MultiTerm:
        """The Diffrax terms of this SDE driven by a Brownian path of shape (noise_dim,)."""
        return dfx.MultiTerm(
            dfx.ODETerm(_WithoutArgs(self.drift)),
            dfx.ControlTerm(_WithoutArgs(self.diffusion), brownian),
        )

    def generator(
        self, v: Callable[[Time, State], Scalar]
    ) -> Callable[[Time, State], Float[Array, ""]]:
        r"""$LV = \partial_t V + f\cdot\nabla V + \tfrac12\mathrm{tr}(g^\top\,\nabla^2 V\,g)$.

        Args:
            v: A scalar function `(t, y)`.

        Returns:
            The function $LV$ of `(t, y)`, the mean rate at which V changes along the process.
            It costs `noise_dim` Hessian-vector products, and `to_ito` for a Stratonovich SDE.
        """
        ito = self.to_ito()

        def generated(t: Time, y: State) -> Float[Array, ""]:
            t = jnp.asarray(t, y.dtype)
            v_t, v_y = jax.grad(v, argnums=(0, 1))(t, y)
            g = ito.diffusion(t, y)

            def second(e_j: Noise) -> Float[Array, ""]:
                g_j = g.mv(e_j)
                return g_j @ jax.jvp(lambda y: jax.grad(v, argnums=1)(t, y), (y,), (g_j,))[1]

            basis = jnp.eye(self.noise_dim, dtype=y.dtype)
            return v_t + ito.drift(t, y) @ v_y + 0.5 * jnp.sum(jax.vmap(second)(basis))

        return generated


@final
class _Corrected(AbstractDrift):
    """A drift and a signed Ito-Stratonovich correction."""

    drift: AbstractDrift
    diffusion: AbstractDiffusion
    sign: float = eqx.field(static=True)

    def __call__(self, t: Time, y: State) -> State:
        return self.drift(t, y) + self.sign * self.diffusion.correction(t, y)


@final
class _WithoutArgs(eqx.Module):
    """A field `(t, y)` called the way Diffrax calls fields, `(t, y, args)`."""

    field: Callable

    def __call__(self, t: Any, y: Any, args: Any) -> Any:
        del args
        return self.field(t, y)


@final
class Langevin(AbstractSDE):
    r"""Underdamped: $dx = v\,dt$, $dv = -\gamma v\,dt - u\nabla f(x)\,dt + \sqrt{2\gamma u}\,dW$.

    Its state is the vector $[x, v]$. Solvers made for it (`diffrax.ALIGN`, `ShOULD`, `QUICSORT`)
    take this object; every other solver takes `langevin.sde()`.

    Args:
        gradient: $\nabla f$, a callable of the position.
        gamma: Friction, one number per position.
        u: Inverse mass, one number per position; the stationary law is
            $\propto \exp(-f(x) - \sum_i v_i^2/2u_i)$.
    """

    gradient: Callable[[State], State]
    gamma: Float[Array, " position"]
    u: Float[Array, " position"]

    def __check_init__(self) -> None:
        for name in ("gamma", "u"):
            value = getattr(self, name)
            if jnp.ndim(value) != 1 or jnp.shape(value) != jnp.shape(self.gamma):
                raise ValueError(f"`{name}` is {value!r}. Use a vector, one number per position.")
            value = concrete(value)
            if value is not None and not (value > 0).all():
                raise ValueError(f"`{name}` is {value}. Use positive numbers, one per position.")

    @property
    def calculus(self) -> Calculus:
        return "ito"

    @property
    def dim(self) -> int:
        return 2 * self.noise_dim

    @property
    def noise_dim(self) -> int:
        return self.gamma.shape[0]

    @property
    def noise(self) -> NoiseClass:
        return "additive"

    def terms(self, brownian: dfx.AbstractBrownianPath) -> dfx.MultiTerm:
        """The Diffrax terms, on a state that is the pair `(x, v)`."""
        return dfx.MultiTerm(
            dfx.UnderdampedLangevinDriftTerm(
                self.gamma, self.u, jax.tree_util.Partial(_gradient, self.gradient)
            ),
            dfx.UnderdampedLangevinDiffusionTerm(self.gamma, self.u, brownian),
        )

    def sde(self) -> SDE:
        """The same process as an `SDE` with degenerate additive noise, for any other solver."""
        return SDE(
            DriftFunction(_LangevinDrift(self.gradient, self.gamma, self.u)),
            DiffusionFunction(
                _LangevinNoise(self.gamma, self.u), self.dim, self.noise_dim, "additive"
            ),
        )


def _gradient(gradient: Callable, x: State, args: None) -> State:
    # Under a `Partial`, because Diffrax hashes it, and a module with traced leaves has no hash.
    del args
    return gradient(x)


@final
class _LangevinDrift(eqx.Module):
    gradient: Callable
    gamma: Float[Array, " position"]
    u: Float[Array, " position"]

    def __call__(self, t: Time, y: State) -> State:
        x, v = jnp.split(y, 2)
        return jnp.concatenate([v, -self.gamma * v - self.u * self.gradient(x)])


@final
class _LangevinNoise(eqx.Module):
    gamma: Float[Array, " position"]
    u: Float[Array, " position"]

    def __call__(self, t: Time, y: State) -> Float[Array, "dim noise"]:
        lower = jnp.diag(jnp.sqrt(2 * self.gamma * self.u))
        return jnp.concatenate([jnp.zeros_like(lower), lower])
