"""Training on four simulated devices, and by two processes: as on one."""

import os
import signal
import socket
import time

import numpy as np
import pytest
from train_folders import arrays, kept, rows, same_folder, told, victim
from train_victim import run

from dynlm._io import BadArgument, locked
from dynlm.train._devices import checked_mesh


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """On one device: its folder, and the curve of its losses."""
    folder = tmp_path_factory.mktemp("alone")
    found = run(folder, steps=200)
    return folder, found


def curve(log, name="loss"):
    return [row[name] for row in log]


def four(folder, **settings):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    with victim(folder, env=env, steps=200, **settings) as process:
        return told(process)


@pytest.mark.slow
def test_four_devices_make_the_curve_of_one(tmp_path, alone):
    for source in ("memory", "streamed"):
        said = four(tmp_path / source, source=source)
        assert said["end"] == "complete", said
        np.testing.assert_allclose(said["loss"], curve(alone[1].log), rtol=2e-4)
    (found, notes), (there, _) = arrays(tmp_path / "memory"), arrays(alone[0])
    assert notes["facts"]["devices"] == 4 and kept(tmp_path / "memory")[-1] == 200
    np.testing.assert_allclose(
        curve(notes["log"], "held_out"), curve(alone[1].log, "held_out"), rtol=2e-3
    )
    for name, x in found.items():
        np.testing.assert_allclose(x, there[name], rtol=2e-3, atol=2e-4)
    # A run may go on with fewer devices, and says that its bits will be others.
    with pytest.warns(UserWarning, match="`devices` is 4 there, 1 here. It goes on, but not with"):
        longer = run(tmp_path / "memory", steps=230)
    np.testing.assert_allclose(curve(longer.log), curve(run(None, steps=230).log), rtol=2e-3)


def two(folder, ask=None, **settings):
    """Two processes train together; `ask` does something to the second on its way."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        where = f"localhost:{one.getsockname()[1]}"
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = [
        victim(folder, env=env, several=[where, k], steps=200, **settings) for k in range(2)
    ]
    try:
        if ask is not None:
            ask(processes[1])
        return [told(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_two_processes_make_the_curve_of_one_and_stop_and_go_on_together(tmp_path, alone):
    whole = two(tmp_path / "whole")
    assert [said["end"] for said in whole] == ["complete"] * 2, whole
    assert whole[0]["loss"] == whole[1]["loss"]
    np.testing.assert_allclose(whole[0]["loss"], curve(alone[1].log), rtol=2e-4)
    folder = tmp_path / "stopped"

    def ask(process):
        end = time.monotonic() + 120
        while rows(folder) < 5 and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)

    said = two(folder, ask, slow=True)
    assert said[0]["end"] == said[1]["end"], said
    assert said[0]["end"].startswith("Interrupted: Stopped after step "), said
    step = int(said[0]["end"].split()[4].rstrip(":"))
    assert 50 <= step < 200 and kept(folder)[-1] == step
    with locked(folder / "checkpoints"):
        said = two(folder)  # the second does not wait for the first
    assert "Another process writes to" in said[0]["end"], said
    assert "The first process could not begin to train in" in said[1]["end"], said
    again = two(folder, source="memory")
    assert [said["end"] for said in again] == ["complete"] * 2, again
    assert again[0]["loss"] == whole[0]["loss"]
    same_folder(folder, tmp_path / "whole")


class Four:
    """What is asked of a mesh of four devices; there is one here."""

    axis_names, shape = ("data",), {"data": 4}


def test_a_batch_that_the_devices_cannot_share_is_refused(unchecked):
    sentence = "A batch has 6 items and the mesh 4 devices along 'data'. Make the size of the batch"
    with pytest.raises(BadArgument, match=sentence):
        checked_mesh(Four(), 6)
