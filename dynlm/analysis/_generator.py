r"""`lyapunov`: where the mean of a quadratic function of the state falls, by the generator."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from .._io import BadArgument
from .._types import Scalar, State, Time
from ..sde import SDE
from ..stats import bootstrap
from ..trajectory import Trajectory
from ._beside import paired
from ._fixed_points import ROWS, Sample, sample
from .findings import Finding, finding, stated, withheld

WORST = 10  # violating states that are named
SHELLS = 12  # of equally many states each, by their distance from the centre

Square = Float[np.ndarray, "dim dim"]
Numbers = Float[np.ndarray, " state"]
OF_IID = "of states that are drawn anew at each step"


@final
class Lyapunov(NamedTuple):
    r"""The rate $LV$ at which the mean of V changes, state by state.

    Args:
        v: $V$ at each state that was looked at.
        lv: $LV$ there.
        docs: The document of each.
        path: Which path each is of.
        step: Which step of its path.
        worst: The rows of the greatest positive $LV$, the greatest first.
        radius: $\sqrt V$ of the farthest state with $LV > 0$: beyond it $LV \le 0$ on the data.
        beyond: The share of states beyond the radius.
        shells: Mean $\sqrt V$ of states in shells of equally many.
        falling: The share with $LV \le 0$ in each shell.
        findings: What is found.
    """

    v: Numbers
    lv: Numbers
    docs: Any
    path: Int[np.ndarray, " state"]
    step: Int[np.ndarray, " state"]
    worst: Int[np.ndarray, " worst"]
    radius: float
    beyond: float
    shells: Float[np.ndarray, " shell"]
    falling: Float[np.ndarray, " shell"]
    findings: tuple[Finding, ...]


def generator(sde: SDE, v: Callable[[State], Scalar], y: State, t: Time = 0.0) -> Float[Array, ""]:
    r"""$LV = f\cdot\nabla V + \tfrac12\,\mathrm{tr}(g^\top\nabla^2 V g)$ at one state, exactly."""
    return sde.generator(lambda t, y: v(y))(t, y)


def lyapunov_matrix(jacobian: Any) -> Square:
    r"""The $Q$ with $J^\top Q + Q J = -I$, positive definite where J is stable."""
    j = np.asarray(jacobian, float)
    if j.ndim != 2 or j.shape[0] != j.shape[1]:
        raise BadArgument(f"`jacobian` has shape {j.shape}. Pass a square matrix.")
    rates, v = np.linalg.eig(j)
    if not (np.real(rates) < 0).all():
        raise BadArgument(
            f"`jacobian` has an eigenvalue with real part {np.real(rates).max():.3g}. Only a "
            "stable one has such a matrix: take another fixed point, or the identity."
        )
    x = -(v.conj().T @ v) / (np.conj(rates)[:, None] + rates[None, :])
    back = np.linalg.inv(v)
    q = np.real(back.conj().T @ x @ back)
    q = (q + q.T) / 2
    if np.abs(j.T @ q + q @ j + np.eye(len(j))).max() > 1e-6:
        raise BadArgument("`jacobian` is too near one without enough eigenvectors. Perturb it.")
    return q


def lyapunov(
    sde: SDE,
    paths: Trajectory,
    docs: Any,
    *,
    centre: Any,
    q: Any = None,
    dt: float | None = None,
    nulls: Sequence[SDE] = (),
    most: int = 2048,
    burn: int = 1,
    seed: int = 0,
) -> Lyapunov:
    r"""$V = |x - x^*|_Q^2$ and $LV = 2 (x - x^*)^\top Q f + \mathrm{tr}(g^\top Q g)$ on the data.

    For a stationary process the mean of $LV$ is zero, whatever $V$; what says something is where it
    falls and where it grows. States drawn anew at each step from one law fall as well when they
    are far out, and the share of them that does is the null value.

    Args:
        centre: $x^*$, such as a fixed point.
        q: $Q$, symmetric and positive; the identity unless told. See `lyapunov_matrix`.
        dt: The step of the Euler chain that a fit is: $LV$ is then $(PV - V)/\Delta t$, the change
            over one step, which is greater by $\Delta t\,f^\top Q f$.
        nulls: Fits of states without order, as for `lipschitz`; they are taken with the same step.
            Without any the null value is that of states drawn anew at each step, and of a
            stationary process.
        most: How many states are looked at.
        burn: States at the start of each path that are left out.
        seed: Of the choice of states and of the intervals.
    """
    seen = sample(paths, docs, most=most, burn=burn, seed=seed)
    centre, q = check_quadratic(centre, q, seen.ys.shape[1])

    def rate(one: SDE) -> Numbers:
        f, g = fields(one, seen, paths.ys.dtype)
        return quadratic_rate(seen.ys, f, np.einsum("sin,sjn->sij", g, g), centre, q, dt)

    return judged(
        seen,
        quadratic(seen.ys, centre, q),
        rate(sde),
        null_rate(seen, centre, q, dt),
        "quadratic function",
        seed,
        [rate(one) for one in nulls],
    )


def judged(
    seen: Sample,
    v: Numbers,
    lv: Numbers,
    null: Numbers | None,
    name: str,
    seed: int,
    others: Sequence[Numbers] = (),
) -> Lyapunov:
    """What follows from V and LV at states; `null` is LV of states without order.

    `others` are LV of fits of such states, which take its place.
    """
    known = np.isfinite(lv) & np.isfinite(v)
    if not known.any():
        raise BadArgument("The drift or the noise is finite at no state. Look at the fit.")
    weight, nothing = known.astype(float), (0.0 if null is None else float(np.mean(null <= 0)))
    share = bootstrap(lv <= 0, weight, seen.docs, seed=seed)
    mean = bootstrap(np.where(known, lv, 0.0), weight, seen.docs, seed=seed)
    rising = known & (lv > 0)
    worst = np.argsort(np.where(rising, -lv, np.inf), kind="stable")[:WORST]
    worst = worst[rising[worst]]
    radius = float(np.sqrt(v[rising].max(initial=0.0)))
    beyond = float(np.mean(np.sqrt(v[known]) > radius))
    order = np.flatnonzero(known)[np.argsort(v[known], kind="stable")]
    shells = np.array_split(order, min(SHELLS, len(order)))
    what = f"radius outside which the {name} falls on the data"
    note = "" if known.all() else f"{np.sum(~known)} states without a finite rate left out"
    names = f"share of states where the {name} falls", f"mean rate of the {name}"
    if others:
        rest = [[np.where(np.isfinite(x), x <= 0, np.nan) for x in others], others]
        own = np.where(known, lv <= 0, np.nan), lv
        both = [
            paired(what, one, more, weight, seen.docs, seed=seed, note=note)
            for what, one, more in zip(names, own, rest, strict=True)
        ]
    else:
        of_null = OF_IID if null is not None else "without any pull"
        both = [
            finding(names[0], share, nothing, of_null=of_null, note=note),
            finding(names[1], mean, 0.0, of_null="of a stationary process"),
        ]
    found = (
        *both,
        stated(what, radius, note=f"{beyond:.1%} of the states are beyond it")
        if beyond > 0
        else withheld(what, "it grows at the farthest state that was looked at"),
    )
    return Lyapunov(
        v,
        lv,
        seen.docs,
        seen.path,
        seen.step,
        worst,
        radius,
        beyond,
        np.array([np.sqrt(v[s]).mean() for s in shells]),
        np.array([np.mean(lv[s] <= 0) for s in shells]),
        found,
    )


def quadratic(ys: Any, centre: Any, q: Square) -> Numbers:
    """$V = |x - x^*|_Q^2$."""
    x = ys - centre
    return np.einsum("si,ij,sj->s", x, q, x)


def quadratic_rate(
    ys: Any, f: Any, covariance: Any, centre: Any, q: Square, dt: float | None
) -> Numbers:
    r"""$2 (x - x^*)^\top Q f + \mathrm{tr}(Q\Sigma)$, and $\Delta t\,f^\top Q f$ for a chain."""
    rate = 2 * np.einsum("si,ij,sj->s", ys - centre, q, f)
    rate = rate + np.einsum("ij,sji->s", q, np.broadcast_to(covariance, (len(ys), *q.shape)))
    return rate if dt is None else rate + dt * np.einsum("si,ij,sj->s", f, q, f)


def null_rate(seen: Sample, centre: Any, q: Square, dt: float | None) -> Numbers:
    """LV of the fit that states without order have: drift mean - x, noise their covariance."""
    gap = seen.gap if dt is None else dt
    f = (seen.ys.mean(axis=0) - seen.ys) / gap
    off = seen.ys - seen.ys.mean(axis=0)
    covariance = off.T @ off / max(len(off) - 1, 1) / gap
    return quadratic_rate(seen.ys, f, covariance[None], centre, q, dt)


def check_quadratic(centre: Any, q: Any, dim: int) -> tuple[Float[np.ndarray, " dim"], Square]:
    """A centre and a positive matrix of the right sizes."""
    centre = np.asarray(centre, float)
    if centre.shape != (dim,) or not np.isfinite(centre).all():
        raise BadArgument(f"`centre` is {centre}. Pass a finite vector of {dim} numbers.")
    q = np.eye(dim) if q is None else np.asarray(q, float)
    if q.shape != (dim, dim) or not np.allclose(q, q.T) or np.linalg.eigvalsh(q)[0] <= 0:
        raise BadArgument(
            f"`q` has shape {q.shape}. Pass a symmetric positive matrix of shape ({dim}, {dim}), "
            "such as `lyapunov_matrix(jacobian)` of a stable fixed point."
        )
    return centre, q


def fields(
    sde: SDE, seen: Sample, dtype: Any
) -> tuple[Float[np.ndarray, "state dim"], Float[np.ndarray, "state dim noise"]]:
    """Ito drift and noise matrix at every state, in one compiled program."""
    f, g = _fields(sde, jnp.asarray(seen.ts, dtype), jnp.asarray(seen.ys, dtype))
    return np.asarray(f, float), np.asarray(g, float)


@eqx.filter_jit
def _fields(
    sde: SDE, ts: Float[Array, " state"], ys: Float[Array, "state dim"]
) -> tuple[Array, Array]:
    ito = sde.to_ito()

    def one(at: tuple[Array, Array]) -> tuple[Array, Array]:
        t, y = at
        return ito.drift(t, y), ito.diffusion(t, y).as_matrix()

    return lax.map(one, (ts, ys), batch_size=min(ROWS, len(ys)))
