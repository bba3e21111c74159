"""First passage: how long paths take from one side to the other, in data and in a model."""

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
from .._types import RandomKey, State
from ..predict._predictor import AbstractPredictor
from ..sde import SDE
from ..stats import ratios
from ..trajectory import Trajectory
from ._correlation import ends, rows_of
from ._kramers_moyal import direction_of
from ._residuals import predictor_of
from .findings import Finding, finding, stated, withheld

Traced = Array | np.ndarray  # a numpy array needs no program of its own to get there

POINTS = 33  # times that a survival curve is given at
AT_RISK = 5  # data passages that must still be watched at the last time that is compared


@final
class Passage(NamedTuple):
    r"""What `passage` found; times in the unit of `paths.ts`.

    Args:
        direction: The unit vector $u$.
        start: A passage begins where $u^\top y$ is at most this.
        target: It ends where $u^\top y$ is at least this.
        times: Of the survival curves.
        survival: The share of passages of the data that last longer, with ends.
        model_survival: Of the model.
        rate: Passages per unit of time that one was under way in the data, with ends.
        model_rate: In the model.
        passages: How many began in the data.
        finished: How many of them ended; the others were cut off.
        findings: The ratio of the rates, and the difference of the mean times.
    """

    direction: Float[np.ndarray, " dim"]
    start: float
    target: float
    times: Float[np.ndarray, " point"]
    survival: Float[np.ndarray, "point 3"]
    model_survival: Float[np.ndarray, "point 3"]
    rate: Float[np.ndarray, " 3"]
    model_rate: Float[np.ndarray, " 3"]
    passages: int
    finished: int
    findings: tuple[Finding, ...]


@final
class _Spells(NamedTuple):
    """Passages: whose, from which step, after how many steps they arrived or were cut off.

    Args:
        room: How many steps of the path come after the first one.
    """

    path: Int[np.ndarray, " spell"]
    begin: Int[np.ndarray, " spell"]
    steps: Int[np.ndarray, " spell"]
    arrived: np.ndarray
    room: Int[np.ndarray, " spell"]


def passage(
    model: AbstractPredictor | SDE,
    paths: Trajectory,
    docs: Any,
    *,
    key: RandomKey,
    direction: Any = None,
    start: float | None = None,
    target: float | None = None,
    starts: int = 256,
    copies: int = 8,
    burn: int = 1,
    seed: int = 0,
) -> Passage:
    r"""Times from $\{u^\top y \le a\}$ to $\{u^\top y \ge b\}$, in the data and in a model.

    Passages that a path's end cuts off count for as long as they were watched (Kaplan and Meier):
    $S(t) = \prod_{s \le t}(1 - d_s/n_s)$, $d_s$ of $n_s$ passages ending after $s$ steps. The model
    is simulated step by step, with the step of the data, from the states at which the passages of
    the data begin, and watched for as long as the path of the data goes on: early and late passages
    then count alike. A simulated path that is no longer finite is cut off there. Both are seen only
    at the times of the data. Intervals are by document, to first order, the two sides paired.

    Args:
        model: A predictor, of which only the first state of a passage is seen, or an SDE, taken
            with one Euler step to a gap.
        paths: A batch of evenly spaced paths.
        docs: The document of each path.
        key: Of the simulation.
        direction: $u$, or the number of a component; by default the first principal direction.
        start: $a$; by default the lower quartile of the data.
        target: $b$; by default the upper quartile.
        starts: At most so many passages of the data are repeated, evenly spread.
        copies: Simulated paths from each.
        burn: How many first states of each path are left out.
        seed: Of the resampling.
    """
    rows, predictor = rows_of(paths, docs, burn), predictor_of(model)
    u = direction_of(direction, rows)
    x = rows.ys @ u
    quartiles = np.quantile(x[rows.seen], [0.25, 0.75])
    a, b = (float(q if v is None else v) for v, q in zip((start, target), quartiles))
    if not a < b:
        raise BadArgument(f"`start` is {a} and `target` {b}. Use a `target` above `start`.")
    data = _spells(x, rows.seen, a, b)
    if not len(data.path):
        raise BadArgument(
            f"No path has a state with a projection of {a:.3g} or less and another one after it. "
            "Use a higher `start`."
        )
    longest = np.sort(data.steps)[::-1]
    horizon = max(int(longest[min(AT_RISK, len(longest)) - 1]), 1)
    use = np.unique(np.linspace(0, len(data.path) - 1, min(starts, len(data.path))).astype(int))
    again = np.resize(use, starts)  # one shape for all calls
    dtype = paths.ts.dtype
    steps, arrived = (
        np.asarray(v)[: len(use)]
        for v in _simulated(
            predictor,
            rows.ys[data.path[again], data.begin[again]].astype(dtype),
            rows.ts[data.path[again], data.begin[again]].astype(dtype),
            np.array([rows.dt, b], dtype),
            u.astype(dtype),
            np.asarray(horizon),
            key,
            copies,
        )
    )
    room = np.minimum(data.room[use], horizon)[:, None]
    steps, arrived = np.minimum(steps, room), arrived & (steps <= room)
    names, which = np.unique(rows.docs, return_inverse=True)
    counted = [
        _events(which[data.path], data.steps, data.arrived, horizon, len(names)),
        _events(
            which[np.repeat(data.path[use], copies)],
            steps.ravel(),
            arrived.ravel(),
            horizon,
            len(names),
        ),
    ]
    curves, rates, results = _compared(counted, rows.dt, seed)
    at = np.unique(np.linspace(0, horizon, POINTS).astype(int))
    return Passage(
        u, a, b, at * rows.dt, curves[0], curves[1], rates[0], rates[1],
        len(data.path), int(data.arrived.sum()), results,
    )  # fmt: skip


def _spells(x: Any, seen: Any, a: float, b: float) -> _Spells:
    """The passages of all paths, one time at a time."""
    begin, found = np.full(len(x), -1), []
    last = seen.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
    for k in range(x.shape[1]):
        under = (begin >= 0) & seen[:, k]
        arrives = under & (x[:, k] >= b)
        over = arrives | (under & (k == last) & (begin < k))
        who = np.flatnonzero(over)
        found.append(np.stack([who, begin[who], k - begin[who], arrives[who]]))
        begin[over] = -1
        begin[seen[:, k] & (begin < 0) & (x[:, k] <= a) & (k < last)] = k
    path, begin, steps, arrived = np.concatenate(found, axis=1)
    order = np.lexsort((begin, path))
    return _Spells(
        path[order],
        begin[order],
        steps[order],
        arrived[order].astype(bool),
        last[path[order]] - begin[order],
    )


def _events(doc: Any, steps: Any, arrived: Any, horizon: int, number: int) -> tuple[Any, Any]:
    """By document and step: passages that end, and passages under way until then."""
    shape = (number, horizon + 2)
    cut = np.minimum(steps, horizon + 1)
    gone, ended = np.zeros(shape), np.zeros(shape)
    np.add.at(gone, (doc, cut), 1.0)
    np.add.at(ended, (doc, cut), np.asarray(arrived, float))
    under = gone[:, ::-1].cumsum(axis=1)[:, ::-1]
    return ended[:, 1 : horizon + 1], under[:, 1 : horizon + 1]


def _compared(counted: Any, dt: float, seed: int) -> tuple[Any, Any, tuple[Finding, ...]]:
    (d, _), (_, under) = counted[0], counted[1]
    horizon, number = d.shape[1], len(d)
    at = np.unique(np.linspace(0, horizon, POINTS).astype(int))
    known = (counted[0][1].sum(axis=1) > 0) | (under.sum(axis=1) > 0)
    columns, means, logs = [], [], []
    for ended, watched in counted:
        s, change = _survival(ended, watched)
        columns.append(s[at] + number * change[:, at])
        means.append((dt * s[:-1].sum(), dt * change[:, :-1].sum(axis=1)))
        total, time = ended.sum(), dt * watched.sum()
        rate = total / max(time, dt)  # no passage was under way where it is zero
        part = ended.sum(axis=1) - rate * dt * watched.sum(axis=1)
        columns.append((rate + number * part / max(time, dt))[:, None])
        logs.append((np.log(rate), part / total) if total > 0 else None)
    mean = means[0][0] - means[1][0] + number * (means[0][1] - means[1][1])
    columns.append(mean[:, None])
    if None not in logs:
        ratio = logs[0][0] - logs[1][0] + number * (logs[0][1] - logs[1][1])
        columns.append(ratio[:, None])
    every = np.concatenate(columns, axis=1)
    # Documents without a passage have an influence of zero, and say nothing of others.
    scale = known.sum() / number
    middle = every.mean(axis=0)
    every = (middle + (every - middle) * scale)[known]
    found = ratios(every, np.ones_like(every), np.arange(len(every)), seed=seed)
    k = len(at) + 1
    what = f"mean passage time up to {horizon * dt:.4g}, data less model"
    lost = under.sum() == 0
    why = "every simulated path is lost at its first step"
    results = [withheld(what, why) if lost else finding(what, found[2 * k], 0.0)]
    what = "log ratio of the passage rates of data and model"
    if None in logs:
        which = "the data" if logs[0] is None else "the simulated model"
        results.insert(0, withheld(what, f"no passage ends in {which}"))
    else:
        results.insert(0, finding(what, found[2 * k + 1], 0.0))
    share = float(d.sum() / max(counted[0][1][:, 0].sum(), 1))
    results.append(stated("share of the passages of the data that are seen to end", share))
    curves = [ends(found[i * k : i * k + k - 1]) for i in (0, 1)]
    rates = [ends(found[i * k + k - 1 : i * k + k])[0] for i in (0, 1)]
    return curves, rates, tuple(results)


def _survival(ended: Any, watched: Any) -> tuple[Any, Any]:
    r"""$S$ at steps 0, 1, ... and each document's influence on it."""
    n, d = watched.sum(axis=0), ended.sum(axis=0)
    h = d / np.maximum(n, 1)
    s = np.concatenate([[1.0], np.cumprod(1 - h)])
    left = np.maximum(n * (1 - h), 1.0)
    change = -np.cumsum((ended - h * watched) / left, axis=1)
    return s, np.concatenate([np.zeros((len(ended), 1)), s[1:] * change], axis=1)


@eqx.filter_jit
def _simulated(
    model: AbstractPredictor,
    ys: Float[Traced, "start dim"],
    ts: Float[Traced, " start"],
    step_and_target: Float[Traced, " 2"],
    u: Float[Traced, " dim"],
    horizon: Int[Traced, ""],
    key: RandomKey,
    copies: int,
) -> tuple[Int[Array, "start copy"], Any]:
    """After how many steps each path arrived or was lost, and whether it arrived."""
    dt, target = step_and_target[0], step_and_target[1]
    y0s, t0s = jnp.repeat(ys, copies, axis=0), jnp.repeat(ts, copies)

    def step(k: Array, carry: Any, y0: State, t0: Array, live: Array, key: RandomKey) -> tuple:
        t = t0 + (k + 1).astype(ts.dtype) * dt
        y = model.law(carry, t).sample(key).astype(ys.dtype)
        good = live & jnp.all(jnp.isfinite(y))
        return model.see(carry, t, jnp.where(good, y, y0)), good, good & (y @ u >= target)

    def body(k: Array, state: tuple) -> tuple:
        carry, steps, arrived, live = state
        keys = jr.split(jr.fold_in(key, k), len(y0s))
        of_all = jax.vmap(step, in_axes=(None, 0, 0, 0, 0, 0))
        carry, good, now = of_all(k, carry, y0s, t0s, live, keys)
        return carry, jnp.where(good, steps + 1, steps), arrived | now, good & ~now

    carry = jax.vmap(lambda y, t: model.see(model.start(), t, y))(y0s, t0s)
    no = jnp.zeros(len(y0s), bool)
    begin = (carry, jnp.zeros(len(y0s), int), no, ~no)
    _, steps, arrived, live = lax.fori_loop(0, horizon, body, begin)
    shape = (len(ys), copies)
    return jnp.where(live, horizon, steps).astype(int).reshape(shape), arrived.reshape(shape)


def mean_passage(
    drift: Callable[[Any], Any],
    noise: Callable[[Any], Any],
    start: float,
    target: float,
    reflect: float,
    *,
    points: int = 20_001,
) -> float:
    r"""$E\,T = \int_a^b e^{\Phi(y)} \int_r^y 2\,e^{-\Phi(z)}/g(z)^2\,dz\,dy$, one dimension.

    The mean time of $dx = f\,dt + g\,dW$ from $a$ to $b > a$ with a wall at $r \le a$, where
    $\Phi' = -2f/g^2$. By the trapezoidal rule.

    Args:
        drift: $f$ of an array of states.
        noise: $g$ likewise.
        start: $a$.
        target: $b$.
        reflect: $r$; far enough out it does not matter.
        points: Of the quadrature.
    """
    if not reflect <= start < target:
        raise BadArgument(
            f"`reflect` {reflect}, `start` {start} and `target` {target} are "
            "not in this order. Use a start below the target, and a wall no higher than the start."
        )
    z = np.linspace(reflect, target, points)
    h = (target - reflect) / (points - 1)
    f, g = np.broadcast_to(drift(z), z.shape), np.broadcast_to(noise(z), z.shape)
    phi = _cumulated(-2 * f / g**2, h)
    # In logarithms: far up a wall the one factor overflows where the other is nothing.
    density = np.log(2 / g**2) - phi
    parts = np.logaddexp(density[1:], density[:-1]) + np.log(h / 2)
    inner = np.exp(phi + np.concatenate([[-np.inf], np.logaddexp.accumulate(parts)]))
    outer = _cumulated(inner, h)
    return float(outer[-1] - np.interp(start, z, outer))


def kramers_rate(well: float, top: float, barrier: float, noise: float) -> float:
    r"""$\sqrt{V''(a)\,|V''(b)|}/2\pi \cdot e^{-2\Delta V/\sigma^2}$: escapes over a high barrier.

    Of $dx = -V'(x)\,dt + \sigma\,dW$: the inverse of the mean time from a well to the next one,
    where $\Delta V$ is many times $\sigma^2/2$.

    Args:
        well: $V''$ at the bottom of the well.
        top: $V''$ at the top of the barrier, negative.
        barrier: $\Delta V$.
        noise: $\sigma$.
    """
    if not (well > 0 and top < 0 and barrier > 0 and noise > 0):
        raise BadArgument(
            f"`well` {well}, `barrier` {barrier} and `noise` {noise} must be positive and `top` "
            f"{top} negative. Pass the curvatures of the potential at its well and at its top."
        )
    return float(np.sqrt(-well * top) / (2 * np.pi) * np.exp(-2 * barrier / noise**2))


def _cumulated(values: Any, h: float) -> Any:
    return np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) * h / 2)])
