"""Trees of arrays in one safetensors file: written whole or not at all, read back by name."""

import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from .._io import BadArgument, write_atomic

Tree = TypeVar("Tree")


def save_state(path: Path, tree: Any, notes: dict[str, Any] | None = None) -> None:
    """Writes the arrays of `tree` under their paths, and `notes` as JSON beside them."""
    from safetensors.numpy import save

    named = {name: np.asarray(x) for name, x in _named(tree).items()}
    write_atomic(path, save(named, metadata={"notes": json.dumps(notes or {})}))


def load_state(path: Path, like: Tree) -> tuple[Tree, dict[str, Any]]:
    """The arrays of `path` in the structure of `like`, and the notes that were kept with them."""
    from safetensors import SafetensorError, safe_open

    wanted, found = _named(like), {}
    try:
        with safe_open(path, framework="numpy") as file:
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
            found = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadArgument(f"{path} is no saved state ({error}). Delete it to start anew.") from None
    wrong = sorted(set(wanted) ^ set(found)) + [
        name
        for name in sorted(set(wanted) & set(found))
        if (wanted[name].shape, wanted[name].dtype) != (found[name].shape, found[name].dtype)
    ]
    if wrong:
        raise BadArgument(
            f"{path} was saved by another configuration: {len(wrong)} arrays differ, {wrong[0]} "
            "among them. Use the same settings, or another folder."
        )
    leaves = [jax.numpy.asarray(found[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), notes


def _named(tree: Any) -> dict[str, Any]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}
