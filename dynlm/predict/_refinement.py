"""Whether a fitted SDE has the same one-step law at a finer step."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import RandomKey, State
from ..sde import SDE
from ..simulate import rollout
from ..trajectory import Trajectory

Square = Float[np.ndarray, "dim dim"]


@final
class Refinement(NamedTuple):
    """The law after one data step, by how many steps of the scheme were made of it.

    Args:
        ok: Whether all changes are within the tolerance.
        reason: Which is not, in a sentence.
        factors: How many steps each data step was cut into.
        mean: Root mean square change of the conditional mean against the first factor, in units
            of the noise of one data step.
        covariance: Relative change of the conditional covariance, averaged over states.
        correlation: Lag-1 autocorrelation of the chain at the data step.
        variance: Its total variance, over that of the first factor.
        tolerance: The greatest change that is let pass.
    """

    ok: bool
    reason: str
    factors: tuple[int, ...]
    mean: tuple[float, ...]
    covariance: tuple[float, ...]
    correlation: tuple[float, ...]
    variance: tuple[float, ...]
    tolerance: float


def refinement(
    sde: SDE,
    paths: Trajectory,
    *,
    key: RandomKey,
    scheme: Any = None,
    factors: Sequence[int] = (1, 4, 16),
    draws: int = 64,
    states: int = 256,
    chain: int = 16,
    tolerance: float = 0.1,
) -> Refinement:
    """Whether a fitted SDE has the same one-step law when it is solved more finely.

    From observed states one data gap is simulated in 1, 4 and 16 steps of the scheme. A model that
    was fitted by Euler at the data's step is, at a finer step, another process: fitted to i.i.d.
    states of variance v it has the drift m - y, and solved finely the variance v/2 and the
    correlation 1/e instead of 0.

    Where this fails, all that is said of the SDE in continuous time is withheld: rates, relaxation
    times, Lyapunov exponents, moments between the data's times. What remains is the one-step law
    with the scheme and the step of the fit. Where it passes, the numbers below bound the change.

    Args:
        sde: The fitted SDE.
        paths: Rows that were observed.
        key: Random key.
        scheme: That of the fit: a Diffrax solver that `rollout` takes, by default
            `diffrax.Euler()`, or an object with `sample(sde, t, y, dt, *, key)`.
        factors: Steps per data gap. The first is what the others are compared with.
        draws: Simulations from each state.
        states: How many observed states, evenly spread over all, are started from.
        chain: Data steps after which the chain's variance and correlation are taken.
        tolerance: Of the change of the mean in units of noise, of the relative change of the
            covariance, and of the change of the correlation. The first two are estimated without
            bias from two halves of the draws; their errors are a few hundredths by default.
    """
    _check_refinement(sde, paths, factors, draws, states, chain)
    start_key, chain_key = jr.split(key)
    t, y, gap = _observed(paths, states)
    scheme = dfx.Euler() if scheme is None else scheme
    means, covariances, correlations, variances = [], [], [], []
    repeats = -(-4096 // len(y))
    for k, factor in enumerate(factors):
        one = _steps(sde, t, y, gap, 1, factor, draws, scheme, jr.fold_in(start_key, k))
        ends = np.asarray(one, float)[:, :, -1]
        many = _steps(sde, t, y, gap, chain, factor, repeats, scheme, jr.fold_in(chain_key, k))
        last = np.asarray(many, float)[:, :, -2:].reshape(-1, 2, y.shape[1])
        means.append(np.stack([half.mean(axis=1) for half in np.split(ends, 2, axis=1)]))
        covariances.append(np.stack([_within(half) for half in np.split(ends, 2, axis=1)]))
        a, b = (last - last.mean(axis=0)).transpose(1, 0, 2)
        variances.append(float((b**2).sum()) / len(b))
        spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
        correlations.append(float((a * b).sum()) / spread if spread > 0 else 0.0)
    finite = [np.isfinite(x).all() for x in zip(variances, correlations)]
    finite = [f and np.isfinite(m).all() for f, m in zip(finite, means)]
    whiten = _whitener(covariances[0].mean(axis=0))
    changes = [_change(m - means[0], whiten) for m in means]
    relative = [_relative(c - covariances[0], whiten) for c in covariances]
    share = [v / max(variances[0], 1e-300) for v in variances]
    ok, reason = _verdict(factors, finite, changes, relative, correlations, tolerance)
    return Refinement(
        ok,
        reason,
        tuple(factors),
        tuple(changes),
        tuple(relative),
        tuple(correlations),
        tuple(share),
        tolerance,
    )


def _check_refinement(
    sde: SDE, paths: Trajectory, factors: Sequence[int], draws: int, states: int, chain: int
) -> None:
    if not isinstance(sde, SDE):
        raise BadArgument(f"`sde` is a {type(sde).__name__}. Pass a `dynlm.SDE`.")
    if paths.ys.ndim != 3 or paths.ys.shape[2] != sde.dim:
        raise BadArgument(
            f"`paths.ys` has shape {paths.ys.shape}, and `sde` has dimension {sde.dim}. Pass a "
            "batch of paths of that dimension: `dynlm.stack([path, ...])` makes one."
        )
    if len(factors) < 2 or not all(isinstance(f, int) and f >= 1 for f in factors):
        raise BadArgument(f"`factors` is {factors}. Use two whole numbers or more, as (1, 4, 16).")
    if draws < 4 or draws % 2:
        raise BadArgument(f"`draws` is {draws}. Use an even number, 4 or more.")
    for name, value, least in (("states", states, 1), ("chain", chain, 2)):
        if value < least:
            raise BadArgument(f"`{name}` is {value}. Use {least} or more.")


def _observed(paths: Trajectory, states: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, states and the gaps after them, evenly spread over all that were seen."""
    ts = np.asarray(paths.ts)
    gap = np.diff(ts, axis=1)
    row, k = np.nonzero(np.asarray(paths.mask)[:, 1:] & (gap > 0))
    if len(row) == 0:
        raise BadArgument("`paths` has no two states at different times. Pass longer rows.")
    which = np.unique(np.linspace(0, len(row) - 1, min(states, len(row))).round().astype(int))
    row, k = row[which], k[which]
    ys = np.asarray(paths.ys)[row, k]
    return ts[row, k], ys, gap[row, k]


def _steps(
    sde: SDE,
    t: np.ndarray,
    y: np.ndarray,
    gap: np.ndarray,
    number: int,
    factor: int,
    draws: int,
    scheme: Any,
    key: RandomKey,
) -> Float[Array, "state draw time dim"]:
    """`number` data steps from each state, `draws` times, and the states after each."""
    t, y, gap = (np.repeat(x, draws, axis=0) for x in (t, y, gap))
    ts = t[:, None] + gap[:, None] * np.arange(number + 1, dtype=t.dtype)[None, :]
    if isinstance(scheme, dfx.AbstractSolver):
        ys = rollout(sde, jnp.asarray(y), jnp.asarray(ts), key=key, scheme=scheme, substeps=factor)
        ys = ys.ys
    elif hasattr(scheme, "sample"):
        # The number of steps is an argument, so that all factors share one program.
        ys = _sampled(sde, y, ts, np.int32(factor), scheme, key)
    else:
        raise BadArgument(
            f"`scheme` is {scheme!r}. Pass a Diffrax solver, as `diffrax.Euler()`, or a scheme "
            "with `sample(sde, t, y, dt, *, key)`."
        )
    return ys.reshape(-1, draws, *ys.shape[1:])


@eqx.filter_jit
def _sampled(
    sde: SDE, ys: Any, ts: Any, factor: Any, scheme: Any, key: RandomKey
) -> Float[Array, "path time dim"]:
    def one(y: State, ts: Float[Array, " time"], key: RandomKey) -> Float[Array, "time dim"]:
        def step(y: State, x: tuple[Array, Array, RandomKey]) -> tuple[State, State]:
            t, h, key = x

            def fine(j: Array, y: State) -> State:
                at = t + h * j.astype(t.dtype)
                return scheme.sample(sde, at, y, h, key=jr.fold_in(key, j))

            y = lax.fori_loop(0, factor, fine, y)
            return y, y

        h = jnp.diff(ts) / jnp.asarray(factor, ts.dtype)
        later = lax.scan(step, y, (ts[:-1], h, jr.split(key, len(h))))[1]
        return jnp.concatenate([y[None], later])

    return jax.vmap(one)(jnp.asarray(ys), jnp.asarray(ts), jr.split(key, len(ys)))


def _within(ends: Float[np.ndarray, "state draw dim"]) -> Square:
    """The covariance given the state, averaged over states."""
    r = ends - ends.mean(axis=1, keepdims=True)
    return np.einsum("sdi,sdj->ij", r, r) / (len(r) * (r.shape[1] - 1))


def _whitener(c: Square) -> Square:
    if not np.isfinite(c).all():
        return np.eye(len(c))
    w, v = np.linalg.eigh(c)
    return v / np.sqrt(np.maximum(w, 1e-12 * max(float(w[-1]), 1e-30)))


def _change(delta: Float[np.ndarray, "half state dim"], whiten: Square) -> float:
    """Root mean square per dimension; the product of two halves has no bias from few draws."""
    a, b = delta @ whiten
    return float(np.sqrt(max(0.0, float((a * b).mean())))) if np.isfinite(delta).all() else np.inf


def _relative(delta: Float[np.ndarray, "half dim dim"], whiten: Square) -> float:
    if not np.isfinite(delta).all():
        return float("inf")
    a, b = whiten.T @ delta @ whiten
    return float(np.sqrt(max(0.0, float((a * b).sum()) / len(a))))


def _verdict(
    factors: Sequence[int],
    finite: Sequence[Any],
    mean: Sequence[float],
    covariance: Sequence[float],
    correlation: Sequence[float],
    tolerance: float,
) -> tuple[bool, str]:
    for factor, sound in zip(factors, finite):
        if not sound:
            return False, f"states are not finite with {factor} steps to a data step"
    moved = max(abs(c - correlation[0]) for c in correlation)
    found = {
        "the conditional mean moves by {:.2g} of the noise": max(mean),
        "the conditional covariance changes by {:.0%}": max(covariance),
        f"the lag-1 correlation goes from {correlation[0]:.2f} to {correlation[-1]:.2f}": moved,
    }
    wrong = [text.format(value) for text, value in found.items() if not value <= tolerance]
    if wrong:
        return False, "solved more finely it is another process: " + ", ".join(wrong)
    return True, f"all changes are within {tolerance:g} from {factors[0]} to {factors[-1]} steps"
