"""`fit` and `load_run`: what they put together, what they record, what they refuse."""

import dataclasses
import functools
import json

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import dynlm
from dynlm import losses
from dynlm._data import flat, windows_of
from dynlm._fit import Adam
from dynlm._fit_facts import described
from dynlm.specs import NeuralSDE, from_json, to_json
from dynlm.store import Windows, fit_projection, from_arrays
from dynlm.store._projection import write_projection

QUICK = dict(steps=20, every=10, batch=8, window=9, quiet=True)
SPEC = NeuralSDE(2, width=8, depth=1)


@pytest.fixture(scope="module")
def walks():
    """Forty paths of 33 states of an Ornstein-Uhlenbeck process, step .25."""
    problem = dynlm.problems.ou(theta=[[1.0, 0.5], [-0.5, 1.0]], sigma=0.5, y0=[0.0, 0.0])
    y0s = 0.4 * jr.normal(jr.key(0), (40, 2))
    ts = np.arange(33) * 0.25
    return dynlm.rollout(problem.sde, y0s, ts, key=jr.key(1), substeps=16)


def alike(a, b):
    a, b = (jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in (a, b))
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


def test_a_fit_recovers_the_rates_of_a_linear_process(walks, getkey):
    spec = NeuralSDE(2, drift="linear", on="nothing", diffusion="full", scale=0.5)
    options = QUICK | dict(steps=600, every=300, batch=40, optimiser=Adam(rate=0.03))
    run = dynlm.fit(spec, walks, key=getkey(), loss=losses.local_linear_nll, **options)
    # The least squares of the exact one-step matrix, which the likelihood's maximum is.
    y, y_next = walks.ys[:, :-1].reshape(-1, 2), walks.ys[:, 1:].reshape(-1, 2)
    x = np.column_stack([y, np.ones(len(y))])
    f = np.linalg.lstsq(x, np.asarray(y_next), rcond=None)[0][:2].T
    one_step = jax.scipy.linalg.expm(run.model.base.matrix * 0.25)
    assert np.abs(np.asarray(one_step) - f).max() < 0.01
    assert run.law == ("local_linear", pytest.approx(0.25), 1)


def test_data_of_every_kind_give_the_same_fit(walks, tmp_path, getkey):
    key, ys, ts = getkey(), np.asarray(walks.ys), np.asarray(walks.ts)
    paths = [dynlm.Trajectory.from_arrays(y, t) for y, t in zip(ys, ts)]
    shares = dict(train=1.0, valid=0.0, test=0.0)
    store = from_arrays(tmp_path / "s", list(zip(ys, ts)), shares=shares)
    kinds = [walks, paths, store, Windows(store, 0, 9)]
    runs = [dynlm.fit(SPEC, data, key=key, **QUICK) for data in kinds]
    streamed = dynlm.fit(SPEC, store, key=key, resident=0, **QUICK)
    for run in [*runs[1:], streamed]:
        assert alike(run.model, runs[0].model)
        assert run.log == runs[0].log


def test_a_run_is_read_back_with_its_law_and_its_log(walks, tmp_path, getkey):
    key = getkey()
    train, held = walks, jax.tree.map(lambda x: x[:8], walks)
    options = QUICK | dict(average=0.9, held_out=held)
    run = dynlm.fit(SPEC, train, key=key, out=tmp_path, **options)
    found = dynlm.load_run(tmp_path)
    assert alike(run.model, found.model) and alike(run.last, found.last)
    assert (found.log, found.law, found.ended) == (run.log, run.law, "steps")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == run.log and [row["step"] for row in rows] == [10, 20]
    assert dynlm.fit(SPEC, train, key=key, out=tmp_path, **options).log == run.log


def test_a_run_of_another_module_needs_one_like_it(walks, tmp_path, getkey):
    sde = SPEC.build(key=getkey())
    run = dynlm.fit(sde, walks, key=getkey(), out=tmp_path, **QUICK)
    with pytest.raises(ValueError, match=r"load_run\(folder, like=model\)"):
        dynlm.load_run(tmp_path)
    assert alike(dynlm.load_run(tmp_path, like=SPEC.build(key=getkey())).model, run.model)
    other = NeuralSDE(2, width=9, depth=1).build(key=getkey())
    with pytest.raises(ValueError, match="not of the structure"):
        dynlm.load_run(tmp_path, like=other)


def test_another_run_in_the_folder_is_refused_with_the_difference(walks, tmp_path, getkey):
    key = getkey()
    dynlm.fit(SPEC, walks, key=key, out=tmp_path, **QUICK)
    with pytest.raises(ValueError, match="`batch` is 8 there, 4 here"):
        dynlm.fit(SPEC, walks, key=key, out=tmp_path, **(QUICK | {"batch": 4}))
    other = jax.tree.map(lambda x: x[:39], walks)
    with pytest.raises(ValueError, match="`data` is"):
        dynlm.fit(SPEC, other, key=key, out=tmp_path, **QUICK)


def test_a_run_goes_on_where_a_batch_is_worked_off_in_other_parts(walks, tmp_path, getkey):
    """As on another number of devices, or other devices: to other last bits, and says so."""
    key = getkey()
    options = QUICK | dict(optimiser=Adam(schedule="constant"))
    whole = dynlm.fit(SPEC, walks, key=key, out=tmp_path, **options)
    longer = options | dict(steps=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynlm._fit.parts_in_cache", lambda *_: 4)
        with pytest.warns(UserWarning, match="`parts` is 1 there, 4 here"):
            run = dynlm.fit(SPEC, walks, key=key, out=tmp_path, **longer)
        alone = dynlm.fit(SPEC, walks, key=key, **options)
    assert [row["step"] for row in run.log] == [10, 20, 30]
    for row, other in zip(whole.log, alone.log):
        assert abs(row["loss"] / other["loss"] - 1) < 1e-4


def test_a_run_is_extended_where_its_schedule_is_constant(walks, tmp_path, getkey):
    key, longer = getkey(), QUICK | dict(steps=30)
    with pytest.raises(ValueError, match="`schedule_steps` is 20 there, 30 here"):
        for options in (QUICK, longer):
            dynlm.fit(SPEC, walks, key=key, out=tmp_path / "cosine", **options)
    for options in (QUICK, longer):
        options = options | dict(optimiser=Adam(schedule="constant"))
        run = dynlm.fit(SPEC, walks, key=key, out=tmp_path / "constant", **options)
    assert [row["step"] for row in run.log] == [10, 20, 30]


def test_seeds_are_separate_models(walks, tmp_path, getkey):
    run = dynlm.fit(SPEC, walks, key=getkey(), seeds=2, out=tmp_path, **QUICK)
    assert len(run.log[-1]["loss"]) == 2
    one, two = run.seed(0), run.seed(1)
    assert not alike(one.model, two.model)
    with pytest.raises(ValueError, match=r"run\.seed\(0\)"):
        run.predictor()
    assert alike(dynlm.load_run(tmp_path).seed(1).model, two.model)
    with pytest.raises(ValueError, match="`number` is 2"):
        run.seed(2)


def test_a_run_simulates_with_the_scheme_and_step_of_its_fit(walks, getkey):
    run = dynlm.fit(SPEC, walks, key=getkey(), **QUICK)
    y0s, ts, key = walks.ys[:3, 0], np.arange(5) * 0.25, getkey()
    found = run.simulate(y0s, ts, key=key)
    expected = dynlm.rollout(run.model, y0s, ts, key=key, scheme=dfx.Euler(), substeps=1)
    assert np.array_equal(found.ys, expected.ys)
    with pytest.raises(ValueError, match="fitted by euler on the step 0.25"):
        run.simulate(y0s, np.arange(5) * 0.125, key=key)
    assert run.simulate(y0s, np.arange(5) * 0.125, key=key, other=True).ys.shape == (3, 5, 2)


def test_a_fit_by_local_linearisation_simulates_its_own_law(getkey):
    """Draws of one step have the exact mean and variance, which Euler's at this step have not."""
    theta = 2.0
    sde = dynlm.problems.ou(theta=theta, sigma=1.0).sde
    ys = np.zeros((4, 9, 1), np.float32) + np.arange(9, dtype=np.float32)[None, :, None]
    options = QUICK | dict(steps=1, every=1, optimiser=optax.set_to_zero())
    run = dynlm.fit(sde, ys, key=getkey(), loss=losses.local_linear_nll, **options)
    draws = run.simulate(jnp.ones((20000, 1)), [0.0, 1.0], key=getkey()).ys[:, 1, 0]
    variance = (1 - np.exp(-2 * theta)) / (2 * theta)
    assert abs(float(draws.mean()) - np.exp(-theta)) < 4 * np.sqrt(variance / 20000)
    assert abs(float(draws.var()) - variance) < 4 * variance * np.sqrt(2 / 20000)


@pytest.mark.parametrize("score", [losses.energy_score, losses.marginal_distance])
def test_training_through_either_solver_is_the_same(walks, getkey, score):
    key, few = getkey(), QUICK | dict(steps=4, every=2, window=5, batch=4)
    runs = [
        dynlm.fit(SPEC, walks, key=key, loss=score, simulate=how, draws=2, substeps=2, **few)
        for how in (dynlm.rollout, dynlm.solve)
    ]
    for a, b in zip(*(jax.tree.leaves(run.model) for run in runs)):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    assert runs[0].law == ("euler", pytest.approx(0.25), 2)
    assert runs[0].predictor().no_density


def test_lower_precision_changes_products_and_nothing_else(walks, getkey):
    key = getkey()
    full = dynlm.fit(SPEC, walks, key=key, **QUICK)
    low = dynlm.fit(SPEC, walks, key=key, precision="bfloat16", **QUICK)
    kinds = {x.dtype for x in jax.tree.leaves(eqx.filter(low.model, eqx.is_array))}
    assert kinds == {jnp.dtype("float32")}
    assert jax.tree.structure(low.model) == jax.tree.structure(full.model)
    assert not alike(low.model, full.model)
    assert low.log[-1]["loss"] == pytest.approx(full.log[-1]["loss"], abs=0.02)


def test_uneven_times_are_recorded_as_such(getkey):
    ts = np.cumsum(np.asarray([0.0, 0.1, 0.3, 0.1, 0.2, 0.4, 0.1, 0.2, 0.3]))
    paths = [dynlm.Trajectory.from_arrays(np.ones((9, 2), np.float32), ts)] * 4
    run = dynlm.fit(SPEC, paths, key=getkey(), **(QUICK | dict(steps=2, every=2)))
    assert run.law.step is None
    run.simulate(jnp.zeros((1, 2)), ts, key=getkey())


def test_fits_alike_in_shape_are_compiled_once(walks, getkey, caplog):
    few = QUICK | dict(steps=4, every=2)
    dynlm.fit(SPEC, walks, key=getkey(), **few)
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        dynlm.fit(SPEC, walks, key=getkey(), **few)
    assert not [line for line in caplog.messages if "Compiling jit(run_chunk" in line]


def test_specs_survive_json():
    spec = NeuralSDE(3, drift="gradient", diffusion="lowrank", rank=2, time="fourier")
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec
    with pytest.raises(ValueError, match="load_run"):
        from_json({"spec": "os.system"})
    with pytest.raises(ValueError, match="does not know"):
        from_json(to_json(spec) | {"command": "rm"})


@pytest.mark.parametrize("drift", ["mlp", "residual", "gradient", "lipschitz", "linear"])
@pytest.mark.parametrize("diffusion", ["scalar", "diagonal", "lowrank", "full"])
def test_every_spec_makes_a_model_of_its_size(getkey, drift, diffusion):
    sde = NeuralSDE(3, drift=drift, diffusion=diffusion, width=4, depth=1).build(key=getkey())
    y = jnp.ones(3)
    assert sde.drift(0.0, y).shape == (3,)
    assert sde.diffusion.covariance(0.0, y).as_matrix().shape == (3, 3)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(window=1), "`window` is 1"),
        (dict(steps=0), "`steps` is 0"),
        (dict(precision="float8"), "Use float32 or bfloat16"),
        (dict(substeps=2), "for `simulate`, which is None"),
        (dict(seeds=2, model=SPEC.build(key=jr.key(0))), "`seeds` needs a spec"),
        (dict(model=NeuralSDE(3)), "`model` has `dim` 3, and the data 2"),
        (dict(layer=3), "is no store"),
        (dict(data="text"), "Pass a store"),
        (dict(data=np.full((2, 5, 2), np.nan)), "not finite"),
        (dict(accumulate=3), "Use a divisor"),
        (dict(burn=-1), "`burn` is -1"),
        (dict(held_out=np.zeros((4, 9, 3))), "`held_out` has 3 dimensions"),
        (dict(chunk=0), "`chunk` is 0"),
        (dict(patience=5), "needs a held-out loss"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(walks, getkey, unchecked, options, sentence):
    options = dict(model=SPEC, data=walks) | QUICK | options
    model, data = options.pop("model"), options.pop("data")
    with pytest.raises(ValueError, match=sentence):
        dynlm.fit(model, data, key=getkey(), **options)


def test_a_projection_is_applied_and_recorded(tmp_path, getkey):
    ys = np.asarray(jr.normal(getkey(), (30, 20, 6)))
    store = from_arrays(tmp_path / "s", list(ys))
    projection = fit_projection(store, 0, 2, whiten=True)
    run = dynlm.fit(SPEC, store, key=getkey(), projection=projection, **QUICK)
    assert run.facts["data"]["dim"] == 2 and run.facts["data"]["projection"].startswith("crc32:")
    assert "held_out" in run.log[-1]  # the store's validation documents
    window = windows_of(store.split("train"), 9, projection=projection)[0]
    assert window.ys.shape == (9, 2)


def test_a_run_away_from_its_store_still_knows_its_projection(tmp_path, getkey):
    ys = 50 + np.asarray(jr.normal(getkey(), (30, 20, 6))) * np.arange(1, 7)
    store = from_arrays(tmp_path / "s", list(ys))
    projection = fit_projection(store, 0, 2, whiten=True)
    few = QUICK | dict(steps=2, every=2, projection=projection)
    dynlm.fit(SPEC, store, key=getkey(), out=tmp_path / "run", **few)
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "s").rename(tmp_path / "gone")
    run, (mean, basis) = dynlm.load_run(tmp_path / "moved"), (projection.mean, projection.basis)
    np.testing.assert_array_equal(
        run.projection.project_rows(ys[0]), projection.project_rows(ys[0])
    )
    paths = run.simulate(jnp.ones((3, 2)), np.arange(4.0), key=getkey())
    expected = np.asarray(paths.ys) * np.asarray(projection.width) @ np.asarray(basis).T
    np.testing.assert_allclose(run.to_raw(paths.ys), expected + np.asarray(mean), rtol=1e-5)

    file = tmp_path / "moved" / "projection.safetensors"
    sound = file.read_bytes()
    file.write_bytes(sound[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="not what was written. Restore it from a copy"):
        dynlm.load_run(tmp_path / "moved")
    write_projection(file, dataclasses.replace(projection, mean=mean + 1))
    with pytest.raises(ValueError, match="of another run"):
        dynlm.load_run(tmp_path / "moved")
    file.unlink()
    lost = dynlm.load_run(tmp_path / "moved")
    with pytest.raises(ValueError, match="has no projection.safetensors"):
        lost.to_raw(paths.ys)


def test_the_number_of_components_is_chosen_on_training_documents(tmp_path, getkey):
    """Three strong directions among ninety; what is held out has thirty others, ten times those."""
    ys = np.asarray(jr.normal(getkey(), (30, 20, 90))) * ([5.0] * 3 + [0.05] * 87)
    store = from_arrays(tmp_path / "s", list(ys))
    found = fit_projection(store, 0, "auto", whiten=True)
    assert found.width.shape == (3,) and 0.95 < found.kept < 1
    held = np.setdiff1d(np.arange(30), store.split("train").rows)
    ys[held, :, 30:60] *= 1000
    other = fit_projection(from_arrays(tmp_path / "other", list(ys)), 0, "auto", whiten=True)
    assert alike(found, other)
    flat = from_arrays(tmp_path / "flat", list(np.asarray(jr.normal(getkey(), (30, 20, 90)))))
    assert fit_projection(flat, 0, "auto").width.shape == (64,)


def test_states_of_64_bits_are_trained_on_in_64_bits(tmp_path, getkey):
    """States near 1e9 whose steps are of order one: float32 has nothing between multiples of 64."""
    y = 1e9 + np.cumsum(np.random.default_rng(0).normal(size=(4, 9, 1)), axis=1)
    expected = np.mean(0.5 * np.diff(y, axis=1) ** 2 + 0.5 * np.log(2 * np.pi))
    options = QUICK | dict(steps=1, every=1, batch=4, optimiser=optax.set_to_zero())
    with jax.enable_x64(True):
        noise = dynlm.diffusions.Constant(jnp.eye(1))
        sde = dynlm.SDE(dynlm.drifts.Linear(jnp.zeros((1, 1)), jnp.zeros(1)), noise)
        out = tmp_path / "run"
        run = dynlm.fit(sde, y, key=jr.key(0), held_out=y, out=out, **options)
        store = from_arrays(tmp_path / "s", list(y), shares=dict(train=1.0))
        projection = fit_projection(store, 0, 1)
        projected = windows_of(store, 9, projection=projection)
        assert alike(dynlm.load_run(out, like=sde).model, run.model)
    assert run.log[-1]["loss"] == pytest.approx(expected, rel=1e-5)
    assert run.log[-1]["held_out"] == pytest.approx(expected, rel=1e-5)
    assert run.facts["data"]["dtype"] == "float64"
    np.testing.assert_allclose(np.diff(flat(projected)[1], axis=0)[:8], np.diff(y[0], axis=0))
    with pytest.raises(ValueError, match="trained in float64, which JAX does not have now"):
        dynlm.load_run(out, like=sde)
    assert windows_of(y, 9).dtype == np.float32


def test_a_loss_is_known_by_all_that_it_is_made_of():
    one = functools.partial(losses.mmd, scales=(1.0,))
    other = functools.partial(losses.mmd, scales=(2.0,))
    moments = functools.partial(losses.autocovariance_distance, lags=(0, 1))
    kinds = [one, other, moments, losses.each(losses.transition_nll), losses.transition_nll]
    kinds += [losses.weighted((a, losses.each(losses.transition_nll))) for a in (1.0, 100.0)]
    kinds += [losses.nll_by(losses.Strang(steps)) for steps in (2, 3)]
    kinds += [losses.set_simulated(x, simulate=dynlm.rollout) for x in (one, moments)]
    assert len({described(kind) for kind in kinds}) == len(kinds)
    again = losses.set_simulated(one, simulate=dynlm.rollout)
    assert described(again) == described(kinds[-2])


def test_a_run_by_another_solver_is_simulated_by_it(getkey):
    noise = dynlm.diffusions.Diagonal(lambda t, y: 1 + 0.3 * jnp.sin(y), 2, depends="component")
    sde = dynlm.SDE(dynlm.drifts.Linear(-jnp.eye(2), jnp.zeros(2)), noise, "stratonovich")
    run = dynlm.Run(sde, sde, [], dynlm.Law("EulerHeun", 0.5, 2), {}, None)
    y0s, ts, key = jnp.ones((3, 2)), jnp.asarray([0.0, 0.5, 1.0]), getkey()
    found = run.simulate(y0s, ts, key=key).ys
    for i in range(3):
        k = jr.fold_in(key, i)
        one = dynlm.solve(sde, y0s[i], ts, key=k, solver=dfx.EulerHeun(), substeps=2)
        np.testing.assert_allclose(found[i], one.path.ys, rtol=1e-5)
    with pytest.raises(ValueError, match="no solver of Diffrax"):
        run._replace(law=dynlm.Law("Other", 0.5, 1)).simulate(y0s, ts, key=key)


def test_the_first_step_of_a_run_already_learns(walks, getkey):
    sde = SPEC.build(key=getkey())
    run = dynlm.fit(sde, walks, key=getkey(), **(QUICK | dict(steps=1, every=1)))
    assert not alike(run.model, sde)


def test_a_held_out_loss_that_is_never_finite_leaves_the_last_model(walks, getkey):
    def cut(sde, path):  # NaN where the path was held out: its first time is 0 there
        return jnp.where(path.ts[-1] < 2.1, jnp.nan, losses.transition_nll(sde, path))

    held = jax.tree.map(lambda x: x[:8, :9], walks)
    late = jax.tree.map(lambda x: x[:, 9:], walks)
    with pytest.warns(UserWarning, match="was never finite"):
        run = dynlm.fit(SPEC, late, key=getkey(), loss=cut, held_out=held, **QUICK)
    assert alike(run.model, run.last) and run.log[-1]["best_step"] == 0


def test_first_states_are_left_out_if_asked(getkey):
    ys = np.asarray(jr.normal(getkey(), (6, 9, 2)))
    far = ys.copy()
    far[:, 0] = 1000.0
    key, options = getkey(), QUICK | dict(burn=1)
    spec = dataclasses.replace(SPEC, scale=1.0)
    runs = [dynlm.fit(spec, data, key=key, **options) for data in (ys, far)]
    assert alike(runs[0].model, runs[1].model)


def test_gaps_of_late_times_keep_their_digits_in_training(tmp_path, getkey):
    """Seconds since 1970 at steps of 1000, of which float32 has every 128th."""
    y = np.cumsum(np.asarray(jr.normal(getkey(), (4, 60, 2)), np.float32), axis=1)
    ts = [np.arange(60) * 1000.0, 1.7e9 + np.arange(60) * 1000.0]
    early, late = (
        from_arrays(tmp_path / str(k), [(one, t) for one in y], shares=dict(train=1.0), quiet=True)
        for k, t in enumerate(ts)
    )
    spec, key = dataclasses.replace(SPEC, scale=1.0), getkey()
    runs = [dynlm.fit(spec, data, key=key, **QUICK) for data in (early, late)]
    assert alike(runs[0].model, runs[1].model)
