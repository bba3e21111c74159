"""`load`: a checkpoint's tensors, checked and put on their devices one at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from .._fields import brief
from .._io import BadArgument
from .._safetensors import finite, mapped
from ._config import Config
from ._decoder import Decoder
from ._files import Found, locate, tensors
from ._layouts import entry_name, layout
from ._match import Wanted, matched, some
from ._model import LanguageModel, Source
from ._normalise import read_config
from ._sharding import placement
from ._tokenizer import import_transformers, read_stops, read_tokenizer

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
AGAIN = "Fetch the checkpoint again."
LARGER = {"float16": "Ask for float32 or bfloat16.", "bfloat16": "Ask for float32."}
NOT_FINITE, TOO_LARGE = "hold NaN or infinity", "hold numbers too large for "
Place = Callable[[str, tuple[int, ...]], NamedSharding]


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    tokenizer: bool = True,
) -> LanguageModel:
    """A language model from a folder, from the Hugging Face hub, or from this package.

        model = load("demo")                           # the model in this package
        model = load("./folder", dtype=jnp.bfloat16)
        model = load("gpt2", revision="main")          # fetched once, then from the hub's cache
        model = load("owner/name", mesh=jax.make_mesh((4,), ("model",)))

    Only safetensors are read; nothing is unpickled, and no code that comes with a checkpoint
    runs. Each tensor is read, checked and sent to its devices before the next, so the memory of
    this machine holds one at a time, and a model may be larger than one device's memory.

    Args:
        name: A folder, an id on the hub, or `"demo"`.
        revision: A branch, tag or commit of the hub; of `"demo"`, `"untrained"` or `"early"`.
        dtype: Of the parameters: `float32`, `bfloat16` or `float16`, whatever is on disk.
        mesh: Devices over whose axis `model` the weights are split; None for the default device.
        tokenizer: Whether to read the tokenizer that lies beside the weights, if one does.

    Raises:
        BadArgument: What is wrong with the files or the arguments, and what to do about it.
    """
    kind = _float(dtype)
    place = None if mesh is None else placement(mesh)
    found = locate(name, revision)
    import_transformers()
    config = read_config(found.folder)
    names = layout(config)
    stored = tensors(found, lambda name: entry_name(names, name) is None)
    wanted = matched(names, stored, found)
    words = read_tokenizer(found.folder, config.vocab) if tokenizer else None
    decoder = filled(config, wanted, kind, place, found)
    source = Source(found.name, found.revision, found.weights)
    return LanguageModel(decoder, words, source, read_stops(found.folder, words, config.vocab))


def filled(
    config: Config, wanted: list[Wanted], dtype: np.dtype, place: Place | None, found: Found
) -> Decoder:
    """A decoder whose parameters are the tensors, one after the other."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, dtype=dtype, rngs=nnx.Rngs(0))))
    values: dict[str, jax.Array] = {}
    bad: dict[str, list[str]] = {}
    for one in wanted:
        whole, faults = mapped(one.stored), set()
        for part in one.entry.parts:
            value = placed(part.path, part.take(whole), dtype, place, faults)
            values[part.path] = jax.block_until_ready(value)  # else copies queue up on the host
        for fault in faults:
            bad.setdefault(fault, []).append(one.name)
    if bad:
        advice = [AGAIN if fault == NOT_FINITE else LARGER.get(dtype.name, AGAIN) for fault in bad]
        raise BadArgument(
            f"The weights in {found.folder} cannot be used: "
            + "; ".join(f"{len(names)} {fault} ({some(names)})" for fault, names in bad.items())
            + ". "
            + " ".join(dict.fromkeys(advice))
        )
    flat = [
        (path, variable.replace(values.pop(".".join(map(str, path)))))
        for path, variable in nnx.to_flat_state(state)
    ]
    assert not values, f"no parameter of a decoder is called {list(values)}"
    return nnx.merge(graph, nnx.from_flat_state(flat))


def placed(
    path: str, x: np.ndarray, dtype: np.dtype, place: Place | None, faults: set[str]
) -> jax.Array:
    """A parameter on its devices, made from those slices of the mapped tensor that go there.

    A slice that several devices hold is made once.
    """
    pieces: dict[str, np.ndarray] = {}

    def piece(index: Any) -> np.ndarray:
        if (where := str(index)) in pieces:  # slices have no hash before Python 3.12
            return pieces[where]
        # Always a copy: JAX may keep using the memory that it is given, and the file may change.
        with np.errstate(over="ignore", invalid="ignore"):
            made = np.array(x[index], dtype, order="C")
        if not finite(made):
            sound = finite(np.ascontiguousarray(x[index]))
            faults.add(f"{TOO_LARGE}{dtype}" if sound else NOT_FINITE)
        pieces[where] = made
        return made

    if place is None:
        return jax.device_put(piece(...))
    return jax.make_array_from_callback(x.shape, place(path, x.shape), piece)


def _float(dtype: Any) -> np.dtype:
    try:
        kind = jnp.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind not in [jnp.dtype(one) for one in DTYPES]:
        raise BadArgument(f"`dtype` is {brief(dtype)!r}. Ask for float32, bfloat16 or float16.")
    return kind
