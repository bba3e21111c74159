"""Rows of a store, as they are judged: how many, and what their times are."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import _judge
from dynlm._data import PathsInMemory, facts_of, source_of, windows_of
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
    names = "random_walk iid var1 ou autoregression switching mixture_density".split()
    for name in names:

        def fit(paths, *args, name=name, docs=None, burn=1, **options):
            given[name] = docs, burn

        monkeypatch.setattr(_judge.baselines, name, fit)
    _judge.quick_baselines(rows, jr.key(0), 3)
    for name in ("ou", "autoregression", "mixture_density"):
        assert given[name][0] is rows.docs
    assert [given[name][1] for name in names] == [3] * 7  # and what is left out, all


def test_gaps_of_late_times_keep_their_digits_where_no_model_asks_the_time(tmp_path):
    ts = 5990 + 0.1 * np.arange(300)
    store = from_arrays(tmp_path / "store", [(np.zeros((300, 1), np.float32), ts)], quiet=True)
    (layer,) = store.layers
    late, zero = (_judge.rows_from(store, layer, from_zero=x).paths.ts for x in (False, True))
    assert late[0, 0] == 5990 and np.abs(np.diff(late[0]) - 0.1).max() > 1e-4
    assert (zero[:, 0] == 0).all()
    np.testing.assert_allclose(np.diff(zero[0]), 0.1, rtol=1e-4)
    np.testing.assert_allclose(zero[0], ts[:256] - ts[0], rtol=2e-7)
    # On the device from one row of times, and read from the store: the same bits.
    windows = windows_of(store, 33, burn=2, from_zero=True)
    numbers = np.arange(len(windows), dtype=np.int32)
    source = source_of(windows, 4, seed=0, resident=2**20)
    assert isinstance(source, PathsInMemory)
    found = jax.jit(source.batch)(jax.tree.map(jnp.asarray, source.resident), numbers)
    np.testing.assert_array_equal(found.ts, windows.gather(numbers).ts)
    assert facts_of(windows)["from_zero"] and "from_zero" not in facts_of(windows_of(store, 33))


def test_seconds_since_1970_need_no_float64_where_windows_count_from_zero(tmp_path):
    ts = 1.7e9 + 0.25 * np.arange(40)
    store = from_arrays(tmp_path / "store", [(np.zeros((40, 1), np.float32), ts)], quiet=True)
    with pytest.raises(ValueError, match="equal in float32"):
        windows_of(store, 9)
    paths = windows_of(store, 9, from_zero=True).gather([0, 4])
    np.testing.assert_array_equal(paths.ts[1, :8], 0.25 * np.arange(8))
