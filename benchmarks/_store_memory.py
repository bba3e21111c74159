"""Memory of exports and of open stores, each in a fresh process, which this file is also."""

import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH_TOKENS, SHARD_BYTES = 1024, 2**22
SHORTEST, LONGEST = 17, 24  # all padded to 32: one program, however many documents


def measured(what: str, folder: Path, count: int = 0) -> dict[str, Any]:
    """What a fresh process says of itself."""
    command = [sys.executable, __file__, what, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"failed": lines[-1][:160]}
    return json.loads(done.stdout.splitlines()[-1])


def status(name: str) -> int | None:
    """Bytes that the system counts for this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(name + ":")]
    return 1024 * int(found[0]) if found else None


def exporting(folder: Path, count: int) -> dict[str, Any]:
    """An export of `count` documents that are made one by one."""
    from dynlm import lm

    model = lm.load("demo", tokenizer=False)
    loaded = status("VmRSS")
    rng = np.random.default_rng(0)

    def texts() -> Iterator[np.ndarray]:
        for _ in range(count):
            size = rng.integers(SHORTEST, LONGEST + 1)
            yield rng.integers(model.config.vocab, size=size, dtype=np.int32)

    start = time.perf_counter()
    store = lm.export(
        model, texts(), folder, batch_tokens=BATCH_TOKENS, shard_bytes=SHARD_BYTES, quiet=True
    )
    # Not `ru_maxrss`: that of a process is at least what its parent had when it was started.
    return {
        "documents": count,
        "shards": store.manifest.count,
        "bytes_on_disk": sum(one.bytes for one in store.manifest.shards),
        "seconds": time.perf_counter() - start,
        "loaded_bytes": loaded,
        "peak_bytes": status("VmHWM"),
        "own_bytes_at_end": status("RssAnon"),
        "mapped_bytes_at_end": status("RssFile"),
    }


def opening(folder: Path) -> dict[str, Any]:
    """What an open store holds by the row, as Python and numpy count it."""
    import dynlm

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    start = time.perf_counter()
    store = dynlm.open_store(folder)
    seconds = time.perf_counter() - start
    held, peak = (x - before for x in tracemalloc.get_traced_memory())
    used = store.docs, store.lengths, store.rows
    all_held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    rows = len(used[0])
    return {
        "rows": rows,
        "shards": store.manifest.count,
        "seconds": seconds,
        "bytes_per_row": held / rows,
        "peak_bytes_per_row": peak / rows,
        "bytes_per_row_with_docs_lengths_rows": all_held / rows,
    }


if __name__ == "__main__":
    kind, path, number = sys.argv[1:]
    print(
        json.dumps(exporting(Path(path), int(number)) if kind == "export" else opening(Path(path)))
    )
