"""The step of training and the loop around it, against steps taken by hand."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array

from dynlm import train
from dynlm._io import BadArgument

RNG = np.random.default_rng(8)
X = RNG.normal(size=(37, 2)).astype(np.float32)
ITEMS = {"x": X, "y": (X @ np.array([1.5, -0.5]) + 0.3 + 0.1 * RNG.normal(size=37)).astype("f4")}
KEY = jr.key(3)


class Plane(eqx.Module):
    """What is learned, and two leaves that are not."""

    slope: Array
    offset: Array
    visits: Array
    shape: Callable

    def __call__(self, x):
        return self.shape(x) @ self.slope + self.offset


def plane(key=None, visits=7):
    slope = jnp.zeros(2) if key is None else jr.normal(key, (2,))
    # A weak dtype, as a number given by hand has.
    return Plane(slope, jnp.asarray(0.0), jnp.asarray(visits), lambda x: x)


MODEL = plane()


def loss(model, batch, key):
    del key
    return jnp.mean((jax.vmap(model)(batch["x"]) - batch["y"]) ** 2)


def noisy(model, batch, key):
    return loss(model, batch, key) + 0.1 * jr.normal(key) * model.offset


class Ragged:
    """The mean over the real ones of a batch; of none, NaN."""

    def __call__(self, model, batch, key):
        real = batch["real"]
        error = jnp.where(real, (jax.vmap(model)(batch["x"]) - batch["y"]) ** 2, 0.0)
        return jnp.sum(error) / jnp.sum(real, dtype=error.dtype)

    def weight(self, batch):
        return jnp.sum(batch["real"])


ADAM = optax.adam(0.05)
TRAINER = train.trainer(noisy, ADAM, average=0.9)
SOURCE = train.InMemory(ITEMS, 6, seed=5)
RUN = dict(key=KEY, steps=50, every=10, quiet=True)
HELD_OUT = train.HeldOut(loss, ITEMS, KEY, 10)


def part(start, stop):
    return {name: jnp.asarray(x[start:stop]) for name, x in ITEMS.items()}


def params(tree):
    return eqx.filter(tree, eqx.is_inexact_array)


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def same(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def close(a, b, rtol=1e-5):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)


def slope_by_hand(theta, batch):
    """Loss and its derivative in slope and offset, in numpy."""
    x, y = np.asarray(batch["x"], float), np.asarray(batch["y"], float)
    error = x @ theta[:2] + theta[2] - y
    down = np.r_[2 * x.T @ error, 2 * error.sum()] / len(y)
    return np.mean(error**2), down


def flat(model):
    return np.r_[np.asarray(model.slope), np.asarray(model.offset)]


# The step


def test_a_step_is_the_one_of_the_optimiser_by_hand():
    """Gradient descent with momentum, clipping and a schedule, written out in numpy."""
    rates = [0.3, 0.2, 0.1, 0.05]
    schedule = lambda count: jnp.asarray(rates)[count]  # noqa: E731
    chain = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(schedule, momentum=0.9))
    trainer = train.trainer(loss, chain)
    state, theta, moment = trainer.init(MODEL), np.zeros(3), np.zeros(3)
    step = eqx.filter_jit(trainer.step)
    for k, rate in enumerate(rates):
        batch = part(5 * k, 5 * k + 5)
        state, info = step(state, batch, KEY)
        value, down = slope_by_hand(theta, batch)
        np.testing.assert_allclose(info.loss, value, rtol=1e-4)
        np.testing.assert_allclose(info.gradient, np.linalg.norm(down), rtol=1e-4)
        moment = 0.9 * moment + down * min(1.0, 0.5 / np.linalg.norm(down))
        theta = theta - rate * moment
        np.testing.assert_allclose(flat(state.model), theta, rtol=1e-4, atol=1e-6)
        assert bool(info.sound) and int(state.step) == k + 1
    assert int(state.model.visits) == 7 and state.model.shape is MODEL.shape


def test_parts_of_a_batch_make_the_step_of_the_whole():
    whole, parts = (train.trainer(loss, ADAM, accumulate=n) for n in (1, 4))
    batch = part(0, 8)
    (a, shown), (b, parted) = (t.step(t.init(MODEL), batch, KEY) for t in (whole, parts))
    close(a, b)
    close(shown, parted)
    with pytest.raises(ValueError, match="`accumulate` is 4, and a batch has 6 items"):
        parts.step(parts.init(MODEL), part(0, 6), KEY)


@pytest.mark.parametrize("wide", [False, True])
def test_parts_of_unequal_weight_make_the_step_of_the_whole(wide):
    """One of them has nothing real in it, and a loss of 0 / 0."""
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        model = eqx.tree_at(lambda m: (m.slope, m.offset), MODEL, (jnp.ones(2), jnp.zeros(())))
        real = jnp.array([1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1], bool)
        batch = {name: jnp.asarray(x[:12], dtype) for name, x in ITEMS.items()} | {"real": real}
        whole, parts = (train.trainer(Ragged(), optax.sgd(0.1), accumulate=n) for n in (1, 4))
        assert not real.reshape(3, 4)[:, 1].any()
        (a, shown), (b, parted) = (t.step(t.init(model), batch, KEY) for t in (whole, parts))
        close(a, b)
        close(shown, parted)
        assert b.model.slope.dtype == dtype


def test_the_average_follows_its_recursion():
    trainer = train.trainer(loss, optax.sgd(0.1), average=0.5)
    state, mean = trainer.init(MODEL), np.zeros(3)
    for k in range(12):
        state, _ = trainer.step(state, part(k, k + 9), KEY)
        decay = min(0.5, (1 + k) / (10 + k))
        mean = decay * mean + (1 - decay) * flat(state.model)
        np.testing.assert_allclose(flat(state.smooth), mean, rtol=1e-5)
    assert int(state.smooth.visits) == 7 and not np.allclose(mean, flat(state.model))


def test_lower_precision_inside_the_loss_leaves_the_trained_parameters_alone():
    seen = []

    def low(model, batch, key):
        seen.append((model.slope.dtype, model.visits.dtype))
        return loss(model, jax.tree.map(lambda x: x.astype(jnp.bfloat16), batch), key)

    for accumulate in (1, 2):
        trainer = train.trainer(low, optax.sgd(1e-4), accumulate=accumulate, dtype=jnp.bfloat16)
        state = trainer.init(eqx.tree_at(lambda m: m.offset, MODEL, jnp.float32(10.0)))
        first, offsets = state, []
        for _ in range(5):
            state, info = trainer.step(state, part(0, 8), KEY)
            offsets.append(float(state.model.offset))
        assert state.model.slope.dtype == info.loss.dtype == jnp.float32
        # Each change is below what bfloat16 resolves near 10.
        value, down = slope_by_hand(flat(first.model), part(0, 8))
        np.testing.assert_allclose(10 - np.array(offsets), 1e-4 * down[2] * np.r_[1:6], rtol=0.02)
        np.testing.assert_allclose(info.loss, value, rtol=0.02)
    assert {*seen} == {(jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.int32))}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_is_not_finite_changes_only_the_count(accumulate):
    trainer = train.trainer(noisy, ADAM, average=0.9, accumulate=accumulate)
    state, _ = trainer.step(trainer.init(MODEL), part(0, 6), KEY)
    batch = part(6, 12)
    for bad in (jnp.nan, jnp.inf, 1e30):  # the square of the last is infinite
        after, info = trainer.step(state, batch | {"y": batch["y"].at[2].set(bad)}, KEY)
        assert not info.sound and int(after.step) == int(state.step) + 1
        same(eqx.tree_at(lambda s: s.step, after, state.step), state)
    assert trainer.step(state, batch, KEY)[1].sound


def test_a_change_that_is_not_finite_is_not_made():
    trainer = train.trainer(loss, optax.sgd(float("inf")))
    state = trainer.init(MODEL)
    after, info = trainer.step(state, part(0, 6), KEY)
    assert np.isfinite(info.loss) and np.isfinite(info.gradient) and not info.sound
    same(eqx.tree_at(lambda s: s.step, after, state.step), state)


def test_several_models_under_vmap_are_several_runs():
    models = [plane(key) for key in jr.split(KEY, 3)]
    keys = jr.split(jr.key(9), 3)
    alone = []
    for model, key in zip(models, keys):
        state = TRAINER.init(model)
        for k in range(4):
            state, info = TRAINER.step(state, part(k, k + 6), jr.fold_in(key, k))
        alone.append((params(state), info))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(params, models))
    step = eqx.filter_vmap(TRAINER.step, in_axes=(eqx.if_array(0), None, 0))
    init = lambda p: TRAINER.init(eqx.combine(p, MODEL))  # noqa: E731
    state = eqx.filter_vmap(init, out_axes=eqx.if_array(0))(stacked)
    for k in range(4):
        state, info = step(state, part(k, k + 6), jax.vmap(jr.fold_in, (0, None))(keys, k))
    close((params(state), info), jax.tree.map(lambda *x: jnp.stack(x), *alone))


def test_bad_trainers_are_refused():
    with pytest.raises(ValueError, match="`accumulate` is 0. Use 1 or more"):
        train.trainer(loss, ADAM, accumulate=0)
    with pytest.raises(ValueError, match="`average` is 1.0. Use a decay"):
        train.trainer(loss, ADAM, average=1.0)
    with pytest.raises(ValueError, match="`model` has no floating-point arrays"):
        TRAINER.init({"count": jnp.arange(3), "rate": 0.5})


# The loop


def by_hand(trainer, model, steps, source=SOURCE, key=KEY):
    """The loop as anyone would write it, and what each step shows."""
    state, step, shown = trainer.init(model), eqx.filter_jit(trainer.step), []
    for k in range(steps):
        payload = jax.tree.map(lambda x: jnp.asarray(x[0]), source.payload(range(k, k + 1)))
        resident = jax.tree.map(jnp.asarray, source.resident)
        batch = source.batch(resident, payload)
        state, info = step(state, batch, jr.fold_in(key, k))
        shown.append(info)
    return state, jax.tree.map(lambda *x: np.stack(x), *shown)


@pytest.fixture(scope="module")
def whole():
    return train.fit(TRAINER, MODEL, SOURCE, evaluate=HELD_OUT, **RUN)


def test_fit_is_a_plain_loop_over_the_step(whole):
    state, info = by_hand(TRAINER, MODEL, 50)
    close(whole.model, state.smooth)
    assert whole.ended == "steps" and [row["step"] for row in whole.log] == [10, 20, 30, 40, 50]
    np.testing.assert_allclose(
        [row["loss"] for row in whole.log], info.loss.reshape(5, 10).mean(1), rtol=1e-4
    )
    np.testing.assert_allclose(
        [row["gradient"] for row in whole.log], info.gradient.reshape(5, 10).mean(1), rtol=1e-4
    )
    assert all(row["rate"] == 1 and row["returns"] == row["skipped"] == 0 for row in whole.log)
    np.testing.assert_allclose(flat(whole.model), [1.5, -0.5, 0.3], atol=0.3)
    assert int(whole.model.visits) == 7
    assert not MODEL.slope.is_deleted() and not MODEL.slope.any()  # the caller's own is left


def test_how_many_steps_a_call_makes_changes_nothing(whole):
    for chunk in (1, 5, 7, 50):
        other = train.fit(TRAINER, MODEL, SOURCE, evaluate=HELD_OUT, chunk=chunk, **RUN)
        close(other.model, whole.model, rtol=1e-6)
        assert [row["step"] for row in other.log] == [10, 20, 30, 40, 50]
        for a, b in zip(other.log, whole.log):
            np.testing.assert_allclose(a["held_out"], b["held_out"], rtol=1e-5)


def test_a_run_of_odd_length_ends_with_a_row_of_its_own(whole):
    short = train.fit(TRAINER, MODEL, SOURCE, evaluate=HELD_OUT, **RUN | {"steps": 23})
    assert [row["step"] for row in short.log] == [10, 20, 23]
    close(short.model, by_hand(TRAINER, MODEL, 23)[0].smooth)
    less = train.fit(TRAINER, MODEL, SOURCE, **RUN | {"steps": 4, "every": 500})
    assert [row["step"] for row in less.log] == [4] and "held_out" not in less.log[0]
    assert less.best is less.model


def test_nothing_is_compiled_twice():
    traces = []

    def counted(model, batch, key):
        traces.append(1)
        return loss(model, batch, key)

    trainer = train.trainer(counted, ADAM)
    run = RUN | {"evaluate": train.HeldOut(loss, ITEMS, KEY, 10)}
    train.fit(trainer, MODEL, SOURCE, **run | {"steps": 10})
    once = len(traces)
    assert once == 1
    train.fit(trainer, MODEL, SOURCE, **run)
    train.fit(trainer, MODEL, train.InMemory(ITEMS, 6, seed=9), **run)
    assert len(traces) == once


def test_several_seeds_are_several_runs():
    keys = jr.split(KEY)
    run = RUN | {"evaluate": HELD_OUT}
    all_ = train.fit(TRAINER, plane, SOURCE, seeds=3, **run)
    for k in range(3):
        model, noise = plane(jr.split(keys[0], 3)[k]), jr.split(keys[1], 3)[k]
        alone = train.fit(TRAINER, model, SOURCE, **run | {"key": noise})
        for name in ("loss", "held_out", "best_step", "gradient"):
            found = [row[name][k] for row in all_.log]
            np.testing.assert_allclose(found, [row[name] for row in alone.log], rtol=1e-4)
        for a, b in ((all_.model, alone.model), (all_.best, alone.best)):
            close([x[k] for x in leaves(params(a))], leaves(params(b)), 1e-4)


def away(model):
    """A held-out loss that is least on the way, and not at the end."""
    return jnp.sum((model.slope - jnp.array([0.75, -0.25])) ** 2)


def test_it_stops_early_and_keeps_the_best():
    plain = train.trainer(loss, optax.sgd(0.05))
    run = RUN | {"steps": 200, "every": 2, "evaluate": away}
    state, step, values = plain.init(MODEL), eqx.filter_jit(plain.step), []
    models = []
    for k in range(200):
        (numbers,) = SOURCE.payload(range(k, k + 1))
        state, _ = step(state, {name: jnp.asarray(x[numbers]) for name, x in ITEMS.items()}, KEY)
        if k % 2:
            values.append(float(away(state.model)))
            models.append(state.model)
    stops = next(k for k in range(100) if k - int(np.argmin(values[: k + 1])) >= 3)
    best = int(np.argmin(values[: stops + 1]))
    assert 0 < best < stops < 60
    found = train.fit(plain, MODEL, SOURCE, patience=6, **run)
    assert found.ended == "patience" and found.log[-1]["step"] == 2 * (stops + 1)
    assert found.log[-1]["best_step"] == 2 * (best + 1)
    close(found.best, models[best])
    close(found.model, models[stops])
    np.testing.assert_allclose(away(found.best), min(row["held_out"] for row in found.log))


def test_with_several_seeds_it_stops_when_none_gets_better():
    plain = train.trainer(loss, optax.sgd(0.05))
    run = RUN | {"steps": 200, "every": 2, "evaluate": away, "patience": 6}
    all_ = train.fit(plain, plane, SOURCE, seeds=3, **run)
    model_keys = jr.split(jr.split(KEY)[0], 3)
    alone = [train.fit(plain, plane(key), SOURCE, **run) for key in model_keys]
    assert all_.ended == "patience"
    assert all_.log[-1]["step"] >= max(one.log[-1]["step"] for one in alone)
    assert max(all_.log[-1]["best_step"]) + 6 == all_.log[-1]["step"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(steps=0), "`steps` is 0. Use a whole number, 1 or more"),
        (dict(every=2.5), "`every` is 2.5. Use a whole number"),
        (dict(chunk=0), "`chunk` is 0"),
        (dict(seeds=True), "`seeds` is True"),
        (dict(patience=3), "`patience` needs a held-out loss. Pass `evaluate`"),
        (dict(seeds=2), "`seeds` needs a callable of a key as `model`"),
        (dict(save_seconds=float("nan")), "`save_seconds` is nan. Use 0 or more"),
        (dict(guard=train.Guard(patience=0)), "Use patience >= 1, 0 < factor <= 1, most >= 0"),
        (dict(mesh=jax.make_mesh((1,), ("paths",))), "It needs one called 'data'"),
    ],
)
def test_what_cannot_be_done_is_refused(unchecked, settings, sentence):
    with pytest.raises(BadArgument, match=sentence):
        train.fit(TRAINER, MODEL, SOURCE, **RUN | settings)


def test_a_mesh_whose_operations_would_have_to_say_how_they_split_is_taken_too(whole):
    mesh = jax.make_mesh((1,), ("data",))
    found = train.fit(TRAINER, MODEL, SOURCE, mesh=mesh, evaluate=HELD_OUT, **RUN)
    close(found.model, whole.model)


def test_one_poisoned_batch_is_skipped_and_nothing_else():
    y = ITEMS["y"].copy()
    y[11] = np.nan
    poisoned = train.InMemory(ITEMS | {"y": y}, 6, seed=5)
    plain = train.trainer(loss, optax.sgd(0.05))
    with pytest.warns(UserWarning, match=r"1 step from step \d+ on had a loss, gradient or change"):
        found = train.fit(plain, MODEL, poisoned, **RUN | {"steps": 6, "every": 6})
    theta, losses = np.zeros(3), []
    for numbers in poisoned.payload(range(6)):
        if 11 not in numbers:
            value, down = slope_by_hand(theta, {name: x[numbers] for name, x in ITEMS.items()})
            theta, losses = theta - 0.05 * down, [*losses, value]
    assert len(losses) == 5 and found.log[-1]["skipped"] == 1
    np.testing.assert_allclose(flat(found.model), theta, rtol=1e-4)
    np.testing.assert_allclose(found.log[-1]["loss"], np.mean(losses), rtol=1e-4)
