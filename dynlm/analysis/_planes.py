"""Drift and diffusion on a plane through the space of states."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float

from .._io import BadArgument
from .._types import Scalar
from ..sde import SDE
from ..trajectory import Trajectory
from ._states import check_sde, slopes
from .findings import Finding, stated, withheld

Grid = Float[np.ndarray, "second first"]
Axis = Float[np.ndarray, " grid"]


@final
class Section(NamedTuple):
    """A piece of a plane: `plane(sde, **section._asdict())`.

    Args:
        origin: The state in its middle.
        directions: Two directions of unit length at right angles.
        extent: From where to where it reaches along each, counted from the origin.
    """

    origin: Float[np.ndarray, " dim"]
    directions: Float[np.ndarray, "2 dim"]
    extent: Float[np.ndarray, "2 2"]


@final
class Plane(NamedTuple):
    """Fields on a grid; rows go along the second direction, columns along the first.

    Args:
        first: Coordinates along the first direction.
        second: Coordinates along the second.
        drift: The two components of the drift that lie in the plane.
        leaving: The size of the part that leaves it.
        noise: $\\sqrt{\\mathrm{tr}\\,g g^\\top}$.
        divergence: $\\mathrm{tr}\\,Df$, in all dimensions.
        findings: What follows.
    """

    first: Axis
    second: Axis
    drift: Float[np.ndarray, "second first 2"]
    leaving: Grid
    noise: Grid
    divergence: Grid
    findings: tuple[Finding, ...]


def principal_plane(paths: Trajectory, *, burn: int = 1, cover: float = 0.99) -> Section:
    """The plane of the two directions in which states vary most, as far as most states go.

    Args:
        burn: How many first states of each path are left out.
        cover: The share of the states that lies within the extent of each direction.
    """
    if not isinstance(paths, Trajectory) or paths.ys.ndim != 3 or paths.ys.shape[2] < 2:
        raise BadArgument("`paths` is no batch of paths in two dimensions or more.")
    if not 0 < cover <= 1:
        raise BadArgument(f"`cover` is {cover}. Use a share above 0 and up to 1, such as .99.")
    ys = np.asarray(paths.ys)[:, burn:][np.asarray(paths.mask)[:, burn:]].astype(float)
    if len(ys) < 3 or not np.isfinite(ys).all():
        raise BadArgument(
            f"`paths` has {len(ys)} states after the first {burn} of each path, or some that are "
            "not finite. Pass 3 finite ones or more."
        )
    origin = ys.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(ys.T))
    directions = vectors[:, ::-1][:, :2].T
    largest = directions[np.arange(2), np.abs(directions).argmax(axis=1)]
    directions = directions * np.sign(largest)[:, None]
    seen = (ys - origin) @ directions.T
    ends = np.quantile(seen, [(1 - cover) / 2, (1 + cover) / 2], axis=0).T
    thin = np.maximum(ends[:, 1] - ends[:, 0], 1e-6 * max(float(np.sqrt(values[-1])), 1e-12))
    margin = 0.05 * thin[:, None] * np.array([[-1.0, 1.0]])
    return Section(origin, directions, ends + margin)


def section(dim: int, origin: Any, directions: Any, extent: Any) -> Section:
    """A checked one; directions are made orthonormal, the first one kept."""
    origin, directions = np.asarray(origin, float), np.asarray(directions, float)
    extent = np.asarray(extent, float)
    if origin.shape != (dim,) or directions.shape != (2, dim) or extent.shape != (2, 2):
        raise BadArgument(
            f"`origin` {origin.shape}, `directions` {directions.shape} and `extent` "
            f"{extent.shape} must be ({dim},), (2, {dim}) and (2, 2). `principal_plane(paths)` "
            "gives all three."
        )
    if not (extent[:, 0] < extent[:, 1]).all():
        raise BadArgument(f"`extent` is {extent.tolist()}. Use [low, high] for each direction.")
    one, two = directions
    unit = one / max(float(np.linalg.norm(one)), 1e-300)
    rest = two - (two @ unit) * unit
    if not np.linalg.norm(rest) > 1e-6 * max(float(np.linalg.norm(two)), 1e-300):
        raise BadArgument("`directions` are parallel or zero. Pass two that span a plane.")
    return Section(origin, np.stack([unit, rest / np.linalg.norm(rest)]), extent)


def grid_of(
    s: Section, size: int, least: int = 2
) -> tuple[Axis, Axis, Float[np.ndarray, "state dim"]]:
    """The coordinates of a grid on it and the states there, row by row."""
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        raise BadArgument(f"`size` is {size!r}. Use {least} or more; 24 is usual.")
    first, second = (np.linspace(low, high, size) for low, high in s.extent)
    b, a = np.meshgrid(second, first, indexing="ij")
    return first, second, s.origin + np.stack([a.ravel(), b.ravel()], axis=1) @ s.directions


def plane(
    sde: SDE, *, origin: Any, directions: Any, extent: Any, size: int = 24, time: Scalar = 0.0
) -> Plane:
    r"""Drift, noise strength and divergence on the plane $o + a\,u + b\,v$.

    The drift is $f = (f\cdot u)\,u + (f\cdot v)\,v + r$. Arrows in a picture show the first two
    terms only: where $|r|$ is not small, a path does not follow them.

    Args:
        origin: The state o.
        directions: u and v; made orthonormal.
        extent: [low, high] of a, and of b.
        size: Points along each direction.
        time: When.
    """
    check_sde(sde, np.asarray(origin).size)
    s = section(sde.dim, origin, directions, extent)
    first, second, ys = grid_of(s, size)
    f, trace, div, _, _ = slopes(sde, float(time), ys)
    inside = f @ s.directions.T
    leaving = np.linalg.norm(f - inside @ s.directions, axis=1) * (sde.dim > 2)
    shape = (size, size)
    total = float((f**2).sum())
    name, null = "share of the drift that leaves the plane", (sde.dim - 2) / sde.dim
    if np.isfinite(total) and total > 0:
        share = float((leaving**2).sum()) / total
        found = stated(name, share, null, of_null="of drifts in random directions")
    else:
        found = withheld(name, "the drift is zero on it, or not finite")
    return Plane(
        first,
        second,
        inside.reshape(*shape, 2),
        leaving.reshape(shape),
        np.sqrt(trace).reshape(shape),
        div.reshape(shape),
        (found,),
    )
