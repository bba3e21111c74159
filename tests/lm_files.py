"""Tiny checkpoints for the tests of loading, and ways to spoil them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dynlm._safetensors import mapped, stored_in
from dynlm.lm._config import Config, llama
from dynlm.lm._decoder import Decoder
from dynlm.lm._files import CONFIG, INDEX, SINGLE
from dynlm.lm._layouts import layout
from dynlm.lm._match import disk_name
from dynlm.lm._normalise import read_config
from dynlm.lm._save import safetensors_bytes, save

SIZES = dict(vocab=24, width=16, depth=2, heads=2, kv_heads=1, hidden=24, context=32)
TINY = llama(**SIZES, tied=False)
TIED = llama(**SIZES)
UP = "model.layers.1.mlp.up_proj.weight"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def made(config: Config = TINY) -> Decoder:
    """A decoder with random parameters, made without compiling anything."""
    draw = np.random.default_rng(0)
    abstract = nnx.eval_shape(lambda: Decoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    state = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), x.dtype), state)
    return nnx.merge(graph, state)


def written(folder: Path, config: Config = TINY, tokenizer=None) -> Path:
    """A folder with such a decoder in float32."""
    save(folder, made(config), tokenizer, dtype=jnp.float32)
    return folder


def of_family(folder: Path, family: str, **fields) -> Path:
    """A folder with a decoder of any family in bfloat16, by the fields of its config."""
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"model_type": family, **fields}))
    names, draw = layout(read_config(folder)), np.random.default_rng(3)
    put(
        folder,
        {
            disk_name(names, entry): draw.normal(0, 1, entry.shape).astype(jnp.bfloat16)
            for entry in names.entries
        },
    )
    return folder


def parameters(decoder: Decoder) -> dict[str, np.ndarray]:
    """By dotted name."""
    flat = nnx.to_flat_state(nnx.state(decoder))
    return {".".join(map(str, path)): np.asarray(value[...]) for path, value in flat}


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    return {name: np.array(mapped(stored)) for name, stored in stored_in(path).items()}


def put(folder: Path, tensors: dict[str, np.ndarray], name: str = SINGLE) -> None:
    """Replaces a file of weights."""
    (folder / name).write_bytes(safetensors_bytes(tensors))


def change(folder: Path, **tensors) -> None:
    """Replaces tensors; None removes one. `UP="..."`-style names stand for those above."""
    named = {"up": UP, "embed": EMBED, "head": HEAD}
    now = tensors_of(folder / SINGLE) | {named.get(k, k): v for k, v in tensors.items()}
    put(folder, {name: x for name, x in now.items() if x is not None})


def configure(folder: Path, **fields) -> None:
    """Replaces fields of the config."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def in_two_files(folder: Path) -> dict[str, str]:
    """Splits the weights; returns the index, which `index` writes back after a change."""
    tensors = tensors_of(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    where = {name: names[k % 2] for k, name in enumerate(tensors)}
    for shard in names:
        put(folder, {k: x for k, x in tensors.items() if where[k] == shard}, shard)
    index(folder, where)
    return where


def index(folder: Path, where: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def raw(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a file with this header, given as JSON or as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return size.to_bytes(8, "little") + text + body


def tokenizer(words: int, **special):
    """A tokenizer of so many words, as transformers loads and saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<s>": 0} | {f"w{k}": k for k in range(1, words)}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", **special)
