"""`fit`: a trainer, a source of batches and a folder; the loop that survives being killed."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .._fields import shown
from .._io import BadArgument
from .._types import RandomKey
from ._checkpoints import Checkpoints
from ._chunks import Carry, Guard, begin
from ._devices import checked_mesh, data_mesh
from ._facts import alone
from ._loop import Loop, Row, Settings, Trained
from ._metrics import JsonLines, Writer
from ._signals import asked
from ._sources import AbstractSource
from ._trainer import Model, Trainer

LONGEST_CHUNK = 100


def fit(
    trainer: Trainer,
    model: Model | Callable[[RandomKey], Model],
    source: AbstractSource,
    *,
    key: RandomKey,
    steps: int,
    evaluate: Callable[[Model], Float[Array, ""]] | None = None,
    every: int = 500,
    chunk: int | None = None,
    patience: int | None = None,
    seeds: int | None = None,
    guard: Guard | None = None,
    folder: str | Path | None = None,
    save_seconds: float = 15.0,
    writers: Sequence[Writer] = (),
    mesh: Mesh | None = None,
    run: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Trained:
    """Trains a model; killed and called again with the same folder, it ends with the same bits.

    Args:
        trainer: What `trainer` gives.
        model: The model at the start; with `seeds` a callable of a key that makes it.
        source: Of the batches: `InMemory` or `Streamed`.
        key: For the noise of the losses, and with `seeds` for the models. With neither, any.
        steps: How many.
        evaluate: A callable `(model) -> loss` on held-out data; `HeldOut` makes it.
        every: Steps between rows of metrics, at which the held-out loss is taken too.
        chunk: Steps that one compiled call makes, the last one before a row fewer if `every` is
            no multiple; by default equal parts of `every`, up to 100.
        patience: Steps without a better held-out loss after which training ends early.
        seeds: Trains so many models at once, on the same batches; metrics are lists then, and the
            models returned have a leading axis.
        guard: What is done about losses that are not finite.
        folder: Where checkpoints and `metrics.jsonl` go, and where a run goes on. Kept are the
            two latest checkpoints and the one with the least held-out loss. With another number of
            devices, `chunk` or version of JAX it goes on too, to other last bits, and says so.
            Another process that trains there is refused meanwhile.
        save_seconds: Least time between checkpoints. They do not change what is computed.
        writers: Of metrics, beside that file.
        mesh: Devices with an axis "data" that batches are split over; by default all there are.
        run: Facts about the run, JSON; a folder whose facts are others is refused.
        quiet: No progress bar.

    Raises:
        Interrupted: After SIGTERM or Ctrl-C, once a checkpoint is written; a `KeyboardInterrupt`.
        FloatingPointError: Where the guard gave up; with several seeds, on all of them.
        NotKept: Training has ended, and its last checkpoint could not be written, as on a disk
            that stays full. The error's `trained` is what would have been returned.
    """
    guard = Guard() if guard is None else guard
    settings = _settings(steps, every, chunk, patience, seeds, guard, save_seconds, quiet)
    if patience is not None and evaluate is None:
        raise BadArgument("`patience` needs a held-out loss. Pass `evaluate`.")
    mesh = checked_mesh(data_mesh() if mesh is None else mesh, source.rows)
    carry, key = _start(trainer, model, key, seeds)
    checkpoints = None if folder is None else Path(folder) / "checkpoints"
    with ExitStack() as closing:
        closing.enter_context(alone(checkpoints))
        keeper = None if checkpoints is None else Checkpoints(checkpoints)
        if keeper is not None:
            closing.callback(keeper.close)
        stop = closing.enter_context(asked())
        loop = Loop(trainer, source, evaluate, settings, mesh, keeper, carry, key, run or {})
        write = closing.enter_context(_writing(folder, loop.log, writers))
        return loop.run(write, stop)


def _settings(
    steps: int,
    every: int,
    chunk: int | None,
    patience: int | None,
    seeds: int | None,
    guard: Guard,
    save_seconds: float,
    quiet: bool,
) -> Settings:
    whole = {"steps": steps, "every": every, "chunk": chunk, "patience": patience, "seeds": seeds}
    for name, value in whole.items():
        whole_number = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole_number and value >= 1):
            raise BadArgument(f"`{name}` is {shown(value)}. Use a whole number, 1 or more.")
    if not save_seconds >= 0:
        raise BadArgument(f"`save_seconds` is {shown(save_seconds)}. Use 0 or more.")
    if not (guard.patience >= 1 and 0 < guard.factor <= 1 and guard.most >= 0):
        raise BadArgument(f"`guard` is {guard}. Use patience >= 1, 0 < factor <= 1, most >= 0.")
    if chunk is None:
        chunk = math.ceil(every / math.ceil(every / LONGEST_CHUNK))
    return Settings(steps, every, chunk, patience, seeds, guard, save_seconds, quiet)


def _start(trainer: Trainer, model: Any, key: RandomKey, seeds: int | None) -> tuple[Carry, Array]:
    """The carry at the start and the key of the noise; of each seed, if there are several."""
    if seeds is None:
        return begin(trainer, model), key
    if not callable(model) or isinstance(model, eqx.Module):
        raise BadArgument("`seeds` needs a callable of a key as `model`, which makes each of them.")

    def one(key: RandomKey) -> Carry:
        return begin(trainer, model(key))

    model_key, noise_key = jr.split(key)
    carries = eqx.filter_jit(eqx.filter_vmap(one, out_axes=eqx.if_array(0)))
    return carries(jr.split(model_key, seeds)), jr.split(noise_key, seeds)


@contextmanager
def _writing(
    folder: str | Path | None, rows: list[Row], writers: Sequence[Writer]
) -> Iterator[Callable[[Row], None]]:
    """Gives the rows of metrics to all writers, in the first process; closes them all."""
    with ExitStack() as closing:
        every = [*writers]
        for writer in every:
            closing.callback(writer.close)
        if folder is not None and jax.process_index() == 0:
            every.insert(0, JsonLines(Path(folder) / "metrics.jsonl", rows))
            closing.callback(every[0].close)

        def write(row: Row) -> None:
            for writer in every if jax.process_index() == 0 else []:
                writer.write(row)

        yield write
