"""Token ids in rows that many batches share the shape of, and what is wrong with some."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._io import BadArgument
from ._names import Batch


def bucket(length: int) -> int:
    """The padded length of rows: powers of two to 64, multiples of 64 to 512, then of 512."""
    if length <= 64:
        return max(8, 1 << (length - 1).bit_length())
    unit = 64 if length <= 512 else 512
    return -(-length // unit) * unit


def padded(
    rows: Batch, *, length: int | None = None, most: int | None = None
) -> tuple[Int[Array, "batch time"], Int[Array, "batch time"]]:
    """Rows of token ids side by side, padded at their ends, and the positions of their tokens.

    Args:
        rows: One sequence of ids a row; they may differ in length.
        length: Of the padded rows; by default the `bucket` of the longest, or `most` if that
            is less.
        most: The longest that a row may be.
    """
    sizes = np.array([len(row) for row in rows])
    longest = int(sizes.max())
    most = max(bucket(longest), length or 0) if most is None else most
    time = min(bucket(longest), most) if length is None else length
    if not longest <= time <= most:
        raise BadArgument(
            f"`length` is {length}. The longest row has {longest} tokens, and the context {most}."
        )
    tokens = np.zeros((len(rows), time), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = np.asarray(row)
    at = np.arange(time, dtype=np.int32)[None]
    return jnp.asarray(tokens), jnp.asarray(np.where(at < sizes[:, None], at, np.int32(-1)))


def check_rows(rows: Batch, vocab: int | None, name: str = "prompts") -> None:
    """Refuses what is no batch of token ids of this vocabulary."""
    if isinstance(rows, str) or not len(rows):
        raise BadArgument(f"`{name}` is {rows!r}. Give a list with at least one row of token ids.")
    for number, row in enumerate(rows):
        here = f"`{name}[{number}]`"
        if isinstance(row, str):
            raise BadArgument(
                f"{here} is text. Give token ids, or call the method of a model with a tokenizer."
            )
        ids = np.asarray(row)
        if ids.size == 0:
            raise BadArgument(
                f"{here} is empty. A model predicts from at least one token: begin with its start "
                "token."
            )
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise BadArgument(
                f"{here} has shape {ids.shape} and type {ids.dtype}. Give one row of integers."
            )
        check_ids(ids, vocab, here)


def check_whole(name: str, value: object, least: int) -> None:
    """Refuses what is no whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise BadArgument(f"`{name}` is {value!r}. Use a whole number from {least} on.")


def check_top(top: int, vocab: int | None) -> None:
    """Refuses a number of likeliest tokens that there are not."""
    check_whole("top", top, 0)
    if vocab is not None and top > vocab:
        raise BadArgument(f"`top` is {top}. This model has {vocab} tokens.")


def check_ids(ids: np.ndarray, vocab: int | None, name: str) -> None:
    """Refuses ids that the model has no embedding for."""
    high = np.iinfo(np.int32).max if vocab is None else vocab - 1
    wrong = np.flatnonzero((ids < 0) | (ids > high))
    if wrong.size:
        at = ", ".join(str(int(k)) for k in np.unravel_index(wrong[0], ids.shape))
        raise BadArgument(
            f"Entry {at} of {name} is {int(ids.flat[wrong[0]])}. This model has tokens 0 to "
            f"{high}: use its own tokenizer."
        )


def check_room(rows: Batch, budget: int, context: int, name: str = "prompts") -> None:
    """Refuses rows that would outgrow what the model was made for."""
    longest = max(range(len(rows)), key=lambda number: len(rows[number]))
    size = len(rows[longest])
    if size + budget > context:
        more = f" and `budget` is {budget}" if budget else ""
        raise BadArgument(
            f"`{name}[{longest}]` has {size} tokens{more}. The context of this model is "
            f"{context} tokens: give it less."
        )
