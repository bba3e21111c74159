"""Several data sets of one size fitted in one run, and how far off their parameters are."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _recovery_cases import Case
from jaxtyping import Array, Float

import dynlm
from dynlm import Trajectory

Sets = Float[np.ndarray, "set path time dim"]


@final
class Side(eqx.Module):
    """Models side by side, each with a leading axis on its arrays."""

    models: Any


@final
class SideBySide(eqx.Module):
    """The mean loss of models whose states stand one after the other in the states of a path.

    Nothing passes from one to the other as long as the optimiser works on each number alone: Adam
    does, clipping does not.
    """

    loss: Callable = eqx.field(static=True)
    sets: int = eqx.field(static=True)

    def __call__(self, side: Side, path: Trajectory) -> Float[Array, ""]:
        ys = jnp.moveaxis(path.ys.reshape(len(path.ts), self.sets, -1), 1, 0)

        def one(model: Any, ys: Array) -> Array:
            return self.loss(model, Trajectory(path.ts, ys, path.mask))

        # A sum, so that each has the gradient that it would have alone.
        return jnp.sum(eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0))(side.models, ys))


def made(case: Case, transitions: int, sets: int, *, key: Array) -> Sets:
    """Data sets of so many transitions each."""
    if transitions % case.length:
        raise ValueError(f"`transitions` is {transitions}. Use a multiple of {case.length}.")
    paths = transitions // case.length
    whole = case.data(case.truth, key, sets * paths)
    return whole.reshape(sets, paths, *whole.shape[1:])


def recovered(
    case: Case, data: Sets, *, key: Array, steps: int, batch: int
) -> dict[str, np.ndarray]:
    """The relative error of every block of parameters in a fit to each data set.

    Args:
        case: What is fitted.
        data: What `made` gives.
        key: Random key.
        steps: Of training.
        batch: Transitions to a step.
    """
    sets, paths = data.shape[:2]
    ys = np.moveaxis(data, 0, 2).reshape(paths, case.length + 1, -1)
    ts = np.broadcast_to((case.gap * np.arange(case.length + 1)).astype(np.float32), ys.shape[:2])
    many = lambda x: jnp.repeat(x[None], sets, axis=0) if eqx.is_array(x) else x  # noqa: E731
    run = dynlm.fit(
        Side(jax.tree.map(many, case.start)),
        jax.vmap(Trajectory)(jnp.asarray(ts), jnp.asarray(ys), jnp.ones(ys.shape[:2], bool)),
        key=key,
        loss=SideBySide(case.loss, sets),
        optimiser=dynlm.Adam(rate=case.rate, clip=1e9),
        steps=steps,
        batch=min(paths, max(1, batch // case.length)),
        window=case.length + 1,
        every=steps,
        quiet=True,
    )
    read = eqx.filter_vmap(case.read, in_axes=(eqx.if_array(0),))
    found, truth = read(run.model.models), case.read(case.truth)
    return {name: distance(found[name], truth[name]) for name in truth}


def distance(found: Any, truth: Any) -> np.ndarray:
    """The norm of the error over that of the truth, for each data set."""
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    error = (found - truth).reshape(len(found), -1)
    return np.linalg.norm(error, axis=1) / np.linalg.norm(truth)


def overall(errors: dict[str, np.ndarray]) -> np.ndarray:
    """The root mean square over blocks, for each data set."""
    return np.sqrt(np.mean([error**2 for error in errors.values()], axis=0))


def slope(sizes: list[int], errors: list[np.ndarray], *, seed: int) -> dict[str, float]:
    """Of the log of the root mean square error against that of the size, with its interval.

    The data sets of each size are drawn anew, with replacement, for the interval of 95 %.
    """
    logs = np.log(sizes) - np.mean(np.log(sizes))

    def of(squares: np.ndarray) -> np.ndarray:
        return logs @ (0.5 * np.log(squares)) / (logs @ logs)

    draw = np.random.default_rng(seed)
    again = [e[draw.integers(0, len(e), (2000, len(e)))] ** 2 for e in errors]
    low, high = np.quantile(of(np.stack([e.mean(axis=1) for e in again])), [0.025, 0.975])
    value = of(np.asarray([np.mean(e**2) for e in errors]))
    return {"value": float(value), "low": float(low), "high": float(high)}
