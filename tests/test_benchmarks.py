"""The benchmarks run, in sizes of no interest, with the rows that every installation has."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NOT_THERE = "not installed: torch"
OURS, COUNTER = "dynlm.rollout", "diffrax, CounterBrownianPath"


class WithoutTorch:
    """An import hook: `None` in `sys.modules` would trip those who look for PyTorch there."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)


@pytest.fixture
def importing(monkeypatch):
    """Imports a benchmark by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for path in BENCHMARKS.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def script(importing, monkeypatch):
    """The same where PyTorch is not installed."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [WithoutTorch(), *sys.meta_path])
    return importing


def run(module: ModuleType, tmp_path: Path, capsys, *options: str) -> tuple[dict, str]:
    """The results of `main`, which its file and its last line repeat, and what it printed."""
    out = tmp_path / "results.json"
    files = ["--json", "--out", str(out)]
    results = module.main(["--quick", "--repeat", "2", *files, *options])
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1]) == json.loads(out.read_text())
    assert json.loads(out.read_text())["tables"] == results["tables"]
    for name in ("device", "cpus", "versions", "load_at_start", "cpu_share_of_other_programs"):
        assert name in results
    return results, printed


def was_timed(row: dict) -> bool:
    return len(row["later_ms"]) == 2 and 0 < row["min_ms"] <= row["median_ms"]


@pytest.mark.slow
def test_rollout_is_measured_beside_its_peers_and_all_are_right(script, tmp_path, capsys):
    rows = (OURS, COUNTER, "no noise*", "numpy loop", "torch loop", "torchsde.sdeint")
    plot = tmp_path / "bars.png"
    options = ["--plot", str(plot), "--rows", *rows]
    results, printed = run(script("rollout"), tmp_path, capsys, *options)
    assert plot.read_bytes().startswith(b"\x89PNG")
    for table in results["tables"].values():
        for name in (OURS, COUNTER, "numpy loop"):
            assert was_timed(table[name]) and table[name]["path_steps_per_s"] > 0
            errors = [abs(x) for key, x in table[name].items() if key.endswith("standard_errors")]
            assert len(errors) == 2 and max(errors) < 5, (name, table[name])
        assert table[OURS]["memory_bytes"] > 0 and table["numpy loop"]["memory_bytes"] is None
        assert table["torch loop"] == table["torchsde.sdeint"] == {"not_run": NOT_THERE}
        assert table["no noise: the scan with dW = sqrt(dt)"].keys().isdisjoint({"failed"})
    assert results["tables"]["neural"][OURS]["roofline_share"] > 0
    assert "".join(printed.splitlines()[:-1]).count(NOT_THERE) == 4
    verdicts = {(found["table"], found["peer"]): found for found in results["targets"]}
    assert verdicts["linear", "numpy loop"]["reached"] in (True, False)
    assert verdicts["neural", "torch loop"]["reached"] is None
    assert not any(found["comparable"] for found in results["targets"])


@pytest.mark.slow
def test_gradients_agree_where_the_noise_is_the_same(script, tmp_path, capsys):
    reversible = f"{OURS}, ReversibleHeun, *"
    rows = (OURS, reversible, COUNTER, "lax.scan*", "torch*")
    results, printed = run(script("gradient"), tmp_path, capsys, "--rows", *rows)
    ito = results["tables"]["depth 1, 32 paths"]
    assert was_timed(ito[COUNTER]) and ito[COUNTER]["gradient_distance_from_ours"] < 1e-5
    assert "gradient_distance_from_ours" not in ito["lax.scan, jax.random.normal a step"]
    heun = results["tables"]["reversible, depth 1, 32 paths"]
    kept = heun[f"{OURS}, ReversibleHeun, Checkpointed"]
    assert kept["gradient_distance_from_ours"] < 1e-5
    for row in [*ito.values(), *heun.values()]:
        if row != {"not_run": NOT_THERE}:
            assert abs(row["loss_error_in_standard_errors"]) < 5 and row["gradient_norm"] > 0
    assert ito["torch loop"] == {"not_run": NOT_THERE}
    assert NOT_THERE in printed and "8x diffrax, VirtualBrownianTree: not measured" not in printed


@pytest.mark.slow
def test_steps_of_training_are_the_same_steps_in_every_row(script, tmp_path, capsys):
    ours, by_hand, drawn = "dynlm, a chunk of fit", "JAX by hand", "mmd, 1 draw"
    rows = (ours, by_hand, COUNTER, drawn, "torch*", "matmul*", "dynlm.train.fit", "one lax.scan*")
    results, printed = run(script("train"), tmp_path, capsys, "--rows", *rows)
    tables = results["tables"]
    assert set(tables) == {"transitions", "paths, depth 1", "scores", "fit"}
    for name in (ours, by_hand):
        row = tables["transitions"][name]
        assert was_timed(row) and row["transitions_per_s"] > 0 and row["roofline_share"] > 0
        assert max(row["difference_from_numpy"], row["largest_difference_from_ours"]) < 1e-5
    assert tables["transitions"]["torch"] == {"not_run": NOT_THERE}
    paths = tables["paths, depth 1"]
    assert was_timed(paths[COUNTER]) and paths[COUNTER]["largest_difference_from_ours"] < 1e-4
    assert abs(paths[ours]["loss_error_in_standard_errors"]) < 5
    assert paths["torchsde.sdeint_adjoint"] == {"not_run": NOT_THERE}
    assert tables["scores"][drawn]["finite"] and tables["scores"][drawn]["steps_per_s"] > 0
    whole, bare = tables["fit"].values()
    assert whole["largest_difference_of_parameters"] == 0.0
    assert bare["largest_difference_of_parameters"] < 1e-5 and bare["overhead_share"] == 0.0
    verdicts = {found["peer"]: found for found in results["targets"]}
    assert verdicts["roofline"]["reached"] in (True, False)
    assert verdicts["torchsde.sdeint_adjoint"]["reached"] is None and NOT_THERE in printed


def test_a_row_that_trains_something_else_is_a_failure(script):
    tables = script("_train_tables")
    check = tables.step_by_step(first_loss=2.0)
    ours, other = ([2.0, 1.5], [3.0, 3.0]), ([2.0, 1.5], [3.1, 3.1])
    rows = {
        name: check(name, out) | {"median_ms": 1.0}
        for name, out in {tables.OURS: ours, "right": ours, "wrong": other}.items()
    }
    found = tables.refused(rows)
    assert "failed" not in found[tables.OURS] and "failed" not in found["right"]
    assert "off by 3.3e-02" in found["wrong"]["failed"] and "median_ms" not in found["wrong"]


@pytest.mark.slow
@pytest.mark.parametrize("name, curves", [("rollout", 4), ("train", 3)])
def test_scaling_fits_a_slope_to_each_curve(script, name, curves, tmp_path, capsys):
    results, printed = run(script(name), tmp_path, capsys, "--scaling", "--rows", "none")
    assert len(results["scaling"]) == curves
    for curve in results["scaling"].values():
        assert all(was_timed(row) for row in curve["rows"].values())
        assert f"slope {curve['slope']:.2f}" in printed


def test_a_failure_is_a_row_and_no_target_is_met_by_it(script, capsys):
    timing = script("_rows")

    def breaks() -> None:
        raise MemoryError("no room\nat all")

    builds = {
        "fast": lambda: timing.Run(lambda: 1.0),
        "fails": lambda: timing.Run(breaks),
        "absent": "needs a GPU",
        "cannot be made": lambda: breaks(),
    }
    seen = []
    rows = timing.compare(builds, lambda *found: seen.append(found) or {}, repeat=3, limit=1.0)
    assert seen == [("fast", 1.0)] and len(rows["fast"]["later_ms"]) == 3
    assert rows["fails"] == rows["cannot be made"] == {"failed": "MemoryError: no room"}
    assert rows["absent"] == {"not_run": "needs a GPU"}
    targets = tuple(timing.Target("t", peer, 2.0, ours="fast") for peer in ("fails", "absent"))
    found = timing.judge(targets, {"t": rows}, comparable=True)
    timing.show("a table", rows, "fast")
    printed = capsys.readouterr().out
    assert [target["reached"] for target in found] == [None, None]
    assert "failed: MemoryError: no room" in printed and "needs a GPU" in printed
    assert printed.count("not measured") == 2


def test_a_target_counts_the_fastest_of_its_peers(script):
    timing = script("_rows")
    times = {"ours": [1.0, 2.0, 1.0], "slow": [9.0, 9.0, 9.0], "quick": [2.5, 3.0, 2.5]}
    rows = {
        name: {"later_ms": later, "median_ms": sorted(later)[1]} for name, later in times.items()
    }
    rows["ours"]["roofline_share"] = 0.7
    targets = (
        timing.Target("t", ("slow", "quick"), 2.6, ours="ours"),
        timing.Target("t", "roofline", 0.65, ours="ours"),
    )
    first, second = timing.judge(targets, {"t": rows}, comparable=True)
    assert (first["peer"], first["measured"], first["reached"]) == ("quick", 2.5, False)
    assert (first["lowest_turn"], first["highest_turn"]) == (1.5, 2.5)
    assert (second["measured"], second["reached"]) == (0.7, True)


@pytest.mark.slow
def test_language_models_are_measured_without_their_peers_too(script, tmp_path, capsys):
    results, printed = run(script("lm"), tmp_path, capsys)
    assert set(results["tables"]) == {"forward", "sample"}
    for rows in results["tables"].values():
        for name, row in rows.items():
            if name.startswith("torch"):
                assert row == {"not_run": NOT_THERE}
            else:
                assert was_timed(row) and row["tokens_per_second"] > 0
        assert rows["dynlm.lm"]["memory_bytes"] > rows["dynlm.lm, no states"]["memory_bytes"]
    assert NOT_THERE in printed


@pytest.mark.slow
def test_the_store_is_measured_and_every_reader_reads_the_same(importing, tmp_path, capsys):
    ours, alone, again = "dynlm.lm.export", "its model alone", "export of a complete store"
    rows = ("dynlm *", "np.memmap*", "mmap *", "zarr*", ours, alone, again)
    results, printed = run(importing("store"), tmp_path, capsys, "--rows", *rows)
    tables = results["tables"]
    assert set(tables) == {"reads", "windows", "export of text", "export of samples"}
    for name in (
        "dynlm store.states",
        "np.memmap, one flat file",
        "mmap as an array, one flat file",
    ):
        assert tables["reads"][name]["GB_per_s"] > 0, tables["reads"][name]
    assert tables["windows"]["dynlm Windows.gather"]["windows_per_s"] > 0
    for title in ("export of text", "export of samples"):
        assert set(tables[title]) == {ours, alone, again}
        assert all(was_timed(row) for row in tables[title].values())
        assert tables[title][ours]["tokens_per_s"] > 0 and tables[title][alone]["tokens_per_s"] > 0
        assert tables[title][again]["median_ms"] < tables[title][ours]["median_ms"]
    peaks = results["memory"]["exports"]
    assert [one["documents"] for one in peaks.values()] == [100, 400]
    assert peaks["4x"]["bytes_on_disk"] > 3 * peaks["1x"]["bytes_on_disk"]
    assert results["memory"]["open_store"]["bytes_per_row"] > 0
    judged = {found["table"] for found in results["targets"]}
    assert judged == {"reads", "export of text", "export of samples", "memory"}
    assert not any(found["comparable"] for found in results["targets"])
    assert "bytes a document more" in printed and "Targets (for other sizes" in printed


def test_a_reader_that_reads_something_else_is_a_failure(importing, tmp_path):
    reads, timing = importing("_store_reads"), importing("_rows")
    size = reads.Size(12, 12, width=8, shortest=2, longest=5, shard_rows=5)
    store = reads.rows_store(tmp_path / "store", size, (3,))
    builds, total = reads.peers(store, tmp_path, size)
    assert total == store.lengths.sum() * 8 * 2
    ours = {reads.OURS: builds[reads.OURS], reads.MEMMAP: builds[reads.MEMMAP]}
    whole = bytearray((tmp_path / "flat.bin").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "flat.bin").write_bytes(whole)
    rows = timing.compare(ours, lambda *_: {}, repeat=1, limit=1.0)
    assert "median_ms" in rows[reads.OURS]
    assert "is not what was written" in rows[reads.MEMMAP]["failed"]


@pytest.mark.slow
def test_models_are_fitted_and_scored_side_by_side_without_data(importing, tmp_path, capsys):
    noisy, mixture = "neural SDE, diagonal noise", "mixture density, 8"
    rows = ("iid", "var1", "ou", noisy, mixture)
    results, printed = run(importing("fits"), tmp_path, capsys, "--rows", *rows)
    mixed = "layer 3, shuffled in time"
    assert set(results["tables"]) == {"layer 3", mixed, "layer final"}
    for table in results["tables"].values():
        assert set(table) == set(rows)
        for name, row in table.items():
            assert row["anchor"] is None and row["seconds"] >= 0
            assert row["value"] is None or row["low"] < row["value"] < row["high"], name
    # Words depend on those before them, and shuffled ones do not.
    plain, null = results["tables"]["layer 3"], results["tables"][mixed]
    assert plain["var1"]["value"] < plain["iid"]["value"] - 0.03
    assert abs(null["var1"]["value"] - null["iid"]["value"]) < 0.02
    assert results["targets"] == [] and "There is no `--data`" in printed


def test_fits_to_data_that_are_not_there_say_what_is_missing(importing, tmp_path):
    with pytest.raises(SystemExit, match="has no lm/stories260k"):
        importing("fits").main(["--quick", "--data", str(tmp_path)])


@pytest.mark.slow
def test_recovery_reports_errors_of_every_size_and_draws_them(importing, tmp_path, capsys):
    plot = tmp_path / "errors.png"
    options = ("--rows", "OU, 2*", "--plot", str(plot))
    results, printed = run(importing("recovery"), tmp_path, capsys, *options)
    assert plot.read_bytes().startswith(b"\x89PNG")
    (table,) = results["tables"].values()
    assert [row["transitions"] for row in table["errors"]] == table["sizes"] == [256, 1024]
    for row in table["errors"]:
        assert set(row["blocks"]) == {"matrix", "bias", "noise covariance"}
        assert len(row["sets"]) == 2 and 0 < row["overall"] < 1
    fall = table["slope"]
    assert fall["low"] <= fall["value"] <= fall["high"] < 0
    (judged,) = results["targets"]
    assert judged["measured"] == fall["value"] and not judged["comparable"]
    assert f"slope {fall['value']:.3f}" in printed
