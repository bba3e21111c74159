"""Properties of a process, read from paths, against closed forms and loops; what each catches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynlm import SDE, Trajectory, baselines, diffusions, drifts
from dynlm._io import BadArgument
from dynlm.analysis._correlation import autocorrelation, relaxation
from dynlm.analysis._kramers_moyal import kramers_moyal
from dynlm.analysis._markov import markov_order
from dynlm.analysis._residuals import residuals
from dynlm.analysis._stationarity import stationarity
from dynlm.analysis._variation import variation
from dynlm.analysis.findings import Verdict
from dynlm.laws import Mixture
from dynlm.predict import AbstractPredictor

ROWS, STEPS = 120, 150
DOCS = np.arange(ROWS) // 2


def batch(ys, dt=1.0, lengths=None, fill=0.0, dtype=np.float32):
    """Paths at times 0, dt, ...; what lies beyond a length is `fill`."""
    rows, steps, _ = ys.shape
    lengths = np.full(rows, steps) if lengths is None else np.asarray(lengths)
    mask = np.arange(steps) < lengths[:, None]
    ts = dt * np.minimum(np.arange(steps), lengths[:, None] - 1)
    ys = np.where(mask[:, :, None], ys, fill)
    arrays = (ts.astype(dtype), ys.astype(dtype), mask)
    return jax.vmap(Trajectory)(*(jnp.asarray(a) for a in arrays))


def autoregressive(matrices, seed, rows=ROWS, steps=STEPS, noise=None):
    """States of y_k = sum_j F_j y_{k-1-j} + e_k, after a hundred steps that are left out."""
    matrices = [np.atleast_2d(f) for f in matrices]
    rng, dim, order = np.random.default_rng(seed), len(matrices[0]), len(matrices)
    shape = (steps + 100, rows, dim)
    e = rng.normal(size=shape) if noise is None else noise(rng, shape)
    ys = np.zeros_like(e)
    for k in range(order, len(e)):
        ys[k] = e[k] + sum(ys[k - 1 - j] @ f.T for j, f in enumerate(matrices))
    return ys[100:].swapaxes(0, 1)


def euler(drift, noise, seed, dt, rows=ROWS, steps=STEPS, start=None):
    """Euler's steps of independent components."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(rows, 1)) if start is None else np.full((rows, 1), float(start))
    out = [y]
    for _ in range(steps - 1):
        y = y + drift(y) * dt + noise(y) * np.sqrt(dt) * rng.normal(size=y.shape)
        out.append(y)
    return np.stack(out, axis=1)


def linear_sde(matrix, sigma, dtype=jnp.float32):
    matrix = jnp.asarray(matrix, dtype)
    noise = jnp.full(len(matrix), sigma, dtype)
    return SDE(drifts.Linear(matrix, jnp.zeros(len(matrix), dtype)), diffusions.Diagonal(noise))


def called(found, what):
    (one,) = [f for f in found.findings if what in f.what]
    return one


def within(one, truth, errors=4.0):
    """The interval, which spans two standard errors each way, stretched to `errors` of them."""
    low, high = ((v - one[0]) * errors / 2 for v in one[1:])
    assert one[0] + low < truth < one[0] + high, (one, truth)


def nothing(found):
    """Every finding with an interval is its null value, within four standard errors."""
    tested = [f for f in found.findings if f.low is not None]
    assert tested
    for f in tested:
        chance(f)


def chance(one):
    """It is its null value, likewise."""
    within((one.value, one.low, one.high), one.null)


def test_autocorrelation_of_an_autoregression_falls_geometrically():
    f = np.array([0.8, -0.5])
    ys = autoregressive([np.diag(f)], 1)
    found = autocorrelation(batch(ys), DOCS, lags=(1, 2, 5), burn=0)
    var = 1 / (1 - f**2)
    for i, lag in enumerate((1, 2, 5)):
        within(found.trace[i], (f**lag * var).sum() / var.sum())
        for j in range(2):
            within(found.component[i, j], f[j] ** lag)
    assert len(found.findings) == 3
    one = called(found, "states 1 step apart")
    assert one.verdict is Verdict.ABOVE and one.null == found.shuffled[0]
    assert one.value == pytest.approx(found.trace[0, 0])
    negative = autocorrelation(batch(ys[:, :, 1:]), DOCS, lags=(1, 200), burn=0)
    assert negative.findings[0].verdict is Verdict.BELOW
    assert negative.findings[1].verdict is Verdict.WITHHELD


def test_autocorrelation_is_that_of_a_loop_over_paths():
    rng = np.random.default_rng(2)
    ys, lengths = rng.normal(size=(7, 30, 2)).cumsum(axis=1), rng.integers(4, 31, 7)
    found = autocorrelation(batch(ys, lengths=lengths, dtype=np.float32), np.arange(7), lags=(3,))
    mean = np.concatenate([y[1:n] for y, n in zip(ys, lengths)]).mean(axis=0)
    a = b = 0.0
    for y, n in zip(ys, lengths):
        x = y[1:n] - mean
        for k in range(len(x) - 3):
            a, b = a + x[k] @ x[k + 3], b + (x[k] @ x[k] + x[k + 3] @ x[k + 3]) / 2
    assert np.isclose(found.trace[0, 0], a / b, rtol=1e-5)


def test_documents_that_lie_apart_are_not_taken_for_memory():
    rng = np.random.default_rng(3)
    apart = rng.normal(size=(ROWS, STEPS, 2)) + 2 * rng.normal(size=(ROWS, 1, 2))
    found = autocorrelation(batch(apart), DOCS, lags=(1, 4))
    assert found.trace[0, 1] > 0.5
    chance(called(found, "states 1 step apart"))
    orders = [baselines.time_shuffled(batch(apart), seed=s) for s in range(8)]
    drawn = [autocorrelation(p, DOCS, lags=(1, 4)).trace[:, 0] for p in orders]
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert (np.abs(np.mean(drawn, axis=0) - found.shuffled) < 5 * error + 1e-4).all()


def test_means_of_documents_are_not_taken_for_memory_by_any_analysis_and_memory_beside_them_is():
    rng = np.random.default_rng(30)
    means, docs = 2 * rng.normal(size=(60, 1, 2)), np.arange(60)

    def claims(ys):
        paths = batch(ys + means)
        missed = residuals(baselines.iid(paths), paths, docs)
        found = [relaxation(paths, docs), markov_order(paths, docs), missed]
        kept = {f.what: f for one in found for f in one.findings}
        return kept, {what for what, f in kept.items() if f.verdict is Verdict.ABOVE}

    kept, above = claims(rng.normal(size=(60, 60, 2)))
    assert not above
    for what, least in (("integrated", 2.0), ("slowest relax", 3.0), ("gain of 4", 0.25)):
        (one,) = [f for name, f in kept.items() if name.startswith(what)]
        assert one.verdict is Verdict.LEVEL and one.value > least  # far above that of no memory
    memory = {"integrated correlation time", "slowest relaxation time"}
    memory |= {f"lag-{lag} correlation of the residuals" for lag in (1, 2)}
    assert memory <= claims(autoregressive([np.diag([0.7, 0.5])], 31, rows=60, steps=60))[1]
    second = claims(autoregressive([0 * np.eye(2), 0.8 * np.eye(2)], 32, rows=60, steps=60))[1]
    assert "gain of 2 states over one in a linear model" in second


def test_a_time_that_paths_are_too_short_for_is_withheld():
    """Of AR(.95) in 64 states the sum stops too early: 13 or 14 of the 19.5 steps that it is."""
    slow = autoregressive([0.95 * np.eye(2)], 40, rows=200, steps=64)
    found = called(relaxation(batch(slow), np.arange(200)), "integrated correlation time")
    assert found.verdict is Verdict.WITHHELD and "times as long" in found.note
    long = autoregressive([0.95 * np.eye(2)], 41, rows=100, steps=512)
    found = called(relaxation(batch(long), np.arange(100)), "integrated correlation time")
    assert found.value is not None and abs(found.value - 19.5) < 2.0


def test_relaxation_times_of_an_ornstein_uhlenbeck_process():
    dt, theta = 0.2, np.array([0.5, 2.0])
    ys = autoregressive([np.diag(np.exp(-theta * dt))], 4, steps=300)
    found = relaxation(batch(ys, dt), DOCS)
    for i in range(3):
        within(found.times[i], 1 / theta[0])
    assert called(found, "slowest relaxation time").verdict is Verdict.ABOVE
    for lag in (2, 4):
        chance(called(found, f"at lag {lag}"))
    one = relaxation(batch(ys[:, :, :1], dt), DOCS)
    phi = np.exp(-theta[0] * dt)
    truth = dt * (1 + phi) / (1 - phi) / 2
    within(one.integrated, truth - truth * np.exp(-one.window * dt * theta[0]))


def test_relaxation_of_a_rotation_of_a_second_order_and_of_no_memory():
    turn = 0.9 * np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    found = relaxation(batch(autoregressive([turn], 5)), DOCS)
    within(found.modulus[0], 0.9)
    within(found.times[2], -1 / np.log(0.9))
    hidden = relaxation(batch(autoregressive([0.4, 0.4], 6)), DOCS, lags=(1, 2))
    assert called(hidden, "at lag 2 less").verdict is Verdict.BELOW  # slower than it looked
    within(hidden.modulus[0], 0.4 / 0.6)
    none = relaxation(batch(np.random.default_rng(7).normal(size=(ROWS, STEPS, 3))), DOCS)
    chance(called(none, "lag-1 correlation along"))
    chance(called(none, "integrated"))
    rest = np.random.default_rng(8).normal(size=(ROWS, 1, 1)) * np.ones((1, STEPS, 1))
    still = called(relaxation(batch(rest), DOCS), "slowest relaxation")
    assert still.verdict is Verdict.WITHHELD and "decay" in still.note


def test_stationarity_finds_a_mean_that_moves_and_a_variance_that_grows():
    ys = autoregressive([np.diag([0.6, 0.3])], 8)
    still = stationarity(batch(ys), DOCS)
    nothing(still)
    time, sd = np.arange(STEPS), ys.std(axis=(0, 1))
    push = np.array([0.004, -0.004]) * sd
    moved = stationarity(batch(ys + time[:, None] * push), DOCS, burn=0)
    scale = (ys + time[:, None] * push).std(axis=(0, 1))
    for j in range(2):
        within(moved.shift[j], push[j] * STEPS / 2 / scale[j])
        within(moved.slope[j], push[j] / scale[j])
    shift, slope, _ = moved.findings
    assert shift.verdict is slope.verdict is Verdict.ABOVE
    size = np.linalg.norm(push / scale)
    within((shift.value, shift.low, shift.high), size * STEPS / 2)
    within((slope.value, slope.low, slope.high), size)
    grows = ys * np.where(time < STEPS // 2, 1.0, 1.5)[:, None]
    within(stationarity(batch(grows), DOCS, burn=0).spread, 2 * np.log(1.5))


def test_markov_order_of_first_and_second_order():
    first = markov_order(batch(autoregressive([[[0.7, 0.2], [-0.2, 0.5]]], 9)), DOCS, most=3)
    for f in first.findings[1:]:
        chance(f)
    f1, f2 = 0.4, 0.4
    second = markov_order(batch(autoregressive([f1, f2], 10)), DOCS, most=3)
    within(second.gains[0], -0.5 * np.log(1 - f2**2))  # its second partial correlation is f2
    within(second.gains[1], -0.5 * np.log(1 - f2**2))
    within(second.nonlinear, -0.5 * np.log(1 - f2**2))
    r1 = f1 / (1 - f2)
    assert np.isclose(second.one[0, 0], r1, atol=0.02)
    assert np.isclose(second.two[0, 0], f1 * r1 + f2, atol=0.03)
    within(second.confirmed, 1.0)
    assert called(second, "two-step deviation that").verdict is Verdict.ABOVE


def test_markov_order_sees_a_velocity_that_is_not_shown_and_forgives_a_curved_drift():
    dt, gamma = 0.3, 0.5
    rng, x, v, out = np.random.default_rng(11), np.zeros((ROWS, 1)), np.zeros((ROWS, 1)), []
    for _ in range(STEPS * 4):
        v = v - (gamma * v + x) * dt / 4 + np.sqrt(2 * gamma * dt / 4) * rng.normal(size=x.shape)
        x = x + v * dt / 4
        out.append(x)
    position = np.stack(out[::4], axis=1)
    seen = markov_order(batch(position), DOCS, most=2, burn=20)
    assert seen.findings[-1].verdict is seen.findings[1].verdict is Verdict.ABOVE
    well = euler(lambda y: 2 * (y - y**3), np.ones_like, 12, 0.1, steps=300, start=1)
    curved = markov_order(batch(well), DOCS, most=2)
    assert curved.gains[0, 1] > 0  # two states beat one in a linear model
    assert curved.nonlinear[0] < curved.gains[0, 0] / 4
    chance(called(curved, "nonlinear"))


def test_markov_order_needs_two_documents():
    with pytest.raises(BadArgument, match="documents"):
        markov_order(batch(autoregressive([0.5], 1, rows=3)), np.zeros(3))


def test_variation_is_one_for_the_truth_and_the_square_of_a_wrong_factor():
    dt, a, sigma = 0.1, np.array([[-1.0, 2.0], [-2.0, -1.0]]), 0.7
    step = np.eye(2) + a * dt
    scale = sigma * np.sqrt(dt)
    ys = autoregressive([step], 13, noise=lambda rng, s: scale * rng.normal(size=s))
    true = variation(linear_sde(a, sigma), batch(ys, dt), DOCS)
    within(true.realised, 1.0)
    within(true.residual, 1.0)
    dy = np.diff(ys[:, 1:], axis=1)
    f = (ys[:, 1:-1] @ a.T) * dt
    assert np.isclose(true.residual[0], ((dy - f) ** 2).mean() / (sigma**2 * dt), rtol=1e-4)
    expected = (f**2).sum() / ((f**2).sum() + sigma**2 * dt * dy.size)
    assert np.isclose(true.drift_share, expected, rtol=1e-4)
    wrong = variation(linear_sde(a, 1.2 * sigma), batch(ys, dt), DOCS)
    within(wrong.residual, 1 / 1.44)
    assert wrong.findings[0].verdict is wrong.findings[1].verdict is Verdict.BELOW
    flipped = variation(linear_sde(-a, sigma), batch(ys, dt), DOCS)
    assert flipped.findings[1].verdict is Verdict.ABOVE
    assert np.isclose(flipped.realised[0], true.realised[0], rtol=1e-5)  # blind to the sign


def test_residuals_of_the_truth_are_white_and_gaussian():
    dt, a, sigma = 0.1, np.array([[-1.0, 2.0], [-2.0, -1.0]]), 0.7
    scale = sigma * np.sqrt(dt)
    step = np.eye(2) + a * dt
    ys = autoregressive([step], 14, noise=lambda rng, s: scale * rng.normal(size=s))
    found = residuals(linear_sde(a, sigma), batch(ys, dt), DOCS)
    z = (ys[:, 1:] - ys[:, :-1] @ step.T) / scale
    assert np.allclose(found.z[:, 1:], z[:, 1:], atol=2e-4)
    assert not found.z[:, 0].any() and found.lost == 0
    nothing(found)
    assert np.allclose(found.histogram, 0.05, atol=0.005)
    flipped = residuals(linear_sde(-a, sigma), batch(ys, dt), DOCS)
    assert called(flipped, "memory").verdict is Verdict.ABOVE
    assert called(flipped, "mean square").verdict is Verdict.ABOVE


def test_residuals_show_a_second_state_that_a_model_of_one_has_missed():
    f1, f2 = 0.3, 0.5
    paths = batch(autoregressive([f1, f2], 15))
    found = residuals(baselines.var1(paths), paths, DOCS)
    r1 = f1 / (1 - f2)
    r2, r3 = f1 * r1 + f2, f1 * (f1 * r1 + f2) + f2 * r1
    for i, (before, here, after) in enumerate(((1, r1, r2), (r1, r2, r3))):
        truth = (here * (1 + r1**2) - r1 * (before + after)) / (1 - r1**2)
        within(found.correlation[i], truth)
    assert called(found, "lag-1 correlation of the residuals").verdict is Verdict.BELOW
    order = residuals(baselines.autoregression(paths, 2), paths, DOCS)
    chance(called(order, "lag-1 correlation of the residuals"))


def test_residuals_show_heavy_tails_skewness_and_noise_that_comes_in_bursts():
    heavy = autoregressive([0.5], 16, noise=lambda rng, s: rng.standard_t(10, size=s))
    found = residuals(baselines.var1(batch(heavy)), batch(heavy), DOCS)
    tail = called(found, "kurtosis")
    assert tail.verdict is Verdict.ABOVE
    within((tail.value, tail.low, tail.high), 1.0)  # 6/(10 - 4)
    assert called(found, "distance").beyond
    signs = np.array([1.0, -1.0])
    skew = autoregressive(
        [0.5 * np.eye(2)], 17, noise=lambda rng, s: (rng.gamma(4, size=s) - 4) * signs
    )
    one = called(residuals(baselines.var1(batch(skew)), batch(skew), DOCS), "skewness")
    within((one.value, one.low, one.high), 1.0)  # 2/sqrt(4), of both signs

    def bursts(rng, shape):
        e, size = rng.normal(size=shape), np.ones(shape[1:])
        for k in range(len(e)):
            e[k] = e[k] * np.sqrt(size)
            size = 0.6 + 0.4 * e[k] ** 2
        return e

    arch = autoregressive([0.5], 18, noise=bursts)
    found = residuals(baselines.var1(batch(arch)), batch(arch), DOCS)
    assert called(found, "squared").verdict is Verdict.ABOVE
    chance(called(found, "lag-1 correlation of the residuals"))


class Two(AbstractPredictor):
    """Two narrow Gaussians about the last state."""

    __final__ = True

    def start(self):
        return jnp.zeros(1)

    def see(self, carry, t, y):
        return y

    def law(self, carry, t):
        means = jnp.stack([carry - 1, carry + 1])
        return Mixture(jnp.log(jnp.array([0.3, 0.7])), means, jnp.full((2, 1, 1), 0.3))


def test_residuals_of_a_law_that_is_no_gaussian_are_its_normal_scores():
    rng = np.random.default_rng(19)
    steps = np.where(rng.random((ROWS, STEPS, 1)) < 0.3, -1, 1) + 0.3 * rng.normal(
        size=(ROWS, STEPS, 1)
    )
    found = residuals(Two(), batch(steps.cumsum(axis=1)), DOCS)
    nothing(found)


def test_kramers_moyal_of_a_double_well_and_of_noise_that_grows():
    dt, sigma = 0.02, 0.7
    ys = euler(lambda y: y - y**3, lambda y: sigma, 20, dt, steps=600)
    sde = SDE(drifts.Function(lambda t, y: y - y**3), diffusions.Diagonal(jnp.full(1, sigma)))
    found = kramers_moyal(batch(ys, dt), DOCS, sde=sde, bins=12, direction=0)
    x = ys[:, 1:-1].ravel()
    dx = np.diff(ys[:, 1:], axis=1).ravel()
    inside = (x >= found.edges[3]) & (x < found.edges[4])
    assert np.isclose(found.drift[3, 0], dx[inside].mean() / dt, rtol=1e-3)
    assert np.isclose(np.asarray(found.sde_drift)[3], (x - x**3)[inside].mean(), rtol=1e-3)
    assert np.isclose(found.diffusion[3, 0], (dx[inside] ** 2).mean() / (2 * dt), rtol=1e-3)
    for b in range(12):
        within(found.drift[b], np.asarray(found.sde_drift)[b], 4.5)
        within(found.diffusion[b], np.asarray(found.sde_diffusion)[b], 4.5)
    assert np.allclose(found.sde_diffusion, sigma**2 / 2, rtol=0.2)
    nothing(found)

    wild = euler(lambda y: 0.3 * y, lambda y: 0.5 * y, 21, dt, steps=100, start=1.0)
    noise = diffusions.Diagonal(lambda t, y: 0.5 * y, depends="component", dim=1)
    grows = SDE(drifts.Function(lambda t, y: 0.3 * y), noise)
    found = kramers_moyal(batch(wild, dt), DOCS, sde=grows, bins=8)
    assert np.allclose(found.sde_diffusion / found.centres**2, 0.125, rtol=0.1)
    nothing(found)


def test_kramers_moyal_catches_a_drift_of_the_wrong_sign_a_wrong_noise_and_jumps():
    dt = 0.05
    ys = euler(lambda y: -y, lambda y: 1.0, 22, dt, steps=300)
    right = kramers_moyal(batch(ys, dt), DOCS, sde=linear_sde([[-1.0]], 1.0))
    assert float(called(right, "bins where the model's drift").value) >= 0.8
    wrong = kramers_moyal(batch(ys, dt), DOCS, sde=linear_sde([[1.0]], 0.8))
    slope = called(wrong, "slope of steps")
    within((slope.value, slope.low, slope.high), -1.0)
    assert slope.verdict is Verdict.BELOW
    assert float(called(wrong, "bins where the model's drift").value) <= 0.3
    assert called(wrong, "slope of squared").verdict is Verdict.ABOVE
    rng = np.random.default_rng(23)
    jumps = np.where(rng.random(ys.shape) < 0.05, rng.normal(size=ys.shape), 0).cumsum(axis=1)
    found = kramers_moyal(batch(ys + jumps, dt), DOCS)
    assert called(found, "fourth moment").verdict is Verdict.ABOVE
    assert found.sde_drift is None and len(found.findings) == 1


def every(paths, docs, dtype=jnp.float32):
    """All that this file is about, as one list of numbers."""
    sde = linear_sde([[-0.5, 0.2], [0.0, -0.5]], 1.0, dtype)
    found = [
        autocorrelation(paths, docs, lags=(1, 3)),
        relaxation(paths, docs),
        stationarity(paths, docs),
        markov_order(paths, docs, most=2),
        variation(sde, paths, docs),
        residuals(sde, paths, docs),
        kramers_moyal(paths, docs, sde=sde, bins=5),
    ]
    return [f for one in found for f in one.findings]


def values(found):
    return np.array([[np.nan if v is None else v for v in f[1:5]] for f in found])


def test_padding_does_not_matter_whatever_it_holds_nor_do_the_first_states():
    ys = autoregressive([[[0.5, 0.2], [0.0, 0.5]]], 24, rows=20, steps=40)
    lengths, docs = np.random.default_rng(25).integers(12, 41, 20), np.arange(20) // 2
    clean = every(batch(ys, lengths=lengths), docs)
    dirty = every(batch(ys, lengths=lengths, fill=np.nan), docs)
    far = ys.copy()
    far[:, 0] = 1e3
    first = every(batch(far, lengths=lengths, fill=7e8), docs)
    assert len(clean) > 30 and np.isfinite(values(clean)[:, 0]).sum() > 30
    assert np.array_equal(values(clean), values(dirty), equal_nan=True)
    assert np.allclose(values(clean), values(first), equal_nan=True, rtol=1e-4, atol=1e-6)


def test_double_precision(x64):
    ys = autoregressive([[[0.5, 0.2], [0.0, 0.5]]], 26, rows=20, steps=40)
    docs = np.arange(20) // 2
    double = values(every(batch(ys, dtype=np.float64), docs, jnp.float64))
    single = values(every(batch(ys), docs))
    assert np.allclose(double, single, rtol=2e-3, atol=2e-4, equal_nan=True)


def test_what_cannot_be_analysed_is_refused():
    paths = batch(autoregressive([0.5], 27, rows=4, steps=10))
    docs = np.arange(4)
    with pytest.raises(BadArgument, match="`lags`"):
        autocorrelation(paths, docs, lags=(0,))
    with pytest.raises(BadArgument, match="`most`"):
        markov_order(paths, docs, most=1)
    with pytest.raises(BadArgument, match="dimension 2"):
        variation(linear_sde(-np.eye(2), 1.0), paths, docs)
    with pytest.raises(BadArgument, match="`direction`"):
        kramers_moyal(paths, docs, direction=3)
    with pytest.raises(BadArgument, match="`docs`"):
        stationarity(paths, np.arange(3))
    still = batch(np.zeros((4, 10, 1)))
    assert autocorrelation(still, docs, lags=(1,)).findings[0].verdict is Verdict.WITHHELD
    assert stationarity(still, docs).findings[-1].verdict is Verdict.WITHHELD
