"""The SDEs of the benchmarks: as dynlm's, and as plain batched functions that a peer can use."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from dynlm import SDE, diffusions, drifts

DRIFT, NOISE = 1.5, 0.01
SHIFT = math.log(math.e - 1)  # softplus(SHIFT) = 1, as in `diffusions.Diagonal.learned`

Layers = list[tuple[Any, Any]]  # weight (out, in) and bias of each


class Nets(NamedTuple):
    """Drift and diagonal diffusion as layers: `sigma = floor + scale softplus(net + SHIFT)`.

    A `sigma` that is one array is the net's value itself, whatever the state.
    """

    drift: Layers
    sigma: Any
    scale: float
    floor: float


class Problem(NamedTuple):
    """An SDE on [0, 1] with all paths from `y0`, in equal Euler steps."""

    name: str
    sde: SDE
    y0: Any
    paths: int
    steps: int
    dtype: Any
    nets: Nets | None = None  # None: the linear SDE

    @property
    def dim(self) -> int:
        return len(self.y0)

    @property
    def dt(self) -> float:
        return 1 / self.steps

    @property
    def title(self) -> str:
        return (
            f"{self.name}: {self.paths} paths x {self.dim} components x {self.steps} steps, "
            f"{self.dtype}"
        )

    def starts(self) -> jax.Array:
        """`y0` for every path."""
        return jnp.tile(jnp.asarray(self.y0, self.dtype)[None, :], (self.paths, 1))

    def flops(self) -> int:
        """Of the matrix products of one run of all paths."""
        if self.nets is None:
            return 0
        both = [*self.nets.drift, *(self.nets.sigma if _is_net(self.nets) else [])]
        return sum(2 * weight.size for weight, _ in both) * self.paths * self.steps


def linear(paths: int, steps: int, dtype: Any, dim: int = 3) -> Problem:
    """dX = 1.5 X dt + .01 X dW."""
    diffusion = diffusions.Diagonal(lambda t, y: NOISE * y, dim, depends="component")
    sde = SDE(drifts.Function(lambda t, y: DRIFT * y), diffusion)
    return Problem("linear", sde, np.ones(dim, np.float32), paths, steps, dtype)


def neural(
    paths: int,
    steps: int,
    dtype: Any,
    *,
    dim: int = 64,
    width: int = 128,
    depth: int = 2,
    on: Any = "state",
    calculus: Any = "ito",
    name: str = "neural",
) -> Problem:
    """Drift and diagonal diffusion are networks of state and time."""
    drift_key, sigma_key, y0_key = jr.split(jr.key(2026), 3)
    sde = SDE(
        drifts.MLP(dim, width=width, depth=depth, key=drift_key),
        diffusions.Diagonal.learned(dim, on=on, width=width, depth=depth, key=sigma_key),
        calculus,
    )
    cast = lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x  # noqa: E731
    sde = jax.tree.map(cast, sde)
    y0 = np.asarray(jr.normal(y0_key, (dim,)), np.float32)
    return Problem(name, sde, y0, paths, steps, dtype, nets_of(sde))


def nets_of(sde: SDE) -> Nets:
    """The layers of an SDE that `neural` made; they may be traced."""
    positive: Any = sde.diffusion.s
    field = positive.field
    sigma = _layers(field) if hasattr(field, "net") else field.value
    return Nets(_layers(sde.drift.net), sigma, positive.scale, positive.floor)


def _layers(net: Any) -> Layers:
    return [(layer.weight, layer.bias) for layer in net.net.layers]


def _is_net(nets: Nets) -> bool:
    return isinstance(nets.sigma, list)


def _with_time(xp: Any, layers: Layers, t: Any, ys: Any) -> Any:
    """What goes into a network: the states, and the time, or that of each state, if it takes it."""
    if layers[0][0].shape[1] == ys.shape[1]:
        return ys
    return xp.concatenate([ys, xp.full_like(ys[:, :1], t)], axis=1)


def numpy_nets(nets: Nets) -> Nets:
    """With numpy arrays for weights."""
    return Nets(*jax.tree.map(np.asarray, tuple(nets[:2])), nets.scale, nets.floor)


def jax_fields(nets: Nets | None) -> tuple[Callable, Callable]:
    """Drift and sigma of all states at once, `(t, ys) -> (paths, dim)`, in JAX."""
    if nets is None:
        return (lambda t, ys: DRIFT * ys), (lambda t, ys: NOISE * ys)

    def mlp(layers: Layers, t: Any, ys: Any) -> Any:
        x = _with_time(jnp, layers, t, ys)
        for weight, bias in layers[:-1]:
            x = jax.nn.silu(x @ weight.T + bias[None, :])
        weight, bias = layers[-1]
        return x @ weight.T + bias[None, :]

    def sigma(t: Any, ys: Any) -> Any:
        x = mlp(nets.sigma, t, ys) if _is_net(nets) else nets.sigma[None, :]
        return nets.floor + nets.scale * jax.nn.softplus(x + SHIFT)

    return (lambda t, ys: mlp(nets.drift, t, ys)), sigma


def numpy_fields(nets: Nets) -> tuple[Callable, Callable]:
    """As `jax_fields`, in numpy."""
    nets = numpy_nets(nets)

    def mlp(layers: Layers, t: Any, ys: Any) -> Any:
        x = _with_time(np, layers, t, ys)
        for weight, bias in layers[:-1]:
            x = x @ weight.T
            x += bias
            x /= 1 + np.exp(-x)
        weight, bias = layers[-1]
        return x @ weight.T + bias

    def sigma(t: float, ys: Any) -> Any:
        x = mlp(nets.sigma, t, ys)
        x += SHIFT
        return nets.floor + nets.scale * np.log1p(np.exp(x))

    return (lambda t, ys: mlp(nets.drift, t, ys)), sigma


def exact_moments(steps: int) -> tuple[float, float]:
    """Mean and variance of Euler's X(1): factors 1 + drift dt + noise dW, independent."""
    one, two = 1 + DRIFT / steps, (1 + DRIFT / steps) ** 2 + NOISE**2 / steps
    return one**steps, two**steps - one ** (2 * steps)
