"""Jump tests: are the steps of a process Gaussian, given where it stands, as a diffusion's are?"""

from statistics import NormalDist
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from .._io import BadArgument
from .._nets import Dense
from .._types import RandomKey
from ..baselines import MixtureDensity
from ..baselines._clusters import clusters
from ..baselines._descent import Descent, descend
from ..stats import Interval, bootstrap, ratios
from ..trajectory import Trajectory
from ._correlation import with_tails
from ._directions import directions
from ._order import refined
from ._ridge import FEATURES, Ridge
from ._scales import FOLDS, States, states_of, too_few
from .findings import Finding, finding, withheld

SHARE = 0.02  # of the largest residuals, which the tail index is of
COMPONENTS = 8
NEVER = -1e6  # the log weight of a component that takes no part
ALONE, CLUSTERED, TOGETHER = range(3)  # where the components of a density start
APART = 0.06  # standard deviations, and units of log scales, between components that start together
FLOOR = 1e-2  # the least standard deviation of a component, as a share of that of the residuals
GAUSSIAN = "of Gaussian steps"
KINDS = (
    "ratio of bipower to quadratic variation",
    "excess kurtosis of the residuals",
    "tail index of the residuals",
)
WORST = (
    "departure in bipower variation of the worst direction",
    "departure in kurtosis of the worst direction",
    "departure in tails of the worst direction",
)
GAP = "gain of a mixture of 8 Gaussian steps over one"
GAP_SUM = "gain of such a mixture in all dimensions together"
NO_PAIRS = "no two documents have two transitions in a row"
DRAWS = 4000  # resamples; of a level that is shared among directions few are beyond each end

Rows = Float[np.ndarray, "step dim"]
Pairs = Float[np.ndarray, "pair dim"]


@final
class JumpTest(NamedTuple):
    """What `jumps` found.

    Args:
        findings: Bipower over quadratic variation; excess kurtosis; tail index. In more than one
            dimension each also of the worst direction.
        residuals: What the tests are of: steps less their mean, over their standard deviation,
            both as functions of the state that were fitted to other documents.
        documents: How many were used.
        transitions: How many were used.
    """

    findings: tuple[Finding, ...]
    residuals: Rows
    documents: int
    transitions: int


@final
class Steps(NamedTuple):
    """Transitions of one scale, ready to be tested; `why` says why they cannot be."""

    s: States
    linear: Rows
    residuals: Rows
    why: str


def jumps(
    paths: Trajectory,
    docs: Any,
    *,
    seed: int = 0,
    burn: int = 1,
    share: float = SHARE,
    most: int = 2**15,
    level: float = 0.95,
) -> JumpTest:
    r"""Three tests of the residuals e of a one-step model with nonlinear mean and variance.

    $\frac\pi2\sum|e_k||e_{k-1}| / \sum\frac12(e_k^2 + e_{k-1}^2)$, one for Gaussian steps and less
    where few large steps make up the variance; $\overline{e^4}/\overline{e^2}^2 - 3$; and the
    mean of $\log(|e|/q)$ over the share of largest residuals, all above q (Hill), which is
    $1/\alpha$ where tails fall off as $|e|^{-\alpha}$. Components count alike.

    One component of many that jumps is lost in these means. So each number is also taken of every
    component alone, and of the direction in which residuals of the other documents have the
    largest kurtosis in size. Of n such directions, with intervals at $1 - (1 - level)/n$, the worst
    one is told: how far it departs from Gaussian steps (either way; in tails above), with an
    interval whose high end is that of the direction that might depart farthest.

    Raw increments would not do: one step of a process that returns to its mean within a few steps
    is mostly drift.

    Args:
        paths: A batch of paths.
        docs: The document of each path.
        seed: Of folds, features and resampling.
        burn: The first states of each path, which are left out.
        share: Of the residuals that the tail index is of.
        most: Transitions; of more, whole documents drawn at random are used.
        level: Of the intervals.
    """
    steps = steps_of(paths, docs, seed=seed, burn=burn, most=most)
    return tested(steps, seed=seed, share=share, level=level)


def steps_of(paths: Trajectory, docs: Any, *, seed: int, burn: int, most: int) -> Steps:
    """Residuals of the linear and of the nonlinear one-step model, by documents left out."""
    s = states_of(paths, docs, burn=burn, seed=seed, most=most)
    if why := too_few(s):
        none = np.zeros((0, paths.ys.shape[2]))
        return Steps(s, none, none, why)
    found = refined(s, Ridge(s, FEATURES, np.random.default_rng(seed)))
    return Steps(s, found.linear, found.residual, "")


def tested(steps: Steps, *, seed: int, share: float, level: float) -> JumpTest:
    """The three tests."""
    if not 0 < share <= 0.2:
        raise BadArgument(f"`share` is {share}. Use a share of the largest, such as .02.")
    s, e = steps.s, steps.residuals
    documents = len(np.unique(s.doc))
    if steps.why:
        told = tuple(withheld(kind, steps.why) for kind in KINDS)
        return JumpTest(told, e, documents, len(s.x))
    how = dict(seed=seed, level=level)
    found = [_bipower(s, e, how), _kurtosis(s, e, how), _tail(s, e, share, how)]
    if e.shape[1] > 1:
        found += _worst(s, e, share, how)
    return JumpTest(tuple(found), e, documents, len(s.x))


def _bipower(s: States, e: Rows, how: dict[str, Any]) -> Finding:
    above, under, docs = _variations(s, e)
    if len(np.unique(docs)) < 2:
        return withheld(KINDS[0], NO_PAIRS)
    above, under = (x.sum(axis=1, keepdims=True) for x in (above, under))
    (interval,) = ratios(above, under, docs, **how)
    return finding(KINDS[0], interval, 1.0, of_null=GAUSSIAN)


def _variations(s: States, e: Rows) -> tuple[Pairs, Pairs, np.ndarray]:
    """What bipower and quadratic variation are sums of, of each component."""
    both = np.flatnonzero(np.diff(s.x) == 1)
    now, before = e[both + 1], e[both]
    size = np.mean(e**2, axis=0)  # so that components count alike
    return np.pi / 2 * np.abs(now * before) / size, 0.5 * (now**2 + before**2) / size, s.doc[both]


def _kurtosis(s: States, e: Rows, how: dict[str, Any]) -> Finding:
    each = _fourth(e).mean(axis=1)
    interval = bootstrap(each, np.ones(len(each)), s.doc, **how)
    interval = with_tails(interval, e.size)
    return finding(KINDS[1], interval, 0.0, of_null=GAUSSIAN)


def _fourth(e: Rows) -> Rows:
    """What excess kurtosis is the mean of; a ratio of means, whose denominator varies as well."""
    unit = e**2 / np.mean(e**2, axis=0)
    kurtosis = np.mean(unit**2, axis=0)
    return unit**2 - 2 * kurtosis * (unit - 1) - 3


def _tail(s: States, e: Rows, share: float, how: dict[str, Any]) -> Finding:
    size = np.abs(e) / np.sqrt(np.mean(e**2, axis=0))
    k = int(share * size.size)
    if k < 10:
        return withheld(KINDS[2], f"a share of {share:g} of {size.size} residuals is {k}, too few")
    q = np.partition(size.ravel(), -k - 1)[-k - 1]
    over = size > q
    far = np.sum(np.where(over, np.log(np.where(over, size, q) / q), 0.0), axis=1)
    (interval,) = ratios(far[:, None], over.sum(axis=1)[:, None].astype(float), s.doc, **how)
    note = f"It is of the largest {k:,} of {size.size:,}"
    return finding(KINDS[2], interval, gaussian_tail(share), of_null=GAUSSIAN, note=note)


def _worst(s: States, e: Rows, share: float, how: dict[str, Any]) -> list[Finding]:
    """Each number of every component alone and of a direction found on other documents."""
    rng = np.random.default_rng(how["seed"])
    line, seen = np.zeros(len(e)), False
    for k in range(FOLDS):
        u = directions(e[s.fold != k], rng, kurtosis=1)
        seen |= u.shape[1] > 0
        line[s.fold == k] = (e[s.fold == k] @ u).sum(axis=1)
    if seen:
        e = np.column_stack([e, line])
    how = how | dict(level=1 - (1 - how["level"]) / e.shape[1], resamples=DRAWS)
    ones = np.ones((len(e), 1))

    above, under, docs = _variations(s, e)
    bipower = ratios(above, under, docs, **how) if len(np.unique(docs)) > 1 else NO_PAIRS
    kurtosis = [with_tails(one, len(e)) for one in ratios(_fourth(e), ones, s.doc, **how)]
    size, k = np.abs(e), int(share * len(e))
    tail: list[Interval] | str = f"a share of {share:g} of {len(e)} residuals is {k}, too few"
    if k >= 10:
        q = np.partition(size, -k - 1, axis=0)[-k - 1]
        over = (size > q).astype(float)
        tail = ratios(np.log(np.maximum(size, q) / q), over, s.doc, **how)
    null = gaussian_tail(share)
    return [
        _farthest(WORST[0], bipower, 1.0, True),
        _farthest(WORST[1], kurtosis, 0.0, True),
        _farthest(WORST[2], tail, null, False),
    ]


def _farthest(what: str, found: list[Interval] | str, null: float, both: bool) -> Finding:
    """The direction that departs farthest of those that do for certain, or of all."""
    if isinstance(found, str):
        return withheld(what, found)
    value, low, high = np.array([(x.value - null, x.low - null, x.high - null) for x in found]).T
    if both:
        far = np.maximum(high, -low)
        value, near = np.abs(value), np.maximum(low, -high)
    else:
        near, far = low, high
    sure = near > 0
    which = int(np.argmax(np.where(sure, value, -np.inf) if sure.any() else value))
    one = found[which]
    ends = dict(value=float(value[which]), low=float(max(near[which], 0.0)), high=float(far.max()))
    last = which == len(found) - 1
    name = "the one found on other documents" if last else f"component {which + 1} of the residuals"
    note = f"It is {name}, of {len(found)} directions, each with an interval at {one.level:.1%}"
    return finding(what, one._replace(**ends), 0.0, of_null=GAUSSIAN, note=note)


def gaussian_tail(share: float) -> float:
    r"""The mean of $\log(|Z|/q)$ over $|Z| > q$ for a standard normal Z that is so rarely above."""
    inverse = NormalDist().inv_cdf
    q = -inverse(share / 2)
    parts = (np.arange(2000) + 0.5) / 2000
    return float(np.mean([np.log(-inverse(share * u / 2) / q) for u in parts]))


@final
class MixtureSize(NamedTuple):
    """How the two densities are trained, alike at every scale, so that all compile once."""

    width: int = 64
    steps: int = 300
    batch: int = 256
    rate: float = 3e-3
    train: int = 2**13
    held: int = 2**10
    test: int = 2**12


def mixture_gaps(
    scales: list[Steps], *, key: RandomKey, seed: int, level: float, size: MixtureSize
) -> list[tuple[Finding, ...]]:
    r"""$\log p_8 - \log p_1$ of held-out residuals of the linear model, at each scale.

    Both densities are mixtures of Gaussians made of the state by networks of one size, trained
    alike; the second has weight on one component alone. So the one Gaussian has a mean and
    variances that depend on the state as freely, and what is gained is the shape. The mixture is
    trained twice, from clusters and from eight Gaussians that are nearly one, and held-out
    documents that are not scored choose. From clusters it finds states of a few values, but in many
    dimensions it does not get back from them to a step that is Gaussian. In more than one
    dimension the gain is also told in all of them together: one that jumps adds to the sum what it
    is worth, and to the mean a share of that.
    """
    found = [_untold(steps) if steps.why else None for steps in scales]
    chosen = [steps for steps in scales if not steps.why]
    if chosen:
        rng = np.random.default_rng(seed)
        picked = [_picked(steps, size, rng) for steps in chosen]
        data = [np.stack(parts) for parts in zip(*(one.arrays for one in picked))]
        log = np.asarray(_trained(data, key, size))
        told = iter(_judged(chosen, picked, log, seed, level))
        found = [next(told) if one is None else one for one in found]
    return [one for one in found if one is not None]


@final
class _Picked(NamedTuple):
    """States and residuals to train on, to choose by and to score, as many at every scale."""

    arrays: tuple[np.ndarray, ...]
    scored: Int[np.ndarray, " scored"]  # which transitions the first of the last part are


def _picked(steps: Steps, size: MixtureSize, rng: np.random.Generator) -> _Picked:
    arrays: list[np.ndarray] = []
    for folds, number in (((0, 1), size.train), ((2,), size.held), ((3, 4), size.test)):
        some = rng.permutation(np.flatnonzero(np.isin(steps.s.fold, folds)))
        filled = np.resize(some, number)  # again from the first on, where there are too few
        arrays += [steps.s.z[steps.s.x[filled]], steps.linear[filled]]
    return _Picked(tuple(arrays), some[: size.test])


def _start(e: Any, how: Array, width: int, *, key: RandomKey) -> MixtureDensity:
    """One component about zero; all at clusters of the residuals; or all about their mean."""
    dim, dtype = e.shape[1], e.dtype
    net, head, seed, off = jr.split(key, 4)
    centres, member = clusters(e, COMPONENTS, key=seed)
    one = jax.nn.one_hot(member, COMPONENTS, dtype=dtype)
    count = jnp.sum(one, axis=0)
    # A cluster of few points is given the spread of all.
    spread = one.T @ (e - centres[member]) ** 2 + 2 * jnp.var(e, axis=0, keepdims=True)
    wide = jnp.log(spread / (count + 2)[:, None] + FLOOR**2) / 2
    moved, widened = APART * jr.normal(off, (2, COMPONENTS, dim), dtype)
    moved = jnp.mean(e, axis=0)[None] + jnp.std(e, axis=0)[None] * moved
    widened = jnp.log(jnp.var(e, axis=0) + FLOOR**2)[None] / 2 + widened
    dense = Dense([dim, width, width], jax.nn.silu, key=net)
    linear = eqx.nn.Linear(width + dim, COMPONENTS * (1 + 2 * dim), key=head, dtype=dtype)
    alone = jnp.where(jnp.arange(COMPONENTS) == 0, 0.0, NEVER).astype(dtype)
    return MixtureDensity(
        net=jax.tree.map(lambda x: x.astype(dtype), dense),
        head=jax.tree.map(lambda x: 0.1 * x, linear),
        weights=lax.select_n(how, alone, jnp.log((count + 1) / len(e)), jnp.zeros_like(alone)),
        centres=lax.select_n(how, jnp.zeros_like(centres), centres, moved),
        log_scales=lax.select_n(how, jnp.zeros_like(wide), wide, widened),
        mixing=None,
        mean=jnp.zeros(dim, dtype),
        deviation=jnp.ones(dim, dtype),
        floor=jnp.asarray(FLOOR, dtype),
    )


@eqx.filter_jit
def _trained(
    data: list[Any], key: RandomKey, size: MixtureSize
) -> Float[Array, "scale density scored"]:
    """Held-out log densities of one Gaussian and of the mixture, one after the other."""
    descent = Descent(size.steps, size.batch, size.rate, 1e-3)
    parts = [jnp.asarray(x, jnp.result_type(float)) for x in data]

    def one(z: Any, e: Any, z_h: Any, e_h: Any, z_t: Any, e_t: Any, *, how: Array) -> tuple:
        first, rest = jr.split(key)
        model = _start(e, how, size.width, key=first)
        model, scores, _ = descend(model, (z, e), (z_h, e_h), key=rest, how=descent)
        least = jnp.min(scores, initial=jnp.inf, where=jnp.isfinite(scores))
        return lax.map(lambda pair: model.logpdf(*pair), (z_t, e_t), batch_size=2**11), least

    def both(arrays: tuple) -> Array:
        starts = jnp.asarray([ALONE, CLUSTERED, TOGETHER])
        log, least = lax.map(lambda how: one(*arrays, how=how), starts)
        better = least[TOGETHER] < least[CLUSTERED]
        return jnp.stack([log[ALONE], jnp.where(better, log[TOGETHER], log[CLUSTERED])])

    return lax.map(both, tuple(parts))


def _untold(steps: Steps) -> tuple[Finding, ...]:
    kinds = (GAP, GAP_SUM)[: min(steps.s.z.shape[1], 2)]
    return tuple(withheld(kind, steps.why) for kind in kinds)


def _judged(
    chosen: list[Steps], picked: list[_Picked], log: np.ndarray, seed: int, level: float
) -> list[tuple[Finding, ...]]:
    found = []
    for steps, one, (alone, mixed) in zip(chosen, picked, log.astype(float)):
        gain, dim = (mixed - alone)[: len(one.scored)], steps.s.z.shape[1]
        docs = steps.s.doc[one.scored]
        told = []
        for kind, over, unit in (
            (GAP, dim, "nats per step and dimension"),
            (GAP_SUM, 1, "nats per step"),
        )[: min(dim, 2)]:
            interval = bootstrap(gain / over, np.ones(len(gain)), docs, seed=seed, level=level)
            told.append(finding(kind, interval, 0.0, unit=unit, of_null=GAUSSIAN))
        found.append(tuple(told))
    return found
