"""Trees of arrays and of anything else, as `jax.jit` can take them."""

from typing import Any, NamedTuple, final

import jax
import numpy as np


@final
class Static(NamedTuple):
    """The part of a tree that is compiled in: its structure, and its leaves that are no arrays."""

    structure: Any
    leaves: tuple[Any, ...]


def split(tree: Any) -> tuple[list[Any], Static]:
    """The arrays of a tree, and the rest; functions are told apart by their identity."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [x if isinstance(x, jax.Array | np.ndarray) else None for x in leaves]
    rest = tuple(x if y is None else None for x, y in zip(leaves, arrays))
    return arrays, Static(structure, rest)


def join(arrays: list[Any], static: Static) -> Any:
    """What `split` was given."""
    leaves = [x if y is None else y for x, y in zip(static.leaves, arrays)]
    return jax.tree.unflatten(static.structure, leaves)
