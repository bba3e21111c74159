"""Differentiable stochastic dynamics in JAX, for language models and other learned dynamics."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import baselines as baselines
from . import diffusions as diffusions
from . import drifts as drifts
from . import laws as laws
from . import losses as losses
from . import predict as predict
from . import problems as problems
from . import specs as specs
from . import stats as stats
from . import store as store
from . import train as train
from ._fit import Adam as Adam
from ._fit import fit as fit
from ._judge import Rows as Rows
from ._judge import Verdict as Verdict
from ._judge import judge as judge
from ._run import Law as Law
from ._run import Run as Run
from ._run import load_run as load_run
from .sde import SDE as SDE
from .sde import Langevin as Langevin
from .simulate import RESULTS as RESULTS
from .simulate import CounterBrownianPath as CounterBrownianPath
from .simulate import Solution as Solution
from .simulate import rollout as rollout
from .simulate import solve as solve
from .store import open_store as open_store
from .trajectory import Trajectory as Trajectory
from .trajectory import stack as stack

if _TYPE_CHECKING:
    from . import analysis as analysis
    from . import lm as lm
    from . import report as report
    from . import studies as studies

__version__ = _version("dynlm")


def __getattr__(name: str) -> _Any:
    if name in ("analysis", "lm", "report", "studies"):  # loaded by those who ask for them
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module 'dynlm' has no attribute {name!r}")
