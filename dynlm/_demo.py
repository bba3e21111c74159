"""`dynlm demo`: fit a small neural SDE to a process whose law is known, and compare the two."""

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float

from . import diffusions, drifts, problems
from ._io import BadArgument, progress, write_atomic
from ._types import RandomKey, State
from .sde import SDE
from .simulate import solve

DT = 0.05  # between observations: the step of the fit, and of every simulation of the fit
SIGMA = 0.7
LAW_PATHS, LAW_TIMES = 1024, 6  # states that a stationary law is judged by
FINE = 16  # steps of the truth between observations


@dataclass(frozen=True)
class Demo:
    """Fit a small neural SDE to a double well, whose drift and stationary law are known.

    Prints the comparison, and writes results.json and demo.png.

    Args:
        out: Folder for the results.
        steps: Optimiser steps.
        paths: Observed paths; as many again are held out.
        length: Observations per path.
        seed: Seed of everything random.
        json: Print the results as one line of JSON, last.
        quiet: No progress and no table.
    """

    out: Path = Path("dynlm-demo")
    steps: int = 3000
    paths: int = 256
    length: int = 100
    seed: int = 0
    json: bool = False
    quiet: bool = False

    def check(self) -> None:
        """Refuse what cannot be run."""
        limits = dict(steps=(1, 10**7), paths=(2, 10**6), length=(2, 10**6), seed=(0, 2**31 - 1))
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadArgument(f"`{name}` is {value}. Use {low} to {high}.")


def run(config: Demo) -> dict[str, Any]:
    """Simulate data, fit, simulate the fit, compare, draw; returns what results.json holds."""
    start = time.monotonic()
    config.check()
    config.out.mkdir(parents=True, exist_ok=True)  # an unwritable one is better known now
    results, curves = compare(config)
    write_atomic(config.out / "results.json", json.dumps(results, indent=2).encode() + b"\n")
    write_atomic(config.out / "demo.png", draw(curves))
    if not config.quiet:
        print(summary(results, config.out, time.monotonic() - start))
    if config.json:
        print(json.dumps(results))
    return results


def compare(config: Demo) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fit beside the truth, its baselines and its null: numbers, and curves to draw."""
    problem = problems.double_well(sigma=SIGMA)
    truth, stationary = problem.sde, problem.stationary_logpdf
    assert isinstance(truth, SDE) and stationary is not None
    data_key, test_key, init_key, fit_key, law_key = jr.split(jr.key(config.seed), 5)
    data, test = observe(truth, config, key=data_key), observe(truth, config, key=test_key)
    null_data, null_test = shuffled(data, config.seed), shuffled(test, config.seed + 1)

    drift_key, noise_key = jr.split(init_key)
    start = SDE(
        drifts.MLP(1, width=32, depth=2, time=None, key=drift_key),
        diffusions.Diagonal.learned(1, on="state", width=32, depth=1, time=None, key=noise_key),
    )
    model = fit(start, data, config, key=fit_key, label="fit")
    null = fit(start, null_data, config, key=fit_key, label="fit of the null")

    linear, null_linear = least_squares(data), least_squares(null_data)
    scores = {
        "random walk": _linear_scores((1.0, 0.0, _variance(data)), test),
        "linear, VAR(1)": _linear_scores(linear, test),
        "neural SDE": _scores(model, test),
        "true SDE, by Euler": _scores(truth, test),
    }
    null_scores = {
        "linear, VAR(1)": _linear_scores(null_linear, null_test),
        "neural SDE": _scores(null, null_test),
    }
    grid = jnp.linspace(-2.2, 2.2, 111)
    density = np.exp(jax.vmap(lambda x: stationary(x[None]))(grid))
    true_drift = jax.vmap(lambda x: truth.drift(0.0, x))(grid[:, None])[:, 0]
    learned_drift = jax.vmap(lambda x: model.drift(0.0, x))(grid[:, None])[:, 0]
    sigma = jax.vmap(lambda x: model.diffusion(0.0, x).as_matrix()[0, 0])(grid[:, None])
    weight = density / density.sum()
    laws = {
        "linear, VAR(1)": _linear_law(linear, config.seed),
        "neural SDE": stationary_sample(model, key=law_key),
        "true SDE, by Euler": stationary_sample(truth, key=law_key),
    }
    settings = {name: getattr(config, name) for name in ("steps", "paths", "length", "seed")}
    results = {
        "problem": f"double well: dX = (X - X^3) dt + {SIGMA} dW",
        "scheme": "Euler-Maruyama",
        "step": DT,
        "held_out_nll_per_step": _table(scores, config.seed),
        "null_nll_per_step": _table(null_scores, config.seed),
        "drift_rms_error": float(np.sqrt(np.sum(weight * (learned_drift - true_drift) ** 2))),
        "drift_rms": float(np.sqrt(np.sum(weight * true_drift**2))),
        "sigma_mean": float(np.sum(weight * sigma)),
        "sigma_true": SIGMA,
        "stationary_total_variation": {
            name: _total_variation(x, grid, density) for name, x in laws.items()
        },
        "config": settings,
    }
    curves = dict(grid=grid, density=density, law=laws["neural SDE"], data=data[:6, :, 0])
    return results, curves | dict(true=true_drift, learned=learned_drift)


def observe(sde: SDE, config: Demo, *, key: RandomKey) -> Float[Array, "path time 1"]:
    """Paths of the truth, solved on a step 16 times finer than they are observed."""
    start_key, noise_key = jr.split(key)
    y0s = jr.uniform(start_key, (config.paths, 1), minval=-1.5, maxval=1.5)
    ts = DT * np.arange(config.length)

    def one(y0: State, key: RandomKey) -> Float[Array, "time 1"]:
        return solve(sde, y0, ts, key=key, dt=DT / FINE, solver=dfx.Euler()).path.ys

    return jax.vmap(one)(y0s, jr.split(noise_key, config.paths))


def shuffled(data: Float[Array, "path time 1"], seed: int) -> Float[Array, "path time 1"]:
    """The same states in random order over all paths and times: no dynamics, and no memory."""
    return jnp.asarray(np.random.default_rng(seed).permutation(np.asarray(data).ravel())).reshape(
        data.shape
    )


def step_nll(sde: SDE, y: State, after: State) -> Float[Array, ""]:
    r"""$-\log N(y_{k+1};\, y_k + f\Delta t,\; \Sigma\Delta t)$."""
    r = after - y - sde.drift(0.0, y) * DT
    quadratic = r @ sde.diffusion.solve(0.0, y, r) / DT
    return 0.5 * (quadratic + sde.diffusion.logdet(0.0, y) + jnp.log(2 * jnp.pi * DT))


def fit(
    model: SDE, data: Float[Array, "path time 1"], config: Demo, *, key: RandomKey, label: str
) -> SDE:
    """Minimise the transition likelihood over random observed steps with Adam."""
    befores, afters = data[:, :-1].reshape(-1, 1), data[:, 1:].reshape(-1, 1)
    batch = min(1024, len(befores))
    chunk = min(100, config.steps)
    schedule = optax.cosine_decay_schedule(3e-3, config.steps)
    optimizer = optax.adam(schedule)
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(arrays: Any, rows: Array) -> Float[Array, ""]:
        sde = eqx.combine(arrays, static)
        return jnp.mean(jax.vmap(step_nll, in_axes=(None, 0, 0))(sde, befores[rows], afters[rows]))

    def step(carry: Any, key: RandomKey) -> tuple[Any, Array]:
        arrays, state = carry
        rows = jr.randint(key, (batch,), 0, len(befores))
        value, grads = jax.value_and_grad(loss)(arrays, rows)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return (eqx.apply_updates(arrays, updates), state), value

    @jax.jit
    def many(carry: Any, keys: Array) -> tuple[Any, Array]:
        return jax.lax.scan(step, carry, keys)

    carry = (arrays, optimizer.init(arrays))
    keys = jr.split(key, config.steps)
    with progress(label, config.steps, quiet=config.quiet) as advance:
        for first in range(0, config.steps, chunk):
            carry, values = many(carry, keys[first : first + chunk])
            advance(len(values), f"loss {values.mean():.4f}")
    return eqx.combine(carry[0], static)


def stationary_sample(model: SDE, *, key: RandomKey) -> np.ndarray:
    """States of the fit after a long time, simulated with the scheme and step of the fit."""
    ts = np.append(0.0, 30.0 + 2.0 * np.arange(LAW_TIMES))
    start_key, noise_key = jr.split(key)
    y0s = jr.normal(start_key, (LAW_PATHS, 1))

    def one(y0: State, key: RandomKey) -> Float[Array, "time 1"]:
        return solve(model, y0, ts, key=key, dt=DT, solver=dfx.Euler()).path.ys[1:]

    return np.asarray(jax.vmap(one)(y0s, jr.split(noise_key, LAW_PATHS))).reshape(-1)


def _scores(sde: SDE, data: Float[Array, "path time 1"]) -> np.ndarray:
    """Mean negative log-likelihood per step of each path."""
    per_step = jax.vmap(jax.vmap(step_nll, in_axes=(None, 0, 0)), in_axes=(None, 0, 0))
    return np.asarray(per_step(sde, data[:, :-1], data[:, 1:])).mean(axis=1)


def least_squares(data: Array) -> tuple[float, float, float]:
    """Slope, offset and residual variance of y_{k+1} = c y_k + m + noise."""
    x, y = np.asarray(data[:, :-1]).ravel(), np.asarray(data[:, 1:]).ravel()
    slope, offset = np.polyfit(x, y, 1)
    return slope, offset, np.mean((y - slope * x - offset) ** 2)


def _variance(data: Array) -> float:
    return float(np.mean(np.diff(np.asarray(data), axis=1) ** 2))


def _linear_scores(linear: tuple[float, float, float], test: Array) -> np.ndarray:
    """Mean negative log-likelihood per step of each path, under a linear step."""
    slope, offset, variance = linear
    r = np.asarray(test)[:, 1:, 0] - slope * np.asarray(test)[:, :-1, 0] - offset
    return (0.5 * (r**2 / variance + np.log(2 * np.pi * variance))).mean(axis=1)


def _linear_law(linear: tuple[float, float, float], seed: int) -> np.ndarray:
    """A sample of the stationary law of a linear step, as large as `stationary_sample`."""
    slope, offset, variance = linear
    draws = np.random.default_rng(seed).normal(size=LAW_PATHS * LAW_TIMES)
    return offset / (1 - slope) + np.sqrt(variance / (1 - slope**2)) * draws


def _total_variation(sample: np.ndarray, grid: Array, density: np.ndarray) -> float:
    """Distance of a sample's histogram from a density."""
    histogram, edges = np.histogram(sample, bins=44, range=(-2.2, 2.2), density=True)
    exact = np.interp(0.5 * (edges[1:] + edges[:-1]), grid, density)
    return float(0.5 * np.sum(np.abs(histogram - exact)) * (edges[1] - edges[0]))


def _table(scores: dict[str, np.ndarray], seed: int) -> dict[str, dict[str, Any]]:
    """Each row's mean score, and its difference from VAR(1) path by path."""
    reference = scores["linear, VAR(1)"]
    return {
        name: _interval(x, seed) | {"minus_linear": _interval(x - reference, seed)}
        for name, x in scores.items()
    }


def _interval(scores: np.ndarray, seed: int) -> dict[str, float]:
    """Mean over paths with a 95 % bootstrap interval over paths."""
    draws = np.random.default_rng(seed).integers(0, len(scores), (1000, len(scores)))
    low, high = np.quantile(scores[draws].mean(axis=1), [0.025, 0.975])
    return {"mean": float(scores.mean()), "low": float(low), "high": float(high)}


def summary(results: dict[str, Any], out: Path, seconds: float) -> str:
    """The results as a person reads them."""

    def rows(table: dict[str, dict[str, Any]]) -> list[str]:
        lines = []
        for name, row in table.items():
            gap = row["minus_linear"]
            lines.append(
                f"  {name:<18}  {row['mean']:+.4f}   {gap['mean']:+.4f} "
                f"[{gap['low']:+.4f}, {gap['high']:+.4f}]"
            )
        return lines

    lines = [
        "",
        "dynlm demo: a small neural SDE fitted to a problem with a known answer",
        f"  {results['problem']}, observed every {results['step']}",
        "",
        "  held-out negative log-likelihood per step, and its difference from VAR(1), path by path",
        *rows(results["held_out_nll_per_step"]),
        "  the null, fitted and scored on the same states in random order:",
        *rows(results["null_nll_per_step"]),
        "",
        f"  drift: RMS error {results['drift_rms_error']:.3f} of {results['drift_rms']:.3f}",
        f"  noise: sigma {results['sigma_mean']:.3f}, true {results['sigma_true']}",
        "  stationary law: total variation from the exact one, of a sample from",
    ]
    for name, distance in results["stationary_total_variation"].items():
        lines.append(f"  {name:<18}  {distance:.3f}")
    lines += [
        "",
        f"  {out / 'demo.png'} and {out / 'results.json'} written, {seconds:.0f} s",
        "  The fit is of one Euler step, so it can score above the true SDE's own Euler step.",
        "  This is the dynamics half alone. Text and language models are not part of it yet.",
    ]
    return "\n".join(lines)


def draw(x: dict[str, Any]) -> bytes:
    """Three panels: observed paths, the drift, the stationary law."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    paths, drift, law = figure.subplots(1, 3)
    paths.plot(DT * np.arange(x["data"].shape[1]), np.asarray(x["data"]).T, lw=0.8)
    paths.set(title="observed paths", xlabel="t", ylabel="y")
    drift.plot(x["grid"], x["true"], "k--", lw=1.5, label="true")
    drift.plot(x["grid"], x["learned"], color="tab:blue", label="learned")
    drift.set(title="drift", xlabel="y", ylim=(-4, 4))
    drift.legend(frameon=False)
    law.hist(
        x["law"],
        bins=60,
        range=(-2.2, 2.2),
        density=True,
        color="tab:blue",
        alpha=0.4,
        label="simulated from the fit",
    )
    law.plot(x["grid"], x["density"], "k--", lw=1.5, label="exact")
    law.set(title="stationary law", xlabel="y", ylim=(0, 1.35 * float(np.max(x["density"]))))
    law.legend(frameon=False)
    for axes in (paths, drift, law):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, metadata={"Software": None})
    return buffer.getvalue()
