"""Reading the arrays of a run without its model, optimiser or devices."""

import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array

from .._io import BadArgument
from ._checkpoints import first_line, refuse_unread, unsealed


def read_latest(folder: Path) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """Arrays by name and notes of the latest sound checkpoint; None if there are none at all.

    A damaged one is told as a warning, and left where it is. One that the system does not let be
    read is an error.
    """
    import orbax.checkpoint as ocp

    if not folder.is_dir():
        return None
    wrong = ""
    for step in sorted(ocp.utils.checkpoint_steps(folder), reverse=True):
        try:
            return _read(folder.absolute() / str(step))
        except Exception as error:
            refuse_unread(folder / str(step), error)
            wrong = first_line(error)
            warnings.warn(
                f"The checkpoint of step {step} in {folder} is damaged ({wrong}); the one before "
                "is read.",
                stacklevel=3,
            )
    if wrong:
        raise BadArgument(f"No checkpoint in {folder} is sound ({wrong}). Restore it from a copy.")
    return None


def _read(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        notes = unsealed(reader.restore(folder / "notes"))
    here = SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
        for name, (shape, dtype) in _structs(notes["shapes"]).items()
        if math.prod(shape)
    }
    with ocp.StandardCheckpointer() as reader:
        found = reader.restore(folder / "state", wanted)
    for name, x in found.items():
        if zlib.crc32(np.ascontiguousarray(np.asarray(x)).tobytes()) != notes["digests"][name]:
            raise ValueError(f"`{name}` is not what was written")
    return found, notes


def _structs(shapes: dict[str, str]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype by name, from how they are noted: `float32[3, 2]`."""
    out = {}
    for name, text in shapes.items():
        dtype, sizes = text[:-1].split("[")
        out[name] = tuple(int(n) for n in sizes.split(",") if n.strip()), jnp.dtype(dtype)
    return out
