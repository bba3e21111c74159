"""Checkpoints spoiled at random, by number: each must load sound or be refused with a sentence.

As a program, run by test_lm_fuzz.py: `python lm_fuzz.py FOLDER SEED FIRST COUNT` prints a line of
JSON before and after each of them, so that a crash or a hang is known by its number.
"""

import copy
import json
import math
import resource
import shutil
import signal
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from lm_files import TIED, TINY, in_two_files, of_family, parameters, tokenizer, written

from dynlm._io import BadArgument
from dynlm._safetensors import HEADER
from dynlm.lm._decoder import Decoder
from dynlm.lm._load import load

SECONDS = 20  # that one of them may take
LONG = ("é" * 125 + ".safetensors", "é" * 300, "模" * 90 + ".safetensors", "\udcff.safetensors")
ODD = [
    *(None, True, False, "", "x", "\0", "é" * 300, [], {}, [[]], {"a": {}}, [None], [1, 2, 3]),
    *(
        0,
        -1,
        1,
        2,
        3,
        7,
        255,
        2**15,
        2**31 - 1,
        2**31,
        2**32,
        2**53,
        2**63 - 1,
        2**63,
        2**64,
        10**30,
    ),
    *(0.0, -0.0, 0.5, -1.5, 1e-300, 1e300, math.inf, -math.inf, math.nan, 10**400),
    *(
        "F32",
        "BF16",
        "I64",
        "F8_E4M3",
        "default",
        "linear",
        "llama3",
        "yarn",
        "longrope",
        "dynamic",
    ),
    *(
        "llama",
        "gpt2",
        "gemma3_text",
        "full_attention",
        "sliding_attention",
        "silu",
        "../x.safetensors",
        *LONG,
    ),
]
KEYS = [
    *("rope_scaling", "rope_theta", "rope_parameters", "head_dim", "layer_types", "sliding_window"),
    *("use_sliding_window", "max_window_layers", "quantization_config", "auto_map", "text_config"),
    *("vocab_file", "tokenizer_class", "merges_file", "tokenizer_file", "added_tokens_decoder"),
    *("num_labels", "id2label", "dtype", "torch_dtype", "attention_bias", "tie_word_embeddings"),
    *("partial_rotary_factor", "num_key_value_heads", "hidden_act", "eos_token_id", "is_decoder"),
    *("factor", "short_factor", "long_factor", "original_max_position_embeddings", "rope_type"),
    *("no_rope_layers", "no_rope_layer_interval", "sliding_window_pattern", "bos_token_id"),
]
SMALL = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2} | {
    "intermediate_size": 12
}
GROUPED = {"num_key_value_heads": 1}
WITH_WORDS = ("gpt2", "mistral", "gemma3_text", "phi3")  # that come with a tokenizer
FAMILIES = {
    "gpt2": {"vocab_size": 12, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16},
    "gpt_neox": SMALL | {"rotary_pct": 0.5},
    "mistral": SMALL | GROUPED | {"sliding_window": 4},
    "qwen2": SMALL | GROUPED | {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": SMALL | GROUPED | {"head_dim": 4},
    "smollm3": SMALL | GROUPED | {"pad_token_id": 0},
    "olmo2": SMALL | GROUPED,
    "gemma": SMALL | GROUPED | {"head_dim": 4},
    "gemma2": SMALL | GROUPED | {"head_dim": 4, "sliding_window": 4},
    "gemma3_text": SMALL | GROUPED | {"head_dim": 4, "sliding_window": 4},
    "phi3": SMALL
    | {"pad_token_id": 0, "original_max_position_embeddings": 16, "max_position_embeddings": 32}
    | {
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0],
        }
    },
}  # fmt: skip


class Hang(BaseException):
    """One of them took too long; no handler of errors may swallow that."""


def corpus(folder: Path) -> list[Path]:
    """Good checkpoints, all of which load: in one file and two, every family, some with words."""
    made = [written(folder / "single", TINY), written(folder / "tied", TIED, tokenizer(24))]
    in_two_files(written(folder / "two", TINY))
    made.append(folder / "two")
    for name, fields in FAMILIES.items():
        made.append(of_family(folder / name, name, **fields))
        if name in WITH_WORDS:
            tokenizer(12).save_pretrained(made[-1])
    return made


def spoil(source: Path, folder: Path, draw: np.random.Generator) -> str:
    """Copies `source` to `folder` with one file changed; returns how."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    path = files[draw.integers(len(files))]
    ways = [
        flip,
        cut,
        splice,
        *([edit_json] * 4 + [twice] if path.suffix == ".json" else [edit_header] * 4),
    ]
    data = path.read_bytes()
    for _ in range(1 + int(draw.integers(2))):
        way = ways[draw.integers(len(ways))]
        try:
            data = way(data, draw)
        except (ValueError, RecursionError):  # an edit of what an earlier one made unreadable
            data = flip(data, draw)
    path.write_bytes(data)
    return f"{source.name}/{path.name}: {way.__name__}"


def flip(data: bytes, draw: np.random.Generator) -> bytes:
    """A few bits, half of the time near the beginning."""
    out = bytearray(data)
    end = len(out) if draw.random() < 0.5 else min(len(out), 2000)
    for _ in range(1 + int(draw.integers(8))):
        if end:
            out[draw.integers(end)] ^= 1 << int(draw.integers(8))
    return bytes(out)


def cut(data: bytes, draw: np.random.Generator) -> bytes:
    return data[: draw.integers(len(data) + 1)]


def splice(data: bytes, draw: np.random.Generator) -> bytes:
    """A piece taken out, put in twice, or put elsewhere."""
    a, b, c = np.sort(draw.integers(len(data) + 1, size=3))
    return [data[:a] + data[b:], data[:b] + data[a:], data[:a] + data[b:c] + data[a:b] + data[c:]][
        draw.integers(3)
    ]


def edit_json(data: bytes, draw: np.random.Generator) -> bytes:
    return json.dumps(edited(json.loads(data), draw)).encode("utf-8", "surrogatepass")


def twice(data: bytes, draw: np.random.Generator) -> bytes:
    """A key that stands there twice, or very often, with its value or an odd one."""
    tree = json.loads(data)
    if not isinstance(tree, dict) or not tree:
        return data
    key, odd = list(tree)[draw.integers(len(tree))], ODD[draw.integers(len(ODD))]
    again = f"{json.dumps(key)}: {json.dumps(tree[key] if draw.random() < 0.5 else odd)}, "
    times = 1 if draw.random() < 0.8 else 20_000
    text = "{" + again * times + json.dumps(tree)[1:]
    return text.encode("utf-8", "surrogatepass")


def edit_header(data: bytes, draw: np.random.Generator) -> bytes:
    """One field of the header, or its length, which otherwise stays true."""
    length = int.from_bytes(data[:8], "little")
    if draw.random() < 0.2:
        wrong = ODD_LENGTHS[draw.integers(len(ODD_LENGTHS))]
        return (wrong(length) % 2**64).to_bytes(8, "little") + data[8:]
    way = twice if draw.random() < 0.1 else edit_json
    text = way(data[8 : 8 + length], draw)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


ODD_LENGTHS = [
    lambda n: n - 1, lambda n: n + 1, lambda n: 0, lambda n: n // 2, lambda n: 2 * n,
    lambda n: -1, lambda n: -8, lambda n: 2**63, lambda n: HEADER, lambda n: HEADER + 1,
]  # fmt: skip


def edited(tree: object, draw: np.random.Generator) -> object:
    """A place of a JSON tree removed, added, renamed, or given an odd value or a neighbour's."""
    tree = copy.deepcopy(tree)
    places = [p for p in containers(tree) if p]
    if not places:
        return ODD[draw.integers(len(ODD))]
    place = places[draw.integers(len(places))]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    key, other = keys[draw.integers(len(keys))], keys[draw.integers(len(keys))]
    odd = ODD[draw.integers(len(ODD))]
    how = draw.integers(6)
    if how == 0:
        del place[key]
    elif how == 1 and isinstance(place, dict):
        place[KEYS[draw.integers(len(KEYS))]] = odd
    elif how == 2 and isinstance(place, dict):
        place[str(odd)[:50]] = place.pop(key)
    elif how == 3:
        place[key], place[other] = place[other], place[key]
    elif isinstance(place[key], int | float) and draw.random() < 0.5:
        place[key] = place[key] + int(draw.integers(-2, 3))
    else:
        place[key] = odd
    return tree


def containers(tree: object) -> list:
    """All the dictionaries and lists in a JSON tree."""
    inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    here = [tree] if isinstance(tree, dict | list) else []
    return here + [found for value in inside for found in containers(value)]


@contextmanager
def limit(seconds: float):
    """Raises `Hang` after so many seconds."""

    def late(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(folder: Path) -> tuple[str, str]:
    """`"loaded"`, `"refused"` or what went wrong, and the sentence or the error."""
    try:
        with limit(SECONDS):
            model = load(folder)
    except BadArgument as error:
        text = str(error)
        return (
            "refused" if text.endswith((".", ")")) and len(text) < 3000 else "no sentence"
        ), text
    except Hang:
        return "hang", ""
    except BaseException as error:  # Rust panics of the tokenizers library are no Exceptions
        if isinstance(error, KeyboardInterrupt):
            raise
        return "error", f"{type(error).__name__}: {str(error)[:300]}"
    wanted = nnx.eval_shape(lambda: Decoder(model.config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    shapes = [x.shape for x in jax.tree.leaves(nnx.state(wanted))]
    got = parameters(model.decoder)
    if [x.shape for x in got.values()] != shapes:
        return "wrong shapes", ""
    if not all(np.isfinite(x).all() for x in got.values()):
        return "not finite", ""
    return "loaded", ""


def one(sources: list[Path], folder: Path, seed: int, number: int) -> dict[str, object]:
    """What becomes of the `number`th spoiled checkpoint; the same in every run."""
    draw = np.random.default_rng([seed, number])
    how = spoil(sources[number % len(sources)], folder, draw)
    begin = time.perf_counter()
    verdict, text = outcome(folder)
    spent = round(time.perf_counter() - begin, 3)
    return {"number": number, "how": how, "verdict": verdict, "text": text, "seconds": spent}


def main(folder: Path, seed: int, first: int, count: int) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    sources = corpus(folder)
    for source in sources:
        assert outcome(source) == ("loaded", ""), (source, outcome(source))
    warnings.simplefilter("error")
    for number in range(first, first + count):
        print(json.dumps({"begin": number}), flush=True)
        print(json.dumps(one(sources, folder / "spoiled", seed, number)), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak_mb": peak // 1024}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
