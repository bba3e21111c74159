"""`dynlm fit`: a neural SDE from a store or from tables, and what it is worth."""

import functools
import json
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._fields import brief, read_json, shown, unreadable
from .._io import BadArgument, write_atomic
from ..store import (
    SHARES,
    Projection,
    Store,
    fit_projection,
    from_arrays,
    load_projection,
    open_store,
    projections,
    read_series,
    save_projection,
)
from ..store._split import counts
from ._common import MB, Stopped, join, print_json
from ._fit_options import LIKELIHOODS, Fit, check, names

BLOCKS = 60  # that one series is cut into; fewer, down to 12, where they would be shorter than
WINDOWS = 4  # so many windows
FEWEST = 12
PARTS = {"train": 0.7, "valid": 0.1, "test": 0.2}  # of series or blocks, where files are imported
PROJECTION = "fit"
RESULTS = "results.json"


def with_defaults(arguments: list[str]) -> list[str]:
    """The arguments, and after them what the file of `--config` says and no flag does."""
    path = next((b for a, b in zip(arguments, arguments[1:]) if a == "--config"), None)
    path = next((a.split("=", 1)[1] for a in arguments if a.startswith("--config=")), path)
    if path is None:
        return arguments
    known = names()
    given = {a.split("=")[0].lstrip("-").replace("-", "_") for a in arguments if a[:2] == "--"}
    rest: list[str] = []
    for key, value in _read(Path(path)).items():
        name = key.replace("-", "_")
        if name not in known:
            raise BadArgument(f"{path} has {shown(key)}, which is no option of `dynlm fit`.")
        if isinstance(value, list | dict):
            raise BadArgument(f"{path}: {shown(key)} is {shown(value)}. Use one value.")
        flag = f"--{name.replace('_', '-')}"
        if name in given or value is False:
            continue
        rest += [flag] if value is True else [flag, str(value)]
    return [*arguments, *rest]


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return read_json(path)
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise unreadable(path, error) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadArgument(f"{path} is no valid TOML ({brief(error)}).") from None


def run(config: Fit) -> None:
    """Fit, score, and say what came of it."""
    from .. import _data, _fit
    from ..predict._table import plain

    check(config)
    if config.judging.power and config.judging.no_score:
        raise BadArgument("`--power` is one of the scores that `--no-score` leaves out. Drop one.")
    if config.judging.power and config.objective.loss not in LIKELIHOODS:
        raise BadArgument(
            f"`--power` is measured on gains in log density, and `--loss` is "
            f"{config.objective.loss}, whose fit has draws only. Use a likelihood, such as euler, "
            "or leave `--power` out."
        )
    leads = not join(config.sharing) or jax.process_index() == 0
    quiet = config.quiet or not leads
    store, layer = _store(config, quiet, leads)
    test = _data.part_of(store, "test")
    if config.judging.power and len(np.unique(test.docs)) < 2:
        raise BadArgument("`--power` needs two test documents or more. Give more, or leave it out.")
    projection = _first(
        leads, "projected", lambda: _projection(config, store, layer, quiet)
    ) or load_projection(store, _name(config, layer))
    spec, settings = _settings(config, len(projection.width), quiet)
    key = jax.random.key(config.training.seed)
    with _stoppable():
        found = _fit.fit(
            spec,
            store,
            key=key,
            layer=layer,
            projection=projection,
            seeds=config.training.seeds,
            out=config.out,
            **settings,
        )
    results: dict[str, Any] = {"law": found.law._asdict(), "ended": found.ended}
    results |= {"last": plain(found.log[-1])}  # a loss may not be finite
    results |= {"dim": len(projection.width), "kept_variance": projection.kept}
    text = ""
    if not config.judging.no_score:
        how = spec, settings
        verdict, train, test = _judged(config, found, store, layer, projection, how)
        results |= verdict.to_json()
        if config.judging.power:
            _keep(config, results, leads)
            verdict = verdict._replace(power=_power(config, train, test, *how))
            results |= verdict.to_json()
        text = f"\n\n{verdict.text()}"
    _keep(config, results, leads)
    if not quiet:
        stream = sys.stderr if config.json else sys.stdout
        print(_summary(config, found, projection) + text, file=stream, flush=True)
    if config.json and leads:
        print_json(results)


def _keep(config: Fit, results: dict[str, Any], leads: bool) -> None:
    if leads:
        text = json.dumps(results, indent=1, allow_nan=False)
        write_atomic(config.out / RESULTS, text.encode() + b"\n")


def _settings(config: Fit, dim: int, quiet: bool) -> tuple[Any, dict[str, Any]]:
    """The model, and what `fit` is told for the data and for its null alike."""
    from .. import specs, train
    from .._fit import Adam

    model, how, run = config.model, config.optimiser, config.training
    spec = specs.NeuralSDE(
        dim, model.drift, model.diffusion, model.noise_on, model.width, model.depth, model.rank,
        model.time, model.scale, model.floor, model.lipschitz, model.calculus,
    )  # fmt: skip
    settings = {name: getattr(how, name) for name in ("accumulate", "average", "precision")}
    settings |= {
        name: getattr(run, name)
        for name in "steps batch window every chunk patience burn save_seconds seed".split()
    }
    settings["loss"] = _loss(config)
    settings["optimiser"] = Adam(how.rate, how.warmup, how.schedule, how.clip, how.decay)
    settings["guard"] = train.Guard(run.guard_patience, run.guard_factor, run.guard_most)
    return spec, settings | {"resident": int(run.resident_mb * MB), "quiet": quiet}


def _judged(
    config: Fit,
    found: Any,
    store: Store,
    layer: Any,
    projection: Projection,
    how: tuple[Any, dict[str, Any]],
) -> tuple[Any, Any, Any]:
    """The fit beside baselines and its null, on test documents; rows for training and the test."""
    from .. import _fit, _judge
    from .._data import part_of, unit_of

    spec, settings = how
    seed, burn = config.training.seed, config.training.burn

    def rows(part: str, **more: bool) -> Any:
        more["from_zero"] = spec.time == "none"
        return _judge.rows_from(part_of(store, part), layer, projection, **more)

    train, null = rows("train"), None
    if not config.judging.no_null:
        held_out = None
        if len(part_of(store, "valid")):
            held_out = _judge.shuffled_rows(rows("valid"), seed=seed + 1, burn=burn).paths
        with _stoppable():
            null = _fit.fit(
                spec,
                _judge.shuffled_rows(train, seed=seed, burn=burn).paths,
                held_out=held_out,
                key=jax.random.key(seed),
                out=config.out / "null",
                **settings,
            )
    test = rows("test", raw=True)
    verdict = _judge.judge(
        found if config.training.seeds is None else found.seed(0),
        train,
        test,
        key=jax.random.key(seed + 1),
        null=null,
        lift=projection.lift,
        unit=unit_of(store),
        burn=burn,
    )
    return verdict, train, test


@contextmanager
def _stoppable() -> Iterator[None]:
    from ..train import Interrupted

    try:
        yield
    except Interrupted as stop:
        raise Stopped(str(stop).replace("the same call", "the same command")) from None
    except FloatingPointError as error:
        raise BadArgument(str(error)) from None


def _first(leads: bool, moment: str, make: Any) -> Any:
    """What `make` gives in the first process, once all are here; nothing in the others."""
    found = make() if leads else None
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"dynlm fit: {moment}")
    return found


def _store(config: Fit, quiet: bool, leads: bool) -> tuple[Store, Any]:
    """The data as a store, and its layer."""
    folders = [path for path in config.data if path.is_dir()]
    if folders and len(config.data) > 1:
        raise BadArgument(f"`data` names {len(config.data)} things. Name one store, or files.")
    if folders:
        store = open_store(folders[0])
    else:
        if config.layer is not None:
            raise BadArgument("`--layer` is for a store, and `data` are files. Leave it out.")
        made = _first(leads, "imported", lambda: _imported(config, quiet))
        store = made or open_store(config.out / "data")
    known = {str(name): name for name in store.layers}
    if config.layer is None and len(known) == 1:
        return store, store.layers[0]
    if config.layer not in known:
        raise BadArgument(
            f"`--layer` is {shown(config.layer)}. The store has the layers {', '.join(known)}."
        )
    return store, known[config.layer]


def _imported(config: Fit, quiet: bool) -> Store:
    """Files as a store within the run: each series a document, or the blocks of one or two."""
    from .._data import IN_TIME

    found = [one for path in config.data for one in read_series(path) if len(one.ys) >= 2]
    series = [
        (one.ys, np.arange(len(one.ys), dtype=float) if one.ts is None else one.ts) for one in found
    ]
    columns = {}
    if len(series) < len(SHARES):
        run = config.training
        cuts = [blocks(len(ys), run.window, run.burn, len(series)) for ys, _ in series]
        columns[IN_TIME] = [len(SHARES) * k + part for k, cut in enumerate(cuts) for part, _ in cut]
        series = [(ys[span], ts[span]) for (ys, ts), cut in zip(series, cuts) for _, span in cut]
    if not series:
        raise BadArgument("`data` has no series of two steps or more. Give a longer one.")
    folder = config.out / "data"
    return from_arrays(folder, series, columns=columns, shares=PARTS, quiet=quiet)


def blocks(length: int, window: int, burn: int, series: int = 1) -> list[tuple[int, slice]]:
    """The blocks of a series in time, each with the number of its part.

    Between two parts a block is left out, so that what is scored does not touch what was seen.
    """
    number = min(BLOCKS // series, max(FEWEST, length // (WINDOWS * window)))
    if length // number < burn + 2:
        raise BadArgument(
            f"`data` has a series of {length} steps, too few to hold some out: it is cut into "
            f"{number} blocks, of which each needs {burn + 2} steps. Give a longer one."
        )
    ends = np.linspace(0, length, number + 1).round().astype(int).tolist()
    sizes = counts(number - 2, [Fraction(str(part)) for part in PARTS.values()])
    parts = [part for k, size in enumerate(sizes) for part in [*[k] * size, None]][:-1]
    return [(part, slice(a, b)) for part, a, b in zip(parts, ends, ends[1:]) if part is not None]


def _name(config: Fit, layer: Any) -> str:
    return f"{PROJECTION}-{layer}-{'all' if config.dim is None else config.dim}"


def _projection(config: Fit, store: Store, layer: Any, quiet: bool) -> Projection:
    """Whitened components of the training documents; kept beside them, to be the same again."""
    from .._data import IN_TIME, part_of

    if (name := _name(config, layer)) in projections(store):
        return load_projection(store, name)
    cut = IN_TIME in store.columns  # what is for training is no split then
    rows, split = (part_of(store, "train"), None) if cut else (store, "train")
    scale = "each" if config.dim is None else "none"
    whiten = config.dim is not None
    found = fit_projection(
        rows, layer, config.dim, split=split, scale=scale, whiten=whiten, quiet=quiet
    )
    save_projection(store, name, found)
    return found


def _loss(config: Fit) -> Any:
    """The loss."""
    from .. import losses
    from .._run import SOLVERS
    from ..simulate import rollout, solve

    wish = config.objective
    if wish.loss in LIKELIHOODS:
        known: dict[str, Any] = {
            "euler": losses.transition_nll,
            "local_linear": losses.local_linear_nll,
            "strang": losses.strang_nll,
            "local_skew": losses.nll_by(losses.LocalSkew()),
            "zhang": losses.zhang,
        }
        return known[wish.loss]
    scores: dict[str, Any] = {
        "energy": losses.energy_score,
        "step_energy": losses.step_energy_score,
        "crps": losses.crps,
    }
    distances: dict[str, Any] = {
        "marginal": losses.marginal_distance,
        "autocovariance": jax.tree_util.Partial(losses.autocovariance_distance, lags=(0, 1, 4)),
        "mmd": jax.tree_util.Partial(losses.mmd, scales=(0.5, 1.0, 2.0)),
    }
    options: dict[str, Any] = {
        "simulate": {"rollout": rollout, "solve": solve}[wish.simulate or "rollout"],
        "draws": wish.draws or 16,
        "substeps": wish.substeps or 1,
        "solver": None if wish.solver is None else SOLVERS[wish.solver](),
        "prefix": wish.prefix,
        "horizon": wish.horizon,
    }
    if wish.loss in distances:
        return losses.set_simulated(distances[wish.loss], **options)
    return losses.simulated(scores[wish.loss], **options)


def _power(config: Fit, train: Any, test: Any, spec: Any, settings: dict[str, Any]) -> Any:
    """Effects planted in simulated documents, and sought by the same fit."""
    from .. import _fit, baselines, predict

    repeats, burn = config.judging.power, config.training.burn
    if not settings["quiet"]:
        print(f"power: {repeats * 5} fits to planted effects", file=sys.stderr, flush=True)

    def fit(paths: Any, key: Any) -> Any:
        quietly = settings | {"quiet": True, "held_out": jax.tree.map(lambda x: x[::10], paths)}
        rest = jax.tree.map(lambda x: x[np.arange(len(x)) % 10 > 0], paths)
        return _fit.fit(spec, rest, key=key, **quietly).predictor()

    linear = functools.partial(baselines.var1, burn=burn)
    try:
        return predict.power(
            fit,
            linear(train.paths),
            train.paths,
            train.docs,
            test.paths,
            test.docs,
            key=jax.random.key(config.training.seed + 2),
            linear=linear,
            repeats=repeats,
            burn=burn,
        )
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped while the power was measured. {config.out / RESULTS} has the scores without "
            "it; the same command takes them again and measures it from its start."
        ) from None


def _summary(config: Fit, found: Any, projection: Projection) -> str:
    last = found.log[-1]
    lines = [f"{config.out}: {last['step']} steps, ended by {found.ended}"]
    if config.dim is not None:
        lines.append(
            f"{len(projection.width)} components of {len(projection.mean)} hold "
            f"{projection.kept:.1%} of the variance of the training states"
        )
    lines.append(f"loss {_number(last['loss'])}, held out {_number(last.get('held_out'))}")
    return "\n".join(lines)


def _number(x: Any) -> str:
    if x is None:
        return "none"
    values = np.atleast_1d(np.asarray(x, float))
    return ", ".join(f"{value:.4g}" for value in values)
