"""Exports in processes of their own: killed for good, and shared by two."""

import json
import os
import platform
import random
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
    with socket.socket() as one:
        one.bind(("localhost", 0))
        where = f"localhost:{one.getsockname()[1]}"
    folder = tmp_path / "shared"
    first, second = (victim(folder, "texts", where, "2", str(k)) for k in range(2))
    with first, second:
        try:
            assert (first.wait(timeout=300), second.wait(timeout=300)) == (0, 0)
        finally:
            first.kill()
            second.kill()
    assert contents(folder) == contents(truth)


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
            if not going:
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
