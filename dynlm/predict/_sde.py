"""`FromSDE`: an SDE and a one-step scheme, as a predictor."""

from typing import final

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, UInt32

from .._types import RandomKey, State, Time
from ..laws import AbstractLaw
from ..losses._schemes import AbstractGaussianScheme, AbstractScheme
from ..sde import SDE
from ._predictor import AbstractPredictor, Carry

DRAWS = 199  # so that the levels (r + .5)/200 of a distribution function fill 100 bins evenly


@final
class FromSDE(AbstractPredictor):
    """One step of a scheme from each state to the next, however long the gap.

    A predictor made so answers for the SDE with this scheme and this step: the step that it was
    fitted with, where it was fitted by the same scheme on the same gaps.

    Args:
        sde: The SDE.
        scheme: A scheme of `dynlm.losses`, such as `EulerMaruyama()`. Where its step is Gaussian,
            so is the law. Else density and draws are the scheme's own, and expectation and
            distribution function are those of 199 draws, whose key is made of the bits of the time
            and the state: equal questions have equal answers, and the errors of different steps
            are independent. They add half a percent of the noise to the squared error of a mean.
    """

    sde: SDE
    scheme: AbstractScheme

    def start(self) -> Carry:
        return jnp.zeros(()), jnp.zeros(self.sde.dim)

    def see(self, carry: Carry, t: Time, y: State) -> Carry:
        del carry
        return jnp.asarray(t), y

    def law(self, carry: Carry, t: Time) -> AbstractLaw:
        t0, y = carry
        if isinstance(self.scheme, AbstractGaussianScheme):
            return _Gaussian(self.sde, self.scheme, t0, y, t - t0)
        return _Drawn(self.sde, self.scheme, t0, y, t - t0)


@final
class _Gaussian(AbstractLaw):
    """A Gaussian step. Only what is asked for is computed: draws need no Cholesky factor."""

    sde: SDE
    scheme: AbstractGaussianScheme
    t: Time
    y: State
    dt: Time

    def logpdf(self, y: State) -> Float[Array, ""]:
        return self.scheme.logpdf(self.sde, self.t, self.y, self.dt, y)

    def mean(self) -> State:
        return self.scheme.moments(self.sde, self.t, self.y, self.dt)[0]

    def sample(self, key: RandomKey) -> State:
        return self.scheme.sample(self.sde, self.t, self.y, self.dt, key=key)

    def cdf(self, y: State) -> State:
        m, c = self.scheme.moments(self.sde, self.t, self.y, self.dt)
        return ndtr((y - m) / jnp.sqrt(jnp.diagonal(c)))


@final
class _Drawn(AbstractLaw):
    """A step with a density and draws, and no moments in closed form."""

    sde: SDE
    scheme: AbstractScheme
    t: Time
    y: State
    dt: Time

    def logpdf(self, y: State) -> Float[Array, ""]:
        return self.scheme.logpdf(self.sde, self.t, self.y, self.dt, y)

    def mean(self) -> State:
        return jnp.mean(_draws(self), axis=0)

    def sample(self, key: RandomKey) -> State:
        return self.scheme.sample(self.sde, self.t, self.y, self.dt, key=key)

    def cdf(self, y: State) -> State:
        below = jnp.sum(_draws(self) <= y[None], axis=0)
        return (below.astype(y.dtype) + 0.5) / (DRAWS + 1)


def _draws(law: _Drawn) -> Float[Array, "draw dim"]:
    # One key for all states would give every mean the same error, which then counts as a bias.
    key = jr.key(0)
    for x in (*_bits(law.y), *_bits(jnp.asarray(law.t)[None])):
        key = jr.fold_in(key, x)
    return jax.vmap(law.sample)(jr.split(key, DRAWS))


def _bits(x: Float[Array, " dim"]) -> UInt32[Array, "2"]:
    """Two numbers that differ wherever two vectors do, as far as 32 bits can tell."""
    words = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    places = jnp.arange(1, 2 * len(x), 2, dtype=jnp.uint32) * jnp.uint32(2654435769)
    return jnp.stack([jnp.sum(words * places, dtype=jnp.uint32), jnp.sum(words, dtype=jnp.uint32)])
