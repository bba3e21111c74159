"""Problems from physics: underdamped Langevin, the stochastic Lorenz system, the circle."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jax.scipy.stats import norm
from jax.tree_util import Partial
from jaxtyping import Array, Float

from .._types import Noise, State, Time, concrete
from ..diffusions import Diagonal
from ..diffusions import Function as DiffusionFunction
from ..drifts import Function, Linear
from ..sde import SDE, Langevin
from ._gaussian import flow, normal_logpdf
from ._problem import (
    Matrix,
    Numbers,
    Problem,
    arrays,
    check_not_negative,
    check_positive,
    matrix,
    vectors,
)
from ._scalar import quartic_logpdf, quartic_variance

Positions = Float[Array, " position"]


def langevin(
    stiffness: Numbers = 1.0,
    gamma: Numbers = 1.0,
    u: Numbers = 1.0,
    *,
    x0: Numbers = 1.0,
    v0: Numbers = 0.0,
    t1: float = 1.0,
) -> Problem:
    r"""Underdamped Langevin in the quadratic potential $f(x) = \tfrac12 x^\top H x$; Gaussian.

    $dx = v\,dt$, $dv = -\gamma v\,dt - u H x\,dt + \sqrt{2\gamma u}\,dW$, state $[x, v]$.

    Args:
        stiffness: $H$: a number, or a symmetric positive definite matrix.
    """
    h, gamma, u, x0, v0 = arrays(stiffness=stiffness, gamma=gamma, u=u, x0=x0, v0=v0)
    dim = max([1] + [len(x) for x in (h, gamma, u, x0, v0) if x.ndim > 0])
    h = matrix("stiffness", h, dim)
    values = concrete(h)
    if values is not None and not (
        np.allclose(values, values.T) and (np.linalg.eigvalsh(values) > 0).all()
    ):
        raise ValueError(
            f"`stiffness` is {values}. Use a symmetric positive definite matrix: others have no "
            "stationary law."
        )
    gamma, u, x0, v0 = vectors(dim, gamma=gamma, u=u, x0=x0, v0=v0)
    one, zero = jnp.eye(dim, dtype=h.dtype), jnp.zeros_like(h)
    a = jnp.block([[zero, one], [-u[:, None] * h, -jnp.diag(gamma)]])
    q = jsl.block_diag(zero, jnp.diag(2 * gamma * u))
    mean = jnp.zeros(2 * dim, h.dtype)
    covariance = jsl.block_diag(jnp.linalg.inv(h), jnp.diag(u))
    return Problem(
        name="langevin",
        sde=Langevin(Partial(jnp.matmul, h), gamma, u),
        y0=jnp.concatenate([x0, v0]),
        t1=t1,
        mean=Partial(_langevin_mean, a),
        covariance=Partial(_langevin_covariance, a, q),
        transition_logpdf=Partial(_langevin_logpdf, a, q),
        stationary_logpdf=Partial(_langevin_stationary, mean, covariance),
        stationary_mean=mean,
        stationary_covariance=covariance,
    )


def _langevin_mean(a: Matrix, t: Time, y0: State) -> State:
    return jsl.expm(a * t) @ y0


def _langevin_covariance(a: Matrix, q: Matrix, t: Time, y0: State) -> Matrix:
    return flow(a, q, t)[1]


def _langevin_logpdf(a: Matrix, q: Matrix, y: State, t: Time, y0: State) -> Float[Array, ""]:
    f, c = flow(a, q, t)
    return normal_logpdf(y, f @ y0, c)


def _langevin_stationary(mean: State, covariance: Matrix, y: State) -> Float[Array, ""]:
    return normal_logpdf(y, mean, covariance)


def langevin_double_well(
    a: Numbers = 1.0,
    b: Numbers = 1.0,
    gamma: Numbers = 1.0,
    u: Numbers = 1.0,
    *,
    x0: Numbers = 1.0,
    v0: Numbers = 0.0,
    t1: float = 1.0,
) -> Problem:
    r"""Underdamped Langevin in the potential $f(x) = \sum_i b_i x_i^4/4 - a_i x_i^2/2$.

    The stationary law is that of Gibbs: $\propto \exp(-f(x) - \sum_i v_i^2/2u_i)$.
    """
    a, b, gamma, u, x0, v0 = vectors(a=a, b=b, gamma=gamma, u=u, x0=x0, v0=v0)
    check_positive(b=b)
    return Problem(
        name="langevin_double_well",
        sde=Langevin(Partial(_double_well_gradient, a, b), gamma, u),
        y0=jnp.concatenate([x0, v0]),
        t1=t1,
        stationary_logpdf=Partial(_gibbs_logpdf, a, b, u),
        stationary_mean=jnp.zeros(2 * len(x0), x0.dtype),
        stationary_covariance=jnp.diag(jnp.concatenate([quartic_variance(a, b), u])),
    )


def _double_well_gradient(a: State, b: State, x: State) -> State:
    return b * x**3 - a * x


def _gibbs_logpdf(a: Positions, b: Positions, u: Positions, y: State) -> Float[Array, ""]:
    x, v = jnp.split(y, 2)
    return quartic_logpdf(a, b, x) + jnp.sum(norm.logpdf(v, 0.0, jnp.sqrt(u)))


def lorenz(
    sigma: Numbers = 10.0,
    rho: Numbers = 28.0,
    beta: Numbers = 8 / 3,
    noise: Numbers = (0.1, 0.28, 0.3),
    *,
    y0: Numbers = (1.0, 1.0, 1.0),
    t1: float = 2.0,
) -> Problem:
    r"""The stochastic Lorenz system: Lorenz's drift, and noise in proportion to the state.

    $dX = \big(\sigma(x_2 - x_1),\; x_1(\rho - x_3) - x_2,\; x_1 x_2 - \beta x_3\big)dt +
    \mathrm{diag}(n_1 x_1, n_2 x_2, n_3 x_3)\,dW$. Nothing is known in closed form.
    """
    sigma, rho, beta, noise, y0 = arrays(sigma=sigma, rho=rho, beta=beta, noise=noise, y0=y0)
    noise, y0 = vectors(3, noise=noise, y0=y0)
    check_not_negative(noise=noise)
    return Problem(
        name="lorenz",
        sde=SDE(
            Function(Partial(_lorenz_drift, sigma, rho, beta)),
            Diagonal(Partial(_proportional, noise), 3, depends="component"),
        ),
        y0=y0,
        t1=t1,
    )


def _lorenz_drift(sigma: Array, rho: Array, beta: Array, t: Time, y: State) -> State:
    a, b, c = y
    return jnp.stack([sigma * (b - a), a * (rho - c) - b, a * b - beta * c])


def _proportional(noise: State, t: Time, y: State) -> State:
    return noise * y


def circle(sigma: Numbers = 1.0, *, y0: Numbers = (1.0, 0.0), t1: float = 1.0) -> Problem:
    r"""Brownian motion on a circle in the plane: $dX = \sigma J X \circ dW$, $J(x, y) = (-y, x)$.

    Stratonovich; the solution is $X = R(\sigma W)\,x_0$, R the rotation, so $|X|$ never changes.
    The densities are per unit of angle: the transition is a wrapped normal, the stationary law is
    uniform, and neither looks at $|y|$.
    """
    sigma, y0 = arrays(sigma=sigma, y0=y0)
    check_positive(sigma=sigma)
    if sigma.ndim != 0 or y0.shape != (2,):
        raise ValueError(
            f"`sigma` has shape {sigma.shape} and `y0` {y0.shape}. Use a number and a plane vector."
        )
    start = concrete(y0)
    if start is not None and not start.any():
        raise ValueError(f"`y0` is {start}, which never moves. Start away from the origin.")
    linear = Linear(jnp.zeros((2, 2), y0.dtype), jnp.zeros_like(y0))
    noise = DiffusionFunction(Partial(_tangent, sigma), 2, 1, noise="commutative")
    return Problem(
        name="circle",
        sde=SDE(linear, noise, calculus="stratonovich"),
        y0=y0,
        t1=t1,
        exact=Partial(_circle_exact, sigma),
        mean=Partial(_circle_mean, sigma),
        covariance=Partial(_circle_covariance, sigma),
        transition_logpdf=Partial(_circle_logpdf, sigma),
        stationary_logpdf=Partial(_uniform_logpdf),
        stationary_mean=jnp.zeros_like(y0),
        stationary_covariance=0.5 * (y0 @ y0) * jnp.eye(2, dtype=y0.dtype),
    )


def _quarter_turn(y: State) -> State:
    return jnp.stack([-y[1], y[0]])


def _tangent(sigma: Array, t: Time, y: State) -> Float[Array, "dim noise"]:
    return sigma * _quarter_turn(y)[:, None]


def _circle_exact(sigma: Array, t: Time, y0: State, w: Noise) -> State:
    angle = sigma * w[0]
    return jnp.cos(angle) * y0 + jnp.sin(angle) * _quarter_turn(y0)


def _circle_mean(sigma: Array, t: Time, y0: State) -> State:
    return y0 * jnp.exp(-0.5 * sigma**2 * t)


def _circle_covariance(sigma: Array, t: Time, y0: State) -> Matrix:
    r"""$\tfrac12|y_0|^2(1 - e^{-2s})\,I - e^{-s}(1 - e^{-s})\,y_0 y_0^\top$, $s = \sigma^2 t$."""
    s = sigma**2 * t
    spread = -0.5 * (y0 @ y0) * jnp.expm1(-2 * s) * jnp.eye(2, dtype=y0.dtype)
    return spread + jnp.exp(-s) * jnp.expm1(-s) * y0[:, None] * y0[None, :]


def _circle_logpdf(sigma: Array, y: State, t: Time, y0: State) -> Float[Array, ""]:
    """Wrapped normal: a sum over turns while it is narrow, over waves once it is wide."""
    s = sigma**2 * t
    angle = jnp.arctan2(y @ _quarter_turn(y0), y @ y0)
    narrow = s < 2 * jnp.pi
    turns = angle + 2 * jnp.pi * jnp.arange(-4, 5, dtype=y.dtype)
    few = norm.logpdf(turns, 0.0, jnp.sqrt(jnp.where(narrow, s, 1.0)))
    n = jnp.arange(1, 5, dtype=y.dtype)
    waves = jnp.exp(-0.5 * n**2 * jnp.where(narrow, 2 * jnp.pi, s)) * jnp.cos(n * angle)
    return jnp.where(
        narrow,
        jax.nn.logsumexp(few),
        jnp.log1p(2 * jnp.sum(waves)) - jnp.log(2 * jnp.pi),
    )


def _uniform_logpdf(y: State) -> Float[Array, ""]:
    return jnp.full((), -jnp.log(2 * jnp.pi), y.dtype)
