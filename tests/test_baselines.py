"""Baselines against least squares, closed forms, processes with known laws, and quadrature."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.linalg import expm, logm
from scipy.stats import multivariate_normal

from dynlm import Trajectory, baselines, stack
from dynlm.baselines._clusters import clusters
from dynlm.baselines._pairs import root_of

LENGTHS = (12, 30, 7, 2, 25, 1, 30, 18, 21, 9, 28, 16)
F = np.array([[0.7, 0.3], [-0.2, 0.5]])
B = np.array([0.4, -1.0])
C = np.array([[0.5, 0.2], [0.2, 0.3]])


def simulated(lengths, f=F, b=B, c=C, seed=0, gap=1.0, dtype=np.float32):
    """Rows of a VAR(1), padded to one length."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(c)
    found = []
    for n in lengths:
        y = [rng.normal(size=len(b)) * 2]
        for _ in range(n - 1):
            y.append(f @ y[-1] + b + root @ rng.normal(size=len(b)))
        found.append(Trajectory.from_arrays(np.array(y), gap * np.arange(n), dtype=dtype))
    return stack(found)


@functools.cache
def paths():
    return simulated(LENGTHS)


@functools.cache
def many(gap=1.0):
    return simulated((80,) * 150, gap=gap)


def transitions(paths, burn=1, order=1):
    """Features (newest first, the oldest repeated), what came next, the gap: one at a time."""
    x, y, dt = [], [], []
    for ts, ys, mask in zip(*(np.asarray(v) for v in (paths.ts, paths.ys, paths.mask))):
        for k in range(burn, int(mask.sum()) - 1):
            x.append(np.concatenate([ys[max(k - j, 0)] for j in range(order)]))
            y.append(ys[k + 1])
            dt.append(ts[k + 1] - ts[k])
    return np.array(x, float), np.array(y, float), np.array(dt, float)


def covariance(law):
    return np.asarray(law.roots[0] @ law.roots[0].T)


def law_after(model, ys, ts=None, t=None):
    """What is predicted once some states were seen."""
    ts = np.arange(len(ys)) if ts is None else ts
    carry = model.start()
    for time, y in zip(ts, ys):
        carry = model.see(carry, jnp.asarray(time, jnp.float32), jnp.asarray(y))
    return model.law(carry, jnp.asarray(ts[-1] + 1 if t is None else t, jnp.float32))


# Fits against closed forms.


@pytest.mark.parametrize("burn", [0, 1, 3])
def test_var1_is_least_squares(burn):
    x, y, _ = transitions(paths(), burn)
    u = np.column_stack([x, np.ones(len(x))])
    solution = np.linalg.lstsq(u, y, rcond=None)[0]
    r = y - u @ solution
    model = baselines.var1(paths(), burn=burn)
    np.testing.assert_allclose(model.matrix, solution[:2].T, atol=1e-5)
    np.testing.assert_allclose(model.bias, solution[2], atol=1e-5)
    law = law_after(model, [[3.0, 3.0], [0.5, -2.0]])
    np.testing.assert_allclose(law.means[0], np.array([0.5, -2.0, 1.0]) @ solution, atol=1e-4)
    np.testing.assert_allclose(covariance(law), r.T @ r / len(r), atol=1e-5)


def test_var1_is_recovered_within_its_standard_errors():
    model = baselines.var1(many())
    x, y, _ = transitions(many())
    u = np.column_stack([x, np.ones(len(x))])
    errors = np.sqrt(np.outer(np.diagonal(C), np.diagonal(np.linalg.inv(u.T @ u))))
    z = (np.column_stack([model.matrix, model.bias]) - np.column_stack([F, B])) / errors
    assert np.abs(z).max() < 3.5
    assert np.abs(errors).max() < 0.02


def test_iid_is_the_mean_and_covariance_of_the_predicted_states():
    _, y, _ = transitions(paths())
    law = law_after(baselines.iid(paths()), [[9.0, 9.0]])
    np.testing.assert_allclose(law.means[0], y.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(covariance(law), np.cov(y.T, bias=True), rtol=1e-4)


def test_a_random_walk_spreads_with_the_gap():
    """Uneven times; the covariance of greatest likelihood is that of steps over root gaps."""
    rng = np.random.default_rng(3)
    rows = []
    for n in (20, 35, 5):
        ts = np.cumsum(rng.exponential(size=n))
        ys = np.cumsum(rng.normal(size=(n, 2)) * np.sqrt(np.diff(ts, prepend=0))[:, None], axis=0)
        rows.append(Trajectory.from_arrays(ys, ts, dtype=np.float32))
    batch = stack(rows)
    x, y, dt = transitions(batch)
    r = (y - x) / np.sqrt(dt)[:, None]
    model = baselines.random_walk(batch)
    law = law_after(model, [[1.0, 2.0]], ts=[0.5], t=3.5)
    np.testing.assert_allclose(law.means[0], [1.0, 2.0])
    np.testing.assert_allclose(covariance(law), 3 * r.T @ r / len(r), rtol=2e-4)
    assert np.isfinite(law_after(model, [[1.0, 2.0]], ts=[0.5], t=0.5).logpdf(jnp.ones(2)))


@pytest.mark.parametrize("order", [1, 3])
def test_autoregression_is_ridge_regression_of_the_last_states(order):
    x, y, _ = transitions(paths(), order=order)
    dim, ridge = x.shape[1], 0.03
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    penalty = ridge * np.mean(np.sum(xc**2, axis=0)) * np.eye(dim)
    f = np.linalg.solve(xc.T @ xc + penalty, xc.T @ yc)
    r = yc - xc @ f
    model = baselines.autoregression(paths(), order, ridge=ridge)
    seen = np.array([[3.0, 3.0], [0.5, -2.0]])  # fewer than three: the oldest is repeated
    features = np.concatenate([seen[max(1 - j, 0)] for j in range(order)])
    law = law_after(model, seen)
    expected = y.mean(axis=0) + (features - x.mean(axis=0)) @ f
    np.testing.assert_allclose(law.means[0], expected, atol=1e-4)
    np.testing.assert_allclose(covariance(law), r.T @ r / len(r), atol=1e-5)


def test_the_ridge_is_the_one_that_predicts_left_out_rows_best():
    """Against leaving rows out by hand, on states whose dimension is large for so few rows."""
    rng = np.random.default_rng(1)
    batch = simulated((9,) * 8, np.diag(rng.uniform(0, 0.6, 12)), np.zeros(12), np.eye(12), seed=7)
    chosen = float(baselines.autoregression(batch, 1).ridge)
    ys = np.asarray(batch.ys, float)
    errors = {}
    for ridge in np.logspace(-4, 2, 19):
        total = 0.0
        for k in range(8):
            x, y, left = *transitions_of(np.delete(ys, k, axis=0)), transitions_of(ys[[k]])
            xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
            penalty = ridge * np.mean(np.sum(xc**2, axis=0)) * np.eye(12)
            f = np.linalg.solve(xc.T @ xc + penalty, xc.T @ yc)
            r = left[1] - y.mean(axis=0) - (left[0] - x.mean(axis=0)) @ f
            total += (r**2 / transitions_of(ys)[1].var(axis=0)).sum()
        errors[ridge] = total
    best = min(errors, key=lambda ridge: errors[ridge])
    assert chosen == pytest.approx(best) and 1e-3 < best < 50


def transitions_of(ys):
    return ys[:, 1:-1].reshape(-1, ys.shape[2]), ys[:, 2:].reshape(-1, ys.shape[2])


def test_a_long_memory_is_found_by_a_higher_order_only():
    rng = np.random.default_rng(2)
    ys = rng.normal(size=(60, 40, 1))
    for k in range(2, 40):
        ys[:, k] = 0.9 * ys[:, k - 2] + 0.4 * rng.normal(size=(60, 1))
    batch = stack([Trajectory.from_arrays(y, dtype=np.float32) for y in ys])
    two = baselines.autoregression(batch, 2)
    np.testing.assert_allclose(two.matrices[:, 0, 0], [0, 0.9], atol=0.03)
    assert covariance(law_after(two, ys[0, :3]))[0, 0] == pytest.approx(0.16, rel=0.1)
    assert abs(float(baselines.var1(batch).matrix[0, 0])) < 0.15


def test_states_of_deficient_rank_do_not_blow_up():
    """A component that repeats another, and one that never moves."""
    ys = np.asarray(many().ys)[:20]
    ys = np.concatenate([ys, ys[:, :, :1], np.full_like(ys[:, :, :1], 3.0)], axis=2)
    batch = stack([Trajectory.from_arrays(y) for y in ys])
    for fit in (baselines.var1, baselines.iid, baselines.random_walk):
        law = law_after(fit(batch), ys[0, :4])
        assert np.isfinite(law.logpdf(jnp.asarray(ys[0, 4]))), fit
    model = baselines.var1(batch)
    assert np.abs(model.matrix).max() < 1.5
    np.testing.assert_allclose(model.matrix[:, 0], model.matrix[:, 2], atol=1e-4)
    assert str(baselines.ou(batch)) == "none (the states do not span all their dimensions)"


def test_a_far_mean_costs_no_digits():
    far = eqx.tree_at(
        lambda p: p.ys, paths(), paths().ys + jnp.where(paths().mask, 1e3, 0)[..., None]
    )
    near, moved = baselines.var1(paths()), baselines.var1(far)
    np.testing.assert_allclose(moved.matrix, near.matrix, atol=1e-3)
    assert np.abs(np.asarray(moved.root) - near.root).max() < 1e-3


def test_a_root_is_a_cholesky_factor_also_of_what_is_singular():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(5, 3))
    for c in (half @ half.T, half.T @ half, np.zeros((2, 2))):
        root = root_of(c)
        assert (np.diagonal(root) > 0).all() and np.array_equal(root, np.tril(root))
        np.testing.assert_allclose(root @ root.T, c, atol=1e-8)


# Ornstein-Uhlenbeck.

A = np.array([[-0.3, 0.9], [-0.9, -0.5]])
S = np.array([[0.6, 0.1], [0.1, 0.3]])


def exact(dt):
    """F and Q by Van Loan's matrix; the eigenvalues are small enough for it."""
    block = expm(np.block([[A, S], [np.zeros((2, 2)), -A.T]]) * dt)
    return block[:2, :2], block[:2, 2:] @ block[:2, :2].T


@functools.cache
def process(gap=0.5):
    f, q = exact(gap)
    return baselines.ou(simulated((60,) * 200, f, (np.eye(2) - f) @ [1.0, 2.0], q, 4, gap))


def test_ou_is_the_var1_at_the_data_step(gap=0.5):
    f, q = exact(gap)
    batch = simulated((60,) * 200, f, (np.eye(2) - f) @ [1.0, 2.0], q, 4, gap)
    var1, ou = baselines.var1(batch), process()
    np.testing.assert_allclose(
        ou.matrix, logm(np.asarray(var1.matrix, float)).real / gap, atol=1e-4
    )
    one, two = law_after(var1, [[0.3, 1.0]]), law_after(ou, [[0.3, 1.0]], ts=[2.0], t=2.0 + gap)
    np.testing.assert_allclose(one.means, two.means, atol=1e-5)
    np.testing.assert_allclose(one.roots, two.roots, atol=1e-5)
    np.testing.assert_allclose(ou.matrix, A, atol=0.1)
    np.testing.assert_allclose(ou.noise, S, atol=0.05)


@pytest.mark.parametrize("dt", [1e-4, 0.02, 0.49, 1.7, 40.0])
def test_ou_is_exact_over_any_gap(dt):
    ou = process()
    a, s, c = (np.asarray(x, float) for x in (ou.matrix, ou.noise, ou.bias))
    f = expm(a * dt)
    h, q = dt / 64, np.zeros((2, 2))
    node, weight = np.polynomial.legendre.leggauss(6)
    for k in range(64):
        for x, w in zip(node, weight):
            e = expm(a * (k + 0.5 + 0.5 * x) * h)
            q += 0.5 * h * w * e @ s @ e.T
    y = np.array([3.0, -1.0])
    law = law_after(ou, [y], ts=[1.0 if dt > 1e-3 else 0.0], t=(1.0 if dt > 1e-3 else 0.0) + dt)
    mean = f @ y + np.linalg.solve(a, (f - np.eye(2)) @ c)
    np.testing.assert_allclose(law.means[0], mean, atol=2e-5)
    np.testing.assert_allclose(covariance(law), q, rtol=1e-3, atol=1e-5 * q.max())


def test_ou_as_an_sde_has_its_drift_and_noise():
    ou = process()
    sde = ou.sde()
    y = jnp.asarray([0.2, 0.9])
    np.testing.assert_allclose(sde.drift(0.0, y), ou.matrix @ y + ou.bias, rtol=1e-6)
    np.testing.assert_allclose(sde.diffusion.covariance(0.0, y).as_matrix(), ou.noise, rtol=1e-5)
    assert (np.abs(np.linalg.solve(ou.matrix, -np.asarray(ou.bias)) - [1.0, 2.0]) < 0.1).all()


def test_a_gap_of_zero_has_a_density_and_a_finite_gradient():
    ou = process()

    def density(t, y):
        return ou.law(ou.see(ou.start(), jnp.asarray(1.0), y), t).logpdf(y)

    for t in (1.0, 1.25, 1.5):
        value, slope = jax.value_and_grad(density, argnums=1)(jnp.asarray(t), jnp.ones(2))
        assert np.isfinite(value) and np.isfinite(slope).all()


def test_what_is_not_embeddable_prints_none_and_why():
    flips = baselines.ou(simulated((60,) * 20, np.diag([-0.6, 0.5])))
    assert not flips and str(flips).startswith("none (the one-step matrix has an unpaired negative")
    uneven = eqx.tree_at(lambda p: p.ts, paths(), paths().ts ** 2)
    assert str(baselines.ou(uneven)).startswith("none (gaps are uneven")


# Mixture density.


@functools.cache
def jumps():
    """States that go to one of two places, +-2 apart, with odds that depend on the state."""
    rng = np.random.default_rng(6)
    ys = np.zeros((120, 40, 1))
    ys[:, 0] = rng.normal(size=(120, 1))
    for k in range(1, 40):
        up = rng.random((120, 1)) < 1 / (1 + np.exp(-3 * ys[:, k - 1]))
        ys[:, k] = np.where(up, 1.0, -1.0) + 0.2 * rng.normal(size=(120, 1))
    return stack([Trajectory.from_arrays(y, dtype=np.float32) for y in ys])


SMALL = dict(width=16, depth=1, steps=400, batch=128, rate=1e-2)


@functools.cache
def density(diagonal=True):
    return baselines.mixture_density(jumps(), 2, key=jr.key(0), diagonal=diagonal, **SMALL)


def test_mixture_density_finds_odds_places_and_spread():
    model = density()
    for y in (-1.0, 0.2, 1.0):
        law = law_after(model, [[y]])
        order = np.argsort(law.means[:, 0])
        np.testing.assert_allclose(law.means[order, 0], [-1, 1], atol=0.1)
        np.testing.assert_allclose(law.scales[:, 0], 0.2, atol=0.05)
        odds = np.exp(law.log_weights[order[1]])
        assert odds == pytest.approx(1 / (1 + np.exp(-3 * y)), abs=0.08)


def test_mixture_density_history_is_the_score_of_the_held_out_rows():
    """By default every tenth row; the model is the best of those looked at."""
    model = density()
    held = jax.tree.map(lambda v: v[::10], jumps())
    score = -np.mean([float(v) for v in scored(model, held)[np.asarray(held.mask[:, 2:])]])
    assert score == pytest.approx(float(np.min(model.history)), abs=1e-4)
    x, y, _ = transitions(held)
    truth = np.log(
        sum(
            p * np.exp(-0.5 * ((y - m) / 0.2) ** 2) / (0.2 * np.sqrt(2 * np.pi))
            for p, m in ((1 / (1 + np.exp(-3 * x)), 1.0), (1 / (1 + np.exp(3 * x)), -1.0))
        )
    ).mean()
    assert -truth - 0.02 < score < -truth + 0.06


def test_components_with_correlations_find_them():
    """Noise along one diagonal: a diagonal component cannot see it."""
    c = np.array([[1.0, 0.95], [0.95, 1.0]])
    batch = simulated((40,) * 120, 0 * F, 0 * B, c, seed=9)
    model = baselines.mixture_density(batch, 1, key=jr.key(0), diagonal=False, **SMALL)
    law = law_after(model, [[0.0, 0.0]])
    np.testing.assert_allclose(covariance(law), c, atol=0.15)
    diagonal = baselines.mixture_density(batch, 1, key=jr.key(0), **SMALL)
    one, two = (np.asarray(m.history) for m in (diagonal, model))
    gain = float(one[-1] - two[-1])
    assert gain == pytest.approx(-0.25 * np.log(1 - 0.95**2), abs=0.05)  # per dimension


def test_mixture_density_does_not_depend_on_the_units():
    moved = eqx.tree_at(lambda p: p.ys, jumps(), 50 * jumps().ys + 300)
    model = baselines.mixture_density(moved, 2, key=jr.key(0), **SMALL)
    y = np.array([0.4])
    here = law_after(density(), [y]).logpdf(jnp.asarray([0.9], jnp.float32))
    there = law_after(model, [50 * y + 300]).logpdf(jnp.asarray([345.0], jnp.float32))
    assert float(there) == pytest.approx(float(here) - np.log(50), abs=0.05)


def test_rows_to_choose_by_can_be_given():
    valid = jax.tree.map(lambda v: v[:5], jumps())
    model = baselines.mixture_density(jumps(), 2, key=jr.key(0), valid=valid, **SMALL)
    score = -np.mean(scored(model, valid)[np.asarray(valid.mask[:, 2:])])
    assert score == pytest.approx(float(np.min(model.history)), abs=1e-4)


def test_clusters_are_found():
    rng = np.random.default_rng(0)
    truth = np.array([[0, 0], [8, 0], [0, 8], [8, 8.0]])
    points = truth[rng.integers(0, 4, 400)] + rng.normal(size=(400, 2))
    centres, member = clusters(jnp.asarray(points, jnp.float32), 4, key=jr.key(1))
    found = np.asarray(centres)[np.lexsort(np.round(np.asarray(centres) / 8).T)]
    np.testing.assert_allclose(found, truth[np.lexsort((truth / 8).T)], atol=0.5)
    away = ((points[:, None] - np.asarray(centres)) ** 2).sum(axis=2)
    assert np.array_equal(member, away.argmin(axis=1))


# The null, and one interface.


def test_shuffling_keeps_each_rows_states_and_loses_their_order():
    shuffled = baselines.time_shuffled(paths(), seed=3)
    assert np.array_equal(shuffled.ts, paths().ts) and np.array_equal(shuffled.mask, paths().mask)
    for a, b, n in zip(np.asarray(paths().ys), np.asarray(shuffled.ys), LENGTHS):
        assert np.array_equal(np.sort(a[:n], axis=0), np.sort(b[:n], axis=0))
        assert {tuple(y) for y in a[:n]} == {tuple(y) for y in b[:n]} and not b[n:].any()
    whole = baselines.time_shuffled(many(), seed=0)
    assert np.abs(baselines.var1(whole).matrix).max() < 0.05
    again, other = (baselines.time_shuffled(paths(), seed=k).ys for k in (3, 4))
    assert np.array_equal(again, shuffled.ys) and not np.array_equal(other, shuffled.ys)


def one_dimensional():
    return jumps()


MODELS = {
    "random walk": lambda: baselines.random_walk(jumps()),
    "iid": lambda: baselines.iid(jumps()),
    "var1": lambda: baselines.var1(jumps()),
    "ou": lambda: baselines.ou(jumps()),
    "autoregression": lambda: baselines.autoregression(jumps(), 3),
    "switching": lambda: baselines.switching(jumps(), 2, key=jr.key(0), iterations=5, restarts=1),
    "density": lambda: density(),
    "full density": lambda: density(False),
}


def predicted(model, path, start=0):
    """The log density, mean and distribution function at each next state."""

    def step(carry, x):
        t, y, t_next, y_next = x
        carry = model.see(carry, t, y)
        law = model.law(carry, t_next)
        return carry, (law.logpdf(y_next), law.mean(), law.cdf(y_next))

    return jax.lax.scan(step, model.start(), (path.ts[:-1], path.ys[:-1], path.ts[1:], path.ys[1:]))


@eqx.filter_jit
def scored_all(model, batch):
    return jax.vmap(lambda path: predicted(model, path)[1])(batch)


def scored(model, batch):
    return np.asarray(scored_all(model, batch)[0])[:, 1:]


@pytest.mark.parametrize("name", MODELS)
def test_every_baseline_keeps_the_interface(name):
    """Its laws are laws; a scan under `vmap` and `jit` says what one step after another says."""
    model = MODELS[name]()
    batch = jax.tree.map(lambda v: v[:4], jumps())
    log, mean, cdf = scored_all(model, batch)
    assert np.isfinite(log).all() and ((cdf >= 0) & (cdf <= 1)).all()
    path = jax.tree.map(lambda v: v[2], batch)
    law = law_after(model, np.asarray(path.ys[:6]))
    assert float(law.logpdf(path.ys[6])) == pytest.approx(float(log[2, 5]), abs=1e-4)
    np.testing.assert_allclose(law.mean(), mean[2, 5], atol=1e-5)

    grid = np.linspace(-12, 12, 6001)
    p = np.exp(np.asarray(jax.vmap(law.logpdf)(jnp.asarray(grid[:, None], jnp.float32)), float))
    h = grid[1] - grid[0]
    assert p.sum() * h == pytest.approx(1, abs=1e-3)
    assert (grid * p).sum() * h == pytest.approx(float(law.mean()[0]), abs=1e-3)
    for y in (-1.0, 0.3):
        below = p[grid <= y].sum() * h
        assert float(law.cdf(jnp.asarray([y]))[0]) == pytest.approx(below, abs=5e-3)
    draws = jax.vmap(law.sample)(jr.split(jr.key(5), 4000))
    assert float(draws.mean()) == pytest.approx(float(law.mean()[0]), abs=0.06)


def test_a_log_density_is_that_of_scipy():
    law = law_after(baselines.var1(paths()), [[0.1, 0.2]])
    truth = multivariate_normal(np.asarray(law.means[0]), covariance(law))
    assert float(law.logpdf(jnp.asarray([0.5, -1.0]))) == pytest.approx(
        truth.logpdf([0.5, -1.0]), rel=1e-4
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(paths=None), "Pass a batch of paths"),
        (dict(burn=-1), "`burn` is -1"),
        (dict(burn=40), "0 transitions after the first 40 states"),
        (dict(order=0), "`order` is 0"),
        (dict(ridge=-1.0), "`ridge` is -1.0"),
    ],
)
def test_wrong_arguments_are_named(change, words, unchecked):
    given = dict(paths=paths(), order=1) | change
    if given["paths"] is None:
        given["paths"] = jax.tree.map(lambda v: v[0], paths())
    with pytest.raises(ValueError, match=words):
        baselines.autoregression(given.pop("paths"), given.pop("order"), **given)


def test_a_state_that_is_not_finite_is_named():
    bad = eqx.tree_at(lambda p: p.ys, paths(), paths().ys.at[1, 4].set(jnp.nan))
    with pytest.raises(ValueError, match=r"`paths.ys\[1, 4\]` is not finite"):
        baselines.var1(bad)
    padding = eqx.tree_at(lambda p: p.ys, paths(), paths().ys.at[2, 20].set(jnp.nan))
    assert np.array_equal(baselines.var1(padding).matrix, baselines.var1(paths()).matrix)


FITS = {
    "random walk": baselines.random_walk,
    "iid": baselines.iid,
    "var1": baselines.var1,
    "ou": baselines.ou,
    "autoregression": lambda rows: baselines.autoregression(rows, 3),
    "switching": lambda rows: baselines.switching(rows, 2, key=jr.key(0), iterations=3, restarts=2),
    "density": lambda rows: baselines.mixture_density(
        rows, 2, key=jr.key(0), **SMALL | dict(steps=20)
    ),
    "shuffled": lambda rows: zeroed(baselines.time_shuffled(rows, seed=0)),
}


def zeroed(rows):
    return eqx.tree_at(lambda p: p.ys, rows, jnp.where(rows.mask[:, :, None], rows.ys, 0))


@pytest.mark.parametrize("name", FITS)
def test_what_stands_in_the_padding_changes_no_fit(name):
    poisoned = eqx.tree_at(
        lambda p: p.ys, paths(), jnp.where(paths().mask[:, :, None], paths().ys, jnp.nan)
    )
    one, two = (jax.tree.leaves(FITS[name](rows)) for rows in (paths(), poisoned))
    assert len(one) == len(two) > 0
    for a, b in zip(one, two):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(np.asarray(a, float)).all()
