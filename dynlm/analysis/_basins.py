"""Steps along an SDE, and `basins`: which fixed point states run to when there is no noise."""

from collections.abc import Callable
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from .._io import BadArgument
from .._types import State, Time
from ..sde import SDE
from ..stats import Interval, bootstrap
from ._fixed_points import FixedPoints, spread
from .findings import Finding, finding, stated

Step = Callable[[Time, State, Any], State]
REST = 1e-6  # of the spread: a step shorter than this is no move


@final
class RungeKutta(eqx.Module):
    """The classical step of order four along the drift alone."""

    sde: SDE
    dt: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __call__(self, t: Time, y: State, key: Any) -> State:
        del key
        f, h = self.sde.drift, self.dt
        a = f(t, y)
        b = f(t + h / 2, y + h / 2 * a)
        c = f(t + h / 2, y + h / 2 * b)
        d = f(t + h, y + h * c)
        return y + h / 6 * (a + 2 * b + 2 * c + d)


@final
class Euler(eqx.Module):
    """The step $y + f(t, y) dt$: a fit's chain at that step, without its noise."""

    sde: SDE
    dt: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __call__(self, t: Time, y: State, key: Any) -> State:
        del key
        return y + self.dt * self.sde.drift(t, y)


@final
class EulerMaruyama(eqx.Module):
    r"""The step $y + f(t, y)\,dt + g(t, y)\,\Delta W$ in Ito form."""

    sde: SDE
    dt: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __call__(self, t: Time, y: State, key: Any) -> State:
        ito = self.sde.to_ito()
        dw = jnp.sqrt(self.dt) * jr.normal(key, (self.sde.noise_dim,), y.dtype)
        return y + self.dt * ito.drift(t, y) + ito.diffusion(t, y).mv(dw)


@final
class Basins(NamedTuple):
    """Where states end without noise.

    Args:
        which: The fixed point each start ends at; -1 where it ends at none.
        ends: Where each start is after the last step.
        shares: The share of starts in the basin of each fixed point, by document.
        nowhere: The share that ends at none: on a cycle, a chaotic set, or far away.
        taken: How many steps were taken until nothing moved, or all of them.
        findings: What is found.
    """

    which: Int[np.ndarray, " start"]
    ends: Float[np.ndarray, "start dim"]
    shares: tuple[Interval, ...]
    nowhere: Interval
    taken: int
    findings: tuple[Finding, ...]


def basins(
    step: Step,
    points: FixedPoints,
    starts: Any,
    docs: Any,
    *,
    steps: int = 1000,
    near: float = 0.05,
    t: float = 0.0,
    seed: int = 0,
) -> Basins:
    """Repeats a step from every start until nothing moves, and says where each has come to.

    Args:
        step: `RungeKutta(sde, dt)` for the flow, `Euler(sde, dt)` for a fit's chain without its
            noise, or any `(t, y, key) -> y`; its time stays at `t` and its key is None.
        points: From `fixed_points`.
        starts: States, one a row, such as `sample(paths, docs).ys`.
        docs: The document of each.
        steps: The most steps that are taken.
        near: A start has come to a point if it ends within this share of the starts' spread.
        t: The time of the drift.
        seed: Of the intervals.
    """
    starts = np.asarray(starts)
    if starts.ndim != 2 or not len(starts) or not np.isfinite(starts).all():
        raise BadArgument(
            f"`starts` has shape {starts.shape}, or holds numbers that are not finite. Pass one "
            "finite state a row."
        )
    if steps < 1:
        raise BadArgument(f"`steps` is {steps}. Use 1 or more.")
    dtype = jnp.asarray(starts, jnp.result_type(float)).dtype
    size = spread(starts)
    at, rest = (jnp.asarray(np.asarray(x, dtype)) for x in (t, REST * size))
    ends, taken = _run(step, jnp.asarray(starts, dtype), at, rest, jnp.asarray(np.int32(steps)))
    ends = np.asarray(ends, float)
    which = np.full(len(starts), -1)
    if len(points.points):
        away = np.linalg.norm(ends[:, None] - points.points[None], axis=2)
        away = np.where(np.isfinite(away), away, np.inf)
        which = np.where(away.min(axis=1) <= near * size, away.argmin(axis=1), -1)
    one = np.ones(len(starts))
    shares = tuple(bootstrap(which == i, one, docs, seed=seed) for i in range(len(points.points)))
    nowhere = bootstrap(which == -1, one, docs, seed=seed)
    findings = _findings(points, shares, nowhere)
    return Basins(which, ends, shares, nowhere, int(taken), findings)


def _findings(
    points: FixedPoints, shares: tuple[Interval, ...], nowhere: Interval
) -> tuple[Finding, ...]:
    ends = [i for i, share in enumerate(shares) if share.value > 0]
    found = []
    for i in ends:
        what = f"share of states in the basin of fixed point {i + 1}"
        where = "inside the data" if points.inside[i] else "outside the data"
        note, even = f"The point is a {points.kinds[i]}, {where}", "of basins of equal weight"
        if len(ends) > 1:
            found.append(finding(what, shares[i], 1 / len(ends), of_null=even, note=note))
        else:  # one basin has none beside it to be compared with
            found.append(stated(what, shares[i].value, note=note))
    what = "share of states that come to no fixed point"
    found.append(finding(what, nowhere, 0.0, of_null="where every state comes to rest"))
    return tuple(found)


@eqx.filter_jit
def _run(
    step: Step,
    starts: Float[Array, "start dim"],
    t: Float[Array, ""],
    rest: Float[Array, ""],
    steps: Int[Array, ""],
) -> tuple[Array, Array]:
    def moving(carry: tuple[Array, Array, Array]) -> Array:
        i, _, moved = carry
        return (i < steps) & (moved > rest)

    def one(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, ys, _ = carry
        new = jax.vmap(lambda y: step(t, y, None))(ys)
        change = jnp.abs(new - ys)
        moved = jnp.max(jnp.where(jnp.isfinite(change), change, 0.0))
        return i + 1, new, moved

    start = (jnp.zeros_like(steps), starts, jnp.full_like(rest, jnp.inf))
    taken, ends, _ = lax.while_loop(moving, one, start)
    return ends, taken
