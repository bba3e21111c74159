"""The stationary density in one or two dimensions, on a grid: of an SDE, or of its Euler chain."""

import math
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float

from .._io import BadArgument
from .._types import Scalar
from ..sde import SDE
from ._chain_density import Law, chain_law
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
        current: The probability current J, with one more axis for its direction; of a chain half
            of what steps out of a cell carry and half of what steps into it do, per time.
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
    dt: float | None = None,
    tolerance: float = 0.01,
) -> Stationary:
    r"""The density p with $\nabla\cdot J = 0$ on a box that nothing leaves, $D = g g^\top$.

    $$J_i = f_i\,p - \tfrac12\sum_j \partial_j(D_{ij}\,p)$$

    Finite volumes: through each face flows what the exact solution along its normal carries
    (Scharfetter and Gummel), and central differences of $D_{12}\,p$ where the noise is correlated.
    Mass is conserved to rounding; the error is of the second order in the spacing.

    With `dt` it is the law of the chain $y' = y + f\Delta t + g\sqrt{\Delta t}\,\xi$ instead, which
    a fit by Euler at the data's step is and which has another law than the SDE:

    $$\pi_j = \sum_i \pi_i P_{ij},\qquad
    P_{ij} \propto N\big(y_j;\ y_i + f\Delta t,\ D\Delta t\big)$$

    over the cells of the box, so that nothing leaves. Where the noise of a step is as wide as a
    cell the sum is the integral to eight digits; where it is much narrower at cells that hold mass,
    nothing is said. Entropy production is $\sum \pi_i P_{ij}\log(\pi_i P_{ij}/\pi_j P_{ji})$ a
    step, over $\Delta t$.

    Args:
        low: The lower ends of the box, one number per dimension.
        high: The upper ends.
        size: Cells along each dimension: at most 160, of a chain in two dimensions 64.
        time: When the fields are taken; they are held there.
        dt: The step of the Euler chain that a fit is; None for the SDE in continuous time.
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
    if dt is None:
        axes, cells = cells_of(sde, low, high, size, float(time))
        return _described(axes, _continuous(cells, len(low)), tolerance)
    if not (dt > 0 and math.isfinite(dt)):
        raise BadArgument(f"`dt` is {dt}. Use the step of the fit, such as `run.law.step`.")
    axes, law = chain_law(sde, low, high, size, float(time), float(dt), tolerance)
    return _described(axes, law, tolerance)


def _continuous(c: Cells, dim: int) -> Law:
    p = null_vector(*blocks(c))
    p = p / (p.sum() * c.h[0] * c.h[1])
    current = _current(c, p)
    return Law(p, current, _production(c, p, current, dim))


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


def _described(axes: tuple[Axis, ...], law: Law, tolerance: float) -> Stationary:
    dim, p = len(axes), law.density
    mass = p * np.prod([x[1] - x[0] for x in axes])
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
    why = law.why
    if not edge <= tolerance:
        why = f"{edge:.2g} of the mass is near the edge of the box: choose a larger one"
    elif negative > tolerance:
        why = f"{negative:.2g} of the mass is negative: choose more cells"
    if why:
        found += [withheld(name, why) for name in names]
    else:
        found += [stated(names[0], float(_modes(p)), 1.0, of_null="of a Gaussian law")]
        of_null, note = "of detailed balance", "Nats per unit of time"
        found += [stated(names[1], law.production, 0.0, of_null=of_null, note=note)]
    shape = p.shape[:dim]
    current = law.current.reshape(*p.shape, 2)[..., :dim].reshape(*shape, dim)
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
