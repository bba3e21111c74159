"""Exports with the embedded model; run in processes of their own, which are killed, or are several.

python store_victim.py FOLDER WAY [COORDINATOR PROCESSES PROCESS]
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynlm import lm
from dynlm.store import Store

ROWS, LONGEST = 240, 96


def rows() -> list[np.ndarray]:
    """Token ids, of all lengths."""
    random = np.random.default_rng(4)
    return [random.integers(7, 2048, random.integers(2, LONGEST)) for _ in range(ROWS)]


def run(folder: Path, way: str, model: Any = None) -> Store:
    """The export that is to be interrupted: texts as they are, or sampled."""
    model = lm.load("demo") if model is None else model
    print("begins", flush=True)
    settings: dict[str, Any] = dict(batch_tokens=384, quiet=True)
    if way == "texts":
        return lm.export(model, rows(), folder, shard_bytes=2**20, **settings)
    sampling = lm.Sampling(2, 24, temperature=(0.5, 1.0))
    prompts = [row[:6] for row in rows()[:24]]
    return lm.export(model, prompts, folder, sampling=sampling, shard_bytes=2**19, **settings)


if __name__ == "__main__":
    folder, way, *several = sys.argv[1:]
    if several:
        jax.distributed.initialize(several[0], int(several[1]), int(several[2]))
    run(Path(folder), way)
    print("complete", flush=True)
