"""Reads the golden folders, and runs decoders as the tests that compare with them do."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dynlm.lm import Decoder, load

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


@cache
def golden(name: str, length: int = 20) -> tuple[jax.Array, dict[str, dict]]:
    """The tokens of one length, and torch's states by dtype and by layer, `final` or `logits`."""
    from safetensors import safe_open

    states = {"float32": {}, "bfloat16": {}}
    with safe_open(FOLDER / name / "golden.safetensors", framework="flax") as file:
        for key in file.keys():
            of, dtype, *layer = key.split("/")
            if int(of) == length and layer:
                place = int(layer[0]) if layer[0].isdigit() else layer[0]
                states[dtype][place] = np.asarray(file.get_tensor(key), np.float32)
        return file.get_tensor(f"{length}/tokens"), states


@cache
def decoder(name, dtype="float32") -> Decoder:
    return load(FOLDER / name, dtype=jnp.dtype(dtype)).decoder


def along(tokens):
    """The positions of rows without padding."""
    return jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)


def everything(model: Decoder, tokens, positions, **options):
    """The states of every layer, the logits, and the cache."""
    out = model(tokens, positions, layers=(*range(model.config.depth + 1), "final"), **options)
    return out.states, model.unembed(out.final), out.cache


@jax.jit
def compiled(model: Decoder, tokens, positions):
    return everything(model, tokens, positions)


def uncached(model: Decoder, tokens, positions=None):
    """All states and logits, as arrays of numpy."""
    positions = along(tokens) if positions is None else positions
    return numpy(*compiled(model, tokens, positions))


def numpy(states, logits, cache=None):
    """By layer, and under `logits`."""
    del cache
    return {k: np.asarray(x, np.float32) for k, x in {**states, "logits": logits}.items()}


def apart(a, b) -> float:
    """The largest difference, relative to the largest value of `b`."""
    return float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b)))
