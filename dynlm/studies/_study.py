"""`study`: all sections of rows of states, as one results document."""

import dataclasses
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, final

import jax
import jax.random as jr
import numpy as np

from ..analysis.findings import Finding, plain
from ._budget import Budget
from ._flows import flow_of
from ._frames import guarded, guarded_all
from ._given import Given, coarser
from ._plan import Plan
from ._sde import Basis, based
from ._sections_density import density_section
from ._sections_fit import gain_of, law_section, shuffled_gain, worth_section
from ._sections_process import (
    memory_section,
    order_section,
    passage_section,
    residual_section,
)
from ._sections_scales import scales_section
from ._sections_space import fields_section, moments_section
from ._sections_stability import stability_section


@final
class Dynamics(NamedTuple):
    """The sections on rows of states.

    Args:
        sections: In their order.
        claims: After how many of them those stand that say what may be claimed.
        basis: What they were made from.
        order: The verdict on the order in time.
    """

    sections: list[dict[str, Any]]
    claims: int
    basis: Basis
    order: Any


def dynamics(
    given: Given,
    plan: Plan,
    *,
    budget: Budget,
    out: Path | None = None,
    marks: np.ndarray | None = None,
) -> Dynamics:
    """All that a study says of rows of states.

    Args:
        given: The rows.
        plan: How much is done.
        budget: Where the time goes.
        out: Folder of the fits, which are read where they are done.
        marks: Of training rows, the last state of each sentence.
    """
    keys = jr.split(jr.fold_in(jr.key(plan.seed), 1), 5)
    with budget.stage("order in time"):
        first, order = order_section(given, plan)
    b = based(given, plan, budget=budget, out=out, quiet=budget.quiet)
    b = b._replace(order=order.verdict.value)
    made = [
        first,
        worth_section(b.judged, b.fits, b.best, b.by_seed),
        law_section(b.judged, b.fits, b.refined),
    ]
    claims = len(made)
    scale: list[int] = []

    def scales() -> dict[str, Any]:
        one, fair = scales_section(given, plan, keys[0], marks)
        if fair is not None and fair > 1 and "coarse" not in plan.skip:
            scale.append(fair)
        return one

    rest: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [
        ("scales", "Is it diffusive, and at which scale?", scales),
        ("memory", "Memory", lambda: memory_section(b)),
        ("residuals", "What the fit has missed", lambda: residual_section(b)),
        ("fields", "Drift and noise", lambda: fields_section(b)),
        (
            "density",
            "Where states gather",
            lambda: density_section(given, plan, keys[4], main=flow_of(b), out=out),
        ),
        ("passage", "Passages and conditional moments", lambda: passage_section(b, keys[1])),
        ("stability", "Stability", lambda: stability_section(b, keys[2])),
        ("moments", "Moments in time", lambda: moments_section(b, keys[3])),
    ]
    for id, title, make in rest:
        if id in plan.skip:
            continue
        with budget.stage(title.split(",")[0].rstrip("?").lower()):
            made.append(guarded(id, title, "", make))
    for width in scale:
        with budget.stage(f"the study at {width} tokens"):
            made += _again(given, plan, width, out)
    return Dynamics(made, claims, b, order)


def _again(given: Given, plan: Plan, width: int, out: Path | None) -> list[dict[str, Any]]:
    """The study of states averaged over so many steps, of the first fit and one seed."""
    skip = (*plan.skip, "scales", "coarse")
    short = dataclasses.replace(
        plan, fits=plan.fits[:1], seeds=1, horizons=(), burn=0, power=0, skip=skip
    )
    folder = None if out is None else out / f"averaged-{width}"

    def make() -> list[dict[str, Any]]:
        states = coarser(given, width, plan.burn)
        return dynamics(states, short, budget=Budget(quiet=True), out=folder).sections

    title = "At the scale where a diffusion is fair"
    return [_averaged(one, width) for one in guarded_all("order", title, "", make)]


def _averaged(one: dict[str, Any], width: int) -> dict[str, Any]:
    """A section of states averaged over so many steps, which says so."""
    figures = [figure | {"id": f"{figure['id']}-coarse"} for figure in one["figures"]]
    asked = f"Averaged over {width} steps, where steps looked Gaussian. {one['asked']}"
    title = f"{one['title'].rstrip('?')}, averaged over {width}" + "?" * one["title"].endswith("?")
    changed = {"title": title, "asked": asked, "figures": figures}
    return one | changed | {"id": f"coarse-{one['id']}"}


def main_cards(b: Basis, order: Any) -> list[dict[str, Any]]:
    """The figures that matter of every study."""
    linear, nonlinear = order.findings[:2]
    return [
        card("Order in time", linear, "Whether the order of the states holds anything at all."),
        card("Beyond linear", nonlinear, "Whether a linear model is all there is to learn."),
        card(
            "What the SDE adds",
            gain_of(b.judged.scores, "fit", "gain of the neural SDE over VAR(1)"),
            f"Beside it: {lower(b.best[1].sentence())} {shuffled_gain(b.judged).sentence()}",
        ),
    ]


def card(label: str, found: Finding, why: str) -> dict[str, Any]:
    """A figure that matters, and why."""
    return {"label": label, "finding": plain(found), "why": why}


def lower(text: str) -> str:
    """A sentence to stand within one."""
    return text[:1].lower() + text[1:]


def facts(given: Given, plan: Plan, b: Basis) -> dict[str, Any]:
    """What was studied, for the foot of the page."""
    law = b.run.law
    return {
        **given.about,
        "dimension": given.dim,
        "documents of the test": len(np.unique(given.test.docs)),
        "fits": "; ".join(b.fits.runs),
        "optimiser steps": plan.steps,
        "scheme": law.scheme or "none",
        "step": "uneven" if law.step is None else law.step,
        "seed": plan.seed,
        "dynlm": version("dynlm"),
        "jax": jax.__version__,
    }
