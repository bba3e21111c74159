"""Where batches come from and metrics go, and the loss of what is held out."""

import json
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from made_store import made, rows_of

from dynlm import Trajectory, losses, train
from dynlm._io import BadArgument
from dynlm._precision import Lower
from dynlm.store import Batches, Windows
from dynlm.store._order import mixed, shuffled
from dynlm.train._sources import ahead
from dynlm.train._trainer import weighs

KEY = jr.key(2)
ITEMS = {"x": np.arange(37, dtype="f4"), "pair": np.arange(74, dtype="f4").reshape(37, 2)}
RUN = dict(key=KEY, steps=12, every=4, quiet=True)


def batch_of(source, step):
    payload = jax.tree.map(lambda x: jnp.asarray(x[0]), source.payload(range(step, step + 1)))
    return source.batch(jax.tree.map(jnp.asarray, source.resident), payload)


# InMemory


@pytest.mark.parametrize("size", [1, 6, 37, 100])
def test_every_item_comes_once_an_epoch_in_an_order_of_its_own(size):
    source = train.InMemory(ITEMS, size, seed=4)
    steps = -(-37 * 3 // size)
    flat = source.payload(range(steps)).reshape(-1)
    epochs = flat[: 37 * 3].reshape(3, 37)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(37))
    assert not (epochs[0] == epochs[1]).all() and not (epochs[1] == epochs[2]).all()
    other = train.InMemory(ITEMS, size, seed=5).payload(range(steps)).reshape(-1)
    assert not (other[:37] == flat[:37]).all()


def test_its_batches_are_the_items_of_their_numbers_from_any_step_on():
    source = train.InMemory(ITEMS, 6, seed=4)
    whole = source.payload(range(20))
    for cut in (range(0, 7), range(7, 8), range(8, 20)):
        np.testing.assert_array_equal(source.payload(cut), whole[cut.start : cut.stop])
    for step in (0, 6, 19):
        batch = batch_of(source, step)
        np.testing.assert_array_equal(batch["x"], ITEMS["x"][whole[step]])
        np.testing.assert_array_equal(batch["pair"], ITEMS["pair"][whole[step]])


def test_the_parts_of_several_hosts_are_the_whole_side_by_side():
    whole = train.InMemory(ITEMS, 12, seed=4).payload(range(9))
    parts = [train.InMemory(ITEMS, 12, seed=4, host=k, hosts=3) for k in range(3)]
    np.testing.assert_array_equal(np.hstack([p.payload(range(9)) for p in parts]), whole)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 1000, 70_001])
def test_its_order_is_the_one_that_stores_have(count):
    places = np.arange(count)
    numbers = train.InMemory(places, count, seed=2**63 + 5).payload(range(2))
    for epoch in range(2):
        key = int(mixed(2**63 + 5, epoch)[0])
        np.testing.assert_array_equal(numbers[epoch], shuffled(count, key, places))


@pytest.mark.parametrize(
    ("items", "settings", "sentence"),
    [
        (ITEMS, dict(size=0), "`size` is 0"),
        (ITEMS, dict(size=7, hosts=2), "`size` is 7 and there are 2 hosts"),
        (ITEMS, dict(host=2, hosts=2), "`host` is 2 and `hosts` is 2"),
        (ITEMS | {"z": np.zeros(36)}, {}, r"`items` have the first axes \[\(36,\), \(37,\)\]"),
        (np.float32(1.0), {}, r"`items` have the first axes \[\(\)\]"),
        (np.zeros((0, 2)), {}, "`items` are none"),
        (ITEMS, dict(seed=-1), "`seed` is -1"),
    ],
)
def test_what_gives_no_batches_is_refused(items, settings, sentence):
    with pytest.raises(BadArgument, match=sentence):
        train.InMemory(items, **dict(size=6, seed=0) | settings)


# Streamed


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    rows = rows_of(np.random.default_rng(1), count=20, dim=3)
    store = made(tmp_path_factory.mktemp("stores") / "store", rows).store
    return Windows(store.split("train"), 0, 5)


class Steps:
    """A linear step of the state; of a batch, the mean over the steps that are real."""

    def __call__(self, model, batch, key):
        seen = batch.mask[:, 1:, None]
        error = batch.ys[:, 1:] - batch.ys[:, :-1] @ model
        return jnp.sum(jnp.where(seen, error, 0.0) ** 2) / jnp.sum(seen, dtype=error.dtype)

    def weight(self, batch):
        return jnp.sum(batch.mask[:, 1:])


def test_windows_streamed_or_in_memory_are_the_same_training(windows):
    every = windows.gather(np.arange(len(windows)))
    held = jax.tree.map(np.asarray, every)
    memory = train.InMemory(held, 6, seed=3)
    batches = Batches(windows, 6, seed=3)
    numbers = memory.payload(range(30))
    for step in range(30):
        np.testing.assert_array_equal(numbers[step], batches.indices(step))
    trainer = train.trainer(Steps(), optax.adam(0.01))
    found = [
        train.fit(trainer, jnp.zeros((3, 3)), source, **RUN)
        for source in (memory, train.Streamed(batches, 6))
    ]
    for a, b in zip(found[0].log, found[1].log, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    np.testing.assert_allclose(found[0].model, found[1].model, rtol=1e-5)
    assert found[0].log[-1]["loss"] < found[0].log[0]["loss"]


def test_a_source_that_gives_other_sizes_than_it_says_is_told(windows):
    source = train.Streamed(Batches(windows, 6, seed=3), 8)
    trainer = train.trainer(Steps(), optax.adam(0.01))
    with pytest.raises(BadArgument, match=r"gives \(4, 6\) for 4 steps.*which is 8 of 8 items"):
        train.fit(trainer, jnp.eye(3), source, **RUN)


class Broken:
    def __init__(self, at):
        self.last, self.calls = at, []

    def at(self, step):
        self.calls.append(step)
        if step >= self.last:
            raise OSError(f"step {step} cannot be read")
        return np.full((1,), step, "f4")


def drawn(model, batch, key):
    return (model - batch[0]) ** 2


DRAWN = train.trainer(drawn, optax.sgd(0.1))


def test_an_error_of_a_source_reaches_the_caller_with_what_came_before(tmp_path):
    writer = Kept()
    run = RUN | {"folder": tmp_path, "save_seconds": 0.0, "writers": [writer]}
    model = jnp.zeros(())
    with pytest.raises(OSError, match="step 9 cannot be read"):
        train.fit(DRAWN, model, train.Streamed(Broken(9), 1), **run)
    assert [row["step"] for row in writer.rows] == [4, 8] and writer.closed == 1
    assert not prefetching()
    again = train.fit(DRAWN, model, train.Streamed(Broken(99), 1), **run)
    assert [row["step"] for row in again.log] == [4, 8, 12]
    assert [row["step"] for row in writer.rows] == [4, 8, 12]  # what was written is not again
    alone = train.fit(DRAWN, model, train.Streamed(Broken(99), 1), **RUN)
    assert alone.log == again.log and np.array_equal(alone.model, again.model)


# The thread that is ahead


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name == "dynlm-prefetch"]


def test_what_is_made_ahead_comes_in_order_and_no_more_than_two_are_waiting():
    made_ = []

    def make(steps):
        made_.append(steps.start)
        return steps.start

    chunks = [range(k, k + 1) for k in range(10)]
    with ahead(make, chunks) as payloads:
        assert next(payloads) == 0
        time.sleep(0.5)
        assert made_ == [0, 1, 2, 3]  # two wait, and one more is made
        assert list(payloads) == list(range(1, 10))
    assert not prefetching()


def test_the_thread_ends_when_its_user_leaves():
    chunks = [range(k, k + 1) for k in range(1000)]
    with pytest.raises(KeyboardInterrupt):
        with ahead(lambda steps: np.zeros(1000), chunks) as payloads:
            next(payloads)
            raise KeyboardInterrupt
    assert not prefetching()
    with ahead(lambda steps: steps, []) as payloads:
        assert list(payloads) == []
    assert not prefetching()


def test_what_fails_ahead_is_raised_in_its_turn():
    def make(steps):
        if steps.start == 2:
            raise KeyError("lost")
        return steps.start

    found = []
    with pytest.raises(KeyError, match="lost"):
        with ahead(make, [range(k, k + 1) for k in range(5)]) as payloads:
            found.extend(iter(payloads.__next__, None))
    assert not prefetching()


# Held out


def squares(model, batch, key):
    return jnp.mean((batch["x"] - model) ** 2)


class Weighted:
    def __call__(self, model, batch, key):
        real = batch["real"]
        total = jnp.sum(jnp.where(real, (batch["x"] - model) ** 2, 0.0))
        return total / jnp.sum(real, dtype=total.dtype)

    def weight(self, batch):
        return jnp.sum(batch["real"])


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("size", [1, 5, 36, 37, 50])
def test_the_held_out_loss_is_the_plain_mean(size, wide):
    """One item remains, or two, or all; some parts have nothing real in them."""
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        x = np.random.default_rng(0).normal(size=37)
        real = np.random.default_rng(1).random(37) < 0.6
        real[10:20] = False
        items = {"x": jnp.asarray(x, dtype), "real": jnp.asarray(real)}
        model = jnp.asarray(0.4, dtype)
        plain = eqx.filter_jit(train.HeldOut(squares, items, KEY, size))(model)
        np.testing.assert_allclose(plain, np.mean((x - 0.4) ** 2), rtol=1e-5)
        ragged = eqx.filter_jit(train.HeldOut(Weighted(), items, KEY, size))(model)
        np.testing.assert_allclose(ragged, np.mean((x[real] - 0.4) ** 2), rtol=1e-5)


def test_the_parts_of_what_is_held_out_have_keys_of_their_own_and_always_the_same():
    def noise(model, batch, key):
        return jr.normal(key) + 0.0 * model

    held = train.HeldOut(noise, {"x": jnp.zeros(20_000)}, KEY, 10)
    value = float(eqx.filter_jit(held)(jnp.zeros(())))
    assert abs(value) < 5 / np.sqrt(2000) and value != 0
    assert value == float(eqx.filter_jit(held)(jnp.zeros(())))


def test_one_item_that_is_left_over_joins_the_part_before_it():
    """Of a set with one path in it a distance of sets is not defined."""
    for count, expected in ((9, {4, 5}), (10, {4, 2}), (5, {5}), (1, {1})):
        sizes = set()

        def loss(model, batch, key, sizes=sizes):
            sizes.add(len(batch))
            return model * jnp.mean(batch)

        value = train.HeldOut(loss, jnp.arange(float(count)), KEY, 4)(jnp.ones(()))
        assert sizes == expected and value == pytest.approx((count - 1) / 2)


def test_losses_made_of_others_weigh_what_is_held_out_as_these_do():
    """64 zeros and 2 ones in parts of 64: their mean, by whatever the loss is wrapped in."""
    ys = jnp.concatenate([jnp.zeros(64), jnp.ones(2)])[:, None, None] * jnp.ones((66, 2, 1))
    ts = jnp.tile(jnp.arange(2.0), (66, 1))
    items = jax.vmap(Trajectory)(ts, ys, jnp.ones((66, 2), bool))

    def mean(model, paths, key):
        return jnp.mean(paths.ys)

    for wrapped in (mean, losses.weighted((1.0, mean)), Lower(mean, "bfloat16")):
        assert not weighs(wrapped)
        value = train.HeldOut(wrapped, items, KEY, 64)(None)
        np.testing.assert_allclose(value, 2 / 66, rtol=1e-6)
    counted = losses.each(lambda model, path: path.ts[0])
    assert weighs(losses.weighted((1.0, mean), (1.0, counted))) and weighs(Lower(counted, "f"))


def test_held_out_parts_of_nothing_are_refused():
    with pytest.raises(BadArgument, match="`size` is 0, and `items` has 1 arrays"):
        train.HeldOut(squares, {"x": jnp.zeros(3)}, KEY, 0)


# Writers


class Kept:
    """A writer: two methods, and nothing else."""

    def __init__(self):
        self.rows, self.closed = [], 0

    def write(self, metrics):
        self.rows.append(metrics)

    def close(self):
        self.closed += 1


class Failing(Kept):
    def write(self, metrics):
        super().write(metrics)
        if metrics["step"] == 8:
            raise RuntimeError("the service is down")


def test_writers_get_the_rows_in_order_and_are_closed(tmp_path):
    one, two = Kept(), Kept()
    assert isinstance(one, train.Writer)
    source = train.Streamed(Broken(99), 1)
    found = train.fit(DRAWN, jnp.zeros(()), source, folder=tmp_path, writers=[one, two], **RUN)
    assert one.rows == two.rows == found.log and one.closed == two.closed == 1
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found.log


def test_writers_are_closed_where_one_of_them_fails():
    one, two = Failing(), Kept()
    with pytest.raises(RuntimeError, match="the service is down"):
        source = train.Streamed(Broken(99), 1)
        train.fit(DRAWN, jnp.zeros(()), source, writers=[one, two], **RUN)
    assert one.closed == two.closed == 1 and [row["step"] for row in two.rows] == [4]
    assert not prefetching()


def test_lines_of_metrics_are_json_and_begin_with_what_was_there(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = train.JsonLines(path)
    writer.write({"step": 1, "loss": float("nan"), "per": [1.5, float("inf")]})
    writer.write({"step": np.int64(2), "loss": jnp.float32(0.5), "of": {"ü": np.arange(2)}})
    writer.close()
    lines = path.read_text().splitlines()
    assert lines[0] == '{"step": 1, "loss": null, "per": [1.5, null]}'
    assert json.loads(lines[1]) == {"step": 2, "loss": 0.5, "of": {"ü": [0, 1]}}
    again = train.JsonLines(path, [{"step": 1}])
    again.write({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    again.close()


def test_rows_that_cannot_be_written_are_kept_and_tried_again(tmp_path, monkeypatch):
    """Of the third, half is written before the disk is full."""
    from dynlm.train import _metrics

    path, whole = tmp_path / "metrics.jsonl", _metrics.write_all
    writer = train.JsonLines(path)
    writer.write({"step": 1})

    def full(descriptor, data):
        whole(descriptor, bytes(data)[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_metrics, "write_all", full)
    with pytest.warns(UserWarning, match="No space left on device.*The rows are kept") as told:
        writer.write({"step": 2})
        writer.write({"step": 3})
    assert len(told) == 1
    monkeypatch.setattr(_metrics, "write_all", whole)
    writer.write({"step": 4})
    writer.close()
    assert path.read_text() == "".join(f'{{"step": {k}}}\n' for k in range(1, 5))
