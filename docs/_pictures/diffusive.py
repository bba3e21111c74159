"""Pictures of docs/analysis_diffusive.md: `python docs/_pictures/diffusive.py`."""

from pathlib import Path

import jax
import jax.random as jr
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from dynlm import Trajectory
from dynlm.analysis._diffusive import diffusive
from dynlm.analysis._order import order

OUT = Path(__file__).resolve().parents[1] / "_static" / "analysis"
WIDTHS = (1, 2, 4, 8, 16, 32)
DOCUMENTS, STATES = 200, 401


def batch(ys):
    ys = np.asarray(ys, np.float32)
    ts = np.broadcast_to(np.arange(ys.shape[1], dtype=np.float32), ys.shape[:2])
    one = jax.tree.structure(Trajectory.from_arrays(ys[0]))
    return jax.tree.unflatten(one, jax.device_put((ts, ys, np.ones(ys.shape[:2], bool))))


def process(rng, back, noise, states=STATES):
    """x' = (1 - back) x + noise."""
    x, kept = np.zeros(DOCUMENTS), []
    for _ in range(states + 60):
        x = (1 - back) * x + noise()
        kept.append(x)
    return np.array(kept[60:]).T[:, :, None]


def cases(rng):
    def normal():
        return rng.standard_normal(DOCUMENTS)

    return {
        "OU": process(rng, 0.05, normal),
        "jump-diffusion": process(
            rng, 0.05, lambda: normal() + 4 * normal() * (rng.random(DOCUMENTS) < 0.1)
        ),
        "compound Poisson": process(
            rng, 0.0, lambda: np.sqrt(rng.poisson(2.0, DOCUMENTS)) * normal()
        ),
    }


def draw_scales():
    docs, found = np.arange(DOCUMENTS), {}
    for name, ys in cases(np.random.default_rng(0)).items():
        found[name] = diffusive(batch(ys), docs, key=jr.key(0), widths=WIDTHS)
        print(name, found[name].findings[0].sentence())
    titles = (
        "bipower ratio",
        "excess kurtosis",
        "tail index",
        "gain of mixture (nats)",
    )
    margins = next(iter(found.values())).margins
    figure, axes = plt.subplots(1, 4, figsize=(9.5, 2.4), constrained_layout=True)
    for i, (axis, title, sign) in enumerate(zip(axes, titles, (-1, 1, 1, 1))):
        null = 0.0
        for j, (name, one) in enumerate(found.items()):
            seen = [(s.width, s.findings[i]) for s in one.scales if s.findings[i].low is not None]
            x = np.array([width for width, _ in seen]) * 1.08 ** (j - 1)
            y = np.array([f.value for _, f in seen])
            ends = np.array([[f.value - f.low, f.high - f.value] for _, f in seen]).T
            axis.errorbar(x, y, ends, fmt="o-", ms=3, lw=1, color=f"C{j}", label=name)
            null = seen[0][1].null
        edge = null + sign * margins[i]
        axis.axhspan(min(null, edge), max(null, edge), color="0.88", zorder=0)
        axis.axhline(null, color="0.4", lw=0.8)
        axis.set(xscale="log", title=title, xlabel="steps to one", xticks=WIDTHS)
        axis.set_xticks(WIDTHS, [str(w) for w in WIDTHS])
        axis.minorticks_off()
        axis.title.set_fontsize(10)
    axes[1].legend(fontsize=8, frameon=False)
    save(figure, "diffusive_scales")


def draw_order():
    rng = np.random.default_rng(1)
    x, kept = rng.choice([-1.0, 1.0], 40), []
    for _ in range(81):
        for _ in range(25):
            x = x + (x - x**3) * 0.02 + 0.7 * np.sqrt(0.02) * rng.standard_normal(40)
        kept.append(x)
    well = np.array(kept[20:]).T[:, :, None]
    shuffled = rng.permuted(well, axis=1)
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.7), constrained_layout=True)
    for row, (name, ys) in enumerate({"double well": well, "shuffled": shuffled}.items()):
        found = order(batch(ys), np.arange(40))
        print(name, found.verdict, *[one.sentence() for one in found.findings])
        pairs = (
            (found.linear, (found.linear_shuffled,)),
            (found.nonlinear, (found.nonlinear_shuffled, found.nonlinear_permuted)),
        )
        for axis, (real, others) in zip(axes, pairs):
            for j, random in enumerate(others):
                axis.plot(random, np.full(len(random), row - 0.15 * j), "|", color=f"C{j}", ms=10)
            axis.plot(real, row, "o", color="k", ms=5)
    axes[0].set(title="linear over none", yticks=(0, 1), yticklabels=("double well", "shuffled"))
    axes[1].set(title="nonlinear over linear", yticks=(0, 1), yticklabels=("", ""))
    for axis in axes:
        axis.set(xlabel="nats per step", ylim=(1.5, -0.6))
        axis.axvline(0, color="0.8", zorder=0)
    save(figure, "diffusive_order")


def save(figure, name):
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.png"
    figure.savefig(path, dpi=120)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
    plt.close(figure)


if __name__ == "__main__":
    draw_order()
    draw_scales()
