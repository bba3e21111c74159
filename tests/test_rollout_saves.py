"""What a rollout keeps: states at the right steps, and reductions against numpy on all states."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import SDE, diffusions, drifts, rollout
from dynlm.simulate import At, AtSteps, Every, Histogram, Last, Moments, Running

KEY = jr.key(21)
SDE_2 = SDE(
    drifts.Linear(-jnp.eye(2), jnp.ones(2)),
    diffusions.Constant(jnp.array([[0.5, 0.2], [0.0, 0.4]])),
)
Y0S = jr.normal(KEY, (37, 2))
STEPS = (0.5, 1.5, 12)


@pytest.fixture(scope="module")
def every():
    return rollout(SDE_2, Y0S, STEPS, key=KEY, save=Every(1))


def keep(save, **kwargs):
    return rollout(SDE_2, Y0S, STEPS, key=KEY, save=save, **kwargs)


@pytest.mark.parametrize(
    "save, numbers",
    [
        (Every(1), range(13)),
        (Every(4), range(0, 13, 4)),
        (Every(5), (0, 5, 10)),
        (Every(12), (0, 12)),
        (AtSteps([0, 1, 7]), (0, 1, 7)),
        (AtSteps([3]), (3,)),
        (AtSteps([2, 5, 8, 11]), (2, 5, 8, 11)),
        (At([0.5, 0.75, 1.5]), (0, 3, 12)),
        (At([0.5 + 7 / 12]), (7,)),
    ],
    ids=str,
)
def test_states_at_the_right_steps(every, save, numbers):
    paths = keep(save)
    numbers = np.asarray(list(numbers))
    np.testing.assert_array_equal(paths.ys, every.ys[:, numbers])
    np.testing.assert_allclose(paths.ts[0], 0.5 + numbers / 12, rtol=1e-6)
    assert paths.ts.shape == paths.mask.shape == (37, len(numbers))


def test_the_last_state(every):
    np.testing.assert_array_equal(keep(Last()), every.ys[:, -1])
    np.testing.assert_array_equal(keep(None), every.ys[:, -1])


def test_moments_over_paths_at_each_time(every):
    ts, moments = keep(Every(4, Moments()))
    for row, k in enumerate((0, 4, 8, 12)):
        ys = np.asarray(every.ys[:, k], np.float64)
        np.testing.assert_allclose(moments.mean[row], ys.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(moments.covariance[row], np.cov(ys.T), rtol=1e-4)
    np.testing.assert_allclose(ts, 0.5 + np.arange(0, 13, 4) / 12, rtol=1e-6)
    assert (moments.count == 37).all()


def test_moments_over_paths_and_times(every):
    ys = np.asarray(every.ys[:, 3::3], np.float64).reshape(-1, 2)
    moments = keep(Running(Moments(), every=3, since=3))
    assert moments.count == len(ys)
    np.testing.assert_allclose(moments.mean, ys.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.covariance, np.cov(ys.T), rtol=1e-4)
    diagonal = keep(Running(Moments("diagonal"), every=3, since=3))
    np.testing.assert_allclose(diagonal.covariance, np.cov(ys.T).diagonal(), rtol=1e-4)


def test_moments_do_not_cancel():
    """A mean of 1000 beside a variance of 1e-4 or so, in float32, over 100 joins."""
    sde = SDE(drifts.Linear(jnp.zeros((1, 1)), jnp.zeros(1)), diffusions.Scalar(0.01, 1))
    y0s = jnp.full((400, 1), 1000.0)
    moments = rollout(sde, y0s, (0.0, 1.0, 100), key=KEY, save=Running(Moments()))
    ys = np.asarray(rollout(sde, y0s, (0.0, 1.0, 100), key=KEY, save=Every(1)).ys, np.float64)
    np.testing.assert_allclose(moments.covariance[0, 0], ys.var(), rtol=1e-2)


def test_states_that_are_not_finite_are_not_counted():
    sde = SDE(drifts.Function(lambda t, y: y**3), diffusions.Scalar(0.01, 1))
    y0s = jnp.array([[0.1], [50.0], [0.3]])
    moments = rollout(sde, y0s, (0.0, 1.0, 8), key=KEY, save=Last(Moments()))
    ends = np.asarray(rollout(sde, y0s, (0.0, 1.0, 8), key=KEY))[[0, 2]]
    assert moments.count == 2
    np.testing.assert_allclose(moments.mean, ends.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("of_state", [1, lambda y: jnp.sum(y)], ids=["component", "callable"])
def test_histograms(every, of_state):
    edges = np.linspace(-1.0, 1.5, 11)
    ys = np.asarray(every.ys)
    x = ys[..., 1] if of_state == 1 else ys.sum(axis=-1)
    edges[3] = x[5, 12]  # a value on an edge belongs to the bin above
    edges[-1] = x[7, 12]  # but the last bin holds its right edge
    edges = np.sort(edges)
    whole = keep(Running(Histogram(edges, of_state)))
    edges32 = edges.astype(np.float32)
    np.testing.assert_array_equal(whole.counts, np.histogram(x.ravel(), edges32)[0])
    assert int(whole.below) == (x < edges32[0]).sum()
    assert int(whole.above) == (x > edges32[-1]).sum()
    last = keep(Last(Histogram(edges, of_state)))
    np.testing.assert_array_equal(last.counts, np.histogram(x[:, -1], edges32)[0])
    each = keep(Every(6, Histogram(edges, of_state))).value
    np.testing.assert_array_equal(each.counts[1], np.histogram(x[:, 6], edges32)[0])


def test_counts_of_whole_numbers(every):
    edges = [-0.5, 0.5, 1.5, 2.5]
    found = keep(Last(Histogram(edges, lambda y: jnp.sum(y > 0.9))))
    positive = np.sum(np.asarray(every.ys[:, -1]) > 0.9, axis=1)
    np.testing.assert_array_equal(found.counts, np.histogram(positive, edges)[0])


def test_no_moments_of_nothing():
    sde = SDE(drifts.Function(lambda t, y: jnp.nan * y), diffusions.Scalar(1.0, 1))
    moments = rollout(sde, jnp.ones((3, 1)), (0.0, 1.0, 2), key=KEY, save=Last(Moments()))
    assert moments.count == 0 and jnp.isnan(moments.mean).all()
    one = rollout(SDE_2, Y0S[:1], STEPS, key=KEY, save=Last(Moments()))
    assert one.count == 1 and jnp.isfinite(one.mean).all() and jnp.isnan(one.covariance).all()


def test_a_histogram_loses_nothing():
    sde = SDE(drifts.Function(lambda t, y: y**3), diffusions.Scalar(0.01, 1))
    y0s = jnp.array([[0.1], [50.0], [-50.0], [jnp.nan]])
    found = rollout(sde, y0s, (0.0, 1.0, 8), key=KEY, save=Last(Histogram([0.0, 1.0])))
    inside, below, above, lost = (
        int(jnp.sum(n)) for n in (found.counts, found.below, found.above, found.lost)
    )
    assert inside == 1 and lost >= 1 and inside + below + above + lost == 4


@pytest.mark.parametrize("edges", [[0.0], [0.0, 0.0], [[0.0, 1.0]], [1.0, 0.0]])
def test_bad_edges(edges, unchecked):
    with pytest.raises(ValueError, match="`edges` is"):
        Histogram(edges)


def test_bad_covariance(unchecked):
    with pytest.raises(ValueError, match="'full' or 'diagonal'"):
        Moments("none")


def test_saves_work_inside_jit(every):
    paths = jax.jit(lambda y0s: rollout(SDE_2, y0s, STEPS, key=KEY, save=Every(4)).ys)(Y0S)
    np.testing.assert_allclose(paths, every.ys[:, ::4], rtol=1e-6)
