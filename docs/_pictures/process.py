"""Draws the pictures of `docs/analysis_process.md`: `python docs/_pictures/process.py`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np

from dynlm import SDE, Trajectory, baselines, diffusions, drifts
from dynlm.analysis._correlation import autocorrelation, relaxation
from dynlm.analysis._kramers_moyal import kramers_moyal
from dynlm.analysis._markov import markov_order
from dynlm.analysis._passage import kramers_rate, mean_passage, passage
from dynlm.analysis._residuals import residuals
from dynlm.analysis._stationarity import stationarity
from dynlm.analysis._variation import variation

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

OUT = Path(__file__).resolve().parents[1] / "_static" / "analysis"
BLUE, RED, GREY = "#31688e", "#c0392b", "0.55"


def batch(ys, dt):
    ts = np.broadcast_to(dt * np.arange(ys.shape[1]), ys.shape[:2])
    mask = np.ones(ts.shape, bool)
    return jax.vmap(Trajectory)(*(jnp.asarray(a) for a in (ts.astype("f"), ys.astype("f"), mask)))


def double_well(rows, steps, dt, sigma, seed=0):
    rng, y, out = np.random.default_rng(seed), -np.ones((rows, 1)), []
    for _ in range(steps):
        out.append(y)
        y = y + (y - y**3) * dt + sigma * np.sqrt(dt) * rng.normal(size=y.shape)
    return np.stack(out, axis=1)


def autoregression(f1, f2, rows=120, steps=200, seed=0, noise=None):
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(steps + 50, rows, 1)) if noise is None else noise(rng, steps + 50, rows)
    y = np.zeros_like(e)
    for k in range(2, len(y)):
        y[k] = f1 * y[k - 1] + f2 * y[k - 2] + e[k]
    return y[50:].swapaxes(0, 1)


def figure(columns=2):
    fig, axes = plt.subplots(1, columns, figsize=(3.6 * columns, 2.7), layout="constrained")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def bars(ax, x, found, color, label=None, shift=0.0):
    x, found = np.asarray(x) + shift, np.asarray(found)
    error = np.abs(found[:, 1:] - found[:, :1]).T
    ax.errorbar(x, found[:, 0], error, fmt="o", ms=4, color=color, label=label, capsize=2)


def saved(fig, name):
    fig.savefig(OUT / f"process_{name}.png", dpi=120)
    plt.close(fig)


def draw_residuals(docs):
    fig, (left, right) = figure()
    first, second = autoregression(0.6, 0.0), autoregression(0.3, 0.5)
    for ys, color, label in ((first, BLUE, "order 1"), (second, RED, "order 2")):
        found = residuals(baselines.var1(batch(ys, 1.0)), batch(ys, 1.0), docs)
        bars(left, found.lags, found.correlation, color, label)
    left.axhline(0, color=GREY, lw=0.8)
    left.set(xlabel="lag", ylabel="correlation of residuals", xticks=[1, 2, 3, 4])
    left.legend(frameon=False)
    heavy = autoregression(0.6, 0, noise=lambda rng, n, r: rng.standard_t(4, size=(n, r, 1)))
    middles = np.arange(20) / 20 + 0.025
    for ys, color, label in ((first, BLUE, "Gaussian noise"), (heavy, RED, "Student's noise")):
        found = residuals(baselines.var1(batch(ys, 1.0)), batch(ys, 1.0), docs)
        right.step(middles, 20 * found.histogram, where="mid", color=color, label=label)
    right.axhline(1, color=GREY, lw=0.8)
    right.set(xlabel="distribution function at what came", ylabel="density", ylim=(0, 1.6))
    right.legend(frameon=False, loc="lower center")
    saved(fig, "residuals")


def draw_memory(docs):
    dt, theta = 0.2, np.array([0.5, 2.0])
    rng, y, out = np.random.default_rng(1), np.zeros((120, 2)), []
    for _ in range(300):
        y = np.exp(-theta * dt) * y + np.sqrt(1 - np.exp(-2 * theta * dt)) * rng.normal(
            size=y.shape
        )
        out.append(y)
    paths = batch(np.stack(out[50:], axis=1), dt)
    fig, (left, right) = figure()
    lags = (1, 2, 4, 8, 12, 16, 24, 32)
    found = autocorrelation(paths, docs, lags=lags)
    for j, color in enumerate((BLUE, RED)):
        bars(left, dt * np.array(lags), found.component[:, j], color, f"component {j}")
        t = np.linspace(0, dt * 32, 100)
        left.plot(t, np.exp(-theta[j] * t), color=color, lw=1)
    left.axhline(0, color=GREY, lw=0.8)
    left.set(xlabel="time apart", ylabel="autocorrelation")
    left.legend(frameon=False)
    times = relaxation(paths, docs, lags=(1, 2, 4, 8))
    bars(right, times.lags, times.times, BLUE, "slowest of this process")
    hidden = relaxation(batch(autoregression(0.4, 0.4), dt), docs, lags=(1, 2, 4, 8))
    bars(right, hidden.lags, hidden.times, RED, "of one of order 2")
    right.axhline(1 / theta[0], color=GREY, lw=0.8)
    right.set(xlabel="lag", ylabel="implied time", ylim=(0, 3))
    right.legend(frameon=False)
    saved(fig, "memory")


def draw_changes(docs):
    fig, (left, right) = figure()
    ys = autoregression(0.6, 0.0)
    pushes = np.linspace(0, 0.01, 5)
    found = [
        stationarity(batch(ys + p * np.arange(200)[:, None], 1.0), docs).shift[0] for p in pushes
    ]
    bars(left, pushes, found, BLUE)
    left.axhline(0, color=GREY, lw=0.8)
    left.set(xlabel="true change of the mean per step", ylabel="shift between halves")
    second = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    gains = [
        markov_order(batch(autoregression(0.4, s), 1.0), docs, most=2).gains[0] for s in second
    ]
    s = np.linspace(0, 0.4, 50)
    right.plot(s, -0.5 * np.log(1 - s**2), color=GREY, lw=0.8)
    bars(right, second, gains, BLUE)
    right.set(xlabel="weight of the state before last", ylabel="gain, nats per step")
    saved(fig, "changes")


def draw_well():
    dt, sigma, rows = 0.05, 0.7, 120
    docs = np.arange(rows) // 2
    ys = double_well(rows, 600, dt, sigma)
    paths = batch(ys, dt)
    sde = SDE(drifts.Function(lambda t, y: y - y**3), diffusions.Diagonal(jnp.full(1, sigma)))
    line = SDE(drifts.Function(lambda t, y: -0.2 * y), diffusions.Diagonal(jnp.full(1, sigma)))
    fig, (left, right) = figure()
    found = kramers_moyal(paths, docs, sde=sde, bins=16)
    bars(left, found.centres, found.drift, BLUE, "from the paths")
    left.plot(found.centres, found.sde_drift, color=GREY, lw=1, label="double well")
    other = kramers_moyal(paths, docs, sde=line, bins=16)
    left.plot(found.centres, other.sde_drift, color=RED, lw=1, label="a linear drift")
    left.set(xlabel="x", ylabel="$D_1$")
    left.legend(frameon=False)
    bars(right, found.centres, found.diffusion, BLUE)
    right.plot(found.centres, found.sde_diffusion, color=GREY, lw=1)
    right.set(xlabel="x", ylabel="$D_2$", ylim=(0, 0.4))
    saved(fig, "kramers_moyal")

    fig, (left, right) = figure()
    for scale, color in ((1.0, BLUE), (1.25, RED)):
        noise = diffusions.Diagonal(jnp.full(1, sigma * scale))
        model = SDE(drifts.Function(lambda t, y: y - y**3), noise)
        key, wanted = jr.key(0), {"start": -1.0, "target": 0.5, "burn": 0}
        one = passage(model, paths, docs, key=key, **wanted)
        ratio = variation(model, paths, docs)
        bars(right, [scale], [ratio.realised], color)
        label = "the true noise" if scale == 1 else "a quarter more"
        left.plot(one.times, one.model_survival[:, 0], color=color, lw=1, label=label)
    left.fill_between(one.times, *one.survival[:, 1:].T, color=GREY, alpha=0.4, label="data")
    left.set(xlabel="time since x was in the left well", ylabel="share not yet across")
    left.legend(frameon=False)
    right.axhline(1, color=GREY, lw=0.8)
    right.set(xlabel="noise of the model over the true one", ylabel="quadratic variation, ratio")
    saved(fig, "passage")


def draw_rates():
    sigmas = np.linspace(0.3, 0.8, 26)
    fig, (left, right) = figure()
    exact = [
        1 / mean_passage(lambda x: x - x**3, lambda x, s=s: s, -1.0, 1.0, -4.0) for s in sigmas
    ]
    kramers = [kramers_rate(2.0, -1.0, 0.25, s) for s in sigmas]
    left.semilogy(sigmas, exact, color=BLUE, label="exact")
    left.semilogy(sigmas, kramers, color=RED, ls="--", label="Kramers")
    left.set(xlabel="noise", ylabel="rate from well to well")
    left.legend(frameon=False)
    right.plot(sigmas, np.array(kramers) / exact, color=RED)
    right.axhline(1, color=GREY, lw=0.8)
    right.set(xlabel="noise", ylabel="Kramers over exact")
    saved(fig, "rates")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    documents = np.arange(120) // 2
    draw_residuals(documents)
    draw_memory(documents)
    draw_changes(documents)
    draw_well()
    draw_rates()
