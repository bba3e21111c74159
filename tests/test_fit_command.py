"""`dynlm fit`: from a table to a run, its scores and what may be said; stopped, it goes on."""

import json

import numpy as np
import pytest
from store_files import run as command

import dynlm
from dynlm._commands import _fit
from dynlm._io import BadArgument
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
    options = [str(walks), "--out", str(out), *FEW, "--json", "--power", "1", "--patience", "3"]
    assert command("fit", *options) == 0
    found = capsys.readouterr()
    results = json.loads(found.out)
    assert results["law"] == {"scheme": "euler", "step": 1.0, "substeps": 1}
    models = results["scores"]["models"]
    assert {"fit", "fit of shuffled", "random walk", "iid", "var1", "ou"} <= models.keys()
    assert results["continuous"] is False and "worse than var1" in results["reason"]
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


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--rate", "0"], "`--rate` is 0"),
        (["--window", "1"], "`--window` is 1. Use 2 or more"),
        (["--average", "1"], "`--average` is 1"),
        (["--batch", "4", "--accumulate", "3"], "Use a divisor"),
        (["--layer", "3"], "`--layer` is for a store"),
        (["--substeps", "4"], "`--substeps` is for scores"),
        (["--loss", "strang"], "`--noise-on nothing`"),
        (["--noise-on", "time"], "`--time` is 'none'"),
        (["--noise-on", "component", "--diffusion", "full"], "Use 'diagonal'"),
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
