"""The moment equations of an SDE, closed by taking its law for a Gaussian one."""

from collections.abc import Callable
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import Scalar, State
from ..sde import SDE
from ..trajectory import Trajectory
from ._states import floating

Matrix = Float[Array, "dim dim"]
Step = Callable[[SDE, Scalar, Scalar, State, Matrix], tuple[State, Matrix]]


@final
class Moments(NamedTuple):
    """Mean and covariance at some times."""

    ts: Float[np.ndarray, " time"]
    mean: Float[np.ndarray, "time dim"]
    covariance: Float[np.ndarray, "time dim dim"]


def moment_equations(sde: SDE, m0: Any, p0: Any, ts: Any, *, substeps: int = 8) -> Moments:
    r"""Mean and covariance in continuous time, of a law that is taken for a Gaussian one.

    $$m' = E[f], \qquad P' = E[(x - m) f^\top] + E[f (x - m)^\top] + E[g g^\top]$$

    Expectations are means over the 2 dim points $m \pm \sqrt{\dim}\,P^{1/2} e_i$, which are exact
    for polynomials of degree 3: so everything is exact where f and g are linear, up to the error
    of the integration (Runge and Kutta's fourth order).

    Args:
        m0: The mean at the first time.
        p0: The covariance there; zeros for a known state.
        ts: Times, increasing.
        substeps: Steps between two times.
    """
    return _integrated(_flow, sde, m0, p0, ts, substeps)


def moment_chain(sde: SDE, m0: Any, p0: Any, ts: Any, *, substeps: int = 1) -> Moments:
    r"""The same of the chain $x_{k+1} = x_k + f h + g\sqrt h\,\xi$: Euler's steps of a fit.

    $$m_{k+1} = E[x + f h], \qquad P_{k+1} = \mathrm{Cov}[x + f h] + E[g g^\top]\,h$$

    For an SDE that was fitted by Euler at the step of the data: in continuous time it is another
    process.

    Args:
        substeps: Steps between two times; 1 for a fit with none.
    """
    return _integrated(_chain, sde, m0, p0, ts, substeps)


def moment_starts(
    paths: Trajectory, *, burn: int = 1, repeats: int = 1
) -> tuple[Float[np.ndarray, "path dim"], Float[np.ndarray, " time"]]:
    """Where to simulate from, and at which times, so that `moment_check` can compare.

    Args:
        burn: The state of each path to start from.
        repeats: How many simulations of each path; one after another, all paths each time.
    """
    ts, ys, mask = (np.asarray(x) for x in (paths.ts, paths.ys, paths.mask))
    if ys.ndim != 3 or not 0 <= burn < ys.shape[1] - 1 or repeats < 1:
        raise BadArgument(
            f"`paths.ys` has shape {ys.shape}, `burn` is {burn}, `repeats` {repeats}. Pass a batch "
            "of paths longer than `burn` + 1, and 1 or more `repeats`."
        )
    longest = int(mask.sum(axis=1).argmax())
    times = ts[longest, burn:]
    if not (np.diff(times) > 0).all():
        times = times[: mask[longest, burn:].sum()]
    gap, seen = np.diff(ts[:, burn:], axis=1)[:, : len(times) - 1], mask[:, burn + 1 :]
    seen = seen[:, : len(times) - 1]
    if not np.allclose(np.where(seen, gap, 0), np.where(seen, np.diff(times), 0), rtol=1e-3):
        raise BadArgument("The paths have different gaps in time. Pass paths with equal ones.")
    y0s = np.where(mask[:, burn, None], ys[:, burn], 0)
    return np.tile(y0s, (repeats, 1)), times


def _integrated(step: Step, sde: SDE, m0: Any, p0: Any, ts: Any, substeps: int) -> Moments:
    if not isinstance(sde, SDE):
        raise BadArgument(f"`sde` is a {type(sde).__name__}. Pass a `dynlm.SDE`.")
    m, p, ts = (np.asarray(x, np.float64) for x in (m0, p0, ts))
    if m.shape != (sde.dim,) or p.shape != (sde.dim, sde.dim):
        raise BadArgument(
            f"`m0` has shape {m.shape}, `p0` {p.shape}. Pass a mean ({sde.dim},) and a covariance "
            f"({sde.dim}, {sde.dim})."
        )
    if ts.ndim != 1 or len(ts) < 2 or not (np.diff(ts) > 0).all():
        raise BadArgument("`ts` are no increasing times. Pass two or more.")
    if isinstance(substeps, bool) or not isinstance(substeps, int) or substeps < 1:
        raise BadArgument(f"`substeps` is {substeps!r}. Use 1 or more.")
    h = np.diff(ts) / substeps
    starts = ts[:-1, None] + h[:, None] * np.arange(substeps)
    dtype = floating(sde)
    arrays: Any = (np.asarray(x, dtype) for x in (m, p, starts, h))
    mean, covariance = _run(step, sde, *arrays)
    return Moments(
        ts,
        np.concatenate([m[None], np.asarray(mean, np.float64)]),
        np.concatenate([p[None], np.asarray(covariance, np.float64)]),
    )


@eqx.filter_jit
def _run(
    step: Step,
    sde: SDE,
    m: State,
    p: Matrix,
    ts: Float[Array, "gap substep"],
    hs: Float[Array, " gap"],
) -> tuple[Float[Array, "gap dim"], Float[Array, "gap dim dim"]]:
    ito = sde.to_ito()

    def gap(carry: tuple, x: tuple) -> tuple[tuple, tuple]:
        starts, h = x

        def fine(carry: tuple, t: Array) -> tuple[tuple, None]:
            m, p = step(ito, t, h, *carry)
            return (m, (p + p.T) / 2), None

        carry, _ = lax.scan(fine, carry, starts)
        return carry, carry

    return lax.scan(gap, (m, p), (ts, hs))[1]


def _points(m: State, p: Matrix) -> Float[Array, "point dim"]:
    """By eigenvectors: a covariance may be singular, as that of a known state."""
    values, vectors = jnp.linalg.eigh(p)
    root = vectors * jnp.sqrt(len(m) * jnp.maximum(values, 0.0))[None, :]
    return m[None] + jnp.concatenate([root.T, -root.T])


def _fields(ito: SDE, t: Scalar, x: Float[Array, "point dim"]) -> tuple[Any, Matrix]:
    """The drift at the points, and the mean of $g g^\\top$ over them."""
    f = jax.vmap(lambda y: ito.drift(t, y))(x)
    noise = jax.vmap(lambda y: ito.diffusion.covariance(t, y).as_matrix())(x)
    return f, jnp.mean(noise, axis=0)


def _flow(ito: SDE, t: Scalar, h: Scalar, m: State, p: Matrix) -> tuple[State, Matrix]:
    """One step of the fourth order; each stage asks only for the one before."""

    def stage(carry: tuple, x: tuple) -> tuple[tuple, None]:
        (dm, dp), (sum_m, sum_p) = carry
        at, weight = x
        now, spread = m + at * h * dm, p + at * h * dp
        points = _points(now, spread)
        f, noise = _fields(ito, t + at * h, points)
        c = (points - now[None]).T @ f / len(points)
        dm, dp = jnp.mean(f, axis=0), c + c.T + noise
        return ((dm, dp), (sum_m + weight * dm, sum_p + weight * dp)), None

    zero = (jnp.zeros_like(m), jnp.zeros_like(p))
    at = jnp.asarray([0.0, 0.5, 0.5, 1.0], m.dtype)
    weights = jnp.asarray([1 / 6, 1 / 3, 1 / 3, 1 / 6], m.dtype)
    (_, (dm, dp)), _ = lax.scan(stage, (zero, zero), (at, weights))
    return m + h * dm, p + h * dp


def _chain(ito: SDE, t: Scalar, h: Scalar, m: State, p: Matrix) -> tuple[State, Matrix]:
    points = _points(m, p)
    f, noise = _fields(ito, t, points)
    later = points + h * f
    mean = jnp.mean(later, axis=0)
    d = later - mean[None]
    return mean, d.T @ d / len(d) + h * noise
