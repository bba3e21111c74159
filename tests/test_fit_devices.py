"""Fits on four simulated devices, as on one; and in fewer bits."""

import json
import os
import subprocess
import sys

import jax.random as jr
import numpy as np
import pytest
from train_folders import HERE

import dynlm
from dynlm import losses
from dynlm._io import BadArgument


def four(*names):
    """What a process with four devices says, and what it was told by the compiler.

    Which tells it only of what it compiles, and so not of what is kept from an earlier time.
    """
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command = [sys.executable, str(HERE / "train_fitted.py"), *names]
    process = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1]), process.stderr


@pytest.mark.slow
def test_a_fit_on_four_devices_makes_the_curves_of_one():
    names = ["transition", "energy"]
    found, told = four(*names)
    for name in names:
        many, one = found[f"{name} on 4"], found[f"{name} on 1"]
        for key in ("loss", "held_out"):
            np.testing.assert_allclose(many[key], one[key], rtol=2e-4, err_msg=f"{name} {key}")
            assert len(set(one[key])) == 4
    assert "rematerialization" not in told, told
    assert found["work of one of 4"] < 0.4 * found["work of one of 1"]


# A precision that nothing would be computed in


@pytest.mark.parametrize("drift", ["lipschitz", "linear"])
def test_a_precision_that_would_change_nothing_is_refused(drift):
    ys = np.random.default_rng(1).normal(size=(6, 9, 2)).astype(np.float32)
    options = dict(key=jr.key(0), steps=2, every=2, batch=4, window=9, quiet=True)
    spec = dynlm.specs.NeuralSDE(2, drift, on="nothing", width=4, depth=1)
    for loss in (losses.transition_nll, losses.each(losses.zhang)):
        with pytest.raises(BadArgument, match="`precision` is 'bfloat16', and the model has no"):
            dynlm.fit(spec, ys, loss=loss, precision="bfloat16", **options)
    noise = dynlm.specs.NeuralSDE(2, drift, on="state", width=4, depth=1)
    assert dynlm.fit(noise, ys, precision="bfloat16", **options).ended == "steps"
