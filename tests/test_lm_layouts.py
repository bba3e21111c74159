"""Where a checkpoint's tensors go in a decoder: every parameter once, by every name on disk."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from lm_configs import CASES, config_of

from dynlm.lm._config import Config, llama
from dynlm.lm._decoder import Decoder
from dynlm.lm._layouts import entry_name, layout
from dynlm.lm._normalise import normalise


def parameters_of(config: Config) -> dict[str, tuple[int, ...]]:
    state = nnx.state(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    flat = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))[0]
    return {".".join(str(key.key) for key in path): leaf.shape for path, leaf in flat}


@pytest.mark.parametrize("case", CASES)
def test_layout_gives_every_parameter_once(case):
    config = normalise(config_of(case))
    found, names = {}, []
    for entry in layout(config).entries:
        names.append(entry.name)
        tensor = np.arange(math.prod(entry.shape)).reshape(entry.shape)
        parts = [part.take(tensor) for part in entry.parts]
        for part, taken in zip(entry.parts, parts):
            assert part.path not in found
            found[part.path] = taken.shape
        every = np.sort(np.concatenate([taken.ravel() for taken in parts]))
        np.testing.assert_array_equal(every, tensor.ravel())  # nothing is left out, nothing twice
    assert found == parameters_of(config)
    assert len(set(names)) == len(names)


def parts_of(case: str, name: str) -> list:
    entries = {entry.name: entry for entry in layout(normalise(config_of(case))).entries}
    return [part.take for part in entries[name].parts]


def test_fused_tensors_come_apart(getkey):
    x = np.asarray(jax.random.normal(getkey(), (96, 32)))
    three = [take(x) for take in parts_of("gpt_neox", "layers.1.attention.query_key_value.weight")]
    by_head = x.reshape(4, 3, 8, 32)  # heads, then which of the three
    for k, kernel in enumerate(three):
        np.testing.assert_array_equal(kernel[:, 8:16], by_head[1, k].T)
    bias = [
        take(x[:, 0]) for take in parts_of("gpt_neox", "layers.1.attention.query_key_value.bias")
    ]
    np.testing.assert_array_equal(np.stack([k[0] for k in three]), np.stack(bias))
    for k, take in enumerate(parts_of("gpt2", "h.0.attn.c_attn.weight")):
        np.testing.assert_array_equal(take(x.T), x.T[:, 32 * k : 32 * (k + 1)])
    q, k, v = (take(x[:64]) for take in parts_of("phi3", "layers.0.self_attn.qkv_proj.weight"))
    np.testing.assert_array_equal(np.concatenate([q.T, k.T, v.T]), x[:64])
    gate, up = (take(x) for take in parts_of("phi3", "layers.0.mlp.gate_up_proj.weight"))
    np.testing.assert_array_equal(np.concatenate([gate.T, up.T]), x)


@pytest.mark.parametrize(
    "case, name, meant",
    [
        ("llama", "model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("llama", "layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("llama", "lm_head.weight", "lm_head.weight"),
        ("llama", "model.layers.3.self_attn.rotary_emb.inv_freq", None),
        ("gpt2", "h.0.attn.bias", None),
        ("gpt2", "transformer.h.11.attn.masked_bias", None),
        ("gpt2", "h.0.attn.c_attn.bias", "h.0.attn.c_attn.bias"),
        ("gpt2", "transformer.wte.weight", "wte.weight"),
        ("gpt_neox", "gpt_neox.layers.0.attention.bias", None),
        ("gpt_neox", "gpt_neox.layers.0.attention.dense.bias", "layers.0.attention.dense.bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq", None),
        ("gpt_neox", "lm_head.weight", "embed_out.weight"),
        ("gemma3_text", "language_model.model.norm.weight", "norm.weight"),
        ("gemma3_text", "model.language_model.norm.weight", "norm.weight"),
        ("gemma3_text", "language_model.lm_head.weight", "lm_head.weight"),
        ("gemma3_text", "vision_tower.vision_model.head.probe", None),
        ("gemma3_text", "model.multi_modal_projector.mm_input_projection_weight", None),
        ("llama", "vision_tower.x", "vision_tower.x"),
    ],
)
def test_names_on_disk(case, name, meant):
    assert entry_name(layout(normalise(config_of(case))), name) == meant


def test_tied_heads_are_copies():
    def tied(case):
        found = layout(normalise(config_of(case, tie_word_embeddings=True)))
        assert not any(part.path.startswith("head") for e in found.entries for part in e.parts)
        return found.copies

    assert tied("llama") == (("lm_head.weight", "embed_tokens.weight"),)
    assert tied("gpt2") == (("lm_head.weight", "wte.weight"),)
    assert tied("gpt_neox") == (("embed_out.weight", "embed_in.weight"),)
    assert layout(normalise(config_of("llama"))).copies == ()


def test_a_config_for_training_has_a_layout():
    config = llama(vocab=61, width=32, depth=2, heads=4, hidden=48, context=64)
    assert len(layout(config).entries) == 2 * 9 + 2
    with pytest.raises(ValueError, match="`config.family` 'x' has no layout on disk"):
        layout(replace(config, family="x"))
