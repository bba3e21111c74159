"""`diffusive`: from which scale in time on, if any, is a diffusion a fair model?"""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool

from .._io import BadArgument
from .._types import RandomKey
from ..trajectory import Trajectory
from ._jumps import GAP, SHARE, MixtureSize, Steps, mixture_gaps, steps_of, tested
from ._scales import How, coarse, sentence_means
from .findings import Finding, Verdict, stated, withheld

LEAST = 1000  # transitions that the densities are trained for


@final
class Fairness(enum.Enum):
    """Whether steps of some width may be those of a diffusion."""

    FAIR = "fair"  # no test departs from Gaussian steps by more than its margin, nor might
    JUMPS = "jumps"  # some test departs by more than its margin, and not by chance
    UNDECIDED = "undecided"  # too few steps to say


@final
class Margins(NamedTuple):
    """How far tests may depart from what Gaussian steps give for a diffusion to be fair.

    Args:
        bipower: Below one.
        kurtosis: Above zero.
        tail: Above the tail index of Gaussian steps.
        gap: Above zero, in nats per step and dimension.
    """

    bipower: float = 0.1
    kurtosis: float = 0.5
    tail: float = 0.05
    gap: float = 0.01


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
        fairness: Fair: at `scale`. Jumps: at some scale, and fair at none. Undecided: neither.
        scale: The least width that is fair; None where there is none.
        findings: The scale, and then all tests, each named with its scale.
        scales: By width; and last that of sentences.
        margins: What fair means here.
    """

    fairness: Fairness
    scale: int | None
    findings: tuple[Finding, ...]
    scales: tuple[Scale, ...]
    margins: Margins


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
    r"""Jump tests at several scales, and the scale from which a diffusion is a fair model.

    A test departs by $\delta$ from its value for Gaussian steps, on the side where jumps are. A
    scale is fair where the far end of every interval of $\delta$ is within its margin, so that few
    data never make a scale fair; it has jumps where some $\delta$ is beyond its margin and its
    interval leaves zero out. The answer is the finest scale that is fair: coarser steps are made
    of those. They need not be Gaussian themselves, as when a double well is seen at long gaps.

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
        found = test.findings if gap is None else (*test.findings, gap)
        fairness = judged(found, margins)
        scales.append(Scale(name, width, fairness, found, test.documents, test.transitions))
    ladder = scales[: len(widths)]
    fairness, scale, first = _conclusion(ladder)
    named = (one._replace(what=f"{one.what} at {s.name}") for s in scales for one in s.findings)
    return Diffusive(fairness, scale, (first, *named), tuple(scales), margins)


def judged(found: Sequence[Finding], margins: Margins) -> Fairness:
    """Fair, jumps or undecided, from the findings of one scale in their order."""
    sides = (-1, 1, 1, 1)
    fair, jumps = True, False
    for one, side, margin in zip(found, sides, margins):
        if one.what == GAP and one.verdict is Verdict.WITHHELD:
            continue  # it asks for many more steps than the others
        ends = one.value, one.low, one.high, one.null
        if any(x is None for x in ends):
            fair = False
            continue
        value, low, high, null = (float(x) for x in ends if x is not None)
        near, far = (low, high) if side > 0 else (high, low)
        fair &= side * (far - null) < margin
        jumps |= side * (near - null) > 0 and side * (value - null) > margin
    return Fairness.JUMPS if jumps else Fairness.FAIR if fair else Fairness.UNDECIDED


def _conclusion(ladder: Sequence[Scale]) -> tuple[Fairness, int | None, Finding]:
    what = "scale from which a diffusion is a fair model"
    kinds = [one.fairness for one in ladder]
    few = [one.name for one in ladder if one.fairness is Fairness.UNDECIDED]
    unsaid = f"; there are not enough steps to say at {_listed(few)}" if few else ""
    if Fairness.FAIR in kinds:
        first = ladder[kinds.index(Fairness.FAIR)]
        coarser = [one.name for one in ladder if one.fairness is Fairness.JUMPS]
        coarser = coarser[kinds[: kinds.index(Fairness.FAIR)].count(Fairness.JUMPS) :]
        note = "There every test is within its margin"
        if coarser:
            note += f", and at {_listed(coarser)} not, so it must be solved with finer steps"
        unit = "step" if first.width == 1 else "steps"
        found = stated(what, first.width, unit=unit, note=note + unsaid)
        return Fairness.FAIR, int(first.width), found
    if Fairness.JUMPS in kinds:
        names = [one.name for one in ladder if one.fairness is Fairness.JUMPS]
        why = f"the process jumps at {_listed(names)}{unsaid}"
        return Fairness.JUMPS, None, withheld(what, why)
    why = "there are not enough steps to say, at any scale"
    return Fairness.UNDECIDED, None, withheld(what, why)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _gaps(
    table: Sequence[tuple[str, float, Steps]],
    mixture: bool | Sequence[int],
    key: RandomKey,
    seed: int,
    level: float,
    size: MixtureSize,
) -> list[Finding | None]:
    """The mixture's gain at each scale, None where it is not asked for."""
    if mixture is False:
        return [None] * len(table)
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
    return [next(told) if wanted else None for wanted in asked]


def _mean_width(marks: Bool[np.ndarray, "path time"], paths: Trajectory, burn: int) -> float:
    """States to a sentence, on average."""
    ends = (np.asarray(marks) & np.asarray(paths.mask))[:, burn:]
    last = np.where(ends.any(axis=1), ends.shape[1] - np.argmax(ends[:, ::-1], axis=1), 0)
    return float(last.sum() / max(ends.sum(), 1))
