"""Windows of one length over the rows of a store, by number."""

from collections.abc import Sequence
from typing import Any, Protocol, final, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int64

from .._fields import shown
from .._io import BadArgument
from .._types import jax_dtype
from ..trajectory import Trajectory, time_dtype

Numbers = Int[np.ndarray, " window"] | Sequence[int]


@runtime_checkable
class Rows(Protocol):
    """What windows need of a store."""

    @property
    def dims(self) -> dict[int | str, int]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def docs(self) -> np.ndarray: ...
    @property
    def lengths(self) -> np.ndarray: ...
    def states(self, row: int, layer: int | str, /) -> np.ndarray: ...
    def times(self, row: int, /) -> np.ndarray: ...


@final
class Windows:
    """All windows of `length` states over the rows of a store, numbered from 0.

        windows = Windows(store.split("train"), 3, length=64)
        windows[0]                     # a Trajectory of 64 steps
        windows.gather([5, 900, 31])   # three of them, stacked
        windows.steps                  # how many transitions they hold

    The windows of a row start at its states 0, stride, 2 stride, ... as long as one transition
    lies ahead. The last ones may reach beyond the row: what is beyond is padding, with False in
    the mask, the last time repeated, and zeros for states. No window is stored: the numbers cost
    one integer a row.

    Times are those of the store, so a drift may depend on the place in the text. Where the dtype
    cannot tell two of them apart (seconds since 1970 in float32), that is an error, as for
    `Trajectory.from_arrays`. With `from_zero` gaps keep their digits, however late they are.

    Args:
        store: A store, or a part of one such as `store.split("train")`.
        layer: Name of the layer.
        length: States in a window.
        stride: States from one start to the next. By default `length - 1`: the last state of a
            window is the first of the next one, and each transition stands in one window.
        projection: Anything whose `project` takes one state, such as a `Projection`.
        dtype: Floating dtype of the states. A projection computes in it, or in float32 if it has
            fewer bits.
        skip: States at the start of each row that no window has; the first tokens of a text are
            unlike all others.
        from_zero: Counts the times of each window from its own first state, for models that do not
            know of time.
    """

    def __init__(
        self,
        store: Rows,
        layer: int | str,
        length: int,
        stride: int | None = None,
        *,
        projection: Any = None,
        dtype: Any = np.float32,
        skip: int = 0,
        from_zero: bool = False,
    ) -> None:
        if layer not in store.dims:
            raise BadArgument(
                f"`layer` is {shown(layer)}. This store has the layers {list(store.dims)}."
            )
        if length < 1:
            raise BadArgument(f"`length` is {length}. Use 2 or more; 1 for states by themselves.")
        stride = max(1, length - 1) if stride is None else stride
        if stride < 1:
            raise BadArgument(f"`stride` is {stride}. Use 1 or more, or None for `length - 1`.")
        if not jnp.issubdtype(np.dtype(dtype), jnp.floating):
            raise BadArgument(f"`dtype` is {shown(dtype)}. Pass a floating one, such as float32.")
        if skip < 0:
            raise BadArgument(f"`skip` is {skip}. Use 0 or more.")
        self.store, self.layer, self.length, self.stride = store, layer, length, stride
        self.skip, self.from_zero = skip, from_zero
        self.projection, self.dtype = projection, jax_dtype(dtype)
        self.dim = self._dim()
        counts = _counts(self._lengths, length, stride)
        self._bounds = np.concatenate([[0], np.cumsum(counts)])  # a row's first, the next row's
        # What is wrong with the times of one row is mostly wrong with all: say it before training.
        for row in {int(np.argmax(counts > 0)), int(np.argmax(counts))} if len(self) else ():
            times = store.times(row)
            times = times[skip : skip + length] if from_zero else times
            self._check_times(times[None], [row])

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __repr__(self) -> str:
        return f"<Windows: {len(self)} of {self.length} states, layer {self.layer!r}>"

    def __getitem__(self, window: int | np.integer) -> Trajectory:
        if not isinstance(window, int | np.integer):
            raise TypeError(f"`windows[{shown(window)}]`: for several use `windows.gather([...])`.")
        if not -len(self) <= window < len(self):
            raise IndexError(f"`window` is {window}. There are {len(self)} windows.")
        return jax.tree.map(lambda x: x[0], self.gather([int(window) % len(self)]))

    @property
    def _lengths(self) -> Int64[np.ndarray, " row"]:
        """How many states of each row windows may have."""
        return np.maximum(0, np.asarray(self.store.lengths, np.int64) - self.skip)

    @property
    def steps(self) -> int:
        """How many transitions the windows hold, padding not counted."""
        lengths = self._lengths
        counts = np.diff(self._bounds)
        whole = np.minimum(counts, np.maximum(0, (lengths - self.length) // self.stride + 1))
        # Those that reach beyond the row start at k stride, k = whole, ..., counts - 1.
        starts = self.stride * (counts * (counts - 1) - whole * (whole - 1)) // 2
        cut = (counts - whole) * (lengths - 1) - starts
        return int(np.sum(whole * (self.length - 1) + cut))

    def locate(
        self, windows: Numbers
    ) -> tuple[Int64[np.ndarray, " window"], Int64[np.ndarray, " window"]]:
        """The row of each window, and which of its states is the first."""
        numbers = np.asarray(windows)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise BadArgument(
                f"`windows` is {shown(windows)}. Pass a list or a vector of whole numbers."
            )
        if numbers.size and not (0 <= numbers.min() and numbers.max() < len(self)):
            raise BadArgument(
                f"`windows` goes from {numbers.min()} to {numbers.max()}. "
                f"There are {len(self)} windows, numbered from 0."
            )
        numbers = numbers.astype(np.int64)
        rows = np.searchsorted(self._bounds, numbers, side="right") - 1
        return rows, self.skip + (numbers - self._bounds[rows]) * self.stride

    def docs(self, windows: Numbers) -> Int64[np.ndarray, " window"]:
        """The document of each window: those of one document are not independent."""
        return np.asarray(self.store.docs, np.int64)[self.locate(windows)[0]]

    def gather(self, windows: Numbers) -> Trajectory:
        """The windows of these numbers as one batch."""
        rows, starts = self.locate(windows)
        shape = (len(rows), self.length)
        ys = np.zeros((*shape, self.store.dims[self.layer]), self.store.dtype)
        ts, mask = np.zeros(shape), np.zeros(shape, bool)
        seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for k, (row, start) in enumerate(zip(rows.tolist(), starts.tolist())):
            if row not in seen:
                seen[row] = self.store.states(row, self.layer), self.store.times(row)
            states, times = seen[row]
            part, when = states[start : start + self.length], times[start : start + self.length]
            ys[k, : len(part)] = part
            ts[k, : len(when)], ts[k, len(when) :] = when, when[-1]
            mask[k, : len(part)] = True
        ts = self._check_times(ts, rows)
        arrays = jnp.asarray(ts), jnp.asarray(ys), jnp.asarray(mask)
        return _finish(*arrays, self.projection, self.dtype)

    def _check_times(self, ts: Float[np.ndarray, "path time"], rows: Any) -> np.ndarray:
        """`ts` in the dtype of times; an error where that makes equal what was not."""
        dtype = time_dtype(self.dtype)
        kept = since_first(in_two(ts, dtype)) if self.from_zero else ts.astype(dtype)
        lost = (np.diff(ts) > 0) & (np.diff(kept) <= 0)
        if lost.any():
            k, step = np.argwhere(lost)[0]
            raise BadArgument(
                f"Row {rows[k]} of `store` has the times {ts[k, step]} and {ts[k, step + 1]}, "
                f"which are equal in {kept.dtype}. Import the series with times counted from its "
                "start or in a larger unit; or use float64 (`dtype`, and `jax_enable_x64`)."
            )
        return kept

    def _dim(self) -> int:
        dim = self.store.dims[self.layer]
        if self.projection is None:
            return dim
        state = jax.ShapeDtypeStruct((dim,), time_dtype(self.dtype))
        try:
            out = eqx.filter_eval_shape(self.projection.project, state)
        except (TypeError, ValueError) as error:
            raise BadArgument(
                f"`projection` does not take the states of layer {shown(self.layer)}, which have "
                f"{dim} dimensions ({str(error).splitlines()[0]}). Fit one to this layer."
            ) from None
        return out.shape[0]


def in_two(ts: np.ndarray, dtype: Any) -> np.ndarray:
    """Times as sums of two numbers of a dtype, whose differences have the digits of float64."""
    high = ts.astype(dtype)
    return np.stack([high, (ts - high).astype(dtype)], axis=-1)


def since_first(parts: Any) -> Any:
    """The times of windows, given in two, from the first of each."""
    high_low = parts - parts[:, :1]
    return high_low[..., 0] + high_low[..., 1]


@eqx.filter_jit
def _finish(
    ts: Float[Array, "path time"],
    ys: Float[Array, "path time raw"],
    mask: Bool[Array, "path time"],
    projection: Any,
    dtype: Any,
) -> Trajectory:
    """The batch on the device: projected and cast. Padding, zero before, is zero again."""
    if projection is not None:
        ys = jax.vmap(jax.vmap(projection.project))(ys.astype(time_dtype(dtype)))
        ys = jnp.where(mask[:, :, None], ys, jnp.zeros((), ys.dtype))
    return jax.vmap(Trajectory)(ts, ys.astype(dtype), mask)


def _counts(
    lengths: Int64[np.ndarray, " row"], length: int, stride: int
) -> Int64[np.ndarray, " row"]:
    """How many windows each row has."""
    least = min(length, 2)  # states without which a window holds nothing
    return np.maximum(0, (lengths - least) // stride + 1)
