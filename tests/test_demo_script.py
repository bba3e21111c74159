"""The script that makes the embedded model, on a small made-up text, and its arithmetic."""

import importlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dynlm.lm import load

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = {"width": 16, "depth": 1, "heads": 2, "kv_heads": 1, "hidden": 32, "context": 64}


@pytest.fixture
def script(monkeypatch):
    """Imports a file of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for path in BENCHMARKS.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def small(script, monkeypatch):
    """Runs the script with a tiny model; called with its options."""
    demo, files = script("demo_model"), script("_demo_files")
    for name, value in {"CONFIG": SMALL, "BLOCK": 700, "WINDOW": 64, "BATCH": 4}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(files, "BUDGET", 8)
    monkeypatch.setattr(files.pretrain, "STEPS_A_CALL", 1)  # so that one number of steps compiles

    def run(*options: object) -> None:
        monkeypatch.setattr(sys, "argv", ["demo_model.py", *map(str, options)])
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # for optax
            demo.main()

    return run


@pytest.fixture
def data(tmp_path) -> Path:
    """Three files of words that follow one another by a rule, in paragraphs."""
    folder, draw = tmp_path / "texts", np.random.default_rng(0)
    folder.mkdir()
    words = ["sea", "ship", "wind", "gull", "rope", "mast", "tide", "sail"]
    for name in ("bronte.txt", "darwin.txt", "shakespeare.txt"):
        paragraphs = []
        for _ in range(30):
            at = np.cumsum(draw.integers(1, 3, size=110)) % len(words)
            paragraphs.append(" ".join(words[k] for k in at))
        (folder / name).write_text("\n\n".join(paragraphs) + "\n")
    return folder


@pytest.mark.slow
def test_it_trains_writes_and_repeats_itself(small, script, data, tmp_path):
    page, out = tmp_path / "page.md", tmp_path / "out"
    page.write_text("Before.\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nAfter.\n")
    runs = [tmp_path / "one", tmp_path / "two"]
    for work in runs:
        small("train", "--data", data, "--work", work, "--steps", 20, "--every", 10)
    for name in ("step-0", "step-1", "step-20"):
        first, second = ((work / f"{name}.safetensors").read_bytes() for work in runs)
        assert first == second

    small("write", "--data", data, "--work", runs[0], "--out", out, "--page", page)
    card = json.loads((out / "card.json").read_text())
    held = card["held_out"]
    assert held["bfloat16"]["bits_per_byte"] < held["untrained"]["bits_per_byte"]
    assert held["kneser_ney_5"]["bits_per_byte"] < held["kneser_ney_3"]["bits_per_byte"] * 1.2
    assert card["recipe"]["steps"] == 20 and card["recipe"]["steps_of_early"] == 1
    shown = page.read_text()
    assert shown.startswith("Before.") and shown.endswith("After.\n") and "old" not in shown
    assert script("_demo_card").shown(card) in shown

    model = load(out)
    assert model.tokenizer("sea").input_ids[0] == 0 and model.config.context == 64
    last = json.loads((out / "generation_config.json").read_text())
    assert last["bos_token_id"] == 0 and "eos_token_id" not in last


@pytest.mark.parametrize("what", ["train", "write"])
def test_what_is_not_there_is_named(small, what, data, tmp_path):
    with pytest.raises(SystemExit, match=r"demo_model.py: .*nowhere.bronte.txt is not there"):
        small(what, "--data", tmp_path / "nowhere", "--work", tmp_path)
    with pytest.raises(SystemExit, match="Run `train` with it first"):
        small("write", "--data", data, "--work", tmp_path / "empty")


def draws(script, ours, theirs):
    return script("_demo_card").below(np.asarray(ours), np.asarray(theirs), seed=0)


def test_the_interval_holds_the_truth_and_shrinks_to_nothing_without_noise(script):
    same = draws(script, np.full(20, 8.0), np.full(20, 10.0))
    assert same["share"] == 0.2 and same["interval_95"] == [0.2, 0.2]
    noisy = draws(script, 8 + np.arange(20) % 5, np.full(20, 12.5))
    low, high = noisy["interval_95"]
    assert low < noisy["share"] < high and noisy["share"] == 0.2


def test_figures_weigh_blocks_by_their_bytes(script):
    demo = script("demo_model")
    blocks = [
        demo.Block("a", "xy", np.array([1])),
        demo.Block("b", "uvwxyz", np.array([2, 3])),
    ]
    found = script("_demo_card").figures(np.log(2) * np.array([4.0, 6.0, 6.0]), blocks)
    assert found["bits_per_byte"] == 2.0
    assert found["bits_per_byte_by_file"] == {"a": 2.0, "b": 2.0}
    assert found["nats_per_token"] == pytest.approx(np.log(2) * 16 / 3, abs=1e-5)


def test_overlap_is_the_share_of_strings_that_were_also_read(script):
    overlap = script("_demo_card").overlap
    read = ["a cat sat on the mat", "and the dog\nate"]
    assert overlap(read, ["the  cat sat on the"], 8) == pytest.approx(8 / 11)
    assert overlap(read, ["the mat and the"], 9) == 0  # no string spans two blocks
    assert overlap(read, ["the dog ate"], 9) == 1.0
