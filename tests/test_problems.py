"""Problems against independent truth: Ito's formula, moment equations, Fokker-Planck, scipy."""

# What is None for one problem is called for another: the tests choose by name.
# pyright: reportOptionalCall=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false

import functools
import warnings
from collections.abc import Callable

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from scipy.integrate import quad, solve_ivp

from dynlm import diffusions, drifts, problems
from dynlm.problems._bessel import log_kernel
from dynlm.sde import SDE, Langevin

# What is compiled here runs a few times: time goes into compiling, so let that be quick.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# Every constructor with parameters that leave no term out: each entry maps a factor `c`, near 1,
# to a problem whose parameters are multiplied by it.
ALL: dict[str, Callable[..., problems.Problem]] = {
    "ou": lambda c=1.0: problems.ou(1.3 * c, 0.4 * c, 0.6 * c, y0=-0.5 * c),
    "ou_matrix": lambda c=1.0: problems.ou(
        c * np.array([[1.0, 0.8], [-0.5, 0.7]]),
        c * np.array([0.3, -0.2]),
        c * np.array([[0.5, 0.0], [0.2, 0.4]]),
        y0=c * np.array([1.0, -1.0]),
    ),
    "gbm": lambda c=1.0: problems.gbm(
        c * np.array([0.5, -0.3]), c * np.array([0.4, 0.7]), y0=c * np.array([1.0, -2.0])
    ),
    "gbm_correlated": lambda c=1.0: problems.gbm_correlated(
        c * np.array([0.5, -0.3]),
        c * np.array([[0.5, 0.1, 0.2], [0.3, -0.4, 0.1]]),
        y0=c * np.array([1.0, 2.0]),
    ),
    "gbm_noncommutative": lambda c=1.0: problems.gbm_noncommutative(
        c * np.array([[-0.5, 0.3], [-0.2, -0.6]]),
        c * np.array([[[0.5, 0.1], [0.0, -0.4]], [[0.1, 0.5], [0.4, 0.0]]]),
        y0=c * np.array([1.0, 0.5]),
    ),
    "cir": lambda c=1.0: problems.cir(
        c * np.array([1.2, 0.8]), c * np.array([0.9, 1.1]), 0.5 * c, y0=c * np.array([0.7, 1.5])
    ),
    "double_well": lambda c=1.0: problems.double_well(1.2 * c, 0.8 * c, 0.6 * c, y0=1.0 * c),
    "additive": lambda c=1.0: problems.additive(
        0.7 * c, c * np.array([0.5, 0.9]), y0=c * np.array([1.0, -0.4])
    ),
    "linear": lambda c=1.0: problems.linear(1.01 * c, 0.87 * c, y0=0.5 * c),
    "wave": lambda c=1.0: problems.wave(0.6 * c, y0=c * np.array([1.0, 2.5])),
    "langevin": lambda c=1.0: problems.langevin(
        c * np.array([[1.5, 0.4], [0.4, 0.8]]),
        c * np.array([0.8, 1.3]),
        c * np.array([0.7, 1.2]),
        x0=c * np.array([1.0, -0.5]),
        v0=0.3 * c,
    ),
    "langevin_double_well": lambda c=1.0: problems.langevin_double_well(
        1.5 * c, 0.9 * c, 0.7 * c, 1.3 * c, x0=1.0 * c, v0=-0.5 * c
    ),
    "lorenz": lambda c=1.0: problems.lorenz(10.0 * c, 28.0 * c, 8 / 3 * c, y0=1.1 * c),
    "circle": lambda c=1.0: problems.circle(0.8 * c, y0=c * np.array([1.0, 0.5])),
}


def ito(problem: problems.Problem) -> SDE:
    sde = problem.sde
    return sde.sde() if isinstance(sde, Langevin) else sde.to_ito()


with jax.enable_x64(True):
    BUILT = {name: build() for name, build in ALL.items()}


def having(*fields: str) -> pytest.MarkDecorator:
    names = [n for n, p in BUILT.items() if all(getattr(p, f) is not None for f in fields)]
    return pytest.mark.parametrize("name", names)


def test_what_is_known():
    """The table of docs/problems.md."""
    known = {
        "exact": "gbm gbm_correlated additive linear wave circle",
        "mean": "ou ou_matrix gbm gbm_correlated gbm_noncommutative cir additive linear langevin "
        "circle",
        "transition_logpdf": "ou ou_matrix gbm gbm_correlated cir additive linear wave langevin "
        "circle",
        "stationary_logpdf": "ou ou_matrix cir double_well langevin langevin_double_well circle",
    }
    known["covariance"] = known["mean"]
    known["stationary_mean"] = known["stationary_covariance"] = known["stationary_logpdf"]
    for field, names in known.items():
        found = {name for name, p in BUILT.items() if getattr(p, field) is not None}
        assert found == set(names.split()), field


# 1. Strong solutions: Ito's formula.


def residual(problem: problems.Problem, sde: SDE, points: int = 16) -> tuple[float, float]:
    r"""How far $u(t, w)$ is from solving the SDE: in the noise and in the drift."""
    rng = np.random.default_rng(0)
    ts = jnp.asarray(rng.uniform(0.05, 2.0, points))
    ws = jnp.asarray(rng.normal(size=(points, sde.noise_dim)) * np.sqrt(ts)[:, None])

    def u(t, w):
        return problem.exact(t, problem.y0, w)

    @jit
    @jax.vmap
    def errors(t, w):
        y, u_t, u_w = u(t, w), jax.jacfwd(u)(t, w), jax.jacfwd(u, 1)(t, w)
        u_ww = jnp.trace(jax.jacfwd(jax.jacfwd(u, 1), 1)(t, w), axis1=1, axis2=2)
        second = 0.5 * u_ww if sde.calculus == "ito" else jnp.zeros_like(u_ww)
        g = sde.diffusion(t, y).as_matrix()
        return u_w - g, u_t + second - sde.drift(t, y)

    noise, drift = errors(ts, ws)
    return float(jnp.max(jnp.abs(noise))), float(jnp.max(jnp.abs(drift)))


@having("exact")
def test_exact_solutions_satisfy_itos_formula(name, x64):
    problem = BUILT[name]
    assert max(residual(problem, problem.sde)) < 1e-12
    start = problem.exact(0.0, problem.y0, jnp.zeros(problem.sde.noise_dim))
    np.testing.assert_allclose(start, problem.y0, rtol=1e-14)


@pytest.mark.parametrize("name", ["gbm", "additive", "wave"])
def test_a_planted_drift_sign_is_caught(name, x64):
    problem = BUILT[name]
    wrong = drifts.Function(lambda t, y: -problem.sde.drift(t, y))
    noise, drift = residual(problem, SDE(wrong, problem.sde.diffusion))
    assert noise < 1e-12 and drift > 0.1


@pytest.mark.parametrize("name, calculus", [("linear", "stratonovich"), ("circle", "ito")])
def test_the_wrong_calculus_is_caught(name, calculus, x64):
    problem = BUILT[name]
    noise, drift = residual(problem, SDE(problem.sde.drift, problem.sde.diffusion, calculus))
    assert noise < 1e-12 and drift > 0.1


def test_the_circle_stays_a_circle(x64):
    problem = BUILT["circle"]
    y = problem.exact(1.0, problem.y0, jnp.array([2.7]))
    np.testing.assert_allclose(y @ y, problem.y0 @ problem.y0, rtol=1e-14)


# 2. Moments: their own differential equations, which close for these SDEs.


def moments(sde: SDE, y0, t) -> tuple[np.ndarray, np.ndarray]:
    r"""$m' = f(m)$, $C' = AC + CA^\top + E[gg^\top]$, for affine f and quadratic $gg^\top$."""
    dim = len(y0)

    def gg(t, y):
        g = sde.diffusion(t, y).as_matrix()
        return g @ g.T

    @jit
    def rate(t, z):
        m, c = z[:dim], z[dim:].reshape(dim, dim)
        a = jax.jacfwd(sde.drift, 1)(t, m)
        bend = jnp.einsum("ijkl,kl->ij", jax.jacfwd(jax.jacfwd(gg, 1), 1)(t, m), c)
        dc = a @ c + c @ a.T + gg(t, m) + 0.5 * bend
        return jnp.concatenate([sde.drift(t, m), dc.reshape(dim * dim)])

    z0 = np.concatenate([y0, np.zeros(dim * dim)])
    solution = solve_ivp(
        lambda t, z: np.asarray(rate(t, z)), (0, t), z0, method="DOP853", rtol=1e-9, atol=1e-12
    )
    z = solution.y[:, -1]
    return z[:dim], z[dim:].reshape(dim, dim)


@having("mean", "covariance")
def test_moments_satisfy_their_equations(name, x64):
    problem = BUILT[name]
    mean, covariance = moments(ito(problem), problem.y0, 0.8)
    np.testing.assert_allclose(problem.mean(0.8, problem.y0), mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(
        problem.covariance(0.8, problem.y0), covariance, rtol=1e-6, atol=1e-9
    )


@having("covariance")
def test_small_covariances_keep_their_digits(name, x64):
    """Over a short time the covariance is g g' t; a difference of second moments would be noise."""
    problem, t = BUILT[name], 1e-9
    g = np.asarray(ito(problem).diffusion(0.0, problem.y0).as_matrix())
    expected = g @ g.T * t
    error = np.abs(np.asarray(problem.covariance(t, problem.y0)) - expected)
    assert error.max() < 1e-7 * np.abs(expected).max()


def test_a_long_time_does_not_overflow():
    problem = problems.ou([[400.0, 0.0], [1.0, 2.0]], 0.0, 1.0)
    np.testing.assert_allclose(
        problem.covariance(5.0, problem.y0), problem.stationary_covariance, rtol=1e-4
    )


# 3. Transition densities.


def current(sde: SDE, density: Callable) -> Callable:
    r"""Probability current $f_i p - \tfrac12\sum_j \partial_j\big((gg^\top)_{ij}\,p\big)$."""

    def spread(t, y):
        g = sde.diffusion(t, y).as_matrix()
        return g @ g.T * density(t, y)

    def j(t, y):
        divergence = jnp.trace(jax.jacfwd(spread, 1)(t, y), axis1=1, axis2=2)
        return sde.drift(t, y) * density(t, y) - 0.5 * divergence

    return j


def near(problem: problems.Problem, points: int) -> tuple[jnp.ndarray, jnp.ndarray]:
    """Random times, and states where the solution is likely to be."""
    rng = np.random.default_rng(1)
    ts = rng.uniform(0.3, 1.5, points)
    z = rng.normal(size=(points, len(problem.y0)))
    if problem.name in ("wave", "double_well"):
        ys = np.asarray(problem.y0) + 0.1 * z
    elif problem.name in ("gbm", "gbm_correlated", "linear", "cir"):
        ys = np.asarray(problem.y0) * np.exp(0.4 * z)
    else:
        ys = np.asarray(problem.y0) * np.exp(-ts)[:, None] + 0.5 * z
    return jnp.asarray(ts), jnp.asarray(ys)


@pytest.mark.parametrize(
    "name",
    [n for n, p in BUILT.items() if p.transition_logpdf is not None and n != "circle"],
)
def test_transitions_satisfy_fokker_planck(name, x64):
    problem = BUILT[name]

    def p(t, y):
        return jnp.exp(problem.transition_logpdf(y, t, problem.y0))

    @jit
    @jax.vmap
    def sides(t, y):
        return jax.jacfwd(p)(t, y), -jnp.trace(jax.jacfwd(current(ito(problem), p), 1)(t, y))

    left, right = sides(*near(problem, 8))
    assert np.abs(left).max() > 1e-3
    np.testing.assert_allclose(left, right, rtol=1e-7, atol=1e-8 * np.abs(left).max())


@pytest.mark.parametrize("name", ["ou", "cir", "linear", "wave"])
@pytest.mark.parametrize("t", [0.01, 1.0])
def test_transitions_integrate_to_one_and_to_their_moments(name, t, x64):
    problem = {
        "ou": BUILT["ou"],
        "cir": problems.cir(1.2, 0.9, 0.5, y0=0.7),
        "linear": BUILT["linear"],
        "wave": problems.wave(0.6, y0=2.5),
    }[name]
    a, b = {"wave": (np.pi / 2, 3 * np.pi / 2), "ou": (-8.0, 8.0), "linear": (1e-9, 1e5)}.get(
        name, (1e-9, 60.0)
    )
    x = np.linspace(-14, 14, 20_001)  # y = a + (b - a) / (1 + e^-x) reaches into both ends
    fraction = scipy.special.expit(x + scipy.special.logit((float(problem.y0[0]) - a) / (b - a)))
    y = a + (b - a) * fraction
    weight = (b - a) * fraction * (1 - fraction) * (x[1] - x[0])
    logpdf = jit(jax.vmap(lambda y: problem.transition_logpdf(y, t, problem.y0)))
    p = np.exp(logpdf(jnp.asarray(y)[:, None])) * weight
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-8)
    if problem.mean is not None:
        mean, variance = problem.mean(t, problem.y0)[0], problem.covariance(t, problem.y0)[0, 0]
        np.testing.assert_allclose(p @ y, mean, rtol=1e-6)
        np.testing.assert_allclose(p @ (y - mean) ** 2, variance, rtol=1e-4)


@pytest.mark.parametrize("name", ["ou_matrix", "langevin"])
def test_gaussian_transitions_agree_with_scipy(name, x64):
    problem, t = BUILT[name], 0.6
    known = jit(lambda y: (problem.mean(t, y), problem.covariance(t, y)))(problem.y0)
    law = scipy.stats.multivariate_normal(*map(np.asarray, known))
    ys = law.rvs(3, random_state=0)
    ours = jit(jax.vmap(lambda y: problem.transition_logpdf(y, t, problem.y0)))(jnp.asarray(ys))
    np.testing.assert_allclose(ours, law.logpdf(ys), rtol=1e-10)


def test_lognormal_transitions_agree_with_scipy(x64):
    problem, t = BUILT["gbm"], 0.6
    y = np.array([1.4, -2.3])
    expected = sum(
        scipy.stats.lognorm(s * t**0.5, scale=abs(y0) * np.exp((mu - s**2 / 2) * t)).logpdf(abs(x))
        for x, y0, mu, s in zip(y, problem.y0, [0.5, -0.3], [0.4, 0.7], strict=True)
    )
    ours = problem.transition_logpdf(jnp.asarray(y), t, problem.y0)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert problem.transition_logpdf(jnp.array([1.0, 1.0]), t, problem.y0) == -jnp.inf


def cir_by_scipy(kappa, theta, sigma, y, t, y0):
    c = 2 * kappa / (sigma**2 * -np.expm1(-kappa * t))
    law = scipy.stats.ncx2(4 * kappa * theta / sigma**2, 2 * c * y0 * np.exp(-kappa * t))
    return law.logpdf(2 * c * y) + np.log(2 * c)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-8), (np.float32, 2e-3)])
def test_cir_transition_agrees_with_scipy(dtype, tolerance):
    """From small times (u v up to 1e7) to large ones, inside and outside Feller's condition."""
    rng = np.random.default_rng(2)
    n = 200
    kappa, theta, t = 10 ** rng.uniform([[-0.7], [-1], [-3]], [[0.7], [0.5], [1]], (3, n))
    sigma = 10 ** rng.uniform(-0.7, 0.3, n)
    y0 = theta * 10 ** rng.uniform(-1, 0.5, n)
    mean = theta + (y0 - theta) * np.exp(-kappa * t)
    y = np.abs(mean + sigma * np.sqrt(y0 * t) * rng.normal(size=n)) + 1e-3
    values = [x.astype(dtype) for x in (kappa, theta, sigma, y, t, y0)]
    with np.errstate(all="ignore"):
        expected = cir_by_scipy(*[x.astype(np.float64) for x in values])
    with jax.enable_x64(dtype == np.float64):
        ours = jit(
            jax.vmap(
                lambda k, th, s, y, t, y0: problems.cir(k, th, s, y0=y0).transition_logpdf(
                    y[None], t, y0[None]
                )
            )
        )(*map(jnp.asarray, values))
    assert ours.dtype == dtype and np.isfinite(ours).all()
    trusted = np.isfinite(expected) & (expected > -50)
    assert trusted.sum() > 150
    ours, expected = np.asarray(ours, np.float64)[trusted], expected[trusted]
    assert (np.abs(ours - expected) / np.maximum(1, np.abs(expected))).max() < tolerance


def test_the_bessel_kernel_agrees_with_scipy(x64):
    rng = np.random.default_rng(3)
    nu = np.concatenate([rng.uniform(-0.99, 1, 500), 10 ** rng.uniform(-1, 2, 500)])
    z = np.concatenate([10 ** rng.uniform(-2, 3, 500), rng.uniform(30, 50, 500)])
    expected = np.log(scipy.special.ive(nu, z)) - nu * np.log(z / 2)
    ours = jit(jax.vmap(log_kernel))(*map(jnp.asarray, (nu, z / 2, z / 2)))
    error = np.abs(ours - expected) / np.maximum(1, np.abs(expected))
    assert error[np.isfinite(expected)].max() < 1e-11


def test_cir_at_and_below_zero(x64):
    problem = problems.cir(1.2, 0.9, 0.5)

    def field(y):
        g = problem.sde.diffusion(0.0, y[None]).as_matrix()
        return problem.sde.drift(0.0, y[None])[0] + g[0, 0]

    field = jit(jax.value_and_grad(field))
    log = jit(jax.value_and_grad(lambda y0, y: problem.transition_logpdf(y[None], 1.0, y0[None])))
    for y in (0.0, -0.3):
        value, slope = field(y)
        assert value == 1.2 * 0.9 and np.isfinite(slope)
        assert log(1.0, y)[0] == -jnp.inf
    # A start at 0 is the limit of small starts, slope included.
    np.testing.assert_allclose(log(0.0, 0.4), log(1e-9, 0.4), rtol=1e-6)


def test_the_circle_transition_is_a_wrapped_normal(x64):
    problem = problems.circle(0.8, y0=np.array([0.6, 0.8]))
    angle = jnp.linspace(0, 2 * jnp.pi, 513)[:-1]
    turn = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    logpdf = jit(jax.vmap(problem.transition_logpdf, (0, None, None)))
    for t in (0.05, 1.0, 9.8, 9.9, 40.0):  # the sum changes over at 2 pi / .64 = 9.8
        weight = np.exp(logpdf(turn, t, problem.y0)) * 2 * np.pi / 512
        mean = np.asarray(weight @ turn)
        d = np.asarray(turn) - mean
        covariance = (weight[:, None] * d).T @ d
        np.testing.assert_allclose(weight.sum(), 1, rtol=1e-12)
        np.testing.assert_allclose(problem.mean(t, problem.y0), mean, atol=1e-12)
        np.testing.assert_allclose(problem.covariance(t, problem.y0), covariance, atol=1e-12)
    uniform = problem.stationary_logpdf(turn[0])
    np.testing.assert_allclose(logpdf(turn, 200.0, problem.y0), uniform, rtol=1e-12)

    def p(t, a):
        y = jnp.stack([jnp.cos(a), jnp.sin(a)])
        return jnp.exp(problem.transition_logpdf(y, t, problem.y0))

    @jit
    @jax.vmap
    def heat(t, a):
        return jax.jacfwd(p)(t, a), 0.5 * 0.8**2 * jax.jacfwd(jax.jacfwd(p, 1), 1)(t, a)

    left, right = heat(jnp.array([0.5, 2.0, 12.0]), jnp.array([1.3, -2.0, 0.4]))
    np.testing.assert_allclose(left, right, atol=1e-12)


# 4. Stationary laws.


@pytest.mark.parametrize("name", ["ou", "cir", "double_well"])
def test_stationary_laws_have_no_current(name, x64):
    problem = problems.cir(1.2, 0.9, 0.5) if name == "cir" else BUILT[name]

    def p(t, y):
        return jnp.exp(problem.stationary_logpdf(y))

    flow = jit(jax.vmap(current(ito(problem), p)))(*near(problem, 8))
    np.testing.assert_allclose(flow, 0, atol=1e-12)


@pytest.mark.parametrize("name", ["ou_matrix", "langevin", "langevin_double_well"])
def test_stationary_laws_are_stationary(name, x64):
    """Kramers' equation where the SDE is Langevin; a rotating current is allowed."""
    problem = BUILT[name]

    def p(t, y):
        return jnp.exp(problem.stationary_logpdf(y))

    @jit
    @jax.vmap
    def sources(t, y):
        d = jax.jacfwd(current(ito(problem), p), 1)(t, y)
        return jnp.trace(d), jnp.max(jnp.abs(d))

    total, scale = sources(*near(problem, 8))
    assert scale.max() > 1e-3
    np.testing.assert_allclose(total, 0, atol=1e-12)


@pytest.mark.parametrize("name", ["ou", "ou_matrix", "double_well", "langevin_double_well"])
def test_stationary_laws_integrate_to_one_and_to_their_moments(name, x64):
    problem = BUILT[name]
    mean, covariance = problem.stationary_mean, problem.stationary_covariance
    axes = [
        np.linspace(m - 9 * s, m + 9 * s, 601)
        for m, s in zip(mean, np.sqrt(np.diag(covariance)), strict=True)
    ]
    y = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    p = np.exp(jit(jax.vmap(problem.stationary_logpdf))(jnp.asarray(y)))
    p = p * np.prod([axis[1] - axis[0] for axis in axes])
    d = y - np.asarray(mean)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-10)
    np.testing.assert_allclose(p @ d, 0, atol=1e-10)
    np.testing.assert_allclose((p[:, None] * d).T @ d, covariance, rtol=1e-9, atol=1e-10)


def test_stationary_laws_agree_with_scipy(x64):
    cir = problems.cir(1.2, 0.9, 0.5)
    law = scipy.stats.gamma(2 * 1.2 * 0.9 / 0.25, scale=0.25 / 2.4)
    np.testing.assert_allclose(cir.stationary_logpdf(jnp.array([0.7])), law.logpdf(0.7), rtol=1e-12)
    np.testing.assert_allclose(cir.stationary_mean, law.mean(), rtol=1e-12)
    np.testing.assert_allclose(cir.stationary_covariance[0, 0], law.var(), rtol=1e-12)
    assert cir.stationary_logpdf(jnp.array([-0.1])) == -jnp.inf
    ou = BUILT["ou_matrix"]
    g = np.asarray(ou.sde.diffusion(0.0, ou.y0).as_matrix())
    theta = np.array([[1.0, 0.8], [-0.5, 0.7]])
    s = scipy.linalg.solve_continuous_lyapunov(theta, g @ g.T)
    np.testing.assert_allclose(ou.stationary_covariance, s, rtol=1e-12)


@pytest.mark.parametrize("a, sigma", [(1.0, 0.05), (1.0, 3.0), (-1.0, 0.5), (0.0, 1.0)])
def test_double_well_normaliser(a, sigma, x64):
    """Barriers from 400 times sigma^2 / 2 down to none."""
    problem = problems.double_well(a, 1.0, sigma)
    log_p, well = problem.stationary_logpdf, np.sqrt(max(a, 0.0))
    reach = 3 * max(sigma, sigma**0.5)
    f = jit(lambda y: jnp.exp(log_p(y[None])))
    half = quad(lambda y: float(f(jnp.asarray(y))), 0, well + reach, points=[well], limit=200)[0]
    np.testing.assert_allclose(2 * half, 1, rtol=1e-9)


# 5. Parameters and gradients.


def test_gbm_gradients_are_the_hand_written_ones(x64):
    t, w = 0.7, jnp.array([0.4])

    def x(mu, sigma, y0):
        problem = problems.gbm(mu, sigma, y0=y0)
        return problem.exact(t, problem.y0, w)[0]

    value, by = jax.value_and_grad(x, (0, 1, 2))(0.3, 0.6, 1.5)
    np.testing.assert_allclose(by, (t * value, (w[0] - 0.6 * t) * value, value / 1.5), rtol=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_gradients_through_the_constructor(name, x64):
    """Everything a problem knows, and two Euler steps, against central differences."""

    def total(c):
        problem = ALL[name](c)
        sde, y, out = ito(problem), problem.y0, []
        for step in range(2):
            dw = jnp.full(sde.noise_dim, 0.1)
            y = y + 0.01 * sde.drift(0.01 * step, y) + sde.diffusion(0.01 * step, y).mv(dw)
        at = jnp.asarray(near(BUILT[name], 1)[1][0])
        if problem.exact is not None:
            out.append(problem.exact(0.7, problem.y0, jnp.full(sde.noise_dim, 0.3)))
        if problem.transition_logpdf is not None:
            out.append(problem.transition_logpdf(at, 0.7, problem.y0))
        if problem.mean is not None and name not in ("ou_matrix", "langevin"):  # slow to compile,
            out += [problem.mean(0.7, problem.y0), problem.covariance(0.7, problem.y0)]  # and above
        if problem.stationary_logpdf is not None:
            out += [problem.stationary_logpdf(at), problem.stationary_covariance]
        return jnp.sum(y) + sum(jnp.sum(jnp.sin(x)) for x in out)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = jit(jax.value_and_grad(total))
        (above, _), (_, slope), (below, _) = both(1 + 1e-5), both(1.0), both(1 - 1e-5)
    np.testing.assert_allclose(slope, (above - below) / 2e-5, rtol=1e-6)
    assert abs(slope) > 1e-3


def everything(problem: problems.Problem) -> list:
    sde, y = ito(problem), problem.y0
    w = jnp.full(sde.noise_dim, 0.1)
    calls = [(problem.mean, (0.5, y)), (problem.covariance, (0.5, y))]
    calls += [(problem.exact, (0.5, y, w)), (problem.transition_logpdf, (y, 0.5, y))]
    calls += [(problem.stationary_logpdf, (y,))]
    known = [f(*args) for f, args in calls if f is not None]
    return [sde.drift(0.1, y), sde.diffusion(0.1, y).mv(w), *known]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bits", [32, 64])
def test_one_precision_throughout(name, bits):
    with jax.enable_x64(bits == 64):
        for value in jax.eval_shape(lambda: everything(ALL[name]())):
            assert value.dtype == f"float{bits}"


@pytest.mark.parametrize("name", ["cir", "langevin", "circle"])
def test_single_precision_is_enough(name, x64):
    problem = BUILT[name]
    with jax.enable_x64(False):
        single = jit(everything)(ALL[name]())
    for ours, truth in zip(single, jit(everything)(problem), strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5)


def test_a_problem_is_a_pytree_of_its_parameters():
    traces = 0

    @jit
    def end(problem, w):
        nonlocal traces
        traces += 1
        return problem.exact(1.0, problem.y0, w)[0]

    w = jnp.array([0.3])
    ends = [end(problems.linear(0.5, beta), w) for beta in (0.2, 0.4)]
    assert traces == 1
    many = jax.vmap(lambda beta: problems.linear(0.5, beta))(jnp.array([0.2, 0.4]))
    np.testing.assert_allclose(jax.vmap(end, (0, None))(many, w), ends, rtol=1e-6)


@pytest.mark.parametrize(
    "name, noise",
    [
        ("additive", "additive"),
        ("lorenz", "commutative"),
        ("gbm_correlated", "commutative"),
        ("circle", "commutative"),
        ("gbm_noncommutative", "general"),
    ],
)
def test_noise_classes_are_what_they_say(name, noise, x64):
    diffusion, y0 = BUILT[name].sde.diffusion, BUILT[name].y0
    bracket = jit(lambda y: diffusions.commutator(diffusion, 0.1, y))(y0)
    assert diffusion.noise == noise
    assert (np.abs(bracket).max() > 0.01) == (noise == "general")


def test_lorenz_rests_at_its_fixed_points(x64):
    x = np.sqrt(8 / 3 * 27)
    problem = problems.lorenz()
    for y in ([0.0, 0.0, 0.0], [x, x, 27.0], [-x, -x, 27.0]):
        np.testing.assert_allclose(problem.sde.drift(0.0, jnp.array(y)), 0, atol=1e-12)
    g = problem.sde.diffusion(0.0, jnp.array([1.0, 2.0, 3.0])).as_matrix()
    np.testing.assert_allclose(g, np.diag([0.1, 0.56, 0.9]), rtol=1e-12)


@pytest.mark.parametrize("name", ["langevin", "langevin_double_well"])
def test_langevin_goes_to_the_underdamped_solvers(name):
    assert isinstance(BUILT[name].sde, Langevin)
    x = jnp.array([0.5]) if name.endswith("well") else jnp.array([0.5, 1.0])
    terms = BUILT[name].sde.terms(dfx.UnsafeBrownianPath((1,), key=jax.random.key(0)))
    assert all(isinstance(term, dfx.AbstractTerm) for term in terms.terms)
    assert ALL[name]().sde.gradient(x).shape == x.shape


# 6. What is refused, and what is None.


@pytest.mark.parametrize(
    "build, sentence",
    [
        (lambda: problems.gbm(sigma=-0.1), "`sigma`"),
        (lambda: problems.linear(beta=-0.1), "`beta`"),
        (lambda: problems.ou(sigma=0.0), "`sigma`"),
        (lambda: problems.ou(np.eye(2), sigma=np.ones((2, 2))), "rank"),
        (lambda: problems.ou(np.eye(2), y0=np.ones(3)), "`theta`"),
        (lambda: problems.gbm(mu=np.ones(2), sigma=np.ones(3)), "shapes"),
        (lambda: problems.gbm(mu=np.nan), "finite"),
        (lambda: problems.gbm(t1=0.0), "`t1`"),
        (lambda: problems.gbm_correlated(sigma=0.3), "`sigma`"),
        (lambda: problems.gbm_noncommutative(b=np.stack([np.eye(2)] * 2)), "commute"),
        (lambda: problems.gbm_noncommutative(b=np.ones((2, 2))), "`b`"),
        (lambda: problems.cir(kappa=-1.0), "`kappa`"),
        (lambda: problems.cir(y0=-1.0), "`y0`"),
        (lambda: problems.double_well(b=0.0), "`b`"),
        (lambda: problems.additive(alpha=-0.1), "`alpha`"),
        (lambda: problems.wave(0.0), "`a`"),
        (lambda: problems.langevin(-1.0), "`stiffness`"),
        (lambda: problems.langevin([[1.0, 0.5], [0.0, 1.0]]), "`stiffness`"),
        (lambda: problems.langevin(gamma=-1.0), "`gamma`"),
        (lambda: problems.lorenz(noise=-0.1), "`noise`"),
        (lambda: problems.circle(-1.0), "`sigma`"),
        (lambda: problems.circle(y0=np.zeros(2)), "`y0`"),
        (lambda: problems.circle(y0=np.ones(3)), "`y0`"),
    ],
)
def test_bad_parameters_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_cir_reports_a_process_that_touches_zero():
    with pytest.warns(UserWarning, match="touches zero"):
        problems.cir(1.0, 0.1, 1.0)


def test_laws_that_do_not_exist_are_none():
    unstable = problems.ou([[1.0, 0.0], [0.0, -0.1]])
    assert unstable.stationary_logpdf is None and unstable.stationary_covariance is None
    assert np.isfinite(unstable.covariance(1.0, unstable.y0)).all()
    assert problems.gbm(sigma=0.0).transition_logpdf is None
    assert problems.gbm_correlated(sigma=np.ones((2, 1))).transition_logpdf is None
    stationary = jit(lambda theta: problems.ou(theta).stationary_logpdf(jnp.ones(1)))
    assert np.isnan(stationary(-1.0)) and np.isfinite(stationary(1.0))


def test_no_noise_is_a_limit_that_can_be_differentiated():
    def x(sigma):
        problem = problems.gbm(0.5, sigma)
        return problem.exact(1.0, problem.y0, jnp.array([0.3]))[0]

    np.testing.assert_allclose(
        jax.value_and_grad(x)(0.0), (np.exp(0.5), 0.3 * np.exp(0.5)), rtol=1e-6
    )
