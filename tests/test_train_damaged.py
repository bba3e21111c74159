"""Checkpoints that are damaged or cannot be written, and which of them are kept."""

import errno
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_folders import kept, params, same, same_folder, told, victim
from train_victim import run

from dynlm._io import BadArgument
from dynlm.train._checkpoints import Checkpoints, refuse_unread
from dynlm.train._saved import read_latest

SHORT = dict(steps=60)

# Of several reads that Orbax has begun, those that follow one that fails find its loop closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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


# Damaged


def files(folder):
    """The files of the latest checkpoint."""
    step = folder / "checkpoints" / str(kept(folder)[-1])
    return sorted(one.relative_to(folder) for one in step.rglob("*") if one.is_file())


def resumed(folder, found):
    """Goes on to the same bits; what it told."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        same(run(folder, **SHORT), found)
    return [str(one.message) for one in heard if one.category is UserWarning]  # of ours


def contents(folder):
    return {one.relative_to(folder): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(bytes(data))


@pytest.mark.slow
@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
def test_a_damaged_latest_checkpoint_falls_back_to_the_one_before(tmp_path, short, harm):
    folder, found = short
    names = files(folder / "half")
    assert sum(name.parts[2:4] == ("state", "d") for name in names) > 0 and len(names) > 8
    for number, name in enumerate(names):
        place = tmp_path / str(number)
        shutil.copytree(folder / "half", place)
        harm(place / name)
        before = contents(place / "checkpoints" / "40")
        heard = resumed(place, found)
        if heard:
            assert len(heard) == 1 and "The checkpoint of step 40 in" in heard[0], name
            assert heard[0].endswith("kept there as 40.damaged. Going on from step 30."), heard
            aside = place / "checkpoints" / "40.damaged"
            assert contents(aside) == before, name
        # Of the rest, Orbax needs some and not others; without a mark there is no checkpoint.
        needed = name.parts[2:4] == ("state", "d") or name.parts[2:4] == ("notes", "metadata")
        assert heard or not needed, name
        assert kept(place)[-2:] == [50, 60]
        same_folder(place, folder / "whole")


def test_a_latest_checkpoint_without_notes_or_data_falls_back(tmp_path, short):
    folder, found = short
    for name in ("notes", "state"):
        shutil.copytree(folder / "half", tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "40" / name)
        (heard,) = resumed(tmp_path / name, found)
        assert "The checkpoint of step 40" in heard and "Going on from step 30" in heard


def test_a_checkpoint_that_is_damaged_twice_is_set_aside_twice(tmp_path, short):
    folder, found = short
    shutil.copytree(folder / "half", tmp_path / "run")
    place = tmp_path / "run" / "checkpoints"
    (place / "40.damaged").mkdir()
    cut(place / "40" / "notes" / "metadata")
    (heard,) = resumed(tmp_path / "run", found)
    assert "kept there as 40.damaged-again. Going on" in heard
    assert (place / "40.damaged-again" / "state").is_dir()
    assert kept(tmp_path / "run")[-2:] == [50, 60]


def test_a_checkpoint_that_the_system_does_not_let_be_read_is_not_given_up(tmp_path, short):
    """A link to itself stands for a disk that fails: no data are read, and the file is there."""
    folder, found = short
    refused = 0
    place = tmp_path / "run" / "checkpoints" / "40"
    sentence = "40 cannot be read: Too many levels of symbolic links. It may be sound"
    for name in files(folder / "half"):
        if name.parts[3:] != ("manifest.ocdbt",) and name.parts[2:4] != ("state", "d"):
            continue
        refused += 1
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(folder / "half", tmp_path / "run")
        path = tmp_path / "run" / name
        path.rename(tmp_path / "file")
        path.symlink_to(path)
        for read in (lambda: run(tmp_path / "run", **SHORT), lambda: read_latest(place.parent)):
            with pytest.raises(BadArgument, match=sentence):
                read()
        assert kept(tmp_path / "run") == [30, 40]
        (tmp_path / "file").replace(path)
    assert refused == 2 and resumed(tmp_path / "run", found) == []


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (OSError(errno.EIO, "Input/output error"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), False),
        (ValueError("PERMISSION_DENIED: Error reading: Permission denied [a='b']"), False),
        (ValueError("RESOURCE_EXHAUSTED: Failed to open: Too many open files"), False),
        (MemoryError(), False),
        (TimeoutError("Timed out while waiting for a lock."), False),
        (RuntimeError("can't start new thread"), False),
        (FileNotFoundError("File metadata not found."), True),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), True),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), True),
        (ValueError("NOT_FOUND: Error opening"), True),
        (ValueError("OUT_OF_RANGE: Requested byte range is not valid"), True),
        (KeyError("skip_deserialize"), True),
        (ValueError("DATA_LOSS: CRC-32C checksum mismatch"), True),
        (json.JSONDecodeError("Expecting value", "", 0), True),
    ],
)
def test_what_the_bytes_are_is_told_from_what_the_system_refuses(tmp_path, error, damage):
    if damage:
        refuse_unread(tmp_path, error)
        return
    with pytest.raises((BadArgument, MemoryError, RuntimeError)) as caught:
        refuse_unread(tmp_path, error)
    assert caught.value is error or "It may be sound" in str(caught.value)


def test_where_all_checkpoints_are_damaged_it_says_so_and_deletes_none(tmp_path, short):
    shutil.copytree(short[0] / "half", tmp_path / "run")
    steps = kept(tmp_path / "run")
    for step in steps:
        cut(tmp_path / "run" / "checkpoints" / str(step) / "notes" / "metadata")
    with pytest.raises(BadArgument, match="No checkpoint in .* is sound.*Restore them from a copy"):
        run(tmp_path / "run", **SHORT)
    assert kept(tmp_path / "run") == steps


def test_lost_or_longer_metrics_are_written_again(tmp_path, short):
    folder, found = short
    shutil.copytree(folder / "half", tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert resumed(tmp_path / "run", found) == []
    same_folder(tmp_path / "run", folder / "whole")


# Which are kept


def test_the_best_and_the_latest_are_kept_over_several_runs(tmp_path):
    """The held-out loss is least on the way; the folder is opened anew in between."""
    goal = params(run(None, steps=30).model)

    def evaluate(model):
        return sum(jnp.sum((a - b) ** 2) for a, b in zip(params(model), goal))

    for steps in (20, 40, 60, 80, 100):
        found = run(tmp_path, evaluate=evaluate, steps=steps)
    assert found.log[-1]["best_step"] == 30 and kept(tmp_path) == [30, 90, 100]


def test_without_held_out_loss_the_latest_two_are_kept(tmp_path):
    for steps in (30, 60):
        run(tmp_path, evaluate=None, steps=steps)
    assert kept(tmp_path) == [50, 60]


def test_what_is_saved_is_the_state_of_its_step_though_training_goes_on(tmp_path):
    """The buffers of large arrays are donated to the next steps while they are still written."""
    keeper = Checkpoints(tmp_path)
    step = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    x = jnp.zeros(4_000_000)
    for k in range(1, 4):
        x = step(x)
        keeper.save(k, {"x": x}, {"shapes": {"x": "float32[4000000]"}}, None)
        for _ in range(20):
            x = step(x)
        keeper.settle()
        restored = keeper.restore({"x": x})
        assert restored is not None
        saved, found, _ = restored
        assert saved == k and (np.asarray(found["x"]) == 1.0 + 21 * (k - 1)).all()
    keeper.close()


# A full disk


@pytest.mark.slow
def test_a_full_disk_is_told_and_outlived(tmp_path, truth):
    with victim(tmp_path, disk=[100, 250]) as process:
        said = told(process)
    assert said["end"] == "complete", said
    assert any("A checkpoint could not be written" in text for text in said["told"])
    assert any("metrics.jsonl could not be written" in text for text in said["told"])
    same_folder(tmp_path, truth[0])
    same(run(tmp_path), truth[1])


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_with_a_sentence_and_the_last_checkpoint(tmp_path, truth):
    with victim(tmp_path, disk=[100, -1]) as process:
        said = told(process)
    assert said["end"].startswith("NotKept: Training has ended after step 400. Its checkpoint")
    assert said["loss"] == [row["loss"] for row in truth[1].log]  # the error carries the model
    assert said["model"] == [x.tolist() for x in params(truth[1].model)]
    assert "call again: training goes on from the checkpoint before" in said["end"]
    assert kept(tmp_path)[-1] in (80, 90, 100)  # what was being written when it filled up is lost
    same(run(tmp_path), truth[1])
    same_folder(tmp_path, truth[0])


def test_the_trainer_is_loaded_without_what_writes_checkpoints():
    code = "import sys, dynlm.train; print('orbax' in str(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
