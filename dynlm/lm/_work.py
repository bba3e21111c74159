"""Carrying out a plan: batches compute while the shard before them is written."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, final

import jax
import numpy as np
from jaxtyping import Bool, Int

from .._io import BadArgument, counted, duration, progress, readable
from ..store._format import COLUMN, LAYER
from ..store._shard import OFFSETS, STATE_OFFSETS
from ..store._writer import Writer
from ._passes import Parts, Pass
from ._plan import Plan, Sizes, Work

FEW = 3  # batches, for which no time is estimated
PATIENCE = 5.0  # seconds in which nothing is said


@final
class Todo(NamedTuple):
    """The batches that are left for this process, in order: one entry a batch.

    Args:
        numbers: In the plan.
        shards: Which shard each is in.
        last: Whether its shard ends with it.
        tokens: How many it has, with those that may be added.
        counts: Its rows, those that fill it up included.
        times: The length that its rows are padded to.
        bytes: The most that it takes on disk.
    """

    numbers: Int[np.ndarray, " batch"]
    shards: Int[np.ndarray, " batch"]
    last: Bool[np.ndarray, " batch"]
    tokens: Int[np.ndarray, " batch"]
    counts: Int[np.ndarray, " batch"]
    times: Int[np.ndarray, " batch"]
    bytes: Int[np.ndarray, " batch"]


@final
class Report:
    """What the user is told on the way.

    Args:
        folder: The store.
        quiet: Tell nothing.
        exact: Whether all that was planned will be there; rows that are sampled may end early.
    """

    def __init__(self, folder: Path, quiet: bool, *, exact: bool) -> None:
        self.folder, self.exact = folder, exact
        self.quiet = quiet or jax.process_index() > 0

    def say(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            print(f"export: {text}", file=sys.stderr, flush=True)


def watched(work: Iterable[Work], report: Report) -> Iterator[Work]:
    """The same rows; says now and then how many have been tokenised."""
    rows, tokens, said = 0, 0, time.monotonic()
    for one in work:
        rows, tokens = rows + 1, tokens + len(one.tokens)
        if time.monotonic() - said > PATIENCE:
            report.say(f"reading the text: {counted(rows, 'row')}, {tokens:,} tokens so far")
            said = time.monotonic()
        yield one


def carry_out(writer: Writer, plan: Plan, way: Pass, sizes: Sizes, report: Report) -> None:
    """Computes every shard that is not there yet, and that falls to this process."""
    missing = writer.missing()
    mine = [k for k in missing if k % jax.process_count() == jax.process_index()]
    there = writer.manifest.count - len(missing)
    if there:
        report.say(f"{there} of {writer.manifest.count} shards are there; going on with the rest.")
    if not mine:
        return
    todo = left(plan, mine, sizes)
    check_space(writer.folder, todo, report)
    started, done = time.monotonic(), 0
    with memory():
        first = announce(plan, todo, way, sizes, report)
    with progress("tokens", int(todo.tokens.sum()), quiet=report.quiet) as advance, memory():
        shard: Parts = {}
        for place, rows, begun in ahead(plan, todo, way, first):
            parts = way.parts(plan, rows, begun)
            for name, arrays in parts.items():
                shard.setdefault(name, []).extend(arrays)
            shard.setdefault("rows", []).append(np.asarray(rows, np.int64))
            done += sum(map(len, parts["tokens"]))
            advance(int(todo.tokens[place]))
            if todo.last[place]:
                writer.put(int(todo.shards[place]), tensors(shard, plan, sizes.stride))
                shard = {}
        writer.wait()
    seconds = max(time.monotonic() - started, 1e-9)
    report.say(
        f"{done:,} tokens in {duration(seconds)}, {done / seconds:,.0f} tokens/s with compilation."
    )


def left(plan: Plan, shards: list[int], sizes: Sizes) -> Todo:
    """The batches of some shards."""
    spans = [plan.in_shard(shard) for shard in shards]
    numbers = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    shard_of = np.repeat(shards, [len(span) for span in spans])
    lengths = plan.lengths(plan.order)
    begins, ends = plan.batches[numbers], plan.batches[numbers + 1]
    longest, which = np.unique(lengths[begins], return_inverse=True)  # each batch begins with it
    counts = np.array([sizes.count(int(n)) for n in longest])
    times = np.array([sizes.time(int(n)) + sizes.more for n in longest])
    tokens = np.concatenate([[0], np.cumsum(lengths + sizes.more)])
    size = np.concatenate([[0], np.cumsum(sizes.bytes(lengths))])
    return Todo(
        numbers=numbers,
        shards=shard_of,
        last=np.append(np.diff(shard_of) != 0, True),
        tokens=tokens[ends] - tokens[begins],
        counts=counts[which],
        times=times[which],
        bytes=size[ends] - size[begins],
    )


def ahead(
    plan: Plan, todo: Todo, way: Pass, first: Any
) -> Iterator[tuple[int, Int[np.ndarray, " row"], Any]]:
    """Each batch with its rows and what was begun of it; the next one has been begun already."""
    rows, begun = plan.batch(int(todo.numbers[0])), first
    for place in range(len(todo.numbers)):
        here = place, rows, begun
        begun = None
        if place + 1 < len(todo.numbers):
            rows = plan.batch(int(todo.numbers[place + 1]))
            begun = way.start(plan, rows)
        yield here


def tensors(shard: Parts, plan: Plan, stride: int) -> Parts:
    """A shard's tensors, with where each row begins and what belongs to it."""
    rows = np.concatenate(shard["rows"])
    states = next(arrays for name, arrays in shard.items() if name.startswith(LAYER))
    values = plan.values_of(rows)
    small = {
        OFFSETS: ends(shard["tokens"]),
        "rows": rows,
        "docs": plan.docs[rows],
        "prompts": plan.prompts[rows],
        **{COLUMN + name: values[:, k].copy() for k, name in enumerate(plan.columns)},
    }
    if stride > 1:
        small[STATE_OFFSETS] = ends(states)
    return shard | {name: [x] for name, x in small.items()}


def ends(arrays: list[np.ndarray]) -> np.ndarray:
    """Where each row begins, and where the last one ends."""
    return np.cumsum([0, *map(len, arrays)], dtype=np.int64)


def announce(plan: Plan, todo: Todo, way: Pass, sizes: Sizes, report: Report) -> Any:
    """Says how much there is to do and about how long it takes; returns the first batch, begun."""
    batches, shards = len(todo.numbers), len(np.unique(todo.shards))
    rows = int((plan.batches[todo.numbers + 1] - plan.batches[todo.numbers]).sum())
    most = "" if report.exact else "at most "
    mine = "" if jax.process_count() == 1 else "for this process: "
    report.say(
        f"{mine}{counted(rows, 'row')}, {most}{int(todo.tokens.sum()):,} tokens, "
        f"{most}{readable(int(todo.bytes.sum()))} in {counted(shards, 'shard')} to {report.folder}"
    )
    first = plan.batch(int(todo.numbers[0]))
    if report.quiet or batches <= FEW:
        return way.start(plan, first)
    took = []
    for _ in range(2):  # the first time it is compiled
        started = time.monotonic()
        begun = jax.block_until_ready(way.start(plan, first))
        took.append(time.monotonic() - started)
    cost = todo.counts * todo.times
    shapes = len(np.unique(todo.times))
    seconds = took[1] * float(cost.sum() / cost[0]) + (took[0] - took[1]) * (shapes - 1)
    report.say(f"about {duration(seconds)}, going by its first batch")
    return begun


def check_space(folder: Path, todo: Todo, report: Report) -> None:
    """Refuses what the disk has no room for."""
    size, free = int(todo.bytes.sum()), shutil.disk_usage(folder).free
    if size <= free:
        return
    lack = f"{readable(size)} and {readable(free)} are free on the disk of {folder}"
    if report.exact:
        raise BadArgument(
            f"The rest of the store takes {lack}. Make room, or keep less: fewer layers, a larger "
            "stride, bfloat16."
        )
    report.say(f"the rest of the store takes at most {lack}")


@contextmanager
def memory() -> Iterator[None]:
    """Turns a lack of memory into a sentence."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise BadArgument(
            "There is not enough memory for a batch and a shard. The shards that were written are "
            "sound: run the same command where there is more memory, or begin another folder with "
            "a smaller `batch_tokens` or `shard_bytes`."
        ) from error


@contextmanager
def agreed(moment: str) -> Iterator[None]:
    """All processes come so far, or none goes on."""
    try:
        yield
    except Exception:
        meet(moment, sound=False)
        raise
    if not meet(moment):
        raise BadArgument(
            f"Another of the processes could not go on before all had {moment}; it says why. What "
            "was written is sound: start all of them again."
        )


def meet(moment: str, *, sound: bool = True) -> bool:
    """Waits until all processes have come so far; whether all are well."""
    if jax.process_count() == 1:
        return sound
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(f"dynlm export: {moment}")
    return bool(np.all(multihost_utils.process_allgather(np.asarray(sound))))
