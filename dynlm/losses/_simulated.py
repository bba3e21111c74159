"""Losses of simulated against observed paths, differentiated through the simulation."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._io import BadArgument
from .._types import RandomKey
from ..simulate import rollout, solve
from ..trajectory import Trajectory
from ._compose import check_batch, comparable


def continuation(path: Trajectory, prefix: int | Int[Array, ""]) -> Trajectory:
    """What follows the first `prefix` states of a path, from the last of these on.

    A model is scored on it given the prefix: it starts in the first state of what is returned, at
    its time. With an `int` the result is shorter by `prefix - 1` steps. With an array, such as one
    entry of a prefix per path under `jax.vmap`, it is as long as the path and ends in padding; a
    prefix longer than the path leaves nothing but padding.
    """
    steps = path.ts.shape[0]
    if isinstance(prefix, jax.Array):
        at = jnp.arange(steps) + prefix - 1
        inside = (at >= 0) & (at < steps)
        at = jnp.clip(at, 0, steps - 1)
        mask = path.mask[at] & inside & (prefix > 0)
        return Trajectory(path.ts[at], jnp.where(mask[:, None], path.ys[at], 0), mask)
    if isinstance(prefix, bool) or not 1 <= prefix < steps:
        raise BadArgument(
            f"`prefix` is {prefix}, and the path has {steps} steps. Use 1 to {steps - 1}, so that "
            "a step follows."
        )
    return path[prefix - 1 :]


@final
class Simulator(eqx.Module):
    """How draws are made from observed paths; its fields are the arguments of `simulated`."""

    simulate: Callable = eqx.field(static=True)
    draws: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    solver: Any
    adjoint: Any
    prefix: int | None = eqx.field(static=True)
    horizon: int | None = eqx.field(static=True)
    every: int | None = eqx.field(static=True)

    def __check_init__(self) -> None:
        if self.simulate not in (solve, rollout):
            raise BadArgument(
                f"`simulate` is {self.simulate!r}. Pass `dynlm.rollout` or `dynlm.solve`."
            )
        for name in ("draws", "substeps", "prefix", "horizon", "every"):
            value = getattr(self, name)
            left_out = value is None and name not in ("draws", "substeps")
            if not left_out and (type(value) is not int or value < 1):
                raise BadArgument(f"`{name}` is {value!r}. Use a whole number, 1 or more.")
        if self.every is not None and self.horizon is None:
            raise BadArgument(
                f"`every` is {self.every}, but `horizon` is None. Pass `horizon`, the steps of "
                "each forecast."
            )

    def observed(self, paths: Trajectory) -> tuple[Trajectory, Int[Array, " part"]]:
        """What is to be simulated of a batch, and which path each part is of."""
        check_batch(paths)
        if self.prefix is not None:
            prefix = self.prefix
            paths = jax.vmap(lambda path: continuation(path, prefix))(paths)
        number, steps = paths.ts.shape
        if steps < 2 or (self.horizon is not None and self.horizon >= steps):
            raise BadArgument(
                f"`paths` leave {steps} steps from the last state of the prefix on, and `horizon` "
                f"is {self.horizon}. Pass longer paths, or a shorter `prefix` or `horizon`."
            )
        which = jnp.arange(number)
        if self.horizon is None:
            return paths, which
        length, stride = self.horizon + 1, self.horizon if self.every is None else self.every
        cut = jax.vmap(lambda path: path.windows(length, stride))(paths)
        which = jnp.repeat(which, cut.ts.shape[1])
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), cut), which

    def __call__(
        self, sde: Any, paths: Trajectory, key: RandomKey
    ) -> Float[Array, "path draw time dim"]:
        """States from the start of each path, at its times. Draw `i` of all has `fold_in(key, i)`.

        A path that has no step is started from the mean of the others: from its zeros a model may
        have no finite derivative.
        """
        live = can_be_scored(paths)
        count = jnp.maximum(jnp.sum(live, dtype=paths.ys.dtype), 1)
        y0s = jnp.where(live[:, None], paths.ys[:, 0], 0)
        y0s = jnp.where(live[:, None], y0s, (jnp.sum(y0s, axis=0) / count)[None])
        y0s, ts = (jnp.repeat(x, self.draws, axis=0) for x in (y0s, paths.ts))
        ys = self._rollout(sde, y0s, ts, key)
        return ys.reshape(-1, self.draws, *ys.shape[1:])

    def _rollout(
        self, sde: Any, y0s: Float[Array, "path dim"], ts: Float[Array, "path time"], key: RandomKey
    ) -> Float[Array, "path time dim"]:
        if self.simulate is rollout:
            return rollout(
                sde,
                y0s,
                ts,
                key=key,
                scheme=self.solver,
                substeps=self.substeps,
                adjoint=self.adjoint,
            ).ys
        # Times that are all 0 cannot be told apart for Diffrax: nothing lies within rounding of 0.
        still = ts[:, -1:] == ts[:, :1]
        ts = jnp.where(still, jnp.arange(ts.shape[1], dtype=ts.dtype)[None], ts)

        def one(i: Array, y0: Array, ts: Array) -> Array:
            options = dict(solver=self.solver, substeps=self.substeps, adjoint=self.adjoint)
            return solve(sde, y0, ts, key=jr.fold_in(key, i), **options).path.ys

        return jax.vmap(one)(jnp.arange(len(y0s)), y0s, ts)


@final
class Simulated(eqx.Module):
    """A score of simulated paths as a loss of a batch; see `simulated`."""

    score: Callable
    simulator: Simulator

    def __call__(self, model: Any, paths: Trajectory, key: RandomKey) -> Float[Array, ""]:
        paths, _ = self.simulator.observed(paths)
        ys = self.simulator(model, paths, key)

        def one(path: Trajectory, ys: Float[Array, "draw time dim"]) -> Float[Array, ""]:
            draws = jax.vmap(lambda y: Trajectory(path.ts, y, path.mask))(ys)
            return self.score(draws, path)

        scores, live = jax.vmap(one)(paths, ys), can_be_scored(paths)
        count = jnp.maximum(jnp.sum(live, dtype=scores.dtype), 1)
        return jnp.sum(jnp.where(live, scores, 0)) / count

    def weight(self, paths: Trajectory) -> Float[Array, ""]:
        """How many paths are scored: what the loss of the batch counts for among others."""
        return jnp.sum(can_be_scored(self.simulator.observed(paths)[0])).astype(paths.ys.dtype)


def simulated(
    score: Callable[[Trajectory, Trajectory], Float[Array, ""]],
    *,
    simulate: Callable,
    draws: int,
    substeps: int = 1,
    solver: Any = None,
    adjoint: Any = None,
    prefix: int | None = None,
    horizon: int | None = None,
    every: int | None = None,
) -> Simulated:
    """`loss(sde, paths, key)`: the mean score of draws from the start of each observed path.

    Draws are simulated at the times of their path, and differentiated through. `dynlm.rollout` and
    `dynlm.solve` are driven by the same noise and give the same loss to rounding; `rollout` is the
    quicker one. Paths of one time or less weigh nothing, all others the same.

    Args:
        score: Of (draws, path), such as `energy_score`. With arguments of its own:
            `functools.partial(kernel_score, scales=(0.5, 1.0))`.
        simulate: `dynlm.rollout` or `dynlm.solve`.
        draws: Draws from each start; the scores of `dynlm.losses` need two.
        substeps: Steps per gap of a path's times.
        solver: A Diffrax solver that `simulate` takes; by default its own choice.
        adjoint: How to differentiate, as `simulate` takes it.
        prefix: Score what follows this many states, given the last of them; by default all that
            follows the first.
        horizon: Score forecasts of this many steps, from several states of each path.
        every: Steps from one such state to the next; `horizon` unless told.
    """
    options = (simulate, draws, substeps, solver, adjoint, prefix, horizon, every)
    return Simulated(comparable(score), Simulator(*options))


@final
class SimulatedSet(eqx.Module):
    """A discrepancy of two sets of paths as a loss of a batch; see `set_simulated`."""

    distance: Callable
    simulator: Simulator

    def __call__(self, model: Any, paths: Trajectory, key: RandomKey) -> Float[Array, ""]:
        ys, which = self.simulator.observed(paths)
        if len(paths.ys) < 2:
            raise BadArgument("`paths` is one path, which is no set. Pass a batch of two or more.")
        states = self.simulator(model, ys, key)
        states = states.reshape(-1, *states.shape[2:])
        ts, mask, origin = (
            jnp.repeat(x, self.simulator.draws, axis=0) for x in (ys.ts, ys.mask, which)
        )
        return self.distance(jax.vmap(Trajectory)(ts, states, mask), ys, origins=(origin, which))


def set_simulated(
    distance: Callable,
    *,
    simulate: Callable,
    draws: int = 1,
    substeps: int = 1,
    solver: Any = None,
    adjoint: Any = None,
    prefix: int | None = None,
    horizon: int | None = None,
    every: int | None = None,
) -> SimulatedSet:
    """`loss(sde, paths, key)`: the discrepancy of the observed set and one simulated from it.

    The simulated set has `draws` paths from the start of each observed one, at its times. A path
    and what was simulated from its start are not independent, nor are the parts of one path that
    `horizon` makes; no such pair is compared, so that the loss is unbiased.

    Args:
        distance: Of (xs, ys, origins=...), such as `marginal_distance`, or
            `functools.partial(mmd, scales=(0.5, 1.0))`.
        simulate: `dynlm.rollout` or `dynlm.solve`.
        draws: Draws from each start.
        substeps: Steps per gap of a path's times.
        solver: A Diffrax solver that `simulate` takes; by default its own choice.
        adjoint: How to differentiate, as `simulate` takes it.
        prefix: Compare what follows this many states, from the last of them on.
        horizon: Compare stretches of this many steps, several from each path.
        every: Steps from one such stretch to the next; `horizon` unless told.
    """
    options = (simulate, draws, substeps, solver, adjoint, prefix, horizon, every)
    return SimulatedSet(comparable(distance), Simulator(*options))


def can_be_scored(paths: Trajectory) -> Any:
    """Which paths of a batch have a step after their first."""
    return jnp.sum(paths.mask, axis=1) >= 2
