"""The order verdict on processes whose order is known, its sums against brute force, and rates."""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats

from dynlm import Trajectory
from dynlm._io import BadArgument
from dynlm.analysis._directions import directions, whitened
from dynlm.analysis._exact import clopper_pearson
from dynlm.analysis._order import KINDS, Order, _linear_gains, order, refined
from dynlm.analysis._ridge import Ridge
from dynlm.analysis._scales import FOLDS, states_of
from dynlm.analysis.findings import Verdict

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def verdicts():
    """The benchmark's cases."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("verdicts")
    sys.path.remove(str(BENCHMARKS))
    for name in ("verdicts", "_common", "_rows"):
        sys.modules.pop(name, None)


def batch(ys, lengths=None, fill=0.0, dtype=np.float32):
    """Paths of any lengths; what stands in padding is `fill`."""
    ys = np.array(ys, dtype)
    lengths = np.full(len(ys), ys.shape[1]) if lengths is None else np.asarray(lengths)
    mask = np.arange(ys.shape[1]) < lengths[:, None]
    ys[~mask] = fill
    ts = np.minimum(np.arange(ys.shape[1]), lengths[:, None] - 1).astype(dtype)
    one = jax.tree.structure(Trajectory.from_arrays(np.zeros((2, 1))))
    return jax.tree.unflatten(one, jax.device_put((ts, ys, mask)))


def autoregressive(rng, paths, steps, bend=0.0, a=0.6, spread=0.0):
    """x' = a x + bend cos(2x) + exp(spread x) e, from near its stationary law."""
    x, states = rng.standard_normal(paths), []
    for _ in range(steps + 20):
        noise = np.exp(spread * np.tanh(x)) * rng.standard_normal(paths)
        x = a * x + bend * np.cos(2 * x) + noise
        states.append(x)
    return np.array(states[20:]).T[:, :, None]


@pytest.mark.slow
def test_processes_are_told_apart(verdicts):
    for name, (_, truth) in verdicts.CASES.items():
        if name in verdicts.POWER:
            continue  # not always seen
        found = verdicts.conclusions(name, 2, seed=4)
        assert found == [truth] * 2, name


@pytest.mark.campaign
def test_campaign(verdicts):
    """No more than 4 of 100 conclusions are wrong, of most cases; see `benchmarks/verdicts.py`."""
    for name in verdicts.CASES:
        assert verdicts.measured(name, verdicts.SETS)["wrong"] <= verdicts.wanted(name), name


def test_the_linear_gain_is_that_of_regressions_one_by_one():
    rng = np.random.default_rng(0)
    ys = rng.standard_normal((14, 9, 2)).cumsum(axis=1)
    s = states_of(batch(ys), np.arange(14) // 2, burn=1, seed=0)
    gains, weights = _linear_gains(s)
    x, y, names = s.z[s.x], s.z[s.x + 1], np.unique(s.doc)
    assert weights.sum() == len(s.x) == 14 * 7
    for name, gain in zip(names, gains, strict=True):
        test = s.doc == name
        train = s.fold != s.fold[test][0]
        log = []
        for make in (
            lambda x: np.column_stack([np.ones(len(x)), x]),
            lambda x: np.ones((len(x), 1)),
        ):
            f = np.linalg.lstsq(make(x[train]), y[train], rcond=None)[0]
            error = y - make(x) @ f
            law = scipy.stats.multivariate_normal(
                np.zeros(2), error[train].T @ error[train] / sum(train)
            )
            log.append(law.logpdf(error[test]).sum())
        np.testing.assert_allclose(gain, log[0] - log[1], rtol=1e-4, atol=1e-4)


def test_ridge_coefficients_are_those_of_least_squares_with_a_penalty():
    rng = np.random.default_rng(1)
    s = states_of(batch(rng.standard_normal((20, 12, 2))), np.arange(20), burn=0, seed=0)
    ridge = Ridge(s, 16, rng)
    assert np.abs(ridge.phi[:, :16].T @ np.column_stack([np.ones(len(s.z)), s.z])).max() < 1e-8
    target = np.cos(2 * s.z)
    for k in range(FOLDS):
        kept, parts = ridge.roots[2 * k + 1]
        inside = np.isin(np.digitize(np.arange(len(s.z)), s.bounds[1:-1]), kept)
        index, w = ridge.solve(k, ridge.sums(target), 1e-6)
        share, phi = len(s.x) / len(s.z), ridge.phi[inside][:, index]
        assert len(index) < ridge.phi.shape[1]
        fits = []
        for blocks, (v, shrink) in zip(ridge.blocks[k], parts, strict=True):
            for block in range(len(blocks)):
                if not np.array_equal(blocks[block], index):
                    continue
                for factor in shrink[:, block]:
                    gram = v[block] @ np.diag(1 / factor) @ v[block].T
                    penalty = np.linalg.eigvalsh(gram - share * phi.T @ phi)
                    np.testing.assert_allclose(penalty, penalty.mean(), rtol=1e-4, atol=1e-6)
                    fits.append(np.linalg.solve(gram, phi.T @ target[inside]))
        assert min(np.abs(w - fit).max() for fit in fits) < 1e-6


def test_the_gain_of_a_known_model_is_found():
    """y' = a y + bend cos(2y) + e: what is gained over the best linear model is known."""
    rng = np.random.default_rng(2)
    ys = autoregressive(rng, 100, 100, bend=1.0)
    found = order(batch(ys), np.arange(100), seed=0, most=2**14)
    assert found.verdict is Order.NONLINEAR
    x = autoregressive(rng, 400, 1000, bend=1.0)[:, :, 0]
    now, after = x[:, :-1].ravel(), x[:, 1:].ravel()
    error = after - np.polyval(np.polyfit(now, after, 1), now)
    gain, parts = found.findings[1], found.findings[2:]
    assert abs(gain.value - 0.5 * np.log(np.var(error))) < 0.02  # the noise has variance one
    assert abs(parts[0].value - gain.value) < 0.02 and abs(parts[1].value) < 0.01
    assert found.mean_beyond and not found.variance_beyond


def test_a_linear_mean_with_a_variance_that_depends_on_the_state_is_nonlinear():
    rng = np.random.default_rng(3)
    found = order(batch(autoregressive(rng, 60, 60, spread=0.7)), np.arange(60))
    assert found.verdict is Order.NONLINEAR
    mean, variance = found.findings[2:]
    assert variance.verdict is Verdict.ABOVE
    assert found.variance_beyond and not found.mean_beyond
    assert float(variance.value or 0) > 5 * abs(float(mean.value or 0))


def well(rng, paths, states):
    """A double well, sigma .5, at steps of one time unit, in about unit variance."""
    x, found = rng.choice([-1.0, 1.0], paths), []
    for k in range(5 * states + 20):
        x = x + 0.2 * (x - x**3) + 0.5 * np.sqrt(0.2) * rng.standard_normal(paths)
        found += [x] * (k >= 20 and k % 5 == 0)
    return np.array(found).T[:, :, None]


def of_sixteen(rng, paths=40, states=61):
    """A double well and fifteen autoregressions, one beside another and rotated."""
    rest = [autoregressive(rng, paths, states) for _ in range(15)]
    ys = np.concatenate([well(rng, paths, states), *rest], axis=2)
    ys /= ys.std(axis=(0, 1))
    return ys, ys @ np.linalg.qr(rng.standard_normal((16, 16)))[0]


@pytest.mark.parametrize("seed", [21, 22])
def test_a_double_well_among_sixteen_components_is_seen(seed):
    for ys in of_sixteen(np.random.default_rng(seed)):
        found = order(batch(ys), np.arange(40), seed=seed, orders=19)
        assert found.verdict is Order.NONLINEAR and found.mean_beyond


@pytest.mark.parametrize("seed", [23, 24])
def test_sixteen_components_without_anything_nonlinear_are_not_called_so(seed):
    rng = np.random.default_rng(seed)
    linear = np.concatenate([autoregressive(rng, 40, 61) for _ in range(16)], axis=2)
    mixed = np.stack([rng.permutation(path) for path in of_sixteen(rng)[1]])
    noisy = linear + rng.standard_normal(linear.shape)
    cases = (linear, Order.LINEAR), (noisy, Order.LINEAR), (mixed, Order.NONE)
    for ys, truth in cases:
        assert order(batch(ys), np.arange(40), seed=seed, orders=19).verdict is truth


def test_directions_are_where_points_are_least_gaussian():
    rng = np.random.default_rng(25)
    z = rng.standard_normal((4000, 6))
    z[:, 2] = rng.choice([-1.0, 1.0], 4000) + 0.3 * z[:, 2]
    z[:, 4] = rng.exponential(size=4000)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0] @ np.diag(np.arange(1.0, 7.0))
    x = z @ turn
    u = directions(x, rng, kurtosis=2, skewness=1)
    lines = x @ u
    np.testing.assert_allclose(lines.var(axis=0), 1, rtol=1e-6)
    linked = np.abs(np.corrcoef(lines.T, z.T)[: u.shape[1], u.shape[1] :])
    assert linked[:, 2].max() > 0.98 and linked[:, 4].max() > 0.98
    flat = np.column_stack([x, x[:, 0]])  # a direction without spread is none
    assert whitened(flat)[1].shape == (7, 6)
    assert np.isfinite(directions(flat, rng, kurtosis=2, skewness=1)).all()


def test_the_drift_of_a_double_well_is_a_mean_beyond_a_linear_one():
    rng = np.random.default_rng(13)
    x, states = rng.choice([-1.0, 1.0], 40), []
    for k in range(305):
        x = x + 0.2 * (x - x**3) + 0.5 * np.sqrt(0.1) * rng.standard_normal(40)
        states += [x] * (k >= 5 and k % 5 == 0)
    ys = np.array(states).T[:, :, None]
    assert order(batch(ys), np.arange(40), orders=19).mean_beyond
    mixed = rng.permuted(ys, axis=1)
    found = order(batch(mixed), np.arange(40), orders=19)
    assert not found.mean_beyond and not found.variance_beyond


def test_a_part_that_random_orders_have_as_well_is_not_beyond():
    """Documents lie about one of two points: the mean bends without any order in time."""
    rng = np.random.default_rng(4)
    ys = rng.choice([-2.0, 2.0], (60, 1, 1)) + rng.standard_normal((60, 60, 1))
    found = order(batch(ys), np.arange(60), seed=1, orders=19)
    mean = found.findings[2]
    assert mean.low is not None and mean.low > 0
    assert not found.mean_beyond and mean.verdict is Verdict.LEVEL


def test_documents_that_differ_are_no_order_in_time():
    """Documents lie about one of two points: this state tells the next one, and bends it too."""
    rng = np.random.default_rng(4)
    ys = rng.choice([-2.0, 2.0], (60, 1, 1)) + rng.standard_normal((60, 60, 1))
    found = order(batch(ys), np.arange(60), seed=1)
    assert found.verdict is Order.NONE
    assert found.findings[0].verdict is Verdict.LEVEL
    assert float(found.findings[0].value or 0) > 0.3
    assert "random orders of the states gain as much" in found.findings[0].sentence()
    assert np.sum(found.nonlinear_shuffled >= found.nonlinear) > 0


def test_padding_and_what_stands_in_it_is_nothing():
    rng = np.random.default_rng(5)
    ys, lengths = autoregressive(rng, 40, 40, bend=0.8), rng.integers(2, 41, 40)
    found, spoiled = (
        order(batch(ys, lengths, fill), np.arange(40), orders=19) for fill in (0.0, np.nan)
    )
    assert found.transitions == np.maximum(lengths - 2, 0).sum()
    assert found.findings == spoiled.findings
    np.testing.assert_array_equal(found.nonlinear_permuted, spoiled.nonlinear_permuted)
    with pytest.raises(BadArgument, match="not finite where"):
        order(batch(np.where(ys > 2, np.nan, ys)), np.arange(40))


def test_first_states_are_left_out():
    rng = np.random.default_rng(6)
    ys = autoregressive(rng, 40, 40)
    wild = ys.copy()
    wild[:, 0] += 1e3
    ours, theirs = (order(batch(y), np.arange(40), orders=19) for y in (ys, wild))
    assert ours.findings == theirs.findings
    assert order(batch(wild), np.arange(40), orders=19, burn=0).findings != ours.findings


def test_float64(x64):
    rng = np.random.default_rng(7)
    ys = autoregressive(rng, 40, 40, bend=0.8).astype(np.float32)
    narrow, wide = (order(batch(ys, dtype=d), np.arange(40), orders=19) for d in ("f4", "f8"))
    assert narrow.verdict is wide.verdict is Order.NONLINEAR
    np.testing.assert_allclose(narrow.nonlinear_shuffled, wide.nonlinear_shuffled, atol=1e-6)


def test_more_transitions_than_wanted_are_whole_documents():
    rng = np.random.default_rng(8)
    ys = rng.standard_normal((30, 11, 1))
    found = order(batch(ys), np.arange(30) // 2, orders=19, most=200)
    assert found.documents == 11 and found.transitions == 11 * 18
    s = states_of(batch(ys), np.arange(30) // 2, burn=1, seed=0)
    assert sorted(np.unique(s.fold[s.doc == d]).size for d in range(15)) == [1] * 15


def test_residuals_of_a_nonlinear_model_are_standard_and_independent_of_the_state():
    rng = np.random.default_rng(9)
    ys = autoregressive(rng, 100, 60, 1.0, spread=0.6)
    s = states_of(batch(ys), np.arange(100), burn=1, seed=0)
    found = refined(s, Ridge(s, 64, rng))
    x = s.z[s.x][:, 0]
    linked = []
    for e in (found.linear[:, 0], found.residual[:, 0]):
        assert abs(np.var(e) - 1) < 0.1
        linked.append((np.corrcoef(np.cos(2 * x), e)[0, 1], np.corrcoef(x, e**2)[0, 1]))
    assert np.abs(linked[0]).min() > 0.12
    assert np.abs(linked[1]).max() < 0.1


def test_too_few_documents_say_nothing():
    ys = np.random.default_rng(10).standard_normal((9, 50, 1))
    found = order(batch(ys), np.arange(9))
    assert found.verdict is Order.UNDECIDED
    assert not found.mean_beyond and not found.variance_beyond
    assert [one.what for one in found.findings] == list(KINDS[:2])
    assert all(one.verdict is Verdict.WITHHELD for one in found.findings)
    few = order(batch(ys[:, :4].repeat(2, axis=0)), np.arange(18))
    assert "transitions" in few.findings[0].note


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(docs=np.arange(3)), "`docs` has shape"),
        (dict(burn=-1), "`burn` is -1"),
        (dict(orders=3), "`orders` is 3"),
    ],
)
def test_what_cannot_be_judged_is_refused(change, match):
    with pytest.raises(BadArgument, match=match):
        order(**(dict(paths=batch(np.zeros((20, 9, 1))), docs=np.arange(20)) | change))


def test_exact_intervals_are_those_of_scipy():
    for successes, trials, level in ((0, 100, 0.95), (4, 100, 0.95), (7, 7, 0.9), (3, 1000, 0.99)):
        exact = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="exact")
        np.testing.assert_allclose(clopper_pearson(successes, trials, level), exact, atol=1e-12)
    for wrong in (dict(trials=0), dict(successes=5), dict(level=1.0)):
        with pytest.raises(BadArgument):
            clopper_pearson(**(dict(successes=1, trials=4, level=0.95) | wrong))


def test_what_random_orders_gain_is_said_beside_the_gain():
    """Documents with means of their own gain in any order: 0 is not the value of no order then."""
    rng = np.random.default_rng(5)
    ys = autoregressive(rng, 40, 40, a=0.5)
    apart = ys + 2 * rng.normal(size=(40, 1, ys.shape[2]))
    means = []
    for one in (ys, apart):
        found = order(batch(one), np.arange(40), seed=0)
        assert found.verdict is not Order.NONE
        means.append(float(found.findings[0].note.split("gain less, ")[1].split(" on")[0]))
    assert abs(means[0]) < 0.02 and means[1] > 0.1
