"""The command that is run first: from nothing to a report."""

import html
import json
import subprocess
import sys

import pytest
from made_report import faults

from dynlm.cli import main


@pytest.mark.slow
def test_the_quick_demo_goes_the_whole_way(tmp_path, capsys):
    out = tmp_path / "demo"
    main(["demo", "--quick", "--out", str(out), "--json"])
    told = capsys.readouterr()
    line = json.loads(told.out.splitlines()[-1])
    results = json.loads((out / "results.json").read_text())
    assert [one["label"] for one in line["cards"]] == [
        "Order in time", "Beyond linear", "What the SDE adds", "Words", "Cause",
    ]  # fmt: skip
    assert line["cards"] == results["cards"]
    ids = [one["id"] for one in results["sections"]]
    assert ids == [
        "samples", "order", "worth", "law", "decoding", "causal", "scales", "memory", "residuals",
        "fields", "stability",
    ]  # fmt: skip
    assert line["report"] == str(out / "report.html")
    page = (out / "report.html").read_text()
    assert all(one["finding"]["sentence"] in html.unescape(page) for one in results["cards"])
    assert "in all" in told.err and str(out / "report.html") in told.err
    rows = results["sections"][2]["tables"][0]["rows"]
    scored = [row[0] for row in rows]
    assert "mixture density, 8" in scored and "switching, 4 regimes" not in scored
    # Text has an order: states sampled from a language model are no independent draws.
    order = results["cards"][0]["finding"]
    assert order["verdict"] == "above" and order["low"] > 0
    assert sum(one["compiled"] for one in results["budget"]) > 0

    assert faults(out) == []  # every number of the page is that of the JSON, among others

    before = {path: path.stat().st_mtime_ns for path in (out / "quick-0").rglob("*.safetensors")}
    main(["demo", "--quick", "--out", str(out), "--quiet"])  # what is done is read
    again = json.loads((out / "results.json").read_text())
    assert again["cards"] == results["cards"]
    assert before and all(path.stat().st_mtime_ns == t for path, t in before.items())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed", "-1"], "dynlm: `--seed` is -1"),
        (["--out", "/dev/null/x"], "/dev/null"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as error:
        main(["demo", "--quiet", "--quick", *arguments])
    assert error.value.code == 2
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err


@pytest.mark.slow
def test_an_unknown_command_gets_a_sentence():
    command = [sys.executable, "-m", "dynlm", "dmeo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "dmeo" in done.stderr and "Traceback" not in done.stderr
