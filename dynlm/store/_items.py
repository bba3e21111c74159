"""Series as people have them, each converted to what a store holds when it is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import jax
import numpy as np
from jaxtyping import Float64

from .._fields import shown
from .._io import BadArgument
from .._safetensors import finite
from ..trajectory import Trajectory
from ._format import FLOATS, Name

NUMBERS = "biuf"  # kinds of numpy's own dtypes that are real numbers


@final
class Item(NamedTuple):
    """One series: states by layer in the dtype of the store, and times if it has any."""

    ys: dict[Name, np.ndarray]
    ts: Float64[np.ndarray, " time"] | None

    @property
    def length(self) -> int:
        """How many states it has."""
        return len(next(iter(self.ys.values())))


@final
class Items:
    """All series; each is converted when it is asked for."""

    def __init__(self, series: Any, layer: Name, dtype: Any) -> None:
        self.series = _listed(series)
        self.layer = _check_layer(layer)
        first, _ = self._read(0)
        self.dims: dict[Name, int] = {_check_layer(k): y.shape[1] for k, y in first.items()}
        self.dtype = _dtype(dtype, next(iter(first.values())).dtype)

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, row: int) -> Item:
        found, ts = self._read(row)
        if set(found) != set(self.dims):
            raise BadArgument(
                f"`series[{row}]` has the layers {list(found)} and the first {list(self.dims)}. "
                "Give every series the same layers."
            )
        steps = {name: len(y) for name, y in found.items()}
        for name, y in found.items():
            if y.shape[1] != self.dims[name]:
                raise BadArgument(
                    f"`series[{row}]` has {y.shape[1]} dimensions{_at(found, name)} and the first "
                    f"{self.dims[name]}. Only lengths may differ: store the others apart."
                )
            if len(y) == 0 or len(set(steps.values())) > 1:
                many = "no steps" if len(y) == 0 else f"{_differing(steps)} steps"
                raise BadArgument(f"`series[{row}]` has {many}. Leave it out, or mend it.")
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused
            ys = {name: found[name].astype(self.dtype, copy=False) for name in self.dims}
        return Item(ys, ts)

    def checked(self, row: int) -> Item:
        """A series whose states are finite and whose times are in order."""
        item = self[row]
        for name, y in item.ys.items():
            if not finite(y):
                step = int(np.argmax(~np.isfinite(y).all(axis=1)))
                before = self._read(row)[0][name][step]
                value = before[np.argmax(~np.isfinite(y[step]))]
                large = f", too large for {self.dtype}. Choose another `dtype`."
                advice = large if np.isfinite(value) else ". Cut the series there or fill the gap."
                raise BadArgument(
                    f"`series[{row}]` at step {step}{_at(item.ys, name)} is {value}{advice}"
                )
        if item.ts is not None:
            _check_times(row, item.ts, item.length)
        return item

    def _read(self, row: int) -> tuple[dict[Name, np.ndarray], np.ndarray | None]:
        """States by layer and times, as they were given."""
        one, ts, real = self.series[row], None, slice(None)
        if isinstance(one, Trajectory):
            if one.ys.ndim != 2:
                raise BadArgument(
                    f"`series[{row}]` is a stack of paths. Give it as `series` itself, or its "
                    "paths one by one."
                )
            real = slice(int(np.sum(np.asarray(one.mask))))
            one, ts = one.ys, one.ts
        elif isinstance(one, tuple):
            if len(one) != 2:
                raise BadArgument(
                    f"`series[{row}]` is a tuple of {len(one)}. Give an array, or a pair of states "
                    "and times."
                )
            one, ts = one
        given = one if isinstance(one, Mapping) else {self.layer: one}
        if not given:
            raise BadArgument(f"`series[{row}]` has no layers. Give at least one.")
        ys = {name: _states(row, y)[real] for name, y in given.items()}
        return ys, None if ts is None else _times(row, ts)[real]


@final
class _Stack(Sequence):
    """The paths of a stacked `Trajectory`."""

    def __init__(self, paths: Trajectory) -> None:
        self.paths = jax.tree.map(np.asarray, (paths.ts, paths.ys, paths.mask))

    def __len__(self) -> int:
        return len(self.paths[0])

    def __getitem__(self, row: Any) -> Any:
        ts, ys, mask = (x[row] for x in self.paths)
        return ys[mask], ts[mask]


def _listed(series: Any) -> Any:
    """What can be indexed by the number of a series."""
    stack = isinstance(series, Trajectory) and series.ys.ndim == 3
    array = isinstance(series, np.ndarray | jax.Array)
    if stack:
        series = _Stack(series)
    elif array and series.ndim != 3:
        raise BadArgument(
            f"`series` is one array of shape {series.shape}. Give one path as `[array]`, several "
            "as a list or as (paths, time, dim)."
        )
    elif isinstance(series, jax.Array):
        series = np.asarray(series)
    elif not array and (
        not isinstance(series, Sequence) or isinstance(series, str | bytes | tuple)
    ):
        # A pair of states and times would else be taken for two series.
        raise BadArgument(
            f"`series` is of type {type(series).__name__}. Give a list; one series too is given as "
            "a list of one."
        )
    if len(series) == 0:
        raise BadArgument("`series` is empty. Give at least one.")
    return series


def _states(row: int, y: Any) -> np.ndarray:
    """States as (time, dim), in whatever numbers they were given."""
    try:
        y = np.asarray(y)
    except ValueError:
        raise BadArgument(
            f"`series[{row}]` is a list of lists of different lengths. Give one row a step."
        ) from None
    if y.dtype.name not in FLOATS and y.dtype.kind not in NUMBERS:
        raise BadArgument(f"`series[{row}]` has the dtype {y.dtype}. Give real numbers.")
    if y.ndim not in (1, 2) or y.shape[1:] == (0,):
        raise BadArgument(
            f"`series[{row}]` has the shape {y.shape}. A series is (time,) or (time, dim)."
        )
    return y[:, None] if y.ndim == 1 else y


def _times(row: int, ts: Any) -> Float64[np.ndarray, "..."]:
    ts = np.asarray(ts)
    if ts.dtype.name not in FLOATS and ts.dtype.kind not in NUMBERS:
        raise BadArgument(
            f"The times of `series[{row}]` have the dtype {ts.dtype}. Give numbers, such as the "
            "seconds since its start."
        )
    if ts.ndim != 1:
        raise BadArgument(f"The times of `series[{row}]` have the shape {ts.shape}, not (time,).")
    return ts.astype(np.float64)


def _check_times(row: int, ts: Float64[np.ndarray, " time"], length: int) -> None:
    if len(ts) != length:
        raise BadArgument(
            f"`series[{row}]` has {length} states and {len(ts)} times. Give one time a state."
        )
    if not np.isfinite(ts).all():
        step = int(np.argmin(np.isfinite(ts)))
        raise BadArgument(f"`series[{row}]` at step {step} has the time {ts[step]}. Mend it.")
    if (back := np.flatnonzero(np.diff(ts) < 0)).size:
        step = int(back[0]) + 1
        raise BadArgument(
            f"`series[{row}]` at step {step} has the time {ts[step]}, after {ts[step - 1]}. Sort "
            "each series by time."
        )


def _check_layer(name: Any) -> Name:
    whole = isinstance(name, int | np.integer) and not isinstance(name, bool) and name >= 0
    if whole:
        return int(name)
    if not isinstance(name, str) or not name.isprintable() or not name or name.isdigit():
        raise BadArgument(
            f"{shown(name)} is no name of a layer. Use a number from 0 on, or a word."
        )
    return name


def _dtype(dtype: Any, first: np.dtype) -> np.dtype:
    if dtype is None:
        wide = first.kind == "f" and first.itemsize > 8
        return FLOATS.get(first.name, FLOATS["float64" if wide else "float32"])
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in FLOATS:
        raise BadArgument(f"`dtype` is {shown(dtype)}. Use {', '.join(FLOATS)}.")
    return FLOATS[name]


def _at(ys: Mapping[Name, Any], name: Name) -> str:
    return "" if len(ys) == 1 else f" in layer {shown(name)}"


def _differing(steps: Mapping[Name, int]) -> str:
    return f"{min(steps.values())} and {max(steps.values())}"
