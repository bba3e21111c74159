"""What `fit` is given, as windows, and those as a source of batches."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ._fields import shown
from ._io import BadArgument
from ._types import jax_dtype
from .store import SHARES, Batches, Store, Windows
from .store._windows import in_two, since_first
from .train import AbstractSource, InMemory, Streamed
from .trajectory import Trajectory, time_dtype

RESIDENT = 2**30  # bytes of states that are held on the device
HELD_OUT = 1024  # windows that a held-out loss is taken over
LAYER = 0
# A column of stores whose series were cut in time: three times the number of the series, plus 0 in
# the blocks for training, 1 in those for validation, 2 in those for the test.
IN_TIME = "part_in_time"


@final
class Rows:
    """Paths in memory, as `Windows` reads them."""

    def __init__(self, ys: list[np.ndarray], ts: list[np.ndarray]) -> None:
        self._ys, self._ts = ys, ts
        self.dims: dict[int | str, int] = {LAYER: ys[0].shape[1]}
        self.dtype = np.result_type(*{y.dtype for y in ys})
        self.lengths = np.asarray([len(y) for y in ys], np.int64)
        self.docs = np.arange(len(ys))

    def states(self, row: int, layer: int | str, /) -> np.ndarray:
        return self._ys[row]

    def times(self, row: int, /) -> np.ndarray:
        return self._ts[row]


def windows_of(
    data: Any,
    length: int,
    *,
    layer: Any = None,
    projection: Any = None,
    burn: int = 0,
    what: str = "data",
    dtype: Any = None,
    from_zero: bool = False,
) -> Windows:
    """Any kind of data as windows of `length` states, in the precision of the data unless told.

    What are windows already keep their own times; `from_zero` is for all else.
    """
    if isinstance(data, Windows):
        if layer is not None or projection is not None:
            raise BadArgument(f"`{what}` are windows, which have their own layer and projection.")
        return data
    if isinstance(data, Store):
        names = list(data.layers)
        if layer is None and len(names) != 1:
            raise BadArgument(f"`layer` is None, and the store has the layers {names}. Choose one.")
        layer = names[0] if layer is None else layer
        rows: Any = data  # whose properties are cached, which a protocol does not know
    elif layer is not None:
        raise BadArgument(f"`layer` is {shown(layer)}, but `{what}` is no store.")
    else:
        rows, layer = rows_of(data, what), LAYER
    dtype = precision_of(rows.dtype) if dtype is None else dtype
    options: dict[str, Any] = dict(projection=projection, dtype=dtype, skip=burn)
    return Windows(rows, layer, length, from_zero=from_zero, **options)


def precision_of(dtype: Any) -> Any:
    """The precision for states of a dtype: float64 where they and JAX have it, else float32."""
    return jax_dtype(np.float64 if dtype == np.float64 else np.float32)


def part_of(store: Store, name: str) -> Store:
    """The documents of a split; of series that were cut in time, the blocks of that part."""
    if IN_TIME not in store.columns:
        return store.split(name)
    return store[store.column(IN_TIME) % len(SHARES) == list(SHARES).index(name)]


def unit_of(store: Store) -> str:
    """What counts as a document of a store, for tables."""
    if IN_TIME not in store.columns:
        return "documents"
    count = int(np.max(store.column(IN_TIME))) // len(SHARES) + 1
    return "blocks of one series" if count == 1 else f"blocks of {count} series"


def rows_of(data: Any, what: str = "data") -> Rows:
    """Paths, arrays, or batches of either."""
    paths = list(_paths(data, what))
    if not paths:
        raise BadArgument(f"`{what}` is empty. Pass at least one path.")
    dims = {len(y[0]) for y, _ in paths if len(y)}
    if len(dims) != 1:
        raise BadArgument(f"`{what}` has paths of the dimensions {sorted(dims)}. Pass equal ones.")
    ys, ts = zip(*paths)
    return Rows(list(ys), list(ts))


def _paths(data: Any, what: str) -> Any:
    if isinstance(data, Trajectory):
        ys, ts, mask = (np.asarray(x) for x in (data.ys, data.ts, data.mask))
        if ys.ndim == 2:
            ys, ts, mask = ys[None], ts[None], mask[None]
        for y, t, m in zip(ys, ts, mask):
            if not np.isfinite(y[m]).all():
                raise BadArgument(f"`{what}` has states that are not finite. Leave them out.")
            yield y[m], t[m].astype(np.float64)
    elif isinstance(data, np.ndarray | jax.Array):
        array = np.asarray(data)
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
            raise BadArgument(
                f"`{what}` is an array {array.shape} of {array.dtype}. Pass numbers as (time, dim) "
                "or (paths, time, dim)."
            )
        array = array.astype(np.float32) if array.dtype.kind in "iu" else array
        for y in array if array.ndim == 3 else array[None]:
            if not np.isfinite(y).all():
                raise BadArgument(f"`{what}` has values that are not finite. Leave them out.")
            yield y, np.arange(len(y), dtype=np.float64)
    elif isinstance(data, Sequence) and not isinstance(data, str):
        for one in data:
            yield from _paths(one, what)
    else:
        raise BadArgument(
            f"`{what}` is {shown(data)}. Pass a store, windows, a `Trajectory`, an array, or a "
            "list of these."
        )


@final
class Gather(eqx.Module):
    """Windows of one length from the states of all rows, which stand one after the other."""

    length: int = eqx.field(static=True)
    from_zero: bool = eqx.field(static=True)

    def __call__(self, resident: PyTree, windows: Int[Array, " window"]) -> Trajectory:
        ts, ys, starts, ends = resident
        at = starts[windows][:, None] + jnp.arange(self.length, dtype=starts.dtype)[None]
        last = ends[windows][:, None]
        mask = at < last
        inside = jnp.minimum(at, last - 1)
        states = jnp.where(mask[:, :, None], ys[inside], 0)
        times = since_first(ts[inside]) if self.from_zero else ts[inside]
        return jax.vmap(Trajectory)(times, states, mask)


@final
class PathsInMemory(AbstractSource):
    """Batches of windows whose states the device holds once; the order is that of `Batches`."""

    def __init__(self, windows: Windows, size: int, *, seed: int, host: int, hosts: int) -> None:
        self.resident = flat(windows)
        numbers = np.arange(len(windows))
        self._order = InMemory(numbers, size, seed=seed, host=host, hosts=hosts)
        self.rows, self._gather = size, Gather(windows.length, windows.from_zero)

    @property
    def batch(self) -> Callable[[PyTree, PyTree], Trajectory]:
        return self._gather

    def payload(self, steps: range) -> PyTree:
        return self._order.payload(steps)


def flat(windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times and states of all rows, and where each window starts and its row ends.

    Times that windows count from zero are in two parts.
    """
    store, dtype = windows.store, windows.dtype
    rows = range(len(store.lengths))
    states = [_projected(windows, store.states(row, windows.layer)) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(np.asarray(store.lengths, np.int64))])
    if offsets[-1] >= 2**31:
        raise BadArgument(f"`data` has {offsets[-1]} states, too many to hold at once.")
    row, start = windows.locate(np.arange(len(windows)))
    ts = np.concatenate([store.times(row) for row in rows])
    kind = time_dtype(dtype)
    ts = in_two(ts, kind) if windows.from_zero else ts.astype(kind)
    ys = np.concatenate(states).astype(dtype)
    return ts, ys, (offsets[row] + start).astype(np.int32), offsets[row + 1].astype(np.int32)


def _projected(windows: Windows, states: np.ndarray) -> np.ndarray:
    projection = windows.projection
    if projection is None:
        return states
    states = states.astype(time_dtype(windows.dtype))
    if hasattr(projection, "project_rows"):
        return projection.project_rows(states)
    return np.asarray(jax.vmap(projection.project)(jnp.asarray(states)))


def source_of(windows: Windows, size: int, *, seed: int, resident: int) -> AbstractSource:
    """Batches from memory where the states fit into `resident` bytes, else from the store."""
    if len(windows) == 0:
        raise BadArgument("`data` has no row with two states, so there is nothing to train on.")
    host, hosts = jax.process_index(), jax.process_count()
    states = int(np.sum(windows.store.lengths))
    if states * windows.dim * np.dtype(windows.dtype).itemsize <= resident and states < 2**31:
        return PathsInMemory(windows, size, seed=seed, host=host, hosts=hosts)
    return Streamed(Batches(windows, size, seed=seed, host=host, hosts=hosts), size)


def some_of(windows: Windows, most: int) -> Trajectory:
    """At most so many windows, evenly spread over all."""
    count = len(windows)
    if count == 0:
        raise BadArgument("`held_out` has no row with two states. Use other held-out data.")
    picked = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
    return windows.gather(picked)


def noise_of(windows: Windows) -> float:
    """Root mean square of the increments over the root of their gaps, per component."""
    paths = some_of(windows, HELD_OUT)
    ys, ts, mask = (np.asarray(x, np.float64) for x in (paths.ys, paths.ts, paths.mask))
    gaps = np.diff(ts, axis=1)
    seen = (mask[:, 1:] > 0) & (gaps > 0)
    rates = np.diff(ys, axis=1)[seen] ** 2 / gaps[seen][:, None]
    return float(np.sqrt(rates.mean())) if rates.size and rates.mean() > 0 else 1.0


def facts_of(windows: Windows) -> dict[str, Any]:
    """What identifies the data of a run."""
    store = windows.store
    digest = getattr(store, "digest", None)
    if digest is None:
        code = 0
        for row in range(len(store.lengths)):
            for x in (store.states(row, windows.layer), store.times(row)):
                code = zlib.crc32(np.ascontiguousarray(x).tobytes(), code)
        digest = f"crc32:{code:08x}"
    return {
        "digest": digest,
        "rows": len(store.lengths),
        "states": int(np.sum(store.lengths)),
        "layer": windows.layer,
        "projection": projection_digest(windows.projection),
        "window": [windows.length, windows.stride, windows.skip],
        "dim": windows.dim,
        "dtype": str(windows.dtype),
    } | ({"from_zero": True} if windows.from_zero else {})


def projection_digest(projection: Any) -> str | None:
    """A checksum of the arrays of a projection, the same where JAX has 64 bits and where not."""
    arrays = jax.tree.leaves(eqx.filter(projection, eqx.is_array))
    code = 0
    for x in map(np.asarray, arrays):
        x = x.astype(np.float32) if x.dtype == np.float64 else x
        code = zlib.crc32(np.ascontiguousarray(x).tobytes(), code)
    return f"crc32:{code:08x}" if arrays else None


def gap_of(windows: Windows) -> float | None:
    """The one time from state to state, or None where they differ by more than a thousandth."""
    least, most = np.inf, 0.0
    for row in range(len(windows.store.lengths)):
        gaps = np.diff(np.asarray(windows.store.times(row), np.float64))
        gaps = gaps[gaps > 0]
        if gaps.size:
            least, most = min(least, gaps.min()), max(most, gaps.max())
    if not most or most - least > 1e-3 * most:
        return None
    return float((least + most) / 2)
