"""Switching off any one feature of a configuration breaks parity: the golden files can fail."""

import dataclasses
from dataclasses import replace
from typing import get_args

import pytest
from flax import nnx
from goldens import NAMES, along, apart, decoder, golden

from dynlm.lm import Config, Decoder
from dynlm.lm._config import Activation, Layer, Rope
from dynlm.lm.pretrain import weights, with_weights

SIZES = {"family", "vocab", "width", "heads", "kv_heads", "head_dim", "hidden", "context"}
SEEN = 1e-4  # ten times what parity allows
SWITCHED_OFF = {
    "norm": "rms",
    "norm_shift": 0.0,
    "residual": "pre",
    "qk_norm": "none",
    "qkv_bias": False,
    "out_bias": False,
    "mlp_bias": False,
    "gated": False,
    "learned_positions": False,
    "embed_scale": 1.0,
    "attention_cap": None,
    "logit_cap": None,
}


def changed(config: Config) -> dict[str, Config]:
    """Every way to lose one feature of `config`, by the name of the field."""
    found = {
        name: replace(config, **{name: off})
        for name, off in SWITCHED_OFF.items()
        if getattr(config, name) != off
    }
    found["norm_eps"] = replace(config, norm_eps=0.5 * config.norm_eps)
    found["tied"] = replace(config, tied=not config.tied)
    for other in set(get_args(Activation)) - {config.activation}:
        found[f"activation {other}"] = replace(config, activation=other)
    for number, layer in enumerate(config.layers):
        for name, other in changed_layer(layer).items():
            layers = (*config.layers[:number], other, *config.layers[number + 1 :])
            found[f"layers {number} {name}"] = replace(config, layers=layers)
    return found


def changed_layer(layer: Layer) -> dict[str, Layer]:
    """The same of one layer."""
    found = {"scale": replace(layer, scale=1.1 * layer.scale)}
    if layer.window is not None:
        for other in (None, layer.window - 1, layer.window + 1):
            found[f"window {other}"] = replace(layer, window=other)
    if layer.rope is None:
        return {**found, "rope": replace(layer, rope=Rope((1.0, 0.1)))}
    faster = tuple(1.05 * turn for turn in layer.rope.frequencies)
    found["rope"] = replace(layer, rope=None)
    found["rope frequencies"] = replace(layer, rope=replace(layer.rope, frequencies=faster))
    if layer.rope.scale != 1.0:
        found["rope scale"] = replace(layer, rope=replace(layer.rope, scale=1.0))
    if layer.rope.long is not None:
        found["rope long"] = replace(layer, rope=replace(layer.rope, long=None))
        found["rope switch"] = replace(
            layer, rope=replace(layer.rope, switch=layer.rope.switch - 1)
        )
    return found


def error(model: Decoder, name: str) -> float:
    """Of the logits, by parity's measure; over all lengths that there are."""
    errors = []
    for length in (12, 20) if name == "phi3" else (20,):
        tokens, states = golden(name, length)
        found = model.unembed(model(tokens, along(tokens)).final)
        errors.append(apart(found, states["float32"]["logits"]))
    return max(errors)


def made_of(config, named):
    """A decoder of this config with those of the parameters that it has and that fit."""
    made = Decoder(config, rngs=nnx.Rngs(0))
    own = weights(made)
    fit = {k: x for k, x in named.items() if k in own and own[k].shape == x.shape}
    return with_weights(made, fit)


@pytest.mark.parametrize("name", NAMES)
def test_every_feature_shows(name):
    model = decoder(name)
    assert error(model, name) <= 1e-5
    errors = {
        field: error(made_of(config, weights(model)), name)
        for field, config in changed(model.config).items()
    }
    assert min(errors.values()) > SEEN, errors


def test_every_field_is_switched_on_somewhere():
    seen = {field.split()[0] for name in NAMES for field in changed(decoder(name).config)}
    assert seen == {field.name for field in dataclasses.fields(Config)} - SIZES
    layers = [layer for name in NAMES for layer in decoder(name).config.layers]
    assert any(layer.rope is None for layer in layers)
    assert {layer.rope.long is None for layer in layers if layer.rope} == {True, False}
    assert {layer.rope.scale == 1.0 for layer in layers if layer.rope} == {True, False}
