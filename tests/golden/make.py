"""Writes the golden files: what Hugging Face's torch code makes of small random models.

    python tests/golden/make.py                 # every folder beside this file
    python tests/golden/make.py --data DATA     # trained.json too, from the models in DATA/lm

Each folder here is a family with its features switched on. Its `config.json` is written by hand,
in the forms that checkpoints have; this script adds `model.safetensors`, random weights in
bfloat16, and `golden.safetensors`: tokens, and for each the states of every layer, `final` and the
logits, as torch computes them with `attn_implementation="eager"` in float32 and in bfloat16. Layer
0 is what the first block reads, layer k what block k returns, so the last layer is before the
final norm.

The weights depend on the names of tensors alone. With one version of torch and transformers the
script writes the same bytes again. It needs torch; the tests that read its files do not.
"""

import argparse
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

HERE = Path(__file__).parent
ROWS, LENGTH = 2, 20
LENGTHS = {"phi3": (12, LENGTH)}  # both sides of where its frequencies switch
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TABLES = ("wte", "wpe", "embed_tokens", "embed_in")
HUB_GPT2 = "gpt2"  # this folder names its tensors as the first checkpoint of GPT-2 did

STORIES, BATCH, NEW = 32, 8, 200
PROMPTS = ("", "Once upon a time, there was a big", "The dog", "Lily and Tom went to")


def main() -> None:
    """Writes what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", help="some of the folders; all by default")
    parser.add_argument("--data", type=Path, help="where lm/ and text/tinystories.txt are")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for config in sorted(HERE.glob("*/config.json")):
        if not options.folders or config.parent.name in options.folders:
            write_weights(config.parent)
            write_golden(config.parent)
    if options.data is not None:
        found = {name: trained(options.data, name) for name in ("stories260k", "llama2xs")}
        notes = {"torch": torch.__version__, "transformers": transformers.__version__}
        text = json.dumps({"made_with": notes, **found}, indent=1)
        text = re.sub(r"\[[\d\s,]+\]", lambda ids: re.sub(r"\s+", " ", ids[0]), text)
        (HERE / "trained.json").write_text(text + "\n")


def write_weights(folder: Path) -> None:
    """Random weights, so large that every bias, norm and cap shows in the states."""
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    named = {name: draw(name, x, config.model_type) for name, x in model.named_parameters()}
    if folder.name == HUB_GPT2:
        named = {name.removeprefix("transformer."): x for name, x in named.items()}
        mask = torch.ones(1, 1, config.n_positions, config.n_positions).tril()
        for layer in range(config.n_layer):
            named[f"h.{layer}.attn.bias"] = mask.to(torch.uint8)
    (folder / "model.safetensors").write_bytes(save(named, metadata={"format": "pt"}))


def draw(name: str, like: torch.Tensor, family: str) -> torch.Tensor:
    """Normal values of about the size that a trained tensor of this name would have."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.Philox(key=seed)).standard_normal(tuple(like.shape))
    kind = name.split(".")[-2]
    if name.endswith("bias"):
        x = 0.3 * normal
    elif like.ndim == 1:
        x = 0.3 * normal + (0.0 if family.startswith("gemma") else 1.0)
    elif kind in TABLES:
        # Gemma multiplies its table by the root of the width.
        x = normal * (like.shape[1] ** -0.5 if family.startswith("gemma") else 1.0)
    else:
        inside = like.shape[0] if family == "gpt2" and kind != "lm_head" else like.shape[1]
        x = normal * inside**-0.5
    return torch.tensor(x, dtype=torch.float32).to(torch.bfloat16)


def write_golden(folder: Path) -> None:
    """Tokens, and the states and logits of the model in `folder` for them, in both types."""
    kept = {}
    for dtype, kind in DTYPES.items():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=kind, attn_implementation="eager", output_loading_info=True
        )
        model, notes = loaded
        if notes["missing_keys"] or notes["mismatched_keys"]:
            raise SystemExit(f"{folder}: weights that torch did not take: {notes}")
        for length in LENGTHS.get(folder.name, (LENGTH,)):
            draws = np.random.Generator(np.random.Philox(key=length))
            tokens = torch.tensor(draws.integers(model.config.vocab_size, size=(ROWS, length)))
            kept[f"{length}/tokens"] = tokens.to(torch.int32)
            for name, x in states(model.eval(), tokens).items():
                kept[f"{length}/{dtype}/{name}"] = x
    (folder / "golden.safetensors").write_bytes(save(kept))


def states(model: PreTrainedModel, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each block read and returned, what the last norm returned, and the logits."""
    base, found = model.base_model, {}
    blocks = base.h if hasattr(base, "h") else base.layers
    norms = [getattr(base, name, None) for name in ("norm", "ln_f", "final_layer_norm")]
    norm = next(x for x in norms if x is not None)

    def keep(name: str, x: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        found[name] = (x if isinstance(x, torch.Tensor) else x[0]).detach().clone()

    hooks = [
        blocks[0].register_forward_pre_hook(lambda module, args: keep("0", args)),
        norm.register_forward_hook(lambda module, args, x: keep("final", x)),
    ]
    for number, block in enumerate(blocks):
        hook = lambda module, args, x, name=str(number + 1): keep(name, x)  # noqa: E731
        hooks.append(block.register_forward_hook(hook))
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    theirs = (*(found[str(k)] for k in range(len(blocks))), found["final"])
    if not all(torch.equal(a, b) for a, b in zip(theirs, out.hidden_states, strict=True)):
        raise SystemExit("The hooks saw other states than `output_hidden_states` returns.")
    return {**found, "logits": out.logits.detach().clone()}


def trained(data: Path, name: str) -> dict:
    """Perplexity on stories, and greedy continuations, of one trained model."""
    folder = data / "lm" / name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    context = model.config.max_position_embeddings
    nats, counts = [], []
    for story in stories(data)[:STORIES]:
        ids = torch.tensor([[1, *tokenizer.encode(story, add_special_tokens=False)][:context]])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        nats.append(torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:], reduction="sum"))
        counts.append(ids.shape[1] - 1)
    samples = {
        f"stories_{start}_to_{start + BATCH}": perplexity(nats, counts, start, start + BATCH)
        for start in range(0, STORIES, BATCH)
    }
    greedy = [continued(model, tokenizer, prompt) for prompt in PROMPTS]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        parameters = sum(math.prod(file.get_slice(k).get_shape()) for k in file.keys())
    return {
        "parameters": parameters,
        "stories": STORIES,
        "tokens": sum(counts),
        "perplexity": perplexity(nats, counts, 0, STORIES),
        "perplexity_by_sample": samples,
        "greedy": greedy,
    }


def stories(data: Path) -> list[str]:
    """A blank line separates paragraphs of this file, a single newline separates stories."""
    text = (data / "text" / "tinystories.txt").read_text(encoding="utf-8").replace("\n\n", "\0")
    return [story.replace("\0", "\n\n") for story in text.split("\n") if story.strip("\0 ")]


def perplexity(nats: list[torch.Tensor], counts: list[int], start: int, stop: int) -> float:
    """Per token over some of the stories, to six digits."""
    total = sum(float(x) for x in nats[start:stop])
    return float(f"{math.exp(total / sum(counts[start:stop])):.6g}")


def continued(model: PreTrainedModel, tokenizer, prompt: str) -> dict:
    """The most probable next token, `NEW` times; and how near the second ever came, in nats."""
    ids = [1, *tokenizer.encode(prompt, add_special_tokens=False)]
    read, cache, new, gap = torch.tensor([ids]), None, [], math.inf
    for _ in range(NEW):
        with torch.no_grad():
            out = model(read, past_key_values=cache, use_cache=True)
        best = torch.topk(out.logits[0, -1], 2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        new.append(int(best.indices[0]))
        read, cache = best.indices[:1][None], out.past_key_values
    return {
        "prompt": prompt,
        "prompt_ids": ids,
        "new_ids": new,
        "smallest_gap": float(f"{gap:.3g}"),
    }


if __name__ == "__main__":
    main()
