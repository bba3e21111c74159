import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import RESULTS, SDE, CounterBrownianPath, Langevin, diffusions, drifts, problems, solve

TS = np.linspace(0.0, 1.0, 5)
KEY = jr.key(7)


def gbm():
    return problems.gbm(mu=0.3, sigma=0.4)


def test_saved_states_are_the_solvers_own_steps():
    """Euler by hand on the same increments: every saved state, none interpolated."""
    p = gbm()
    sol = solve(p.sde, p.y0, TS, key=KEY, dt=1 / 16)
    path, y, ys = CounterBrownianPath((1,), KEY, 1 / 16), p.y0, [p.y0]
    for k in range(16):
        dw = path.evaluate(jnp.array(k / 16), jnp.array((k + 1) / 16))
        y = y + 0.3 * y / 16 + 0.4 * y * dw
        if (k + 1) % 4 == 0:
            ys.append(y)
    np.testing.assert_allclose(sol.path.ys, jnp.stack(ys), rtol=1e-5)
    np.testing.assert_allclose(sol.path.ts, TS)
    assert sol.path.mask.all() and sol.result == RESULTS.successful
    assert int(sol.stats["num_steps"]) == 16


def test_a_grid_that_dt_does_not_divide_is_landed_on():
    """Gaps of .1, .25 and .65 in steps no longer than .04, by hand."""
    p, ts = gbm(), np.array([0.0, 0.1, 0.35, 1.0])
    sol = solve(p.sde, p.y0, ts, key=KEY, dt=0.04)
    counts = [3, 7, 17]
    grid = np.concatenate([np.linspace(a, b, n + 1)[:-1] for a, b, n in zip(ts, ts[1:], counts)])
    grid = jnp.asarray(np.append(grid, 1.0), jnp.float32)
    path, y, ys = CounterBrownianPath((1,), KEY, ts=grid), p.y0, [p.y0]
    for k in range(len(grid) - 1):
        h = grid[k + 1] - grid[k]
        y = y + 0.3 * y * h + 0.4 * y * path.evaluate(grid[k], grid[k + 1])
        if k + 1 in np.cumsum(counts):
            ys.append(y)
    assert int(sol.stats["num_steps"]) == sum(counts)
    np.testing.assert_allclose(sol.path.ys, jnp.stack(ys), rtol=1e-4)


def test_substeps_with_traced_times_per_path_equals_one_at_a_time():
    p = gbm()
    ts = jnp.array([[0.0, 0.2, 0.7, 1.0], [0.5, 0.6, 0.9, 2.0]])
    keys = jr.split(KEY, 2)

    def one(ts, key):
        return solve(p.sde, p.y0, ts, key=key, substeps=8).path.ys

    together = jax.jit(jax.vmap(one))(ts, keys)
    for i in range(2):
        np.testing.assert_allclose(together[i], one(ts[i], keys[i]), rtol=1e-5)


def test_equal_times_repeat_the_state_and_padding_changes_nothing():
    p = gbm()
    plain = solve(p.sde, p.y0, jnp.array([0.0, 0.3, 1.0]), key=KEY, substeps=4).path.ys
    padded = solve(p.sde, p.y0, jnp.array([0.0, 0.3, 1.0, 1.0, 1.0]), key=KEY, substeps=4).path.ys
    np.testing.assert_allclose(padded[:3], plain, rtol=1e-6)
    np.testing.assert_array_equal(padded[3:], jnp.stack([padded[2]] * 2))
    inside = solve(p.sde, p.y0, np.array([0.0, 0.3, 0.3, 1.0]), key=KEY, dt=0.1).path.ys
    np.testing.assert_array_equal(inside[1], inside[2])


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_gradients_finite_under_padding_equal_times_and_zero_noise(sigma):
    ts = jnp.array([0.0, 0.0, 0.5, 1.0, 1.0])

    def loss(y0, mu, sigma, ts):
        sde = SDE(
            drifts.Function(lambda t, y: mu * y),
            diffusions.Diagonal(lambda t, y: sigma * y, 1, "component"),
        )
        return jnp.sum(solve(sde, y0, ts, key=KEY, substeps=2).path.ys ** 2)

    args = (jnp.ones(1), jnp.array(0.3), jnp.array(sigma), ts)
    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(*args)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in grads)
    assert all(float(jnp.abs(g).max()) > 0 for g in grads[:3])


def test_moments_of_ornstein_uhlenbeck():
    """Mean and covariance of 20,000 paths within four or five standard errors of the exact ones."""
    p, n = (
        problems.ou(theta=jnp.array([[1.0, 0.5], [-0.5, 1.0]]), sigma=0.6, y0=[1.0, -1.0]),
        20_000,
    )
    ends = jax.vmap(
        lambda key: solve(p.sde, p.y0, TS, key=key, dt=1 / 64, solver=dfx.ShARK()).path.ys[-1]
    )(jr.split(KEY, n))
    mean, cov = p.mean(1.0, p.y0), np.asarray(p.covariance(1.0, p.y0))
    assert np.all(np.abs(ends.mean(axis=0) - mean) < 4 * np.sqrt(np.diag(cov) / n))
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert np.all(np.abs(np.cov(np.asarray(ends).T) - cov) < 5 * scale * np.sqrt(2 / n))


def test_moments_of_geometric_brownian_motion():
    """Mean and variance at t = 1 against the closed form, by Milstein's weak order 1."""
    p, n = gbm(), 20_000
    ends = jax.vmap(
        lambda key: solve(p.sde, p.y0, TS, key=key, dt=1 / 64, solver=dfx.ItoMilstein()).path.ys[-1]
    )(jr.split(KEY, n))
    mean, var = p.mean(1.0, p.y0)[0], p.covariance(1.0, p.y0)[0, 0]
    assert abs(ends.mean() - mean) < 4 * np.sqrt(var / n) + 0.01
    assert abs(ends.var() - var) < 6 * var * np.sqrt(2 / n) + 0.01


@pytest.mark.parametrize("name", ["cir", "double_well"])
def test_stationary_laws(name):
    """States after a long time against the exact stationary law, by Kolmogorov-Smirnov."""
    from scipy.stats import kstest

    p = getattr(problems, name)()
    ts = np.array([0.0, 12.0])
    y0s = jr.normal(KEY, (2000, 1))
    y0s = p.y0[None] + y0s**2 if name == "cir" else y0s  # both wells alike

    def end(y0, key):
        return solve(p.sde, y0, ts, key=key, dt=1 / 128).path.ys[-1, 0]

    ends = np.asarray(jax.vmap(end)(y0s, jr.split(KEY, 2000)))
    grid = np.linspace(1e-4 if name == "cir" else -4.0, 6.0 if name == "cir" else 4.0, 4001)
    density = np.exp(
        jax.vmap(lambda x: p.stationary_logpdf(x[None]))(jnp.asarray(grid, jnp.float32))
    )
    cdf = np.cumsum(density) * (grid[1] - grid[0])
    assert abs(cdf[-1] - 1) < 2e-3
    assert kstest(ends, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-3
    assert kstest(ends + 0.15, lambda x: np.interp(x, grid, cdf)).pvalue < 1e-3


@pytest.mark.parametrize("end", [1.0, 120.0, 1000.0])
def test_long_and_late_solves_in_float32(end):
    """The variance of Brownian motion over the last gap, and steps as many as asked for."""
    sde = SDE(drifts.Function(lambda t, y: 0 * y), diffusions.Scalar(1.0, 64))
    ts = np.array([0.0, end - 0.5, end])
    sol = solve(sde, jnp.zeros(64), ts, key=KEY, dt=0.5 / 16)
    assert int(sol.stats["num_steps"]) == round(end / 0.5 * 16)
    last = sol.path.ys[2] - sol.path.ys[1]
    assert 0.2 < float(jnp.mean(last**2)) < 1.0
    late = solve(sde, jnp.zeros(64), ts + 1000.0, key=KEY, dt=0.5 / 16)
    assert late.result == RESULTS.successful


def clock(ts, **arguments):
    """The states of dy = dt with next to no noise: each is the time since the start."""
    sde = SDE(drifts.Function(lambda t, y: 1 + 0 * y), diffusions.Scalar(1e-6, 1))
    return np.asarray(solve(sde, jnp.zeros(1), ts, key=KEY, **arguments).path.ys[:, 0])


@pytest.mark.parametrize(
    ("ts", "arguments"),
    [
        ([1000.0, 1000.5], dict(substeps=64)),
        ([0.0, 1000.0, 1000.01], dict(substeps=1)),
        ([0.0, 1000.0], dict(dt=0.01)),
        ([0.0, 0.3, 1.0, 1.00001], dict(dt=1e-3)),
        ([0.0, 0.37, 100.0, 100.001], dict(dt=0.1)),
        ([0.0, 1e-6, 2e-6, 3e-6], dict(substeps=10)),
        ([0.0, 1e-6, 2.5e-6, 3e-6], dict(dt=3e-7)),
        ([0.0, 1e-6, 1e-6, 2e-6], dict(dt=1e-7)),
    ],
)
def test_states_are_those_of_the_times_asked_for(ts, arguments):
    """And the noise of the last gap is that of its length, however short."""
    times = np.asarray(ts, np.float32)
    late = np.abs(clock(times, **arguments) - (times - times[0]))
    assert late.max() < 3e-5 * (times[-1] - times[0]) + 4e-6
    sde = SDE(drifts.Function(lambda t, y: 0 * y), diffusions.Scalar(1.0, 1000))
    ys = solve(sde, jnp.zeros(1000), times, key=KEY, **arguments).path.ys
    ratio = float(jnp.var(ys[-1] - ys[-2])) / float(times[-1] - times[-2])
    assert 0.8 < ratio < 1.25


def test_gaps_that_are_nearly_even_do_not_drift():
    n = 2000
    gaps = 1 + 0.009 * np.sin(2 * np.pi * np.arange(n) / n)
    ts = np.append(0, np.cumsum(gaps)) / n
    assert np.abs(clock(ts, dt=1 / n) - ts).max() < 0.05 / n


def test_padding_at_the_end_works_with_a_path_of_ones_own():
    p = gbm()
    for path in (
        CounterBrownianPath((1,), KEY, 1 / 16),
        dfx.VirtualBrownianTree(0.0, 1.0, 1 / 64, (1,), KEY),
    ):
        plain = solve(p.sde, p.y0, [0.0, 0.5, 1.0], brownian=path, dt=1 / 16).path.ys
        for arguments in (dict(dt=1 / 16), dict(substeps=8)):
            padded = solve(p.sde, p.y0, [0.0, 0.5, 1.0, 1.0], brownian=path, **arguments).path.ys
            np.testing.assert_allclose(padded[:3], plain, rtol=1e-5)
            np.testing.assert_array_equal(padded[3], padded[2])


def test_a_tree_coarser_than_the_steps_is_refused():
    p = gbm()
    path = dfx.VirtualBrownianTree(0.0, 1.0, 0.1, (1,), KEY)
    for steps in (dict(dt=1 / 64), dict(substeps=16)):
        with pytest.raises(Exception, match="`tol` larger than a step"):
            solve(p.sde, p.y0, TS, brownian=path, **steps)
    once = solve(p.sde, p.y0, [0.0, 1.0], brownian=path, dt=1.0)  # one step, and fine enough
    assert once.result == RESULTS.successful
    with pytest.raises(Exception, match="half of `dtmin`"):
        path = dfx.VirtualBrownianTree(0.0, 1.0, 0.1, (1,), KEY, dfx.SpaceTimeLevyArea)
        pid = dfx.PIDController(rtol=1e-2, atol=1e-2, dtmin=1e-3)
        sde = p.sde.to_stratonovich()
        solve(sde, p.y0, TS, brownian=path, solver=dfx.SPaRK(), controller=pid)


@pytest.mark.parametrize("solver", [dfx.Euler, dfx.ShARK])
def test_learned_noise_of_time_is_additive_for_every_solver(solver):
    """Every family, beside its own standard deviation, by the spread of many paths."""
    for make in (diffusions.Scalar, diffusions.Diagonal, diffusions.Full):
        g = make.learned(2, on="time", width=4, depth=1, key=KEY)
        sde = SDE(drifts.Function(lambda t, y: 0 * y), g)
        ends = jax.vmap(
            lambda k, sde=sde: solve(
                sde, jnp.zeros(2), [0.0, 0.1], key=k, dt=0.05, solver=solver()
            ).path.ys[-1]
        )(jr.split(KEY, 2000))
        expected = 0.1 * g.covariance(0.05, jnp.zeros(2)).as_matrix()
        np.testing.assert_allclose(np.cov(ends.T), expected, atol=0.012)


def test_default_adjoints_follow_the_path_and_the_mode():
    p = gbm()
    unsafe = dfx.UnsafeBrownianPath((1,), KEY)
    assert solve(p.sde, p.y0, TS, brownian=unsafe, dt=1 / 4).result == RESULTS.successful

    def end(y0, **arguments):
        return solve(p.sde, y0, TS, key=KEY, dt=1 / 4, **arguments).path.ys[-1, 0]

    _, forward = jax.jvp(lambda y0: end(y0, mode="forward"), (p.y0,), (jnp.ones(1),))
    for arguments in ({}, {"mode": "reverse"}):
        np.testing.assert_allclose(jax.grad(end)(p.y0, **arguments)[0], forward)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(end, (p.y0,), (jnp.ones(1),))


def test_divergence_is_judged_by_the_state_not_by_fn():
    sde = SDE(drifts.Function(lambda t, y: y**3), diffusions.Scalar(0.1, 1))
    hidden = solve(
        sde, jnp.array([30.0]), TS, key=KEY, dt=1 / 16, fn=lambda t, y: jnp.nan_to_num(jnp.tanh(y))
    )
    assert hidden.result == RESULTS.diverged and not hidden.path.mask[-1]
    p = gbm()
    healthy = solve(p.sde, p.y0, TS, key=KEY, dt=1 / 16, fn=lambda t, y: jnp.log(t)[None])
    assert healthy.result == RESULTS.successful and healthy.path.mask.all()


def test_moments_of_noise_that_does_not_commute():
    p, n = problems.gbm_noncommutative(), 20_000
    ends = jax.vmap(lambda k: solve(p.sde, p.y0, TS, key=k, dt=1 / 64).path.ys[-1])(
        jr.split(KEY, n)
    )
    mean, cov = p.mean(1.0, p.y0), np.asarray(p.covariance(1.0, p.y0))
    assert np.all(np.abs(ends.mean(axis=0) - mean) < 4 * np.sqrt(np.diag(cov) / n) + 0.02)
    assert np.abs(np.cov(np.asarray(ends).T) - cov).max() < 0.1 * cov.max()


def test_fn_saves_what_it_returns():
    p = gbm()
    plain = solve(p.sde, p.y0, TS, key=KEY, dt=1 / 16).path.ys
    logs = solve(
        p.sde, p.y0, TS, key=KEY, dt=1 / 16, fn=lambda t, y: jnp.append(jnp.log(y), t)
    ).path.ys
    np.testing.assert_allclose(logs[:, :1], jnp.log(plain), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logs[:, 1], TS, atol=1e-6)


def test_a_diverged_path_does_not_kill_the_batch():
    sde = SDE(drifts.Function(lambda t, y: y**3), diffusions.Scalar(0.1, 1))
    y0s = jnp.array([[0.1], [30.0], [0.2]])
    sol = jax.vmap(lambda y0: solve(sde, y0, TS, key=KEY, dt=1 / 16))(y0s)
    np.testing.assert_array_equal(sol.result == RESULTS.successful, [True, False, True])
    np.testing.assert_array_equal(sol.result == RESULTS.diverged, [False, True, False])
    assert sol.path.mask[0].all() and sol.path.mask[2].all()
    np.testing.assert_array_equal(sol.path.mask[1], [True, False, False, False, False])
    assert np.isfinite(sol.path.ys[jnp.array([0, 2])]).all()


FAMILIES = {
    "mlp": lambda k: drifts.MLP(2, width=4, key=k),
    "residual": lambda k: drifts.ResidualMLP(2, width=4, key=k),
    "gradient": lambda k: drifts.Gradient.learned(2, width=4, key=k),
    "lipschitz": lambda k: drifts.LipschitzMLP(2, lipschitz=1.0, width=4, key=k),
    "diagonal": lambda k: diffusions.Diagonal.learned(2, on="component", width=4, key=k),
    "low rank": lambda k: diffusions.LowRank.learned(2, rank=1, on="time", width=4, key=k),
    "scalar": lambda k: diffusions.Scalar.learned(2, on="nothing", key=k),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_ensemble_is_a_stack_of_trees(name):
    keys = jr.split(KEY, 3)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *[FAMILIES[name](k) for k in keys])
    jax.tree.map(np.testing.assert_array_equal, stacked, jax.vmap(FAMILIES[name])(keys))


def test_solving_an_ensemble_equals_solving_its_members():
    def make(key):
        g = diffusions.Full.learned(2, width=4, depth=1, key=key)
        return SDE(drifts.MLP(2, width=4, key=key), g)

    def end(sde, key):
        return solve(sde, jnp.ones(2), TS, key=key, dt=1 / 8).path.ys[-1]

    keys = jr.split(KEY, 3)
    together = jax.vmap(end)(jax.vmap(make)(keys), keys)
    for i in range(3):
        np.testing.assert_allclose(together[i], end(make(keys[i]), keys[i]), rtol=1e-5)


def test_second_call_does_not_retrace():
    traces = []

    def f(t, y):
        traces.append(1)
        return -y

    sde = SDE(drifts.Function(f), diffusions.Scalar(0.1, 1))
    solve(sde, jnp.ones(1), TS, key=KEY, dt=1 / 16)
    count = len(traces)
    assert count > 0
    solve(sde, 2 * jnp.ones(1), TS + 0.5, key=jr.key(1), dt=1 / 16)
    assert len(traces) == count
    other = eqx.tree_at(lambda s: s.diffusion.s.value, sde, jnp.array(0.3, jnp.float32))
    solve(other, jnp.ones(1), TS, key=KEY, dt=1 / 16)
    assert len(traces) == count


def test_adaptive_steps_converge_with_their_tolerance(x64):
    p = gbm()
    sde = p.sde.to_stratonovich()
    errors = []
    for tol in (1e-1, 1e-4):
        controller = dfx.PIDController(rtol=tol, atol=tol, dtmin=1e-4)

        def error(key, controller=controller):
            levy = dfx.SpaceTimeLevyArea
            path = dfx.VirtualBrownianTree(0.0, 1.0, 5e-5, (1,), key, levy)
            sol = solve(
                sde, p.y0, TS, brownian=path, solver=dfx.SPaRK(), controller=controller, dt=0.1
            )
            exact = p.exact(1.0, p.y0, path.evaluate(0.0, 1.0))
            return jnp.sum((sol.path.ys[-1] - exact) ** 2), sol.result == RESULTS.successful

        squares, fine = jax.jit(jax.vmap(error))(jr.split(KEY, 20))
        assert fine.all()
        errors.append(float(jnp.sqrt(squares.mean())))
    assert errors[1] < 0.3 * errors[0]


def test_adaptive_default_path_and_its_refusals():
    p = gbm()
    sde = p.sde.to_stratonovich()
    pid = dfx.PIDController(rtol=1e-2, atol=1e-2, dtmin=1e-3)
    sol = solve(sde, p.y0, TS, key=KEY, solver=dfx.SPaRK(), controller=pid)
    assert sol.result == RESULTS.successful
    struct = jax.ShapeDtypeStruct((1,), jnp.float32)  # its own path, made again
    path = dfx.VirtualBrownianTree(0.0, 1.0, 5e-4, struct, KEY, dfx.SpaceTimeLevyArea)
    exact = jnp.stack([p.exact(t, p.y0, path.evaluate(0.0, t)) for t in TS])
    np.testing.assert_allclose(sol.path.ys, exact, rtol=0.03)  # at every saved time
    assert float(jnp.abs(jnp.diff(exact, 2, axis=0)).min()) > 0.05  # far from a line
    short = solve(sde, p.y0, TS, key=KEY, solver=dfx.SPaRK(), controller=pid, max_steps=3)
    assert short.result == RESULTS.max_steps_reached and not short.path.mask[-1]
    options = dict(key=KEY, solver=dfx.SPaRK(), controller=pid, max_steps=3)
    saved = solve(sde, p.y0, TS, fn=lambda t, y: 2 * y, **options)
    np.testing.assert_array_equal(saved.path.mask, short.path.mask)
    for arguments, sentence in [
        (dict(controller=dfx.PIDController(rtol=1e-2, atol=1e-2)), "`controller` has no `dtmin`"),
        (dict(controller=pid, solver=dfx.EulerHeun()), "no error estimate.*HalfSolver"),
        (dict(controller=pid, substeps=2), "`substeps=2` and `controller`"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            solve(sde, p.y0, TS, key=KEY, **{"solver": dfx.SPaRK(), **arguments})
    with pytest.raises(ValueError, match="whose steps need not end on `ts`"):
        clip = dfx.ClipStepSizeController(pid)
        solve(sde, p.y0, TS, key=KEY, solver=dfx.SPaRK(), controller=clip)
    path = CounterBrownianPath((1,), KEY, 0.1, levy_area=dfx.SpaceTimeLevyArea)
    with pytest.raises(ValueError, match="fixed grid, but `controller` adapts"):
        solve(sde, p.y0, TS, brownian=path, solver=dfx.SPaRK(), controller=pid)
    with pytest.raises(ValueError, match="may converge to a wrong answer"):
        solve(p.sde, p.y0, TS, key=KEY, solver=dfx.HalfSolver(dfx.Euler()), controller=pid)


def test_half_solver_gets_half_cells():
    p = gbm()
    for ts in (TS, np.array([0.0, 0.3, 1.0])):
        whole = solve(p.sde, p.y0, ts, key=KEY, solver=dfx.HalfSolver(dfx.Euler()), dt=1 / 16)
        assert whole.result == RESULTS.successful
    halves = solve(p.sde, p.y0, TS, key=KEY, dt=1 / 32)
    steps = solve(p.sde, p.y0, TS, key=KEY, solver=dfx.HalfSolver(dfx.Euler()), dt=1 / 16)
    np.testing.assert_allclose(steps.path.ys, halves.path.ys, rtol=1e-5)


@pytest.mark.parametrize("solver", [dfx.ALIGN, dfx.ShOULD, dfx.QUICSORT])
def test_langevin_moments(solver, x64):
    p, n = problems.langevin(), 2000
    ends = jax.vmap(
        lambda key: solve(p.sde, p.y0, TS, key=key, solver=solver(), dt=1 / 16).path.ys[-1]
    )(jr.split(KEY, n))
    mean, cov = p.mean(1.0, p.y0), p.covariance(1.0, p.y0)
    assert np.all(np.abs(ends.mean(axis=0) - mean) < 4 * np.sqrt(np.diag(cov) / n))
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert np.all(np.abs(np.cov(np.asarray(ends).T) - cov) < 5 * scale * np.sqrt(2 / n))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "adjoint", "differentiate"),
    [
        (dfx.ALIGN, dfx.RecursiveCheckpointAdjoint, jax.jacrev),
        (dfx.ShOULD, dfx.DirectAdjoint, jax.jacrev),
        (dfx.QUICSORT, dfx.ForwardMode, jax.jacfwd),
    ],
)
def test_langevin_derivatives(solver, adjoint, differentiate, x64):
    """In a quadratic potential the end depends on the start by a matrix exponential, exactly."""
    p = problems.langevin()

    def end(y0):
        options = dict(key=KEY, solver=solver(), dt=1 / 64, adjoint=adjoint())
        return solve(p.sde, y0, TS, **options).path.ys[-1]

    expected = jax.jacfwd(lambda y0: p.mean(1.0, y0))(p.y0)
    np.testing.assert_allclose(differentiate(end)(p.y0), expected, atol=2e-3)


def test_langevin_as_a_plain_sde_agrees():
    p = problems.langevin()
    path = CounterBrownianPath((1,), KEY, 1 / 256, levy_area=dfx.SpaceTimeTimeLevyArea)
    fast = solve(p.sde, p.y0, TS, brownian=path, solver=dfx.QUICSORT(), dt=1 / 256)
    plain = solve(p.sde.sde(), p.y0, TS, brownian=path, solver=dfx.ShARK(), dt=1 / 256)
    np.testing.assert_allclose(fast.path.ys, plain.path.ys, atol=2e-3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(ts=[0.0, np.nan]), r"`ts\[1\]` is nan"),
        (dict(ts=[0.0, 1.0, 0.5]), r"`ts` decreases at 1: 1.0 .* 0.5"),
        (dict(ts=[0.0]), r"`ts` has shape \(1,\)"),
        (dict(ts=[1.0, 1.0]), "spans no time"),
        (dict(ts=np.zeros((2, 2))), r"`ts` has shape \(2, 2\)"),
        (dict(ts=jnp.linspace(0, 1, 3).astype(jnp.float16)), "`ts` is float16 and `y0` is float32"),
        (dict(y0=jnp.ones((1, 1))), r"`y0` has shape \(1, 1\).*vmap"),
        (dict(y0=jnp.ones(2)), r"`y0` has shape \(2,\); `sde` has dimension 1"),
        (dict(y0=jnp.ones(1, int)), "dtype int32"),
        (dict(y0=jnp.array([jnp.nan])), "`y0` is .*nan"),
        (dict(dt=0.0), "`dt` is 0.0"),
        (dict(dt=float("nan")), "`dt` is nan"),
        (dict(dt=None), "`dt` is None"),
        (dict(dt=0.1, substeps=2), "`dt=0.1` and `substeps=2`"),
        (dict(dt=None, substeps=0), "`substeps` is 0"),
        (dict(key=None), "Pass exactly one: a key"),
        (dict(mode="both"), "`mode` is 'both'"),
        (dict(mode="forward", adjoint=dfx.DirectAdjoint()), "`adjoint` and `mode='forward'`"),
        (dict(adjoint=dfx.ImplicitAdjoint()), "ImplicitAdjoint"),
        (dict(solver=dfx.Euler), "`solver` is <class .* Pass an instance"),
        (dict(solver="euler"), "`solver` is 'euler'"),
        (dict(adjoint=dfx.DirectAdjoint), "`adjoint` is <class"),
        (dict(controller=dfx.ConstantStepSize()), "`controller` is .*for fixed steps pass `dt`"),
        (dict(fn=lambda t, y: y[0]), "`fn` returns .* Return a vector"),
        (dict(ts=[0.0, 5000.0], dt=1e-3), "float32 times up to 5000.0 cannot tell"),
        (dict(solver=dfx.Tsit5()), "a solver of ODEs"),
        (dict(solver=dfx.ALIGN()), "Pass a `dynlm.Langevin`"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence, unchecked):
    p = gbm()
    kwargs = {"y0": p.y0, "ts": TS, "key": KEY, "dt": 1 / 16, **arguments}
    with pytest.raises(ValueError, match=sentence):
        solve(p.sde, kwargs.pop("y0"), kwargs.pop("ts"), **kwargs)


def test_wrong_fields_are_refused(unchecked):
    y0 = jnp.ones(2)
    good = diffusions.Scalar(0.1, 2)
    half = drifts.Linear(jnp.eye(2, dtype=jnp.float16), jnp.zeros(2, jnp.float16))
    for sde, sentence in [
        (SDE(drifts.Function(lambda t, y: y[:1]), good), r"`sde.drift` returns float32\[1\]"),
        (
            SDE(drifts.Function(lambda t, y: half(t, y.astype(jnp.float16))), good),
            "returns float16",
        ),
        (
            SDE(
                drifts.Function(lambda t, y: y), diffusions.Diagonal(lambda t, y: y[:1], 2, "state")
            ),
            r"returned shape \(1,\); it needs \(2,\)",
        ),
    ]:
        with pytest.raises(ValueError, match=sentence):
            solve(sde, y0, TS, key=KEY, dt=0.25)
    fine = SDE(drifts.Function(lambda t, y: y), good)
    liar = SDE(fine.drift, diffusions.Diagonal(lambda t, y: 0.1 * y, 2, "time"))
    with pytest.raises(ValueError, match="declares additive noise, but it is computed from the st"):
        solve(liar, y0, TS, key=KEY, dt=0.25)
    with pytest.raises(ValueError, match=r"`brownian` has shape \(3,\)"):
        solve(fine, y0, TS, brownian=CounterBrownianPath((3,), KEY, 0.25), dt=0.25)
    with pytest.raises(ValueError, match="`dt` with traced times"):
        jax.jit(lambda ts: solve(fine, y0, ts, key=KEY, dt=0.25))(jnp.asarray(TS))
    langevin = Langevin(lambda x: x, jnp.ones(1), jnp.ones(1))
    with pytest.raises(ValueError, match=r"langevin.sde\(\)"):
        solve(langevin, y0, TS, key=KEY, dt=0.25, solver=dfx.Heun())
    with pytest.raises(ValueError, match="BacksolveAdjoint` saves plain states"):
        solve(
            fine,
            y0,
            [0.0, 0.3, 1.0],
            key=KEY,
            dt=0.25,
            solver=dfx.Heun(),
            adjoint=dfx.BacksolveAdjoint(),
        )
