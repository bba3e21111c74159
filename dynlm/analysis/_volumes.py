"""The Fokker-Planck equation in one or two dimensions as rates between the cells of a box."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float

from .._io import BadArgument
from ..sde import SDE
from ._states import coefficients

Axis = Float[np.ndarray, " cell"]
Field = Float[np.ndarray, "*cells"]
Vectors = Float[np.ndarray, "*cells direction"]


@final
class Cells(NamedTuple):
    """What the scheme needs: all in two dimensions, the second with one cell if there is one."""

    h: tuple[float, float]
    covariance: Float[np.ndarray, "m n 2 2"]
    up: tuple[Any, Any]  # of each dimension: what leaves a cell through its upper face
    down: tuple[Any, Any]  # and what comes back through it


def cells_of(
    sde: SDE, low: Any, high: Any, size: int, time: float
) -> tuple[tuple[Axis, ...], Cells]:
    dim = len(low)
    faces = [np.linspace(a, b, size + 1) for a, b in zip(low, high)]
    axes = tuple((x[1:] + x[:-1]) / 2 for x in faces)
    sets = [axes] + [
        tuple(faces[k][1:-1] if k == i else axes[k] for k in range(dim)) for i in range(dim)
    ]
    points = [np.stack(np.meshgrid(*s, indexing="ij"), axis=-1).reshape(-1, dim) for s in sets]
    f, d = coefficients(sde, time, np.concatenate(points))
    if not (np.isfinite(f).all() and np.isfinite(d).all()):
        raise BadArgument("Drift or noise is not finite inside the box. Choose a smaller one.")
    cuts = np.cumsum([len(x) for x in points])[:-1]
    f, d = np.split(f, cuts), np.split(d, cuts)
    whole = (size,) * dim + (1,) * (2 - dim)
    covariance = np.zeros((*whole, 2, 2))
    covariance[..., :dim, :dim] = d[0].reshape(*whole, dim, dim)
    least = 1e-10 * max(np.abs(d[0]).max(), 1e-300)
    for i in range(dim):
        if not (covariance[..., i, i] > least).all():
            raise BadArgument(
                f"The noise of component {i} is zero somewhere in the box, so that the equation "
                "has no unique smooth solution. Use noise in both components."
            )
    h = tuple((high - low) / size) + (1.0,) * (2 - dim)
    up, down = [np.zeros((whole[0], 0))] * 2, [np.zeros((whole[0], 0))] * 2
    for i in range(dim):
        shape = tuple(n - (k == i) for k, n in enumerate(whole))
        w = (2 * h[i] * f[i + 1][:, i] / d[i + 1][:, i, i]).reshape(shape)
        inside = covariance[..., i, i] / (2 * h[i] ** 2)
        lower, upper = (np.delete(inside, k, axis=i) for k in (-1, 0))
        up[i], down[i] = lower * _bernoulli(-w), upper * _bernoulli(w)
    return axes, Cells((float(h[0]), float(h[1])), covariance, (up[0], up[1]), (down[0], down[1]))


def _bernoulli(w: Any) -> Any:
    """$w / (e^w - 1)$."""
    small = np.abs(w) < 1e-6
    safe = np.clip(np.where(small, 1.0, w), -700, 700)
    return np.where(small, 1 - w / 2, safe / np.expm1(safe))


def blocks(c: Cells) -> tuple[Any, Any, Any]:
    """The rates from cell to cell, $\\dot p = Lp$, as a block tridiagonal matrix.

    Block i is the cells with first index i: what they do to themselves, to those of the next lower
    index from above, and to those above from below.
    """
    m, n = c.covariance.shape[:2]
    own, over, under = np.zeros((m, n, n)), np.zeros((m - 1, n, n)), np.zeros((m - 1, n, n))
    k, j = np.arange(n), np.arange(n - 1)
    own[:-1, k, k] -= c.up[0]
    under[:, k, k] += c.up[0]
    own[1:, k, k] -= c.down[0]
    over[:, k, k] += c.down[0]
    if n == 1:
        return own, over, under
    own[:, j, j] -= c.up[1]
    own[:, j + 1, j] += c.up[1]
    own[:, j + 1, j + 1] -= c.down[1]
    own[:, j, j + 1] += c.down[1]
    mixed = c.covariance[..., 0, 1]
    if not mixed.any():
        return own, over, under
    # Through a face of the first dimension: a quarter of the slopes along the second on both sides.
    slope = slope_of(n) / c.h[1]
    through = -slope[None] * mixed[:, None, :] / (4 * c.h[0])
    own[:-1] -= through[:-1]
    over -= through[1:]
    under += through[:-1]
    own[1:] += through[1:]
    # Through a face of the second: slopes along the first, which reach into the next blocks.
    mean = (np.eye(n)[1:] + np.eye(n)[:-1]) / 2
    leave = np.zeros((n, n - 1))
    leave[j, j], leave[j + 1, j] = -1, 1
    through = (leave @ mean)[None] * mixed[:, None, :] * (-0.5 / c.h[1])
    steps = slope_of(m) / c.h[0]
    own += np.diagonal(steps)[:, None, None] * through
    over += np.diagonal(steps, 1)[:, None, None] * through[1:]
    under += np.diagonal(steps, -1)[:, None, None] * through[:-1]
    return own, over, under


def slope_of(n: int) -> Float[np.ndarray, "n n"]:
    """Central differences over cells of unit length, one-sided at the ends."""
    out = (np.eye(n, k=1) - np.eye(n, k=-1)) / 2
    out[0, :2], out[-1, -2:] = (-1, 1), (-1, 1)
    return out


def null_vector(own: Any, over: Any, under: Any) -> Field:
    """The p with $Lp = 0$: block after block is eliminated, and the last one closes upon itself.

    Columns of L sum to zero, for mass is conserved; the diagonal of each eliminated block is taken
    from the others by that (Grassmann, Taksar and Heyman), so that nothing cancels.
    """
    m, n, _ = own.shape
    kept, k = [own[0]], np.arange(n)
    for i in range(1, m):
        s = own[i] - under[i - 1] @ np.linalg.solve(kept[-1], over[i - 1])
        s[k, k] = 0.0
        s[k, k] = -s.sum(axis=0) - (under[i].sum(axis=0) if i + 1 < m else 0.0)
        kept.append(s)
    p = np.zeros((m, n))
    last = np.linalg.svd(kept[-1])[2][-1]
    p[-1] = last / last[np.abs(last).argmax()]
    scale = np.zeros(m)  # logs: the edge of a wide box is beyond the smallest number
    for i in range(m - 2, -1, -1):
        q = -np.linalg.solve(kept[i], over[i] @ p[i + 1])
        size = np.abs(q).max()
        p[i], scale[i] = q / size, scale[i + 1] + np.log(size)
    return p * np.exp(scale - scale.max())[:, None]
