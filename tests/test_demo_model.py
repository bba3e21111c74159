"""The embedded model: its files, its card, and that it is worth what the card says."""

import importlib
import importlib.resources
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from dynlm._safetensors import mapped, with_scales
from dynlm.lm._decoder import Decoder
from dynlm.lm._files import DEMO, stored_in
from dynlm.lm._load import load
from dynlm.lm._save import named
from dynlm.lm.pretrain import weights

ROOT = Path(__file__).resolve().parents[1]
TEXTS = Path(os.environ.get("DYNLM_DATA", "")) / "text"
CARD = json.loads((DEMO / "card.json").read_text())
REVISIONS = {"bfloat16": None, "early": "early", "untrained": "untrained"}
FILES = {
    "card.json",
    "config.json",
    "early.safetensors",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "untrained.safetensors",
}


@pytest.fixture(scope="module")
def script():
    """Imports a file of the benchmarks by its name."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    patch.undo()


@pytest.fixture(scope="module")
def model():
    return load("demo")


def nats(decoder, tokens: list[int]) -> float:
    """Of `tokens` after the start, from the logits, in double precision."""
    read = np.array([[0, *tokens[:-1]]], np.int32)
    positions = np.arange(len(tokens), dtype=np.int32)[None]
    forward = jax.jit(lambda m, x, at: m.unembed(m(x, at).final))
    logits = np.asarray(forward(decoder, read, positions), np.float64)[0]
    own = logits[np.arange(len(tokens)), tokens]
    return float(np.sum(np.logaddexp.reduce(logits, axis=-1) - own))


def test_its_files_are_in_the_package_and_small():
    there = {path.name for path in importlib.resources.files("dynlm.lm").joinpath("demo").iterdir()}
    assert there == FILES
    assert (DEMO / "model.safetensors").stat().st_size <= 4_000_000
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 8_000_000


def test_it_is_small_and_stored_as_bfloat16(model):
    count = sum(x.size for x in weights(model.decoder).values())
    assert count == CARD["parameters"] <= 1_800_000
    stored = stored_in(DEMO / "model.safetensors")
    assert {one.dtype for one in stored.values()} == {"BF16"}
    assert "model.embed_tokens.weight" in stored and "lm_head.weight" not in stored


@pytest.mark.parametrize("name", REVISIONS)
def test_held_out_prose_is_as_likely_as_the_card_says(name):
    passage = CARD["passage"]
    model = load("demo", revision=REVISIONS[name])
    tokens = model.tokenizer(passage["text"]).input_ids
    assert tokens == [0, *passage["tokens"]]
    assert nats(model.decoder, passage["tokens"]) == pytest.approx(passage["nats"][name], abs=0.05)


def test_training_shows_on_the_passage_and_rounding_does_not():
    found = CARD["passage"]["nats"]
    assert found["bfloat16"] < 0.8 * found["early"] < 0.8 * found["untrained"]
    assert abs(found["bfloat16"] - found["float32"]) < 0.01 * found["float32"]


def test_it_is_at_least_a_tenth_below_the_n_grams_and_the_whole_interval_is_below():
    held, less = CARD["held_out"], CARD["below_kneser_ney_5"]
    ratio = held["bfloat16"]["bits_per_byte"] / held["kneser_ney_5"]["bits_per_byte"]
    assert less["share"] == pytest.approx(1 - ratio, abs=1e-4)
    assert less["share"] >= 0.1 and less["interval_95"][0] > 0


def test_the_sums_over_blocks_give_the_bits_per_byte():
    blocks = CARD["blocks"]
    size = sum(block["bytes"] for block in blocks)
    assert size == CARD["data"]["held_out_bytes"]
    assert sum(block["tokens"] for block in blocks) == CARD["data"]["held_out_tokens"]
    for name, row in CARD["held_out"].items():
        bits = sum(block[name] for block in blocks) / np.log(2) / size
        assert row["bits_per_byte"] == pytest.approx(bits, abs=2e-5)


def test_the_page_shows_the_card(script):
    shown = script("_demo_card").shown(CARD)
    page = (ROOT / "docs" / "demo_model.md").read_text()
    assert shown in page
    for number in (f"--steps {CARD['recipe']['steps']}\n", "2,048 tokens", "256 tokens"):
        assert number in page


def test_the_untrained_checkpoint_is_what_the_seed_gives(script):
    recipe = script("demo_model")
    key = jax.random.key(CARD["recipe"]["seeds"]["parameters"])
    made = named(Decoder(recipe.config(), rngs=nnx.Rngs(key)))
    stored = with_scales(stored_in(DEMO / "untrained.safetensors"))
    assert set(stored) == set(made)
    for name, one in stored.items():
        step = np.max(np.abs(made[name])) / 127
        assert np.max(np.abs(mapped(one) - made[name])) < 0.51 * step


def test_transformers_reads_its_tokenizer_and_gives_the_text_back(model):
    text = "  Étude; a dark--and stormy night,\n\n\tquoth he: 'don't!'"
    ids = model.tokenizer(text).input_ids
    assert ids[0] == 0 and 0 not in ids[1:]
    assert model.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert model.tokenizer.bos_token == "<|start|>" and model.tokenizer.eos_token is None


def test_the_recorded_samples_begin_with_their_prompts():
    assert [one["seed"] for one in CARD["samples"]] == list(range(len(CARD["samples"])))
    for one in CARD["samples"]:
        assert one["text"].startswith(one["prompt"]) and len(one["text"]) > len(one["prompt"])


@pytest.mark.slow
@pytest.mark.skipif(
    not (TEXTS / "bronte.txt").exists(),
    reason="set DYNLM_DATA to a folder with text/bronte.txt, ...",
)
def test_the_texts_give_the_tokenizer_and_the_split_of_the_card(script, tmp_path):
    tokens, blocks, files = script("demo_model").corpus(TEXTS, tmp_path)
    assert files == CARD["data"]["files"]
    assert len(tokens) == CARD["data"]["train_tokens"]
    assert [len(block.tokens) for block in blocks] == [x["tokens"] for x in CARD["blocks"]]
    made = json.loads((tmp_path / "tokenizer.json").read_text())
    shipped = json.loads((DEMO / "tokenizer.json").read_text())
    assert made["model"] == shipped["model"]
    assert CARD["passage"]["text"] in "".join(block.text for block in blocks)
