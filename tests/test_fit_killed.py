"""`dynlm fit` stopped, killed, out of disk or started twice: it goes on, or says why not."""

import os
import signal
import subprocess
import sys
import time

import jax.random as jr
import numpy as np
import pytest
from store_files import run as command
from train_folders import params, rows, same_folder

import dynlm
from dynlm._io import BadArgument, locked
from dynlm.train import NotKept
from dynlm.train._checkpoints import Checkpoints

OPTIONS = (
    "--steps 400 --every 10 --chunk 5 --batch 8 --window 9 --width 8 --save-seconds 0 --no-score"
    " --quiet"
).split()
QUICK = dict(steps=6, every=3, batch=4, window=9, quiet=True)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A table of one walk of 600 steps in two columns."""
    states = np.cumsum(np.random.default_rng(0).normal(size=(600, 2)), axis=0)
    path = tmp_path_factory.mktemp("fit") / "walk.csv"
    np.savetxt(path, states, delimiter=",", header="a,b", comments="")
    return path


def started(walk, out):
    """The command in a process of its own."""
    code = "from dynlm.cli import main; main()"
    options = [sys.executable, "-c", code, "fit", str(walk), "--out", str(out), *OPTIONS]
    return subprocess.Popen(options, stderr=subprocess.PIPE, text=True, env=os.environ)


def told(process):
    """Its exit code, and what it told."""
    said = process.communicate(timeout=300)[1].splitlines(keepends=True)
    # Other tests use the same cache of compiled programs, and JAX tells of what is half written.
    return process.returncode, "".join(line for line in said if "compilation cache" not in line)


def interrupted(walk, out, number):
    """Exit code and words of a run that gets a signal some rows further on."""
    start = rows(out)
    with started(walk, out) as process:
        end = time.monotonic() + 120
        while rows(out) < start + 4 and process.poll() is None:
            assert time.monotonic() < end, "it did not come so far"
            time.sleep(0.001)
        process.send_signal(number)
        return told(process)


@pytest.mark.slow
def test_the_command_goes_on_to_the_same_bits(walk, tmp_path):
    assert command("fit", walk, "--out", tmp_path / "whole", *OPTIONS) == 0
    out = tmp_path / "run"
    code, said = interrupted(walk, out, signal.SIGTERM)
    assert code == 130 and said.startswith("dynlm: Stopped after step "), said
    assert said.endswith(": the same command goes on from there.\n"), said
    step = int(said.split()[4].rstrip(":"))
    assert 40 <= step < 400 and dynlm.load_run(out).ended is None
    code, said = interrupted(walk, out, signal.SIGKILL)
    assert (code, said) == (-signal.SIGKILL, ""), said
    assert step // 10 < rows(out) < 40
    code, said = told(started(walk, out))
    assert (code, said) == (0, ""), said
    same_folder(out, tmp_path / "whole")
    for name in ("run.json", "results.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    models = [dynlm.load_run(folder).model for folder in (out, tmp_path / "whole")]
    for x, y in zip(*map(params, models), strict=True):
        np.testing.assert_array_equal(x, y)


def fitted(out, **settings):
    ys = np.random.default_rng(1).normal(size=(6, 9, 2)).astype(np.float32)
    spec = dynlm.specs.NeuralSDE(2, width=4, depth=1)
    return dynlm.fit(spec, ys, key=jr.key(3), out=out, **QUICK | settings)


def test_a_second_fit_into_a_folder_is_refused_before_it_writes(tmp_path):
    with locked(tmp_path), pytest.raises(BadArgument, match="Another process writes to"):
        fitted(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert fitted(tmp_path).ended == "steps"


def test_what_was_trained_is_in_the_error_where_the_disk_stays_full(
    walk, tmp_path, monkeypatch, capsys
):
    alone = fitted(None)
    monkeypatch.setattr(Checkpoints, "save", lambda *args: None)
    with pytest.raises(NotKept, match="Training has ended after step 6. Its checkpoint") as caught:
        fitted(tmp_path / "run")
    found = caught.value.trained
    assert isinstance(found, dynlm.Run) and found.log == alone.log and found.law == alone.law
    for x, y in zip(params(found.model), params(alone.model), strict=True):
        np.testing.assert_array_equal(x, y)
    assert "`trained` of this error" in caught.value.__notes__[0]
    options = "--steps 6 --every 3 --batch 4 --window 9 --width 4 --no-score --quiet".split()
    assert command("fit", walk, "--out", tmp_path / "command", *options) == 2
    said = capsys.readouterr().err
    assert said.startswith("dynlm: Training has ended after step 6. Its checkpoint could not be")
    assert "trained`" not in said
