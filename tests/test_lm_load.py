"""Loading: what is on disk arrives, whatever its type, its files and the devices it goes to."""

import json
import mmap
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from lm_files import (
    EMBED,
    HEAD,
    TIED,
    TINY,
    UP,
    change,
    configure,
    in_two_files,
    made,
    parameters,
    put,
    tensors_of,
    tokenizer,
    written,
)

from dynlm._io import BadArgument
from dynlm._safetensors import mapped, quantised, restored, stored_in
from dynlm.lm import _files
from dynlm.lm._config import llama
from dynlm.lm._decoder import Decoder
from dynlm.lm._files import CONFIG, GENERATION, SINGLE
from dynlm.lm._layouts import layout
from dynlm.lm._load import load
from dynlm.lm._save import llama_config, save
from dynlm.lm._tokenizer import read_stops

HERE = Path(__file__).parent


@jax.jit
def logits(decoder: Decoder, tokens: jax.Array) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return decoder.unembed(decoder(tokens, positions).final)


def same(a: Decoder, b: Decoder) -> None:
    x, y = parameters(a), parameters(b)
    assert list(x) == list(y)
    for name in x:
        assert x[name].dtype == y[name].dtype
        np.testing.assert_array_equal(x[name], y[name], err_msg=name)


@pytest.mark.parametrize("config", [TINY, TIED], ids=["untied", "tied"])
def test_what_was_saved_is_loaded(tmp_path, config):
    model = load(written(tmp_path, config))
    assert model.config == config
    assert model.tokenizer is None
    assert model.source.files == (tmp_path / SINGLE,)
    same(model.decoder, made(config))


def test_a_tokenizer_is_saved_and_loaded(tmp_path):
    written(tmp_path, TINY, tokenizer(24))
    read = load(tmp_path).tokenizer
    assert read("w3 w7")["input_ids"] == [3, 7]
    assert json.loads((tmp_path / CONFIG).read_text())["bos_token_id"] == 0
    assert load(tmp_path, tokenizer=False).tokenizer is None


def test_save_casts_as_numpy_does(tmp_path):
    save(tmp_path, made())
    same(load(tmp_path, dtype=jnp.bfloat16).decoder, jax.tree.map(to_bfloat16, made()))


def to_bfloat16(x):
    return x.astype(jnp.bfloat16)


def test_transformers_reads_what_was_saved(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(written(tmp_path, TIED), dtype=torch.float32)
    tokens = np.random.default_rng(0).integers(0, 24, (2, 9)).astype(np.int32)
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(
        logits(made(TIED), jnp.asarray(tokens)), wanted, rtol=1e-5, atol=1e-6
    )


def test_a_saved_model_does_not_take_over_what_ended_the_texts_of_another(tmp_path):
    (tmp_path / GENERATION).write_text('{"eos_token_id": 3}')
    assert load(written(tmp_path, TIED)).stop == ()


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 1e6, 321.5])
def test_the_base_of_the_positions_is_found_again(tmp_path, theta):
    config = llama(vocab=8, width=16, depth=1, heads=2, hidden=8, context=16, theta=theta)
    written(tmp_path, config)
    assert json.loads((tmp_path / CONFIG).read_text())["rope_theta"] == theta
    assert load(tmp_path).config == config


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("disk", ["float64", "float32", "bfloat16", "float16"])
def test_each_type_on_disk_becomes_the_one_asked_for(tmp_path, disk, dtype):
    from safetensors.numpy import save_file  # as others write them

    x = np.random.default_rng(1).standard_normal((24, 16)).astype(disk)
    rest = {k: v for k, v in tensors_of(written(tmp_path) / SINGLE).items() if k != UP}
    save_file(rest | {UP: x}, tmp_path / SINGLE)
    configure(tmp_path, dtype="float16", torch_dtype="bfloat16")  # of no consequence
    got = load(tmp_path, dtype=dtype).decoder.blocks[1].mlp.up.kernel[...]
    np.testing.assert_array_equal(np.asarray(got), x.T.astype(dtype))


def test_headers_agree_with_the_safetensors_library(tmp_path):
    from safetensors import safe_open

    path = written(tmp_path) / SINGLE
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(stored_in(path))
        for name, x in tensors_of(path).items():
            np.testing.assert_array_equal(file.get_tensor(name), x)


def test_sharded_files_and_names_without_prefix(tmp_path):
    written(tmp_path)
    tensors = tensors_of(tmp_path / SINGLE)
    put(tmp_path, {name.removeprefix("model."): x for name, x in tensors.items()})
    in_two_files(tmp_path)
    model = load(tmp_path)
    assert len(model.source.files) == 2
    same(model.decoder, made())


def test_tied_weights_may_be_there_twice_or_under_either_name(tmp_path):
    x = tensors_of(written(tmp_path, TIED) / SINGLE)[EMBED]
    change(tmp_path, head=x)
    same(load(tmp_path).decoder, made(TIED))
    change(tmp_path, embed=None)
    same(load(tmp_path).decoder, made(TIED))
    change(tmp_path, embed=x, head=x + 1)
    with pytest.raises(BadArgument, match="1 unlike what it is tied to .lm_head.weight.*: false"):
        load(tmp_path)
    configure(tmp_path, tie_word_embeddings=False)  # as that sentence says
    assert not load(tmp_path).config.tied


def test_buffers_that_older_versions_saved_say_nothing(tmp_path):
    written(tmp_path)
    change(tmp_path, **{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)})
    same(load(tmp_path).decoder, made())


@pytest.mark.parametrize("axes", [None, ("model",)], ids=["alone", "mesh"])
def test_tensors_are_views_of_the_file_and_parameters_are_not(tmp_path, axes):
    """JAX on a CPU takes aligned memory as it is: the table, which comes first, is aligned."""
    path = written(tmp_path) / SINGLE
    owner = mapped(stored_in(path)[EMBED])
    assert stored_in(path)[EMBED].begin % 64 == 0
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, mmap.mmap)
    model = load(tmp_path, mesh=None if axes is None else jax.make_mesh((1,), axes))
    with open(path, "r+b") as file:  # in place: the mapping sees it
        size = path.stat().st_size
        file.write(b"\xff" * size)
    same(model.decoder, made())


def test_memory_holds_one_tensor_at_a_time(tmp_path):
    """Beyond what the parameters take: as much as the largest tensor, of a file of 46 MB."""
    config = llama(vocab=2048, width=512, depth=4, heads=4, hidden=1024, context=8)
    entries = layout(config).entries
    tensors = {f"model.{entry.name}": np.full(entry.shape, 0.5, np.float32) for entry in entries}
    put(tmp_path, tensors)
    (tmp_path / CONFIG).write_text(json.dumps(llama_config(config)))
    largest = max(x.nbytes for x in tensors.values())
    total = sum(x.nbytes for x in tensors.values())
    assert total > 10 * largest
    load(written(tmp_path / "warm"))
    for dtype, share in ((jnp.float32, 1.0), (jnp.bfloat16, 0.5)):
        tracemalloc.start()
        try:
            model = load(tmp_path, dtype=dtype)
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert model.decoder.embed.embedding[...].dtype == dtype
        assert held < 1.2 * share * total  # JAX on a CPU may keep numpy's memory as its own
        assert peak - held < 1.2 * largest + 2**22


def test_quantised_and_back():
    draw = np.random.default_rng(0)
    named = {
        "a": draw.standard_normal((7, 33)).astype(np.float32)
        * 10.0 ** draw.integers(-3, 3, (7, 1)),
        "zero": np.zeros((3, 4), np.float32),
        "norm": draw.standard_normal(5).astype(np.float32),
    }
    named["a"] = named["a"].astype(np.float32)
    small = quantised(named)
    assert {name: x.dtype.name for name, x in small.items()} == {
        "a": "int8", "a.scale": "float32", "zero": "int8", "zero.scale": "float32",
        "norm": "float32",
    }  # fmt: skip
    back = restored(small)
    assert set(back) == set(named)
    np.testing.assert_array_equal(back["norm"], named["norm"])
    np.testing.assert_array_equal(back["zero"], 0)
    step = np.abs(named["a"]).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(back["a"] - named["a"]) <= 0.5001 * step)
    twice = restored(quantised(back))
    np.testing.assert_allclose(twice["a"], back["a"], rtol=1e-6, atol=0)


def test_the_model_in_the_package_and_its_early_revisions(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "DEMO", written(tmp_path))
    small = quantised(tensors_of(tmp_path / SINGLE))
    put(tmp_path, small, "early.safetensors")
    same(load("demo").decoder, made())
    early = load("demo", revision="early")
    assert early.source.revision == "early"
    np.testing.assert_array_equal(
        parameters(early.decoder)["blocks.1.mlp.up.kernel"], restored(small)[UP].T
    )
    with pytest.raises(BadArgument, match="'late' .* none of .'untrained', 'early'"):
        load("demo", revision="late")


@pytest.mark.slow
def test_four_devices(tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    run = subprocess.run(
        [sys.executable, "lm_sharded.py", str(tmp_path)],
        cwd=HERE,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("passed") == 7


def test_names_that_are_no_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("./gone", "/gone/for/good", "~/gone", "gone/", "a/b/c", Path("gone"), ""):
        with pytest.raises(BadArgument, match="There is no folder"):
            load(name)
    with pytest.raises(BadArgument, match="neither a folder here nor an id on the hub"):
        load("two words")
    with pytest.raises(BadArgument, match="is a file. Give the folder"):
        load(written(tmp_path) / SINGLE)
    with pytest.raises(BadArgument, match="`revision` 'v1' was given .* leave it out"):
        load(tmp_path, revision="v1")


def test_wrong_types_and_meshes(tmp_path):
    written(tmp_path)
    for dtype in ("float64", "int8", "float99", ml_dtypes.float8_e4m3fn):
        with pytest.raises(BadArgument, match="`dtype` is .* float32, bfloat16 or float16"):
            load(tmp_path, dtype=dtype)
    with pytest.raises(BadArgument, match="`mesh` has the axes .'data',.*'model'"):
        load(tmp_path, mesh=jax.make_mesh((1,), ("data",)))


def test_only_what_llama_describes_is_saved(tmp_path):
    from dataclasses import replace

    decoder = made()
    decoder.config = replace(TINY, logit_cap=3.0)
    with pytest.raises(BadArgument, match="family 'llama' with settings that `llama"):
        save(tmp_path / "x", decoder)
    assert not (tmp_path / "x").exists()
    decoder.config = TINY
    decoder.norm.scale[...] = decoder.norm.scale[...].at[0].set(jnp.nan)
    with pytest.raises(BadArgument, match="`norm.scale` of `decoder` is not finite"):
        save(tmp_path, decoder)
    for dtype in (jnp.int32, "float99"):
        with pytest.raises(BadArgument, match="`dtype` is .*(int32|float99).* Ask for"):
            save(tmp_path, made(), dtype=dtype)


def test_nothing_is_saved_beside_the_tokenizer_of_another_model(tmp_path):
    written(tmp_path, TINY, tokenizer(24))
    before = (tmp_path / CONFIG).read_bytes()
    with pytest.raises(BadArgument, match="holds files of a tokenizer .tokenizer.json, .*another"):
        save(tmp_path, made())
    assert (tmp_path / CONFIG).read_bytes() == before
    save(tmp_path, made(), tokenizer(20))
    assert len(load(tmp_path).tokenizer.get_vocab()) == 20


def test_names_on_disk(tmp_path):
    names = set(tensors_of(written(tmp_path) / SINGLE))
    assert {EMBED, HEAD, UP, "model.norm.weight"} <= names
    assert all(name.startswith("model.") for name in names - {HEAD})


@pytest.mark.parametrize(
    "generation, config, want",
    [
        ({"eos_token_id": [3, 7]}, {"eos_token_id": 2}, (3, 7)),
        ({"eos_token_id": 5}, {}, (5,)),
        ({}, {"eos_token_id": 2}, (2,)),
        ({"eos_token_id": [None, "x", True, 10**6, 4]}, {}, (4,)),
        (None, {"eos_token_id": None}, ()),
    ],
)
def test_what_ends_a_text_is_read_from_the_checkpoint(tmp_path, generation, config, want):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert read_stops(tmp_path, None, 100) == want
