"""What each family's config means, one reader a family: from fields in its words to a `Config`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .._fields import Fields
from .._io import BadArgument
from ._common import (
    KINDS,
    LARGEST_SIZE,
    activation,
    all_alike,
    base_sizes,
    biases,
    depth,
    divided_heads,
    listed,
    llama_like,
    part_rope,
    rope_parameters,
)
from ._config import Config, Layer, Rope
from ._rope import turns


def llama(fields: Fields) -> Config:
    """Llama 1, 2 and 3, and all that were published in its layout."""
    mlp_bias = fields.flag("mlp_bias")
    return llama_like(fields, "llama", all_alike(fields), mlp_bias=mlp_bias, **biases(fields))


def mistral(fields: Fields) -> Config:
    """Every layer slides, or those that are listed as such; the latter are ministral."""
    return llama_like(fields, "mistral", listed(fields))


def qwen2(fields: Fields) -> Config:
    """Queries, keys and values have biases, whatever the config says."""
    return llama_like(fields, "qwen2", listed(fields), qkv_bias=True)


def qwen3(fields: Fields) -> Config:
    """A norm of each head's queries and keys."""
    return llama_like(fields, "qwen3", listed(fields), qk_norm="head", **biases(fields))


def smollm3(fields: Fields) -> Config:
    """Some layers have no positions."""
    mlp_bias = fields.flag("mlp_bias")
    found = llama_like(fields, "smollm3", listed(fields), mlp_bias=mlp_bias, **biases(fields))
    turning = fields.get("no_rope_layers")  # 1 where there is rope, in spite of the name
    if not isinstance(turning, list | tuple) or len(turning) < found.depth:
        raise fields.wrong("no_rope_layers", f"It must be a list of {found.depth} numbers.")
    layers = zip(found.layers, turning)
    return replace(
        found, layers=tuple(x if turns else replace(x, rope=None) for x, turns in layers)
    )


def gpt2(fields: Fields) -> Config:
    """Learned positions, layer norms, biases everywhere."""
    if fields.flag("add_cross_attention"):
        raise BadArgument(
            "`add_cross_attention` is true: layers that read an encoder's states are not "
            "supported. Load a model that reads its own text only."
        )
    sizes = base_sizes(fields)
    if fields.get("n_inner") is None and 4 * sizes["width"] > LARGEST_SIZE:
        raise fields.wrong("n_embd", f"Without `n_inner`, it must be at most {LARGEST_SIZE // 4}.")
    sizes["hidden"] = fields.whole("n_inner", 4 * sizes["width"], most=LARGEST_SIZE)
    sizes["head_dim"] = divided_heads(fields, sizes)
    scale = sizes["head_dim"] ** -0.5 if fields.flag("scale_attn_weights", True) else 1.0
    by_layer = fields.flag("scale_attn_by_inverse_layer_idx")
    scales = [scale / (k + 1) if by_layer else scale for k in range(depth(fields))]
    return Config(
        **sizes,
        family="gpt2",
        kv_heads=sizes["heads"],
        layers=tuple(Layer(None, None, scale) for scale in scales),
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon", zero=True),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation=activation(fields, "activation_function"),
        learned_positions=True,
    )


def gpt_neox(fields: Fields) -> Config:
    """Pythia and its kin: attention and feed-forward side by side, a quarter of each head turns."""
    sizes = base_sizes(fields)
    sizes["hidden"] = fields.whole("intermediate_size", most=LARGEST_SIZE)
    sizes["head_dim"] = divided_heads(fields, sizes)
    rope = part_rope(fields, KINDS[0], sizes["head_dim"], sizes["context"])
    layer = Layer(rope, None, sizes["head_dim"] ** -0.5)
    bias = fields.flag("attention_bias", True)
    return Config(
        **sizes,
        family="gpt_neox",
        kv_heads=sizes["heads"],
        layers=(layer,) * depth(fields),
        norm="layer",
        norm_eps=fields.number("layer_norm_eps", zero=True),
        residual="parallel" if fields.flag("use_parallel_residual", True) else "pre",
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        gated=False,
        activation=activation(fields, "hidden_act"),
    )


def olmo2(fields: Fields) -> Config:
    """Norms after attention and feed-forward, and of whole rows of queries and keys."""
    return llama_like(
        fields, "olmo2", all_alike(fields), residual="post", qk_norm="whole", **biases(fields)
    )


def gemma(fields: Fields) -> Config:
    """Gemma 1, whose `gelu` always meant the approximation by tanh."""
    named = activation(fields, "hidden_act")
    meant = "gelu_tanh" if named == "gelu" else named
    return _gemma(fields, "gemma", all_alike(fields), activation=meant)


def gemma2(fields: Fields) -> Config:
    """Norms before and after, caps, and every other layer slides."""
    return _gemma(
        fields,
        "gemma2",
        listed(fields),
        scale=fields.number("query_pre_attn_scalar") ** -0.5,
        residual="sandwich",
        activation=activation(fields, "hidden_activation"),
        attention_cap=fields.maybe("attn_logit_softcapping"),
        logit_cap=fields.maybe("final_logit_softcapping"),
    )


def gemma3(fields: Fields) -> Config:
    """Like Gemma 2, with norms of queries and keys for the cap of scores.

    A config may still name that cap; transformers does not apply it either.
    """
    return _gemma(
        fields,
        "gemma3_text",
        listed(fields),
        scale=fields.number("query_pre_attn_scalar") ** -0.5,
        residual="sandwich",
        qk_norm="head",
        activation=activation(fields, "hidden_activation"),
        logit_cap=fields.maybe("final_logit_softcapping"),
    )


def phi3(fields: Fields) -> Config:
    """Phi-3 and 4 mini: every layer slides if one does, a part of each head may turn."""
    return llama_like(fields, "phi3", all_alike(fields, slides=True), rope=_phi3_rope)


def _gemma(fields: Fields, family: str, kinds: list[str], **departs: Any) -> Config:
    """What all Gemmas share: norms count from 1, embeddings are scaled by the root of the width."""
    if fields.flag("use_bidirectional_attention"):
        raise BadArgument(
            "`use_bidirectional_attention` is true: models that see later tokens are not "
            "supported. Load a causal language model."
        )
    embed_scale = fields.whole("hidden_size", most=LARGEST_SIZE) ** 0.5
    shared = {"norm_shift": 1.0, "embed_scale": embed_scale, **biases(fields)}
    return llama_like(fields, family, kinds, **shared, **departs)


def _phi3_rope(fields: Fields, kind: str, head_dim: int, context: int) -> Rope:
    """Longrope had other names at first."""
    found = rope_parameters(fields, kind)
    if found["rope_type"] in ("su", "yarn"):
        found["rope_type"] = "longrope"
    return Rope(*turns(found, head_dim, context))


READERS: dict[str, Callable[[Fields], Config]] = {
    "llama": llama,
    "mistral": mistral,
    "ministral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": smollm3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "olmo2": olmo2,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "phi3": phi3,
}
