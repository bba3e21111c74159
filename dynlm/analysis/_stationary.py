"""The stationary density in one or two dimensions, from the Fokker-Planck equation on a grid."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float

from .._io import BadArgument
from .._types import Scalar
from ..sde import SDE
from ._states import check_sde
from ._volumes import Axis, Cells, Field, Vectors, blocks, cells_of, null_vector, slope_of
from .findings import Finding, stated, withheld

LARGEST = 160  # cells along a direction
RIM = 0.05  # the share of the box, at each side, that is the edge


@final
class Stationary(NamedTuple):
    r"""A law on the cells of a box; the first axis is the first dimension of the state.

    Args:
        axes: The middles of the cells along each dimension.
        density: The density in each cell.
        current: The probability current J, with one more axis for its direction.
        mean: The mean of the law.
        covariance: Its covariance.
        edge: The mass near the edge of the box.
        findings: What follows.
    """

    axes: tuple[Axis, ...]
    density: Field
    current: Vectors
    mean: Float[np.ndarray, " dim"]
    covariance: Float[np.ndarray, "dim dim"]
    edge: float
    findings: tuple[Finding, ...]


def stationary(
    sde: SDE,
    *,
    low: Any,
    high: Any,
    size: int = 64,
    time: Scalar = 0.0,
    tolerance: float = 0.01,
) -> Stationary:
    r"""The density p with $\nabla\cdot J = 0$ on a box that nothing leaves, $D = g g^\top$.

    $$J_i = f_i\,p - \tfrac12\sum_j \partial_j(D_{ij}\,p)$$

    Finite volumes: through each face flows what the exact solution along its normal carries
    (Scharfetter and Gummel), and central differences of $D_{12}\,p$ where the noise is correlated.
    Mass is conserved to rounding; the error is of the second order in the spacing. The law is that
    of the SDE in continuous time, not that of Euler's steps of some length.

    Args:
        low: The lower ends of the box, one number per dimension.
        high: The upper ends.
        size: Cells along each dimension.
        time: When the fields are taken; they are held there.
        tolerance: How much mass may lie in the outer twentieth of the box at each side.
    """
    low, high = (np.atleast_1d(np.asarray(x, float)) for x in (low, high))
    if low.shape not in ((1,), (2,)) or low.shape != high.shape or not (low < high).all():
        raise BadArgument(
            f"`low` is {low.tolist()}, `high` {high.tolist()}. Use one or two numbers each, low "
            "ones below high ones. In more dimensions, fit an SDE to two components."
        )
    check_sde(sde, len(low))
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= LARGEST:
        raise BadArgument(f"`size` is {size!r}. Use 8 to {LARGEST}; 64 is usual.")
    axes, cells = cells_of(sde, low, high, size, float(time))
    p = null_vector(*blocks(cells))
    p = p / (p.sum() * cells.h[0] * cells.h[1])
    current = _current(cells, p)
    return _described(axes, cells, p, current, tolerance)


def _current(c: Cells, p: Field) -> Float[np.ndarray, "m n 2"]:
    """J in the middle of each cell: the mean of what flows through its two faces."""
    m, n = p.shape
    flow = [
        np.pad(c.h[0] * (c.up[0] * p[:-1] - c.down[0] * p[1:]), ((1, 1), (0, 0))),
        np.zeros((m, n + 1)),
    ]
    if n > 1:
        inside = c.h[1] * (c.up[1] * p[:, :-1] - c.down[1] * p[:, 1:])
        flow[1] = np.pad(inside, ((0, 0), (1, 1)))
        q = c.covariance[..., 0, 1] * p
        along, across = slope_of(m) @ q / c.h[0], q @ slope_of(n).T / c.h[1]
        flow[0][1:-1] -= (across[1:] + across[:-1]) / 4
        flow[1][:, 1:-1] -= (along[:, 1:] + along[:, :-1]) / 4
    return np.stack([(flow[0][1:] + flow[0][:-1]) / 2, (flow[1][:, 1:] + flow[1][:, :-1]) / 2], -1)


def _described(
    axes: tuple[Axis, ...], c: Cells, p: Field, current: Vectors, tolerance: float
) -> Stationary:
    dim, mass = len(axes), p * c.h[0] * c.h[1]
    where = [np.asarray(x) for x in (*axes, np.zeros(1))][:2]
    states = np.stack(np.meshgrid(*where, indexing="ij"), axis=-1)[..., :dim]
    mean = np.einsum("mn,mni->i", mass, states)
    covariance = np.einsum("mn,mni,mnj->ij", mass, states - mean, states - mean)
    rim = max(1, round(RIM * len(axes[0])))
    inner = mass[rim:-rim, rim:-rim] if dim == 2 else mass[rim:-rim]
    edge = float(np.abs(mass).sum() - np.abs(inner).sum())
    negative = float(-np.minimum(mass, 0).sum())
    share = 1 - (1 - 2 * rim / len(axes[0])) ** dim
    found = [stated("mass near the edge of the box", edge, share, of_null="of an even density")]
    names = ("number of modes of the stationary density", "entropy production rate")
    why = None
    if not edge <= tolerance:
        why = f"{edge:.2g} of the mass is near the edge of the box: choose a larger one"
    elif negative > tolerance:
        why = f"{negative:.2g} of the mass is negative: choose more cells"
    if why:
        found += [withheld(name, why) for name in names]
    else:
        modes = _modes(p)
        production = _production(c, p, current, dim)
        found += [stated(names[0], float(modes), 1.0, of_null="of a Gaussian law")]
        of_null, note = "of detailed balance", "Nats per unit of time"
        found += [stated(names[1], production, 0.0, of_null=of_null, note=note)]
    shape = p.shape[:dim]
    current = current.reshape(*p.shape, 2)[..., :dim].reshape(*shape, dim)
    return Stationary(axes, p.reshape(shape), current, mean, covariance, edge, tuple(found))


def _production(c: Cells, p: Field, current: Vectors, dim: int) -> float:
    r"""$\int J^\top 2 D^{-1} J / p$, over the cells that hold anything."""
    holds = p > 1e-12 * p.max()
    j, d = current[holds][:, :dim], c.covariance[holds][:, :dim, :dim]
    rates = 2 * np.einsum("ci,ci->c", j, np.linalg.solve(d, j[..., None])[..., 0])
    return float((rates / p[holds]).sum() * c.h[0] * c.h[1])


def _modes(p: Field) -> int:
    """Cells with more than their neighbours, and not next to nothing."""
    wide = np.pad(p, 1, constant_values=-np.inf)
    m, n = p.shape
    around = [wide[a : a + m, b : b + n] for a in range(3) for b in range(3) if (a, b) != (1, 1)]
    # Of equal neighbours, as where a mode lies between two cells, only the first counts.
    before, after = np.max(around[:4], axis=0), np.max(around[4:], axis=0)
    slack = 1e-9 * p
    return int(((p > before + slack) & (p >= after - slack) & (p > 1e-3 * p.max())).sum())
