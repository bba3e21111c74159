"""A shuffled order of any length, computed for the places asked for and kept nowhere.

Both functions are written out in 64-bit arithmetic, so that what they return belongs to the format:
it does not change with numpy, the machine or the process, and the tests pin its values.
"""

import operator

import numpy as np
from jaxtyping import Int64, UInt64

from .._io import BadArgument

LONGEST = 2**62
ROUNDS = 24  # even; with 12, orders of five or six are measurably uneven


def mixed(*words: UInt64[np.ndarray, " words"] | int) -> UInt64[np.ndarray, " words"]:
    """The words hashed to one, place by place, by the output function of splitmix64.

    Words that differ in the last one only never hash to the same.
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        word = np.asarray(word, np.uint64).reshape(-1)
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> 27)) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> 31)
    return state


def checked_seed(seed: int) -> int:
    """`seed`, if it fits 64 bits."""
    seed = operator.index(seed)
    if not 0 <= seed < 2**64:
        raise BadArgument(f"`seed` is {seed}. Pass a whole number from 0 to 2**64 - 1.")
    return seed


def shuffled(
    n: int, seed: int, index: Int64[np.ndarray, " places"]
) -> Int64[np.ndarray, " places"]:
    """What stands at the places `index` of the order that `seed` gives to 0, 1, ..., n - 1.

    Args:
        n: How many there are, up to 2**62; it costs neither time nor memory.
        seed: Another seed gives another order.
        index: Places from 0 to n - 1.

    A Feistel network permutes the numbers of as many bits as n needs, fewer than 2 n of them. A
    number that comes out at n or above goes in again until it comes out below.
    """
    if not 0 <= n <= LONGEST:
        raise BadArgument(f"`n` is {n}. Pass a number from 0 to 2**62.")
    if index.size and not (0 <= index.min() and index.max() < n):
        raise BadArgument(
            f"`index` goes from {index.min()} to {index.max()}. Pass places from 0 to {n - 1}."
        )
    bits = max(n - 1, 0).bit_length()
    keys = mixed(checked_seed(seed), np.arange(ROUNDS, dtype=np.uint64))
    out = index.astype(np.uint64)
    if bits:
        out = _feistel(out, bits, keys)
        while (outside := np.flatnonzero(out >= n)).size:
            out[outside] = _feistel(out[outside], bits, keys)
    return out.astype(np.int64)


def _feistel(
    x: UInt64[np.ndarray, " places"], bits: int, keys: UInt64[np.ndarray, " rounds"]
) -> UInt64[np.ndarray, " places"]:
    """A permutation of the numbers of `bits` bits: their two halves change each other in turn."""
    low = (bits + 1) // 2
    masks = [np.uint64(2 ** (bits - low) - 1), np.uint64(2**low - 1)]
    this, other = x >> np.uint64(low), x & masks[1]  # the half to be changed stands first
    for round_, key in enumerate(keys):
        this = this ^ (mixed(other ^ key) & masks[round_ % 2])
        this, other = other, this
    return (this << np.uint64(low)) | other
