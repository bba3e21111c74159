"""Orders of convergence through `solve`, against closed forms or a far finer solve."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from orders import FINE, closed_form, fine_solve, observed_order, rollout_errors, strong_errors

from dynlm import SDE, CounterBrownianPath, diffusions, drifts, problems, solve
from dynlm.simulate import STRONG_ORDER
from dynlm.simulate._schemes import SCHEMES

CASES = [
    (solver, noise, order)
    for solver, orders in STRONG_ORDER.items()
    for noise, order in orders.items()
    if order is not None
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "noise", "order"), CASES, ids=[f"{s.__name__}-{n}" for s, n, _ in CASES]
)
def test_strong_order(solver, noise, order, x64):
    """GBM against its closed form; a sine drift and a non-commutative one against a finer solve."""
    sde, problem, truth = hard_case(solver, noise)
    errors = strong_errors(sde, solver(), problem, truth, key=jr.key(1))
    assert abs(observed_order(errors) - order) < 0.2, errors
    assert np.all(np.diff(errors) < 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "noise", "order"),
    [case for case in CASES if case[0] in SCHEMES],
    ids=[f"{s.__name__}-{n}" for s, n, _ in CASES if s in SCHEMES],
)
def test_strong_order_through_rollout(solver, noise, order, x64):
    """The same problems and paths."""
    sde, problem, truth = hard_case(solver, noise)
    errors = rollout_errors(sde, solver(), problem, truth, key=jr.key(1), paths=300)
    assert abs(observed_order(errors) - order) < 0.2, errors
    assert np.all(np.diff(errors) < 0)


def hard_case(solver, noise):
    """A problem on which a solver shows its order for a class of noise, and the truth."""
    if noise == "commutative":
        problem = problems.gbm_correlated()  # two components, whose columns meet
        truth = closed_form(problem)
    elif noise == "additive":
        drift = drifts.Function(
            lambda t, y: jnp.sin(4 * y)
        )  # f'' counts, or order 1.5 looks like 2
        sde = SDE(drift, diffusions.Scalar(1.0, 1))
        problem = problems.Problem(name="sine", sde=sde, y0=jnp.array([0.5]), t1=1.0)
        truth = fine_solve(problem, problem.sde, dfx.ShARK())
    else:
        problem = problems.gbm_noncommutative()
        truth = fine_solve(problem, problem.sde.to_stratonovich(), dfx.Heun())
    ito = issubclass(solver, dfx.AbstractItoSolver)
    return problem.sde if ito else problem.sde.to_stratonovich(), problem, truth


def test_the_wrong_calculus_does_not_converge(x64):
    """What `solve` refuses, done by hand: the error stops falling, so the test above can fail."""
    problem = problems.gbm(sigma=0.5)
    mislabelled = SDE(problem.sde.drift, problem.sde.diffusion, "stratonovich")
    errors = strong_errors(
        mislabelled, dfx.Heun(), problem, closed_form(problem), key=jr.key(1), paths=100
    )
    assert observed_order(errors) < 0.2


@pytest.mark.slow
def test_ito_and_stratonovich_agree_after_conversion(x64):
    """A full state-dependent matrix: Euler on the Ito form meets Heun on the Stratonovich one."""
    sde = SDE(
        drifts.Linear(-jnp.eye(2), jnp.ones(2)),
        diffusions.Full.learned(2, scale=0.5, width=6, depth=1, key=jr.key(8)),
        "stratonovich",
    )
    problem = problems.Problem(name="net", sde=sde, y0=jnp.array([0.5, -0.5]), t1=1.0)
    truth = fine_solve(problem, sde, dfx.Heun())
    errors = strong_errors(sde.to_ito(), dfx.Euler(), problem, truth, key=jr.key(2))
    assert 0.3 < observed_order(errors) and errors[-1] < 0.05, errors


@pytest.mark.parametrize("moment", [1, 2])
def test_weak_order_of_euler(moment, x64):
    """Moments of GBM; the exact path on the same noise is a control variate."""
    problem = problems.gbm(mu=1.0, sigma=0.5)

    @jax.jit
    def gap(key):
        def one(key, ts):
            end = solve(problem.sde, problem.y0, ts, key=key, substeps=1).path.ys[-1]
            n = jnp.sum(ts < 1.0).astype(ts.dtype)
            path = CounterBrownianPath((1,), key, 1.0 / n)
            w = path.evaluate(jnp.ones(()))  # on this level's own grid
            return (end**moment - problem.exact(1.0, problem.y0, w) ** moment)[0]

        grids = jnp.stack(
            [jnp.append(jnp.linspace(0.0, 1.0, n + 1), jnp.ones(32 - n)) for n in (4, 8, 16, 32)]
        )
        return jax.vmap(lambda key: jax.vmap(lambda ts: one(key, ts))(grids))(jr.split(key, 20_000))

    gaps = np.asarray(gap(jr.key(3)))
    means, errors = gaps.mean(axis=0), gaps.std(axis=0) / np.sqrt(len(gaps))
    slope = np.polyfit(np.log([1 / 4, 1 / 8, 1 / 16, 1 / 32]), np.log(np.abs(means)), 1)[0]
    assert np.all(np.abs(means) > 8 * errors)
    assert abs(slope - 1) < 0.2, (means, errors)


@pytest.mark.parametrize(
    ("solver", "order"), [(dfx.ALIGN, 2.0), (dfx.ShOULD, 3.0), (dfx.QUICSORT, 3.0)]
)
@pytest.mark.slow
def test_underdamped_langevin_orders(solver, order, x64):
    """Against a solve with 1,024 steps of QUICSORT on the same path, in a double well."""
    problem = problems.langevin_double_well(t1=2.0)
    levels = (8, 16, 32)

    @jax.jit
    @jax.vmap
    def errors(key):
        path = CounterBrownianPath(
            (1,), key, 2.0 / FINE, levy_area=dfx.SpaceTimeTimeLevyArea, cells=FINE // levels[0]
        )

        def end(solver, n):
            ts = np.array([0.0, 2.0])
            return solve(
                problem.sde, problem.y0, ts, brownian=path, solver=solver, dt=2.0 / n
            ).path.ys[-1]

        truth = end(dfx.QUICSORT(), FINE)
        return jnp.stack([jnp.sum((end(solver(), n) - truth) ** 2) for n in levels])

    rms = np.sqrt(np.asarray(errors(jr.split(jr.key(4), 100))).mean(axis=0))
    slope = np.polyfit(np.log(1 / np.array(levels)), np.log(rms), 1)[0]
    assert abs(slope - order) < 0.35, (slope, rms)
