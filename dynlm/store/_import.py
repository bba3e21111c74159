"""`from_arrays`: a store of series that people already have, in memory or in mapped files."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from .._fields import shown
from .._io import BadArgument, progress
from ._format import COLUMN, FLOATS, Manifest, Name, tensor_name
from ._items import NUMBERS, Items
from ._reader import Store, open_store
from ._shard import OFFSETS, Parts, raw
from ._split import SHARES, split_docs
from ._writer import held, writing

ROW_BYTES = 28  # what a row takes in a shard beside its states, times and columns


def from_arrays(
    folder: str | Path,
    series: Any,
    *,
    docs: Any = None,
    columns: Mapping[str, Any] | None = None,
    layer: Name = 0,
    dtype: Any = None,
    shares: Mapping[str, float] = SHARES,
    split_seed: int = 0,
    shard_bytes: int = 2**28,
    quiet: bool = True,
) -> Store:
    """Writes series of any kind as a store.

        store = from_arrays("store", [walk, other_walk])           # (time,) or (time, dim) each
        store = from_arrays("store", [(ys, ts), ...], docs=[0, 0, 1, ...])
        store = from_arrays("store", [{0: early, 6: late}, ...])   # several layers
        store = from_arrays("store", np.load("paths.npy", mmap_mode="r"))   # (paths, time, dim)

    Every series is read twice, and one shard at a time is in memory. Killed at any moment, the
    same call goes on, to the same bytes. A store that is complete is returned as it is; one with
    other contents is refused.

    Args:
        folder: The store.
        series: A list whose items are each an array, a `Trajectory` (without its padding), a pair
            of states and times, or a dictionary of arrays by layer (in a pair too); or one array
            (paths, time, dim), or a stacked `Trajectory`.
        docs: The document of each series, counted from 0; by default each is its own. A document
            is whole in one split.
        columns: By name, a number for each series.
        layer: What to call the layer, where series have only one.
        dtype: Of the states; by default that of the first, or float32 if it holds integers.
        shares: Of the documents that are for training, validation and test.
        split_seed: Another seed divides the documents otherwise.
        shard_bytes: A shard ends with the series that reaches so many.
        quiet: No progress.

    Raises:
        BadArgument: What cannot be stored, with its row and step.
    """
    folder = Path(folder)
    _check_size(shard_bytes)
    split_docs(np.arange(len(SHARES)), shares, split_seed)  # refuses shares that are none
    items = Items(series, layer, dtype)
    numbers = _docs(docs, len(items))
    values = _columns(columns or {}, len(items))
    lengths, timed, sha256 = _scan(items, numbers, values, quiet)
    step = sum(items.dims.values()) * items.dtype.itemsize + 8 * timed
    cuts = _cuts(lengths * step + ROW_BYTES + 8 * len(values), shard_bytes)
    manifest = Manifest(
        layers=items.dims,
        dtype=items.dtype.name,
        stride=1,
        fields=("times",) if timed else (),
        columns=tuple(values),
        top=0,
        rows=len(items),
        documents=int(numbers.max()) + 1,
        count=len(cuts) - 1,
        plan_sha256=None,
        split={"seed": split_seed, "shares": dict(shares)},
        config={
            "dtype": items.dtype.name,
            "layers": list(items.dims),
            "import": {"rows": len(items), "steps": int(lengths.sum()), "sha256": sha256},
            "shard_bytes": shard_bytes,
        },
        versions={name: version(name) for name in ("dynlm", "numpy")},
    )
    with held(folder), writing(folder, manifest) as writer:
        missing = writer.missing()
        with progress("write", max(len(missing), 1), quiet=quiet or not missing) as advance:
            for number in missing:
                rows = range(cuts[number], cuts[number + 1])
                writer.put(number, _parts(items, rows, numbers, values, timed))
                writer.wait()  # so that there is one shard in memory, not two
                advance(1)
        writer.finish()
    return open_store(folder)


def _docs(docs: Any, rows: int) -> Int64[np.ndarray, " row"]:
    """The document of each row. Splits count on it that they have the numbers 0, 1, 2, ..."""
    found = np.arange(rows) if docs is None else np.asarray(docs)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise BadArgument(
            f"`docs` has the shape {found.shape} and the dtype {found.dtype}. Give a whole number "
            f"for each of {rows} series; of names, make them by "
            "`np.unique(names, return_inverse=True)[1]`."
        )
    distinct = np.unique(found)
    if not np.array_equal(distinct, np.arange(len(distinct))):
        raise BadArgument(
            f"`docs` holds {len(distinct)} numbers from {distinct[0]} to {distinct[-1]}. Number "
            "documents 0, 1, 2, ... without a gap: `np.unique(docs, return_inverse=True)[1]`."
        )
    return found.astype(np.int64)


def _columns(columns: Mapping[str, Any], rows: int) -> dict[str, Float64[np.ndarray, " row"]]:
    out = {}
    for name, values in columns.items():
        if not isinstance(name, str) or not name or not name.isprintable():
            raise BadArgument(f"`columns` has the name {shown(name)}. Use a word.")
        x = np.asarray(values)
        if x.shape != (rows,) or (x.dtype.kind not in NUMBERS and x.dtype.name not in FLOATS):
            raise BadArgument(
                f"`columns[{shown(name)}]` has the shape {x.shape} and the dtype {x.dtype}. Give a "
                f"number for each of {rows} series."
            )
        out[name] = x.astype(np.float64)
        if not np.isfinite(out[name]).all():
            row = int(np.argmin(np.isfinite(out[name])))
            raise BadArgument(f"`columns[{shown(name)}]` is {x[row]} for row {row}. Mend it.")
    return out


def _check_size(shard_bytes: Any) -> None:
    if isinstance(shard_bytes, bool) or not isinstance(shard_bytes, int) or shard_bytes < 1:
        raise BadArgument(f"`shard_bytes` is {shown(shard_bytes)}. Use a whole number from 1 on.")


def _scan(
    items: Items, docs: np.ndarray, columns: Mapping[str, np.ndarray], quiet: bool
) -> tuple[Int64[np.ndarray, " row"], bool, str]:
    """How long each series is, whether any has times, and the digest of everything."""
    lengths, timed, sha = np.empty(len(items), np.int64), False, hashlib.sha256()
    with progress("read", len(items), quiet=quiet) as advance:
        for row in range(len(items)):
            item = items.checked(row)
            lengths[row] = item.length
            timed |= item.ts is not None
            sha.update(raw(np.array([docs[row], item.length, item.ts is not None], np.int64)))
            sha.update(raw(np.array([x[row] for x in columns.values()], np.float64)))
            for x in (*item.ys.values(), *(() if item.ts is None else (item.ts,))):
                sha.update(raw(x))
            advance(1)
    return lengths, timed, sha.hexdigest()


def _cuts(sizes: Int64[np.ndarray, " row"], shard_bytes: int) -> list[int]:
    """At which row each shard begins, and where the last ends."""
    total = np.cumsum(sizes)
    cuts = [0]
    while cuts[-1] < len(sizes):
        before = int(total[cuts[-1] - 1]) if cuts[-1] else 0
        end = int(np.searchsorted(total, before + shard_bytes)) + 1
        cuts.append(min(end, len(sizes)))
    return cuts


def _parts(
    items: Items, rows: range, docs: np.ndarray, columns: Mapping[str, np.ndarray], timed: bool
) -> Parts:
    """The tensors of a shard. Where some series have times, those that have none count steps."""
    found = [items[row] for row in rows]
    span = slice(rows.start, rows.stop)
    lengths = [item.length for item in found]
    parts = {tensor_name(name): [item.ys[name] for item in found] for name in items.dims}
    if timed:
        parts["times"] = [
            np.arange(item.length, dtype=np.float64) if item.ts is None else item.ts
            for item in found
        ]
    small = {
        OFFSETS: np.cumsum([0, *lengths], dtype=np.int64),
        "rows": np.array(rows, np.int64),
        "docs": docs[span],
        "prompts": np.zeros(len(rows), np.int32),
        **{COLUMN + name: x[span] for name, x in columns.items()},
    }
    return parts | {name: [x] for name, x in small.items()}
