"""Transitions of training documents, and their moments, for the fits of this room."""

from collections.abc import Iterator
from typing import Any, NamedTuple, final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

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


def blocks(paths: Trajectory, burn: int, order: int = 1, rows: Any = None) -> Iterator[Block]:
    """All transitions out of state `burn` and later, some rows at a time, in float64.

    The features of the transition k -> k + 1 are $y_k, y_{k-1}, ...$, `order` states; where fewer
    were seen the oldest one is repeated.
    """
    mask, ts = np.asarray(paths.mask), np.asarray(paths.ts)
    ys = np.asarray(paths.ys)
    numbers = np.arange(len(ys)) if rows is None else np.asarray(rows)
    size = max(1, BLOCK // max(1, ys.shape[1] * ys.shape[2] * (order + 1)))
    lags = np.arange(order)
    for start in range(0, len(numbers), size):
        these = numbers[start : start + size]
        seen = mask[these, 1:].copy()
        seen[:, :burn] = False
        row, k = np.nonzero(seen)
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


def origin_of(paths: Trajectory, order: int = 1) -> Float[np.ndarray, " both"]:
    """A point near the mean; sums about it lose nothing to cancellation."""
    mask = np.asarray(paths.mask)[: 2**8]
    mean = np.asarray(paths.ys)[: 2**8][mask].astype(float).mean(axis=0)
    return np.tile(mean, order + 1)


def sums(
    paths: Trajectory,
    burn: int,
    order: int = 1,
    rows: Any = None,
    origin: Float[np.ndarray, " both"] | None = None,
) -> Sums:
    """One pass over the transitions."""
    origin = origin_of(paths, order) if origin is None else origin
    count, z, zz = 0.0, np.zeros_like(origin), np.zeros((len(origin), len(origin)))
    for block in blocks(paths, burn, order, rows):
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
