"""What made a store: digests of weights and tokenizers, versions of programs."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._io import BadArgument
from ..store._shard import raw
from ._foreign import Uncached
from ._model import LanguageModel


def model_identity(model: Any, name: str | None) -> dict[str, Any]:
    """Name, revision and digest of the parameters; of a plain function, its name only."""
    if isinstance(model, LanguageModel):
        source, core = model.source, model.decoder
        folder = Path(source.name).expanduser()
        called = folder.resolve().name if folder.is_dir() else source.name
        revision = source.revision
    else:
        core, revision = model, None
        function = model.call if isinstance(model, Uncached) else model
        called = getattr(function, "__qualname__", type(function).__name__)
    sha256 = parameters_digest(core)
    if sha256 is None and name is None and "<" in called:
        raise BadArgument(
            f"`model` is the function {called}, which cannot be told from others by that. Say what "
            "it is by `name`, and give it another when it changes."
        )
    return {"name": name or called, "revision": revision, "sha256": sha256}


def parameters_digest(model: Any) -> str | None:
    """The sha256 of every array of a tree with its place, type and shape; None if it has none."""
    sha, some = hashlib.sha256(), False
    for path, x in jax.tree_util.tree_flatten_with_path(model)[0]:
        if isinstance(x, jax.Array | np.ndarray):
            if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                x = jax.random.key_data(x)
            data = np.asarray(x)
            sha.update(f"{jax.tree_util.keystr(path)} {data.dtype} {data.shape}".encode())
            sha.update(raw(data))
            some = True
    return sha.hexdigest() if some else None


def tokenizer_digest(tokenizer: Any) -> str | None:
    """The sha256 of what a tokenizer does: its own file where it has one, else its vocabulary."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text = backend.to_str()
    else:
        text = repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of the programs that a state may depend on, and the kind of device."""
    names = ("dynlm", "jax", "jaxlib", "flax", "numpy")
    found = {name: version(name) for name in names}
    return found | {
        "machine": platform.machine(),
        "device": jax.devices()[0].device_kind,
    }
