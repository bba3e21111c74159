r"""Interpolated, modified Kneser-Ney n-grams over integer tokens: a baseline for language models.

With $c$ the number of times that $hw$ was read (at the highest order) or the number of different
tokens that came before it (below), $D_c$ one of three discounts of that order, and $h'$ the
history $h$ less its first token,

$$p(w \mid h) = \frac{c(hw) - D_{c(hw)} + \sum_v D_{c(hv)}\, p(w \mid h')}{\sum_v c(hv)},$$

where a $w$ never read after $h$ has neither $c$ nor $D$. Below single tokens all are equally
likely; a history never read gives way to $h'$. See Chen and Goodman (1999), "An empirical study
of smoothing techniques for language modeling".
"""

from typing import NamedTuple, final

import numpy as np

FALLBACK = np.array([0.5, 1.0, 1.5])  # discounts where the counts are too few to tell
ROWS = 1 << 20  # that a query looks up at a time


@final
class Table(NamedTuple):
    """One order: what was read, and by history what of it goes to the order below.

    Args:
        codes: The n-grams that were read, sorted.
        kept: Their counts less their discounts, over the counts of their histories.
        histories: The histories that were read, sorted.
        left: The share of each that its discounts leave to the order below.
        discounts: Of n-grams with a count of 1, of 2, and of more.
    """

    codes: np.ndarray
    kept: np.ndarray
    histories: np.ndarray
    left: np.ndarray
    discounts: np.ndarray


@final
class Model(NamedTuple):
    """`tables[n - 1]` holds the n-grams of `n` tokens."""

    vocab: int
    tables: tuple[Table, ...]


def fit(tokens: np.ndarray, order: int, vocab: int) -> Model:
    """Counts a text, a single stream.

    Args:
        tokens: Integers from 0 to `vocab` - 1.
        order: The longest n-gram.
        vocab: How many tokens there are.
    """
    if order < 1 or order * _bits(vocab) > 63:
        raise ValueError(
            f"`order` {order} of {vocab} tokens does not fit into 63 bits. Use an order from 1 to "
            f"{63 // _bits(vocab)}."
        )
    tokens = _checked(tokens, vocab)
    if len(tokens) < order:
        raise ValueError(f"`tokens` has {len(tokens)} entries. Give at least `order`, {order}.")
    after_start = np.concatenate([[vocab], tokens])  # its first token, too, has one before it
    tables = []
    for n in range(1, order + 1):
        if n == order:
            codes, counts = np.unique(_codes(tokens, n, vocab), return_counts=True)
        else:
            longer = np.unique(_codes(after_start, n + 1, vocab))
            codes, counts = np.unique(_shorter(longer, n, vocab), return_counts=True)
        tables.append(_table(codes, counts, vocab))
    return Model(vocab, tuple(tables))


def nats(model: Model, tokens: np.ndarray) -> np.ndarray:
    r"""$-\log p$ of every token of a text; the first have shorter histories."""
    order = len(model.tables)
    tokens = _checked(tokens, model.vocab)
    padded = np.concatenate([np.full(order - 1, model.vocab), tokens])
    windows = np.lib.stride_tricks.sliding_window_view(padded, order)
    parts = [windows[k : k + ROWS] for k in range(0, len(windows), ROWS)]
    return -np.log(np.concatenate([probabilities(model, part) for part in parts]))


def probabilities(model: Model, grams: np.ndarray) -> np.ndarray:
    """Of the last token of each row after those before it; `model.vocab` stands for no token."""
    found = np.full(len(grams), 1 / model.vocab)
    for n, table in enumerate(model.tables, start=1):
        codes = _joined(grams[:, -n:], model.vocab)
        left = _look_up(table.histories, table.left, codes >> _bits(model.vocab), 1.0)
        found = _look_up(table.codes, table.kept, codes, 0.0) + left * found
    return found


def _table(codes: np.ndarray, counts: np.ndarray, vocab: int) -> Table:
    discounts = _discounts(counts)
    taken = discounts[np.minimum(counts, 3) - 1]
    histories, first = np.unique(codes >> _bits(vocab), return_index=True)
    totals = np.add.reduceat(counts, first)
    each = np.diff(np.append(first, len(codes)))
    return Table(
        codes=codes,
        kept=(counts - taken) / np.repeat(totals, each),
        histories=histories,
        left=np.add.reduceat(taken, first) / totals,
        discounts=discounts,
    )


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Of counts 1, 2 and more, from how many n-grams have the counts 1 to 4."""
    seen = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    if not seen.all():
        return FALLBACK
    low, k = seen[0] / (seen[0] + 2 * seen[1]), np.arange(1, 4)
    found = k - (k + 1) * low * seen[1:] / seen[:3]
    return found if (found > 0).all() else FALLBACK


def _look_up(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, default: float
) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], default)


def _codes(tokens: np.ndarray, n: int, vocab: int) -> np.ndarray:
    return _joined(np.lib.stride_tricks.sliding_window_view(tokens, n), vocab)


def _joined(grams: np.ndarray, vocab: int) -> np.ndarray:
    """One integer for each row, which sorts as the row does."""
    code = np.zeros(len(grams), np.int64)
    for column in grams.T:
        code = (code << _bits(vocab)) | column
    return code


def _shorter(codes: np.ndarray, n: int, vocab: int) -> np.ndarray:
    """The last `n` tokens of each."""
    return codes & ((1 << (n * _bits(vocab))) - 1)


def _bits(vocab: int) -> int:
    return int(vocab).bit_length()  # of 0 to `vocab`, the last of which is no token


def _checked(tokens: np.ndarray, vocab: int) -> np.ndarray:
    tokens = np.asarray(tokens, np.int64)
    if tokens.ndim != 1 or np.any((tokens < 0) | (tokens >= vocab)):
        raise ValueError(f"`tokens` must be one row of integers from 0 to {vocab - 1}.")
    return tokens
