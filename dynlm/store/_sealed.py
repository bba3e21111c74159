"""Small files of arrays and notes that carry the digest of both."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._fields import brief, shown
from .._io import BadArgument
from .._safetensors import header, mapped

VERSION = 1
KEY = "sealed"  # under which the notes stand in the header


def sealed(arrays: Mapping[str, np.ndarray], notes: Any) -> bytes:
    """The bytes of such a file."""
    from safetensors.numpy import save

    body = {"version": VERSION, "notes": notes, "sha256": _digest(arrays, notes)}
    arrays = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
    return save(arrays, metadata={KEY: json.dumps(body)})


def unsealed(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Arrays and notes of such a file, once all of it has been checked.

    Raises:
        BadArgument: What is wrong with it, without a word of what to do.
    """
    try:
        found = header(path)
        body = json.loads(found.metadata[KEY])
        if (version := body["version"]) != VERSION:
            raise BadArgument(f"it is of version {shown(version)}, and {VERSION} is read here")
        arrays = {k: np.array(mapped(one)) for k, one in found.tensors.items()}
        if _digest(arrays, body["notes"]) != body["sha256"]:
            raise BadArgument("its bytes are not what was written")
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise BadArgument(f"{path} cannot be used: {brief(error, 200)}") from None
    return arrays, body["notes"]


def _digest(arrays: Mapping[str, np.ndarray], notes: Any) -> str:
    sha = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name in sorted(arrays):
        x = arrays[name]
        sha.update(f"{name} {x.dtype.name} {x.shape}".encode() + x.tobytes())
    return sha.hexdigest()
