"""Losses computed in fewer bits."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Float

from ._fields import shown
from ._io import BadArgument
from ._nets import lowered
from ._types import RandomKey
from .train._trainer import weighs, weight_of

PRECISIONS = ("float32", "bfloat16")


@final
class Lower(eqx.Module):
    """A loss whose model computes its products in fewer bits."""

    loss: Callable
    precision: str = eqx.field(static=True)

    def __call__(self, model: Any, paths: Any, key: RandomKey) -> Float[Array, ""]:
        return self.loss(lowered(model, self.precision), paths, key)

    @property
    def weighs(self) -> bool:
        return weighs(self.loss)

    def weight(self, paths: Any) -> Float[Array, ""]:
        return weight_of(self.loss, paths)


def check_lowered(loss: Lower, model: Any, paths: Any) -> None:
    """Refuses a precision that nothing of the loss would be computed in."""
    # What a model makes of its linear layers is its own: `LipschitzMLP` reads only their weights.
    if "bf16[" not in str(eqx.filter_make_jaxpr(loss)(model, paths, jr.key(0))[0]):
        raise BadArgument(
            f"`precision` is {shown(loss.precision)}, and the model has no product of a linear "
            "layer that is computed in it. Use float32, or a model with networks that have some."
        )
