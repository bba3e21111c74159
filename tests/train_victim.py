"""Training in a process of its own, which is killed, stopped, out of disk, or one of several.

python train_victim.py '{"folder": "run", "source": "memory", ...}'
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from dynlm import train

SETTINGS: dict[str, Any] = json.loads(sys.argv[1]) if __name__ == "__main__" else {}
if SETTINGS.get("several"):  # before anything is computed
    where, number = SETTINGS.pop("several")
    jax.distributed.initialize(where, 2, number)

SIZE, STEPS = 12, 400
KEY = jr.key(11)
RNG = np.random.default_rng(6)
X = RNG.normal(size=(90, 3)).astype("f4")
Y = np.sin(X.sum(axis=1)).astype("f4")
POISONED = np.where(np.arange(90) == 41, np.nan, Y).astype("f4")


def loss(model: Any, batch: Any, key: Any) -> Any:
    x, y = batch
    noise = 0.01 * jr.normal(key, y.shape)
    return jnp.mean((jax.vmap(model)(x)[:, 0] - y - noise) ** 2)


TRAINER = train.trainer(loss, optax.adam(1e-2), average=0.9)
HELD_OUT = train.HeldOut(loss, (X[:31], Y[:31]), jr.key(5), 10)
MODEL = eqx.nn.MLP(3, 1, 8, 1, key=jr.key(4))


class Items:
    """The same batches as in memory, by step; `after` is called with each."""

    def __init__(self, memory: train.InMemory, items: Any, after: Any = None) -> None:
        self.memory, self.items, self.after = memory, items, after

    def at(self, step: int) -> Any:
        if self.after is not None:
            self.after(step)
        numbers = self.memory.payload(range(step, step + 1))[0]
        return jax.tree.map(lambda x: x[numbers], self.items)


def run(folder: Any, source: str = "memory", after: Any = None, **settings: Any) -> train.Trained:
    """The run that is to be interrupted; one item in it is poisoned."""
    items = X, POISONED
    hosts = dict(host=jax.process_index(), hosts=jax.process_count())
    made: Any = train.InMemory(items, SIZE, seed=3, **hosts)
    if source == "streamed":
        made = train.Streamed(Items(made, items, after), SIZE)
    usual: dict[str, Any] = dict(key=KEY, steps=STEPS, every=10, chunk=5, save_seconds=0.0)
    usual |= dict(evaluate=HELD_OUT, quiet=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not change the model")
        return train.fit(TRAINER, MODEL, made, folder=folder, **usual | settings)


class Disk:
    """Is full between two steps: no file may be longer than a hundred bytes."""

    def __init__(self, full: int, free: int) -> None:
        self.full, self.free = full, free

    def write(self, metrics: dict[str, Any]) -> None:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        if metrics["step"] == self.full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
        if metrics["step"] == self.free:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    def close(self) -> None:
        pass


class Slow:
    """Takes its time for each row, so that a run is long enough to be hit in."""

    def write(self, metrics: dict[str, Any]) -> None:
        time.sleep(0.02)

    def close(self) -> None:
        pass


def main(settings: dict[str, Any]) -> None:
    disk, slow = settings.pop("disk", None), settings.pop("slow", False)
    settings["writers"] = [Disk(*disk)] if disk else [Slow()] if slow else []
    folder = Path(settings.pop("folder"))
    print("begins", flush=True)
    told: list[str] = []
    warnings.showwarning = lambda message, *rest: told.append(str(message))  # noqa: ARG005
    warnings.simplefilter("always")
    try:
        found = run(folder, **settings)
        end = "complete"
    except (KeyboardInterrupt, ValueError, OSError) as error:
        end, found = f"{type(error).__name__}: {error}", getattr(error, "trained", None)
    said: dict[str, Any] = {"end": end, "told": told, "loss": [], "model": None}
    if found is not None:
        said["loss"] = [row["loss"] for row in found.log]
        said["model"] = [x.tolist() for x in jax.tree.leaves(eqx.filter(found.model, eqx.is_array))]
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(SETTINGS)
