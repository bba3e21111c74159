import json
import subprocess
import sys

import pytest

from dynlm.cli import main


@pytest.mark.slow
def test_demo_in_small_mode_learns_and_says_so(tmp_path, capsys):
    main(["demo", "--steps", "300", "--paths", "64", "--out", str(tmp_path), "--json"])
    out = capsys.readouterr().out
    results = json.loads(out.splitlines()[-1])
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert results["held_out_nll_per_step"]["neural SDE"]["minus_linear"]["high"] < 0
    assert results["held_out_nll_per_step"]["random walk"]["minus_linear"]["mean"] > 0
    assert results["null_nll_per_step"]["neural SDE"]["minus_linear"]["mean"] > -0.002
    assert abs(results["sigma_mean"] - 0.7) < 0.05
    assert results["drift_rms_error"] < 0.5 * results["drift_rms"]
    distance = results["stationary_total_variation"]
    assert distance["neural SDE"] < 0.15 < distance["linear, VAR(1)"]
    assert "known answer" in out and "not part of it yet" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--paths", "1"], "dynlm: `--paths` is 1. Use 2 to"),
        (["--seed", "-1"], "dynlm: `--seed` is -1"),
        (["--out", "/dev/null/x"], "/dev/null"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as error:
        main(["demo", "--quiet", "--steps", "1", "--length", "2", *arguments])
    assert error.value.code == 2
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err


@pytest.mark.slow
def test_an_unknown_command_gets_a_sentence():
    command = [sys.executable, "-m", "dynlm", "dmeo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "dmeo" in done.stderr and "Traceback" not in done.stderr
