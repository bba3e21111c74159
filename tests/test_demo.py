import json
import subprocess
import sys

import pytest

from dynlm.cli import main


def test_demo_in_small_mode_learns_and_says_so(tmp_path, capsys):
    main(["demo", "--steps", "300", "--paths", "64", "--out", str(tmp_path), "--json"])
    out = capsys.readouterr().out
    results = json.loads(out.splitlines()[-1])
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    rows = results["held_out_nll_per_step"]
    assert rows["neural SDE"]["mean"] < rows["linear, VAR(1)"]["mean"] < rows["random walk"]["mean"]
    assert abs(results["sigma_mean"] - 0.7) < 0.05
    assert results["drift_rms_error"] < 0.5 * results["drift_rms"]
    assert results["stationary_total_variation"] < 0.15
    assert "known answer" in out and "not part of it yet" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--paths", "1"], "`paths` is 1"), (["--out", "/dev/null/x"], "/dev/null")],
)
def test_a_wrong_argument_gets_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as error:
        main(["demo", "--quiet", "--steps", "1", "--length", "2", *arguments])
    assert error.value.code == 2
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err


@pytest.mark.slow
def test_unknown_command_and_help_and_version():
    def run(*arguments):
        command = [sys.executable, "-m", "dynlm.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("dmeo").returncode == 2 and "Traceback" not in run("dmeo").stderr
    assert "dynlm demo --steps 500" in run("--help").stdout
    assert run("--version").stdout.strip()
