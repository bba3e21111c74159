r"""Many Euler-Maruyama steps of many paths in one launch: a Pallas kernel for GPU and for TPU.

$y \leftarrow y + f(t, y)\,h + g(t, y)\,(\sqrt h\,z)$, each program of the kernel for its own block
of paths. The states stay on the chip from the first step to the last and the noise is made there;
what depends on time alone (features, noise levels) is a row for each step, made before the launch.

A step of a path costs 2 * inputs * outputs FLOPs a layer and 60 integer operations a component; HBM
sees the first and the last states only. Two 65-128-128-64 nets on an H200 are 131 kFLOP. In
float32 a block of 32 paths reads their 260 KB from the L2 cache at each step, 8 KB a path: scalar
units (67 TFLOP/s) and cache (5 TB/s) both allow 5e8 steps of paths a second. In bfloat16 the 130 KB
stay in shared memory; the noise and activations then cost more than the dots.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, UInt32

from . import _noise
from ._fused_spec import Operands, Reader, Spec

Target = Literal["gpu", "tpu"]

# Bytes of factors that may stay in the 227 KB of shared memory of a Hopper multiprocessor, and the
# terms of a product that are summed at once where they may not, or where no matrix unit sums them.
SHARED = 160 * 1024
CHUNK = 32


def block_of(target: Target, dtype: Any = jnp.float32) -> int:
    """How many paths a program has, unless told. Compiled for H100 and TPU v5e, timed on neither.

    64 rows are what a matrix instruction of Hopper takes; 32, on 256 threads, leave room for a
    second program of float32 beside the first.
    """
    return 256 if target == "tpu" else 64 if jnp.dtype(dtype) == jnp.bfloat16 else 32


def advance(
    spec: Spec,
    y: Float[Array, "paths dim"],
    streams: UInt32[Array, "paths 2"],
    ts: Float[Array, " steps"],
    hs: Float[Array, " steps"],
    first: int | Int[Array, ""] | UInt32[Array, ""],
    count: Int[Array, ""] | None = None,
    *,
    target: Target,
    block: int | None = None,
    dtype: Any = jnp.float32,
    interpret: bool = False,
) -> Float[Array, "paths dim"]:
    """The states after `len(hs)` steps. It has no derivative.

    Args:
        ts, hs: When each step begins, and its length. On TPU the rows made of them, 512 bytes or
            more for each step, must fit a core's memory: some thousand steps a launch.
        count: How many of the steps to take; all, unless told.
        first: The number of the first step's noise, `_noise.normals(streams[i], first, dim)`.
        target: What it is compiled for.
        block: Paths in a program, a power of two from 16 on; `block_of` by default.
        dtype: bfloat16 rounds both sides of every dot to it. Sums, states, noise and activations
            are float32 either way, and float32 dots are true ones, not TF32.
        interpret: Run it as plain JAX, on any device.
    """
    block = block_of(target, dtype) if block is None else block
    if block < 16 or block & (block - 1):
        raise ValueError(f"`block` is {block}. Use a power of two from 16 on.")
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"`dtype` is {jnp.dtype(dtype)}. Use float32 or bfloat16.")
    if {y.dtype, ts.dtype, hs.dtype} != {jnp.dtype(jnp.float32)}:
        raise ValueError(
            f"`y`, `ts` and `hs` are {y.dtype}, {ts.dtype} and {hs.dtype}. Pass float32."
        )
    paths, dim = y.shape
    if not hs.size or not paths:
        return y
    rows = -(-paths // block) * block
    first = jnp.asarray(first, jnp.uint32) if isinstance(first, int) else first.astype(jnp.uint32)
    number = jnp.uint32(hs.size) if count is None else count.astype(jnp.uint32)
    drift = _packed(spec.drift.operands(ts), target, dtype)
    diffusion = _packed(spec.diffusion.operands(ts), target, dtype)
    out = _launch(
        spec,
        (jnp.stack([first, number]), hs, jnp.sqrt(hs)),
        _pad(streams, (rows, 2)),
        _pad(y, (rows, _lanes(dim, target))),
        (drift, diffusion),
        target,
        block,
        interpret,
    )
    return out[:paths, :dim]


def _launch(
    spec: Spec,
    scalars: tuple[Array, ...],
    streams: Array,
    y: Array,
    parts: tuple[Operands, Operands],
    target: Target,
    block: int,
    interpret: bool,
) -> Array:
    factors = [factor for part in parts for factor in part.factors]
    dtype, widest = factors[0].dtype, max(factor.shape[0] for factor in factors)
    exact = dtype == jnp.float32
    if target == "gpu":
        from jax.experimental.pallas import triton

        much = exact or sum(factor.nbytes for factor in factors) > SHARED
        chunked = much and widest > CHUNK
        barrier = (lambda: None) if interpret else triton.debug_barrier
        dot = partial(_chunked_dot, barrier) if chunked else _whole_dot
        # One stage: factors fetched ahead would take as much shared memory again.
        params: Any = triton.CompilerParams(num_warps=8, num_stages=1)
        scalar = pl.BlockSpec()
    else:
        from jax.experimental.pallas import tpu

        chunked, dot = False, _whole_dot
        params = tpu.CompilerParams(dimension_semantics=("parallel",))
        scalar = pl.BlockSpec(memory_space=tpu.SMEM)

    def of_block(x: Any) -> pl.BlockSpec:
        return pl.BlockSpec((block, x.shape[1]), lambda i: (i, 0))

    outs = [jax.ShapeDtypeStruct(y.shape, y.dtype)]
    if chunked:
        outs.append(jax.ShapeDtypeStruct((len(y), widest), dtype))
    return pl.pallas_call(
        partial(_kernel, spec, dot),
        out_shape=outs,
        grid=(len(y) // block,),
        in_specs=[
            (scalar,) * len(scalars),
            of_block(streams),
            of_block(y),
            jax.tree.map(lambda _: pl.BlockSpec(), parts),
        ],
        out_specs=[of_block(out) for out in outs],
        compiler_params=params,
        interpret=interpret,
        name="euler_maruyama",
    )(scalars, streams, y, parts)[0]


def _kernel(
    spec: Spec, dot: Callable, scalars: Any, streams: Any, y: Any, parts: Any, out: Any, *room: Any
) -> None:
    counts, hs, roots = scalars
    first, steps = counts[0], counts[1].astype(jnp.int32)
    words = streams[:, 0:1], streams[:, 1:2]
    component = lax.broadcasted_iota(jnp.int32, y.shape, 1)

    def step(j: Array, y: Array) -> Array:
        drift, diffusion = (Reader(part, j, partial(dot, *room)) for part in parts)
        z = _normals(words, first + j.astype(jnp.uint32), component)
        dw = jnp.where(component < spec.dim, roots[j] * z, 0.0)
        return y + spec.drift(drift, y) * hs[j] + spec.diffusion(diffusion, y, dw)

    out[...] = lax.fori_loop(0, steps, step, y[...])


def _whole_dot(x: Array, factor: Any) -> Float[Array, "block outputs"]:
    return _dot(x.astype(factor.dtype), factor[...])


def _chunked_dot(
    barrier: Callable[[], None], room: Any, x: Array, factor: Any
) -> Float[Array, "block outputs"]:
    """`_whole_dot`, a few terms at a time.

    Triton unrolls a float32 dot whole (a minute to compile, kilobytes of spilled registers), and
    moves factors that no loop indexes into shared memory all at once. It cannot cut an array in
    registers, hence the way through `room` in global memory, which the nearest cache holds.
    """
    terms, outputs = factor.shape
    if terms <= CHUNK:
        return _whole_dot(x, factor)
    barrier()  # the last product has been read by every warp
    room[:, :terms] = x.astype(factor.dtype)
    barrier()

    def add(k: Array, total: Array) -> Array:
        some = pl.ds(k * CHUNK, CHUNK)
        return total + _dot(room[:, some], factor[some, :])

    return lax.fori_loop(0, terms // CHUNK, add, jnp.zeros((len(x), outputs), jnp.float32))


def _dot(x: Array, factor: Array) -> Float[Array, "block outputs"]:
    exact = factor.dtype == jnp.float32
    precision = lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT
    return jnp.dot(x, factor, precision=precision, preferred_element_type=jnp.float32)


def _normals(
    streams: tuple[Array, Array], step: Array, component: Array
) -> Float[Array, "block lanes"]:
    """`_noise.normals` of two columns of streams, which no kernel could slice apart."""
    words = component.astype(jnp.uint32) * jnp.uint32(8)
    return jax.vmap(_noise.to_normal)(_noise.hashed(*streams, step, words))


def _packed(operands: Operands, target: Target, dtype: Any) -> Operands:
    """Padded with zeros, so that padded components stay zero."""

    def lanes(n: int) -> int:
        return _lanes(n, target)

    return Operands(
        [_pad(w, (lanes(w.shape[0]), lanes(w.shape[1]))).astype(dtype) for w in operands.factors],
        [_pad(row, (len(row), lanes(row.shape[1]))) for row in operands.rows],
    )


def _lanes(n: int, target: Target) -> int:
    """`n` padded: Triton takes powers of two, dots from 16 on; a TPU register has 128 lanes."""
    return max(16, 1 << (n - 1).bit_length()) if target == "gpu" else -(-n // 128) * 128


def _pad(x: Array, shape: tuple[int, ...]) -> Array:
    return jnp.pad(x, [(0, to - n) for to, n in zip(shape, x.shape, strict=True)])
