"""`FromSDE`: an SDE and a one-step scheme, as a predictor."""

from typing import ClassVar, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, UInt32

from .._io import BadArgument
from .._types import RandomKey, Scalar, State, Time
from ..laws import AbstractLaw
from ..losses._schemes import AbstractGaussianScheme, AbstractScheme
from ..sde import SDE
from ..simulate._schemes import scheme_of
from ._predictor import AbstractPredictor, Carry

DRAWS = 199  # so that the levels (r + .5)/200 of a distribution function fill 100 bins evenly


@final
class FromSDE(AbstractPredictor):
    """One step of a scheme from each state to the next, however long the gap.

    A predictor made so answers for the SDE with this scheme and this step: the step that it was
    fitted with, where it was fitted by the same scheme on the same gaps.

    Args:
        sde: The SDE.
        scheme: A scheme of `dynlm.losses`, such as `EulerMaruyama()`, or `SolverSteps`. Where its
            step is Gaussian, so is the law. Else density and draws are the scheme's own, and
            expectation and distribution function are those of 199 draws, whose key is made of the
            bits of the time and the state: equal questions have equal answers, and the errors of
            different steps are independent. They add half a percent of the noise to the squared
            error of a mean.
    """

    sde: SDE
    scheme: AbstractScheme

    @property
    def no_density(self) -> str | None:
        """Why its laws have no density, if so."""
        return self.scheme.reason if isinstance(self.scheme, SolverSteps) else None

    @property
    def drawn(self) -> bool:
        """Whether expectations and distribution functions are those of draws."""
        return not isinstance(self.scheme, AbstractGaussianScheme)

    def start(self) -> Carry:
        return jnp.zeros(()), jnp.zeros(self.sde.dim)

    def see(self, carry: Carry, t: Time, y: State) -> Carry:
        del carry
        return jnp.asarray(t), y

    def law(self, carry: Carry, t: Time) -> AbstractLaw:
        t0, y = carry
        if isinstance(self.scheme, AbstractGaussianScheme):
            return _Gaussian(self.sde, self.scheme, t0, y, t - t0)
        ys = _draws(self.sde, self.scheme, t0, y, t - t0)
        return _Drawn(self.sde, self.scheme, t0, y, t - t0, ys)


@final
class SolverSteps(AbstractScheme):
    """Equal steps of a solver from one state to the next: what a fit through a solver has fitted.

    It has draws and no density, which is NaN. Of several steps even Euler's law is no Gaussian.

    Args:
        solver: A Diffrax solver that `rollout` takes, such as `diffrax.Heun()`. Each state
            starts it anew.
        number: How many steps.
    """

    name: ClassVar[str] = "solver steps"
    solver: dfx.AbstractSolver
    number: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not (isinstance(self.number, int) and self.number >= 1):
            raise BadArgument(f"`number` is {self.number!r}. Use 1 or more steps to a gap.")

    @property
    def reason(self) -> str:
        """Why there is no density."""
        steps = "a step" if self.number == 1 else f"{self.number} steps"
        return f"the law of {steps} of {type(self.solver).__name__} has no density in closed form"

    def logpdf(self, sde: SDE, t: Time, y: State, dt: Scalar, y_next: State) -> Float[Array, ""]:
        return jnp.full((), jnp.nan, y.dtype)

    def sample(self, sde: SDE, t: Time, y: State, dt: Scalar, *, key: RandomKey) -> State:
        scheme = scheme_of(sde, self.solver)
        t = jnp.asarray(t, y.dtype)
        h = jnp.asarray(dt, y.dtype) / self.number
        # The increment, and the space-time Levy area, of a step.
        scales = jnp.sqrt(h * jnp.array([1, 1 / 12], y.dtype))[: scheme.areas, None]
        noise = scales[None] * jr.normal(key, (self.number, scheme.areas, sde.noise_dim), y.dtype)

        def step(carry: Carry, x: tuple[Array, Array]) -> tuple[Carry, None]:
            k, w = x
            return scheme.step(sde, t + k * h, h, carry, *w), None

        steps = jnp.arange(self.number, dtype=y.dtype)
        return scheme.state(lax.scan(step, scheme.init(sde, t, y), (steps, noise))[0])


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
    """A step with no moments in closed form: they are those of `ys`, made once for all that ask."""

    sde: SDE
    scheme: AbstractScheme
    t: Time
    y: State
    dt: Time
    ys: Float[Array, "draw dim"]

    def logpdf(self, y: State) -> Float[Array, ""]:
        return self.scheme.logpdf(self.sde, self.t, self.y, self.dt, y)

    def mean(self) -> State:
        return jnp.mean(self.ys, axis=0)

    def sample(self, key: RandomKey) -> State:
        return self.scheme.sample(self.sde, self.t, self.y, self.dt, key=key)

    def cdf(self, y: State) -> State:
        below = jnp.sum(self.ys <= y[None], axis=0)
        return (below.astype(y.dtype) + 0.5) / (DRAWS + 1)


def _draws(
    sde: SDE, scheme: AbstractScheme, t: Time, y: State, dt: Time
) -> Float[Array, "draw dim"]:
    # One key for all states would give every mean the same error, which then counts as a bias.
    key = jr.key(0)
    for x in (*_bits(y), *_bits(jnp.asarray(t)[None])):
        key = jr.fold_in(key, x)
    return jax.vmap(lambda key: scheme.sample(sde, t, y, dt, key=key))(jr.split(key, DRAWS))


def _bits(x: Float[Array, " dim"]) -> UInt32[Array, "2"]:
    """Two numbers that differ wherever two vectors do, as far as 32 bits can tell."""
    words = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    places = jnp.arange(1, 2 * len(x), 2, dtype=jnp.uint32) * jnp.uint32(2654435769)
    return jnp.stack([jnp.sum(words * places, dtype=jnp.uint32), jnp.sum(words, dtype=jnp.uint32)])
