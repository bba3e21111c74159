"""How often `dynlm.analysis.order` concludes wrongly, on processes whose order in time is known.

    shuffled double well: states of each path in random order          none
    i.i.d.:               standard normal states in two dimensions     none
    OU:                   steps of half a relaxation time              linear
    OU seen through noise: the same, each state measured with an error linear
    double well:          noise .7, steps of half a time unit          nonlinear
    OU in 16 dimensions:  sixteen of them, independent                 linear
    double well of 16:    one component a double well, 15 are OU       nonlinear
    the same, rotated:    by another random rotation in each data set  nonlinear

A data set has 40 documents of 60 steps. All data sets of a case are simulated in one call, under
`vmap`; `order` is NumPy, and judges one after another. Of each case 100 data sets are judged, each
with a seed of its own. Printed is the number of wrong conclusions, and the upper end of the exact
(Clopper-Pearson) 95 % interval of their rate. A wrong conclusion about a double well is a lack of
power; about the others it is an order that is not there.

    python benchmarks/verdicts.py --json --out benchmarks/results/verdicts.json
"""

import fnmatch
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _common import finish, machine, parser, watch

from dynlm import Trajectory, problems, rollout
from dynlm.analysis._exact import clopper_pearson
from dynlm.analysis._order import order

SETS, DOCUMENTS, STATES = 100, 40, 61
WARM = 20  # states before the first that is kept
GAP, SUBSTEPS = 0.5, 25
WANTED = 4  # of 100
POWER = {"double well of 16, rotated": 20}  # a direction that 40 documents do not always show


def simulated(sde: Any, sets: int, *, key: Any) -> np.ndarray:
    """Stationary paths, all sets in one call: (set, document, time, dim)."""
    start, noise = jr.split(key)
    y0s = jr.rademacher(start, (sets * DOCUMENTS, 1), jnp.float32)
    ts = GAP * np.arange(WARM + STATES)
    path = rollout(sde, y0s, ts, key=noise, substeps=SUBSTEPS)
    return np.asarray(path.ys)[:, WARM:].reshape(sets, DOCUMENTS, STATES, 1)


def double_well(sets: int, *, key: Any) -> np.ndarray:
    return simulated(problems.double_well(sigma=0.7).sde, sets, key=key)


def shuffled(sets: int, *, key: Any) -> np.ndarray:
    ys = double_well(sets, key=key)
    seed = int(jr.bits(key))
    turn = np.argsort(np.random.default_rng(seed).random(ys.shape[:3]), axis=2)
    return np.take_along_axis(ys, turn[..., None], axis=2)


def independent(sets: int, *, key: Any) -> np.ndarray:
    return np.asarray(jr.normal(key, (sets, DOCUMENTS, STATES, 2)))


def ou(sets: int, *, key: Any) -> np.ndarray:
    return simulated(problems.ou(sigma=1.0).sde, sets, key=key)


def seen_through_noise(sets: int, *, key: Any) -> np.ndarray:
    path, error = jr.split(key)
    ys = ou(sets, key=path)
    return ys + 0.7 * np.asarray(jr.normal(error, ys.shape))


def many(sets: int, *, key: Any, dim: int = 16) -> np.ndarray:
    """Independent OU processes of variance one, exact from step to step."""
    first, rest = jr.split(key)
    shape = (sets, DOCUMENTS, dim)
    back = jnp.exp(-GAP)

    def step(y: Any, key: Any) -> tuple[Any, Any]:
        return back * y + jnp.sqrt(1 - back**2) * jr.normal(key, shape), y

    _, ys = jax.lax.scan(step, jr.normal(first, shape), jr.split(rest, STATES))
    return np.moveaxis(np.asarray(ys), 0, 2)


def well_of_many(sets: int, *, key: Any) -> np.ndarray:
    well, others = jr.split(key)
    ys = double_well(sets, key=well)
    return np.concatenate([ys / ys.std(), many(sets, key=others, dim=15)], axis=3)


def well_rotated(sets: int, *, key: Any) -> np.ndarray:
    ys, turn = well_of_many(sets, key=key), jr.fold_in(key, 1)
    turns = np.asarray(jr.orthogonal(turn, ys.shape[3], (sets,)))
    return np.einsum("sdti,sij->sdtj", ys, turns)


CASES: dict[str, tuple[Callable[..., np.ndarray], str]] = {
    "shuffled double well": (shuffled, "none"),
    "i.i.d.": (independent, "none"),
    "OU": (ou, "linear"),
    "OU seen through noise": (seen_through_noise, "linear"),
    "double well": (double_well, "nonlinear"),
    "OU in 16 dimensions": (many, "linear"),
    "double well of 16": (well_of_many, "nonlinear"),
    "double well of 16, rotated": (well_rotated, "nonlinear"),
}


def batch(ys: np.ndarray) -> Trajectory:
    """Paths of one data set."""
    ts = np.broadcast_to(GAP * np.arange(ys.shape[1], dtype=ys.dtype), ys.shape[:2])
    leaves = (ts, ys, np.ones(ys.shape[:2], bool))
    one = jax.tree.structure(Trajectory.from_arrays(ys[0]))
    return jax.tree.unflatten(one, jax.device_put(leaves))


def conclusions(name: str, sets: int, seed: int = 0) -> list[str]:
    """The verdict on each data set of a case."""
    make, _ = CASES[name]
    data = make(sets, key=jr.key(seed))
    docs = np.arange(DOCUMENTS)
    return [order(batch(ys), docs, seed=i).verdict.value for i, ys in enumerate(data)]


def wanted(name: str) -> int:
    """How many wrong conclusions of 100 there may be."""
    return POWER.get(name, WANTED)


def measured(name: str, sets: int) -> dict[str, Any]:
    """How often each conclusion was drawn; and prints it."""
    start, truth = time.perf_counter(), CASES[name][1]
    counts = Counter(conclusions(name, sets))
    wrong = sets - counts[truth]
    low, high = clopper_pearson(wrong, sets)
    seconds = time.perf_counter() - start
    print(
        f"{name:26s} {truth:9s} wrong {wrong:3d} of {sets}, rate at most {high:.3f}, "
        f"{seconds / sets:.2f} s a data set"
    )
    return {
        "truth": truth, "sets": sets, "conclusions": dict(counts), "wrong": wrong,
        "rate": wrong / sets, "low": low, "high": high, "level": 0.95, "seconds": seconds,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    args = parser(__doc__).parse_args(arguments)
    if args.dtype != "float32" or args.precision is not None:
        raise SystemExit("verdicts.py judges float32 states. It takes no `--dtype`, `--precision`.")
    others = watch()
    sets = 3 if args.quick else SETS
    chosen = [name for name in CASES if any(fnmatch.fnmatchcase(name, p) for p in args.rows)]
    tables = {name: measured(name, sets) for name in chosen}
    judged = [
        {"table": name, "wanted": wanted(name), "measured": table["wrong"],
         "reached": table["wrong"] <= wanted(name), "comparable": not args.quick}
        for name, table in tables.items()
    ]  # fmt: skip
    setting = {"documents": DOCUMENTS, "states": STATES, "gap": GAP}
    results = {"benchmark": "verdicts", **machine(), "setting": setting}
    return finish(results | {"tables": tables, "targets": judged}, args, others)


if __name__ == "__main__":
    main()
