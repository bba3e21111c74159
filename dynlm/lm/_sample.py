"""Sampling: prompt and continuation in one compiled call, with the states of every token."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._decoder import Cache, Decoder, Out
from ._decoding import Decoding, draw
from ._foreign import Rows, Uncached
from ._names import Batch, Edit, Layers, Name, RowKeys, chosen, edits
from ._prompts import check_ids, check_room, check_rows, check_top, check_whole, padded
from ._score import Scores, hide, score, score_text
from ._static import Static, join, split

CHUNK = 512  # tokens of a prompt that are read at a time
DEFAULT = Decoding()


@final
class Row(NamedTuple):
    """One prompt and what was sampled after it, which begins at `prompt`."""

    tokens: Int[np.ndarray, " time"]
    prompt: int
    states: dict[Name, Float[np.ndarray, "time width"]]
    scores: Scores


@final
class Sampled(NamedTuple):
    """A batch of rows in slots: first those of the prompts, then those of what was sampled.

    Args:
        tokens: What stands in each slot.
        positions: Where in its row each token stands; -1 where a slot is empty, as it is after
            a prompt shorter than others, and after a stop token.
        prompts: The length of each row's prompt.
        states: By layer, the state after each token was read.
        scores: Of each token, given those before it.
    """

    tokens: Int[Array, "batch slot"]
    positions: Int[Array, "batch slot"]
    prompts: Int[Array, " batch"]
    states: Layers
    scores: Scores

    def row(self, number: int) -> Row:
        """One row without its empty slots."""
        if not 0 <= number < self.tokens.shape[0]:
            raise IndexError(f"`number` is {number}. There are rows 0 to {len(self.tokens) - 1}.")
        at = np.flatnonzero(np.asarray(self.positions[number]) >= 0)

        def pick(x: Array) -> np.ndarray:
            return np.asarray(x[number])[at]

        return Row(
            tokens=pick(self.tokens),
            prompt=int(self.prompts[number]),
            states={name: pick(x) for name, x in self.states.items()},
            scores=jax.tree.map(pick, self.scores),
        )


def sample(
    model: Decoder | Uncached,
    prompts: Batch,
    *,
    key: RowKeys,
    budget: int,
    decoding: Callable[[Array, Array], Array] = DEFAULT,
    stop: Sequence[int] = (),
    layers: Collection[Name] | None = (),
    edit: Mapping[Name, Edit] | None = None,
    top: int = 0,
) -> Sampled:
    """Continues each prompt by up to `budget` tokens.

    A row depends, up to rounding, on its own prompt, key and settings alone. Prompts are padded
    to a length that many share; nothing is compiled again for others of that length, for other
    keys, or for other values of the settings.

    Args:
        model: What reads the tokens.
        prompts: Token ids, one sequence a row.
        key: One key, from which each row gets its own; or an array of keys, one a row.
        budget: The largest number of tokens to sample for each row.
        decoding: A `Decoding`, whose settings may differ from row to row, or any function of
            the logits of one row and of which tokens that row has; it must leave at least one.
        stop: Tokens that end a row; the token itself is kept.
        layers: Whose states to return; None for all.
        edit: By layer, what replaces its states, of the prompt and of what is sampled.
        top: How many of the likeliest tokens to return for each slot.
    """
    if not isinstance(model, Decoder | Uncached):
        raise TypeError(
            f"`model` is a {type(model).__name__}. Give a Decoder, such as `loaded.decoder`, or "
            "`Uncached(model)` of any callable of the contract."
        )
    vocab, depth, context = limits(model)
    check_rows(prompts, vocab)
    check_whole("budget", budget, 1)
    check_top(top, vocab)
    if not isinstance(stop, Sequence | np.ndarray):
        raise TypeError(f"`stop` is {stop!r}. Give a list of token ids.")
    check_ids(np.asarray(stop, np.int64), vocab, "`stop`")
    if context is not None:
        check_room(prompts, budget, context)
    if isinstance(decoding, Decoding):
        decoding = decoding.for_rows(len(prompts))
    arrays, rest = split((model, decoding, edits(edit, depth)))
    return _sample(
        arrays,
        *padded(prompts),
        _row_keys(key, len(prompts)),
        jnp.asarray(np.asarray(stop), jnp.int32),
        rest=rest,
        budget=budget,
        layers=chosen(layers, depth),
        top=top,
    )


def limits(model: Decoder | Uncached) -> tuple[int | None, int | None, int | None]:
    """How many tokens and layers a model knows, and how long its rows may be, where we know it."""
    if isinstance(model, Uncached):
        return None, None, model.context
    return model.config.vocab, model.config.depth, model.config.context


def _row_keys(key: Any, batch: int) -> Any:
    """A key for each row, which does not depend on how many rows there are."""
    if not isinstance(key, jax.Array):
        raise TypeError(f"`key` is {key!r}. Make one with `jax.random.key(seed)`.")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jr.wrap_key_data(key)
    if key.ndim == 0:
        return jax.vmap(jr.fold_in, in_axes=(None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(
            f"`key` has shape {key.shape} and there are {batch} prompts. Give one key, or one a "
            "prompt."
        )
    return key


class _Carry(NamedTuple):
    number: Int[Array, ""]
    cache: Any
    logits: Float[Array, "batch vocab"]
    done: Bool[Array, " batch"]
    seen: Bool[Array, "batch vocab"]
    written: Any  # tokens, positions, states and scores, slot by slot


@partial(jax.jit, static_argnames=("rest", "budget", "layers", "top"))
def _sample(
    arrays: list[Any],
    tokens: Int[Array, "batch time"],
    positions: Int[Array, "batch time"],
    keys: Any,
    stops: Int[Array, " stop"],
    *,
    rest: Static,
    budget: int,
    layers: tuple[Name, ...],
    top: int,
) -> Sampled:
    model, decoding, edit = join(arrays, rest)
    batch, room = tokens.shape
    rows, prompts = jnp.arange(batch), 1 + jnp.max(positions, axis=1)
    read = partial(model, edit=edit, layers=layers)
    per_row = jax.vmap(
        lambda rule, logits, seen: rule(logits, seen),
        in_axes=(0 if isinstance(decoding, Decoding) else None, 0, 0),
    )

    out = prefill(read, tokens, positions, model.empty(batch, room + budget, prompts + budget))
    logits = model.unembed(out.final[rows, prompts - 1])
    real = positions >= 0
    seen = jnp.zeros(logits.shape, bool)
    seen = seen.at[rows[:, None], jnp.where(real, tokens, logits.shape[1])].set(True, mode="drop")
    scores = score_text(lambda x: model.unembed(x), out.final, tokens, positions, top)

    def step(carry: _Carry) -> _Carry:
        number, cache, logits, done, seen, written = carry
        us = jax.vmap(lambda key: jr.uniform(jr.fold_in(key, number), (), jnp.float32))(keys)
        token = jax.vmap(draw)(per_row(decoding, logits, seen), us)
        token = jnp.where(done, 0, token)
        position = jnp.where(done, -1, prompts + number)
        scores = hide(score(logits, token, top), ~done)
        out = read(token[:, None], position[:, None], cache=cache)
        new = (token, position, jax.tree.map(lambda x: x[:, 0], out.states), scores)
        return _Carry(
            number=number + 1,
            cache=out.cache,
            logits=model.unembed(out.final[:, 0]),
            done=done | jnp.any(token[:, None] == stops[None], axis=1),
            seen=seen.at[rows, token].set(True),
            written=jax.tree.map(lambda x, y: _put(x, y, room + number), written, new),
        )

    start = _Carry(
        number=jnp.zeros((), jnp.int32),
        cache=out.cache,
        logits=logits,
        done=jnp.zeros(batch, bool),
        seen=seen,
        written=jax.tree.map(
            partial(_lengthen, more=budget), (tokens, positions, out.states, scores)
        ),
    )
    end = jax.lax.while_loop(lambda c: (c.number < budget) & ~jnp.all(c.done), step, start)
    tokens, positions, states, scores = end.written
    empty = jnp.arange(room + budget)[None] >= room + end.number  # never reached: all had stopped
    positions = jnp.where(empty, -1, positions)
    return Sampled(tokens, positions, prompts, states, hide(scores, positions >= 0))


def prefill(
    read: Callable[..., Out],
    tokens: Int[Array, "batch time"],
    positions: Int[Array, "batch time"],
    cache: Cache | Rows,
) -> Out:
    """Reads a prompt, `CHUNK` tokens at a time where it is longer than that."""
    batch, time = tokens.shape
    if time <= CHUNK or time % CHUNK:
        return read(tokens, positions, cache=cache)

    def some(cache: Any, part: tuple[Array, Array]) -> tuple[Any, tuple[Array, Layers]]:
        out = read(*part, cache=cache)
        return out.cache, (out.final, out.states)

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(batch, -1, CHUNK), 1, 0)

    def whole(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(batch, time, *x.shape[3:])

    cache, parts = jax.lax.scan(some, cache, (split(tokens), split(positions)))
    final, states = jax.tree.map(whole, parts)
    return Out(final, states, cache)


def _put(whole: Array, new: Array, slot: Int[Array, ""]) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, new[:, None], slot, axis=1)


def _lengthen(x: Array, *, more: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, more)) + ((0, 0),) * (x.ndim - 2))
