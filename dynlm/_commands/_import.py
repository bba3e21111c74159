"""`dynlm import`: series from tables and arrays as a store."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from .._fields import brief
from .._io import BadArgument
from ..store._import import from_arrays
from ..store._tables import names_of, read_series
from ._common import bytes_of, check_numbers, going_on, shares_of, tell
from ._options import Name, Names


@dataclass(frozen=True)
class Import:
    """Make a store of series that you have: .csv, .tsv (also .gz), .npy, .npz.

    Every path counts as a document of its own, which is for training, validation or test.

    Such as:

      dynlm import walks.csv --out walks
      dynlm import walks.csv --time t --path-column animal --columns x y --out walks
      dynlm import a.npy b.npy --dtype float32 --out both

    Args:
        files: Tables with a row a step, or arrays (time,), (time, dim) or (paths, time, dim).
        out: Folder of the store.
        time: Column of times; without it steps are counted.
        path_column: Column that says which path a row belongs to.
        columns: Columns of the state; without it all others.
        dtype: Of the states; "same" is that of the files.
        shares: Of the paths that are for training, validation and test.
        split_seed: Another seed divides the paths otherwise.
        shard_mb: A shard ends with the path that reaches so many MiB.
        quiet: No progress and no table.
        json: Print what the store holds as one line of JSON; the table goes to stderr.
    """

    files: Positional[tuple[Path, ...]]
    out: Path
    time: Name = None
    path_column: Name = None
    columns: Names = ()
    dtype: Literal["same", "bfloat16", "float16", "float32", "float64"] = "same"
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    split_seed: int = 0
    shard_mb: float = 256.0
    quiet: bool = False
    json: bool = False


def run(config: Import) -> None:
    """Read the files, write the store, and say what it holds."""
    if not config.files:
        raise BadArgument(
            "No files are given. Name at least one, as in `dynlm import walks.csv --out walks`."
        )
    check_numbers(config, {"split_seed": 0})
    shares = shares_of(config.shares, config.split_seed)
    with going_on(config.out):
        series = _series(config)
        store = from_arrays(
            config.out,
            series,
            dtype=None if config.dtype == "same" else config.dtype,
            shares=shares,
            split_seed=config.split_seed,
            shard_bytes=bytes_of(config.shard_mb),
            quiet=config.quiet,
        )
    tell(store, quiet=config.quiet, as_json=config.json)


def _series(config: Import) -> list[Any]:
    """The paths of all files, which must agree in their dimension."""
    out: list[Any] = []
    dims: dict[int, Path] = {}
    for path in config.files:
        if not config.quiet:
            print(f"import: reading {path}{_unused(config, path)}", file=sys.stderr, flush=True)
        for one in read_series(
            path,
            time=config.time,
            path_column=config.path_column,
            columns=config.columns or None,
        ):
            dims.setdefault(one.ys.shape[1], path)
            out.append(one.ys if one.ts is None else (one.ys, one.ts))
        if len(dims) > 1:
            (a, first), (b, other) = dims.items()
            raise BadArgument(
                f"{first} has paths of {a} dimensions and {other} of {b}. Choose `--columns` that "
                "both have, or import them apart."
            )
    return out


def _unused(config: Import, path: Path) -> str:
    """The columns of a table that are neither states nor times nor names of paths."""
    used = {*config.columns, config.time, config.path_column}
    unused = [name for name in names_of(path) if name not in used] if config.columns else []
    return f", without its columns {brief(', '.join(unused))}" if unused else ""
