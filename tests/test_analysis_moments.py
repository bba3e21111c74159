"""Moment equations and the check of simulated moments against closed forms."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import linalg

from dynlm import SDE, Trajectory, diffusions, drifts, problems, rollout
from dynlm._io import BadArgument
from dynlm.analysis._moment_check import moment_check
from dynlm.analysis._moments import moment_chain, moment_equations, moment_starts
from dynlm.analysis.findings import Verdict

A = np.array([[-0.5, 0.4], [-0.3, -0.2]])
G = np.array([[0.5, 0.0], [0.2, 0.3]])
GAP = 0.5


def turning(sign=1.0, dtype=np.float32):
    drift = drifts.Linear(jnp.asarray(sign * A, dtype), jnp.asarray([0.1, -0.2], dtype))
    return SDE(drift, diffusions.Constant(jnp.asarray(G, dtype)))


def ensemble(seed=0, paths=240, steps=12, sde=None, lengths=None, fill=np.nan):
    """Euler's chain at the step of the data, from starts of its own, with padding of anything."""
    y0s = np.random.default_rng(seed).standard_normal((paths, 2)).astype(np.float32)
    ts = GAP * np.arange(steps, dtype=np.float32)
    sde = turning() if sde is None else sde
    ys = np.array(rollout(sde, y0s, ts, key=jr.key(seed), scheme=dfx.Euler()).ys)
    lengths = np.full(paths, steps) if lengths is None else lengths
    mask = np.arange(steps) < lengths[:, None]
    ys[~mask] = fill
    ts = np.minimum(ts, GAP * (lengths[:, None] - 1)).astype(np.float32)
    return jax.vmap(Trajectory)(jnp.asarray(ts), jnp.asarray(ys), jnp.asarray(mask))


def simulate(paths, sde=None, seed=7, repeats=1):
    y0s, ts = moment_starts(paths, repeats=repeats)
    sde = turning() if sde is None else sde
    return rollout(sde, y0s, ts, key=jr.key(seed), scheme=dfx.Euler())


# The closure


def test_a_linear_sde_has_its_exact_moments(x64):
    """The flow of the augmented linear system, by matrix exponentials."""
    m0, p0 = np.array([1.0, -1.0]), np.array([[0.3, 0.1], [0.1, 0.2]])
    ts = np.array([0.0, 0.5, 1.25, 4.0])
    found = moment_equations(turning(dtype=np.float64), m0, p0, ts, substeps=40)
    rest = -np.linalg.solve(A, [0.1, -0.2])
    still = linalg.solve_continuous_lyapunov(A, -G @ G.T)
    for t, m, p in zip(*found, strict=True):
        e = linalg.expm(A * t)
        assert m == pytest.approx(rest + e @ (m0 - rest), abs=1e-7)
        assert p == pytest.approx(still + e @ (p0 - still) @ e.T, abs=1e-7)
    assert not np.allclose(found.mean[-1], m0, atol=0.5)


def test_noise_that_grows_with_the_state_is_exact_too(x64):
    problem = problems.gbm([0.3, -0.2], [0.4, 0.7], y0=[1.0, 2.0])
    ts = np.linspace(0, 1.5, 4)
    found = moment_equations(problem.sde, problem.y0, np.zeros((2, 2)), ts, substeps=50)
    assert problem.mean is not None and problem.covariance is not None
    for t, m, p in zip(ts[1:], found.mean[1:], found.covariance[1:], strict=True):
        assert m == pytest.approx(np.asarray(problem.mean(t, problem.y0)), rel=1e-6)
        assert p == pytest.approx(np.asarray(problem.covariance(t, problem.y0)), rel=1e-5)
    stratonovich = problem.sde.to_stratonovich()
    same = moment_equations(stratonovich, problem.y0, np.zeros((2, 2)), ts, substeps=50)
    assert same.mean == pytest.approx(found.mean, rel=1e-9)


def test_the_integration_is_of_fourth_order(x64):
    ends = [
        moment_equations(
            turning(dtype=np.float64), np.ones(2), np.eye(2), [0.0, 4.0], substeps=n
        ).covariance[-1]
        for n in (8, 16, 256)
    ]
    coarse, fine = (np.abs(x - ends[-1]).max() for x in ends[:2])
    assert np.log2(coarse / fine) == pytest.approx(4, abs=0.6)


def test_the_chain_of_eulers_steps_is_not_the_flow(x64):
    """What is fitted to i.i.d. states: noise s, drift m - y. The chain forgets at once."""
    sde = SDE(drifts.Linear(-jnp.eye(1), jnp.array([2.0])), diffusions.Constant(jnp.array([[3.0]])))
    ts = np.arange(4.0)
    chain = moment_chain(sde, [5.0], [[4.0]], ts)
    assert chain.mean[1:, 0] == pytest.approx([2, 2, 2])
    assert chain.covariance[1:, 0, 0] == pytest.approx([9, 9, 9])
    flow = moment_equations(sde, [5.0], [[4.0]], ts, substeps=50)
    assert flow.covariance[-1, 0, 0] == pytest.approx(4.5 - 0.5 * np.exp(-6), rel=1e-5)
    m, p = np.array([0.4, 0.3]), np.diag([0.5, 0.1])
    linear = moment_chain(turning(dtype=np.float64), m, p, [0.0, GAP])
    f = np.eye(2) + GAP * A
    assert linear.mean[1] == pytest.approx(f @ m + GAP * np.array([0.1, -0.2]))
    assert linear.covariance[1] == pytest.approx(f @ p @ f.T + GAP * G @ G.T)


def test_the_closure_is_near_many_paths_of_a_double_well_and_not_exact(x64):
    problem = problems.double_well(sigma=0.7, y0=0.8)
    ts = np.linspace(0, 1, 3)
    found = moment_equations(problem.sde, [0.8], [[0.0]], ts, substeps=50)
    paths = rollout(problem.sde, np.full((20_000, 1), 0.8), ts, key=jr.key(0), substeps=50).ys[
        :, -1, 0
    ]
    assert found.mean[-1, 0] == pytest.approx(float(paths.mean()), abs=0.05)
    assert found.covariance[-1, 0, 0] == pytest.approx(float(paths.var()), rel=0.2)
    # From both wells the law is no Gaussian: long after, the closure is off by far.
    late = moment_equations(problem.sde, [0.8], [[0.0]], [0.0, 40.0], substeps=2000)
    assert problem.stationary_covariance is not None
    truth = float(problem.stationary_covariance[0, 0])
    assert abs(late.mean[-1, 0]) > 0.3 or abs(late.covariance[-1, 0, 0] / truth - 1) > 0.1


# The check


def test_the_law_of_the_data_is_not_told_from_them():
    lengths = np.random.default_rng(3).integers(6, 13, 240)
    paths = ensemble(lengths=lengths)
    docs = np.arange(240) // 2
    y0s, ts = moment_starts(paths)
    m0, p0 = y0s.mean(axis=0), np.cov(y0s.T)
    check = moment_check(
        simulate(paths, repeats=2),
        paths,
        docs,
        closure=moment_chain(turning(), m0, p0, ts),
    )
    gap, spread, closure = check.findings
    assert gap.value and gap.null and spread.low and spread.high
    assert gap.verdict is Verdict.LEVEL and 1 < gap.value < gap.null < 6
    assert spread.verdict is Verdict.LEVEL and spread.low < 1 < spread.high
    assert closure.verdict is Verdict.LEVEL
    assert check.ts == pytest.approx(GAP * (1 + check.steps))
    k, step = 4, check.steps[4]
    seen = np.asarray(paths.mask)[:, 1 + step]
    ys = np.asarray(paths.ys, float)[seen, 1 + step]
    assert check.mean[k] == pytest.approx(ys.mean(axis=0))
    assert check.covariance[k] == pytest.approx(np.cov(ys.T, bias=True))
    # Of documents as clusters: the error of the mean of pairs.
    which = docs[seen]
    sums = np.array([(ys[which == d] - ys.mean(axis=0)).sum(axis=0) for d in np.unique(docs)])
    error = np.sqrt((sums**2).sum(axis=0) * 120 / 119) / len(ys)
    assert check.mean_half[k] == pytest.approx(1.980 * error, rel=1e-3)


@pytest.mark.parametrize("what", ["sign", "noise", "step"])
def test_another_law_is_told_by_its_moments(what):
    paths, docs = ensemble(), np.arange(240)
    if what == "sign":
        other = simulate(paths, turning(-1.0))
    elif what == "noise":
        sde = SDE(turning().base, diffusions.Constant(jnp.asarray(1.5 * G, jnp.float32)))
        other = simulate(paths, sde)
    else:  # the fit's SDE at a finer step than that of the fit
        strong = SDE(
            drifts.Linear(-2.0 * jnp.eye(2), jnp.zeros(2)), diffusions.Constant(jnp.eye(2))
        )
        paths = ensemble(sde=strong)
        y0s, ts = moment_starts(paths)
        other = rollout(strong, y0s, ts, key=jr.key(9), substeps=16)
    gap, spread = moment_check(other, paths, docs).findings
    assert gap.value and gap.null
    assert gap.verdict is Verdict.ABOVE and gap.value > 1.3 * gap.null
    if what == "noise":
        assert spread.verdict is Verdict.ABOVE and "covariance" in gap.note
    if what == "step":
        assert spread.verdict is Verdict.BELOW


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_test_is_wrong_about_one_time_in_twenty(repeats):
    """Data and simulations of one law, 20 documents with three paths each, 100 times."""
    rng, wrong = np.random.default_rng(0), 0
    docs = np.arange(60) % 20

    def made(sets):
        of_doc = rng.standard_normal((sets, 20, 1, 2))[:, docs]
        ys = (of_doc + rng.standard_normal((sets, 60, 5, 2))).reshape(-1, 5, 2).astype("f4")
        mask = np.ones((60 * sets, 5), bool)
        return jax.vmap(Trajectory)(np.tile(np.arange(5.0, dtype="f4"), (60 * sets, 1)), ys, mask)

    for _ in range(100):
        gap = moment_check(made(repeats), made(1), docs, burn=0).findings[0]
        wrong += gap.verdict is Verdict.ABOVE
    assert wrong <= 13  # .05, and four standard errors of it


def test_padding_may_be_anything_and_simulations_that_explode_are_withheld():
    lengths = np.random.default_rng(3).integers(6, 13, 240)
    docs, sets = np.arange(240), []
    for fill in (np.nan, np.inf, 0.0):
        paths = ensemble(lengths=lengths, fill=fill)
        sets.append(moment_check(simulate(paths), paths, docs).findings)
    assert sets[0] == sets[1] == sets[2]
    wild = SDE(drifts.Function(lambda t, y: y**5), diffusions.Scalar(3.0, 2))
    paths = ensemble()
    check = moment_check(simulate(paths, wild), paths, docs)
    assert check.findings[0].verdict is Verdict.WITHHELD and "not finite" in check.findings[0].note
    assert np.isnan(check.simulated_mean).all() and np.isfinite(check.mean).all()


def test_what_does_not_fit_is_refused(unchecked):
    paths, docs = ensemble(), np.arange(240)
    good = simulate(paths)
    uneven = jax.vmap(Trajectory)(paths.ts.at[0].mul(2.0), paths.ys, paths.mask)
    for call in (
        lambda: moment_check(jax.tree.map(lambda x: x[:100], good), paths, docs),
        lambda: moment_check(good, paths, np.zeros(240)),
        lambda: moment_check(good, paths, docs, closure=moment_chain(turning(), [0, 0], G, [0, 1])),
        lambda: moment_starts(uneven),
        lambda: moment_starts(paths, burn=11),
        lambda: moment_equations(turning(), [0.0], G, [0, 1]),
        lambda: moment_equations(turning(), [0, 0], G, [0, 0]),
        lambda: moment_chain(turning(), [0, 0], G, [0, 1], substeps=0),
    ):
        with pytest.raises(BadArgument, match=r"`|gaps"):
            call()
