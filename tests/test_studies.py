"""Studies of processes that are known: what they conclude, and that every figure stands beside."""

import dataclasses
import json

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import dynlm
from dynlm import analysis, studies
from dynlm._io import BadArgument
from dynlm.cli import main
from dynlm.store import from_arrays, write_revisions
from dynlm.studies._budget import Budget
from dynlm.studies._given import coarser, given_paths
from dynlm.studies._sections_groups import grouped, slope
from dynlm.studies._study import _again

SMALL = dataclasses.replace(
    studies.QUICK, steps=60, width=16, scales=(1, 4), exponents=40, replicas=2, states=32
)


def double_well(seed, count=80, length=40):
    """A double well seen at steps of one half, in one dimension of unit variance."""
    rng = np.random.default_rng(seed)
    x = np.where(np.arange(count) % 2, 1.0, -1.0)
    out = []
    for _ in range(length):
        out.append(x)
        for _ in range(25):
            x = x + 0.02 * (x - x**3) * 2 + 0.7 * np.sqrt(0.02) * rng.normal(size=count)
    ys = np.stack(out, axis=1)[:, :, None]
    return ((ys - ys.mean()) / ys.std()).astype(np.float32)


def autoregression(seed, count=80, length=40, dim=2):
    rng = np.random.default_rng(seed)
    matrix = 0.8 * np.array([[0.8, -0.4], [0.4, 0.8]])
    x, out = rng.normal(size=(count, dim)), []
    for _ in range(length):
        out.append(x)
        x = x @ matrix.T + 0.7 * rng.normal(size=(count, dim))
    return np.stack(out, axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """One study of a double well, whose parts the tests look at."""
    folder = tmp_path_factory.mktemp("well")
    plan = dataclasses.replace(SMALL, steps=300, fits=(("diagonal", "euler"),))
    return studies.study(double_well(0), None, folder, plan=plan, quiet=True)


@pytest.mark.slow
def test_a_double_well_is_nonlinear_and_the_fit_gains(studied):
    sections = {one["id"]: one for one in studied.results["sections"]}
    assert not [one for one in sections.values() if "error" in one]
    assert "no linear model holds" in sections["order"]["found"][0]
    assert studied.results["cards"][1]["finding"]["verdict"] == "above"
    points = sections["stability"]["tables"][0]["rows"]
    assert len(points) >= 3  # two wells and the top between them
    assert {row[2] for row in points} == {"yes", "no"}
    assert json.loads((studied.page.parent / "results.json").read_text())["cards"]


@pytest.mark.slow
def test_every_claim_stands_beside_its_null(studied):
    for one in studied.results["sections"]:
        for found in one["findings"]:
            if found["verdict"] in ("above", "below", "level"):
                assert found["null"] is not None and found["low"] <= found["high"]
                if found["verdict"] == "level":
                    assert "not told apart" in found["sentence"] or found["note"]
            if found["verdict"] == "withheld":
                assert found["note"] and found["value"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda x: x, "A linear model suffices as far as 64 documents in 2 dimensions can show"),
        ("shuffled", "No dynamics beyond"),
    ],
)
def test_what_is_linear_or_shuffled_is_called_so(make, word):
    ys = autoregression(1)
    if make == "shuffled":
        rng = np.random.default_rng(2)
        ys = np.stack([rng.permutation(row) for row in ys])
    given = studies.given_paths(ys)
    from dynlm.studies._sections_process import order_section

    assert word in order_section(given, SMALL)[0]["found"][0]


@pytest.mark.parametrize("mixture", [False, True])
def test_no_scale_is_called_fair_where_no_mixture_was_fitted(mixture, monkeypatch):
    """Left out by the plan, or withheld where there are too few steps for densities."""
    monkeypatch.setattr("dynlm.analysis._diffusive.LEAST", 10**6)
    from dynlm.studies._sections_scales import scales_section

    rng = np.random.default_rng(5)
    x, out = rng.normal(size=(150, 1)), []
    for _ in range(60):
        x = 0.8 * x + 0.6 * rng.normal(size=x.shape)
        out.append(x)
    given = studies.given_paths(np.stack(out, axis=1).astype(np.float32))
    plan = dataclasses.replace(SMALL, mixture=mixture, scales=(1, 2))
    made, fair = scales_section(given, plan, jr.key(0))
    assert fair is None
    said = made["found"][0]
    assert "At 1 token the tests of moments and tails are passed" in said, made["tables"]
    assert "no scale is called fair" in said and ("need 1000000" in said) == mixture
    assert "fair model" not in said
    told = [one["what"] for one in made["findings"]]
    assert told and all(what.endswith(" at 1 step") for what in told)
    strided = made["tables"][1]["rows"]
    assert [row[0] for row in strided] == ["1 step", "2 steps"]
    assert {row[1] for row in strided} <= {"passed", "jumps", "undecided"}
    assert any(one.startswith("With tokens left out") for one in made["found"])


def test_documents_stay_whole_and_are_divided():
    docs = np.repeat(np.arange(30), 2)
    given = studies.given_paths(autoregression(3, count=60), docs)
    parts = [set(part.docs.tolist()) for part in (given.train, given.valid, given.test)]
    assert set.union(*parts) == set(range(30)) and sum(map(len, parts)) == 30
    assert given.dim == 2 and given.about["documents"] == 30
    assert all(np.array_equal(np.unique(p.docs, return_counts=True)[1], [2] * len(set(p.docs)))
               for p in (given.train, given.valid, given.test))  # fmt: skip


def test_a_store_without_documents_to_hold_out_is_refused(tmp_path):
    walks = [(y, np.arange(40.0)) for y in autoregression(4, count=3)]
    store = from_arrays(tmp_path / "s", walks, shares={"train": 1.0}, quiet=True)
    with pytest.raises(BadArgument, match="none for valid, test"):
        studies.given_store(store)
    with pytest.raises(BadArgument, match="`layer` is 7"):
        studies.given_store(store, 7)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"fits": ()}, "`fits` is empty"),
        ({"fits": (("round", "euler"),)}, "diffusion 'round'"),
        ({"fits": (("full", "least squares"),)}, "loss 'least squares'"),
        ({"fits": (("full", "euler"),) * 2}, "twice"),
        ({"steps": 0}, "`steps` is 0"),
        ({"replicas": 1}, "`replicas` is 1"),
        ({"nulls": -1}, "`nulls` is -1"),
        ({"scales": (0, 1)}, "`scales`"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change, word):
    with pytest.raises(BadArgument, match=word):
        dataclasses.replace(SMALL, **change)


def test_the_budget_counts_what_is_compiled(capsys):
    import jax

    budget = Budget(quiet=False)
    with budget.stage("one"):
        jax.jit(lambda x: jnp.sin(x) + len("a new program"))(jnp.ones(3)).block_until_ready()
    with budget.stage("two"):
        pass
    one, two = budget.stages
    assert one.compile_seconds > 0 and two.compile_seconds == 0 and two.compiled == 0
    assert "in all" in budget.table() and "[1] one" in capsys.readouterr().err


def test_groups_are_values_or_quarters():
    labels = [label for label, _ in grouped(np.array([0.0, 4.0, 4.0, 1.0]))]
    assert labels == ["0", "1", "4"]
    quarters = grouped(np.arange(100.0))
    assert [len(at) for _, at in quarters] == [25, 25, 25, 25]
    assert sorted(np.concatenate([at for _, at in quarters])) == list(range(100))


def test_the_slope_of_a_gain_on_a_score_is_held_as_often_as_it_says():
    """Gains .3 + .2 x of documents of unequal length: the truth is .2 times the spread of x."""
    rng, held = np.random.default_rng(3), 0
    docs = np.repeat(np.arange(60), 2)
    for trial in range(200):
        x = rng.normal(2.0, 3.0, 60)
        under = rng.integers(20, 60, 120).astype(float)
        over = under * (0.3 + 0.2 * x[docs]) + np.sqrt(under) * rng.normal(size=120)
        found = slope("score", x[docs], docs, over, under, trial)
        u = np.bincount(docs, under)
        spread = np.sqrt(np.cov(x, aweights=u, ddof=0))
        assert found.low is not None and found.high is not None
        held += found.low <= 0.2 * spread <= found.high
    assert held >= 180
    same = slope("score", np.ones(120), docs, over, under, 0)
    assert same.value is None and "does not vary" in same.note


@pytest.mark.slow
def test_the_study_at_a_coarser_scale_is_of_averaged_states(unchecked):
    given = given_paths(autoregression(12))
    skip = ("memory", "residuals", "fields", "density", "passage", "stability", "moments")
    made = _again(given, dataclasses.replace(SMALL, steps=20, skip=skip), 4, None)
    assert [one["id"] for one in made] == ["coarse-order", "coarse-worth", "coarse-law"]
    assert not [one["error"] for one in made if "error" in one]
    assert all("averaged over 4" in one["title"] for one in made)
    ids = [figure["id"] for one in made for figure in one["figures"]]
    assert ids and all(id.endswith("-coarse") for id in ids)
    states = coarser(given, 4, SMALL.burn)
    truth = analysis.order(states.train.paths, states.train.docs, seed=0, burn=0)
    assert made[0]["findings"][0]["value"] == truth.findings[0].value


@pytest.mark.slow
def test_the_command_studies_a_store_by_its_scores(tmp_path, capsys):
    """Documents of score 1 are an autoregression, those of 0 are independent states."""
    ys, rng = autoregression(5, count=120), np.random.default_rng(6)
    score = np.arange(120) % 2
    ys[score == 0] = rng.normal(size=ys[score == 0].shape).astype(np.float32)
    series = [(y, np.arange(float(len(y)))) for y in ys]
    columns = {"score": score.tolist(), "length": [float(len(y)) for y in ys]}
    from_arrays(tmp_path / "s", series, columns=columns,
                shares={"train": 0.6, "valid": 0.1, "test": 0.3}, quiet=True)  # fmt: skip
    arguments = ["study", str(tmp_path / "s"), "--dim", "2", "--out", str(tmp_path / "out")]
    main([*arguments, "--by", "score", "length", "--quick", "--steps", "40", "--json", "--quiet"])
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    groups = next(one for one in results["sections"] if one["id"] == "groups")
    assert "error" not in groups
    none, some = groups["tables"][0]["rows"]
    assert (none[0], some[0]) == ("0", "1") and none[1] + some[1] == 36
    assert some[2]["low"] > 0.1 > none[2]["high"]  # the linear model gains where there is order
    assert groups["findings"][0]["verdict"] == "level" or groups["findings"][0]["value"] > 0
    other = next(one for one in results["sections"] if one["id"] == "groups-2")
    assert "does not vary" in other["findings"][0]["note"]  # all documents are of one length
    with pytest.raises(SystemExit):
        main([*arguments, "--by", "grade", "--quick", "--quiet"])
    assert "`--by` is 'grade'. The store has score, length." in capsys.readouterr().err


def test_the_command_refuses_before_it_makes_a_folder(tmp_path, capsys):
    series = [(y, np.arange(40.0)) for y in autoregression(4, count=20)]
    names = ["a", "b"]
    for folder in ("one", "all/a", "all/b"):
        from_arrays(tmp_path / folder, series, quiet=True)
    write_revisions(tmp_path / "all", names)
    out = ["--out", str(tmp_path / "out"), "--quick", "--quiet"]
    for store, more, word in (
        ("one", ["--layer", "7"], "'7'. The store has the layers"),
        ("all", ["--layer", "7"], "'7'. The store has the layers"),
        ("all", ["--model", "demo", "--revision", "early"], "each of the revision that it is"),
        ("all", ["--untrained", "demo@untrained"], "goes with `--model`"),
    ):
        with pytest.raises(SystemExit):
            main(["study", str(tmp_path / store), *more, *out])
        assert word in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_front_door_loads_studies_late():
    assert dynlm.studies is studies and dynlm.analysis.order and dynlm.report.write_report


@pytest.mark.slow
def test_stores_of_several_models_are_studied_side_by_side(tmp_path, capsys):
    """The second store is the first turned by a rotation; the third has states in random order."""
    ys, rng = autoregression(8, count=60), np.random.default_rng(9)
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    sets = {"a": ys, "turned": ys @ turn.T, "mixed": np.stack([rng.permutation(y) for y in ys])}
    stores = {}
    for name, rows in sets.items():
        series = [(y.astype(np.float32), np.arange(float(len(y)))) for y in rows]
        stores[name] = from_arrays(tmp_path / name, series, quiet=True)
    plan = dataclasses.replace(
        SMALL, steps=30, skip=("scales", "stability", "fields", "density", "moments")
    )
    done = studies.study_revisions(stores, None, tmp_path / "out", dim=2, plan=plan, quiet=True)
    assert done.page.exists() and (tmp_path / "out" / "turned" / "report.html").exists()
    sections = {one["id"]: one for one in done.results["sections"]}
    first, second = sections["alike"]["findings"]
    assert first["value"] == pytest.approx(1.0, abs=1e-3) and first["verdict"] == "above"
    assert second["value"] < 0.2
    order = sections["of-order"]
    of_linear = next(one for one in order["findings"] if "gain of a linear model" in one["what"])
    assert "mixed less a" in of_linear["what"] and of_linear["verdict"] == "below"
    assert "by chance" in order["found"][0]
    cards = {one["label"]: one["finding"] for one in done.results["cards"]}
    assert cards["Order in time"]["verdict"] == "below"
    assert cards["Order in time"]["what"].endswith(": mixed less a")
    turned = next(
        one for one in sections["beside"]["findings"] if one["what"].endswith(": turned less a")
    )
    assert turned["verdict"] == "level"  # a rotation changes nothing
    labels = [row[0] for row in sections["beside"]["tables"][0]["rows"]]
    assert labels == ["Order in time", "Beyond linear", "What the SDE adds"]
    with pytest.raises(BadArgument, match="two or more"):
        studies.study_revisions({"a": stores["a"]}, None, tmp_path / "one")
