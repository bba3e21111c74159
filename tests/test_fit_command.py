"""`dynlm fit`: from a table to a run, its scores and what may be said; stopped, it goes on."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import diffrax as dfx
import numpy as np
import pytest
from store_files import run as command

import dynlm
from dynlm import losses
from dynlm._commands import _fit
from dynlm._commands._fit import blocks
from dynlm._data import part_of, unit_of
from dynlm._io import BadArgument
from dynlm._run import Law, Run
from dynlm.store import from_arrays

FEW = ["--steps", "6", "--every", "3", "--batch", "4", "--window", "9", "--width", "4"]


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """A table of one walk of 600 steps in two columns."""
    rng = np.random.default_rng(0)
    states = np.zeros((600, 2))
    for k in range(599):
        states[k + 1] = 0.9 * states[k] + rng.normal(size=2) * [1.0, 5.0]
    path = tmp_path_factory.mktemp("fit") / "walk.csv"
    np.savetxt(path, states, delimiter=",", header="a,b", comments="")
    return path


@pytest.mark.slow
def test_a_table_becomes_a_run_with_its_scores(walks, tmp_path, capsys):
    out = tmp_path / "run"
    options = [str(walks), "--out", str(out), *FEW, "--json", "--patience", "3"]
    assert command("fit", *options, "--power", "1") == 0
    found = capsys.readouterr()
    results = json.loads(found.out)
    assert results["law"] == {"scheme": "euler", "step": 1.0, "substeps": 1}
    assert results["scores"]["unit"] == "blocks of one series"
    assert results["scores"]["documents"] == 3 and "by block" in found.err  # of 16, two left out
    models = results["scores"]["models"]
    assert {"fit", "fit of shuffled", "random walk", "iid", "var1", "ou"} <= models.keys()
    assert results["continuous"] is False and "worse than var1" in results["reason"]
    assert "seen in 3 blocks of one series" in results["beyond_linear"]
    assert "No dynamics beyond linear were seen" in results["beyond_linear"]
    assert [row["strength"] for row in results["power"]["at"]] == [0.0, 0.05, 0.1, 0.2, 0.4]
    assert "nats per step and dim" in found.err and "fit: " in found.err
    assert results["scores"]["horizons"] == [1, 4, 16]
    assert json.loads((out / "results.json").read_text()) == results
    run = dynlm.load_run(out)
    assert run.ended == "steps" and run.log[-1]["step"] == 6
    assert command("fit", *options, "--no-score") == 0  # nothing is trained again
    assert json.loads(capsys.readouterr().out)["last"] == results["last"]


@pytest.mark.slow
def test_a_store_is_fitted_at_a_layer_with_options_from_a_file(tmp_path, capsys):
    rng = np.random.default_rng(1)
    series = [{3: rng.normal(size=(20, 6)), "final": rng.normal(size=(20, 4))} for _ in range(12)]
    from_arrays(tmp_path / "store", series)
    (tmp_path / "run.toml").write_text(
        'layer = "final"\ndim = 2\nsteps = 4\nevery = 2\nbatch = 4\nwindow = 5\n'
        'diffusion = "full"\nwidth = 4\nno-score = true\nloss = "energy"\ndraws = 2\nseeds = 2\n'
    )
    code = command(
        "fit", str(tmp_path / "store"), "--config", str(tmp_path / "run.toml"),
        "--out", str(tmp_path / "run"), "--steps", "2", "--quiet",
    )  # fmt: skip
    found = capsys.readouterr()
    assert (code, found.out, found.err) == (0, "", "")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["steps"] == 2 and facts["seeds"] == 2  # a flag goes before the file
    assert facts["model"]["diffusion"] == "full" and facts["data"]["layer"] == "final"
    assert dynlm.load_run(tmp_path / "run").seed(1).model.dim == 2


@pytest.mark.parametrize("length, window, burn", [(600, 9, 1), (24, 32, 0), (5000, 4, 1)])
def test_parts_of_one_series_follow_each_other_with_a_block_between(length, window, burn):
    found = blocks(length, window, burn)
    spans = {part: [s for k, s in found if k == part] for part in (0, 1, 2)}
    size = length // 60 if length == 5000 else length // (16 if length == 600 else 12)
    for part in spans.values():
        assert all(a.stop == b.start for a, b in zip(part, part[1:]))
        assert all(size <= s.stop - s.start <= size + 1 for s in part)
    assert spans[0][0].start == 0 and spans[2][-1].stop == length
    assert len(spans[0]) > len(spans[2]) >= 2 and len(spans[1]) >= 1
    for before, after in ((spans[0], spans[1]), (spans[1], spans[2])):
        assert size <= after[0].start - before[-1].stop <= size + 1


def parts(tmp_path, *series, options=()):
    """The parts that a fit takes of files with these series: by part, the times of its rows."""
    for k, one in enumerate(series):
        np.save(tmp_path / f"{k}.npy", one)
    files = [str(tmp_path / f"{k}.npy") for k in range(len(series))]
    few = ["--steps", "1", "--every", "1", "--no-score", "--quiet", *FEW[4:], *options]
    assert command("fit", *files, "--out", tmp_path / "run", *few) == 0
    store = dynlm.open_store(tmp_path / "run" / "data")
    return store, {name: part_of(store, name) for name in ("train", "valid", "test")}


@pytest.mark.slow
def test_what_is_held_out_of_one_series_comes_later_and_does_not_touch(tmp_path):
    y = np.arange(600.0)[:, None] + np.random.default_rng(0).normal(size=(600, 2))
    store, found = parts(tmp_path, y)
    ends = {
        name: [part.times(k)[[0, -1]] for k in range(len(part))] for name, part in found.items()
    }
    size = 600 // 16
    assert np.max(ends["train"]) + size < np.min(ends["valid"])
    assert np.max(ends["valid"]) + size < np.min(ends["test"]) and np.max(ends["test"]) == 599
    run = dynlm.load_run(tmp_path / "run")
    assert run.facts["data"]["rows"] == len(found["train"]) == 10
    train = np.concatenate([found["train"].states(k, 0) for k in range(10)])
    np.testing.assert_allclose(run.projection.mean, train.mean(axis=0), rtol=1e-5)
    assert unit_of(store) == "blocks of one series"


@pytest.mark.slow
def test_several_series_are_held_out_whole(tmp_path):
    series = [k + np.random.default_rng(k).normal(size=(40, 2)) for k in range(10)]
    store, found = parts(tmp_path, *series)
    assert [len(found[name]) for name in ("train", "valid", "test")] == [7, 1, 2]
    assert sorted(store.lengths) == [40] * 10 and unit_of(store) == "documents"


@pytest.mark.slow
def test_two_processes_fit_as_one(walks, tmp_path):
    few = [*FEW, "--no-score", "--json"]
    with socket.socket() as one:
        one.bind(("localhost", 0))
        where = f"localhost:{one.getsockname()[1]}"
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "dynlm.cli", "fit", walks, "--out", tmp_path / "two", *few]
            + ["--coordinator", where, "--processes", "2", "--process", str(k)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    try:
        said = [process.communicate(timeout=300) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    assert '"last"' in said[0][0] and '"last"' not in said[1][0]
    assert command("fit", walks, "--out", tmp_path / "one", *few) == 0
    two, one = (dynlm.load_run(tmp_path / name) for name in ("two", "one"))
    for a, b in zip(two.log, one.log, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["held_out"] == pytest.approx(b["held_out"], rel=1e-3)


class Seen(Exception):
    pass


@pytest.fixture
def seen(monkeypatch):
    """What `fit` is given by the command."""
    given = {}

    def fit(model, data, **options):
        given.update(options, model=model, data=data)
        raise Seen

    monkeypatch.setattr("dynlm._fit.fit", fit)
    return given


MANY = {
    "drift": "lipschitz", "lipschitz": 2.0, "floor": 0.01, "calculus": "stratonovich",
    "noise-on": "component", "loss": "crps", "simulate": "solve", "draws": 3, "substeps": 2,
    "solver": "StratonovichMilstein", "prefix": 3, "horizon": 4, "window": 9,
    "guard-patience": 7, "guard-factor": 0.25, "guard-most": 2, "resident-mb": 0.5,
    "dim": "auto", "average": 0.9, "accumulate": 2,
}  # fmt: skip


@pytest.mark.parametrize("how", ["flags", "json", "toml"])
def test_every_option_arrives(walks, tmp_path, seen, how):
    given = [str(walks), "--out", str(tmp_path / "run"), "--quiet"]
    if how == "flags":
        given += [x for name, value in MANY.items() for x in (f"--{name}", str(value))]
    else:
        lines = [f"{name} = {json.dumps(value)}" for name, value in MANY.items()]
        text = json.dumps(MANY) if how == "json" else "\n".join(lines)
        (tmp_path / f"a.{how}").write_text(text)
        given += ["--config", str(tmp_path / f"a.{how}")]
    with pytest.raises(Seen):
        command("fit", *given)
    spec, loss = seen["model"], seen["loss"]
    wanted = dict(drift="lipschitz", lipschitz=2.0, floor=0.01, calculus="stratonovich")
    assert wanted.items() <= dataclasses.asdict(spec).items()
    assert loss.score is losses.crps and loss.simulator.simulate is dynlm.solve
    simulator = loss.simulator
    assert (simulator.draws, simulator.substeps) == (3, 2)
    assert (simulator.prefix, simulator.horizon) == (3, 4)
    assert isinstance(simulator.solver, dfx.StratonovichMilstein)
    assert seen["guard"] == (7, 0.25, 2) and seen["resident"] == 2**19
    assert (seen["average"], seen["accumulate"]) == (0.9, 2)
    assert seen["projection"].fit.whiten  # as components are


class Judged:
    """In the place of a verdict."""

    def __init__(self, power=None):
        self.power = power

    def to_json(self):
        return {"scores": 1.0, "power": self.power}

    def text(self):
        return "the scores"

    def _replace(self, power):
        return Judged(power)


@pytest.fixture
def judged(monkeypatch):
    """What is judged by the command after a fit whose last losses are not finite."""
    given = {}

    def fit(model, data, **options):
        log = [{"step": 6, "loss": float("nan"), "best": [1.0, float("inf")]}]
        return Run(None, None, log, Law("euler", 1.0, 1), {}, "steps")

    def judge(run, train, test, **options):
        given.update(options, train=train, test=test)
        return Judged()

    def power(fit, reference, *rest, linear, **options):
        given.update(planting=options, linear=linear)
        raise given.get("raises", KeyboardInterrupt)

    monkeypatch.setattr("dynlm._fit.fit", fit)
    monkeypatch.setattr("dynlm._judge.judge", judge)
    monkeypatch.setattr("dynlm.predict.power", power)
    return given


def test_a_loss_that_is_not_finite_is_null_in_the_results(walks, tmp_path, judged, capsys):
    out = tmp_path / "run"
    assert command("fit", str(walks), "--out", str(out), *FEW, "--no-score", "--json") == 0
    last = {"step": 6, "loss": None, "best": [1.0, None]}
    text = (out / "results.json").read_text()
    assert json.loads(text)["last"] == last == json.loads(capsys.readouterr().out)["last"]


def test_scores_are_kept_before_the_power_is_measured(walks, tmp_path, judged, capsys):
    out = tmp_path / "run"
    options = ["--out", str(out), *FEW, "--no-null", "--quiet", "--power", "2", "--burn", "3"]
    assert command("fit", str(walks), *options) == 130
    said = capsys.readouterr().err
    assert "stopped while the power was measured" in said and "`folder`" not in said
    results = json.loads((out / "results.json").read_text())
    assert (results["scores"], results["power"]) == (1.0, None)
    assert judged["burn"] == judged["planting"]["burn"] == judged["linear"].keywords["burn"] == 3
    for rows in (judged["train"], judged["test"]):  # a model without time: gaps keep their digits
        assert (rows.paths.ts[:, 0] == 0).all()
    options += ["--time", "raw"]
    assert command("fit", str(walks), *options) == 130
    assert (judged["test"].paths.ts[:, 0] > 400).all()


def test_the_help_shows_options_in_groups(capsys):
    assert command("fit", "--help") == 0
    said = capsys.readouterr().out
    groups = "model objective optimiser training judging sharing".split()
    places = [said.index(f"{name} options") for name in groups]
    assert places == sorted(places)
    assert places[0] < said.index("--lipschitz") < places[1] < said.index("--horizon") < places[2]


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--dim", "3"], "`--dim` is 3"),
        (["--dim", "0"], "`--dim` is 0"),
        (["--horizon", "4"], "`--horizon` is for scores"),
        (["--guard-factor", "0"], "`--guard-factor` is 0"),
        (["--process", "1"], "`--coordinator`, `--processes` and `--process` together"),
        (["--window", "300", "--burn", "60"], "data` has a series of 600 steps, too few"),
        (["--rate", "0"], "`--rate` is 0"),
        (["--window", "1"], "`--window` is 1. Use 2 or more"),
        (["--average", "1"], "`--average` is 1"),
        (["--batch", "4", "--accumulate", "3"], "Use a divisor"),
        (["--layer", "3"], "`--layer` is for a store"),
        (["--substeps", "4"], "`--substeps` is for scores"),
        (["--loss", "strang"], "`--noise-on nothing`"),
        (["--noise-on", "time"], "`--time` is 'none'"),
        (["--noise-on", "component", "--diffusion", "full"], "Use 'diagonal'"),
        (["--power", "2", "--loss", "energy"], "`--loss` is energy, whose fit has draws only"),
        (["--config", "none.toml"], "none.toml cannot be read"),
    ],
)
def test_a_wrong_option_gets_a_sentence(walks, tmp_path, capsys, unchecked, options, sentence):
    from dynlm.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(walks), "--out", str(tmp_path / "run"), "--quiet", *options])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_file_of_options_knows_its_options(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"steps": 5, "no-score": true, "no_null": false, "drift": "linear"}')
    given = ["walk.csv", "--config", str(file), "--steps", "7"]
    assert _fit.with_defaults(given) == [*given, "--no-score", "--drift", "linear"]
    file.write_text('{"stepz": 5}')
    with pytest.raises(BadArgument, match="'stepz', which is no option"):
        _fit.with_defaults(given)
    file.write_text('{"steps": [5]}')
    with pytest.raises(BadArgument, match="Use one value"):
        _fit.with_defaults(given)
    assert _fit.with_defaults(["a", "--out", "b"]) == ["a", "--out", "b"]
