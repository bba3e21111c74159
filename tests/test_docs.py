"""Whatever is printed for a reader runs: the README's example, the notebooks, the commands."""

import inspect
import re
import runpy
from pathlib import Path

import pytest

import dynlm

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a Markdown text in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_the_readme_example_runs():
    examples = blocks(README, "python")
    assert examples
    exec(compile("\n".join(examples), "README.md", "exec"), {"__name__": "readme"})


PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```python" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_on_a_page_runs(page):
    examples = "\n".join(blocks(page.read_text(), "python"))
    exec(compile(examples, page.name, "exec"), {"__name__": page.stem})


def test_the_readme_has_the_two_commands_that_ci_reads():
    for marker in ("ci:demo", "ci:test"):
        commands = re.findall(rf"<!-- {marker} -->\n+```(?:sh|bash)\n(.+)\n```", README)
        assert len(commands) == 1, f"one line in a block after <!-- {marker} --> in README.md"
        assert commands[0].startswith("python3 -m venv .venv && .venv/bin/pip install")


def test_the_api_page_lists_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    for name, value in vars(dynlm).items():
        if not name.startswith("_") and not inspect.ismodule(value):
            assert re.search(rf"^   \w+\.{name}$", page, re.M), f"dynlm.{name}"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda p: p.stem)
def test_notebook_runs_in_small_mode(path, monkeypatch):
    monkeypatch.setenv("DYNLM_SMALL", "1")
    runpy.run_path(str(path))
