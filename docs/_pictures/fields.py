"""The pictures of `docs/analysis_fields.md`. Run from the root of the repository."""

from pathlib import Path

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from dynlm import SDE, diffusions, drifts, rollout
from dynlm.analysis._decomposition import decompose
from dynlm.analysis._fields import along, curl, rotation
from dynlm.analysis._moment_check import moment_check
from dynlm.analysis._moments import moment_chain, moment_starts
from dynlm.analysis._planes import plane
from dynlm.analysis._potential import energy
from dynlm.analysis._stationary import stationary

HERE = Path(__file__).resolve().parents[1] / "_static" / "analysis"
BLUE, ORANGE, GREY = "#2f6f9f", "#d1742a", "#777777"
WHERE = {"origin": [0.0, 0.0], "directions": np.eye(2), "extent": [[-2, 2], [-1.8, 1.8]]}


def height(y):
    return (y[0] ** 2 - 1) ** 2 / 4 + (y[1] - 0.3 * y[0]) ** 2 / 2


def turned(t, y):
    """Two wells, and a turn about the middle."""
    return -jax.grad(height)(y) + 0.4 * jnp.stack([-y[1], y[0]])


def saved(figure, name):
    HERE.mkdir(parents=True, exist_ok=True)
    figure.savefig(HERE / f"{name}.png", dpi=120)
    plt.close(figure)
    few = Image.open(HERE / f"{name}.png").convert("RGB").quantize(128)  # a third of the bytes
    few.save(HERE / f"{name}.png", optimize=True)


def fields(sde):
    shown = plane(sde, **WHERE)
    found = stationary(sde, low=[-2.4, -2.4], high=[2.4, 2.4])
    still = energy(SDE(drifts.Gradient(height), diffusions.Scalar(0.6, 2)), **WHERE)
    assert still.values is not None
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    a, b = shown.first, shown.second
    axes[0].pcolormesh(a, b, shown.divergence, cmap="RdBu_r", vmin=-6, vmax=6, rasterized=True)
    axes[0].quiver(a[::2], b[::2], *np.moveaxis(shown.drift[::2, ::2], -1, 0), color="black")
    axes[0].set_title("drift, on its divergence")
    axes[1].contourf(still.first, still.second, np.minimum(still.values, 2), 10, cmap="Blues_r")
    axes[1].set_title("energy, without the turn")
    x, y = found.axes
    axes[2].contourf(x, y, found.density.T, 10, cmap="Oranges")
    few = (slice(2, None, 5), slice(2, None, 5))
    axes[2].quiver(x[2::5], y[2::5], *np.moveaxis(found.current[few], -1, 0).transpose(0, 2, 1))
    axes[2].set_title("stationary density and current")
    for ax in axes:
        ax.set(xlim=(-2, 2), ylim=(-1.8, 1.8), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    saved(figure, "fields_planes")


def strength(sde, key):
    """A drift with structure, and the one that i.i.d. states of the same law have."""
    y0s = jr.normal(key, (64, 2))
    paths = rollout(sde, y0s, np.arange(65) * 0.1, key=key, scheme=dfx.Euler())
    found = along(sde, paths, np.arange(64))
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    axes[0].hist(found.ratio, 60, color=BLUE)
    axes[0].axvline(found.findings[2].null, color=GREY, ls="--", label="i.i.d. states")
    axes[0].set(xlabel="drift over noise, in a step", yticks=[])
    axes[0].legend(frameon=False)
    axes[1].hist(found.cosine, 60, color=ORANGE)
    axes[1].axvline(0, color=GREY, ls="--")
    axes[1].set(xlabel="cosine of drift and increment", yticks=[])
    saved(figure, "fields_along")


def turning(sde, key):
    """Where a drift turns, and the shares of linear ones that turn more and more."""
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.9), layout="constrained")
    shown = plane(sde, **WHERE)
    grid = np.stack(np.meshgrid(shown.first, shown.second), axis=-1)
    turn = np.reshape(curl(sde, grid.reshape(-1, 2)), grid.shape[:2])
    drawn = axes[0].pcolormesh(shown.first, shown.second, turn, cmap="Purples", rasterized=True)
    figure.colorbar(drawn, ax=axes[0], label="$|A|_F/|S|_F$")
    few = grid[::2, ::2], shown.drift[::2, ::2]
    axes[0].quiver(*(x for pair in few for x in np.moveaxis(pair, -1, 0)), color="black")
    axes[0].set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], title="two wells and a turn")
    ratios = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 4.0])
    for at, b in enumerate(ratios):
        matrix = jnp.array([[-0.5, 0.5 * b], [-0.5 * b, -0.5]])
        one = SDE(drifts.Linear(matrix, jnp.zeros(2)), diffusions.Scalar(0.5, 2))
        paths = rollout(
            one, jr.normal(key, (40, 2)), np.arange(51) * 0.2, key=key, scheme=dfx.Euler()
        )
        gradient, _, rotational, *_ = decompose(one, paths, np.arange(40)).findings
        antisymmetric = rotation(one, paths, np.arange(40)).findings[1]
        kinds = ((gradient, "o", BLUE), (rotational, "s", ORANGE), (antisymmetric, "x", "black"))
        names = ("gradient share", "rotational share", "antisymmetric share of $Df$")
        for (found, mark, color), name in zip(kinds, names, strict=True):
            axes[1].plot(at, found.value, mark, color=color, label=name if at == 0 else None)
    fine = np.linspace(0, len(ratios) - 1, 200)
    b = np.interp(fine, np.arange(len(ratios)), ratios)
    axes[1].plot(fine, 1 / (1 + b**2), color=BLUE, lw=0.8)
    axes[1].plot(fine, b**2 / (1 + b**2), color=ORANGE, lw=0.8)
    axes[1].set_xticks(np.arange(len(ratios)), [f"{b:g}" for b in ratios])
    axes[1].set(xlabel="$b/a$ of $-ay + bJy$", title="found, and exact (lines)")
    axes[1].legend(frameon=False, fontsize=7, loc="center left")
    saved(figure, "fields_turning")


def moments(key):
    matrix = jnp.array([[-0.5, 0.9], [-0.9, -0.5]])
    sde = SDE(drifts.Linear(matrix, jnp.zeros(2)), diffusions.Scalar(0.5, 2))
    wrong = SDE(drifts.Linear(matrix, jnp.zeros(2)), diffusions.Scalar(0.6, 2))
    y0s = jnp.array([1.5, 0.0]) + 0.3 * jr.normal(key, (120, 2))
    paths = rollout(sde, y0s, np.arange(41) * 0.2, key=key, scheme=dfx.Euler())
    starts, ts = moment_starts(paths, burn=0)
    closure = moment_chain(sde, starts.mean(axis=0), np.cov(starts.T), ts)
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    for model, color, name in ((sde, BLUE, "the same law"), (wrong, ORANGE, "1.2 times the noise")):
        made = rollout(model, starts, ts, key=jr.key(5), scheme=dfx.Euler())
        found = moment_check(made, paths, np.arange(120), burn=0, times=40)
        axes[0].plot(found.ts, found.simulated_mean[:, 0], color=color)
        axes[1].plot(found.ts, found.simulated_covariance[:, 0, 0], color=color, label=name)
        if model is sde:
            pairs = (
                (found.mean[:, 0], found.mean_half[:, 0]),
                (
                    found.covariance[:, 0, 0],
                    found.covariance_half[:, 0, 0],
                ),
            )
            for ax, (middle, half) in zip(axes, pairs, strict=True):
                ax.fill_between(found.ts, middle - half, middle + half, color="#dddddd")
    axes[0].plot(ts, closure.mean[:, 0], color="black", lw=0.8, ls=":")
    axes[1].plot(ts, closure.covariance[:, 0, 0], color="black", lw=0.8, ls=":", label="closure")
    axes[0].set(xlabel="time", ylabel="mean")
    axes[1].set(xlabel="time", ylabel="variance")
    axes[1].legend(frameon=False, fontsize=8)
    saved(figure, "fields_moments")


if __name__ == "__main__":
    model = SDE(drifts.Function(turned), diffusions.Scalar(0.6, 2))
    fields(model)
    strength(model, jr.key(0))
    turning(model, jr.key(2))
    moments(jr.key(1))
