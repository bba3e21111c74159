"""Two trained models give the perplexity and the greedy text that torch gives."""

import json
import os
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynlm.lm import Decoding, load

HERE = Path(__file__).parent
DATA = Path(os.environ.get("DYNLM_DATA", ""))
RECORDED = json.loads((HERE / "golden" / "trained.json").read_text())
MODELS = ("stories260k", "llama2xs")
BATCH = 8

pytestmark = pytest.mark.skipif(
    not (DATA / "lm" / "stories260k").is_dir(),
    reason="set DYNLM_DATA to a folder with the models lm/stories260k and lm/llama2xs",
)


@cache
def model(name):
    return load(DATA / "lm" / name)


@jax.jit
def nats(decoder, tokens, positions):
    r"""Of each row, $-\sum_t \log p(x_{t+1} \mid x_{\le t})$."""
    logits = decoder.unembed(decoder(tokens, positions).final)[:, :-1]
    lost = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.sum(jnp.where(positions[:, 1:] >= 0, lost, 0.0), axis=1)


def rows(name):
    """The first stories, each behind the start token and cut to the context; -1 is padding."""
    text = (DATA / "text" / "tinystories.txt").read_text(encoding="utf-8").replace("\n\n", "\0")
    stories = [s.replace("\0", "\n\n") for s in text.split("\n") if s.strip("\0 ")]
    here = model(name)
    tokens = np.full((RECORDED[name]["stories"], here.config.context), -1, np.int32)
    for row, story in zip(tokens, stories):
        ids = [1, *here.tokenizer.encode(story, add_special_tokens=False)][: len(row)]
        row[: len(ids)] = ids
    return tokens


@pytest.mark.parametrize("name", MODELS)
def test_perplexity(name):
    """Of all stories and of every sample of eight, to four digits."""
    tokens, recorded = rows(name), RECORDED[name]
    positions = np.where(tokens >= 0, np.arange(tokens.shape[1]), -1).astype(np.int32)
    counts = np.sum(tokens >= 0, axis=1) - 1
    lost = np.concatenate(
        [
            nats(
                model(name).decoder, np.maximum(tokens[k : k + BATCH], 0), positions[k : k + BATCH]
            )
            for k in range(0, len(tokens), BATCH)
        ]
    )
    assert counts.sum() == recorded["tokens"]
    assert np.exp(lost.sum() / counts.sum()) == pytest.approx(recorded["perplexity"], rel=5e-5)
    for k, wanted in enumerate(recorded["perplexity_by_sample"].values()):
        some = slice(k * BATCH, (k + 1) * BATCH)
        found = np.exp(lost[some].sum() / counts[some].sum())
        assert found == pytest.approx(wanted, rel=5e-5)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_text(name):
    """200 tokens after each prompt, all prompts in one batch."""
    recorded = RECORDED[name]["greedy"]
    prompts = [entry["prompt_ids"] for entry in recorded]
    for entry in recorded:
        ids = model(name).tokenizer.encode(entry["prompt"], add_special_tokens=False)
        assert [1, *ids] == entry["prompt_ids"]
    sampled = model(name).sample(
        prompts,
        key=jax.random.key(0),
        budget=len(recorded[0]["new_ids"]),
        decoding=Decoding(temperature=0.0),
        stop=(),
    )
    for number, entry in enumerate(recorded):
        row = sampled.row(number)
        assert row.tokens[row.prompt :].tolist() == entry["new_ids"], entry["prompt"]
