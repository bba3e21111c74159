"""Tiny configs of every language-model family, each with its features on, and what they mean."""

import json

import transformers

SIZES = dict(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
SAME = dict(vocab=61, width=32, hidden=48, heads=4, kv_heads=2, head_dim=8, context=64, tied=False)
RMS = dict(norm="rms", norm_eps=1e-6, gated=True, activation="silu")
BIASED = dict(qkv_bias=True, out_bias=True)
LAYER = dict(norm="layer", norm_eps=1e-5, gated=False, learned_positions=False, kv_heads=4)
GEMMA = dict(norm_shift=1.0, embed_scale=32**0.5, activation="gelu_tanh", head_dim=16)
LONG = dict(rope_type="longrope", short_factor=[1.0, 1.5], long_factor=[2.0, 5.0])
YARN = dict(rope_theta=1e4, rope_type="yarn", factor=4.0, original_max_position_embeddings=16)

# Of each family: what its config says beside the sizes, what the decoder is beside `SAME`, and
# the windows of its layers, or -1 where a layer has no rotary positions either.
CASES = {
    "llama": ({}, RMS, [None] * 4),
    "llama biased": (
        dict(attention_bias=True, mlp_bias=True, head_dim=12, tie_word_embeddings=True),
        RMS | BIASED | dict(mlp_bias=True, head_dim=12, tied=True),
        [None] * 4,
    ),
    "llama yarn": (dict(rope_parameters=YARN), RMS, [None] * 4),
    "mistral": (dict(sliding_window=5), RMS, [5] * 4),
    "mistral unwindowed": (dict(sliding_window=None), RMS, [None] * 4),
    "ministral": (
        dict(sliding_window=5, head_dim=8, layer_types=["full_attention", "sliding_attention"] * 2),
        RMS | dict(family="mistral"),
        [None, 5] * 2,
    ),
    "qwen2": (
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=3),
        RMS | dict(qkv_bias=True, out_bias=False),
        [None, None, None, 5],
    ),
    "qwen2 unwindowed": (dict(sliding_window=5), RMS | dict(qkv_bias=True), [None] * 4),
    "qwen3": (
        dict(head_dim=16, attention_bias=True),
        RMS | BIASED | dict(qk_norm="head", head_dim=16),
        [None] * 4,
    ),
    "smollm3": (
        dict(no_rope_layers=[1, 0, 0, 1], use_sliding_window=True, sliding_window=6, mlp_bias=True),
        RMS | dict(mlp_bias=True),
        [None, -6, -6, None],
    ),
    "gpt2": (
        dict(n_inner=40),
        LAYER
        | BIASED
        | dict(hidden=40, learned_positions=True, mlp_bias=True, activation="gelu_tanh"),
        [-1] * 4,
    ),
    "gpt2 plain": (
        dict(activation_function="relu", scale_attn_by_inverse_layer_idx=True),
        LAYER | BIASED | dict(hidden=128, learned_positions=True, activation="relu"),
        [-1] * 4,
    ),
    "gpt_neox": (
        dict(rotary_pct=0.5),
        LAYER | BIASED | dict(residual="parallel", mlp_bias=True, activation="gelu"),
        [None] * 4,
    ),
    "gpt_neox serial": (
        dict(use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True),
        LAYER | dict(residual="pre", qkv_bias=False, out_bias=False, mlp_bias=True, tied=True),
        [None] * 4,
    ),
    "olmo2": (
        dict(attention_bias=True),
        RMS | BIASED | dict(residual="post", qk_norm="whole", norm_eps=1e-5),
        [None] * 4,
    ),
    "gemma": (dict(head_dim=16, hidden_act="gelu"), RMS | GEMMA, [None] * 4),
    "gemma2": (
        dict(
            head_dim=16, sliding_window=5, attn_logit_softcapping=7.0, final_logit_softcapping=3.0
        ),
        RMS | GEMMA | dict(residual="sandwich", attention_cap=7.0, logit_cap=3.0),
        [5, None, 5, None],
    ),
    "gemma3_text": (
        dict(head_dim=16, sliding_window=5, sliding_window_pattern=3, attn_logit_softcapping=7.0),
        RMS | GEMMA | dict(residual="sandwich", qk_norm="head", attention_cap=None),
        [5, 5, None, 5],
    ),
    "phi3": (
        dict(original_max_position_embeddings=32, partial_rotary_factor=0.5, rope_scaling=LONG),
        RMS | dict(norm_eps=1e-5),
        [None] * 4,
    ),
    "phi3 windowed": (dict(sliding_window=7), RMS | dict(norm_eps=1e-5), [7] * 4),
}


def config_of(case: str, **more) -> transformers.PreTrainedConfig:
    said = json.loads(json.dumps(CASES[case][0]))  # transformers writes into what it is given
    return transformers.AutoConfig.for_model(case.split()[0], **(SIZES | said | more))
