import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jaxtyping import Array, Float
from scipy import stats

from dynlm._io import BadArgument
from dynlm.store._batches import Batches
from dynlm.store._order import mixed, shuffled
from dynlm.store._split import split_docs
from dynlm.store._windows import Windows

FALSE_ALARM = 1e-6  # of each test of a distribution below, which its fixed seeds decide for good


class Memory:
    """Rows in memory with the reader's interface; row i has the times 0, 1 + i, 2 (1 + i), ..."""

    def __init__(self, lengths, dim=3, dtype=np.float32, start=0.0):
        rng = np.random.default_rng(len(lengths))
        self.lengths = np.array(lengths, np.int64)
        self.docs = np.arange(len(lengths), dtype=np.int64) // 2
        self.layers, self.dims, self.dtype = (4,), {4: dim}, np.dtype(dtype)
        self._ys = [rng.normal(size=(n, dim)).astype(dtype) for n in lengths]
        self._start = start

    def __len__(self):
        return len(self.lengths)

    def states(self, row, layer):
        assert layer == 4
        return self._ys[row]

    def times(self, row):
        return self._start + np.arange(self.lengths[row], dtype=np.float64) * (1 + row)


LENGTHS = [7, 1, 12, 0, 2, 5, 9]


def brute(store, length, stride):
    """Row and states of every window, by a loop over all starts."""
    found = []
    for row, n in enumerate(store.lengths):
        start = 0
        while n - start >= min(length, 2):
            found.append((row, range(start, min(start + length, n))))
            start += stride
    return found


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


# The order


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 64, 1000, 4097])
def test_an_order_holds_each_number_once(n):
    places = np.arange(n)
    orders = [shuffled(n, seed, places) for seed in range(5)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), places)
    if n >= 64:
        for a, b in itertools.pairwise(orders):
            assert np.mean(a == b) < 0.1
        np.testing.assert_array_equal(shuffled(n, 0, places[::-7]), orders[0][::-7])


def test_an_order_never_changes():
    np.testing.assert_array_equal(shuffled(10, 0, np.arange(10)), [7, 3, 0, 5, 9, 6, 2, 4, 8, 1])
    np.testing.assert_array_equal(
        shuffled(2**62, 2**64 - 1, np.array([0, 1, 2**62 - 1])),
        [231844577265901871, 2122460838907985833, 3468089751021037831],
    )
    assert [int(mixed(k)[0]) for k in (0, 1, 2**64 - 1)] == [
        16294208416658607535,
        10451216379200822465,
        16490336266968443936,
    ]


def test_mixed_is_the_published_splitmix64():
    # The first outputs for the seed 0, which Java's SplittableRandom and others print.
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden, (2 * golden) % 2**64], np.uint64)
    assert mixed(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_few_comes_equally_often(unchecked, n):
    seeds, orders = 4000 if n == 5 else 1000, list(itertools.permutations(range(n)))
    drawn = [tuple(shuffled(n, seed, np.arange(n)).tolist()) for seed in range(seeds)]
    counts = [drawn.count(order) for order in orders]
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_each_number_comes_to_each_place_equally_often(unchecked):
    n, seeds = 17, 2500
    drawn = np.stack([shuffled(n, seed, np.arange(n)) for seed in range(seeds)])
    counts = np.stack([np.bincount(column, minlength=n) for column in drawn.T])
    # Rows and columns of the table have fixed sums: (n - 1)**2 numbers are free.
    chi2 = np.sum((counts - seeds / n) ** 2) / (seeds / n) * (n - 1) / n
    assert stats.chi2.sf(chi2, (n - 1) ** 2) > FALSE_ALARM
    pairs = np.bincount(drawn[:, 3] * n + drawn[:, 11], minlength=n * n)
    unequal = pairs[~np.eye(n, dtype=bool).ravel()]
    assert stats.chisquare(unequal).pvalue > FALSE_ALARM


def test_neighbours_of_a_large_order_are_strangers():
    n = 20_001
    order = shuffled(n, 5, np.arange(n)).astype(float)
    other = shuffled(n, 6, np.arange(n)).astype(float)
    level = stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(n)
    for a, b in [(order, np.arange(n)), (order[1:], order[:-1]), (order, other)]:
        assert abs(np.corrcoef(a, b)[0, 1]) < level
    # Displacement of a uniform order has the mean (n**2 - 1) / 3n.
    displaced = np.abs(order - np.arange(n)).mean()
    assert abs(displaced / ((n**2 - 1) / (3 * n)) - 1) < 0.03


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((3, 0, np.array([3])), "`index` goes from 3 to 3. Pass places from 0 to 2"),
        ((3, -1, np.array([0])), "`seed` is -1"),
        ((3, 2**64, np.array([0])), "`seed` is 18446744073709551616"),
        ((2**62 + 1, 0, np.array([0])), "`n` is 4611686018427387905"),
    ],
)
def test_what_has_no_order_is_refused(arguments, sentence):
    with pytest.raises(BadArgument, match=sentence):
        shuffled(*arguments)


# The split


def test_a_split_takes_whole_documents_by_their_shares():
    docs = np.repeat(np.arange(1000), 3)
    split = split_docs(docs)
    assert {name: len(found) for name, found in split.items()} == {
        "train": 800,
        "valid": 100,
        "test": 100,
    }
    np.testing.assert_array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(1000))
    for found in split.values():
        assert found.dtype == np.int64 and np.all(np.diff(found) > 0)
    # Late and early documents alike: the mean number of those in the test is near the middle.
    assert abs(split["test"].mean() - 499.5) < 5 * 1000 / np.sqrt(12 * 100)


def test_a_split_depends_on_the_documents_and_the_seed_only():
    docs = np.array([-5, 8, 3, 2**40, 12, 7, 30, 31, 32, 33, 34, 35])
    split = split_docs(docs, seed=1)
    again = split_docs(np.random.default_rng(0).permutation(np.repeat(docs, 4)), seed=1)
    other = split_docs(docs, seed=2)
    assert all(np.array_equal(split[name], again[name]) for name in split)
    assert not all(np.array_equal(split[name], other[name]) for name in split)
    assert {name: found.tolist() for name, found in split_docs(np.arange(10)).items()} == {
        "train": [0, 1, 3, 4, 5, 6, 7, 9],
        "valid": [2],
        "test": [8],
    }


@pytest.mark.parametrize(
    ("n", "shares", "counts"),
    [
        (10, dict(train=0.7, valid=0.2, test=0.1), [7, 2, 1]),
        (100, dict(train=0.29, valid=0.57, test=0.14), [29, 57, 14]),
        (3, dict(train=0.8, valid=0.1, test=0.1), [1, 1, 1]),
        (5, dict(train=0.98, test=0.02), [4, 0, 1]),
        (7, dict(train=1.0), [7, 0, 0]),
        (10, dict(train=1 / 3, valid=1 / 3, test=1 / 3), [4, 3, 3]),
        (11, dict(valid=0.5, test=0.5), [0, 6, 5]),
        (14, dict(train=0.75, valid=0.25), [11, 3, 0]),
        (30, dict(train=0.05, valid=0.45, test=0.5), [2, 13, 15]),
    ],
)
def test_shares_are_rounded_to_the_largest_remainders_and_none_is_empty(n, shares, counts):
    assert [len(found) for found in split_docs(np.arange(n), shares).values()] == counts


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        (dict(train=0.8, dev=0.2), "`shares` names 'dev'. The splits are train, valid, test"),
        (dict(train=1.2, test=-0.2), "`shares` gives -0.2 to test"),
        (dict(train=float("nan")), "`shares` gives nan to train"),
        (dict(train="0.8", test=0.2), "`shares` gives '0.8' to train"),
        (dict(train=0.8, valid=0.1), "sum to 0.9"),
        ({}, "sum to 0"),
        (dict(train=0.5, valid=0.3, test=0.2), "`docs` holds 2 of the 3 documents"),
    ],
)
def test_bad_shares_are_refused(unchecked, shares, sentence):
    with pytest.raises(BadArgument, match=sentence):
        split_docs(np.array([4, 9, 9]), shares)


# Windows


@pytest.mark.parametrize(("length", "stride"), [(4, None), (4, 2), (1, None), (2, None), (5, 9)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_windows_are_slices_of_the_rows(length, stride, dtype):
    store = Memory(LENGTHS, dtype=dtype)
    windows = Windows(store, 4, length, stride)
    expected = brute(store, length, stride or max(1, length - 1))
    assert len(windows) == len(expected)
    batch = windows.gather(np.arange(len(windows)))
    assert batch.ys.dtype == batch.ts.dtype == jnp.float32
    for k, (row, steps) in enumerate(expected):
        ys = store.states(row, 4)[steps.start : steps.stop].astype(np.float32)
        extra = length - len(steps)
        ts = store.times(row)[np.minimum(np.arange(length) + steps.start, steps.stop - 1)]
        np.testing.assert_array_equal(batch.ys[k], np.pad(ys, ((0, extra), (0, 0))))
        np.testing.assert_array_equal(batch.ts[k], ts.astype(np.float32))
        np.testing.assert_array_equal(batch.mask[k], np.arange(length) < len(steps))
        assert windows.docs([k]) == store.docs[row]
    assert windows.steps == sum(len(steps) - 1 for _, steps in expected)
    assert same(windows[-1], jax.tree.map(lambda x: x[-1], batch))


@pytest.mark.parametrize("length", [2, 3, 4, 30])
def test_a_window_holds_each_transition_once(length):
    store = Memory(LENGTHS)
    windows = Windows(store, 4, length)
    found = []
    for row, start in zip(*windows.locate(np.arange(len(windows)))):
        found += [(row, t) for t in range(start, min(start + length, store.lengths[row]) - 1)]
    expected = [(row, t) for row, n in enumerate(LENGTHS) for t in range(n - 1)]
    assert found == expected and windows.steps == len(expected)


def test_many_windows_take_no_memory():
    windows = Windows(Memory([10**6, 5]), 4, 3, 1)
    assert len(windows) == 999_999 + 4 and windows._bounds.size == 3
    np.testing.assert_array_equal(windows.locate([999_998, 999_999]), [[0, 1], [999_998, 0]])


class Plane(eqx.Module):
    """A projection to two dimensions that does not leave zero where it was."""

    basis: Float[Array, "dim 2"]

    def project(self, y):
        return y @ self.basis + 1.0


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_a_projection_is_applied_to_each_real_state(dtype):
    store = Memory(LENGTHS, dtype=ml_dtypes.bfloat16)
    plane = Plane(jnp.arange(6.0).reshape(3, 2))
    plain = Windows(store, 4, 5).gather([0, 1, 2])
    windows = Windows(store, 4, 5, projection=plane, dtype=dtype)
    batch = windows.gather([0, 1, 2])
    expected = np.asarray(plain.ys) @ np.arange(6.0, dtype=np.float32).reshape(3, 2) + 1
    expected = np.where(np.asarray(plain.mask)[:, :, None], expected, 0)
    assert batch.ys.dtype == dtype and batch.ts.dtype == jnp.float32 and windows.dim == 2
    tolerance = 1e-6 if dtype == np.float32 else 2**-8
    np.testing.assert_allclose(batch.ys.astype(np.float32), expected, rtol=tolerance, atol=1e-6)


def test_times_are_those_of_the_store():
    batch = Windows(Memory([40], start=1000.0), 4, 5).gather([3])
    np.testing.assert_array_equal(batch.ts, [[1012, 1013, 1014, 1015, 1016]])


def test_times_that_become_equal_are_refused():
    store = Memory([3, 1], start=1.7e9)
    with pytest.raises(BadArgument, match="Row 0 of `store`.*1700000000.0 and 1700000001.0.*equal"):
        Windows(store, 4, 2)
    # Only a later row: found when it is read.
    store = Memory([5, 3])
    store.times = lambda row: np.arange(store.lengths[row]) + 1.7e9 * row
    windows = Windows(store, 4, 2)
    with pytest.raises(BadArgument, match="Row 1 of `store`"):
        windows.gather([0, 4])


def test_times_of_a_clock_are_kept_in_float64(x64):
    batch = Windows(Memory([4], start=1.7e9), 4, 4, dtype=np.float64).gather([0])
    assert batch.ys.dtype == batch.ts.dtype == np.float64
    np.testing.assert_array_equal(np.diff(batch.ts[0]), 1.0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda s: Windows(s, 5, 3), r"`layer` is 5. This store has the layers \[4\]"),
        (lambda s: Windows(s, 4, 0), "`length` is 0"),
        (lambda s: Windows(s, 4, 3, 0), "`stride` is 0"),
        (lambda s: Windows(s, 4, 3, dtype=int), "`dtype` is <class 'int'>"),
        (lambda s: Windows(s, 4, 3).gather([0, 99]), "`windows` goes from 0 to 99. There are 16"),
        (lambda s: Windows(s, 4, 3).gather([-1]), "`windows` goes from -1"),
        (lambda s: Windows(s, 4, 3).gather([0.5]), r"`windows` is \[0.5\]"),
        (lambda s: Windows(s, 4, 3, projection=Plane(jnp.ones((9, 2)))), "`projection` does not"),
        (lambda s: Batches(Windows(s, 4, 3), 0, seed=0), "`size` is 0"),
        (lambda s: Batches(Windows(s, 4, 3), 5, seed=0, hosts=2), "`size` is 5 and `hosts` is 2"),
        (lambda s: Batches(Windows(s, 4, 3), 4, seed=0, host=2, hosts=2), "`host` is 2"),
        (lambda s: Batches(Windows(s, 4, 3), 4, seed=-1), "`seed` is -1"),
        (lambda s: Batches(Windows(s, 4, 3), 4, seed=0).at(-1), "`step` is -1"),
        (lambda s: Batches(Windows(s, 4, 3), 4, seed=0).since(-1), "`step` is -1"),
        (lambda s: Batches(Windows(Memory([1, 0]), 4, 3), 4, seed=0), "`windows` is empty"),
    ],
)
def test_bad_windows_and_batches_are_refused(unchecked, call, sentence):
    with pytest.raises(BadArgument, match=sentence):
        call(Memory(LENGTHS))


def test_a_window_is_asked_for_by_its_number(unchecked):
    windows = Windows(Memory([7, 4]), 4, 3)
    assert len(list(windows)) == len(windows) == 5
    with pytest.raises(IndexError, match="`window` is 5. There are 5"):
        windows[5]
    with pytest.raises(TypeError, match=r"gather\(\[...\]\)"):
        windows[1:3]
    assert len(Windows(Memory([]), 4, 3)) == 0


# Batches


@pytest.mark.parametrize("size", [1, 4, 5, 14, 30])
def test_each_window_comes_once_an_epoch(size):
    windows = Windows(Memory(LENGTHS), 4, 3)
    n, epochs = len(windows), 5
    batches = Batches(windows, size, seed=3)
    stream = np.concatenate([batches.indices(step) for step in range(batches.first(epochs))])
    assert len(stream) - epochs * n in range(size)
    orders = stream[: epochs * n].reshape(epochs, n)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert len({tuple(order) for order in orders.tolist()}) == epochs
    for step in range(batches.first(epochs)):
        assert batches.epoch(step) == step * size // n
    first = batches.first(2)
    assert batches.epoch(first - 1) < 2 <= batches.epoch(first) and batches.per_epoch == n / size


def test_an_epoch_longer_than_a_block_holds_each_window_once():
    windows = Windows(Memory([9000, 3001], dim=1), 4, 2)
    batches = Batches(windows, 500, seed=3)
    stream = np.concatenate([batches.indices(step) for step in range(batches.first(2))])
    np.testing.assert_array_equal(np.sort(stream[:11_999]), np.arange(11_999))
    np.testing.assert_array_equal(np.sort(stream[11_999 : 2 * 11_999]), np.arange(11_999))
    assert not np.array_equal(stream[:5000], np.sort(stream[:5000]))


def test_training_goes_on_with_the_batches_it_would_have_had():
    windows = Windows(Memory(LENGTHS), 4, 3)
    whole = list(itertools.islice(Batches(windows, 4, seed=9).since(), 12))
    for start in (0, 3, 7, 11):
        fresh = Batches(Windows(Memory(LENGTHS), 4, 3), 4, seed=9).since(start)
        for (step, batch), (expected_step, expected) in zip(fresh, whole[start:]):
            assert step == expected_step and same(batch, expected)
    other = [batch for _, batch in itertools.islice(Batches(windows, 4, seed=8).since(), 12)]
    assert not all(same(a, b) for a, (_, b) in zip(other, whole))


@pytest.mark.parametrize("hosts", [2, 3, 6])
def test_hosts_share_each_batch(hosts):
    windows = Windows(Memory(LENGTHS), 4, 3)
    one = Batches(windows, 6, seed=1)
    parts = [Batches(windows, 6, seed=1, host=host, hosts=hosts) for host in range(hosts)]
    for step in (0, 1, 2, 5, 40):
        batches = [part.at(step) for part in parts]
        whole = jax.tree.map(lambda *xs: jnp.concatenate(xs), *batches)
        assert same(whole, one.at(step)) and batches[0].ys.shape[0] == 6 // hosts


def test_batches_never_change():
    batches = Batches(Windows(Memory(LENGTHS), 4, 3), 5, seed=0)
    assert [batches.indices(step).tolist() for step in (0, 2, 10**12)] == [
        [15, 13, 11, 10, 2],
        [14, 4, 1, 8, 5],
        [4, 15, 8, 13, 5],
    ]


def test_batches_have_one_shape_and_are_compiled_once():
    batches = Batches(Windows(Memory(LENGTHS, dtype=ml_dtypes.bfloat16), 4, 3), 5, seed=0)

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def energy(batch):
        return jax.vmap(lambda path: jnp.sum(path.ys**2, where=path.mask[:, None]))(batch)

    for _, batch in itertools.islice(batches.since(), 8):
        assert np.isfinite(energy(batch)).all() and batch.ys.shape == (5, 3, 3)
