"""The sections on drift and noise in space, and on moments in time."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import analysis
from .._types import RandomKey
from ..analysis.findings import withheld
from ._flows import flow_of
from ._frames import section, some_points
from ._given import some
from ._sde import Basis

GRID = 20  # points along each direction of a plane


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
        landscape = analysis.energy(sde, **plane._asdict(), size=GRID)
        found += list(landscape.findings)
        figures.append(_plane(sde, plane, rows.paths, burn, landscape.values))
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
        f"what independent states give too. {b.beside} "
        "A plane is two directions of many: where much of the drift leaves it, its arrows mislead.",
        findings=found,
        found=b.caution,
        figures=figures,
        mark="ours",
    )


def _plane(sde: Any, plane: Any, paths: Any, burn: int, energy: Any) -> dict[str, Any]:
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
    panels, last = [drift, noise], ""
    if energy is not None:
        panels.append(
            axes | {"kind": "heat", "title": "energy", "z": energy, "label": "energy of the drift"}
        )
        last = " Then the energy whose slope the drift is on this plane."
    return {
        "id": "plane",
        "title": "The plane in which states vary most",
        "kind": "panels",
        "panels": panels,
        "caption": "First: arrows are the part of the drift within the plane, colour the share "
        "that leaves it. Second: strength of the noise, with held-out states." + last,
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
