"""The fits of a study: several noises and losses, several seeds, and the nulls of the first."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, final

import jax
import jax.random as jr
import numpy as np

from .. import losses, specs
from .._data import noise_of, windows_of
from .._fit import Adam, fit
from .._judge import Rows, shuffled_rows
from .._run import Run
from .._types import RandomKey
from ..trajectory import Trajectory
from ._given import Given
from ._plan import Plan

LIKELIHOODS: dict[str, Callable] = {
    "euler": losses.transition_nll,
    "local_linear": losses.local_linear_nll,
    "strang": losses.strang_nll,
    "zhang": losses.zhang,
}


@final
class Fits(NamedTuple):
    """What was fitted.

    Args:
        runs: By name, as "diagonal, euler"; of several seeds, the one with the least held-out loss.
        held_out: By name, the least held-out loss of each seed.
        spread: By name, the standard deviation over seeds of that loss; None of one seed.
        seeds: All models of the first fit, one a seed.
        nulls: The first fit, made of rows whose states were shuffled in time, an order each.
    """

    runs: dict[str, Run]
    held_out: dict[str, list[float]]
    spread: dict[str, float | None]
    seeds: tuple[Run, ...]
    nulls: tuple[Run, ...]

    @property
    def null(self) -> Run | None:
        """The first of the nulls; None where there are none."""
        return self.nulls[0] if self.nulls else None

    @property
    def main(self) -> Run:
        """The one that is analysed."""
        return next(iter(self.runs.values()))


def fitted(
    given: Given,
    plan: Plan,
    *,
    key: RandomKey,
    out: Path | None = None,
    null: bool = True,
    quiet: bool = False,
) -> Fits:
    """All fits of a plan; those whose folder in `out` says that they are done are read."""
    runs, held, spread = {}, {}, {}
    seeds: tuple[Run, ...] = ()
    for number, (diffusion, loss) in enumerate(plan.fits):
        name = name_of(diffusion, loss)
        folder = None if out is None else out / f"{diffusion}-{loss}"
        several = _fit(given.train, given.valid, (diffusion, loss), plan, jr.fold_in(key, number),
                       folder, quiet)  # fmt: skip
        run, worth = best_of(several, plan)
        runs[name], held[name] = run, worth
        if not seeds:
            alone = len(worth) == 1
            seeds = (run,) if alone else tuple(several.seed(k) for k in range(len(worth)))
        spread[name] = float(np.std(worth, ddof=1)) if len(worth) > 1 else None
    return Fits(runs, held, spread, seeds, _nulls(given, plan, key, out, quiet) if null else ())


def _nulls(
    given: Given, plan: Plan, key: RandomKey, out: Path | None, quiet: bool
) -> tuple[Run, ...]:
    """By the key of the first fit and from its noise: without order all are alike but by chance."""
    runs: list[Run] = []
    scale = noise_scale(given.train.paths)
    for number in range(plan.nulls):
        seed = plan.seed + 1 + 2 * number
        train, valid = (
            shuffled_rows(rows, seed=seed + k, burn=plan.burn)
            for k, rows in enumerate((given.train, given.valid))
        )
        folder = None if out is None else out / ("null" if number == 0 else f"null-{number + 1}")
        several = _fit(train, valid, plan.fits[0], plan, jr.fold_in(key, 0), folder, quiet, scale)
        runs.append(best_of(several, plan)[0])
    return tuple(runs)


def refit(paths: Trajectory, plan: Plan, key: RandomKey) -> Run:
    """The first fit once more, of other paths; every tenth of them is held out."""
    number = np.arange(len(paths.ts))
    rest, held = number[number % 10 > 0], number[number % 10 == 0]
    rows = Rows(jax.tree.map(lambda x: x[rest], paths), rest)
    valid = Rows(jax.tree.map(lambda x: x[held], paths), held)
    one = dataclasses.replace(plan, seeds=1)
    return _fit(rows, valid, plan.fits[0], one, key, None, True)


def name_of(diffusion: str, loss: str) -> str:
    """A fit by name."""
    return f"{diffusion}, {loss.replace('_', ' ')}"


def noise_scale(paths: Trajectory) -> float:
    """The power of two nearest to what `fit` would take: alike for fits that can share programs."""
    return float(2.0 ** np.round(np.log2(noise_of(windows_of(paths, 2)))))


def best_of(run: Run, plan: Plan) -> tuple[Run, list[float]]:
    """Of several seeds the one with the least held-out loss, and that of each."""
    losses_by_row = [np.atleast_1d(np.asarray(row["held_out"], float)) for row in run.log
                     if row.get("held_out") is not None]  # fmt: skip
    worth = np.min(np.stack(losses_by_row), axis=0)
    if run.facts.get("seeds") is None:
        return run, worth.tolist()
    return run.seed(int(np.nanargmin(worth))), worth.tolist()


def _fit(
    train: Rows,
    valid: Rows,
    wish: tuple[str, str],
    plan: Plan,
    key: RandomKey,
    out: Path | None,
    quiet: bool,
    scale: float | None = None,
) -> Run:
    diffusion, loss = wish
    dim = int(train.paths.ys.shape[-1])
    known: Any = diffusion
    scale = noise_scale(train.paths) if scale is None else scale
    spec = specs.NeuralSDE(dim, diffusion=known, width=plan.width, rank=plan.rank, scale=scale)
    return fit(
        spec,
        train.paths,
        held_out=jax.tree.map(np.asarray, valid.paths),
        loss=LIKELIHOODS[loss],
        key=key,
        steps=plan.steps,
        batch=plan.batch,
        window=plan.window,
        burn=plan.burn,
        every=max(1, plan.steps // 10),
        optimiser=Adam(),
        seeds=plan.seeds if plan.seeds > 1 else None,
        seed=plan.seed,
        out=out,
        quiet=quiet,
    )
