"""What `train.fit` costs beside the steps that it takes: a small model, many short steps."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _rows import Build, Rows, Run, compare, selected
from _train_cases import KEY, RATE, Case, Chunks

from dynlm import train
from dynlm.train._chunks import begin

FIT, BARE = "dynlm.train.fit", "one lax.scan of trainer.step"
FOLDER = f"{FIT}, with a folder"


def loop_rows(case: Case, chunk: int) -> dict[str, Build]:
    """`case.steps` steps by `fit`, by its compiled calls alone, by one scan, and one by one."""
    trainer = train.trainer(case.loss, optax.adam(RATE))
    model, source = case.problem.sde, case.source
    options: Any = dict(key=KEY, steps=case.steps, every=case.steps // 2, chunk=chunk, quiet=True)

    def fitted(**more: Any) -> Any:
        return train.fit(trainer, model, source, **options, **more).model

    def with_a_folder() -> Any:
        folder = Path(tempfile.mkdtemp(prefix="dynlm-fit-"))
        try:
            return fitted(folder=folder)
        finally:
            shutil.rmtree(folder)

    on_host = case.batches()
    numbers = jnp.asarray(on_host)

    def by_chunks() -> Any:
        chunks = Chunks(trainer, model, source)
        for first in range(0, case.steps, chunk):
            chunks(on_host[first : first + chunk])
        return chunks.model

    def step(state: Any, items: Any, rows: Any) -> Any:
        batch = source.batch(items, rows)
        return trainer.step(state, batch, jr.fold_in(KEY, state.step))

    @eqx.filter_jit
    def scanned(state: Any, items: Any, numbers: Any) -> Any:
        arrays, static = eqx.partition(state, eqx.is_array)

        def one(arrays: Any, rows: Any) -> Any:
            state, info = step(eqx.combine(arrays, static), items, rows)
            return eqx.filter(state, eqx.is_array), info

        return jax.lax.scan(one, arrays, numbers)

    def by_scan() -> Any:
        state = begin(trainer, model).state
        arrays, _ = scanned(state, source.resident, numbers)
        return arrays.model

    one = eqx.filter_jit(step, donate="all")

    def by_step() -> Any:
        state = begin(trainer, model).state
        for rows in on_host:
            state, _ = one(state, source.resident, rows)
        return state.model

    return {
        FIT: _row(fitted),
        FOLDER: _row(with_a_folder),
        "its compiled calls alone": _row(by_chunks),
        BARE: _row(by_scan),
        "trainer.step from Python": _row(by_step),
    }


def measure_loop(case: Case, chunk: int, args: Any) -> tuple[Rows, dict[str, Any]]:
    """Times and final parameters; the shares of a step's time that are not the step."""
    first: list[np.ndarray] = []

    def check(name: str, out: np.ndarray) -> dict[str, Any]:
        first.append(out)
        gap = float(np.abs(out - first[0]).max())
        return {"largest_difference_of_parameters": gap, "note": f"parameters differ by {gap:.1e}"}

    builds = selected(loop_rows(case, chunk), args.rows)
    rows = compare(builds, check, repeat=args.repeat, limit=args.limit)
    bare = rows.get(BARE, {}).get("median_ms")
    found: dict[str, Any] = {"steps": case.steps, "chunk": chunk}
    for row in rows.values():
        if "median_ms" in row:
            row["steps_per_s"] = 1e3 * case.steps / row["median_ms"]
            row["note"] = f"{row['steps_per_s']:,.0f} steps/s; {row['note']}"
            if bare is not None:
                row["overhead_share"] = 1 - bare / row["median_ms"]
    for name in (FIT, FOLDER):
        found[f"overhead share of {name}"] = rows.get(name, {}).get("overhead_share")
    return rows, found


def _row(train_: Callable[[], Any]) -> Build:
    """A row whose result are the parameters, as one vector."""

    def call() -> np.ndarray:
        params = jax.block_until_ready(eqx.filter(train_(), eqx.is_inexact_array))
        return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(params)])

    return lambda: Run(call, where=jax.default_backend())
