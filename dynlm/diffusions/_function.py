"""`Function`: any known matrix, rectangular or degenerate."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._types import NoiseClass, State, Time, concrete
from ._base import AbstractDiffusion, Value, correction_by_columns


@final
class Function(AbstractDiffusion):
    r"""$g(t, y)$ as any (dim, noise_dim) matrix: rectangular, degenerate, or just known.

    Its covariance need not have an inverse, so `solve`, `logdet` and
    `quadratic` are errors.

    Args:
        g: A callable `(t, y) -> matrix`.
        noise: The noise class, as you declare it; `commutator` measures whether it holds.
    """

    g: Value
    dim: int = eqx.field(static=True)
    noise_dim: int = eqx.field(static=True)
    noise: NoiseClass = eqx.field(static=True, default="general")

    def __check_init__(self) -> None:
        if self.noise not in ("additive", "commutative", "general"):
            raise ValueError(
                f"`noise` is {self.noise!r}. Use 'additive', 'commutative' or 'general'."
            )

    def __call__(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        return lx.MatrixLinearOperator(self._matrix(t, y))

    def _matrix(self, t: Time, y: State) -> Float[Array, "dim noise"]:
        g = self.g(t, y)
        if jnp.shape(g) != (self.dim, self.noise_dim):
            raise ValueError(
                f"`g` returned shape {jnp.shape(g)}; `dim` and `noise_dim` promise "
                f"({self.dim}, {self.noise_dim}). Return one row per state, one column per noise."
            )
        return g

    def covariance(self, t: Time, y: State) -> lx.AbstractLinearOperator:
        g = self._matrix(t, y)
        return lx.MatrixLinearOperator(g @ g.T, lx.positive_semidefinite_tag)

    def solve(self, t: Time, y: State, r: State) -> State:
        raise self._no_inverse("solve", t, y)

    def logdet(self, t: Time, y: State) -> Float[Array, ""]:
        raise self._no_inverse("logdet", t, y)

    def quadratic(self, t: Time, y: State, r: State) -> tuple[Float[Array, ""], Float[Array, ""]]:
        raise self._no_inverse("quadratic", t, y)

    def _no_inverse(self, name: str, t: Time, y: State) -> ValueError:
        g = concrete(self._matrix(t, y))
        at_most = "" if g is not None else "at most "
        rank = min(self.dim, self.noise_dim) if g is None else np.linalg.matrix_rank(g)
        return ValueError(
            f"`{name}` of a `diffusions.Function`: g is ({self.dim} x {self.noise_dim}) of rank "
            f"{at_most}{rank}, and its covariance is not assumed to have an inverse in dimension "
            f"{self.dim}. Use `Diagonal`, `LowRank` or `Full`, or compare moments instead."
        )

    def correction(self, t: Time, y: State) -> State:
        if self.noise == "additive":
            return jnp.zeros_like(y)
        return correction_by_columns(self, t, y)
