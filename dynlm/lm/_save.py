"""`save`: a decoder of the Llama layout as a folder that Hugging Face's libraries read."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from .._fields import shown
from .._io import BadArgument, write_atomic
from ._config import Config, llama
from ._decoder import Decoder
from ._files import CONFIG, GENERATION, INDEX, SINGLE, TOKENIZER
from ._layouts import layout
from ._match import disk_name

NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def save(
    folder: str | Path, decoder: Decoder, tokenizer: Any = None, *, dtype: Any = jnp.bfloat16
) -> None:
    """Writes `config.json`, `model.safetensors` and the files of the tokenizer.

        save("./mine", decoder, tokenizer)
        model = load("./mine")

    Only decoders that `llama(...)` describes are written. The config goes last, so a folder whose
    writing broke off is not taken for a checkpoint.

    Args:
        folder: Where to; files of the same names are replaced, and `generation_config.json`, if
            another model left one, is removed.
        decoder: Its parameters.
        tokenizer: One of transformers' tokenizers; None only for a folder that holds none.
        dtype: Of the numbers on disk: `bfloat16`, `float16` or `float32`.
    """
    folder = Path(folder).expanduser()
    try:
        kind = jnp.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind.name not in NAMES:
        said = shown(dtype) if kind is None else kind
        raise BadArgument(f"`dtype` is {said}. Ask for {', '.join(NAMES)}.")
    config = llama_config(decoder.config, tokenizer) | {"dtype": kind.name}
    if (folder / INDEX).exists():
        raise BadArgument(
            f"{folder} holds a model in several files, one of them {INDEX}. Choose another folder."
        )
    others = [name for name in TOKENIZER if (folder / name).exists()]
    if tokenizer is None and others:
        raise BadArgument(
            f"{folder} holds files of a tokenizer ({', '.join(others)}), which `load` would take "
            "for this model's, and `tokenizer` is None. Give the model's tokenizer, remove those "
            "files, or choose another folder."
        )
    data = safetensors_bytes(named(decoder, kind))
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, GENERATION):  # the latter of a model that stood there before
        (folder / name).unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    write_atomic(folder / SINGLE, data)
    write_atomic(folder / CONFIG, json.dumps(config, indent=2).encode() + b"\n")


def named(decoder: Decoder, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """The parameters of a decoder of the Llama layout, under their names on disk."""
    made = layout(decoder.config)
    flat = nnx.to_flat_state(nnx.state(decoder))
    values = {".".join(map(str, path)): variable[...] for path, variable in flat}
    out = {}
    for entry in made.entries:
        (part,) = entry.parts
        # Each of these tensors is one parameter, as it is or transposed: to take is to give back.
        x = np.ascontiguousarray(part.take(np.asarray(values[part.path]))).astype(dtype)
        if not np.isfinite(x).all():
            raise BadArgument(
                f"`{part.path}` of `decoder` is not finite in {np.dtype(dtype)}. Such a model "
                "cannot be loaded again: save another, or in float32."
            )
        out[disk_name(made, entry)] = x
    return out


def llama_config(config: Config, tokenizer: Any = None) -> dict[str, Any]:
    """The fields of transformers' `LlamaConfig` for a decoder that `llama(...)` describes."""
    theta = _theta(config)
    if theta is None:
        raise BadArgument(
            f"`decoder` is of the family {config.family!r} with settings that `llama(...)` does "
            "not have, and only what it describes is written. Keep the checkpoint it came from."
        )
    ids = {
        name: getattr(tokenizer, name, None)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_theta": theta,  # where versions of transformers before 5 look
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied,
        **ids,
    }


def _theta(config: Config) -> float | None:
    """The base of the rotary positions with which `llama` gives back this config, if any does."""
    rope = config.layers[0].rope
    if config.family != "llama" or rope is None or config.width != config.heads * config.head_dim:
        return None
    near = [10_000.0]
    if len(rope.frequencies) > 1 and rope.frequencies[-1] > 0:
        pairs = len(rope.frequencies)
        exact = rope.frequencies[-1] ** (-pairs / (pairs - 1))
        near = [float(f"{exact:.{digits}g}") for digits in range(1, 17)]
    for theta in near:
        again = llama(
            vocab=config.vocab,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            hidden=config.hidden,
            context=config.context,
            kv_heads=config.kv_heads,
            theta=theta,
            tied=config.tied,
            norm_eps=config.norm_eps,
        )
        if again == config:
            return theta
    return None


def safetensors_bytes(named: dict[str, np.ndarray]) -> bytes:
    """A safetensors file. Equal tensors give equal bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, x in named.items():
        kind = {"int8": "I8"}.get(x.dtype.name) or NAMES[x.dtype.name]
        span = [begin, begin + x.nbytes]
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": span}
        begin += x.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # so that the tensors begin at a multiple of 64 bytes
    body = b"".join(np.ascontiguousarray(x).tobytes() for x in named.values())
    return len(text).to_bytes(8, "little") + text + body
