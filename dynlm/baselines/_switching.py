"""`switching`: a VAR(1) whose coefficients follow a hidden Markov chain."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from .._factors import solve_lower
from .._io import BadArgument
from .._types import RandomKey, State, Time
from ..laws import LOG_2PI, Mixture
from ..predict._predictor import AbstractPredictor
from ..trajectory import Trajectory
from ._clusters import clusters
from ._expectation import Regimes, fit_regimes
from ._linear import var1
from ._pairs import check_paths, floating

SEEN = 2**14  # transitions that the regimes start from


@final
class Switching(AbstractPredictor):
    r"""$y' \sim N(F_s y + b_s,\; L_s L_s^\top)$ with a Markov chain $s$ over transitions.

    What is carried are the probabilities of the regimes for the next transition, given all states
    seen; the law is the mixture of the regimes by them.

    Args:
        start_log: Logarithms of the probabilities of the first regime.
        change_log: Those of the next regime (column) given this one (row).
        matrices: $F_s$.
        biases: $b_s$.
        roots: $L_s$.
        history: The logarithm of the posterior density that was climbed, by iteration: the
            log-likelihood of the training transitions and the log prior, up to a constant.
        burn: Transitions out of so many first states say nothing of the regime.
    """

    start_log: Float[Array, " regime"]
    change_log: Float[Array, "regime regime"]
    matrices: Float[Array, "regime dim dim"]
    biases: Float[Array, "regime dim"]
    roots: Float[Array, "regime dim dim"]
    history: Float[Array, " iteration"]
    burn: int = eqx.field(static=True)

    def start(self) -> tuple[Int[Array, ""], Float[Array, " regime"], State]:
        return jnp.zeros((), jnp.int32), self.start_log, jnp.zeros_like(self.biases[0])

    def see(
        self, carry: tuple[Int[Array, ""], Float[Array, " regime"], State], t: Time, y: State
    ) -> tuple[Int[Array, ""], Float[Array, " regime"], State]:
        seen, log_p, before = carry
        y = y.astype(before.dtype)
        after = log_p + self.each(before, y)
        after = after - logsumexp(after)
        ahead = logsumexp(after[:, None] + self.change_log, axis=0)
        told = seen > self.burn  # the transition is number seen - 1
        return jnp.minimum(seen + 1, self.burn + 1), jnp.where(told, ahead, log_p), y

    def law(self, carry: tuple[Int[Array, ""], Float[Array, " regime"], State], t: Time) -> Mixture:
        _, log_p, y = carry
        return Mixture(log_p, self.biases + self.matrices @ y, self.roots)

    def each(self, y: State, y_next: State) -> Float[Array, " regime"]:
        """The log density of a transition in each regime."""

        def one(f: Array, b: Array, l: Array) -> Array:
            z = solve_lower(l, y_next - b - f @ y)
            return -0.5 * (z @ z + len(y) * LOG_2PI) - jnp.sum(jnp.log(jnp.diagonal(l)))

        return jax.vmap(one)(self.matrices, self.biases, self.roots)


def switching(
    paths: Trajectory,
    regimes: int,
    *,
    key: RandomKey,
    iterations: int = 60,
    restarts: int = 4,
    burn: int = 1,
) -> Switching:
    r"""A Markov-switching VAR(1) by expectation maximisation, the best of several starts.

    A step counts as a step, whatever its gap. Each regime has weak prior knowledge, worth
    dim + 2 transitions: coefficients near those of the VAR(1) and a hundredth of its noise. So a
    regime that few transitions visit has a covariance, and one that none visits has coefficients.
    The posterior density never falls from one iteration to the next: see `history`.

    Args:
        paths: Training rows.
        regimes: How many.
        key: Random key.
        iterations: Of every start.
        restarts: How many starts, by turns from clusters of the errors of the VAR(1) and of the
            states that come next.
        burn: Transitions out of a row's first `burn` states are left out.
    """
    for name, value in (("regimes", regimes), ("iterations", iterations), ("restarts", restarts)):
        if not (isinstance(value, int) and value >= 1):
            raise BadArgument(f"`{name}` is {value!r}. Use 1 or more.")
    check_paths(paths, burn, needs=2 * regimes)
    dtype = floating(paths)
    linear = var1(paths, burn=burn)
    mask = np.asarray(paths.mask)
    mean = np.asarray(paths.ys)[mask].astype(float).mean(axis=0)
    scale = np.asarray(paths.ys)[mask].astype(float).std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    m, s = jnp.asarray(mean, dtype), jnp.asarray(scale, dtype)
    # In standard units, so that the prior and float32 sums suit any data.
    ys = jnp.where(paths.mask[:, :, None], paths.ys.astype(dtype) - m[None, None], 0)
    ys = ys / s[None, None]  # padding is zero, for weights of zero times NaN would be NaN
    x, y, seen = ys[:, burn:-1], ys[:, burn + 1 :], paths.mask[:, burn + 1 :]
    f0 = linear.matrix * s[None, :] / s[:, None]
    b0 = (linear.bias + linear.matrix @ m - m) / s
    root0 = linear.root / s[:, None]
    prior = Regimes.prior(f0, b0, root0 @ root0.T)
    error = y - b0[None, None] - x @ f0.T
    best = None
    for k, one in enumerate(jr.split(key, restarts)):
        points = error if k % 2 == 0 else y
        guess = _guess(points, seen, regimes, key=one)
        found, history = fit_regimes(x, y, seen, guess, prior, iterations)
        final = float(history[-1])
        if np.isfinite(final) and (best is None or final > best[0]):
            best = final, found, history
    if best is None:
        raise BadArgument(
            f"No fit of {regimes} regimes stayed finite. Use fewer regimes, or rescale the states."
        )
    _, found, history = best
    f = found.matrices * s[None, :, None] / s[None, None, :]
    b = m[None] + s[None] * found.biases - f @ m
    roots = found.roots * s[None, :, None]
    return Switching(found.start_log, found.change_log, f, b, roots, history, burn)


def _guess(
    points: Float[Array, "row time dim"],
    seen: Array,
    regimes: int,
    *,
    key: RandomKey,
) -> Float[Array, "row time regime"]:
    """Who is where at first: mostly the nearest of some cluster centres."""
    rows, times = np.nonzero(np.asarray(seen))
    some = np.linspace(0, len(rows) - 1, min(SEEN, len(rows))).astype(int)
    centres, _ = clusters(points[rows[some], times[some]], regimes, key=key)
    away = jnp.sum((points[:, :, None] - centres[None, None]) ** 2, axis=3)
    hard = jax.nn.one_hot(jnp.argmin(away, axis=2), regimes, dtype=points.dtype)
    return 0.9 * hard + 0.1 / regimes
