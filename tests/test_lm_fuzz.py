"""Spoiled checkpoints: 200 of them here, 2,000 in a campaign; none crashes, hangs or half-loads."""

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest
from lm_fuzz import SECONDS, corpus, limit, one, outcome

HERE = Path(__file__).parent
RESULT = HERE.parent / "benchmarks" / "results" / "2026-11-21-lm-fuzz.json"
SEED, BATCH = 20261121, 250
GOOD = ("loaded", "refused")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus"))


def test_what_is_not_spoiled_loads(sources):
    assert {source.name: outcome(source) for source in sources} == {
        source.name: ("loaded", "") for source in sources
    }


@pytest.mark.parametrize("part", range(4))
def test_spoiled_checkpoints(sources, tmp_path, part):
    found = [one(sources, tmp_path / "spoiled", 0, 50 * part + k) for k in range(50)]
    assert [item for item in found if item["verdict"] not in GOOD] == []
    verdicts = Counter(item["verdict"] for item in found)
    assert verdicts["refused"] > 10 and verdicts["loaded"] > 0, verdicts


def test_the_limit_of_time_holds():
    from lm_fuzz import Hang

    with pytest.raises(Hang), limit(0.05):
        while True:
            try:
                sum(range(1000))
            except Exception:  # does not swallow it
                pass


@pytest.mark.campaign
def test_campaign(tmp_path):
    """2,000 of them, in processes of 250 that may crash without taking the count with them."""
    found, peaks, crashes = [], [], []
    for first in range(0, 2000, BATCH):
        (tmp_path / str(first)).mkdir()
        run = subprocess.run(
            [sys.executable, "lm_fuzz.py", str(tmp_path / str(first)), str(SEED), str(first)]
            + [str(BATCH)],
            cwd=HERE,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=60 + SECONDS * BATCH,
        )
        lines = [json.loads(x) for x in run.stdout.splitlines() if x.startswith('{"')]
        found += [line for line in lines if "verdict" in line]
        peaks += [line["peak_mb"] for line in lines if "peak_mb" in line]
        if run.returncode:
            begun = [line["begin"] for line in lines if "begin" in line]
            crashes.append(
                {"number": begun[-1:], "code": run.returncode, "text": run.stderr[-500:]}
            )
    result = summary(found, peaks, crashes)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    assert result["bad"] == [] and crashes == [] and len(found) == 2000


def summary(found: list[dict], peaks: list[int], crashes: list[dict]) -> dict:
    """What the campaign says: counts, by kind of change and of file, and the slowest."""
    by_way = Counter((item["how"].split(": ")[1], item["verdict"]) for item in found)
    by_file = Counter((item["how"].split(": ")[0].split("/")[1], item["verdict"]) for item in found)

    def table(counts: Counter) -> dict:
        names = sorted({name for name, _ in counts})
        return {name: {v: n for (w, v), n in sorted(counts.items()) if w == name} for name in names}

    return {
        "what": "loading of checkpoints with one file changed at random; tests/lm_fuzz.py",
        "seed": SEED,
        "spoiled": len(found),
        "verdicts": dict(Counter(item["verdict"] for item in found)),
        "by_last_change": table(by_way),
        "by_file": table(by_file),
        "bad": [item for item in found if item["verdict"] not in GOOD],
        "crashes": crashes,
        "slowest_seconds": max((item["seconds"] for item in found), default=None),
        "limit_seconds": SECONDS,
        "peak_memory_mb": max(peaks, default=None),
        "versions": {"python": platform.python_version(), "jax": jax.__version__}
        | {name: __import__(name).__version__ for name in ("flax", "transformers", "numpy")},
    }
