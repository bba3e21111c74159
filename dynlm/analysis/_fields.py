"""Drift and diffusion where the data are: how strong they are, and where they point."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Int

from .._io import BadArgument
from ..sde import SDE
from ..stats import Interval
from ..trajectory import Trajectory
from ._beside import paired
from ._states import (
    Numbers,
    Rows,
    Transitions,
    check_sde,
    described,
    fields,
    floating,
    pooled,
    slopes,
    transitions,
)
from .findings import Finding, finding, withheld

SHUFFLED = "of the best drift and noise for states that are independent in time"
UNORDERED = "of states without order in time"
WAY = "of the way to the mean state"


@final
class Along(NamedTuple):
    """Drift and diffusion at the states of transitions.

    Args:
        row: The path of each transition.
        ys: Where it begins.
        drift: The Ito drift there.
        noise: $\\sqrt{\\mathrm{tr}\\,g g^\\top}$ there.
        ratio: Drift to noise in one step.
        cosine: Of the drift and the increment that followed; NaN where one of them is zero.
        findings: What follows.
    """

    row: Int[np.ndarray, " state"]
    ys: Rows
    drift: Rows
    noise: Numbers
    ratio: Numbers
    cosine: Numbers
    findings: tuple[Finding, ...]


def along(
    sde: SDE,
    paths: Trajectory,
    docs: Any,
    *,
    nulls: Sequence[SDE] = (),
    burn: int = 1,
    seed: int = 0,
) -> Along:
    r"""How strong drift f and noise g are at observed states, and what the drift points to.

    $$|f|, \quad \sqrt{\mathrm{tr}\,g g^\top}, \quad
    \frac{|f|\,\Delta t}{\sqrt{\mathrm{tr}\,g g^\top\,\Delta t}}, \quad \cos(f, \Delta y), \quad
    \cos(f, m - y), \quad
    \frac{\sum f \Delta t \cdot (m - y)}{\sum |m - y|^2}$$

    States that are independent in time have drift $m - y$ in a step and noise of their own
    covariance. Their ratio and their pull stand beside those found: a drift is not structure. The
    way to the mean points to the next state too, with a cosine of about .7: tested is
    $\cos(f, \Delta y) - \cos(m - y, \Delta y)$, paired at each state, and neither cosine alone.

    Args:
        docs: The document of each path.
        nulls: Fits of states without order, such as of shuffled ones: the three tested numbers
            are compared with theirs at the same states, and the interval is widened by how they
            differ among themselves. Of one alone nothing is tested. A fitted net meets the
            values of independent states only roughly.
        burn: How many first states of each path are left out.
        seed: Of the resampling of documents.
    """
    at = transitions(paths, docs, burn)
    check_sde(sde, at.ys.shape[1])
    y = at.ys.astype(float)
    back = y.mean(axis=0) - y
    f, noise, ratio = _strengths(sde, at)
    speed = np.linalg.norm(f, axis=1)
    forward, way, pull = _cosine(f, at.dy), _cosine(back, at.dy), _cosine(f, back)
    known = np.isfinite(forward - way)
    of_way = float(way[known].mean()) if known.any() else 0.0
    length = np.linalg.norm(back, axis=1)
    alone = float(length.mean() / np.sqrt(max((length**2).mean(), 1e-300)))

    def mean(values: Numbers) -> Interval | None:
        """Where it is a number."""
        known = np.isfinite(values)
        if not known.any():
            return None
        columns = (np.where(known, values, 0.0)[:, None], known[:, None].astype(float))
        return pooled(at, *columns, seed=seed)[0]

    tests = [
        ("drift-to-noise ratio of a step", mean(ratio), alone, SHUFFLED),
        (
            "excess of the drift over the way to the mean in its cosine with the next increment",
            mean(forward - way),
            0.0,
            "of a drift to the mean and nothing else",
        ),
        ("pull to the mean in a step", _pull(at, f, back, seed), 1.0, SHUFFLED),
    ]
    found = [_described("mean size of the drift", mean(speed))]
    found += [_described("mean size of the noise", mean(noise))]
    if nulls:
        every = [_strengths(one, at) for one in (sde, *nulls)]
        one, square = np.ones(len(y)), (back**2).sum(axis=1)
        columns = (
            ([x[2] for x in every], one),
            ([_cosine(x[0], at.dy) - way for x in every], one),
            ([at.dt * (x[0] * back).sum(axis=1) for x in every], square),
        )
        for (what, *_), (top, under) in zip(tests, columns, strict=True):
            found.append(paired(what, top[0], top[1:], under, at.docs[at.row], seed=seed))
        tests = []
    for what, interval, null, of_null in tests:
        if interval is None:
            found.append(withheld(what, "drift, noise or increments are zero or not finite"))
        else:
            found.append(finding(what, interval, null, of_null=of_null))
    for what, interval, null, of_null in (
        ("cosine between the drift and the next increment", mean(forward), of_way, WAY),
        ("cosine between the drift and the way to the mean", mean(pull), 1.0, UNORDERED),
    ):
        found.append(_described(what, interval, null, of_null))
    return Along(at.row, y, f, noise, ratio, forward, tuple(found))


def _strengths(sde: SDE, at: Transitions) -> tuple[Rows, Numbers, Numbers]:
    """Drift, size of the noise, and the ratio of both in a step."""
    f, trace = fields(sde, at.ts, at.ys)
    speed, noise = np.linalg.norm(f, axis=1), np.sqrt(trace)
    ratio = np.divide(speed * np.sqrt(at.dt), noise, out=np.full(len(f), np.inf), where=noise > 0)
    return f, noise, ratio


def _described(
    what: str, found: Interval | None, null: float | None = None, of_null: str = ""
) -> Finding:
    if found is None:
        return withheld(what, "it is finite at no state")
    return described(what, found, null, of_null=of_null)


def _cosine(a: Rows, b: Rows) -> Numbers:
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    known = (size > 0) & np.isfinite(size)
    return np.where(known, (a * b).sum(axis=1) / np.where(known, size, 1.0), np.nan)


def _pull(at: Transitions, f: Rows, back: Rows, seed: int) -> Interval | None:
    """The slope of a step of drift against the way to the mean."""
    top, under = at.dt * (f * back).sum(axis=1), (back**2).sum(axis=1)
    if not np.isfinite(top).all() or not under.sum() > 0:
        return None
    return pooled(at, top[:, None], under[:, None], seed=seed)[0]


def divergence(sde: SDE, ys: Any, *, time: Any = 0.0) -> Numbers:
    r"""$\nabla \cdot f = \mathrm{tr}\,Df$ of the Ito drift at each state, exactly.

    Args:
        ys: States, a row each.
        time: When: one number, or one a state.
    """
    return slopes(sde, time, _rows(sde, ys))[2]


def curl(sde: SDE, ys: Any, *, time: Any = 0.0) -> Numbers:
    r"""$|A|_F / |S|_F$ of $Df = S + A$, symmetric and antisymmetric, at each state.

    It is zero where the drift is a gradient, and infinite where it only turns.
    """
    *_, even, odd = slopes(sde, time, _rows(sde, ys))
    return np.sqrt(np.divide(odd, even, out=np.full(len(odd), np.inf), where=even > 0))


def _rows(sde: SDE, ys: Any) -> Rows:
    ys = np.asarray(ys)
    if ys.ndim != 2 or not len(ys):
        raise BadArgument(f"`ys` has shape {ys.shape}. Pass one state a row, (state, dim).")
    check_sde(sde, ys.shape[1])
    return ys.astype(floating(sde))


@final
class Rotation(NamedTuple):
    """The Jacobian of the drift at some states.

    Args:
        ys: The states.
        divergence: Its trace.
        symmetric: The Frobenius norm of its symmetric part.
        antisymmetric: That of the antisymmetric part.
        findings: What follows.
    """

    ys: Rows
    divergence: Numbers
    symmetric: Numbers
    antisymmetric: Numbers
    findings: tuple[Finding, ...]


def rotation(
    sde: SDE,
    paths: Trajectory,
    docs: Any,
    *,
    nulls: Sequence[SDE] = (),
    burn: int = 1,
    states: int = 1024,
    seed: int = 0,
) -> Rotation:
    r"""Divergence and rotation of the drift at observed states.

    $$\nabla \cdot f = \mathrm{tr}\,Df, \qquad
    \frac{E|A|_F^2}{E|S|_F^2 + E|A|_F^2}, \quad Df = S + A$$

    The share is of derivatives, not of the drift: fast ripples weigh more than in `decompose`.

    Args:
        nulls: Fits of states without order, as for `along`: the divergence is compared with
            theirs, and not with 0.
        states: At most so many states, evenly spread over the data: each costs `dim` derivatives.
    """
    at = transitions(paths, docs, burn).chosen(states)
    dim = at.ys.shape[1]
    check_sde(sde, dim)
    _, _, trace, even, odd = slopes(sde, at.ts, at.ys)
    names = ("mean divergence of the drift", "rotational share of the drift's Jacobian")
    if not np.isfinite([trace, even, odd]).all():
        found = [withheld(name, "the drift has derivatives that are not finite") for name in names]
    else:
        (mean,) = pooled(at, trace[:, None], seed=seed)
        step = float(np.median(at.dt))
        note = f"States independent in time, {step:g} apart, have {-dim / step:.3g} at best"
        found = [finding(names[0], mean, 0.0, of_null="of flows that keep volumes", note=note)]
        if nulls:
            rest = [slopes(one, at.ts, at.ys)[2] for one in nulls]
            one, of = np.ones(len(trace)), at.docs[at.row]
            found = [paired(names[0], trace, rest, one, of, seed=seed)]
        if (even + odd).sum() > 0:
            (share,) = pooled(at, odd[:, None], (even + odd)[:, None], seed=seed)
            note = f"A matrix of independent entries has {(dim - 1) / (2 * dim):.3g}"
            of_null = "of a gradient"
            found += [described(names[1], share, 0.0, of_null=of_null, note=note)]
        else:
            found += [withheld(names[1], "the drift is the same everywhere")]
    return Rotation(at.ys.astype(float), trace, np.sqrt(even), np.sqrt(odd), tuple(found))
