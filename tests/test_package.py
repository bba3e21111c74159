"""What holds for the package as a whole: its classes, what it loads and how fast, its command."""

import ast
import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import re
import statistics
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import equinox as eqx
import pytest

import dynlm

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LAZY = {"flax", "transformers", "orbax", "sklearn", "tyro", "rich", "matplotlib", "torch"}


def fresh(code: str) -> str:
    """What `code` prints in a new interpreter."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def every_module():
    for info in pkgutil.walk_packages(dynlm.__path__, "dynlm."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def descendants(cls: type) -> set[type]:
    below = set(cls.__subclasses__())
    return below.union(*map(descendants, below))


def test_every_class_is_abstract_or_final():
    names = {module.__name__ for module in every_module()}
    classes = [cls for cls in descendants(eqx.Module) if cls.__module__ in names]
    assert len(classes) > 10
    for cls in classes:
        is_final = "__final__" in vars(cls)
        assert is_final != cls.__name__.lstrip("_").startswith("Abstract"), cls
        assert not (is_final and cls.__subclasses__()), cls
        assert is_final != inspect.isabstract(cls), cls


def test_import_loads_no_heavy_package():
    loaded = json.loads(fresh("import dynlm, json, sys; print(json.dumps(list(sys.modules)))"))
    assert "dynlm.simulate" in loaded
    assert not LAZY & {name.split(".")[0] for name in loaded}


@pytest.mark.slow
def test_import_is_about_as_fast_as_that_of_diffrax():
    clock = (
        "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    )

    def ratio() -> float:
        times = {"diffrax": [], "dynlm": []}
        for _ in range(5):
            for name, found in times.items():
                found.append(float(fresh(clock.format(name))))
        return statistics.median(times["dynlm"]) / statistics.median(times["diffrax"])

    # Other work on the machine makes single rounds wander; a slow import stays slow.
    rounds = (ratio() for _ in range(4))
    assert any(found < 1.3 for found in rounds)


def test_the_version_is_stated_once():
    assert dynlm.__version__ == importlib.metadata.version("dynlm") == PROJECT["version"]


def test_dependencies_are_those_the_code_imports():
    imported = set()
    for path in (ROOT / "dynlm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.split(".")[0])
    declared = {re.split(r"[<>=!~\[; ]", line)[0] for line in PROJECT["dependencies"]}
    installed = {"orbax": "orbax-checkpoint"}  # what is called otherwise where it is installed from
    found = {installed.get(name, name) for name in imported - sys.stdlib_module_names}
    assert found == declared


def test_dependencies_have_lower_bounds_only():
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *sum(extras, [])]:
        assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+", line), line


def test_the_command_explains_itself():
    command = Path(sysconfig.get_path("scripts")) / "dynlm"
    run = subprocess.run([command, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "demo" in run.stdout and re.search(r"dynlm demo( |$)", run.stdout, re.M)
    wrong = subprocess.run([command, "dmeo"], capture_output=True, text=True)
    assert wrong.returncode != 0
    assert "demo" in wrong.stdout + wrong.stderr
    assert "Traceback" not in wrong.stdout + wrong.stderr
