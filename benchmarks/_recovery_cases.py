"""Processes whose parameters are to be found again: data, the true form, and where a fit starts."""

from collections.abc import Callable
from typing import Any, NamedTuple, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from dynlm import SDE, Trajectory, diffusions, drifts, losses, problems, rollout

NEAR = 1.0  # transitions of the Lorenz system from nearer than so to a plane without noise are out
SKIPPED = 2.0  # time in which paths of the Lorenz system come to its attractor
Blocks = dict[str, Any]  # parameters that are compared, by name; matrices as a whole
Paths = Float[np.ndarray, "path time dim"]


class Case(NamedTuple):
    """A process, and how it is fitted.

    Args:
        truth: The process.
        start: The model before training.
        loss: `(sde, path)`.
        data: `(sde, key, paths)`: so many paths of it.
        read: The parameters of a process, by name.
        gap: From state to state.
        length: Transitions of a path.
        rate: Learning rate.
    """

    truth: Any
    start: SDE
    loss: Callable
    data: Callable[[SDE, Array, int], Paths]
    read: Callable[[SDE], Blocks]
    gap: float
    length: int
    rate: float


@final
class Well(drifts.AbstractDrift):
    """$a x - b x^3$."""

    a: Float[Array, ""]
    b: Float[Array, ""]

    def __call__(self, t: Any, y: Array) -> Array:
        return self.a * y - self.b * y**3


@final
class Centred(drifts.AbstractDrift):
    """$A (y - m)$, a linear drift by its matrix and centre.

    Where one is found wrong the other stays right. With $A y + b$ every error of the matrix asks
    for another bias, and a first order optimiser creeps along the valley of both together.
    """

    matrix: Float[Array, "dim dim"]
    centre: Float[Array, " dim"]

    @property
    def bias(self) -> Float[Array, " dim"]:
        """$-A m$."""
        return -self.matrix @ self.centre

    def __call__(self, t: Any, y: Array) -> Array:
        return self.matrix @ (y - self.centre)


@final
class Lorenz(drifts.AbstractDrift):
    """Lorenz's drift, with the logarithms of its three numbers."""

    logs: Float[Array, " 3"]

    def __call__(self, t: Any, y: Array) -> Array:
        sigma, rho, beta = jnp.exp(self.logs)
        a, b, c = y
        return jnp.stack([sigma * (b - a), a * (rho - c) - b, a * b - beta * c])


@final
class Proportional(eqx.Module):
    """Noise in proportion to the state, with the logarithms of its strengths."""

    logs: Float[Array, " 3"]

    def __call__(self, t: Any, y: Array) -> Array:
        return jnp.exp(self.logs) * y


@final
class EvenLocalLinear(eqx.Module):
    """`losses.local_linear_nll` of paths of equal steps, all of one gap, without padding.

    With one gap for all, a linear drift and constant noise have one matrix exponential for a whole
    batch, since `vmap` computes once what is the same for all.
    """

    gap: float = eqx.field(static=True)

    def __call__(self, sde: SDE, path: Trajectory) -> Float[Array, ""]:
        t, dt, scheme = jnp.zeros(()), jnp.asarray(self.gap), losses.LocalLinear()
        logpdf = jax.vmap(lambda y, y_next: scheme.logpdf(sde, t, y, dt, y_next))
        return -jnp.mean(logpdf(path.ys[:-1], path.ys[1:]))


def ou() -> Case:
    """Two dimensions that turn, by local linearisation, which is exact."""
    theta = np.array([[1.0, 0.8], [-0.5, 0.7]])
    truth = problems.ou(theta, [0.5, -0.3], [[0.5, 0.0], [0.2, 0.4]], y0=[0.0, 0.0]).sde
    start = SDE(drifts.Linear(-0.3 * jnp.eye(2), jnp.zeros(2)), diffusions.Full(jnp.eye(2)))
    data = _smooth(0.25, 32, 16)
    return Case(truth, start, losses.local_linear_nll, data, _linear_blocks, 0.25, 32, 0.02)


def double_well() -> Case:
    """By the scheme that has the third cumulant right."""
    truth = SDE(Well(jnp.array(1.0), jnp.array(1.0)), diffusions.Diagonal(jnp.array([0.7])))
    start = SDE(Well(jnp.array(0.2), jnp.array(0.3)), diffusions.Diagonal(jnp.array([1.5])))
    loss = losses.nll_by(losses.LocalSkew())

    def read(sde: Any) -> Blocks:
        return {"a": sde.base.a, "b": sde.base.b, "sigma": jnp.abs(sde.diffusion.s.value)}

    return Case(truth, start, loss, _smooth(0.1, 32, 16), read, 0.1, 32, 0.1)


def lorenz() -> Case:
    """Noise in proportion to the state. It vanishes on planes that paths go through.

    There no Gaussian step is right, however short: the noise grows manyfold within it. Transitions
    from near these planes are left out, which biases nothing, as it depends on their start alone.
    """
    numbers, noise = jnp.log(jnp.array([10.0, 28.0, 8 / 3])), jnp.log(jnp.array([0.1, 0.28, 0.3]))

    def made(numbers: Array, noise: Array) -> SDE:
        strength = diffusions.Diagonal(Proportional(noise), 3, depends="component")
        return SDE(Lorenz(numbers), strength)

    def read(sde: Any) -> Blocks:
        names = ("sigma", "rho", "beta", "noise 1", "noise 2", "noise 3")
        logs = jnp.concatenate([sde.base.logs, sde.diffusion.s.logs])
        return dict(zip(names, jnp.exp(logs)))

    start = made(jnp.log(jnp.array([5.0, 15.0, 1.0])), jnp.log(jnp.full(3, 0.6)))
    loss = losses.local_linear_nll
    return Case(made(numbers, noise), start, loss, _lorenz_pairs, read, 1e-3, 1, 0.02)


def low_rank(dim: int = 64, rank: int = 4) -> Case:
    """Many dimensions, a full drift matrix, and noise that is a diagonal and `rank` directions."""
    draw = np.random.default_rng(0)
    turn = 0.3 * np.triu(draw.normal(size=(dim, dim)), 1) / np.sqrt(dim)
    matrix = turn - turn.T - np.diag(np.linspace(0.5, 1.5, dim))
    matrix, bias = jnp.asarray(matrix, jnp.float32), jnp.asarray(np.linspace(-1, 1, dim))
    s = jnp.asarray(np.linspace(0.4, 0.6, dim))
    u = jnp.asarray(0.25 * draw.normal(size=(dim, rank)), jnp.float32)
    truth = SDE(drifts.Linear(matrix, bias.astype(jnp.float32)), diffusions.LowRank(s, u))
    other = jnp.asarray(0.1 * draw.normal(size=(dim, rank)), jnp.float32)
    start = SDE(
        Centred(-0.3 * jnp.eye(dim), jnp.zeros(dim)),
        diffusions.LowRank(jnp.ones(dim), other),
    )
    data = _smooth(0.25, 64, 8)
    return Case(truth, start, EvenLocalLinear(0.25), data, _linear_blocks, 0.25, 64, 0.05)


CASES: dict[str, Callable[[], Case]] = {
    "OU, 2 dimensions": ou,
    "double well": double_well,
    "stochastic Lorenz": lorenz,
    "OU, 64 dimensions, noise of rank 4": low_rank,
}


def _linear_blocks(sde: Any) -> Blocks:
    y = jnp.zeros(sde.dim)
    covariance = sde.diffusion.covariance(0.0, y).as_matrix()
    return {"matrix": sde.base.matrix, "bias": sde.base.bias, "noise covariance": covariance}


def _smooth(gap: float, length: int, substeps: int) -> Callable[[SDE, Array, int], Paths]:
    """Paths by a solver of high order for noise that does not depend on the state."""

    def data(sde: SDE, key: Array, paths: int) -> Paths:
        start_key, early_key, key = jr.split(key, 3)
        y0s = jr.normal(start_key, (paths, sde.dim))
        options: dict[str, Any] = dict(scheme=dfx.ShARK())
        y0s = rollout(sde, y0s, (0.0, 4.0, 64), key=early_key, **options)
        ts = gap * np.arange(length + 1)
        return np.asarray(rollout(sde, y0s, ts, key=key, substeps=substeps, **options).ys)

    return data


def _lorenz_pairs(sde: SDE, key: Array, pairs: int) -> Paths:
    """Transitions from places where every component is away from zero."""
    length, substeps, gap = 32, 16, 1e-3
    paths = -(-2 * pairs // length)
    start_key, early_key, key = jr.split(key, 3)
    y0s = jnp.array([[0.0, 0.0, 25.0]]) + 5 * jr.normal(start_key, (paths, 3))
    options: dict[str, Any] = dict(scheme=dfx.ItoMilstein())
    y0s = rollout(sde, y0s, (0.0, SKIPPED, 4000), key=early_key, **options)
    ts = gap * np.arange(length + 1)
    ys = np.asarray(rollout(sde, y0s, ts, key=key, substeps=substeps, **options).ys)
    # Each time of all paths before the next, so that a part of the pairs is of all paths.
    both = np.stack([ys[:, :-1], ys[:, 1:]], axis=2).swapaxes(0, 1).reshape(-1, 2, 3)
    good = both[(np.abs(both[:, 0]) > NEAR).all(axis=1)]
    if len(good) < pairs:
        raise RuntimeError(f"Only {len(good)} of {len(both)} transitions start away from zero.")
    return good[:pairs]
