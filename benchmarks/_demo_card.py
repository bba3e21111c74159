"""The figures of the embedded model's card, and the page that shows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dynlm._io import BadArgument, write_atomic

RESAMPLES = 10_000
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
NAMES = {  # of what was measured, in the order of the page
    "bfloat16": "the model as it ships (bfloat16)",
    "float32": "before it was rounded (float32)",
    "early": "`early`: after 5 % of the steps (8-bit)",
    "untrained": "`untrained`: before the first step (8-bit)",
    "kneser_ney_5": "Kneser-Ney, 5 tokens",
    "kneser_ney_5_windows": "Kneser-Ney, 5 tokens, its history cut as the model's",
    "kneser_ney_4": "Kneser-Ney, 4 tokens",
    "kneser_ney_3": "Kneser-Ney, 3 tokens",
}


class Block(Protocol):
    """A held-out stretch of a file."""

    @property
    def file(self) -> str: ...
    @property
    def tokens(self) -> np.ndarray: ...
    @property
    def bytes(self) -> int: ...


def by_block(nats: np.ndarray, blocks: Sequence[Block]) -> np.ndarray:
    """Sums over the blocks of what each of their tokens has."""
    ends = np.cumsum([len(block.tokens) for block in blocks])
    return np.array([part.sum() for part in np.split(nats, ends[:-1])], np.float64)


def figures(nats: np.ndarray, blocks: Sequence[Block]) -> dict[str, Any]:
    """Bits per byte, of all and file by file, and nats per token."""
    sums, sizes = by_block(nats, blocks), np.array([block.bytes for block in blocks])
    files = np.array([block.file for block in blocks])
    bits = sums / np.log(2)
    return {
        "bits_per_byte": round(float(bits.sum() / sizes.sum()), 5),
        "nats_per_token": round(float(nats.astype(np.float64).mean()), 5),
        "bits_per_byte_by_file": {
            str(name): round(float(bits[files == name].sum() / sizes[files == name].sum()), 5)
            for name in dict.fromkeys(files)
        },
    }


def below(ours: np.ndarray, theirs: np.ndarray, *, seed: int) -> dict[str, Any]:
    """By which share `ours` lies below `theirs`, and its 95 % interval over blocks drawn anew."""
    draw = np.random.default_rng(seed).integers(len(ours), size=(RESAMPLES, len(ours)))
    again = 1 - ours[draw].sum(axis=1) / theirs[draw].sum(axis=1)
    return {
        "share": round(float(1 - ours.sum() / theirs.sum()), 5),
        "interval_95": [round(float(x), 5) for x in np.quantile(again, [0.025, 0.975])],
        "blocks": len(ours),
        "resamples": RESAMPLES,
        "seed": seed,
    }


def overlap(read: Sequence[str], held: Sequence[str], length: int) -> float:
    """Which share of the strings of `length` bytes in `held` also stand somewhere in `read`.

    White space counts as one space, however the lines break.
    """
    found, known = (np.concatenate([_hashes(x, length) for x in part]) for part in (held, read))
    return float(np.isin(found, known).mean())


def _hashes(text: str, length: int) -> np.ndarray:
    """Of every string of `length` bytes: its bytes as digits of a number, modulo 2**64."""
    data = np.frombuffer(" ".join(text.split()).encode(), np.uint8).astype(np.uint64)
    if len(data) < length:
        return np.empty(0, np.uint64)
    base = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
    inverse = pow(base, -1, 2**64)
    up, down = (np.cumprod(np.full(len(data), x, np.uint64)) for x in (base, inverse))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((data + 1) * up)])
    return (sums[length:] - sums[:-length]) * down[: len(data) - length + 1]


def fill(page: Path, card: dict[str, Any]) -> None:
    """Puts the figures of `card` between the marks of `page`."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise BadArgument(f"{page} must have the lines {BEGIN} and {END}, each once.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_atomic(page, f"{before}{BEGIN}\n\n{shown(card)}\n{END}{after}".encode())


def shown(card: dict[str, Any]) -> str:
    """The figures as Markdown."""
    return "\n".join([*_held_out(card), *_data(card), *_run(card), *_samples(card)])


def _held_out(card: dict[str, Any]) -> list[str]:
    files = list(card["data"]["files"])
    heads = ["", "bits per byte", *files, "nats per token"]
    lines = ["## Held-out text", "", *_rows([heads, ["---"] * len(heads)])]
    for name, label in NAMES.items():
        row = card["held_out"][name]
        each = [row["bits_per_byte_by_file"][file] for file in files]
        numbers = [row["bits_per_byte"], *each, row["nats_per_token"]]
        lines += _rows([[label, *(f"{x:.3f}" for x in numbers)]])
    less = card["below_kneser_ney_5"]
    low, high = (f"{100 * x:.1f}" for x in less["interval_95"])
    return lines + [
        "",
        f"The model as it ships lies {100 * less['share']:.1f} % below Kneser-Ney of 5 tokens in",
        f"bits per byte (95 % interval {low} to {high} %, from {less['resamples']:,} draws with",
        f"replacement of the {less['blocks']} held-out blocks).",
        "",
    ]


def _data(card: dict[str, Any]) -> list[str]:
    data = card["data"]
    heads = ["file", "bytes to train on", "bytes held out", "blocks held out", "SHA-256"]
    rows = [heads, ["---"] * len(heads)]
    for name, one in data["files"].items():
        counts = (one["train_bytes"], one["held_out_bytes"], one["held_out_blocks"])
        rows.append([f"`{name}`", *(f"{x:,}" for x in counts), f"`{one['sha256'][:16]}...`"])
    return [
        "## Data",
        "",
        *_rows(rows),
        "",
        f"In tokens: {data['train_tokens']:,} to train on, {data['held_out_tokens']:,} held out.",
        f"Of the strings of {data['overlap']['bytes']} bytes in held-out text,",
        f"{100 * data['overlap']['share']:.2f} % stand in the training text too.",
        "",
    ]


def _run(card: dict[str, Any]) -> list[str]:
    recipe, run = card["recipe"], card["run"]
    shape = ", ".join(f"{name}={value}" for name, value in recipe["shape"].items())
    settings = ", ".join(f"{name}={value}" for name, value in recipe["optimiser"].items())
    seeds = ", ".join(f"{name} {value}" for name, value in recipe["seeds"].items())
    versions = ", ".join(f"{name} {value}" for name, value in run["versions"].items())
    return [
        "## Recipe and run",
        "",
        f"- Parameters: {card['parameters']:,} (`llama({shape})`).",
        f"- {recipe['steps']:,} steps of {recipe['batch']} windows of {recipe['window']} tokens,",
        f"  {recipe['epochs']:.1f} times through the text.",
        f"- `pretrain.optimiser({settings})`.",
        f"- Seeds: {seeds}.",
        f"- {run['hours']:.1f} hours from the first state kept to the last, in the background of",
        f"  other work, on {run['cpus']} CPU cores.",
        f"- Versions: {versions}.",
        "",
    ]


def _samples(card: dict[str, Any]) -> list[str]:
    first = card["samples"][0]
    lines = [
        "## Samples",
        "",
        f"The first {len(card['samples'])} seeds, none chosen: up to {first['budget']} tokens at",
        f"temperature {first['temperature']}, the prompt in front.",
        "",
    ]
    for one in card["samples"]:
        lines += [f"Seed {one['seed']}:", "", "```text", one["text"].strip("\n"), "```", ""]
    return lines


def _rows(rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in rows]
