"""One step of each scheme that `rollout` knows, for one path."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._types import Noise, State, Time
from ..sde import SDE
from ._support import refuse_solver

Carry = PyTree  # the state, and what else the scheme takes from step to step


class Scheme(NamedTuple):
    r"""A scheme for $dy = f\,dt + g\,dW$.

    Args:
        init: `(sde, t0, y0) -> carry`.
        step: `(sde, t, h, carry, W, H) -> carry`, with the increment and, where `areas` is 2, the
            space-time Levy area of the step.
        state: `carry -> y`.
        undo: The step back, where there is one.
        areas: 1 if it needs the increment alone, 2 with the area.
    """

    step: Callable[..., Carry]
    init: Callable[[SDE, Time, State], Carry] = lambda sde, t, y: y
    state: Callable[[Carry], State] = lambda carry: carry
    undo: Callable[..., Carry] | None = None
    areas: int = 1


def _euler(sde: SDE, t: Array, h: Array, y: State, w: Noise) -> State:
    return y + sde.drift(t, y) * h + sde.diffusion(t, y).mv(w)


def _milstein(sde: SDE, t: Array, h: Array, y: State, w: Noise) -> State:
    r"""Euler, and $\tfrac12 \sum_{ij} Dg_j g_i\,(W_i W_j - h\,\delta_{ij})$ for commuting columns.

    The sum over the products is the derivative of $g W$ along itself, and the sum over the diagonal
    is the correction between the two calculi, hence absent in the Stratonovich one.
    """
    euler = _euler(sde, t, h, y, w)
    if sde.noise == "additive":
        return euler
    along = sde.diffusion(t, y).mv(w)
    _, second = jax.jvp(lambda y: sde.diffusion(t, y).mv(w), (y,), (along,))
    stratonovich = euler + 0.5 * second
    return stratonovich - h * sde.diffusion.correction(t, y) if _ito(sde) else stratonovich


def _heun(sde: SDE, t: Array, h: Array, y: State, w: Noise) -> State:
    slope = sde.drift(t, y) * h + sde.diffusion(t, y).mv(w)
    end = y + slope
    return y + 0.5 * (slope + sde.drift(t + h, end) * h + sde.diffusion(t + h, end).mv(w))


def _shark(sde: SDE, t: Array, h: Array, y: State, w: Noise, area: Noise) -> State:
    r"""Foster, dos Reis and Strange's shifted additive-noise Runge-Kutta method.

    $$f_1 = f(t,\; y + g H), \quad f_2 = f(t + \tfrac56 h,\; y + \tfrac56 (h f_1 + g W) + g H)$$
    $$y' = y + h\,(\tfrac25 f_1 + \tfrac35 f_2) + g W + (g_{t+h} - g)(\tfrac12 W - H)$$
    """
    g = sde.diffusion(t, y)
    shift = y + g.mv(area)
    f_1 = sde.drift(t, shift)
    f_2 = sde.drift(t + 5 / 6 * h, shift + 5 / 6 * (f_1 * h + g.mv(w)))
    new = y + (0.4 * f_1 + 0.6 * f_2) * h + g.mv(w)
    if _moves(sde, t, y):
        rest = 0.5 * w - area
        new = new + sde.diffusion(t + h, y).mv(rest) - g.mv(rest)
    return new


def _moves(sde: SDE, t: Array, y: State) -> bool:
    """Whether the diffusion is computed from the time."""
    _, by_time = eqx.filter_jvp(lambda t: sde.diffusion(t, y), (t,), (jnp.ones_like(t),))
    return bool(jax.tree.leaves(by_time))


class ReversibleCarry(NamedTuple):
    """The state, its shadow, and the fields at the shadow."""

    y: State
    z: State
    f: State
    g: Any


def _start(sde: SDE, t: Time, y: State) -> ReversibleCarry:
    return ReversibleCarry(y, y, sde.drift(t, y), sde.diffusion(t, y))


def _reversible_heun(
    sde: SDE, t: Array, h: Array, old: ReversibleCarry, w: Noise
) -> ReversibleCarry:
    """Kidger, Foster, Li and Lyons' method: one evaluation a step, and it can be undone."""
    y, z, f, g = old
    slope = f * h + g.mv(w)
    z_1 = 2 * y - z + slope
    f_1, g_1 = sde.drift(t + h, z_1), sde.diffusion(t + h, z_1)
    return ReversibleCarry(y + 0.5 * (slope + f_1 * h + g_1.mv(w)), z_1, f_1, g_1)


def _undo_heun(sde: SDE, t: Array, h: Array, new: ReversibleCarry, w: Noise) -> ReversibleCarry:
    """What `_reversible_heun` made `new` from."""
    y_1, z_1, f_1, g_1 = new
    slope_1 = f_1 * h + g_1.mv(w)
    z = 2 * y_1 - z_1 - slope_1
    f, g = sde.drift(t, z), sde.diffusion(t, z)
    return ReversibleCarry(y_1 - 0.5 * (f * h + g.mv(w) + slope_1), z, f, g)


SCHEMES: dict[type, Scheme] = {
    dfx.Euler: Scheme(_euler),
    dfx.ItoMilstein: Scheme(_milstein),
    dfx.StratonovichMilstein: Scheme(_milstein),
    dfx.Heun: Scheme(_heun),
    dfx.ShARK: Scheme(_shark, areas=2),
    dfx.ReversibleHeun: Scheme(_reversible_heun, _start, lambda carry: carry.y, _undo_heun),
}


def scheme_of(sde: SDE, solver: dfx.AbstractSolver) -> Scheme:
    """The step of `solver`, refused where it would not converge to the solution of `sde`."""
    if type(solver) not in SCHEMES:
        known = ", ".join(f"`diffrax.{scheme.__name__}()`" for scheme in SCHEMES)
        raise ValueError(
            f"`scheme` is {solver!r}. Use one of {known}; every other solver runs in "
            "`jax.vmap` of `dynlm.solve`."
        )
    problem = refuse_solver(sde, solver)
    if problem is not None:
        raise ValueError(problem.replace("`solver=", "`scheme="))
    return SCHEMES[type(solver)]


def _ito(sde: SDE) -> bool:
    return sde.calculus == "ito"
