"""Every cell of the table solver x noise x calculus x path x adjoint, and the table as text."""

import itertools
from typing import NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from dynlm import SDE, CounterBrownianPath, diffusions, problems, solve
from dynlm.simulate import STRONG_ORDER, refusal

SDE_SOLVERS = tuple(STRONG_ORDER)
ODE_SOLVERS = (
    dfx.Tsit5,
    dfx.Dopri5,
    dfx.Dopri8,
    dfx.Bosh3,
    dfx.ImplicitEuler,
    dfx.Kvaerno3,
    dfx.Kvaerno4,
    dfx.Kvaerno5,
    dfx.KenCarp3,
    dfx.KenCarp4,
    dfx.KenCarp5,
    dfx.Sil3,
    dfx.SemiImplicitEuler,
    dfx.LeapfrogMidpoint,
)
LANGEVIN_SOLVERS = (dfx.ALIGN, dfx.ShOULD, dfx.QUICSORT)
NOISES = ("additive", "commutative", "general")
CALCULI = ("ito", "stratonovich")
PATHS = ("counter", "tree", "unsafe")
ADJOINTS = (
    dfx.RecursiveCheckpointAdjoint,
    dfx.DirectAdjoint,
    dfx.ForwardMode,
    dfx.BacksolveAdjoint,
    dfx.ImplicitAdjoint,
)
AREAS = (dfx.BrownianIncrement, dfx.SpaceTimeLevyArea, dfx.SpaceTimeTimeLevyArea)
STEPS = 256


class Cell(NamedTuple):
    solver: type
    noise: str
    calculus: str
    path: str
    adjoint: type


CELLS = [
    Cell(*cell)
    for cell in itertools.product(
        SDE_SOLVERS + ODE_SOLVERS + LANGEVIN_SOLVERS, NOISES, CALCULI, PATHS, ADJOINTS
    )
]


def problem_of(noise, parameters=(0.3, 0.5)):
    """A problem with an exact solution whose diffusion declares `noise`."""
    mu, sigma = parameters
    if noise == "additive":
        return problems.additive(sigma, mu)
    if noise == "commutative":
        return problems.gbm(mu, sigma)
    base = problems.gbm_correlated(mu * jnp.ones(2), sigma * jnp.array([[1.0, 0.0], [0.6, 0.8]]))
    # The parameters stay leaves: BacksolveAdjoint cannot differentiate what a closure holds.
    g = jax.tree_util.Partial(_matrix, base.sde.diffusion)
    general = diffusions.Function(g, 2, 2, "general")
    return problems.Problem(
        name="general", sde=SDE(base.sde.drift, general), y0=base.y0, t1=1.0, exact=base.exact
    )


def _matrix(diffusion, t, y):
    return diffusion(t, y).as_matrix()


def sde_of(cell, parameters=(0.3, 0.5)):
    problem = problem_of(cell.noise, parameters)
    return problem.sde if cell.calculus == "ito" else problem.sde.to_stratonovich()


def path_of(name, noise_dim, key, levy_area):
    if name == "counter":
        return CounterBrownianPath((noise_dim,), key, 1 / STEPS, levy_area=levy_area)
    if name == "unsafe":
        return dfx.UnsafeBrownianPath((noise_dim,), key, levy_area)
    return dfx.VirtualBrownianTree(0.0, 1.0, 0.5 / STEPS, (noise_dim,), key, levy_area)


def why_not(cell):
    sde = sde_of(cell)
    area = AREAS[2] if cell.solver in LANGEVIN_SOLVERS else AREAS[1]
    path = path_of(cell.path, sde.noise_dim, jr.key(0), area)
    return refusal(sde, cell.solver(), path, cell.adjoint())


def value_and_derivative(cell, key):
    """The end of the path and its derivative along (y0, mu, sigma), by the cell's adjoint."""
    adjoint = cell.adjoint()

    def end(y0, mu, sigma, path):
        sde = sde_of(cell, (mu, sigma))
        sol = solve(
            sde,
            y0,
            np.array([0.0, 1.0]),
            brownian=path,
            solver=cell.solver(),
            dt=1 / STEPS,
            adjoint=adjoint,
        )
        return jnp.sum(sol.path.ys[-1])

    def exact(y0, mu, sigma, path):
        problem = problem_of(cell.noise, (mu, sigma))
        w = path if cell.path == "unsafe" else path.evaluate(0.0, 1.0)
        return jnp.sum(problem.exact(1.0, y0, w))

    y0 = problem_of(cell.noise).y0
    point = (y0, jnp.array(0.3, jnp.float32), jnp.array(0.5, jnp.float32))

    def run(key):
        dim = sde_of(cell).noise_dim
        path = path_of(cell.path, dim, key, AREAS[1])
        if cell.path == "counter":
            truth_path = CounterBrownianPath((dim,), key, 1 / STEPS, cells=STEPS)
        elif cell.path == "unsafe":  # it has no value at 1 to ask for
            truth_path = _sum_of_steps(path)
        else:
            truth_path = path
        if cell.adjoint is dfx.ForwardMode:
            tangent = jax.tree.map(jnp.ones_like, point)
            got = jax.jvp(lambda *x: end(*x, path), point, tangent)
            want = jax.jvp(lambda *x: exact(*x, truth_path), point, tangent)
        else:
            got = jax.value_and_grad(lambda x: end(*x, path))(point)
            want = jax.value_and_grad(lambda x: exact(*x, truth_path))(point)
        return got, want

    options = {"xla_backend_optimization_level": 0}  # it runs once: let compiling be quick
    return jax.jit(jax.vmap(run), compiler_options=options)(jr.split(key, 16))


def relative_errors(cell, key=None):
    """Root mean square errors over 16 paths, of the value and of each derivative."""
    got, want = value_and_derivative(cell, jr.key(11) if key is None else key)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want))
    return [
        float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))
        for a, b in pairs
    ]


def _sum_of_steps(path):
    ts = jnp.linspace(0.0, 1.0, STEPS + 1)

    def add(k, w):
        return w + path.evaluate(ts[k], ts[k + 1], use_levy=True).W

    return jax.lax.fori_loop(0, STEPS, add, jnp.zeros(path.shape.shape))


# The refusals by the letter that stands for them in the table, and words of their sentences.
LETTERS = {
    "o": ("is a solver of ODEs", "a solver of ODEs: with noise it converges to neither calculus"),
    "l": ("solves underdamped Langevin", "made for underdamped Langevin: pass a `dynlm.Langevin`"),
    "a": ("needs additive noise", "needs additive noise"),
    "m": ("needs commutative noise", "needs commutative noise"),
    "s": ("converges to the stratonovich", "a Stratonovich solver on an Ito SDE"),
    "i": ("converges to the ito", "an Ito solver on a Stratonovich SDE"),
    "u": ("UnsafeBrownianPath cannot", "runs backwards over noise that cannot be repeated"),
    "b": ("BacksolveAdjoint` needs a Strat", "`BacksolveAdjoint` needs a Stratonovich solver"),
    "t": ("a solver of one term", "`BacksolveAdjoint` needs a solver of one term"),
    "p": ("differentiates a steady state", "`ImplicitAdjoint` is for steady states"),
}


def letter(sentence):
    """The letter of a refusal; '+' for a supported cell."""
    if sentence is None:
        return "+"
    (found,) = [key for key, (words, _) in LETTERS.items() if words in sentence]
    return found


def table():
    """The table as Markdown: a row a solver, noise and calculus; a column a path and adjoint."""
    short = {"RecursiveCheckpointAdjoint": "rec", "DirectAdjoint": "dir", "ForwardMode": "fwd"}
    short |= {"BacksolveAdjoint": "back", "ImplicitAdjoint": "impl"}
    columns = list(itertools.product(PATHS, ADJOINTS))
    head = ["solver", "noise", "calculus", "order"]
    head += [f"{path} {short[adjoint.__name__]}" for path, adjoint in columns]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for solver in SDE_SOLVERS + ODE_SOLVERS + LANGEVIN_SOLVERS:
        rows = {
            (noise, calculus): [
                letter(why_not(Cell(solver, noise, calculus, *column))) for column in columns
            ]
            for noise, calculus in itertools.product(NOISES, CALCULI)
        }
        first = next(iter(rows.values()))
        if all(marks == first for marks in rows.values()):
            rows = {("any", "any"): first}
        for (noise, calculus), marks in rows.items():
            order = STRONG_ORDER.get(solver, {}).get(noise) if "+" in marks else None
            row = [solver.__name__, noise, calculus, "" if order is None else f"{order:g}", *marks]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def legend():
    """What the letters mean."""
    return "\n".join(f"- `{key}`: {meaning}" for key, (_, meaning) in LETTERS.items())


if __name__ == "__main__":
    print(legend(), table(), sep="\n\n")
