"""Layers by name: 0 is the embedding, k the output of block k, `"final"` after the last norm."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, final

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from .._io import BadArgument
from .._types import RandomKey

Name = int | Literal["final"]
Tokens = Int[Array, "batch time"]
Positions = Int[Array, "batch time"]
Ids = Sequence[int] | np.ndarray
Batch = Sequence[Ids] | np.ndarray
RowKeys = RandomKey | Key[Array, " rows"] | UInt32[Array, "rows words"]
States = Float[Array, "batch time width"]
Edit = Callable[[States, Positions], States]


@final
class Layers(dict):
    """A dictionary by layer that JAX can carry: its own dictionaries cannot mix 3 and `"final"`."""


def _order(name: Name) -> tuple[bool, Any]:
    return isinstance(name, str), name


def _flatten(layers: Layers) -> tuple[list[tuple[Any, Any]], tuple[Name, ...]]:
    names = tuple(sorted(layers, key=_order))
    return [(jax.tree_util.DictKey(name), layers[name]) for name in names], names


jax.tree_util.register_pytree_with_keys(
    Layers, _flatten, lambda names, values: Layers(zip(names, values))
)


def chosen(layers: Collection[Name] | None, depth: int | None) -> tuple[Name, ...]:
    """The names of `layers` in order, each once; None stands for all of them.

    `depth` is None where it is not known, as that of somebody's own model.
    """
    if layers is None and depth is None:
        raise BadArgument("`layers` is None. Name the layers: those of this model are not known.")
    names: Any = (*range((depth or 0) + 1), "final") if layers is None else layers
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise TypeError(f"`layers` is {names!r}. Give a tuple of names: ({names!r},).")
    return tuple(sorted({check_name("layers", name, depth) for name in names}, key=_order))


def edits(edit: Mapping[Name, Edit] | None, depth: int | None) -> Layers:
    """`edit` as JAX can carry it, after a look at it."""
    found = Layers()
    for name, function in (edit or {}).items():
        if not callable(function):
            raise TypeError(
                f"`edit[{name!r}]` is {function!r}. Give a function of the states and their "
                "positions that returns states of the same shape."
            )
        found[check_name("edit", name, depth)] = function
    return found


def check_name(argument: str, name: Any, depth: int | None) -> Any:
    """`name`, if a model of this depth has such a layer."""
    if isinstance(name, np.integer):
        name = int(name)
    known = name == "final" or (isinstance(name, int) and 0 <= name <= (depth or 0))
    if known or depth is None:
        return name
    raise BadArgument(
        f"`{argument}` names layer {name!r}. This model has 0 (the embedding) to {depth}, "
        'and "final".'
    )
