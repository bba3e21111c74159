"""Draws the pictures of `docs/analysis_stability.md`: `python docs/_pictures/stability.py`."""

from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
from PIL import Image

from dynlm import SDE, diffusions, drifts, problems, rollout
from dynlm.analysis._basins import RungeKutta, basins
from dynlm.analysis._descent import learn_lyapunov
from dynlm.analysis._exponents import exponents
from dynlm.analysis._fixed_points import fixed_points, sample
from dynlm.analysis._generator import lyapunov
from dynlm.analysis._lipschitz import lipschitz

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

OUT = Path(__file__).resolve().parents[1] / "_static" / "analysis"
BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"


def save(figure, name):
    OUT.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    path = OUT / f"stability_{name}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    with Image.open(path) as picture:  # a few colours make a small file
        few = picture.convert("RGB").quantize(40)
    few.save(path, optimize=True)


def wells(t, y):
    return jnp.stack([y[0] - y[0] ** 3 - 0.6 * y[1], -0.8 * y[1] + 0.5 * y[0]])


def two_wells():
    sde = SDE(drifts.Function(wells), diffusions.Scalar(0.35, 2))
    y0s = 1.2 * np.random.default_rng(0).normal(size=(120, 2))
    return sde, rollout(sde, y0s, np.arange(0, 12.5, 0.5), key=jr.key(0), dt=0.05)


def draw_fixed_points():
    sde, paths = two_wells()
    seen = sample(paths, np.arange(120), most=500)
    points = fixed_points(sde, seen.ys)
    found = basins(RungeKutta(sde, 0.1), points, seen.ys, seen.docs)
    figure, axes = plt.subplots(figsize=(5.2, 3.6))
    x, y = np.meshgrid(np.linspace(-2, 2, 23), np.linspace(-1.5, 1.5, 19))
    axes.quiver(x, y, x - x**3 - 0.6 * y, -0.8 * y + 0.5 * x, color="#cbd5e0", zorder=0)
    colours = np.array([BLUE, ORANGE, GREY, GREY])
    axes.scatter(*seen.ys.T, s=7, c=colours[found.which], alpha=0.6, linewidths=0)
    for point, kind, stable in zip(points.points, points.kinds, points.stable):
        axes.plot(*point, "o" if stable else "X", color="black", ms=8)
        axes.annotate(kind, point, (6, 8), textcoords="offset points", fontsize=9)
    axes.set(xlim=(-2, 2), ylim=(-1.5, 1.5), xlabel="$x_1$", ylabel="$x_2$")
    save(figure, "fixed_points")


def draw_generator():
    a = jnp.asarray([[-1.0, 6.0], [0.0, -1.0]])
    sde = SDE(drifts.Linear(a, jnp.zeros(2)), diffusions.Scalar(0.2, 2))
    y0s = np.random.default_rng(1).normal(size=(120, 2))
    paths, docs = rollout(sde, y0s, np.arange(0, 2.1, 0.1), key=jr.key(1)), np.arange(120)
    plain = lyapunov(sde, paths, docs, centre=np.zeros(2))
    learned = learn_lyapunov(sde, paths, docs, centre=np.zeros(2), key=jr.key(2), rate=0.03)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2))
    ys = np.asarray(paths.ys)[plain.path, plain.step]
    left.scatter(*ys.T, s=6, c=np.where(plain.lv <= 0, BLUE, ORANGE), alpha=0.6, linewidths=0)
    left.set(title="where $|x|^2$ falls (blue) or grows", xlabel="$x_1$", ylabel="$x_2$")
    for name, one, colour in (
        ("quadratic", learned.quadratic, ORANGE),
        ("learned", learned.learned, BLUE),
    ):
        right.plot(np.linspace(0, 1, len(one.falling)), one.falling, color=colour, label=name)
        right.axhline(one.findings[0].null, color=colour, ls=":", lw=1)
    right.set(title="share with $LV\\leq 0$, inner to outer", ylim=(-0.02, 1.02))
    right.set_xlabel("shells by V, of equally many states")
    right.legend(frameon=False, loc="lower right")
    save(figure, "generator")


def draw_lipschitz():
    drift = drifts.MLP(2, width=32, time=None, key=jr.key(5))
    sde = SDE(drift, diffusions.Scalar(0.3, 2))
    y0s = 2 * np.random.default_rng(2).normal(size=(80, 2))
    paths = rollout(sde, y0s, np.arange(11.0), key=jr.key(3), dt=0.1)
    found = lipschitz(sde, paths, np.arange(80), key=jr.key(4))
    assert found.certified.value is not None
    figure, axes = plt.subplots(figsize=(5.2, 2.6))
    bins = np.linspace(0, 1.1 * found.certified.value, 60).tolist()
    axes.hist(found.drift, bins, color=BLUE, alpha=0.7, label="at the data")
    axes.hist(found.nearby, bins, color=ORANGE, alpha=0.5, label="beside it")
    axes.axvline(found.certified.value, color="black", label="certified")
    axes.set(xlabel="local Lipschitz constant of the drift", ylabel="states")
    axes.legend(frameon=False)
    save(figure, "lipschitz")


def draw_exponents():
    y0s = 5 * np.random.default_rng(0).normal(size=(8, 3)) + np.array([0, 0, 25.0])
    sde = problems.lorenz().sde
    assert isinstance(sde, SDE)
    found = exponents(sde, y0s, dt=0.01, steps=20_000, burn=2_000, every=10)
    running = found.running()
    figure, panels = plt.subplots(3, 1, figsize=(5.6, 4.2), sharex=True)
    for i, (axes, truth) in enumerate(zip(panels, (0.906, 0.0, -14.572))):
        axes.plot(found.times, running[:, :, i].T, color=BLUE, lw=0.6, alpha=0.7)
        axes.axhline(truth, color="black", ls="--", lw=1)
        width = 0.25 if i < 2 else 0.4
        axes.set(ylim=(truth - width, truth + width), ylabel=f"$\\lambda_{i + 1}$")
    panels[-1].set_xlabel("time")
    save(figure, "exponents")


if __name__ == "__main__":
    draw_fixed_points()
    draw_generator()
    draw_lipschitz()
    draw_exponents()
