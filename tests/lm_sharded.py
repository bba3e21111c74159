"""Run by test_lm_load.py in a process that sees four devices: prints what was checked."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from lm_files import made, of_family, parameters, written

from dynlm.lm import _load
from dynlm.lm._config import llama
from dynlm.lm._load import load
from dynlm.lm._save import save

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
assert len(jax.devices()) == 4

FOLDER = Path(sys.argv[1])
CONFIG = llama(vocab=64, width=32, depth=1, heads=8, kv_heads=4, hidden=96, context=32, tied=False)
UNEVEN = llama(vocab=63, width=24, depth=1, heads=6, kv_heads=3, hidden=90, context=32)
FUSED = dict(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4) | dict(
    intermediate_size=48, max_position_embeddings=32, rotary_pct=0.5
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 63, (2, 12)), jnp.int32)
POSITIONS = jnp.broadcast_to(jnp.arange(12, dtype=jnp.int32), (2, 12))


@jax.jit
def logits(decoder):
    return decoder.unembed(decoder(TOKENS, POSITIONS).final)


def held(decoder):
    """Bytes on each device."""
    total = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(decoder):
        for shard in leaf.addressable_shards:
            total[shard.device] += shard.data.nbytes
    return list(total.values())


def same_logits_and_a_quarter_of_the_bytes():
    folder = written(FOLDER / "even", CONFIG)
    alone = load(folder).decoder
    whole = sum(x.nbytes for x in parameters(alone).values())
    meshes = {
        "explicit": jax.make_mesh((4,), ("model",)),
        "auto": jax.make_mesh((4,), ("model",), axis_types=(AxisType.Auto,)),
    }
    for name, mesh in meshes.items():
        spread = load(folder, mesh=mesh).decoder
        np.testing.assert_allclose(logits(spread), logits(alone), rtol=1e-5, atol=1e-5)
        assert max(held(spread)) < 0.27 * whole, (held(spread), whole)
        print(f"{name}: {max(held(spread)) / whole:.3f} of the bytes on a device; passed")
    block = spread.blocks[0]
    assert block.attention.q.kernel[...].sharding.spec == PartitionSpec(None, "model")
    assert block.mlp.down.kernel[...].sharding.spec == PartitionSpec("model")
    assert spread.embed.embedding[...].sharding.spec == PartitionSpec("model")
    assert spread.norm.scale[...].sharding.spec == PartitionSpec()


def two_axes():
    grid = jax.make_mesh((2, 2), ("data", "model"))
    alone, spread = load(FOLDER / "even").decoder, load(FOLDER / "even", mesh=grid).decoder
    np.testing.assert_allclose(logits(spread), logits(alone), rtol=1e-5, atol=1e-5)
    print("two axes passed")


def a_slice_on_several_devices_is_made_once():
    """Each is tested for NaN when it is made."""
    grid, tested, finite = jax.make_mesh((2, 2), ("data", "model")), [], _load.finite
    _load.finite = lambda x: tested.append(x.nbytes) or finite(x)
    try:
        decoder = load(FOLDER / "even", mesh=grid).decoder
    finally:
        _load.finite = finite
    assert sum(tested) == sum(x.nbytes for x in parameters(decoder).values())
    print("slices once passed")


def a_fused_family():
    """Queries, keys and values that are one tensor on disk, each head's after one another."""
    folder = of_family(FOLDER / "fused", "gpt_neox", **FUSED)
    alone = load(folder).decoder
    spread = load(folder, mesh=jax.make_mesh((4,), ("model",))).decoder
    kernel = spread.blocks[0].attention.k.kernel[...]
    assert kernel.sharding.spec == PartitionSpec(None, "model")
    for name, x in parameters(alone).items():
        np.testing.assert_array_equal(parameters(spread)[name], x)
    np.testing.assert_allclose(logits(spread), logits(alone), rtol=1e-5, atol=1e-5)
    print("fused passed")


def what_does_not_divide_is_whole():
    save(FOLDER / "uneven", made(UNEVEN), dtype=jnp.float32)
    mesh = jax.make_mesh((4,), ("model",))
    alone = load(FOLDER / "uneven").decoder
    spread = load(FOLDER / "uneven", mesh=mesh).decoder
    assert spread.embed.embedding[...].sharding.spec == PartitionSpec()  # 63 rows
    np.testing.assert_allclose(logits(spread), logits(alone), rtol=1e-5, atol=1e-5)
    print("uneven passed")


def slices_are_cast_alone():
    """In bfloat16, the shards are those of the whole tensor cast at once."""
    mesh = jax.make_mesh((4,), ("model",))
    alone = parameters(load(FOLDER / "even", dtype=jnp.bfloat16).decoder)
    spread = parameters(load(FOLDER / "even", dtype=jnp.bfloat16, mesh=mesh).decoder)
    for name, x in alone.items():
        np.testing.assert_array_equal(spread[name], x)
    print("bfloat16 passed")


same_logits_and_a_quarter_of_the_bytes()
two_axes()
a_slice_on_several_devices_is_made_once()
a_fused_family()
what_does_not_divide_is_whole()
slices_are_cast_alone()
