"""`rollout`: many paths of an SDE in one compiled loop."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._types import RandomKey, concrete
from ..sde import SDE
from ._adjoints import AbstractAdjoint, Checkpointed
from ._checks import check_options, check_shapes, checked_states
from ._choice import choose
from ._generators import AbstractNoise, CounterNoise, JaxNoise
from ._kernels import AbstractKernel, Fused, Scan
from ._loop import Loop, When
from ._saves import AbstractSave, Last
from ._schemes import scheme_of
from ._sharding import joined, moved, sharded
from ._spans import steps_of
from ._stepper import Model, Stepper, Steps

_LANES = 16  # paths are padded to a multiple, so that a path's bits do not depend on its company
_COUNTER, _CHECKPOINTED, _SCAN = CounterNoise(), Checkpointed(), Scan()


def rollout(
    sde: SDE | Callable[[Any], SDE],
    y0s: ArrayLike,
    ts: tuple[Any, Any, int] | ArrayLike | Sequence[float],
    *,
    key: RandomKey,
    scheme: dfx.AbstractSolver | None = None,
    save: AbstractSave | None = None,
    dt: float | None = None,
    substeps: int | None = None,
    controls: PyTree[ArrayLike] | None = None,
    noise: AbstractNoise | None = None,
    adjoint: AbstractAdjoint | None = None,
    kernel: AbstractKernel | None = None,
    mesh: Mesh | None = None,
    first: Any = 0,
) -> Any:
    r"""Many paths of `sde`, path `i` from `y0s[i]`, compiled once for each shape.

    Path `i` is driven by the noise of `jax.random.fold_in(key, first + i)`, whatever the model,
    the scheme, the other paths and the devices: two models rolled out with one key share their
    noise, and `rollout(sde, y0s[a:b], ..., first=a)` is `rollout(sde, y0s, ...)[a:b]`.

    Args:
        sde: An `SDE`; with `controls`, a callable that makes the SDE of one path's control.
        y0s: The states at the start, one row per path.
        ts: `(t0, t1, n)`, with a whole number n: n equal steps. Or times, never decreasing, which
            are saved, with steps between by `substeps` or `dt`; a row per path if each has times
            of its own. Equal times repeat the state. Not differentiated.
        key: Random key.
        scheme: `diffrax.Euler()`, `ItoMilstein()`, `StratonovichMilstein()`, `Heun()`, `ShARK()`
            (additive noise, order 1.5) or `ReversibleHeun()`; by default `Euler` for Ito and `Heun`
            for Stratonovich. What would converge to another solution is refused, as by `solve`.
        save: What to keep: `Last()`, `Every(k)`, `At(times)`, `AtSteps(numbers)`, each of states
            or of a reduction over the paths; `Running(reduction)` over paths and times; `Fold`.
            By default `Last()` with `(t0, t1, n)`, and the states at `ts` otherwise.
        dt: Longest step; each gap of `ts` is cut into equal steps no longer.
        substeps: Steps per gap of `ts`, instead of `dt`; 1 unless told.
        controls: A pytree with one row per path.
        noise: `CounterNoise()` or `JaxNoise()`.
        adjoint: `Checkpointed(levels)`, or `Reversible()` for `ReversibleHeun`.
        kernel: `Scan(...)` runs anywhere; `Fused(...)` is a Pallas kernel for GPU and TPU. By
            default `Scan()` on a CPU; elsewhere the faster of the two where both can run and agree,
            found out at the first call for a shape, which therefore takes longer.
        mesh: Devices to spread the paths over, evenly.
        first: The number of the first path, from 0 to 2^32 - 1, where numbers begin again at 0.

    Returns:
        With `Last()` the states, an array (paths, dim); with other states a batched `Trajectory`,
        whose mask is False from the first state that is not finite; else what `save` says.
    """
    check_options(
        scheme=(scheme, dfx.AbstractSolver, "diffrax.Euler()"),
        save=(save, AbstractSave, "dynlm.simulate.Every(10)"),
        noise=(noise, AbstractNoise, "dynlm.simulate.CounterNoise()"),
        adjoint=(adjoint, AbstractAdjoint, "dynlm.simulate.Checkpointed(levels=2)"),
        kernel=(kernel, AbstractKernel, "dynlm.simulate.Scan()"),
        mesh=(mesh, Mesh, 'jax.make_mesh((4,), ("paths",))'),
    )
    y0s = checked_states(y0s)
    _check_key(key, noise)
    steps, default, given = steps_of(ts, y0s, dt, substeps)
    given = given if save is None else None
    save = default if save is None else save
    plan = _Plan(
        scheme,
        _COUNTER if noise is None else noise,
        _CHECKPOINTED if adjoint is None else adjoint,
        _SCAN if kernel is None else kernel,
        mesh,
        When(steps.number, (), False) if type(save) is Last else When.of(save.after(steps)),
    )
    controls = None if controls is None else jax.tree.map(jnp.asarray, controls)
    number = _number(first)
    arguments = (sde, y0s, steps, key, controls, number, save, given)
    if mesh is not None:
        arguments = moved(arguments, mesh)
    undecided = kernel is None and jax.default_backend() != "cpu"
    if undecided and _fits(Fused(), plan, sde, y0s, steps, controls):
        chosen = choose(lambda k: _run(*arguments, plan._replace(kernel=k)), (arguments, plan))
        plan = plan._replace(kernel=chosen)
    return _run(*arguments, plan)


def _check_key(key: Any, noise: AbstractNoise | None) -> None:
    """Refuse what is no key, and keys whose draws depend on what is drawn with them."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed and shape == ()) and not (dtype == jnp.uint32 and shape in ((2,), (4,))):
        raise ValueError(f"`key` is {key!r}. Pass one key, such as `jax.random.key(0)`.")
    name = str(jr.key_impl(key))  # pyright: ignore[reportArgumentType]
    if "unsafe" in name or ("rbg" in name and isinstance(noise, JaxNoise)):
        raise ValueError(
            f"`key` is of `{name}`, whose numbers depend on the batch that they are drawn in. Use "
            '`jax.random.key(seed, impl="threefry2x32")`, or "rbg" with `CounterNoise()`.'
        )


def _number(first: Any) -> Any:
    """`first` as uint32, which may be traced."""
    if isinstance(first, int) and not isinstance(first, bool) and 0 <= first < 2**32:
        return np.uint32(first)
    whole = jnp.issubdtype(getattr(first, "dtype", float), jnp.integer)
    value = concrete(first) if whole else None
    if not whole or jnp.ndim(first) or (value is not None and not 0 <= value < 2**32):
        raise ValueError(f"`first` is {first!r}. Use a whole number from 0 to 2^32 - 1.")
    return jnp.asarray(first).astype(jnp.uint32)


class _Plan(NamedTuple):
    solver: dfx.AbstractSolver | None
    noise: AbstractNoise
    adjoint: AbstractAdjoint
    kernel: AbstractKernel
    mesh: Mesh | None
    when: When


@eqx.filter_jit
def _run(
    sde: Any,
    y0s: Float[Array, "paths dim"],
    steps: Steps,
    key: RandomKey,
    controls: PyTree[Array],
    first: Any,
    save: AbstractSave,
    given: Array | None,
    plan: _Plan,
) -> Any:
    model = Model(sde, controls)
    example = _example(model, y0s)
    solver = _solver(plan, example)
    scheme = scheme_of(example, solver)
    plan.adjoint.check(scheme, solver)
    own = _own(steps, controls)
    problem = plan.kernel.refusal(example, solver, plan.noise, plan.adjoint, y0s, own)
    if problem is not None:
        raise ValueError(f"`kernel={type(plan.kernel).__name__}()`: {problem}")

    shards = 1 if plan.mesh is None else plan.mesh.size
    if y0s.shape[0] % shards:
        raise ValueError(
            f"`y0s` has {y0s.shape[0]} paths, and `mesh` {shards} devices. Pass a multiple of "
            f"{shards}, such as {-(-y0s.shape[0] // shards) * shards}."
        )

    def of_shard(shard: Array, model: Model, y0s: Array, steps: Steps, key: Any, save: Any) -> Any:
        paths = y0s.shape[0]
        saved_times = steps.time(plan.when.numbers()) if given is None else given
        padding = -paths % _LANES
        y0s, controls, times = jax.tree.map(
            lambda x: jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1), mode="edge"),
            (y0s, model.controls, steps.times if steps.axis == 0 else None),
        )
        if steps.axis == 0:
            steps = Steps(None, None, times, steps.number)
        number = first + shard * jnp.uint32(paths) + lax.iota(jnp.uint32, paths + padding)
        streams = jax.vmap(lambda i: plan.noise.stream(jr.fold_in(key, i)))(number)
        scan = plan.kernel.loop
        stepper = Stepper(
            scheme,
            plan.noise,
            streams,
            steps,
            example.noise_dim,
            y0s.dtype,
            scan.chunk or plan.noise.chunk,
            scan.unroll,
        )
        real = lax.iota(jnp.uint32, paths + padding) < paths
        loop = Loop(stepper, Model(model.sde, controls), plan.kernel, plan.adjoint, save, real)
        left = loop.run(y0s, plan.when)
        if join is None:
            left = jax.tree.map(lambda x: x[:paths], left)
        elif plan.mesh is not None:
            left = joined(left, join, plan.mesh)
        return save.finish(left, saved_times)

    join = save.recorder().join
    arguments = (model, y0s, steps, key, save)
    if plan.mesh is None:
        return of_shard(jnp.uint32(0), *arguments)
    return sharded(of_shard, plan.mesh, join is None, *arguments)


def _solver(plan: _Plan, example: SDE) -> dfx.AbstractSolver:
    if plan.solver is not None:
        return plan.solver
    return dfx.Euler() if example.calculus == "ito" else dfx.Heun()


def _own(steps: Steps, controls: PyTree[Array]) -> str | None:
    """What each path has of its own, in a word."""
    return "controls" if controls is not None else "times" if steps.axis == 0 else None


def _fits(
    kernel: AbstractKernel, plan: _Plan, sde: Any, y0s: Array, steps: Steps, *rest: Any
) -> bool:
    """Whether `kernel` can run this."""
    if not isinstance(sde, SDE):
        return False
    own = _own(steps, rest[-1])
    return kernel.refusal(sde, _solver(plan, sde), plan.noise, plan.adjoint, y0s, own) is None


def _example(model: Model, y0s: Float[Array, "paths dim"]) -> SDE:
    """An SDE with the sizes and classes of those of all paths."""

    def one_like(x: Array) -> Array:
        return jnp.zeros(x.shape[1:], x.dtype)

    for leaf in jax.tree.leaves(model.controls):
        if leaf.shape[:1] != y0s.shape[:1]:
            raise ValueError(
                f"`controls` has a leaf of shape {leaf.shape}, and `y0s` has {y0s.shape[0]} rows. "
                "Pass one row per path."
            )
    if not isinstance(model.sde, SDE):
        if model.controls is None or not callable(model.sde):
            raise ValueError(
                f"`sde` is a {type(model.sde).__name__}, and `controls` is "
                f"{'None' if model.controls is None else 'given'}. Pass a `dynlm.SDE` (of a "
                "`Langevin`: `langevin.sde()`), or controls and a callable that makes the SDE of "
                "one."
            )
        example = model.of(jax.tree.map(one_like, model.controls))
        if not isinstance(example, SDE):
            raise ValueError(
                f"`sde(control)` returned a {type(example).__name__}. Return a `dynlm.SDE`."
            )
    elif model.controls is not None:
        raise ValueError(
            "`controls` are given, but `sde` is an SDE already. Pass a callable that makes the SDE "
            "of one control."
        )
    else:
        example = model.sde
    if y0s.shape[1] != example.dim:
        raise ValueError(
            f"`y0s` has shape {y0s.shape}, and `sde` has dimension {example.dim}. Pass rows of "
            f"{example.dim} numbers."
        )
    check_shapes(example, one_like(y0s))
    return example
