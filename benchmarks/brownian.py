"""Change one line of your Diffrax code: what the Brownian path costs inside `diffeqsolve`.

    dX = 1.5 X dt + .01 X dW, 3 components, Euler, X(0) = 1, t from 0 to 1

The paths are timed in one process, in turns, blocking, and their final states are compared with the
mean and variance that Euler's scheme has exactly (its mean is below e^1.5, by its bias).
The second table is a gradient step through the same solve, with the default adjoint. Nothing but
`brownian(key)` differs between rows.

    python benchmarks/brownian.py --json --out benchmarks/results/brownian.json
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np

from dynlm import CounterBrownianPath

DRIFT, NOISE, DIM = 1.5, 0.01, 3


def paths(dt: float) -> dict[str, Callable]:
    """The line to change."""
    return {
        "CounterBrownianPath": lambda key: CounterBrownianPath((DIM,), key, dt),
        "UnsafeBrownianPath": lambda key: dfx.UnsafeBrownianPath((DIM,), key),
        "VirtualBrownianTree": lambda key: dfx.VirtualBrownianTree(0.0, 1.0, dt / 2, (DIM,), key),
    }


def end(brownian: dfx.AbstractBrownianPath, drift, steps: int, adjoint: dfx.AbstractAdjoint):
    """X(1) of one path: stock Diffrax."""
    terms = dfx.MultiTerm(
        dfx.ODETerm(lambda t, y, args: drift * y),
        dfx.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(NOISE * y), brownian),
    )
    solution = dfx.diffeqsolve(
        terms, dfx.Euler(), 0.0, 1.0, 1 / steps, jnp.ones(DIM), max_steps=steps, adjoint=adjoint
    )
    return solution.ys[0]


def forward(brownian: Callable, steps: int, adjoint: dfx.AbstractAdjoint) -> Callable:
    return jax.jit(jax.vmap(lambda key: end(brownian(key), DRIFT, steps, adjoint)))


def gradient(brownian: Callable, steps: int) -> Callable:
    def loss(drift, keys):
        adjoint = dfx.RecursiveCheckpointAdjoint()
        ends = jax.vmap(lambda key: end(brownian(key), drift, steps, adjoint))(keys)
        return jnp.mean(ends**2)

    return jax.jit(lambda keys: jax.grad(loss)(jnp.float32(DRIFT), keys))


def exact(steps: int) -> tuple[float, float]:
    """Mean and variance of Euler's X(1): factors 1 + drift dt + noise dW, independent."""
    one, two = 1 + DRIFT / steps, (1 + DRIFT / steps) ** 2 + NOISE**2 / steps
    return one**steps, two**steps - one ** (2 * steps)


def accuracy(ends: np.ndarray, steps: int) -> dict[str, float]:
    """Errors of mean and variance in standard errors, over paths and components."""
    mean, var = exact(steps)
    x = np.asarray(ends, np.float64).ravel()
    return {
        "mean": x.mean(),
        "exact_mean": mean,
        "mean_error_in_standard_errors": (x.mean() - mean) / np.sqrt(var / x.size),
        "variance": x.var(),
        "exact_variance": var,
        "variance_error_in_standard_errors": (x.var() - var) / (var * np.sqrt(2 / x.size)),
    }


def once(run: Callable, keys: jax.Array) -> tuple[float, jax.Array]:
    start = time.perf_counter()
    out = jax.block_until_ready(run(keys))
    return time.perf_counter() - start, out


def compare(runs: dict[str, Callable], keys: jax.Array, repeat: int) -> dict[str, dict]:
    """First call and later calls of each, in turns; a failure is a row like any other."""
    rows, live = {}, {}
    for name, run in runs.items():
        try:
            first, out = once(run, keys)
        except Exception as error:
            rows[name] = {"failed": str(error).strip().splitlines()[0]}
            continue
        rows[name], live[name] = (
            {"first_ms": 1e3 * first, "later_ms": [], "out": np.array(out)},
            run,
        )
    for _ in range(repeat):
        for name, run in live.items():
            rows[name]["later_ms"].append(1e3 * once(run, keys)[0])
    for name in live:
        rows[name]["median_ms"] = float(np.median(rows[name]["later_ms"]))
        rows[name]["min_ms"] = float(np.min(rows[name]["later_ms"]))
    return rows


def show(title: str, rows: dict[str, dict]) -> None:
    print(f"\n{title}")
    ours = rows["CounterBrownianPath"].get("median_ms")
    for name, row in rows.items():
        if "failed" in row:
            print(f"  {name:42s} failed: {row['failed']}")
            continue
        ratio = f"{row['median_ms'] / ours:7.1f}x" if ours else ""
        checks = ""
        if "mean" in row:
            checks = (
                f"   mean {row['mean']:.5f} ({row['mean_error_in_standard_errors']:+.1f} s.e.)"
                f"   variance {row['variance']:.3e}"
                f" ({row['variance_error_in_standard_errors']:+.1f} s.e.)"
            )
        times = f"first {row['first_ms']:8.0f} ms   later {row['median_ms']:9.2f} ms"
        print(f"  {name:42s} {times} {ratio}{checks}")


def main(n_paths: int, steps: int, repeat: int, gradient_paths: int) -> dict:
    print(f"{n_paths} paths x {DIM} components x {steps} steps, jax {jax.__version__}")
    choices = paths(1 / steps)
    default, direct = dfx.RecursiveCheckpointAdjoint(), dfx.ForwardMode()
    runs = {name: forward(brownian, steps, default) for name, brownian in choices.items()}
    # Diffrax refuses this path under the default adjoint; it gets the cheapest that it works under,
    # and so do we, for fairness.
    for name in ("UnsafeBrownianPath", "CounterBrownianPath"):
        runs[f"{name}, ForwardMode"] = forward(choices[name], steps, direct)
    rows = compare(runs, jr.split(jr.key(0), n_paths), repeat)
    for row in rows.values():
        if "out" in row:
            row |= accuracy(row.pop("out"), steps)
    show("final state", rows)

    runs = {name: gradient(brownian, steps) for name, brownian in choices.items()}
    gradients = compare(runs, jr.split(jr.key(1), gradient_paths), max(1, repeat // 2))
    for row in gradients.values():
        if "out" in row:
            row["gradient"] = float(row.pop("out"))
    show(f"gradient step, {gradient_paths} paths, default adjoint", gradients)
    return {
        "paths": n_paths,
        "steps": steps,
        "components": DIM,
        "repeat": repeat,
        "gradient_paths": gradient_paths,
        "device": jax.devices()[0].device_kind,
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "diffrax", "equinox", "numpy")},
        "forward": rows,
        "gradient": gradients,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paths", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=11, help="later calls of each path")
    parser.add_argument("--gradient-paths", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="a run of seconds, to see it work")
    parser.add_argument("--json", action="store_true", help="print the results on the last line")
    parser.add_argument("--out", help="write the results to this file")
    args = parser.parse_args()
    if args.quick:
        args.paths, args.steps, args.repeat, args.gradient_paths = 256, 64, 3, 32
    results = main(args.paths, args.steps, args.repeat, args.gradient_paths)
    if args.out:
        with open(args.out, "w") as file:
            file.write(json.dumps(results, indent=1) + "\n")
    if args.json:
        print(json.dumps(results))
