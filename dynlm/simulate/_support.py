"""Which solver, noise, calculus, Brownian path and adjoint go together, and why others do not."""

from typing import Any

import diffrax as dfx

from .._types import Calculus, NoiseClass
from ..sde import AbstractSDE, Langevin
from ._brownian import CounterBrownianPath

_LEVY = [dfx.BrownianIncrement, dfx.SpaceTimeLevyArea, dfx.SpaceTimeTimeLevyArea]

# Strong order by noise class, as the tests measure it. None: refused.
STRONG_ORDER: dict[type, dict[NoiseClass, float | None]] = {
    dfx.Euler: {"additive": 1.0, "commutative": 0.5, "general": 0.5},
    dfx.ItoMilstein: {"additive": 1.0, "commutative": 1.0, "general": None},
    dfx.EulerHeun: {"additive": 1.0, "commutative": 1.0, "general": 0.5},
    dfx.StratonovichMilstein: {"additive": 1.0, "commutative": 1.0, "general": None},
    dfx.Heun: {"additive": 1.0, "commutative": 1.0, "general": 0.5},
    dfx.Midpoint: {"additive": 1.0, "commutative": 1.0, "general": 0.5},
    dfx.Ralston: {"additive": 1.0, "commutative": 1.0, "general": 0.5},
    dfx.ReversibleHeun: {"additive": 1.0, "commutative": 1.0, "general": 0.5},
    dfx.SEA: {"additive": 1.0, "commutative": None, "general": None},
    dfx.SRA1: {"additive": 1.5, "commutative": None, "general": None},
    dfx.ShARK: {"additive": 1.5, "commutative": None, "general": None},
    dfx.SPaRK: {"additive": 1.5, "commutative": 1.0, "general": 0.5},
    dfx.GeneralShARK: {"additive": 1.5, "commutative": 1.0, "general": 0.5},
    dfx.SlowRK: {"additive": 1.5, "commutative": 1.5, "general": 0.5},
}


def inner(solver: dfx.AbstractSolver) -> dfx.AbstractSolver:
    """The solver inside any wrappers such as `diffrax.HalfSolver`."""
    wrapped = getattr(solver, "solver", None)
    return inner(wrapped) if isinstance(wrapped, dfx.AbstractSolver) else solver


def is_half(solver: dfx.AbstractSolver) -> bool:
    """Whether the solver also steps to the middle of each step."""
    wrapped = getattr(solver, "solver", None)
    return type(solver) is dfx.HalfSolver or (
        isinstance(wrapped, dfx.AbstractSolver) and is_half(wrapped)
    )


def levy_area_of(solver: dfx.AbstractSolver) -> Any:
    """The least Levy area that `solver` needs, as Diffrax's increment class."""
    needed = getattr(inner(solver), "minimal_levy_area", dfx.BrownianIncrement)
    return next(kind for kind in _LEVY if issubclass(kind, needed))


def refusal(
    sde: AbstractSDE,
    solver: dfx.AbstractSolver,
    brownian: dfx.AbstractBrownianPath,
    adjoint: dfx.AbstractAdjoint,
    *,
    adaptive: bool = False,
) -> str | None:
    """Why this combination would fail or converge to a wrong answer; None where it is sound."""
    return (
        refuse_solver(sde, solver)
        or _refuse_path(solver, brownian, adaptive)
        or _refuse_adjoint(solver, brownian, adjoint)
    )


def refuse_solver(sde: AbstractSDE, solver: dfx.AbstractSolver) -> str | None:
    core, name = inner(solver), _name(solver)
    made_for_langevin = isinstance(core, dfx.AbstractFosterLangevinSRK)
    if made_for_langevin and not isinstance(sde, Langevin):
        return f"`solver={name}` solves underdamped Langevin only. Pass a `dynlm.Langevin`."
    if isinstance(sde, Langevin):
        if made_for_langevin:
            return None
        return (
            f"`solver={name}` does not step a `Langevin`. Pass `langevin.sde()`, or use "
            "`diffrax.ALIGN`, `ShOULD` or `QUICSORT`."
        )
    ito = isinstance(core, dfx.AbstractItoSolver)
    if not ito and not isinstance(core, dfx.AbstractStratonovichSolver):
        return (
            f"`solver={name}` is a solver of ODEs: with noise it converges to neither calculus. "
            f"Use `diffrax.{'Euler' if sde.calculus == 'ito' else 'Heun'}()`."
        )
    if _additive_only(core) and sde.noise != "additive":
        return (
            f"`solver={name}` needs additive noise; this diffusion declares {sde.noise!r}. "
            f"Use `diffrax.{'Euler' if sde.calculus == 'ito' else 'SPaRK'}()`."
        )
    if isinstance(core, dfx.ItoMilstein | dfx.StratonovichMilstein) and sde.noise == "general":
        return (
            f"`solver={name}` needs commutative noise; this diffusion declares 'general'. Use "
            f"`diffrax.{'Euler' if ito else 'SPaRK'}()`, which is strong order 0.5 here."
        )
    if sde.noise != "additive" and ito != (sde.calculus == "ito"):
        other: Calculus = "ito" if ito else "stratonovich"
        return (
            f"`solver={name}` converges to the {other} solution, but `sde` is {sde.calculus}. "
            f"Pass `sde.to_{other}()`, or use `diffrax.{'Heun' if ito else 'Euler'}()`."
        )
    return None


def _refuse_path(
    solver: dfx.AbstractSolver, brownian: dfx.AbstractBrownianPath, adaptive: bool
) -> str | None:
    name, path = _name(solver), type(brownian).__name__
    levy = brownian.levy_area
    if levy in _LEVY and _LEVY.index(levy) < _LEVY.index(levy_area_of(solver)):
        need = levy_area_of(solver).__name__
        return (
            f"`brownian={path}` makes {levy.__name__}, but `solver={name}` needs {need}. "
            f"Build it with `levy_area=diffrax.{need}`."
        )
    if is_half(solver) and isinstance(brownian, dfx.UnsafeBrownianPath):
        return (
            "`brownian=UnsafeBrownianPath` draws half steps independently of whole ones, so "
            f"`solver={name}` would estimate errors from noise. Use CounterBrownianPath(cells=2)."
        )
    if not adaptive:
        return None
    if isinstance(brownian, CounterBrownianPath | dfx.UnsafeBrownianPath):
        return (
            f"`brownian={path}` has a fixed grid, but `controller` adapts its steps. "
            "Use `diffrax.VirtualBrownianTree`, or leave `brownian` out."
        )
    core = inner(solver)
    if isinstance(core, dfx.Euler):
        return (
            f"`solver={name}` with an adaptive `controller` may converge to a wrong answer. "
            "Use a fixed `dt`, or `diffrax.SPaRK()`."
        )
    if not isinstance(solver, dfx.AbstractAdaptiveSolver):
        other = "" if isinstance(core, dfx.AbstractFosterLangevinSRK) else ", or `diffrax.SPaRK()`"
        return (
            f"`solver={name}` makes no error estimate for an adaptive `controller`. "
            f"Use `diffrax.HalfSolver({name}())`{other}."
        )
    return None


def _refuse_adjoint(
    solver: dfx.AbstractSolver, brownian: dfx.AbstractBrownianPath, adjoint: dfx.AbstractAdjoint
) -> str | None:
    name = type(adjoint).__name__
    if isinstance(adjoint, dfx.ImplicitAdjoint):
        return (
            "`adjoint=ImplicitAdjoint` differentiates a steady state, and noise has none. "
            "Use `diffrax.RecursiveCheckpointAdjoint()`."
        )
    if isinstance(brownian, dfx.UnsafeBrownianPath) and not isinstance(adjoint, dfx.ForwardMode):
        return (
            f"`adjoint={name}` runs backwards over the noise, which UnsafeBrownianPath cannot "
            "repeat. Use `dynlm.CounterBrownianPath`, or `adjoint=diffrax.ForwardMode()`."
        )
    if isinstance(adjoint, dfx.BacksolveAdjoint):
        core = inner(solver)
        if isinstance(core, dfx.AbstractItoSolver):
            return (
                f"`adjoint=BacksolveAdjoint` needs a Stratonovich solver; {_name(solver)} is Ito. "
                "Use `sde.to_stratonovich()` with `diffrax.Heun()`, or leave `adjoint` out."
            )
        if core.term_structure is not dfx.AbstractTerm:
            return (
                f"`adjoint=BacksolveAdjoint` needs a solver of one term; {_name(solver)} splits "
                "drift and diffusion. Use `diffrax.Heun()`, or leave `adjoint` out."
            )
    return None


def _additive_only(solver: dfx.AbstractSolver) -> bool:
    return isinstance(solver, dfx.AbstractSRK) and solver.tableau.is_additive_noise()


def _name(solver: dfx.AbstractSolver) -> str:
    return type(solver).__name__


def default_adjoint(
    brownian: dfx.AbstractBrownianPath, mode: str | None = None
) -> dfx.AbstractAdjoint:
    """Reverse mode with checkpoints, unless the path or the mode asks for forward mode."""
    if mode not in (None, "forward", "reverse"):
        raise ValueError(f"`mode` is {mode!r}. Use 'forward', 'reverse', or pass an `adjoint`.")
    unsafe = isinstance(brownian, dfx.UnsafeBrownianPath) and mode is None
    return dfx.ForwardMode() if mode == "forward" or unsafe else dfx.RecursiveCheckpointAdjoint()
