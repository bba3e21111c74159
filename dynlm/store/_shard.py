"""One shard: written with the digest of its own data, read as views of the mapped file."""

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import ml_dtypes
import numpy as np

from .._io import CHUNK, BadArgument, write_atomic
from .._safetensors import header
from ._format import Record, digest, shard_name

ALIGNED = 64  # bytes: where the tensors begin
SMALL = 2**14  # bytes of an array that is joined with others before it is hashed and written
CODES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
NAMES = {dtype: code for code, dtype in CODES.items()}
OFFSETS, STATE_OFFSETS = "offsets", "state_offsets"
Parts = Mapping[str, Sequence[np.ndarray]]  # of each tensor, one array a row


def shard_parts(parts: Parts, notes: Mapping[str, str]) -> tuple[list[bytes], list[memoryview]]:
    """The bytes of a safetensors file: its header with the digest of its data, and the data.

    Wide types come first, so that every tensor stands where its type may stand.
    """
    order = sorted(parts, key=lambda name: -parts[name][0].dtype.itemsize)
    entries, end, sha = {}, 0, hashlib.sha256()
    data: list[memoryview] = []
    for name in order:
        arrays = parts[name]
        begin = end
        for piece in pieces(arrays):
            sha.update(piece)
            data.append(piece)
            end += len(piece)
        shape = [sum(len(x) for x in arrays), *arrays[0].shape[1:]]
        code = NAMES[arrays[0].dtype]
        entries[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
    marks = {"__metadata__": {**notes, "data_sha256": sha.hexdigest()}}
    text = json.dumps(marks | entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    return [len(text).to_bytes(8, "little"), text], data


def raw(x: np.ndarray) -> memoryview:
    """The bytes of an array, in order; a copy only where they do not lie so."""
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8).data


def pieces(arrays: Iterable[np.ndarray]) -> Iterator[memoryview]:
    """The bytes of some arrays one after the other, small ones joined."""
    waiting: list[memoryview] = []
    size = 0
    for x in arrays:
        flat = raw(x)
        if len(flat) < SMALL:
            waiting.append(flat)
            size += len(flat)
        if waiting and (size >= CHUNK or len(flat) >= SMALL):
            yield memoryview(b"".join(waiting))
            waiting, size = [], 0
        if len(flat) >= SMALL:
            yield flat
    if waiting:
        yield memoryview(b"".join(waiting))


def write_shard(folder: Path, number: int, parts: Parts, run: str) -> Record:
    """Writes a shard; `run` is the digest of what made it."""
    steps = sum(len(x) for x in parts["tokens"]) if "tokens" in parts else None
    layers = [name for name in parts if name.startswith("layer_")]
    states = sum(len(x) for x in parts[layers[0]])
    rows = sum(len(x) for x in parts["rows"])
    counts = {"rows": rows, "steps": states if steps is None else steps, "states": states}
    notes = {"run": run, "shard": str(number)} | {k: str(v) for k, v in counts.items()}
    head, data = shard_parts(parts, notes)
    write_atomic(folder / shard_name(number), *head, *data)
    size = sum(map(len, head)) + sum(map(len, data))
    data_sha256 = json.loads(head[1])["__metadata__"]["data_sha256"]
    return Record(
        number=number,
        bytes=size,
        header_sha256=digest(b"".join(head)),
        data_sha256=data_sha256,
        **counts,
    )


def record_of(folder: Path, number: int, run: str) -> Record | None:
    """What the header of a shard says, if it was made by `run`; its data are not read."""
    path = folder / shard_name(number)
    try:
        found = header(path)
        notes = found.metadata
        if notes.get("run") != run or notes.get("shard") != str(number):
            return None
        counts = {name: int(notes[name]) for name in ("rows", "steps", "states")}
        with open(path, "rb") as file:
            head = file.read(found.begin)
        return Record(
            number=number,
            bytes=found.begin + found.size,
            header_sha256=digest(head),
            data_sha256=notes["data_sha256"],
            **counts,
        )
    except (BadArgument, OSError, KeyError, ValueError):
        return None


def run_of(folder: Path, number: int) -> str | None:
    """The digest of what made a shard, by its header; None if that is damaged."""
    try:
        return header(folder / shard_name(number)).metadata.get("run")
    except (BadArgument, OSError):
        return None


def fault(folder: Path, record: Record, *, whole: bool) -> str | None:
    """What is wrong with a shard, in a sentence, or None; `whole`: after reading every byte."""
    path = folder / record.file
    try:
        size = path.stat().st_size
        if size != record.bytes:
            return f"{record.file} has {size} bytes and not {record.bytes}"
        begin = header(path).begin
        with open(path, "rb") as file:
            if digest(file.read(begin)) != record.header_sha256:
                return f"the header of {record.file} is not what was written"
            if not whole:
                return None
            sha = hashlib.sha256()
            while chunk := file.read(2**22):
                sha.update(chunk)
    except FileNotFoundError:
        return f"{record.file} is missing"
    except OSError as error:
        return f"{record.file} cannot be read: {error.strerror or error}"
    except BadArgument:
        return f"the header of {record.file} is damaged"
    if sha.hexdigest() != record.data_sha256:
        return f"the data of {record.file} are not what was written"
    return None


@final
class Shard:
    """A shard of which only what is used is read. Its arrays are read-only views of the file."""

    def __init__(self, path: Path) -> None:
        found = header(path)
        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.arrays: dict[str, np.ndarray] = {}
        for name, one in found.tensors.items():
            dtype = CODES[one.dtype]
            count = int(np.prod(one.shape, dtype=np.int64))
            x = np.frombuffer(self.map, dtype, count, one.begin) if count else np.empty(0, dtype)
            self.arrays[name] = x.reshape(one.shape)
        self.offsets = self.arrays[OFFSETS]
        self.state_offsets = self.arrays.get(STATE_OFFSETS, self.offsets)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays
