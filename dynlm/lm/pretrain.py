"""Training decoders from scratch: a pure step, and a loop around it that survives being killed.

    trainer = pretrain.trainer(config, pretrain.optimiser(steps=4000))
    state = trainer.init(key)
    state, info = trainer.step(state, batch)          # batch: tokens, one more than are read

Both functions are pure, so several seeds train at once under `vmap`:

    states = jax.vmap(trainer.init)(jax.random.split(key, 5))
    states, info = jax.vmap(trainer.step, in_axes=(0, None))(states, batch)
"""

import zlib
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple, cast, final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from .._io import progress
from .._types import RandomKey
from ._config import Config
from ._corpus import batch_at as batch_at
from ._corpus import held_out_nats as held_out_nats
from ._corpus import nats
from ._decoder import Decoder
from ._prompts import check_ids, check_whole
from ._state import load_state, save_state

STEPS_A_CALL = 10  # that the loop compiles into one call
TABLES = ("embed", "positions", "head")  # whose rows are no directions to be balanced


@final
class State(NamedTuple):
    """All that training carries from step to step."""

    model: Decoder
    moments: Any
    step: Int[Array, ""]


@final
class Info(NamedTuple):
    """What one step shows: nats per token, and the norm of the gradient before clipping."""

    loss: Float[Array, ""]
    gradient: Float[Array, ""]


@final
class Trainer(NamedTuple):
    """`init(key) -> State` and `step(state, batch) -> (State, Info)`, both pure."""

    init: Callable[..., State]
    step: Callable[..., tuple[State, Info]]


def trainer(
    config: Config, optimiser: optax.GradientTransformation, *, dtype: Any = jnp.float32
) -> Trainer:
    """Next-token training of a decoder of this layout, with parameters of `dtype`."""

    @loosely
    def init(key: RandomKey) -> State:
        model = Decoder(config, dtype=dtype, rngs=nnx.Rngs(key))
        return State(model, optimiser.init(weights(model)), jnp.zeros((), jnp.int32))

    @loosely
    def step(state: State, batch: Int[Array, "batch time"]) -> tuple[State, Info]:
        loss, slope = jax.value_and_grad(nats_per_token)(state.model, batch)
        slope, now = weights(slope), weights(state.model)
        change, moments = optimiser.update(slope, state.moments, now)
        model = with_weights(state.model, dict(cast(Any, optax.apply_updates(now, change))))
        return State(model, moments, state.step + 1), Info(loss, optax.tree.norm(slope))

    return Trainer(init, step)


def loosely(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` under JAX's usual promotion of types, which Optax relies on in its schedules."""

    @wraps(f)
    def inner(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return f(*args)

    return inner


def nats_per_token(model: Decoder, batch: Int[Array, "batch time"]) -> Float[Array, ""]:
    r"""Mean of $-\log p(x_{t+1} \mid x_{\le t})$ over the tokens after the first of each row."""
    return jnp.mean(nats(model, batch))


def optimiser(
    steps: int,
    *,
    rate: float = 0.03,
    table_rate: float = 0.03,
    decay: float = 0.1,
    warmup: float = 0.02,
    end: float = 0.0,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """Muon for the matrices, Adam for tables and norms; both warm up, then fall along a cosine.

    Args:
        steps: How many there will be.
        rate: Peak learning rate of the matrices.
        table_rate: Peak learning rate of embeddings, biases and norms.
        decay: Weight decay of the matrices.
        warmup: Share of the steps in which the rates rise.
        end: Share of the peak that is left at the end.
        clip: Largest norm of the gradient.
    """
    from optax import contrib

    def schedule(peak: float) -> optax.Schedule:
        rise = max(1, round(warmup * steps))
        return optax.warmup_cosine_decay_schedule(0.0, peak, rise, max(steps, rise + 1), end * peak)

    matrices = contrib.muon(schedule(rate), weight_decay=decay, consistent_rms=None)
    rest = optax.adam(schedule(table_rate), b1=0.9, b2=0.95)
    both = optax.partition({"matrix": matrices, "rest": rest}, kinds)
    return optax.chain(optax.clip_by_global_norm(clip), both)


def kinds(params: dict[str, Array]) -> dict[str, str]:
    """By name, which parameters are matrices between layers."""
    return {
        name: "matrix" if x.ndim == 2 and name.split(".")[0] not in TABLES else "rest"
        for name, x in params.items()
    }


def weights(model: Decoder) -> dict[str, Array]:
    """The parameters of `model` by dotted name."""
    flat = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model)))[0]
    return {".".join(str(key.key) for key in path): leaf for path, leaf in flat}


def with_weights(model: Decoder, named: dict[str, Array]) -> Decoder:
    """A decoder like `model` with these parameters; a name that is absent keeps its own."""
    leaves, shape = jax.tree.flatten(model)
    own = dict(zip(weights(model), leaves))
    for name, x in named.items():
        if name not in own or x.shape != own[name].shape:
            there = f"of shape {own[name].shape}" if name in own else "which the model lacks"
            raise ValueError(f"`named` has `{name}` of shape {x.shape}, {there}.")
    return jax.tree.unflatten(shape, list((own | named).values()))


def fit(
    trainer: Trainer,
    tokens: Int[np.ndarray, " corpus"],
    *,
    key: RandomKey,
    steps: int,
    batch: int,
    window: int,
    start: int,
    seed: int = 0,
    held_out: Int[np.ndarray, " text"] | None = None,
    folder: str | Path | None = None,
    every: int = 100,
    keep: tuple[int, ...] = (),
    quiet: bool = False,
) -> tuple[State, list[dict[str, int | float]]]:
    """Trains on windows of `tokens` and returns the last state and a log.

    Args:
        trainer: What `trainer` gives.
        tokens: The corpus, ids of the model's vocabulary.
        key: For the initial parameters.
        steps: How many.
        batch: Windows a step; a multiple of the number of devices, over which they are split.
        window: Tokens a window.
        start: The token put before each window.
        seed: For the order of the windows.
        held_out: Text whose nats per token go into the log.
        folder: Where the state is kept every `every` steps, and where a killed run goes on.
        every: Steps between entries of the log, and between states kept.
        keep: Steps whose parameters stay in the folder as `step-N.safetensors`, 0 for the start.
        quiet: No progress bar.
    """
    folder = None if folder is None else Path(folder)
    last = None if folder is None else folder / "last.safetensors"
    state, log = jax.jit(trainer.init)(key), []
    run = dict(steps=steps, batch=batch, window=window, start=start, seed=seed, every=every)
    _check_run(state.model.config, tokens, held_out, run, keep)
    run |= {"tokens": [len(tokens), zlib.crc32(np.asarray(tokens, np.int32).tobytes())]}
    if last is not None and last.exists():
        state, notes = load_state(last, state)
        _check_same(last, notes["run"], run)
        log = notes["log"]
    whole, split = _shardings(batch)
    state = jax.device_put(state, whole)
    many = jax.jit(partial(jax.lax.scan, trainer.step), donate_argnums=0)

    def keep_step() -> None:
        if folder is not None:
            save_state(folder / f"step-{int(state.step)}.safetensors", weights(state.model))

    done, losses = int(state.step), []
    if done == 0 and 0 in keep:
        keep_step()
    marks = sorted({*range(every, steps, every), *keep, steps})
    with progress("pretrain", max(steps - done, 1), quiet=quiet) as advance:
        for mark in [m for m in marks if m > done]:
            while done < mark:
                calls = range(done, min(done + STEPS_A_CALL, mark))
                rows = [
                    batch_at(tokens, k, batch=batch, window=window, seed=seed, start=start)
                    for k in calls
                ]
                state, info = many(state, jax.device_put(np.stack(rows), split))
                losses.append(info.loss)
                done += len(calls)
                advance(len(calls))
            entry = {"step": done, "nats": float(jnp.mean(jnp.concatenate(losses)))}
            losses = []
            if not np.isfinite(entry["nats"]):
                raise FloatingPointError(
                    f"The loss is {entry['nats']} up to step {done}. Lower the learning rate"
                    + ("." if last is None else f"; {last} has the last sound state, if any.")
                )
            if held_out is not None:
                found = held_out_nats(state.model, held_out, window=window, start=start)
                entry["held_out_nats"] = float(found.mean())
            log.append(entry)
            if mark in keep:
                keep_step()  # first: what is kept must be there if the run goes on from here
            if last is not None:
                save_state(last, state, {"log": log, "run": run})
    return state, log


def _shardings(batch: int) -> tuple[Any, Any]:
    """Of what every device has, and of batches stacked by step, split by their rows."""
    if batch % jax.device_count():
        raise ValueError(
            f"`batch` is {batch}, and there are {jax.device_count()} devices. Make it a multiple."
        )
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.sharding.PartitionSpec(None, "data")
    return (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
        jax.sharding.NamedSharding(mesh, split),
    )


def _check_run(
    config: Config, tokens: Any, held_out: Any, run: dict[str, int], keep: tuple[int, ...]
) -> None:
    for name in ("steps", "batch", "window", "every"):
        check_whole(name, run[name], 1)
    if run["window"] > config.context:
        raise ValueError(
            f"`window` is {run['window']}, and the context of the model {config.context} tokens."
        )
    if any(not 0 <= k <= run["steps"] for k in keep):
        raise ValueError(f"`keep` is {keep}. There are steps 0 to {run['steps']}.")
    check_ids(np.asarray(run["start"]).reshape(1), config.vocab, "`start`")
    check_ids(np.asarray(tokens), config.vocab, "`tokens`")
    if held_out is not None:
        check_ids(np.asarray(held_out), config.vocab, "`held_out`")


def _check_same(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    other = [f"`{k}` {old.get(k)} and not {new[k]}" for k in new if old.get(k) != new[k]]
    if other:
        raise ValueError(
            f"{path} is of a run with {', '.join(other)}. Go on with what it had, or use another "
            "folder."
        )
