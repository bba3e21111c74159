"""Moments of states seen block by block against numpy's of all of them in 64 bits."""

import numpy as np
import pytest

from dynlm.store import _moments as moments
from dynlm.store._format import FLOATS


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_are_numpys_of_the_same_rounded_states(dtype, offset):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((5000, 6)) @ rng.standard_normal((6, 6)) + offset).astype(
        FLOATS[dtype]
    )
    cuts = np.split(x, [1, 1, 700, 3000])  # one of them is empty
    crossed, plain = moments.nothing_crossed(6), moments.nothing(6)
    for block in cuts:
        crossed, plain = moments.add(crossed, block), moments.add(plain, block)
    halves = [moments.add(moments.nothing_crossed(6), h) for h in np.split(x, [1234])]
    truth = np.cov(x.astype(np.float64), rowvar=False, ddof=0)
    unit = np.sqrt(np.diag(truth))
    tight = 1e-11 if dtype == "float64" else 1e-5
    for found in (crossed, moments.merge(*halves)):
        assert found.count == 5000
        assert np.abs((found.mean - x.astype(np.float64).mean(0)) / unit).max() < tight
        off = (moments.covariance(found) - truth) / np.outer(unit, unit)
        assert np.abs(off).max() < tight
    np.testing.assert_allclose(moments.variance(plain), np.diag(truth), rtol=1e-6)
    with pytest.raises(ValueError, match="nothing_crossed"):
        moments.covariance(plain)


def test_moments_of_float32_bear_a_mean_of_ten_thousand_deviations():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((20_000, 3)) + 1e4).astype(np.float32)
    seen = moments.nothing_crossed(3)
    for block in np.array_split(x, 7):
        seen = moments.add(seen, block)
    truth = np.cov(x.astype(np.float64), rowvar=False, ddof=0)
    np.testing.assert_allclose(moments.covariance(seen), truth, atol=2e-6)


def test_moments_bear_any_unit():
    x = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    scales = np.float32([1e-25, 1.0, 1e25])
    seen = moments.add(moments.nothing_crossed(3), x * scales)
    wide = np.cov((x * scales).astype(np.float64), rowvar=False, ddof=0)
    np.testing.assert_allclose(moments.covariance(seen), wide, rtol=1e-4)


@pytest.mark.parametrize("number", [0.1, 1e9 / 3])
def test_what_does_not_vary_has_no_variance_at_all(number):
    seen = moments.nothing(2)
    for n in (3, 1000, 77):
        seen = moments.add(seen, np.full((n, 2), number))
    assert not moments.variance(seen).any()
