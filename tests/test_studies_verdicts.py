"""What whole studies claim of processes without order, and of linear ones: nothing beyond that."""

import math

import numpy as np
import pytest

from dynlm import studies

PLAN = studies.Plan(
    fits=(("diagonal", "euler"),),
    steps=100,
    width=16,
    batch=32,
    seeds=1,
    horizons=(),
    mixture_steps=50,
    switching_starts=1,
    scales=(1, 2, 4),
    mixture=False,
    states=64,
    exponents=100,
    replicas=4,
    skip=("coarse",),
)
# Sections that test against no order, and which verdicts are claims there: of a gain only "above".
OF_ORDER = (
    (("memory",), ("above", "below")),
    (("fields", "stability"), ("above", "below")),
    (("order", "worth"), ("above",)),
)
OF_FITS = ("residuals", "fields", "passage", "stability", "moments")


def linear(rng, count=160, length=32):
    matrix = np.array([[0.8, -0.2, 0.0], [0.2, 0.7, 0.1], [0.0, 0.0, 0.4]])
    x, out = rng.normal(size=(count, 3)), []
    for _ in range(20 + length):
        out.append(x)
        x = x @ matrix.T + 0.6 * rng.normal(size=(count, 3))
    ys = np.stack(out[20:], axis=1)
    return ys / ys.std(axis=(0, 1))


def paths(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "independent":
        return rng.normal(size=(160, 32, 3)).astype(np.float32)
    ys = linear(rng)
    if kind == "shuffled":
        ys = np.stack([rng.permutation(row) for row in ys])
    return ys.astype(np.float32)


def studied(kind, folder):
    done = studies.study(paths(kind, 0), None, folder, plan=PLAN, quiet=True)
    sections = {one["id"]: one for one in done.results["sections"]}
    assert not [one["error"] for one in sections.values() if "error" in one]
    return done.results, sections


def of_tests(section):
    return [one for one in section["findings"] if one["verdict"] in ("above", "below", "level")]


def most_by_chance(count, rate=0.05, surely=0.999):
    """So many of `count` findings, each wrong at that rate, are not exceeded but once in 1,000."""
    total = 0.0
    for k in range(count + 1):
        total += math.comb(count, k) * rate**k * (1 - rate) ** (count - k)
        if total >= surely:
            return k
    return count


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["independent", "shuffled"])
def test_no_section_claims_dynamics_of_states_without_order(kind, tmp_path):
    results, sections = studied(kind, tmp_path)
    for ids, kinds in OF_ORDER:
        found = [one for id in ids for one in of_tests(sections[id])]
        claims = [one["sentence"] for one in found if one["verdict"] in kinds]
        assert len(found) > 5 and len(claims) <= most_by_chance(len(found)), claims
    of_fits = [one for id in ("fields", "stability") for one in of_tests(sections[id])]
    assert sum("of the same fit to states in random order" in x["sentence"] for x in of_fits) >= 10
    assert "No dynamics beyond independent states" in sections["order"]["found"][0]
    assert all(card["finding"]["verdict"] != "above" for card in results["cards"])
    for id in OF_FITS:
        assert sections[id]["found"][0].startswith("Nothing beyond independent states was found")
    assert not sections["worth"]["found"][0].startswith("Beyond linear")
    assert not any("VAR(1)" in one["what"] for one in sections["stability"]["findings"])


@pytest.mark.slow
def test_no_section_claims_more_than_linear_of_a_linear_process(tmp_path):
    results, sections = studied("linear", tmp_path)
    assert "A linear model suffices" in sections["order"]["found"][0]
    order, beyond, adds = (one["finding"]["verdict"] for one in results["cards"])
    assert order == "above" and beyond != "above" and adds != "above"
    assert not sections["worth"]["found"][0].startswith("Beyond linear")
    gains = [one for one in of_tests(sections["worth"]) if one["verdict"] == "above"]
    gains += [one for one in of_tests(sections["order"])[1:] if one["verdict"] == "above"]
    assert not gains
    older = [one for one in of_tests(sections["memory"]) if one["what"].startswith("gain of")]
    assert older and not [one for one in older if one["verdict"] == "above"]
    for id in OF_FITS:
        assert "not predict held-out documents better than a linear" in sections[id]["found"][0]
    # Its order is seen: by the strength of the pull, and by how fast neighbours meet.
    verdicts = {one["what"]: one["verdict"] for one in of_tests(sections["fields"])}
    assert verdicts["pull to the mean in a step"] == "below"
    steep = {one["what"]: one for one in sections["stability"]["findings"]}
    assert steep["mean local Lipschitz constant of the drift"]["verdict"] == "below"
    assert steep["mean local Lipschitz constant of the noise"]["verdict"] != "above"
    assert steep["largest Lyapunov exponent of VAR(1)"]["value"] < 0
