"""A text as tokens: batches of its windows to train on, and how surprising a model finds it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ._decoder import Decoder


def batch_at(
    tokens: Int[np.ndarray, " corpus"], step: int, *, batch: int, window: int, seed: int, start: int
) -> Int[np.ndarray, "batch time"]:
    """The batch of one step, a pure function of `seed` and `step`, so that training can resume.

    Each epoch cuts the corpus into windows from another offset and takes them in another order;
    what is left over at its end is dropped. Every row begins with the token `start`.
    """
    a_epoch = (len(tokens) - window) // window
    if a_epoch < batch:
        raise ValueError(
            f"`tokens` has {len(tokens)} entries, {a_epoch} windows of {window}, for a batch of "
            f"{batch}. Give more text, or a smaller `batch` or `window`."
        )
    epoch, place = divmod(step, a_epoch // batch)
    draw = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    offset, order = draw.integers(window), draw.permutation(a_epoch)
    first = offset + window * order[place * batch : (place + 1) * batch]
    rows = tokens[first[:, None] + np.arange(window)]
    return np.concatenate([np.full((batch, 1), start), rows], axis=1).astype(np.int32)


def held_out_nats(
    model: Decoder, tokens: Int[np.ndarray, " corpus"], *, window: int, start: int, batch: int = 16
) -> Float[np.ndarray, " corpus"]:
    r"""$-\log p$ of every token of a text, read in windows that each begin with `start`."""
    count = -(-len(tokens) // window)
    padded = np.zeros(-(-count // batch) * batch * window, np.int32)
    padded[: len(tokens)] = tokens
    rows = padded.reshape(-1, batch, window)
    heads = np.full((*rows.shape[:2], 1), start, np.int32)
    found = [_nats(model, jnp.asarray(row)) for row in np.concatenate([heads, rows], axis=-1)]
    return np.concatenate([np.asarray(x).ravel() for x in found])[: len(tokens)]


def nats(model: Decoder, batch: Int[Array, "batch time"]) -> Float[Array, "batch last"]:
    r"""$-\log p(x_{t+1} \mid x_{\le t})$ of the tokens after the first of each row."""
    read, target = batch[:, :-1], batch[:, 1:]
    positions = jnp.broadcast_to(jnp.arange(read.shape[1], dtype=jnp.int32), read.shape)
    logits = model.unembed(model(read, positions).final)
    return optax.softmax_cross_entropy_with_integer_labels(logits, target)


_nats = jax.jit(nats)
