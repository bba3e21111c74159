"""Lyapunov spectra: known attractors, linear systems, and products of random matrices by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import SDE, diffusions, drifts, problems
from dynlm._io import BadArgument
from dynlm.analysis._basins import Euler, EulerMaruyama, RungeKutta
from dynlm.analysis._exponents import exponents, gram_schmidt, spectrum
from dynlm.analysis.findings import Verdict

ROTATING = np.array([[-0.5, 2.0, 0.0], [-2.0, -0.5, 0.0], [0.3, 0.0, -1.5]])


def linear(a, noise=0.1):
    a = jnp.asarray(a, jnp.result_type(float))
    return SDE(drifts.Linear(a, jnp.zeros_like(a[0])), diffusions.Scalar(noise, len(a)))


def starts(number, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(number, dim))


def test_lorenz(x64):
    """Sprott's values: .906, 0, -14.57; volumes shrink at 10 + 1 + 8/3 everywhere."""
    y0s = starts(8, 3) * 5 + np.array([0.0, 0.0, 25.0])
    found = exponents(problems.lorenz().sde, y0s, dt=0.01, steps=50_000, burn=2_000, every=10)
    first, middle, last = found.exponents
    assert abs(first / 0.906 - 1) < 0.02
    assert abs(middle) < 0.01
    assert abs(last / -14.57 - 1) < 0.02
    assert abs(found.exponents.sum() + 41 / 3) < 1e-3
    assert found.divergence == pytest.approx(-41 / 3, abs=1e-9)
    assert found.dimension == pytest.approx(2.062, abs=0.01)
    assert found.findings[0].verdict is Verdict.ABOVE
    assert found.intervals[0].low < first < found.intervals[0].high


def test_lorenz_in_single_precision():
    """The same in float32 and a tenth of the time: the sum is exact, the first within 5 %."""
    y0s = starts(8, 3) * 5 + np.array([0.0, 0.0, 25.0])
    found = exponents(problems.lorenz().sde, y0s, dt=0.01, steps=5_000, burn=2_000, every=10)
    assert abs(found.exponents.sum() + 41 / 3) < 2e-3
    assert abs(found.exponents[0] / 0.906 - 1) < 0.05


class Henon(eqx.Module):
    def __call__(self, t, y, key):
        return jnp.stack([1 - 1.4 * y[0] ** 2 + y[1], 0.3 * y[0]])


def test_henon_map(x64):
    """.4192 of the literature, and a determinant of -.3 at every step."""
    found = spectrum(Henon(), starts(8, 2) * 0.05, dt=1.0, steps=20_000, burn=100)
    assert abs(found.exponents[0] - 0.4192) < 0.004
    assert abs(found.exponents.sum() - np.log(0.3)) < 1e-9
    assert found.divergence is None and found.findings[1].null is None


@pytest.mark.parametrize("number", [None, 1, 2])
def test_a_linear_flow_has_the_real_parts_of_its_eigenvalues(x64, number):
    found = exponents(linear(ROTATING), starts(3, 3), dt=0.02, steps=20_000, number=number)
    truth = np.sort(np.linalg.eigvals(ROTATING).real)[::-1][:number]
    assert np.allclose(found.exponents, truth, atol=2e-3)
    assert found.findings[0].verdict is Verdict.BELOW
    assert found.dimension == 0.0


def test_additive_noise_changes_nothing_in_a_linear_system(x64):
    """Two paths of one noise differ by the flow's tangent, here by Euler's steps exactly."""
    kwargs = dict(dt=0.01, steps=20_000)
    noisy = exponents(linear(ROTATING, 0.7), starts(2, 3), key=jr.key(1), **kwargs)
    truth = np.log(np.abs(1 + 0.01 * np.linalg.eigvals(ROTATING))) / 0.01
    assert np.allclose(noisy.exponents, np.sort(truth)[::-1], atol=2e-3)


def test_the_axes_are_not_the_directions_that_grow(x64):
    """Started along the first axis, one exponent of this matrix would come out as -1."""
    found = exponents(linear(np.diag([-1.0, 0.4])), starts(2, 2), dt=0.05, steps=4_000, number=1)
    assert abs(found.exponents[0] - 0.4) < 1e-3
    assert found.findings[0].verdict is Verdict.ABOVE


@pytest.mark.parametrize("a, b", [(0.3, 0.5), (0.3, 1.0), (-0.2, 0.4)])
def test_multiplicative_noise_pulls_by_half_its_square(x64, a, b):
    r"""$dX = aX\,dt + bX\,dW$ has the exponent $a - b^2/2$, negative for (.3, 1)."""
    problem = problems.gbm(a, b)
    dt, steps, replicas = 0.002, 20_000, 64
    found = exponents(
        problem.sde, np.ones((replicas, 1)), dt=dt, steps=steps, burn=0, key=jr.key(3), every=10
    )
    error = b / np.sqrt(dt * steps * replicas)
    truth = a - b**2 / 2
    assert abs(found.exponents[0] - truth) < 5 * error + 2 * dt
    assert abs(found.divergence - truth) < 1e-9
    assert found.replicas.std() > 0.5 * b / np.sqrt(dt * steps)  # a noise of its own for each
    verdict = Verdict.ABOVE if truth > 0 else Verdict.BELOW
    assert found.findings[0].verdict is verdict


def test_stratonovich_noise_is_read_as_such(x64):
    r"""$dX = aX\,dt + bX\circ dW$ has the exponent a."""
    ito = problems.gbm(0.3, 0.8).sde
    sde = SDE(ito.drift, ito.diffusion, "stratonovich")
    found = exponents(sde, np.ones((64, 1)), dt=0.002, steps=20_000, burn=0, key=jr.key(4))
    assert abs(found.exponents[0] - 0.3) < 5 * 0.8 / np.sqrt(40 * 64) + 0.004


def test_products_of_random_matrices_by_hand(x64):
    """Noise that does not commute, against a loop in numpy with QR and draws of its own."""
    a = np.array([[-0.2, 1.0], [0.0, -0.4]])
    b = np.array([[[0.0, 0.9], [0.3, 0.0]], [[0.5, 0.0], [0.0, -0.5]]])
    sde = problems.gbm_noncommutative(a, b).sde
    dt, steps, replicas = 0.01, 4_000, 64
    found = exponents(
        sde, starts(replicas, 2), dt=dt, steps=steps, burn=500, key=jr.key(5), every=1
    )
    rng, sums = np.random.default_rng(6), np.zeros((replicas, 2))
    q = np.broadcast_to(np.eye(2), (replicas, 2, 2))
    for i in range(500 + steps):
        dw = rng.normal(size=(replicas, 2)) * np.sqrt(dt)
        m = np.eye(2) + a * dt + np.einsum("rj,jab->rab", dw, b)
        q, r = np.linalg.qr(m @ q)
        if i >= 500:
            sums += np.log(np.abs(np.diagonal(r, axis1=1, axis2=2)))
    brute = sums / (dt * steps)
    error = np.sqrt(brute.var(axis=0) / replicas + found.replicas.var(axis=0) / replicas)
    assert (np.abs(found.exponents - brute.mean(axis=0)) < 4.5 * error).all()
    total = np.trace(a) - 0.5 * sum(np.trace(m @ m) for m in b)
    assert abs(found.divergence - total) < 1e-9


def test_a_chain_has_the_exponents_of_its_steps(x64):
    """At step 1 a matrix of rate -2.5 has the multiplier -1.5: the flow falls, the chain grows."""
    sde = linear(np.diag([-2.5, -0.5]))
    flow = exponents(sde, starts(2, 2), dt=0.01, steps=4_000)
    chain = exponents(sde, starts(2, 2), dt=1.0, steps=400, key=jr.key(0))
    step = Euler(sde, jnp.asarray(1.0))
    alone = spectrum(step, starts(2, 2), dt=1.0, steps=400)
    assert np.allclose(flow.exponents, [-0.5, -2.5], atol=0.01)
    assert np.allclose(chain.exponents, np.log([1.5, 0.5]), atol=0.01)
    assert np.allclose(alone.exponents, chain.exponents, atol=0.01)
    assert "chain" in chain.findings[1].sentence() and "chain" not in flow.findings[1].sentence()


def test_a_chain_that_forgets_quickly_keeps_all_its_exponents():
    """In float32 five steps leave nothing of the last direction, so that one is the default."""
    turn = np.linalg.qr(starts(4, 4, seed=3))[0]
    multipliers = np.array([0.8, 0.5, 0.1, 0.01])
    sde = linear(turn @ np.diag(multipliers) @ turn.T - np.eye(4))
    how = dict(dt=1.0, steps=400, key=jr.key(0))
    found = exponents(sde, starts(2, 4), **how)
    assert np.allclose(found.exponents, np.log(multipliers), atol=0.02)
    coarse = exponents(sde, starts(2, 4), every=5, **how)
    assert coarse.exponents[-1] > np.log(0.01) + 0.3  # what every=1 is for


def test_the_largest_exponent_beside_that_of_a_simpler_model():
    """Below zero as every fit of independent states, but above what is given beside it."""
    how = dict(dt=1.0, steps=100, key=jr.key(0), unit="per step of the chain")
    sde = linear(np.diag([-0.5, -0.7]))
    found = exponents(sde, starts(2, 2), beside=float(np.log(0.3)), **how)
    (alone,) = exponents(sde, starts(2, 2), **how).findings[:1]
    first = found.findings[0]
    assert first.verdict is Verdict.ABOVE and alone.verdict is Verdict.BELOW
    assert "per step of the chain" in first.sentence() and first.null == np.log(0.3)
    assert "the value of the linear model" in first.sentence() and alone.null == 0


def test_states_without_order_have_no_memory_at_all():
    """The drift mean - x at step 1 forgets everything at once: the tangents vanish."""
    found = exponents(linear(-np.eye(2)), starts(3, 2), dt=1.0, steps=50, key=jr.key(0), every=1)
    assert (found.exponents < -80).all()
    assert found.findings[0].verdict is Verdict.BELOW


def test_a_path_that_leaves_is_withheld():
    sde = SDE(drifts.Function(lambda t, y: y**2), diffusions.Scalar(0.1, 1))
    found = exponents(sde, np.ones((2, 1)), dt=0.1, steps=200)
    assert found.findings[0].verdict is Verdict.WITHHELD
    assert np.isnan(found.exponents).all()


def test_one_path_has_an_interval_from_its_stretches(x64):
    found = exponents(
        problems.gbm(0.3, 0.5).sde, np.ones((1, 1)), dt=0.01, steps=20_000, key=jr.key(7)
    )
    (interval,) = found.intervals
    width = 2 * 1.96 * 0.5 / np.sqrt(200)
    assert 0.4 * width < interval.high - interval.low < 2.5 * width
    assert found.findings[0].low <= found.findings[0].value <= found.findings[0].high
    assert "stretches" in found.findings[0].note


def test_running_averages_end_at_the_exponents():
    found = exponents(linear(ROTATING), starts(2, 3), dt=0.05, steps=500)
    running = found.running()
    assert running.shape == (2, len(found.times), 3)
    assert np.allclose(running[:, -1], found.replicas, atol=1e-6)
    assert np.isclose(found.times[-1], 25.0)


@pytest.mark.parametrize("number", [2, 7])
def test_gram_schmidt_is_qr(x64, number):
    v = starts(number, 7)
    q, r = gram_schmidt(jnp.asarray(v))
    q_, r_ = np.linalg.qr(v.T)
    sign = np.sign(np.diag(r_))
    assert np.allclose(q, (q_ * sign).T)
    assert np.allclose(r, np.abs(np.diag(r_)))


def test_the_runge_kutta_step_is_of_order_four(x64):
    sde, y0 = linear(ROTATING), jnp.asarray([1.0, 2.0, 3.0])
    truth = jax.scipy.linalg.expm(jnp.asarray(ROTATING)) @ y0

    @jax.jit
    def end(steps):
        step = RungeKutta(sde, 1 / steps)
        return jax.lax.fori_loop(0, steps.astype(int), lambda i, y: step(0.0, y, None), y0)

    def error(steps):
        return float(jnp.abs(end(jnp.asarray(float(steps))) - truth).max())

    assert 3.7 < np.log2(error(8) / error(16)) < 4.4


def test_the_noisy_step_has_the_noise_of_the_sde(x64):
    sde = SDE(
        drifts.Linear(jnp.asarray(ROTATING), jnp.ones(3)), diffusions.Diagonal(jnp.arange(1.0, 4.0))
    )
    y = jnp.asarray([1.0, -1.0, 2.0])
    step = EulerMaruyama(sde, jnp.asarray(0.25))
    drawn = np.asarray(jax.vmap(lambda k: step(0.0, y, k))(jr.split(jr.key(0), 4000)))
    mean = np.asarray(y) + 0.25 * (ROTATING @ np.asarray(y) + 1)
    deviation = 0.5 * np.arange(1.0, 4.0)
    assert (np.abs(drawn.mean(axis=0) - mean) < 4.5 * deviation / np.sqrt(4000)).all()
    assert (np.abs(drawn.std(axis=0) / deviation - 1) < 4.5 / np.sqrt(8000)).all()


def test_a_second_call_compiles_nothing():
    traced, counts = [], []

    class Counting(eqx.Module):
        a: jax.Array

        def __call__(self, t, y, key):
            traced.append(None)
            return self.a * y

    for a, dt in ((0.5, 1.0), (2.0, 0.5)):
        found = spectrum(Counting(jnp.asarray(a)), starts(2, 1), dt=dt, steps=20)
        assert np.allclose(found.exponents, np.log(a) / dt, atol=1e-5)
        counts.append(len(traced))
    assert 0 < counts[0] == counts[1]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(y0s=np.ones(3)), "`y0s`"),
        (dict(y0s=np.full((1, 3), np.nan)), "`y0s`"),
        (dict(dt=0.0), "`dt` is 0.0"),
        (dict(number=4), "`number` is 4"),
        (dict(every=0), "`every` is 0"),
        (dict(steps=3), "`steps` 3"),
        (dict(burn=-1), "`burn` is -1"),
        (dict(beside=-np.inf), "`beside` is -inf"),
    ],
)
def test_what_is_refused(change, message):
    given = dict(y0s=np.ones((1, 3)), dt=0.1, steps=100) | change
    with pytest.raises(BadArgument, match=message):
        exponents(linear(ROTATING), given.pop("y0s"), **given)


def test_something_else_than_an_sde_is_refused(unchecked):
    with pytest.raises(BadArgument, match="`spectrum` takes any step"):
        exponents(lambda t, y: y, np.ones((1, 3)), dt=0.1, steps=10)
