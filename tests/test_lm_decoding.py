"""Choosing tokens, against sorted lists in numpy and the frequencies that were asked for."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from dynlm import lm

VOCAB = 600  # not a multiple of the blocks that `draw` adds up


@pytest.fixture
def logits():
    return jnp.asarray(3 * np.random.default_rng(0).normal(size=VOCAB), jnp.float32)


def kept(logits) -> set[int]:
    return set(np.flatnonzero(np.isfinite(np.asarray(logits))).tolist())


def likeliest(logits, count) -> set[int]:
    return set(np.argsort(-np.asarray(logits), kind="stable")[:count].tolist())


@pytest.mark.parametrize("k", [1, 2, 37, VOCAB - 1, VOCAB, 10 * VOCAB])
def test_top_k_keeps_the_largest(logits, k):
    assert kept(lm.top_k(logits, k)) == likeliest(logits, k)


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_fewest_that_reach_p(logits, p):
    probs = np.sort(np.exp(np.asarray(jax.nn.log_softmax(logits), np.float64)))[::-1]
    count = int(np.searchsorted(np.cumsum(probs), p)) + 1
    assert kept(lm.top_p(logits, p)) == likeliest(logits, count)


def test_top_p_of_one_keeps_all_and_equal_tokens_stay_together(logits):
    steep = jnp.asarray([0.0, -18.0, -25.0])  # in float32 the first has all the probability
    assert len(kept(lm.top_p(steep, 1.0))) == 3
    assert len(kept(lm.top_p(logits, 1.0))) == VOCAB
    flat = jnp.asarray([1.0, 1.0, 1.0, 0.0, -jnp.inf])
    assert kept(lm.top_p(flat, 0.2)) == kept(lm.top_k(flat, 1)) == {0, 1, 2}


def test_negative_and_zero_logits_keep_their_order():
    x = jnp.asarray([-1.0, -0.5, -3.0, 0.0, -jnp.inf, 1e-30, -1e30])
    for k in range(1, 7):
        assert kept(lm.top_k(x, k)) == likeliest(x, k)


@pytest.mark.parametrize("p", [0.0, 0.01, 0.5, 1.0])
def test_min_p_is_relative_to_the_likeliest(logits, p):
    probs = np.asarray(jax.nn.softmax(logits))
    assert kept(lm.min_p(logits, p)) == set(np.flatnonzero(probs >= p * probs.max()).tolist())


def test_repetition_penalty_makes_what_was_seen_less_likely(logits):
    seen = np.arange(VOCAB) % 3 == 0
    x = np.asarray(logits)
    want = np.where(seen, np.where(x > 0, x / 1.3, x * 1.3), x)
    np.testing.assert_allclose(lm.repetition_penalty(logits, jnp.asarray(seen), 1.3), want, 1e-6)


def test_temperature_divides_and_zero_is_greedy(logits):
    np.testing.assert_allclose(lm.temperature(logits, 0.7), np.asarray(logits) / 0.7, 1e-6)
    assert kept(lm.temperature(logits, 0.0)) == likeliest(logits, 1)
    assert kept(lm.greedy(jnp.asarray([0.0, 2.0, 2.0]))) == {1}  # the first of equals


def test_decoding_is_the_chain_of_its_parts(logits):
    seen = jnp.arange(VOCAB) % 2 == 0
    made = lm.Decoding(0.8, top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.2)(logits, seen)
    x = lm.temperature(lm.repetition_penalty(logits, seen, 1.2), 0.8)
    np.testing.assert_array_equal(made, lm.min_p(lm.top_p(lm.top_k(x, 50), 0.9), 0.02))
    np.testing.assert_array_equal(lm.Decoding()(logits, seen), logits)


def test_draw_inverts_the_distribution_function(logits):
    """Against a search in sums of float64; only uniforms next to a border may fall either way."""
    probs = np.exp(np.asarray(logits, np.float64) - float(jnp.max(logits)))
    ends = np.cumsum(probs) / probs.sum()
    us = np.random.default_rng(1).uniform(size=4000).astype(np.float32)
    drawn = np.asarray(jax.vmap(lm.draw, in_axes=(None, 0))(logits, jnp.asarray(us)))
    near = np.min(np.abs(us[:, None] - ends[None]), axis=1) < 1e-5
    assert near.mean() < 0.05
    np.testing.assert_array_equal(drawn[~near], np.searchsorted(ends, us[~near]))


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2.0**-24])
def test_draw_never_takes_what_was_refused(u):
    for allowed in ([0], [255], [256], [VOCAB - 1], [3, 400]):
        x = jnp.full(VOCAB, -jnp.inf).at[jnp.asarray(allowed)].set(5.0)
        assert int(lm.draw(x, jnp.float32(u))) in allowed


def test_draw_does_not_depend_on_how_sums_are_made(monkeypatch):
    """On some devices they are made as a tree, where equal sums may differ by rounding."""
    monkeypatch.setattr(jnp, "cumsum", lambda x: jax.lax.associative_scan(jnp.add, x))
    x = jnp.asarray(np.random.default_rng(4).normal(size=VOCAB), jnp.float32)
    x = jnp.where(np.random.default_rng(5).uniform(size=VOCAB) < 0.7, -jnp.inf, x)
    us = jnp.arange(0.0, 1.0, 2.0**-12)
    drawn = jax.jit(jax.vmap(lm.draw, in_axes=(None, 0)))(x, us)
    assert np.isfinite(np.asarray(x)[np.asarray(drawn)]).all()


def test_draws_have_the_frequencies_asked_for():
    x = jnp.asarray([0.0, 1.0, -1.0, 2.0, -jnp.inf, 0.5])
    us = jr.uniform(jr.key(3), (20_000,))
    count = np.bincount(jax.vmap(lm.draw, in_axes=(None, 0))(x, us), minlength=6)
    probs = np.asarray(jax.nn.softmax(x), np.float64)
    assert count[4] == 0
    wanted = 20_000 * np.delete(probs, 4) / probs.sum()
    assert stats.chisquare(np.delete(count, 4), wanted).pvalue > 1e-3
    tilted = 20_000 * np.asarray(jax.nn.softmax(0.9 * np.delete(np.asarray(x), 4)), np.float64)
    tilted *= 20_000 / tilted.sum()
    assert stats.chisquare(np.delete(count, 4), tilted).pvalue < 1e-3  # it would notice


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(temperature=-1.0), "`temperature` is -1.0. Use 0, which is greedy, or more."),
        (dict(top_k=0), "`top_k` is 0. At least one token"),
        (dict(top_p=0.0), "`top_p` is 0.0. Use a share above 0"),
        (dict(top_p=1.5), "`top_p` is 1.5"),
        (dict(min_p=-0.1), "`min_p` is -0.1"),
        (dict(repetition_penalty=0.0), "`repetition_penalty` is 0.0"),
        (dict(temperature=float("nan")), "`temperature` is nan"),
        (dict(top_k=np.array([1, 2, 3])), "`top_k` has shape (3,) and there are 2 rows"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ValueError) as caught:
        lm.Decoding(**settings).for_rows(2)
    assert words in str(caught.value)
