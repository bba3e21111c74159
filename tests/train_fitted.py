"""Fits on one and on four devices, in a process of its own that has four.

python train_fitted.py LOSS
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import dynlm
from dynlm import losses
from dynlm.train import HeldOut
from dynlm.train._devices import checked_mesh, on_all

NAMES: dict[str, dict[str, Any]] = {
    "transition": dict(loss=losses.transition_nll),
    "energy": dict(loss=losses.energy_score, simulate=dynlm.rollout, draws=4),
}


def main(names: list[str]) -> None:
    """Prints the curve of each loss on four devices and on one."""
    ys = np.cumsum(np.random.default_rng(0).normal(size=(40, 12, 2)), axis=1).astype(np.float32)
    data, held = ys[8:], ys[:11]
    spec = dynlm.specs.NeuralSDE(2, width=8, depth=1, on="nothing", scale=1.0)
    found: dict[str, Any] = {}
    for name in names:
        for devices in (4, 1):
            mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
            run = dynlm.fit(
                spec, data, key=jr.key(1), held_out=held, mesh=mesh, steps=8, every=2, chunk=2,
                batch=8, window=6, quiet=True, **NAMES[name],
            )  # fmt: skip
            curves = {key: [row[key] for row in run.log] for key in ("loss", "held_out")}
            found[f"{name} on {devices}"] = curves
    for devices in (4, 1):
        found[f"work of one of {devices}"] = work(devices)
    print(json.dumps(found), flush=True)


def work(devices: int) -> float:
    """Operations of one of so many devices for a held-out loss."""
    mesh = checked_mesh(jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices]), 8)
    items = on_all(np.ones((32, 16), np.float32), mesh)
    held = HeldOut(lambda model, x, key: jnp.mean(jnp.tanh(x @ model)), items, jr.key(0), 8, mesh)
    model = on_all(jnp.ones((16, 64)), mesh)
    cost: Any = jax.jit(lambda model: held(model)).lower(model).compile().cost_analysis()
    return cost["flops"]


if __name__ == "__main__":
    main(sys.argv[1:])
