"""What the configs of several families share: sizes, kinds of layers, rotary positions."""

from collections.abc import Callable
from functools import partial
from typing import Any

from .._fields import Fields, shown
from .._io import BadArgument
from ._config import Activation, Config, Layer, Rope
from ._rope import turns

LARGEST_SIZE = 2**24  # of what a tensor has rows or columns of
LARGEST_HEAD = 2**12
MOST_LAYERS = 1024

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
KINDS = ("full_attention", "sliding_attention")  # of layers, in the words of transformers


def base_sizes(fields: Fields) -> dict[str, Any]:
    """What every family has, in the names that transformers gives them all."""
    size = partial(fields.whole, most=LARGEST_SIZE)
    return {
        "vocab": size("vocab_size"),
        "width": size("hidden_size"),
        "heads": size("num_attention_heads"),
        "context": fields.whole("max_position_embeddings"),
        "tied": fields.flag("tie_word_embeddings"),
    }


def divided_heads(fields: Fields, sizes: dict[str, Any]) -> int:
    """The size of heads that share the width."""
    size, rest = divmod(sizes["width"], sizes["heads"])
    if rest:
        raise fields.wrong(
            "num_attention_heads", f"It must divide the {sizes['width']} of `hidden_size`."
        )
    if size > LARGEST_HEAD:
        raise fields.wrong(
            "num_attention_heads",
            f"It must divide the {sizes['width']} of `hidden_size` into heads of at most "
            f"{LARGEST_HEAD}.",
        )
    return size


def depth(fields: Fields) -> int:
    """How many layers there are."""
    return fields.whole("num_hidden_layers", most=MOST_LAYERS)


def activation(fields: Fields, name: str) -> Activation:
    """The activation that the field `name` names."""
    return fields.choice(name, ACTIVATIONS, "activation")


def biases(fields: Fields) -> dict[str, Any]:
    """One switch for all four maps of attention."""
    bias = fields.flag("attention_bias")
    return {"qkv_bias": bias, "out_bias": bias}


def llama_like(
    fields: Fields,
    family: str,
    kinds: list[str],
    *,
    rope: Callable[[Fields, str, int, int], Rope] | None = None,
    scale: float | None = None,
    **departs: Any,
) -> Config:
    """A family with Llama's names for its sizes.

    Args:
        fields: Of the config.
        family: Its model type.
        kinds: Of its layers.
        rope: Reads the rotary positions of a kind of layer; None where whole heads turn.
        scale: Of the products of queries and keys; None for the root of the size of a head.
        departs: Further fields of `Config`.
    """
    size, sizes = partial(fields.whole, most=LARGEST_SIZE), base_sizes(fields)
    fallback = max(sizes["width"] // sizes["heads"], 1)
    head_dim = fields.whole("head_dim", fallback, most=LARGEST_HEAD)
    ropes = {
        kind: (rope or whole_rope)(fields, kind, head_dim, sizes["context"])
        for kind in dict.fromkeys(kinds)
    }
    window = fields.whole("sliding_window") if KINDS[1] in kinds else None
    windows = {KINDS[0]: None, KINDS[1]: window}
    by = head_dim**-0.5 if scale is None else scale
    if "activation" not in departs:
        departs["activation"] = activation(fields, "hidden_act")
    return Config(
        **sizes,
        family=family,
        kv_heads=size("num_key_value_heads", sizes["heads"]),
        head_dim=head_dim,
        hidden=size("intermediate_size"),
        layers=tuple(Layer(ropes[kind], windows[kind], by) for kind in kinds),
        norm_eps=fields.number("rms_norm_eps", zero=True),
        **departs,
    )


def all_alike(fields: Fields, *, slides: bool = False) -> list[str]:
    """All layers are of one kind, which slides if it may and `sliding_window` says how far."""
    return [KINDS[slides and fields.get("sliding_window") is not None]] * depth(fields)


def listed(fields: Fields) -> list[str]:
    """The kinds in `layer_types`, or one kind where there is no such list."""
    kinds, count = fields.get("layer_types"), depth(fields)
    if kinds is None:
        return all_alike(fields, slides=True)
    if not isinstance(kinds, list | tuple) or len(kinds) != count:
        raise fields.wrong("layer_types", f"It must be a list of {count} names.")
    for kind in kinds:
        if kind not in KINDS:
            raise BadArgument(
                f"`layer_types` names {shown(kind)}, which is not supported. Supported are "
                f"{', '.join(KINDS)}."
            )
    return list(kinds)


def part_rope(fields: Fields, kind: str, head_dim: int, context: int) -> Rope:
    """The rotary positions of a family that may turn a part of each head."""
    return Rope(*turns(rope_parameters(fields, kind), head_dim, context))


def whole_rope(fields: Fields, kind: str, head_dim: int, context: int) -> Rope:
    """The rotary positions of a family that turns whole heads."""
    found = rope_parameters(fields, kind)
    if found["partial_rotary_factor"] not in (None, 1):
        raise BadArgument(
            f"`partial_rotary_factor` is {shown(found['partial_rotary_factor'])}, but models of "
            "this type turn whole heads. Leave it out, or make it 1."
        )
    return Rope(*turns(found, head_dim, context))


def rope_parameters(fields: Fields, kind: str) -> dict[str, Any]:
    """What describes the rotary positions of a kind of layer, in a config's new form or its old."""
    name = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    given = fields.get(name) or {}
    if isinstance(given, dict) and any(kind in given for kind in KINDS):
        given = given.get(kind) or {}
    if not isinstance(given, dict):
        raise fields.wrong(name, "It must be a dictionary.")
    found = {"rope_type": given.get("type") or "default", **given}
    for name in ("rope_theta", "partial_rotary_factor"):
        found[name] = fields.get(name) if found.get(name) is None else found[name]
    old = "original_max_position_embeddings"  # which Phi-3 has beside the dictionary
    return found if fields.get(old) is None else {**found, old: fields.get(old)}
