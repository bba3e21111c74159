"""Series that people already have, from tables of text and from arrays of numpy."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from .._fields import brief, shown, unreadable
from .._io import BadArgument
from ._text import Reader, numbers

TEXT = {".csv": ",", ".tsv": "\t"}
ARRAYS = (".npy", ".npz")
CHUNK = 8192  # rows that are looked at at once


@final
class Series(NamedTuple):
    """One path of a file: its states, its times if it has any, and its number in the file."""

    ys: Float[np.ndarray, "time dim"]
    ts: Float[np.ndarray, " time"] | None
    doc: int


@final
class Choice(NamedTuple):
    """Which columns of a table are what, by place."""

    time: int | None
    path: int | None
    states: list[int]


def read_series(
    path: str | Path,
    *,
    time: str | None = None,
    path_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> list[Series]:
    """The paths in a file, for a store or for `Trajectory.from_arrays`.

    `.csv` and `.tsv` (also `.gz`): one row a line, and a first line with the names of the columns
    unless it is all numbers. `.npy`: one path as (time,) or (time, dim), several as (paths, time,
    dim), where rows at the end that are all NaN are padding. `.npz`: as many arrays of these kinds.
    Columns without names, those of arrays too, are called "1", "2", "3", ...

    Args:
        path: The file.
        time: The column of times, which never decrease along a path.
        path_column: The column of text or numbers whose value says which path a row belongs to;
            the paths come in the order of their first rows. Only for tables of text.
        columns: The columns of the state; by default all others.

    Raises:
        BadArgument: The file cannot be read, or a number is missing or not finite. The message
            says where.
    """
    path = Path(path)
    if isinstance(columns, str):
        raise BadArgument(f"`columns` is {shown(columns)}. Pass a list of names.")
    kind = _kind(path)
    if path.is_dir():
        raise BadArgument(f"{path} is a folder. Pass the files in it.")
    if not path.exists():
        raise BadArgument(f"{path} is not there. Pass a file, or the folder of a store.")
    if kind not in TEXT and path.suffix.lower() not in ARRAYS:
        raise BadArgument(
            f"{path} is of no kind that can be read. Pass .csv or .tsv (also .gz), .npy or .npz."
        )
    if kind in TEXT:
        return _text(path, TEXT[kind], time, path_column, columns)
    if path_column is not None:
        raise BadArgument(
            f"`path_column` is {shown(path_column)} and {path} holds arrays. Stack paths as "
            "(paths, time, dim), or use a table of text."
        )
    found: list[Series] = []
    for label, array in _arrays(path):
        for name, table in _stacked(label, array):
            found.append(_path(name, table, time, columns, len(found)))
    if not found:
        raise BadArgument(f"{path} holds no arrays. Save one array a path with `np.savez`.")
    if len(dims := {one.ys.shape[1] for one in found}) > 1:
        raise BadArgument(
            f"{path} holds paths of {min(dims)} and of {max(dims)} dimensions. Read them as "
            "several files, or choose `columns` that all have."
        )
    return found


def names_of(path: Path) -> list[str]:
    """The names of the columns of a table of text; none, if the file is no such table."""
    kind = _kind(path)
    return Reader(path, TEXT[kind]).header()[0] if kind in TEXT and path.is_file() else []


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _choose(
    where: str,
    names: list[str],
    time: str | None,
    path_column: str | None,
    columns: Sequence[str] | None,
) -> Choice:
    def place(argument: str, name: str) -> int:
        if names.count(name) != 1:
            what = "two columns of that name" if name in names else "no such column"
            raise BadArgument(
                f"`{argument}` names {shown(name)}. {where} has {what}; its columns are "
                f"{brief(', '.join(map(repr, names)), 400)}."
            )
        return names.index(name)

    t = None if time is None else place("time", time)
    p = None if path_column is None else place("path_column", path_column)
    if columns is None:
        states = [k for k in range(len(names)) if k not in (t, p)]
        if unnamed := [k + 1 for k in states if not names[k]]:
            raise BadArgument(
                f"{where}: column {unnamed[0]} has no name, as an index of rows that was written "
                "along. Name the columns of the state with `columns`."
            )
    else:
        states = [place("columns", name) for name in columns]
    if not states:
        raise BadArgument(f"{where} leaves no column for the state. Name some with `columns`.")
    return Choice(t, p, states)


# Tables of text


def _text(
    path: Path,
    delimiter: str,
    time: str | None,
    path_column: str | None,
    columns: Sequence[str] | None,
) -> list[Series]:
    """The paths of a table, by the value of a column."""
    reader = Reader(path, delimiter)
    names, first = reader.header()
    choice = _choose(f"{path}", names, time, path_column, columns)
    numeric = sorted(set(choice.states + ([] if choice.time is None else [choice.time])))
    lines, codes, blocks = [], [], []
    known: dict[str, int] = {}
    for rows, at in reader.chunks(first):
        if set(map(len, rows)) != {len(names)}:
            k = next(k for k, row in enumerate(rows) if len(row) != len(names))
            raise BadArgument(
                f"{path}, line {at[k]} has {len(rows[k])} cells and the first line "
                f"{len(names)}. Mend the line: {delimiter!r} separates columns."
            )
        block = np.empty((len(rows), len(numeric)))
        for j, k in enumerate(numeric):
            block[:, j] = numbers([row[k] for row in rows], path, at, names[k])
        blocks.append(block)
        lines.append(np.array(at))
        if choice.path is not None:
            codes += [known.setdefault(row[choice.path].strip(), len(known)) for row in rows]
    if not blocks:
        raise BadArgument(f"{path} has no rows of numbers. Check that it is the right file.")
    table, line = np.concatenate(blocks), np.concatenate(lines)
    code = np.array(codes) if choice.path is not None else np.zeros(len(table), np.int64)
    order = np.argsort(code, kind="stable")
    if len(known) > 1:
        table, line = table[order], line[order]
    cuts = np.cumsum(np.bincount(code))[:-1]
    states = [numeric.index(k) for k in choice.states]
    found = []
    for doc, (part, at) in enumerate(zip(np.split(table, cuts), np.split(line, cuts))):
        ts = None if choice.time is None else part[:, numeric.index(choice.time)].copy()
        _check_order(ts, lambda k, at=at: f"{path}, line {at[k]}", "name the `path_column`")
        found.append(Series(np.ascontiguousarray(part[:, states]), ts, doc))
    return found


# Arrays


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Each array of a file with a name for messages; that of a .npy is mapped, not read."""
    try:
        with open(path, "rb") as file:  # np.load does not close a damaged .npz
            if file.read(2) == b"PK":
                file.seek(0)
                loaded = np.load(file, allow_pickle=False)
                found = [(f"{path}: {name}", loaded[name]) for name in loaded.files]
            else:
                found = [(f"{path}", np.load(path, mmap_mode="r", allow_pickle=False))]
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # a damaged file may fail anywhere in numpy, zipfile, zlib or ast
        raise BadArgument(
            f"{path} cannot be read as arrays of numbers ({brief(error)}). Save it with `np.save` "
            "or `np.savez`; objects, which numpy pickles, are never read."
        ) from None
    yield from ((name, np.asarray(array)) for name, array in found)


def _stacked(label: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each path of an array as (time, dim), in floating point of this machine."""
    if array.dtype.kind not in "iuf":
        raise BadArgument(f"{label} has the dtype {array.dtype}. Save real numbers.")
    if array.ndim not in (1, 2, 3) or array.size == 0:
        raise BadArgument(
            f"{label} has the shape {array.shape}. Save (time,), (time, dim) or (paths, time, dim)."
        )
    small = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    array = array.astype(array.dtype.newbyteorder("=") if small else np.float64, copy=False)
    if array.ndim == 3:
        yield from ((f"{label}[{k}]", one) for k, one in enumerate(array))
    else:
        yield label, array if array.ndim == 2 else array[:, None]


def _path(
    label: str, table: np.ndarray, time: str | None, columns: Sequence[str] | None, doc: int
) -> Series:
    """The path in a table of numbers, without the padding at its end."""
    names = [str(k + 1) for k in range(table.shape[1])]
    choice = _choose(label, names, time, None, columns)
    whole = choice.states == list(range(len(names)))  # no copy of what may be large
    ys = table if whole else table[:, choice.states]
    parts = [ys[k : k + CHUNK] for k in range(0, len(ys), CHUNK)]
    real = np.flatnonzero(np.concatenate([~np.isnan(part).all(axis=1) for part in parts]))
    if not real.size:
        raise BadArgument(f"{label} is NaN throughout. Leave the path out.")
    ys = ys[: real[-1] + 1]
    ts = None if choice.time is None else table[: len(ys), choice.time].astype(np.float64)
    for start in range(0, len(ys), CHUNK):
        _check_finite(label, ys[start : start + CHUNK], start, choice.states)
    if ts is not None and choice.time is not None:
        _check_finite(label, ts[:, None], 0, [choice.time])
    _check_order(ts, lambda k: f"{label}[{k}]", "stack the paths as (paths, time, dim)")
    return Series(ys, ts, doc)


def _check_finite(
    label: str, part: Float[np.ndarray, "row column"], start: int, columns: list[int]
) -> None:
    bad: Int[np.ndarray, "bad 2"] = np.argwhere(~np.isfinite(part))
    if bad.size:
        row, column = bad[0]
        raise BadArgument(
            f"{label}[{start + row}, {columns[column]}] is {part[row, column]}. NaN may only stand "
            "in rows at the end that have nothing else; cut the path there or fill the gap."
        )


def _check_order(
    ts: Float[np.ndarray, " time"] | None, place: Callable[[int], str], several: str
) -> None:
    if ts is not None and (back := np.flatnonzero(np.diff(ts) < 0)).size:
        k = int(back[0]) + 1
        raise BadArgument(
            f"{place(k)} has the time {ts[k]}, after {ts[k - 1]}. Sort the rows by time; if "
            f"there are several paths, {several}."
        )
