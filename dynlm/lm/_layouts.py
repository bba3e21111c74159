"""What each family calls its tensors on disk, and where in a `Decoder` they go."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, final

import numpy as np

from ._config import Config

Take = Callable[[np.ndarray], np.ndarray]


@final
class Part(NamedTuple):
    """One parameter of a `Decoder`, by dotted name, and how to take it from its tensor.

    `take` returns a view where it can, so that a part of a mapped file is all that is read.
    """

    path: str
    take: Take


@final
class Entry(NamedTuple):
    """One tensor of a checkpoint: its name without the prefix, its shape, what it holds."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


@final
class Layout(NamedTuple):
    """The tensors of a checkpoint; `entry_name` reads the names that they have there.

    Args:
        prefix: Stands before the names in some checkpoints of the family and not in others.
        entries: The tensors that must be there, each once.
        ignored: Regular expressions of whole names that may be there and say nothing.
        renames: Beginnings of names that some checkpoints have, and what they stand for.
        copies: Other names of entries. A tensor with such a name must equal that of its entry, or
            may be there in its stead.
    """

    prefix: str
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()


def entry_name(layout: Layout, name: str) -> str | None:
    """What a tensor called `name` in a checkpoint is called in `layout`; None if it is ignored.

    The result is the name of an entry, or of a copy of one, or of neither: then the tensor is
    unexpected. It is for the caller to find that two tensors have the same name here.
    """
    if any(re.fullmatch(pattern, name) for pattern in layout.ignored):
        return None
    for there, here in layout.renames:
        if name.startswith(there):
            name = here + name.removeprefix(there)
            break
    return name.removeprefix(layout.prefix)


def layout(config: Config) -> Layout:
    """The tensors that a checkpoint of this decoder has."""
    if config.family not in _FAMILIES:
        raise ValueError(
            f"`config.family` {config.family!r} has no layout on disk. Those of {known()} have."
        )
    return _FAMILIES[config.family](config)


def known() -> str:
    """The families that have a layout, for sentences."""
    return ", ".join(_FAMILIES)


def identity(x: np.ndarray) -> np.ndarray:
    """The tensor as it is."""
    return x


def transpose(x: np.ndarray) -> np.ndarray:
    """A matrix with its axes swapped: torch's linear maps are stored as (out, in)."""
    return x.T


def rows(x: np.ndarray, *, start: int, stop: int) -> np.ndarray:
    """Some of the outputs of one of torch's linear maps."""
    return x[start:stop].T


def columns(x: np.ndarray, *, start: int, stop: int) -> np.ndarray:
    """Some of the outputs of a map that is stored as (in, out), or of a bias."""
    return x[..., start:stop]


def third(x: np.ndarray, *, which: int, heads: int) -> np.ndarray:
    """Queries, keys or values, where each head's three follow one another. This copies."""
    by_head = x.reshape(heads, 3, -1, *x.shape[1:])[:, which]
    return by_head.reshape(-1, *x.shape[1:]).T


def _linear(name: str, path: str, inside: int, outside: int, bias: bool) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", (outside, inside), (Part(f"{path}.kernel", transpose),))
    if bias:
        yield Entry(f"{name}.bias", (outside,), (Part(f"{path}.bias", identity),))


def _norm(name: str, path: str, width: int, bias: bool = False) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", (width,), (Part(f"{path}.scale", identity),))
    if bias:
        yield Entry(f"{name}.bias", (width,), (Part(f"{path}.bias", identity),))


def _table(name: str, path: str, size: int, width: int) -> Entry:
    return Entry(name, (size, width), (Part(f"{path}.embedding", identity),))


def _head(config: Config, name: str, embedding: str) -> tuple[list[Entry], tuple]:
    """The unembedding's entry; where it is tied, what else the embedding may be called."""
    if config.tied:
        return [], ((name, embedding),)
    shape = (config.vocab, config.width)
    return [Entry(name, shape, (Part("head.kernel", transpose),))], ()


_LLAMA_NORMS = {  # on disk, in the decoder
    "pre": (
        ("input_layernorm", "norm_attention"),
        ("post_attention_layernorm", "norm_mlp"),
    ),
    "post": (
        ("post_attention_layernorm", "norm_attention_out"),
        ("post_feedforward_layernorm", "norm_mlp_out"),
    ),
    "sandwich": (
        ("input_layernorm", "norm_attention"),
        ("post_attention_layernorm", "norm_attention_out"),
        ("pre_feedforward_layernorm", "norm_mlp"),
        ("post_feedforward_layernorm", "norm_mlp_out"),
    ),
}


def _llama(config: Config, *, fused: bool = False) -> Layout:
    """Llama's names, which most families took over; `fused` has queries, keys and values in one."""
    head, copies = _head(config, "lm_head.weight", "embed_tokens.weight")
    entries = [_table("embed_tokens.weight", "embed", config.vocab, config.width)]
    for number in range(config.depth):
        name, path = f"layers.{number}", f"blocks.{number}"
        entries += (_fused if fused else _split)(config, name, path)
        queries = config.heads * config.head_dim
        entries += _linear(
            f"{name}.self_attn.o_proj",
            f"{path}.attention.o",
            queries,
            config.width,
            config.out_bias,
        )
        entries += _linear(
            f"{name}.mlp.down_proj",
            f"{path}.mlp.down",
            config.hidden,
            config.width,
            config.mlp_bias,
        )
        for there, here in _LLAMA_NORMS[config.residual]:
            entries += _norm(f"{name}.{there}", f"{path}.{here}", config.width)
    entries += _norm("norm", "norm", config.width)
    return Layout(
        prefix="model.",
        entries=(*entries, *head),
        ignored=(r"(.*\.)?rotary_emb\.inv_freq",),
        copies=copies,
    )


def _split(config: Config, name: str, path: str) -> Iterator[Entry]:
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    for letter, size in (("q", queries), ("k", keys), ("v", keys)):
        there, here = f"{name}.self_attn.{letter}", f"{path}.attention.{letter}"
        yield from _linear(f"{there}_proj", here, config.width, size, config.qkv_bias)
        if letter != "v" and config.qk_norm != "none":
            normed = config.head_dim if config.qk_norm == "head" else size
            yield from _norm(f"{there}_norm", f"{here}_norm", normed)
    for half in ("gate", "up") if config.gated else ("up",):
        there, here = f"{name}.mlp.{half}_proj", f"{path}.mlp.{half}"
        yield from _linear(there, here, config.width, config.hidden, config.mlp_bias)


def _fused(config: Config, name: str, path: str) -> Iterator[Entry]:
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    for there, paths, sizes in (
        ("self_attn.qkv_proj", "attention.q attention.k attention.v", (queries, keys, keys)),
        ("mlp.gate_up_proj", "mlp.gate mlp.up", (config.hidden, config.hidden)),
    ):
        parts, start = [], 0
        for part, size in zip(paths.split(), sizes):
            take = partial(rows, start=start, stop=start + size)
            parts.append(Part(f"{path}.{part}.kernel", take))
            start += size
        yield Entry(f"{name}.{there}.weight", (start, config.width), tuple(parts))


def _gemma3(config: Config) -> Layout:
    """Llama's names; in checkpoints that also read images, among others and behind a prefix."""
    return _llama(config)._replace(
        ignored=(
            r"(.*\.)?rotary_emb\.inv_freq",
            r"(model\.)?(vision_tower|multi_modal_projector)\..*",
        ),
        renames=(
            ("model.language_model.", "model."),
            ("language_model.lm_head.", "lm_head."),
            ("language_model.model.", "model."),
        ),
    )


def _three(
    name: str, path: str, shape: tuple[int, int], takes: list[Take], bias: bool
) -> Iterator[Entry]:
    """Queries, keys and values in one tensor, and their biases in another."""

    def parts(kind: str) -> tuple[Part, ...]:
        return tuple(Part(f"{path}.{x}.{kind}", take) for x, take in zip("qkv", takes))

    yield Entry(f"{name}.weight", shape, parts("kernel"))
    if bias:
        yield Entry(f"{name}.bias", (max(shape),), parts("bias"))


def _gpt2(config: Config) -> Layout:
    """GPT-2's names; its maps are stored as (in, out), and queries, keys and values in one."""
    width, hidden = config.width, config.hidden
    head, copies = _head(config, "lm_head.weight", "wte.weight")
    entries = [
        _table("wte.weight", "embed", config.vocab, width),
        _table("wpe.weight", "positions", config.context, width),
    ]

    def plain(name: str, path: str, inside: int, outside: int) -> Iterator[Entry]:
        yield Entry(f"{name}.weight", (inside, outside), (Part(f"{path}.kernel", identity),))
        yield Entry(f"{name}.bias", (outside,), (Part(f"{path}.bias", identity),))

    for number in range(config.depth):
        name, path = f"h.{number}", f"blocks.{number}"
        entries += _norm(f"{name}.ln_1", f"{path}.norm_attention", width, True)
        entries += _norm(f"{name}.ln_2", f"{path}.norm_mlp", width, True)
        takes = [partial(columns, start=k * width, stop=(k + 1) * width) for k in range(3)]
        shape = (width, 3 * width)
        entries += _three(f"{name}.attn.c_attn", f"{path}.attention", shape, takes, True)
        entries += plain(f"{name}.attn.c_proj", f"{path}.attention.o", width, width)
        entries += plain(f"{name}.mlp.c_fc", f"{path}.mlp.up", width, hidden)
        entries += plain(f"{name}.mlp.c_proj", f"{path}.mlp.down", hidden, width)
    entries += _norm("ln_f", "norm", width, True)
    return Layout(
        prefix="transformer.",
        entries=(*entries, *head),
        ignored=(r"(.*\.)?h\.\d+\.attn\.(bias|masked_bias)",),  # masks
        copies=copies,
    )


def _gpt_neox(config: Config) -> Layout:
    """GPT-NeoX's names; each head's queries, keys and values follow one another."""
    width, hidden = config.width, config.hidden
    head, copies = _head(config, "embed_out.weight", "embed_in.weight")
    entries = [_table("embed_in.weight", "embed", config.vocab, width)]
    for number in range(config.depth):
        name, path = f"layers.{number}", f"blocks.{number}"
        entries += _norm(f"{name}.input_layernorm", f"{path}.norm_attention", width, True)
        entries += _norm(f"{name}.post_attention_layernorm", f"{path}.norm_mlp", width, True)
        takes = [partial(third, which=k, heads=config.heads) for k in range(3)]
        three, shape = f"{name}.attention.query_key_value", (3 * width, width)
        entries += _three(three, f"{path}.attention", shape, takes, config.qkv_bias)
        entries += _linear(
            f"{name}.attention.dense", f"{path}.attention.o", width, width, config.out_bias
        )
        entries += _linear(f"{name}.mlp.dense_h_to_4h", f"{path}.mlp.up", width, hidden, True)
        entries += _linear(f"{name}.mlp.dense_4h_to_h", f"{path}.mlp.down", hidden, width, True)
    entries += _norm("final_layer_norm", "norm", width, True)
    return Layout(
        prefix="gpt_neox.",
        entries=(*entries, *head),
        ignored=(r"(.*\.)?attention\.(bias|masked_bias)", r"(.*\.)?rotary_emb\.inv_freq"),
        renames=(("lm_head.", "embed_out."),),
        copies=copies,
    )


_FAMILIES: dict[str, Callable[[Config], Layout]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), _llama),
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    **dict.fromkeys(("olmo2", "gemma", "gemma2"), _llama),
    "gemma3_text": _gemma3,
    "phi3": partial(_llama, fused=True),
}
