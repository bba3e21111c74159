"""Which kernel, where the user does not say: the one that was faster here, on these very paths."""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._kernels import AbstractKernel, Fused, Scan

_TOLERANCE = 1e-3  # of the largest number; float32 programs differ by their rounding
_REPEAT = 3
_MOST = 256  # choices that are remembered

_chosen: dict[Any, AbstractKernel] = {}


def choose(run: Callable[[AbstractKernel], Any], arguments: Any) -> AbstractKernel:
    """The fastest kernel for `run`, found out once for each shape of its concrete `arguments`."""
    arrays, rest = eqx.partition(arguments, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    if any(isinstance(x, Tracer) for x in leaves):
        return Scan()
    shapes = tuple((x.shape, str(x.dtype)) for x in leaves)
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore
    known = (precision, structure, shapes, jax.tree.structure(rest), tuple(jax.tree.leaves(rest)))
    if known not in _chosen:
        if any(isinstance(x, Tracer) for x in jax.tree.leaves(run(Scan()))):
            return Scan()  # something traced is closed over, so nothing can be timed
        if len(_chosen) >= _MOST:
            _chosen.clear()
        _chosen[known] = fastest(run, (Scan(), Fused()))
    return _chosen[known]


def fastest(
    run: Callable[[AbstractKernel], Any], kernels: Sequence[AbstractKernel]
) -> AbstractKernel:
    """The fastest of `kernels` that agrees with the first one; one that fails is warned of."""
    reference, *others = kernels
    expected, best = _timed(run, reference)
    winner = reference
    for kernel in others:
        try:
            found, seconds = _timed(run, kernel)
            agree = bool(_agree(expected, found))
        except Exception as error:
            warnings.warn(
                f"`kernel={kernel!r}` failed here, so `{reference!r}` is used: "
                f"{str(error).strip().splitlines()[0]}",
                stacklevel=4,
            )
            continue
        if not agree:
            warnings.warn(
                f"`kernel={kernel!r}` gave other numbers than `{reference!r}` here, which is "
                "used. Where paths are chaotic that is no fault; pass `kernel` to choose.",
                stacklevel=4,
            )
        elif seconds < best:
            winner, best = kernel, seconds
    return winner


def _timed(run: Callable[[AbstractKernel], Any], kernel: AbstractKernel) -> tuple[Any, float]:
    out = jax.block_until_ready(run(kernel))
    seconds = []
    for _ in range(_REPEAT):
        start = time.perf_counter()
        jax.block_until_ready(run(kernel))
        seconds.append(time.perf_counter() - start)
    return out, float(np.median(seconds))


@eqx.filter_jit
def _agree(expected: Any, found: Any) -> Any:
    def near(x: Any, y: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.mean((x != y).astype(jnp.float32)) <= _TOLERANCE
        finite = jnp.isfinite(x) & jnp.isfinite(y)
        size = jnp.max(jnp.abs(jnp.where(finite, x, 0)))
        apart = jnp.max(jnp.abs(jnp.where(finite, x - y, 0)))
        return (apart <= _TOLERANCE * size) & jnp.all(jnp.isfinite(x) == jnp.isfinite(y))

    close = jax.tree.map(near, expected, found)
    return jnp.all(jnp.stack(jax.tree.leaves(close)))
