"""One-step laws and their likelihoods: closed forms, quadrature, orders, recovered parameters."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.stats
from jax.tree_util import Partial

from dynlm import SDE, Langevin, Trajectory, diffusions, drifts, problems
from dynlm.losses._flow import linear_flow, normal_logpdf
from dynlm.losses._likelihood import (
    local_linear_nll,
    nll_by,
    strang_nll,
    transition_nll,
    transition_nlls,
)
from dynlm.losses._schemes import EulerMaruyama, LocalLinear, LocalSkew, Strang

# What is compiled here runs a few times: time goes into compiling, so let that be quick.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

EULER, LOCAL, STRANG, SKEW = SCHEMES = (EulerMaruyama(), LocalLinear(), Strang(), LocalSkew())
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)


def curved(t, y):
    """A drift of two components that is linear in none of its arguments."""
    return jnp.stack([jnp.sin(y[1]) - 0.5 * y[0] + t**2, jnp.tanh(y[0] * y[1]) - y[1]])


with jax.enable_x64(True):
    CURVED = SDE(
        drifts.Function(Partial(curved)),
        diffusions.LowRank(np.array([0.5, 0.6]), 0.3 * np.eye(2)),
    )
    TANH = SDE(drifts.Function(Partial(lambda t, y: jnp.tanh(y))), diffusions.Scalar(1.0, 1))


# 1. The linear flow.


@pytest.mark.parametrize(
    "a",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[0.0, 1.0], [0.0, 0.0]],
        [[-1.0, 3.0], [-2.0, 0.5]],
        [[-90.0, 5.0], [2.0, -0.01]],
        [[2.0, 1.0], [2.0, 1.0]],
    ],
    ids=["zero", "nilpotent", "spiral", "stiff", "singular"],
)
def test_linear_flow_against_scipy(a, x64):
    """Van Loan's matrices for mean and covariance, exponentiated by scipy; stiff by quadrature."""
    a, b, m, t = np.array(a), np.array([0.3, -1.0]), np.array([0.7, 0.2]), 0.9
    q = np.array([[0.5, 0.1], [0.1, 0.3]])
    block = np.zeros((4, 4))
    block[:2] = np.column_stack([a, m, b])
    block[2, 3] = 1.0  # the state is (z, s, 1)
    expected = scipy.linalg.expm(block * t)[:2, 3]

    def inside(s):
        f = scipy.linalg.expm(a * s)
        return (f @ q @ f.T).ravel()

    covariance = scipy.integrate.quad_vec(inside, 0, t, epsabs=1e-13, epsrel=1e-12)[0]
    v, c = jit(linear_flow)(*map(jnp.asarray, (a, b, m, q)), t)
    np.testing.assert_allclose(v, expected, rtol=1e-12)
    np.testing.assert_allclose(c, covariance.reshape(2, 2), rtol=1e-10)


def test_linear_flow_has_finite_derivatives_at_the_zero_matrix(x64):
    """Of the covariance by A at 0: t^2/2 (dA Q + Q dA^T)."""
    q, da = jnp.array([[0.5, 0.1], [0.1, 0.3]]), jnp.array([[1.0, 2.0], [-0.5, 0.7]])
    b, zero = jnp.array([1.0, 2.0]), jnp.zeros((2, 2))

    def law(a):
        return linear_flow(a, b, b, q, 0.8)

    (_, dc), reverse = jax.jvp(law, (zero,), (da,))[1], jax.jacrev(law)(zero)
    np.testing.assert_allclose(dc, 0.32 * (da @ q + q @ da.T), rtol=1e-12)
    np.testing.assert_allclose(jnp.einsum("ijkl,kl->ij", reverse[1], da), dc, rtol=1e-12)
    assert bool(jnp.isfinite(reverse[0]).all())


def test_linear_flow_of_a_batch_is_that_of_each(x64):
    """Under `vmap`, twice, the batch makes as many doublings as its largest matrix needs."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 4, 2, 2)) * np.array([0.01, 1.0, 10.0, 40.0])[:, None, None]
    b, q = np.array([1.0, -0.5]), np.eye(2)

    def law(a):
        return linear_flow(a, jnp.asarray(b), jnp.asarray(b), jnp.asarray(q), 0.7)

    v, c = jit(jax.vmap(jax.vmap(law)))(jnp.asarray(a))
    for i, j in np.ndindex(3, 4):
        f = scipy.linalg.expm(a[i, j] * 0.7)
        # A C + C A^T = F Q F^T - Q
        sylvester = scipy.linalg.solve_continuous_lyapunov(a[i, j], f @ q @ f.T - q)
        np.testing.assert_allclose(c[i, j], sylvester, rtol=1e-7, atol=1e-9 * np.abs(c[i, j]).max())
        np.testing.assert_allclose(v[i, j], law(jnp.asarray(a[i, j]))[0], rtol=1e-12)


def test_linear_flow_is_nan_where_it_would_be_wrong():
    v, c = linear_flow(-1e6 * jnp.eye(1), jnp.ones(1), jnp.ones(1), jnp.eye(1), 1.0)
    assert bool(jnp.isnan(v).all() & jnp.isnan(c).all())


# 2. Where the laws are exact.


@pytest.mark.parametrize("scheme", [LOCAL, STRANG, SKEW], ids=lambda scheme: scheme.name)
def test_exact_for_an_ornstein_uhlenbeck_process_at_any_step(scheme, x64):
    problem = problems.ou(
        np.array([[1.0, 0.8], [-0.5, 0.7]]),
        np.array([0.3, -0.2]),
        np.array([[0.5, 0.0], [0.2, 0.4]]),
        y0=np.array([1.0, -1.0]),
    )
    logpdf = jit(scheme.logpdf)
    for dt in (1e-3, 0.7, 30.0):
        y = problem.y0 + 0.3 * np.sqrt(min(dt, 1.0))
        expected = problem.transition_logpdf(y, dt, problem.y0)
        np.testing.assert_allclose(logpdf(problem.sde, 2.0, problem.y0, dt, y), expected, rtol=1e-9)


def test_local_linearisation_is_exact_for_a_drift_linear_in_time(x64):
    r"""$dX = (b t - a X)\,dt + s\,dW$, whose moments are elementary."""
    a, b, s, t, y, dt = 1.3, 0.8, 0.6, 0.4, -0.5, 0.9
    sde = SDE(drifts.Function(lambda t, y: b * t - a * y), diffusions.Scalar(s, 1))

    def particular(t):
        return b / a * t - b / a**2

    mean, covariance = LOCAL.moments(sde, t, jnp.array([y]), dt)
    expected = particular(t + dt) + np.exp(-a * dt) * (y - particular(t))
    np.testing.assert_allclose(mean[0], expected, rtol=1e-12)
    np.testing.assert_allclose(covariance[0, 0], s**2 * -np.expm1(-2 * a * dt) / 2 / a, rtol=1e-12)


def test_local_linearisation_takes_degenerate_noise(x64):
    """A harmonic Langevin process: the position has no noise of its own."""
    problem = problems.langevin(
        np.array([[1.5, 0.4], [0.4, 0.8]]), np.array([0.8, 1.3]), x0=np.array([1.0, -0.5]), v0=0.3
    )
    assert isinstance(problem.sde, Langevin)
    sde, y = problem.sde.sde(), problem.y0 + 0.05
    value = jit(LOCAL.logpdf)(sde, 0.0, problem.y0, 0.3, y)
    np.testing.assert_allclose(value, problem.transition_logpdf(y, 0.3, problem.y0), rtol=1e-8)


def test_itos_term_is_the_mean_of_a_quadratic_drift(x64):
    r"""For $dX = X_0^2$-like drifts the mean moves by $\Sigma\,dt^2/2$ more than the path of f."""
    hessian = np.array([[0.7, -0.4], [-0.4, 0.2]])
    g = np.array([[0.5, 0.0], [0.3, 0.4]])

    def f(t, y):
        return jnp.stack([0.5 * y @ jnp.asarray(hessian) @ y, 0.0])

    sde, y, dt = SDE(drifts.Function(f), diffusions.Full(jnp.asarray(g))), jnp.zeros(2), 1e-3
    mean, _ = LOCAL.moments(sde, 0.0, y, dt)
    expected = 0.5 * np.trace(g @ g.T @ hessian) * dt**2 / 2
    np.testing.assert_allclose(mean, [expected, 0.0], rtol=1e-12)


# 3. Orders.


def divergences(scheme, sde, exact, y0, dts):
    """KL of the scheme's law from the exact one, by a sum over 12 deviations on each side."""
    logpdf = jit(jax.vmap(scheme.logpdf, in_axes=(None, None, None, None, 0)))
    out = []
    for dt in dts:
        ys, log_p = exact(dt, np.linspace(-8, 8, 1201))
        p = np.exp(log_p)
        log_q = np.asarray(logpdf(sde, 0.0, jnp.array([y0]), dt, jnp.asarray(ys)[:, None]))
        out.append(scipy.integrate.simpson(p * (log_p - log_q), x=ys))
    return np.array(out)


def tanh_transition(dt, z, y0=0.5):
    r"""$p = \cosh y / \cosh y_0\; e^{-t/2}\,N(y; y_0, t)$, the exact law for the drift tanh."""
    y = y0 + np.sqrt(dt) * z
    return y, np.log(np.cosh(y) / np.cosh(y0)) - dt / 2 + scipy.stats.norm.logpdf(y, y0, dt**0.5)


def gbm_transition(dt, z, mu=0.3, sigma=0.5):
    mean = (mu - sigma**2 / 2) * dt
    log_y = mean + sigma * np.sqrt(dt) * z
    return np.exp(log_y), scipy.stats.norm.logpdf(log_y, mean, sigma * np.sqrt(dt)) - log_y


def test_orders_with_additive_noise(x64):
    """Slopes of the KL divergence for dX = tanh(X) dt + dW: 2, 3, 3 and 4."""
    dts = np.array([0.1, 0.05, 0.025])
    kl = {s.name: divergences(s, TANH, tanh_transition, 0.5, dts) for s in SCHEMES}
    slopes = {name: np.log(v[1] / v[2]) / np.log(2) for name, v in kl.items()}
    assert abs(slopes["euler"] - 2) < 0.1
    assert abs(slopes["local_linear"] - 3) < 0.15
    assert abs(slopes["strang"] - 3) < 0.2
    assert 3.8 < slopes["local_skew"] < 5
    assert 0.15 < kl["strang"][2] / kl["local_linear"][2] < 0.3
    assert kl["local_skew"][2] < 0.01 * kl["strang"][2]


def test_noise_of_time_keeps_the_order_of_local_linearisation(x64):
    problem = problems.additive(0.7, 0.9, y0=1.0)

    def exact(dt, z):
        mean, var = (f(dt, problem.y0).item() for f in (problem.mean, problem.covariance))
        return mean + np.sqrt(var) * z, scipy.stats.norm.logpdf(z) - np.log(var) / 2

    euler, local = (divergences(s, problem.sde, exact, 1.0, [0.1, 0.05]) for s in (EULER, LOCAL))
    assert abs(np.log2(euler[0] / euler[1]) - 2) < 0.2
    assert np.log2(local[0] / local[1]) > 3.5 and local[1] < 0.01 * euler[1]


def test_noise_of_the_state_has_order_one(x64):
    """As the table in `_schemes` says: neither law has the third cumulant of such noise."""
    sde = problems.gbm(0.3, 0.5, y0=1.0).sde
    for scheme in (EULER, LOCAL):
        kl = divergences(scheme, sde, gbm_transition, 1.0, [0.02, 0.01])
        assert abs(np.log2(kl[0] / kl[1]) - 1) < 0.1


# 4. Laws and draws.


@every_scheme
def test_densities_are_those_of_the_draws(scheme, x64):
    """In one dimension: Kolmogorov's distance of 20,000 draws from the integrated density."""
    y, dt = jnp.array([0.5]), 0.8
    grid = np.linspace(-5.5, 7.5, 2001)
    logpdf = jit(jax.vmap(scheme.logpdf, in_axes=(None, None, None, None, 0)))
    density = np.exp(np.asarray(logpdf(TANH, 0.0, y, dt, jnp.asarray(grid)[:, None])))
    cdf = scipy.integrate.cumulative_simpson(density, x=grid, initial=0)
    np.testing.assert_allclose(cdf[-1], 1.0, atol=1e-6)
    keys = jr.split(jr.key(1), 20_000)
    draws = jit(jax.vmap(lambda key: scheme.sample(TANH, 0.0, y, dt, key=key)))(keys)[:, 0]
    assert scipy.stats.kstest(draws, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-3


def state_noise(t, y):
    return jnp.eye(2) * (1 + y[0] ** 2) + jnp.array([[0.0, 0.0], [0.3, 0.0]])


@pytest.mark.parametrize("scheme", [EULER, LOCAL], ids=lambda scheme: scheme.name)
def test_gaussian_schemes_agree_with_scipy(scheme, x64):
    """Density, moments and draws in two dimensions, of a Stratonovich SDE too."""
    g = diffusions.Full(Partial(state_noise), 2, "state")
    t, y, dt, y_next = 0.2, jnp.array([0.4, -0.3]), 0.3, jnp.array([0.7, -0.4])
    for sde in (CURVED, SDE(drifts.Function(Partial(curved)), g, "stratonovich")):
        mean, covariance = jit(scheme.moments)(sde, t, y, dt)
        expected = scipy.stats.multivariate_normal.logpdf(y_next, mean, covariance)
        np.testing.assert_allclose(jit(scheme.logpdf)(sde, t, y, dt, y_next), expected, rtol=1e-9)
        if scheme is EULER:
            f = sde.drift(t, y)
            if sde.calculus == "stratonovich":  # half of D g_0 g_0; D g_1 g_1 is zero
                f = f + np.array([(1 + y[0] ** 2) * y[0], 0.0])
            np.testing.assert_allclose(mean, y + f * dt, rtol=1e-12)
    keys = jr.split(jr.key(2), 20_000)
    draws = jit(jax.vmap(lambda key: scheme.sample(CURVED, t, y, dt, key=key)))(keys)
    mean, covariance = map(np.asarray, jit(scheme.moments)(CURVED, t, y, dt))
    z = np.linalg.solve(np.linalg.cholesky(covariance), (np.asarray(draws) - mean).T)
    np.testing.assert_allclose(z.mean(axis=1), 0, atol=4 / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(z), np.eye(2), atol=6 / np.sqrt(20_000))


@pytest.mark.parametrize("scheme", [STRANG, SKEW], ids=lambda scheme: scheme.name)
def test_split_densities_against_scipys_flow(scheme, x64):
    r"""$N(z)\,/\,|\det \partial x/\partial z|$ with x from z by an accurate solver of the rest."""
    t, y, dt, z = 0.2, np.array([0.4, -0.3]), 0.3, np.array([0.6, -0.5])
    share, ito = {"strang": (1 / 2, 0.0), "local_skew": (1 / 3, 1 / 3)}[scheme.name]

    def f(t, y):
        return np.array([np.sin(y[1]) - 0.5 * y[0] + t**2, np.tanh(y[0] * y[1]) - y[1]])

    def derivative(x, direction, h=1e-5):
        return (f(t, x + h * direction) - f(t, x - h * direction)) / (2 * h)

    g = np.hstack([np.diag([0.5, 0.6]), 0.3 * np.eye(2)])
    jac = np.column_stack([derivative(y, e) for e in np.eye(2)])
    second = sum((f(t, y + 1e-3 * g_j) - 2 * f(t, y) + f(t, y - 1e-3 * g_j)) / 1e-6 for g_j in g.T)
    f_t = np.array([2 * t, 0.0])
    block = np.zeros((4, 4))
    block[:2] = np.column_stack([jac, f_t + ito * 0.5 * second, f(t, y)])
    block[2, 3] = 1.0
    mean = y + scipy.linalg.expm(block * dt)[:2, 3]
    inside = lambda s: scipy.linalg.expm(jac * s) @ g @ g.T @ scipy.linalg.expm(jac.T * s)  # noqa: E731
    covariance = scipy.integrate.quad_vec(inside, 0, dt)[0]

    def end(z):
        def rest(s, x):
            return f(t + dt, x) - f(t, y) - f_t * dt - jac @ (x - y)

        return scipy.integrate.solve_ivp(rest, (0, share * dt), z, rtol=1e-11, atol=1e-12).y[:, -1]

    jacobian = np.column_stack([(end(z + 1e-5 * e) - end(z - 1e-5 * e)) / 2e-5 for e in np.eye(2)])
    expected = scipy.stats.multivariate_normal.logpdf(z, mean, covariance)
    expected -= np.log(np.abs(np.linalg.det(jacobian)))
    value = jit(scheme.logpdf)(CURVED, t, jnp.asarray(y), dt, jnp.asarray(end(z)))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_what_a_scheme_cannot_do_is_refused(unchecked):
    sde = SDE(drifts.MLP(2, width=4, key=jr.key(0)), diffusions.Diagonal.learned(2, key=jr.key(0)))
    for scheme in (STRANG, SKEW):
        with pytest.raises(ValueError, match="additive noise.*`diffusions.Diagonal` is general"):
            jax.eval_shape(lambda y: scheme.logpdf(sde, 0.0, y, 0.1, y), jnp.zeros(2))  # noqa: B023
    with pytest.raises(ValueError, match="`steps` is 0"):
        Strang(steps=0)
    degenerate = SDE(
        sde.drift, diffusions.Function(lambda t, y: jnp.ones((2, 1)), 2, 1, "additive")
    )
    with pytest.raises(ValueError, match="`quadratic` of a `diffusions.Function`"):
        EULER.logpdf(degenerate, 0.0, jnp.zeros(2), 0.1, jnp.zeros(2))


# 5. The losses.

TS = np.array([0.0, 0.1, 0.35, 0.35, 0.5, 0.5, 0.5])
MASK = np.array([True] * 5 + [False] * 2)


def padded(mask=MASK):
    ys = np.where(
        mask[:, None], 1.0 + 0.2 * np.random.default_rng(4).normal(size=(len(TS), 2)), 0.0
    )
    return Trajectory(*map(jnp.asarray, (TS, ys, mask)))


def test_transition_nll_is_the_mean_over_the_seen_transitions(x64):
    """Uneven times, one pair of equal ones, and padding; steps by hand."""
    path = padded()
    ys = np.asarray(path.ys)
    g = np.hstack([np.diag([0.5, 0.6]), 0.3 * np.eye(2)])
    expected = []
    for k in (0, 1, 3):
        dt = TS[k + 1] - TS[k]
        mean = ys[k] + np.asarray(curved(TS[k], ys[k])) * dt
        expected.append(-scipy.stats.multivariate_normal.logpdf(ys[k + 1], mean, g @ g.T * dt))
    values, seen = jit(transition_nlls)(CURVED, path)
    np.testing.assert_array_equal(seen, [True, True, False, True, False, False])
    np.testing.assert_allclose(values, np.insert(expected, [2, 3, 3], 0.0), rtol=1e-6)
    np.testing.assert_allclose(jit(transition_nll)(CURVED, path), np.mean(expected), rtol=1e-6)
    for loss, scheme in ((local_linear_nll, LOCAL), (strang_nll, STRANG)):
        logpdf, step = jit(scheme.logpdf), np.diff(TS)
        each = [logpdf(CURVED, TS[k], path.ys[k], step[k], path.ys[k + 1]) for k in (0, 1, 3)]
        np.testing.assert_allclose(jit(loss)(CURVED, path), -np.mean(each), rtol=1e-9)


WORN = {
    "padding and equal times": MASK,
    "one seen step": np.arange(7) < 2,
    "one seen state": np.arange(7) < 1,
    "nothing seen": np.zeros(7, bool),
}


@functools.cache
def value_and_gradient(scheme):
    """By the parameters of a geometric or a learned SDE, the states and the times."""

    def loss(params, ys, ts, mask):
        if scheme in (STRANG, SKEW):
            f = drifts.Function(lambda t, y: params[0] * jnp.tanh(y) * t)
            sde = SDE(f, diffusions.Diagonal(jnp.exp(params)))
        else:  # its noise is zero at the zeros of padding
            sde = problems.gbm(params, jnp.exp(params), y0=jnp.ones(2)).sde
        return nll_by(scheme)(sde, Trajectory(ts, ys, mask))

    return jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


@every_scheme
@pytest.mark.parametrize("worn", WORN)
def test_gradients_are_finite(scheme, worn):
    """Where the noise is zero at the zeros of padding, too."""
    mask = WORN[worn]
    path = padded(mask)
    ys = jnp.where(jnp.asarray(mask)[:, None], path.ys, 0.0).astype(jnp.float32)
    params = jnp.array([0.3, -0.7])
    value, grads = value_and_gradient(scheme)(params, ys, path.ts.astype(jnp.float32), path.mask)
    assert all(bool(jnp.isfinite(g).all()) for g in grads)
    if mask.sum() < 2:
        assert value == 0 and all(not jnp.any(g) for g in grads)
    else:
        assert value != 0 and jnp.all(grads[0] != 0)
    assert not jnp.any(grads[1][~mask])


def test_what_stands_in_padding_does_not_matter(x64):
    path = padded()
    dirty = jnp.where(path.mask[:, None], path.ys, jnp.nan)
    loss = jit(
        jax.value_and_grad(lambda ys: transition_nll(CURVED, Trajectory(path.ts, ys, path.mask)))
    )
    (clean, grad), (value, other) = loss(path.ys), loss(dirty)
    assert clean == value
    np.testing.assert_array_equal(grad, other)


def test_losses_by_equal_schemes_are_equal_and_compile_once(x64):
    assert nll_by(Strang(3)) == nll_by(Strang(3)) != nll_by(Strang(2))
    assert hash(nll_by(LocalLinear())) == hash(nll_by(LocalLinear()))
    run = eqx.filter_jit(eqx.debug.assert_max_traces(lambda loss, p: loss(CURVED, p), max_traces=1))
    for _ in range(2):
        run(nll_by(EulerMaruyama()), padded())


def test_losses_work_in_half_precision():
    """Times are float32 there, states and loss bfloat16."""
    path = padded()
    low = Trajectory(path.ts.astype(jnp.float32), path.ys.astype(jnp.bfloat16), path.mask)
    sde = SDE(drifts.Linear(-jnp.eye(2), jnp.ones(2)), diffusions.Scalar(0.4, 2))
    value = jit(transition_nll)(jax.tree.map(lambda x: x.astype(jnp.bfloat16), sde), low)
    assert value.dtype == jnp.bfloat16
    full = Trajectory(path.ts.astype(jnp.float32), path.ys.astype(jnp.float32), path.mask)
    np.testing.assert_allclose(float(value), transition_nll(sde, full), rtol=0.05)


# 6. Parameters from data.


def fitted(scheme, model, start, paths):
    """The maximum of the likelihood, and the standard errors that its curvature promises."""

    @jit
    @jax.value_and_grad
    def loss(theta):
        return jnp.mean(jax.vmap(lambda path: nll_by(scheme)(model(theta), path))(paths))

    with jax.enable_x64(True):
        best = scipy.optimize.minimize(loss, np.asarray(start), jac=True, options=dict(gtol=1e-8)).x
        h = 1e-4 * np.eye(len(best))
        slopes = [np.asarray(loss(best + e)[1]) - np.asarray(loss(best - e)[1]) for e in h]
        steps = paths.ys.shape[0] * (paths.ys.shape[1] - 1)
        return best, np.sqrt(np.diag(np.linalg.inv(np.array(slopes) / 2e-4)) / steps)


def batch(ys, dt):
    """Paths of one dimension with even times."""
    ts = jnp.asarray(np.broadcast_to(dt * np.arange(ys.shape[1]), ys.shape))
    return jax.vmap(Trajectory)(ts, jnp.asarray(ys)[:, :, None], jnp.ones(ys.shape, bool))


def test_rate_of_an_ornstein_uhlenbeck_process_at_a_large_step(x64):
    r"""Local linearisation finds k; Euler finds $(1 - e^{-k\Delta t})/\Delta t$, as it must."""
    k, s, dt, rng = 1.0, 0.6, 0.8, np.random.default_rng(1)
    phi, var = np.exp(-k * dt), s**2 * -np.expm1(-2 * k * dt) / (2 * k)
    y = np.zeros((40, 51))
    y[:, 0] = rng.normal(size=40) * s / np.sqrt(2 * k)
    for i in range(50):
        y[:, i + 1] = phi * y[:, i] + np.sqrt(var) * rng.normal(size=40)
    slope = np.sum(y[:, 1:] * y[:, :-1]) / np.sum(y[:, :-1] ** 2)

    def model(theta):
        f = drifts.Linear(-jnp.exp(theta[0])[None, None], jnp.zeros(1))
        return SDE(f, diffusions.Scalar(jnp.exp(theta[1]), 1))

    paths, truth = batch(y, dt), np.log([k, s])
    local, error = fitted(LOCAL, model, [0.3, 0.0], paths)
    assert np.all(np.abs(local - truth) < 3 * error)
    np.testing.assert_allclose(np.exp(local[0]), -np.log(slope) / dt, rtol=1e-5)
    euler, error = fitted(EULER, model, [0.3, 0.0], paths)
    np.testing.assert_allclose(np.exp(euler[0]), (1 - slope) / dt, rtol=1e-5)
    assert np.all(np.abs(euler - truth) > 3 * error)
    biased = np.log((1 - phi) / dt)
    assert abs(euler[0] - biased) < 3 * error[0]


def test_geometric_brownian_motion_at_a_small_step_by_euler(x64):
    mu, sigma, dt, rng = 0.8, 0.4, 0.01, np.random.default_rng(2)
    steps = (mu - sigma**2 / 2) * dt + sigma * np.sqrt(dt) * rng.normal(size=(20, 100))
    y = np.exp(np.cumsum(np.pad(steps, ((0, 0), (1, 0))), axis=1))

    def model(theta):
        return problems.gbm(theta[0], jnp.exp(theta[1])).sde

    found, error = fitted(EULER, model, [0.1, 0.0], batch(y, dt))
    assert np.all(np.abs(found - [mu, np.log(sigma)]) < 3 * error)
    # the least that any estimate has: sigma / sqrt(T) and sqrt(1 / 2n)
    np.testing.assert_allclose(error, [sigma / np.sqrt(20), np.sqrt(1 / 4000)], rtol=0.1)


def double_well(dt, rng, paths=400, steps=26):
    """dX = (X - X^3) dt + .7 dW from its stationary law, by a hundred Euler steps in each `dt`."""
    y = np.sign(rng.normal(size=paths)) * 0.9
    out, h = [], dt / 100
    for k in range(2000 + 100 * steps):
        if k >= 2000 and k % 100 == 0:
            out.append(y)
        y = y + (y - y**3) * h + 0.7 * np.sqrt(h) * rng.normal(size=paths)
    return batch(np.array(out).T, dt)


def well(theta):
    f = drifts.Function(lambda t, y: theta[0] * y - theta[1] * y**3)
    return SDE(f, diffusions.Scalar(jnp.exp(theta[2]), 1))


@pytest.mark.parametrize(
    ("dt", "good", "bad"),
    [(0.1, STRANG, EULER), pytest.param(0.2, SKEW, STRANG, marks=pytest.mark.slow)],
    ids=["strang where euler fails", "skewed where strang fails"],
)
def test_double_well_where_a_lower_scheme_is_biased(dt, good, bad, x64):
    """Both rates and the noise, from 10,000 transitions, within and beyond three errors."""
    paths, truth = double_well(dt, np.random.default_rng(0)), np.array([1.0, 1.0, np.log(0.7)])
    found, error = fitted(good, well, [0.7, 0.7, -0.2], paths)
    assert np.all(np.abs(found - truth) < 3 * error)
    found, error = fitted(bad, well, [0.7, 0.7, -0.2], paths)
    assert np.all(np.abs(found - truth)[:2] > 3 * error[:2])


def test_a_gaussian_and_its_derivatives_take_one_solve(getkey, x64):
    """Several at once under `vmap` can wait for each other for ever on a CPU of few threads."""
    half = jr.normal(getkey(), (4, 4))
    covariance, r = half @ half.T + jnp.eye(4), jr.normal(getkey(), (4,))
    text = str(jax.make_jaxpr(jax.grad(normal_logpdf, (0, 1)))(r, covariance))
    assert text.count("triangular_solve[") == 1 and text.count("= cholesky") == 1

    def sound(r, half):  # by numpy's own determinant and inverse, in JAX
        k = half @ half.T + jnp.eye(4)
        square = r @ jnp.linalg.inv(k) @ r
        return -0.5 * (square + jnp.linalg.slogdet(k)[1] + 4 * jnp.log(2 * jnp.pi))

    ours = lambda r, half: normal_logpdf(r, half @ half.T + jnp.eye(4))  # noqa: E731
    for of in (lambda f: f, lambda f: jax.grad(f, (0, 1)), lambda f: jax.hessian(f, (0, 1))):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
            of(ours)(r, half),
            of(sound)(r, half),
        )
