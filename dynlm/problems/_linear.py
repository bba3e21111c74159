"""Problems that are linear in the state: Ornstein-Uhlenbeck and geometric Brownian motions."""

import itertools

import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from .._types import Noise, State, Time, concrete
from ..diffusions import Constant, Diagonal
from ..diffusions import Function as DiffusionFunction
from ..drifts import Linear
from ..sde import SDE
from ._gaussian import flow, kron_sum, lyapunov, normal_logpdf
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

Rate = Float[Array, ""] | Matrix
Columns = Float[Array, "dim noise"]
Matrices = Float[Array, "noise dim dim"]


def ou(
    theta: Numbers = 1.0,
    mu: Numbers = 0.0,
    sigma: Numbers = 0.5,
    *,
    y0: Numbers = 1.0,
    t1: float = 1.0,
) -> Problem:
    r"""Ornstein-Uhlenbeck: $dX = \theta(\mu - X)\,dt + \sigma\,dW$.

    Args:
        theta: A number or a matrix. Where it is not stable (an eigenvalue without positive real
            part) there is no stationary law; a theta that is being traced is taken as stable, and
            the density is NaN if it is not.
        sigma: A number or a matrix of full rank.
    """
    theta, mu, sigma, y0 = arrays(theta=theta, mu=mu, sigma=sigma, y0=y0)
    dim = max([1] + [len(x) for x in (theta, mu, sigma, y0) if x.ndim > 0])
    if sigma.ndim == 0:
        check_positive(sigma=sigma)
    full, sigma = matrix("theta", theta, dim), matrix("sigma", sigma, dim)
    mu, y0 = vectors(dim, mu=mu, y0=y0)
    q = sigma @ sigma.T
    values = concrete(full)
    stable = values is None or (np.linalg.eigvals(values).real > 0).all()
    s = None
    if stable:
        s = q / (2 * theta) if theta.ndim == 0 else lyapunov(-theta, q)
    return Problem(
        name="ou",
        sde=SDE(Linear(-full, full @ mu), Constant(sigma)),
        y0=y0,
        t1=t1,
        mean=Partial(_ou_mean, theta, mu),
        covariance=Partial(_ou_covariance, theta, q),
        transition_logpdf=Partial(_ou_logpdf, theta, mu, q),
        stationary_logpdf=None if s is None else Partial(_stationary_logpdf, mu, s),
        stationary_mean=mu if stable else None,
        stationary_covariance=s,
    )


def _ou_mean(theta: Rate, mu: State, t: Time, y0: State) -> State:
    if theta.ndim == 0:
        return mu + jnp.exp(-theta * t) * (y0 - mu)
    return mu + jsl.expm(-theta * t) @ (y0 - mu)


def _ou_covariance(theta: Rate, q: Matrix, t: Time, y0: State) -> Matrix:
    if theta.ndim == 0:
        moving = jnp.where(theta == 0, 1.0, theta)
        return q * jnp.where(theta == 0, t, -jnp.expm1(-2 * moving * t) / (2 * moving))
    return flow(-theta, q, t)[1]


def _ou_logpdf(theta: Rate, mu: State, q: Matrix, y: State, t: Time, y0: State) -> Float[Array, ""]:
    return normal_logpdf(y, _ou_mean(theta, mu, t, y0), _ou_covariance(theta, q, t, y0))


def _stationary_logpdf(mean: State, covariance: Matrix, y: State) -> Float[Array, ""]:
    return normal_logpdf(y, mean, covariance)


def gbm(mu: Numbers = 0.5, sigma: Numbers = 0.5, *, y0: Numbers = 1.0, t1: float = 1.0) -> Problem:
    r"""Geometric Brownian motion: $dX_i = \mu_i X_i\,dt + \sigma_i X_i\,dW_i$, a noise each."""
    mu, sigma, y0 = vectors(mu=mu, sigma=sigma, y0=y0)
    return _componentwise("gbm", mu, sigma, y0, t1)


def linear(
    alpha: Numbers = 1.01, beta: Numbers = 0.87, *, y0: Numbers = 0.5, t1: float = 1.0
) -> Problem:
    r"""The linear problem of the work-precision literature: $dX = \alpha X\,dt + \beta X\,dW$."""
    alpha, beta, y0 = vectors(alpha=alpha, beta=beta, y0=y0)
    return _componentwise("linear", alpha, beta, y0, t1)


def _componentwise(name: str, mu: State, sigma: State, y0: State, t1: float) -> Problem:
    check_not_negative(**{"beta" if name == "linear" else "sigma": sigma})
    diffusion = Diagonal(Partial(_scaled, sigma), len(y0), depends="component")
    return _lognormal(name, mu, jnp.diag(sigma), SDE(_growth(mu), diffusion), y0, t1)


def gbm_correlated(
    mu: Numbers = 0.5,
    sigma: Numbers | None = None,
    *,
    y0: Numbers = 1.0,
    t1: float = 1.0,
) -> Problem:
    r"""Correlated geometric Brownian motion: $dX_i = \mu_i X_i\,dt + X_i\sum_j S_{ij}\,dW_j$.

    Commutative and not diagonal.

    Args:
        sigma: The matrix $S$ of shape (dim, noise_dim); by default [[.5, 0], [.3, .4]]. Where
            $S S^\top$ is singular there is no transition density.
    """
    sigma = [[0.5, 0.0], [0.3, 0.4]] if sigma is None else sigma
    mu, sigma, y0 = arrays(mu=mu, sigma=sigma, y0=y0)
    if sigma.ndim != 2:
        raise ValueError(f"`sigma` has shape {sigma.shape}. Use (dim, noise_dim), or `gbm`.")
    mu, y0 = vectors(len(sigma), mu=mu, y0=y0)
    diffusion = DiffusionFunction(Partial(_scaled_rows, sigma), *sigma.shape, noise="commutative")
    return _lognormal("gbm_correlated", mu, sigma, SDE(_growth(mu), diffusion), y0, t1)


def _lognormal(name: str, mu: State, s: Columns, sde: SDE, y0: State, t1: float) -> Problem:
    values = concrete(s)
    rank = min(s.shape) if values is None else np.linalg.matrix_rank(values)
    return Problem(
        name=name,
        sde=sde,
        y0=y0,
        t1=t1,
        exact=Partial(_gbm_exact, mu, s),
        mean=Partial(_gbm_mean, mu),
        covariance=Partial(_gbm_covariance, mu, s),
        transition_logpdf=Partial(_gbm_logpdf, mu, s) if rank == len(s) else None,
    )


def _growth(mu: State) -> Linear:
    return Linear(jnp.diag(mu), jnp.zeros_like(mu))


def _scaled(sigma: State, t: Time, y: State) -> State:
    return sigma * y


def _scaled_rows(s: Columns, t: Time, y: State) -> Columns:
    return y[:, None] * s


def _gbm_exact(mu: State, s: Columns, t: Time, y0: State, w: Noise) -> State:
    return y0 * jnp.exp((mu - 0.5 * jnp.sum(s**2, axis=1)) * t + s @ w)


def _gbm_mean(mu: State, t: Time, y0: State) -> State:
    return y0 * jnp.exp(mu * t)


def _gbm_covariance(mu: State, s: Columns, t: Time, y0: State) -> Matrix:
    m = _gbm_mean(mu, t, y0)
    return m[:, None] * m[None, :] * jnp.expm1(s @ s.T * t)


def _gbm_logpdf(mu: State, s: Columns, y: State, t: Time, y0: State) -> Float[Array, ""]:
    ratio = y / y0
    reached = jnp.all(ratio > 0)
    ratio = jnp.where(reached, ratio, 1.0)  # before the logarithm, so that gradients stay finite
    y = jnp.where(reached, y, 1.0)
    mean = (mu - 0.5 * jnp.sum(s**2, axis=1)) * t
    log = normal_logpdf(jnp.log(ratio), mean, s @ s.T * t) - jnp.sum(jnp.log(jnp.abs(y)))
    return jnp.where(reached, log, -jnp.inf)


def gbm_noncommutative(
    a: Numbers | None = None,
    b: Numbers | None = None,
    *,
    y0: Numbers = 1.0,
    t1: float = 1.0,
) -> Problem:
    r"""Linear noise that does not commute: $dX = A X\,dt + \sum_j B_j X\,dW_j$.

    Args:
        a: $A$; by default [[-.5, .3], [-.3, -.5]].
        b: The $B_j$ stacked, shape (noise_dim, dim, dim); by default .5 [[1, 0], [0, -1]] and
            .5 [[0, 1], [1, 0]].
    """
    a = [[-0.5, 0.3], [-0.3, -0.5]] if a is None else a
    b = [[[0.5, 0.0], [0.0, -0.5]], [[0.0, 0.5], [0.5, 0.0]]] if b is None else b
    a, b, y0 = arrays(a=a, b=b, y0=y0)
    if b.ndim != 3 or b.shape[1] != b.shape[2]:
        raise ValueError(f"`b` has shape {b.shape}. Stack square matrices: (noise_dim, dim, dim).")
    noise_dim, dim, _ = b.shape
    a = matrix("a", a, dim)
    (y0,) = vectors(dim, y0=y0)
    values = concrete(b)
    if values is not None and all(
        np.allclose(p @ q, q @ p, atol=0) for p, q in itertools.combinations(values, 2)
    ):
        raise ValueError(
            "The matrices in `b` commute, so this noise is commutative and would not test a solver "
            "that needs Levy area. Use matrices with B_i B_j != B_j B_i, or `gbm_correlated`."
        )
    return Problem(
        name="gbm_noncommutative",
        sde=SDE(
            Linear(a, jnp.zeros_like(y0)),
            DiffusionFunction(Partial(_columns, b), dim, noise_dim, noise="general"),
        ),
        y0=y0,
        t1=t1,
        mean=Partial(_linear_mean, a),
        covariance=Partial(_linear_covariance, a, b),
    )


def _columns(b: Matrices, t: Time, y: State) -> Columns:
    return (b @ y).T


def _linear_mean(a: Matrix, t: Time, y0: State) -> State:
    return jsl.expm(a * t) @ y0


def _linear_covariance(a: Matrix, b: Matrices, t: Time, y0: State) -> Matrix:
    r"""$C' = (M + L) C + L\,m m^\top$, $(m m^\top)' = M\,m m^\top$, as one matrix exponential.

    Here $M = A \oplus A$ and $L = \sum_j B_j \otimes B_j$. The second moment minus $m m^\top$
    would lose the digits of a small covariance.
    """
    m, ell = kron_sum(a), jnp.sum(jnp.stack([jnp.kron(b_j, b_j) for b_j in b]), axis=0)
    block = jsl.expm(jnp.block([[m + ell, ell], [jnp.zeros_like(m), m]]) * t)
    n = len(y0)
    return (block[: n * n, n * n :] @ jnp.kron(y0, y0)).reshape(n, n)
