"""Scores of draws and a path: against loops, closed forms, and where derivatives might break."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from path_sets import SCALES, SETS, batch, expected_kernel, finite, name, near
from scipy.special import gammaln
from scipy.stats import norm as normal

from dynlm import Trajectory
from dynlm.losses import (
    crps,
    energy_score,
    forecast_error,
    kernel_score,
    step_energy_score,
)

SCORES = [
    energy_score,
    step_energy_score,
    crps,
    forecast_error,
    partial(kernel_score, scales=SCALES),
]


def draws_and_path(getkey, m=5, length=4):
    x = np.asarray(jr.normal(getkey(), (m, 5, 2)))
    o = np.asarray(jr.normal(getkey(), (1, 5, 2)))
    return batch(x, np.full(m, length)), jax.tree.map(lambda a: a[0], batch(o, np.array([length])))


# Against loops --------------------------------------------------------------------------------


def slow_scores(x, o, scales=SCALES):
    """All scores of draws after the start, by loops over pairs, steps and components."""
    m, steps, dim = x.shape
    pairs = list(itertools.permutations(range(m), 2))

    def energy(x, o):
        n = o.size**0.5
        near = np.mean([np.linalg.norm(x[i] - o) for i in range(m)]) / n
        return near - np.mean([np.linalg.norm(x[i] - x[j]) for i, j in pairs]) / n / 2

    def kernel(a, b):
        return sum(np.exp(-np.mean((a - b) ** 2) / (2 * s**2)) for s in scales)

    products = [(x[i] - o) * (x[j] - o) for i, j in pairs]
    return {
        "energy_score": energy(x, o),
        "step_energy_score": np.mean([energy(x[:, t], o[t]) for t in range(steps)]),
        "crps": np.mean([energy(x[:, t, d], o[t, d]) for t in range(steps) for d in range(dim)]),
        "forecast_error": np.mean(products),
        "kernel_score": np.mean([kernel(x[i], x[j]) for i, j in pairs]) / 2
        - np.mean([kernel(x[i], o) for i in range(m)]),
    }


@pytest.mark.parametrize("score", SCORES, ids=name)
def test_scores_are_what_loops_over_pairs_give(score, getkey):
    of = jax.jit(score)
    for length in (5, 4, 2):
        draws, path = draws_and_path(getkey, length=length)
        expected = slow_scores(np.asarray(draws.ys)[:, 1:length], np.asarray(path.ys)[1:length])
        np.testing.assert_allclose(of(draws, path), expected[name(score)], rtol=2e-5, atol=2e-6)
    for length in (1, 0):
        assert float(of(*draws_and_path(getkey, length=length))) == 0


# Unbiased and proper ----------------------------------------------------------------------------


def chi(n):
    """The mean length of n standard normal numbers, over the root of n."""
    return np.sqrt(2 / n) * np.exp(gammaln((n + 1) / 2) - gammaln(n / 2))


def gaussian_scores(score, key, m, steps, dim, spread):
    """Scores of m draws of N(0, spread^2) against one of N(0, 1), over many sets."""
    a, b = jr.split(key)
    x = spread * jr.normal(a, (SETS, m, steps + 1, dim))
    o = jr.normal(b, (SETS, steps + 1, dim))
    ts, mask = jnp.arange(steps + 1.0), jnp.ones(steps + 1, bool)

    def one(x, o):
        return score(jax.vmap(lambda y: Trajectory(ts, y, mask))(x), Trajectory(ts, o, mask))

    return np.asarray(jax.jit(jax.vmap(one))(x, o))


@pytest.mark.parametrize(
    ("score", "entries"),
    [(energy_score, 4), (step_energy_score, 2), (crps, 1)],
    ids=["path", "step", "crps"],
)
@pytest.mark.parametrize("m", [2, 5])
def test_energy_scores_are_unbiased_and_least_for_the_true_law(score, entries, m, getkey):
    r"""$E S = c\,(\sqrt{s^2 + 1} - s / \sqrt 2)$, which is least at $s = 1$."""
    expected = {s: chi(entries) * (np.sqrt(s**2 + 1) - s / np.sqrt(2)) for s in (0.5, 1.0, 1.8)}
    assert min(expected, key=expected.get) == 1.0
    means = {}
    for s in expected:
        scores = gaussian_scores(score, getkey(), m, 2, 2, s)
        near(scores, expected[s])
        means[s] = scores.mean()
    assert min(means, key=means.get) == 1.0


def test_energy_score_of_a_gaussian_is_its_closed_form(getkey):
    r"""$\sigma\,(z\,(2\Phi(z) - 1) + 2\varphi(z) - 1 / \sqrt\pi)$ at $z = (o - \mu) / \sigma$."""
    mu, sigma, o = 0.7, 1.3, -0.4
    z = (o - mu) / sigma
    expected = sigma * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / np.sqrt(np.pi))
    x = mu + sigma * jr.normal(getkey(), (SETS, 3, 2, 1))
    path = Trajectory.from_arrays(np.array([0.0, o], np.float32))

    def one(x):
        draws = jax.vmap(lambda y: Trajectory(path.ts, y, path.mask))(x)
        return energy_score(draws, path), crps(draws, path), forecast_error(draws, path)

    energy, ranked, error = jax.jit(jax.vmap(one))(x)
    near(energy, expected)
    near(error, (mu - o) ** 2)
    np.testing.assert_allclose(energy, ranked, rtol=1e-3, atol=1e-5)


def test_kernel_score_is_unbiased_and_least_for_the_true_law(getkey):
    score = partial(kernel_score, scales=SCALES)
    expected = {
        s: expected_kernel(0, 2 * s**2, 4) / 2 - expected_kernel(0, s**2 + 1, 4)
        for s in (0.5, 1.0, 1.8)
    }
    assert min(expected, key=expected.get) == 1.0
    for s in expected:
        near(gaussian_scores(score, getkey(), 3, 2, 2, s), expected[s])


def test_only_scores_of_the_path_see_dependence_over_time(getkey):
    """Truth repeats one number; the wrong model draws each step anew, with the right marginals."""
    a, b, c = jr.split(getkey(), 3)
    ts, mask = jnp.arange(3.0), jnp.ones(3, bool)
    repeated = jnp.repeat(jr.normal(a, (SETS, 3, 1, 1)), 3, axis=2)
    anew = jr.normal(b, (SETS, 3, 3, 1))
    o = jnp.repeat(jr.normal(c, (SETS, 1, 1)), 3, axis=1)

    def gain(score):
        def one(x, o):
            return score(jax.vmap(lambda y: Trajectory(ts, y, mask))(x), Trajectory(ts, o, mask))

        of = jax.jit(jax.vmap(one))
        return np.asarray(of(anew, o)) - np.asarray(of(repeated, o))

    for score in (energy_score, SCORES[4]):
        gained = gain(score)
        assert gained.mean() > 8 * gained.std() / SETS**0.5
    for score in (step_energy_score, crps, forecast_error):
        near(gain(score), 0.0)


# Derivatives and precision ----------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES, ids=name)
def test_gradients_of_scores_are_finite_where_distances_are_zero_and_under_padding(score, getkey):
    def loss(x, o, like, path):
        draws = jax.vmap(lambda ts, y, mask: Trajectory(ts, y, mask))(like.ts, x, like.mask)
        return score(draws, Trajectory(path.ts, o, path.mask))

    of = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for length in (4, 1, 0):
        like, path = draws_and_path(getkey, length=length)
        x, o = like.ys.at[:, length:].set(jnp.nan), path.ys.at[length:].set(jnp.inf)
        alike = x.at[1].set(x[0])  # two draws alike; a draw on the observation; all alike
        cases = [x, alike, x.at[2].set(o), jnp.broadcast_to(o[None], x.shape)]
        for case in cases:
            by_x, by_o = of(case, o, like, path)
            assert finite((by_x, by_o))
            assert not np.any(by_x[:, :1]) and not np.any(by_x[:, max(length, 1) :])
        assert length < 2 or np.abs(of(x, o, like, path)[0]).max() > 0


def test_gradients_are_those_of_finite_differences(getkey, x64):
    x, o = jr.normal(getkey(), (4, 3, 2), float), jr.normal(getkey(), (3, 2), float)
    ts, mask = jnp.arange(3.0), jnp.ones(3, bool)
    along = jr.normal(getkey(), x.shape, float)

    def everything(x):
        draws = jax.vmap(lambda y: Trajectory(ts, y, mask))(x)
        return jnp.stack([score(draws, Trajectory(ts, o, mask)) for score in SCORES])

    of = jax.jit(everything)
    slope = (of(x + 1e-6 * along) - of(x - 1e-6 * along)) / 2e-6
    _, expected = jax.jit(lambda x: jax.jvp(everything, (x,), (along,)))(x)
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-9)


def test_near_draws_far_from_the_others_keep_their_distance(getkey):
    """In float32, where the Gram form of squared distances would lose all of it."""
    x = 1e-3 * np.asarray(jr.normal(getkey(), (6, 3, 2)), np.float64)
    x[3:] += 1e3
    path = Trajectory.from_arrays(np.full((3, 2), 1e3, np.float32))
    pairs = itertools.permutations(range(3, 6), 2)
    apart = np.mean([np.sqrt(np.mean((x[i, 1:] - x[j, 1:]) ** 2)) for i, j in pairs])
    own = batch(x[3:].astype(np.float32))
    near_o = np.mean([np.sqrt(np.mean((x[i, 1:] - 1e3) ** 2)) for i in range(3, 6)])
    of = jax.jit(jax.value_and_grad(lambda y: energy_score(batch_of(y), path)))
    np.testing.assert_allclose(of(own.ys)[0], near_o - apart / 2, rtol=0.05)
    by_x = of(jnp.asarray(x, jnp.float32))[1]
    assert np.abs(by_x[:3, 1:]).min(axis=(1, 2)).min() > 1e-3


def batch_of(ys):
    ts, mask = jnp.arange(ys.shape[1], dtype=ys.dtype), jnp.ones(ys.shape[1], bool)
    return jax.vmap(lambda y: Trajectory(ts, y, mask))(ys)


def test_what_is_wrong_is_said(getkey, unchecked):
    draws, path = draws_and_path(getkey)
    one = jax.tree.map(lambda x: x[:1], draws)
    with pytest.raises(ValueError, match="`draws` is a single draw"):
        energy_score(one, path)
    with pytest.raises(ValueError, match="`draws` has states .* Pass draws at the times"):
        crps(path, path)
