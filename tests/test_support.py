"""The table of what goes together: every cell is checked against a closed form, or refused."""

import json
from pathlib import Path

import diffrax as dfx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from support import (
    AREAS,
    CELLS,
    SDE_SOLVERS,
    Cell,
    legend,
    letter,
    path_of,
    relative_errors,
    sde_of,
    table,
    why_not,
)

from dynlm import SDE, CounterBrownianPath, problems, solve
from dynlm.simulate import STRONG_ORDER

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 0.15  # of the value and of each derivative; the wrong calculus is off by more


def supported(solver, path="counter", adjoint=dfx.RecursiveCheckpointAdjoint, noise=None):
    """A cell of `solver` in its own calculus, of the least commutative noise that it takes."""
    calculus = "ito" if issubclass(solver, dfx.AbstractItoSolver) else "stratonovich"
    noise = noise or [n for n, order in STRONG_ORDER[solver].items() if order is not None][-1]
    return Cell(solver, noise, calculus, path, adjoint)


SMALL = [supported(solver) for solver in SDE_SOLVERS] + [
    supported(dfx.Heun, path, adjoint, "commutative")
    for path in ("counter", "tree")
    for adjoint in (dfx.DirectAdjoint, dfx.ForwardMode, dfx.BacksolveAdjoint)
]
SMALL += [supported(dfx.Euler, "unsafe", dfx.ForwardMode), supported(dfx.SPaRK, "tree")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", SMALL, ids=lambda c: f"{c.solver.__name__}-{c.path}-{c.adjoint.__name__}"
)
def test_a_supported_cell_agrees_with_its_closed_form(cell):
    """The value at the end, and its derivatives by y0, mu and sigma, by the cell's adjoint."""
    assert why_not(cell) is None
    errors = relative_errors(cell)
    assert max(errors) < TOLERANCE, errors


@pytest.mark.campaign
def test_every_supported_cell_agrees_with_its_closed_form():
    """All of them, about 20 minutes; the errors are kept in benchmarks/results."""
    rows, cells, known = [], [cell for cell in CELLS if why_not(cell) is None], {}
    for cell in cells:
        # With additive noise the two calculi are the same program.
        same = cell._replace(calculus="") if cell.noise == "additive" else cell
        errors = known.setdefault(same, None) or relative_errors(cell)
        known[same] = errors
        rows.append(
            [cell.solver.__name__, cell.noise, cell.calculus, cell.path, cell.adjoint.__name__]
            + [float(f"{max(errors):.3g}")]
        )
        print(*rows[-1], flush=True)
    out = {
        "what": "largest relative error of value and derivatives, 16 paths of 256 steps",
        "tolerance": TOLERANCE,
        "cells": len(CELLS),
        "supported": len(cells),
        "refused": len(CELLS) - len(cells),
        "columns": ["solver", "noise", "calculus", "path", "adjoint", "error"],
        "rows": rows,
    }
    text = json.dumps(out, indent=None).replace("], [", "],\n[")
    (ROOT / "benchmarks" / "results" / "2026-11-21-support-table-cpu.json").write_text(text + "\n")
    assert all(row[-1] < TOLERANCE for row in rows), [row for row in rows if row[-1] >= TOLERANCE]


def test_the_campaign_covered_every_supported_cell():
    """The kept results name just the cells that are supported now, each within tolerance."""
    kept = json.loads(
        (ROOT / "benchmarks" / "results" / "2026-11-21-support-table-cpu.json").read_text()
    )
    now = {
        (c.solver.__name__, c.noise, c.calculus, c.path, c.adjoint.__name__)
        for c in CELLS
        if why_not(c) is None
    }
    assert {tuple(row[:5]) for row in kept["rows"]} == now
    assert max(row[5] for row in kept["rows"]) < TOLERANCE


def test_each_kind_of_refusal_is_raised_by_solve():
    """One `solve` for every way a row is refused: it raises the sentence of the table."""
    seen = set()
    for cell in CELLS:
        sentence = why_not(cell)
        if sentence is None or (letter(sentence), cell.solver) in seen:
            continue
        seen.add((letter(sentence), cell.solver))
        assert "`" in sentence and ("Use" in sentence or "Pass" in sentence)
        sde = sde_of(cell)
        assert isinstance(sde, SDE)
        area = AREAS[2] if issubclass(cell.solver, dfx.AbstractFosterLangevinSRK) else AREAS[1]
        path = path_of(cell.path, sde.noise_dim, jr.key(0), area)
        with pytest.raises(ValueError) as error:
            solve(
                sde,
                jnp.ones(sde.dim),
                np.array([0.0, 1.0]),
                brownian=path,
                solver=cell.solver(),
                dt=0.25,
                adjoint=cell.adjoint(),
            )
        assert sentence in str(error.value)
    assert len({key for key, _ in seen}) == 10


@pytest.mark.parametrize("solver", [dfx.SRA1, dfx.SPaRK])
def test_a_path_without_the_levy_area_is_refused(solver):
    p = problems.additive()
    path = CounterBrownianPath((1,), jr.key(0), 0.25)
    with pytest.raises(ValueError, match="needs SpaceTimeLevyArea.*levy_area=diffrax.SpaceTime"):
        solve(p.sde, p.y0, [0.0, 1.0], brownian=path, solver=solver(), dt=0.25)
    langevin = problems.langevin()
    path = CounterBrownianPath((1,), jr.key(0), 0.25, levy_area=dfx.SpaceTimeLevyArea)
    with pytest.raises(ValueError, match="QUICSORT` needs SpaceTimeTimeLevyArea"):
        solve(langevin.sde, langevin.y0, [0.0, 1.0], brownian=path, solver=dfx.QUICSORT(), dt=0.25)


def test_half_steps_of_an_unsafe_path_are_refused():
    p = problems.gbm()
    path = dfx.UnsafeBrownianPath((1,), jr.key(0))
    with pytest.raises(ValueError, match="half steps independently"):
        solve(
            p.sde,
            p.y0,
            [0.0, 1.0],
            brownian=path,
            solver=dfx.HalfSolver(dfx.ItoMilstein()),
            dt=0.25,
        )


def test_the_wrong_calculus_is_outside_the_tolerance(monkeypatch):
    """So that a supported cell could fail."""
    import support

    right = support.sde_of

    def mislabelled(cell, parameters=(0.3, 0.5)):
        sde = right(cell, parameters)
        return SDE(sde.drift, sde.diffusion, "stratonovich")

    cell = Cell(dfx.EulerHeun, "commutative", "ito", "counter", dfx.ForwardMode)
    monkeypatch.setattr(support, "sde_of", mislabelled)
    assert max(relative_errors(cell)) > 1.3 * TOLERANCE


def test_the_docs_print_this_table():
    page = (ROOT / "docs" / "solvers.md").read_text()
    assert legend() in page and table() in page, (
        "docs/solvers.md is not the table: run `python tests/support.py` and paste what it prints"
    )
