"""Attention of the last few tokens over all that came before them, by their positions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._config import Layer

QUERIES = 512  # that meet all keys at a time: scores take memory by this, not by the whole length
HIDDEN = -1e30  # added to scores; finite, so that a row that sees nothing has no NaN


def rotate(
    x: Float[Array, "batch heads time dim"],
    cos: Float[Array, "batch time pairs"],
    sin: Float[Array, "batch time pairs"],
) -> Float[Array, "batch heads time dim"]:
    """Turns the pairs `(x[j], x[j + pairs])` by their angles; the other dimensions stay."""
    pairs = cos.shape[-1]
    c, s = cos[:, None].astype(x.dtype), sin[:, None].astype(x.dtype)
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return jnp.concatenate([a * c - b * s, b * c + a * s, rest], axis=-1)


def bias(
    queries: Int[Array, "batch time"], keys: Int[Array, "batch slot"], window: int | None
) -> Float[Array, "batch time slot"]:
    """0 where a position sees another; `HIDDEN` where that is later, padding (-1), or too far."""
    q, k = queries[:, :, None], keys[:, None, :]
    seen = (k >= 0) & (k <= q)
    if window is not None:
        seen &= q - k < window
    return jnp.where(seen, jnp.float32(0.0), jnp.float32(HIDDEN))


def attend(
    q: Float[Array, "batch heads time dim"],
    k: Float[Array, "batch kv_heads slot dim"],
    v: Float[Array, "batch kv_heads slot dim"],
    seer: Int[Array, "batch time"],
    seen: Int[Array, "batch slot"],
    layer: Layer,
    cap: float | None,
) -> Float[Array, "batch heads time dim"]:
    """Softmax attention; every head of keys and values serves a group of heads of queries.

    A query that sees nothing gets some finite mean of the values. The weights are normalised
    after they met the values: on a CPU that is several times as fast.

    Args:
        q: Queries, after their turn.
        k: Keys, likewise.
        v: Values.
        seer: Positions of the queries, which decide what they see.
        seen: Positions of the keys; -1 is seen by none.
        layer: Its window and scale.
        cap: Of the scores.
    """
    batch, heads, time, dim = q.shape
    groups = heads // k.shape[1]
    q = (q.astype(jnp.float32) * layer.scale).astype(q.dtype)
    if time == 1:  # a step of decoding: the heads of a group are rows of one product
        q = q.reshape(batch, k.shape[1], groups, dim)
        return _mix(q, k, v, bias(seer, seen, layer.window), cap).reshape(batch, heads, 1, dim)
    k, v = jnp.repeat(k, groups, axis=1), jnp.repeat(v, groups, axis=1)
    if time <= QUERIES:
        return _mix(q, k, v, bias(seer, seen, layer.window), cap)
    blocks = -(-time // QUERIES)
    spare = blocks * QUERIES - time
    q = jnp.pad(q, ((0, 0), (0, 0), (0, spare), (0, 0))).reshape(batch, heads, blocks, -1, dim)
    seer = jnp.pad(seer, ((0, 0), (0, spare)), constant_values=-1).reshape(batch, blocks, -1)

    def some(part: tuple[Array, Array]) -> Array:
        return _mix(part[0], k, v, bias(part[1], seen, layer.window), cap)

    mixed = jax.lax.map(some, (jnp.moveaxis(q, 2, 0), jnp.moveaxis(seer, 1, 0)))
    return jnp.moveaxis(mixed, 0, 2).reshape(batch, heads, -1, dim)[:, :, :time]


def _mix(q: Array, k: Array, v: Array, hidden: Array, cap: float | None) -> Array:
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32)
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    scores = scores + hidden[:, None]
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1)[..., None]
    weights = weights.astype(v.dtype)
    mixed = jnp.einsum("bhts,bhsd->bhtd", weights, v, preferred_element_type=jnp.float32)
    return (mixed / total).astype(v.dtype)
