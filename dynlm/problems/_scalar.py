"""Problems whose components are independent copies of a scalar one."""

import warnings

import jax
import jax.numpy as jnp
from jax.scipy.stats import gamma as gamma_law
from jax.scipy.stats import norm
from jax.tree_util import Partial
from jaxtyping import Array, Float

from .._types import Noise, State, Time, concrete
from ..diffusions import Diagonal
from ..drifts import Function
from ..sde import SDE
from ._bessel import log_kernel
from ._problem import Matrix, Numbers, Problem, check_positive, vectors

NODES = 401  # of the quadrature over a quartic well


def cir(
    kappa: Numbers = 1.0,
    theta: Numbers = 1.0,
    sigma: Numbers = 0.5,
    *,
    y0: Numbers = 1.0,
    t1: float = 1.0,
) -> Problem:
    r"""Cox-Ingersoll-Ross: $dX = \kappa(\theta - X)\,dt + \sigma\sqrt X\,dW$.

    Below zero, where only a discretised path gets, drift and diffusion see $\max(X, 0)$ (full
    truncation), and every derivative is finite there. Warns where $2\kappa\theta < \sigma^2$
    (Feller): the process then touches zero, its density is infinite there, and strong solvers
    lose their order.
    """
    kappa, theta, sigma, y0 = vectors(kappa=kappa, theta=theta, sigma=sigma, y0=y0)
    check_positive(kappa=kappa, theta=theta, sigma=sigma)
    feller, start = concrete(2 * kappa * theta - sigma**2), concrete(y0)
    if start is not None and not (start >= 0).all():
        raise ValueError(f"`y0` is {start}. A CIR process is never negative: start at 0 or above.")
    if feller is not None and (feller < 0).any():
        warnings.warn(
            f"2 kappa theta - sigma^2 is {feller}: this CIR process touches zero, where strong "
            "solvers lose their order. Raise `kappa` or `theta`, or lower `sigma`, unless meant.",
            stacklevel=2,
        )
    return Problem(
        name="cir",
        sde=SDE(
            Function(Partial(_cir_drift, kappa, theta)),
            Diagonal(Partial(_cir_diffusion, sigma), len(y0), depends="component"),
        ),
        y0=y0,
        t1=t1,
        mean=Partial(_cir_mean, kappa, theta),
        covariance=Partial(_cir_covariance, kappa, theta, sigma),
        transition_logpdf=Partial(_cir_logpdf, kappa, theta, sigma),
        stationary_logpdf=Partial(_cir_stationary, kappa, theta, sigma),
        stationary_mean=theta,
        stationary_covariance=jnp.diag(theta * sigma**2 / (2 * kappa)),
    )


def _cir_drift(kappa: State, theta: State, t: Time, y: State) -> State:
    return kappa * (theta - jnp.maximum(y, 0.0))


def _cir_diffusion(sigma: State, t: Time, y: State) -> State:
    inside = y > 0  # also inside the root: its slope at 0 is infinite
    return sigma * jnp.where(inside, jnp.sqrt(jnp.where(inside, y, 1.0)), 0.0)


def _cir_mean(kappa: State, theta: State, t: Time, y0: State) -> State:
    return theta + (y0 - theta) * jnp.exp(-kappa * t)


def _cir_covariance(kappa: State, theta: State, sigma: State, t: Time, y0: State) -> Matrix:
    e, d = jnp.exp(-kappa * t), -jnp.expm1(-kappa * t)
    return jnp.diag(sigma**2 / kappa * (y0 * e * d + 0.5 * theta * d**2))


def _cir_logpdf(
    kappa: State, theta: State, sigma: State, y: State, t: Time, y0: State
) -> Float[Array, ""]:
    r"""$c\,e^{-u-v}\,(v/u)^{q/2}\,I_q(2\sqrt{uv})$, a scaled noncentral chi-square density.

    $c = 2\kappa/\sigma^2(1 - e^{-\kappa t})$, $u = c\,y_0 e^{-\kappa t}$, $v = c\,y$,
    $q = 2\kappa\theta/\sigma^2 - 1$.
    """
    inside = y > 0
    c = -2 * kappa / (sigma**2 * jnp.expm1(-kappa * t))
    u, v = c * y0 * jnp.exp(-kappa * t), c * jnp.where(inside, y, 1.0)
    q = 2 * kappa * theta / sigma**2 - 1
    log = jnp.log(c) + q * jnp.log(v) + jax.vmap(log_kernel)(q, u, v)
    return jnp.sum(jnp.where(inside, log, -jnp.inf))


def _cir_stationary(kappa: State, theta: State, sigma: State, y: State) -> Float[Array, ""]:
    rate = 2 * kappa / sigma**2
    inside = y > 0
    log = gamma_law.logpdf(rate * jnp.where(inside, y, 1.0), rate * theta) + jnp.log(rate)
    return jnp.sum(jnp.where(inside, log, -jnp.inf))


def double_well(
    a: Numbers = 1.0,
    b: Numbers = 1.0,
    sigma: Numbers = 0.5,
    *,
    y0: Numbers = 1.0,
    t1: float = 1.0,
) -> Problem:
    r"""Double well: $dX = (aX - bX^3)\,dt + \sigma\,dW$, wells at $\pm\sqrt{a/b}$.

    The stationary density is $\propto e^{-2V/\sigma^2}$, $V = bx^4/4 - ax^2/2$; its normaliser is a
    sum over 401 points, exact to rounding for barriers up to a thousand times $\sigma^2/2$.
    """
    a, b, sigma, y0 = vectors(a=a, b=b, sigma=sigma, y0=y0)
    check_positive(b=b, sigma=sigma)
    p, q = 2 * a / sigma**2, 2 * b / sigma**2
    return Problem(
        name="double_well",
        sde=SDE(Function(Partial(_double_well_drift, a, b)), Diagonal(sigma)),
        y0=y0,
        t1=t1,
        stationary_logpdf=Partial(quartic_logpdf, p, q),
        stationary_mean=jnp.zeros_like(y0),
        stationary_covariance=jnp.diag(quartic_variance(p, q)),
    )


def _double_well_drift(a: State, b: State, t: Time, y: State) -> State:
    return a * y - b * y**3


def _quartic(p: Array, q: Array, x: Array) -> Array:
    return p * x**2 / 2 - q * x**4 / 4


def _quartic_nodes(p: State, q: State) -> tuple[Float[Array, "nodes dim"], State]:
    """Evenly spaced points up to where the density is e^-40 of its peak, and their spacing."""
    reach = jnp.sqrt(jnp.maximum(p, 0.0) / q + jnp.sqrt(160 / q))
    reach = jax.lax.stop_gradient(reach)
    grid = jnp.linspace(-1, 1, NODES, dtype=p.dtype)
    return grid[:, None] * reach[None, :], reach * (2 / (NODES - 1))


def quartic_logpdf(p: State, q: State, y: State) -> Float[Array, ""]:
    r"""Log of the normalised density $\propto \prod_i \exp(p_i y_i^2/2 - q_i y_i^4/4)$."""
    x, dx = _quartic_nodes(p, q)
    log_z = jax.nn.logsumexp(_quartic(p[None, :], q[None, :], x), axis=0) + jnp.log(dx)
    return jnp.sum(_quartic(p, q, y) - log_z)


@jax.jit
def quartic_variance(p: State, q: State) -> State:
    """Variances under the density of `quartic_logpdf`."""
    x, _ = _quartic_nodes(p, q)
    weights = jax.nn.softmax(_quartic(p[None, :], q[None, :], x), axis=0)
    return jnp.sum(weights * x**2, axis=0)


def additive(
    alpha: Numbers = 0.1, beta: Numbers = 0.05, *, y0: Numbers = 1.0, t1: float = 1.0
) -> Problem:
    r"""The additive problem of the work-precision literature, with noise that fades in time.

    $dX = \big(\beta r - \tfrac12 X r^2\big)dt + \alpha\beta r\,dW$ with $r = 1/\sqrt{1+t}$;
    $X = \big(x_0 + \beta(t + \alpha W)\big)\,r$.
    """
    alpha, beta, y0 = vectors(alpha=alpha, beta=beta, y0=y0)
    check_positive(alpha=alpha, beta=beta)
    return Problem(
        name="additive",
        sde=SDE(
            Function(Partial(_additive_drift, beta)),
            Diagonal(Partial(_additive_diffusion, alpha * beta), len(y0), depends="time"),
        ),
        y0=y0,
        t1=t1,
        exact=Partial(_additive_exact, alpha, beta),
        mean=Partial(_additive_mean, beta),
        covariance=Partial(_additive_covariance, alpha * beta),
        transition_logpdf=Partial(_additive_logpdf, alpha, beta),
    )


def _additive_drift(beta: State, t: Time, y: State) -> State:
    return beta / jnp.sqrt(1.0 + t) - y / (2 * (1.0 + t))


def _additive_diffusion(scale: State, t: Time, y: State) -> State:
    return scale / jnp.sqrt(1.0 + t)


def _additive_exact(alpha: State, beta: State, t: Time, y0: State, w: Noise) -> State:
    return (y0 + beta * (t + alpha * w)) / jnp.sqrt(1.0 + t)


def _additive_mean(beta: State, t: Time, y0: State) -> State:
    return (y0 + beta * t) / jnp.sqrt(1.0 + t)


def _additive_covariance(scale: State, t: Time, y0: State) -> Matrix:
    return jnp.diag(scale**2 * (t / (1.0 + t)))


def _additive_logpdf(alpha: State, beta: State, y: State, t: Time, y0: State) -> Float[Array, ""]:
    std = alpha * beta * jnp.sqrt(t / (1.0 + t))
    return jnp.sum(norm.logpdf(y, _additive_mean(beta, t, y0), std))


def wave(a: Numbers = 0.1, *, y0: Numbers = 1.0, t1: float = 1.0) -> Problem:
    r"""The wave problem of the work-precision literature: $X = \arctan(aW + \tan x_0)$.

    $dX = -a^2\sin X\cos^3 X\,dt + a\cos^2 X\,dW$. A path stays
    between the odd multiples of $\pi/2$ around its start; the formulas hold there.
    """
    a, y0 = vectors(a=a, y0=y0)
    check_positive(a=a)
    return Problem(
        name="wave",
        sde=SDE(
            Function(Partial(_wave_drift, a)),
            Diagonal(Partial(_wave_diffusion, a), len(y0), depends="component"),
        ),
        y0=y0,
        t1=t1,
        exact=Partial(_wave_exact, a),
        transition_logpdf=Partial(_wave_logpdf, a),
    )


def _wave_drift(a: State, t: Time, y: State) -> State:
    return -(a**2) * jnp.sin(y) * jnp.cos(y) ** 3


def _wave_diffusion(a: State, t: Time, y: State) -> State:
    return a * jnp.cos(y) ** 2


def _wave_exact(a: State, t: Time, y0: State, w: Noise) -> State:
    return jnp.pi * jnp.round(y0 / jnp.pi) + jnp.arctan(a * w + jnp.tan(y0))


def _wave_logpdf(a: State, y: State, t: Time, y0: State) -> Float[Array, ""]:
    same = jnp.round(y / jnp.pi) == jnp.round(y0 / jnp.pi)
    log = norm.logpdf(jnp.tan(y), jnp.tan(y0), a * jnp.sqrt(t)) - 2 * jnp.log(jnp.abs(jnp.cos(y)))
    return jnp.sum(jnp.where(same, log, -jnp.inf))
