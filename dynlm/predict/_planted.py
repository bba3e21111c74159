"""A linear model with a nonlinear effect planted in it, and paths of it."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._io import BadArgument
from .._types import RandomKey, State, Time
from ..laws import AbstractLaw, Mixture
from ..trajectory import Trajectory
from ._predictor import AbstractPredictor, Carry

Matrix = Float[Array, "dim dim"]
Effect = Callable[[State], State]

SAMPLES = 16_384  # standard normal states that an effect is made nonlinear and brought to scale on


@final
class Truth(AbstractPredictor):
    r"""$y' \sim N(F y + b + s L\,h(z),\; L L^\top)$, $z = W(y - m)$: what paths are simulated from.

    Args:
        f: $F$.
        b: $b$.
        l: $L$.
        m: Where z is zero.
        w: $W$, to standard units.
        s: The strength.
        h: The effect.
    """

    f: Matrix
    b: State
    l: Matrix
    m: State
    w: Matrix
    s: Float[Array, ""]
    h: Effect

    def start(self) -> Carry:
        return jnp.zeros_like(self.b)

    def see(self, carry: Carry, t: Time, y: State) -> Carry:
        return y

    def law(self, carry: Carry, t: Time) -> AbstractLaw:
        mean = self.f @ carry + self.b + self.s * (self.l @ self.h(self.w @ (carry - self.m)))
        return Mixture(jnp.zeros(1, mean.dtype), mean[None], self.l[None])


@final
class Cosines(eqx.Module):
    """Cosines along the rows of a matrix: even, so that linear functions explain nothing of them.

    They are bounded, so that no strength drives the paths to infinity, as a square would.
    """

    directions: Matrix

    def __call__(self, z: State) -> State:
        return jnp.cos(self.directions @ z)


@final
class Scaled(eqx.Module):
    """An effect without its linear part, of mean square one where z is standard normal."""

    effect: Effect
    at_zero: State
    slope: Matrix
    scale: Float[Array, ""]

    def __call__(self, z: State) -> State:
        return (self.effect(z) - self.at_zero - self.slope @ z) / self.scale


@eqx.filter_jit
def simulated(truth: Truth, like: Trajectory, burn: int, key: RandomKey) -> Trajectory:
    """Paths of a model with the times and lengths of others, and their states up to `burn`."""

    def one(path: Trajectory, number: Int[Array, ""]) -> Trajectory:
        def step(y: State, x: tuple) -> tuple[State, State]:
            k, given, noise_key = x
            y = jnp.where(k <= burn, given, truth.law(y, 0.0).sample(noise_key))
            return y, y

        steps = len(path.ts) - 1
        keys = jr.split(jr.fold_in(key, number), steps)
        _, later = lax.scan(step, path.ys[0], (jnp.arange(1, steps + 1), path.ys[1:], keys))
        ys = jnp.where(path.mask[:, None], jnp.concatenate([path.ys[:1], later]), 0)
        return eqx.tree_at(lambda p: p.ys, path, ys)

    return jax.vmap(one)(like, jnp.arange(len(like.ts)))


def linear_step(reference: AbstractPredictor, like: Trajectory) -> tuple[Matrix, State, Matrix]:
    """F, b and L of a predictor whose law is one Gaussian around a linear function of the state."""
    dim, dtype = like.ys.shape[-1], like.ys.dtype
    gaps = np.diff(np.asarray(like.ts, float), axis=1)
    gap = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1.0

    zero = jnp.zeros(dim, dtype)
    far = 3 * jr.normal(jr.key(0), (dim,), dtype)
    laws = _laws(reference, jnp.stack([zero, far, *jnp.eye(dim, dtype=dtype)]), gap)
    here, there, each = (jax.tree.map(lambda x, i=i: x[i], laws) for i in (0, 1, slice(2, None)))
    if isinstance(here, Mixture) and isinstance(there, Mixture) and len(here.means) == 1:
        b, l = here.means[0], here.roots[0]
        f = (each.means[:, 0] - b[None]).T
        scale = float(jnp.max(jnp.abs(b) + jnp.abs(f) @ jnp.abs(far)))
        off = float(jnp.max(jnp.abs(f @ far + b - there.mean())))
        if off <= 1e-3 * scale and jnp.allclose(l, there.roots[0], rtol=1e-3):
            return f, b, l
    raise BadArgument(
        f"`reference` is a {type(reference).__name__}, whose law is not one Gaussian of fixed "
        "covariance around a linear function of the last state. Pass `dynlm.baselines.var1(like)`."
    )


@eqx.filter_jit
def _laws(reference: AbstractPredictor, ys: Float[Array, "state dim"], gap: float) -> Any:
    """The laws after single states, as one law of arrays with a leading axis."""

    def law(y: State) -> AbstractLaw:
        t = jnp.zeros(())
        return reference.law(reference.see(reference.start(), t, y), t + gap)

    return jax.vmap(law)(ys)


def units_of(
    step: tuple[Matrix, State, Matrix], like: Trajectory, burn: int, key: RandomKey
) -> tuple[State, Matrix]:
    """Mean of the linear model's states, and the matrix that makes them standard."""
    f, b, l = step
    truth = Truth(
        f, b, l, b, jnp.eye(len(b), dtype=b.dtype), jnp.zeros((), b.dtype), jnp.zeros_like
    )
    paths = simulated(truth, like, burn, key)
    mask = np.asarray(paths.mask).copy()
    mask[:, :burn] = False
    ys = np.asarray(paths.ys, np.float64)[mask]
    dim = ys.shape[1]
    if len(ys) < 2 * dim:
        raise BadArgument(
            f"`like` has {len(ys)} states in {dim} dimensions. Pass the paths that are fitted."
        )
    c = np.cov(ys.T).reshape(dim, dim)
    w = np.linalg.inv(np.linalg.cholesky(c + 1e-9 * np.trace(c) / dim * np.eye(dim)))
    return jnp.asarray(ys.mean(axis=0), b.dtype), jnp.asarray(w, b.dtype)


def planted(
    step: tuple, units: tuple, effect: Effect | None, strength: float, key: RandomKey
) -> Truth:
    """The linear model with an effect, by default cosines along random directions."""
    dim, dtype = len(step[1]), step[1].dtype
    direction_key, sample_key = jr.split(key)
    if effect is None:
        effect = Cosines(jr.orthogonal(direction_key, dim, dtype=dtype))
    h, nonlinear = _without_linear(effect, jr.normal(sample_key, (SAMPLES, dim), dtype))
    if not nonlinear:
        raise BadArgument(
            "`effect` is a linear function, or not finite. Pass a nonlinear one, such as "
            "`lambda z: jnp.sin(3 * z)`."
        )
    (f, b, l), (m, w) = step, units
    return Truth(f, b, l, m, w, jnp.asarray(strength, dtype), h)


@eqx.filter_jit
def _without_linear(
    effect: Effect, z: Float[Array, "sample dim"]
) -> tuple[Scaled, Bool[Array, ""]]:
    h = jax.vmap(effect)(z)
    features = jnp.concatenate([jnp.ones((len(z), 1), z.dtype), z], axis=1)
    coefficients = jnp.linalg.solve(features.T @ features, features.T @ h)
    left = h - features @ coefficients
    scale = jnp.sqrt(jnp.mean(left**2))
    nonlinear = scale > 1e-3 * jnp.sqrt(jnp.mean(h**2))
    return Scaled(effect, coefficients[0], coefficients[1:].T, scale), nonlinear
