r"""`lipschitz`: how steep drift and noise are on the data, and what the net's layers certify."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .. import diffusions, drifts
from .._io import BadArgument
from .._nets import Features, StateNet, features_of
from .._types import RandomKey, State, Time
from ..diffusions._learned import Positive
from ..sde import SDE
from ..stats import bootstrap
from ..trajectory import Trajectory
from ._beside import FITS, paired
from ._fixed_points import ROWS, Sample, sample
from .findings import Finding, finding, stated, withheld

# The greatest slopes of activations; those of silu and gelu are rounded up.
SLOPES = {
    jax.nn.silu: 1.09985,
    jax.nn.gelu: 1.12905,
    jax.nn.softplus: 1.0,
    jax.nn.relu: 1.0,
    jax.nn.elu: 1.0,
    jax.nn.sigmoid: 0.25,
    jnp.tanh: 1.0,
    jax.nn.tanh: 1.0,
    jnp.sin: 1.0,
}

Numbers = Float[np.ndarray, " state"]


@final
class Certificate(NamedTuple):
    """A Lipschitz constant that holds everywhere, or why there is none.

    Args:
        value: The constant; None where there is none.
        reason: What it follows from, or what is missing.
    """

    value: float | None
    reason: str


@final
class Steepness(NamedTuple):
    r"""What was measured at the data and beside it, and what is certified.

    Args:
        drift: Spectral norm of $Df$ at each state of the data.
        nearby: The same at a sample beside each.
        noise: That of $Dg$, with the Frobenius norm for g, at each state.
        one_sided: The largest eigenvalue of $(Df + Df^\top)/2$: below zero everywhere, all paths
            of one noise approach each other if the noise is additive.
        growth: $(|f|^2 + |g|_F^2)/(1 + |x|^2)$ at each state and at the samples beside them.
        docs: The document of each state.
        certified: A constant of the drift that holds everywhere.
        certified_noise: One of the noise.
        findings: What is found.
    """

    drift: Numbers
    nearby: Numbers
    noise: Numbers
    one_sided: Numbers
    growth: Float[np.ndarray, "2 state"]
    docs: Any
    certified: Certificate
    certified_noise: Certificate
    findings: tuple[Finding, ...]


@final
class _Constants(NamedTuple):
    """Of one SDE at all states that were looked at; NaN where something is not finite."""

    drift: Numbers
    nearby: Numbers
    noise: Numbers
    sides: Numbers
    growth: Float[np.ndarray, "2 state"]


def lipschitz(
    sde: SDE,
    paths: Trajectory,
    docs: Any,
    *,
    key: RandomKey,
    nulls: Sequence[SDE] = (),
    around: float = 0.5,
    most: int = 512,
    burn: int = 1,
    seed: int = 0,
) -> Steepness:
    r"""Local Lipschitz and growth constants of the Ito drift and the noise, by document.

    The greatest over a sample is no bound: it only says that the true constant is not less.

    Args:
        nulls: Fits of states without order, such as of shuffled ones: their mean is the null value,
            and how they differ among themselves widens the interval. Of one alone nothing is
            tested. Without any the null value is that of the best drift for such states, which a
            fitted net meets only roughly.
        around: Beside each state one more is drawn, at this many deviations of the data in each
            component.
        most: How many states are looked at.
        burn: States at the start of each path that are left out.
        seed: Of the choice of states and of the intervals.
    """
    if not around > 0:
        raise BadArgument(f"`around` is {around}. Use a positive number of deviations.")
    seen = sample(paths, docs, most=most, burn=burn, seed=seed)
    dtype = paths.ys.dtype

    def array(x: Any) -> Array:
        return jnp.asarray(np.asarray(x, dtype))

    reach = around * seen.ys.std(axis=0)

    def constants(one: SDE) -> _Constants:
        return _constants(_measure(one, array(seen.ts), array(seen.ys), array(reach), key))

    own = constants(sde)
    finite = np.isfinite(own.drift)
    if not finite.any():
        raise BadArgument("Drift, noise or a derivative is finite at no state. Look at the fit.")
    found = Steepness(
        own.drift[finite],
        own.nearby[finite],
        own.noise[finite],
        own.sides[finite],
        own.growth[:, finite],
        seen.docs[finite],
        certified(sde.to_ito().drift),
        certified_noise(sde.diffusion),
        (),
    )
    others = [constants(one) for one in nulls]
    return found._replace(findings=_findings(found, own, others, seen, seed))


def _findings(
    found: Steepness, own: _Constants, others: list[_Constants], seen: Sample, seed: int
) -> tuple[Finding, ...]:
    def mean(what: str, values: Numbers, name: str, null: float, of_null: str) -> Finding:
        if others:
            rest, one = [getattr(x, name) for x in others], np.ones(len(own.drift))
            return paired(what, getattr(own, name), rest, one, seen.docs, seed=seed)
        one = bootstrap(values, np.ones(len(values)), found.docs, seed=seed)
        return finding(what, one, null, of_null=of_null)

    def most(what: str, value: float, greatest: Any, null: float, of_null: str) -> Finding:
        if others:
            null, of_null = float(np.mean([greatest(x) for x in others])), FITS
        return stated(what, value, null, of_null=of_null)

    off = seen.ys - seen.ys.mean(axis=0)
    spread = np.sum(off**2) / max(len(off) - 1, 1)
    iid = np.sum(off**2, axis=1) / seen.gap**2 + spread / seen.gap
    iid = float((iid / (1 + np.sum(seen.ys**2, axis=1))).max())
    of_iid = "of the drift mean - x"
    greatest = float(max(found.drift.max(), found.nearby.max()))
    bound, what = found.certified, "certified Lipschitz constant of the drift"
    return (
        mean("mean local Lipschitz constant of the drift", found.drift, "drift", 1 / seen.gap,
             of_iid),
        mean("mean one-sided constant of the drift", found.one_sided, "sides", -1 / seen.gap,
             of_iid),
        most("greatest local Lipschitz constant of the drift that was met", greatest,
             lambda x: max(np.nanmax(x.drift), np.nanmax(x.nearby)), 1 / seen.gap, of_iid),
        withheld(what, bound.reason)
        if bound.value is None
        else stated(what, bound.value, note=f"It is {bound.reason}"),
        mean("mean local Lipschitz constant of the noise", found.noise, "noise", 0.0,
             "of noise that does not depend on the state"),
        most("greatest growth constant that was met", float(found.growth.max()),
             lambda x: np.nanmax(x.growth), iid, "of the drift mean - x, with noise to match"),
    )  # fmt: skip


def _constants(out: tuple[Array, Array, Array]) -> _Constants:
    jacobians, grams, growth = (np.asarray(x, float) for x in out)
    finite = np.isfinite(jacobians).all(axis=(2, 3)) & np.isfinite(grams).all(axis=(2, 3))
    finite = np.asarray(finite.all(axis=0) & np.isfinite(growth).all(axis=0))
    jacobians, grams = (np.where(finite[:, None, None], x, 0.0) for x in (jacobians, grams))
    norms = np.linalg.norm(jacobians, 2, axis=(2, 3))
    noise = np.sqrt(np.maximum(np.linalg.eigvalsh(grams[0])[..., -1], 0.0))
    here = jacobians[0]
    sides = np.linalg.eigvalsh((here + np.swapaxes(here, 1, 2)) / 2)[..., -1]
    return _Constants(*(np.where(finite, x, np.nan) for x in (*norms, noise, sides, growth)))


@eqx.filter_jit
def _measure(
    sde: SDE, ts: Array, ys: Float[Array, "state dim"], reach: State, key: RandomKey
) -> tuple[Array, Array, Array]:
    r"""At the states and beside them: $Df$, $Dg^\top Dg$, and the growth ratio."""
    ito, constant = sde.to_ito(), sde.noise == "additive"

    def g(t: Time, y: State) -> Array:
        return ito.diffusion(t, y).as_matrix()

    def one(at: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        t, y = at
        basis = jnp.eye(y.shape[0], dtype=y.dtype)
        f, df = jax.vmap(
            lambda v: jax.jvp(lambda y: ito.drift(t, y), (y,), (v,)), out_axes=(None, 1)
        )(basis)
        gram = jnp.zeros_like(df)
        if not constant:
            dg = jax.vmap(lambda v: jax.jvp(lambda y: g(t, y), (y,), (v,))[1])(basis)
            dg = dg.reshape(len(basis), -1)
            gram = dg @ dg.T
        return df, gram, (jnp.sum(f**2) + jnp.sum(g(t, y) ** 2)) / (1 + jnp.sum(y**2))

    beside = ys + reach[None, :] * jr.normal(key, ys.shape, ys.dtype)
    both = (jnp.concatenate([ts, ts]), jnp.concatenate([ys, beside]))
    out = lax.map(one, both, batch_size=min(ROWS, len(ys)))
    return tuple(x.reshape(2, len(ys), *x.shape[1:]) for x in out)  # pyright: ignore[reportReturnType]


def certified(drift: drifts.AbstractDrift) -> Certificate:
    """A Lipschitz constant of a drift at every time: of its layers, or its own."""
    match drift:
        case drifts.LipschitzMLP():
            return Certificate(drift.lipschitz, "the constant that the net is built with")
        case drifts.Linear():
            return Certificate(_norm(drift.matrix), "the norm of the matrix")
        case drifts.MLP():
            return _net(drift.net)
        case drifts.ResidualMLP():
            slope = _slope(drift.activation)
            if slope is None:
                return Certificate(None, f"the slope of {drift.activation} is not known")
            value = _norm(_of_state(drift.enter, drift.time))
            for up, down in drift.blocks:
                value *= 1 + _norm(down.weight) * slope * _norm(up.weight)
            return Certificate(value * _norm(drift.leave.weight), "the product of its layers")
        case drifts.Sum():
            parts = [certified(part) for part in drift.drifts]
            for part in parts:
                if part.value is None:
                    return part
            return Certificate(sum(p.value or 0.0 for p in parts), "the sum of its parts")
    return Certificate(None, f"a `{type(drift).__name__}` drift has no bound by its layers")


def certified_noise(diffusion: diffusions.AbstractDiffusion) -> Certificate:
    """A constant of $g$ in the Frobenius norm: of constants, and of learned diagonals."""
    if diffusion.noise == "additive":
        return Certificate(0.0, "the noise does not depend on the state")
    kinds = (diffusions.Scalar, diffusions.Diagonal)
    if isinstance(diffusion, kinds) and isinstance(diffusion.s, Positive):
        s, times = diffusion.s, 1.0
        if isinstance(diffusion, diffusions.Scalar):
            times = math.sqrt(diffusion.dim)
        if isinstance(s.field, StateNet):
            inner = _net(s.field)
            value = None if inner.value is None else inner.value * s.scale * times
            return Certificate(value, inner.reason)
    return Certificate(None, f"a `{type(diffusion).__name__}` noise has no bound by its layers")


def _net(net: StateNet) -> Certificate:
    layers = net.net.layers
    if not all(type(layer) is eqx.nn.Linear for layer in layers):
        return Certificate(None, "a layer computes in fewer bits, whose rounding has no slope")
    slope = _slope(net.net.activation)
    if slope is None:
        return Certificate(None, f"the slope of {net.net.activation} is not known")
    norms = [_norm(_of_state(layers[0], net.time)), *(_norm(x.weight) for x in layers[1:])]
    return Certificate(math.prod(norms) * slope ** (len(norms) - 1), "the product of its layers")


def _of_state(layer: eqx.nn.Linear, time: Features | None) -> Array:
    """The weights of the state, which stands before the features of time."""
    return layer.weight[:, : layer.weight.shape[1] - features_of(time)]


def _norm(weight: Array) -> float:
    return float(np.linalg.norm(np.asarray(weight, float), 2))


def _slope(activation: Any) -> float | None:
    return next((slope for known, slope in SLOPES.items() if known is activation), None)
