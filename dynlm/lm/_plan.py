"""The plan of an export: every row's tokens, which batch and which shard it belongs to, on disk."""

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from .._io import write_all
from ..store._order import shuffled
from ..store._shard import Shard, raw, shard_parts
from ._prompts import bucket

POOL = 32  # batches whose rows are sorted by length together
SPOOL, DRAFT = ".tokens.00000000.part", ".plan.00000000.part"  # left by the killed, then removed


@final
class Work(NamedTuple):
    """One row to be made: tokens, the first `prompt` of which were given."""

    doc: int
    tokens: Int[np.ndarray, " time"]
    prompt: int
    columns: tuple[float, ...]


@final
class Sizes(NamedTuple):
    """What decides how rows are put together.

    Args:
        batch_tokens: The most tokens of a batch, padding included.
        most: The longest that a row may be.
        more: How many tokens may be added to each row.
        state_bytes: What one kept step of all layers takes on disk.
        step_bytes: What one token takes there beside.
        stride: Of each row, one state in so many is kept.
        shard_bytes: A shard ends with the batch that reaches so many.
    """

    batch_tokens: int
    most: int
    more: int
    state_bytes: int
    step_bytes: int
    stride: int
    shard_bytes: int

    def bytes(self, lengths: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        """The most that rows take in a shard."""
        full = lengths + self.more
        kept = -(-full // self.stride)
        return full * self.step_bytes + kept * self.state_bytes

    def time(self, longest: int) -> int:
        """To which length rows are padded; what is added later not counted."""
        return min(bucket(longest), self.most)

    def count(self, longest: int) -> int:
        """How many rows a batch has whose longest is this."""
        return max(1, self.batch_tokens // (self.time(longest) + self.more))


@final
class Plan:
    """A plan that was written: its arrays are views of the file."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        file = Shard(path)
        self.columns = columns
        self.offsets, self.tokens = file.offsets, file["tokens"]
        self.docs, self.prompts, self.values = file["docs"], file["prompts"], file["columns"]
        self.order, self.batches, self.shards = file["order"], file["batches"], file["shards"]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.docs)

    def lengths(self, rows: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        """Tokens of some rows before any are added."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def row(self, number: int) -> Int[np.ndarray, " time"]:
        """The tokens of a row."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    def batch(self, number: int) -> Int[np.ndarray, " row"]:
        """The rows of a batch."""
        return self.order[self.batches[number] : self.batches[number + 1]]

    def in_shard(self, number: int) -> range:
        """The batches of a shard."""
        return range(int(self.shards[number]), int(self.shards[number + 1]))

    def values_of(self, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row column"]:
        """The numbers that belong to some rows."""
        return self.values[rows]


@final
class Rows(NamedTuple):
    """What is known of all rows but their tokens, and the digest of it with them."""

    offsets: Int[np.ndarray, " ends"]
    docs: Int[np.ndarray, " row"]
    prompts: Int[np.ndarray, " row"]
    columns: Float[np.ndarray, "row column"]
    sha256: str

    def text(self) -> dict[str, Any]:
        """What a configuration says of the text."""
        return {
            "documents": len(np.unique(self.docs)),
            "rows": len(self.docs),
            "tokens": int(self.offsets[-1]),
            "sha256": self.sha256,
        }


def scan(work: Iterable[Work], columns: int, take: Callable[[memoryview], None]) -> Rows:
    """Goes through all rows once; `take` is given the tokens of each."""
    docs, prompts, ends, values = array("q"), array("i"), array("q", [0]), array("d")
    sha = hashlib.sha256()
    for one in work:
        data = raw(np.asarray(one.tokens, np.int32))
        take(data)
        sha.update(data)
        docs.append(one.doc)
        prompts.append(one.prompt)
        ends.append(ends[-1] + len(one.tokens))
        values.extend(one.columns)
    found = (
        np.frombuffer(ends, np.int64),
        np.frombuffer(docs, np.int64),
        np.frombuffer(prompts, np.int32),
        np.frombuffer(values, np.float64).reshape(len(docs), columns),
    )
    for x in found:
        sha.update(raw(x))
    return Rows(*found, sha256=sha.hexdigest())


@final
class Draft(NamedTuple):
    """A plan that lies ready in the folder of its store."""

    path: Path
    rows: Rows
    shards: int
    sha256: str


def draft(folder: Path, work: Iterable[Work], columns: tuple[str, ...], sizes: Sizes) -> Draft:
    """Writes the plan of some rows, of which only numbers are kept in memory, not the tokens."""
    spool, path = folder / SPOOL, folder / DRAFT
    with _writing(spool) as descriptor:
        rows = scan(work, len(columns), lambda data: write_all(descriptor, data))
    lengths = np.diff(rows.offsets)
    order, batches = batched(lengths, sizes)
    shards = sharded(lengths, order, batches, sizes)
    some = rows.offsets[-1] > 0
    tokens = np.asarray(np.memmap(spool, np.int32, "r")) if some else np.empty(0, np.int32)
    arrays = {
        "offsets": rows.offsets,
        "docs": rows.docs,
        "prompts": rows.prompts,
        "columns": rows.columns,
        "order": order,
        "batches": batches,
        "shards": shards,
        "tokens": tokens,
    }
    head, data = shard_parts({name: [x] for name, x in arrays.items()}, {})
    whole = hashlib.sha256()
    with _writing(path) as descriptor:
        for piece in (*head, *data):
            write_all(descriptor, piece)
            whole.update(piece)
        os.fsync(descriptor)
    spool.unlink()
    return Draft(path, rows, len(shards) - 1, whole.hexdigest())


@contextmanager
def _writing(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def batched(lengths: Int[np.ndarray, " row"], sizes: Sizes) -> tuple[Any, Any]:
    """Rows in the order of their batches, and where each batch begins.

    Neighbouring rows are sorted by length, so that little is padding; the batches made of them
    are shuffled, so that an incomplete store is no store of long texts.
    """
    order: list[np.ndarray] = []
    padded = np.maximum(lengths + sizes.more, 1)
    pool_of = (np.cumsum(padded) - padded) // (POOL * sizes.batch_tokens)
    cuts = np.flatnonzero(np.diff(pool_of)) + 1
    for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(lengths)]):
        rows = np.arange(first, last)
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        batches, here = [], 0
        while here < len(rows):
            count = sizes.count(int(lengths[rows[here]]))
            batches.append(rows[here : here + count])
            here += count
        places = shuffled(len(batches), first, np.arange(len(batches)))
        order.extend(batches[k] for k in places)
    ends = np.cumsum([0, *(len(rows) for rows in order)], dtype=np.int64)
    return np.concatenate([np.empty(0, np.int64), *order]), ends


def sharded(lengths: Any, order: Any, batches: Any, sizes: Sizes) -> Int[np.ndarray, " shard"]:
    """At which batch each shard begins; the last entry is where the last ends."""
    total = np.concatenate([[0], np.cumsum(sizes.bytes(lengths[order]))])[batches]
    cuts, begin = [0], 0
    for batch in range(1, len(batches)):
        if total[batch] - total[begin] >= sizes.shard_bytes or batch == len(batches) - 1:
            cuts.append(batch)
            begin = batch
    return np.asarray(cuts, np.int64)
