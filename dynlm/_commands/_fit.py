"""`dynlm fit`: a neural SDE from a store or from tables, and what it is worth."""

import json
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from tyro.conf import Positional, arg

from .._fields import brief, read_json, shown, unreadable
from .._io import BadArgument, write_atomic
from ..store import (
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
from ._common import Stopped, check_numbers, print_json
from ._options import Name, Number, Whole

LEAST = {
    "dim": 1, "width": 1, "depth": 0, "rank": 1, "draws": 2, "substeps": 1, "steps": 1, "batch": 1,
    "window": 2, "accumulate": 1, "every": 1, "chunk": 1, "patience": 1, "seeds": 1, "seed": 0,
    "burn": 0, "save_seconds": 0, "power": 0,
}  # fmt: skip
LIKELIHOODS = {"euler", "local_linear", "strang", "local_skew", "zhang"}
PIECES = 60  # that fewer series are cut into, so that some can be held out
SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}  # of the documents, where files are imported
PROJECTION = "fit"


@dataclass(frozen=True)
class Fit:
    """Fit a neural SDE to a store, or to tables and arrays, and score it on held-out documents.

    Stopped or killed, the same command goes on where it was, and ends with the same bits. In
    Python, `dynlm.load_run(RUN)` gives the model.

    Such as:

      dynlm fit store --layer 3 --dim 16 --out run
      dynlm fit walks.csv --out run --loss local_linear --noise-on nothing
      dynlm fit store --layer final --dim 16 --diffusion full --width 128 --steps 20000 --out run
      dynlm fit store --config run.toml --out run

    Args:
        data: A store, or files: .csv, .tsv (also .gz), .npy, .npz.
        out: Folder of the run.
        config: A file with options by their names here, .toml or .json; flags go before it.
        layer: Of the store.
        dim: Principal components to fit, whitened; without it the coordinates, standardised.
        drift: What the drift is.
        diffusion: What the noise is.
        noise_on: What the noise depends on.
        width: Of the hidden layers.
        depth: How many there are.
        rank: Of low-rank noise.
        time: What the networks see of time.
        scale: Strength of the noise at the start; else that of the data's increments.
        loss: A likelihood of steps, by its scheme; "zhang"; or a score of simulated paths.
        simulate: With a score, how paths are simulated; else rollout.
        draws: With a score, simulated paths for each observed one; else 16.
        substeps: With a score, steps of the solver in each gap; else 1.
        steps: Of training.
        batch: Windows a step.
        window: States in a window.
        burn: States at the start of each path that are left out, in training and in scores.
        rate: Peak learning rate.
        warmup: Share of the steps in which it rises.
        schedule: What it does then.
        clip: Largest norm of the gradient.
        decay: Weight decay.
        accumulate: Parts that a batch is worked off in, to save memory.
        average: Decay of a moving average of the parameters, as 0.999.
        precision: Of the products in linear layers.
        every: Steps between rows of metrics.
        chunk: Steps in one compiled call.
        patience: Steps without a better held-out loss after which training ends.
        seeds: So many models at once; the scores are those of the first.
        seed: Of all random numbers.
        save_seconds: Least time between checkpoints.
        power: How often to plant and seek nonlinear effects of each of five strengths, to learn
            which one so many documents could have shown: five times as many fits, as 20.
        no_null: Leave out the same fit to shuffled states, which takes as long again.
        no_score: Leave out the scores on test documents, and the null.
        quiet: No progress and no table.
        json: Print the results as one line of JSON.
    """

    data: Positional[tuple[Path, ...]]
    out: Path
    config: Name = None
    layer: Name = None
    dim: Whole = None
    drift: Literal["mlp", "residual", "gradient", "lipschitz", "linear"] = "mlp"
    diffusion: Literal["scalar", "diagonal", "lowrank", "full"] = "diagonal"
    noise_on: Literal["nothing", "time", "component", "state"] = "state"
    width: int = 64
    depth: int = 2
    rank: int = 4
    time: Literal["none", "raw", "fourier"] = "none"
    scale: Number = None
    loss: Literal[
        "euler", "local_linear", "strang", "local_skew", "zhang", "energy", "step_energy", "crps",
        "marginal", "autocovariance", "mmd",
    ] = "euler"  # fmt: skip
    simulate: Annotated[
        Literal["rollout", "solve"] | None, arg(metavar="{rollout,solve}", help_behavior_hint="")
    ] = None
    draws: Whole = None
    substeps: Whole = None
    steps: int = 5000
    batch: int = 64
    window: int = 32
    burn: int = 1
    rate: float = 1e-3
    warmup: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 1.0
    decay: float = 0.0
    accumulate: int = 1
    average: Number = None
    precision: Literal["float32", "bfloat16"] = "float32"
    every: int = 500
    chunk: Whole = None
    patience: Whole = None
    seeds: Whole = None
    seed: int = 0
    save_seconds: float = 15.0
    power: int = 0
    no_null: bool = False
    no_score: bool = False
    quiet: bool = False
    json: bool = False


def with_defaults(arguments: list[str]) -> list[str]:
    """The arguments with what the file of `--config` says put before them, so that flags win."""
    path = next((b for a, b in zip(arguments, arguments[1:]) if a == "--config"), None)
    path = next((a.split("=", 1)[1] for a in arguments if a.startswith("--config=")), path)
    if path is None:
        return arguments
    known = {one.name for one in fields(Fit)} - {"config", "data"}
    given = {a.split("=")[0].lstrip("-").replace("-", "_") for a in arguments if a[:2] == "--"}
    before: list[str] = []
    for key, value in _read(Path(path)).items():
        name = key.replace("-", "_")
        if name not in known:
            raise BadArgument(f"{path} has {shown(key)}, which is no option of `dynlm fit`.")
        if isinstance(value, list | dict):
            raise BadArgument(f"{path}: {shown(key)} is {shown(value)}. Use one value.")
        flag = f"--{name.replace('_', '-')}"
        if name in given or value is False:
            continue
        before += [flag] if value is True else [flag, str(value)]
    return [*arguments, *before]


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
    from .. import _fit, _judge, specs

    check_numbers(config, LEAST)
    _check(config)
    store, layer = _store(config)
    projection = _projection(config, store, layer)
    dim = len(projection.width)
    spec = specs.NeuralSDE(
        dim, config.drift, config.diffusion, config.noise_on, config.width, config.depth,
        config.rank, config.time, config.scale,
    )  # fmt: skip
    optimiser = _fit.Adam(config.rate, config.warmup, config.schedule, config.clip, config.decay)
    loss, options = _loss(config)
    options |= {
        name: getattr(config, name)
        for name in "steps batch window accumulate average precision every chunk patience burn "
        "save_seconds seed quiet".split()
    }
    with _stoppable():
        found = _fit.fit(
            spec,
            store,
            key=jax.random.key(config.seed),
            loss=loss,
            layer=layer,
            projection=projection,
            optimiser=optimiser,
            seeds=config.seeds,
            out=config.out,
            **options,
        )
    results: dict[str, Any] = {"law": found.law._asdict(), "ended": found.ended}
    results |= {"last": found.log[-1], "kept_variance": projection.kept}
    text = ""
    if not config.no_score:
        train = _judge.rows_from(store.split("train"), layer, projection)
        null = None
        if not config.no_null:
            with _stoppable():
                null = _fit.fit(
                    spec,
                    _judge.shuffled_rows(train, seed=config.seed).paths,
                    held_out=_shuffled_valid(store, layer, projection, config.seed),
                    key=jax.random.key(config.seed),
                    loss=loss,
                    optimiser=optimiser,
                    out=config.out / "null",
                    **options,
                )
        test = _judge.rows_from(store.split("test"), layer, projection, raw=True)
        power = None
        if config.power:
            power = _power(config, train, test, spec, loss, optimiser, options)
        run = found if config.seeds is None else found.seed(0)
        verdict = _judge.judge(
            run,
            train,
            test,
            key=jax.random.key(config.seed + 1),
            null=null,
            lift=projection.lift,
            power=power,
            burn=config.burn,
        )
        results |= verdict.to_json()
        text = f"\n\n{verdict.text()}"
    write_atomic(config.out / "results.json", json.dumps(results, indent=1).encode() + b"\n")
    if not config.quiet:
        stream = sys.stderr if config.json else sys.stdout
        print(_summary(config, found) + text, file=stream, flush=True)
    if config.json:
        print_json(results)


def _check(config: Fit) -> None:
    if not config.data:
        raise BadArgument("No data are given. Name a store, as in `dynlm fit store --out run`.")
    for name, (low, high) in {"average": (0, 1), "warmup": (0, 1)}.items():
        value = getattr(config, name)
        if value is not None and not low <= value < high:
            raise BadArgument(f"`--{name}` is {value:g}. Use {low} or more, below {high}.")
    for name in ("rate", "clip", "scale"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise BadArgument(f"`--{name}` is {value:g}. Use a number above 0.")
    if config.loss in LIKELIHOODS:
        for name in ("simulate", "draws", "substeps"):
            if getattr(config, name) is not None:
                raise BadArgument(
                    f"`--{name}` is for scores of simulated paths, and `--loss` is {config.loss}. "
                    "Leave it out, or use a score such as energy."
                )
    if config.loss in ("strang", "local_skew") and config.noise_on not in ("nothing", "time"):
        raise BadArgument(
            f"`--loss` is {config.loss}, which takes noise that does not depend on the state. Use "
            "`--noise-on nothing`, or `--loss local_linear`."
        )
    if config.batch % config.accumulate:
        raise BadArgument(
            f"`--accumulate` is {config.accumulate} and `--batch` {config.batch}. Use a divisor."
        )


@contextmanager
def _stoppable() -> Iterator[None]:
    from ..train import Interrupted

    try:
        yield
    except Interrupted as stop:
        raise Stopped(str(stop).replace("the same call", "the same command")) from None
    except FloatingPointError as error:
        raise BadArgument(str(error)) from None


def _store(config: Fit) -> tuple[Store, Any]:
    """The data as a store, and its layer."""
    folders = [path for path in config.data if path.is_dir()]
    if folders and len(config.data) > 1:
        raise BadArgument(f"`data` names {len(config.data)} things. Name one store, or files.")
    if folders:
        store = open_store(folders[0])
    else:
        if config.layer is not None:
            raise BadArgument("`--layer` is for a store, and `data` are files. Leave it out.")
        store = _imported(config)
    names = {str(name): name for name in store.layers}
    if config.layer is None and len(names) == 1:
        return store, store.layers[0]
    if config.layer not in names:
        raise BadArgument(
            f"`--layer` is {shown(config.layer)}. The store has the layers {', '.join(names)}."
        )
    return store, names[config.layer]


def _imported(config: Fit) -> Store:
    """Files as a store within the run; few series are cut, and each piece is a document."""
    pieces: list[Any] = []
    series = [one for path in config.data for one in read_series(path)]
    wanted = -(-PIECES // max(len(series), 1))
    for one in series:
        ts = np.arange(len(one.ys), dtype=float) if one.ts is None else one.ts
        most = len(one.ys) // config.window
        cuts = max(1, min(wanted, max(most // 4, min(most, 10))))
        for part in np.array_split(np.arange(len(one.ys)), cuts):
            if len(part) >= 2:
                pieces.append((one.ys[part], ts[part]))
    if len(pieces) < 3:
        raise BadArgument("`data` has too few steps to hold some out. Give a longer series.")
    return from_arrays(config.out / "data", pieces, shares=SHARES, quiet=config.quiet)


def _projection(config: Fit, store: Store, layer: Any) -> Projection:
    """Whitened components of the training documents; kept in the run, to be the same again."""
    name = f"{PROJECTION}-{layer}-{config.dim or 'all'}"
    if name in projections(store):
        return load_projection(store, name)
    if config.dim is None:
        found = fit_projection(store, layer, None, scale="each", quiet=config.quiet)
    else:
        size = store.dims[layer]
        if config.dim > size:
            raise BadArgument(f"`--dim` is {config.dim}, and the states have {size} dimensions.")
        found = fit_projection(store, layer, config.dim, whiten=True, quiet=config.quiet)
    save_projection(store, name, found)
    return found


def _loss(config: Fit) -> tuple[Any, dict[str, Any]]:
    """The loss, and what `fit` needs beside it."""
    from .. import losses
    from ..simulate import rollout, solve

    if config.loss in LIKELIHOODS:
        known: dict[str, Any] = {
            "euler": losses.transition_nll,
            "local_linear": losses.local_linear_nll,
            "strang": losses.strang_nll,
            "local_skew": losses.nll_by(losses.LocalSkew()),
            "zhang": losses.zhang,
        }
        return known[config.loss], {}
    scores: dict[str, Any] = {
        "energy": losses.energy_score,
        "step_energy": losses.step_energy_score,
        "crps": losses.crps,
        "marginal": losses.marginal_distance,
        "autocovariance": jax.tree_util.Partial(losses.autocovariance_distance, lags=(0, 1, 4)),
        "mmd": jax.tree_util.Partial(losses.mmd, scales=(0.5, 1.0, 2.0)),
    }
    simulate = {"rollout": rollout, "solve": solve}[config.simulate or "rollout"]
    return scores[config.loss], {
        "simulate": simulate, "draws": config.draws or 16, "substeps": config.substeps or 1,
    }  # fmt: skip


def _shuffled_valid(store: Store, layer: Any, projection: Projection, seed: int) -> Any:
    """What the null is held out on, as the fit is on the validation documents."""
    from .. import _judge

    valid = store.split("valid")
    if len(valid) == 0:
        return None
    rows = _judge.rows_from(valid, layer, projection)
    return _judge.shuffled_rows(rows, seed=seed + 1).paths


def _power(
    config: Fit, train: Any, test: Any, spec: Any, loss: Any, optimiser: Any, options: Any
) -> Any:
    """Effects planted in simulated documents, and sought by the same fit."""
    from .. import _fit, baselines, predict

    if not config.quiet:
        count = config.power * 5
        print(f"power: {count} fits to planted effects", file=sys.stderr, flush=True)

    def fit(paths: Any, key: Any) -> Any:
        quietly = options | {"quiet": True, "held_out": jax.tree.map(lambda x: x[::10], paths)}
        rest = jax.tree.map(lambda x: x[np.arange(len(x)) % 10 > 0], paths)
        return _fit.fit(spec, rest, key=key, loss=loss, optimiser=optimiser, **quietly).predictor()

    return predict.power(
        fit,
        baselines.var1(train.paths),
        train.paths,
        train.docs,
        test.paths,
        test.docs,
        key=jax.random.key(config.seed + 2),
        linear=baselines.var1,
        repeats=config.power,
    )


def _summary(config: Fit, found: Any) -> str:
    last = found.log[-1]
    lines = [f"{config.out}: {last['step']} steps, ended by {found.ended}"]
    lines.append(f"loss {_number(last['loss'])}, held out {_number(last.get('held_out'))}")
    return "\n".join(lines)


def _number(x: Any) -> str:
    if x is None:
        return "none"
    values = np.atleast_1d(np.asarray(x, float))
    return ", ".join(f"{value:.4g}" for value in values)
