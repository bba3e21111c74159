"""Small networks of time and state that drifts and diffusions are made of.

Each is a callable `(t, y) -> array` that says what it depends on, so that a diffusion built
on it knows its noise class.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from ._types import RandomKey, State, Time

Depends = Literal["nothing", "time", "component", "state"]
Features = Callable[[Array], Float[Array, " features"]]


def raw_time(t: Array) -> Float[Array, " 1"]:
    """Time itself as the one feature."""
    return t[None]


@final
class Fourier(eqx.Module):
    r"""Time and its waves: $t, \sin 2\pi f_k t, \cos 2\pi f_k t$."""

    frequencies: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, t: Array) -> Float[Array, " features"]:
        angle = 2 * jnp.pi * jnp.asarray(self.frequencies, t.dtype) * t
        return jnp.concatenate([t[None], jnp.sin(angle), jnp.cos(angle)])


def features_of(time: Features | None) -> int:
    """How many features `time` makes."""
    return 0 if time is None else jax.eval_shape(lambda: time(jnp.zeros(()))).shape[0]


def with_time(time: Features | None, t: Time, y: State) -> Float[Array, " inputs"]:
    """The state followed by the features of time."""
    return y if time is None else jnp.concatenate([y, time(jnp.asarray(t, y.dtype))])


@final
class Dense(eqx.Module):
    """A multilayer perceptron whose leaves are all arrays, so that its trees can be stacked."""

    layers: list[eqx.nn.Linear]
    activation: Callable = eqx.field(static=True)

    def __init__(self, sizes: list[int], activation: Callable, *, key: RandomKey):
        keys = jr.split(key, len(sizes) - 1)
        self.layers = [eqx.nn.Linear(n, m, key=k) for n, m, k in zip(sizes, sizes[1:], keys)]
        self.activation = activation

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(_linear(layer, x))
        return _linear(last, x)


def _linear(layer: Any, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
    """The layer at x. Under two `vmap`s `weight @ x`, as Equinox has it, copies transposes."""
    if not isinstance(layer, eqx.nn.Linear):
        return layer(x)
    y = x @ layer.weight.T
    return y if layer.bias is None else y + layer.bias


@final
class StateNet(eqx.Module):
    """A multilayer perceptron of state and time with any output shape."""

    net: Dense
    time: Features | None = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    depends: Depends = eqx.field(static=True, default="state")

    def __init__(
        self,
        dim: int,
        shape: tuple[int, ...],
        *,
        width: int = 64,
        depth: int = 2,
        activation: Callable = jax.nn.silu,
        time: Features | None = raw_time,
        key: RandomKey,
    ):
        sizes = [dim + features_of(time), *[width] * depth, math.prod(shape)]
        self.net = Dense(sizes, activation, key=key)
        self.time = time
        self.shape = shape
        self.depends = "state"

    def __call__(self, t: Time, y: State) -> Float[Array, "..."]:
        return self.net(with_time(self.time, t, y)).reshape(self.shape)


@final
class TimeNet(eqx.Module):
    """A multilayer perceptron of time alone with any output shape."""

    net: StateNet
    depends: Depends = eqx.field(static=True, default="time")

    def __call__(self, t: Time, y: State) -> Float[Array, "..."]:
        return self.net(t, jnp.zeros(0, y.dtype))  # not y[:0], which would depend on the state


@final
class ComponentNet(eqx.Module):
    r"""A small network for each component: $s_i(t, y) = s_i(t, y_i)$."""

    nets: Dense
    time: Features | None = eqx.field(static=True)
    depends: Depends = eqx.field(static=True, default="component")

    def __init__(self, dim: int, *, width: int, depth: int, time: Features | None, key: RandomKey):
        sizes = [1 + features_of(time), *[width] * depth, 1]
        self.nets = jax.vmap(lambda key: Dense(sizes, jax.nn.silu, key=key))(jr.split(key, dim))
        self.time = time
        self.depends = "component"

    def __call__(self, t: Time, y: State) -> State:
        one = jax.vmap(lambda net, y_i: net(with_time(self.time, t, y_i)))
        return one(self.nets, y[:, None])[:, 0]


@final
class Parameter(eqx.Module):
    """A learnable constant."""

    value: Float[Array, "..."]
    depends: Depends = eqx.field(static=True, default="nothing")

    def __call__(self, t: Time, y: State) -> Float[Array, "..."]:
        return self.value


def field(
    shape: tuple[int, ...],
    on: Depends,
    *,
    dim: int,
    width: int,
    depth: int,
    time: Features | None,
    key: RandomKey,
) -> Parameter | TimeNet | ComponentNet | StateNet:
    """A learned array of `shape` that depends on what `on` names."""
    if on == "nothing":
        return Parameter(jr.normal(key, shape) * 0.01)
    if on == "time":
        if time is None:
            raise ValueError("`on` is 'time' and `time` is None. Use on='nothing' for a constant.")
        return TimeNet(StateNet(0, shape, width=width, depth=depth, time=time, key=key))
    if on == "state":
        return StateNet(dim, shape, width=width, depth=depth, time=time, key=key)
    if on == "component" and shape == (dim,):
        return ComponentNet(dim, width=width, depth=depth, time=time, key=key)
    raise ValueError(
        f"`on` is {on!r} for an array of shape {shape}. Use 'nothing', 'time' or 'state'; "
        "'component' is for `Diagonal` only."
    )


@final
class Lowered(eqx.Module):
    """A linear layer whose product is computed in fewer bits; what goes in and out is not."""

    linear: eqx.nn.Linear
    dtype: str = eqx.field(static=True)

    @property
    def weight(self) -> Array:
        return self.linear.weight

    @property
    def bias(self) -> Array | None:
        return self.linear.bias

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        lower = jnp.dtype(self.dtype)
        y = (x.astype(lower) @ self.linear.weight.astype(lower).T).astype(x.dtype)
        return y if self.linear.bias is None else y + self.linear.bias


def lowered(tree: Any, dtype: Any) -> Any:
    """`tree` with every linear layer in it computing its product in `dtype`."""

    def is_linear(x: Any) -> bool:
        return isinstance(x, eqx.nn.Linear)

    name = str(jnp.dtype(dtype))
    return jax.tree.map(lambda x: Lowered(x, name) if is_linear(x) else x, tree, is_leaf=is_linear)
