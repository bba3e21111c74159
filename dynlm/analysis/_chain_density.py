r"""The stationary law of the chain $y' = y + f\,\Delta t + g\sqrt{\Delta t}\,\xi$ on a grid."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float

from .._io import BadArgument
from ..sde import SDE
from ._states import coefficients
from ._volumes import Axis, Field, Vectors

LARGEST_CHAIN = 64  # cells along a direction in two dimensions: the kernel has size^4 numbers
NARROW = 0.7  # of a cell: a midpoint sum of a Gaussian so wide is wrong by 1e-4, at 1 by 1e-8
BLOCK = 2**20  # numbers of the kernel that are worked on at a time
POLISH = 4  # steps of the chain, by which what is nearly empty is filled from what is full

Rows = Float[np.ndarray, "cell dim"]
Squares = Float[np.ndarray, "cell dim dim"]
Kernel = Float[np.ndarray, "cell cell"]
Weights = Float[np.ndarray, " cell"]


@final
class Law(NamedTuple):
    """What was solved for, on all cells of a box.

    Args:
        density: The density in each cell, in two dimensions or with one cell in the second.
        current: The probability current there.
        production: The rate of entropy production.
        why: Why nothing may be said of it; empty where something may.
    """

    density: Field
    current: Vectors
    production: float
    why: str = ""


def chain_law(
    sde: SDE, low: Any, high: Any, size: int, time: float, dt: float, tolerance: float
) -> tuple[tuple[Axis, ...], Law]:
    r"""The $\pi$ with $\pi_j = \sum_i \pi_i P_{ij}$ over the cells of a box that nothing leaves.

    $P_{ij} \propto N(y_j;\, y_i + f\Delta t,\, g g^\top\Delta t)$, each row with the sum one.
    """
    dim = len(low)
    if dim == 2 and size > LARGEST_CHAIN:
        raise BadArgument(
            f"`size` is {size}, and the kernel of a chain in two dimensions has size^4 numbers. "
            f"Use 8 to {LARGEST_CHAIN} with `dt`."
        )
    h = (high - low) / size
    axes = tuple(a + (np.arange(size) + 0.5) * step for a, step in zip(low, h))
    ys = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dim)
    f, d = coefficients(sde, time, ys)
    if not (np.isfinite(f).all() and np.isfinite(d).all()):
        raise BadArgument("Drift or noise is not finite inside the box. Choose a smaller one.")
    widths = np.linalg.eigvalsh(d * dt / np.outer(h, h))  # in cells, squared
    if not (widths[:, 0] > 1e-10 * max(float(widths.max()), 1e-300)).all():
        raise BadArgument(
            "The noise is zero in some direction somewhere in the box, so that a step has no "
            "density. Use noise in all directions."
        )
    ys = ys - (low + high) / 2
    means, covariances = ys + f * dt, d * dt
    kernel = _kernel(ys, means, covariances)
    pi, error = _settled(kernel)
    forward, backward = _moments(kernel, pi, ys)
    current = (forward[0] - backward[0]) / (2 * dt * np.prod(h))
    production = _production(means, covariances, forward, backward) / dt
    shape = (size, size if dim == 2 else 1)
    law = Law(
        (pi / np.prod(h)).reshape(shape),
        np.pad(current, ((0, 0), (0, 2 - dim))).reshape(*shape, 2),
        production,
        _doubt(pi, widths[:, 0] < NARROW**2, error, tolerance),
    )
    return axes, law


def _kernel(ys: Rows, means: Rows, covariances: Squares) -> Kernel:
    """The chances from cell to cell; a step that leads far out ends in the nearest cells."""
    number, dim = ys.shape
    whiten = np.linalg.inv(np.linalg.cholesky(covariances))
    out = np.empty((number, number))
    rows = max(1, BLOCK // number)
    for k in range(0, number, rows):
        at = slice(k, k + rows)
        exponent = np.zeros((len(ys[at]), number))
        for i in range(dim):
            w = whiten[at, i]
            exponent -= (w @ ys.T - np.sum(w * means[at], axis=1)[:, None]) ** 2 / 2
        np.exp(exponent - exponent.max(axis=1)[:, None], out=out[at])
        out[at] /= out[at].sum(axis=1)[:, None]
    return out


def _settled(kernel: Kernel) -> tuple[Weights, float]:
    r"""$\pi$ from $(I - P^\top + u\,1^\top)\,\pi = u$ with u even, and how far rounding moved it.

    A vector of sum zero comes back as large as the slowest passage is rare: rounding does as well.
    """
    number = len(kernel)
    matrix = -kernel.T + 1 / number
    matrix[np.diag_indices(number)] += 1
    tilt = np.random.default_rng(0).normal(size=number)
    tilt = (tilt - tilt.mean()) / np.abs(tilt - tilt.mean()).sum()
    even = np.full(number, 1 / number)
    try:
        pi, moved = np.linalg.solve(matrix, np.stack([even, tilt], axis=1)).T
    except np.linalg.LinAlgError:
        raise BadArgument(
            "The chain never passes from one part of the box to another, so that it has no one "
            "stationary law. Choose a smaller box."
        ) from None
    pi = np.maximum(pi, 0.0)
    for _ in range(POLISH):
        pi = (pi / pi.sum()) @ kernel
    error = float(np.abs(moved).sum() * np.finfo(float).eps)
    return pi / pi.sum(), error


def _moments(
    kernel: Kernel, pi: Weights, ys: Rows
) -> tuple[tuple[Rows, Squares], tuple[Rows, Squares]]:
    r"""$\pi_i E[y'-y]$ and $\pi_i E[y'y'^\top]$ of the next state, and of the one before."""
    dim = ys.shape[1]
    products = np.einsum("ci,cj->cij", ys, ys).reshape(-1, dim * dim)
    both = np.concatenate([ys, products], axis=1)
    after, before = pi[:, None] * (kernel @ both), kernel.T @ (pi[:, None] * both)
    made = []
    for sums in (after, before):
        step = sums[:, :dim] - pi[:, None] * ys
        made.append((step, sums[:, dim:].reshape(-1, dim, dim)))
    return made[0], made[1]


def _production(means: Rows, covariances: Squares, forward: Any, backward: Any) -> float:
    r"""$\sum_{ij}\pi_i P_{ij}\log\big(\pi_i P_{ij} / \pi_j P_{ji}\big)$ in nats per step.

    What is of one cell alone adds up to zero, as does $\log\pi_i - \log\pi_j$. Of the logarithms of
    the Gaussians quadratic forms about each mean remain, of the states before and after.
    """
    inverse = np.linalg.inv(covariances)
    step = backward[0] - forward[0]
    second = backward[1] - forward[1]
    lead = np.einsum("cij,cj->ci", inverse, means)
    return float(np.sum(inverse * second) / 2 - np.sum(lead * step))


def _doubt(pi: Weights, narrow: Bool[np.ndarray, " cell"], error: float, tolerance: float) -> str:
    """Why the law may not be used; empty where it may."""
    thin = float(pi[narrow].sum())
    if thin > tolerance:
        return (
            f"{thin:.2g} of the mass is where the noise of a step is narrower than {NARROW:g} of a "
            "cell: choose more cells or a smaller box"
        )
    if error > tolerance:
        return (
            "parts of the box are passed between so rarely that rounding decides how much each "
            "holds: choose a smaller box"
        )
    return ""
