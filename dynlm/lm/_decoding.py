"""Choosing the next token: pure functions of one row of logits, made to be composed.

    def mine(logits, seen):
        return top_p(temperature(logits, 0.8), 0.95)

Each returns logits again, those of refused tokens at minus infinity; `draw` takes a token from
them. `Decoding` is the usual chain of them with its settings.
"""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Logits = Float[Array, " vocab"]
Some = Array | np.ndarray
Setting = float | int | Float[Some, "..."] | Int[Some, "..."] | None
BLOCK = 256  # logits added up together in `draw`


def greedy(logits: Logits) -> Logits:
    """Leaves only the likeliest token, the first of equals."""
    first = jnp.arange(logits.size) == jnp.argmax(logits)
    return jnp.where(first, 0.0, -jnp.inf)


def temperature(logits: Logits, t: Setting) -> Logits:
    """`logits / t`; 0 is greedy."""
    t = jnp.asarray(t, jnp.float32)
    return jnp.where(t > 0, logits / jnp.where(t > 0, t, 1.0), greedy(logits))


def top_k(logits: Logits, k: Setting) -> Logits:
    """Leaves the `k` largest logits, and those equal to the last of them."""
    return _cut(logits, jnp.ones_like(logits), jnp.asarray(k, jnp.float32))


def top_p(logits: Logits, p: Setting) -> Logits:
    """Leaves the likeliest tokens that together reach probability `p`, equals all or none."""
    p = jnp.asarray(p, jnp.float32)
    return jnp.where(p >= 1, logits, _cut(logits, jax.nn.softmax(logits), p))


def min_p(logits: Logits, p: Setting) -> Logits:
    """Leaves the tokens that have at least `p` times the probability of the likeliest."""
    floor = jnp.max(logits) + jnp.log(jnp.asarray(p, jnp.float32))
    return jnp.where(logits >= floor, logits, -jnp.inf)


def repetition_penalty(logits: Logits, seen: Bool[Array, " vocab"], penalty: Setting) -> Logits:
    """Divides positive and multiplies negative logits of tokens that the row has."""
    penalty = jnp.asarray(penalty, jnp.float32)
    less = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, less, logits)


@final
class Decoding(eqx.Module):
    """How a row is decoded: its penalty, then temperature, top-k, top-p and min-p.

    Args:
        temperature: 0 is greedy.
        top_k: How many tokens are left.
        top_p: Which share of the probability is left.
        min_p: The least probability left, relative to the likeliest token's.
        repetition_penalty: Above 1, tokens that the row has become less likely.

    Each is one number, or an array with one entry a row; None leaves its part out. Only a
    `Decoding` itself may differ from row to row, not a function that calls one.
    """

    temperature: Setting = 1.0
    top_k: Setting = None
    top_p: Setting = None
    min_p: Setting = None
    repetition_penalty: Setting = None

    def __call__(self, logits: Logits, seen: Bool[Array, " vocab"]) -> Logits:
        if self.repetition_penalty is not None:
            logits = repetition_penalty(logits, seen, self.repetition_penalty)
        for setting, part in (
            (self.temperature, temperature),
            (self.top_k, top_k),
            (self.top_p, top_p),
            (self.min_p, min_p),
        ):
            if setting is not None:
                logits = part(logits, setting)
        return logits

    def for_rows(self, batch: int) -> "Decoding":
        """The same with one entry a row in every setting, after a look at their values."""
        settings = {}
        for name, (low, high, words) in LIMITS.items():
            value = getattr(self, name)
            if value is None:
                settings[name] = None
                continue
            x = np.asarray(value)
            if x.shape not in ((), (batch,)):
                raise ValueError(
                    f"`{name}` has shape {x.shape} and there are {batch} rows. Give one number, "
                    "or one a row."
                )
            if not np.all((x >= low) & (x <= high)):
                raise ValueError(f"`{name}` is {value}. {words}")
            settings[name] = jnp.broadcast_to(jnp.asarray(x, jnp.float32), (batch,))
        return Decoding(**settings)


LIMITS = {
    "temperature": (0.0, np.finfo(np.float32).max, "Use 0, which is greedy, or more."),
    "top_k": (1, np.inf, "At least one token must be left: use 1 or more, or None."),
    "top_p": (np.finfo(np.float32).tiny, 1.0, "Use a share above 0 and up to 1, or None."),
    "min_p": (0.0, 1.0, "Use a share from 0 to 1, or None."),
    "repetition_penalty": (np.finfo(np.float32).tiny, np.finfo(np.float32).max,
                           "Use a positive number, above 1 to avoid repetition, or None."),
}  # fmt: skip


def draw(logits: Logits, u: Float[Array, ""]) -> Int[Array, ""]:
    """The token at `u`, uniform in [0, 1), of the distribution that `logits` stand for.

    Finds the block of tokens first and the token in it then: one pass over the logits, and no
    random number for each of them.
    """
    weights = jnp.exp(logits - jnp.max(logits))
    blocks = jnp.pad(weights, (0, -weights.size % BLOCK)).reshape(-1, BLOCK)
    masses = jnp.sum(blocks, axis=1)
    ends = jnp.cumsum(masses)
    goal = u * ends[-1]
    block = _first_beyond(ends, masses, goal)
    before = jnp.where(block > 0, ends[block - 1], 0.0)
    inside = _first_beyond(jnp.cumsum(blocks[block]), blocks[block], goal - before)
    return (block * BLOCK + inside).astype(jnp.int32)


def _first_beyond(
    ends: Float[Array, " n"], masses: Float[Array, " n"], goal: Float[Array, ""]
) -> Int[Array, ""]:
    """The first entry of some mass whose end is beyond `goal`; the last of some mass if none is."""
    # Sums that are made as a tree may differ by rounding where nothing was added, and the goal may
    # be rounded to the very end.
    some = masses > 0
    beyond = some & (ends > goal)
    last = masses.size - 1 - jnp.argmax(some[::-1])
    return jnp.where(jnp.any(beyond), jnp.argmax(beyond), last)


def _cut(logits: Logits, weights: Logits, goal: Float[Array, ""]) -> Logits:
    """Leaves the largest logits whose weights just reach `goal`; one at least.

    Floats in order are integers in order, so 32 halvings find the threshold to the last bit, in
    much less time than sorting takes.
    """
    bits = jax.lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.uint32)
    top = jnp.uint32(1 << 31)
    rank = jnp.where(bits & top, ~bits, bits | top)

    def halve(n: Int[Array, ""], threshold: Array) -> Array:
        higher = threshold | (top >> n.astype(jnp.uint32))
        enough = jnp.sum(weights, where=rank >= higher) >= goal
        return jnp.where(enough, higher, threshold)

    threshold = jax.lax.fori_loop(0, 32, halve, jnp.uint32(0))
    return jnp.where(rank >= jnp.minimum(threshold, jnp.max(rank)), logits, -jnp.inf)
