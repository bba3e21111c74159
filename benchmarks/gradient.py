"""One gradient step: the loss of simulated paths, and its derivative by all weights.

    16 components, drift and diagonal diffusion networks of width 64, 128 Euler steps of 1/128,
    loss = the mean of y^2 over paths, components and the states after every step

Each row draws noise of its own. Where that is the noise of `dynlm.rollout` (the same keys in
`CounterBrownianPath`), its gradient is compared with ours; elsewhere the loss is, with the mean
over many other paths, in standard errors. The second table is Stratonovich: reversible Heun and its
exact adjoint beside solvers of two evaluations a step under checkpoints.

    python benchmarks/gradient.py --json --out benchmarks/results/gradient.json
"""

import importlib
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _common import configure, dtype_of, finish, machine, parser, watch
from _models import Problem, neural
from _peers import brownian_paths, diffeqsolve, scan
from _plot import draw
from _rows import OURS, Build, Rows, Target, compare, jitted, judge, missing, selected, show

from dynlm import rollout
from dynlm.simulate import Checkpointed, Every, Reversible

DIM, WIDTH, STEPS, PATHS = 16, 64, 128, (256, 1024)
DEPTHS = {"depth 1": 1, "depth 2": 2}
SAME_NOISE = "CounterBrownianPath"
BACKPROP = ("torchsde.sdeint backprop", "torchsde.sdeint backprop, BrownianInterval(dt)")
TORCH = ("torch loop", *BACKPROP, "torchsde.sdeint_adjoint")
REVERSIBLE = f"{OURS}, ReversibleHeun, Reversible"
TORCH_REVERSIBLE = (
    "torchsde.sdeint_adjoint, reversible_heun",
    "torchsde.sdeint backprop, midpoint",
)
TARGETS = tuple(
    target
    for depth in DEPTHS
    for target in (
        Target(f"{depth}, 256 paths", BACKPROP, 2),
        Target(f"{depth}, 256 paths", "diffrax, VirtualBrownianTree", 8),
        Target(f"{depth}, 1024 paths", "torch loop", 1.3),
    )
)


def by_weights(states: Callable[[Any, Any], Any], problem: Problem, key: Any) -> Build:
    """A row: loss and gradient of `states(sde, key)` by all weights, compiled as one."""
    arrays, static = eqx.partition(problem.sde, eqx.is_inexact_array)

    def loss(arrays: Any, key: Any) -> Any:
        return jnp.mean(states(eqx.combine(arrays, static), key) ** 2)

    return jitted(jax.value_and_grad(loss), arrays, key)


def ours(problem: Problem, key: Any, **options: Any) -> Build:
    """`dynlm.rollout`, with every step kept."""

    def states(sde: Any, key: Any) -> Any:
        grid = (0.0, 1.0, problem.steps)
        saved = rollout(sde, problem.starts(), grid, key=key, save=Every(1), **options)
        return saved.ys[:, -problem.steps :]

    return by_weights(states, problem, key)


def by_diffrax(
    problem: Problem,
    key: Any,
    path: str,
    adjoint: dfx.AbstractAdjoint | None = None,
    solver: dfx.AbstractSolver | None = None,
) -> Build:
    """Stock Diffrax under `vmap`, with every step kept."""
    make = brownian_paths(problem)[path]
    adjoint = dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint

    def states(sde: Any, key: Any) -> Any:
        def one(number: Any) -> Any:
            brownian = make(jr.fold_in(key, number))
            every = dfx.SaveAt(steps=True)
            return diffeqsolve(problem, sde, brownian, adjoint, solver, every)

        return jax.vmap(one)(jnp.arange(problem.paths))

    return by_weights(states, problem, key)


def rows_of(problem: Problem) -> dict[str, Build]:
    """All rows of an Ito table."""
    key = jr.key(1)
    builds = {
        OURS: ours(problem, key),
        f"{OURS}, Checkpointed(levels=0)": ours(problem, key, adjoint=Checkpointed(levels=0)),
        f"{OURS}, Checkpointed(levels=2)": ours(problem, key, adjoint=Checkpointed(levels=2)),
        "diffrax, CounterBrownianPath": by_diffrax(problem, key, SAME_NOISE),
        "diffrax, VirtualBrownianTree": by_diffrax(problem, key, "VirtualBrownianTree"),
        "diffrax, VirtualBrownianTree, DirectAdjoint": by_diffrax(
            problem, key, "VirtualBrownianTree", dfx.DirectAdjoint()
        ),
        "lax.scan, jax.random.normal a step": by_weights(
            lambda sde, key: scan(problem, sde, key, every=True), problem, key
        ),
    }
    return builds | torch_rows(problem, TORCH, reversible=False)


def reversible_rows_of(problem: Problem) -> dict[str, Build]:
    """All rows of the Stratonovich table."""
    key, heun = jr.key(1), dfx.ReversibleHeun()
    builds = {
        REVERSIBLE: ours(problem, key, scheme=heun, adjoint=Reversible()),
        f"{OURS}, ReversibleHeun, Checkpointed": ours(
            problem, key, scheme=heun, adjoint=Checkpointed()
        ),
        f"{OURS}, Heun, Checkpointed": ours(
            problem, key, scheme=dfx.Heun(), adjoint=Checkpointed()
        ),
        "diffrax, CounterBrownianPath, ReversibleHeun": by_diffrax(
            problem, key, SAME_NOISE, solver=heun
        ),
        "diffrax, CounterBrownianPath, Heun": by_diffrax(
            problem, key, SAME_NOISE, solver=dfx.Heun()
        ),
        "diffrax, CounterBrownianPath, Midpoint": by_diffrax(
            problem, key, SAME_NOISE, solver=dfx.Midpoint()
        ),
    }
    return builds | torch_rows(problem, TORCH_REVERSIBLE, reversible=True)


def torch_rows(problem: Problem, names: tuple[str, ...], reversible: bool) -> dict[str, Build]:
    if (why := missing("torch")) is not None:
        return dict.fromkeys(names, why)
    return importlib.import_module("_torch_peers").gradient_rows(problem, reversible)


def check_of(problem: Problem, paths: int) -> Callable[[str, Any], dict[str, Any]]:
    """Each row's loss against that of many other paths, and its gradient against our own."""
    others = problem._replace(paths=paths)
    grid = (0.0, 1.0, problem.steps)
    saved: Any = rollout(problem.sde, others.starts(), grid, key=jr.key(999), save=Every(1))
    per_path = np.asarray(jnp.mean(saved.ys[:, -problem.steps :] ** 2, axis=(1, 2)), np.float64)
    error = per_path.std() * np.sqrt(1 / problem.paths + 1 / paths)
    own: dict[str, np.ndarray] = {}  # by scheme

    def check(name: str, out: Any) -> dict[str, Any]:
        loss, grads = float(out[0]), _vector(out[1])
        z, norm = (loss - per_path.mean()) / error, float(np.linalg.norm(grads))
        found = {"loss": loss, "loss_error_in_standard_errors": float(z), "gradient_norm": norm}
        note = f"loss {loss:.4f} ({z:+.1f} s.e.)"
        if name.startswith(OURS):
            own.setdefault(_scheme(name), grads)
        ref = own.get(_scheme(name), next(iter(own.values()), None))
        if ref is not None:
            found["gradient_norm_over_ours"] = norm / float(np.linalg.norm(ref))
            note += f", gradient's norm {found['gradient_norm_over_ours']:.4f} of ours"
            if _scheme(name) in own and (SAME_NOISE in name or name.startswith(OURS)):
                gap = float(np.linalg.norm(grads - ref) / np.linalg.norm(ref))
                found["gradient_distance_from_ours"] = gap
                note += f", differs by {gap:.1e}"
        return {**found, "note": note}

    return check


def _scheme(name: str) -> str:
    return next((part for part in ("ReversibleHeun", "Heun", "Midpoint") if part in name), "Euler")


def _vector(grads: Any) -> np.ndarray:
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(grads)]
    return np.concatenate(leaves)


def variants(args: Any) -> dict[str, dict[str, Any]]:
    """The tables: networks, calculus and numbers of paths."""
    counts = args.paths or ([32] if args.quick else list(PATHS))
    depths = {"depth 1": 1} if args.quick else DEPTHS
    found: dict[str, dict[str, Any]] = {}
    for paths in counts:
        for label, depth in depths.items():
            found[f"{label}, {paths} paths"] = {"paths": paths, "depth": depth}
        if args.all:
            found[f"depth 1, constant diffusion, {paths} paths"] = {
                "paths": paths,
                "depth": 1,
                "on": "nothing",
            }
        found[f"reversible, depth 1, {paths} paths"] = {
            "paths": paths,
            "depth": 1,
            "calculus": "stratonovich",
        }
    return found


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Runs what the options ask for."""
    options = parser(__doc__)
    options.add_argument("--paths", type=int, nargs="+", help="numbers of paths, a table each")
    options.add_argument("--all", action="store_true", help="also: a learned constant diffusion")
    options.add_argument("--plot", help="write bars of all tables to this file")
    args = options.parse_args(argv)
    configure(args)
    others = watch()
    results: dict[str, Any] = machine()
    if args.quick:
        args.repeat = min(args.repeat, 3)
    steps = args.steps or (16 if args.quick else STEPS)
    tables: dict[str, Rows] = {}
    for name, variant in variants(args).items():
        reversible = name.startswith("reversible")
        problem = neural(
            **{"steps": steps, "dtype": dtype_of(args), "dim": DIM, "width": WIDTH, **variant},
            name=name,
        )
        builds = reversible_rows_of(problem) if reversible else rows_of(problem)
        builds = selected(builds, args.rows)
        if not builds:
            continue
        check = check_of(problem, 1024 if args.quick else 16_384)
        rows = compare(builds, check, repeat=args.repeat, limit=args.limit)
        base = REVERSIBLE if reversible else OURS
        show(f"gradient, {problem.title}", rows, base)
        tables[name] = rows
    results |= {"dtype": args.dtype, "repeat": args.repeat, "steps": steps, "dim": DIM}
    results |= {"width": WIDTH, "tables": tables}
    comparable = steps == STEPS and args.dtype == "float32"
    if any(OURS in rows for rows in tables.values()):
        results["targets"] = judge(TARGETS, tables, comparable)
    if args.plot:
        draw(args.plot, tables, f"One gradient step, {jax.devices()[0].device_kind}")
    return finish(results, args, others)


if __name__ == "__main__":
    main()
