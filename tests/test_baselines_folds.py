"""What is held out within a fit is held out by document; and a fit that breaks says so."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import Trajectory, baselines, stack
from dynlm.baselines._density import _divided
from dynlm.baselines._pairs import folds_of

SMALL = dict(width=16, depth=1, steps=50, batch=64)


@functools.cache
def windows(documents=12, cut=3, length=10):
    """Documents that differ by far more than their states move, each cut into rows."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(documents):
        y = 3 * rng.normal(size=4) + 0.3 * rng.normal(size=(cut * length, 4)).cumsum(axis=0)
        rows += np.split(y, cut)
    paths = stack([Trajectory.from_arrays(y, dtype=np.float32) for y in rows])
    return paths, np.repeat(np.arange(documents), cut)


def test_folds_never_share_a_document():
    paths, docs = windows()
    names = np.array([f"story {d}" for d in docs])
    fold = folds_of(paths, names, 1, 10)
    assert set(np.unique(fold)) == set(range(-1, 10))
    assert (fold[:, 0] == -1).all() and (fold[:, 1:] >= 0).all()  # out of first states: none
    for name in np.unique(names):
        assert len(np.unique(fold[names == name][:, 1:])) == 1


def test_one_document_is_left_out_in_stretches():
    paths, _ = windows()
    fold = folds_of(paths, np.zeros(36, int), 1, 10)
    flat = fold[fold >= 0]
    assert (np.diff(flat) >= 0).all()
    assert len(np.bincount(flat)) == 10 and np.ptp(np.bincount(flat)) <= 1
    row = jax.tree.map(lambda x: x[:1], paths)
    assert np.isfinite(baselines.autoregression(row, 1).matrices).all()


def test_the_ridge_is_chosen_on_left_out_documents():
    """By hand; rows would choose a smaller one, for the rest of a document tells of a row."""
    paths, docs = windows()
    ys = np.asarray(paths.ys, float)
    errors = {}
    for ridge in (0.0, *np.logspace(-8, 2, 31)):
        total = np.zeros(4)
        for k in range(10):
            left = np.isin(docs, np.unique(docs)[k::10])
            x, y = ys[~left][:, 1:-1].reshape(-1, 4), ys[~left][:, 2:].reshape(-1, 4)
            x0, y0 = ys[left][:, 1:-1].reshape(-1, 4), ys[left][:, 2:].reshape(-1, 4)
            xc = x - x.mean(axis=0)
            penalty = ridge * np.mean(np.sum(xc**2, axis=0)) * np.eye(4)
            f = np.linalg.solve(xc.T @ xc + penalty, xc.T @ (y - y.mean(axis=0)))
            total += ((y0 - y.mean(axis=0) - (x0 - x.mean(axis=0)) @ f) ** 2).sum(axis=0)
        errors[ridge] = (total / ys[:, 2:].reshape(-1, 4).var(axis=0)).sum()
    model = baselines.autoregression(paths, 1, docs=docs)
    assert float(model.ridge) == pytest.approx(min(errors, key=lambda r: errors[r]), rel=1e-5)
    by_row = baselines.autoregression(paths, 1)
    trace = [float(np.sum(np.asarray(m.root, float) ** 2)) for m in (model, by_row)]
    assert trace[0] != trace[1]


def test_a_fit_does_not_depend_on_the_order_of_the_rows():
    paths, docs = windows()
    order = np.random.default_rng(1).permutation(len(docs))
    mixed = jax.tree.map(lambda x: x[order], paths)
    one = baselines.autoregression(paths, 2, docs=docs)
    two = baselines.autoregression(mixed, 2, docs=docs[order])
    assert one.ridge == two.ridge
    np.testing.assert_allclose(one.matrices, two.matrices, atol=1e-5)
    np.testing.assert_allclose(one.root, two.root, atol=1e-5)


def nats(model, rows):
    """Its score of rows, all transitions but those out of first states."""

    def one(y, y1):
        return model.law(model.see(model.start(), 0.0, y), 1.0).logpdf(y1)

    dim = rows.ys.shape[2]
    x, y = (v.reshape(-1, dim) for v in (rows.ys[:, 1:-1], rows.ys[:, 2:]))
    return -float(jnp.mean(jax.jit(jax.vmap(one))(x, y))) / dim


def test_a_mixture_density_is_chosen_on_documents_that_it_is_not_trained_on():
    paths, docs = windows()
    model = baselines.mixture_density(paths, 1, key=jr.key(0), docs=docs, **SMALL)
    held = jax.tree.map(lambda x: x[docs % 10 == 0], paths)
    assert nats(model, held) == pytest.approx(float(np.min(model.history)), abs=1e-3)


def test_of_few_documents_a_stretch_is_held_out():
    paths, docs = windows()
    few = jax.tree.map(lambda x: x[:15], paths)
    (x, _), (x_held, y_held) = _divided(few, docs[:15], None, 1)
    ys = np.asarray(few.ys, float)
    every = ys[:, 1:-1].reshape(-1, 4)
    np.testing.assert_array_equal(np.concatenate([x_held, x]), every)
    np.testing.assert_array_equal(x_held, every[:12])
    np.testing.assert_array_equal(y_held, ys[:, 2:].reshape(-1, 4)[:12])


def test_documents_must_be_one_for_each_row():
    paths, docs = windows()
    with pytest.raises(ValueError, match=r"`docs` has shape \(35,\), and `paths` has 36 rows"):
        baselines.autoregression(paths, 1, docs=docs[1:])


@pytest.mark.parametrize("held", [True, False])
def test_training_that_leaves_the_finite_numbers_stops_and_says_so(held):
    paths, docs = windows()
    if not held:  # nine transitions, of which none can be spared
        paths = jax.tree.map(lambda x: x[:1, :10], paths)
        docs = docs[:1]
    with pytest.warns(UserWarning, match=r"not finite at step \d+.*lower `rate` \(it is 1e\+30\)"):
        model = baselines.mixture_density(
            paths, 1, key=jr.key(0), docs=docs, **SMALL | dict(rate=1e30)
        )
    leaves = [x for x in jax.tree.leaves(model) if eqx.is_inexact_array(x)]
    finite = [bool(jnp.isfinite(x).all()) for x in leaves if x is not model.history]
    assert all(finite)
    assert np.isfinite(nats(model, paths))
