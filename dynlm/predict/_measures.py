"""The numbers of one model: sums by path, then ratios with intervals by document."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from .. import stats
from .._io import counted
from .._types import RandomKey
from ..trajectory import Trajectory
from ._forecast import forecast_sums
from ._predictor import AbstractPredictor
from ._steps import LEVELS, Lift, on_host, step_sums
from ._table import Calibration, Failure, ModelScores

BINS = 20
FORECASTS = ("crps", "energy", "raw_crps", "raw_energy")


class Setting(NamedTuple):
    """What all models are scored with."""

    paths: Trajectory
    docs: np.ndarray
    key: RandomKey
    horizons: tuple[int, ...]
    draws: int
    origins: int
    burn: int
    lift: Lift | None
    raw: Array | None
    sst: Float[np.ndarray, " path"]
    raw_sst: Float[np.ndarray, " path"]
    raw_dim: int
    seed: int
    level: float
    resamples: int


class Ratio(NamedTuple):
    """Two sums by path. What is asked for is the ratio of their totals."""

    over: Float[np.ndarray, " path"]
    under: Float[np.ndarray, " path"]


Column = Ratio | Failure


def columns_of(model: AbstractPredictor | Failure, s: Setting) -> dict[str, Any]:
    """Every number of a model before it has an interval, by name; "crps:4" four steps ahead."""
    if isinstance(model, Failure):
        return defaultdict(lambda: model)
    dim, raw = s.paths.ys.shape[-1], s.lift is not None
    sums = on_host(step_sums(model, s.paths, s.burn, s.lift, s.raw))
    n = sums.count
    density, mean, raw_mean, cdf = sums.lost.sum(axis=0)
    steps = "transitions"
    none = getattr(model, "no_density", None)
    nll = Failure(none) if none else _ratio(sums.nll, n * dim, density, "log density", steps)
    found: dict[str, Any] = {
        "nll": nll,
        "r2": _ratio(sums.sse, s.sst, mean, "expectation", "transitions between unlike states"),
        "mse": _ratio(sums.sse, n * dim, mean, "expectation", steps),
        "pit": _ratio(sums.pit, n * dim, cdf, "distribution function", steps),
    }
    if raw:
        what = "expectation in raw units"
        found["raw_r2"] = _ratio(sums.raw_sse, s.raw_sst, raw_mean, what, "unlike raw states")
        found["raw_mse"] = _ratio(sums.raw_sse, n * s.raw_dim, raw_mean, what, steps)
    if s.horizons:
        keys = ("horizons", "draws", "origins", "burn", "lift", "raw")
        options = {name: getattr(s, name) for name in keys}
        ahead = on_host(forecast_sums(model, s.paths, key=s.key, **options))
        for i, h in enumerate(s.horizons):
            lost, n = ahead.lost[:, i].sum(), ahead.count[:, i]
            for name in FORECASTS[: 4 if raw else 2]:
                over = getattr(ahead, name)[:, i]
                what = f"forecast {counted(h, 'step')} ahead"
                found[f"{name}:{h}"] = _ratio(over, n, lost, what, f"stretches of {h + 1} states")
    return found


def _ratio(over: Any, under: Any, lost: float, what: str, needed: str) -> Column:
    if not under.sum() > 0:
        return Failure(f"there are no {needed} in these documents")
    if lost:
        return Failure(f"its {what} is not finite in {int(lost):,} cases")
    return Ratio(over, under)


def gain_of(reference: Column, mine: Column, name: str | None) -> Column:
    if isinstance(reference, Failure):
        return Failure(f"no gain over `{name}`: {reference.reason}")
    return mine if isinstance(mine, Failure) else mine._replace(over=reference.over - mine.over)


def scores_of(columns: dict[str, Any], note: str | None, s: Setting) -> ModelScores:
    """The numbers of one model with their intervals, all from the same resamples."""
    sure = {"level": s.level, "resamples": s.resamples, "seed": s.seed}
    pit = columns["pit"]
    names = ["nll", "r2", "mse", *_by_horizon(FORECASTS[:2], s)]
    if s.lift is not None:
        names += ["raw_r2", "raw_mse", *_by_horizon(FORECASTS[2:], s)]
    asked = {name: columns[name] for name in names}
    asked["gain"] = columns["gain"]
    asked["inside50"], asked["inside90"] = _inside(pit, 0.5), _inside(pit, 0.9)
    known = {name: c for name, c in asked.items() if isinstance(c, Ratio)}
    found: dict[str, Any] = {name: c for name, c in asked.items() if not isinstance(c, Ratio)}
    if known:
        over, under = (np.stack(x, axis=1) for x in zip(*known.values(), strict=True))
        found |= zip(known, stats.ratios(over, under, s.docs, **sure), strict=True)
    for name in {"r2", "raw_r2"} & known.keys():
        found[name] = stats.complement(found[name])

    histogram = distance = pit
    if isinstance(pit, Ratio):
        shares = pit.over.sum(axis=0).reshape(BINS, -1).sum(axis=1) / pit.over.sum()
        histogram = tuple(float(x) for x in shares)
        even = np.full(LEVELS, 1 / LEVELS)
        distance = stats.largest_gap(pit.over, even, s.docs, **sure)
    calibration = Calibration(histogram, distance, found.pop("inside50"), found.pop("inside90"))
    horizons = {
        name: {h: found.pop(f"{name}:{h}") for h in s.horizons}
        for name in FORECASTS[: 2 if s.lift is None else 4]
    }
    none: dict[str, Any] = {"raw_r2": None, "raw_mse": None, "raw_crps": {}, "raw_energy": {}}
    fields: dict[str, Any] = none | found | horizons
    return ModelScores(**fields, pit=calibration, note=note)


def _by_horizon(names: Sequence[str], s: Setting) -> list[str]:
    return [f"{name}:{h}" for name in names for h in s.horizons]


def _inside(pit: Column, share: float) -> Column:
    if isinstance(pit, Failure):
        return pit
    edge = round((1 - share) / 2 * LEVELS)
    return Ratio(pit.over[:, edge : LEVELS - edge].sum(axis=1), pit.under)
