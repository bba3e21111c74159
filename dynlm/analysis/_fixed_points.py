"""`fixed_points`: where a drift vanishes, by Newton's method from many starts."""

from collections.abc import Callable
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Float, Int, Shaped

from .._io import BadArgument
from .._types import State, Time
from ..sde import SDE
from ..trajectory import Trajectory
from .findings import Finding, stated

ROWS = 256  # states that are worked on at once
LEVEL = 1e-3  # a rate is zero if its size is below this share of the largest
NAMED = 3  # how many fixed points get a sentence of their own

Field = Callable[[Time, State], State]
States = Float[np.ndarray, "state dim"]


@final
class Sample(NamedTuple):
    """Real states of paths, one a row: what analyses look at states one by one read.

    Args:
        ts: The time of each.
        ys: The states.
        docs: The document of each.
        path: Which path each is of.
        step: Which step of its path.
        gap: The median time from one state to the next.
    """

    ts: Float[np.ndarray, " state"]
    ys: States
    docs: Shaped[np.ndarray, " state"]
    path: Int[np.ndarray, " state"]
    step: Int[np.ndarray, " state"]
    gap: float


@final
class FixedPoints(NamedTuple):
    r"""Points with $f(x^*) = 0$, those that most starts ended at first.

    Args:
        points: One a row.
        residuals: $|f(x^*)|$ of each.
        jacobians: $J = Df(x^*)$.
        eigenvalues: Of J.
        multipliers: $1 + \Delta t\,\lambda$, of the Euler chain; None without its step.
        kinds: "stable node", "saddle focus", and so on.
        stable: Whether all real parts are negative; with `dt`, whether all multipliers are
            smaller than 1, as a fit at that step is a chain.
        starts: How many starts ended at each.
        distance: Mahalanobis distance of each from the data.
        reach: The distance that holds 99 % of the data.
        inside: Whether a point is within reach.
        reached: The number of the fixed point each start ended at; -1 where it found none.
        findings: What is found.
    """

    points: Float[np.ndarray, "point dim"]
    residuals: Float[np.ndarray, " point"]
    jacobians: Float[np.ndarray, "point dim dim"]
    eigenvalues: Complex[np.ndarray, "point dim"]
    multipliers: Complex[np.ndarray, "point dim"] | None
    kinds: tuple[str, ...]
    stable: tuple[bool, ...]
    starts: Int[np.ndarray, " point"]
    distance: Float[np.ndarray, " point"]
    reach: float
    inside: tuple[bool, ...]
    reached: Int[np.ndarray, " start"]
    findings: tuple[Finding, ...]


def sample(
    paths: Trajectory, docs: Any, *, most: int = 2048, burn: int = 1, seed: int = 0
) -> Sample:
    """At most `most` of the real states behind the first `burn` of each path, drawn evenly."""
    mask, docs = np.array(paths.mask), np.asarray(docs)
    if mask.ndim != 2 or docs.shape != mask.shape[:1]:
        raise BadArgument(
            f"`paths` has a mask of shape {mask.shape} and `docs` has shape {docs.shape}. Pass a "
            "batch of paths, as `dynlm.stack` makes it, and the document of each."
        )
    ts, gaps = np.asarray(paths.ts, float), np.diff(np.asarray(paths.ts, float), axis=1)
    gaps = gaps[mask[:, 1:] & mask[:, :-1]]
    mask[:, :burn] = False
    path, step = np.nonzero(mask)
    if not len(path):
        raise BadArgument(f"`paths` has no real state behind the first {burn}. Use a lower `burn`.")
    if len(path) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(path), most, replace=False))
        path, step = path[chosen], step[chosen]
    ys = np.asarray(paths.ys)[path, step]
    gap = float(np.median(gaps)) if gaps.size else 1.0
    return Sample(ts[path, step], np.asarray(ys, float), docs[path], path, step, gap)


def fixed_points(
    drift: SDE | Field,
    starts: Any,
    *,
    data: Any = None,
    t: float = 0.0,
    dt: float | None = None,
    iterations: int = 60,
    tolerance: float | None = None,
    apart: float = 1e-2,
) -> FixedPoints:
    r"""Solves $f(t, x) = 0$ at a fixed t by damped Newton steps $-J^{-1} f$.

    A step that does not lower $|f|$ is halved; none is longer than twice the spread of the starts.

    Args:
        drift: $f$, or an SDE, whose drift in its own calculus is taken.
        starts: Where to start, one a row: states of the data, such as `sample(paths, docs).ys`.
        data: The states that "inside" speaks of; the starts unless told.
        dt: The step of the Euler chain whose multipliers are asked for.
        iterations: Evaluations of f and J.
        tolerance: Greatest $|f(x^*)|$ over the root mean square of $|f|$ at the starts; by default
            the precision of a number to the power .7.
        apart: Two points nearer than this share of the starts' spread are one.
    """
    starts = np.asarray(starts)
    if starts.ndim != 2 or not len(starts) or not np.isfinite(starts).all():
        raise BadArgument(
            f"`starts` has shape {starts.shape}, or holds numbers that are not finite. Pass one "
            "finite state a row."
        )
    f = drift.drift if isinstance(drift, SDE) else drift
    dtype = jnp.asarray(starts, jnp.result_type(float)).dtype
    least = float(jnp.finfo(dtype).eps) ** 0.7 if tolerance is None else tolerance
    data = np.asarray(starts if data is None else data, float)
    size = spread(starts)
    ys, sizes, usual = _newton(f, starts.astype(float), t, dtype, iterations, 2 * size)
    found = np.flatnonzero(sizes <= least * max(usual, np.finfo(float).tiny))
    groups = _groups(ys[found], sizes[found], apart * size)
    groups.sort(key=len, reverse=True)
    reached = np.full(len(starts), -1)
    for number, group in enumerate(groups):
        reached[found[group]] = number
    points = np.array([ys[found[g[0]]] for g in groups]).reshape(-1, starts.shape[1])
    # Padded to the shape that is compiled already.
    some = np.concatenate([points, starts])[: max(len(starts), len(points))]
    jacobians = linear_parts(f, np.full(len(some), t), some, dtype)[1][: len(points)]
    eigenvalues = np.asarray(np.linalg.eigvals(jacobians), complex).reshape(points.shape)
    multipliers = None if dt is None else 1 + dt * eigenvalues
    rate = np.real(eigenvalues) if multipliers is None else np.abs(multipliers) - 1
    stable = tuple(bool((row < 0).all()) for row in rate)
    distance, reach = _distance(points, data)
    inside = tuple(bool(d <= reach) for d in distance)
    kinds = tuple(kind(row) for row in eigenvalues)
    return FixedPoints(
        points,
        np.array([sizes[found[g[0]]] for g in groups], float),
        jacobians,
        eigenvalues,
        multipliers,
        kinds,
        stable,
        np.array([len(g) for g in groups], int),
        distance,
        reach,
        inside,
        reached,
        _findings(kinds, inside, eigenvalues, multipliers, reached),
    )


def kind(eigenvalues: Complex[np.ndarray, " dim"]) -> str:
    """What a fixed point of a flow is, by the eigenvalues of its Jacobian."""
    largest = np.abs(eigenvalues).max()
    zero = LEVEL * largest
    real, turns = np.real(eigenvalues), bool((np.abs(np.imag(eigenvalues)) > zero).any())
    if largest == 0 or (np.abs(real) <= zero).any():
        return "centre" if largest > 0 and turns and (real <= zero).all() else "degenerate"
    if (real < 0).all() or (real > 0).all():
        return ("stable " if real[0] < 0 else "unstable ") + ("focus" if turns else "node")
    return "saddle focus" if turns else "saddle"


def linear_parts(
    f: Field, ts: Any, ys: Any, dtype: Any
) -> tuple[Float[np.ndarray, "state dim"], Float[np.ndarray, "state dim dim"]]:
    """f and its Jacobian at every state, in one compiled program."""
    f_, j_ = _linear_parts(f, jnp.asarray(ts, dtype), jnp.asarray(ys, dtype))
    return np.asarray(f_, float), np.asarray(j_, float)


@eqx.filter_jit
def _linear_parts(
    f: Field, ts: Float[Array, " state"], ys: Float[Array, "state dim"]
) -> tuple[Array, Array]:
    def one(at: tuple[Array, Array]) -> tuple[Array, Array]:
        t, y = at
        basis = jnp.eye(y.shape[0], dtype=y.dtype)
        value, columns = jax.vmap(
            lambda v: jax.jvp(lambda y: f(t, y), (y,), (v,)), out_axes=(None, 1)
        )(basis)
        return value, columns

    return lax.map(one, (ts, ys), batch_size=min(ROWS, len(ys)))


def _newton(
    f: Field, starts: States, t: float, dtype: Any, iterations: int, longest: float
) -> tuple[States, Float[np.ndarray, " start"], float]:
    """The best states, the sizes of f there, and the root mean square size at the starts."""
    ts = np.full(len(starts), t)
    tried, best, length = starts.copy(), starts.copy(), np.ones(len(starts))
    step, sizes, start_size = np.zeros_like(starts), np.full(len(starts), np.inf), 0.0
    for turn in range(iterations):
        value, jacobian = linear_parts(f, ts, tried, dtype)
        size = np.linalg.norm(value, axis=1)
        if turn == 0:
            known = size[np.isfinite(size)]
            start_size = float(np.sqrt(np.sum(known**2) / max(len(known), 1)))
        better = size < sizes  # false for NaN
        best[better], sizes[better] = tried[better], size[better]
        length = np.where(better, np.minimum(1.0, 2 * length), length / 2)
        if (sizes == 0).all() or length.max() < 1e-6:
            break
        if better.any():
            step[better] = _steps(jacobian[better], value[better], longest)
        tried = best + length[:, None] * step
    return best, sizes, start_size


def _steps(jacobian: Any, value: Any, longest: float) -> States:
    """$-J^{-1} f$, shortened; along $-J^\\top f$ where J has no inverse."""
    finite = np.isfinite(jacobian).all(axis=(1, 2)) & np.isfinite(value).all(axis=1)
    jacobian = np.where(finite[:, None, None], jacobian, 0.0)
    scale = np.abs(jacobian).max(axis=(1, 2), initial=np.finfo(float).tiny)
    ridge = (scale * 1e-12)[:, None, None] * np.eye(value.shape[1])
    step = -np.linalg.solve(jacobian + ridge, np.where(finite[:, None], value, 0.0)[:, :, None])
    step = np.where(np.isfinite(step[:, :, 0]) & finite[:, None], step[:, :, 0], 0.0)
    size = np.linalg.norm(step, axis=1, keepdims=True)
    return step * (longest / np.maximum(size, longest))


def _groups(ys: States, sizes: Float[np.ndarray, " start"], near: float) -> list[np.ndarray]:
    """Rows that are one point, the row of least residual first."""
    left, groups = np.argsort(sizes, kind="stable"), []
    while len(left):
        same = np.linalg.norm(ys[left] - ys[left[0]], axis=1) <= near
        groups.append(left[same])
        left = left[~same]
    return groups


def spread(ys: States) -> float:
    """Root mean square distance from the mean; the size of the state where there is none."""
    size = float(np.sqrt(np.mean(np.sum((ys - ys.mean(axis=0)) ** 2, axis=1))))
    return size or max(1.0, float(np.abs(ys).max()))


def _distance(
    points: Float[np.ndarray, "point dim"], data: Float[np.ndarray, "row dim"]
) -> tuple[Float[np.ndarray, " point"], float]:
    mean = data.mean(axis=0)
    deviations = (data - mean) / np.sqrt(max(len(data) - 1, 1))
    _, s, rows = np.linalg.svd(deviations, full_matrices=False)
    kept = s > 1e-6 * max(s.max(initial=0.0), np.finfo(float).tiny)
    whiten = (rows[kept] / s[kept, None]).T

    def of(ys: States) -> Float[np.ndarray, " state"]:
        off = (ys - mean) @ (np.eye(len(mean)) - rows[kept].T @ rows[kept])
        beyond = np.linalg.norm(off, axis=1) > 1e-3 * max(s.max(initial=0.0), 1e-30)
        return np.where(beyond, np.inf, np.linalg.norm((ys - mean) @ whiten, axis=1))

    return of(points), float(np.quantile(of(data), 0.99))


def _findings(
    kinds: tuple[str, ...],
    inside: tuple[bool, ...],
    eigenvalues: Any,
    multipliers: Any,
    reached: Int[np.ndarray, " start"],
) -> tuple[Finding, ...]:
    share = float(np.mean(reached >= 0))
    found = [
        stated(
            "number of fixed points inside the data",
            float(sum(inside)),
            1.0,
            of_null="of a drift fitted to states without order, which has one at their mean",
            note="" if all(inside) else f"{len(inside) - sum(inside)} more stand outside",
        ),
        stated("share of starts that Newton's method brought to a fixed point", share),
    ]
    for i in np.flatnonzero(inside)[:NAMED]:
        note = f"It is a {kinds[i]}"
        if multipliers is None:
            what = f"largest real part of an eigenvalue at fixed point {i + 1}"
            found.append(stated(what, float(eigenvalues[i].real.max()), 0.0, note=note))
        else:
            what = f"largest size of a multiplier at fixed point {i + 1}"
            note = f"The flow has a {kinds[i]} there"
            found.append(stated(what, float(np.abs(multipliers[i]).max()), 1.0, note=note))
    return tuple(found)
