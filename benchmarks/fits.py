"""Fits to states of a trained language model, side by side on held-out stories.

    states:  of stories260k reading the first 64 tokens of 3,100 passages of tinystories.txt, at
             layer 3 and after the last norm; 16 principal components, whitened on the training
             passages, which are four in five; layer 3 again with the states of each passage in a
             random order
    scores:  nats per step and dimension of transitions from the second token on, with intervals
             by passage, all by one call of `predict.score`

All are fitted with the toolkit's own defaults. Learned models hold out a tenth of their training
passages to choose by. Without `--data` the embedded model reads this project's own pages, which
shows that it works and nothing else.

    python benchmarks/fits.py --data FOLDER --json --out benchmarks/results/fits.json
"""

import dataclasses
import fnmatch
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np
from _common import finish, machine, parser, watch
from _fits_states import MODEL, TEXT, Size, Table, exported, tables

import dynlm
from dynlm import baselines, predict, specs
from dynlm._judge import Rows

DIAGONAL, FULL_NOISE = "neural SDE, diagonal noise", "neural SDE, full noise"
# What a first attempt reached, nats per step and dimension.
ANCHORS: dict[str, dict[str, float]] = {
    "layer 3": {
        "random walk": 1.636,
        "iid": 1.381,
        "var1": 1.292,
        DIAGONAL: 1.112,
        FULL_NOISE: 0.903,
        "mixture density, 8": 0.554,
        "mixture density, 64": -0.061,
    },
    "layer final": {
        "random walk": 1.671,
        "iid": 1.412,
        "var1": 1.343,
        DIAGONAL: 1.175,
        FULL_NOISE: 1.036,
        "mixture density, 8": 0.831,
        "mixture density, 64": 0.490,
    },
}
MIXED = {"iid": 1.418, "var1": 1.417, DIAGONAL: 1.418}
ANCHORS["layer 3, shuffled in time"] = MIXED
SLACK = 0.01  # that another division of the passages is worth
LAYERS: tuple[Any, ...] = (3, "final")
FULL: dict[str, Any] = dict(size=Size(3100, 64, 16), mixture={})
QUICK: dict[str, Any] = dict(
    size=Size(120, 33, 4), mixture=dict(width=16, depth=1, steps=40, batch=64)
)
Make = Callable[[Rows, jax.Array], Any]


def models(dim: int, mixture: dict[str, Any], training: dict[str, Any]) -> dict[str, Make]:
    """What is fitted, by name: callables of training rows, with their documents, and a key."""

    def density(components: int, **more: Any) -> Make:
        return lambda rows, key: baselines.mixture_density(
            rows.paths, components, key=key, docs=rows.docs, **mixture, **more
        )

    return {
        "random walk": lambda rows, key: baselines.random_walk(rows.paths),
        "iid": lambda rows, key: baselines.iid(rows.paths),
        "var1": lambda rows, key: baselines.var1(rows.paths),
        "ou": lambda rows, key: baselines.ou(rows.paths, docs=rows.docs),
        "ar4": lambda rows, key: baselines.autoregression(rows.paths, 4, docs=rows.docs),
        "switching4": lambda rows, key: baselines.switching(rows.paths, 4, key=key),
        DIAGONAL: lambda rows, key: neural(rows, key, dim, "diagonal", training),
        FULL_NOISE: lambda rows, key: neural(rows, key, dim, "full", training),
        "mixture density, 8": density(8),
        "mixture density, 64": density(64),
        "mixture density, 8 full": density(8, diagonal=False),
    }


def neural(rows: Rows, key: jax.Array, dim: int, noise: Any, training: dict) -> Any:
    """A neural SDE with Euler's law, from the second state of each row on."""
    later = jax.tree.map(lambda x: x[:, 1:], rows.paths)
    chosen = np.unique(rows.docs, return_inverse=True)[1] % 10 == 0
    held_out, train = (jax.tree.map(lambda x, w=w: x[w], later) for w in (chosen, ~chosen))
    spec = specs.NeuralSDE(dim, diffusion=noise)
    run = dynlm.fit(spec, train, key=key, held_out=held_out, quiet=True, **training)
    return run.predictor()


def fitted(table: Table, makes: dict[str, Make], key: jax.Array) -> tuple[dict, dict]:
    """Models by name, and the seconds that each took."""
    found, seconds = {}, {}
    for number, (name, make) in enumerate(makes.items()):
        start = time.perf_counter()
        found[name] = make(table.train, jr.fold_in(key, number))
        jax.block_until_ready([x for x in jax.tree.leaves(found[name]) if isinstance(x, jax.Array)])
        seconds[name] = time.perf_counter() - start
    return found, seconds


def measured(
    title: str, table: Table, makes: dict[str, Make], anchors: dict[str, float], key: jax.Array
) -> dict[str, Any]:
    """The scores of all models on one kind of states, as rows; and prints them."""
    fit_key, score_key = jr.split(key)
    found, seconds = fitted(table, makes, fit_key)
    scores = predict.score(found, table.test.paths, table.test.docs, key=score_key, horizons=())
    print(
        f"\n{title}: {scores.documents} passages, {scores.transitions:,} transitions, components "
        f"hold {table.kept:.0%} of the variance"
    )
    print(f"  {'':28s} {'nats per step and dim':>24s} {'first attempt':>14s} {'fit':>9s}")
    rows = {}
    for name, one in scores.to_json()["models"].items():
        nll, anchor = one["nll"], anchors.get(name)
        row = {key: nll.get(key) for key in ("value", "low", "high", "reason")}
        rows[name] = {k: v for k, v in row.items() if k != "reason" or v is not None}
        rows[name] |= {"seconds": seconds[name], "anchor": anchor, "r2": one["r2"]["value"]}
        said = str(scores.models[name].nll) if nll["value"] is not None else "none"
        before = "" if anchor is None else f"{anchor:.3f}"
        print(f"  {name:28s} {said:>24s} {before:>14s} {seconds[name]:7.1f} s")
    return rows


def verdicts(found: dict[str, dict[str, Any]], comparable: bool) -> list[dict[str, Any]]:
    """Whether each number of the first attempt is reached; and prints it."""
    print("\nTargets" if comparable else "\nNothing is known of these states to compare with.")
    judged = []
    for table, rows in found.items():
        for name, row in rows.items():
            if row["anchor"] is None:
                continue
            value = row["value"]
            reached = None if value is None else bool(value <= row["anchor"] + SLACK)
            said = {None: "not measured", True: "yes", False: "no"}[reached]
            print(f"  {table}, {name}: at most {row['anchor']:.3f}: {said}")
            one = {"table": table, "ours": name, "at_most": row["anchor"], "measured": value}
            judged.append(one | {"reached": reached, "comparable": comparable})
    return judged


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--data", help=f"a folder with {MODEL} and {TEXT}")
    args = options.parse_args(arguments)
    if args.dtype != "float32" or args.precision is not None:
        raise SystemExit("fits.py fits in float32. It takes no `--dtype` or `--precision`.")
    others = watch()
    sizes = QUICK if args.quick else FULL
    comparable = not args.quick and args.data is not None
    training: dict[str, Any] = dict(steps=20, every=10) if args.quick else {}
    if args.steps is not None:
        training |= dict(steps=args.steps, every=max(1, args.steps // 20))
    size: Size = sizes["size"]
    makes = models(size.dim, sizes["mixture"], training)
    makes = {k: v for k, v in makes.items() if any(fnmatch.fnmatchcase(k, p) for p in args.rows)}
    with tempfile.TemporaryDirectory(prefix="dynlm-fits-") as name:
        start = time.perf_counter()
        store = exported(args.data, Path(name) / "store", size, LAYERS)
        print(f"export: {len(store)} rows in {time.perf_counter() - start:.1f} s")
        data = tables(store, size, LAYERS, LAYERS[0])
        found = {
            title: measured(
                title, table, makes, ANCHORS[title] if comparable else {}, jr.key(number)
            )
            for number, (title, table) in enumerate(data.items())
        }
    results = {
        "benchmark": "fits",
        "states": "the embedded model" if args.data is None else "stories260k, tinystories",
        "sizes": size._asdict(),
        "neural": specs.to_json(specs.NeuralSDE(size.dim)) | dataclasses.asdict(dynlm.Adam()),
        "training": training,
        **machine(),
        "tables": found,
        "targets": verdicts(found, comparable),
    }
    return finish(results, args, others)


if __name__ == "__main__":
    main()
