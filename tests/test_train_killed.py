"""Runs that are killed, stopped, damaged or out of disk: they end as if nothing had happened."""

import json
import os
import platform
import random
import shutil
import signal
import threading
import time

import equinox as eqx
import jax
import numpy as np
import pytest
import train_victim
from train_folders import HERE, kept, rows, same, same_folder, told, victim
from train_victim import STEPS, run

from dynlm import train
from dynlm._io import BadArgument, locked

RESULT = HERE.parent / "benchmarks" / "results" / "2026-11-22-train-kills.json"
KILLS = 30
SHORT = dict(steps=60)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The run of 400 steps, uninterrupted."""
    folder = tmp_path_factory.mktemp("truth")
    return folder, run(folder)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of 60 steps, uninterrupted, and its folder as it was after 40 and after 60."""
    folder = tmp_path_factory.mktemp("short")
    run(folder / "half", steps=40)
    shutil.copytree(folder / "half", folder / "whole")
    found = run(folder / "whole", **SHORT)
    alone = run(None, **SHORT)
    same(found, alone)
    return folder, found


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.001)


def writing(folder):
    """Whether a checkpoint is being written."""
    place = folder / "checkpoints"
    return place.is_dir() and any("tmp" in name for name in os.listdir(place))


def kill(folder, after, while_writing=False, **settings):
    """Starts a run and kills it `after` so many more rows; how far it was, and what it was at."""
    start = rows(folder)
    with victim(folder, slow=True, **settings) as process:
        until(lambda: rows(folder) >= start + after or process.poll() is not None)
        if while_writing:
            until(lambda: writing(folder) or process.poll() is not None)
        time.sleep(random.Random(start).uniform(0.0, 0.05))
        process.kill()
        process.wait()
    return {"rows": rows(folder), "writing": writing(folder)}


# Killed


@pytest.mark.slow
def test_three_kills_and_the_same_bits(tmp_path, truth):
    folder, dice = tmp_path / "run", random.Random(3)
    for number in range(3):
        found = kill(folder, dice.randint(2, 9), while_writing=number == 1)
        assert found["rows"] < STEPS // 10
        temporary = [name for name in os.listdir(folder / "checkpoints") if "tmp" in name]
        assert len(temporary) <= 1
    same(run(folder), truth[1])
    same_folder(folder, truth[0])
    assert not writing(folder)


@pytest.mark.campaign
def test_campaign(tmp_path, truth):
    """30 kills at random moments, over as many runs as they take."""
    dice, log, done = random.Random(20261122), [], 0
    while len(log) < KILLS:
        folder = tmp_path / f"run-{done}"
        while len(log) < KILLS and rows(folder) < STEPS // 10 - 12:
            after, at = dice.randint(0, 9), dice.random() < 0.4
            pause = dict(save_seconds=0.0 if at else 0.5)  # else one is nearly always written
            found = kill(folder, after, at, **pause)
            log.append({"run": done, "after_rows": after, **pause} | found)
        same(run(folder), truth[1])
        same_folder(folder, truth[0])
        done += 1
    found = {
        "kills": len(log),
        "runs": done,
        "equal_to_the_uninterrupted_run": done,
        "kills_while_a_checkpoint_was_written": sum(one["writing"] for one in log),
        "kills_before_the_first_row": sum(one["rows"] == 0 for one in log),
        "log": log,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "cpus": os.cpu_count(),
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_keeps_what_there_is_between_two_rows(tmp_path, number):
    """The signal comes before step 23; the step kept is at the end of a chunk, and has no row."""
    settings = dict(source="streamed", steps=60, every=50)

    def ask(step):
        if step == 23:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(train.Interrupted, match="the same call goes on from there") as caught:
        run(tmp_path, after=ask, **settings)
    assert signal.getsignal(number) is before and isinstance(caught.value, KeyboardInterrupt)
    step = caught.value.step
    assert 0 < step < 50 and step % 5 == 0 and kept(tmp_path) == [step]
    assert caught.value.number == number and caught.value.kept and rows(tmp_path) == 0
    same(run(tmp_path, **settings), run(None, **settings))
    with pytest.raises(train.Interrupted, match="Nothing is kept without a folder: pass `folder`"):
        run(None, after=ask, **settings)


@pytest.mark.slow
def test_a_process_that_is_asked_to_stop_ends_with_a_sentence(tmp_path, truth):
    for number in (signal.SIGTERM, signal.SIGINT):
        start = rows(tmp_path)
        with victim(tmp_path, slow=True) as process:
            until(lambda start=start: rows(tmp_path) >= start + 4)
            process.send_signal(number)
            said = told(process)
        assert said["end"].startswith("Interrupted: Stopped after step ")
        assert said["end"].endswith(": the same call goes on from there.")
        assert kept(tmp_path)[-1] == int(said["end"].split()[4].rstrip(":"))
    same(run(tmp_path), truth[1])
    same_folder(tmp_path, truth[0])


def test_outside_the_main_thread_signals_are_left_alone(short):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(None, **SHORT)))
    thread.start()
    thread.join()
    same(found[0], short[1])


def test_a_finished_run_is_read_and_a_longer_one_goes_on(tmp_path, short):
    folder, found = short
    shutil.copytree(folder / "whole", tmp_path / "run")
    same(run(tmp_path / "run", **SHORT), found)
    longer = run(tmp_path / "run", steps=75)
    same(longer, run(None, steps=75))
    with pytest.raises(BadArgument, match="has taken 75 steps, and `steps` is 60"):
        run(tmp_path / "run", **SHORT)


# Two at once


def test_a_folder_that_another_run_trains_into_is_refused(tmp_path, short):
    shutil.copytree(short[0] / "half", tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes(), kept(tmp_path / "run")
    with locked(tmp_path / "run" / "checkpoints"):
        with pytest.raises(BadArgument, match="Another process writes to .*run/checkpoints. Wait"):
            run(tmp_path / "run", **SHORT)
    assert before == ((tmp_path / "run" / "metrics.jsonl").read_bytes(), kept(tmp_path / "run"))
    same(run(tmp_path / "run", **SHORT), short[1])


@pytest.mark.slow
def test_the_folder_of_a_run_is_free_again_when_its_process_is_gone(tmp_path, truth):
    with victim(tmp_path, slow=True) as process:
        until(lambda: rows(tmp_path) >= 3)
        with pytest.raises(BadArgument, match="Another process writes to"):
            run(tmp_path)
        assert process.poll() is None
        process.kill()
        process.wait()
    same(run(tmp_path), truth[1])
    same_folder(tmp_path, truth[0])


# Another run


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(every=20), "`every` is 10 there, 20 here"),
        (dict(key=jax.random.key(99)), "`noise` is "),
        (dict(run={"data": "other"}), "`data` is None there, 'other' here"),
        (dict(source="streamed"), "`items` is 90 there, None here; `order` is 3 there"),
        (dict(guard=train.Guard(patience=4)), "`guard` is"),
    ],
)
def test_a_folder_of_another_run_is_refused(short, tmp_path, settings, sentence):
    shutil.copytree(short[0] / "half", tmp_path / "run")
    with pytest.raises(BadArgument, match=sentence) as caught:
        run(tmp_path / "run", **SHORT | settings)
    assert "Go on with what it had, or use another folder" in str(caught.value)
    same(run(tmp_path / "run", **SHORT), short[1])


def test_a_folder_of_another_model_is_refused(short, tmp_path, monkeypatch):
    other = eqx.nn.MLP(3, 1, 9, 1, key=jax.random.key(4))
    monkeypatch.setattr(train_victim, "MODEL", other)
    with pytest.raises(BadArgument, match=r"is of another model or optimiser: \d+ arrays differ"):
        run(short[0] / "half", **SHORT)


def test_facts_are_compared_as_json_has_them(tmp_path):
    facts = {"shape": (2, 3), "scale": float("nan")}
    run(tmp_path, steps=10, run=facts)
    assert len(run(tmp_path, steps=20, run=facts).log) == 2
    with pytest.raises(BadArgument, match="`run` holds what JSON does not.*int64"):
        run(tmp_path, steps=20, run={"count": np.int64(3)})


def test_several_seeds_go_on_to_the_same_bits(tmp_path):
    def made(key):
        return eqx.nn.MLP(3, 1, 8, 1, key=key)

    settings = dict(key=train_victim.KEY, every=10, chunk=5, quiet=True, seeds=2)
    settings |= dict(evaluate=train_victim.HELD_OUT)
    source = train.InMemory((train_victim.X, train_victim.Y), 12, seed=1)
    whole = train.fit(train_victim.TRAINER, made, source, steps=40, **settings)
    for steps in (20, 40):
        found = train.fit(
            train_victim.TRAINER, made, source, steps=steps, folder=tmp_path, **settings
        )
    same(found, whole)
    assert np.shape(found.log[-1]["held_out"]) == (2,)


def test_another_length_of_chunk_is_told_and_taken(short, tmp_path):
    shutil.copytree(short[0] / "half", tmp_path / "run")
    with pytest.warns(UserWarning, match="`chunk` is 5 there, 10 here. It goes on, but not with"):
        found = run(tmp_path / "run", chunk=10, **SHORT)
    np.testing.assert_allclose(found.log[-1]["loss"], short[1].log[-1]["loss"], rtol=1e-4)


def test_threads_end_with_the_run(tmp_path):
    before = {thread.name for thread in threading.enumerate()}
    run(tmp_path, steps=20)
    assert {thread.name for thread in threading.enumerate()} <= before
