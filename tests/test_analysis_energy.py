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


# Stationary laws


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
