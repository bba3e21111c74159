r"""`spectrum`: how fast nearby paths part, from the tangent dynamics of any step.

exponents(sde, y0s, dt=0.01, steps=20_000)             # of the flow without noise
exponents(sde, y0s, dt=0.01, steps=20_000, key=key)    # with noise, one noise for both paths
exponents(sde, y0s, dt=1.0, steps=2_000, key=key)      # of the chain that a fit at step 1 is
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import RandomKey, State, Time
from ..sde import SDE
from ..stats import Interval, bootstrap
from ._basins import EulerMaruyama, RungeKutta, Step
from ._beside import compared
from .findings import Finding, finding, stated, withheld

FINE = 0.05  # of the divergence: what steps that are fine enough for a flow differ by
FLOW_EVERY = 5  # a Runge-Kutta step leaves .27 of a real direction or more, and five .0014
UNIT = "per unit time"
BLOCKS = 20  # stretches that a single path is cut into for its interval

Tangents = Float[Array, "number dim"]


@final
class Spectrum(NamedTuple):
    r"""Lyapunov exponents, in units of one over time, the largest first.

    Args:
        exponents: Over all replicas.
        intervals: Of each, from replicas, or from stretches of a single one.
        replicas: The finite-time exponents of each replica.
        local: Those of each stretch between two orthonormalisations.
        times: When each stretch ends, counted from the end of the burn-in.
        divergence: The mean rate at which volumes grow, which the sum of all must equal; None
            where it was not asked for.
        dimension: Kaplan and Yorke's; None where too few exponents were asked for.
        findings: What is found.
    """

    exponents: Float[np.ndarray, " number"]
    intervals: tuple[Interval, ...]
    replicas: Float[np.ndarray, "replica number"]
    local: Float[np.ndarray, "replica stretch number"]
    times: Float[np.ndarray, " stretch"]
    divergence: float | None
    dimension: float | None
    findings: tuple[Finding, ...]

    def running(self) -> Float[np.ndarray, "replica stretch number"]:
        """The finite-time exponents up to each time, replica by replica."""
        number = np.arange(1, len(self.times) + 1)[None, :, None]
        return np.cumsum(self.local, axis=1) / number


def exponents(
    sde: SDE,
    y0s: Any,
    *,
    dt: float,
    steps: int,
    burn: int | None = None,
    key: RandomKey | None = None,
    number: int | None = None,
    every: int | None = None,
    t0: float = 0.0,
    seed: int = 0,
    nulls: Sequence[SDE] = (),
    beside: float | None = None,
    unit: str = UNIT,
) -> Spectrum:
    r"""The Lyapunov spectrum of an SDE with a key, and of the flow along its drift without one.

    With a key the steps are Euler-Maruyama's, and a path and its neighbours share their noise. The
    law of a fit is that of its own scheme and step: give its step, or see that it embeds.

    Args:
        y0s: The start of each replica, one a row.
        dt: Length of a step.
        steps: How many steps count.
        burn: How many steps before them do not; a tenth unless told.
        number: How many exponents, from the largest on; all unless told.
        every: How many steps lie between two orthonormalisations; by default 5 for the flow and 1
            with a key. The step of a chain may shrink one direction so much more than another
            that in float32 a few of them leave nothing of it.
        t0: Time at the start.
        seed: Of the intervals.
        nulls: Fits of states without order, such as of shuffled ones: the largest exponent is
            compared with the mean of theirs from the same starts, and the interval widened by
            that of theirs and by how they differ. Of one alone nothing is tested. They take the
            place of `beside`: the exponents of a linear model of such states go to minus
            infinity, and those of a net do not.
        beside: The largest exponent of a simpler model, which the largest one is compared with:
            $\log |\mu|_{\max} / \Delta t$ for a linear model with multipliers $\mu$. Without
            it the null value is zero, which a fit of independent states is below too.
        unit: What exponents are counted in, such as "per step of the chain" if `dt` is 1.
    """
    if not isinstance(sde, SDE):
        raise BadArgument(f"`sde` is {sde!r}. Pass an `SDE`; `spectrum` takes any step.")
    dtype = jnp.asarray(np.asarray(y0s), jnp.result_type(float)).dtype
    h = jnp.asarray(np.asarray(dt, dtype))
    step = RungeKutta(sde, h) if key is None else EulerMaruyama(sde, h)
    along = _Divergence(sde, key is not None) if number in (None, sde.dim) else None
    if every is None:
        every = FLOW_EVERY if key is None else 1
    how: dict[str, Any] = dict(dt=dt, steps=steps, burn=burn, key=key, number=number, every=every)
    how |= dict(t0=t0, seed=seed, unit=unit)
    found = spectrum(step, y0s, beside=beside, along=along, **how)
    if not (nulls and found.intervals):
        return found
    others = []
    for one in nulls:
        step = RungeKutta(one, h) if key is None else EulerMaruyama(one, h)
        again = None if along is None else _Divergence(one, key is not None)
        others.append(spectrum(step, y0s, along=again, **how))
    return found._replace(findings=(_beside(found, others, unit), *found.findings[1:]))


def spectrum(
    step: Step,
    y0s: Any,
    *,
    dt: float,
    steps: int,
    burn: int | None = None,
    key: RandomKey | None = None,
    number: int | None = None,
    every: int | None = None,
    t0: float = 0.0,
    seed: int = 0,
    beside: float | None = None,
    unit: str = UNIT,
    along: Callable[[Time, State], Any] | None = None,
) -> Spectrum:
    r"""$\lambda_i = \lim \frac{1}{n \Delta t} \sum_k \log R^{(k)}_{ii}$, with
    $D\phi\, Q^{(k-1)} = Q^{(k)} R^{(k)}$ for any step $\phi(t, y, \mathrm{key})$.

    See `exponents` for what is not named here.

    Args:
        step: $\phi$; its key is None where none is given.
        every: 1 unless told: nothing is known of how much a step shrinks.
        along: The rate at which volumes grow at `(t, y)`, averaged along the paths.
    """
    y0s = np.asarray(y0s)
    every = 1 if every is None else every
    number, stretches, unused = _checked(y0s, dt, steps, burn, number, every)
    if beside is not None and not math.isfinite(beside):
        raise BadArgument(
            f"`beside` is {beside}. Use a finite exponent, or None to compare with 0."
        )
    dtype = jnp.asarray(y0s, jnp.result_type(float)).dtype
    # A start along the axes would miss what a triangular system does to the others.
    start = np.random.default_rng(0).normal(size=(number, y0s.shape[1]))
    start = np.linalg.qr(start.T)[0].T
    plan = _Plan(every, unused + stretches)
    y0s, start = jnp.asarray(y0s, dtype), jnp.asarray(start, dtype)
    clock = (jnp.asarray(np.asarray(t0, dtype)), jnp.asarray(np.asarray(dt, dtype)))
    logs, rates = _logs(step, along, y0s, start, key, clock, plan)
    local = np.asarray(logs, float)[:, unused:] / (every * dt)
    rates = None if rates is None else np.asarray(rates, float)[:, unused:]
    if not np.isfinite(local).all():
        why = "a path left all finite states, so that it has no exponents"
        nothing = np.full(number, np.nan)
        found = (withheld("largest Lyapunov exponent", why),)
        times = every * dt * np.arange(1, stretches + 1)
        return Spectrum(nothing, (), local.mean(axis=1), local, times, None, None, found)
    local = local[:, :, np.argsort(-local.mean(axis=(0, 1)), kind="stable")]
    divergence = None if rates is None else float(rates.mean())
    found = _summary(local, every * dt, divergence, y0s.shape[1], seed)
    return found._replace(findings=(_largest(found, beside, unit), *found.findings))


def _summary(local: Any, stretch: float, divergence: float | None, dim: int, seed: int) -> Spectrum:
    replicas = local.mean(axis=1)
    rows = replicas if len(replicas) > 1 else _stretches(local[0])
    which = np.arange(len(rows))
    intervals = tuple(bootstrap(column, np.ones(len(rows)), which, seed=seed) for column in rows.T)
    values = local.mean(axis=(0, 1))
    dimension = _kaplan_yorke(values) if len(values) == dim or values.sum() < 0 else None
    found = []
    if len(values) == dim:
        what, total = "sum of the Lyapunov exponents", float(values.sum())
        nothing = "of the mean divergence along the paths"
        off = divergence is not None and abs(total - divergence) > FINE * abs(divergence)
        note = (
            "Steps of this length are no flow: the exponents are those of the chain" if off else ""
        )
        found.append(stated(what, total, divergence, of_null=nothing, note=note))
    if dimension is not None:
        found.append(
            stated("Kaplan-Yorke dimension", dimension, float(dim), of_null="of the space")
        )
    times = stretch * np.arange(1, local.shape[1] + 1)
    return Spectrum(values, intervals, replicas, local, times, divergence, dimension, tuple(found))


def _largest(found: Spectrum, beside: float | None, unit: str) -> Finding:
    interval = found.intervals[0]._replace(value=float(found.exponents[0]))
    count = len(found.replicas)
    of = f"{count} replicas" if count > 1 else "stretches of one path"
    null = "where nearby paths neither part nor meet" if beside is None else "of the linear model"
    return finding(
        "largest Lyapunov exponent",
        interval,
        0.0 if beside is None else float(beside),
        unit=unit,
        of_null=null,
        note=f"The interval is over {of}",
    )


def _beside(found: Spectrum, others: list[Spectrum], unit: str) -> Finding:
    """The largest exponent against those of other fits; no path is shared, so nothing is paired."""
    what, number = "largest Lyapunov exponent", len(others)
    if not all(one.intervals for one in others):
        return withheld(what, "a path of a fit to compare with left all finite states")
    own = found.intervals[0]._replace(value=float(found.exponents[0]))
    values = [float(one.exponents[0]) for one in others]
    half = [(one.intervals[0].high - one.intervals[0].low) / 2 for one in others]
    rest, gap = float(np.linalg.norm(half)) / number, own.value - float(np.mean(values))
    low, high = math.hypot(own.value - own.low, rest), math.hypot(own.high - own.value, rest)
    apart = own._replace(value=gap, low=gap - low, high=gap + high)
    of = f"{len(found.replicas)} replicas" if len(found.replicas) > 1 else "stretches of one path"
    return compared(what, own, apart, values, unit=unit, note=f"The interval is over {of}")


def _stretches(local: Float[np.ndarray, "stretch number"]) -> Float[np.ndarray, "block number"]:
    blocks = min(BLOCKS, len(local))
    size = len(local) // blocks
    return local[: blocks * size].reshape(blocks, size, -1).mean(axis=1)


def _kaplan_yorke(values: Float[np.ndarray, " number"]) -> float:
    sums = np.cumsum(values)
    if sums[0] < 0:
        return 0.0
    if (sums >= 0).all():
        return float(len(values))
    j = int(np.argmax(sums < 0))
    return j + float(sums[j - 1] / -values[j])


def _checked(
    y0s: Any, dt: float, steps: int, burn: int | None, number: int | None, every: int
) -> tuple[int, int, int]:
    if y0s.ndim != 2 or not len(y0s) or not np.isfinite(y0s).all():
        raise BadArgument(
            f"`y0s` has shape {y0s.shape}, or holds numbers that are not finite. Pass one finite "
            "state a row, one row for each replica."
        )
    if not (dt > 0 and math.isfinite(dt)):
        raise BadArgument(f"`dt` is {dt}. Use a positive length of a step.")
    dim = int(y0s.shape[1])
    number = dim if number is None else int(number)
    if not 1 <= number <= dim:
        raise BadArgument(f"`number` is {number}. Use 1 to {dim}.")
    if every < 1 or steps < every:
        raise BadArgument(f"`every` is {every} and `steps` {steps}. Use 1 <= `every` <= `steps`.")
    burn = steps // 10 if burn is None else burn
    if burn < 0:
        raise BadArgument(f"`burn` is {burn}. Use 0 steps or more.")
    return number, steps // every, -(-burn // every)


@final
class _Plan(NamedTuple):
    every: int
    stretches: int


@final
class _Divergence(eqx.Module):
    r"""$\mathrm{tr}\,Df - \tfrac12\sum_j \mathrm{tr}\,(Dg_j)^2$: the growth of log volumes."""

    sde: SDE
    noisy: bool = eqx.field(static=True)

    def __call__(self, t: Time, y: State) -> Float[Array, ""]:
        sde = self.sde.to_ito() if self.noisy else self.sde
        rate = jnp.trace(jax.jacfwd(lambda y: sde.drift(t, y))(y))
        if not self.noisy or sde.noise == "additive":
            return rate
        dg = jax.jacfwd(lambda y: sde.diffusion(t, y).as_matrix())(y)
        return rate - 0.5 * jnp.einsum("ijk,kji->", dg, dg)


@eqx.filter_jit
def _logs(
    step: Step,
    along: Callable | None,
    y0s: Float[Array, "replica dim"],
    start: Tangents,
    key: RandomKey | None,
    clock: tuple[Array, Array],
    plan: _Plan,
) -> tuple[Array, Array | None]:
    r"""Of each replica and stretch: $\log R_{ii}$, and the rate of `along` at its start."""
    t0, dt = clock

    def replica(y0: State, which: Array) -> tuple[Array, Array | None]:
        own = None if key is None else jr.fold_in(key, which)

        def one(i: Array, carry: tuple[State, Tangents]) -> tuple[State, Tangents]:
            y, v = carry
            t, k = t0 + dt * i.astype(dt.dtype), None if own is None else jr.fold_in(own, i)
            push = jax.vmap(
                lambda v: jax.jvp(lambda y: step(t, y, k), (y,), (v,)), out_axes=(None, 0)
            )
            return push(v)

        def stretch(carry: tuple[State, Tangents], s: Array) -> tuple[Any, Any]:
            first = s * plan.every
            rate = None if along is None else along(t0 + dt * first.astype(dt.dtype), carry[0])
            y, v = lax.fori_loop(first, first + plan.every, one, carry)
            v, r = gram_schmidt(v)
            return (y, v), (jnp.log(r), rate)

        return lax.scan(stretch, (y0, start), jnp.arange(plan.stretches))[1]

    return jax.vmap(replica)(y0s, jnp.arange(len(y0s)))


def gram_schmidt(v: Tangents) -> tuple[Tangents, Float[Array, " number"]]:
    """Orthonormal rows that span what those of v span in turn, and the diagonal of R.

    No LAPACK: its batched calls can wait for each other for ever on a CPU with two cores.
    """
    tiny = jnp.asarray(np.finfo(v.dtype).tiny, v.dtype)
    rows = jnp.arange(len(v))

    def one(i: Array, carry: tuple[Tangents, Array]) -> tuple[Tangents, Array]:
        v, r = carry
        size = jnp.maximum(jnp.sqrt(jnp.sum(v[i] ** 2)), tiny)
        q = v[i] / size
        later = jnp.where(rows > i, v @ q, 0.0)
        v = jnp.where((rows == i)[:, None], q[None, :], v - later[:, None] * q[None, :])
        return v, r.at[i].set(size)

    return lax.fori_loop(0, len(v), one, (v, jnp.zeros(len(v), v.dtype)), unroll=len(v) <= 4)
