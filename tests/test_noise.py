"""The hash against Python integers, its normals against scipy, its randomness against a battery of
tests that also has to catch bad generators.

Each statistical test is a p-value, and a battery fails where one falls below ALPHA divided by the
number of them: a false alarm in one battery out of 10,000, were the seeds not fixed.
"""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog
from scipy.special import erfinv, ndtri

from dynlm.simulate import _noise as noise

ALPHA = 1e-4
LOW32 = 2**32 - 1


# The index: integers only ------------------------------------------------------------------------

MULTIPLIERS = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)


def python_round(x, number):
    if number == 0:
        x ^= x >> 17
    x = x * MULTIPLIERS[number] % 2**32
    return x ^ x >> (11, 15, 14)[number]


def python_mix(x):
    return python_round(python_round(python_round(x, 0), 1), 2)


def python_stream(x, y):
    # The first 256 bits of the fraction of pi.
    pi = 0x243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89
    for i in range(8):
        x, y = y, x ^ python_mix((y + (pi >> 32 * (7 - i))) % 2**32)
    return x, y


def python_bits(stream, step, word):
    x = (word * 0x9E3779B1 + python_mix((stream[0] + step) % 2**32)) % 2**32
    x = (python_round(x, 0) + stream[1]) % 2**32
    x = (python_round(x, 1) + step * 0x85EBCA6B) % 2**32
    return python_round(x, 2)


def undo_round(x, number):
    def unshift(x, by):
        out = x
        for _ in range(32 // by):
            out = x ^ out >> by
        return out

    x = unshift(x, (11, 15, 14)[number]) * pow(MULTIPLIERS[number], -1, 2**32) % 2**32
    return unshift(x, 17) if number == 0 else x


def undo_mix(x):
    return undo_round(undo_round(undo_round(x, 2), 1), 0)


def indices(count, seed):
    """Random ones, and those at the ends of their ranges."""
    rng = np.random.default_rng(seed)
    ends = np.array([0, 1, 2, 2**16, 2**31 - 1, 2**31, LOW32 - 1, LOW32], dtype=np.uint32)
    grid = np.stack(np.meshgrid(ends[[0, 1, -1]], ends[[0, 5, -1]], ends, ends), -1).reshape(-1, 4)
    return np.concatenate([grid, rng.integers(0, 2**32, (count, 4), dtype=np.uint32)])


@jax.jit
@jax.vmap
def raw_bits(index):
    return noise.bits(index[:2], index[2], index[3:])[0]


def test_bits_are_those_of_python_integers():
    index = indices(2000, seed=0)
    expected = [python_bits((a, b), s, w) for a, b, s, w in index.tolist()]
    np.testing.assert_array_equal(np.asarray(raw_bits(index)), np.array(expected, np.uint32))


def test_streams_are_those_of_python_integers():
    words = indices(500, seed=1)[:, :2]
    expected = np.array([python_stream(a, b) for a, b in words.tolist()], np.uint32)
    np.testing.assert_array_equal(np.asarray(jax.vmap(noise.stream)(words)), expected)


def test_every_stage_can_be_undone():
    # What can be undone loses nothing: the injectivity that docs/noise.md claims.
    for a, b, step, word in indices(300, seed=2).tolist():
        assert undo_mix(python_mix(a)) == a
        x = undo_round(python_bits((a, b), step, word), 2)
        x = undo_round((x - step * 0x85EBCA6B) % 2**32, 1)
        x = undo_round((x - b) % 2**32, 0)
        x = (x - python_mix((a + step) % 2**32)) % 2**32
        assert x * pow(0x9E3779B1, -1, 2**32) % 2**32 == word
        x, y = python_stream(a, b)
        pi = 0x243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89
        for i in reversed(range(8)):
            x, y = y ^ python_mix((x + (pi >> 32 * (7 - i))) % 2**32), x
        assert (x, y) == (a, b)


def test_second_injection_tells_apart_what_the_first_cannot():
    # With xor in place of the second addition, these two streams would be one at these two steps:
    # adding 2^31 before a round flips two fixed bits after it. Addition carries differently.
    rng = np.random.default_rng(3)
    words = rng.integers(0, 2**32, 1000, dtype=np.uint32)
    a, b, step = 123, 456, 789
    flip = 2**31 ^ 2**16
    other = (step * 0x85EBCA6B % 2**32 ^ flip) * pow(0x85EBCA6B, -1, 2**32) % 2**32
    one = noise.bits(jnp.array([a, b], jnp.uint32), step, jnp.asarray(words))
    shifted = jnp.array([(a + step - other) % 2**32, b ^ 2**31], jnp.uint32)
    two = noise.bits(shifted, other, jnp.asarray(words))
    same = np.mean(np.asarray(one == two))
    assert 0.1 < same < 0.9  # the closest two streams come, and at one step of 2^32


def test_noise_never_changes():
    stream = noise.stream(jr.key(2026))
    drawn = noise.bits(stream, 7, jnp.arange(3, dtype=jnp.uint32)).tolist()
    assert stream.tolist() == list(python_stream(0, 2026))
    assert drawn == [python_bits(python_stream(0, 2026), 7, word) for word in range(3)]


def test_keys_of_any_implementation():
    raw, typed = noise.stream(jr.PRNGKey(5)), noise.stream(jr.key(5))
    np.testing.assert_array_equal(raw, typed)
    for impl in ("rbg", "unsafe_rbg"):
        keys = jr.split(jr.key(5, impl=impl), 100)
        streams = np.asarray(jax.vmap(noise.stream)(keys))
        assert len(np.unique(streams, axis=0)) == 100
    # An rbg key says its seed twice; xored as they are, the halves would cancel.
    seeds = [noise.stream(jr.key(s, impl="rbg")).tolist() for s in range(3)]
    assert len({tuple(s) for s in seeds}) == 3


def test_batch_of_keys_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"data of shape \(3, 2\).*jax.vmap"):
        noise.stream(jr.split(jr.key(0), 3))


def test_too_many_components_are_refused():
    with pytest.raises(ValueError, match="536870913.*several keys"):
        noise.normals(noise.stream(jr.key(0)), 0, 1, first=2**29)


# The normals -------------------------------------------------------------------------------------


def patterns(count, seed):
    rng = np.random.default_rng(seed)
    near = np.arange(3000)
    ends = [near, LOW32 - near, 2**31 + near, 2**31 - 1 - near, 2 ** np.arange(32)]
    return np.concatenate([*ends, rng.integers(0, 2**32, count)]).astype(np.uint32)


def exact_normal(h, low=None):
    """scipy's quantile of the middle of the cell, or of the part of it that `low` names."""
    signed = h.view(np.int32).astype(np.float64)
    sign = np.where(signed < 0, -1, 1)
    size = np.where(signed < 0, -signed - 1, signed)
    part = 0.5 if low is None else (low + 0.5) / 2**32
    inner = np.sqrt(2) * erfinv((size + part) / 2**31)
    return sign * np.where(size < 2**30, inner, -ndtri((2**31 - 1 - size + (1 - part)) / 2**32))


def test_float32_normals_are_exact_quantiles():
    h = patterns(400_000, seed=4)
    z = np.asarray(noise.to_normal(jnp.asarray(h)))
    np.testing.assert_allclose(z, exact_normal(h), rtol=1.2e-6)
    assert np.isfinite(z).all()
    np.testing.assert_array_equal(np.asarray(noise.to_normal(jnp.asarray(~h))), -z)


def test_tail_ends_where_the_docs_say():
    last = noise.to_normal(jnp.array([2**31 - 1, 2**31], jnp.uint32))
    np.testing.assert_allclose(last, [6.337957, -6.337957], rtol=1e-6)
    # Its cell is the outermost 2^-32 of each tail, which begins here:
    np.testing.assert_allclose(-ndtri(2.0**-32), 6.23026, rtol=1e-5)


def test_float64_normals_are_exact_quantiles(x64):
    h = patterns(100_000, seed=5)
    low = np.random.default_rng(6).integers(0, 2**32, len(h), dtype=np.uint32)
    z = np.asarray(noise.to_normal64(jnp.asarray(h), jnp.asarray(low)))
    np.testing.assert_allclose(z, exact_normal(h, low), rtol=1e-12, atol=1e-15)
    ends = noise.to_normal64(
        jnp.array([2**31 - 1, 2**31, 0, LOW32], jnp.uint32),
        jnp.array([LOW32, LOW32, 0, 0], jnp.uint32),
    )
    edge = -ndtri(2.0**-65)
    np.testing.assert_allclose(ends, [edge, -edge, 0, 0], rtol=1e-12, atol=1e-18)


def test_float64_is_float32_seen_closer(x64):
    stream = noise.stream(jr.key(1))
    wide = np.asarray(noise.normals(stream, 3, 200_000, jnp.float64))
    narrow = np.asarray(noise.normals(stream, 3, 200_000, jnp.float32))
    assert wide.dtype == np.float64 and narrow.dtype == np.float32
    # Rounding, and half a cell, whose width is 2^-32 over the density.
    np.testing.assert_allclose(narrow, wide, rtol=1.2e-6, atol=2.0**-32 / stats.norm.pdf(4.8))
    assert np.std(narrow - wide) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_normals_are_rounded_float32(dtype):
    stream = noise.stream(jr.key(1))
    narrow = noise.normals(stream, 3, 1000, dtype)
    assert narrow.dtype == dtype
    np.testing.assert_array_equal(narrow, noise.normals(stream, 3, 1000).astype(dtype))


def least_largest(columns, values, weights):
    """The least largest weighted error of any combination of `columns`."""
    a, b = 1e6 * columns * weights[:, None], 1e6 * values * weights  # well above its tolerances
    one = np.ones((len(b), 1))
    n = columns.shape[1]
    found = linprog(
        np.r_[np.zeros(n), 1],
        A_ub=np.block([[a, -one], [-a, -one]]),
        b_ub=np.r_[b, -b],
        bounds=[(None, None)] * (n + 1),
        method="highs-ipm",
    )
    assert found.status == 0
    return found.x[-1] / 1e6


def test_polynomials_are_the_best_of_their_degree():
    t = np.cos(np.linspace(0, np.pi, 801)) * (2**0.5 - 2**-0.5) / 2 + (2**0.5 + 2**-0.5) / 2 - 1
    powers = t[:, None] ** np.arange(1, 9)
    best = least_largest(powers, np.log1p(t) / np.log(2), np.ones_like(t))
    ours = np.abs(-16 * powers @ np.array(noise._LOG2) - np.log1p(t) / np.log(2)).max()
    assert best <= ours * 1.001 and ours < 1.2 * best < 6e-8

    w = np.maximum(16 * (1 - np.cos(np.linspace(0, np.pi, 1601))), 1e-9)
    w = w[w < 31]
    x = np.sqrt(-np.expm1(-w * np.log(2)))
    tail = -ndtri(np.exp2(-w) / (1 + x) / 2)
    ratio = np.where(x < 0.5, np.sqrt(2) * erfinv(x), tail) / x
    chebyshev = np.polynomial.chebyshev.chebvander(w / 16 - 1, 15)
    best = least_largest(chebyshev, ratio, 1 / ratio)
    ours = np.abs(np.polynomial.polynomial.polyval(w / 16 - 1, noise._NORMAL) / ratio - 1).max()
    assert best <= ours * 1.001 and ours < 1.6 * best < 7e-7  # rounding the coefficients


def test_same_bits_one_by_one_vmapped_jitted_and_differentiated():
    keys = jr.split(jr.key(3), 64)

    def draw(key, step):
        return noise.normals(noise.stream(key), step, 5)

    steps = jnp.arange(64, dtype=jnp.int32)
    together = np.asarray(jax.jit(jax.vmap(draw))(keys, steps))
    alone = np.stack([draw(keys[i], i) for i in range(64)])
    jitted = np.stack([jax.jit(draw)(keys[i], steps[i]) for i in range(64)])
    _, scanned = jax.lax.scan(lambda _, x: (None, draw(*x)), None, (keys, steps))
    scaled = jax.vmap(jax.grad(lambda x, k, s: jnp.sum(x * draw(k, s))), (0, 0, 0))
    gradients = scaled(jnp.ones((64, 5)), keys, steps)
    for other in (alone, jitted, scanned, gradients):
        np.testing.assert_array_equal(np.asarray(other), together)


def test_what_else_is_drawn_changes_nothing():
    stream = noise.stream(jr.key(4))
    five = noise.normals(stream, 9, 5)
    np.testing.assert_array_equal(noise.normals(stream, 9, 3, first=2), five[2:])
    kinds = np.stack([noise.normals(stream, 9, 4096, kind=kind) for kind in (0, 1, 2)])
    assert np.abs(np.corrcoef(kinds) - np.eye(3)).max() < 4.5 / np.sqrt(4096)


# The battery -------------------------------------------------------------------------------------


def correlation(x, y):
    """The p-value of no correlation between two sets of standard numbers."""
    x, y = x.ravel(), y.ravel()
    return 2 * stats.norm.sf(abs(np.dot(x, y)) / np.sqrt(len(x)))


def shifted(x, lag):
    """All pairs `lag` = (paths, steps, components) apart; a lag may be negative."""
    here = tuple(slice(max(0, -n), x.shape[i] - max(0, n)) for i, n in enumerate(lag))
    there = tuple(slice(max(0, n), x.shape[i] - max(0, -n)) for i, n in enumerate(lag))
    return x[here], x[there]


LAGS = [(0, n, 0) for n in (1, 2, 3, 4, 8, 16)] + [(n, 0, 0) for n in (1, 2, 3, 4, 8, 16)]
LAGS += [(0, 0, 1), (0, 1, 1), (0, 1, -1), (1, 1, 0), (1, -1, 0), (1, 0, 1), (1, -1, 1), (2, -1, 0)]


def chi_square(counts, expected):
    return stats.chi2.sf(np.sum((counts - expected) ** 2 / expected), counts.size - 1)


def battery(bits):
    """p-values of the tests of `bits`: uint32 of (paths, steps, components)."""
    z = np.asarray(noise.to_normal(jnp.asarray(bits.ravel()))).reshape(bits.shape)
    z = z.astype(np.float64)
    n, flat = z.size, z.ravel()
    out = {}
    for power, mean, var in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        out[f"moment {power}"] = 2 * stats.norm.sf(
            abs(np.mean(flat**power) - mean) * np.sqrt(n / var)
        )
    out["kolmogorov smirnov"] = stats.kstest(flat, stats.norm.cdf).pvalue
    ones = np.array([np.sum(bits >> np.uint32(i) & np.uint32(1)) for i in range(32)], float)
    out["each bit"] = stats.chi2.sf(np.sum((ones - n / 2) ** 2 / (n / 4)), 32)
    for name, byte in (("high byte", bits >> np.uint32(24)), ("low byte", bits & np.uint32(255))):
        out[name] = chi_square(np.bincount(byte.ravel(), minlength=256), n / 256)
    for lag in LAGS:
        if any(abs(lag[i]) >= bits.shape[i] for i in range(3)):
            continue
        x, y = shifted(z, lag)
        out[f"lag {lag}"] = correlation(x, y)
        out[f"squares, lag {lag}"] = correlation((x**2 - 1) / 2**0.5, (y**2 - 1) / 2**0.5)
        a, b = shifted(bits, lag)
        pairs = ((a >> np.uint32(28)) << np.uint32(4) | b >> np.uint32(28)).ravel()
        out[f"high pairs, lag {lag}"] = chi_square(np.bincount(pairs, minlength=256), a.size / 256)
        pairs = ((a & np.uint32(15)) << np.uint32(4) | b & np.uint32(15)).ravel()
        out[f"low pairs, lag {lag}"] = chi_square(np.bincount(pairs, minlength=256), a.size / 256)
        weights = np.bincount(np.bitwise_count(a ^ b).ravel(), minlength=33)[6:27]
        expected = a.size * stats.binom.pmf(np.arange(6, 27), 32, 0.5)
        out[f"xor, lag {lag}"] = stats.chi2.sf(np.sum((weights - expected) ** 2 / expected), 21)
    if bits.shape[2] <= 64:  # within a step, the words of a stream never repeat, by construction
        repeats = n - len(np.unique(bits))
        mean = n * (n - 1) / 2**33
        out["repeats"] = 2 * min(
            stats.poisson.sf(repeats - 1, mean), stats.poisson.cdf(repeats, mean), 0.5
        )
    return out


def failures(p_values):
    return {name: p for name, p in p_values.items() if not p > ALPHA / len(p_values)}


@jax.jit
def ours(streams, steps, words):
    def one(stream, step):
        return noise.bits(stream, step, words)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(streams, steps)


def words(count, kind=0):
    return jnp.asarray(8 * np.arange(count) + kind, jnp.uint32)


def streams(keys):
    return jax.vmap(noise.stream)(keys)


def seeds(count, first=0):
    """Neighbouring seeds, whose keys differ in a bit or two."""
    return streams(jax.vmap(jr.key)(jnp.arange(first, first + count)))


def steps(count, first=0):
    return jnp.asarray((np.arange(count) + first).astype(np.uint32))


def folded(count):
    return streams(jax.vmap(lambda i: jr.fold_in(jr.key(7), i))(jnp.arange(count)))


CASES = {
    "neighbouring seeds": lambda: ours(seeds(1024), steps(128), words(4)),
    "folded keys": lambda: ours(folded(1024), steps(128), words(4)),
    "one long stream": lambda: ours(seeds(1), steps(2**17), words(4)),
    "one component": lambda: ours(seeds(1024), steps(512), words(1)),
    "one wide step": lambda: ours(seeds(1), steps(1), words(2**20)),
    "steps through 2^31": lambda: ours(seeds(64), steps(2048, 2**31 - 1024), words(4)),
    "steps around 2^32": lambda: ours(seeds(64), steps(2048, 2**32 - 1024), words(4)),
    "steps 2^16 apart": lambda: ours(seeds(64), steps(2048) * jnp.uint32(2**16), words(4)),
    "increments and areas": lambda: ours(seeds(512), steps(256), jnp.arange(4, dtype=jnp.uint32)),
}


@pytest.mark.parametrize("case", CASES)
def test_battery(case):
    p_values = battery(np.asarray(CASES[case]()))
    assert len(p_values) > 12
    assert not failures(p_values)


def one_round(streams, steps, words):
    """The hash with one round where it has three."""
    u = np.uint32
    x = words[None, None] * u(0x9E3779B1) + (streams[:, :1] + steps)[:, :, None]
    x = (x ^ x >> u(17)) * u(0xED5AD4BB)
    return x ^ x >> u(11)


def seed_plus_step(streams, steps, words):
    """A good hash of a counter that one seed shares with the next, one step on."""
    start = np.arange(len(streams), dtype=np.uint32)[:, None, None]
    counter = np.broadcast_to(
        start + steps[None, :, None] + words * np.uint32(2**20),
        (len(streams), len(steps), len(words)),
    )
    return np.array([python_mix(int(c)) for c in counter.ravel()], np.uint32).reshape(counter.shape)


def sixteen_bit_state(streams, steps, words):
    """Draws that keep 16 bits of state, each spread over 32 by a good hash."""
    good = np.asarray(ours(jnp.asarray(streams), jnp.asarray(steps), jnp.asarray(words)))
    table = np.array([python_mix(i) for i in range(2**16)], np.uint32)
    return table[good >> np.uint32(16)]


def no_whitening(streams, steps, words):
    """Neighbouring seeds as they are, where `stream` whitens them."""
    seeds = np.arange(1024, dtype=np.uint32)[:, None] * np.array([[0, 1]], np.uint32)
    steps = jnp.arange(256, dtype=jnp.uint32)  # it takes this many to tell
    return np.asarray(ours(jnp.asarray(seeds), steps, jnp.asarray(words)))


BAD = {
    "no whitening": no_whitening,
    "one round": one_round,
    "shared counter": seed_plus_step,
    "16 bits of state": sixteen_bit_state,
}


@pytest.mark.parametrize("name", BAD)
def test_battery_rejects(name):
    bits = BAD[name](np.asarray(seeds(256)), np.asarray(steps(64)), np.asarray(words(4)))
    assert failures(battery(bits.astype(np.uint32)))


# Paths that meet, and draws 2^32 apart -----------------------------------------------------------


def twins(first_two):
    """The number of paths that begin as another does, from their first two words."""
    together = first_two[:, 0].astype(np.uint64) << np.uint64(32) | first_two[:, 1]
    return len(together) - len(np.unique(together))


def test_half_a_million_paths_are_all_different():
    # With 32 bits a path, 32 pairs would be one path twice; with 64, none in 10^8 such runs.
    paths = ours(folded(2**19), steps(1), words(2))[:, 0]
    assert twins(np.asarray(paths)) == 0


def test_32_bit_seeds_are_caught():
    narrow = np.array(folded(2**19))
    narrow[:, 1] = 0  # leaves 32 bits a path
    paths = ours(jnp.asarray(narrow), steps(1), words(2))[:, 0]
    assert twins(np.asarray(paths)) > 5


def across(bits):
    """p-values for each pair of columns of uint32 draws (draws, columns) to be unrelated."""
    z = np.asarray(noise.to_normal(jnp.asarray(bits.ravel()))).reshape(bits.shape)
    out = {}
    for i in range(bits.shape[1]):
        for j in range(i):
            same = int(np.sum(bits[:, i] == bits[:, j]))
            out["equal", i, j] = stats.poisson.sf(same - 1, len(bits) / 2**32)
            out["values", i, j] = correlation(z[:, i], z[:, j])
            out["squares", i, j] = correlation(
                (z[:, i] ** 2 - 1) / 2**0.5, (z[:, j] ** 2 - 1) / 2**0.5
            )
    return out


def draws_apart(hash_at, components, count=2**16):
    """Draws number i + 2^k, counted through the components of a step and then the steps."""
    start = np.arange(count, dtype=np.uint64)
    offsets = [0, *(2**k for k in (16, 24, 30, 31, 32, 33))]
    columns = []
    for offset in offsets:
        number = start + np.uint64(offset)
        columns.append(hash_at(number // np.uint64(components), number % np.uint64(components)))
    return np.stack(columns, axis=1)


def test_draws_past_2_to_the_32_are_new():
    stream = noise.stream(jr.key(0))

    def hash_at(step, component):
        index = np.stack(
            [np.full_like(step, int(stream[0])), np.full_like(step, int(stream[1]))], 1
        )
        index = np.concatenate([index, step[:, None], 8 * component[:, None]], axis=1)
        return np.asarray(raw_bits(jnp.asarray(index.astype(np.uint32))))

    for components in (4, 64):
        assert not failures(across(draws_apart(hash_at, components)))

    def repeats(step, component):  # a 32-bit counter of draws, well hashed
        number = (step * np.uint64(4) + component).astype(np.uint32)
        for m, (before, after) in zip(MULTIPLIERS, ((17, 11), (0, 15), (0, 14)), strict=True):
            number = (number ^ number >> np.uint32(before) if before else number) * np.uint32(m)
            number = number ^ number >> np.uint32(after)
        return number

    assert failures(across(draws_apart(repeats, 4)))


def test_streams_are_unrelated():
    columns = ours(jnp.concatenate([seeds(12), folded(12)]), steps(2**14), words(4))
    assert not failures(across(np.asarray(columns).reshape(24, -1).T))


@pytest.mark.parametrize("inputs", ["small", "random"])
def test_avalanche(inputs):
    """Flipping any bit of the key, step or word flips each bit of the draw half of the time."""
    count = 2**13
    rng = np.random.default_rng(8)
    index = rng.integers(0, 2**32, (count, 4), dtype=np.uint32)
    if inputs == "small":
        index = np.stack([np.zeros(count), np.arange(count) % 64, np.arange(count) // 64], 1)
        index = np.concatenate([index, rng.integers(0, 64, (count, 1))], 1).astype(np.uint32)

    @jax.jit
    @jax.vmap
    def draw(index):
        return noise.bits(noise.stream(index[:2]), index[2], index[3:])[0]

    before, flips = np.asarray(draw(index)), np.empty((128, 32))
    for bit in range(128):
        changed = index.copy()
        changed[:, bit // 32] ^= np.uint32(1 << bit % 32)
        change = before ^ np.asarray(draw(changed))
        flips[bit] = [np.mean(change >> np.uint32(i) & np.uint32(1)) for i in range(32)]
    worst = np.abs(flips - 0.5).max() * 2 * np.sqrt(count)
    assert worst < stats.norm.isf(ALPHA / (2 * flips.size))
    assert np.abs(flips.sum(axis=1) - 16).max() < 0.2


# The full counts ---------------------------------------------------------------------------------

CAMPAIGN = {"paths": 2**14, "steps": 2**14, "components": 4, "chunk": 2**6}
EDGES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0)


def tally(paths, count, components, chunk):
    """Sums over `count` steps of `paths` streams, `chunk` steps at a time."""
    far = jnp.uint32(2**30)  # steps times 4 components: draws 2^32 apart

    @jax.jit
    def sums(streams, first):
        at = first + jnp.arange(chunk, dtype=jnp.uint32)
        z = noise.to_normal(ours(streams, at, words(components)).ravel())
        z = z.reshape(paths, chunk, components)
        later = noise.to_normal(ours(streams, at + far, words(components)).ravel()).reshape(z.shape)
        q = z * z - 1
        products = {
            "steps": (z[:, 1:], z[:, :-1]),
            "paths": (z[1:], z[:-1]),
            "components": (z[..., 1:], z[..., :-1]),
            "squares of steps": (q[:, 1:], q[:, :-1]),
            "squares of paths": (q[1:], q[:-1]),
            "squares of components": (q[..., 1:], q[..., :-1]),
            "2^32 draws apart": (z, later),
        }
        moments = [jnp.sum(jnp.sum(z**k, (1, 2))) for k in range(1, 7)]
        beyond = [jnp.sum(s * z > e, dtype=jnp.int32) for e in EDGES for s in (1, -1)]
        return moments, {k: jnp.vdot(a, b) for k, (a, b) in products.items()}, beyond

    keys = seeds(paths)
    chunks = [sums(keys, jnp.uint32(first)) for first in range(0, count, chunk)]
    return jax.tree.map(lambda *x: np.sum(np.array(x, np.float64)), *chunks)


def campaign(paths, steps, components, chunk):
    """p-values of 2^30 draws of neighbouring seeds."""
    n = paths * steps * components
    moments, products, beyond = tally(paths, steps, components, chunk)
    p_values = {}
    for k, total in enumerate(moments, start=1):
        mean = {1: 0, 2: 1, 3: 0, 4: 3, 5: 0, 6: 15}[k]
        var = {1: 1, 2: 3, 3: 15, 4: 105, 5: 945, 6: 10395}[k] - mean**2
        p_values[f"moment {k}"] = 2 * stats.norm.sf(abs(total - n * mean) / np.sqrt(n * var))
    pairs = {
        "steps": paths * (steps // chunk) * (chunk - 1) * components,
        "paths": (paths - 1) * steps * components,
        "components": paths * steps * (components - 1),
        "2^32 draws apart": n,
    }
    for name, total in products.items():
        count = pairs[name.removeprefix("squares of ")]
        scale = np.sqrt(count) * (2 if name.startswith("squares") else 1)
        p_values[name] = 2 * stats.norm.sf(abs(total) / scale)
    for (edge, sign), count in zip(((e, s) for e in EDGES for s in (1, -1)), beyond, strict=True):
        mean = n * stats.norm.sf(edge)
        if mean > 1000:
            p = 2 * stats.norm.sf(abs(count - mean) / np.sqrt(mean * stats.norm.cdf(edge)))
        else:
            p = 2 * min(stats.poisson.sf(count - 1, mean), stats.poisson.cdf(count, mean), 0.5)
        p_values[f"{'above' if sign > 0 else 'below'} {sign * edge}"] = p
    return n, p_values


def test_small_campaign():
    n, p_values = campaign(paths=256, steps=256, components=4, chunk=64)
    assert n == 2**18 and not failures(p_values)


@pytest.mark.campaign
def test_campaign():
    start = time.perf_counter()
    n, p_values = campaign(**CAMPAIGN)
    result = {
        "draws": n,
        "seconds": round(time.perf_counter() - start, 1),
        "alpha": ALPHA,
        "smallest p times tests": min(p_values.values()) * len(p_values),
        "failures": failures(p_values),
        "p_values": p_values,
        "jax": jax.__version__,
        **CAMPAIGN,
    }
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "2026-11-21-noise-cpu.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    assert not failures(p_values)
