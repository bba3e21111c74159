"""`study`: rows of states as an SDE: fits, checks, baselines, and all analyses, as plain values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

import jax.random as jr

from .. import baselines, predict
from .._judge import Rows, judge, refined
from .._judge import Verdict as Judged
from .._run import Run
from .._types import RandomKey
from ..analysis.findings import Finding, finding, withheld
from ..predict._steps import on_host, step_sums
from ..sde import SDE
from ..stats import Interval, ratios
from ..trajectory import Trajectory
from ._budget import Budget
from ._fits import Fits, fitted
from ._given import Given
from ._plan import Plan

NO_ORDER = (
    "Nothing beyond independent states was found in the order in time: what stands here describes "
    "a fit, and is no dynamics of the states."
)
BESIDE = (
    "No fit of shuffled states was made: null values are those of a formula, which a fitted net "
    "meets only roughly.",
    "Numbers stand beside those of one fit to shuffled states, and nothing is tested by it: how "
    "such fits differ is not known.",
    "The tested numbers stand beside those of fits to shuffled states, and intervals are widened "
    "by how these differ from one random order to the next.",
)
NO_GAIN = (
    "The fit does not predict held-out documents better than a linear model: where the two differ, "
    "what stands here describes the fit, and not the states."
)


@final
class Basis(NamedTuple):
    """What every section is made from.

    Args:
        given: The rows.
        plan: How much is done.
        fits: What was fitted.
        judged: What the first fit is worth.
        linear: VAR(1), fitted to the same rows.
        refined: Of the other fits, whether they are processes in continuous time, and why not.
        best: The baseline that scored best, by name, and what the first fit gains over it.
        by_seed: The gain over VAR(1) of each model of the first fit.
        order: What the order in time holds, of ORDER in `_sections_process`, if it was asked.
    """

    given: Given
    plan: Plan
    fits: Fits
    judged: Judged
    linear: baselines.Autoregressive
    refined: Mapping[str, tuple[Any, str]]
    best: tuple[str, Finding]
    by_seed: tuple[float, ...] = ()
    order: str = ""

    @property
    def nulls(self) -> list[SDE]:
        """Fits of the same states in random orders."""
        return [run.model for run in self.fits.nulls]

    @property
    def beside(self) -> str:
        """What the tested numbers of the fit are compared with."""
        return BESIDE[min(len(self.nulls), 2)]

    @property
    def caution(self) -> list[str]:
        """What has to be read before anything that is said of the fit, where something has."""
        gain = self.judged.scores.models["fit"].gain
        gains = isinstance(gain, Interval) and gain.low is not None and gain.low > 0
        if self.order == "none":
            return [NO_ORDER]
        return [] if gains else [NO_GAIN]

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
        judged, models = _judged(given, plan, fits, judge_key)
        best = _over_best(given, plan, fits.main, judged, models)
        by_seed = _by_seed(given, plan, fits, models["var1"])
    others: dict[str, Any] = {}
    if len(fits.runs) > 1:
        with budget.stage("refinement of the other fits"):
            for number, (name, run) in enumerate(list(fits.runs.items())[1:]):
                others[name] = _refined(run, given.test.paths, jr.fold_in(fine_key, number))
    if plan.power:
        with budget.stage("power"):
            judged = judged._replace(power=_power(given, plan, power_key))
    linear = baselines.var1(given.train.paths, burn=plan.burn)
    return Basis(given, plan, fits, judged, linear, others, best, by_seed)


def _judged(given: Given, plan: Plan, fits: Fits, key: RandomKey) -> tuple[Judged, dict[str, Any]]:
    """The scores, and the baselines that were scored."""
    made: dict[str, Any] = {}
    others = {name: run.predictor() for name, run in list(fits.runs.items())[1:]}

    def make(paths: Trajectory, key: RandomKey) -> dict[str, Any]:
        made.update(_baselines(Rows(paths, given.train.docs), plan, key))
        return others | made

    judged = judge(
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
    return judged, made


def _over_best(
    given: Given, plan: Plan, run: Run, judged: Judged, models: Mapping[str, Any]
) -> tuple[str, Finding]:
    """What a fit gains over the best baseline, paired by document; by programs that are there."""
    what = "gain of the neural SDE over the best baseline"
    scored = {k: judged.scores.models[k].nll for k in models}
    known = {k: x.value for k, x in scored.items() if isinstance(x, Interval)}
    mine = judged.scores.models["fit"].nll
    if not known or not isinstance(mine, Interval):
        return "", withheld(what, "the fit or all baselines have no density")
    name = min(known, key=known.__getitem__)
    sums = [on_host(step_sums(one, given.test.paths, plan.burn, None, None))
            for one in (models[name], run.predictor())]  # fmt: skip
    over = (sums[0].nll - sums[1].nll)[:, None]
    under = sums[1].count[:, None] * given.dim
    (gain,) = ratios(over, under, given.test.docs, seed=plan.seed)
    unit = "nats per step and dimension"
    return name, finding(what, gain, 0.0, unit=unit, of_null="of that baseline itself")


def _by_seed(given: Given, plan: Plan, fits: Fits, linear: Any) -> tuple[float, ...]:
    """The gain over a linear model of every seed, by programs that are there."""
    models = [linear, *(run.predictor() for run in fits.seeds)]
    sums = [on_host(step_sums(one, given.test.paths, plan.burn, None, None)) for one in models]
    under = sums[0].count.sum() * given.dim
    return tuple(float((sums[0].nll - one.nll).sum() / under) for one in sums[1:])


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
    if plan.switching_starts:
        found["switching4"] = baselines.switching(
            paths, 4, key=switch_key, restarts=plan.switching_starts, burn=burn
        )
    found["mixture8"] = baselines.mixture_density(
        paths, 8, key=mix_key, steps=plan.mixture_steps, docs=docs, burn=burn
    )
    return found


def _refined(run: Run, paths: Trajectory, key: RandomKey) -> tuple[Any, str]:
    found, _, reason = refined(run, paths, key)
    return found, reason


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
