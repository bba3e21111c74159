"""Drifts: the $f(t, y)$ of an SDE, as families of Equinox modules."""

import abc
from collections.abc import Callable
from typing import final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from ._nets import Dense, Features, StateNet, features_of, with_time
from ._nets import Fourier as Fourier
from ._nets import raw_time as raw_time
from ._types import RandomKey, Scalar, State, Time


class AbstractDrift(eqx.Module):
    """A vector field $f(t, y)$ for one state."""

    @abc.abstractmethod
    def __call__(self, t: Time, y: State) -> State: ...


@final
class Function(AbstractDrift):
    """Any callable `f(t, y)`; arrays inside an Equinox module stay learnable."""

    f: Callable[[Time, State], State]

    def __call__(self, t: Time, y: State) -> State:
        return self.f(t, y)


@final
class Linear(AbstractDrift):
    r"""$f(t, y) = A y + b$, the drift of an Ornstein-Uhlenbeck process."""

    matrix: Float[Array, "dim dim"]
    bias: Float[Array, " dim"]

    def __check_init__(self) -> None:
        a, b = jnp.shape(self.matrix), jnp.shape(self.bias)
        if len(b) != 1 or a != (*b, *b):
            raise ValueError(
                f"`matrix` has shape {a}, `bias` {b}. Pass a (dim, dim) matrix and a (dim,) vector."
            )

    def __call__(self, t: Time, y: State) -> State:
        return self.matrix @ y + self.bias


@final
class MLP(AbstractDrift):
    r"""$f(t, y) = \mathrm{MLP}([y, \phi(t)])$.

    Args:
        dim: Dimension of the state.
        time: Features of time, `drifts.raw_time`, `drifts.Fourier((0.1, 1.0))` or any callable;
            None makes the drift autonomous.
    """

    net: StateNet

    def __init__(
        self,
        dim: int,
        *,
        width: int = 64,
        depth: int = 2,
        activation: Callable = jax.nn.silu,
        time: Features | None = raw_time,
        key: RandomKey,
    ):
        self.net = StateNet(
            dim, (dim,), width=width, depth=depth, activation=activation, time=time, key=key
        )

    def __call__(self, t: Time, y: State) -> State:
        return self.net(t, y)


@final
class ResidualMLP(AbstractDrift):
    r"""$h_0 = W[y, \phi(t)]$, $h_{k+1} = h_k + V_k\,a(U_k\,h_k + c_k)$, $f = W' h_n$."""

    enter: eqx.nn.Linear
    blocks: list[tuple[eqx.nn.Linear, eqx.nn.Linear]]
    leave: eqx.nn.Linear
    activation: Callable = eqx.field(static=True)
    time: Features | None = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        width: int = 64,
        blocks: int = 2,
        activation: Callable = jax.nn.silu,
        time: Features | None = raw_time,
        key: RandomKey,
    ):
        enter_key, leave_key, *block_keys = jr.split(key, 2 + 2 * blocks)
        self.enter = eqx.nn.Linear(dim + features_of(time), width, key=enter_key)
        self.leave = eqx.nn.Linear(width, dim, key=leave_key)
        self.blocks = [
            (eqx.nn.Linear(width, width, key=up), eqx.nn.Linear(width, width, key=down))
            for up, down in zip(block_keys[::2], block_keys[1::2], strict=True)
        ]
        self.activation = activation
        self.time = time

    def __call__(self, t: Time, y: State) -> State:
        h = self.enter(with_time(self.time, t, y))
        for up, down in self.blocks:
            h = h + down(self.activation(up(h)))
        return self.leave(h)


@final
class Gradient(AbstractDrift):
    r"""$f(y) = -\nabla V(y)$ for a scalar energy $V$, learned or known.

    Args:
        energy: A callable from state to scalar; `Gradient.learned` makes a network.
    """

    energy: Callable[[State], Scalar]

    @staticmethod
    def learned(
        dim: int,
        *,
        width: int = 64,
        depth: int = 2,
        activation: Callable = jax.nn.softplus,
        key: RandomKey,
    ) -> "Gradient":
        """With a multilayer perceptron as the energy (a smooth activation, or f jumps)."""
        return Gradient(_Energy(Dense([dim, *[width] * depth, 1], activation, key=key)))

    def __call__(self, t: Time, y: State) -> State:
        return -jax.grad(self.energy)(y)


@final
class _Energy(eqx.Module):
    net: Dense

    def __call__(self, y: State) -> Float[Array, ""]:
        return self.net(y)[0]


@final
class Controlled(AbstractDrift):
    r"""$f(t, y) + F(t, y, u(t))$: a drift and the force of a context path.

    Args:
        drift: The drift without context.
        force: A callable `(t, y, u) -> state`.
        context: The path $u$, as a Diffrax path such as `diffrax.LinearInterpolation(ts, us)`.
            Before its first time and after its last it keeps its values there. A batch with one
            context each is made by `equinox.filter_vmap(make)(contexts)`.
    """

    drift: AbstractDrift
    force: Callable[[Time, State, Array], State]
    context: dfx.AbstractPath

    def __call__(self, t: Time, y: State) -> State:
        within = jnp.clip(t, self.context.t0, self.context.t1)
        return self.drift(t, y) + self.force(t, y, self.context.evaluate(within))


@final
class LipschitzMLP(AbstractDrift):
    r"""An MLP with a certified Lipschitz constant: $|f(t, y) - f(t, y')| \le L\,|y - y'|$.

    Every weight $W$ is used as $W D$ with $D_{ii} = (\sum_j |W^\top W|_{ij})^{-1/2}$, whose
    spectral norm is at most 1 by Gershgorin's theorem; `tanh` is 1-Lipschitz; the output is
    multiplied by $L$. The bound holds for every value of the weights, so training cannot break it.

    Args:
        lipschitz: The constant $L$, to be read off the module at any time.
    """

    layers: list[eqx.nn.Linear]
    time: Features | None = eqx.field(static=True)
    lipschitz: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        lipschitz: float,
        width: int = 64,
        depth: int = 2,
        time: Features | None = raw_time,
        key: RandomKey,
    ):
        if not lipschitz > 0:
            raise ValueError(f"`lipschitz` is {lipschitz}. Use a positive bound.")
        sizes = [dim + features_of(time), *[width] * depth, dim]
        keys = jr.split(key, depth + 1)
        self.layers = [
            eqx.nn.Linear(n, m, key=k) for n, m, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        ]
        self.time = time
        self.lipschitz = lipschitz

    def __call__(self, t: Time, y: State) -> State:
        h = with_time(self.time, t, y)
        for i, layer in enumerate(self.layers):
            bias = jnp.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
            h = _contracted(layer.weight) @ h + bias
            h = jnp.tanh(h) if i + 1 < len(self.layers) else h
        return self.lipschitz * h


def _contracted(weight: Float[Array, "out inputs"]) -> Float[Array, "out inputs"]:
    """`weight` with its columns scaled so that its spectral norm is at most 1."""
    sums = jnp.sum(jnp.abs(weight.T @ weight), axis=1)
    return weight * jax.lax.rsqrt(jnp.maximum(sums, jnp.finfo(weight.dtype).eps ** 2))[None, :]


@final
class Sum(AbstractDrift):
    """The sum of drifts."""

    drifts: tuple[AbstractDrift, ...]

    def __init__(self, *drifts: AbstractDrift):
        if not drifts:
            raise ValueError("`Sum()` has no drifts. Pass one or more.")
        self.drifts = drifts

    def __call__(self, t: Time, y: State) -> State:
        first, *rest = [drift(t, y) for drift in self.drifts]
        return sum(rest, first)
