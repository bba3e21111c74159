"""Rows in JAX and numpy: dynlm, Diffrax, a scan written by hand, a numpy loop."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _models import DRIFT, NOISE, Problem, jax_fields, nets_of, numpy_fields
from _rows import OURS, Build, Run, direct, jitted

from dynlm import SDE, CounterBrownianPath, rollout, simulate, solve
from dynlm.simulate import JaxNoise, Scan

NO_NOISE = "no noise: the scan with dW = sqrt(dt)"


def dynlm_rows(problem: Problem, key: Any) -> dict[str, Build]:
    """`rollout` as a user calls it, and `solve` under `vmap`."""

    def ours(row: Callable = direct, **options: Any) -> Build:
        grid = (0.0, 1.0, problem.steps)
        run = lambda y0s, key: rollout(problem.sde, y0s, grid, key=key, **options)  # noqa: E731
        return row(run, problem.starts(), key)

    def solved(y0s: Any, keys: Any) -> Any:
        ts = jnp.asarray([0.0, 1.0], problem.dtype)
        one = lambda y0, key: solve(problem.sde, y0, ts, key=key, substeps=problem.steps)  # noqa: E731
        return jax.vmap(one)(y0s, keys).path.ys[:, -1]

    on_cpu = jax.default_backend() == "cpu"
    if on_cpu:
        fused: Build = "needs a GPU or TPU"
    else:
        fused = ours(kernel=simulate.Fused())
    half = fused if on_cpu else ours(kernel=simulate.Fused(dtype=jnp.bfloat16))
    return {
        OURS: ours(),
        f"{OURS}, inside jax.jit": ours(jitted),
        f"{OURS}, JaxNoise": ours(noise=JaxNoise()),
        f"{OURS}, Scan": "the same as the default on a CPU" if on_cpu else ours(kernel=Scan()),
        f"{OURS}, Fused": fused,
        f"{OURS}, Fused(dtype=bfloat16)": half,
        "dynlm.solve under vmap": jitted(solved, problem.starts(), jr.split(key, problem.paths)),
    }


def brownian_paths(problem: Problem) -> dict[str, Callable]:
    """What drives Diffrax, by name."""
    dt, shape = problem.dt, jax.ShapeDtypeStruct((problem.dim,), problem.dtype)
    return {
        "CounterBrownianPath": lambda key: CounterBrownianPath(shape, key, dt),
        "UnsafeBrownianPath": lambda key: dfx.UnsafeBrownianPath(shape, key),
        "VirtualBrownianTree": lambda key: dfx.VirtualBrownianTree(0.0, 1.0, dt / 2, shape, key),
    }


def diffeqsolve(
    problem: Problem,
    sde: SDE,
    brownian: Any,
    adjoint: dfx.AbstractAdjoint,
    solver: dfx.AbstractSolver | None = None,
    saveat: dfx.SaveAt | None = None,
) -> Any:
    """One path in stock Diffrax: the states that are saved."""
    return dfx.diffeqsolve(
        sde.terms(brownian),
        dfx.Euler() if solver is None else solver,
        t0=0.0,
        t1=1.0,
        dt0=problem.dt,
        y0=jnp.asarray(problem.y0, problem.dtype),
        saveat=dfx.SaveAt(t1=True) if saveat is None else saveat,
        adjoint=adjoint,
        max_steps=problem.steps,
    ).ys


def diffrax_rows(problem: Problem, key: Any) -> dict[str, Build]:
    """Final states by Diffrax, with each of its paths and ours."""
    default = dfx.RecursiveCheckpointAdjoint()

    def row(name: str) -> Build:
        # The default adjoint refuses this path; this is the one that Diffrax names instead.
        adjoint = dfx.DirectAdjoint() if name == "UnsafeBrownianPath" else default
        make = brownian_paths(problem)[name]
        one = lambda key: diffeqsolve(problem, problem.sde, make(key), adjoint)[0]  # noqa: E731
        return jitted(jax.vmap(one), jr.split(key, problem.paths))

    return {f"diffrax, {name}": row(name) for name in brownian_paths(problem)}


def scan(problem: Problem, sde: Any, key: Any, *, noisy: bool = True, every: bool = False) -> Any:
    """Euler for all paths at once, written by hand: one key and one `normal` a step."""
    dtype = problem.dtype
    dt, root = dtype.type(problem.dt), dtype.type(problem.dt**0.5)
    f, sigma = jax_fields(None if problem.nets is None else nets_of(sde))

    def step(ys: Any, k: Any) -> tuple[Any, Any]:
        t = k.astype(dtype) * dt
        dw = root
        if noisy:
            dw = root * jr.normal(jr.fold_in(key, k), ys.shape, dtype)
        ys = ys + f(t, ys) * dt + sigma(t, ys) * dw
        return ys, (ys if every else None)

    last, saved = jax.lax.scan(step, problem.starts(), jnp.arange(problem.steps))
    return saved if every else last


def scan_rows(problem: Problem, key: Any) -> dict[str, Build]:
    """The scan, and the same without its noise: the floor."""
    # Weights are arguments: constants of a program may be folded into it while it is compiled.
    weights = () if problem.nets is None else problem.sde
    return {
        "lax.scan, jax.random.normal a step": jitted(
            lambda sde, key: scan(problem, sde, key), weights, key
        ),
        NO_NOISE: jitted(lambda sde, key: scan(problem, sde, key, noisy=False), weights, key),
    }


def numpy_rows(problem: Problem, seed: int) -> dict[str, Build]:
    """The loop that anyone writes first, in place where that helps."""
    generator = np.random.default_rng(seed)
    dtype: Any = np.dtype(problem.dtype)
    dt, root = dtype.type(problem.dt), dtype.type(problem.dt**0.5)

    def linear() -> np.ndarray:
        y = np.tile(problem.y0.astype(dtype), (problem.paths, 1))
        z = np.empty_like(y)
        for _ in range(problem.steps):
            generator.standard_normal(out=z, dtype=dtype)
            z *= dtype.type(NOISE) * root
            z += dtype.type(DRIFT) * dt
            z *= y
            y += z
        return y

    def neural() -> np.ndarray:
        assert problem.nets is not None
        f, sigma = numpy_fields(problem.nets)
        y = np.tile(problem.y0.astype(dtype), (problem.paths, 1))
        z = np.empty_like(y)
        for k in range(problem.steps):
            t = dtype.type(k) * dt
            generator.standard_normal(out=z, dtype=dtype)
            z *= root
            z *= sigma(t, y)
            z += f(t, y) * dt
            y += z
        return y

    return {"numpy loop": lambda: Run(linear if problem.nets is None else neural)}


def matmul_rows(problem: Problem, width: int = 128) -> tuple[dict[str, Build], dict[str, float]]:
    """Plain matrix products, and the floating-point operations of each: the machine's own rate."""
    dtype, square = problem.dtype, 2048 if jax.default_backend() == "cpu" else 8192
    builds: dict[str, Build] = {}
    flops: dict[str, float] = {}

    def chain(rows: int, inner: int, times: int) -> None:
        # An orthogonal matrix keeps the numbers where they are, however often it is applied.
        weight = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(inner, inner)))[0])
        x = jnp.ones((rows, inner), dtype)
        name = f"matmul ({rows}, {inner}) x ({inner}, {inner}), {times} in a chain"
        run = lambda x, w: jax.lax.fori_loop(0, times, lambda _, x: x @ w, x)  # noqa: E731
        builds[name] = jitted(run, x, weight.astype(dtype))
        flops[name] = 2.0 * rows * inner * inner * times

    chain(problem.paths, width, 64)
    chain(8 * problem.paths, width, 16)
    a = jnp.ones((square, square), dtype)
    name = f"matmul {square} square"
    builds[name], flops[name] = jitted(lambda a, b: a @ b, a, a), 2.0 * square**3

    assert problem.nets is not None
    both = [*problem.nets.drift, *problem.nets.sigma]
    weights = [jnp.asarray(weight.T, dtype) for weight, _ in both]

    def products(y: Any, *weights: Any) -> Any:
        """What a rollout multiplies, and nothing else it does."""

        def step(_: int, y: Any) -> Any:
            ends = []
            for i in range(0, len(weights), len(weights) // 2):
                x = jnp.pad(y, ((0, 0), (0, weights[i].shape[0] - y.shape[1])))
                for w in weights[i : i + len(weights) // 2]:
                    x = x @ w
                ends.append(x)
            return y + 1e-3 * (ends[0] + ends[1])

        return jax.lax.fori_loop(0, problem.steps, step, y)

    name = "matmul, the two networks' own products"
    builds[name], flops[name] = jitted(products, problem.starts(), *weights), problem.flops()
    return builds, flops
