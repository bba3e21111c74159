"""`judge`: what may be said of a run, from runs whose answer is known."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import dynlm
from dynlm import SDE, baselines, diffusions, drifts
from dynlm._judge import Rows, Verdict, _check_step, beyond_linear, judge, shuffled_rows
from dynlm._run import Law, Run
from dynlm.predict import FromSDE
from dynlm.predict._power import Planted, Power
from dynlm.stats import Interval


def linear_run(rate, noise, law):
    """A run whose model is an Ornstein-Uhlenbeck process."""
    drift = drifts.Linear(jnp.full((1, 1), -rate), jnp.zeros(1))
    sde = SDE(drift, diffusions.Constant(jnp.full((1, 1), noise)))
    return Run(sde, sde, [], law, {}, "steps")


def few_baselines(paths, key):
    return {"var1": baselines.var1(paths), "iid": baselines.iid(paths)}


def chains(matrix, noise, rows, key, step=1.0, start=0.0):
    """Rows of y' = matrix y + noise xi."""
    xi = np.asarray(jr.normal(key, (rows, 40, 1)))
    y = np.zeros((rows, 40, 1), np.float32)
    for k in range(39):
        y[:, k + 1] = matrix * y[:, k] + noise * xi[:, k]
    ts = start + np.arange(40) * step
    paths = dynlm.stack([dynlm.Trajectory.from_arrays(one, ts) for one in y])
    return Rows(paths, np.arange(rows))


QUICK = dict(make=few_baselines, draws=4, resamples=200, horizons=(1,))


def test_states_without_order_fitted_by_euler_are_no_process_in_continuous_time(getkey):
    """Drift -y and noise 1 at step 1 is the i.i.d. law; solved finely it is another process."""
    rows = chains(0.0, 1.0, 60, getkey())
    run = linear_run(1.0, 1.0, Law("euler", 1.0, 1))
    found = judge(run, rows, rows, key=getkey(), **QUICK)
    assert not found.refinement.ok and not found.continuous
    assert found.refinement.correlation[-1] == pytest.approx(np.exp(-1), abs=0.1)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_process_in_continuous_time_may_be_called_one(getkey):
    step, rate = 0.25, 0.4
    f = float(np.exp(-rate * step))
    rows = chains(f, float(np.sqrt((1 - f**2) / (2 * rate))), 120, getkey(), step)
    run = linear_run(rate, 1.0, Law("local_linear", step, 1))
    found = judge(run, rows, rows, key=getkey(), **QUICK)
    assert found.embedding.ok and found.refinement.ok and found.continuous
    assert "it was not measured" in beyond_linear(found)  # a linear model gains nothing
    assert "intervals of 95% by document" in found.text() and "too narrow" not in found.text()
    with pytest.raises(ValueError, match="`test` has the step 0.25"):
        judge(run._replace(law=Law("local_linear", 0.5, 1)), rows, rows, key=getkey(), **QUICK)


def test_rounding_of_late_times_is_no_other_step(getkey):
    rows = chains(0.9, 1.0, 60, getkey(), step=0.1, start=5990.0)  # gaps of 0.0996 and 0.1001
    assert np.abs(np.diff(rows.paths.ts) - 0.1).max() > 3e-4
    _check_step(Law("euler", 0.1, 1), rows.paths)
    for step in (0.0998, 0.1002):  # of the mean gap more is known
        with pytest.raises(ValueError, match="was fitted on"):
            _check_step(Law("euler", step, 1), rows.paths)
    assert baselines.embedding(rows.paths).ok and baselines.ou(rows.paths)
    ts = np.asarray(rows.paths.ts).copy()
    ts[:, 7] += 0.002
    uneven = eqx.tree_at(lambda p: p.ts, rows.paths, jnp.asarray(ts))
    assert "gaps are uneven" in baselines.embedding(uneven).reason
    with pytest.raises(ValueError, match="was fitted on"):
        _check_step(Law("euler", 0.1, 1), uneven)
    later = chains(0.9, 1.0, 3, getkey(), step=0.1, start=1e6).paths
    assert "cannot be told of times up to 1e+06 in float32" in baselines.embedding(later).reason
    assert baselines.embedding(chains(0.9, 1.0, 60, getkey(), start=1e7).paths).ok  # whole numbers


def test_first_states_that_are_left_out_reach_nothing_that_is_said(getkey):
    rows = chains(0.9, 1.0, 60, getkey())
    wild = eqx.tree_at(lambda p: p.ys, rows.paths, rows.paths.ys.at[:, :3].set(1e4))
    run, wild = linear_run(0.1, 1.0, Law("euler", 1.0, 1)), rows._replace(paths=wild)
    options = dict(null=run, **QUICK | dict(make=lambda p, k: {"var1": baselines.var1(p, burn=3)}))
    found = judge(run, wild, wild, key=getkey(), burn=3, **options)
    drift = found.to_json()["embedding"]["drift_matrix"]
    assert drift[0][0] == pytest.approx(np.log(0.9), abs=0.03)
    assert found.scores.burn == 3 and abs(found.scores.models["fit"].gain.value) < 0.1
    # Shuffled states of variance v and covariance c within a row. Were a wild one among them: -1e6.
    y = np.asarray(rows.paths.ys, float)[:, 3:, 0]
    v, c = np.mean(y**2), np.mean((y.sum(1) ** 2 - (y**2).sum(1)) / (37 * 36))
    gain = 0.5 * np.log(v - c**2 / v) + 0.5 - 0.5 * ((1 + 0.9**2) * v - 2 * 0.9 * c)
    assert found.null_gain.value == pytest.approx(gain, rel=0.15)


def test_alternating_states_belong_to_no_process_in_continuous_time(getkey):
    rows = chains(-0.8, 1.0, 60, getkey())
    run, unit = linear_run(1.8, 1.0, Law("euler", 1.0, 1)), "blocks of one series"
    found = judge(run, rows, rows, key=getkey(), unit=unit, **QUICK)
    assert not found.embedding.ok and not found.continuous
    assert "linear one-step model" in found.reason
    for said in ("60 blocks of one series", "of 95% by block", "many blocks of one series could"):
        assert said in found.text()
    assert "they are too narrow" in found.text() and found.to_json()["scores"]["unit"] == unit


def test_a_run_whose_loss_names_no_scheme_claims_nothing(getkey):
    rows = chains(0.5, 1.0, 20, getkey())
    run = linear_run(0.5, 1.0, Law(None, 1.0, 1))
    found = judge(run, rows, rows, key=getkey(), **QUICK)
    assert found.refinement is None and not found.continuous
    assert "none" in found.scores.table()
    with pytest.raises(ValueError, match="names no scheme"):
        run.simulate(jnp.zeros((2, 1)), [0.0, 1.0], key=getkey())


def gaining(gain, null=None, power=None):
    """A verdict in which the fit gains so much."""

    class Scores:
        models = {"fit": type("One", (), {"gain": Interval(*gain, 0.95, 30)})()}
        reference, documents, unit = "var1", 30, "documents"

    null = None if null is None else Interval(*null, 0.95, 30)
    return Verdict(Scores(), None, None, False, "", power, null)


def test_a_gain_is_called_dynamics_only_beside_a_null_that_gains_less():
    assert "not said that this is dynamics" in beyond_linear(gaining((0.2, 0.1, 0.3)))
    same = beyond_linear(gaining((0.2, 0.1, 0.3), (0.19, 0.1, 0.3)))
    assert "no order is seen" in same and "Beyond" not in same
    assert beyond_linear(gaining((0.2, 0.1, 0.3), (0.0, -0.1, 0.05))).startswith("Beyond linear")


def test_none_is_never_said_without_the_power():
    gain = (0.0, -0.1, 0.1)
    assert "No dynamics" not in beyond_linear(gaining(gain))
    rows = (Planted(0.0, 0, 0, 0, 0.05, 0, 1, 0), Planted(0.2, 0, 0, 0, 0.9, 0, 1, 0))
    said = beyond_linear(gaining(gain, power=Power(rows, 0.2, 0.8, 20, 30, 0.95)))
    assert "No dynamics beyond linear were seen in 30 documents" in said
    assert "strength 0.2 and more were seen in 80% of 20 trials with 30 documents" in said


def test_a_shuffled_row_keeps_its_first_state_and_its_states(getkey):
    rows = chains(0.9, 1.0, 5, getkey())
    found = shuffled_rows(rows, seed=3).paths
    assert np.array_equal(found.ys[:, 0], rows.paths.ys[:, 0])
    assert np.array_equal(np.sort(found.ys, axis=1), np.sort(rows.paths.ys, axis=1))
    assert not np.array_equal(found.ys, rows.paths.ys)


def test_a_stratonovich_model_is_simulated_by_the_law_that_was_fitted(getkey):
    """Euler's likelihood is of the Ito form: at a large step Heun's law is far from it."""
    noise = diffusions.Diagonal(lambda t, y: 1 + 0.5 * jnp.tanh(y), 1, depends="component")
    sde = SDE(drifts.Linear(-jnp.ones((1, 1)), jnp.zeros(1)), noise, "stratonovich")
    run = Run(sde, sde, [], Law("euler", 1.0, 1), {}, "steps")
    y0s = jnp.full((20000, 1), 0.5)
    ends = run.simulate(y0s, [0.0, 1.0], key=getkey()).ys[:, 1, 0]
    law = run.predictor()
    carry = law.see(law.start(), 0.0, y0s[0])
    mean, variance = law.scheme.moments(sde, 0.0, y0s[0], 1.0)
    assert isinstance(law, FromSDE) and carry is not None
    spread = float(variance[0, 0])
    assert abs(float(ends.mean() - mean[0])) < 4 * np.sqrt(spread / 20000)
    assert abs(float(ends.var()) - spread) < 4 * spread * np.sqrt(2 / 20000)


def test_what_a_loss_fits_is_read_off_whatever_it_is_made_of():
    from dynlm import losses
    from dynlm._fit import fitted_by

    through = losses.simulated(losses.crps, simulate=dynlm.rollout, draws=2, substeps=8)
    assert fitted_by(through) == ("euler", 8)
    assert fitted_by(through, "stratonovich") == ("Heun", 8)
    assert fitted_by(losses.zhang) == ("euler", 1)
    euler = losses.each(losses.transition_nll)
    varied = losses.each(losses.quadratic_variation)
    assert fitted_by(losses.weighted((1.0, euler), (0.1, varied))) == ("euler", 1)
    assert fitted_by(losses.weighted((1.0, euler), (0.1, through))) == (None, 1)
    assert fitted_by(losses.each(losses.nll_by(losses.LocalSkew()))) == ("local_skew", 1)


def test_a_mean_over_transitions_leaves_out_those_that_take_no_time(getkey):
    from dynlm import losses

    sde = linear_run(1.0, 1.0, Law("euler", 1.0, 1)).model
    ys = np.asarray(jr.normal(getkey(), (2, 5, 1)))
    ts = [[0, 1, 1, 1, 2], [0, 1, 2, 3, 4]]
    paths = dynlm.stack([dynlm.Trajectory.from_arrays(y, np.asarray(t)) for y, t in zip(ys, ts)])
    terms = []
    for y, t in zip(ys, ts):
        for k in range(4):
            if t[k + 1] > t[k]:
                terms.append(0.5 * (y[k + 1, 0] - y[k, 0] + y[k, 0]) ** 2 + 0.5 * np.log(2 * np.pi))
    loss = losses.each(losses.transition_nll)
    assert len(terms) == 6 == loss.weight(paths)
    np.testing.assert_allclose(loss(sde, paths, getkey()), np.mean(terms), rtol=1e-5)


def test_low_rank_forms_are_exact_where_the_factor_is_large(getkey):
    u = np.asarray(jr.normal(getkey(), (64, 4)), np.float32)
    noise = diffusions.LowRank(jnp.full(64, 0.001), jnp.asarray(u))
    sigma = 1e-6 * np.eye(64) + u.astype(np.float64) @ u.T.astype(np.float64)
    r = np.linalg.cholesky(sigma) @ np.asarray(jr.normal(getkey(), (64,)), np.float64)
    form = jax.jit(lambda r: noise.quadratic(0.0, jnp.zeros(64), r)[0])
    found = form(jnp.asarray(r, jnp.float32))
    r = np.asarray(r, np.float32).astype(np.float64)
    assert float(found) == pytest.approx(r @ np.linalg.solve(sigma, r), rel=0.01)
