"""`fit`: loss, data and trainer put together, and the folder of a run."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh

from . import losses, specs, train
from ._data import (
    HELD_OUT,
    RESIDENT,
    gap_of,
    noise_of,
    part_of,
    some_of,
    source_of,
    windows_of,
)
from ._fields import shown
from ._fit_facts import digest, facts_of_fit, keep_facts
from ._io import BadArgument
from ._precision import PRECISIONS, Lower, check_lowered
from ._run import SCHEMES, Law, Run, keep_projection
from ._types import RandomKey
from .store import Store
from .train._facts import alone
from .train._parts import parts_in_cache
from .trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam with decoupled weight decay, clipping, a warm-up, and a schedule: plain values.

    Args:
        rate: Peak learning rate.
        warmup: Share of the steps in which the rate rises to it.
        schedule: "cosine" falls to nothing by the last step; "constant" stays.
        clip: Largest norm of the gradient.
        decay: Weight decay.
    """

    rate: float = 3e-3
    warmup: float = 0.05
    schedule: str = "cosine"
    clip: float = 1.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        if not (self.rate > 0 and 0 <= self.warmup <= 1 and self.clip > 0 and self.decay >= 0):
            raise BadArgument(f"{self} has a value out of range. Use positive numbers.")
        if self.schedule not in ("cosine", "constant"):
            raise BadArgument(f"`schedule` is {shown(self.schedule)}. Use cosine or constant.")

    def build(self, steps: int) -> train.Optimiser:
        """The optimiser for a run of so many steps."""
        import optax  # as long to load as all the rest

        rise = max(1, round(self.warmup * steps))
        if self.schedule == "cosine":
            rate = optax.warmup_cosine_decay_schedule(
                self.rate / rise, self.rate, rise, max(steps, rise + 1)
            )
        else:
            rate = optax.linear_schedule(self.rate / rise, self.rate, rise)
        return optax.chain(
            optax.clip_by_global_norm(self.clip), optax.adamw(rate, weight_decay=self.decay)
        )


def fit(
    model: Any,
    data: Any,
    *,
    key: RandomKey,
    loss: Callable = losses.transition_nll,
    simulate: Callable | None = None,
    draws: int = 16,
    substeps: int = 1,
    solver: Any = None,
    steps: int = 5000,
    batch: int = 64,
    window: int = 32,
    layer: int | str | None = None,
    projection: Any = None,
    burn: int = 0,
    held_out: Any = None,
    optimiser: train.Optimiser | Adam | None = None,
    accumulate: int | None = None,
    average: float | None = None,
    precision: str = "float32",
    every: int = 500,
    chunk: int | None = None,
    patience: int | None = None,
    seeds: int | None = None,
    guard: train.Guard | None = None,
    out: str | Path | None = None,
    save_seconds: float = 15.0,
    writers: Sequence[train.Writer] = (),
    mesh: Mesh | None = None,
    seed: int = 0,
    resident: int = RESIDENT,
    quiet: bool = False,
) -> Run:
    """Fits a model to paths; killed and called again with its folder, it ends with the same bits.

        run = dynlm.fit(sde, paths, key=key)  # Euler's likelihood
        run = dynlm.fit(sde, paths, key=key, loss=dynlm.losses.local_linear_nll)
        run = dynlm.fit(sde, paths, key=key, loss=dynlm.losses.crps, simulate=dynlm.rollout)
        run = dynlm.fit(spec, store, key=key, layer=3, projection=projection, out="run")

    Args:
        model: An `SDE`, any module that `loss` takes, or a spec such as `dynlm.specs.NeuralSDE`,
            which `load_run` can make again by itself.
        data: A store (its training documents), windows, a `Trajectory` or a batch of them, an
            array (time, dim) or (paths, time, dim), or a list of these. What is float64 is trained
            on in float64 where JAX has it, and all else in float32.
        key: For the networks of a spec, and the noise of losses.
        loss: Of one path, `(model, path)` or `(model, path, key)`; of a batch, if its second
            argument is called `paths`; with `simulate` a score `(draws, path)` such as
            `losses.energy_score`, or a distance of two sets such as
            `losses.marginal_distance`.
        simulate: `dynlm.rollout` or `dynlm.solve`, to train through.
        draws: Simulated paths for each observed one.
        substeps: Steps of the solver in each gap of the data's times.
        solver: A Diffrax solver; by default that of `simulate`.
        steps: How many.
        batch: Windows a step, over all devices.
        window: States in a window: `window - 1` transitions, or the length of simulated paths.
        layer: Of a store.
        projection: Of the states, fitted on training documents: `fit_projection` of `dynlm.store`,
            also with `dim="auto"`. It is kept in the folder of the run.
        burn: States at the start of each path that are left out. Baselines and scores leave out the
            transition from the first, which of a text is unlike all others: 1 does the same.
        held_out: Data of the same kinds for the held-out loss; by default a store's validation
            documents, and nothing otherwise.
        optimiser: Any of Optax, or the plain values `dynlm.Adam(...)`, which is the default.
        accumulate: Parts that a batch is worked off in. By default one; but for losses of single
            paths without noise, such as likelihoods, as many as keep a CPU within its cache.
        average: Decay of a moving average of the parameters.
        precision: "bfloat16" computes the products of linear layers in that, and all else in
            float32; the parameters that are trained are float32.
        every: Steps between rows of metrics.
        chunk: Steps that one compiled call makes, at most `every`.
        patience: Steps without a better held-out loss after which training ends.
        seeds: Trains so many models of a spec at once; see `Run.seed`.
        guard: What is done about losses that are not finite.
        out: Folder of the run, where it goes on.
        save_seconds: Least time between checkpoints.
        writers: Of metrics, beside `metrics.jsonl` in the folder.
        mesh: Devices with an axis "data"; by default all there are.
        seed: Of the order of the windows.
        resident: Bytes of states up to which all of them are held on the device; beyond, they
            are read from the store while the device works.
        quiet: No progress bar.

    Raises:
        train.Interrupted: After SIGTERM or Ctrl-C; a `KeyboardInterrupt`.
        train.NotKept: Where the disk stayed full to the end; its `trained` is the `Run`.
        FloatingPointError: Where the losses did not become finite again.
    """
    whole = _whole(loss, simulate, draws, substeps, solver)
    name, cut = fitted_by(whole, getattr(model, "calculus", "ito"))
    # Where neither model nor loss knows of time, gaps with all their digits are worth more than it.
    timeless = isinstance(model, specs.NeuralSDE) and model.time == "none" and name is not None
    windows = _training(data, window, layer, projection, burn, timeless)
    if isinstance(model, specs.NeuralSDE) and model.scale is None:
        model = dataclasses.replace(model, scale=noise_of(windows))
    started = model
    held = _held_out(data, held_out, windows, window, layer, projection)
    law = Law(name, gap_of(windows), cut)
    if precision not in PRECISIONS:
        raise BadArgument(f"`precision` is {shown(precision)}. Use {' or '.join(PRECISIONS)}.")
    lower = None if precision == "float32" else Lower(whole, precision)
    whole = whole if lower is None else lower
    if steps < 1 or batch < 1:
        raise BadArgument(f"`steps` is {steps} and `batch` {batch}. Use 1 or more.")
    model_key, noise_key, held_key = jr.split(key, 3)
    model, maker = _made(model, model_key, seeds, windows.dim)
    if lower is not None:
        one = some_of(windows, 1)
        shapes = lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)  # noqa: E731
        check_lowered(lower, model, jax.tree.map(shapes, one))
    plain = Adam() if optimiser is None else optimiser
    parts = _parts(whole, model, batch, window, mesh) if accumulate is None else accumulate
    facts = facts_of_fit(started, loss, law, windows) | {
        "optimiser": dataclasses.asdict(plain) if isinstance(plain, Adam) else "custom",
        "batch": batch,
        "accumulate": accumulate,
        "parts": parts,
        "average": average,
        "precision": precision,
        "order": seed,
        "key": jr.key_data(key).tolist() if _typed(key) else jnp.asarray(key).tolist(),
        "held_out": None if held is None else digest(held),
        "draws": draws if simulate is not None else None,
    }
    if isinstance(plain, Adam) and plain.schedule == "cosine":
        facts["schedule_steps"] = steps
    record = facts | {"steps": steps, "seeds": seeds, "patience": patience}
    record |= {"dynlm": version("dynlm"), "jax": jax.__version__}
    if parts < 1 or batch % parts:
        raise BadArgument(f"`accumulate` is {accumulate} and `batch` {batch}. Use a divisor.")

    def run_of(trained: train.Trained) -> Run:
        best, last = _here(trained.best), _here(trained.model)
        return Run(best, last, trained.log, law, record, trained.ended, windows.projection)

    with alone(out):
        if out is not None:
            keep_facts(Path(out), record, new=True)
            if jax.process_index() == 0:
                keep_projection(Path(out), windows.projection)
        try:
            trained = train.fit(
                _trainer(whole, plain, steps, parts, average),
                maker if seeds is not None else model,
                source_of(windows, batch, seed=seed, resident=resident),
                key=noise_key,
                steps=steps,
                evaluate=None if held is None else train.HeldOut(whole, held, held_key, batch),
                every=every,
                chunk=chunk,
                patience=patience,
                seeds=seeds,
                guard=guard,
                folder=out,
                save_seconds=save_seconds,
                writers=writers,
                mesh=mesh,
                run=facts,
                quiet=quiet,
            )
        except train.NotKept as error:
            error.trained = run_of(error.trained)
            raise
        if out is not None:
            keep_facts(Path(out), record, new=False)
    return run_of(trained)


def _training(
    data: Any, window: int, layer: Any, projection: Any, burn: int, timeless: bool
) -> Any:
    if burn < 0:
        raise BadArgument(f"`burn` is {burn}. Use 0 or more.")
    if window < 2:
        raise BadArgument(f"`window` is {window}. Use 2 or more: a transition takes two states.")
    part = part_of(data, "train") if isinstance(data, Store) and data.whole else data
    how: dict[str, Any] = dict(projection=projection, burn=burn, from_zero=timeless)
    return windows_of(part, window, layer=layer, **how)


def _held_out(
    data: Any, held_out: Any, windows: Any, window: int, layer: Any, projection: Any
) -> Trajectory | None:
    if held_out is None:
        if not (isinstance(data, Store) and data.whole):
            return None
        held_out = part_of(data, "valid")
        if len(held_out) == 0:
            return None
    own = layer if isinstance(held_out, Store) else None
    found = windows_of(
        held_out,
        window,
        layer=own,
        projection=projection,
        burn=windows.skip,
        what="held_out",
        dtype=windows.dtype,
        from_zero=windows.from_zero,
    )
    if found.dim != windows.dim:
        raise BadArgument(
            f"`held_out` has {found.dim} dimensions and `data` {windows.dim}. Use the same layer "
            "and projection."
        )
    return some_of(found, HELD_OUT)


def _whole(
    loss: Callable, simulate: Callable | None, draws: int, substeps: int, solver: Any
) -> Callable:
    """The loss of a batch."""
    if simulate is None:
        if solver is not None or substeps != 1:
            raise BadArgument("`solver` and `substeps` are for `simulate`, which is None.")
        return loss if _second(loss) == "paths" else losses.each(loss)
    of_sets = "origins" in inspect.signature(loss).parameters
    make = losses.set_simulated if of_sets else losses.simulated
    return make(loss, simulate=simulate, draws=draws, substeps=substeps, solver=solver)


def _parts(whole: Callable, model: Any, batch: int, window: int, mesh: Mesh | None) -> int:
    """Parts of a batch where none are asked for. With noise they would have other draws."""
    inner = whole.loss if isinstance(whole, Lower) else whole
    devices = jax.device_count() if mesh is None else mesh.size
    if not isinstance(inner, losses.Each) or inner.keyed or batch % devices:
        return 1
    return parts_in_cache(model, batch // devices, window - 1)


def _second(loss: Callable) -> str | None:
    try:
        names = list(inspect.signature(loss).parameters)
    except (TypeError, ValueError):
        return None
    return names[1] if len(names) > 1 else None


def fitted_by(loss: Any, calculus: str = "ito") -> tuple[str | None, int]:
    """The scheme that a loss fits, and its steps in a gap; None where it names none."""
    if isinstance(loss, losses.Each):
        return fitted_by(loss.loss, calculus)
    if isinstance(loss, losses.Weighted):
        found = {fitted_by(part, calculus) for part in loss.losses}
        found -= {(None, 1)} if len(found) > 1 else set()
        return found.pop() if len(found) == 1 else (None, 1)
    if isinstance(loss, losses.Simulated | losses.SimulatedSet):
        solver = loss.simulator.solver
        usual = "euler" if calculus == "ito" else "Heun"
        name = usual if solver is None else type(solver).__name__
        return ("euler" if name == "Euler" else name), loss.simulator.substeps
    if isinstance(loss, losses.TransitionNLL):
        return (loss.scheme.name if loss.scheme.name in SCHEMES else None), 1
    known: dict[Any, str] = {
        losses.transition_nll: "euler",
        losses.local_linear_nll: "local_linear",
        losses.strang_nll: "strang",
        losses.zhang: "euler",
    }
    try:
        return known.get(loss), 1
    except TypeError:
        return None, 1


def _trainer(
    loss: Callable, optimiser: Any, steps: int, accumulate: int, average: float | None
) -> train.Trainer:
    """The trainer; the same one for the same plain values, so that fits share compiled calls."""
    if isinstance(optimiser, Adam):
        try:
            return _shared(loss, optimiser, steps, accumulate, average)
        except TypeError:  # a loss that has arrays, and so no hash
            optimiser = optimiser.build(steps)
    return train.trainer(loss, optimiser, accumulate=accumulate, average=average)


@functools.lru_cache(maxsize=16)
def _shared(
    loss: Callable, optimiser: Adam, steps: int, accumulate: int, average: float | None
) -> train.Trainer:
    return train.trainer(loss, optimiser.build(steps), accumulate=accumulate, average=average)


def _made(model: Any, key: RandomKey, seeds: int | None, dim: int) -> tuple[Any, Any]:
    """The model, and what makes it from a key."""
    if isinstance(model, specs.Spec):
        if (own := getattr(model, "dim", dim)) != dim:
            raise BadArgument(f"`model` has `dim` {own}, and the data {dim}. Use equal ones.")
        return model.build(key=key), lambda key: model.build(key=key)
    if seeds is not None:
        raise BadArgument(
            "`seeds` needs a spec as `model`, such as `dynlm.specs.NeuralSDE(dim)`, from which "
            "each of them is made."
        )
    found = getattr(model, "dim", dim)
    if isinstance(found, int) and found != dim:
        raise BadArgument(f"`model` has dimension {found}, and the data {dim}. Make them alike.")
    return model, None


def _here(model: Any) -> Any:
    """A model on a device of this process, where several have trained it together."""
    if jax.process_count() == 1:
        return model
    mine = lambda x: jnp.asarray(x.addressable_data(0)) if eqx.is_array(x) else x  # noqa: E731
    return jax.tree.map(mine, model)


def _typed(key: Any) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
