"""Intervals by document: against scipy, brute force, and their own promise on simulated data."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from dynlm import stats


def clustered(rng, documents, steps=10, between=1.0):
    """Values of mean zero whose documents differ, with lengths that differ too."""
    docs = np.repeat(np.arange(documents), rng.integers(1, 2 * steps, documents))
    values = between * rng.standard_normal(documents)[docs] + rng.standard_normal(len(docs))
    return values, docs


def covered(documents, trials, by="document", between=1.0):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(trials):
        values, docs = clustered(rng, documents, between=between)
        docs = docs if by == "document" else np.arange(len(docs))
        found = stats.bootstrap(values, np.ones(len(docs)), docs, seed=1, resamples=400)
        hits += found.low <= 0 <= found.high
    return hits / trials


@pytest.mark.parametrize("documents", [4, 8, 40])
def test_intervals_by_document_hold_the_truth_as_often_as_they_say(documents):
    assert 0.90 <= covered(documents, 500) <= 0.985


def test_resampling_steps_instead_of_documents_holds_it_far_less_often():
    assert covered(40, 200, by="step") < 0.7
    assert covered(40, 200, by="step", between=0.0) > 0.9  # where steps are independent it would do


def test_the_value_is_the_weighted_mean_and_the_ends_are_those_of_brute_force():
    rng = np.random.default_rng(3)
    values, docs = clustered(rng, 30)
    weights = rng.uniform(0, 2, len(docs))
    found = stats.bootstrap(values, weights, docs, seed=5, resamples=3000)
    np.testing.assert_allclose(found.value, np.average(values, weights=weights), rtol=1e-12)

    drawn = []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(docs == d) for d in rng.integers(30, size=30)])
        drawn.append(np.average(values[rows], weights=weights[rows]))
    p = scipy_stats.norm.cdf(np.sqrt(30 / 29) * scipy_stats.t.ppf(0.025, 29))
    np.testing.assert_allclose(
        (found.low, found.high), np.quantile(drawn, [p, 1 - p]), atol=0.1 * np.std(drawn)
    )
    assert found.documents == 30 and found.level == 0.95


def test_columns_share_their_resamples_so_that_differences_are_paired():
    rng = np.random.default_rng(0)
    hard, docs = clustered(rng, 25, between=5.0)
    a, b = hard + 0.2, hard + 0.1 * rng.standard_normal(len(hard))
    ones = np.ones((len(docs), 1))
    first, again = stats.ratios(np.stack([a, a], axis=1), ones, docs, seed=2)
    assert first == again
    np.testing.assert_allclose(first, stats.bootstrap(a, ones[:, 0], docs, seed=2), rtol=1e-9)
    gain = stats.difference(a, b, ones[:, 0], docs, seed=2)
    assert gain.low > 0.1 and gain.high < 0.3  # each alone is known to about 2 only
    assert first.high - first.low > 2


def test_few_documents_get_the_interval_of_student_and_one_gets_none():
    values, docs = np.array([1.0, 2.0, 4.0]), np.array(["a", "b", "c"])
    found = stats.bootstrap(values, np.ones(3), docs, seed=0)
    expected = scipy_stats.t.interval(0.95, 2, values.mean(), scipy_stats.sem(values))
    np.testing.assert_allclose((found.low, found.high), expected, rtol=1e-5)
    alone = stats.bootstrap(values, np.ones(3), ["a"] * 3, seed=0)
    assert alone == stats.Interval(alone.value, -np.inf, np.inf, 0.95, 1)
    assert "no interval" in str(alone)


def test_documents_without_weight_do_not_count():
    values, docs = np.array([1.0, 2.0, np.nan, 4.0] * 4), np.arange(16)
    weights = np.array([1.0, 1.0, 0.0, 0.0] * 4)
    found = stats.bootstrap(values, weights, docs, seed=0)
    assert (found.value, found.documents) == (1.5, 8)
    assert 1.0 <= found.low < 1.5 < found.high <= 2.0


def test_r_squared_is_one_minus_a_ratio_of_sums():
    rng = np.random.default_rng(0)
    sse, sst = rng.uniform(0, 1, 50), rng.uniform(1, 2, 50)
    found = stats.r_squared(sse, sst, np.arange(50) // 2, seed=0)
    np.testing.assert_allclose(found.value, 1 - sse.sum() / sst.sum())
    assert found.low < found.value < found.high < 1


@pytest.mark.parametrize("dof", [1, 2, 5, 30, 500])
def test_student_quantiles_are_those_of_scipy(dof):
    for p in (0.025, 0.05, 0.4, 0.995):
        np.testing.assert_allclose(stats.student(p, dof), scipy_stats.t.ppf(p, dof), rtol=1e-4)


def test_wilson_is_the_interval_of_scipy():
    for hits, trials in [(0, 10), (8, 10), (20, 20)]:
        expected = scipy_stats.binomtest(hits, trials).proportion_ci(method="wilson")
        np.testing.assert_allclose(stats.wilson(hits, trials), expected, atol=1e-12)


def test_the_largest_gap_holds_the_true_distance_and_is_zero_by_chance_alone():
    rng = np.random.default_rng(1)
    even, bins = np.full(20, 0.05), np.linspace(0, 1, 21)
    zero, held = 0, 0
    for _ in range(150):
        shift = 0.3 * rng.standard_normal(40)  # of each document
        u = scipy_stats.norm.cdf(
            (rng.standard_normal((40, 30)) + shift[:, None]) / np.sqrt(1 + 0.09)
        )
        counts = np.stack([np.histogram(row, bins)[0] for row in u])
        zero += stats.largest_gap(counts, even, np.arange(40), seed=0, resamples=200).low == 0
        skew = np.stack([np.histogram(row**1.5, bins)[0] for row in u])
        found = stats.largest_gap(skew, even, np.arange(40), seed=0, resamples=200)
        truth = np.max(bins ** (1 / 1.5) - bins)
        held += found.low <= truth <= found.high
    assert zero / 150 > 0.93 and held / 150 > 0.93


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(values=np.ones(3), weights=np.ones(2)), r"`values` \(3,\) and `weights` \(2,\)"),
        (dict(values=np.ones(2), weights=np.ones(2)), r"`docs` has shape \(3,\)"),
        (dict(values=np.ones(3), weights=np.zeros(3)), "sums to zero"),
        (dict(values=[1.0, np.inf, 2.0], weights=np.ones(3)), "not finite"),
        (dict(values=np.ones(3), weights=np.ones(3), level=95.0), "`level` is 95.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        stats.bootstrap(docs=np.arange(3), seed=0, **arguments)
