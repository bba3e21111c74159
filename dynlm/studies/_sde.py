"""`study`: rows of states as an SDE: fits, checks, baselines, and all analyses, as plain values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

import jax.random as jr

from .. import baselines, predict
from .._judge import Rows, judge
from .._judge import Verdict as Judged
from .._run import Run
from .._types import RandomKey
from ..trajectory import Trajectory
from ._budget import Budget
from ._fits import Fits, fitted
from ._given import Given
from ._plan import Plan


@final
class Basis(NamedTuple):
    """What every section is made from.

    Args:
        given: The rows.
        plan: How much is done.
        fits: What was fitted.
        judged: What the first fit is worth.
        linear: VAR(1), fitted to the same rows.
        refined: Of the other fits, whether they are processes in continuous time.
    """

    given: Given
    plan: Plan
    fits: Fits
    judged: Judged
    linear: baselines.Autoregressive
    refined: Mapping[str, Any]

    @property
    def run(self) -> Run:
        """The fit that is analysed."""
        return self.fits.main


def based(
    given: Given, plan: Plan, *, budget: Budget, out: Path | None = None, quiet: bool = False
) -> Basis:
    """Fits, scores and checks."""
    fit_key, judge_key, fine_key, power_key = jr.split(jr.key(plan.seed), 4)
    with budget.stage("fits"):
        fits = fitted(given, plan, key=fit_key, out=out, quiet=quiet)
    with budget.stage("baselines and scores"):
        judged = _judged(given, plan, fits, judge_key)
    refined: dict[str, Any] = {}
    if len(fits.runs) > 1:
        with budget.stage("refinement of the other fits"):
            for number, (name, run) in enumerate(list(fits.runs.items())[1:]):
                refined[name] = _refined(run, given.test.paths, jr.fold_in(fine_key, number))
    if plan.power:
        with budget.stage("power"):
            judged = judged._replace(power=_power(given, plan, power_key))
    linear = baselines.var1(given.train.paths, burn=plan.burn)
    return Basis(given, plan, fits, judged, linear, refined)


def _judged(given: Given, plan: Plan, fits: Fits, key: RandomKey) -> Judged:
    others = {name: run.predictor() for name, run in list(fits.runs.items())[1:]}

    def make(paths: Trajectory, key: RandomKey) -> dict[str, Any]:
        return others | _baselines(Rows(paths, given.train.docs), plan, key)

    return judge(
        fits.main,
        given.train,
        given.test,
        key=key,
        null=fits.null,
        make=make,
        unit=given.unit,
        burn=plan.burn,
        horizons=tuple(h for h in plan.horizons if h < given.test.paths.ts.shape[1] - plan.burn),
    )


def _baselines(rows: Rows, plan: Plan, key: RandomKey) -> dict[str, Any]:
    """All that every table has; the costly ones only where forecasts are asked for as well."""
    switch_key, mix_key = jr.split(key)
    paths, docs, burn = rows.paths, rows.docs, plan.burn
    found: dict[str, Any] = {
        "random walk": baselines.random_walk(paths, burn=burn),
        "iid": baselines.iid(paths, burn=burn),
        "var1": baselines.var1(paths, burn=burn),
    }
    if plan.horizons:
        found["ou"] = baselines.ou(paths, docs=docs, burn=burn)
        found["ar4"] = baselines.autoregression(paths, 4, docs=docs, burn=burn)
    found["switching4"] = baselines.switching(
        paths, 4, key=switch_key, restarts=plan.switching_starts, burn=burn
    )
    found["mixture8"] = baselines.mixture_density(
        paths, 8, key=mix_key, steps=plan.mixture_steps, docs=docs, burn=burn
    )
    return found


def _refined(run: Run, paths: Trajectory, key: RandomKey) -> Any:
    from .._judge import _refined as refined

    return refined(run, paths, key)[0]


def _power(given: Given, plan: Plan, key: RandomKey) -> predict.Power:
    """Which nonlinear effect so many documents could have shown: the first fit, of planted data."""
    from ._fits import refit

    train, test, burn = given.train, given.test, plan.burn

    def fit(paths: Trajectory, key: RandomKey) -> Any:
        return refit(paths, plan, key).predictor()

    def linear(paths: Trajectory) -> Any:
        return baselines.var1(paths, burn=burn)

    return predict.power(
        fit, linear(train.paths), train.paths, train.docs, test.paths, test.docs,
        key=key, linear=linear, repeats=plan.power, burn=burn,
    )  # fmt: skip
