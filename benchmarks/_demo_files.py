"""The files of the embedded model, from a finished run, and what they are worth."""

import importlib.metadata
import inspect
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import _demo_card
import _kneser_ney
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dynlm._io import BadArgument, write_atomic
from dynlm._safetensors import quantised
from dynlm.lm import Config, Decoder, Decoding, LanguageModel, load, pretrain
from dynlm.lm._files import Found, tensors
from dynlm.lm._layouts import layout
from dynlm.lm._load import filled, matched
from dynlm.lm._save import named, safetensors_bytes, save
from dynlm.lm._state import load_state

START = "<|start|>"
TEMPERATURE, BUDGET = 0.8, 160
PROMPTS = ("It was", "I had never seen", "The species of", "On the island", "KING:\n", "My lord,")
PASSAGE = (400, 900)  # bytes of the held-out paragraph whose nats go into the card
VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "tokenizers", "transformers")


@final
class Run(NamedTuple):
    """A finished run: the decoders kept by step, the log, and the time it took."""

    kept: dict[int, Decoder]
    log: list[dict[str, float]]
    hours: float


def write(
    config: Config,
    work: Path,
    out: Path,
    page: Path | None,
    tokens: np.ndarray,
    blocks: Sequence[Any],
    card: dict[str, Any],
) -> None:
    """Writes the folder of the model and its card, and fills in the page.

    Args:
        config: Of the decoder that was trained.
        work: What training left.
        out: The folder of the model.
        page: The page with its figures; None for none.
        tokens: What it was trained on, for the baseline.
        blocks: What was held out.
        card: What is known beforehand.
    """
    run = finished(config, work)
    _, early, steps = sorted(run.kept)
    ship(run.kept[steps], work / "tokenizer.json", out)
    for name, step in (("untrained", 0), ("early", early)):
        data = safetensors_bytes(quantised(named(run.kept[step])))
        write_atomic(out / f"{name}.safetensors", data)
    model = load(out)
    decoders = {
        "bfloat16": model.decoder,
        "float32": run.kept[steps],
        "early": checkpoint(model.config, out, "early"),
        "untrained": checkpoint(model.config, out, "untrained"),
    }
    card = card | {
        "parameters": sum(x.size for x in pretrain.weights(model.decoder).values()),
        "recipe": card["recipe"] | recipe(steps, early, card, len(tokens)),
        "run": {
            "hours": round(run.hours, 2),
            "cpus": os.cpu_count(),
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in VERSIONS},
            "log": run.log,
        },
    }
    card |= measured(decoders, tokens, blocks, config)
    card["passage"] = passage(decoders, model.tokenizer, blocks)
    card["samples"] = samples(model)
    write_json(out / "card.json", card)
    if page is not None:
        _demo_card.fill(page, card)
    print(json.dumps({"held_out": card["held_out"], **card["below_kneser_ney_5"]}, indent=1))


def finished(config: Config, work: Path) -> Run:
    """What training left in `work`, when it is done."""
    like = Decoder(config, rngs=nnx.Rngs(0))
    state = pretrain.trainer(config, pretrain.optimiser(1)).init
    _, notes = load_state(work / "last.safetensors", jax.eval_shape(state, jax.random.key(0)))
    last = notes["log"][-1]["step"]
    paths = {step: work / f"step-{step}.safetensors" for step in (0, last // 20, last)}
    absent = [str(path) for path in paths.values() if not path.exists()]
    if absent:
        raise BadArgument(f"{absent[0]} is not there. Let `train` come to its end first.")
    read = {step: load_state(path, pretrain.weights(like))[0] for step, path in paths.items()}
    times = [path.stat().st_mtime for path in paths.values()]
    kept = {step: pretrain.with_weights(like, x) for step, x in read.items()}
    return Run(kept, notes["log"], (times[-1] - times[0]) / 3600)


def recipe(steps: int, early: int, card: dict[str, Any], tokens: int) -> dict[str, Any]:
    """What else it takes to repeat the run: its length, and the settings of the optimiser."""
    own = card["recipe"]
    defaults = inspect.signature(pretrain.optimiser).parameters.values()
    settings = {x.name: x.default for x in defaults if x.default is not inspect.Parameter.empty}
    a_epoch = (tokens - own["window"]) // own["window"] // own["batch"]
    return {
        "steps": steps,
        "steps_of_early": early,
        "epochs": round(steps / a_epoch, 2),
        "optimiser": {"steps": steps} | settings,
    }


def ship(decoder: Decoder, tokenizer: Path, out: Path) -> None:
    """The model as bfloat16 in Hugging Face's layout, with its tokenizer."""
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer),
        bos_token=START,
        clean_up_tokenization_spaces=False,
        model_max_length=decoder.config.context,
    )
    save(out, decoder, made, dtype=jnp.bfloat16)
    path = out / "tokenizer_config.json"
    known = json.loads(path.read_text())
    # transformers 4 does not know the name that version 5 writes; both know this one.
    write_json(path, known | {"tokenizer_class": "PreTrainedTokenizerFast"})
    settings = {"bos_token_id": 0, "do_sample": True, "temperature": TEMPERATURE}
    write_json(out / "generation_config.json", settings)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def checkpoint(config: Config, out: Path, name: str) -> Decoder:
    """One of the early checkpoints, read as `load` reads it."""
    found = Found("demo", name, out, (out / f"{name}.safetensors",), None)
    wanted = matched(layout(config), tensors(found), found)
    return filled(config, wanted, np.dtype(np.float32), None, found)


def measured(
    decoders: dict[str, Decoder], tokens: np.ndarray, blocks: Sequence[Any], config: Config
) -> dict[str, Any]:
    """Held-out bits per byte of the decoders and of the baselines, and the distance of the two."""
    text = np.concatenate([block.tokens for block in blocks])
    nats = {
        name: pretrain.held_out_nats(decoder, text, window=config.context, start=0)
        for name, decoder in decoders.items()
    }
    for order in (3, 4, 5):
        counted = _kneser_ney.fit(tokens, order, config.vocab)
        nats[f"kneser_ney_{order}"] = _kneser_ney.nats(counted, text)
    windows = np.split(text, range(config.context, len(text), config.context))
    cut = [_kneser_ney.nats(counted, window) for window in windows]
    nats["kneser_ney_5_windows"] = np.concatenate(cut)
    sums = {name: _demo_card.by_block(x, blocks) for name, x in nats.items()}
    ours, theirs = sums["bfloat16"], sums["kneser_ney_5"]
    return {
        "held_out": {name: _demo_card.figures(x, blocks) for name, x in nats.items()},
        "below_kneser_ney_5": _demo_card.below(ours, theirs, seed=0),
        "blocks": [
            {
                "file": block.file,
                "bytes": block.bytes,
                "tokens": len(block.tokens),
                **{name: round(float(x[k]), 2) for name, x in sums.items()},
            }
            for k, block in enumerate(blocks)
        ],
    }


def passage(decoders: dict[str, Decoder], tokenizer: Any, blocks: Sequence[Any]) -> dict[str, Any]:
    """The first held-out paragraph of a middling length, and its nats under each decoder."""
    low, high = PASSAGE
    paragraphs = [x for block in blocks for x in block.text.split("\n\n")]
    text = next(x for x in paragraphs if low <= len(x.encode()) <= high)
    row = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    nats = {
        name: pretrain.held_out_nats(decoder, row, window=len(row), start=0, batch=1)
        for name, decoder in decoders.items()
    }
    return {
        "text": text,
        "tokens": row.tolist(),
        "nats": {name: round(float(x.astype(np.float64).sum()), 3) for name, x in nats.items()},
    }


def samples(model: LanguageModel) -> list[dict[str, Any]]:
    """One text a prompt, its seed the prompt's number."""
    found = model.sample(
        PROMPTS,
        key=jax.vmap(jax.random.key)(jnp.arange(len(PROMPTS))),
        budget=BUDGET,
        decoding=Decoding(temperature=TEMPERATURE),
    )
    return [
        {
            "prompt": prompt,
            "seed": seed,
            "temperature": TEMPERATURE,
            "budget": BUDGET,
            "text": model.text(found.row(seed).tokens),
        }
        for seed, prompt in enumerate(PROMPTS)
    ]
