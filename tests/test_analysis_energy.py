"""Energies and stationary laws against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg

from dynlm import SDE, diffusions, drifts, problems
from dynlm._io import BadArgument
from dynlm.analysis._potential import energy, quasi_potential
from dynlm.analysis._stationary import stationary
from dynlm.analysis.findings import Verdict

TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


def linear(matrix, sigma=1.0):
    matrix = jnp.asarray(matrix)
    drift = drifts.Linear(matrix, jnp.zeros(len(matrix), matrix.dtype))
    return SDE(drift, diffusions.Scalar(jnp.asarray(sigma, matrix.dtype), len(matrix)))


def named(found, start):
    (one,) = [f for f in found if f.what.startswith(start)]
    return one


def value(found, start):
    number = named(found, start).value
    assert number is not None
    return number


# Energies


def test_an_energy_is_found_again_and_a_rotation_has_none(x64):
    def height(y):
        return (y[0] ** 2 - 1) ** 2 / 4 + y[1] ** 2 + jnp.sin(y[2]) * y[1]

    noise = diffusions.Scalar(0.5, 3)
    learned = SDE(drifts.Gradient(height), noise)
    given = SDE(drifts.Function(lambda t, y: -jax.grad(height)(y)), noise)
    turned = SDE(drifts.Function(lambda t, y: 2 * jnp.stack([-y[1], y[0], 0 * y[2]])), noise)
    where = {
        "origin": [0.1, 0.0, 0.2],
        "directions": [[1, 0, 0], [0, 1, 1]],
        "extent": [[-1.5, 1.5], [-1, 1]],
    }
    exact = energy(learned, **where)
    b, a = np.meshgrid(exact.second, exact.first, indexing="ij")
    ys = np.stack([0.1 + a, b / np.sqrt(2), 0.2 + b / np.sqrt(2)])
    truth = np.asarray(height(jnp.asarray(ys)))
    assert exact.values == pytest.approx(truth - truth.min(), abs=1e-12)
    errors = []
    for size in (16, 32):
        found = energy(given, **where, size=size)
        fine = energy(learned, **where, size=size)
        assert found.values is not None and fine.values is not None
        errors.append(np.abs(found.values - fine.values).max())
        assert value(found.findings, "path dependence") < 0.01
    assert errors[1] < 0.02 and errors[0] / errors[1] == pytest.approx(4, rel=0.25)
    depth = np.ptp(truth) / (0.5**2 / 2)
    assert value(exact.findings, "range of the energy") == pytest.approx(depth)
    none = energy(turned, **where)
    assert none.values is None
    assert named(none.findings, "range of the energy").verdict is Verdict.WITHHELD


def test_the_quasi_potential_is_that_of_the_double_well(x64):
    problem = problems.double_well(a=1.0, b=1.0, sigma=0.6)
    found = quasi_potential(problem.sde, low=-2.2, high=2.2)
    truth = np.exp(jax.vmap(problem.stationary_logpdf)(jnp.asarray(found.x)[:, None]))
    assert found.density == pytest.approx(np.asarray(truth), abs=1e-6)
    assert found.wells == pytest.approx([-1, 1], abs=0.02)
    assert value(found.findings, "number of wells") == 2
    barrier = value(found.findings, "lowest barrier")
    assert barrier == pytest.approx(2 * 0.25 / 0.36, rel=1e-3)


# Stationary laws in continuous time


@pytest.mark.parametrize("turn", [0.0, 2.0])
def test_the_stationary_law_solves_lyapunovs_equation(turn):
    a = np.array([[1.0, 0.3], [0.3, 0.7]]) + turn * TURN
    g = np.array([[0.8, 0.0], [0.4, 0.6]])
    sde = SDE(drifts.Linear(jnp.asarray(-a), jnp.zeros(2)), diffusions.Constant(jnp.asarray(g)))
    truth = linalg.solve_continuous_lyapunov(-a, -g @ g.T)
    box = 5 * np.sqrt(np.diagonal(truth))
    found = stationary(sde, low=-box, high=box)
    assert found.covariance == pytest.approx(truth, abs=0.01 * np.trace(truth))
    grid = np.stack(np.meshgrid(*found.axes, indexing="ij"), axis=-1)
    exponent = -np.einsum("mni,ij,mnj->mn", grid, np.linalg.inv(truth), grid) / 2
    density = np.exp(exponent) / (2 * np.pi * np.sqrt(np.linalg.det(truth)))
    assert np.abs(found.density - density).max() < 0.02 * density.max()
    assert found.density.sum() * np.prod(2 * box / 64) == pytest.approx(1)
    # The current of a Gaussian law is (f + D S^-1 y / 2) p, and its production is known from it.
    matrix = -a + g @ g.T @ np.linalg.inv(truth) / 2
    current = grid @ matrix.T * density[..., None]
    assert np.abs(found.current - current).max() < 0.03 * max(np.abs(current).max(), 0.1)
    production = 2 * np.trace(matrix.T @ np.linalg.inv(g @ g.T) @ matrix @ truth)
    rate = value(found.findings, "entropy production")
    assert rate == pytest.approx(production, rel=0.03, abs=0.01)


def test_detailed_balance_has_no_current_and_a_turning_one_has_its_rate():
    """For f = -y + b J y and noise 1, production is 2 b^2 / a."""
    still = stationary(linear(-np.eye(2)), low=[-4, -4], high=[4, 4], size=48)
    assert value(still.findings, "entropy production") < 1e-8
    moving = stationary(linear(-np.eye(2) + 1.5 * TURN), low=[-4, -4], high=[4, 4], size=48)
    rate = value(moving.findings, "entropy production")
    assert rate == pytest.approx(2 * 1.5**2, rel=0.02)
    i, j = 40, 24  # to the right of the middle a turn to the left leads upward
    assert moving.current[i, j, 1] > 0
    backward = stationary(linear(-np.eye(2) - 1.5 * TURN), low=[-4, -4], high=[4, 4], size=48)
    assert backward.current[i, j, 1] < 0


def wells(x):
    v = (x[..., 0] ** 2 - 1) ** 2 / 4 + (x[..., 1] - 0.3 * x[..., 0]) ** 2 / 2
    return np.exp(-2 * v / 0.49)


def test_two_wells_have_their_density_and_the_error_is_of_second_order(x64):
    def f(t, y):
        pull = y[1] - 0.3 * y[0]
        return jnp.stack([y[0] - y[0] ** 3 + 0.3 * pull, -pull])

    sde = SDE(drifts.Function(f), diffusions.Scalar(0.7, 2))
    low, high = np.array([-2.3, -2.6]), np.array([2.3, 2.6])
    whole = integrate.dblquad(
        lambda y, x: wells(np.array([x, y])), -2.3, 2.3, -2.6, 2.6, epsabs=1e-10
    )[0]
    errors = []
    for size in (16, 32, 64):
        found = stationary(sde, low=low, high=high, size=size)
        grid = np.stack(np.meshgrid(*found.axes, indexing="ij"), axis=-1)
        errors.append(np.abs(found.density - wells(grid) / whole).max())
        assert value(found.findings, "number of modes") == 2
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders[-1] == pytest.approx(2.0, abs=0.25)
    assert errors[-1] < 0.01 * found.density.max()


def test_noise_that_depends_on_the_state_in_one_dimension(x64):
    """Cox, Ingersoll and Ross: a gamma law."""
    problem = problems.cir(kappa=1.0, theta=1.5, sigma=0.6)
    errors = []
    for size in (40, 80):
        found = stationary(problem.sde, low=0.02, high=6.0, size=size)
        truth = np.exp(jax.vmap(problem.stationary_logpdf)(jnp.asarray(found.axes[0])[:, None]))
        errors.append(np.abs(found.density - np.asarray(truth)).max())
    assert errors[1] < 2e-3 and np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)
    assert found.mean == pytest.approx([1.5], abs=0.01)


def test_a_box_that_cuts_off_mass_is_told_and_a_wide_one_is_solved():
    sde = linear(-np.eye(2))
    cut = stationary(sde, low=[-0.7, -4], high=[4, 4], size=32)
    assert cut.edge > 0.05
    for start in ("number of modes", "entropy production"):
        assert named(cut.findings, start).verdict is Verdict.WITHHELD
    wide = stationary(linear(-200 * np.eye(2)), low=[-4, -4], high=[4, 4], size=33)
    assert np.isfinite(wide.density).all() and wide.density.argmax() == 33 * 16 + 16


def test_what_has_no_law_or_no_place_is_refused(unchecked):
    noise = diffusions.Diagonal(lambda t, y: jnp.stack([0 * y[0], 1 + 0 * y[1]]), 2, "state")
    still = SDE(drifts.Linear(-jnp.eye(2), jnp.zeros(2)), noise)
    for call in (
        lambda: stationary(linear(-np.eye(2)), low=[-1], high=[1]),
        lambda: stationary(linear(-np.eye(3)), low=[-1] * 3, high=[1] * 3),
        lambda: stationary(linear(-np.eye(2)), low=[-1, 1], high=[1, -1]),
        lambda: stationary(still, low=[-1, -1], high=[1, 1]),
        lambda: quasi_potential(linear(-np.eye(1), 0.0), low=-1, high=1),
    ):
        with pytest.raises(BadArgument, match=r"`|noise"):
            call()


# Stationary laws of chains


def covariance_of(matrix, noise):
    """S = A S A^T + Q, by adding up."""
    s, power = np.zeros_like(noise), np.eye(len(matrix))
    for _ in range(2000):
        s, power = s + power @ noise @ power.T, matrix @ power
    return s


def gaussian_production(matrix, s):
    """KL between the laws of (x, x') and (x', x)."""
    lag = matrix @ s
    ahead, back = np.block([[s, lag.T], [lag, s]]), np.block([[s, lag], [lag.T, s]])
    return (np.trace(np.linalg.solve(back, ahead)) - 2 * len(s)) / 2


@pytest.mark.parametrize("turn", [0.0, 0.9])
def test_the_law_of_a_linear_chain_solves_the_discrete_lyapunov_equation(turn, x64):
    dt = 0.7
    a = np.array([[0.8, 0.3], [0.1, 0.6]]) + turn * TURN
    g = np.array([[0.8, 0.0], [0.4, 0.6]])
    sde = SDE(drifts.Linear(jnp.asarray(-a), jnp.zeros(2)), diffusions.Constant(jnp.asarray(g)))
    matrix = np.eye(2) - a * dt
    truth = covariance_of(matrix, g @ g.T * dt)
    box = 6 * np.sqrt(np.diagonal(truth))
    found = stationary(sde, low=-box, high=box, size=32, dt=dt)
    assert found.covariance == pytest.approx(truth, abs=1e-6) and found.mean == pytest.approx(0.0)
    grid = np.stack(np.meshgrid(*found.axes, indexing="ij"), axis=-1)
    exponent = -np.einsum("mni,ij,mnj->mn", grid, np.linalg.inv(truth), grid) / 2
    density = np.exp(exponent) / (2 * np.pi * np.sqrt(np.linalg.det(truth)))
    assert np.abs(found.density - density).max() < 1e-6 * density.max()
    back = truth @ matrix.T @ np.linalg.inv(truth)  # the state before, expected given this one
    current = grid @ ((matrix - back) / (2 * dt)).T * density[..., None]
    assert np.abs(found.current - current).max() < 1e-5
    production = gaussian_production(matrix, truth) / dt
    assert value(found.findings, "entropy production") == pytest.approx(production, abs=1e-5)
    assert production > 0.01 and value(found.findings, "number of modes") == 1
    flow = linalg.solve_continuous_lyapunov(-a, -g @ g.T)
    assert not np.allclose(truth, flow, rtol=0.2)  # which is another law


def test_a_linear_chain_in_one_dimension_is_reversible_and_a_bent_one_is_not(x64):
    """Of states drawn anew, f = -y at a step of one, the chain has twice the flow's variance."""
    anew = stationary(linear(-np.eye(1)), low=-7, high=7, dt=1.0)
    assert anew.covariance[0, 0] == pytest.approx(1.0, abs=1e-6)
    assert stationary(linear(-np.eye(1)), low=-7, high=7).covariance[0, 0] < 0.51
    slow = stationary(linear(-0.3 * np.eye(1)), low=-12, high=12, size=80, dt=1.0)
    for found in (anew, slow):
        assert abs(value(found.findings, "entropy production")) < 1e-9
    drift = drifts.Function(lambda t, y: -0.7 * y + 0.6 * jnp.cos(2 * y))
    bent = stationary(SDE(drift, diffusions.Scalar(0.7, 1)), low=-4, high=4, dt=1.0)
    assert value(bent.findings, "entropy production") > 0.01
    sure = value(stationary(SDE(drift, diffusions.Scalar(0.7, 1)), low=-4, high=4).findings, "ent")
    assert sure < 1e-9  # in continuous time there is no way round in one dimension


def test_the_law_of_a_chain_with_two_wells_is_that_of_a_long_simulation():
    dt, sigma = 0.25, 0.55
    drift = drifts.Function(lambda t, y: y - y**3)
    found = stationary(SDE(drift, diffusions.Scalar(sigma, 1)), low=-2.4, high=2.4, size=48, dt=dt)
    rng, x = np.random.default_rng(0), np.tile([-1.0, 1.0], 2000)
    counts = np.zeros(48)
    for k in range(1500):
        x = x + dt * (x - x**3) + sigma * np.sqrt(dt) * rng.normal(size=x.shape)
        if k >= 100:
            counts += np.histogram(x, bins=48, range=(-2.4, 2.4))[0]
    seen = counts / counts.sum() / 0.1
    assert np.abs(found.density - seen).max() < 0.01 * seen.max()
    assert value(found.findings, "number of modes") == 2
    flow = stationary(SDE(drift, diffusions.Scalar(sigma, 1)), low=-2.4, high=2.4, size=48)
    assert np.abs(flow.density - seen).max() > 0.05 * seen.max()


def test_noise_that_depends_on_the_state_moves_the_chain(x64):
    """E y' = E y and E y'^2 = E y^2 in a chain whose noise grows away from zero."""
    noise = diffusions.Diagonal(lambda t, y: jnp.sqrt(0.3 + 0.2 * y**2), 1, "state")
    found = stationary(
        SDE(drifts.Linear(-0.8 * jnp.eye(1), jnp.full(1, 0.4)), noise),
        low=-14, high=15, size=160, dt=0.5,
    )  # fmt: skip
    assert found.mean == pytest.approx([0.5], abs=1e-3)
    second = (0.5 * 0.3 + 0.04 + 2 * 0.6 * 0.2 * 0.5) / (1 - 0.36 - 0.5 * 0.2)
    assert found.covariance[0, 0] == pytest.approx(second - 0.25, abs=2e-3)


def test_a_chain_of_which_nothing_may_be_said_says_why():
    def why(sde, low, high, **how):
        found = stationary(sde, low=low, high=high, **how).findings
        one, two = (named(found, start) for start in ("number of modes", "entropy production"))
        assert one.verdict is two.verdict is Verdict.WITHHELD and one.note == two.note
        return one.note

    assert "narrower than 0.7 of a cell" in why(linear(-np.eye(2), 0.1), -np.ones(2), np.ones(2),
                                                dt=1.0, size=8)  # fmt: skip
    assert "near the edge" in why(linear(-np.eye(1)), -2, 2, dt=1.0)
    flung = SDE(drifts.Linear(-2.1 * jnp.eye(1), jnp.zeros(1)), diffusions.Scalar(0.2, 1))
    assert "near the edge" in why(flung, -2, 2, dt=1.0)  # each step is longer than the last
    wells = SDE(drifts.Function(lambda t, y: 1.9 * jnp.tanh(8 * y) - y), diffusions.Scalar(0.2, 1))
    assert "so rarely" in why(wells, -3.2, 3.2, dt=1.0)


def test_a_step_or_a_size_that_cannot_be_is_refused(unchecked):
    noise = diffusions.Function(lambda t, y: jnp.ones((2, 1)), 2, 1)
    thin = SDE(drifts.Linear(-jnp.eye(2), jnp.zeros(2)), noise)
    box = {"low": [-3, -3], "high": [3, 3]}
    for sde, how, word in (
        (linear(-np.eye(2)), {"dt": 0.0}, "`dt` is 0"),
        (linear(-np.eye(2)), {"dt": float("inf")}, "`dt` is inf"),
        (linear(-np.eye(2)), {"dt": 1.0, "size": 65}, "`size` is 65"),
        (thin, {"dt": 1.0, "size": 8}, "zero in some direction"),
    ):
        with pytest.raises(BadArgument, match=word):
            stationary(sde, **box, **how)
