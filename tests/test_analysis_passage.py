"""First passages: closed forms, quadrature by scipy, a loop for Kaplan and Meier's estimate."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad
from test_analysis_process import autoregressive, batch, called, euler, linear_sde, nothing, within

from dynlm import SDE, baselines, diffusions, drifts, problems
from dynlm._io import BadArgument
from dynlm.analysis._passage import kramers_rate, mean_passage, passage
from dynlm.analysis.findings import Verdict

DT = 0.02


def well(y):
    return y - y**3


def double_well(sigma, sign=1.0):
    drift = drifts.Function(lambda t, y: sign * (y - y**3))
    return SDE(drift, diffusions.Diagonal(jnp.full(1, sigma)))


def test_mean_passage_of_a_brownian_motion_and_of_a_drift_uphill():
    # From 0 to b with a wall at 0: b^2/s^2. With a drift f, by the ordinary differential equation.
    assert np.isclose(
        mean_passage(lambda x: 0 * x, lambda x: 0 * x + 2, 0.0, 3.0, 0.0), 9 / 4, rtol=1e-6
    )
    f, s, b = -0.8, 1.1, 1.5
    c = 2 * f / s**2
    truth = b / f - (1 - np.exp(-c * b)) / (c * f)
    assert np.isclose(mean_passage(lambda x: f, lambda x: s, 0.0, b, 0.0), truth, rtol=1e-6)
    assert truth > b  # uphill; downhill it would be shorter


def test_mean_passage_of_a_double_well_is_that_of_adaptive_quadrature_and_kramers():
    sigma = 0.6

    def phi(x):
        return 2 * (x**4 / 4 - x**2 / 2) / sigma**2

    def inner(y):
        return quad(lambda z: 2 * np.exp(phi(y) - phi(z)) / sigma**2, -4, y)[0]

    truth = quad(inner, -1, 0.5)[0]
    assert np.isclose(mean_passage(well, lambda x: sigma, -1.0, 0.5, -4.0), truth, rtol=1e-5)
    # Kramers counts from well to well, and is right as the noise vanishes.
    off = []
    for noise in (0.4, 0.3):
        time = mean_passage(well, lambda x, noise=noise: noise, -1.0, 1.0, -4.0)
        off.append(time * kramers_rate(2.0, -1.0, 0.25, noise) - 1)
    assert 0 < off[1] < off[0] < 0.3 and off[1] < 0.1


def kaplan_meier(spells, horizon):
    s, out = 1.0, [1.0]
    for k in range(1, horizon + 1):
        risk = sum(steps >= k for steps, _ in spells)
        s *= 1 - sum(steps == k and arrived for steps, arrived in spells) / max(risk, 1)
        out.append(s)
    return np.array(out)


def walked(x, lengths, a, b):
    """Passages by walking along each path."""
    spells = []
    for row, n in zip(x, lengths):
        begin = None
        for k in range(1, n):
            if begin is not None and row[k] >= b:
                spells.append((k - begin, True))
                begin = None
            elif begin is None and row[k] <= a and k < n - 1:
                begin = k
        if begin is not None:
            spells.append((n - 1 - begin, False))
    return spells


def test_survival_is_that_of_a_loop_whatever_padding_holds():
    ys = autoregressive([0.8], 1, rows=30, steps=60)
    lengths, docs = np.random.default_rng(2).integers(20, 61, 30), np.arange(30) // 2
    model = baselines.var1(batch(ys, lengths=lengths))
    wanted = {"key": jr.key(0), "start": -1.0, "target": 1.0}
    found = passage(model, batch(ys, lengths=lengths), docs, **wanted)
    spells = walked(ys[:, :, 0], lengths, -1.0, 1.0)
    assert found.passages == len(spells)
    assert found.finished == sum(arrived for _, arrived in spells)
    horizon = int(found.times[-1])
    truth = kaplan_meier(spells, horizon)
    assert np.allclose(found.survival[:, 0], truth[found.times.astype(int)], atol=1e-9)
    watched = [(min(s, horizon), arrived and s <= horizon) for s, arrived in spells]
    rate = sum(a for _, a in watched) / sum(s for s, _ in watched)
    assert np.isclose(found.rate[0], rate)
    dirty = passage(model, batch(ys, lengths=lengths, fill=np.nan), docs, **wanted)
    for one, other in zip(found[:-1], dirty[:-1]):
        assert np.array_equal(one, other)
    assert found.findings == dirty.findings


def test_the_interval_of_the_rate_is_that_of_many_data_sets():
    rates, spans = [], []
    for seed in range(12):
        ys = autoregressive([0.8], 100 + seed, rows=60, steps=60)
        model = baselines.random_walk(batch(ys))
        found = passage(
            model, batch(ys), np.arange(60), key=jr.key(0), start=-1.0, target=1.0, copies=1
        )
        rates.append(found.rate[0])
        spans.append(found.rate[2] - found.rate[1])
    assert 0.4 < np.mean(spans) / (4 * np.std(rates)) < 2.0


def test_a_double_well_is_left_at_the_rate_of_the_exact_mean_time():
    sigma, start, target = 0.8, -1.0, 0.5
    ys = euler(well, lambda y: sigma, 3, DT, rows=160, steps=1500, start=start)
    model = double_well(sigma)
    docs = np.arange(160) // 2
    found = passage(
        model, batch(ys, DT), docs, key=jr.key(1), start=start, target=target, burn=0, starts=128
    )
    exact = mean_passage(well, lambda x: sigma, start, target, -5.0)
    # A path that is seen every DT arrives late by the overshoot of .58 s sqrt(DT) of its target.
    later = mean_passage(well, lambda x: sigma, start, target + 0.58 * sigma * DT**0.5, -5.0)
    assert exact < later < 1.2 * exact
    mean = 1 / found.rate[[0, 2, 1]]
    within(mean, later)
    within(1 / found.model_rate[[0, 2, 1]], later)
    nothing(found)
    assert found.finished > 250

    quiet = passage(
        double_well(0.6), batch(ys, DT), docs, key=jr.key(1), start=start, target=target, burn=0,
        starts=128,
    )  # fmt: skip
    ratio = called(quiet, "log ratio")
    assert ratio.verdict is Verdict.ABOVE  # the data leave more often
    truth = mean_passage(well, lambda x: 0.6, start, target + 0.05, -5.0) / later
    within((ratio.value, ratio.low, ratio.high), np.log(truth), 5)
    assert called(quiet, "mean passage time").verdict is Verdict.BELOW


def test_a_drift_of_the_wrong_sign_and_a_model_that_is_lost():
    ys = autoregressive([0.8], 4, rows=60, steps=100)
    docs, key = np.arange(60), jr.key(2)
    wanted = {"key": key, "start": -1.0, "target": 1.0, "starts": 64}
    right = passage(linear_sde([[-0.2]], 1.0), batch(ys), docs, **wanted)
    nothing(right)
    away = passage(linear_sde([[0.2]], 1.0), batch(ys), docs, **wanted)
    assert away.findings[0].verdict is Verdict.ABOVE
    lost = SDE(drifts.Function(lambda t, y: y / 0), diffusions.Diagonal(jnp.ones(1)))
    found = passage(lost, batch(ys), docs, **wanted)
    assert found.findings[0].verdict is Verdict.WITHHELD and "model" in found.findings[0].note
    assert found.findings[1].verdict is Verdict.WITHHELD


def test_the_double_well_of_the_problems_in_double_precision(x64):
    problem = problems.double_well(sigma=0.8)
    ys = euler(well, lambda y: 0.8, 5, 0.1, rows=40, steps=200, start=-1.0)
    found = passage(problem.sde, batch(ys, 0.1, dtype=np.float64), np.arange(40), key=jr.key(3))
    assert found.start < found.target and found.direction[0] == 1
    nothing(found)


def test_what_cannot_be_watched_is_refused(unchecked):
    paths, docs = batch(autoregressive([0.5], 6, rows=4, steps=10)), np.arange(4)
    sde = linear_sde([[-0.5]], 1.0)
    with pytest.raises(BadArgument, match="`target`"):
        passage(sde, paths, docs, key=jr.key(0), start=1.0, target=0.0)
    with pytest.raises(BadArgument, match="higher `start`"):
        passage(sde, paths, docs, key=jr.key(0), start=-99.0)
    with pytest.raises(BadArgument, match="`model`"):
        passage(paths, paths, docs, key=jr.key(0))
    with pytest.raises(BadArgument, match="`reflect`"):
        mean_passage(well, lambda x: 1.0, 0.0, 1.0, 0.5)
    with pytest.raises(BadArgument, match="`top`"):
        kramers_rate(1.0, 1.0, 1.0, 1.0)
