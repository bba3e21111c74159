"""Makes the language model that ships with dynlm: tokenizer, training, baseline, card.

Run from the repository root, in order; `train` may be killed and run again:

    python benchmarks/demo_model.py train --data TEXTS --work FOLDER
    python benchmarks/demo_model.py write --data TEXTS --work FOLDER

`TEXTS` holds bronte.txt, darwin.txt and shakespeare.txt, public-domain prose. `write` turns what
`train` left in `FOLDER` into the files of the package and the figures of docs/demo_model.md.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, final

import jax
import numpy as np

from dynlm._io import BadArgument
from dynlm.lm import Config, llama, pretrain

ROOT = Path(__file__).resolve().parents[1]
FILES = ("bronte.txt", "darwin.txt", "shakespeare.txt")
BLOCK = 16_384  # characters, cut at the next blank line; one block in 20 is held out
OVERLAP = 60  # bytes of strings that are looked for in both parts
VOCAB, WINDOW, BATCH, SEED = 2048, 256, 16, 0
START = "<|start|>"
CONFIG: dict[str, Any] = dict(width=128, depth=6, heads=4, kv_heads=2, hidden=512, context=WINDOW)


@final
class Block(NamedTuple):
    """A stretch of one file that is held out."""

    file: str
    text: str
    tokens: np.ndarray

    @property
    def bytes(self) -> int:
        return len(self.text.encode())


def texts(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """By file: the blocks to train on, and those held out."""
    found = {}
    for name in FILES:
        if not (folder / name).is_file():
            raise BadArgument(f"{folder / name} is not there. Give the folder that has {FILES}.")
        text = (folder / name).read_text(encoding="utf-8", errors="strict").replace("\r\n", "\n")
        blocks, begin = [], 0
        while begin < len(text):
            end = text.find("\n\n", begin + BLOCK)
            end = len(text) if end < 0 else end + 2
            blocks.append(text[begin:end])
            begin = end
        held = [k for k in range(len(blocks)) if k % 20 == 10]
        found[name] = (
            [block for k, block in enumerate(blocks) if k not in held],
            [blocks[k] for k in held],
        )
    return found


def tokenizer(train: list[str]):
    """Byte-level BPE of `VOCAB` tokens, the first of which starts every sequence."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        train,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=[START],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START} $B", special_tokens=[(START, 0)]
    )
    return made


def corpus(data: Path, work: Path) -> tuple[np.ndarray, list[Block], dict[str, Any]]:
    """Tokens to train on, blocks held out, and what the files are."""
    from tokenizers import Tokenizer

    parts = texts(data)
    train = [block for name in FILES for block in parts[name][0]]
    held = [(name, block) for name in FILES for block in parts[name][1]]
    path = work / "tokenizer.json"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        tokenizer(train).save(str(path))
    read = Tokenizer.from_file(str(path))

    def ids(blocks: list[str]) -> list[np.ndarray]:
        found = read.encode_batch(blocks, add_special_tokens=False)
        return [np.asarray(x.ids, np.int32) for x in found]

    files = {
        name: {
            "sha256": hashlib.sha256((data / name).read_bytes()).hexdigest(),
            "train_bytes": sum(len(x.encode()) for x in parts[name][0]),
            "held_out_bytes": sum(len(x.encode()) for x in parts[name][1]),
            "held_out_blocks": len(parts[name][1]),
        }
        for name in FILES
    }
    tokens = ids([text for _, text in held])
    blocks = [Block(name, text, row) for (name, text), row in zip(held, tokens)]
    return np.concatenate(ids(train)), blocks, files


def config() -> Config:
    return llama(vocab=VOCAB, **CONFIG)


def train(args: argparse.Namespace) -> None:
    tokens, blocks, _ = corpus(args.data, args.work)
    held = np.concatenate([block.tokens for block in blocks])
    epoch = len(tokens) // (BATCH * WINDOW)
    print(f"{len(tokens)} tokens to train on, {len(held)} held out, {epoch} steps an epoch")
    trainer = pretrain.trainer(config(), pretrain.optimiser(args.steps))
    _, log = pretrain.fit(
        trainer,
        tokens,
        key=jax.random.key(SEED),
        steps=args.steps,
        batch=BATCH,
        window=WINDOW,
        start=0,
        seed=SEED,
        held_out=held,
        folder=args.work,
        every=args.every,
        keep=(0, args.steps // 20, args.steps),
    )
    print(json.dumps(log[-1]))
    nats = log[-1]["held_out_nats"] * len(held)
    print("bits per byte", nats / np.log(2) / sum(block.bytes for block in blocks))


def write(args: argparse.Namespace) -> None:
    import _demo_card
    import _demo_files

    parts = texts(args.data)
    if not (args.work / "last.safetensors").is_file():
        raise BadArgument(f"{args.work} holds no last.safetensors. Run `train` with it first.")
    tokens, blocks, files = corpus(args.data, args.work)
    read = [text for part, _ in parts.values() for text in part]
    shared = _demo_card.overlap(read, [block.text for block in blocks], OVERLAP)
    made = {
        "data": {
            "files": files,
            "train_tokens": len(tokens),
            "held_out_tokens": sum(len(block.tokens) for block in blocks),
            "held_out_bytes": sum(block.bytes for block in blocks),
            "overlap": {"bytes": OVERLAP, "share": round(shared, 6)},
            "split": {
                "characters_a_block": BLOCK,
                "held_out": "blocks 10, 30, 50, ... of each file, the first being 0",
            },
        },
        "recipe": {
            "shape": CONFIG | {"vocab": VOCAB, "tied": True},
            "batch": BATCH,
            "window": WINDOW,
            "seeds": {"parameters": SEED, "order_of_windows": SEED},
        },
    }
    _demo_files.write(config(), args.work, args.out, args.page, tokens, blocks, made)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = options.add_argument
    add("what", choices=["train", "write"])
    add("--data", type=Path, required=True, help="the folder of the three texts")
    add("--work", type=Path, required=True, help="where the run is kept")
    add("--steps", type=int, default=5000, help="of training")
    add("--every", type=int, default=250, help="steps between states kept")
    add("--out", type=Path, default=ROOT / "dynlm" / "lm" / "demo", help="where `write` writes")
    add("--page", type=Path, default=ROOT / "docs" / "demo_model.md", help="that it fills in")
    args = options.parse_args()
    try:
        {"train": train, "write": write}[args.what](args)
    except BadArgument as error:
        raise SystemExit(f"demo_model.py: {error}") from None


if __name__ == "__main__":
    main()
