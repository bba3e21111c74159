"""Fits beside fits of states without order: error rates, pairing, and no program compiled twice."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import SDE, Trajectory, analysis, diffusions, drifts
from dynlm.analysis._beside import compared, paired
from dynlm.analysis.findings import Verdict
from dynlm.stats import Interval
from dynlm.studies._budget import Budget

DOCS = np.arange(20)


def batch(seed, dim=2, length=48):
    ys = jnp.asarray(np.random.default_rng(seed).normal(size=(20, length, dim)), jnp.float32)
    ts = jnp.broadcast_to(jnp.arange(float(length)), ys.shape[:2])
    return jax.vmap(Trajectory)(ts, ys, jnp.ones(ys.shape[:2], bool))


def pull(rate, noise=1.0):
    """Towards zero by so much in a step."""
    matrix = jnp.asarray([[-rate, 0.0], [0.0, -rate]])
    return SDE(drifts.Linear(matrix, jnp.zeros(2)), diffusions.Diagonal(jnp.full(2, noise)))


NULLS = (pull(0.9), pull(0.91, 0.98), pull(0.92, 1.02))


@pytest.mark.parametrize("others", [2, 3, 5])
def test_fits_of_one_law_are_told_apart_as_often_as_the_level_says(others):
    """Documents tell nothing of how fits differ: an interval by document is a point here."""
    rng, wrong, trials = np.random.default_rng(others), 0, 2000
    for v in rng.normal(size=(trials, others + 1)):
        gap = v[0] - v[1:].mean()
        points = (Interval(x, x, x, 0.95, 20) for x in (v[0], gap))
        wrong += compared("number", *points, list(v[1:])).beyond
    assert abs(wrong / trials - 0.05) < 4 * np.sqrt(0.05 * 0.95 / trials)


def test_one_other_fit_tests_nothing():
    found, gap = Interval(1.0, 0.9, 1.1, 0.95, 20), Interval(0.5, 0.4, 0.6, 0.95, 20)
    found = compared("number", found, gap, [0.5])
    assert found.verdict is Verdict.STATED and found.null == 0.5
    assert "how much they differ is not known" in found.sentence()


def test_what_documents_have_in_common_is_paired_away():
    rng = np.random.default_rng(0)
    common, docs = np.repeat(rng.normal(size=20), 10), np.repeat(DOCS, 10)
    own, others = common + 0.3, [common, common + 0.02, common - 0.02]
    found = paired("number", own, others, np.ones(200), docs, seed=0)
    assert found.verdict is Verdict.ABOVE and found.low and found.low > 0.2 + common.mean()
    lost = own.copy()
    lost[::7] = np.nan
    assert paired("number", lost, others, np.ones(200), docs, seed=0).verdict is Verdict.ABOVE
    assert paired("number", lost * np.nan, others, np.ones(200), docs, seed=0).value is None


def numbers(sde, nulls):
    """The tested numbers of all analyses that take `nulls`."""
    paths, key = batch(1), jr.key(0)
    y0s = np.asarray(paths.ys)[:4, 0]
    chain = dict(dt=1.0, steps=40, key=key, every=1)
    steps = analysis.exponents(sde, y0s, nulls=nulls, **chain)
    made = [
        *analysis.along(sde, paths, DOCS, nulls=nulls).findings,
        *analysis.rotation(sde, paths, DOCS, nulls=nulls).findings,
        *analysis.lipschitz(sde, paths, DOCS, key=key, nulls=nulls).findings,
        *analysis.lyapunov(sde, paths, DOCS, centre=[0, 0], dt=1.0, nulls=nulls).findings,
        *steps.findings,
    ]
    return {one.what: one for one in made}


def test_every_analysis_compares_with_the_fits_and_compiles_nothing_for_them():
    weak, budget = pull(0.2), Budget(quiet=True)
    with budget.stage("alone"):
        numbers(weak, ())
    with budget.stage("beside"):
        found = numbers(weak, NULLS)
    assert budget.stages[1].compile_seconds == 0
    expected = {
        "drift-to-noise ratio of a step": Verdict.BELOW,
        "pull to the mean in a step": Verdict.BELOW,
        "mean divergence of the drift": Verdict.ABOVE,
        "mean local Lipschitz constant of the drift": Verdict.BELOW,
        "mean one-sided constant of the drift": Verdict.ABOVE,
        "mean local Lipschitz constant of the noise": Verdict.LEVEL,
        "largest Lyapunov exponent": Verdict.ABOVE,
    }
    assert {what: found[what].verdict for what in expected} == expected
    for what in expected:
        assert "of the same fit to states in random order" in found[what].sentence()
    assert found["mean divergence of the drift"].null == pytest.approx(-1.82, abs=1e-5)
    assert found["mean one-sided constant of the drift"].null == pytest.approx(-0.91, abs=1e-5)
    alike = numbers(pull(0.913), NULLS)
    assert not [what for what in expected if alike[what].beyond]
    one = numbers(weak, NULLS[:1])
    assert all(one[what].verdict is Verdict.STATED for what in expected)


def test_without_fits_the_null_value_is_no_claim_on_nets():
    found = numbers(pull(0.5), ())
    steep = found["mean local Lipschitz constant of the drift"].sentence()
    assert "the value of the drift mean - x" in steep and "without order" not in steep


@pytest.mark.slow
def test_error_rates_of_fourth_moments_and_of_chosen_directions():
    """Of independent Gaussian states; by chance more than 11 of 80 come once in 1,000."""
    sde, wrong = pull(1.0), {}
    for seed in range(80):
        paths = batch(1000 + seed)
        made = [
            *analysis.residuals(sde, paths, DOCS).findings,
            *analysis.kramers_moyal(paths, DOCS).findings,
            *analysis.stationarity(paths, DOCS).findings,
        ]
        for one in made:
            if one.what.startswith(("excess kurt", "fourth", "shift", "slope of the mean")):
                wrong[one.what] = wrong.get(one.what, 0) + one.beyond
    assert len(wrong) == 4 and max(wrong.values()) <= 11, wrong
