"""Maps from layer to layer, fitted on half of the documents and judged on the other half."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int

from .._io import BadArgument
from ..store import Store

Ensemble = Float[np.ndarray, "token layer dim"]
PerToken = Float[np.ndarray, "token pair"]
Pairs = Int[np.ndarray, "pair 2"]
Square = Float[np.ndarray, "dim dim"]

KINDS = ("law", "rotation", "linear", "identity", "shuffled")


@final
class Sums(NamedTuple):
    """What each token adds, pair by pair, from maps of the other half of the documents."""

    errors: dict[str, PerToken]
    total: PerToken
    gained: Float[np.ndarray, "token pair dim"]
    residuals: Float[np.ndarray, "token pair dim"]


def depth_sample(
    store: Store, *, count: int, seed: int, burn: int = 1
) -> tuple[Ensemble, Int[np.ndarray, " token"], tuple[int, ...]]:
    """States of random tokens at all numbered layers of a store, their documents, and the layers.

    Args:
        store: With two numbered layers or more.
        count: How many tokens, as far as there are.
        seed: Of the choice. Stores of two models over the same texts give the same tokens.
        burn: Tokens at the start of each row that are left out.
    """
    layers = tuple(sorted(k for k in store.layers if isinstance(k, int)))
    if len(layers) < 2:
        raise BadArgument(
            f"`store` has the layers {list(store.layers)}. Export two numbered layers or more."
        )
    lengths = np.maximum(np.asarray(store.lengths) - burn, 0)
    if count < 1 or lengths.sum() == 0:
        raise BadArgument(
            f"`count` is {count}, and {lengths.sum()} tokens stand after the first {burn} of the "
            "rows. Ask for 1 or more, of rows that have them."
        )
    picked = np.random.default_rng(seed).permutation(int(lengths.sum()))[:count]
    picked.sort()
    ends = np.cumsum(lengths)
    rows = np.searchsorted(ends, picked, side="right")
    tokens = burn + picked - (ends - lengths)[rows]
    parts = []
    for row in np.unique(rows):
        at = tokens[rows == row]
        parts.append(np.stack([store.states(int(row), k)[at].astype(float) for k in layers], 1))
    return np.concatenate(parts), np.asarray(store.docs, np.int64)[rows], layers


def pairs_of(layers: int, spans: tuple[int, ...] | None) -> Pairs:
    """Every two layers that are so far apart, as places in the ensemble."""
    spans = tuple(range(1, layers)) if spans is None else spans
    return np.array([(t, t + s) for s in sorted(set(spans)) for t in range(layers - s)])


def numbers_of(layers: Any, count: int) -> Int[np.ndarray, " layer"]:
    """Of the layers: 0 to L unless they are given."""
    if layers is None:
        return np.arange(count)
    numbers = np.asarray(layers)
    whole = numbers.shape == (count,) and np.issubdtype(numbers.dtype, np.integer)
    if not whole or np.any(np.diff(numbers) <= 0):
        raise BadArgument(
            f"`layers` is {layers}, for states at {count} layers. Pass the number of each, in "
            "increasing order."
        )
    return numbers


def reduced(
    states: Float[np.ndarray, "token layer raw"], dim: int | None
) -> Float[np.ndarray, "token layer kept"]:
    """In the leading principal components of all layers, each layer scaled to count alike."""
    if dim is None or dim >= states.shape[2]:
        return states
    x = states - states.mean(axis=0)
    scale = np.sqrt(np.mean(x**2, axis=(0, 2), keepdims=True))
    z = (x / np.where(scale > 0, scale, 1)).reshape(-1, states.shape[2])
    return states @ np.linalg.eigh(z.T @ z)[1][:, ::-1][:, :dim]


def summed(states: Ensemble, docs: np.ndarray, pairs: Pairs, seed: int) -> Sums:
    """Errors of all maps on tokens of documents that they were not fitted on."""
    rng = np.random.default_rng(seed)
    names, which = np.unique(docs, return_inverse=True)
    half = (rng.permutation(len(names)) % 2).astype(bool)[which]
    shape, dim = (len(docs), len(pairs)), states.shape[2]
    errors = {name: np.zeros(shape) for name in KINDS}
    sums = Sums(errors, np.zeros(shape), np.zeros((*shape, dim)), np.zeros((*shape, dim)))
    other = np.empty(len(docs), int)  # another token of the same half
    for part in (half, ~half):
        other[part] = rng.permutation(np.flatnonzero(part))
    for seen in (half, ~half):
        _judge(sums, states, seen, other, pairs)
    return sums


def _judge(
    sums: Sums,
    states: Ensemble,
    seen: Bool[np.ndarray, " token"],
    other: Int[np.ndarray, " token"],
    pairs: Pairs,
) -> None:
    """Fits on the tokens that are seen, and writes what comes of the others into the sums."""
    x = states - states[seen].mean(axis=0)
    fit, left = x[seen].swapaxes(0, 1).copy(), x[~seen].swapaxes(0, 1).copy()
    other_fit, other_left = (x[other[part]].swapaxes(0, 1).copy() for part in (seen, ~seen))
    turned = [singular(one) for one in fit]
    errors = sums.errors
    for p, (t, u) in enumerate(pairs):
        (s0, v0), (s1, v1) = turned[t], turned[u]
        ratio = s1 / np.maximum(s0, 1e-9 * max(float(s0[0]), 1e-300))
        cross = fit[t].T @ fit[u] / len(fit[t])
        a, b = left[t] @ v0, left[u] @ v1
        away = b - a * ratio * _signs(v0, cross, v1)
        sums.total[~seen, p] = _squared(left[u])
        sums.gained[~seen, p] = b**2 - away**2
        sums.residuals[~seen, p] = away @ v1.T
        errors["law"][~seen, p] = _squared(away)
        errors["identity"][~seen, p] = _squared(left[u] - left[t])
        errors["linear"][~seen, p] = _squared(left[u] - left[t] @ _linear(s0, v0, cross))
        rotation = _rotation(s0, v0, cross, v1, s1)
        errors["rotation"][~seen, p] = _squared(left[u] - left[t] @ rotation)
        wrong = a * ratio * _signs(v0, fit[t].T @ other_fit[u], v1)
        errors["shuffled"][~seen, p] = _squared(other_left[u] @ v1 - wrong)


def singular(x: Float[np.ndarray, "token dim"]) -> tuple[Any, Any]:
    """Singular values as deviations, the largest first, and the right singular vectors."""
    w, v = np.linalg.eigh(x.T @ x / len(x))
    return np.sqrt(np.maximum(w[::-1], 0)), v[:, ::-1]


def _squared(x: Float[np.ndarray, "token dim"]) -> Float[np.ndarray, " token"]:
    return np.sum(x**2, axis=1)


def _signs(v0: Square, cross: Square, v1: Square) -> Float[np.ndarray, " dim"]:
    """Those with which the components of two layers correlate positively."""
    return np.where(np.sum(v0 * (cross @ v1), axis=0) < 0, -1.0, 1.0)


def _inverse(s: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
    """One over what is no rounding."""
    least = 1e-7 * max(float(s[0]), 1e-300)
    return np.where(s > least, 1 / np.maximum(s, least), 0)


def _linear(s0: Float[np.ndarray, " dim"], v0: Square, cross: Square) -> Square:
    """The least-squares map, from the mean of products."""
    return (v0 * _inverse(s0) ** 2) @ (v0.T @ cross)


def _rotation(
    s0: Float[np.ndarray, " dim"],
    v0: Square,
    cross: Square,
    v1: Square,
    s1: Float[np.ndarray, " dim"],
) -> Square:
    """The rotation that brings one whitened layer nearest to the other, and its scales."""
    left, _, right = np.linalg.svd((v0 * _inverse(s0)).T @ cross @ (v1 * _inverse(s1)))
    return (v0 * _inverse(s0)) @ left @ right @ (v1 * s1).T


def steps_of(pairs: Pairs) -> Bool[np.ndarray, " pair"]:
    """Which pairs are of one layer and the next one that there is."""
    apart = pairs[:, 1] - pairs[:, 0]
    return apart == apart.min()
