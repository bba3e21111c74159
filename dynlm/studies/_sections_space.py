"""The sections on drift and noise in space: strength, rotation, energy, and where paths go."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .. import analysis
from .._types import RandomKey
from ..analysis.findings import Finding, stated, withheld
from ._flows import NEITHER, flow_of
from ._frames import section, some_points, table
from ._given import some
from ._sde import Basis

GRID = 20  # points along each direction of a plane
DEEP = 1000  # steps without noise until a state counts as gone nowhere


def fields_section(b: Basis) -> dict[str, Any]:
    """Drift and noise along the data, their geometry, and the energy if there is one."""
    sde, rows, burn, seed = b.run.model, some(b.given.test, b.plan.states), b.plan.burn, b.plan.seed
    how: dict[str, Any] = dict(burn=burn, seed=seed)
    along = analysis.along(sde, rows.paths, rows.docs, nulls=b.nulls, **how)
    turned = analysis.rotation(sde, rows.paths, rows.docs, nulls=b.nulls, **how)
    parts = analysis.decompose(sde, rows.paths, rows.docs, **how)
    found = [*along.findings, *turned.findings, *parts.findings]
    figures = []
    if b.given.dim >= 2:
        plane = analysis.principal_plane(rows.paths, burn=burn)
        found += list(analysis.energy(sde, **plane._asdict()).findings)
        figures.append(_plane(sde, plane, rows.paths, burn))
    else:
        at = np.asarray(rows.paths.ys)[np.asarray(rows.paths.mask)]
        low, high = (float(x) for x in np.quantile(at, [0.002, 0.998]))
        line = analysis.quasi_potential(sde, low=low, high=high)
        found += list(line.findings)
        figures.append(_line(line))
    return section(
        "fields",
        "Drift and noise",
        "How strong are the learned drift and noise where the states are, does the drift point "
        "where the next state goes, and is it the slope of an energy or a rotation?",
        "Averages over held-out states with intervals by document. A drift towards the mean is "
        "what independent states give too, so what is tested is tested against the same fit to "
        "shuffled states. "
        "A plane is two directions of many: where much of the drift leaves it, its arrows mislead.",
        findings=found,
        found=b.caution,
        figures=figures,
        mark="ours",
    )


def _plane(sde: Any, plane: Any, paths: Any, burn: int) -> dict[str, Any]:
    drawn = analysis.plane(sde, **plane._asdict(), size=GRID)
    ys, mask = np.asarray(paths.ys, float), np.asarray(paths.mask)
    ys = ys[:, burn:][mask[:, burn:]] - plane.origin
    first, second = some_points(*(ys @ d for d in plane.directions))
    axes: dict[str, Any] = {
        "x": drawn.first,
        "y": drawn.second,
        "xlabel": "first direction",
        "ylabel": "second direction",
    }
    inside = (np.abs(first) <= np.abs(plane.extent[0]).max()) & (
        np.abs(second) <= np.abs(plane.extent[1]).max()
    )
    states = {"name": "states", "x": first[inside], "y": second[inside]}
    size = np.hypot(drawn.drift[..., 0], drawn.drift[..., 1])
    drift = axes | {
        "kind": "field",
        "title": "drift",
        "u": drawn.drift[..., 0],
        "v": drawn.drift[..., 1],
        "z": drawn.leaving / np.maximum(np.hypot(size, drawn.leaving), 1e-30),
        "label": "share of the drift that leaves the plane",
    }
    noise = axes | {
        "kind": "heat",
        "title": "noise",
        "z": drawn.noise,
        "label": "strength of the noise",
        "points": [states],
    }
    return {
        "id": "plane",
        "title": "The plane in which states vary most",
        "kind": "panels",
        "panels": [drift, noise],
        "caption": "Left: arrows are the part of the drift within the plane, colour the share that "
        "leaves it. Right: strength of the noise, with held-out states.",
        "alt": "Arrows of the drift on the plane of the first two principal directions, and a map "
        "of the strength of the noise with states on it.",
    }


def _line(line: Any) -> dict[str, Any]:
    return {
        "id": "energy",
        "title": "Quasi-potential",
        "kind": "lines",
        "series": [{"name": "quasi-potential", "x": line.x, "y": line.values}],
        "xlabel": "state",
        "ylabel": "energy",
        "caption": "Minus the integral of twice the drift over the squared noise: states gather "
        "where it is low.",
        "alt": f"A curve with {len(line.wells)} minima.",
    }


def stability_section(b: Basis, key: RandomKey) -> dict[str, Any]:
    """Fixed points, basins, Lyapunov functions, constants and exponents."""
    flow, burn, seed = flow_of(b), b.plan.burn, b.plan.seed
    sde, dt = b.run.model, flow.step
    rows = some(b.given.test, b.plan.states)
    near_key, path_key = jr.split(key)
    seen = analysis.sample(rows.paths, rows.docs, most=512, burn=burn, seed=seed)
    points = analysis.fixed_points(sde, seen.ys, dt=dt)
    found, figures = list(points.findings), []
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
        figures = [_falling(down), _spectrum(spectrum, "step of the chain" if dt else "time")]
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
        "fits of shuffled states have them too. The tested numbers stand beside theirs, and "
        "intervals are widened by how those differ from one random order to the next.",
        findings=found,
        found=b.caution,
        tables=[_points_table(points)],
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


def _falling(down: Any) -> dict[str, Any]:
    return {
        "id": "falling",
        "title": "Where the Lyapunov function falls",
        "kind": "lines",
        "series": [{"name": "share of states", "x": down.shells, "y": down.falling}],
        "xlabel": "distance from the centre",
        "ylabel": "share where it falls",
        "hlines": [{"y": 0.5, "label": "half"}],
        "caption": "Shells of equally many states. Far out nearly every process falls back: also "
        "one whose states are drawn anew at each step.",
        "alt": "Share of states at which the squared distance falls, by distance from the centre.",
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


def moments_section(b: Basis, key: RandomKey) -> dict[str, Any]:
    """Mean and covariance in time, of data, simulated fit and Gaussian closure."""
    rows, burn = some(b.given.test, b.plan.states), b.plan.burn
    y0s, ts = analysis.moment_starts(rows.paths, burn=burn, repeats=4)
    simulated = b.run.simulate(jnp.asarray(y0s), ts, key=key)
    dt = flow_of(b).step
    long = np.asarray(rows.paths.mask).sum(axis=1) > burn
    begin = np.asarray(y0s, float)[: len(rows.docs)][long]
    m0, p0 = begin.mean(axis=0), np.cov(begin.T).reshape(b.given.dim, b.given.dim)
    closed, note = None, []
    if b.run.law.step is not None:
        times = np.asarray(ts, float).reshape(-1, np.shape(ts)[-1])[0]
        of = analysis.moment_chain if dt else analysis.moment_equations
        closed = of(b.run.model, m0, p0, times)
    else:
        note = [withheld("Gaussian closure", "the gaps of the data differ from row to row")]
    check = analysis.moment_check(
        simulated, rows.paths, rows.docs, burn=burn, closure=closed, seed=b.plan.seed
    )
    both = check.covariance, check.simulated_covariance
    data, fit = (np.trace(c, axis1=1, axis2=2) for c in both)
    series = [
        {"name": "data", "x": check.steps, "y": data, "style": "points"},
        {"name": "simulated fit", "x": check.steps, "y": fit},
    ]
    if closed is not None:
        own = np.trace(closed.covariance, axis1=1, axis2=2)
        at = [k for k in check.steps if k < len(own)]
        line = {"name": "Gaussian closure", "x": at, "y": own[at], "style": "dashed"}
        series.append(line)
    return section(
        "moments",
        "Moments in time",
        "Started from the data's states and simulated with the scheme and step of the fit, does it "
        "keep the data's mean and covariance?",
        "The closure takes each law for a Gaussian one: where it leaves the simulation, the fit is "
        "nonlinear enough for that to be wrong. Where the simulation leaves the data, the fit is "
        "wrong; that is nothing that the states do in time.",
        findings=[*check.findings, *note],
        found=b.caution,
        figures=[
            {
                "id": "variance",
                "title": "Total variance after so many tokens",
                "kind": "lines",
                "series": series,
                "xlabel": "tokens after the start",
                "ylabel": "total variance",
                "caption": "Of held-out documents, of simulations from their states, and by the "
                "moment equations.",
                "alt": "Total variance of the data and of the fit over time.",
            }
        ],
        mark="ours",
    )
