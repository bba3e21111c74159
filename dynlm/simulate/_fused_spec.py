"""An SDE as the fused kernel runs it: which ones it can, and what each part reads at a step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from .. import diffusions, drifts
from .._nets import Features, StateNet
from .._types import State, Time
from ..diffusions._base import Value, evaluate
from ..diffusions._learned import Positive, softplus
from ..sde import SDE

ACTIVATIONS: dict[Callable, str] = {
    jax.nn.silu: "silu",
    jax.nn.tanh: "tanh",
    jnp.tanh: "tanh",
    jax.nn.relu: "relu",
    jax.nn.softplus: "softplus",
    jax.nn.gelu: "gelu",
    jax.nn.sigmoid: "sigmoid",
    jax.nn.identity: "identity",
}


class Operands(NamedTuple):
    """Arrays of one part of the step: factors of dots; rows, one for each step or one for all."""

    factors: list[Any]
    rows: list[Any]


class Reader(NamedTuple):
    """What a part reads at step `j`, and how it takes a product with a factor."""

    operands: Operands
    j: Array
    dot: Callable[[Array, Any], Array]

    def product(self, x: Array, number: int) -> Float[Array, "block outputs"]:
        return self.dot(x, self.operands.factors[number])

    def row(self, number: int) -> Float[Array, "1 outputs"]:
        ref = self.operands.rows[number]
        return ref[pl.ds(self.j if ref.shape[0] > 1 else 0, 1), :]


@final
class Net(eqx.Module):
    """A multilayer perceptron; the first layer's weights are split into state and time."""

    weights: list[Array]  # (inputs, outputs) each
    biases: list[Array]
    on_time: Float[Array, "features outputs"]
    time: Features | None = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    def operands(self, ts: Float[Array, " steps"]) -> Operands:
        first, *rest = [bias[None] for bias in self.biases]
        if self.time is not None:
            first = first + jnp.dot(jax.vmap(self.time)(ts), self.on_time, precision="highest")
        return Operands(self.weights, [first, *rest])

    def __call__(self, read: Reader, x: Array) -> Float[Array, "block outputs"]:
        for number in range(len(self.weights)):
            x = self.activation(x) if number else x
            x = read.product(x, number) + read.row(number)
        return x


@final
class Levels(eqx.Module):
    """A noise level for each component that does not depend on the state."""

    value: Value
    shape: tuple[int, ...] = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    timed: bool = eqx.field(static=True)

    def operands(self, ts: Float[Array, " steps"]) -> Operands:
        def level(t: Time) -> State:
            s = evaluate(self.value, t, jnp.zeros(self.dim, ts.dtype), self.shape)
            return jnp.broadcast_to(s, (self.dim,))

        return Operands([], [jax.vmap(level)(ts if self.timed else ts[:1])])

    def __call__(self, read: Reader, y: Array, dw: Array) -> Float[Array, "block dim"]:
        return read.row(0) * dw


@final
class PositiveNet(eqx.Module):
    """`Positive` of a network: a noise level for each component."""

    net: Net
    scale: float = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def operands(self, ts: Float[Array, " steps"]) -> Operands:
        return self.net.operands(ts)

    def __call__(self, read: Reader, y: Array, dw: Array) -> Float[Array, "block dim"]:
        s = softplus(self.net(read, y) + math.log(math.e - 1))
        return (self.floor + self.scale * s) * dw


@final
class Mixing(eqx.Module):
    """A constant matrix."""

    g: Float[Array, "dim noise"]

    def operands(self, ts: Float[Array, " steps"]) -> Operands:
        return Operands([self.g.T], [])

    def __call__(self, read: Reader, y: Array, dw: Array) -> Float[Array, "block dim"]:
        return read.product(dw, 0)


@final
class Spec(eqx.Module):
    """An SDE as the kernel runs it."""

    drift: Net
    diffusion: Levels | PositiveNet | Mixing
    dim: int = eqx.field(static=True)


def spec_of(sde: SDE) -> Spec | str:
    """What the kernel needs of `sde`; or, as a sentence, why it cannot run it."""
    other = {str(x.dtype) for x in jax.tree.leaves(eqx.filter(sde, eqx.is_array))} - {"float32"}
    if other:
        return _no(f"holds parameters of dtype {', '.join(sorted(other))}", "float32 ones")
    if sde.noise != "additive" and (sde.calculus, sde.base_calculus) != ("ito", "ito"):
        return _no(
            f"is {sde.calculus}, its drift written as {sde.base_calculus}, with noise that "
            "depends on the state",
            "what is written as Ito",
        )
    drift = _drift(sde)
    diffusion = _diffusion(sde.diffusion)
    if isinstance(drift, str) or isinstance(diffusion, str):
        return drift if isinstance(drift, str) else str(diffusion)
    nets = [part for part in (drift, getattr(diffusion, "net", None)) if part is not None]
    for net in nets:
        if net.activation not in ACTIVATIONS:
            name = getattr(net.activation, "__name__", repr(net.activation))
            return _no(
                f"has a network with the activation `{name}`",
                "jax.nn's " + ", ".join(dict.fromkeys(ACTIVATIONS.values())),
            )
        ends = (net.weights[0].shape[0], net.weights[-1].shape[-1])
        if ends != (sde.dim, sde.dim):
            return _no(f"of dimension {sde.dim} has a network from and to {ends}", "equal ones")
    return Spec(drift, diffusion, sde.dim)


def _no(what: str, runs: str) -> str:
    return f"`sde` {what}; the fused kernel runs {runs}. Use `kernel=Scan()`."


def _drift(sde: SDE) -> Net | str:
    drift = sde.drift
    if isinstance(drift, drifts.MLP):
        return _net(drift.net, sde.dim)
    if isinstance(drift, drifts.Linear):
        none = jnp.zeros((0, sde.dim))
        return Net([drift.matrix.T], [drift.bias], none, None, jax.nn.identity)
    return _no(f"has the drift `{type(drift).__name__}`", "`drifts.MLP` and `drifts.Linear`")


def _diffusion(g: diffusions.AbstractDiffusion) -> Levels | PositiveNet | Mixing | str:
    if isinstance(g, diffusions.Constant):
        return Mixing(g.g)
    if not isinstance(g, diffusions.Diagonal | diffusions.Scalar):
        return _no(
            f"has the diffusion `{type(g).__name__}`",
            "`diffusions.Diagonal`, `Scalar` and `Constant`",
        )
    if g.depends in ("nothing", "time"):
        shape = () if isinstance(g, diffusions.Scalar) else (g.dim,)
        return Levels(g.s, shape, g.dim, g.depends == "time")
    if isinstance(g.s, Positive) and isinstance(g.s.field, StateNet):
        return PositiveNet(_net(g.s.field, g.dim), g.s.scale, g.s.floor)
    return _no(
        f"has a `diffusions.{type(g).__name__}` that depends on {g.depends!r} and is no network",
        "constants, functions of time, and `.learned(on='state')`",
    )


def _net(net: StateNet, dim: int) -> Net:
    weights = [layer.weight.T for layer in net.net.layers]
    biases = [
        jnp.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
        for layer in net.net.layers
    ]
    if net.shape == ():  # one number for all components: as many equal outputs
        weights[-1], biases[-1] = jnp.tile(weights[-1], (1, dim)), jnp.tile(biases[-1], dim)
    on_state, on_time = weights[0][:dim], weights[0][dim:]
    return Net([on_state, *weights[1:]], biases, on_time, net.time, net.net.activation)
