"""`score`: any one-step models on held-out documents, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import RandomKey
from ..losses._schemes import EulerMaruyama
from ..sde import SDE
from ..trajectory import Trajectory
from ._measures import Setting, columns_of, gain_of, scores_of
from ._predictor import AbstractPredictor
from ._sde import DRAWS, FromSDE
from ._steps import Lift, on_host, scored, spread
from ._table import Failure, ScoreTable


def score(
    models: Mapping[str, Any],
    paths: Trajectory,
    docs: Any,
    *,
    key: RandomKey,
    horizons: Sequence[int] = (1, 4, 16),
    draws: int = 64,
    origins: int = 4,
    burn: int = 1,
    lift: Lift | None = None,
    raw: Float[Array, "path time raw"] | None = None,
    reference: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> ScoreTable:
    """Scores of several one-step models on held-out documents, with intervals by document.

    The transition from state k to state k + 1 of a path counts where both are real, time moves, and
    k is `burn` or more: for every model alike. A number that a model cannot give, because something
    it predicts is not finite, is a `Failure` with a reason, and the other numbers stand.

    Args:
        models: By name: predictors; `SDE`s, taken with one Euler step per gap (for another scheme
            wrap them in `FromSDE`); or what a fit returned in place of a model: an object that is
            false and has a `reason`.
        paths: A batch of held-out paths.
        docs: The document of each path.
        key: Random key, of the draws and of the resampling.
        horizons: Steps ahead that forecasts are scored at; empty for no forecasts.
        draws: Draws of each forecast.
        origins: From how many states of each path forecasts start, evenly spread.
        burn: How many transitions at the start of each path do not count.
        lift: From a state to raw units, such as `projection.lift`; adds scores in raw units.
        raw: The true raw states, so that what a projection left out counts as an error, for every
            method alike; by default the lifted states.
        reference: The model that gains in log density are over; by default "var1" if there is one.
        level: Of the intervals.
        resamples: How many times the documents are drawn anew.
    """
    docs = np.asarray(docs)
    least = {"draws": (draws, 2), "origins": (origins, 1), "burn": (burn, 0)}
    _check(models, paths, docs, horizons, least, lift, raw)
    reference = _reference(models, reference)
    taken = {name: _taken(name, model) for name, model in models.items()}
    sst, raw_sst = on_host(spread(paths, burn, lift, raw))
    raw_dim = 0 if lift is None else int(np.size(lift(paths.ys[0, 0])))
    draw_key, seed_key = jr.split(key)
    seed = int(jr.bits(seed_key))
    setting = Setting(
        paths, docs, draw_key, tuple(horizons), draws, origins, burn, lift, raw,
        sst, raw_sst, raw_dim, seed, level, resamples,
    )  # fmt: skip

    columns = {name: columns_of(model, setting) for name, (model, _) in taken.items()}
    over = columns[reference]["nll"] if reference else None
    for mine in columns.values():
        mine["gain"] = None if over is None else gain_of(over, mine["nll"], reference)
    counts = on_host(jax.vmap(lambda path: jnp.sum(scored(path, burn)))(paths))
    return ScoreTable(
        models={name: scores_of(columns[name], note, setting) for name, (_, note) in taken.items()},
        reference=reference,
        documents=len(np.unique(docs[counts > 0])),
        paths=len(docs),
        transitions=int(counts.sum()),
        burn=burn,
        horizons=tuple(horizons),
        draws=draws,
        origins=origins,
        level=level,
        raw_unit=None if lift is None else "lift" if raw is None else "raw",
    )


def _taken(name: str, model: Any) -> tuple[AbstractPredictor | Failure, str | None]:
    """What scores a model, and a word on how it was taken if that needs one."""
    if isinstance(model, AbstractPredictor):
        drawn = isinstance(model, FromSDE) and model.drawn
        return model, f"R2, mse and calibration are of {DRAWS} draws of a step" if drawn else None
    if isinstance(model, SDE):
        return FromSDE(model, EulerMaruyama()), "an SDE, taken with one Euler step per gap"
    if hasattr(model, "reason") and not model:
        return Failure(str(model.reason)), None
    raise BadArgument(
        f"`models[{name!r}]` is a {type(model).__name__}. Pass a predictor, such as "
        "`dynlm.baselines.var1(paths)`, or an `SDE`."
    )


def _reference(models: Mapping[str, Any], reference: str | None) -> str | None:
    if reference is None:
        return "var1" if "var1" in models else None
    if reference not in models:
        raise BadArgument(f"`reference` is {reference!r}. Use one of {', '.join(models)}.")
    return reference


def _check(
    models: Any,
    paths: Trajectory,
    docs: np.ndarray,
    horizons: Sequence[int],
    counts: dict[str, tuple[int, int]],
    lift: Any,
    raw: Any,
) -> None:
    if not models:
        raise BadArgument("`models` is empty. Pass a dict of names and models.")
    if paths.ts.ndim != 2:
        raise BadArgument(
            f"`paths.ts` has shape {paths.ts.shape}. Pass a batch: `dynlm.stack([path, ...])`."
        )
    if docs.shape != paths.ts.shape[:1]:
        raise BadArgument(
            f"`docs` has shape {docs.shape}, and `paths` has {len(paths.ts)} rows. Pass the "
            "document of each row."
        )
    if any(h < 1 for h in horizons) or len(set(horizons)) < len(horizons):
        raise BadArgument(f"`horizons` is {horizons}. Use different whole numbers from 1 on.")
    for name, (value, least) in counts.items():
        if value < least:
            raise BadArgument(f"`{name}` is {value}. Use {least} or more.")
    if raw is not None and lift is None:
        raise BadArgument("`raw` is given and `lift` is not. Pass both: predictions need `lift`.")
    if raw is not None and raw.shape[:2] != paths.ys.shape[:2]:
        raise BadArgument(
            f"`raw` has shape {raw.shape}, and `paths.ys` {paths.ys.shape}. Pass the raw state of "
            "each state."
        )
