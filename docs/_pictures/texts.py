"""Draws the pictures of `docs/studies_text.md`: `python docs/_pictures/texts.py`."""

import tempfile
from pathlib import Path
from typing import Any

import jax.random as jr
import matplotlib
import numpy as np

import dynlm
from dynlm.lm import Sampling
from dynlm.store import Windows, fit_projection
from dynlm.studies._causal import caused
from dynlm.studies._decoding import decoded

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

OUT = Path(__file__).resolve().parents[1] / "_static" / "analysis"
WORDS = "the king my lord he said in a when I saw of species it was love and if we had thou she no"


def fitted(store: Any, layer: Any) -> tuple[Any, Any, Any]:
    """The projection of a layer, its training paths, and a fit of them."""
    projection = fit_projection(store, layer, dim=16)
    windows = Windows(store.split("train"), layer, 48, projection=projection)
    train = windows.gather(np.arange(len(windows)))
    spec = dynlm.specs.NeuralSDE(16, width=64)
    run = dynlm.fit(spec, train, key=jr.key(1), steps=800, every=400, window=48, quiet=True)
    return projection, train, run


def bars(axes: Any, named: dict[str, Any], title: str) -> None:
    """Values with their intervals, the first on top."""
    for k, x in enumerate(reversed(named.values())):
        axes.errorbar(
            x.value, k, xerr=[[x.value - x.low], [x.high - x.value]], fmt="o", color="#31688e"
        )
    axes.set_yticks(range(len(named)), list(reversed(named)), fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    model = dynlm.lm.load("demo")
    prompts = WORDS.split()
    sampling = Sampling(8, temperature=(0.8,), budget=47)
    layers: Any = (3, "final")
    with tempfile.TemporaryDirectory() as folder:
        store = dynlm.lm.export(
            model, prompts, folder, sampling=sampling, layers=layers, dtype="float32",
            shares={"train": 0.6, "test": 0.4}, quiet=True,
        )  # fmt: skip
        last, train, run = fitted(store, "final")
        inner, inner_train, inner_run = fitted(store, 3)
        test = [row for row in store.split("test")]
        sequences, docs = [np.asarray(row.tokens) for row in test], [row.doc for row in test]
        tokens = np.concatenate([np.asarray(row.tokens) for row in store.split("train")])
        found = decoded(
            model, {"SDE": run}, last, sequences, docs, train=train, key=jr.key(0),
            counts=np.bincount(tokens, minlength=model.config.vocab),
        )  # fmt: skip
        moved = caused(
            model, {"SDE": inner_run}, 3, inner, sequences, docs, train=inner_train, seed=0,
            final=(run, last),
        )  # fmt: skip
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3), layout="constrained")
    for name in ("model", "projected", "SDE", "linear", "iid", "unigram"):
        value = np.array([x.value for x in found.score[name]])
        left.plot(found.horizons, value, "o-", ms=3, label=name)
    left.set(
        title="log probability of a later token", xlabel="steps ahead", ylabel="nats",
        xscale="log", xticks=found.horizons, xticklabels=found.horizons,
    )  # fmt: skip
    left.title.set_fontsize(10)
    left.minorticks_off()
    left.legend(frameon=False, fontsize=7, ncols=3, loc="center", bbox_to_anchor=(0.5, 0.35))
    left.spines[["top", "right"]].set_visible(False)
    names = ("true step", "SDE", "linear", "to the mean", "covariance", "random", "mean step")
    bars(right, {k: moved.effect[k] for k in names}, "effect of a step in layer 3, nats")
    right.axvline(0, color="0.7", lw=0.8)
    figure.savefig(OUT / "texts_tokens.png", dpi=120)
    for one in (*found.findings, *moved.findings):
        print(one.sentence())


if __name__ == "__main__":
    main()
