import os
import stat

import pytest

from dynlm import _io


def test_write_atomic_replaces_and_leaves_no_parts(tmp_path):
    target = tmp_path / "new" / "file.json"
    for text in (b"one", b"two"):
        _io.write_atomic(target, text)
        assert target.read_bytes() == text
    assert os.listdir(target.parent) == ["file.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    _io.write_atomic(target, b"old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        _io.write_atomic(target, b"new")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_progress_is_lines_off_a_terminal_and_silent_if_quiet(capsys):
    with _io.progress("work", 20) as advance:
        for _ in range(20):
            advance(1, "note")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("work: 20/20, ") and "s left note" in lines[-1]
    with _io.progress("work", 2, quiet=True) as advance:
        advance(2)
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with _io.progress("work", 2) as advance:
        advance(1)
        advance(1, "done")
    shown = capsys.readouterr().err
    assert "2/2" in shown and "/s done" in shown
