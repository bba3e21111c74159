"""The one linear operator that Lineax lacks: a diagonal beside a low-rank factor."""

from typing import final

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from ._types import Noise, State


@final
class LowRankRoot(lx.AbstractLinearOperator):
    r"""$g = [\mathrm{diag}(s)\;\; U]$, so that $g g^\top = \mathrm{diag}(s^2) + U U^\top$.

    Its product costs dim * (1 + rank) multiplications instead of dim * (dim + rank).
    """

    s: Float[Array, " dim"]
    u: Float[Array, "dim rank"]

    def mv(self, vector: Noise) -> State:
        dim = self.s.shape[0]
        return self.s * vector[:dim] + self.u @ vector[dim:]

    def as_matrix(self) -> Float[Array, "dim noise"]:
        return jnp.concatenate([jnp.diag(self.s), self.u], axis=1)

    def transpose(self) -> lx.AbstractLinearOperator:
        return lx.MatrixLinearOperator(self.as_matrix().T)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((sum(self.u.shape),), self.u.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.s.shape, self.s.dtype)


def _no(operator: LowRankRoot) -> bool:
    del operator
    return False


def _itself(operator: LowRankRoot) -> LowRankRoot:
    return operator


for _question in (
    lx.is_symmetric,
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
):
    _question.register(LowRankRoot)(_no)
for _form in (lx.linearise, lx.materialise, lx.conj):
    _form.register(LowRankRoot)(_itself)
