r"""One-step laws of an SDE: what a path's next state is thought to be, given this one.

Each gives the density of the state `dt` after the state `y` at time `t`, and draws from it. The
order of each is measured in tests: the slope, against `dt`, of the Kullback-Leibler divergence
of its law from the exact transition, for smooth drifts and noise that does not depend on the state.

| scheme | order | noise | cost beside one drift and diffusion |
|---|---|---|---|
| `EulerMaruyama` | 2 | any, invertible | nothing |
| `LocalLinear` | 3 | any; frozen over the step | dim + 1 + noise_dim derivatives of the drift |
| `Strang` | 3, a quarter of the error | additive | and a flow with its Jacobian |
| `LocalSkew` | 4 | additive | both of these |

With noise that depends on the state, Euler and `LocalLinear` have order 1: the third cumulant that
such noise makes is missing from both.
"""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, Int

from .._factors import cholesky, log_abs_det
from .._types import Noise, RandomKey, Scalar, State, Time
from ..sde import SDE
from ._flow import Matrix, linear_flow, normal_logpdf

if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar


class AbstractScheme(eqx.Module):
    """The law of the state `dt > 0` after the state `y` at `t`. A Stratonovich SDE is converted."""

    name: AbstractClassVar[str]

    @abc.abstractmethod
    def logpdf(self, sde: SDE, t: Time, y: State, dt: Scalar, y_next: State) -> Float[Array, ""]:
        """The log density at `y_next`."""

    @abc.abstractmethod
    def sample(self, sde: SDE, t: Time, y: State, dt: Scalar, *, key: RandomKey) -> State:
        """One draw."""


class AbstractGaussianScheme(AbstractScheme):
    """A scheme whose law is a Gaussian."""

    @abc.abstractmethod
    def moments(self, sde: SDE, t: Time, y: State, dt: Scalar) -> tuple[State, Matrix]:
        """Mean and covariance."""


@final
class EulerMaruyama(AbstractGaussianScheme):
    r"""$N(y + f\,\Delta t,\; \Sigma\,\Delta t)$. A draw is a step of the Euler-Maruyama method."""

    name: ClassVar[str] = "euler"

    def logpdf(self, sde: SDE, t: Time, y: State, dt: Scalar, y_next: State) -> Float[Array, ""]:
        dt = jnp.asarray(dt, y.dtype)
        f = sde.to_ito().drift(t, y)
        r = (y_next - y - f * dt) / jnp.sqrt(dt)
        square, logdet = sde.diffusion.quadratic(t, y, r)
        return -0.5 * (square + logdet + len(y) * jnp.log(2 * jnp.pi * dt))

    def sample(self, sde: SDE, t: Time, y: State, dt: Scalar, *, key: RandomKey) -> State:
        dt = jnp.asarray(dt, y.dtype)
        dw = jnp.sqrt(dt) * jr.normal(key, (sde.noise_dim,), y.dtype)
        return y + sde.to_ito().drift(t, y) * dt + sde.diffusion(t, y).mv(dw)

    def moments(self, sde: SDE, t: Time, y: State, dt: Scalar) -> tuple[State, Matrix]:
        dt = jnp.asarray(dt, y.dtype)
        sigma = sde.diffusion.covariance(t, y).as_matrix()
        return y + sde.to_ito().drift(t, y) * dt, sigma * dt


@final
class LocalLinear(AbstractGaussianScheme):
    r"""Local linearisation (Shoji and Ozaki): the exact law of the drift made linear at the start.

    $f(t + s, x) \approx f + J\,(x - y) + \big(f_t + \tfrac12 \mathrm{tr}(\Sigma H_i)\big)\,s$ with
    $J = \partial f/\partial y$ and the Hessians $H_i$ at $(t, y)$; the last term is what Ito's
    formula adds to the mean of $f$. Exact where the drift is linear in state and time and the noise
    constant: Ornstein-Uhlenbeck processes at any step. Noise of time is taken in the middle
    of the step. Noise of the state is frozen at its start, which has the order of Euler
    in the noise. The noise may be degenerate where the drift carries it to every component within
    the step, as in underdamped Langevin dynamics.
    """

    name: ClassVar[str] = "local_linear"

    def moments(self, sde: SDE, t: Time, y: State, dt: Scalar) -> tuple[State, Matrix]:
        line = _linearised(sde, t, y, dt)
        step, covariance = linear_flow(
            line.jac, line.f, line.f_t + _ito_rate(sde, t, y), line.sigma, dt
        )
        return y + step, covariance

    def logpdf(self, sde: SDE, t: Time, y: State, dt: Scalar, y_next: State) -> Float[Array, ""]:
        mean, covariance = self.moments(sde, t, y, dt)
        return normal_logpdf(y_next - mean, covariance)

    def sample(self, sde: SDE, t: Time, y: State, dt: Scalar, *, key: RandomKey) -> State:
        return _draw(*self.moments(sde, t, y, dt), key)


@final
class Strang(AbstractScheme):
    r"""Strang splitting: the drift's linear part with the noise, between half steps of the rest.

    $f(t + s, x) = f + f_t s + J\,(x - y) + N(t + s, x)$, all at $(t, y)$. The first two and the
    noise have a Gaussian law; $\dot x = N$ is integrated over half a step before it and half a step
    after it, time moving with the linear part. N is zero at the start, and so the first half step
    is none. The density is that of the Gaussian where the second half step came from, times the
    determinant of the way back. Additive noise only, taken as in `LocalLinear`.

    A quarter of the divergence is not a quarter of the bias: of the rates of a double well at
    large steps `Strang` had more than `LocalLinear`, and `LocalSkew` the least.

    The way back is integrated too. Where N grows faster than linearly, far states come from nowhere
    within half a step, and the density there means nothing: keep the step below the time in which
    $\dot x = -N$ leaves for infinity.

    Args:
        steps: Runge-Kutta steps of fourth order within the half step.
    """

    name: ClassVar[str] = "strang"
    steps: int = eqx.field(static=True, default=2)

    def __check_init__(self) -> None:
        _check_steps(self.steps)

    def logpdf(self, sde: SDE, t: Time, y: State, dt: Scalar, y_next: State) -> Float[Array, ""]:
        gaussian, rest = self._split(sde, t, y, dt)
        return _pushed_logpdf(gaussian, rest, 0.5 * dt, self.steps, y_next)

    def sample(self, sde: SDE, t: Time, y: State, dt: Scalar, *, key: RandomKey) -> State:
        gaussian, rest = self._split(sde, t, y, dt)
        return _flown(rest, _draw(*gaussian, key), 0.5 * dt, self.steps)

    def _split(self, sde: SDE, t: Time, y: State, dt: Scalar) -> "_Split":
        _check_additive(self, sde)
        line = _linearised(sde, t, y, dt)
        step, covariance = linear_flow(line.jac, line.f, line.f_t, line.sigma, dt)
        return _Split((y + step, covariance), _remainder(sde, line, t, y, dt))


@final
class LocalSkew(AbstractScheme):
    r"""`LocalLinear` bent by the drift's curvature, so that the third cumulant is right too.

    As in `Strang`, with the remainder N acting for a third of the step after the linear part:
    $\int_0^{\Delta t} s^2\,ds = \Delta t^3/3$, where the splitting has $\Delta t^3/2$. What N then
    lacks of the mean, a third of Ito's term, is given to the linear part. Additive noise only.

    Args:
        steps: Runge-Kutta steps of fourth order within the third of a step.
    """

    name: ClassVar[str] = "local_skew"
    steps: int = eqx.field(static=True, default=2)

    def __check_init__(self) -> None:
        _check_steps(self.steps)

    def logpdf(self, sde: SDE, t: Time, y: State, dt: Scalar, y_next: State) -> Float[Array, ""]:
        gaussian, rest = self._split(sde, t, y, dt)
        return _pushed_logpdf(gaussian, rest, dt / 3, self.steps, y_next)

    def sample(self, sde: SDE, t: Time, y: State, dt: Scalar, *, key: RandomKey) -> State:
        gaussian, rest = self._split(sde, t, y, dt)
        return _flown(rest, _draw(*gaussian, key), dt / 3, self.steps)

    def _split(self, sde: SDE, t: Time, y: State, dt: Scalar) -> "_Split":
        _check_additive(self, sde)
        line = _linearised(sde, t, y, dt)
        m = line.f_t + _ito_rate(sde, t, y) / 3
        step, covariance = linear_flow(line.jac, line.f, m, line.sigma, dt)
        return _Split((y + step, covariance), _remainder(sde, line, t, y, dt))


class _Line(NamedTuple):
    """The drift and its derivatives at the start of a step, and the noise of the step."""

    f: State
    jac: Matrix
    f_t: State
    sigma: Matrix


class _Split(NamedTuple):
    gaussian: tuple[State, Matrix]
    rest: Callable[[State], State]


def _linearised(sde: SDE, t: Time, y: State, dt: Scalar) -> _Line:
    drift, t, dt = sde.to_ito().drift, jnp.asarray(t, y.dtype), jnp.asarray(dt, y.dtype)
    f, push = jax.linearize(lambda t, y: drift(t, y), t, y)
    jac = jax.vmap(lambda e: push(jnp.zeros_like(t), e), out_axes=1)(jnp.eye(len(y), dtype=y.dtype))
    f_t = push(jnp.ones_like(t), jnp.zeros_like(y))
    when = t + 0.5 * dt if sde.noise == "additive" else t
    return _Line(f, jac, f_t, sde.diffusion.covariance(when, y).as_matrix())


def _ito_rate(sde: SDE, t: Time, y: State) -> State:
    r"""$\tfrac12\mathrm{tr}(\Sigma H_i)$, by a second derivative along each column of g."""
    drift, g = sde.to_ito().drift, sde.diffusion(t, y)

    def second(e_j: Noise) -> State:
        g_j = g.mv(e_j)

        def first(y: State) -> State:
            return jax.jvp(lambda y: drift(t, y), (y,), (g_j,))[1]

        return jax.jvp(first, (y,), (g_j,))[1]

    return 0.5 * jnp.sum(jax.vmap(second)(jnp.eye(sde.noise_dim, dtype=y.dtype)), axis=0)


def _remainder(sde: SDE, line: _Line, t: Time, y: State, dt: Scalar) -> Callable[[State], State]:
    """N at the end of the step, a function of the state."""
    drift, dt = sde.to_ito().drift, jnp.asarray(dt, y.dtype)
    t = jnp.asarray(t, y.dtype)
    return lambda x: drift(t + dt, x) - (line.f + line.f_t * dt + line.jac @ (x - y))


def _flown(rest: Callable[[State], State], x: State, time: Scalar, steps: int) -> State:
    """Where x is after `time`, backwards where it is negative, by Runge and Kutta's method."""
    h = jnp.asarray(time, x.dtype) / steps

    def step(i: Int[Array, ""], x: State) -> State:
        k1 = rest(x)
        k2 = rest(x + 0.5 * h * k1)
        k3 = rest(x + 0.5 * h * k2)
        k4 = rest(x + h * k3)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    return lax.fori_loop(0, steps, step, x)


def _pushed_logpdf(
    gaussian: tuple[State, Matrix],
    rest: Callable[[State], State],
    time: Scalar,
    steps: int,
    y_next: State,
) -> Float[Array, ""]:
    def back(x: State) -> State:
        return _flown(rest, x, -time, steps)

    mean, covariance = gaussian
    z, push = jax.linearize(back, y_next)
    jac = jax.vmap(push, out_axes=1)(jnp.eye(len(y_next), dtype=y_next.dtype))
    return normal_logpdf(z - mean, covariance) + log_abs_det(jac)


def _draw(mean: State, covariance: Matrix, key: RandomKey) -> State:
    return mean + cholesky(covariance) @ jr.normal(key, mean.shape, mean.dtype)


def _check_additive(scheme: AbstractScheme, sde: SDE) -> None:
    if sde.noise != "additive":
        raise ValueError(
            f"`{type(scheme).__name__}` needs additive noise; this SDE's "
            f"`diffusions.{type(sde.diffusion).__name__}` is {sde.noise}: it depends on the state. "
            "Use `EulerMaruyama` or `LocalLinear`, or a diffusion on='nothing' or on='time'."
        )


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"`steps` is {steps}. Use 1 or more.")
