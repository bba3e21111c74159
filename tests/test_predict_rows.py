"""Rows of a store, as they are judged, hold no more raw states than fit."""

import jax.random as jr
import numpy as np
import pytest

from dynlm import _judge
from dynlm.store import fit_projection, from_arrays


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(10, 32)).astype(np.float32) for _ in range(40)]
    return from_arrays(tmp_path_factory.mktemp("rows") / "store", rows, quiet=True)


def test_raw_states_are_bounded_by_their_bytes(store, monkeypatch):
    (layer,) = store.layers
    projection = fit_projection(store, layer, 2, quiet=True)
    whole = _judge.rows_from(store, layer, projection, raw=True)
    assert whole.raw.shape == (40, 10, 32)
    monkeypatch.setattr(_judge, "BYTES", 7 * 10 * 32 * 4)  # seven rows
    raw = _judge.rows_from(store, layer, projection, raw=True)
    assert raw.raw.shape == (7, 10, 32) and raw.paths.ys.shape == (7, 10, 2)
    assert len(np.unique(raw.docs)) == 7 and raw.docs[0] == 0 and raw.docs[-1] == 39
    # Without them all rows are taken, some at a time.
    some = _judge.rows_from(store, layer, projection)
    np.testing.assert_array_equal(some.docs, whole.docs)
    np.testing.assert_allclose(some.paths.ys, whole.paths.ys, atol=1e-6)
    assert some.paths.mask.all() and np.array_equal(some.paths.ts, whole.paths.ts)


def test_documents_reach_every_baseline_that_holds_some_out(store, monkeypatch):
    (layer,) = store.layers
    rows, given = _judge.rows_from(store, layer), {}
    for name in ("ou", "autoregression", "mixture_density", "switching"):

        def fit(paths, *args, name=name, docs=None, **options):
            given[name] = docs

        monkeypatch.setattr(_judge.baselines, name, fit)
    _judge.quick_baselines(rows, jr.key(0))
    for name in ("ou", "autoregression", "mixture_density"):
        assert given[name] is rows.docs
