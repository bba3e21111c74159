"""The energy landscape of a drift that is a gradient."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import Scalar
from ..drifts import Gradient
from ..sde import SDE
from ._planes import Axis, Grid, Section, grid_of, section
from ._states import LEAST, Numbers, check_sde, fields, floating, slopes
from .findings import Finding, stated, withheld


@final
class Energy(NamedTuple):
    """An energy on a grid; rows go along the second direction, columns along the first.

    Args:
        first: Coordinates along the first direction.
        second: Coordinates along the second.
        values: The energy, from 0 up; None where the drift is no gradient there.
        findings: What follows.
    """

    first: Axis
    second: Axis
    values: Grid | None
    findings: tuple[Finding, ...]


def energy(
    sde: SDE,
    *,
    origin: Any,
    directions: Any,
    extent: Any,
    size: int = 32,
    time: Scalar = 0.0,
    tolerance: float = 0.05,
) -> Energy:
    r"""The V with $f = -\nabla V$ on a plane: the model's own, or $-\int f\cdot ds$.

    The integral is taken first along u and then along v, and the other way round. In a gradient
    field both agree; elsewhere there is no energy, and none is given. The trapezoids of the
    integral have an error of the square of the grid's spacing.

    Args:
        origin: As of `plane`; `principal_plane(paths)` gives all three.
        directions: As of `plane`.
        extent: As of `plane`.
        size: Points along each direction.
        time: When.
        tolerance: How far the two ways may differ, as a share of the energy's spread.
    """
    check_sde(sde, np.asarray(origin).size)
    s = section(sde.dim, origin, directions, extent)
    first, second, ys = grid_of(s, size, least=4)
    drift = sde.to_ito().drift
    if isinstance(drift, Gradient):
        noise = fields(sde, float(time), ys)[1]
        values, bent = _known(drift, ys, floating(sde)).reshape(size, size), 0.0
        note = "The model's drift is the gradient of an energy"
    else:
        f, noise, *_ = slopes(sde, float(time), ys)  # that of `plane`, so that both share it
        values, bent = _integrated(s, first, second, f.reshape(size, size, -1))
        note = f"Up to {tolerance:g} counts as a gradient"
    if sde.dim > 2:
        note += ", on this plane"
    of_null = "of a gradient"
    found = [stated("path dependence of the energy", bent, 0.0, of_null=of_null, note=note)]
    name = "range of the energy on the plane, over the noise"
    if not bent <= tolerance or not np.isfinite(values).all():
        why = f"the drift is no gradient here: two ways to integrate it differ by {bent:.2g}"
        return Energy(first, second, None, (*found, withheld(name, why + " times its spread")))
    heat = float(noise.mean()) / (2 * sde.dim)
    if heat > 0:
        note = (
            "Over half the mean variance of the noise in a direction. It is minus the logarithm of "
            "a density only where that noise is alike at all states and in all directions, and the "
            "process one in continuous time"
        )
        found.append(stated(name, float(np.ptp(values)) / heat, note=note))
    else:
        found.append(withheld(name, "there is no noise"))
    return Energy(first, second, values - values.min(), tuple(found))


def _integrated(
    s: Section, first: Axis, second: Axis, f: Float[np.ndarray, "second first dim"]
) -> tuple[Grid, float]:
    """The mean of the two ways, and how far they differ as a share of its spread."""
    u, v = (f @ direction for direction in s.directions)
    along, across = _cumulative(u, first, axis=1), _cumulative(v, second, axis=0)
    one = -(along[:1] + across)
    two = -(across[:, :1] + along)
    mean = (one + two) / 2
    gap, spread = float(np.sqrt(np.mean((one - two) ** 2))), float(mean.std())
    # Against what either way alone moves: in a rotation their mean may be flat.
    spread = max(spread, float(np.hypot(one.std(), two.std())) / 2)
    return mean, 0.0 if gap == 0 else gap / max(spread, 1e-300)


def _cumulative(x: Any, at: Axis, axis: int) -> Any:
    """By trapezoids, from zero."""
    x = np.moveaxis(x, axis, -1)
    steps = (x[..., 1:] + x[..., :-1]) / 2 * np.diff(at)
    out = np.concatenate([np.zeros_like(x[..., :1]), np.cumsum(steps, axis=-1)], axis=-1)
    return np.moveaxis(out, -1, axis)


def _known(drift: Gradient, ys: Float[np.ndarray, "state dim"], dtype: Any) -> Numbers:
    size = max(LEAST, len(ys))
    which = np.minimum(np.arange(size), len(ys) - 1)
    states: Any = np.asarray(ys[which], dtype)
    values = _energies(drift, states)
    return np.asarray(values, np.float64)[: len(ys)]


@eqx.filter_jit
def _energies(drift: Gradient, ys: Float[Array, "state dim"]) -> Float[Array, " state"]:
    return jax.vmap(lambda y: jnp.asarray(drift.energy(y)))(ys)


@final
class QuasiPotential(NamedTuple):
    """In one dimension every drift has one.

    Args:
        x: States, evenly spaced.
        values: The quasi-potential, from 0 up.
        density: The stationary density that it makes between the two ends.
        wells: Where it has its minima.
        findings: What follows.
    """

    x: Axis
    values: Axis
    density: Axis
    wells: Float[np.ndarray, " well"]
    findings: tuple[Finding, ...]


def quasi_potential(
    sde: SDE, *, low: float, high: float, size: int = 401, time: Scalar = 0.0
) -> QuasiPotential:
    r"""$U(x) = -\int^x 2f/g^2$ in one dimension, with the density $\propto e^{-U}/g^2$.

    By Simpson's rule, whose error is of the fourth order in the spacing.
    """
    check_sde(sde, 1)
    if not low < high:
        raise BadArgument(f"`low` is {low}, `high` {high}. Use a low end below the high one.")
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise BadArgument(f"`size` is {size!r}. Use 8 or more; 401 is usual.")
    x = np.linspace(low, high, 2 * size - 1)
    f, square = fields(sde, float(time), x[:, None])
    if not (square > 0).all():
        where = float(x[np.argmin(square > 0)])
        raise BadArgument(f"The noise is zero at {where:g}. Choose ends between which it is not.")
    slope = -2 * f[:, 0] / square
    parts = (slope[:-1:2] + 4 * slope[1::2] + slope[2::2]) * (x[2] - x[0]) / 6
    u = np.concatenate([[0.0], np.cumsum(parts)])
    x, square = x[::2], square[::2]
    u = u - u.min()
    log = -u - np.log(square)
    weights = np.exp(log - log.max())
    density = weights / (weights.sum() - (weights[0] + weights[-1]) / 2) / (x[1] - x[0])
    inside = (u[1:-1] < u[:-2]) & (u[1:-1] <= u[2:])
    wells = np.flatnonzero(inside) + 1
    found = [
        stated("number of wells of the energy", float(len(wells)), 1.0, of_null="of a linear drift")
    ]
    name = "lowest barrier between neighbouring wells"
    if len(wells) > 1:
        heights = [float(u[a : b + 1].max() - max(u[a], u[b])) for a, b in zip(wells, wells[1:])]
        note = (
            "In units of the noise: in continuous time paths cross it at a rate of about exp(-it)"
        )
        found.append(stated(name, min(heights), 0.0, of_null="where they are one", note=note))
    else:
        found.append(withheld(name, "there are no two wells"))
    return QuasiPotential(x, u, density, x[wells], tuple(found))
