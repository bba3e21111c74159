"""The section on stability: where the drift vanishes, and whether states and neighbours return."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .. import analysis
from .._types import RandomKey
from ..analysis.findings import Finding, stated, withheld
from ._flows import NEITHER, flow_of
from ._frames import section, table
from ._given import some
from ._sde import Basis

DEEP = 1000  # steps without noise until a state counts as gone nowhere


def stability_section(b: Basis, key: RandomKey) -> dict[str, Any]:
    """Fixed points, basins, Lyapunov functions, constants and exponents."""
    flow, burn, seed = flow_of(b), b.plan.burn, b.plan.seed
    sde, dt = b.run.model, flow.step
    rows = some(b.given.test, b.plan.states)
    near_key, path_key, learn_key = jr.split(key, 3)
    seen = analysis.sample(rows.paths, rows.docs, most=512, burn=burn, seed=seed)
    points = analysis.fixed_points(sde, seen.ys, dt=dt)
    found, figures, tables = list(points.findings), [], [_points_table(points)]
    if flow.known and len(points.points):
        step = analysis.Euler(sde, jnp.asarray(dt)) if dt else _flow(sde, seen.gap)
        basins = analysis.basins(step, points, seen.ys, seen.docs, steps=DEEP, seed=seed)
        found += list(basins.findings)
    if flow.known:
        spectrum = _exponents(b, seen, dt, path_key)
        inside = len(points.points) and points.inside[0]
        centre = points.points[0] if inside else np.mean(seen.ys, axis=0)
        down = analysis.lyapunov(
            sde, rows.paths, rows.docs, centre=centre, dt=dt, nulls=b.nulls, burn=burn, seed=seed
        )
        found += [*spectrum.findings, *_linear_exponent(b, dt, seen.gap), *down.findings]
        tables.append(_worst_table(down))
        learned = None
        if b.plan.lyapunov:
            learned = analysis.learn_lyapunov(
                sde, rows.paths, rows.docs, centre=centre, key=learn_key, dt=dt,
                steps=b.plan.lyapunov, burn=burn, seed=seed,
            )  # fmt: skip
            found += list(learned.findings)
        unit = "step of the chain" if dt else "time"
        figures = [_falling(down, learned), _spectrum(spectrum, unit)]
    else:
        found.append(withheld("Lyapunov exponents", NEITHER))
    steep = analysis.lipschitz(
        sde, rows.paths, rows.docs, key=near_key, nulls=b.nulls, burn=burn, seed=seed
    )
    found += list(steep.findings)
    return section(
        "stability",
        "Stability",
        "Where does the learned drift vanish, do states return there, how fast do neighbours "
        "separate, and where does a Lyapunov function fall?",
        flow.trust + " Fixed points outside the data and constants from a sample say little: the "
        "first are extrapolated, the second are no bounds. Exponents below zero are nothing new: "
        "fits of shuffled states have them too. " + b.beside,
        findings=found,
        found=b.caution,
        tables=tables,
        figures=figures,
        mark="ours",
        most=8,
    )


def _flow(sde: Any, gap: float) -> Any:
    return analysis.RungeKutta(sde, jnp.asarray(gap / 4))


def _exponents(b: Basis, seen: Any, dt: float | None, key: RandomKey) -> Any:
    """With the noise: of the fit's chain, or where that is a process, of its finer solution."""
    starts = seen.ys[np.linspace(0, len(seen.ys) - 1, b.plan.replicas).round().astype(int)]
    h, steps = (dt, b.plan.exponents) if dt else (seen.gap / 8, 8 * b.plan.exponents)
    return analysis.exponents(
        b.run.model, starts, dt=h, steps=steps, key=key, seed=b.plan.seed, nulls=b.nulls,
        unit=_unit(dt),
    )  # fmt: skip


def _unit(dt: float | None) -> str:
    return "per step of the chain" if dt else "per unit of time"


def _linear_exponent(b: Basis, dt: float | None, gap: float) -> list[Finding]:
    """Of VAR(1), where it has any order to be of: otherwise its matrix is zero but for chance."""
    largest = float(np.abs(np.linalg.eigvals(np.asarray(b.linear.matrix, float))).max())
    if b.order not in ("linear", "nonlinear") or not largest > 0:
        return []
    note = "A linear model of these rows has that one, and nothing is tested by it"
    value, what = float(np.log(largest) / (dt or gap)), "largest Lyapunov exponent of VAR(1)"
    return [stated(what, value, unit=_unit(dt), note=note)]


def _points_table(points: Any) -> dict[str, Any]:
    rows = []
    for k in range(min(len(points.points), 12)):
        values = points.eigenvalues[k]
        lead = values[np.argmax(values.real)]
        row = [k + 1, points.kinds[k], "yes" if points.stable[k] else "no", int(points.starts[k])]
        row += [float(points.distance[k]), "yes" if points.inside[k] else "no"]
        row += [float(lead.real), float(abs(lead.imag))]
        if points.multipliers is not None:
            row.append(float(np.abs(points.multipliers[k]).max()))
        rows.append(row)
    heads = ["point", "kind", "stable", "starts", "distance", "inside the data"]
    heads += ["leading eigenvalue, real", "imaginary"]
    if points.multipliers is not None:
        heads.append("largest multiplier")
    note = (
        f"{len(points.points)} found; starts are those that ended there. The distance is "
        f"Mahalanobis', within {points.reach:.3g} of which lie 99 % of the states."
    )
    return table("Fixed points of the drift", heads, rows, note)


def _worst_table(down: Any) -> dict[str, Any]:
    """Where a Lyapunov function fails: the states at which it grows fastest."""
    rows = [
        [str(down.docs[k]), int(down.path[k]), int(down.step[k])]
        + [float(np.sqrt(down.v[k])), float(down.lv[k])]
        for k in down.worst
    ]
    heads = ["document", "row", "step", "distance from the centre", "rate of its square"]
    note = "Rows and steps of the held-out states that were looked at."
    return table("Where the squared distance grows fastest", heads, rows, note)


def _falling(down: Any, learned: Any) -> dict[str, Any]:
    laws = {"squared distance": down}
    if learned is not None:
        laws["learned function"] = learned.learned
    series = []
    for name, one in laws.items():  # by rank: the two are not measured in the same units
        rank = (np.arange(len(one.shells)) + 0.5) / len(one.shells)
        series.append({"name": name, "x": rank, "y": one.falling})
    return {
        "id": "falling",
        "title": "Where a Lyapunov function falls",
        "kind": "lines",
        "series": series,
        "xlabel": "share of states nearer to the centre",
        "ylabel": "share where it falls",
        "hlines": [{"y": 0.5, "label": "half"}],
        "caption": "Shells of equally many states, the innermost first. Far out nearly every "
        "process falls back: also one whose states are drawn anew at each step.",
        "alt": "Share of states at which a function falls, from the centre outwards.",
    }


def _spectrum(found: Any, unit: str) -> dict[str, Any]:
    number = np.arange(1, len(found.exponents) + 1)
    ends = [[one.low, one.high] for one in found.intervals]
    low, high = np.asarray(ends, float).T
    one = {"name": "exponent", "x": number, "y": found.exponents, "style": "points"}
    return {
        "id": "exponents",
        "title": "Lyapunov exponents",
        "kind": "lines",
        "series": [one | {"low": low, "high": high}],
        "xlabel": "number",
        "ylabel": f"exponent, per {unit}",
        "hlines": [{"y": 0.0, "label": "neighbours neither part nor meet"}],
        "caption": "Of paths that share their noise; intervals from independent paths.",
        "alt": "Exponents from the largest to the least.",
    }
