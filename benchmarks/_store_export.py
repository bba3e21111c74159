"""Exporting: all that it does, beside the model alone on the same batches."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _rows import REST, Build, Rows, Run

from dynlm import lm
from dynlm.lm._grid import Sampling
from dynlm.lm._passes import Continuing, Reading
from dynlm.store import Store

OURS = "dynlm.lm.export"
ALONE = "its model alone"
FORWARD = "logits and states alone, float32"
DISK = "the same bytes to one file, fsync"
AGAIN = "export of a complete store"
BATCH_TOKENS = 4096
FIRST = "first"  # the store that is there before anything is timed


def documents(size: tuple[int, int, int], vocab: int) -> list[np.ndarray]:
    """So many rows of token ids at random, from the shortest to the longest.

    What they say does not change how long it takes.
    """
    count, shortest, longest = size
    rng = np.random.default_rng(0)
    return [
        rng.integers(vocab, size=n, dtype=np.int32)
        for n in rng.integers(shortest, longest + 1, count)
    ]


def rows(
    model: lm.LanguageModel,
    texts: list[np.ndarray],
    folder: Path,
    sampling: Sampling | None,
    shard_bytes: int,
) -> tuple[dict[str, Build], Store]:
    """The rows of a table, and a store that was made before."""
    settings: dict[str, Any] = dict(
        sampling=sampling, batch_tokens=BATCH_TOKENS, shard_bytes=shard_bytes, quiet=True
    )
    with _listening(Reading if sampling is None else Continuing) as seen:
        first = lm.export(model, texts, folder / FIRST, **settings)
    numbers = iter(range(10**6))

    def ours() -> Run:
        return Run(lambda: lm.export(model, texts, folder / f"{next(numbers)}", **settings))

    def disk() -> Run:
        data = os.urandom(sum(one.bytes for one in first.manifest.shards))
        return Run(lambda: _put(folder / f"{next(numbers)}.bin", data))

    builds: dict[str, Build] = {OURS: ours}
    if sampling is None:
        read, given = seen[0][0].read, _inputs(seen)
        builds[ALONE] = lambda: Run(lambda: _reading_alone(read, given))
        builds[FORWARD] = lambda: Run(lambda: _forward(model, given))
    else:
        builds[ALONE] = lambda: Run(lambda: _sampling_alone(seen))

    def again() -> Run:
        return Run(lambda: lm.export(model, texts, first.folder, **settings))

    return builds | {DISK: disk, AGAIN: again}, first


def in_turns(builds: dict[str, Build], folder: Path, *, repeat: int, limit: float) -> Rows:
    """As `compare`, but what a call leaves in `folder` is removed before the next one begins.

    Memory that the system gave to files and took back is cheaper to fill than new one, in a
    virtual machine by much, and files that pile up would cost later rows more.
    """
    rows: Rows = {}
    runs: dict[str, Run] = {}
    for turn in range(-1, repeat):
        names = list(builds if turn < 0 else runs)
        for name in names[turn % max(1, len(names)) :] + names[: turn % max(1, len(names))]:
            if turn >= 0 and sum(rows[name]["later_ms"]) > 1e3 * limit:
                continue
            time.sleep(REST)
            try:
                if turn < 0:
                    build = builds[name]
                    assert not isinstance(build, str)
                    runs[name] = build()
                start = time.perf_counter()
                runs[name].call()
                took = 1e3 * (time.perf_counter() - start)
            except Exception as error:
                rows[name] = {"failed": f"{type(error).__name__}: {str(error)[:160]}"}
                runs.pop(name, None)
                continue
            if turn < 0:
                rows[name] = {"where": jax.default_backend(), "first_ms": took, "later_ms": []}
            else:
                rows[name]["later_ms"].append(took)
            clear(folder)
    for name in runs:
        later = rows[name]["later_ms"]
        middle, least = float(np.median(later)), float(np.min(later))
        rows[name] |= {"median_ms": middle, "min_ms": least, "memory_bytes": None}
    return {name: rows[name] for name in builds}


def clear(folder: Path) -> None:
    """Removes all but the store that was there before."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != FIRST:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def _put(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _listening(kind: type) -> Iterator[list[tuple[Any, ...]]]:
    """Every batch that an export begins meanwhile: who began it, and what it was given."""
    seen: list[tuple[Any, ...]] = []
    start = kind.start

    def listening(way: Any, *args: Any) -> Any:
        seen.append((way, *args))
        return start(way, *args)

    kind.start = listening
    try:
        yield seen
    finally:
        kind.start = start


def _inputs(seen: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """What the compiled function is given for each batch of texts."""
    given: list[tuple[Any, ...]] = []
    for way, *args in seen:
        read, way.read = way.read, lambda *args: given.append(args)
        way.start(*args)
        way.read = read
    return given


def _sampling_alone(seen: list[tuple[Any, ...]]) -> None:
    for way, *args in seen:
        jax.block_until_ready(way.start(*args))


def _reading_alone(read: Callable[..., Any], given: list[tuple[Any, ...]]) -> None:
    for args in given:
        jax.block_until_ready(read(*args))


def _forward(model: lm.LanguageModel, given: list[tuple[Any, ...]]) -> None:
    for tokens, positions, *_ in given:
        jax.block_until_ready(model(tokens, positions, layers=None))
