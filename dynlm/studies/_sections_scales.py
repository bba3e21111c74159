"""The section on scales: is it diffusive, and from how many tokens on?"""

from typing import Any

import numpy as np

from .. import analysis
from .._io import counted
from .._types import RandomKey
from ..analysis._diffusive import judged
from ..analysis._jumps import GAP, GAP_SUM
from ._frames import section, table
from ._given import Given
from ._plan import Plan

FAIR = {
    "fair": "At the scale of {scale} a diffusion is a fair model as far as the shape of its steps "
    "goes: they are Gaussian given the state.",
    "jumps": "At every scale that could be decided steps are not Gaussian given the state: no "
    "diffusion is a fair model.",
    "unseen": "At {scale} the tests of moments and tails are passed. The shape of a step was not "
    "compared with a mixture's{why}: no scale is called fair.",
    "undecided": "There are too few steps to say at which scale a diffusion is a fair model.",
}


def scales_section(
    given: Given, plan: Plan, key: RandomKey, marks: np.ndarray | None = None
) -> tuple[dict[str, Any], int | None]:
    """Jump tests from token to token and at coarser scales; and the scale that is called fair."""
    rows = given.train
    longest = int(np.asarray(rows.paths.mask).sum(axis=1).max())
    widths = [w for w in plan.scales if longest // w >= 4]
    mixture = tuple(widths) if plan.mixture else False
    how: dict[str, Any] = dict(key=key, seed=plan.seed, burn=plan.burn)
    found = analysis.diffusive(
        rows.paths, rows.docs, widths=widths, how="averaged", marks=marks, mixture=mixture, **how
    )
    strided = _strided(rows, widths, found, how)
    at = next((x for x in found.scales if x.width == found.scale), None)
    fair = None if at is None or not _compared(at) else found.scale
    kinds = list(dict.fromkeys(one.what for scale in found.scales for one in scale.findings))
    cheap = [kind for kind in kinds if kind not in (GAP, GAP_SUM)]
    heads = ["scale", "verdict", "steps"]
    margins = ", ".join(f"{k} {v:g}" for k, v in found.margins._asdict().items())
    note = f"Margins within which a diffusion counts as fair: {margins}."
    kept = "Every k-th state, which sums do not make Gaussian. No mixture was fitted here."
    made = section(
        "scales",
        "Is it diffusive, and at which scale?",
        "From token to token, averaged over more of them, or with tokens left out: are steps "
        "Gaussian given the state, as those of a diffusion are, or do states jump?",
        "A scale counts as fair only where intervals are narrow enough to have shown jumps, also "
        "of the worst of all directions; few data in many dimensions make no scale fair.",
        found=[*_said(found, at, fair), _said_strided(strided)],
        findings=_findings(found, at, fair),
        tables=[
            table("Tests by scale", [*heads, *kinds], _body(found.scales, kinds), note),
            table("The same with tokens left out", [*heads, *cheap], _body(strided, cheap), kept),
        ],
        figures=[_by_scale(found, kinds)],
        mark="ours",
    )
    return made, fair


def _compared(scale: Any) -> bool:
    """Whether a mixture was fitted at this scale."""
    return any(one.what == GAP and one.value is not None for one in scale.findings)


def _strided(rows: Any, widths: list[int], found: Any, how: dict[str, Any]) -> list[Any]:
    """Scales of every k-th state, without the mixture; one of one step is as it was."""
    same = [x for x in found.scales if x.width == 1.0]
    tests = [tuple(one for one in x.findings if one.what not in (GAP, GAP_SUM)) for x in same]
    first = [
        x._replace(findings=told, fairness=judged(told, found.margins))
        for x, told in zip(same, tests)
    ]
    wider = [w for w in widths if w > 1]
    if not wider:
        return first
    rest = analysis.diffusive(
        rows.paths, rows.docs, widths=wider, how="strided", mixture=False, **how
    )
    return [*first, *rest.scales]


def _said(found: Any, at: Any, fair: int | None) -> list[str]:
    """The verdict on averages in words."""
    kind = "unseen" if at is not None and fair is None else found.fairness.value
    gap = next((x for x in at.findings if x.what == GAP), None) if at is not None else None
    why = f" ({gap.note})" if gap is not None and gap.note else ""
    said = [FAIR[kind].format(scale=counted(found.scale or 0, "token"), why=why)]
    if found.scale is not None and found.coarser:
        said.append(f"It is no fair model at {', '.join(found.coarser)}.")
    if found.scale is not None and found.shuffled is not None:
        often = counted(found.shuffled, "token")
        said.append(f"The same states in random order pass at {often} too.")
        if 1 < found.scale >= found.shuffled:
            said.append("So averaging alone explains it, and nothing is said of text.")
    return said


def _said_strided(scales: list[Any]) -> str:
    """At which strides the tests of moments and tails are passed."""
    names = {
        kind: [x.name for x in scales if x.fairness.value == kind]
        for kind in ("fair", "jumps", "undecided")
    }
    words = {
        "fair": "they are passed at {}",
        "jumps": "steps are not Gaussian at {}",
        "undecided": "there are too few steps to say at {}",
    }
    parts = [words[kind].format(", ".join(names[kind])) for kind in words if names[kind]]
    return f"With tokens left out instead of averaged, by moments and tails: {'; '.join(parts)}."


def _findings(found: Any, at: Any, fair: int | None) -> list[Any]:
    """The scale that is called fair; or the tests of the scale that is spoken of."""
    if fair is not None:
        return list(found.findings[:1])
    name = found.scales[0].name if at is None else at.name
    return [one for one in found.findings[1:] if one.what.endswith(f" at {name}")]


def _body(scales: Any, kinds: list[str]) -> list[list[Any]]:
    body = []
    for scale in scales:
        cells = {one.what: one for one in scale.findings}
        passed = scale.fairness.value
        passed = "passed" if passed == "fair" and not _compared(scale) else passed
        row = [scale.name, passed, scale.transitions]
        body.append([*row, *(cells.get(kind) for kind in kinds)])
    return body


def _by_scale(found: Any, kinds: list[str]) -> dict[str, Any]:
    panels = []
    for kind in kinds[:3]:
        xs, values, lows, highs, null = [], [], [], [], None
        for scale in found.scales:
            one = next((x for x in scale.findings if x.what == kind), None)
            if one is None or one.value is None or scale.name == "sentences":
                continue
            xs.append(scale.width)
            values.append(one.value)
            lows.append(one.low)
            highs.append(one.high)
            null = one.null
        if len(xs) < 1:
            continue
        lines = {"name": kind, "x": xs, "y": values, "low": lows, "high": highs}
        panel: dict[str, Any] = {
            "kind": "lines", "title": kind, "series": [lines], "xlabel": "tokens averaged",
            "xlog": True,
        }  # fmt: skip
        if null is not None:
            panel["hlines"] = [{"y": null, "label": "Gaussian steps"}]
        panels.append(panel)
    return {
        "id": "by-scale",
        "title": "Jump tests by scale",
        "kind": "panels",
        "panels": panels,
        "caption": "Each test beside its value for Gaussian steps.",
        "alt": "A panel a test, over the number of tokens that are averaged.",
    }
