"""Measuring the order of convergence of a solver, in one compiled program for all step sizes."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from dynlm import CounterBrownianPath, solve

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
