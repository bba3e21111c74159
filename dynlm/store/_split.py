"""Which documents are for training, which for validation, which for the test."""

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from jaxtyping import Int, Int64

from .._fields import shown
from .._io import BadArgument
from ._order import checked_seed, mixed

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


def split_docs(
    docs: Int[np.ndarray, " row"], shares: Mapping[str, float] = SHARES, seed: int = 0
) -> dict[str, Int64[np.ndarray, " doc"]]:
    """The documents of each split, in rising order.

    The documents are put into the order of a hash of seed and number, and that order is cut. So
    neither the order in which they appear nor how often matters, and a document is whole in one
    split.

    Args:
        docs: The document of each row.
        shares: Of all documents, what part belongs to "train", "valid" and "test"; one that is
            not named is 0. The cut comes as close as whole documents allow, and gives at least one
            to every share above 0.
        seed: Another seed gives another cut.
    """
    parts = _checked(shares)
    found = np.unique(docs).astype(np.int64)
    wanted = sum(part > 0 for part in parts.values())
    if len(found) < wanted:
        raise BadArgument(
            f"`docs` holds {len(found)} of the {wanted} documents that `shares` needs, one for "
            "each part above 0. Use more documents, or give all to one part."
        )
    hashes = mixed(checked_seed(seed), found.view(np.uint64))
    order = found[np.argsort(hashes)]
    cuts = np.split(order, np.cumsum(counts(len(found), list(parts.values())))[:-1])
    return {name: np.sort(cut) for name, cut in zip(parts, cuts)}


def _checked(shares: Mapping[str, float]) -> dict[str, Fraction]:
    """The shares of all splits, exactly as they are written in decimals, with the sum 1."""
    if unknown := [name for name in shares if name not in SHARES]:
        raise BadArgument(
            f"`shares` names {shown(unknown[0])}. The splits are {', '.join(SHARES)}."
        )
    for name, share in shares.items():
        number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
        if not number or not math.isfinite(share) or share < 0:
            raise BadArgument(
                f"`shares` gives {shown(share)} to {name}. Pass numbers of at least 0 whose sum is "
                "1."
            )
    # A tenth is no binary fraction, and its rounding shall not decide between equal remainders.
    parts = {name: Fraction(str(float(shares.get(name, 0)))) for name in SHARES}
    total = sum(parts.values())
    if abs(total - 1) > Fraction(1, 10**6):
        raise BadArgument(
            f"`shares` {shown(dict(shares))} sum to {float(total):g}. Pass numbers whose sum is 1."
        )
    return {name: part / total for name, part in parts.items()}


def counts(n: int, parts: list[Fraction]) -> list[int]:
    """`n` cut into whole numbers near `parts` of it, by largest remainders, none empty."""
    found = [math.floor(n * part) for part in parts]
    remainders = [count - n * part for count, part in zip(found, parts)]  # the largest first
    for k in sorted(range(len(parts)), key=remainders.__getitem__)[: n - sum(found)]:
        found[k] += 1
    for k, part in enumerate(parts):
        if part > 0 and found[k] == 0:
            found[found.index(max(found))] -= 1
            found[k] = 1
    return found
