r"""`learn_lyapunov`: a convex function of the state, trained to fall along the process."""

from functools import partial
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from .._io import BadArgument
from .._types import RandomKey, Scalar, State
from ..sde import SDE
from ..stats import Interval, bootstrap
from ..trajectory import Trajectory
from ._fixed_points import Sample, sample
from ._generator import (
    Lyapunov,
    check_quadratic,
    fields,
    judged,
    null_rate,
    quadratic,
    quadratic_rate,
)
from .findings import Finding, finding

ROWS = 256  # held-out states that are worked on at once
NODES = np.linspace(-6, 6, 49)  # of the trapezoidal rule for a mean over a normal number
WEIGHTS = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()

Fields = tuple[
    Float[Array, "state dim"], Float[Array, "state dim"], Float[Array, "state dim noise"]
]


@final
class LearnedFunction(eqx.Module):
    r"""$V = |x|_Q^2 + s\sum_k a_k^2\,[\psi(w_k z + b_k) - \psi(b_k) - \psi'(b_k)\,w_k z]$ of
    $x = y - x^*$, with $\psi = \log\cosh$ and $z = x/d$: convex, and least at $x^*$.

    A function that is not convex may fall along paths that leave the centre, and tell nothing.

    Args:
        w: $w_k$, a row each.
        b: $b_k$.
        a: $a_k$.
        centre: $x^*$.
        q: $Q$.
        deviation: $d$, the deviations of the data.
        size: $s$, the mean of the quadratic part over the data.
    """

    w: Float[Array, "width dim"]
    b: Float[Array, " width"]
    a: Float[Array, " width"]
    centre: State
    q: Float[Array, "dim dim"]
    deviation: State
    size: Float[Array, ""]

    def __call__(self, y: State) -> Float[Array, ""]:
        x, b = y - self.centre, self.b
        wz = self.w @ (x / self.deviation)
        risen = _log_cosh(wz + b) - _log_cosh(b) - jnp.tanh(b) * wz
        return x @ self.q @ x + self.size * jnp.sum(self.a**2 * risen)

    def rate(self, y: State, f: State, g: Float[Array, "dim noise"]) -> Float[Array, ""]:
        r"""$LV = f\cdot\nabla V + \tfrac12\sum_j g_j^\top\nabla^2 V\,g_j$, written out.

        Nested derivatives of a network take many times as long to compile.
        """
        x, w = y - self.centre, self.w / self.deviation[None, :]
        h = jnp.tanh(w @ x + self.b)
        quadratic = 2 * (x @ self.q @ f) + jnp.sum(g * (self.q @ g))
        first = (h - jnp.tanh(self.b)) * (w @ f)
        second = 0.5 * (1 - h**2) * jnp.sum((w @ g) ** 2, axis=1)
        return quadratic + self.size * jnp.sum(self.a**2 * (first + second))

    def chain_rate(
        self, y: State, f: State, g: Float[Array, "dim noise"], dt: Scalar
    ) -> Float[Array, ""]:
        r"""$(E\,V(y + f\Delta t + g\sqrt{\Delta t}\,\xi) - V(y))/\Delta t$.

        Each term of V sees the noise as one normal number, of a deviation that a trapezoidal rule
        takes as wide as 6 with an error below 1e-4 of the term.
        """
        x, w = y - self.centre, self.w / self.deviation[None, :]
        nodes, weights = (jnp.asarray(k, x.dtype) for k in (NODES, WEIGHTS))
        quadratic = 2 * (x @ self.q @ f) + jnp.sum(g * (self.q @ g)) + dt * (f @ self.q @ f)
        at, moved = w @ x + self.b, w @ f
        wide = jnp.sqrt(dt * jnp.sum((w @ g) ** 2, axis=1))
        after = _log_cosh((at + dt * moved)[:, None] + wide[:, None] * nodes[None, :]) @ weights
        risen = (after - _log_cosh(at)) / dt - jnp.tanh(self.b) * moved
        return quadratic + self.size * jnp.sum(self.a**2 * risen)


@final
class LearnedLyapunov(NamedTuple):
    """A learned function and the quadratic it began at, on documents that it was not trained on.

    Args:
        function: The learned $V$, a callable of the state.
        learned: What follows from it.
        quadratic: What follows from its quadratic part alone.
        gain: The share of states where it falls, less that of the quadratic part.
        losses: Of every step of the training.
        findings: What is found.
    """

    function: LearnedFunction
    learned: Lyapunov
    quadratic: Lyapunov
    gain: Interval
    losses: Float[np.ndarray, " step"]
    findings: tuple[Finding, ...]


def learn_lyapunov(
    sde: SDE,
    paths: Trajectory,
    docs: Any,
    *,
    centre: Any,
    key: RandomKey,
    q: Any = None,
    dt: float | None = None,
    held: float = 0.3,
    steps: int = 400,
    batch: int = 128,
    width: int = 32,
    rate: float = 1e-2,
    margin: float = 0.2,
    most: int = 2048,
    burn: int = 1,
    seed: int = 0,
) -> LearnedLyapunov:
    r"""Minimises the mean of $\max(0,\; LV/(r (V + s)) + m)$ over states of some documents.

    $r$ and $s$ are the sizes of $LV/(V + s)$ and $V$ for the quadratic part. Where the process is
    stationary the mean of $LV$ is zero for this V too, so that no V falls everywhere.

    Args:
        centre: $x^*$, such as a fixed point.
        q: $Q$ of the quadratic part; the identity unless told.
        dt: The step of the Euler chain that a fit is, as for `lyapunov`: $LV$ is then the change
            over one step, $(PV - V)/\Delta t$.
        held: The share of documents that are held out.
        steps: Steps of training.
        batch: States a step.
        width: How many terms the sum has.
        rate: Learning rate, which falls to zero.
        margin: $m$.
        most: How many states are looked at, of both parts together.
        burn: States at the start of each path that are left out.
        seed: Of the choice of states and documents, and of the intervals.
    """
    seen = sample(paths, docs, most=most, burn=burn, seed=seed)
    centre, q = check_quadratic(centre, q, seen.ys.shape[1])
    out = _held_out(seen, held, seed)
    if min(steps, batch, width) < 1:
        raise BadArgument(
            f"`steps` is {steps}, `batch` {batch} and `width` {width}. Use 1 or more of each."
        )
    dtype = paths.ys.dtype
    f, g = fields(sde, seen, dtype)
    finite = np.isfinite(f).all(axis=1) & np.isfinite(g).all(axis=(1, 2))
    train, test = np.flatnonzero(~out & finite), np.flatnonzero(out & finite)
    if not (len(train) and len(test)):
        raise BadArgument("The drift or the noise is finite at too few states. Look at the fit.")
    v0 = quadratic(seen.ys, centre, q)
    lv0 = quadratic_rate(seen.ys, f, np.einsum("sin,sjn->sij", g, g), centre, q, dt)
    size = max(float(v0[train].mean()), np.finfo(float).tiny)
    pace = float(np.mean(np.abs(lv0[train]) / (v0[train] + size))) or 1.0

    def array(x: Any) -> Array:
        return jnp.asarray(np.asarray(x, dtype))

    deviation = seen.ys[train].std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    rng = np.random.default_rng(np.asarray(jr.key_data(key)).ravel())
    weights = [rng.normal(size=(width, len(q))), rng.normal(size=width), np.full(width, 0.1)]
    start = LearnedFunction(*map(array, (*weights, centre, q, deviation, size)))
    rows = jnp.asarray(rng.choice(train, (steps, batch)))
    states = (array(seen.ys), array(f), array(g))
    f_iid, g_iid = _iid(seen, seen.gap if dt is None else dt)
    null = (states[0], array(f_iid), array(np.broadcast_to(g_iid, (len(f), *g_iid.shape))))
    step = None if dt is None else array(dt)
    function, losses, found = _learn(states, null, start, rows, array([pace, margin]), rate, step)
    v, lv, lv_iid = (np.asarray(x, float)[test] for x in found)
    part = seen._replace(
        ts=seen.ts[test],
        ys=seen.ys[test],
        docs=seen.docs[test],
        path=seen.path[test],
        step=seen.step[test],
    )
    v0, lv0, lv0_iid = v0[test], lv0[test], null_rate(seen, centre, q, dt)[test]
    learned = judged(part, v, lv, lv_iid, "learned function", seed)
    old = judged(part, v0, lv0, lv0_iid, "quadratic function", seed)
    better = (lv <= 0).astype(float) - (lv0 <= 0)
    gain = bootstrap(better, np.isfinite(lv).astype(float), part.docs, seed=seed)
    what = "gain of the learned function in the share of states where it falls"
    note = "Both are measured on documents that it was not trained on"
    findings = (*learned.findings, finding(what, gain, 0.0, note=note))
    return LearnedLyapunov(function, learned, old, gain, np.asarray(losses, float), findings)


def _held_out(seen: Sample, held: float, seed: int) -> Any:
    """Which rows are of documents that are held out."""
    names = np.unique(seen.docs)
    number = round(held * len(names))
    if not 0 < held < 1 or len(names) < 2:
        raise BadArgument(
            f"`held` is {held} of {len(names)} documents. Use a share between 0 and 1 of two "
            "documents or more."
        )
    number = min(max(number, 1), len(names) - 1)
    chosen = np.random.default_rng(seed).permutation(len(names))[:number]
    return np.isin(seen.docs, names[chosen])


def _iid(seen: Sample, gap: float) -> tuple[Any, Any]:
    """Drift and noise of the fit that states without order have, at a step of such a length."""
    off = seen.ys - seen.ys.mean(axis=0)
    _, s, rows = np.linalg.svd(off / np.sqrt(max(len(off) - 1, 1)), full_matrices=False)
    return -off / gap, rows.T * s / np.sqrt(gap)


@eqx.filter_jit
def _learn(
    states: Fields,
    null: Fields,
    start: LearnedFunction,
    rows: Int[Array, "step batch"],
    aim: Float[Array, " two"],
    rate: float,
    dt: Scalar | None,
) -> tuple[LearnedFunction, Array, tuple[Array, Array, Array]]:
    """The function, its losses, and V, LV and LV of the null at all states."""
    import optax  # as long to load as all the rest

    pace, margin = aim
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, len(rows)))

    def function(weights: Any) -> LearnedFunction:
        return eqx.tree_at(_weights, start, weights)

    def rate_of(v: LearnedFunction) -> Any:
        return v.rate if dt is None else partial(v.chain_rate, dt=dt)

    def loss(weights: Any, some: Array) -> Array:
        v, one = function(weights), tuple(x[some] for x in states)
        v, lv = jax.vmap(v)(one[0]), jax.vmap(rate_of(v))(*one)
        return jnp.mean(jnp.maximum(lv / (pace * (v + start.size)) + margin, 0.0))

    def step(carry: Any, some: Array) -> tuple[Any, Array]:
        weights, state = carry
        value, gradient = jax.value_and_grad(loss)(weights, some)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to a whole number
            updates, state = optimiser.update(gradient, state, weights)
        return (jax.tree.map(jnp.add, weights, updates), state), value

    weights = _weights(start)
    (weights, _), losses = lax.scan(step, (weights, optimiser.init(weights)), rows)
    learned = function(weights)

    def at(z: Any) -> tuple[Array, Array, Array]:
        of_fit, of_null = z
        return learned(of_fit[0]), rate_of(learned)(*of_fit), rate_of(learned)(*of_null)

    return learned, losses, lax.map(at, (states, null), batch_size=min(ROWS, len(states[0])))


def _weights(function: LearnedFunction) -> tuple[Any, Any, Any]:
    return function.w, function.b, function.a


def _log_cosh(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    return jnp.logaddexp(x, -x) - np.log(2.0)
