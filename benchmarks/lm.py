"""Forward and sampling with the states of every layer, beside PyTorch.

    GPT-2's shape (124 M parameters, random weights, float32)
    forward: 8 rows of 128 tokens, logits and all 13 layers and the final state
    sample:  8 prompts of 8 tokens, 56 tokens after each, temperature 1, all layers of each token

All rows have the same weights. What ours computes is compared with PyTorch's states of the same
tokens, layer by layer. Sampled tokens differ, as the random numbers do. Memory is what a call
takes beside the weights: of ours, temporaries and results of the compiled program; of PyTorch,
what the peak of a fresh process rose by.

    python benchmarks/lm.py --json --out benchmarks/results/lm.json
"""

import importlib
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _common import configure, finish, machine, parser, watch
from _rows import Build, Rows, Run, Target, compare, judge, missing, selected, show
from flax import nnx

from dynlm import lm

OURS = "dynlm.lm"
SDPA, EAGER = "torch, sdpa", "torch, eager"
GENERATE = "torch generate, sdpa"
FLOOR = "weights read once a step"
TARGETS = (
    Target("forward", (SDPA, EAGER), 1.35, OURS),
    Target("sample", GENERATE, 2.0, OURS),
)
BATCH, TIME, PROMPT, BUDGET = 8, 128, 8, 56
SHAPE = dict(vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
QUICK = dict(vocab_size=211, n_positions=128, n_embd=32, n_layer=2, n_head=2)


def models(shape: dict[str, int], folder: Path) -> tuple[lm.LanguageModel, Any]:
    """The same random weights in both, written by one and loaded by the other."""
    peer = None
    if missing("torch") is None:
        peer = importlib.import_module("_torch_lm").gpt2(shape, folder)
        return lm.load(str(folder)), peer
    layer = lm.Layer(None, None, (shape["n_embd"] // shape["n_head"]) ** -0.5)
    config = lm.Config(
        family="gpt2",
        vocab=shape["vocab_size"],
        width=shape["n_embd"],
        heads=shape["n_head"],
        kv_heads=shape["n_head"],
        head_dim=shape["n_embd"] // shape["n_head"],
        hidden=4 * shape["n_embd"],
        context=shape["n_positions"],
        layers=(layer,) * shape["n_layer"],
        norm="layer",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation="gelu_tanh",
        learned_positions=True,
        tied=True,
    )
    decoder = lm.Decoder(config, rngs=nnx.Rngs(0))
    return lm.LanguageModel(decoder, None, lm.Source("", None, ())), None


def worst(states: Any, truth: dict[Any, np.ndarray]) -> float:
    """The largest relative error of a layer: of its largest entry, over all tokens."""
    errors = [
        np.max(np.abs(np.asarray(states[name], np.float64) - x)) / np.max(np.abs(x))
        for name, x in truth.items()
    ]
    return float(max(errors))


def forward(model: lm.LanguageModel, peer: Any, layers: Any) -> dict[str, Build]:
    ids = texts(model)
    tokens = jnp.asarray(ids, jnp.int32)
    args = (model.decoder, tokens, jnp.broadcast_to(jnp.arange(TIME, dtype=jnp.int32), ids.shape))

    def ours(names: Any) -> Build:
        def build() -> Run:
            def whole(decoder: lm.Decoder, tokens: Any, positions: Any) -> Any:
                out = decoder(tokens, positions, layers=names)
                return decoder.unembed(out.final), out.states

            return Run(
                lambda: jax.block_until_ready(model(tokens, layers=names)),
                lambda: _bytes(jax.jit(whole), *args),
                jax.default_backend(),
            )

        return build

    rows: dict[str, Build] = {OURS: ours(layers), f"{OURS}, no states": ours(())}
    if peer is None:
        return rows | {SDPA: "not installed: torch", EAGER: "not installed: torch"}
    return rows | {
        SDPA: lambda: Run(lambda: peer.forward(ids, "sdpa"), lambda: peer.peak("sdpa", ids)),
        EAGER: lambda: Run(lambda: peer.forward(ids, "eager"), lambda: peer.peak("eager", ids)),
    }


def sampling(model: lm.LanguageModel, peer: Any, layers: Any) -> dict[str, Build]:
    ids = np.random.default_rng(1).integers(model.config.vocab, size=(BATCH, PROMPT))
    keys = iter(range(10**6))

    def ours(names: Any, decoding: lm.Decoding) -> Build:
        settings = dict(budget=BUDGET, decoding=decoding, layers=names)

        def call() -> Any:
            key = jax.random.key(next(keys))
            return jax.block_until_ready(lm.sample(model.decoder, ids, key=key, **settings))

        def memory() -> int | None:
            whole = jax.jit(lambda decoder, key: lm.sample(decoder, ids, key=key, **settings))
            return _bytes(whole, model.decoder, jax.random.key(0))

        return lambda: Run(call, memory, jax.default_backend())

    def read() -> Run:
        total = jax.jit(lambda xs: sum(jnp.sum(x) for x in xs))
        weights = jax.tree.leaves(model.decoder)
        return Run(lambda: [total(weights).block_until_ready() for _ in range(BUDGET)])

    rows: dict[str, Build] = {
        OURS: ours(layers, lm.Decoding()),
        f"{OURS}, no states": ours((), lm.Decoding()),
        f"{OURS}, top-k 50, top-p .95": ours(layers, lm.Decoding(0.8, top_k=50, top_p=0.95)),
        FLOOR: read,
    }
    if peer is None:
        return rows | {GENERATE: "not installed: torch"}
    return rows | {
        GENERATE: lambda: Run(
            lambda: peer.generate(ids, BUDGET, {}), lambda: peer.peak("generate", ids, BUDGET)
        ),
        f"{GENERATE}, top-k 50, top-p .95": lambda: Run(
            lambda: peer.generate(ids, BUDGET, dict(temperature=0.8, top_k=50, top_p=0.95))
        ),
    }


def _bytes(f: Any, *args: Any) -> int | None:
    stats = f.lower(*args).compile().memory_analysis()
    return None if stats is None else int(stats.temp_size_in_bytes + stats.output_size_in_bytes)


def rates(rows: Rows, tokens: int) -> Rows:
    """With tokens a second."""
    for row in rows.values():
        if "median_ms" in row:
            row["tokens_per_second"] = 1e3 * tokens / row["median_ms"]
            row["note"] = f"{row['tokens_per_second']:7.0f} tokens/s"
            if row.get("worst_layer_error") is not None:
                row["note"] += f", error {row['worst_layer_error']:.1e}"
    return rows


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    args = parser(__doc__).parse_args(arguments)
    if args.dtype != "float32" or args.steps is not None:
        raise SystemExit("lm.py measures float32, and takes no `--steps`.")
    configure(args)
    others = watch()
    shape = QUICK if args.quick else SHAPE
    with tempfile.TemporaryDirectory() as folder:
        model, peer = models(shape, Path(folder))
    layers = (*range(model.config.depth + 1), "final")

    def check(name: str, out: Any) -> dict[str, Any]:
        if peer is None or not name.startswith(OURS) or "no states" in name:
            return {}
        if isinstance(out, lm.Sampled):
            return {"worst_layer_error": worst(out.states, peer.states(np.asarray(out.tokens)))}
        return {"worst_layer_error": worst(out[1], peer.states(texts(model)))}

    tables = {
        "forward": (forward(model, peer, layers), BATCH * TIME),
        "sample": (sampling(model, peer, layers), BATCH * BUDGET),
    }
    found: dict[str, Rows] = {}
    for title, (builds, tokens) in tables.items():
        rows = compare(selected(builds, args.rows), check, repeat=args.repeat, limit=args.limit)
        found[title] = rates(rows, tokens)
        show(f"{title}: {tokens} tokens", found[title], OURS)
    results = {
        "benchmark": "lm",
        "shape": shape,
        "parameters": sum(x.size for x in jax.tree.leaves(model.decoder)),
        "sizes": dict(batch=BATCH, time=TIME, prompt=PROMPT, budget=BUDGET),
        **machine(),
        "tables": found,
        "targets": judge(TARGETS, found, comparable=not args.quick),
    }
    return finish(results, args, others)


def texts(model: lm.LanguageModel) -> np.ndarray:
    """Random tokens to read."""
    return np.random.default_rng(0).integers(model.config.vocab, size=(BATCH, TIME))


if __name__ == "__main__":
    main()
