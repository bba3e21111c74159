"""Configs of every language-model family, in forms new and old, and what is refused."""

import json
import math

import numpy as np
import pytest
import transformers
from lm_configs import CASES, LONG, SAME, SIZES, YARN, config_of

from dynlm._fields import JSON_BYTES
from dynlm._io import BadArgument
from dynlm.lm._common import ACTIVATIONS
from dynlm.lm._config import Config
from dynlm.lm._families import READERS
from dynlm.lm._normalise import normalise, read_config
from dynlm.lm._rope import rotary, turns


def in_folder(tmp_path, raw) -> Config:
    text = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    (tmp_path / "config.json").write_bytes(text)
    return read_config(tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_fields(case):
    said, decoder, windows = CASES[case]
    found = normalise(config_of(case))
    for name, value in (SAME | dict(family=case.split()[0]) | decoder).items():
        assert getattr(found, name) == value, name
    for layer, window in zip(found.layers, windows, strict=True):
        assert (layer.rope is None) == (window is not None and window < 0)
        assert layer.window == (None if window in (None, -1) else abs(window))


def test_every_family_has_a_case():
    assert {case.split()[0] for case in CASES} == set(READERS)


@pytest.mark.parametrize("case", CASES)
def test_a_saved_config_is_read_as_the_object_is(case, tmp_path):
    config = config_of(case)
    config.save_pretrained(tmp_path)
    assert read_config(tmp_path) == normalise(config)


def test_scales():
    def scales(case, **more):
        return [layer.scale for layer in normalise(config_of(case, **more)).layers]

    assert scales("qwen3") == [16**-0.5] * 4
    assert scales("gemma2", query_pre_attn_scalar=20) == [20**-0.5] * 4
    assert scales("gemma3_text", query_pre_attn_scalar=20) == [20**-0.5] * 4
    assert scales("gpt2 plain") == [8**-0.5 / k for k in (1, 2, 3, 4)]
    assert scales("gpt2", scale_attn_weights=False) == [1.0] * 4


@pytest.mark.parametrize("name, meant", ACTIVATIONS.items())
def test_activations(name, meant):
    assert normalise(config_of("llama", hidden_act=name)).activation == meant


OLD = dict(  # as the hub has them, and what a config of today says instead
    llama=(
        dict(rope_theta=5e5, rope_scaling=dict(type="linear", factor=2.0), torch_dtype="float16"),
        dict(rope_parameters=dict(rope_theta=5e5, rope_type="linear", factor=2.0)),
    ),
    mistral=(
        dict(sliding_window=5, layer_types=["sliding_attention", "full_attention"] * 2),
        dict(sliding_window=5, layer_types=["sliding_attention", "full_attention"] * 2),
    ),
    gpt2=(dict(n_ctx=64, n_embd=32, n_head=4, n_layer=4, n_positions=64), {}),
    gpt_neox=(
        dict(rotary_pct=0.5, rotary_emb_base=300),
        dict(rope_parameters=dict(rope_theta=300.0, partial_rotary_factor=0.5)),
    ),
    gemma3_text=(
        dict(
            rope_theta=5e3, rope_local_base_freq=100.0, rope_scaling=dict(factor=4.0, type="linear")
        ),
        dict(
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=5e3, factor=4.0),
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
            )
        ),
    ),
    phi3=(
        dict(
            original_max_position_embeddings=32,
            partial_rotary_factor=0.5,
            rope_scaling=dict(type="su", short_factor=[1.0, 1.5], long_factor=[2.0, 5.0]),
        ),
        dict(
            original_max_position_embeddings=32,
            rope_parameters=dict(LONG, partial_rotary_factor=0.5, rope_theta=1e4),
        ),
    ),
)


@pytest.mark.parametrize("family", OLD)
def test_old_forms(family, tmp_path):
    old, new = OLD[family]
    found = in_folder(
        tmp_path, SIZES | old | dict(model_type=family, auto_map={"AutoConfig": "a.B"})
    )
    assert found == normalise(transformers.AutoConfig.for_model(family, **(SIZES | new)))


def test_gemma_3_that_reads_images_is_its_text(tmp_path):
    text = SIZES | CASES["gemma3_text"][0]
    both = dict(model_type="gemma3", tie_word_embeddings=False, text_config=text, vision_config={})
    found = in_folder(tmp_path, both)
    assert (
        found
        == normalise(config_of("gemma3_text"))
        == normalise(transformers.Gemma3Config(**(both | dict(vision_config=None))))
    )
    assert in_folder(tmp_path, both | dict(tie_word_embeddings=True)).tied


def test_an_object_with_the_oldest_names():
    class Plain:
        model_type, hidden_act, rms_norm_eps = "llama", "silu", 1e-6
        rope_theta, rope_scaling = 1e4, {"type": "linear", "factor": 2.0}

    for name, value in SIZES.items():
        setattr(Plain, name, value)
    turn = normalise(Plain()).layers[0].rope.frequencies
    np.testing.assert_allclose(turn, np.array(rotary(8, 1e4)) / 2)


# ----------------------------------------------------------------------------- rotary positions


def plain(dim, theta=1e4):
    """The frequencies in float64."""
    return np.array([theta ** (-2 * j / dim) for j in range(dim // 2)])


def parameters(kind, **more):
    return dict(rope_type=kind, rope_theta=1e4, **more)


def test_rope_default_and_parts():
    whole = turns(parameters("default"), 64, 128)
    np.testing.assert_allclose(whole.frequencies, plain(64), rtol=2e-7)
    assert (whole.scale, whole.long, whole.switch) == (1.0, None, 0)
    part = turns(parameters("default", partial_rotary_factor=0.25), 64, 128)
    np.testing.assert_allclose(part.frequencies, plain(16), rtol=2e-7)


def test_rope_linear():
    found = turns(parameters("linear", factor=3.0), 64, 128).frequencies
    np.testing.assert_allclose(found, plain(64) / 3, rtol=3e-7)


def test_rope_llama3():
    found = turns(
        parameters(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=256,
        ),
        64,
        2048,
    )
    wanted = []
    for turn in plain(64):  # by how often it turns within the old context
        times = 256 * turn / (2 * math.pi)
        share = min(max((times - 1.0) / (4.0 - 1.0), 0.0), 1.0)
        wanted.append((1 - share) * turn / 8 + share * turn)
    np.testing.assert_allclose(found.frequencies, wanted, rtol=1e-5)
    assert {turn / f for turn, f in zip(plain(64), wanted)} >= {1.0, 8.0}  # all three ranges


def test_rope_yarn():
    given = dict(factor=4.0, original_max_position_embeddings=256)
    found = turns(parameters("yarn", **given, truncate=False), 64, 1024)
    turn = plain(64)
    turning = np.log(256 / (2 * math.pi * np.array([32.0, 1.0])))  # of 32 turns, and of 1
    first, last = turning / np.log(1e4) * 32
    kept = 1 - np.clip((np.arange(32) - first) / (last - first), 0, 1)
    np.testing.assert_allclose(found.frequencies, turn * kept + turn / 4 * (1 - kept), rtol=1e-5)
    assert found.scale == pytest.approx(0.1 * math.log(4) + 1)
    rounded = turns(parameters("yarn", **given), 64, 1024).frequencies
    first, last = math.floor(first), math.ceil(last)
    kept = 1 - np.clip((np.arange(32) - first) / (last - first), 0, 1)
    np.testing.assert_allclose(rounded, turn * kept + turn / 4 * (1 - kept), rtol=1e-5)


def test_rope_yarn_scales():
    def scale(**more):
        given = dict(factor=4.0, original_max_position_embeddings=256)
        return turns(parameters("yarn", **(given | more)), 64, 2048).scale

    assert scale(attention_factor=1.5) == 1.5
    assert scale(factor=None) == pytest.approx(0.1 * math.log(8) + 1)  # 2048 over 256
    both = (0.1 * 0.7 * math.log(4) + 1) / (0.1 * 1.2 * math.log(4) + 1)
    assert scale(mscale=0.7, mscale_all_dim=1.2) == pytest.approx(both)
    assert scale(factor=1.0) == 1.0


def test_rope_longrope():
    short, long = np.linspace(1, 2, 32), np.linspace(3, 60, 32)
    given = dict(short_factor=list(short), long_factor=list(long))
    found = turns(parameters("longrope", **given, original_max_position_embeddings=256), 64, 2048)
    np.testing.assert_allclose(found.frequencies, plain(64) / short, rtol=1e-6)
    np.testing.assert_allclose(found.long, plain(64) / long, rtol=1e-6)
    assert found.scale == pytest.approx(math.sqrt(1 + math.log(8) / math.log(256)))
    assert found.switch == 256


def test_rope_by_kind_of_layer():
    local, everywhere = normalise(
        config_of("gemma3_text", rope_theta=5e3, rope_local_base_freq=100.0)
    ).layers[1:3]
    assert local.rope.frequencies == rotary(16, 100.0)
    assert everywhere.rope.frequencies == rotary(16, 5e3)


# ------------------------------------------------------------------------------------- refusals

QUANTISED = dict(quant_method="gptq", bits=4)
DYNAMIC = dict(type="dynamic", factor=2.0)
BACKWARDS = dict(type="linear", factor=-2.0)
FULL = ["full_attention"] * 4


@pytest.mark.parametrize(
    "family, said, words",
    [
        ("bert", {}, "`model_type` is 'bert', which is not supported. Supported are llama, mist"),
        ("mine", dict(auto_map={"AutoConfig": "mine.Mine"}), "(`auto_map`) is never run"),
        (None, {}, "`model_type` is None"),
        ("llama", dict(hidden_act="mish"), "activation 'mish', which is not supported. Supported"),
        ("gemma2", dict(hidden_activation="relu2"), "`hidden_activation` names the activation"),
        ("llama", dict(rope_scaling=DYNAMIC), "'dynamic', which is not supported. Supported"),
        ("llama", dict(rope_scaling=BACKWARDS), "`rope_parameters.factor` is -2.0"),
        ("llama", dict(rope_theta="x"), "`rope_parameters.rope_theta` is 'x'"),
        ("llama", dict(rope_scaling=YARN | dict(rope_theta=1.0)), "no finite numbers"),
        ("phi3", dict(rope_scaling=dict(LONG, short_factor=[1.0])), "short_factor"),
        ("qwen3", dict(partial_rotary_factor=0.5), "turn whole heads"),
        ("llama", dict(quantization_config=QUANTISED), "quantised by 'gptq'"),
        ("gemma3", dict(text_config=dict(quantization_config=QUANTISED)), "quantised by 'gptq'"),
        ("gpt2", dict(add_cross_attention=True), "`add_cross_attention` is true"),
        ("gemma", dict(use_bidirectional_attention=True), "see later tokens"),
        ("qwen2", dict(is_causal=False), "see later tokens"),
        ("qwen3", dict(layer_types=["linear_attention"] * 4), "'linear_attention'"),
        ("qwen3", dict(layer_types=["sliding_attention"] * 4), "`sliding_window` is missing"),
        ("mistral", dict(sliding_window=0), "`sliding_window` is 0"),
        ("smollm3", dict(no_rope_layers=[1], layer_types=FULL), "`no_rope_layers` is [1]"),
        ("llama", dict(per_layer_config={"0": {"intermediate_size": 24}}), "per_layer_config"),
        ("llama", dict(num_hidden_layers=10**12), "`num_hidden_layers` is 1000000"),
        ("qwen2", dict(num_hidden_layers=-1), "`num_hidden_layers` is -1"),
        ("llama", dict(vocab_size=0), "`vocab_size` is 0"),
        ("llama", dict(vocab_size=True), "vocab_size"),
        ("llama", dict(vocab_size="many"), "vocab_size"),
        ("llama", dict(num_attention_heads=0), "`num_attention_heads` is 0"),
        ("llama", dict(num_key_value_heads=3), "`heads` 4 is no multiple of `kv_heads` 3"),
        ("llama", dict(rms_norm_eps=math.nan), "`rms_norm_eps` is nan"),
        ("gpt2", dict(num_attention_heads=5), "`num_attention_heads` is 5. It must divide the 32"),
        ("llama", dict(num_attention_heads=5), "transformers"),
        ("gpt2", dict(hidden_size=2**13, num_attention_heads=1), "into heads of at most 4096"),
        ("gpt_neox", dict(hidden_size=2**13, num_attention_heads=1), "into heads of at most 4096"),
        ("gpt2", dict(n_embd=2**23, hidden_size=2**23), "`n_embd` is 8388608. Without `n_inner`"),
        ("gemma3", dict(text_config=[]), "`text_config` is []. It must be a dictionary"),
        ("gemma3", dict(text_config="x"), "`text_config` is 'x'"),
        ("gemma3_text", dict(sliding_window_pattern=0), "transformers"),
    ],
)  # fmt: skip
def test_refused(family, said, words, tmp_path):
    with pytest.raises(BadArgument) as told:
        in_folder(tmp_path, SIZES | dict(model_type=family) | said)
    assert words in str(told.value)
    assert str(tmp_path / "config.json") in str(told.value)


MUCH = "x" * 10**5


@pytest.mark.parametrize(
    "family, said",
    [
        (MUCH, {}),
        ("qwen3", dict(layer_types=[MUCH] * 4)),
        ("llama", dict(quantization_config=dict(quant_method=MUCH))),
        ("qwen3", dict(partial_rotary_factor=MUCH)),
        ("llama", dict(rope_parameters=YARN | dict(rope_theta=1.0, more=MUCH))),
        ("llama", dict(rope_parameters=YARN | dict(rope_type=MUCH))),
        ("llama", dict(hidden_act=MUCH)),
        ("llama", dict(rms_norm_eps="\ud800\x1b[31m\n")),
    ],
)
def test_a_sentence_is_short_and_printable_whatever_the_values_are(family, said, tmp_path):
    with pytest.raises(BadArgument) as told:
        in_folder(tmp_path, SIZES | dict(model_type=family) | said)
    assert len(str(told.value)) < 1000 and str(told.value).isprintable()


def test_a_config_larger_than_any_is_not_parsed(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:  # a hole: it takes no room on disk
        file.truncate(JSON_BYTES + 1)
    with pytest.raises(BadArgument, match=f"larger than {JSON_BYTES} bytes"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "No such file or directory. Check that it is there"),
        (b'{"model_type": "llama"', "no valid JSON"),
        (b"\xff\xfe\xff", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b"[1, 2]", "no JSON object"),
    ],
)
def test_no_config(text, words, tmp_path):
    with pytest.raises(BadArgument, match=words):
        read_config(tmp_path) if text is None else in_folder(tmp_path, text)


def test_code_in_a_folder_never_runs(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass")
    raw = SIZES | dict(auto_map={"AutoConfig": "mine.Mine"})
    with pytest.raises(BadArgument, match="never run"):
        in_folder(tmp_path, raw | dict(model_type="mine"))
    in_folder(tmp_path, raw | dict(model_type="llama"))
    assert not ran.exists()
