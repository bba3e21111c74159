"""Random ragged reads: a store, and the same states in files that others read."""

import importlib
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from _rows import Build, Rows, Run, missing

import dynlm
from dynlm.store import Store, Windows
from dynlm.store._format import FLOATS, Manifest, tensor_name
from dynlm.store._split import SHARES
from dynlm.store._writer import held, writing

OURS = "dynlm store.states"
MEMMAP, VIEW = "np.memmap, one flat file", "mmap as an array, one flat file"
SAFETENSORS = "safetensors get_slice, our shards"
ZARR = "zarr, chunks of 64 states"
LAYERS = (0, 3, "final")
LAYER = 3
CHUNK = 64  # states in a chunk of zarr


class Size(NamedTuple):
    """How much there is to read."""

    rows: int
    reads: int
    width: int = 256
    shortest: int = 50
    longest: int = 400
    shard_rows: int = 100


def rows_store(folder: Path, size: Size, layers: tuple[int | str, ...] = LAYERS) -> Store:
    """A store of random states, written as every store is."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(size.shortest, size.longest + 1, size.rows)
    count = -(-size.rows // size.shard_rows)
    manifest = Manifest(
        layers={name: size.width for name in layers},
        dtype="bfloat16",
        stride=1,
        fields=(),
        columns=(),
        top=0,
        rows=size.rows,
        documents=size.rows,
        count=count,
        plan_sha256=None,
        split={"seed": 0, "shares": dict(SHARES)},
        config={"of": "a benchmark"},
        versions={},
    )
    with held(folder), writing(folder, manifest) as writer:
        for shard in range(count):
            here = np.arange(shard * size.shard_rows, min((shard + 1) * size.shard_rows, size.rows))
            total = int(lengths[here].sum())
            states = {tensor_name(name): [_states(rng, total, size.width)] for name in layers}
            small = {
                "offsets": [np.cumsum([0, *lengths[here]], dtype=np.int64)],
                "rows": [here],
                "docs": [here],
                "prompts": [np.zeros(len(here), np.int32)],
            }
            writer.put(shard, small | states)
        writer.finish()
    return dynlm.open_store(folder)


def _states(rng: np.random.Generator, steps: int, width: int) -> np.ndarray:
    """Numbers of bfloat16 between -2 and 2, all of their bits random but those of the exponent."""
    bits = rng.integers(0, 2**16, (steps, width), np.uint16)
    return (bits & 0xBFFF).view(FLOATS["bfloat16"])


def peers(store: Store, folder: Path, size: Size) -> tuple[dict[str, Build], int]:
    """Rows that read the same `size.reads` rows of one layer; and how many bytes that is."""
    order = np.random.default_rng(1).permutation(len(store))[: size.reads].tolist()
    ends = np.concatenate([[0], np.cumsum(store.lengths)]).tolist()
    flat = folder / "flat.bin"
    with open(flat, "wb") as file:
        for row in range(len(store)):
            file.write(store.states(row, LAYER).tobytes())
    buffer = np.empty((size.longest, size.width), store.dtype)
    truth = [store.states(row, LAYER).copy() for row in order[:: max(1, len(order) // 50)]]

    def reading(make: Callable[[], Callable[[int], np.ndarray]]) -> Build:
        def build() -> Run:
            get = make()
            for row, x in zip(order[:: max(1, len(order) // 50)], truth):
                if get(row).tobytes() != x.tobytes():
                    raise ValueError(f"row {row} is not what was written")

            def call() -> None:
                for row in order:
                    x = get(row)
                    buffer[: len(x)] = x

            return Run(call)

        return build

    def ours() -> Callable[[int], np.ndarray]:
        return lambda row: store.states(row, LAYER)

    def memmap() -> Callable[[int], np.ndarray]:
        whole = np.memmap(flat, store.dtype, "r", shape=(ends[-1], size.width))
        return lambda row: whole[ends[row] : ends[row + 1]]

    def view() -> Callable[[int], np.ndarray]:
        with open(flat, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        whole = np.frombuffer(mapped, store.dtype).reshape(-1, size.width)
        return lambda row: whole[ends[row] : ends[row + 1]]

    builds: dict[str, Build] = {
        OURS: reading(ours),
        MEMMAP: reading(memmap),
        VIEW: reading(view),
        SAFETENSORS: missing("safetensors") or reading(lambda: _safetensors(store, size)),
        ZARR: missing("zarr") or reading(lambda: _zarr(store, folder, size, ends)),
    }
    return builds, sum(ends[row + 1] - ends[row] for row in order) * size.width * 2


def _safetensors(store: Store, size: Size) -> Callable[[int], np.ndarray]:
    """Slices of tensors, each file opened once."""
    safe_open = importlib.import_module("safetensors").safe_open
    files = [safe_open(store.folder / one.file, "numpy") for one in store.manifest.shards]
    slices = [file.get_slice(tensor_name(LAYER)) for file in files]
    offsets = [file.get_tensor("offsets").tolist() for file in files]

    def get(row: int) -> np.ndarray:
        shard, local = divmod(row, size.shard_rows)
        return slices[shard][offsets[shard][local] : offsets[shard][local + 1]]

    return get


def _zarr(store: Store, folder: Path, size: Size, ends: list[int]) -> Callable[[int], np.ndarray]:
    """Without compression."""
    zarr = importlib.import_module("zarr")
    whole = zarr.create_array(
        store=str(folder / "zarr"),
        shape=(ends[-1], size.width),
        chunks=(CHUNK, size.width),
        dtype="uint16",
        compressors=None,
    )
    whole[:] = np.concatenate([store.states(k, LAYER) for k in range(len(store))]).view(np.uint16)
    return lambda row: whole[ends[row] : ends[row + 1]].view(ml_dtypes.bfloat16)


def windows(store: Store, size: Size, length: int = 64, batch: int = 32) -> tuple[Build, int]:
    """A row that gathers batches of windows drawn at random, as training does; and how many."""
    ours = Windows(store, LAYER, length)
    numbers = np.random.default_rng(2).integers(
        len(ours), size=(max(1, size.reads // batch), batch)
    )

    def call() -> None:
        for some in numbers:
            ours.gather(some).ys.block_until_ready()

    return (lambda: Run(call)), numbers.size


def with_rates(rows: Rows, amount: float, unit: str) -> Rows:
    """With how much a row does in a second."""
    for row in rows.values():
        if "median_ms" in row:
            rate = 1e3 * amount / row["median_ms"]
            row[f"{unit.replace(' ', '_').replace('/', '_per_')}"] = rate
            row["note"] = f"{rate:,.3g} {unit}" if rate < 1000 else f"{rate:,.0f} {unit}"
    return rows
