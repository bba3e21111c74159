"""Imports point one way: a module of dynlm imports only what stands earlier in `RANK`."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dynlm"

# Every module by its dotted name inside dynlm, lowest first. A folder stands after its own
# modules, which are listed one by one; a folder that has none yet stands alone. What stands after
# `__init__`, the front door, is reached by the command `dynlm` and not by `import dynlm`.
RANK = {
    name: rank
    for rank, name in enumerate(
        """
        _types _factors _io _fields _safetensors stats trajectory laws
        store._format store._sealed store._shard store._order store._split store._writer
        store._reader store._moments store._projection store._principal store._windows
        store._batches store._text store._tables store._items store._import store._revisions
        store._inspect store
        train._trainer train._parts train._devices train._sources train._facts train._checkpoints
        train._metrics
        train._signals train._chunks train._held_out train._loop train._fit train._saved train
        _nets _operators drifts
        diffusions._base diffusions._learned diffusions._diagonal diffusions._matrix
        diffusions._function diffusions
        sde
        problems._problem problems._gaussian problems._bessel problems._scalar problems._linear
        problems._physics problems
        simulate._noise simulate._brownian simulate._support simulate._grid simulate._reductions
        simulate._checks
        simulate._solve simulate._generators simulate._schemes simulate._stepper simulate._adjoints
        simulate._saves simulate._spans simulate._fused_spec simulate._fused
        simulate._kernels simulate._choice simulate._loop simulate._sharding simulate._rollout
        simulate
        losses._flow losses._schemes losses._likelihood losses._zhang losses._divergence
        losses._variation losses._scores losses._kernels losses._moments losses._compose
        losses._simulated losses
        predict._predictor predict._sde predict._embedding predict._refinement predict._steps
        predict._forecast predict._table predict._measures predict._score predict._planted
        predict._power predict
        baselines._pairs baselines._clusters baselines._descent baselines._linear baselines._ou
        baselines._shuffled baselines._expectation baselines._switching baselines._density
        baselines
        specs _data _run _precision _fit_facts _fit _judge
        analysis._depth_maps analysis._directions analysis._exact analysis._scales
        analysis._ridge analysis.findings
        analysis._beside
        analysis._correlation analysis._depth_noise analysis._fixed_points analysis._gaps
        analysis._order analysis._states analysis._basins analysis._decomposition
        analysis._depth analysis._fields analysis._generator analysis._jumps
        analysis._lipschitz analysis._markov analysis._moments analysis._planes
        analysis._stationarity analysis._variation analysis._volumes analysis._chain_density
        analysis._descent analysis._diffusive analysis._exponents analysis._kramers_moyal
        analysis._moment_check analysis._potential analysis._residuals analysis._stationary
        analysis._passage analysis
        lm._rope lm._config lm._names lm._static lm._attention lm._decoder lm._state
        lm._layouts lm._common lm._families lm._normalise
        lm._files lm._match lm._tokenizer lm._sharding
        lm._decoding lm._score lm._foreign lm._prompts lm._sample lm._model
        lm._load lm._save
        lm._corpus lm.pretrain lm._textfile lm._documents lm._pieces
        lm._identity lm._plan lm._grid lm._passes lm._work lm._export lm
        bench
        report._place report._checks report._html report._kinds report._figure_schema
        report._figures report._page report._schema report._write report
        studies._budget studies._differences studies._directions studies._frames studies._given
        studies._openings studies._plan studies._unembedded studies._fits studies._steered
        studies._token_sums studies._written studies._decoding studies._effects studies._sde
        studies._flows studies._sections_fit studies._causal studies._sections_process
        studies._sections_scales
        studies._sections_density studies._sections_space studies._sections_stability
        studies._sections_groups studies._sections_text studies._study studies._spoken
        studies._text studies._compare studies._demo studies
        _commands._options _commands._common _commands._several _commands._revised _commands._export
        _commands._inspect _commands._import _commands._fit_options _commands._fit
        _commands._demo _commands._study _commands
        __init__ cli __main__
        """.split()
    )
}

# The two halves meet only on disk: `lm` knows nothing of SDEs, and only these know `lm`.
LM_MAY_IMPORT = set("_types _factors _io _fields _safetensors stats trajectory store train".split())
MAY_IMPORT_LM = {"studies", "_commands", "cli", "__init__"}

# Packages too slow to load with `import dynlm`, and the rooms whose modules may load them when
# they are imported themselves (those rooms are lazy). Elsewhere: inside a function.
HEAVY = {"flax", "transformers", "orbax", "sklearn", "tyro", "rich", "matplotlib", "torch"}
MAY_LOAD = {"lm": {"flax"}, "report": {"matplotlib"}, "_commands": {"tyro"}}


class Import(NamedTuple):
    module: str  # the importer, dotted inside the package
    target: str  # dotted inside the package when `inside`, else as written
    inside: bool
    at_load: bool  # runs when the module is imported, not in a function or for a type checker
    line: int

    def __str__(self) -> str:
        return f"{self.module} (line {self.line}) imports {self.target}"


def modules(package: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        folder = parts[-1] == "__init__" and len(parts) > 1
        found[".".join(parts[:-1] if folder else parts)] = path
    return found


def imports(package: Path) -> Iterator[Import]:
    """Every import statement of the package, one item a name."""
    names = modules(package)
    for module, path in names.items():
        here = path.relative_to(package).parent.parts
        for node, at_load in statements(ast.parse(path.read_text()), at_load=True):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(module, alias.name, False, at_load, node.lineno)
            elif node.level == 0:
                yield Import(module, node.module or "", False, at_load, node.lineno)
            else:
                folder = list(here[: len(here) - (node.level - 1)])
                base = ".".join(folder + ([node.module] if node.module else []))
                for alias in node.names:  # `from . import x`: the module x, else a name of `.`
                    deeper = f"{base}.{alias.name}".lstrip(".")
                    target = deeper if deeper in names else base or "__init__"
                    yield Import(module, target, True, at_load, node.lineno)


def statements(tree: ast.AST, at_load: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_load
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from statements(node, at_load and not later and not typing)


def room(module: str) -> str:
    return module.split(".")[0]


def wrong(package: Path) -> list[str]:
    """What is wrong with the imports of a package, one sentence each."""
    names = modules(package)
    unknown = [f"{name} has no rank: add it to RANK" for name in names if name not in RANK]
    return unknown + [sentence for item in imports(package) if (sentence := judge(item))]


def judge(item: Import) -> str | None:
    here, there = item.module, item.target
    if not item.inside:
        top = there.split(".")[0]
        if top == "dynlm":
            return f"{item}: write it as a relative import"
        if item.at_load and top in HEAVY - MAY_LOAD.get(room(here), set()):
            return f"{item} when it is loaded: move that into the function that needs it"
        return None
    if here not in RANK or there not in RANK:
        return None if there in RANK else f"{item}, which has no rank: add it to RANK"
    if RANK[there] >= RANK[here]:
        return f"{item}, which stands higher: imports point down"
    if room(here) == "lm" and room(there) not in LM_MAY_IMPORT | {"lm"}:
        return f"{item}: the language-model half knows only {sorted(LM_MAY_IMPORT)}"
    if room(there) == "lm" and room(here) not in MAY_IMPORT_LM | {"lm"}:
        return f"{item}: only {sorted(MAY_IMPORT_LM)} may know the language-model half"
    return None


def test_imports_point_down():
    assert len(modules(PACKAGE)) > 5
    assert wrong(PACKAGE) == []


def test_solve_is_the_only_caller_of_diffeqsolve():
    callers = {
        module
        for module, path in modules(PACKAGE).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if "diffeqsolve" in (getattr(node, "attr", None), getattr(node, "id", None))
    }
    assert callers == {"simulate._solve"}


GOOD = {
    "__init__": "from . import sde as sde\nfrom .simulate import solve as solve",
    "_types": "import jax",
    "drifts": "from ._types import State",
    "sde": "import jax.numpy as jnp\nfrom . import drifts",
    "simulate/__init__": "from ._solve import solve as solve",
    "simulate/_noise": "from .._types import Key",
    "simulate/_solve": "from . import _noise\nfrom ..sde import SDE",
    "report": "import matplotlib.pyplot as plt",
    "cli": "def main():\n    import tyro\n    from . import report",
}


def plant(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_checker_accepts_a_good_tree(tmp_path):
    assert wrong(plant(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    "module, text, sentence",
    [
        ("drifts", "from .sde import SDE", "imports point down"),
        ("drifts", "def f():\n    from . import sde", "imports point down"),
        ("drifts", "from . import SDE", "imports point down"),  # through the front door
        ("drifts", "from . import drifts", "imports point down"),
        ("simulate/_noise", "from ._solve import solve", "imports point down"),
        ("simulate/_noise", "from . import solve", "imports point down"),
        ("simulate/_solve", "from ..report import figure", "imports point down"),
        ("drifts", "from dynlm._types import State", "relative import"),
        ("drifts", "import dynlm", "relative import"),
        ("drifts", "import matplotlib.pyplot as plt", "into the function"),
        ("cli", "if True:\n    from rich.table import Table", "into the function"),
        ("report", "class A:\n    import flax", "into the function"),
        ("lm", "from .sde import SDE", "language-model half"),
        ("bench", "from . import lm", "language-model half"),
        ("cellar", "import jax", "cellar has no rank: add it to RANK"),
        ("simulate/_cellar", "", "simulate._cellar has no rank: add it to RANK"),
        ("drifts", "from ._gone import x", "_gone, which has no rank: add it to RANK"),
    ],
)
def test_the_checker_catches(tmp_path, module, text, sentence):
    found = wrong(plant(tmp_path, GOOD | {"lm": ""} | {module: text}))
    assert len(found) == 1 and sentence in found[0], found


def test_type_checking_imports_do_not_load(tmp_path):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import flax"
    assert wrong(plant(tmp_path, GOOD | {"drifts": text})) == []
