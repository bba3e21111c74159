"""The switching baseline against brute force over regimes, recovery, and climbing."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dynlm import Trajectory, baselines, stack
from dynlm.baselines._expectation import Regimes, expectation, fit_regimes, forward_backward

CHANGE = np.array([[0.9, 0.1], [0.2, 0.8]])
MATRICES = np.array([[[0.8, 0.3], [-0.3, 0.8]], [[-0.5, 0.0], [0.2, 0.3]]])
BIASES = np.array([[0.5, 0.0], [-1.0, 1.0]])
ROOTS = np.array([[[0.3, 0.0], [0.1, 0.2]], [[0.5, 0.0], [-0.3, 0.3]]])


@functools.cache
def paths(rows=60, length=50, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for row in range(rows):
        n = length if row % 3 else length // 2
        y, s = [rng.normal(size=2)], rng.integers(2)
        for _ in range(n - 1):
            y.append(MATRICES[s] @ y[-1] + BIASES[s] + ROOTS[s] @ rng.normal(size=2))
            s = rng.choice(2, p=CHANGE[s])
        found.append(Trajectory.from_arrays(np.array(y), dtype=np.float32))
    return stack(found)


@functools.cache
def fitted():
    return baselines.switching(paths(), 2, key=jr.key(0), iterations=40, restarts=2)


def brute(model, ys, burn):
    """Over every sequence of regimes: the likelihood, and the law of regimes by transition."""
    ys = np.asarray(ys, float)
    start, change = np.exp(model.start_log), np.exp(model.change_log)
    regimes, number = range(len(start)), len(ys) - 1 - burn
    each = np.array(
        [
            [
                multivariate_normal(
                    np.asarray(f, float) @ ys[k] + b, np.asarray(l, float) @ np.asarray(l).T
                ).pdf(ys[k + 1])
                for f, b, l in zip(model.matrices, model.biases, model.roots)
            ]
            for k in range(burn, len(ys) - 1)
        ]
    )
    total, shares, changes = 0.0, np.zeros((number, len(start))), np.zeros(change.shape)
    for s in itertools.product(regimes, repeat=number):
        p = start[s[0]] * np.prod([each[k, s[k]] for k in range(number)])
        p *= np.prod([change[a, b] for a, b in zip(s, s[1:])])
        total += p
        shares[np.arange(number), s] += p
        for a, b in zip(s, s[1:]):
            changes[a, b] += p
    return total, shares / total, changes / total, each


@functools.cache
def three():
    """Any three regimes, in one dimension."""
    rng = np.random.default_rng(3)
    log = [np.log(rng.dirichlet(np.ones(3), size=n)) for n in (1, 3)]
    return baselines.Switching(
        jnp.asarray(log[0][0], jnp.float32),
        jnp.asarray(log[1], jnp.float32),
        jnp.asarray(rng.uniform(-1, 1, (3, 1, 1)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 1)), jnp.float32),
        jnp.asarray(rng.uniform(0.5, 1.5, (3, 1, 1)), jnp.float32),
        jnp.zeros(1),
        burn=1,
    )


def test_forward_backward_is_the_sum_over_all_sequences_of_regimes():
    model, ys = three(), np.random.default_rng(1).normal(size=(8, 1))
    total, shares, changes, each = brute(model, ys, burn=1)
    padded = jnp.asarray(np.concatenate([np.log(each), np.full((3, 3), np.nan)]), jnp.float32)
    seen = jnp.arange(9) < 6
    found = jax.jit(forward_backward)(model.start_log, model.change_log, padded, seen)
    np.testing.assert_allclose(found[0][:6], shares, atol=1e-5)
    assert not np.asarray(found[0][6:]).any()
    np.testing.assert_allclose(found[1], changes, atol=1e-5)
    assert float(found[2]) == pytest.approx(np.log(total), abs=1e-4)


def test_the_laws_of_one_path_multiply_to_its_likelihood():
    """What is carried is the regimes' law given the past; transition 0 is left out as by `burn`."""
    model, ys = three(), np.random.default_rng(2).normal(size=(7, 1))
    carry, log = model.start(), 0.0
    see, law = jax.jit(lambda m, *a: m.see(*a)), jax.jit(lambda m, *a: m.law(*a))
    for k, y in enumerate(jnp.asarray(ys, jnp.float32)):
        t = jnp.asarray(k, jnp.float32)
        if k > 1:
            log += float(law(model, carry, t).logpdf(y))
        carry = see(model, carry, t, y)
        if k > 1:
            assert log == pytest.approx(np.log(brute(model, ys[: k + 1], 1)[0]), abs=1e-4)
    total, shares, _, _ = brute(model, ys, burn=1)
    ahead = shares[-1] @ np.exp(model.change_log)  # of the last transition, given all
    np.testing.assert_allclose(np.exp(law(model, carry, 7.0).log_weights), ahead, atol=1e-5)


def test_parameters_are_recovered_up_to_the_order_of_regimes():
    """About 2,500 transitions; errors of coefficients are noise over root of count times spread."""
    model = fitted()
    order = np.argsort(np.asarray(model.matrices[:, 0, 0]))[::-1]
    np.testing.assert_allclose(np.asarray(model.matrices)[order], MATRICES, atol=0.08)
    np.testing.assert_allclose(np.asarray(model.biases)[order], BIASES, atol=0.12)
    change = np.exp(model.change_log)[np.ix_(order, order)]
    np.testing.assert_allclose(change, CHANGE, atol=0.05)
    roots = np.asarray(model.roots)[order]
    np.testing.assert_allclose(
        roots @ roots.transpose(0, 2, 1), ROOTS @ ROOTS.transpose(0, 2, 1), atol=0.04
    )


def test_the_fit_beats_one_regime_and_equals_it_with_one():
    linear = baselines.var1(paths())
    alone = baselines.switching(paths(), 1, key=jr.key(0), iterations=2, restarts=1)
    np.testing.assert_allclose(alone.matrices[0], linear.matrix, atol=5e-3)
    np.testing.assert_allclose(alone.roots[0], linear.root, atol=5e-3)
    test = paths(seed=8)
    assert mean_density(fitted(), test) > mean_density(linear, test) + 0.3


def mean_density(model, batch):
    @jax.jit
    def one(path):
        def step(carry, x):
            t, y, y_next, seen = x
            carry = model.see(carry, t, y)
            return carry, jnp.where(seen, model.law(carry, t + 1.0).logpdf(y_next), 0.0)

        xs = (path.ts[:-1], path.ys[:-1], path.ys[1:], path.mask[1:])
        return jax.lax.scan(step, model.start(), xs)[1][1:].sum()

    return float(jax.vmap(one)(batch).sum()) / int(batch.mask[:, 2:].sum())


def test_the_posterior_density_never_falls(x64):
    """In 64 bits, from a guess that knows nothing; and the likelihood is that of `expectation`."""
    ys = paths().ys[:20].astype(float)
    seen = paths().mask[:20, 2:]
    x, y = ys[:, 1:-1], ys[:, 2:]
    prior = Regimes.prior(jnp.zeros((2, 2)), jnp.zeros(2), jnp.eye(2))
    guess = jr.dirichlet(jr.key(1), jnp.ones(3), (20, x.shape[1]))
    regimes, history = fit_regimes(x, y, seen, guess, prior, 60)
    steps = np.diff(history)
    assert steps.min() > -1e-8 and history[-1] > history[0] + 10
    assert np.isfinite(expectation(regimes, x, y, seen)[2])


def test_history_rises_in_single_precision_too():
    steps = np.diff(fitted().history)
    assert steps.min() > -1e-5 * abs(float(fitted().history[-1]))


def test_a_regime_that_nothing_visits_keeps_a_covariance():
    """More regimes than distinct things to explain."""
    few = jax.tree.map(lambda v: v[:3], paths())
    model = baselines.switching(few, 6, key=jr.key(2), iterations=30, restarts=1)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(model))
    assert np.linalg.svd(np.asarray(model.roots), compute_uv=False).min() > 1e-3


def test_units_do_not_matter():
    far = eqx.tree_at(lambda p: p.ys, paths(), 100 * paths().ys + 30)
    model = baselines.switching(far, 2, key=jr.key(0), iterations=40, restarts=2)
    np.testing.assert_allclose(model.matrices, fitted().matrices, atol=2e-2)
    np.testing.assert_allclose(model.roots, 100 * fitted().roots, atol=1.0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`regimes` is 0"):
        baselines.switching(paths(), 0, key=jr.key(0))
    with pytest.raises(ValueError, match="this fit needs 6000"):
        baselines.switching(paths(), 3000, key=jr.key(0))
