"""Any callable of the contract, read as if it had a cache: it is called on the whole row again."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._decoder import Out
from ._names import Edit, Layers, Name, Positions, Tokens


@final
class Rows(NamedTuple):
    """What every row has read, from its own beginning: padding stands at the end only."""

    tokens: Int[Array, "batch slot"]
    positions: Int[Array, "batch slot"]


@final
class Uncached(eqx.Module):
    """`call(tokens, positions, edit=...) -> logits, {layer: states}`, with a decoder's methods.

    Each step costs a forward of the whole row.

    Args:
        call: A function, or a tree of arrays that can be called. The arrays that a function
            closes over are compiled in, so give those that change, or are large, by
            `jax.tree_util.Partial(function, arrays)`.
        context: The longest row that it takes, if there is a limit.
    """

    call: Callable[..., Any]
    context: int | None = None

    def empty(self, batch: int, slots: int, lengths: Int[Array, " batch"]) -> Rows:
        """No tokens yet, and room for `slots` of them."""
        del lengths
        size = slots if self.context is None else min(slots, self.context)
        nothing = jnp.full((batch, size), -1, jnp.int32)
        return Rows(jnp.zeros_like(nothing), nothing)

    def __call__(
        self,
        tokens: Tokens,
        positions: Positions,
        *,
        cache: Rows,
        edit: Mapping[Name, Edit] | None = None,
        layers: Collection[Name] = (),
    ) -> Out:
        """What `Decoder.__call__` gives, with logits in the place of the final states."""
        rows = jnp.arange(tokens.shape[0])[:, None]
        beyond = cache.tokens.shape[1]  # where padding is written, that is nowhere
        at = jnp.where(positions >= 0, positions, beyond)
        cache = Rows(
            cache.tokens.at[rows, at].set(tokens, mode="drop"),
            cache.positions.at[rows, at].set(positions, mode="drop"),
        )
        logits, states = self.call(cache.tokens, cache.positions, edit=edit or {})
        absent = [name for name in layers if name not in states]
        if absent:
            raise ValueError(
                f"`layers` names {absent}, which the model does not return. It returns the "
                f"states of {list(states)}."
            )
        here = jnp.maximum(positions, 0)
        chosen = Layers({name: states[name][rows, here] for name in layers})
        return Out(logits[rows, here], chosen, cache)

    def unembed(self, final: Float[Array, "*axes vocab"]) -> Float[Array, "*axes vocab"]:
        """The logits themselves."""
        return final.astype(jnp.float32)
