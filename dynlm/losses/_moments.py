"""Discrepancies of two sets of paths in part of their law: marginals, and lagged moments."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._io import BadArgument
from ..trajectory import Trajectory
from ._kernels import Origins, Pairs, discrepancy
from ._scores import mean_where, norm


def marginal_distance(
    xs: Trajectory, ys: Trajectory, *, origins: Origins = None
) -> Float[Array, ""]:
    r"""Mean over steps of $2 E|x - y| - E|x - x'| - E|y - y'|$, the energy distance of that step.

    In expectation zero if the states of every step have one law in both sets, and positive if not
    (for finite first moments). It does not see how the states of one path depend on each other:
    paths shuffled among each other at every step are at distance zero. Unbiased, by pairs of
    different paths, and so negative at times. A step is compared among the paths that have it, and
    left out where these make no pairs. Norms are divided by the square root of the dimension.

    Distances come from differences, one path against all at a time: memory is that of the sets.

    Args:
        xs: Two paths or more.
        ys: Two paths or more of as many steps.
        origins: As for `mmd`: pairs of one origin are left out.
    """
    of = Pairs.of(xs, ys, origins)
    root = max(xs.ys.shape[2], 1) ** 0.5
    x = jnp.where(xs.mask[:, :, None], xs.ys, 0) / root
    y = jnp.where(ys.mask[:, :, None], ys.ys, 0) / root
    xx, n_xx = _distances(x, xs.mask, x, xs.mask, of.xx)
    yy, n_yy = _distances(y, ys.mask, y, ys.mask, of.yy)
    xy, n_xy = _distances(x, xs.mask, y, ys.mask, of.xy)
    return mean_where(2 * xy - xx - yy, (n_xx > 0) & (n_yy > 0) & (n_xy > 0))


def _distances(
    x: Float[Array, "x step dim"],
    x_seen: Bool[Array, "x step"],
    y: Float[Array, "y step dim"],
    y_seen: Bool[Array, "y step"],
    free: Bool[Array, "x y"],
) -> tuple[Float[Array, " step"], Float[Array, " step"]]:
    """At each step, the mean distance over the pairs that have it, and how many these are."""

    def to_all(row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        one, one_seen, one_free = row
        use = one_free[:, None] & x_seen & one_seen[None]
        distances = jnp.where(use, norm(x - one[None]), 0)
        return jnp.sum(distances, axis=0), jnp.sum(use, axis=0, dtype=x.dtype)

    totals, counts = lax.map(jax.checkpoint(to_all), (y, y_seen, free.T))
    count = jnp.sum(counts, axis=0)
    return jnp.sum(totals, axis=0) / jnp.maximum(count, 1), count


def autocovariance_distance(
    xs: Trajectory,
    ys: Trajectory,
    lags: Sequence[int],
    *,
    centre: Float[Array, " dim"] | None = None,
    origins: Origins = None,
) -> Float[Array, ""]:
    r"""Mean over lags and entries of $(E\,C_l(X) - E\,C_l(Y))^2$.

    $C_l(z) = \mathrm{mean}_t\,(z_t - c)(z_{t+l} - c)^\top$ over the steps that the path has. Not a
    proper score: laws with equal second moments are at distance zero, Gaussian or not. Lags count
    steps, whatever their times. With a `centre` that was chosen beforehand it is unbiased, by
    pairs of different paths; with the mean state of both sets, which is taken without it, its bias
    falls as one over the number of paths.

    Args:
        xs: Two paths or more.
        ys: Two paths or more of as many steps.
        lags: $l$; 0 compares covariances.
        centre: $c$.
        origins: As for `mmd`: pairs of one origin are left out.
    """
    of = Pairs.of(xs, ys, origins)
    lags, steps = tuple(lags), xs.ys.shape[1]
    if not lags or any(isinstance(l, bool) or l not in range(steps) for l in lags):
        raise BadArgument(
            f"`lags` is {lags}, for paths of {steps} steps. Pass whole numbers from 0 to "
            f"{steps - 1}, such as (0, 1, 2)."
        )
    c = _mean_state(xs, ys) if centre is None else centre
    x = jnp.where(xs.mask[:, :, None], xs.ys - c[None, None], 0)
    y = jnp.where(ys.mask[:, :, None], ys.ys - c[None, None], 0)

    def at(lag: int) -> Float[Array, ""]:
        c_x, has_x = _lagged(x, xs.mask, lag)
        c_y, has_y = _lagged(y, ys.mask, lag)
        return discrepancy(
            (_product(c_x, c_x), of.xx & has_x[:, None] & has_x[None]),
            (_product(c_y, c_y), of.yy & has_y[:, None] & has_y[None]),
            (_product(c_x, c_y), of.xy & has_x[:, None] & has_y[None]),
        )

    return sum((at(lag) for lag in lags), jnp.zeros((), x.dtype)) / len(lags)


def _mean_state(xs: Trajectory, ys: Trajectory) -> Float[Array, " dim"]:
    states, seen = (jnp.concatenate(pair) for pair in ((xs.ys, ys.ys), (xs.mask, ys.mask)))
    total = jnp.sum(jnp.where(seen[:, :, None], states, 0), axis=(0, 1))
    return total / jnp.maximum(jnp.sum(seen, dtype=total.dtype), 1)


def _lagged(
    z: Float[Array, "path step dim"], seen: Bool[Array, "path step"], lag: int
) -> tuple[Float[Array, "path entry"], Bool[Array, " path"]]:
    """$C_l$ of each path, and whether it is long enough to have one."""
    end = z.shape[1] - lag
    number = jnp.sum(seen[:, :end] & seen[:, lag:], axis=1, dtype=z.dtype)
    total = jnp.einsum("nta,ntb->nab", z[:, :end], z[:, lag:], precision=lax.Precision.HIGHEST)
    return total.reshape(len(z), -1) / jnp.maximum(number, 1)[:, None], number > 0


def _product(a: Float[Array, "a entry"], b: Float[Array, "b entry"]) -> Float[Array, "a b"]:
    """Mean over entries of the products of the rows of `a` with those of `b`."""
    return jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST) / a.shape[1]
