"""Training from scratch: what it learns; that killing, splitting and stacking change nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynlm import lm
from dynlm.lm import pretrain

CONFIG = lm.llama(vocab=24, width=16, depth=2, heads=2, kv_heads=1, hidden=24, context=32)
TEXT = np.tile(np.r_[1:24, 1:24:2], 40)  # each token but a few tells the next one
LOOP = dict(steps=24, batch=4, window=16, start=0, every=8, quiet=True)


@pytest.fixture(scope="module")
def trainer():
    return pretrain.trainer(CONFIG, optax.adam(1e-2))


@pytest.fixture(scope="module")
def whole(trainer):
    return pretrain.fit(trainer, TEXT, key=jax.random.key(0), held_out=TEXT[:50], **LOOP)


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_the_loss_is_the_mean_surprise_of_the_next_token(trainer):
    model = trainer.init(jax.random.key(1)).model
    batch = pretrain.batch_at(TEXT, 0, batch=4, window=16, seed=0, start=0)
    total = []
    for row in batch:
        positions = jnp.arange(16, dtype=jnp.int32)[None]
        logits = model.unembed(model(jnp.asarray(row[None, :-1]), positions).final)[0]
        logp = np.asarray(logits, np.float64)
        logp = logp - np.log(np.exp(logp).sum(axis=1, keepdims=True))
        total += [-logp[k, row[k + 1]] for k in range(16)]
    got = pretrain.nats_per_token(model, jnp.asarray(batch))
    np.testing.assert_allclose(got, np.mean(total), rtol=1e-5)


def test_it_learns(whole):
    state, log = whole
    assert [entry["step"] for entry in log] == [8, 16, 24]
    assert log[-1]["held_out_nats"] < log[0]["held_out_nats"] - 0.3
    nats = pretrain.held_out_nats(state.model, TEXT[:50], window=16, start=0)
    assert nats.shape == (50,)
    np.testing.assert_allclose(nats.mean(), log[-1]["held_out_nats"], rtol=1e-6)


def test_held_out_text_is_read_in_windows_that_begin_anew(whole):
    model = whole[0].model
    nats = pretrain.held_out_nats(model, TEXT[:40], window=16, start=0)
    alone = pretrain.held_out_nats(model, TEXT[16:32], window=16, start=0)
    np.testing.assert_allclose(nats[16:32], alone, rtol=1e-5)


def test_every_window_comes_once_an_epoch():
    a_batch = [
        pretrain.batch_at(np.arange(1000), k, batch=4, window=16, seed=3, start=-1)
        for k in range(30)
    ]
    again = pretrain.batch_at(np.arange(1000), 7, batch=4, window=16, seed=3, start=-1)
    np.testing.assert_array_equal(a_batch[7], again)
    epoch = np.concatenate(a_batch[:15])  # 61 windows fill 15 batches
    assert (epoch[:, 0] == -1).all() and (np.diff(epoch[:, 1:], axis=1) == 1).all()
    firsts = epoch[:, 1]
    assert len(set(firsts.tolist())) == 60 and len(set((firsts % 16).tolist())) == 1
    other = np.concatenate(a_batch[15:])[:, 1]
    assert set(firsts.tolist()) != set(other.tolist())  # from another offset
    with pytest.raises(ValueError, match="1 windows of 16, for a batch of 4"):
        pretrain.batch_at(np.arange(40), 0, batch=4, window=16, seed=0, start=0)


@pytest.mark.parametrize("dying", ["last.safetensors", "step-16.safetensors"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(trainer, whole, tmp_path, monkeypatch, dying):
    """Killed while it writes, at the second log entry; what it finds is of the first."""

    class Killed(Exception):
        pass

    save, calls = pretrain.save_state, []

    def dies(path, tree, notes=None):
        calls.append(path.name)
        if path.name == dying and calls.count(dying) == 1 + (dying[:4] == "last"):
            raise Killed
        save(path, tree, notes)

    monkeypatch.setattr(pretrain, "save_state", dies)
    settings = dict(key=jax.random.key(0), held_out=TEXT[:50], folder=tmp_path, **LOOP)
    with pytest.raises(Killed):
        pretrain.fit(trainer, TEXT, keep=(0, 8, 16), **settings)
    monkeypatch.setattr(pretrain, "save_state", save)
    state, log = pretrain.fit(trainer, TEXT, keep=(0, 8, 16), **settings)
    same(state, whole[0])
    assert log == whole[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "last.safetensors",
        "step-0.safetensors",
        "step-16.safetensors",
        "step-8.safetensors",
    ]
    done, log = pretrain.fit(trainer, TEXT, keep=(0, 8, 16), **settings)  # nothing is left to do
    same(done, whole[0])


def test_a_folder_of_another_model_or_a_damaged_state_is_refused(trainer, tmp_path):
    settings = dict(key=jax.random.key(0), folder=tmp_path, **LOOP | {"steps": 1})
    pretrain.fit(trainer, TEXT, **settings)
    wider = lm.llama(vocab=24, width=32, depth=2, heads=2, hidden=24, context=32)
    with pytest.raises(ValueError, match="was saved by another configuration: .* arrays differ"):
        pretrain.fit(pretrain.trainer(wider, optax.adam(1e-2)), TEXT, **settings)
    for change in (dict(seed=1), dict(window=8)):
        with pytest.raises(ValueError, match=f"is of a run with `{next(iter(change))}`"):
            pretrain.fit(trainer, TEXT, **settings | change)
    with pytest.raises(ValueError, match="is of a run with `tokens`"):
        pretrain.fit(trainer, TEXT[::-1], **settings)
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is no saved state .* Delete it to start anew"):
        pretrain.fit(trainer, TEXT, **settings)


def test_seeds_train_side_by_side_under_vmap(trainer):
    keys = jax.random.split(jax.random.key(5), 2)
    batch = jnp.asarray(pretrain.batch_at(TEXT, 0, batch=4, window=16, seed=0, start=0))
    states = jax.jit(jax.vmap(trainer.init))(keys)
    step = jax.jit(jax.vmap(trainer.step, in_axes=(0, None)))
    for _ in range(2):
        states, info = step(states, batch)
    alone = trainer.init(keys[1])
    for _ in range(2):
        alone, one = jax.jit(trainer.step)(alone, batch)
    np.testing.assert_allclose(info.loss[1], one.loss, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(states.model), jax.tree.leaves(alone.model), strict=True):
        np.testing.assert_allclose(x[1], y, atol=1e-5)


def test_parameters_by_name_and_back(trainer):
    model = trainer.init(jax.random.key(0)).model
    named = pretrain.weights(model)
    same(pretrain.with_weights(model, named), model)
    assert named["blocks.1.mlp.gate.kernel"].shape == (16, 24)
    for wrong in ({"norm.scal": jnp.zeros(16)}, {"norm.scale": jnp.zeros(7)}):
        with pytest.raises(ValueError, match="`named` has `norm.scal"):
            pretrain.with_weights(model, wrong)
    other = pretrain.with_weights(model, {"norm.scale": jnp.zeros(16)})
    assert not np.any(pretrain.weights(other)["norm.scale"])
    kinds = pretrain.kinds(named)
    assert kinds["embed.embedding"] == kinds["norm.scale"] == "rest"
    assert kinds["blocks.0.attention.q.kernel"] == "matrix"


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(steps=0), "`steps` is 0"),
        (dict(every=0), "`every` is 0"),
        (dict(batch=2.5), "`batch` is 2.5"),
        (dict(window=64), "`window` is 64, and the context of the model 32"),
        (dict(keep=(5, 99)), "There are steps 0 to 24"),
        (dict(start=24), "`start` is 24. This model has tokens 0 to 23"),
        (dict(held_out=np.array([1, -3])), "Entry 1 of `held_out` is -3"),
        (dict(tokens=TEXT + 10), "of `tokens` is"),
    ],
)
def test_what_cannot_be_trained_is_refused(trainer, change, words, unchecked):
    settings = dict(tokens=TEXT, key=jax.random.key(0)) | LOOP | change
    with pytest.raises(ValueError) as caught:
        pretrain.fit(trainer, settings.pop("tokens"), **settings)
    assert words in str(caught.value)


def test_a_loss_that_is_lost_stops_the_run():
    wild = pretrain.trainer(CONFIG, optax.sgd(1e30))
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        pretrain.fit(wild, TEXT, key=jax.random.key(0), **LOOP)


def test_the_default_optimiser_learns_too():
    made = pretrain.trainer(CONFIG, pretrain.optimiser(24))
    _, log = pretrain.fit(made, TEXT, key=jax.random.key(0), **LOOP)
    assert log[-1]["nats"] < log[0]["nats"] - 0.2


SPLIT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
import test_lm_pretrain as t
from dynlm.lm import pretrain
import optax
assert jax.device_count() == 4
made = pretrain.trainer(t.CONFIG, optax.adam(1e-2))
state, log = pretrain.fit(made, t.TEXT, key=jax.random.key(0), held_out=t.TEXT[:50], **t.LOOP)
print(json.dumps(log))
"""


@pytest.mark.slow
def test_four_devices_train_as_one_does(whole):
    flags = "--xla_force_host_platform_device_count=4"
    here = str(Path(__file__).parent)
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SPLIT, here], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for one, four in zip(whole[1], json.loads(done.stdout.splitlines()[-1]), strict=True):
        for name, value in one.items():
            np.testing.assert_allclose(four[name], value, rtol=1e-4)
