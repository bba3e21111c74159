"""Gaps between two sets of moments, as sums over documents, and the largest one of them."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..stats import by_document
from .findings import Finding, Verdict, withheld

FLIPS = 1000  # random choices of all documents
ONE_IN = 0.05  # how often a gap may be taken for one that is none

Draws = Float[np.ndarray, "draw path time dim"]
Seen = Bool[np.ndarray, "path time"]
Parts = Float[np.ndarray, "document ..."]
Choices = Float[np.ndarray, "choice document ..."]


def parts_of(draws: Draws, seen: Seen, docs: np.ndarray, centre: Any) -> tuple[Parts, Parts]:
    """What each document adds to first and second moments about a centre."""
    w = seen[..., None].astype(float)
    total = len(draws) * w.sum(axis=0)
    off = (draws - centre) * w
    first, second = off.sum(axis=0) / total, np.einsum("rpti,rptj->ptij", off, off)
    second = second / total[..., None]
    return grouped(first, docs), grouped(second, docs)


def grouped(x: np.ndarray, docs: np.ndarray) -> Parts:
    sums = by_document(x.reshape(len(x), -1), docs)
    return sums.reshape(len(sums), *x.shape[1:])


def largest(
    what: str, choices: tuple[Choices, Choices], steps: Any, of_null: str, seed: int
) -> Finding:
    """The greatest gap over its error, and what it is when documents choose at random.

    Args:
        choices: What each document adds to the gaps of first and second moments: first as it was
            seen, then as it might as well have been.
    """
    dim = choices[0].shape[-1]
    upper = np.triu_indices(dim)
    first, second = choices[0], choices[1][..., upper[0], upper[1]]
    k, n = first.shape[:2]
    r = np.concatenate([x.reshape(k, n, -1) for x in (first, second)], axis=2)
    size = np.sqrt((r**2).sum(axis=(0, 1)))
    known = np.flatnonzero(size > 1e-12 * max(float(size.max()), 1e-300))
    if not len(known):
        return withheld(what, "no moment varies between documents")
    r = (r[:, :, known] / size[known]).reshape(k * n, -1)
    picked = np.random.default_rng(seed).integers(k, size=(FLIPS + 1, n))
    picked[0] = 0
    weights = (picked[:, None] == np.arange(k)[:, None]).reshape(FLIPS + 1, -1).astype(float)
    z = np.abs(weights @ r) / np.sqrt(np.maximum(weights @ r**2, 1e-30))
    limit = np.quantile(z[1:].max(axis=1), 1 - ONE_IN, method="higher")
    # Student's form of the same, which a large gap does not bring to a bound.
    greatest = float(z[0].max())
    value, null = (float(x * np.sqrt((n - 1) / max(n - x**2, 1e-9))) for x in (greatest, limit))
    column, means = int(known[z[0].argmax()]), first[0, 0].size
    if column < means:
        step, one = divmod(column, dim)
        note = f"It is in the mean of component {one}"
    else:
        step, pair = divmod(column - means, len(upper[0]))
        a, b = (int(index[pair]) for index in upper)
        note = f"It is in the covariance of components {a} and {b}"
    return Finding(
        what,
        value,
        None,
        None,
        null,
        Verdict.ABOVE if greatest > limit else Verdict.LEVEL,
        of_null=of_null,
        note=f"{note}, {int(steps[step])} steps after the start",
    )
