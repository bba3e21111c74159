"""How likely tokens were, without keeping the logits of a whole text."""

from collections.abc import Callable
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

COLUMNS = 32  # tokens a row whose logits are in memory at a time, or fewer so that there are
LOGITS = 2**26  # at most so many of them

Some = Array | np.ndarray


@final
class Scores(NamedTuple):
    """Of tokens given all before them, under the model as it is (at temperature 1).

    `entropies` and the most likely tokens are those of the distribution that a token came from.
    """

    logprobs: Float[Some, "*axes"]
    entropies: Float[Some, "*axes"]
    top_ids: Int[Some, "*axes top"]
    top_logprobs: Float[Some, "*axes top"]


def score(logits: Float[Array, "*axes vocab"], tokens: Int[Array, "*axes"], top: int) -> Scores:
    """Of `tokens`, which follow the states that `logits` were made from."""
    x = logits - jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(x)  # the only exponentials: they are a good part of a small model's time
    total = jnp.sum(weights, axis=-1)
    own = jnp.take_along_axis(x, tokens[..., None], axis=-1)[..., 0]
    mean = jnp.sum(weights * jnp.maximum(x, -1e9), axis=-1) / total  # of -inf: 0 times a number
    best, top_ids = jax.lax.top_k(x, top)
    log = jnp.log(total)
    return Scores(own - log, log - mean, top_ids.astype(jnp.int32), best - log[..., None])


def score_text(
    unembed: Callable[[Array], Array],
    final: Float[Array, "batch time width"],
    tokens: Int[Array, "batch time"],
    positions: Int[Array, "batch time"],
    top: int,
) -> Scores:
    """Of each token that follows another in its row; those of the others are NaN, or -1."""
    batch, time, _ = final.shape
    vocab = jax.eval_shape(unembed, final[:, :1]).shape[-1]
    columns = max(1, min(COLUMNS, LOGITS // (batch * vocab)))
    blocks = -(-(time - 1) // columns)
    spare = blocks * columns - (time - 1)
    before = jnp.pad(final[:, :-1], ((0, 0), (0, spare), (0, 0)))
    after = jnp.pad(tokens[:, 1:], ((0, 0), (0, spare)))

    def some(part: tuple[Array, Array]) -> Scores:
        return score(unembed(part[0]), part[1], top)

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(batch, blocks, columns, *x.shape[2:]), 1, 0)

    def whole(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1).reshape(batch, blocks * columns, *x.shape[3:])
        return jnp.pad(x[:, : time - 1], ((0, 0), (1, 0)) + ((0, 0),) * (x.ndim - 2))

    scores = jax.tree.map(whole, jax.lax.map(some, (split(before), split(after))))
    previous = jnp.pad(positions[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return hide(scores, (positions > 0) & (positions == previous + 1))


def hide(scores: Scores, real: Bool[Array, "*axes"]) -> Scores:
    """`scores` of real tokens; NaN, or -1 for ids, of the others."""

    def one(x: Array) -> Array:
        nothing = jnp.asarray(-1 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.nan, x.dtype)
        return jnp.where(real.reshape(*real.shape, *(1,) * (x.ndim - real.ndim)), x, nothing)

    return jax.tree.map(one, scores)
