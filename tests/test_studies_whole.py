"""Whole studies in miniature: every fit, every section, and the model that states came from."""

import json

import numpy as np
import pytest
from test_studies import autoregression

from dynlm import lm, studies
from dynlm._io import BadArgument
from dynlm.studies._openings import openings

FITS = (
    ("diagonal", "euler"),
    ("full", "euler"),
    ("lowrank", "euler"),
    ("diagonal", "local_linear"),
    ("diagonal", "zhang"),
)
TINY = studies.Plan(
    fits=FITS,
    steps=30,
    width=8,
    rank=1,
    batch=16,
    seeds=2,
    horizons=(1, 2),
    mixture_steps=20,
    switching_starts=1,
    scales=(1, 2),
    states=24,
    exponents=20,
    replicas=2,
    lyapunov=20,
    steer=4,
    draws=4,
)
SECTIONS = [
    "order", "worth", "law", "scales", "memory", "residuals", "fields", "density", "passage",
    "stability", "moments",
]  # fmt: skip


@pytest.mark.slow
def test_every_fit_and_every_section(tmp_path):
    done = studies.study(autoregression(11, count=60), None, tmp_path, plan=TINY, quiet=True)
    sections = {one["id"]: one for one in done.results["sections"]}
    assert {id: one["error"] for id, one in sections.items() if "error" in one} == {}
    assert list(sections)[: len(SECTIONS)] == SECTIONS
    scored = [row[0] for row in sections["worth"]["tables"][0]["rows"]]
    others = [f"{a}, {b.replace('_', ' ')}" for a, b in FITS[1:]]
    assert {*others, "Ornstein-Uhlenbeck", "switching, 4 regimes"} < set(scored)
    seeds = sections["worth"]["tables"][1]["rows"]
    assert [row[1] for row in seeds] == [2] * len(FITS) and all(row[2] <= row[3] for row in seeds)
    assert [row[0] for row in sections["law"]["tables"][0]["rows"]] == [seeds[0][0], *others]
    of_seeds = next(x for x in sections["worth"]["findings"] if "over seeds" in x["what"])
    assert of_seeds["value"] > 0 and "over 2 seeds" in of_seeds["note"]
    stability = sections["stability"]
    assert any("learned function" in one["what"] for one in stability["findings"])
    worst = stability["tables"][1]["rows"]
    assert worst and [row[4] for row in worst] == sorted((row[4] for row in worst), reverse=True)
    names = [one["name"] for one in stability["figures"][0]["series"]]
    assert names == ["squared distance", "learned function"]
    best = sections["worth"]["findings"][1]
    assert best["what"] == "gain of the neural SDE over the best baseline"
    # A fit of thirty steps is behind the linear model, which made these data.
    assert best["verdict"] == "below" and done.results["cards"][2]["finding"]["value"] < 0


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    model = lm.load("demo")
    sampling = lm.Sampling(1, budget=18, seed=3)
    folder = tmp_path_factory.mktemp("texts") / "store"
    store = lm.export(
        model, openings(60), folder, sampling=sampling, layers=(3, "final"), quiet=True,
        shares={"train": 0.6, "valid": 0.1, "test": 0.3},
    )  # fmt: skip
    return model, store


MODEL = ("scales", "memory", "residuals", "fields", "density", "passage", "stability", "moments")


@pytest.mark.slow
def test_texts_are_studied_with_their_model(texts, tmp_path):
    model, store = texts
    plan = studies.Plan(**(TINY.to_json() | {"fits": FITS[:1], "seeds": 1, "skip": MODEL}))
    untrained = lm.load("demo", revision="untrained")
    done = studies.study_store(
        store, 3, tmp_path, dim=4, plan=plan, model=model, untrained=untrained, quiet=True
    )
    sections = {one["id"]: one for one in done.results["sections"]}
    assert {id: one["error"] for id, one in sections.items() if "error" in one} == {}
    assert list(sections) == ["order", "worth", "law", "decoding", "causal", "depth"]
    labels = [one["label"] for one in done.results["cards"]]
    assert labels == ["Order in time", "Beyond linear", "What the SDE adds", "Words", "Cause"]
    cause = done.results["cards"][-1]["finding"]
    assert "beyond a step to the mean" in cause["what"] and cause["null"] == 0
    whats = [one["what"] for one in sections["causal"]["findings"]]
    assert any(what.startswith("gain in likelihood of texts") for what in whats)  # steered
    assert "untrained model" in json.dumps(sections["depth"]["figures"])


@pytest.mark.slow
def test_what_does_not_fit_together_is_refused_or_said(texts, tmp_path):
    model, store = texts
    early = lm.load("demo", revision="early")
    with pytest.raises(BadArgument, match="other weights"):
        studies.study_store(store, 3, tmp_path, model=early, quiet=True)
    rows = [np.asarray(store[k].tokens).tolist() for k in range(40)]
    strided = lm.export(model, rows, tmp_path / "strided", layers=(3,), stride=2, quiet=True)
    with pytest.raises(BadArgument, match="stride of 1"):
        studies.study_store(strided, 3, tmp_path, model=model, quiet=True)
    bare = lm.export(model, rows, tmp_path / "bare", layers=(3,), quiet=True)
    skip = (*MODEL, "depth")
    plan = studies.Plan(**(TINY.to_json() | {"fits": FITS[:1], "seeds": 1, "skip": skip}))
    done = studies.study_store(bare, 3, tmp_path / "out", dim=4, plan=plan, model=model, quiet=True)
    sections = {one["id"]: one for one in done.results["sections"]}
    assert "layer `final`" in sections["decoding"]["error"]
    assert "error" not in sections["causal"]  # the inner layer needs no final states
