"""What `solve` refuses about states, times and fields, each with what to pass instead."""

from collections.abc import Callable, Sequence
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._types import Noise, State, Time, concrete
from ..sde import SDE, AbstractSDE
from ._reductions import AbstractReduction


def check_objects(sde: Any, solver: Any, controller: Any, brownian: Any, adjoint: Any) -> None:
    """Refuse classes, strings and objects of another kind where Diffrax's instances belong."""
    kinds = {
        "solver": (solver, dfx.AbstractSolver, "diffrax.Euler()"),
        "controller": (
            controller,
            dfx.AbstractAdaptiveStepSizeController,
            "diffrax.PIDController(rtol=1e-3, atol=1e-3, dtmin=1e-3); for fixed steps pass `dt`",
        ),
        "brownian": (brownian, dfx.AbstractBrownianPath, "dynlm.CounterBrownianPath(...)"),
        "adjoint": (adjoint, dfx.AbstractAdjoint, "diffrax.DirectAdjoint()"),
    }
    if not isinstance(sde, AbstractSDE):
        raise ValueError(f"`sde` is a {type(sde).__name__}. Pass a `dynlm.SDE`: `problem.sde`.")
    for name, (value, kind, example) in kinds.items():
        if value is not None and (isinstance(value, type) or not isinstance(value, kind)):
            raise ValueError(f"`{name}` is {value!r}. Pass an instance, such as {example}.")
    if isinstance(controller, dfx.ClipStepSizeController):
        raise ValueError(
            "`controller` is a ClipStepSizeController, whose steps need not end on `ts`. Pass the "
            "controller inside it: `solve` clips its steps to `ts`, and revisits rejected ones."
        )


def check_fn(fn: Callable, ts: Array, y0: State) -> None:
    """Refuse an `fn` that does not return a vector."""
    out = jax.eval_shape(lambda t, y: fn(t, y), ts[0], y0)
    if (
        not isinstance(out, jax.ShapeDtypeStruct)
        or len(out.shape) != 1
        or out.dtype not in (jnp.float32, jnp.float64)
        or out.dtype != y0.dtype
    ):
        raise ValueError(
            f"`fn` returns {out}. Return a vector of {y0.dtype}, as in `jnp.stack([...])`."
        )


def checked_state(y0: ArrayLike) -> State:
    """One finite floating state."""
    y0 = jnp.asarray(y0)
    if y0.ndim != 1 or y0.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"`y0` has shape {y0.shape} and dtype {y0.dtype}. Pass one state, a float32 or float64 "
            "vector; for many paths use `jax.vmap`."
        )
    values = concrete(y0)
    if values is not None and not np.isfinite(values).all():
        raise ValueError(f"`y0` is {values}. Start from finite numbers.")
    return y0


def checked_times(
    ts: ArrayLike | Sequence[float], y0: State
) -> tuple[np.ndarray | None, Float[Array, " time"]]:
    """The times as numpy, or None while traced, and as an array of the state's dtype.

    Numpy first: inside `jit`, `jnp.asarray` traces even constants.
    """
    ts = ts if isinstance(ts, jax.Array) else np.asarray(ts)
    if (
        isinstance(ts, jax.Array)
        and jnp.issubdtype(ts.dtype, jnp.floating)
        and ts.dtype != y0.dtype
    ):
        raise ValueError(f"`ts` is {ts.dtype} and `y0` is {y0.dtype}. Pass `ts.astype(y0.dtype)`.")
    times = concrete(ts)
    if jnp.ndim(ts) != 1 or jnp.shape(ts)[0] < 2:
        raise ValueError(
            f"`ts` has shape {jnp.shape(ts)}. Pass a vector of two times or more, "
            "beginning with the time of `y0`."
        )
    if times is not None:
        if not np.isfinite(times).all():
            where = int(np.argmax(~np.isfinite(times)))
            raise ValueError(f"`ts[{where}]` is {times[where]}. Times must be finite.")
        if (np.diff(times) < 0).any():
            where = int(np.argmax(np.diff(times) < 0))
            raise ValueError(
                f"`ts` decreases at {where}: {times[where]} is followed by {times[where + 1]}. "
                "Pass times in increasing order."
            )
        if times[0] == times[-1]:
            raise ValueError(f"`ts` spans no time: all of it is {times[0]}. Pass two times.")
    out = jnp.asarray(ts, y0.dtype)
    if times is None:
        bad = ~(jnp.all(jnp.isfinite(out)) & jnp.all(jnp.diff(out) >= 0))
        out = eqx.error_if(out, bad, "`ts` must be finite and never decrease.")
    elif ((np.diff(times) > 0) & (np.diff(times.astype(out.dtype)) == 0)).any():
        raise ValueError(
            f"`ts` holds distinct times that are equal in {out.dtype}. Count time from nearer to "
            "0, or use float64."
        )
    return times, out


def check_shapes(sde: AbstractSDE, y0: State) -> None:
    """Refuse fields whose sizes or dtypes are not the state's."""
    if y0.shape != (sde.dim,):
        raise ValueError(f"`y0` has shape {y0.shape}; `sde` has dimension {sde.dim}.")
    if not isinstance(sde, SDE):
        return
    t0 = jnp.zeros((), y0.dtype)
    out = jax.eval_shape(lambda t, y: sde.drift(t, y), t0, y0)
    if out.shape != y0.shape or out.dtype != y0.dtype:
        raise ValueError(
            f"`sde.drift` returns {out.dtype}{list(out.shape)}; `y0` is "
            f"{y0.dtype}{list(y0.shape)}. Give parameters and state one dtype, and return "
            "one number per component."
        )
    noise = jax.ShapeDtypeStruct((sde.noise_dim,), y0.dtype)

    def product(t: Time, y: State, w: Noise) -> State:
        g = sde.diffusion(t, y)
        if (g.out_size(), g.in_size()) != (sde.dim, sde.noise_dim):
            raise ValueError(
                f"`sde.diffusion` returns a ({g.out_size()} x {g.in_size()}) operator; it promises "
                f"({sde.dim} x {sde.noise_dim}). Return one row per state, one column per noise."
            )
        return g.mv(w)

    out = jax.eval_shape(product, t0, y0, noise)
    if sde.noise == "additive":
        ones = jnp.ones_like(y0)
        _, moves = eqx.filter_jvp(lambda y: sde.diffusion(t0, y), (y0,), (ones,))
        if jax.tree.leaves(moves):
            raise ValueError(
                "`sde.diffusion` declares additive noise, but it is computed from the state. Say "
                "what it depends on, as in `depends='state'`."
            )
    if out.shape != y0.shape or out.dtype != y0.dtype:
        raise ValueError(
            f"`sde.diffusion` times noise is {out.dtype}{list(out.shape)}; `y0` is "
            f"{y0.dtype}{list(y0.shape)}. Give parameters and state one dtype and dimension."
        )


def check_resolution(
    tree: dfx.VirtualBrownianTree,
    controller: dfx.AbstractAdaptiveStepSizeController | None,
    times: Float[Array, " time"],
) -> dfx.VirtualBrownianTree:
    """Refuse, at run time, a tree that is coarser than the steps: its noise would be wrong."""
    tol = tree.tol * (tree.t1 - tree.t0)
    if controller is None:
        gaps = jnp.diff(times)
        apart = jnp.where(gaps > 1e-5 * jnp.max(gaps), gaps, jnp.inf)  # not equal times moved apart
        step = jnp.min(apart)
    else:
        step = jnp.asarray(getattr(controller, "dtmin", None) or 0.0, times.dtype)
        step = jnp.where(step == 0, jnp.inf, step)
    checked = eqx.error_if(
        jnp.asarray(tree.tol),
        tol > 1.01 * step,
        "`brownian=VirtualBrownianTree` has a `tol` larger than a step, so its noise would be "
        "wrong. Build it with `tol` of half the step (half of `dtmin` under a controller).",
    )
    return eqx.tree_at(lambda tree: tree.tol, tree, checked)


def check_noise_shape(sde: AbstractSDE, brownian: dfx.AbstractBrownianPath, y0: State) -> None:
    """Refuse a path of another shape or dtype than the noise of the SDE."""
    shape = getattr(brownian, "shape", None)
    dtype = getattr(shape, "dtype", y0.dtype)
    if dtype != y0.dtype:
        raise ValueError(
            f"`brownian` is {dtype} and `y0` is {y0.dtype}. Build it with "
            f"`shape=jax.ShapeDtypeStruct(({sde.noise_dim},), jnp.{y0.dtype})`."
        )
    shape = getattr(shape, "shape", shape)
    if shape is not None and shape != (sde.noise_dim,):
        raise ValueError(
            f"`brownian` has shape {shape}; `sde` is driven by ({sde.noise_dim},). "
            f"Build it with `shape=({sde.noise_dim},)`."
        )


def check_options(**options: tuple[Any, type, str]) -> None:
    """Refuse classes, strings and objects of another kind where instances belong."""
    for name, (value, kind, example) in options.items():
        if isinstance(value, kind) or value is None:
            continue
        if isinstance(value, AbstractReduction):
            raise ValueError(
                f"`{name}` is {value!r}, which says how and not when. Use `Last(...)`, "
                "`Every(k, ...)` or `Running(...)` around it."
            )
        what = "the class" if isinstance(value, type) else f"a {type(value).__name__}:"
        raise ValueError(f"`{name}` is {what} {value!r}. Pass an instance, such as {example}.")


def checked_states(y0s: ArrayLike) -> Float[Array, "paths dim"]:
    """Finite floating states, one row per path."""
    values = None
    if not isinstance(y0s, jax.Array):  # which would have to be copied from its device
        values = np.asarray(y0s)
        y0s = jnp.asarray(values)
    if y0s.ndim != 2 or not y0s.size or y0s.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"`y0s` has shape {y0s.shape} and dtype {y0s.dtype}. Pass float32 or float64 states, "
            "one row per path; for n paths from one state, `jnp.tile(y0, (n, 1))`."
        )
    if values is not None and not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values).all(axis=1)))
        raise ValueError(f"`y0s[{row}]` is {values[row]}. Start from finite numbers.")
    return y0s
