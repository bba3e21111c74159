"""When a one-step law belongs to continuous time: against scipy, quadrature and closed forms."""

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad_vec
from scipy.linalg import expm, logm

from dynlm import SDE, Trajectory, baselines, diffusions, drifts, stack
from dynlm.predict._embedding import covariance_after, embeddable, flow, logarithm
from dynlm.predict._refinement import refinement

RNG = np.random.default_rng(5)


def one_step(a, s, dt):
    """Q by quadrature of its definition."""
    return quad_vec(lambda u: expm(a * u) @ s @ expm(a.T * u), 0, dt, epsabs=1e-12)[0]


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("dim", [1, 2, 7, 24])
def test_logarithm_and_flow_are_those_of_scipy(dim):
    a = RNG.normal(size=(dim, dim)) / np.sqrt(dim) - 0.5 * np.eye(dim)
    for dt in (0.03, 1.0, 3.0):
        f, g = flow(a, dt)
        np.testing.assert_allclose(f, expm(a * dt), atol=1e-12)
        np.testing.assert_allclose(a @ g, f - np.eye(dim), atol=1e-12)
    f = expm(a)
    np.testing.assert_allclose(logarithm(f), logm(f).real, atol=1e-9)


@pytest.mark.parametrize(
    "f",
    [
        np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]]),  # no basis of eigenvectors
        0.9 * rotation(3.1),  # next to the negative axis
        np.diag([1e-6, 0.99]),
        np.array([[1.2, 0.3], [0.0, 1.5]]),  # grows
        np.eye(2),
    ],
)
def test_logarithm_of_hard_matrices(f):
    np.testing.assert_allclose(logarithm(f), logm(f).real, atol=1e-8)
    np.testing.assert_allclose(expm(logarithm(f)), f, atol=1e-10)


@pytest.mark.parametrize("defective", [False, True])
@pytest.mark.parametrize("dt", [0.25, 2.0])
def test_an_ornstein_uhlenbeck_process_is_found_from_its_one_step_law(dt, defective):
    a = np.array([[-0.4, 0.8, 0.1], [-0.8, -0.4, 0.0], [0.0, 0.2, -1.0]])
    if defective:
        a = np.array([[-0.4, 1.0, 0.0], [0.0, -0.4, 1.0], [0.0, 0.0, -0.4]])
    root = RNG.normal(size=(3, 3))
    s = root @ root.T
    found = embeddable(expm(a * dt), one_step(a, s, dt), dt)
    assert found.ok and found.least is not None and found.least > 0
    np.testing.assert_allclose(found.drift_matrix, a, atol=1e-8)
    np.testing.assert_allclose(found.noise_covariance, s, atol=1e-7 * np.abs(s).max())


@pytest.mark.parametrize(
    "f, words",
    [
        (np.diag([0.5, 0.0]), "zero eigenvalue (rank 1 of 2)"),
        (np.zeros((2, 2)), "zero eigenvalue (rank 0 of 2)"),
        (np.diag([0.5, -0.3]), "unpaired negative eigenvalue, -0.3"),
        (np.diag([-0.2, -0.3]), "unpaired negative eigenvalue"),
        (-0.5 * np.eye(2), "not by the principal logarithm"),
    ],
)
def test_matrices_without_a_real_principal_logarithm_are_refused(f, words):
    found = embeddable(f, np.eye(2))
    assert not found.ok and words in found.reason
    assert found.drift_matrix is None and found.noise_covariance is None


def test_a_noise_that_is_no_covariance_is_refused_and_says_by_how_much():
    a, dt = np.array([[-0.1, 2.0], [-2.0, -3.0]]), 1.0
    for least, words in ((-0.3, "0.3 of the largest"), (-2e-4, "may be an error of estimation")):
        s = rotation(0.7) @ np.diag([1.0, least]) @ rotation(0.7).T
        q = one_step(a, s, dt)
        assert np.linalg.eigvalsh(q)[0] > 0  # a fine one-step law, all the same
        found = embeddable(expm(a * dt), q, dt)
        assert not found.ok and words in found.reason
        assert found.least == pytest.approx(least, rel=1e-5)
        assert ("may be" in found.reason) == (abs(least) < 1e-3)


def test_noise_in_fewer_directions_is_accepted():
    a = np.array([[-0.5, 1.0], [0.0, -0.7]])
    s = np.diag([0.0, 1.0])
    assert embeddable(expm(a), one_step(a, s, 1.0)).ok


def seen(a, s, dt, documents, length, seed):
    """Documents of the process, from a draw of its stationary law on."""
    rng, f = np.random.default_rng(seed), expm(a * dt)
    w, v = np.linalg.eigh(covariance_after(a, s, dt))
    root = v * np.sqrt(np.maximum(w, 0))
    y, ys = np.zeros((documents, len(a))), []
    for _ in range(length + 40):
        y = y @ f.T + rng.normal(size=y.shape) @ root.T
        ys.append(y)
    return rows(np.stack(ys[40:], axis=1), dt)


A4 = np.array([[-0.5, 1, 0, 0.3], [-1, -0.5, 0.2, 0], [0.6, 0, -0.8, 0.4], [0, 0.5, -0.4, -0.7]])
U4 = np.array([[1, 0], [0, 1], [0.5, 0.3], [0.2, -0.6]])


def test_a_process_with_noise_of_low_rank_is_embeddable_from_its_data():
    """Of an estimate the least eigenvalue is negative more often than not."""
    data = [seen(A4, U4 @ U4.T, 0.5, 40, 40, seed) for seed in range(16)]
    found: list[Any] = [baselines.embedding(one) for one in data]
    assert sum(one.least < -1e-6 for one in found) >= 10
    assert sum(not one.ok for one in found) <= 1  # of 2.5 % by chance
    first = next(k for k, one in enumerate(found) if one.ok and one.interval is not None)
    value, low, high, _, documents = found[first].interval
    assert f"{value:.2g} [{low:.2g}, {high:.2g}]" in found[first].reason
    assert low < 0 < high < low + 0.1 and documents == 20
    ou = baselines.ou(data[first])
    assert found[first].least < 0 and isinstance(ou, baselines.OrnsteinUhlenbeck)
    assert np.linalg.eigvalsh(np.asarray(ou.noise, float))[0] > -1e-6
    f, _, root = (np.asarray(x, float) for x in ou.at_step)
    q = one_step(np.asarray(ou.matrix, float), np.asarray(ou.noise, float), 0.5)
    np.testing.assert_allclose(root @ root.T, q, atol=1e-5)
    np.testing.assert_allclose(f, expm(0.5 * np.asarray(ou.matrix, float)), atol=1e-5)


def test_a_noise_that_is_no_covariance_is_refused_from_its_data():
    """A stable VAR(1) with a real logarithm whose S has the eigenvalue -0.3; and its interval."""
    a = np.array([[-0.1, 2.0], [-2.0, -3.0]])
    s = rotation(0.7) @ np.diag([1.0, -0.3]) @ rotation(0.7).T
    found = baselines.embedding(seen(a, s, 1.0, 400, 60, 0))
    assert not found.ok and "documents that did not choose it" in found.reason
    assert found.interval.low < -0.3 < found.interval.high < 0
    # Of fewer documents the interval is wide, and no yes.
    few: list[Any] = [baselines.embedding(seen(a, s, 1.0, 40, 60, seed)) for seed in range(8)]
    assert not any(one.ok for one in few)
    assert any("cannot be decided" in one.reason for one in few)
    ou = baselines.ou(seen(a, s, 1.0, 400, 60, 0))
    assert not ou and str(ou).startswith("none (the noise covariance has a negative eigenvalue")
    # One document alone is judged by stretches of it.
    one = jax.tree.map(lambda x: x[:1], seen(a, s, 1.0, 1, 24_000, 0))
    assert not baselines.embedding(one).ok and baselines.embedding(one).interval.high < 0


def test_a_negative_eigenvalue_is_refused_from_its_data():
    rng, y, ys = np.random.default_rng(0), np.zeros((20, 2)), []
    for _ in range(40):
        y = y @ np.diag([-0.6, 0.5]) + rng.normal(size=y.shape)
        ys.append(y)
    found = baselines.embedding(rows(np.stack(ys, axis=1)))
    assert not found.ok and "unpaired negative eigenvalue, -0." in found.reason


def test_noise_after_a_step_is_its_integral():
    s = U4 @ U4.T
    for dt in (0.01, 0.7, 6.0):
        np.testing.assert_allclose(covariance_after(A4, s, dt), one_step(A4, s, dt), atol=1e-10)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`f` has shape"):
        embeddable(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="`dt` is 0"):
        embeddable(np.eye(2), np.eye(2), 0.0)
    with pytest.raises(ValueError, match="not symmetric"):
        embeddable(np.eye(2), np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="not finite"):
        embeddable(np.eye(2) * np.nan, np.eye(2))


def rows(ys, gap=1.0):
    ts = gap * np.arange(ys.shape[1])
    return stack([Trajectory.from_arrays(y, ts, dtype=np.float32) for y in ys])


SPREAD = 2.0


class Exact:
    """The exact transition of dX = (m - X) dt + s dW."""

    def sample(self, sde, t, y, dt, *, key):
        shrunk = jnp.exp(-dt)
        noise = SPREAD * jnp.sqrt((1 - shrunk**2) / 2)
        return 1.5 + (y - 1.5) * shrunk + noise * jr.normal(key, y.shape, y.dtype)


@pytest.fixture(scope="module")
def independent():
    """I.i.d. states, and what an Euler fit at step 1 makes of them."""
    ys = 1.5 + SPREAD * np.random.default_rng(0).normal(size=(4, 100, 2))
    drift = drifts.Linear(-jnp.eye(2), jnp.full(2, 1.5))
    return SDE(drift, diffusions.Constant(SPREAD * jnp.eye(2))), rows(ys)


def test_refinement_catches_an_euler_fit_of_independent_states(independent):
    """With h = 1/4: x -> (3/4)^4 x, and noise s^2 h times a geometric sum of (3/4)^2."""
    sde, paths = independent
    found = refinement(sde, paths, key=jr.key(1), factors=(1, 4), draws=128)
    h, shrunk = 0.25, 0.75**4
    noise = h * (1 - 0.75**8) / (1 - 0.75**2)
    assert not found.ok and "another process" in found.reason
    starts = np.asarray(paths.ys)[:, :-1].reshape(-1, 2)
    away = shrunk * np.sqrt(((starts - 1.5) ** 2).mean()) / SPREAD
    np.testing.assert_allclose(found.mean, (0, away), atol=0.03)
    np.testing.assert_allclose(found.covariance, (0, 1 - noise), atol=0.03)
    np.testing.assert_allclose(found.correlation, (0, shrunk), atol=0.04)
    np.testing.assert_allclose(found.variance, (1, noise / (1 - shrunk**2)), atol=0.05)


@pytest.mark.slow
def test_refinement_goes_to_half_the_variance_and_a_correlation_of_one_over_e(independent):
    found = refinement(*independent, key=jr.key(1), factors=(1, 64), scheme=dfx.Euler())
    assert found.correlation[1] == pytest.approx(np.exp(-1), abs=0.04)
    assert found.variance[1] == pytest.approx(0.5, abs=0.04)
    assert "correlation goes from" in found.reason


def test_refinement_passes_an_exact_scheme(independent):
    found = refinement(*independent, key=jr.key(2), factors=(1, 4), scheme=Exact())
    assert found.ok, found.reason
    np.testing.assert_allclose(found.correlation, np.exp(-1), atol=0.04)
    assert max(found.mean + found.covariance) < 0.08


def test_refinement_reports_an_explosion(independent):
    _, paths = independent
    stiff = SDE(drifts.Linear(-1e4 * jnp.eye(2), jnp.zeros(2)), diffusions.Scalar(1.0, 2))
    found = refinement(stiff, paths, key=jr.key(0), factors=(1, 4), draws=4, states=8)
    assert not found.ok and "not finite with 1 steps" in found.reason


def test_refinement_says_what_is_wrong(independent):
    sde, paths = independent
    with pytest.raises(ValueError, match="`draws` is 5"):
        refinement(sde, paths, key=jr.key(0), draws=5)
    with pytest.raises(ValueError, match="`factors` is"):
        refinement(sde, paths, key=jr.key(0), factors=(1,))
    with pytest.raises(ValueError, match="`scheme` is 'euler'"):
        refinement(sde, paths, key=jr.key(0), scheme="euler")
    with pytest.raises(ValueError, match="batch of paths"):
        refinement(sde, jax.tree.map(lambda x: x[0], paths), key=jr.key(0))
