"""Where states gather: two heaps that a drift leads to, and one where there is one."""

import dataclasses
import json

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest

from dynlm import studies
from dynlm.report import write_report
from dynlm.studies._flows import CHAIN, FLOW, NEITHER, Flow
from dynlm.studies._sections_density import density_section

PLAN = dataclasses.replace(studies.QUICK, steps=1200, width=16, batch=64, window=16)
COUNT, LENGTH = 160, 32  # of all rows here, so that fits share one program


def simulated(drift, noise, dt=0.5, dim=3, seed=0):
    """An Euler chain in two dimensions, and components beside it that are drawn anew."""
    rng = np.random.default_rng(seed)
    x, out = rng.choice([-1.0, 1.0], size=(COUNT, 2)), []
    for k in range(-20, LENGTH):
        x = x + dt * drift(x) + np.sqrt(dt) * noise * rng.normal(size=x.shape)
        if k >= 0:
            out.append(np.concatenate([x, rng.normal(size=(COUNT, dim - 2))], axis=1))
    return studies.given_paths(np.stack(out, axis=1).astype(np.float32))


def wells(x):
    return np.stack([1.6 * np.tanh(3 * x[:, 0]) - 1.6 * x[:, 0], -x[:, 1]], axis=1)


def named(made, start):
    (one,) = [x for x in made["findings"] if x["what"].startswith(start)]
    return one


@pytest.mark.slow
def test_two_heaps_are_found_and_fit_better_than_one(tmp_path):
    made = density_section(simulated(wells, 0.55), PLAN, jr.key(0), out=tmp_path)
    gain, modes = named(made, "gain of the learned law"), named(made, "number of modes")
    most = named(made, "gain of a histogram")
    assert 0.1 < gain["value"] < most["value"] + 0.1 and most["verdict"] == "above"
    assert gain["verdict"] == "above"
    assert modes["value"] == 2 and modes["null"] == 1
    assert CHAIN in made["trust"] and "these two of 3 components" in made["trust"]
    learned, seen = (np.asarray(one["z"]) for one in made["figures"][0]["panels"])
    learned, seen = learned.sum(axis=0), seen.sum(axis=0)  # over the second component
    assert np.abs(learned - seen).mean() < 0.5 * seen.mean()
    assert learned.max() > 2 * learned[11:13].max()  # the heaps lie side by side
    document = {"format": "dynlm-report-1", "title": "t", "lead": "l", "cards": []}
    assert write_report(document | {"sections": [made]}, tmp_path / "page").exists()
    (fit,) = (tmp_path / "plane").iterdir()
    before = {path: path.stat().st_mtime_ns for path in (fit / "checkpoints").rglob("*")}
    again = density_section(simulated(wells, 0.55), PLAN, jr.key(0), out=tmp_path)
    assert json.dumps(again) == json.dumps(made)  # a fit that is done is read
    assert before and all(path.stat().st_mtime_ns == t for path, t in before.items())


@pytest.mark.slow
def test_one_heap_is_not_fitted_better_than_by_a_gaussian():
    made = density_section(simulated(lambda x: -x, 0.8, seed=1), PLAN, jr.key(0))
    gain = named(made, "gain of the learned law")
    assert gain["verdict"] != "above" and abs(gain["value"]) < 0.02
    assert named(made, "number of modes")["value"] == 1


def test_a_fit_of_two_components_serves_itself_and_one_of_no_known_law_says_nothing():
    given = simulated(lambda x: -x, 0.8, dim=2)
    plan = dataclasses.replace(PLAN, fits=(("diagonal", "local_linear"),), steps=100)
    run = studies.fitted(given, plan, key=jr.key(1), null=False, quiet=True).main
    none = density_section(given, plan, jr.key(0), main=Flow(run, False))
    assert [x["verdict"] for x in none["findings"]] == ["withheld"] and not none["figures"]
    assert NEITHER in none["trust"] and none["asked"].startswith("Of the two components:")
    made = density_section(given, plan, jr.key(0), main=Flow(run, True))
    assert FLOW in made["trust"] and "Nats" in named(made, "entropy production")["sentence"]


@pytest.mark.slow
def test_one_component_is_drawn_as_lines():
    given = simulated(wells, 0.55)
    one = given._replace(**{
        name: rows._replace(paths=eqx.tree_at(lambda p: p.ys, rows.paths, rows.paths.ys[..., :1]))
        for name, rows in (("train", given.train), ("valid", given.valid), ("test", given.test))
    })  # fmt: skip
    made = density_section(one, PLAN, jr.key(0))
    assert (
        named(made, "gain of the learned")["verdict"] == "above"
        and named(made, "number")["value"] == 2
    )
    learned, seen = made["figures"][0]["series"]
    assert np.abs(np.subtract(learned["y"], seen["y"])).mean() < 0.5 * np.mean(seen["y"])
