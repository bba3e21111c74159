"""Losses through a simulation: `solve` against `rollout`, closed forms, forecasts, composition."""

from functools import partial

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy.stats import norm as normal

from dynlm import SDE, Trajectory, diffusions, drifts, problems, rollout, solve, stack
from dynlm.losses import (
    autocovariance_distance,
    continuation,
    crps,
    each,
    energy_score,
    forecast_error,
    kernel_score,
    marginal_distance,
    mmd,
    set_simulated,
    simulated,
    weighted,
)

KEY = jr.key(21)


def model(dtype=None):
    sde = SDE(
        drifts.MLP(2, width=6, depth=1, key=jr.key(1)),
        diffusions.Diagonal.learned(2, width=5, depth=1, key=jr.key(2)),
    )
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, sde)


def observed(dtype=jnp.float32, lengths=(5, 3, 1, 4)):
    """Paths of uneven times of their own, padded; the first starts late, the last holds nothing."""
    rng = np.random.default_rng(0)
    paths = [
        Trajectory.from_arrays(
            rng.normal(size=(n, 2)), 3.0 * i + np.cumsum(rng.uniform(0.1, 0.5, n)), dtype=dtype
        )
        for i, n in enumerate(lengths)
    ]
    nothing = Trajectory.from_arrays(np.zeros((5, 2)), np.zeros(5), np.zeros(5, bool), dtype=dtype)
    return stack([*paths, nothing], 5)


@eqx.filter_jit
def value_and_gradient(loss, sde, paths, key=KEY):
    """By the model and the observed states."""

    def of(differentiated):
        sde, ys = differentiated
        return loss(sde, eqx.tree_at(lambda p: p.ys, paths, ys), key)

    value, (by_sde, by_ys) = eqx.filter_value_and_grad(of)((sde, paths.ys))
    return value, (eqx.filter(by_sde, eqx.is_inexact_array), by_ys)


def close(a, b, rtol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


def finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


# Through a simulation -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["score", pytest.param("set", marks=pytest.mark.slow)])
def test_solve_and_rollout_give_one_loss_and_one_gradient(kind, x64):
    """On shared noise, over uneven times of each path's own, padding and paths of nothing."""
    make = {
        "score": lambda simulate: simulated(
            energy_score, simulate=simulate, draws=3, substeps=2, solver=dfx.Euler()
        ),
        "set": lambda simulate: set_simulated(marginal_distance, simulate=simulate, draws=2),
    }[kind]
    sde, paths = model(jnp.float64), observed(jnp.float64)
    by_solve, by_rollout = (value_and_gradient(make(f), sde, paths) for f in (solve, rollout))
    close(by_solve, by_rollout, rtol=1e-9)
    assert finite(by_rollout) and all(
        float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(by_rollout)
    )


def test_the_gradient_through_the_solver_is_that_of_finite_differences(x64):
    sde, paths = model(jnp.float64), observed(jnp.float64)
    loss = weighted(
        (1.0, simulated(partial(kernel_score, scales=(0.7,)), simulate=rollout, draws=2)),
        (0.3, set_simulated(partial(mmd, scales=(0.7, 1.5)), simulate=rollout)),
    )
    _, (by_sde, by_ys) = value_and_gradient(loss, sde, paths)
    learned, rest = eqx.partition(sde, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(learned)
    keys = jr.split(jr.key(5), len(leaves))
    along = structure.unflatten([jr.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves)])
    ys_along = jr.normal(jr.key(6), paths.ys.shape, float)

    def at(e):
        moved = jax.tree.map(lambda x, v: x + e * v, learned, along)
        ys = eqx.tree_at(lambda p: p.ys, paths, paths.ys + e * ys_along)
        return value_and_gradient(loss, eqx.combine(moved, rest), ys)[0]

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    expected = sum(
        jnp.vdot(g, v)
        for g, v in zip(jax.tree.leaves((by_sde, by_ys)), jax.tree.leaves((along, ys_along)))
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-7)


def test_the_loss_is_the_mean_score_of_the_draws_of_each_path():
    """Draw j of path i is path 3 i + j of a rollout; paths without a step weigh nothing."""
    sde, paths = model(), observed()
    loss = simulated(forecast_error, simulate=rollout, draws=3, substeps=2)
    got = eqx.filter_jit(loss)(sde, paths, KEY)
    errors = []
    for i, n in ((0, 5), (1, 3), (3, 4)):
        path = jax.tree.map(lambda x: x[i], paths)  # noqa: B023
        y0s, ts = jnp.tile(path.ys[:1], (3, 1)), jnp.tile(path.ts[None], (3, 1))
        draws = np.asarray(rollout(sde, y0s, ts, key=KEY, substeps=2, first=3 * i).ys)[:, 1:n]
        off = draws - np.asarray(path.ys)[1:n]
        errors.append(np.mean([off[a] * off[b] for a in range(3) for b in range(3) if a != b]))
    np.testing.assert_allclose(got, np.mean(errors), rtol=1e-5)


def ornstein_uhlenbeck(rate=1.0, noise=0.8):
    return SDE(drifts.Linear(-rate * jnp.eye(1), jnp.zeros(1)), diffusions.Scalar(noise, 1))


def euler_paths(number, gaps, key, sde=None, start=1.0):
    """Paths of the Euler scheme with one step a gap, which is what the losses simulate."""
    sde = ornstein_uhlenbeck() if sde is None else sde
    first, then = jr.split(key)
    y0s = start * jr.normal(first, (number, 1))
    return rollout(sde, y0s, np.append(0.0, np.cumsum(gaps)), key=then)


def near(values, expected):
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


def test_the_loss_of_one_step_is_the_closed_form_of_its_gaussian(getkey):
    """The mean over many paths of the score of N(y - y h, 0.64 h), with two draws for each."""
    paths = euler_paths(4000, [0.5], getkey())
    y, o = np.asarray(paths.ys[:, 0, 0]), np.asarray(paths.ys[:, 1, 0])
    s = 0.8 * np.sqrt(0.5)
    z = (o - 0.5 * y) / s
    exact = s * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / np.sqrt(np.pi))
    loss = eqx.filter_jit(simulated(energy_score, simulate=rollout, draws=2))
    near([loss(ornstein_uhlenbeck(), paths, getkey()) for _ in range(60)], exact.mean())


@pytest.mark.parametrize(
    "loss",
    [
        set_simulated(partial(mmd, scales=(0.5, 1.0)), simulate=rollout, draws=2),
        set_simulated(marginal_distance, simulate=rollout),
        set_simulated(
            partial(autocovariance_distance, lags=(0, 1), centre=jnp.zeros(1)),
            simulate=rollout,
            horizon=2,
            every=1,
        ),
    ],
    ids=["mmd", "marginal", "autocovariance"],
)
def test_set_losses_are_zero_in_expectation_for_the_true_model(loss, getkey):
    """Over small observed sets; and above zero for half the noise."""

    def of(sde, key):
        data, key = jr.split(key)
        return loss(sde, euler_paths(5, [0.5, 0.2, 0.5], data), key)

    run = eqx.filter_jit(eqx.filter_vmap(of, in_axes=(None, 0)))
    near(run(ornstein_uhlenbeck(), jr.split(getkey(), 4000)), 0.0)
    wrong = run(ornstein_uhlenbeck(noise=0.2), jr.split(getkey(), 4000))
    assert wrong.mean() > 8 * wrong.std() / 4000**0.5


@pytest.mark.parametrize(
    "score",
    [
        energy_score,
        pytest.param(partial(kernel_score, scales=(0.3, 1.0)), marks=pytest.mark.slow),
    ],
    ids=["energy", "kernel"],
)
def test_descent_of_a_path_score_recovers_the_model(score, getkey):
    paths = euler_paths(512, [0.3] * 4, getkey())
    loss = simulated(score, simulate=rollout, draws=4)
    optimiser = optax.adam(0.05)

    @jax.jit
    def fit(parameters, key):
        def step(carry, key):
            parameters, state = carry
            gradient = jax.grad(lambda p: loss(ornstein_uhlenbeck(*p), paths, key))(parameters)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(parameters, updates), state), parameters

        start = (parameters, optimiser.init(parameters))
        (_, _), seen = jax.lax.scan(step, start, jr.split(key, 250))
        return jax.tree.map(lambda x: jnp.mean(x[-80:]), seen)

    with jax.numpy_dtype_promotion("standard"):  # which Adam needs
        rate, noise = fit((jnp.array(0.3), jnp.array(0.3)), getkey())
    y = np.asarray(paths.ys[:, :, 0], np.float64)
    best = -np.sum(y[:, :-1] * np.diff(y)) / np.sum(y[:, :-1] ** 2) / 0.3  # maximum likelihood
    spread = np.sqrt(np.mean((np.diff(y) + 0.3 * best * y[:, :-1]) ** 2) / 0.3)
    assert abs(float(rate) - best) < 0.12 and abs(float(noise) - spread) < 0.05
    assert abs(best - 1) < 0.12 and abs(spread - 0.8) < 0.05


@pytest.mark.parametrize("simulate", [rollout, pytest.param(solve, marks=pytest.mark.slow)])
def test_gradients_are_finite_without_noise_and_without_paths(simulate):
    """Draws that coincide, beside paths of nothing; and a batch of padding."""
    paths = observed()
    nothing = jax.tree.map(jnp.zeros_like, paths)
    still = SDE(drifts.Linear(-jnp.eye(2), jnp.zeros(2)), diffusions.Scalar(jnp.array(0.0), 2))
    loss = weighted(
        (1.0, simulated(energy_score, simulate=simulate, draws=2)),
        (1.0, set_simulated(marginal_distance, simulate=simulate)),
    )
    value, gradients = value_and_gradient(loss, still, paths)
    assert float(value) != 0 and finite(gradients)
    value, gradients = value_and_gradient(loss, still, nothing)
    assert float(value) == 0
    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("simulate", [rollout, pytest.param(solve, marks=pytest.mark.slow)])
def test_paths_of_nothing_do_not_start_where_the_model_has_no_derivative(simulate):
    """At zero, where the diffusion is a square root."""
    some = stack(
        [
            Trajectory.from_arrays(np.array([0.4, 0.5, 0.3], np.float32)),
            Trajectory.from_arrays(np.zeros(3, np.float32), mask=[False] * 3),
        ]
    )
    loss = simulated(crps, simulate=simulate, draws=2, substeps=8)
    assert finite(value_and_gradient(loss, problems.cir().sde, some))


# Forecasts from within a path -------------------------------------------------------------------


def test_continuations_begin_in_the_last_state_of_the_prefix():
    path = jax.tree.map(lambda x: x[0], observed(lengths=(4,)))  # and one step of padding
    for prefix in (1, 2, 3, 4):
        rest = continuation(path, prefix)
        np.testing.assert_array_equal(rest.ys, path.ys[prefix - 1 :])
        np.testing.assert_array_equal(rest.ts, path.ts[prefix - 1 :])
        moved = jax.jit(continuation)(path, jnp.array(prefix))
        assert moved.ts.shape == (5,) and int(moved.length) == int(rest.length) == 5 - prefix
        np.testing.assert_array_equal(moved.ys[: 6 - prefix], rest.ys)
        np.testing.assert_array_equal(moved.ts[: 6 - prefix], rest.ts)
        np.testing.assert_array_equal(moved.ts[6 - prefix :], path.ts[-1])
        assert not np.any(moved.ys[5 - prefix :])
    for prefix in (0, 5, 6, 9):
        assert int(continuation(path, jnp.array(prefix)).length) == 0


def test_a_prefix_scores_the_continuation_and_a_horizon_scores_windows():
    sde, paths = model(), observed(lengths=(5, 4, 3))
    whole = simulated(energy_score, simulate=rollout, draws=2)
    forecasts = simulated(energy_score, simulate=rollout, draws=2, prefix=2, horizon=2, every=1)
    windows = jax.vmap(lambda path: path[1:].windows(3, 1))(paths)
    windows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), windows)
    assert windows.ts.shape == (8, 3)
    np.testing.assert_allclose(forecasts(sde, paths, KEY), whole(sde, windows, KEY), rtol=1e-6)
    parts, which = forecasts.simulator.observed(paths)
    close(parts, windows, rtol=0)
    np.testing.assert_array_equal(which, [0, 0, 1, 1, 2, 2, 3, 3])
    after = simulated(crps, simulate=rollout, draws=2, prefix=2).simulator.observed(paths)[0]
    close(after, jax.tree.map(lambda x: x[:, 1:], paths), rtol=0)
    apart = simulated(crps, simulate=rollout, draws=2, horizon=2).simulator.observed(paths)[0]
    np.testing.assert_array_equal(apart.ys[:2, 0], paths.ys[0, ::2][:2])


# Composition ------------------------------------------------------------------------------------


def squared_steps(model, path):
    seen = path.mask[:-1] & path.mask[1:]
    steps = jnp.sum(jnp.diff(path.ys, axis=0) ** 2, axis=1)
    return model * jnp.sum(jnp.where(seen, steps, 0)) / jnp.maximum(jnp.sum(seen, dtype=float), 1)


def drawn(model, path, key):
    return model * jr.normal(key) + 0 * path.ys[0, 0]


def test_the_loss_of_a_batch_is_the_mean_over_its_transitions():
    paths = observed()
    ys, mask = np.asarray(paths.ys), np.asarray(paths.mask)
    steps = [np.sum((y[1:] - y[:-1]) ** 2, axis=1)[m[1:]] for y, m in zip(ys, mask)]
    got = each(squared_steps)(jnp.array(2.0), paths, KEY)
    np.testing.assert_allclose(got, 2 * np.concatenate(steps).mean(), rtol=1e-5)
    nothing = eqx.tree_at(lambda p: p.mask, paths, jnp.zeros_like(paths.mask))
    assert finite(jax.grad(each(squared_steps))(jnp.array(2.0), nothing, KEY))
    assert float(each(squared_steps)(jnp.array(2.0), nothing, KEY)) == 0
    transitions = np.maximum(mask.sum(axis=1) - 1, 0)
    own = np.array([jr.normal(jr.fold_in(KEY, i)) for i in range(len(mask))])
    expected = (transitions * own).sum() / transitions.sum()
    np.testing.assert_allclose(each(drawn)(jnp.array(1.0), paths, KEY), expected, rtol=1e-5)


def test_a_weighted_sum_gives_each_loss_a_key_of_its_own():
    paths, one = observed(), jnp.array(1.0)
    a, b = jr.split(KEY)
    got = weighted((2.0, each(drawn)), (0.5, each(drawn)))(one, paths, KEY)
    parts = [float(each(drawn)(one, paths, k)) for k in (a, b)]
    assert abs(parts[0] - parts[1]) > 1e-3
    np.testing.assert_allclose(got, 2 * parts[0] + 0.5 * parts[1], rtol=1e-5)


def losses():
    scales = partial(kernel_score, scales=(0.5, 1.0))
    return weighted(
        (1.0, each(squared_steps)),
        (0.5, simulated(scales, simulate=rollout, draws=2, solver=dfx.Euler())),
    )


def test_losses_that_are_alike_are_one_to_jit():
    assert each(squared_steps) == each(squared_steps) != each(drawn)
    assert losses() == losses() and hash(losses()) == hash(losses())
    assert simulated(crps, simulate=rollout, draws=2) != simulated(crps, simulate=rollout, draws=3)
    paths, traced = observed(), []

    def counted(model, path):
        traced.append(path)
        return squared_steps(model, path)

    @eqx.filter_jit
    def run(loss, model, key):
        return loss(model, paths, key)

    for weight in (1.0, 1.0):
        run(weighted((weight, each(counted)), (0.5, each(drawn))), jnp.array(1.0), KEY)
    for weight in (1.0, 2.0):
        run(weighted((jnp.array(weight), each(counted))), jnp.array(1.0), KEY)
    assert len(traced) == 2
    alike = each(counted), each(counted)
    for loss in alike:
        jax.jit(loss)(jnp.array(1.0), paths, KEY)
    assert len(traced) == 3


def test_what_is_wrong_is_said(unchecked):
    sde, paths = model(), observed()
    one = jax.tree.map(lambda x: x[0], paths)
    make = dict(simulate=rollout, draws=2)
    cases = {
        "`simulate` is .* Pass `dynlm.rollout`": lambda: simulated(crps, simulate=len, draws=2),
        "`draws` is 0": lambda: simulated(crps, simulate=rollout, draws=0),
        "`substeps` is 1.5": lambda: simulated(crps, **make, substeps=1.5),
        "`every` is 2, but `horizon` is None": lambda: simulated(crps, **make, every=2),
        "`horizon` is 5. Pass longer": lambda: simulated(crps, **make, horizon=5)(sde, paths, KEY),
        "`prefix` is 5, and the path": lambda: simulated(crps, **make, prefix=5)(sde, paths, KEY),
        "Pass a batch": lambda: simulated(crps, **make)(sde, one, KEY),
        "`paths` is one path": lambda: set_simulated(marginal_distance, simulate=rollout)(
            sde, jax.tree.map(lambda x: x[:1], paths), KEY
        ),
        "`draws` is a single draw": lambda: simulated(crps, simulate=rollout, draws=1)(
            sde, paths, KEY
        ),
        "`terms` is empty": lambda: weighted(),
        "Pass pairs of a weight and a loss": lambda: weighted((crps, 1.0)),
    }
    for message, wrong in cases.items():
        with pytest.raises(ValueError, match=message):
            wrong()
