"""Differences between studies against simulated estimates, and the sentences they make."""

import numpy as np

from dynlm.analysis.findings import Verdict, finding, plain
from dynlm.stats import Interval
from dynlm.studies._compare import aligned, alignment_of_others
from dynlm.studies._differences import apart, difference


def interval(value, low, high):
    return Interval(value, low, high, 0.95, 20)


def test_an_interval_of_a_difference_holds_it_as_often_as_it_says():
    """Two means of skewed numbers: 95 % of 4,000 intervals hold the true difference."""
    rng, count = np.random.default_rng(0), 60
    a, b = rng.exponential(1.0, (4000, count)), rng.exponential(2.0, (4000, count))
    held = 0
    for x, y in zip(a, b):
        ends = [1.96 * z.std(ddof=1) / np.sqrt(count) for z in (x, y)]
        one, two = (interval(z.mean(), z.mean() - e, z.mean() + e) for z, e in zip((x, y), ends))
        found = apart(one, two)
        held += found.low <= 1.0 <= found.high
    assert 0.93 < held / 4000 < 0.965


def test_uneven_ends_go_to_the_right_side():
    found = apart(interval(1.0, 0.7, 1.1), interval(3.0, 2.6, 3.3))
    assert found.value == 2.0
    assert np.isclose(found.low, 2.0 - np.hypot(0.4, 0.1))
    assert np.isclose(found.high, 2.0 + np.hypot(0.3, 0.3))


def test_what_lacks_an_interval_is_withheld_and_named():
    known = plain(finding("gain", interval(0.5, 0.4, 0.6), 0.0, unit="nats"))
    other = plain(finding("gain", interval(0.9, 0.8, 1.0), 0.0, unit="nats"))
    found = difference("gain", {"early": known, "late": other}, "early", "late")
    assert found.verdict is Verdict.ABOVE and found.unit == "nats"
    assert found.what == "gain: late less early" and np.isclose(found.value or 0, 0.4)
    for lacking in (None, known | {"low": None}):
        found = difference("gain", {"early": lacking, "late": other}, "early", "late")
        assert found.verdict is Verdict.WITHHELD and "early has no interval" in found.note


def test_states_that_documents_share_are_not_taken_for_alike_models():
    """Two models whose states have nothing in common but that documents have means."""
    rng, above = np.random.default_rng(1), 0
    docs = np.repeat(np.arange(60), 20)
    for _ in range(20):
        x, y = (rng.normal(size=(1200, 4)) + rng.normal(size=(60, 4))[docs] for _ in range(2))
        found = finding("alignment", aligned(x, y, docs, 0), alignment_of_others(x, y, docs, 0))
        above += found.verdict is Verdict.ABOVE
    assert above <= 4
    turned = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert np.isclose(aligned(x, turned, docs, 0).value, 1.0)
    assert alignment_of_others(x, turned, docs, 0) < 0.3
