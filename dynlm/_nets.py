"""Small networks of time and state that drifts and diffusions are made of.

Each is a callable `(t, y) -> array` that says what it depends on, so that a diffusion built
on it knows its noise class.
"""

from collections.abc import Callable
from typing import Literal, final

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
class StateNet(eqx.Module):
    """A multilayer perceptron of state and time with any output shape."""

    net: eqx.nn.MLP
    time: Features | None
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
        size = 1
        for n in shape:
            size *= n
        inputs = dim + features_of(time)
        self.net = eqx.nn.MLP(inputs, size, width, depth, activation, key=key)
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
        return self.net(t, y[:0])


@final
class ComponentNet(eqx.Module):
    r"""One small network per component: $s_i(t, y) = s_i(t, y_i)$."""

    w_in: Float[Array, "dim width inputs"]
    b_in: Float[Array, "dim width"]
    w_out: Float[Array, "dim width"]
    b_out: Float[Array, " dim"]
    time: Features | None
    depends: Depends = eqx.field(static=True, default="component")

    def __init__(self, dim: int, *, width: int, time: Features | None, key: RandomKey):
        in_key, bias_key, out_key = jr.split(key, 3)
        self.w_in = jr.normal(in_key, (dim, width, 1 + features_of(time)))
        self.b_in = jr.normal(bias_key, (dim, width))
        self.w_out = jr.normal(out_key, (dim, width)) / width**0.5
        self.b_out = jnp.zeros(dim)
        self.time = time
        self.depends = "component"

    def __call__(self, t: Time, y: State) -> State:
        inputs = jax.vmap(lambda y_i: with_time(self.time, t, y_i))(y[:, None])
        hidden = jnp.tanh(jnp.einsum("dwi,di->dw", self.w_in, inputs) + self.b_in)
        return jnp.sum(self.w_out * hidden, axis=1) + self.b_out


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
        return ComponentNet(dim, width=width, time=time, key=key)
    raise ValueError(
        f"`on` is {on!r} for an array of shape {shape}. Use 'nothing', 'time' or 'state'; "
        "'component' is for `Diagonal` only."
    )
