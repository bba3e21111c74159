"""Transitions of training documents, and their moments, for the fits of this room."""

from collections.abc import Iterator
from typing import Any, NamedTuple, final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from .._io import BadArgument
from ..trajectory import Trajectory

Vector = Float[np.ndarray, " dim"]
Square = Float[np.ndarray, "dim dim"]

BLOCK = 2**21  # numbers that are turned into float64 at a time
FLOOR = 1e-10  # least variance of noise in any direction, as a share of the mean one


@final
class Block(NamedTuple):
    """Some transitions: what was seen, newest state first; what came next; after which gap."""

    x: Float[np.ndarray, "step feature"]
    y: Float[np.ndarray, "step dim"]
    dt: Float[np.ndarray, " step"]


def check_paths(paths: Trajectory, burn: int, needs: int = 2) -> None:
    """Refuses what no model can be fitted to."""
    if not isinstance(paths, Trajectory) or paths.ys.ndim != 3:
        got = paths.ys.shape if isinstance(paths, Trajectory) else type(paths).__name__
        raise BadArgument(
            f"`paths` is {got}. Pass a batch of paths, (row, time, dim): `dynlm.stack([path, ...])`"
            " makes one."
        )
    if not (isinstance(burn, int) and burn >= 0):
        raise BadArgument(f"`burn` is {burn!r}. Use 0 or more: how many first states to skip.")
    mask = np.asarray(paths.mask)
    steps = int(mask[:, burn + 1 :].sum())
    if steps < needs:
        raise BadArgument(
            f"`paths` has {steps} transitions after the first {burn} states of each row, and this "
            f"fit needs {needs}. Pass more or longer rows, or a smaller `burn`."
        )
    finite = np.isfinite(np.asarray(paths.ys, np.float32)).all(axis=2) | ~mask
    if not finite.all():
        row, step = np.argwhere(~finite)[0]
        raise BadArgument(
            f"`paths.ys[{row}, {step}]` is not finite. Drop the row, or end it before with `mask`."
        )


def floating(paths: Trajectory) -> Any:
    """The dtype of a model of these paths: theirs, but no narrower than float32."""
    return paths.ts.dtype


def counted(paths: Trajectory, burn: int) -> Bool[np.ndarray, "row step"]:
    """Which transitions are fitted: into a real state, out of state `burn` or a later one."""
    seen = np.asarray(paths.mask)[:, 1:].copy()
    seen[:, :burn] = False
    return seen


def documents_of(paths: Trajectory, docs: Any) -> np.ndarray:
    """The document of each row; by default each is one."""
    docs = np.arange(len(paths.ys)) if docs is None else np.asarray(docs)
    if docs.shape != (len(paths.ys),):
        raise BadArgument(
            f"`docs` has shape {docs.shape}, and `paths` has {len(paths.ys)} rows. Pass the "
            "document of each row."
        )
    return docs


def folds_of(
    paths: Trajectory, docs: Any, burn: int, number: int, least: int = 2
) -> Int[np.ndarray, "row step"]:
    """The part of `number` that each transition is in, and -1 where none is fitted.

    Parts are of whole documents, in turn by the order of their names, for the neighbours of what
    is held out tell of it. With fewer than `least` documents they are stretches of transitions.
    """
    seen = counted(paths, burn)
    rows = seen.any(axis=1)
    names, which = np.unique(documents_of(paths, docs)[rows], return_inverse=True)
    fold = np.full(seen.shape, -1)
    if len(names) >= least:
        fold[rows] = (which % number)[:, None]
    else:
        total = int(seen.sum())
        fold[seen] = np.arange(total) * min(number, total) // max(total, 1)
    return np.where(seen, fold, -1)


def blocks(
    paths: Trajectory, burn: int, order: int = 1, chosen: Bool[np.ndarray, "row step"] | None = None
) -> Iterator[Block]:
    """All transitions out of state `burn` and later, or those chosen, in float64, some at a time.

    The features of the transition k -> k + 1 are $y_k, y_{k-1}, ...$, `order` states; where fewer
    were seen the oldest one is repeated.
    """
    ts, ys = np.asarray(paths.ts), np.asarray(paths.ys)
    seen = counted(paths, burn) if chosen is None else counted(paths, burn) & chosen
    numbers = np.flatnonzero(seen.any(axis=1))
    size = max(1, BLOCK // max(1, ys.shape[1] * ys.shape[2] * (order + 1)))
    lags = np.arange(order)
    for start in range(0, len(numbers), size):
        these = numbers[start : start + size]
        row, k = np.nonzero(seen[these])
        row = these[row]
        x = ys[row[:, None], np.maximum(k[:, None] - lags, 0)].astype(float)
        dt = ts[row, k + 1].astype(float) - ts[row, k].astype(float)
        yield Block(x.reshape(len(row), -1), ys[row, k + 1].astype(float), dt)


@final
class Moments(NamedTuple):
    """How many transitions; means; and sums of products about the means."""

    count: float
    x: Float[np.ndarray, " feature"]
    y: Vector
    xx: Float[np.ndarray, "feature feature"]
    xy: Float[np.ndarray, "feature dim"]
    yy: Square


@final
class Sums(NamedTuple):
    """How many transitions, and raw sums about a fixed origin: these add up over rows."""

    count: float
    z: Float[np.ndarray, " both"]
    zz: Float[np.ndarray, "both both"]
    origin: Float[np.ndarray, " both"]

    def moments(self, features: int) -> Moments:
        m = self.z / self.count
        zz = self.zz - self.count * np.outer(m, m)
        m = m + self.origin
        xx, xy, yy = zz[:features, :features], zz[:features, features:], zz[features:, features:]
        return Moments(self.count, m[:features], m[features:], xx, xy, yy)


def added(parts: list[Sums]) -> Sums:
    """The sums of all parts, which have one origin."""
    count = sum(part.count for part in parts)
    z, zz = sum(part.z for part in parts), sum(part.zz for part in parts)
    return Sums(count, np.asarray(z), np.asarray(zz), parts[0].origin)


def origin_of(paths: Trajectory, order: int = 1) -> Float[np.ndarray, " both"]:
    """A point near the mean; sums about it lose nothing to cancellation."""
    mask = np.asarray(paths.mask)[: 2**8]
    mean = np.asarray(paths.ys)[: 2**8][mask].astype(float).mean(axis=0)
    return np.tile(mean, order + 1)


def sums(
    paths: Trajectory,
    burn: int,
    order: int = 1,
    chosen: Bool[np.ndarray, "row step"] | None = None,
    origin: Float[np.ndarray, " both"] | None = None,
) -> Sums:
    """One pass over the transitions."""
    origin = origin_of(paths, order) if origin is None else origin
    count, z, zz = 0.0, np.zeros_like(origin), np.zeros((len(origin), len(origin)))
    for block in blocks(paths, burn, order, chosen):
        both = np.concatenate([block.x, block.y], axis=1) - origin
        count, z, zz = count + len(both), z + both.sum(axis=0), zz + both.T @ both
    return Sums(count, z, zz, origin)


def moments(paths: Trajectory, burn: int, order: int = 1) -> Moments:
    """Of all transitions."""
    return sums(paths, burn, order).moments(order * paths.ys.shape[2])


def root_of(covariance: Square) -> Square:
    """The Cholesky factor, with variances below a share `FLOOR` of the mean one raised to it.

    In float64: a factor that is made in float32 would fail from a condition of some 1e6 on.
    """
    w, v = np.linalg.eigh((covariance + covariance.T) / 2)
    least = max(FLOOR * float(np.mean(np.maximum(w, 0))), 1e-20)
    if w[0] >= least:
        return np.linalg.cholesky((covariance + covariance.T) / 2)
    # L of L L^T = V max(w, least) V^T, through a QR factorisation, which cannot fail.
    r = np.linalg.qr((v * np.sqrt(np.maximum(w, least))).T)[1]
    return (r * np.where(np.diagonal(r) < 0, -1.0, 1.0)[:, None]).T


def on_device(x: np.ndarray, dtype: Any) -> Any:
    return jnp.asarray(x, dtype)
