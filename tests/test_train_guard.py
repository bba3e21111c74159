"""What is done about losses that are not finite, against the same rule written out by hand."""

import warnings

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from dynlm import train

KEY = jr.key(3)


class Given:
    """A batch a step, as they are listed."""

    def __init__(self, batches):
        self.batches = batches

    def at(self, step):
        return self.batches[step]


def pulled(model, batch, key):
    """A parabola around 3 whose slope is the batch; NaN comes of NaN."""
    return batch[0] * (model["s"] - 3.0) ** 2


def guarded(bad, steps, chunk, guard, rate=0.1, every=None):
    """A run whose batches are not finite at the steps `bad`."""
    batches = np.where(np.isin(np.arange(steps), bad), np.nan, 1.0).astype("f4")[:, None]
    source = train.Streamed(Given(batches), 1)
    trainer = train.trainer(pulled, optax.sgd(rate))
    settings = dict(key=KEY, steps=steps, every=every or steps, chunk=chunk, guard=guard)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = train.fit(trainer, {"s": jnp.zeros(())}, source, quiet=True, **settings)
    return found, [str(one.message) for one in told]


def guard_by_hand(bad, steps, chunk, guard, rate=0.1):
    """What the guard should do, step by step: last state, rate, returns."""
    s = good = 0.0
    factor, returns, row = 1.0, 0, 0
    for start in range(0, steps, chunk):
        begun = s
        for k in range(start, min(start + chunk, steps)):
            if k in bad:
                row += 1
            else:
                row, s = 0, s - rate * factor * 2 * (s - 3)
        if row == 0:
            good = begun
        if row >= guard.patience:
            s, factor, returns, row = good, factor * guard.factor, returns + 1, 0
    return s, factor, returns


PATTERNS = {
    "none": [],
    "one": [7],
    "a chunk begins with bad steps": [5, 6, 10, 11, 12],
    "one in every chunk, then many": [2, 7, 12, 17, *range(21, 27)],
    "the first steps": [0, 1, 2, 3],
    "many in a row": [*range(6, 18)],
    "all but the last of a chunk": [*range(10, 14), *range(15, 19), 20, 21, 22, 23],
}


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_guard_goes_back_to_the_last_good_state(chunk):
    """Chunks shorter and longer than its patience."""
    guard = train.Guard(patience=3, factor=0.5, most=9)
    for name, bad in PATTERNS.items():
        found, told = guarded(bad, 30, chunk, guard)
        s, factor, returns = guard_by_hand(bad, 30, chunk, guard)
        np.testing.assert_allclose(found.model["s"], s, rtol=1e-5, err_msg=name)
        row = found.log[-1]
        assert (row["rate"], row["returns"], row["skipped"]) == (factor, returns, len(bad)), name
        assert any("from step" in text for text in told) == bool(bad)
        assert sum("went back to the last good state" in text for text in told) == returns
        assert (returns > 0) == any(f"{factor:.3g} of the rate" in text for text in told)
    assert guard_by_hand(PATTERNS["one in every chunk, then many"], 30, 5, guard)[0] > 1.0


def test_a_state_is_good_although_each_chunk_has_a_bad_step():
    """Else one bad item in a hundred would send a long run back to its very beginning."""
    bad = [*range(4, 90, 10), *range(90, 96)]
    found, _ = guarded(bad, 96, 10, train.Guard(patience=5))
    assert found.log[-1]["returns"] == 1 and found.model["s"] > 2.99


def test_a_step_too_long_is_taken_again_with_half_the_rate():
    """Beyond 4 there is no loss: from 0 the first step lands there, and half of it does not."""

    def walled(model, batch, key):
        del batch, key
        return jnp.where(model["s"] < 4, (model["s"] - 3) ** 2, jnp.nan)

    source = train.Streamed(Given(np.zeros((40, 1), "f4")), 1)
    trainer = train.trainer(walled, optax.sgd(0.8))
    run = dict(key=KEY, steps=40, every=40, quiet=True)
    for chunk, patience in ((1, 3), (20, 3), (2, 3)):
        guard = train.Guard(patience=patience, most=2)
        with pytest.warns(UserWarning, match="0.5 of the rate|did not change the model"):
            found = train.fit(
                trainer, {"s": jnp.zeros(())}, source, chunk=chunk, guard=guard, **run
            )
        np.testing.assert_allclose(found.model["s"], 3.0, atol=1e-3)
        assert found.log[-1]["returns"] == 1 and found.log[-1]["rate"] == 0.5


def test_it_gives_up_with_a_sentence_and_early():
    calls = []

    class Watched(Given):
        def at(self, step):
            calls.append(step)
            return super().at(step)

    batches = np.full((10_000, 1), np.nan, "f4")
    trainer = train.trainer(pulled, optax.sgd(0.1))
    run = dict(key=KEY, steps=10_000, every=10_000, chunk=5, quiet=True)
    guard = train.Guard(patience=4, most=2)
    with pytest.raises(FloatingPointError, match="went back to a good state 3 times.*Lower the"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = train.Streamed(Watched(batches), 1)
            train.fit(trainer, {"s": jnp.zeros(())}, source, guard=guard, **run)
    assert max(calls) < 50


def test_one_seed_that_fails_does_not_end_the_others():
    def made(key):
        return {"s": jnp.where(jr.uniform(key) < threshold, jnp.nan, 0.0)}

    drawn = [float(jr.uniform(key)) for key in jr.split(jr.split(KEY)[0], 3)]
    threshold, fails = min(drawn) + 1e-6, int(np.argmin(drawn))
    source = train.Streamed(Given(np.ones((60, 1), "f4")), 1)
    trainer = train.trainer(pulled, optax.sgd(0.1))
    run = dict(key=KEY, steps=60, every=20, chunk=5, quiet=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = train.fit(
            trainer, made, source, seeds=3, guard=train.Guard(patience=2, most=1), **run
        )
    told = [str(one.message) for one in told]
    assert any(f"Losses of seed [{fails}] stayed not finite up to step 5" in text for text in told)
    s, others = np.asarray(found.model["s"]), np.arange(3) != fails
    assert np.isnan(s[fails]) and np.allclose(s[others], 3.0, atol=1e-3)
    assert found.log[-1]["skipped"] == np.where(others, 0, 20).tolist()
