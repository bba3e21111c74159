"""Mean and covariance of states that are read once, block by block."""

from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from .._io import BadArgument

LARGEST = {np.float32: 1e38, np.float64: 1e150}  # their differences and squares are finite


@final
class Moments(NamedTuple):
    r"""How many states were seen, their mean $m$, and their scatter $\sum (x - m)(x - m)^\top$.

    The scatter is the whole matrix, or its diagonal alone: what `nothing` or `nothing_crossed`
    began with.
    """

    count: int
    mean: Float[np.ndarray, " dim"]
    scatter: Float[np.ndarray, " dim"] | Float[np.ndarray, "dim dim"]


def nothing(dim: int) -> Moments:
    """Where to begin for means and variances."""
    return Moments(0, np.zeros(dim), np.zeros(dim))


def nothing_crossed(dim: int) -> Moments:
    """Where to begin for means, variances and covariances."""
    return Moments(0, np.zeros(dim), np.zeros((dim, dim)))


def add(moments: Moments, block: Float[np.ndarray, "step dim"]) -> Moments:
    """The moments once the states of `block` are seen too.

    Raises:
        BadArgument: A state is not finite, or too large to be squared.
    """
    if not len(block):
        return moments
    return merge(moments, _of_block(block, crossed=moments.scatter.ndim == 2))


def merge(a: Moments, b: Moments) -> Moments:
    r"""The moments of two sets of states together.

    $S = S_a + S_b + \frac{n_a n_b}{n_a + n_b}\, d d^\top$ with $d = m_b - m_a$.
    """
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    gap = b.mean - a.mean
    scatter = _square(gap, crossed=a.scatter.ndim == 2)
    scatter *= a.count * (b.count / count)
    scatter += a.scatter
    scatter += b.scatter
    return Moments(count, a.mean + gap * (b.count / count), scatter)


def variance(moments: Moments) -> Float[np.ndarray, " dim"]:
    """Mean squared deviation of each coordinate; exactly zero where it does not vary."""
    scatter = moments.scatter
    return (scatter.diagonal() if scatter.ndim == 2 else scatter) / max(moments.count, 1)


def covariance(moments: Moments) -> Float[np.ndarray, "dim dim"]:
    """Mean product of two coordinates' deviations."""
    if moments.scatter.ndim != 2:
        raise ValueError("The scatter holds no products of two coordinates. Use `nothing_crossed`.")
    return moments.scatter / max(moments.count, 1)


def precision(dtype: np.dtype) -> type[np.floating]:
    """What states of a dtype are multiplied in; sums over blocks are in float64 always."""
    return np.float64 if dtype == np.float64 else np.float32


def scatter_times(
    block: Float[np.ndarray, "step dim"],
    mean: Float[np.ndarray, " dim"],
    unit: Float[np.ndarray, " dim"],
    basis: Float[np.ndarray, "dim size"],
) -> Float[np.ndarray, "dim size"]:
    """What `block` adds to the product of the scatter of (x - mean) / unit with a matrix."""
    real = precision(block.dtype)
    off = (block.astype(real, copy=False) - mean.astype(real)) / unit.astype(real)
    return (off.T @ (off @ basis.astype(real))).astype(np.float64)


def _of_block(block: Float[np.ndarray, "step dim"], *, crossed: bool) -> Moments:
    real = precision(block.dtype)
    with np.errstate(invalid="ignore"):  # a signalling NaN would warn; it is refused next
        block = block.astype(real, copy=False)
    _refuse_strange(block)
    centre = block.mean(axis=0, dtype=np.float64).astype(real)
    off = block - centre
    # A sum over many states is not exact: what is left of the mean is measured, not assumed zero.
    rest = off.mean(axis=0, dtype=np.float64)
    mean = centre + rest
    # Powers of two bring every coordinate near one, exactly: no square is lost below the smallest
    # float32, and none overflows.
    power = np.maximum(np.frexp(np.maximum(off.max(axis=0), -off.min(axis=0)))[1], -100)
    off *= np.ldexp(real(1), -power)
    unit = np.ldexp(1.0, power)
    rest /= unit
    if crossed:
        scatter = (off.T @ off).astype(np.float64)
    else:
        scatter = np.einsum("ij,ij->j", off, off, dtype=np.float64)
    scatter -= len(off) * _square(rest, crossed=crossed)
    scatter *= _square(unit, crossed=crossed)
    return Moments(len(block), mean, scatter)


def _refuse_strange(block: Float[np.ndarray, "step dim"]) -> None:
    most = LARGEST[block.dtype.type]
    if block.max() < most and block.min() > -most:  # False for a NaN
        return
    step, at = np.argwhere(~(np.abs(block) < most))[0]
    raise BadArgument(
        f"State {step} is {block[step, at]} in coordinate {at}. Moments need states that are "
        f"finite and less than {most:g}."
    )


def _square(x: Float[np.ndarray, " dim"], *, crossed: bool) -> Float[np.ndarray, "..."]:
    return np.outer(x, x) if crossed else x * x
