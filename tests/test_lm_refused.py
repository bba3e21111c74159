"""What is wrong with a checkpoint is said in a sentence: the file, the value, and what to do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lm_files import (
    EMBED,
    TINY,
    UP,
    change,
    configure,
    in_two_files,
    index,
    put,
    raw,
    tensors_of,
    tokenizer,
    written,
)
from lm_fuzz import LONG, limit

from dynlm._io import BadArgument
from dynlm._safetensors import HEADER, quantised, stored_in
from dynlm.lm import _files
from dynlm.lm._files import CONFIG, INDEX, SINGLE
from dynlm.lm._load import load

FLOATS = np.zeros((2, 2), np.float32)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return written(tmp_path_factory.mktemp("good"))


def refused(folder: Path, *words: str) -> str:
    """The sentence with which a folder is refused; it holds these words."""
    with pytest.raises(BadArgument) as caught:
        load(folder)
    sentence = str(caught.value)
    for word in words:
        assert word in sentence, sentence
    assert sentence.endswith((".", ")")) and len(sentence) < 1200, sentence
    assert sentence.isprintable(), sentence
    return sentence


def weights(folder: Path, data: bytes) -> None:
    (folder / SINGLE).write_bytes(data)


def bytes_of(folder: Path) -> bytes:
    return (folder / SINGLE).read_bytes()


def entry(dtype="F32", shape=(2, 2), span=(0, 16)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


HEADERS = {
    "empty file": (b"", "no whole safetensors file"),
    "seven bytes": (b"\0" * 7, "no whole safetensors file"),
    "longer than the file": (raw({}, length=10**6), "no whole safetensors file"),
    "longest number": (b"\xff" * 64, "no whole safetensors file"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "no JSON": (raw(b"{nothing}"), "header of", "damaged"),
    "no UTF-8": (raw(b'{"\xff": 1}'), "header of", "damaged"),
    "a list": (raw([1, 2]), "no JSON object"),
    "deep": (raw(b"[" * 200_000), "damaged"),
    "a name twice": (raw(b'{"a": 1, "a": 2}'), "`a` stands there twice"),
    "no entry": (raw({"a": 3}), "`a` has 3"),
    "no type": (raw({"a": {"shape": [1], "data_offsets": [0, 4]}}), "damaged"),
    "unknown type": (raw({"a": entry("F4")}, b"\0" * 16), "data type 'F4'", "F32"),
    "negative shape": (raw({"a": entry(shape=(-2, -2))}, b"\0" * 16), "damaged: `a`"),
    "fraction": (raw({"a": entry(shape=(2.0, 2))}, b"\0" * 16), "damaged: `a`"),
    "true": (raw({"a": entry(shape=(True, 4))}, b"\0" * 16), "damaged: `a`"),
    "huge shape": (raw({"a": entry(shape=(10**30, 10**30))}, b"\0" * 16), "damaged: `a`"),
    "many axes": (raw({"a": entry(shape=[1] * 99 + [4])}, b"\0" * 16), "damaged: `a`"),
    "shape and span": (raw({"a": entry(shape=(2, 3))}, b"\0" * 16), "damaged: `a`"),
    "backwards": (raw({"a": entry(shape=(0,), span=(16, 0))}, b"\0" * 16), "damaged: `a`"),
    "outside": (raw({"a": entry(span=(16, 32))}, b"\0" * 16), "cut short", "16 to 32"),
    "overlap": (
        raw({"a": entry(), "b": entry(span=(8, 24))}, b"\0" * 24),
        "b overlaps a",
    ),
    "gap": (raw({"a": entry(), "b": entry(span=(20, 36))}, b"\0" * 36), "b leaves a gap after a"),
    "too long": (raw({"a": entry()}, b"\0" * 24), "the end of the file leaves a gap after a"),
}


@pytest.mark.parametrize("data, words", [(x, y) for x, *y in HEADERS.values()], ids=list(HEADERS))
def test_headers(tmp_path, good, data, words):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    weights(tmp_path, data)
    refused(tmp_path, str(tmp_path / SINGLE), *words)


def test_a_name_twice_among_very_many_is_found_at_once(tmp_path):
    names = ", ".join(f'"{k}": 1' for k in [*range(100_000), 99_999])
    (tmp_path / "x.safetensors").write_bytes(raw(b"{" + names.encode() + b"}"))
    with limit(5), pytest.raises(BadArgument, match="`99999` stands there twice"):
        stored_in(tmp_path / "x.safetensors")


def test_an_oversized_header_is_not_read(tmp_path):
    assert HEADER <= 16 * 2**20
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:  # a hole: it takes no room on disk
        file.write((HEADER + 1).to_bytes(8, "little"))
        file.truncate(HEADER + 100)
    with pytest.raises(BadArgument, match=f"declares a header of {HEADER + 1} bytes; at most"):
        stored_in(path)


@pytest.mark.parametrize("left", [1, 0.5, 0.999])
def test_truncated(tmp_path, good, left):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    data = bytes_of(tmp_path)
    weights(tmp_path, data[: -left if left == 1 else int(left * len(data))])
    refused(tmp_path, "is cut short", "Fetch or copy the file again")


def test_missing_unexpected_and_mis_shaped_together(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    other = {f"more.{k}": FLOATS for k in range(7)}
    change(tmp_path, embed=FLOATS, up=None, **{"model.norm.weight": None}, **other)
    sentence = refused(
        tmp_path,
        f"2 missing ({UP}, model.norm.weight)",
        "7 unexpected (more.0, more.1, more.2, more.3, more.4, ...)",
        f"1 of another shape ({EMBED} is 2 x 2 and not 24 x 16)",
    )
    assert "more.5" not in sentence


def test_a_tensor_under_two_names(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    change(tmp_path, **{"norm.weight": np.ones(16, np.float32)})
    refused(tmp_path, "1 there twice", "norm.weight and ")


def test_weights_that_are_integers(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    change(tmp_path, up=np.ones((24, 16), np.int8))
    refused(tmp_path, "1 stored as none of F64, F32, F16, BF16", f"{UP} is I8")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, good, bad):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    x, norm = tensors_of(tmp_path / SINGLE)[UP], np.ones(16, np.float32)
    x[3, 4], norm[5] = bad, bad
    change(tmp_path, up=x, **{"model.norm.weight": norm})
    refused(
        tmp_path, "2 hold NaN or infinity", UP, "model.norm.weight", "Fetch the checkpoint again."
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_signalling_nans_are_refused_without_a_warning(tmp_path, good, dtype):
    """Numpy warns of them where it tests and where it casts."""
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    x = tensors_of(tmp_path / SINGLE)[UP].astype(dtype)
    x.view(np.uint16)[0, 0] = {"bfloat16": 0x7F81, "float16": 0x7C01}[dtype]
    change(tmp_path, up=x)
    refused(tmp_path, "1 hold NaN or infinity", UP)


def test_scales_are_read_only_for_the_model_in_the_package(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    change(tmp_path, **quantised({UP: tensors_of(tmp_path / SINGLE)[UP]}))
    refused(tmp_path, f"1 stored as none of F64, F32, F16, BF16 ({UP} is I8)", "1 unexpected")


def test_scales_that_are_not_finite(tmp_path, good, monkeypatch):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(_files, "DEMO", tmp_path)
    small = quantised({UP: tensors_of(tmp_path / SINGLE)[UP]})
    small[f"{UP}.scale"][3:5] = np.inf, 3e38
    change(tmp_path, **small)
    (tmp_path / SINGLE).rename(tmp_path / "early.safetensors")
    with pytest.raises(BadArgument, match=f"1 hold NaN or infinity .{UP}"):
        load("demo", revision="early")


def test_weights_beyond_float16(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    change(tmp_path, up=np.full((24, 16), 1e5, np.float32))
    with pytest.raises(BadArgument, match=f"too large for float16 .{UP}.*Ask for float32 or bfl"):
        load(tmp_path, dtype="float16")
    load(tmp_path, dtype="bfloat16")


def test_folders_that_lack_something(tmp_path, good):
    refused(tmp_path, f"{tmp_path} has no config.json")
    shutil.copy(good / CONFIG, tmp_path)
    refused(tmp_path, f"{tmp_path} has no weights", SINGLE, INDEX)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "model.gguf").write_bytes(b"")
    refused(tmp_path, "only adapter_model.safetensors, model.gguf")
    (tmp_path / SINGLE).mkdir()
    refused(tmp_path, "has no weights")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    refused(tmp_path, "1 files like model-00001-of-00002.safetensors, but not", INDEX, "Fetch it")


@pytest.mark.parametrize("name", [SINGLE, CONFIG, INDEX, "model-00001-of-00002.safetensors"])
def test_links_to_files_that_are_gone(tmp_path, good, name):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    if name not in (SINGLE, CONFIG):
        in_two_files(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("../blobs/abc")
    refused(tmp_path, f"{tmp_path / name} is a link to ../blobs/abc, which is not there", "Fetch")


def test_files_that_the_system_does_not_give_out(tmp_path, good, monkeypatch):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    refused(tmp_path, f"{tmp_path / CONFIG} cannot be read: Permission denied. Check that")
    with pytest.raises(BadArgument, match="cannot be read: Permission denied. Check that"):
        stored_in(tmp_path / SINGLE)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "is_file", denied)
    refused(tmp_path, "cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path, good, name):
    shutil.copy(good / CONFIG, tmp_path)
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(tmp_path, f"has its weights only as {name}", "save_pretrained(OTHER_FOLDER)")


def test_custom_code_is_never_run(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    (tmp_path / "mine.py").write_text(code)
    there = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoTokenizer": "mine.T"}
    configure(tmp_path, model_type="mine", auto_map=there)
    refused(tmp_path, "'mine', which is not supported", "auto_map", "never run")
    configure(tmp_path, model_type="llama")
    load(tmp_path)  # a known type needs none of it
    tokenizer(24).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": there}))
    try:
        load(tmp_path)
    except BadArgument as error:
        assert "tokenizer" in str(error)
    assert not (tmp_path / "ran").exists()


CONFIGS = {
    "empty": ("", "no valid JSON"),
    "no JSON": ("{,}", "no valid JSON"),
    "a list": ("[]", "no JSON object"),
    "no UTF-8": ("\udcff", "no valid JSON"),
    "deep": ('{"a":' * 200_000, "no valid JSON"),
    "nothing": ("{}", "`model_type` is None"),
}


@pytest.mark.parametrize("text, word", CONFIGS.values(), ids=list(CONFIGS))
def test_configs_that_cannot_be_read(tmp_path, good, text, word):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    (tmp_path / CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(tmp_path, str(tmp_path / CONFIG), word)


@pytest.mark.parametrize(
    "field, value",
    [
        ("vocab_size", 10**12),
        ("hidden_size", 10**9),
        ("intermediate_size", 10**18),
        ("num_hidden_layers", 10**10),
        ("num_attention_heads", 10**8),
        ("head_dim", 10**11),
        ("hidden_size", float("inf")),
        ("num_hidden_layers", float("nan")),
    ],
)
def test_a_config_far_larger_than_its_weights_costs_nothing(tmp_path, good, field, value):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    configure(tmp_path, **{field: value})
    refused(tmp_path, f"`{field}`", str(tmp_path / CONFIG))


def test_a_config_somewhat_larger_than_its_weights(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    configure(tmp_path, vocab_size=25, num_hidden_layers=3)
    refused(tmp_path, "9 missing", "2 of another shape", "is 24 x 16 and not 25 x 16")


def test_the_index_and_its_files(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    where = in_two_files(tmp_path)
    first, second = sorted(set(where.values()))
    load(tmp_path)
    index(tmp_path, where | {UP: second if where[UP] == first else first})
    refused(tmp_path, str(tmp_path / INDEX), f"holds `{UP}`, which it does not")
    index(tmp_path, where | {"model.more": first})
    refused(tmp_path, f"says that {first} holds `model.more`")
    index(tmp_path, where | {"model.more": "model-3.safetensors"})
    refused(tmp_path, "lacks 1 of the 3 files", "model-3.safetensors")
    for wrong in ({}, None, [], "x"):
        index(tmp_path, wrong)
        refused(tmp_path, "has no `weight_map`")
    for text in ("", "[]", "{", "\x00"):
        (tmp_path / INDEX).write_text(text)
        refused(tmp_path, str(tmp_path / INDEX))
    index(tmp_path, where | {"model.layers.0.self_attn.rotary_emb.inv_freq": first})
    load(tmp_path)  # of no consequence
    index(tmp_path, where)
    put(tmp_path, tensors_of(tmp_path / first) | tensors_of(tmp_path / second), second)
    refused(tmp_path, "is both in", "Remove the file that does not belong")


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "..\\m.safetensors"]
    + ["c:m.safetensors", "m.safetensors\0", "model.bin", "x" * 300 + ".safetensors", 3, None]
    + ["\ud800.safetensors", "é" * 125 + ".safetensors"],
)
def test_an_index_names_no_file_elsewhere(tmp_path, good, shard):
    inside = tmp_path / "inside"
    shutil.copytree(good, inside)
    shutil.copy(good / SINGLE, tmp_path / SINGLE)
    where = in_two_files(inside)
    index(inside, where | {UP: shard})
    refused(inside, "Only safetensors files in the same folder are read")


def test_names_of_files_that_are_long_or_no_text(tmp_path, good):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    where = in_two_files(tmp_path)
    for shard in LONG:
        index(tmp_path, where | {UP: shard, "\ud800\n": shard})
        refused(tmp_path)


def test_the_good_folder_is_good(good):
    assert load(good).config == TINY
