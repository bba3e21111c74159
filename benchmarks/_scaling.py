"""How time grows with sizes; that of `dynlm.rollout` with paths, steps and dimensions."""

from collections.abc import Callable
from typing import Any

import jax.random as jr
import numpy as np
from _models import Problem, linear, neural
from _peers import dynlm_rows
from _rows import OURS, compare

NEAR = 0.1  # a slope this close to 1 is called linear


def curves(dtype: Any, quick: bool) -> dict[str, tuple[list[int], Callable[[int], Problem], str]]:
    """Sizes and the problem at each; and what stays fixed."""
    few = slice(0, 2) if quick else slice(None)
    dims = [2, 8, 32, 128, 512][few]
    paths, steps = (64, 16) if quick else (8192, 256)
    return {
        "paths": (
            [100, 316, 1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000][few],
            lambda n: linear(n, steps, dtype),
            f"linear SDE, 3 components, {steps} steps",
        ),
        "steps": (
            [16, 64, 256, 1024, 4096][few],
            lambda n: linear(paths, n, dtype),
            f"linear SDE, 3 components, {paths} paths",
        ),
        "dims of a linear SDE": (
            dims,
            lambda n: linear(paths // 8, steps, dtype, dim=n),
            f"componentwise, {paths // 8} paths, {steps} steps",
        ),
        "dims of an MLP": (
            dims,
            lambda n: neural(paths // 8, steps // 4, dtype, dim=n),
            f"two networks of width 128, which stays fixed, {paths // 8} paths, {steps // 4} steps",
        ),
    }


def scaling(dtype: Any, *, quick: bool, repeat: int, limit: float) -> dict[str, Any]:
    """Times of `dynlm.rollout` over sizes."""

    def builder(make: Callable[[int], Problem]) -> Callable[[int], Any]:
        return lambda size: dynlm_rows(make(size), jr.key(7))[OURS]

    of = {
        name: (sizes, builder(make), fixed)
        for name, (sizes, make, fixed) in curves(dtype, quick).items()
    }
    return measure(OURS, of, repeat=repeat, limit=limit)


def measure(
    what: str,
    curves: dict[str, tuple[list[int], Callable[[int], Any], str]],
    *,
    repeat: int,
    limit: float,
    per: int = 1,
) -> dict[str, Any]:
    """Times over sizes, and the slope of the upper half of each curve in log-log axes.

    Args:
        curves: sizes, what makes the row of one size, and what stays fixed.
        per: what is shown is a call's time divided by this.
    """
    found = {}
    print(f"\nScaling of {what}: exponents of the upper half of each curve")
    for name, (sizes, builder, fixed) in curves.items():
        times = {}
        for size in sizes:
            build = builder(size)
            builds: Any = {what: lambda build=build: build()._replace(memory=lambda: None)}
            row = compare(builds, lambda name, out: {}, repeat=repeat, limit=limit)[what]
            if "median_ms" in row:
                row |= {key: row[key] / per for key in ("median_ms", "min_ms")}
                row["later_ms"] = [ms / per for ms in row["later_ms"]]
            times[size] = row
        good = [(size, row["median_ms"]) for size, row in times.items() if "median_ms" in row]
        entry: dict[str, Any] = {"fixed": fixed, "rows": times}
        print(f"  {name} ({fixed})")
        print("    " + "  ".join(f"{size}: {ms:.3g} ms" for size, ms in good))
        for size, row in times.items():
            if "failed" in row:
                print(f"    {size} failed: {row['failed']}")
        upper = good[len(good) // 2 - (len(good) % 2 == 0) :]
        if len(upper) >= 2:
            slope = float(np.polyfit(*np.log(np.array(upper, float)).T, 1)[0])
            entry |= {"slope": slope, "slope_over": [size for size, _ in upper]}
            print(f"    {_verdict(name, slope)} (slope {slope:.2f} over {upper[0][0]} and more)")
        found[name] = entry
    return found


def _verdict(name: str, slope: float) -> str:
    if abs(slope - 1) <= NEAR:
        return "linear"
    if slope < 1 and "MLP" in name:
        return (
            "less than linear: the width is fixed, and products between hidden layers do not grow"
        )
    return f"{'less' if slope < 1 else 'more'} than linear"
