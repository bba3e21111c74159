"""Discrepancies of two sets of paths: against loops, closed forms, and where they might break."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from path_sets import SCALES, SETS, batch, expected_kernel, finite, name, near
from scipy.stats import norm as normal

from dynlm import Trajectory
from dynlm.losses import autocovariance_distance, marginal_distance, median_scale, mmd

LENGTHS = np.array([5, 3, 4, 1, 5, 2])  # seen steps of six paths
DISTANCES = [
    partial(mmd, scales=SCALES),
    marginal_distance,
    partial(autocovariance_distance, lags=(0, 2)),
]


def slow_distances(x, x_len, y, y_len, x_from, y_from, lags=(0, 2)):
    """All discrepancies of two sets, by loops over pairs, steps and components."""
    a = [p[:n] for p, n in zip(x, x_len)]
    b = [p[:n] for p, n in zip(y, y_len)]
    sets = [(a, x_from, a, x_from), (b, y_from, b, y_from), (a, x_from, b, y_from)]

    def mean(f):
        """Of f over the pairs for which it is defined: of x and x, y and y, x and y."""
        out = []
        for us, us_from, vs, vs_from in sets:
            found = [
                f(u, v)
                for u, i in zip(us, us_from)
                for v, j in zip(vs, vs_from)
                if i != j and f(u, v) is not None
            ]
            out.append(np.mean(found) if found else None)
        return None if any(o is None for o in out) else out[0] + out[1] - 2 * out[2]

    def kernel(u, v):
        n = min(len(u), len(v))
        return (
            sum(np.exp(-np.mean((u[:n] - v[:n]) ** 2) / (2 * s**2)) for s in SCALES) if n else None
        )

    def distance_at(t):
        return lambda u, v: (
            np.sqrt(np.mean((u[t] - v[t]) ** 2)) if min(len(u), len(v)) > t else None
        )

    centre = np.concatenate(a + b).mean(axis=0)

    def lagged(u, lag):
        z = u - centre
        return np.mean([np.outer(z[t], z[t + lag]) for t in range(len(z) - lag)], axis=0)

    def products(lag):
        return lambda u, v: (
            np.mean(lagged(u, lag) * lagged(v, lag)) if min(len(u), len(v)) > lag else None
        )

    steps = [mean(distance_at(t)) for t in range(x.shape[1])]
    return {
        "mmd": mean(kernel),
        "marginal_distance": -np.mean([s for s in steps if s is not None]),
        "autocovariance_distance": np.mean([mean(products(lag)) for lag in lags]),
    }


@pytest.mark.parametrize("distance", DISTANCES, ids=name)
def test_discrepancies_are_what_loops_over_pairs_give(distance, getkey):
    x, y = np.asarray(jr.normal(getkey(), (6, 5, 2))), np.asarray(jr.normal(getkey(), (4, 5, 2)))
    y = 1.5 * y + 0.5
    of = jax.jit(distance)
    own = np.arange(6), 6 + np.arange(4)
    shared = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 2, 2])
    for (x_from, y_from), x_len in itertools.product((own, shared), (LENGTHS, np.full(6, 5))):
        y_len = np.array([5, 0, 4, 5])
        got = of(
            batch(x, x_len), batch(y, y_len), origins=(jnp.asarray(x_from), jnp.asarray(y_from))
        )
        expected = slow_distances(x, x_len, y, y_len, x_from, y_from)[name(distance)]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    default = distance(batch(x, LENGTHS), batch(y))
    given = distance(batch(x, LENGTHS), batch(y), origins=(jnp.arange(6), 6 + jnp.arange(4)))
    np.testing.assert_allclose(default, given, rtol=1e-6)


def test_median_scale_is_the_median_distance_per_entry(getkey):
    ys = np.asarray(jr.normal(getkey(), (6, 5, 2)))
    paths = [ys[i, :n] for i, n in enumerate(LENGTHS)]
    distances = [
        np.sqrt(np.mean((u[:n] - v[:n]) ** 2))
        for u, v in itertools.combinations(paths, 2)
        for n in [min(len(u), len(v))]
    ]
    np.testing.assert_allclose(median_scale(batch(ys, LENGTHS)), np.median(distances), rtol=1e-6)


def gaussian_sets(distance, key, mean, spread, n=3, m=4, steps=2):
    a, b = jr.split(key)
    x = mean + spread * jr.normal(a, (SETS, n, steps, 1))
    y = jr.normal(b, (SETS, m, steps, 1))
    ts, mask = jnp.arange(float(steps)), jnp.ones(steps, bool)

    def one(x, y):
        return distance(*(jax.vmap(lambda p: Trajectory(ts, p, mask))(p) for p in (x, y)))

    return np.asarray(jax.jit(jax.vmap(one))(x, y))


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (0.8, 0.6)])
def test_discrepancies_are_unbiased(mean, spread, getkey):
    def distance(variance, mean=0.0):
        root = np.sqrt(variance)
        return 2 * root * normal.pdf(mean / root) + mean * (2 * normal.cdf(mean / root) - 1)

    between, within = spread**2 + 1, (2 * spread**2, 2.0)
    expected = sum(expected_kernel(0, v, 2) for v in within) - 2 * expected_kernel(mean, between, 2)
    near(gaussian_sets(DISTANCES[0], getkey(), mean, spread), expected)
    expected = 2 * distance(between, mean) - sum(distance(v) for v in within)
    near(gaussian_sets(marginal_distance, getkey(), mean, spread), expected)

    def about(x, y):
        return autocovariance_distance(x, y, (0, 1), centre=jnp.array([0.3]))

    off = (mean - 0.3) ** 2 - 0.3**2  # of both lags; the variances differ at lag 0 only
    expected = ((spread**2 - 1 + off) ** 2 + off**2) / 2
    near(gaussian_sets(about, getkey(), mean, spread), expected)


def test_the_bias_of_a_pooled_centre_falls_as_one_over_the_number_of_paths(getkey):
    def at(n):
        values = gaussian_sets(
            lambda x, y: autocovariance_distance(x, y, (0, 1)), getkey(), 0.0, 2.0, n, n
        )
        return values.mean() - (2.0**2 - 1) ** 2 / 2

    assert 1.4 < at(4) / at(8) < 2.8


@pytest.mark.parametrize("distance", DISTANCES[:2], ids=name)
def test_pairs_of_one_origin_are_left_out_because_they_would_bias(distance, getkey):
    """Both sets start in the same states and move by the same law: the discrepancy is zero."""
    a, b, c = jr.split(getkey(), 3)
    sets, n = 8000, 4
    start = jr.normal(a, (sets, n, 1, 1))
    y = jnp.concatenate([start, start + 0.3 * jr.normal(b, (sets, n, 1, 1))], axis=2)
    twice = jnp.repeat(start, 2, axis=1)
    x = jnp.concatenate([twice, twice + 0.3 * jr.normal(c, (sets, 2 * n, 1, 1))], axis=2)
    ts, mask = jnp.arange(2.0), jnp.ones(2, bool)
    origins = jnp.repeat(jnp.arange(n), 2), jnp.arange(n)

    def one(x, y):
        x, y = (jax.vmap(lambda p: Trajectory(ts, p, mask))(p) for p in (x, y))
        return distance(x, y, origins=origins), distance(x, y)

    unbiased, biased = jax.jit(jax.vmap(one))(x, y)
    near(unbiased, 0.0)
    assert abs(biased.mean()) > 20 * biased.std() / sets**0.5


def test_the_marginal_distance_does_not_see_dependence_over_time(getkey):
    """One set repeats a number along the path; the other draws each step anew."""
    a, b = jr.split(getkey())
    repeated = batch(jnp.repeat(jr.normal(a, (300, 1, 1)), 3, axis=1))
    anew = batch(jr.normal(b, (300, 3, 1)))
    marginal, path, lagged = (
        float(jax.jit(distance)(repeated, anew))
        for distance in (marginal_distance, DISTANCES[0], DISTANCES[2])
    )
    assert abs(marginal) < 0.01 and path > 0.1 and lagged > 0.4


@pytest.mark.parametrize("distance", DISTANCES, ids=name)
def test_gradients_of_discrepancies_are_finite_and_ignore_padding(distance, getkey):
    y = np.asarray(jr.normal(getkey(), (6, 5, 2)))
    ys = batch(y, LENGTHS)

    def loss(x, mask):
        return distance(jax.vmap(Trajectory)(ys.ts, x, mask), ys)

    of = jax.jit(jax.value_and_grad(loss))
    padded = jnp.where(ys.mask[:, :, None], ys.ys, jnp.nan)
    value, by_x = of(padded, ys.mask)  # every path of one set is also in the other
    assert finite((value, by_x))
    assert not np.any(np.where(ys.mask[:, :, None], 0, by_x))
    moved = of(padded + 1.0, ys.mask)[1]
    assert finite(moved) and np.abs(moved).max() > 0
    nothing, by_x = of(padded * jnp.nan, jnp.zeros_like(ys.mask))
    assert float(nothing) == 0 and finite(by_x)


def test_gradients_of_discrepancies_are_those_of_finite_differences(getkey, x64):
    x, y = jr.normal(getkey(), (4, 5, 2), float), jr.normal(getkey(), (3, 5, 2), float)
    along = jr.normal(getkey(), x.shape, float)

    def everything(x):
        others = batch(y)
        draws = jax.vmap(Trajectory)(others.ts[:1].repeat(4, 0), x, jnp.ones((4, 5), bool))
        return jnp.stack([distance(draws, others) for distance in DISTANCES])

    of = jax.jit(everything)
    slope = (of(x + 1e-6 * along) - of(x - 1e-6 * along)) / 2e-6
    _, expected = jax.jit(lambda x: jax.jvp(everything, (x,), (along,)))(x)
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-9)


def test_what_is_wrong_is_said(getkey, unchecked):
    draws = batch(np.asarray(jr.normal(getkey(), (5, 5, 2))))
    one = jax.tree.map(lambda x: x[:1], draws)
    with pytest.raises(ValueError, match="Pass two or more in each set"):
        marginal_distance(draws, one)
    with pytest.raises(ValueError, match="of as many steps"):
        marginal_distance(draws, jax.tree.map(lambda x: x[:, :3], draws))
    with pytest.raises(ValueError, match="`scales` is .* Pass positive numbers"):
        mmd(draws, draws, (1.0, 0.0))
    with pytest.raises(ValueError, match="`lags` is .* whole numbers from 0 to 4"):
        autocovariance_distance(draws, draws, (5,))
    with pytest.raises(ValueError, match="`origins` has"):
        mmd(draws, draws, SCALES, origins=(jnp.arange(3), jnp.arange(5)))
    with pytest.raises(ValueError, match="Call `median_scale` outside"):
        jax.jit(median_scale)(draws)
    with pytest.raises(ValueError, match="two or more paths that differ"):
        median_scale(one)
