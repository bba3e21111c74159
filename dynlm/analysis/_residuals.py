"""Residuals of a one-step model: white and Gaussian if the model is true."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float, Int

from .._io import BadArgument
from .._types import State
from ..laws import AbstractLaw, DiagonalMixture, Mixture
from ..losses._schemes import EulerMaruyama
from ..predict._predictor import AbstractPredictor
from ..predict._sde import FromSDE, _Gaussian
from ..predict._steps import ROWS, by_rows, gaps_filled, scored
from ..sde import SDE
from ..stats import largest_gap
from ..trajectory import Trajectory
from ._correlation import (
    against,
    by_chance,
    by_influence,
    crossed,
    ends,
    lagged,
    measured,
    rows_of,
    with_tails,
)
from ._stationarity import along_others
from .findings import Finding, finding

LEVELS = 100  # bins of the distribution function
RANDOM = "of the same residuals in random order"
TAIL = 1e-6  # a law that is no Gaussian has normal scores up to this probability, 4.75 deviations


@final
class Residuals(NamedTuple):
    """What `residuals` found.

    Args:
        z: The standardised residuals; zero where a step does not count.
        counts: Which steps count.
        lags: In steps.
        correlation: Of residuals, all components together, with ends for each lag.
        squares: Of their squares.
        histogram: The share of components whose distribution function fell into each of 20 bins.
        lost: How many steps were left out because their law was not finite.
        findings: Correlations, memory, variance, skewness, kurtosis and calibration.
    """

    z: Float[np.ndarray, "path step dim"]
    counts: np.ndarray
    lags: Int[np.ndarray, " lag"]
    correlation: Float[np.ndarray, "lag 3"]
    squares: Float[np.ndarray, "lag 3"]
    histogram: Float[np.ndarray, " bin"]
    lost: int
    findings: tuple[Finding, ...]


def residuals(
    model: AbstractPredictor | SDE,
    paths: Trajectory,
    docs: Any,
    *,
    lags: tuple[int, ...] = (1, 2, 3, 4),
    burn: int = 1,
    seed: int = 0,
) -> Residuals:
    r"""$z_k = (y_{k+1} - m_k)/s_k$ of each component under the law predicted at step k.

    Of a law that is no Gaussian: the normal scores $\Phi^{-1}(F_k(y_{k+1}))$. If the model is true
    they are standard normal and independent of all that came before. Correlations left in them are
    dynamics that the model has missed, those of their squares a noise that it has not followed;
    kurtosis is heavy tails or jumps. The signs of skewness differ between components, and those of
    memory between pairs of them: their sign is taken from other documents, so that they add up.

    Residuals with a mean or a strength of their own in each document are correlated in any order.
    So correlations have the null value that each path's residuals have on average in random order,
    and the interval of the paired difference from it.

    Args:
        model: A predictor, or an SDE, taken with one Euler step to a gap.
        paths: A batch of held-out paths.
        docs: The document of each path.
        lags: In steps.
        burn: Steps out of the first `burn` states of each path are left out.
        seed: Of the resampling.
    """
    rows, predictor = rows_of(paths, docs, burn), predictor_of(model)
    z, u = (np.asarray(x) for x in _scores(predictor, paths, burn))
    good = rows.steps & np.isfinite(z).all(axis=2) & np.isfinite(u).all(axis=2)
    if not good.any():
        raise BadArgument("`model` has no finite law on these paths. Pass a fitted model.")
    z, u = (np.where(good[:, :, None], x, 0).astype(float) for x in (z, u))
    n = good.sum(axis=1)
    mean = z.sum(axis=(0, 1)) / n.sum()
    off = np.where(good[:, :, None], z - mean, 0.0)
    scale = np.sqrt((off**2).sum(axis=(0, 1)) / n.sum())
    x = off / np.where(scale > 0, scale, 1.0)
    square = np.where(good[:, :, None], x**2 - 1, 0.0)
    columns = [lagged(v, good, lag) for v in (x, square) for lag in lags]
    num, den = (np.stack([c[i].sum(axis=1) for c in columns], axis=1) for i in (0, 1))
    pairs, k = np.stack([c[2] for c in columns], axis=1), len(lags)
    chance = np.hstack([by_chance(x, good, pairs[:, :k]), by_chance(square, good, pairs[:, k:])])
    both = measured(np.hstack([num, num - chance]), np.hstack([den, den]), rows.docs, seed)
    found, more = both[: 2 * k], both[2 * k :]

    def correlation(i: int, what: str) -> Finding:
        null = found[i].value - more[i].value
        return against(
            f"lag-{lags[i % k]} correlation of the {what}", more[i], null, of_null=RANDOM
        )

    bins = np.clip(np.floor(u * LEVELS), 0, LEVELS - 1).astype(int)[good]
    where = np.repeat(np.nonzero(good)[0], z.shape[2]) * LEVELS + bins.ravel()
    pit = np.bincount(where, minlength=len(z) * LEVELS).reshape(len(z), LEVELS)
    gap = largest_gap(pit, np.full(LEVELS, 1 / LEVELS), rows.docs, seed=seed)
    count = n.astype(float)[:, None]
    (variance,) = measured((z**2).mean(axis=2).sum(axis=1)[:, None], count, rows.docs, seed)
    results = [
        *(correlation(i, "residuals") for i in range(k)),
        _memory(x, good, rows.docs, seed),
        correlation(k, "squared residuals"),
        finding("mean square of the residuals", variance, 1.0),
        *_shape(x, good, rows.docs, seed),
        finding(
            "distance of the distribution function at what came from the uniform one", gap, 0.0
        ),
    ]
    histogram = pit.sum(axis=0).reshape(20, -1).sum(axis=1) / pit.sum()
    lost = int(rows.steps.sum() - good.sum())
    return Residuals(
        z, good, np.array(lags), ends(found[:k]), ends(found[k:]), histogram, lost, tuple(results)
    )


def predictor_of(model: Any) -> AbstractPredictor:
    """A model as a predictor: an SDE is taken with one Euler step to a gap."""
    if isinstance(model, SDE):
        return FromSDE(model, EulerMaruyama())
    if not isinstance(model, AbstractPredictor):
        raise BadArgument(
            f"`model` is a {type(model).__name__}. Pass an `SDE` or a predictor, such as "
            "`dynlm.baselines.var1(paths)`."
        )
    return model


def _memory(x: Any, good: Any, docs: Any, seed: int) -> Finding:
    r"""$\sum_k x_{k+1}^\top R\,x_k / n$ less that in random order.

    R of norm one lies along the same difference of other documents' lag-1 matrices.
    """
    both = (good[:, :-1] & good[:, 1:]).sum(axis=1).astype(float)[:, None]
    n, total = good.sum(axis=1), x.sum(axis=1)
    pair = np.einsum("pi,pj->pij", total, total) - np.einsum("pki,pkj->pij", x, x)
    pair = pair / np.maximum(n * (n - 1), 1)[:, None, None]
    outer = np.einsum("pki,pkj->pij", x[:, 1:], x[:, :-1]) - both[:, :, None] * pair
    (found,) = measured(along_others(outer.reshape(len(x), -1), docs), both, docs, seed)
    what = "lag-1 memory of the residuals beyond random order that other documents confirm"
    return finding(what, crossed(found), 0.0)


def _shape(x: Any, good: Any, docs: Any, seed: int) -> tuple[Finding, Finding]:
    """Skewness and excess kurtosis, mean over components of unit variance.

    Their intervals are those of the influence of a step, that on mean and variance taken along.
    """
    n = good.sum()
    m3, m4 = ((x**p).sum(axis=(0, 1)) / n for p in (3, 4))
    skew = x**3 - m3 * (1 + 1.5 * (x**2 - 1)) - 3 * x
    skew = np.where(good[:, :, None], skew + m3, 0.0).sum(axis=1)
    count = good.sum(axis=1).astype(float)[:, None]
    signed = along_others(skew, docs) / np.sqrt(x.shape[2])
    (third,) = measured(signed, count, docs, seed)
    tail = np.where(good[:, :, None], x**4 - m4 * (1 + 2 * (x**2 - 1)) - 4 * m3 * x, 0.0)
    value = float(m4.mean()) - 3
    fourth = by_influence(value, tail.mean(axis=2).sum(axis=1) / n, docs, seed)
    fourth = with_tails(fourth, int(n) * x.shape[2])
    return (
        finding("skewness of the residuals that other documents confirm", crossed(third), 0.0),
        finding("excess kurtosis of the residuals", fourth, 0.0, of_null="of a Gaussian"),
    )


@eqx.filter_jit
def _scores(
    model: AbstractPredictor, paths: Trajectory, burn: int
) -> tuple[Float[Array, "path step dim"], Float[Array, "path step dim"]]:
    """Standardised residuals and distribution functions of every step of every path."""

    def one(path: Trajectory) -> tuple[Array, Array]:
        counts = scored(path, burn)

        def step(carry: Any, x: tuple) -> tuple[Any, tuple[Array, Array]]:
            t1, used, y1 = x
            return model.see(carry, t1, y1), _standard(model.law(carry, used), y1)

        carry = model.see(model.start(), path.ts[0], path.ys[0])
        return lax.scan(step, carry, (path.ts[1:], gaps_filled(path, counts), path.ys[1:]))[1]

    return by_rows(one, (paths,), ROWS)


def _standard(law: AbstractLaw, y: State) -> tuple[State, State]:
    if isinstance(law, _Gaussian):
        m, c = law.scheme.moments(law.sde, law.t, law.y, law.dt)
        z = (y - m) / jnp.sqrt(jnp.diagonal(c))
    elif isinstance(law, Mixture) and len(law.means) == 1:
        z = (y - law.means[0]) / jnp.sqrt(jnp.sum(law.roots[0] ** 2, axis=1))
    elif isinstance(law, DiagonalMixture) and len(law.means) == 1:
        z = (y - law.means[0]) / law.scales[0]
    else:
        u = law.cdf(y)
        return ndtri(jnp.clip(u, TAIL, 1 - TAIL)), u
    return z, ndtr(z)
