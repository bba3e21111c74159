"""Folders of runs, for tests: what is in them, and the processes that train there."""

import json
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

from dynlm.train._saved import read_latest

HERE = Path(__file__).parent


def params(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


def same(a, b):
    """Two results with the same bits."""
    assert a.log == b.log
    for one, other in ((a.model, b.model), (a.best, b.best)):
        for x, y in zip(params(one), params(other), strict=True):
            np.testing.assert_array_equal(x, y)


def kept(folder):
    """The steps that there are checkpoints of."""
    return sorted(int(one.name) for one in (folder / "checkpoints").iterdir() if one.suffix == "")


def arrays(folder):
    found = read_latest(folder / "checkpoints")
    assert found is not None
    return found


def same_folder(a, b):
    """Everything the two folders keep of their last step."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    (one, notes), (other, there) = arrays(a), arrays(b)
    assert notes["log"] == there["log"] and one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name], err_msg=name)


def victim(folder, env=None, **settings):
    command = [sys.executable, str(HERE / "train_victim.py")]
    command.append(json.dumps({"folder": str(folder)} | settings))
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True, env=env)


def told(process):
    """What a victim says at its end."""
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    return json.loads(out.splitlines()[-1])


def rows(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0
