"""`demo`: from nothing but this package to a report."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._budget import Budget
from ._openings import openings
from ._plan import DEMO, QUICK
from ._sections_text import samples_section
from ._text import Done, study_store

TEMPERATURES = (0.3, 0.7, 1.0, 1.3)
LAYER = 3  # of six: after the final states there is only the unembedding


def demo(
    out: str | Path = "dynlm-demo", *, quick: bool = False, seed: int = 0, quiet: bool = False
) -> Done:
    """The whole way with the model in this package: texts, states, fits, words, causes, report.

    Args:
        out: Folder of everything; what was finished there is used again.
        quick: Fewer texts and steps, and only the main analyses.
        seed: Of everything random.
        quiet: No progress.
    """
    from .. import lm

    out, plan = Path(out), dataclasses.replace(QUICK if quick else DEMO, seed=seed)
    budget = Budget(quiet=quiet)
    with budget.stage("language model"):
        model = lm.load("demo")
    with budget.stage("texts at several temperatures"):
        rows = _samples(model, seed)
    texts, length = (256, 48) if quick else (640, 62)
    work = out / f"{'quick' if quick else 'full'}-{seed}"
    with budget.stage("states of sampled texts"):
        store = lm.export(
            model, openings(texts), work / "store", layers=(LAYER, "final"), quiet=True,
            sampling=lm.Sampling(1, budget=length, temperature=1.0, seed=seed),
            batch_tokens=texts * (length + 16),
        )  # fmt: skip
    untrained = None if "depth" in plan.skip else lm.load("demo", revision="untrained")
    return study_store(
        store, LAYER, out, plan=plan, model=model, untrained=untrained, budget=budget, work=work,
        before=[samples_section(rows)], quiet=quiet,
        title="The dynamics of text in a small language model",
    )  # fmt: skip


def _samples(model: Any, seed: int) -> list[tuple[float, str, float, float]]:
    """Temperature, text, and its mean log probability and entropy."""
    from .. import lm

    t = np.asarray(TEMPERATURES)
    found = model.sample(
        ["It was a dark"] * len(t), key=jr.key(seed), budget=40,
        decoding=lm.Decoding(temperature=jnp.asarray(t, jnp.float32)),
    )  # fmt: skip
    rows = []
    for k, temperature in enumerate(TEMPERATURES):
        row = found.row(k)
        new = slice(row.prompt, None)
        score, entropy = (
            float(np.mean(x[new])) for x in (row.scores.logprobs, row.scores.entropies)
        )
        rows.append((temperature, model.text(row.tokens), score, entropy))
    return rows
