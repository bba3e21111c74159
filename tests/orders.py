"""Measuring the order of convergence of a solver, in one compiled program for all step sizes."""

from typing import final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from dynlm import CounterBrownianPath, rollout, solve
from dynlm.simulate import AbstractNoise

LEVELS = (8, 16, 32, 64)
FINE = 1024


def grids(t1):
    """Even grids of 8 to 64 steps to t1, and on by fine steps to one length for all."""
    return jnp.stack(
        [
            jnp.concatenate(
                [
                    jnp.linspace(0.0, t1, n + 1),
                    t1 + t1 / FINE * jnp.arange(1.0, LEVELS[-1] - n + 1),
                ]
            )
            for n in LEVELS
        ]
    )


def strong_errors(sde, solver, problem, truth, *, key, paths=400):
    """Root mean square error at the end, per level; every level follows the same Brownian path."""

    def path(key, cells):
        return CounterBrownianPath(
            (sde.noise_dim,), key, problem.t1 / FINE, levy_area=dfx.SpaceTimeLevyArea, cells=cells
        )

    @jax.jit
    @jax.vmap
    def ends(key):
        brownian = path(key, FINE // LEVELS[0])

        def end(ts, n):
            sol = solve(sde, problem.y0, ts, brownian=brownian, solver=solver, substeps=1)
            return sol.path.ys[n]

        return jax.vmap(end)(grids(problem.t1), jnp.array(LEVELS))

    keys = jr.split(key, paths)
    error = ends(keys) - jax.jit(jax.vmap(lambda key: truth(path(key, FINE))))(keys)[:, None]
    return np.sqrt(np.mean(np.sum(np.asarray(error) ** 2, axis=-1), axis=0))


def closed_form(problem):
    """The end of the path, exactly."""
    return lambda path: problem.exact(problem.t1, problem.y0, path.evaluate(problem.t1))


def fine_solve(problem, sde, solver):
    """The end of the path, solved with 1,024 steps."""

    def end(path):
        ts = np.array([0.0, problem.t1])
        return solve(
            sde, problem.y0, ts, brownian=path, solver=solver, dt=problem.t1 / FINE
        ).path.ys[-1]

    return end


def observed_order(errors):
    """Slope of log error against log step."""
    return np.polyfit(np.log(1 / np.array(LEVELS)), np.log(errors), 1)[0]


@final
class Coarse(AbstractNoise):
    """The normals of steps that are each `cells` cells of a fine path: one path, any step."""

    cells: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)

    @property
    def chunk(self):
        return 1

    def stream(self, key):
        return jr.key_data(key)

    def normals(self, stream, step, components, dtype, kind=0):
        shape = jax.ShapeDtypeStruct((components,), dtype)
        fine = CounterBrownianPath(
            shape, stream, self.dt, levy_area=dfx.SpaceTimeLevyArea, cells=self.cells
        )
        h = self.cells * self.dt
        t = step.astype(dtype) * h
        areas = fine.evaluate(t, t + h, use_levy=True)
        return areas.H * (12 / h) ** 0.5 if kind else areas.W / h**0.5


def rollout_errors(sde, scheme, problem, truth, *, key, paths=400):
    """As `strong_errors`, through `rollout`."""
    fine = problem.t1 / FINE

    @jax.jit
    @jax.vmap
    def ends(i):
        path = CounterBrownianPath(
            (sde.noise_dim,), jr.fold_in(key, i), fine, levy_area=dfx.SpaceTimeLevyArea, cells=FINE
        )
        return truth(path)

    exact = ends(jnp.arange(paths))
    y0s = jnp.tile(problem.y0[None], (paths, 1))

    def error(n):
        steps = (0.0, problem.t1, n)
        noise = Coarse(FINE // n, fine)
        return rollout(sde, y0s, steps, key=key, scheme=scheme, noise=noise) - exact

    return np.sqrt([np.mean(np.sum(np.asarray(error(n)) ** 2, axis=-1)) for n in LEVELS])
