"""`diffusive`: what is the finest scale in time, if any, at which a diffusion is a fair model?"""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool

from .._io import BadArgument
from .._types import RandomKey
from ..trajectory import Trajectory
from ._jumps import (
    GAP,
    GAP_SUM,
    KINDS,
    SHARE,
    WORST,
    MixtureSize,
    Steps,
    mixture_gaps,
    steps_of,
    tested,
)  # fmt: skip
from ._scales import How, coarse, sentence_means
from .findings import Finding, Verdict, stated, withheld

LEAST = 1000  # transitions that the densities are trained for
MARGIN_OF = {
    **dict(zip(KINDS, ("bipower", "kurtosis", "tail"))),
    **dict(zip(WORST, ("bipower", "kurtosis", "tail"))),
    GAP: "gap",
    GAP_SUM: "gap_sum",
}


@final
class Fairness(enum.Enum):
    """Whether steps of some width may be those of a diffusion."""

    FAIR = "fair"  # no test departs from Gaussian steps by more than its margin, nor might
    # Steps are not Gaussian given the state: they jump, or have tails too light, as where states
    # take two values. Some test departs by more than its margin, and not by chance.
    JUMPS = "jumps"
    UNDECIDED = "undecided"  # too few steps to say


@final
class Margins(NamedTuple):
    """How far tests may depart from what Gaussian steps give for a diffusion to be fair.

    Args:
        bipower: Either way from one.
        kurtosis: Either way from zero.
        tail: Above the tail index of Gaussian steps.
        gap: Above zero, in nats per step and dimension.
        gap_sum: Above zero, in nats per step, of all dimensions together where there are more
            than one.
    """

    bipower: float = 0.1
    kurtosis: float = 0.5
    tail: float = 0.05
    gap: float = 0.01
    gap_sum: float = 0.05


@final
class Scale(NamedTuple):
    """What was found at one scale.

    Args:
        name: "4 steps", or "sentences".
        width: Steps to one coarse step; for sentences the mean number.
        fairness: The verdict.
        findings: Of the tests.
        documents: How many were used.
        transitions: How many were used.
    """

    name: str
    width: float
    fairness: Fairness
    findings: tuple[Finding, ...]
    documents: int
    transitions: int


@final
class Diffusive(NamedTuple):
    """What `diffusive` found.

    Args:
        fairness: Fair: at `scale`. Jumps: steps are not Gaussian at some scale, and fair at none.
            Undecided: neither.
        scale: The least width that is fair; None where there is none.
        findings: The scale, and then all tests, each named with its scale.
        scales: By width; and last that of sentences.
        margins: What fair means here.
        coarser: The scales coarser than `scale`, also sentences, at which steps are not Gaussian.
        shuffled: The least width that is fair for the same states in random order within each
            path, by all tests but the mixture's; None where there is none.
    """

    fairness: Fairness
    scale: int | None
    findings: tuple[Finding, ...]
    scales: tuple[Scale, ...]
    margins: Margins
    coarser: tuple[str, ...]
    shuffled: int | None


def diffusive(
    paths: Trajectory,
    docs: Any,
    *,
    key: RandomKey,
    widths: Sequence[int] = (1, 2, 4, 8, 16, 32),
    how: How = "strided",
    marks: Bool[np.ndarray, "path time"] | None = None,
    mixture: bool | Sequence[int] = True,
    margins: Margins | None = None,
    size: MixtureSize | None = None,
    seed: int = 0,
    burn: int = 1,
    share: float = SHARE,
    most: int = 2**15,
    level: float = 0.95,
) -> Diffusive:
    r"""Jump tests at several scales, and the finest at which a diffusion is a fair model.

    A test departs by $\delta$ from its value for Gaussian steps: either way for bipower and
    kurtosis, else on the side where jumps are. A scale is fair where the far end of every interval
    of $\delta$ is within its margin, so that few data never make a scale fair; steps are not
    Gaussian where some $\delta$ is beyond its margin and its interval leaves zero out. The answer
    is the finest scale that is fair: coarser steps are made of those. They need not be Gaussian
    themselves, as when a double well is seen at long gaps: `coarser` names such scales. States
    without dynamics become fair by being averaged alone: `shuffled` is where.

    Args:
        paths: A batch of paths.
        docs: The document of each path.
        key: Random key of the two densities.
        widths: How many steps become one, increasing.
        how: "strided" or "averaged", see `coarse`.
        marks: True at the last state of each sentence: adds the means of sentences.
        mixture: Whether two densities are trained at every scale, or the widths where they are.
        margins: What fair means.
        size: Of the densities' training.
        seed: Of folds, features and resampling.
        burn: The first states of each path, which are left out.
        share: Of the residuals that the tail index is of.
        most: Transitions at a scale; of more, whole documents drawn at random are used.
        level: Of the intervals.
    """
    margins = Margins() if margins is None else margins
    size = MixtureSize() if size is None else size
    if not widths or list(widths) != sorted(set(widths)):
        raise BadArgument(f"`widths` is {widths}. Use different whole numbers in rising order.")
    table: list[tuple[str, float, Steps]] = []
    for width in widths:
        grained = coarse(paths, width, how, burn=burn)
        steps = steps_of(grained, docs, seed=seed, burn=0, most=most)
        table.append((f"{width} step" + "s" * (width > 1), float(width), steps))
    if marks is not None:
        grained = sentence_means(paths, marks, burn=burn)
        steps = steps_of(grained, docs, seed=seed, burn=0, most=most)
        table.append(("sentences", _mean_width(marks, paths, burn), steps))
    gaps = _gaps(table, mixture, key, seed, level, size)
    scales = []
    for (name, width, steps), gap in zip(table, gaps):
        test = tested(steps, seed=seed, share=share, level=level)
        found = (*test.findings, *gap)
        fairness = judged(found, margins)
        scales.append(Scale(name, width, fairness, found, test.documents, test.transitions))
    fairness, scale, coarser = _least(scales, len(widths))
    how_so: dict[str, Any] = dict(burn=burn, seed=seed, share=share, most=most, level=level)
    shuffled = _by_chance(paths, docs, widths, how, margins, how_so)
    first = _conclusion(scales[: len(widths)], scale, coarser, shuffled, margins)
    named = (one._replace(what=f"{one.what} at {s.name}") for s in scales for one in s.findings)
    return Diffusive(
        fairness, scale, (first, *named), tuple(scales), margins, coarser, shuffled
    )  # fmt: skip


def judged(found: Sequence[Finding], margins: Margins) -> Fairness:
    """Fair, jumps or undecided, from the findings of one scale."""
    fair, jumps = True, False
    for one in found:
        if one.what in (GAP, GAP_SUM) and one.verdict is Verdict.WITHHELD:
            continue  # it asks for many more steps than the others
        ends = one.value, one.low, one.high, one.null
        if any(x is None for x in ends):
            fair = False
            continue
        value, low, high, null = (float(x) for x in ends if x is not None)
        margin = getattr(margins, MARGIN_OF[one.what])
        for side in (1, -1) if one.what in KINDS[:2] else (1,):
            near, far = sorted((side * (low - null), side * (high - null)))
            fair &= far < margin
            jumps |= near > 0 and side * (value - null) > margin
    return Fairness.JUMPS if jumps else Fairness.FAIR if fair else Fairness.UNDECIDED


def _least(scales: Sequence[Scale], widths: int) -> tuple[Fairness, int | None, tuple[str, ...]]:
    """The verdict, the least width that is fair, and which coarser scales are not Gaussian."""
    kinds = [one.fairness for one in scales[:widths]]
    if Fairness.FAIR not in kinds:
        return Fairness.JUMPS if Fairness.JUMPS in kinds else Fairness.UNDECIDED, None, ()
    least = scales[kinds.index(Fairness.FAIR)].width
    wrong = (one for one in scales if one.width > least and one.fairness is Fairness.JUMPS)
    return Fairness.FAIR, int(least), tuple(one.name for one in wrong)


def _by_chance(
    paths: Trajectory,
    docs: Any,
    widths: Sequence[int],
    how: How,
    margins: Margins,
    how_so: dict[str, Any],
) -> int | None:
    """The least width at which the same states in random order are fair, without the mixture."""
    burn, seed, most = (how_so[name] for name in ("burn", "seed", "most"))
    test = {name: how_so[name] for name in ("seed", "share", "level")}
    mask = np.asarray(paths.mask)
    rank = np.where(mask, np.random.default_rng((seed, 1)).random(mask.shape), 2.0)
    rank[:, :burn] = -1.0  # stays, and padding stays at the end
    turn = np.argsort(rank, axis=1, kind="stable")
    ys = jax.device_put(np.take_along_axis(np.asarray(paths.ys), turn[:, :, None], axis=1))
    mixed = eqx.tree_at(lambda paths: paths.ys, paths, ys)
    # Strided, states in random order have one law at every width.
    for width in widths if how == "averaged" else widths[:1]:
        grained = coarse(mixed, width, how, burn=burn)
        steps = steps_of(grained, docs, seed=seed, burn=0, most=most)
        if judged(tested(steps, **test).findings, margins) is Fairness.FAIR:
            return width
    return None


def _conclusion(
    ladder: Sequence[Scale],
    scale: int | None,
    coarser: Sequence[str],
    shuffled: int | None,
    margins: Margins,
) -> Finding:
    """The scale in words, and what it does not say."""
    what = "finest scale at which a diffusion is a fair model"
    names = {kind: [one.name for one in ladder if one.fairness is kind] for kind in Fairness}
    few, wrong = names[Fairness.UNDECIDED], names[Fairness.JUMPS]
    also = f"; there are not enough steps to say at {_listed(few)}" if few else ""
    if shuffled is not None:
        often = f"{shuffled} step" + "s" * (shuffled > 1)
        also += f"; the same states in random order are fair from {often}"
    if scale is not None:
        note = "There every test is within its margin"
        if coarser:
            note += f", and at {_listed(coarser)} not, so it must be solved with finer steps"
        at = next(one for one in ladder if one.width == scale)
        if not any(one.what == GAP and one.verdict is not Verdict.WITHHELD for one in at.findings):
            note += (
                "; only moments and tails were tested, and the shape of the step was not compared "
                "with a mixture's"
            )
        return stated(what, float(scale), unit="step" if scale == 1 else "steps", note=note + also)
    if wrong:
        light = [one.name for one in ladder if _light(one, margins)]
        lighter = f"; at {_listed(light)} tails are lighter than Gaussian ones" if light else ""
        why = f"steps are not Gaussian given the state at {_listed(wrong)}{lighter}"
        return withheld(what, why + also)
    return withheld(what, "there are not enough steps to say, at any scale")


def _light(scale: Scale, margins: Margins) -> bool:
    """Whether tails are lighter than those of Gaussian steps, by more than the margin."""
    kurtosis = scale.findings[1]
    return kurtosis.verdict is Verdict.BELOW and (kurtosis.value or 0.0) < -margins.kurtosis


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _gaps(
    table: Sequence[tuple[str, float, Steps]],
    mixture: bool | Sequence[int],
    key: RandomKey,
    seed: int,
    level: float,
    size: MixtureSize,
) -> list[tuple[Finding, ...]]:
    """The mixture's gains at each scale, none where they are not asked for."""
    if mixture is False:
        return [()] * len(table)
    asked = [mixture is True or width in mixture for _, width, _ in table]
    few = "there are {} transitions, and the two densities need {}"
    chosen = [
        steps._replace(why=steps.why or few.format(len(steps.s.x), LEAST))
        if len(steps.s.x) < LEAST
        else steps
        for (_, _, steps), wanted in zip(table, asked)
        if wanted
    ]
    told = iter(mixture_gaps(chosen, key=key, seed=seed, level=level, size=size))
    return [next(told) if wanted else () for wanted in asked]


def _mean_width(marks: Bool[np.ndarray, "path time"], paths: Trajectory, burn: int) -> float:
    """States to a sentence, on average."""
    ends = (np.asarray(marks) & np.asarray(paths.mask))[:, burn:]
    last = np.where(ends.any(axis=1), ends.shape[1] - np.argmax(ends[:, ::-1], axis=1), 0)
    return float(last.sum() / max(ends.sum(), 1))
