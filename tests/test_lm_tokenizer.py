"""The tokenizer beside the weights: what is read of it, and what is refused with a sentence."""

import json
from pathlib import Path

import pytest
from lm_files import configure, of_family, tokenizer, written
from lm_fuzz import FAMILIES, limit

from dynlm._io import BadArgument
from dynlm.lm import _tokenizer
from dynlm.lm._load import load

SETTINGS = "tokenizer_config.json"


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "made")


def refused(folder: Path, *words: str) -> None:
    """The sentence with which a folder is refused holds these words."""
    with pytest.raises(BadArgument) as caught:
        load(folder)
    sentence = str(caught.value)
    for word in words:
        assert word in sentence, sentence
    assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < 1200, sentence


def settle(folder: Path, **fields) -> None:
    """Replaces fields of the tokenizer's settings."""
    path = folder / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_tokenizer_of_the_wrong_size(folder):
    tokenizer(31).save_pretrained(folder)
    refused(folder, "go up to 30", "knows 24 tokens", "tokenizer=False")
    load(folder, tokenizer=False)
    tokenizer(20).save_pretrained(folder)
    assert load(folder).tokenizer is not None  # tables are often padded


def test_added_tokens_past_the_table_are_no_fault(folder):
    """As in Gemma 3's 1B, whose table has no row for its token of images."""
    words = tokenizer(24)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    words.save_pretrained(folder)
    assert load(folder).tokenizer("<image>")["input_ids"] == [24]


def test_a_token_that_is_always_added_must_be_known(folder):
    from tokenizers.processors import TemplateProcessing

    words = tokenizer(24)
    words.add_special_tokens({"bos_token": "<start>"})
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<start> $A", special_tokens=[("<start>", 24)]
    )
    words.save_pretrained(folder)
    refused(folder, "go up to 24", "knows 24 tokens, 0 to 23")


@pytest.mark.parametrize("text", ["", "{}", '{"model": 3}', "[" * 100_000])
def test_a_tokenizer_that_cannot_be_read(folder, text):
    (folder / "tokenizer.json").write_text(text)
    refused(folder, f"The tokenizer in {folder} cannot be read", "tokenizer=False")


def test_the_config_is_not_read_again_without_care(folder, tmp_path):
    """transformers counts up to `num_labels`, and refuses the first name of Phi-3's positions."""
    tokenizer(20).save_pretrained(folder)
    configure(folder, num_labels=10**9)
    with limit(20):
        assert load(folder).tokenizer("w3")["input_ids"] == [3]
    phi3 = of_family(tmp_path / "phi3", "phi3", **FAMILIES["phi3"])
    tokenizer(12).save_pretrained(phi3)
    configure(phi3, rope_scaling=FAMILIES["phi3"]["rope_scaling"] | {"type": "su"})
    assert load(phi3).tokenizer("w3")["input_ids"] == [3]


def test_the_class_that_an_old_config_names_is_used(folder):
    tokenizer(20).save_pretrained(folder)
    path = folder / SETTINGS
    settings = json.loads(path.read_text())
    del settings["tokenizer_class"]
    path.write_text(json.dumps(settings))
    configure(folder, tokenizer_class="PreTrainedTokenizerFast")
    assert load(folder).tokenizer("w3 w7")["input_ids"] == [3, 7]


@pytest.mark.parametrize("name", ["vocab_file", "tokenizer_file", "spm_file", "init_inputs"])
def test_settings_that_name_files_elsewhere_are_not_followed(folder, tmp_path, monkeypatch, name):
    """Some versions of transformers open them; that old checkpoints have them is no fault."""
    from transformers import AutoTokenizer

    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    tokenizer(20).save_pretrained(folder)
    settle(folder, **{name: [str(secret)] if name == "init_inputs" else str(secret)})
    seen, real = [], AutoTokenizer.from_pretrained

    def from_pretrained(where, **more):
        seen.append(Path(where, SETTINGS).read_text())
        return real(where, **more)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    words = load(folder).tokenizer
    assert len(seen) == 1 and "secret" not in seen[0]
    assert words("w3 w7")["input_ids"] == [3, 7]
    assert words.name_or_path == str(folder)


def test_settings_without_files_are_read_where_they_are(folder):
    tokenizer(20).save_pretrained(folder)
    settle(folder, vocab_file=None)
    with _tokenizer._harmless(folder) as inside:
        assert inside == folder


def test_the_package_that_a_vocabulary_of_pieces_needs_is_named(folder, monkeypatch):
    (folder / "tokenizer.model").write_bytes(b"\n\x05\n\x03abc")
    monkeypatch.setattr(_tokenizer, "find_spec", lambda name: None)
    refused(folder, "pip install sentencepiece protobuf", "tokenizer=False")


def test_a_link_to_a_vocabulary_that_is_gone(folder):
    (folder / "tokenizer.json").symlink_to("gone.json")
    refused(folder, "tokenizer.json is a link to gone.json, which is not there")
