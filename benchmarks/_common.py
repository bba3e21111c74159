"""What every benchmark is told and tells: options, number types, the machine, its results."""

import argparse
import importlib
import json
import math
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp
from _rows import missing

DISTURBED = 0.05  # share of the processors in the hands of others from which on we complain
PRECISIONS = ("highest", "tensorfloat32", "bfloat16")  # of products in JAX, of float32 numbers


def watch() -> Callable[[], float | None]:
    """Until it is called: the share of the machine's processors that other programs took."""

    def used() -> tuple[float, float] | None:
        try:
            with open("/proc/stat") as file:
                user, nice, system, idle, waiting, *rest = map(float, file.readline().split()[1:9])
        except (OSError, ValueError):
            return None
        busy = user + nice + system + sum(rest)
        own = sum(os.times()[:2]) * os.sysconf("SC_CLK_TCK")
        return busy - own, busy + idle + waiting

    start = used()

    def share() -> float | None:
        end = used()
        if start is None or end is None or end[1] <= start[1]:
            return None
        return max(0.0, (end[0] - start[0]) / (end[1] - start[1]))

    return share


def machine() -> dict[str, Any]:
    """Where and with what a result was measured."""
    affinity = getattr(os, "sched_getaffinity", None)
    names = "dynlm jax jaxlib diffrax equinox flax numpy safetensors".split()
    names += "torch torchsde transformers zarr".split()
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cpus": len(affinity(0)) if affinity else os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "load_at_start": _load(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "matmul_precision": jax.config.jax_default_matmul_precision,
    }


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    add = options.add_argument
    add("--steps", type=int, help="how many steps, instead of the usual number")
    add("--repeat", type=int, default=11, help="later calls of each row")
    add("--limit", type=float, default=60.0, help="seconds of later calls that a row may take")
    add("--rows", nargs="+", default=["*"], help="patterns of the rows to run, as of file names")
    add("--dtype", choices=["float32", "float64"], default="float32")
    add("--precision", choices=PRECISIONS, help="of matrix products on a GPU; 'highest' there")
    add("--quick", action="store_true", help="a run of seconds, to see it work")
    add("--json", action="store_true", help="print the results on the last line")
    add("--out", help="write the results to this file")
    return options


def configure(args: argparse.Namespace) -> None:
    """Number types and precision, the same for every peer."""
    if args.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if args.precision is None and jax.default_backend() != "cpu":
        args.precision = "highest"  # or JAX takes TF32 where PyTorch does not
    if args.precision is not None:
        jax.config.update("jax_default_matmul_precision", args.precision)
    if missing("torch") is None:
        importlib.import_module("_torch_peers").configure(args.precision)


def finish(
    results: dict[str, Any], args: argparse.Namespace, others: Callable[[], float | None]
) -> dict[str, Any]:
    """Writes and prints `results` as the options say; `others` is from `watch`."""
    share = others()
    results |= {"load_at_end": _load(), "cpu_share_of_other_programs": share}
    if share is not None and share > DISTURBED:
        print(
            f"\nOther programs took {share:.0%} of the processors. Rows that use several threads "
            "suffer most from that; measure again when the machine is quiet."
        )
    results = _without_nan(results)
    if args.out:
        with open(args.out, "w") as file:
            file.write(json.dumps(results, indent=1, allow_nan=False) + "\n")
    if args.json:
        print(json.dumps(results, allow_nan=False))
    return results


def _without_nan(x: Any) -> Any:
    """With None for numbers that JSON does not know."""
    if isinstance(x, dict):
        return {key: _without_nan(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_without_nan(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def dtype_of(args: argparse.Namespace) -> Any:
    return jnp.dtype(args.dtype)
