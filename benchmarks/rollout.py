"""Many paths forward: `dynlm.rollout` beside Diffrax, torchsde and loops written by hand.

    linear   dX = 1.5 X dt + .01 X dW, 3 components, X(0) = 1; 8,192 paths of 256 Euler steps
    neural   64 components, drift and diagonal diffusion each a network 65-128-128-64 of state
             and time; 1,024 paths of 128 Euler steps

Every row makes the final states of the same SDE on the same steps with noise of its own, in one
process, in turns, blocking. The linear ones are compared with the moments that Euler's scheme has
exactly, the neural ones with those of many more paths of `dynlm.rollout`.

    python benchmarks/rollout.py --json --out benchmarks/results/rollout.json --plot rollout.png
    python benchmarks/rollout.py --scaling --rows none
    python benchmarks/rollout.py --only linear --paths 8388608 --repeat 3       # on a GPU
"""

import importlib
from statistics import NormalDist
from typing import Any

import jax
import jax.random as jr
import numpy as np
from _common import configure, dtype_of, finish, machine, parser, watch
from _models import Problem, exact_moments, linear, neural
from _peers import NO_NOISE, diffrax_rows, dynlm_rows, matmul_rows, numpy_rows, scan_rows
from _plot import draw
from _rows import OURS, Build, Rows, Target, compare, judge, missing, selected, show
from _scaling import scaling

from dynlm import rollout

TORCHSDE = ("torchsde.sdeint", "torchsde.sdeint, BrownianInterval(dt)")
TORCH = ("torch loop", *TORCHSDE)
TARGETS = (
    Target("linear", "diffrax, UnsafeBrownianPath", 12),
    Target("linear", "diffrax, VirtualBrownianTree", 150),
    Target("linear", "numpy loop", 4),
    Target("neural", TORCHSDE, 1.8),
    Target("neural", "torch loop", 1.4),
    Target("neural", "diffrax, VirtualBrownianTree", 9),
    Target("neural", "roofline", 0.65),
)
SIZES = {"linear": (8192, 256), "neural": (1024, 128)}
REFERENCE_PATHS = 16_384


def every_row(problem: Problem) -> dict[str, Build]:
    """All rows of one table; those that cannot run here say why."""
    key = jr.key(1)
    builds = dynlm_rows(problem, key) | diffrax_rows(problem, key)
    builds |= scan_rows(problem, key) | numpy_rows(problem, seed=1)
    if (why := missing("torch")) is not None:
        return builds | dict.fromkeys(TORCH, why)
    return builds | importlib.import_module("_torch_peers").rows(problem)


def check_linear(problem: Problem):
    """Mean and variance over paths and components, in standard errors from the exact ones."""
    mean, var = exact_moments(problem.steps)

    def check(name: str, out: Any) -> dict[str, Any]:
        if name == NO_NOISE:
            return {"note": "no noise, no moments"}
        x = np.asarray(_numpy(out), np.float64).ravel()
        errors = {
            "mean_error_in_standard_errors": (x.mean() - mean) / np.sqrt(var / x.size),
            "variance_error_in_standard_errors": (x.var() - var) / (var * np.sqrt(2 / x.size)),
        }
        a, b = errors.values()
        return {
            "mean": x.mean(),
            "variance": x.var(),
            **{name: float(error) for name, error in errors.items()},
            "note": f"mean {a:+.1f} s.e., variance {b:+.1f} s.e.",
        }

    return check


def check_neural(problem: Problem, paths: int):
    """The largest error of any component's mean and variance, against many other paths."""
    reference = problem._replace(paths=paths)
    grid = (0.0, 1.0, problem.steps)
    ends = rollout(problem.sde, reference.starts(), grid, key=jr.key(999))
    ends = np.asarray(_numpy(ends), np.float64)
    mean, var = ends.mean(0), ends.var(0)
    fourth = ((ends - mean) ** 4).mean(0)
    both = 1 / problem.paths + 1 / paths

    def check(name: str, out: Any) -> dict[str, Any]:
        if name == NO_NOISE or name.startswith("matmul"):
            return {}
        x = np.asarray(_numpy(out), np.float64)
        a = np.max(np.abs(x.mean(0) - mean) / np.sqrt(var * both))
        b = np.max(np.abs(x.var(0) - var) / np.sqrt((fourth - var**2) * both))
        return {
            "largest_mean_error_in_standard_errors": float(a),
            "largest_variance_error_in_standard_errors": float(b),
            "note": f"largest error: mean {a:.1f} s.e., variance {b:.1f} s.e.",
        }

    return check


def expected_largest(components: int) -> float:
    """The median of the largest of so many absolute standard normals."""
    return NormalDist().inv_cdf((1 + 0.5 ** (1 / components)) / 2)


def rates(rows: Rows, problem: Problem, flops: dict[str, float]) -> dict[str, float]:
    """Adds path-steps a second, and shares of the best rate of a matrix product.

    Returns:
        The rates in GFLOP/s, by product, the best first.
    """
    found = {}
    for name, number in flops.items():
        if "median_ms" in rows.get(name, {}):
            found[name] = rate = number / rows[name]["median_ms"] / 1e6
            rows[name] |= {"gflop_per_s": rate, "note": f"{rate:.0f} GFLOP/s"}
    found = dict(sorted(found.items(), key=lambda item: -item[1]))
    for name, row in rows.items():
        if "median_ms" not in row or name in flops:
            continue
        seconds = row["median_ms"] / 1e3
        row["path_steps_per_s"] = problem.paths * problem.steps / seconds
        notes = [f"{row['path_steps_per_s'] / 1e6:.4g} M path-steps/s"]
        if found:
            row["gflop_per_s_of_products"] = problem.flops() / seconds / 1e9
            row["roofline_share"] = row["gflop_per_s_of_products"] / next(iter(found.values()))
            notes.append(f"{row['roofline_share']:.0%} of roofline")
        row["note"] = "; ".join([*notes, *filter(None, [row.get("note")])])
    return found


def table(problem: Problem, args: Any) -> tuple[Rows, dict[str, Any]]:
    """Runs and prints one table."""
    builds, flops = every_row(problem), {}
    check = check_linear(problem)
    extra: dict[str, Any] = {"paths": problem.paths, "steps": problem.steps, "dim": problem.dim}
    builds = selected(builds, args.rows)
    if problem.nets is not None and builds:
        check = check_neural(problem, min(REFERENCE_PATHS, 16 * problem.paths))
        products, flops = matmul_rows(problem)
        builds |= products
    rows = compare(builds, check, repeat=args.repeat, limit=args.limit)
    roofs = rates(rows, problem, flops)
    if rows:
        show(problem.title, rows)
    if problem.nets is not None and builds:
        expected = expected_largest(problem.dim)
        extra |= {
            "flop": problem.flops(),
            "gflop_per_s": roofs,
            "expected_largest_error_in_standard_errors": expected,
        }
        print(f"  of {problem.dim} components the largest error is expected at {expected:.1f} s.e.")
        share = rows.get(OURS, {}).get("gflop_per_s_of_products")
        for i, (name, rate) in enumerate(roofs.items()):
            kind = "the roofline" if i == 0 else "a lower rate"
            ours = f"; {OURS} reaches {share / rate:.0%} of it" if share else ""
            print(f"  {kind}: {rate:.0f} GFLOP/s, {name}{ours}")
    return rows, extra


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Runs what the options ask for."""
    options = parser(__doc__)
    options.add_argument("--paths", type=int, help="how many paths, instead of the usual number")
    options.add_argument("--only", choices=list(SIZES), help="one of the two tables")
    options.add_argument("--plot", help="write bars of both tables to this file")
    options.add_argument("--scaling", action="store_true", help="also: time over sizes")
    args = options.parse_args(argv)
    configure(args)
    others = watch()
    results: dict[str, Any] = machine()
    if args.quick:
        args.repeat = min(args.repeat, 3)
    names = [args.only] if args.only else list(SIZES)
    tables, sizes, comparable = {}, {}, args.dtype == "float32"
    for name in names:
        paths, steps = (256, 16) if args.quick else SIZES[name]
        paths, steps = args.paths or paths, args.steps or steps
        comparable &= (paths, steps) == SIZES[name]
        make = {"linear": linear, "neural": neural}[name]
        tables[name], sizes[name] = table(make(paths, steps, dtype_of(args)), args)
    results |= {"dtype": args.dtype, "repeat": args.repeat, "sizes": sizes, "tables": tables}
    if any(OURS in rows for rows in tables.values()):
        results["targets"] = judge(TARGETS, tables, comparable)
    if args.scaling:
        results["scaling"] = scaling(
            dtype_of(args), quick=args.quick, repeat=min(args.repeat, 5), limit=args.limit
        )
    if args.plot:
        titles = {f"{name}: {_sizes(sizes[name])}": rows for name, rows in tables.items()}
        draw(args.plot, titles, f"Final states of an SDE ensemble, {jax.devices()[0].device_kind}")
    return finish(results, args, others)


def _sizes(of: dict[str, Any]) -> str:
    return f"{of['paths']:,} paths, {of['dim']} components, {of['steps']} steps"


def _numpy(out: Any) -> np.ndarray:
    return np.asarray(out if isinstance(out, np.ndarray | jax.Array) else out.double().cpu())


if __name__ == "__main__":
    main()
