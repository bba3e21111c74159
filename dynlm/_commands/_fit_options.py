"""The options of `dynlm fit`, in the groups that its help shows."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from .._io import BadArgument
from ._common import check_numbers, options_of
from ._options import Name, Number, Whole

LEAST = {
    "width": 1, "depth": 0, "rank": 1, "draws": 2, "substeps": 1, "prefix": 1, "horizon": 1,
    "steps": 1, "batch": 1, "window": 2, "accumulate": 1, "every": 1, "chunk": 1, "patience": 1,
    "seeds": 1, "seed": 0, "burn": 0, "save_seconds": 0, "resident_mb": 0, "guard_patience": 1,
    "guard_most": 0, "power": 0, "processes": 1, "process": 0,
}  # fmt: skip
LIKELIHOODS = {"euler", "local_linear", "strang", "local_skew", "zhang"}
OF_SCORES = ("simulate", "draws", "substeps", "solver", "prefix", "horizon")

Components = Annotated[
    int | Literal["auto"] | None, arg(metavar="{INT,auto}", help_behavior_hint="")
]
Solver = Annotated[
    Literal["Euler", "Heun", "ItoMilstein", "StratonovichMilstein", "ShARK", "ReversibleHeun"]
    | None,
    arg(
        metavar="{Euler,Heun,ItoMilstein,StratonovichMilstein,ShARK,ReversibleHeun}",
        help_behavior_hint="",
    ),
]


@dataclass(frozen=True)
class Model:
    """The SDE.

    Args:
        drift: What the drift is.
        diffusion: What the noise is.
        noise_on: What the noise depends on.
        width: Of the hidden layers.
        depth: How many there are.
        rank: Of low-rank noise.
        time: What the networks see of time.
        scale: Strength of the noise at the start; else that of the data's increments.
        floor: Least strength of the noise.
        lipschitz: Constant of a Lipschitz drift.
        calculus: That the SDE is read with.
    """

    drift: Literal["mlp", "residual", "gradient", "lipschitz", "linear"] = "mlp"
    diffusion: Literal["scalar", "diagonal", "lowrank", "full"] = "diagonal"
    noise_on: Literal["nothing", "time", "component", "state"] = "state"
    width: int = 128
    depth: int = 2
    rank: int = 4
    time: Literal["none", "raw", "fourier"] = "none"
    scale: Number = None
    floor: float = 1e-3
    lipschitz: float = 1.0
    calculus: Literal["ito", "stratonovich"] = "ito"


@dataclass(frozen=True)
class Objective:
    """The loss.

    Args:
        loss: A likelihood of steps, by its scheme; "zhang"; or a score of simulated paths.
        simulate: With a score, how paths are simulated; else rollout.
        draws: With a score, simulated paths for each observed one; else 16.
        substeps: With a score, steps of the solver in each gap; else 1.
        solver: With a score, of Diffrax; else Euler of an Ito SDE, Heun of a Stratonovich one.
        prefix: With a score, what follows so many states is scored; else all after the first.
        horizon: With a score, so many steps at a time are forecast; else all of a window.
    """

    loss: Literal[
        "euler", "local_linear", "strang", "local_skew", "zhang", "energy", "step_energy", "crps",
        "marginal", "autocovariance", "mmd",
    ] = "euler"  # fmt: skip
    simulate: Annotated[
        Literal["rollout", "solve"] | None, arg(metavar="{rollout,solve}", help_behavior_hint="")
    ] = None
    draws: Whole = None
    substeps: Whole = None
    solver: Solver = None
    prefix: Whole = None
    horizon: Whole = None


@dataclass(frozen=True)
class Optimiser:
    """Adam.

    Args:
        rate: Peak learning rate.
        warmup: Share of the steps in which it rises.
        schedule: What it does then.
        clip: Largest norm of the gradient.
        decay: Weight decay.
        accumulate: Parts that a batch is worked off in; by default one, but for likelihoods on a
            CPU as many as keep it within its cache.
        average: Decay of a moving average of the parameters, as 0.999.
        precision: Of the products in linear layers.
    """

    rate: float = 3e-3
    warmup: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 1.0
    decay: float = 0.0
    accumulate: Whole = None
    average: Number = None
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Training:
    """The run.

    Args:
        steps: Of training.
        batch: Windows a step.
        window: States in a window.
        burn: States at the start of each path that are left out, in training and in scores.
        every: Steps between rows of metrics.
        chunk: Steps in one compiled call.
        patience: Steps without a better held-out loss after which training ends.
        seeds: So many models at once; the scores are those of the first.
        seed: Of all random numbers.
        save_seconds: Least time between checkpoints.
        resident_mb: MiB of states up to which the device holds all of them.
        guard_patience: Losses in a row that are not finite, after which training goes back.
        guard_factor: What the rate is multiplied by then.
        guard_most: How often it may go back.
    """

    steps: int = 5000
    batch: int = 64
    window: int = 32
    burn: int = 1
    every: int = 500
    chunk: Whole = None
    patience: Whole = None
    seeds: Whole = None
    seed: int = 0
    save_seconds: float = 15.0
    resident_mb: float = 1024.0
    guard_patience: int = 10
    guard_factor: float = 0.5
    guard_most: int = 5


@dataclass(frozen=True)
class Judging:
    """The scores.

    Args:
        power: How often to plant and seek nonlinear effects of each of five strengths, to learn
            which one so many documents could have shown: five times as many fits, as 20.
        no_null: Leave out the same fit to shuffled states, which takes as long again.
        no_score: Leave out the scores on test documents, and the null.
    """

    power: int = 0
    no_null: bool = False
    no_score: bool = False


@dataclass(frozen=True)
class Sharing:
    """The processes.

    Args:
        coordinator: To share the work: host:port of process 0, the same for all.
        processes: To share the work: how many processes there are.
        process: To share the work: which of them this is, from 0.
        distributed: Share the work of a cluster that JAX recognises by itself.
    """

    coordinator: Name = None
    processes: Whole = None
    process: Whole = None
    distributed: bool = False


@dataclass(frozen=True)
class Fit:
    """Fit a neural SDE to a store, or to tables and arrays, and score it on held-out documents.

    Stopped or killed, the same command goes on where it was, and ends with the same bits. In
    Python, `dynlm.load_run(RUN)` gives the model.

    Several series in files are divided as the documents of a store are. One or two are cut in time:
    first blocks for training, then for validation, then for the test, and one that is left out
    between; intervals are by block then.

    Such as:

      dynlm fit store --layer 3 --dim 16 --out run
      dynlm fit walks.csv --out run --loss local_linear --noise-on nothing
      dynlm fit store --layer final --dim auto --diffusion full --width 256 --steps 20000 --out run
      dynlm fit store --config run.toml --out run

    Args:
        data: A store, or files: .csv, .tsv (also .gz), .npy, .npz.
        out: Folder of the run.
        config: A file with options by their names here, .toml or .json; flags go before it.
        layer: Of the store.
        dim: Principal components to fit, whitened; auto: as many as hold 95 % of the variance of
            training documents, at most 64. Without it the coordinates, standardised.
        model: What the drift and the noise are.
        objective: What is minimised.
        optimiser: How it is.
        training: For how long, on what, and what is kept.
        judging: What is said of it in the end.
        sharing: Several processes, as for export.
        quiet: No progress and no table.
        json: Print the results as one line of JSON.
    """

    data: Positional[tuple[Path, ...]]
    out: Path
    config: Name = None
    layer: Name = None
    dim: Components = None
    model: OmitArgPrefixes[Model] = Model()
    objective: OmitArgPrefixes[Objective] = Objective()
    optimiser: OmitArgPrefixes[Optimiser] = Optimiser()
    training: OmitArgPrefixes[Training] = Training()
    judging: OmitArgPrefixes[Judging] = Judging()
    sharing: OmitArgPrefixes[Sharing] = Sharing()
    quiet: bool = False
    json: bool = False


def check(config: Fit) -> None:
    """Refuses what contradicts itself, or cannot be."""
    values = options_of(config)
    check_numbers(SimpleNamespace(**values), LEAST)
    if not config.data:
        raise BadArgument("No data are given. Name a store, as in `dynlm fit store --out run`.")
    for name in ("average", "warmup"):
        value = values[name]
        if value is not None and not 0 <= value < 1:
            raise BadArgument(f"`--{name}` is {value:g}. Use 0 or more, below 1.")
    for name in ("rate", "clip", "scale", "floor", "lipschitz", "guard_factor"):
        value = values[name]
        if value is not None and not value > 0:
            flag = name.replace("_", "-")
            raise BadArgument(f"`--{flag}` is {value:g}. Use a number above 0.")
    loss = config.objective.loss
    if loss in LIKELIHOODS:
        for name in OF_SCORES:
            if values[name] is not None:
                raise BadArgument(
                    f"`--{name}` is for scores of simulated paths, and `--loss` is {loss}. Leave "
                    "it out, or use a score such as energy."
                )
    if loss in ("strang", "local_skew") and config.model.noise_on not in ("nothing", "time"):
        raise BadArgument(
            f"`--loss` is {loss}, which takes noise that does not depend on the state. Use "
            "`--noise-on nothing`, or `--loss local_linear`."
        )
    if config.training.batch % (config.optimiser.accumulate or 1):
        raise BadArgument(
            f"`--accumulate` is {config.optimiser.accumulate} and `--batch` "
            f"{config.training.batch}. Use a divisor."
        )


def names() -> set[str]:
    """The options that a file may give."""
    return options_of(Fit((), Path())).keys() - {"config", "data"}
