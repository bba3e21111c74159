"""Exports in processes of their own: killed for good, and shared by two."""

import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from store_files import contents
from store_victim import run

from dynlm import lm
from dynlm.store import open_store
from dynlm.store._format import MANIFEST, read_manifest

HERE = Path(__file__).parent
RESULT = HERE.parent / "benchmarks" / "results" / "2026-11-21-store-kills.json"
KILLS = 50


@pytest.fixture(scope="module")
def model():
    return lm.load("demo")


def victim(folder: Path, way: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(HERE / "store_victim.py"), str(folder), way, *more]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)


def two(folder: Path) -> tuple[list[int], list[str]]:
    """Two processes share an export: how they ended, and what they said."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        where = f"localhost:{one.getsockname()[1]}"
    command = [sys.executable, str(HERE / "store_victim.py"), str(folder), "texts", where, "2"]
    first, second = (
        subprocess.Popen([*command, str(k)], cwd=HERE, stderr=subprocess.PIPE, text=True)
        for k in range(2)
    )
    with first, second:
        try:
            said = [process.communicate(timeout=300)[1] for process in (first, second)]
        finally:
            first.kill()
            second.kill()
    return [first.returncode, second.returncode], said


def kill(folder: Path, way: str, after: float) -> bool:
    """Starts an export and kills it; whether that was before it was done."""
    with victim(folder, way) as process:
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        time.sleep(after)
        process.kill()
    return not ((folder / MANIFEST).exists() and read_manifest(folder).complete)


def state(folder: Path) -> dict[str, int]:
    """What is in the folder after a kill; it opens, and all that it has is sound."""
    if not (folder / MANIFEST).exists():
        return {"shards": -1, "count": 0}
    store = open_store(folder)
    assert store.verify() == []
    for row in store:
        assert row.states[3].shape == (len(row.tokens), 128)
    return {"shards": len(store.manifest.shards), "count": store.manifest.count}


def seconds(folder: Path, way: str) -> float:
    """How long an export takes in a process of its own, from its beginning on."""
    with victim(folder, way) as process:
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        started = time.monotonic()
        assert process.wait() == 0
        return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("way", ["texts"])  # the campaign kills samples too
def test_three_kills_and_the_same_bytes(tmp_path, model, way):
    truth = run(tmp_path / "truth", way, model).folder
    took = seconds(tmp_path / "timed", way)
    assert contents(tmp_path / "timed") == contents(truth)
    dice, killed, folder = random.Random(1), 0, tmp_path / "killed"
    while killed < 3:  # one after the other, of one store or of more
        if not kill(folder, way, dice.uniform(0.0, 0.5) * took):
            folder, took = tmp_path / f"killed-{killed}", 0.7 * took
            continue
        state(folder)
        killed += 1
    run(folder, way, model)
    assert contents(folder) == contents(truth)


@pytest.mark.slow
def test_two_processes_share_the_work_and_make_the_same_store(tmp_path, model):
    truth = run(tmp_path / "truth", "texts", model).folder
    folder = tmp_path / "shared"
    assert two(folder)[0] == [0, 0]
    assert contents(folder) == contents(truth)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.tex").write_text("dear")
    codes, said = two(tmp_path / "strange")
    assert codes == [1, 1] and "thesis.tex, which belongs to no store" in said[0]
    assert "Another of the processes could not go on before all had planned" in said[1]


@pytest.mark.slow
def test_ctrl_c_ends_with_a_sentence_and_the_command_goes_on(tmp_path, model):
    text, folder = tmp_path / "text.txt", tmp_path / "store"
    text.write_text("\n".join("the sea and the moor and the wind " * 30 for _ in range(300)))
    command = [sys.executable, "-m", "dynlm", "export", "--model", "demo", "--text", str(text)]
    command += ["--out", str(folder), "--batch-tokens", "512", "--shard-mb", ".5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("tokens: "):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "shards are there: the same command goes on" in rest and "Error" not in rest
    assert not open_store(folder).complete


@pytest.mark.campaign
def test_campaign(tmp_path, model):
    """50 kills at random moments, one after the other, over as many stores as they take."""
    dice, killed, done, log = random.Random(20261121), 0, 0, []
    truths = {
        way: run(tmp_path / f"truth-{way}", way, model).folder for way in ("texts", "samples")
    }
    times = {way: seconds(tmp_path / f"timed-{way}", way) for way in truths}
    while killed < KILLS:
        way = ("texts", "samples")[done % 2]
        folder = tmp_path / f"store-{done}"
        while killed < KILLS:
            after = dice.uniform(0.0, 1.0) * times[way]
            going = kill(folder, way, after)
            killed += going
            log.append(
                {"store": done, "way": way, "after_s": after, "killed": going, **state(folder)}
            )
            if not going:  # it is faster now than when it was timed
                times[way] *= 0.9
                break
        run(folder, way, model)
        assert contents(folder) == contents(truths[way])
        done += 1
    at = [one["shards"] for one in log if one["killed"]]
    found = {
        "kills": killed,
        "stores": done,
        "equal_to_the_uninterrupted_run": done,
        "seconds_of_an_export": times,
        "kills_before_the_manifest": sum(k < 0 for k in at),
        "kills_between_first_and_last_shard": sum(
            0 < one["shards"] < one["count"] for one in log if one["killed"]
        ),
        "log": log,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "cpus": os.cpu_count(),
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
