"""Scores of predictors against closed forms, numpy loops and brute force."""

import json
from typing import Any, ClassVar, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from dynlm import SDE, Trajectory, baselines, diffusions, drifts, losses, problems, stack
from dynlm._run import Law, Run
from dynlm.laws import Mixture
from dynlm.losses._schemes import AbstractScheme, EulerMaruyama
from dynlm.predict import AbstractPredictor, FromSDE, SolverSteps, score
from dynlm.predict._forecast import crps, energy, origins_of
from dynlm.predict._steps import by_rows

TRACES = []
F = np.array([[0.8, 0.2], [-0.1, 0.5]], np.float32)
B = np.array([0.1, -0.2], np.float32)
L = np.array([[0.6, 0.0], [0.2, 0.4]], np.float32)


@final
class Linear(AbstractPredictor):
    """The Gaussian around F y + b, counting its traces."""

    f: Any
    b: Any
    l: Any

    def start(self):
        return jnp.zeros(self.b.shape)

    def see(self, carry, t, y):
        return y

    def law(self, carry, t):
        TRACES.append(self)
        mean = self.f @ carry + self.b
        return Mixture(jnp.zeros(1), mean[None], self.l[None])


@final
class Twice(AbstractPredictor):
    """A step like the one before: its carry holds two states, and what number the next one is."""

    noise: float

    def start(self):
        return jnp.zeros(1), jnp.zeros(1), jnp.array(0)

    def see(self, carry, t, y):
        return carry[1], y, carry[2] + 1

    def law(self, carry, t):
        before, last, number = carry
        mean = jnp.where(number > 1, 2 * last - before, last)
        return Mixture(jnp.zeros(1), mean[None], self.noise * jnp.eye(1)[None])


def linear(f=F, b=B, l=L):
    return Linear(jnp.asarray(f), jnp.asarray(b), jnp.asarray(l))


def simulated(lengths, seed=0, f=F, b=B, l=L, gap=1.0):
    """Paths of the linear model, and the same as lists of numpy arrays."""
    rng, paths = np.random.default_rng(seed), []
    for length in lengths:
        y, ys = rng.standard_normal(len(b)), []
        for _ in range(length):
            ys.append(y)
            y = f @ y + b + l @ rng.standard_normal(len(b))
        paths.append(np.array(ys, np.float32))
    ts = gap * np.arange(max(lengths))
    made = [Trajectory.from_arrays(p, ts[: len(p)]) for p in paths]
    return stack(made, length=max(max(lengths), 12)), paths


LENGTHS = [12, 7, 3, 12, 2, 9, 12, 11, 1, 12]
DOCS = np.array(list("aabbccddef"))
SMALL = dict(key=jr.key(0), horizons=(1, 4), draws=8, origins=3)


def test_one_step_numbers_are_those_of_a_numpy_loop():
    paths, arrays = simulated(LENGTHS)
    found = score({"m": linear()}, paths, DOCS, **SMALL).models["m"]
    nll, errors, nexts, inside = [], [], [], []
    for ys in arrays:
        for y, y1 in zip(ys[1:-1], ys[2:], strict=True):
            mean = F @ y + B
            nll.append(-stats.multivariate_normal(mean, L @ L.T).logpdf(y1))
            errors.append(np.sum((y1 - mean) ** 2))
            nexts.append(y1)
            at = stats.norm.cdf((y1 - mean) / np.sqrt(np.diag(L @ L.T)))
            inside.append((at > 0.25) & (at < 0.75))
    spread = np.sum((nexts - np.mean(nexts, axis=0)) ** 2)
    np.testing.assert_allclose(found.nll.value, np.mean(nll) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.mse.value, np.mean(errors) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.r2.value, 1 - np.sum(errors) / spread, rtol=1e-4)
    np.testing.assert_allclose(found.pit.inside50.value, np.mean(inside), rtol=1e-6)
    assert found.nll.documents == 5  # of "e" there is one state, and none of its steps counts
    np.testing.assert_allclose(sum(found.pit.histogram), 1)


def test_padding_and_the_company_of_other_rows_change_nothing():
    paths, _ = simulated(LENGTHS)
    extra = [(0, 0), (0, 5)]
    longer = jax.tree.map(lambda x: jnp.pad(x, extra + [(0, 0)] * (x.ndim - 2)), paths)
    longer = eqx.tree_at(lambda p: p.ts, longer, jnp.pad(paths.ts, extra, mode="edge"))
    models = {"m": linear()}
    a, b = (score(models, p, DOCS, **SMALL).to_json() | {"unit": None} for p in (paths, longer))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def test_rows_are_worked_on_in_batches_of_any_size():
    x = jnp.arange(11.0)
    for size in (1, 4, 11, 50):
        np.testing.assert_allclose(by_rows(lambda v, none: v**2, (x, None), size), x**2)


def crps_of_normal(mean, sd, y):
    z = (y - mean) / sd
    return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)


def test_crps_and_energy_are_their_double_sums():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 3)) + 50, rng.standard_normal(3) + 50
    apart = x[:, None] - x[None]
    each = np.abs(x - y).mean(axis=0) - np.abs(apart).sum(axis=(0, 1)) / (2 * 7 * 6)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    np.testing.assert_allclose(crps(x, y), each.mean(), rtol=1e-4)
    pairs = np.linalg.norm(apart, axis=2).sum() / (2 * 7 * 6)
    near = np.linalg.norm(np.asarray(x) - np.asarray(y), axis=1).mean()
    np.testing.assert_allclose(energy(x, y), near - pairs, rtol=1e-4)


def test_the_scores_of_few_draws_are_unbiased():
    """Of three draws, on average over many, the closed form of a normal law."""
    x = jr.normal(jr.key(0), (60_000, 3, 1))
    y = jnp.array([0.7])
    for of in (crps, energy):  # in one dimension the two are one
        values = jax.vmap(of, in_axes=(0, None))(x, y)
        error = float(jnp.std(values)) / len(x) ** 0.5
        assert abs(float(values.mean()) - crps_of_normal(0, 1, 0.7)) < 4 * error


def test_forecasts_have_the_law_of_several_steps():
    f, b, l = np.array([[0.8]]), np.array([0.3]), np.array([[0.5]])
    paths, arrays = simulated([12] * 60, f=f, b=b, l=l)
    model = linear(*(x.astype(np.float32) for x in (f, b, l)))
    found = score(
        {"m": model}, paths, np.arange(60), key=jr.key(1), horizons=(1, 4), draws=48, origins=2
    ).models["m"]
    for h, origins in ((1, (1, 10)), (4, (1,))):  # from 10 a path of twelve has no four to go
        sd = 0.5 * np.sqrt(np.sum(0.8 ** (2 * np.arange(h))))
        exact = []
        for ys in arrays:
            for k in origins:
                mean = 0.8**h * ys[k, 0] + 0.3 * np.sum(0.8 ** np.arange(h))
                exact.append(crps_of_normal(mean, sd, ys[k + h, 0]))
        np.testing.assert_allclose(found.crps[h].value, np.mean(exact), rtol=0.06)
        np.testing.assert_allclose(found.energy[h].value, found.crps[h].value, rtol=1e-3)


def test_what_a_predictor_carries_is_carried_into_its_forecasts():
    """Straight lines, which only a model with a memory of two states goes on with."""
    slopes = np.linspace(-2, 2, 8)
    paths = stack([Trajectory.from_arrays(s * np.arange(12, dtype=np.float32)) for s in slopes])
    found = score({"m": Twice(1e-3)}, paths, np.arange(8), **SMALL).models["m"]
    assert found.crps[1].value < 1e-2 and found.crps[4].value < 3e-2
    assert found.r2.value > 0.9999


def test_origins_are_evenly_spread_and_never_the_same_twice():
    path = Trajectory.from_arrays(np.zeros((12, 1)))

    def of(path, origins):
        at, real = origins_of(path, origins, 1)
        return [int(k) for k, r in zip(at, real, strict=True) if r]

    assert of(path, 4) == [1, 4, 7, 10] and of(path, 1) == [1]
    assert of(path[:4], 4) == [1, 2] and of(path[:3], 4) == [1]
    assert of(path[:2], 4) == [] and of(path[:1], 4) == []


def test_times_that_do_not_move_are_not_scored():
    paths, _ = simulated([12, 12, 12, 12])
    still = paths.ts.at[:, 6:].add(-1.0)  # states 5 and 6 have one time
    moved = eqx.tree_at(lambda p: p.ts, paths, still)
    brownian = SDE(drifts.Linear(-jnp.eye(2), jnp.zeros(2)), diffusions.Scalar(0.7, 2))
    models = {"m": FromSDE(brownian, EulerMaruyama())}
    found = score(models, moved, np.arange(4), **SMALL)
    assert found.transitions == 4 * 9
    assert np.isfinite(found.models["m"].nll.value)


def test_calibration_of_a_law_that_is_twice_too_wide():
    paths, _ = simulated([12] * 60)
    models = {"right": linear(), "wide": linear(l=2 * L)}
    found = score(models, paths, np.arange(60), **SMALL | dict(horizons=())).models
    share = 2 * stats.norm.cdf(2 * stats.norm.ppf(0.75)) - 1
    assert abs(found["wide"].pit.inside50.value - share) < 0.03
    low, high = found["right"].pit.inside90.low, found["right"].pit.inside90.high
    assert low < 0.9 < high and found["right"].pit.distance.low == 0
    x = np.linspace(0.001, 0.999, 999)
    gap = np.max(np.abs(stats.norm.cdf(2 * stats.norm.ppf(x)) - x))
    wide = found["wide"].pit.distance
    assert 0 < wide.low < gap < wide.high


def test_gains_are_paired_and_the_true_model_gains():
    paths, _ = simulated([12] * 60)
    models = {"var1": linear(0.9 * F), "true": linear(), "same": linear(0.9 * F)}
    found = score(models, paths, np.arange(60), **SMALL | dict(horizons=()))
    true, same = found.models["true"], found.models["same"]
    nll = found.models["var1"].nll
    np.testing.assert_allclose(true.gain.value, nll.value - true.nll.value, atol=1e-6)
    assert true.gain.high - true.gain.low < 0.5 * (nll.high - nll.low) and true.gain.low > 0
    assert same.gain.value == same.gain.low == same.gain.high == 0
    assert found.reference == "var1"


def test_a_model_that_breaks_fails_alone_and_says_why():
    paths, _ = simulated(LENGTHS)

    class Nothing:
        reason = "an eigenvalue is negative"

        def __bool__(self):
            return False

    good = {"good": linear()}
    models = good | {
        "explodes": linear(f=1e12 * F),  # one step is finite, and four are not
        "nan": linear(b=np.full(2, np.nan, np.float32)),
        "ou": Nothing(),
    }
    found, alone = score(models, paths, DOCS, **SMALL), score(good, paths, DOCS, **SMALL)
    assert found.models["good"] == alone.models["good"]
    explodes = found.models["explodes"]
    assert "not finite" in explodes.crps[4].reason and np.isfinite(explodes.r2.value)
    assert "log density is not finite in 62 cases" in found.models["nan"].nll.reason
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["models"]["nan"]["nll"]["value"] is None
    assert plain["models"]["ou"]["crps"]["4"]["reason"] == "an eigenvalue is negative"
    assert "ou: none (an eigenvalue is negative)." in found.table()


def test_raw_scores_count_what_the_projection_leaves_out():
    paths, arrays = simulated(LENGTHS)
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0].astype(np.float32)
    lift = Lift(jnp.asarray(basis[:, :2]))
    outside = rng.standard_normal((*paths.mask.shape, 3)).astype(np.float32)
    raw = jnp.asarray(paths.ys @ basis[:, :2].T + outside @ basis[:, 2:].T)
    models = {"m": linear()}
    inside = score(models, paths, DOCS, lift=lift, **SMALL).models["m"]
    full = score(models, paths, DOCS, lift=lift, raw=raw, **SMALL).models["m"]
    np.testing.assert_allclose(inside.raw_r2, inside.r2, rtol=1e-4)
    np.testing.assert_allclose(inside.raw_mse.value, inside.mse.value * 2 / 5, rtol=1e-4)
    np.testing.assert_allclose(inside.raw_energy[4].value, inside.energy[4].value, rtol=1e-4)
    left = [np.sum(outside[i, 2 : len(ys)] ** 2) for i, ys in enumerate(arrays)]
    expected = (inside.mse.value * 2 + np.sum(left) / 62) / 5
    np.testing.assert_allclose(full.raw_mse.value, expected, rtol=1e-4)
    assert full.raw_r2.value < inside.raw_r2.value
    assert full.raw_energy[1].value > inside.raw_energy[1].value


@final
class Lift(eqx.Module):
    basis: Any

    def __call__(self, z):
        return self.basis @ z


def test_one_program_serves_all_models_of_one_structure():
    paths, _ = simulated(LENGTHS)
    score({"m": linear()}, paths, DOCS, **SMALL)
    TRACES.clear()
    again = simulated(LENGTHS, seed=5)[0]
    score({"a": linear(0.5 * F), "b": linear(l=2 * L)}, again, DOCS[::-1], **SMALL)
    assert not TRACES


def test_the_table_is_aligned_and_names_every_model():
    paths, _ = simulated(LENGTHS)
    table = score({"var1": linear(), "a longer name": linear()}, paths, DOCS, **SMALL).table()
    blocks = [block.splitlines() for block in table.split("\n\n")]
    assert blocks[0] == ["5 documents, 62 transitions; intervals of 95% by document"]
    for block in blocks[1:]:
        heads, rule, *rows = block
        assert len(rows) == 2 and rows[1].startswith("a longer name")
        for head in heads.split("  ")[1:]:
            if head.strip():
                at = heads.index(head.strip())
                assert all(row[at - 2 : at] == "  " and row[at] != " " for row in rows)


@final
class Blind(AbstractScheme):
    """Euler-Maruyama without its moments."""

    name: ClassVar[str] = "blind"

    def logpdf(self, sde, t, y, dt, y1):
        return EulerMaruyama().logpdf(sde, t, y, dt, y1)

    def sample(self, sde, t, y, dt, *, key):
        return EulerMaruyama().sample(sde, t, y, dt, key=key)


def test_an_euler_step_is_scored_as_the_linear_model_that_it_is():
    """With the gaps that the paths have, which are not one."""
    a, g, dt = np.array([[-1.0, 0.4], [0.0, -0.5]]), np.array([[0.6, 0.0], [0.2, 0.4]]), 0.25
    shift = np.array([0.2, 0.0])
    drift = drifts.Linear(jnp.asarray(a), jnp.asarray(shift))
    sde = SDE(drift, diffusions.Constant(jnp.asarray(g)))
    f, b, l = np.eye(2) + a * dt, shift * dt, g * dt**0.5
    paths, _ = simulated([12] * 40, f=f, b=b, l=l, gap=dt)
    same = linear(*(x.astype(np.float32) for x in (f, b, l)))
    models = {"sde": FromSDE(sde, EulerMaruyama()), "linear": same, "drawn": FromSDE(sde, Blind())}
    found = score(models, paths, np.arange(40), **SMALL | dict(draws=32)).models
    for name in ("nll", "r2"):
        value = getattr(found["linear"], name).value
        np.testing.assert_allclose(getattr(found["sde"], name).value, value, rtol=1e-4)
        np.testing.assert_allclose(getattr(found["drawn"], name).value, value, rtol=2e-2)
    for h in (1, 4):
        assert abs(found["sde"].crps[h].value / found["linear"].crps[h].value - 1) < 0.08
    np.testing.assert_allclose(found["sde"].pit.histogram, found["linear"].pit.histogram, atol=2e-3)
    for inside in ("inside50", "inside90"):
        values = [getattr(found[name].pit, inside).value for name in ("drawn", "linear")]
        assert abs(values[0] - values[1]) < 0.03


def stepped(theta, h, sigma=0.5):
    """Of two steps of Euler's, of Heun's and of Foster's method for -theta y and sigma dW."""
    x = theta * h
    shrink = {"Euler": 1 - x, "Heun": 1 - x + x**2 / 2, "ShARK": 1 - x + x**2 / 2}
    spread = {"Euler": 1, "Heun": (1 - x / 2) ** 2}
    spread["ShARK"] = spread["Heun"] + (x - x**2 / 2) ** 2 / 12
    return {
        name: (f**2, sigma * (h * spread[name] * (1 + f**2)) ** 0.5) for name, f in shrink.items()
    }


@pytest.mark.parametrize("name", ["Euler", "Heun", "ShARK"])
def test_steps_of_a_solver_have_the_law_of_the_chain_that_they_are(name):
    """For an Ornstein-Uhlenbeck process it is a Gaussian that can be written down."""
    factor, sd = stepped(1.2, 0.5)[name]
    sde = problems.ou(theta=1.2, sigma=0.5).sde
    steps = SolverSteps(getattr(dfx, name)(), 2)
    draws = jax.jit(jax.vmap(lambda key: steps.sample(sde, 0.0, jnp.ones(1), 1.0, key=key)))
    ys = np.asarray(draws(jr.split(jr.key(0), 40_000)))[:, 0]
    assert abs(ys.mean() - factor) < 4 * sd / 200
    assert abs(ys.std() - sd) < 4 * sd / 200 / 2**0.5
    assert stats.kstest((ys - factor) / sd, "norm").pvalue > 1e-3


def test_a_fit_through_several_steps_is_scored_by_its_draws_and_has_no_log_likelihood():
    sde, gap = problems.ou(theta=1.2, sigma=0.5).sde, 1.0
    run = Run(sde, sde, [], Law("euler", gap, 2), {}, "steps")
    factor, sd = stepped(1.2, 0.5)["Euler"]
    f, b, l = np.array([[factor]]), np.zeros(1), np.array([[sd]])
    paths, _ = simulated([12] * 60, f=f, b=b, l=l, gap=gap)
    exact = linear(*(x.astype(np.float32) for x in (f, b, l)))
    models = {"var1": exact, "fit": run.predictor()}
    table = score(models, paths, np.arange(60), **SMALL | dict(horizons=(4,), draws=32))
    exact, fit = table.models["var1"], table.models["fit"]
    assert abs(fit.r2.value - exact.r2.value) < 0.01
    np.testing.assert_allclose(fit.mse.value, exact.mse.value * (1 + 1 / 199), rtol=0.01)
    np.testing.assert_allclose(fit.crps[4].value, exact.crps[4].value, rtol=0.08)
    np.testing.assert_allclose(fit.energy[4].value, exact.energy[4].value, rtol=0.08)
    for inside in ("inside50", "inside90"):
        values = [getattr(scores.pit, inside).value for scores in (fit, exact)]
        assert abs(values[0] - values[1]) < 0.03
    assert fit.pit.distance.low == 0
    assert "2 steps of Euler has no density" in fit.nll.reason
    assert "no density" in fit.gain.reason and np.isfinite(exact.nll.value)
    assert "fit: none (the law of 2 steps of Euler has no density in closed form)." in table.table()
    assert "fit: R2, mse and calibration are of 199 draws of a step." in table.table()


def test_the_energy_score_of_a_state_is_that_of_a_path_of_one_step_in_units_of_the_state():
    draws, y = jr.normal(jr.key(0), (7, 3)), jnp.array([0.3, -1.0, 2.0])
    ts, mask = jnp.array([0.0, 1.0]), jnp.ones(2, bool)
    start = jnp.zeros(3)
    many = [Trajectory(ts, jnp.stack([start, x]), mask) for x in draws]
    path = Trajectory(ts, jnp.stack([start, y]), mask)
    loss = losses.energy_score(stack(many), path)
    np.testing.assert_allclose(energy(draws, y), 3**0.5 * loss, rtol=1e-5)


def test_what_stands_in_the_padding_is_never_read():
    paths, _ = simulated(LENGTHS)
    poisoned = eqx.tree_at(
        lambda p: p.ys, paths, jnp.where(paths.mask[:, :, None], paths.ys, jnp.nan)
    )
    fixed = dict(key=jr.key(1), iterations=3, restarts=1)
    models = {
        "linear": linear(),
        "switching": baselines.switching(paths, 2, **fixed),  # carries what it saw
    }
    lift = Lift(jnp.eye(2))
    clean, same = (
        score(models, p, DOCS, lift=lift, raw=p.ys, **SMALL | dict(horizons=(1,))).to_json()
        for p in (paths, poisoned)
    )
    assert clean == same


def test_laws_by_draws_answer_alike_and_err_apart():
    problem = problems.ou(1.0, 0.0, 0.5)
    model = FromSDE(problem.sde, Blind())
    ys = jnp.linspace(-2, 2, 200)[:, None]
    law_of = jax.vmap(lambda y: model.law(model.see(model.start(), 0.0, y), 0.5).mean())
    means = law_of(ys)
    np.testing.assert_array_equal(means, law_of(ys))
    errors = np.asarray(means - 0.5 * ys)[:, 0] / (0.5 * 0.5**0.5 / 199**0.5)
    assert stats.kstest(errors, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(errors[1:], errors[:-1])[0, 1]) < 0.25


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(models={}), "`models` is empty"),
        (dict(models={"x": 3}), r"`models\['x'\]` is a int"),
        (dict(docs=DOCS[1:]), r"`docs` has shape \(9,\)"),
        (dict(horizons=(0, 1)), r"`horizons` is \(0, 1\)"),
        (dict(draws=1), "`draws` is 1"),
        (dict(reference="var2"), "`reference` is 'var2'"),
        (dict(raw=np.zeros((10, 12, 5))), "`raw` is given and `lift` is not"),
    ],
)
def test_bad_arguments_are_refused(unchecked, change, sentence):
    paths, _ = simulated(LENGTHS)
    with pytest.raises(ValueError, match=sentence):
        score(**dict(models={"m": linear()}, paths=paths, docs=DOCS) | SMALL | change)
