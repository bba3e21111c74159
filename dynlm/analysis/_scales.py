"""Paths at a coarser scale in time, and all states of a batch laid out for the tests of a scale."""

from typing import Any, Literal, NamedTuple, final

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from .._io import BadArgument
from ..trajectory import Trajectory

FOLDS = 5  # parts of the documents; each is scored by models of the others

Rows = Float[np.ndarray, "state dim"]
How = Literal["strided", "averaged"]


def coarse(paths: Trajectory, width: int, how: How = "strided", *, burn: int = 1) -> Trajectory:
    r"""Paths whose one step is `width` steps of `paths`.

    Strided: $y_{b + kw}$. Averaged: $\frac1w\sum_{j<w} y_{b + kw + j}$ at the mean of those times,
    over whole blocks. A Markov process stays one when it is strided, and does not when it is
    averaged: the block means of a Brownian motion are correlated. b is `burn`.

    Args:
        paths: A batch of paths.
        width: How many steps become one.
        how: "strided" or "averaged".
        burn: The first states of each path, which are left out. None is left to be left out: pass
            `burn=0` to what comes after.
    """
    _check(paths, burn)
    if not (isinstance(width, int) and width >= 1):
        raise BadArgument(f"`width` is {width!r}. Use 1 or more.")
    if how not in ("strided", "averaged"):
        raise BadArgument(f"`how` is {how!r}. Use 'strided' or 'averaged'.")
    seen = np.asarray(paths.mask)[:, burn:]
    rank = np.broadcast_to(np.arange(seen.shape[1]), seen.shape)
    block = np.where(seen, rank // width, -1)
    if how == "strided":
        return _means(paths, np.where(rank % width == 0, block, -1), burn)
    whole = seen.sum(axis=1) // width
    return _means(paths, np.where(block < whole[:, None], block, -1), burn)


def sentence_means(
    paths: Trajectory, marks: Bool[np.ndarray, "path time"], *, burn: int = 1
) -> Trajectory:
    """The mean of each sentence, at the mean of its times.

    States after the last mark are a sentence that does not end, and are left out.

    Args:
        paths: A batch of paths.
        marks: True at the last state of each sentence.
        burn: The first states of each path, which are left out; pass `burn=0` to what comes after.
    """
    _check(paths, burn)
    marks = np.asarray(marks)
    if marks.shape != paths.mask.shape or marks.dtype != bool:
        raise BadArgument(
            f"`marks` has shape {marks.shape} and dtype {marks.dtype}, and `paths.mask` has shape "
            f"{paths.mask.shape}. Pass a boolean for each state: whether a sentence ends there."
        )
    ends = (marks & np.asarray(paths.mask))[:, burn:]
    before = np.cumsum(ends, axis=1) - ends
    inside = before < ends.sum(axis=1, keepdims=True)
    return _means(paths, np.where(inside & np.asarray(paths.mask)[:, burn:], before, -1), burn)


@final
class States(NamedTuple):
    """States of all paths, one after another, sorted by fold, document and path.

    Args:
        z: The states, each component of mean zero and variance one; without those that are
            constant.
        path: The path of each.
        x: Which states are followed by one of the same path.
        doc: The document of each transition.
        bounds: Where folds of states begin, and the last one ends.
        fold: The fold of each transition.
    """

    z: Rows
    path: Int[np.ndarray, " state"]
    x: Int[np.ndarray, " step"]
    doc: Int[np.ndarray, " step"]
    bounds: Int[np.ndarray, " bound"]
    fold: Int[np.ndarray, " step"]


def too_few(s: States) -> str:
    """Why nothing can be estimated on held-out documents; empty where it can."""
    documents, dim = len(np.unique(s.doc)), s.z.shape[1]
    if dim == 0:
        return "no component of the states ever changes"
    if documents < 2 * FOLDS:
        return f"there are {documents} documents with transitions, and it needs {2 * FOLDS}"
    if len(s.x) < 20 * (dim + 1):
        return f"there are {len(s.x)} transitions, and {dim} dimensions need {20 * (dim + 1)}"
    return ""


def states_of(
    paths: Trajectory, docs: Any, *, burn: int, seed: int, most: int | None = None
) -> States:
    """All states after the first `burn`, laid out one after another."""
    _check(paths, burn)
    ys, mask, docs = np.asarray(paths.ys), np.asarray(paths.mask), np.asarray(docs)
    if docs.shape != ys.shape[:1]:
        raise BadArgument(
            f"`docs` has shape {docs.shape}, and `paths` has {len(ys)} rows. Pass the document of "
            "each path."
        )
    names, which = np.unique(docs, return_inverse=True)
    counts = np.maximum(mask[:, burn:].sum(axis=1) - 1, 0)
    of_doc = np.bincount(which, counts, len(names))
    turn = np.random.default_rng(seed).permutation(np.flatnonzero(of_doc > 0))
    if most is not None:
        turn = turn[: max(1, np.searchsorted(np.cumsum(of_doc[turn]), most, side="right"))]
    fold_of = np.full(len(names), -1)
    fold_of[turn] = np.arange(len(turn)) % FOLDS
    rows = np.flatnonzero((fold_of[which] >= 0) & (counts > 0))
    rows = rows[np.lexsort((which[rows], fold_of[which[rows]]))]
    path, k = np.nonzero(mask[rows, burn:])
    z = ys[rows[path], k + burn].astype(float)
    if not np.isfinite(z).all():
        raise BadArgument("`paths.ys` is not finite where `mask` is True. Drop those rows.")
    if len(z):
        moving = z.std(axis=0) > 0
        z = (z - z.mean(axis=0, keepdims=True))[:, moving] / z.std(axis=0, keepdims=True)[:, moving]
    x = np.flatnonzero(path[1:] == path[:-1])
    fold = fold_of[which[rows[path]]]
    bounds = np.searchsorted(fold, np.arange(FOLDS + 1))
    return States(z, path, x, which[rows[path[x]]], bounds, fold[x])


def _means(paths: Trajectory, block: Int[np.ndarray, "path time"], burn: int) -> Trajectory:
    """The means of states with one block number, which is -1 where a state is left out."""
    ts = np.asarray(paths.ts, float)[:, burn:]
    ys = np.asarray(paths.ys)[:, burn:].astype(float)
    length = max(int(block.max(initial=-1)) + 1, 1)
    count = np.zeros((len(block), length))
    row, k = np.nonzero(block >= 0)
    place = row, block[row, k]
    np.add.at(count, place, 1.0)
    times, states = np.zeros(count.shape), np.zeros((*count.shape, ys.shape[2]))
    np.add.at(times, place, ts[row, k])
    np.add.at(states, place, ys[row, k])
    mask, least = count > 0, np.maximum(count, 1.0)
    states = states / least[:, :, None]
    # Padding repeats the last time, and a path of which nothing is left its first one.
    first = np.asarray(paths.ts, float)[:, :1]
    times = np.maximum.accumulate(np.where(mask, times / least, first), axis=1)
    return _batch(paths, times, states, mask)


def _batch(
    paths: Trajectory,
    ts: Float[np.ndarray, "path time"],
    ys: Float[np.ndarray, "path time dim"],
    mask: Bool[np.ndarray, "path time"],
) -> Trajectory:
    kinds = (paths.ts.dtype, paths.ys.dtype, bool)
    # `jnp.asarray` would compile a program for each shape.
    arrays: Any = jax.device_put([x.astype(kind) for x, kind in zip((ts, ys, mask), kinds)])
    return eqx.tree_at(lambda paths: [paths.ts, paths.ys, paths.mask], paths, arrays)


def _check(paths: Trajectory, burn: int) -> None:
    if not isinstance(paths, Trajectory) or paths.ys.ndim != 3:
        got = paths.ys.shape if isinstance(paths, Trajectory) else type(paths).__name__
        raise BadArgument(
            f"`paths` is {got}. Pass a batch of paths, (path, time, dim): "
            "`dynlm.stack([path, ...])` makes one."
        )
    if not (isinstance(burn, int) and 0 <= burn < paths.mask.shape[1]):
        raise BadArgument(
            f"`burn` is {burn!r}, and paths have {paths.mask.shape[1]} states. Use 0 or more, and "
            "fewer than that."
        )
