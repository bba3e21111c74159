"""`solve`: one path of an SDE, by Diffrax, with what would go wrong in silence refused."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._types import RandomKey, State, Time
from ..sde import AbstractSDE, Langevin
from ..trajectory import Trajectory
from ._brownian import CounterBrownianPath
from ._checks import (
    check_fn,
    check_noise_shape,
    check_objects,
    check_resolution,
    check_shapes,
    checked_state,
    checked_times,
)
from ._grid import Grid, grid_by_dt, grid_by_substeps, repeat_at_equal_times
from ._support import default_adjoint, is_half, levy_area_of, refusal


class RESULTS(dfx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """Diffrax's results of a solve, and `diverged`."""

    diverged = (
        "The path left the finite numbers. Use a smaller `dt`, or look at the drift where it did."
    )


@final
class Solution(eqx.Module):
    """What `solve` found.

    Args:
        path: The saved states. `path.mask` is False from the first state that is not finite.
        result: `RESULTS.successful`, `RESULTS.diverged` or another of Diffrax's; one per path, so
            that a path that fails in a batch leaves the others alone.
        stats: Numbers of steps.
    """

    path: Trajectory
    result: RESULTS
    stats: dict[str, Any]


def solve(
    sde: AbstractSDE,
    y0: State,
    ts: ArrayLike | Sequence[float],
    *,
    key: RandomKey | None = None,
    solver: dfx.AbstractSolver | None = None,
    dt: float | None = None,
    substeps: int | None = None,
    controller: dfx.AbstractAdaptiveStepSizeController | None = None,
    brownian: dfx.AbstractBrownianPath | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    mode: Literal["forward", "reverse"] | None = None,
    fn: Callable[[Time, State], Float[Array, " out"]] | None = None,
    max_steps: int = 4096,
) -> Solution:
    r"""One path of `sde` from `y0` at `ts[0]`, saved at every time in `ts`.

    Steps end exactly on the times in `ts`; no saved state is interpolated. For many paths use
    `jax.vmap` over `y0` and `key` (or over `ts`: every path may have times of its own).

    Args:
        sde: An `SDE`, or a `Langevin` with a solver made for it.
        y0: The state at `ts[0]`.
        ts: Times to save at, never decreasing, not differentiated. Equal times (padding at the
            end) repeat the state; to keep padding apart, use `sol.path.mask & mask`.
        key: Random key of the noise; or pass `brownian`.
        solver: A Diffrax solver; by default `Euler` for Ito and `Heun` for Stratonovich.
        dt: Longest step; each gap of `ts` is cut into equal steps no longer. Under `controller`
            it is the first step.
        substeps: Steps per gap of `ts`, instead of `dt`. Works while `ts` is traced.
        controller: A Diffrax controller for adaptive steps, such as
            `PIDController(rtol, atol, dtmin=...)`; `dtmin` also sets the resolution of the noise.
        brownian: A Brownian path of shape `(sde.noise_dim,)`; by default `CounterBrownianPath` on
            the steps, or `VirtualBrownianTree` under `controller`.
        adjoint: A Diffrax adjoint; by default checkpointed reverse mode, or forward mode where
            the path or `mode` asks for it.
        mode: "reverse" or "forward" differentiation, where `adjoint` is left out.
        fn: What to save, `(t, y) -> vector`, instead of the state.
        max_steps: Most steps under `controller`; fixed steps know their number.

    Returns:
        A `Solution(path, result, stats)`.

    Raises:
        ValueError: For bad arguments, and for every combination of solver, noise, calculus, path
            and adjoint that would fail or converge to a wrong answer (docs, "Solvers").
    """
    check_objects(sde, solver, controller, brownian, adjoint)
    y0 = checked_state(y0)
    times, ts = checked_times(ts, y0)
    ts = jax.lax.stop_gradient(ts)
    if solver is None:
        solver = dfx.Euler() if sde.calculus == "ito" else dfx.Heun()
    if (key is None) == (brownian is None):
        raise ValueError(
            f"`key` is {key!r} and `brownian` is {brownian!r}. Pass exactly one: a key for new "
            "noise, or a Brownian path that carries its own."
        )
    if adjoint is not None and mode is not None:
        raise ValueError(f"`adjoint` and `mode={mode!r}` are both given. Pass one.")
    if controller is not None:
        if substeps is not None:
            raise ValueError(f"`substeps={substeps}` and `controller` are both given. Pass one.")
        grid = Grid(ts, None, None, None)
    elif substeps is not None:
        if dt is not None:
            raise ValueError(f"`dt={dt}` and `substeps={substeps}` are both given. Pass one.")
        grid = grid_by_substeps(ts, substeps)
    elif dt is not None:
        grid = grid_by_dt(times, dt, y0.dtype)
    else:
        raise ValueError("`dt` is None. Pass `dt`, `substeps`, or an adaptive `controller`.")
    dt = dt if controller is not None else None  # fixed steps have it in their grid
    plan = _Plan(solver, controller, adjoint, mode, fn, max_steps)
    return _integrate(sde, y0, ts, key, dt, brownian, grid, plan)


class _Plan(NamedTuple):
    solver: dfx.AbstractSolver
    controller: dfx.AbstractAdaptiveStepSizeController | None
    adjoint: dfx.AbstractAdjoint | None
    mode: str | None
    fn: Callable | None
    max_steps: int


@eqx.filter_jit
def _integrate(
    sde: AbstractSDE,
    y0: State,
    ts: Array,
    key: RandomKey | None,
    dt: Any,
    brownian: dfx.AbstractBrownianPath | None,
    grid: Grid,
    plan: _Plan,
) -> Solution:
    solver, controller, adjoint, mode, fn, max_steps = plan
    check_shapes(sde, y0)
    given = brownian is not None
    if brownian is None:
        assert key is not None  # exactly one is given
        brownian = _default_path(sde, ts, key, solver, controller, grid)
    else:
        check_noise_shape(sde, brownian, y0)
    adjoint = default_adjoint(brownian, mode) if adjoint is None else adjoint
    problem = refusal(sde, solver, brownian, adjoint, adaptive=controller is not None)
    if problem is not None:
        raise ValueError(problem)

    if isinstance(brownian, dfx.VirtualBrownianTree):
        steps_to = grid.times[: grid.times.shape[0] - grid.extra]
        brownian = check_resolution(brownian, controller, steps_to)
    if given and grid.extra:
        brownian = _Until(brownian, ts[-1])
    backsolve = isinstance(adjoint, dfx.BacksolveAdjoint)
    if backsolve and (fn is not None or grid.dt is None):
        raise ValueError(
            "`adjoint=BacksolveAdjoint` saves plain states on a uniform grid. Leave `fn` out and "
            "choose `dt` so that it divides every gap of `ts`, or leave `adjoint` out."
        )
    if controller is None:
        times, steps = grid.times, grid.times.shape[0] - 1
        stepper = dfx.ConstantStepSize() if backsolve else dfx.StepTo(times)
        first, saveat = (grid.dt if backsolve else None), grid.saveat(backsolve)
    else:
        times, steps, first = ts, max_steps, dt
        stepper, saveat = _landing(controller, ts, sde), dfx.SaveAt(ts=ts)
    if isinstance(sde, Langevin):
        saved = _SaveLangevin(fn)
        start: Any = tuple(jnp.split(y0, 2))
    else:
        saved, start = (None if fn is None else _Save(fn)), y0
    if fn is not None:
        check_fn(fn, ts, y0)
    if saved is not None:
        saveat = eqx.tree_at(lambda s: s.subs.fn, saveat, saved)
    sol = dfx.diffeqsolve(
        sde.terms(brownian),
        solver,
        t0=times[0],
        t1=times[-1],
        dt0=first,
        y0=start,
        saveat=saveat,
        stepsize_controller=stepper,
        adjoint=adjoint,
        max_steps=steps,
        throw=False,
    )
    ys, sound = cast(tuple[Array, Array], sol.ys) if fn is not None else (sol.ys, None)
    sound = jnp.all(jnp.isfinite(cast(Array, ys)), axis=1) if sound is None else sound
    sound = sound & jnp.isfinite(cast(Array, sol.ts))  # Diffrax leaves inf where it did not get
    if grid.extra:
        ys, sound = jax.tree.map(lambda x: repeat_at_equal_times(ts, x[: len(ts)]), (ys, sound))
    finite = jnp.cumsum(~sound) == 0
    result = RESULTS.where(
        jnp.all(finite) | (sol.result != dfx.RESULTS.successful),
        RESULTS.promote(sol.result),
        RESULTS.diverged,
    )
    stats = {
        name: number - grid.extra if name in ("num_steps", "num_accepted_steps") else number
        for name, number in sol.stats.items()
    }
    return Solution(Trajectory(ts, cast(Array, ys), finite), result, stats)


def _default_path(
    sde: AbstractSDE,
    ts: Array,
    key: RandomKey,
    solver: dfx.AbstractSolver,
    controller: dfx.AbstractAdaptiveStepSizeController | None,
    grid: Grid,
) -> dfx.AbstractBrownianPath:
    shape = jax.ShapeDtypeStruct((sde.noise_dim,), ts.dtype)
    levy = levy_area_of(solver)
    if controller is not None:
        dtmin = getattr(controller, "dtmin", None)
        if dtmin is None:
            raise ValueError(
                "`controller` has no `dtmin`, so the noise has no resolution. Use "
                "`PIDController(..., dtmin=...)`, or pass `brownian`."
            )
        return dfx.VirtualBrownianTree(ts[0], ts[-1], dtmin / 2, shape, key, levy)
    halves = 2 if is_half(solver) else 1
    if grid.dt is not None:
        return CounterBrownianPath(
            shape, key, dt=grid.dt / halves, t0=ts[0], levy_area=levy, cells=halves
        )
    cells = grid.times
    if halves == 2:
        middle = cells[:-1] + 0.5 * jnp.diff(cells)
        cells = jnp.append(jnp.stack([cells[:-1], middle], axis=1).reshape(-1), cells[-1])
    return CounterBrownianPath(shape, key, ts=cells, levy_area=levy, cells=halves)


def _landing(
    controller: dfx.AbstractAdaptiveStepSizeController, ts: Array, sde: AbstractSDE
) -> dfx.AbstractAdaptiveStepSizeController:
    """`controller`, made to end a step on every time that is saved."""
    revisit = 100 if sde.noise == "general" else None  # or rejecting a step biases its Levy area
    return dfx.ClipStepSizeController(controller, step_ts=ts, store_rejected_steps=revisit)


@final
class _Until(dfx.AbstractBrownianPath):
    """A path that stands still after `end`, where the dropped last step of an uneven grid lies."""

    path: dfx.AbstractBrownianPath
    end: Array
    levy_area: Any = eqx.field(static=True)

    def __init__(self, path: dfx.AbstractBrownianPath, end: Array):
        self.path = path
        self.end = end
        self.levy_area = path.levy_area

    @property
    def t0(self) -> Any:
        return self.path.t0

    @property
    def t1(self) -> Any:
        return jnp.inf

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        t0 = jnp.minimum(t0, self.end)
        t1 = None if t1 is None else jnp.minimum(t1, self.end)
        return self.path.evaluate(t0, t1, left=left, use_levy=use_levy)


@final
class _Save(eqx.Module):
    fn: Callable

    def __call__(self, t: Time, y: State, args: None) -> tuple[Array, Array]:
        del args
        return self.fn(t, y), jnp.all(jnp.isfinite(y))


@final
class _SaveLangevin(eqx.Module):
    fn: Callable | None

    def __call__(self, t: Time, y: tuple[State, State], args: None) -> Any:
        flat = jnp.concatenate(y)
        return flat if self.fn is None else _Save(self.fn)(t, flat, args)
