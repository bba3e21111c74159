"""Descriptions of SDEs: plain values from which a model is made, and made again when a run is read.

spec = dynlm.specs.NeuralSDE(dim=16, width=128, diffusion="full")
sde = spec.build(key=key)
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax.numpy as jnp
import jax.random as jr

from . import diffusions, drifts
from ._fields import shown
from ._io import BadArgument
from ._types import Calculus, RandomKey
from .sde import SDE

TIMES: dict[str, Any] = {
    "none": None,
    "raw": drifts.raw_time,
    "fourier": drifts.Fourier((0.01, 0.03, 0.1, 0.3)),
}


@runtime_checkable
class Spec(Protocol):
    """A frozen dataclass of plain values that makes a model from a key."""

    def build(self, *, key: RandomKey) -> Any: ...


@dataclass(frozen=True)
class NeuralSDE:
    """A neural SDE: which networks its drift and its diffusion are.

    Args:
        dim: Dimension of the state.
        drift: "mlp", "residual", "gradient" (minus the gradient of a learned energy), "lipschitz"
            (with the certified constant `lipschitz`) or "linear".
        diffusion: "scalar", "diagonal", "lowrank" (of `rank`) or "full".
        on: What the noise depends on: "nothing", "time", "component" (of diagonal noise) or
            "state".
        width: Of the hidden layers.
        depth: How many of them; blocks of a residual network.
        rank: Of low-rank noise, beside its diagonal.
        time: What networks see of time: "none", "raw", or "fourier", with waves of periods from 3
            to 100.
        scale: Strength of the noise at the start; where it is None, `fit` takes that of the data's
            increments, and `build` by itself takes 1.
        floor: Least strength of the noise.
        lipschitz: Constant of the Lipschitz drift.
        calculus: That the SDE is read with.
    """

    dim: int
    drift: Literal["mlp", "residual", "gradient", "lipschitz", "linear"] = "mlp"
    diffusion: Literal["scalar", "diagonal", "lowrank", "full"] = "diagonal"
    on: Literal["nothing", "time", "component", "state"] = "state"
    width: int = 128
    depth: int = 2
    rank: int = 4
    time: Literal["none", "raw", "fourier"] = "none"
    scale: float | None = None
    floor: float = 1e-3
    lipschitz: float = 1.0
    calculus: Calculus = "ito"

    def __post_init__(self) -> None:
        for name in ("dim", "width", "rank"):
            if getattr(self, name) < 1:
                raise BadArgument(f"`{name}` is {getattr(self, name)}. Use 1 or more.")
        if self.scale is not None and not self.scale > 0:
            raise BadArgument(f"`scale` is {self.scale}. Use a number above 0, or None.")
        if self.on == "time" and self.time == "none":
            raise BadArgument("`on` is 'time' and `time` is 'none'. Use 'raw' or 'fourier' for it.")
        if self.on == "component" and self.diffusion != "diagonal":
            raise BadArgument(
                f"`on` is 'component' and `diffusion` {shown(self.diffusion)}. Use 'diagonal'."
            )
        if self.depth < 0:
            raise BadArgument(f"`depth` is {self.depth}. Use 0 or more.")
        if self.time not in TIMES:
            raise BadArgument(f"`time` is {shown(self.time)}. Use one of {', '.join(TIMES)}.")

    def build(self, *, key: RandomKey) -> SDE:
        """The SDE, with its networks as they are drawn from the key."""
        drift_key, noise_key = jr.split(key)
        return SDE(self._drift(drift_key), self._diffusion(noise_key), self.calculus)

    def _drift(self, key: RandomKey) -> drifts.AbstractDrift:
        dim, width, depth, time = self.dim, self.width, self.depth, TIMES[self.time]
        if self.drift == "mlp":
            return drifts.MLP(dim, width=width, depth=depth, time=time, key=key)
        if self.drift == "residual":
            return drifts.ResidualMLP(dim, width=width, blocks=depth, time=time, key=key)
        if self.drift == "gradient":
            return drifts.Gradient.learned(dim, width=width, depth=depth, key=key)
        if self.drift == "lipschitz":
            bound = self.lipschitz
            return drifts.LipschitzMLP(
                dim, lipschitz=bound, width=width, depth=depth, time=time, key=key
            )
        if self.drift == "linear":
            return drifts.Linear(jr.normal(key, (dim, dim)) * 0.01, jnp.zeros(dim))
        raise BadArgument(
            f"`drift` is {shown(self.drift)}. Use mlp, residual, gradient, lipschitz or linear."
        )

    def _diffusion(self, key: RandomKey) -> diffusions.AbstractDiffusion:
        scale = 1.0 if self.scale is None else self.scale
        common: dict[str, Any] = dict(
            on=self.on, width=self.width, depth=self.depth, scale=scale, floor=self.floor
        )
        common |= dict(time=TIMES[self.time], key=key)
        if self.diffusion == "scalar":
            return diffusions.Scalar.learned(self.dim, **common)
        if self.diffusion == "diagonal":
            return diffusions.Diagonal.learned(self.dim, **common)
        if self.diffusion == "lowrank":
            return diffusions.LowRank.learned(self.dim, rank=self.rank, **common)
        if self.diffusion == "full":
            return diffusions.Full.learned(self.dim, **common)
        raise BadArgument(
            f"`diffusion` is {shown(self.diffusion)}. Use scalar, diagonal, lowrank or full."
        )


SPECS: dict[str, type] = {"NeuralSDE": NeuralSDE}


def to_json(spec: Any) -> dict[str, Any]:
    """A spec as a JSON object."""
    return {"spec": type(spec).__name__} | dataclasses.asdict(spec)


def from_json(found: dict[str, Any]) -> Any:
    """The spec that `to_json` gave this for."""
    fields = dict(found)
    kind = SPECS.get(fields.pop("spec", ""))
    if kind is None:
        raise BadArgument(
            f"The spec is {shown(found.get('spec'))}. Known are {', '.join(SPECS)}; a model of "
            "another kind is read with `load_run(folder, like=model)`."
        )
    known = {field.name for field in dataclasses.fields(kind)}
    if not fields.keys() <= known:
        odd = ", ".join(sorted(fields.keys() - known))
        raise BadArgument(f"The spec has {shown(odd)}, which {kind.__name__} does not know.")
    return kind(**fields)
