"""Which way each parameter of a decoder is split over the devices of a mesh."""

from collections.abc import Callable

import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._io import BadArgument

AXIS = "model"
COLUMNS = ("q", "k", "v", "gate", "up", "head")  # write to the split axis: kernels and biases
ROWS = ("o", "down")  # read from it: their kernels only, as their sums are whole again


def placement(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """By the dotted name and shape of a parameter: where it goes on the axis `model` of `mesh`.

    Projections into heads and hidden units are split by what they write, those back into the
    stream by what they read, and the table of tokens by its rows. The rest, and what the axis does
    not divide evenly, is on every device.
    """
    if AXIS not in mesh.axis_names:
        raise BadArgument(
            f"`mesh` has the axes {mesh.axis_names}, and weights are split over one named "
            f"{AXIS!r}. Make it with jax.make_mesh((devices,), ({AXIS!r},))."
        )
    # Axes of type "explicit", the default of jax.make_mesh, would want the sharding of every
    # product of the forward pass written out; the compiler is to work it out.
    auto = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * np.ndim(mesh.devices))

    def place(path: str, shape: tuple[int, ...]) -> NamedSharding:
        axis = split_axis(path)
        if axis is None or shape[axis] % auto.shape[AXIS]:
            return NamedSharding(auto, PartitionSpec())
        return NamedSharding(auto, PartitionSpec(*[None] * axis, AXIS))

    return place


def split_axis(path: str) -> int | None:
    """The axis along which a parameter is split; None where it stays whole."""
    *_, owner, kind = path.split(".")
    if owner in COLUMNS:
        return 1 if kind == "kernel" else 0
    if (owner in ROWS and kind == "kernel") or (owner, kind) == ("embed", "embedding"):
        return 0
    return None
