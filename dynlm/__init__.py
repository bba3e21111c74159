"""Differentiable stochastic dynamics in JAX, for language models and other learned dynamics."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import diffusions as diffusions
from . import drifts as drifts
from . import problems as problems
from . import store as store
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
    from . import lm as lm

__version__ = _version("dynlm")


def __getattr__(name: str) -> _Any:
    if name == "lm":  # Flax is loaded by those who ask for it
        return _import_module(".lm", __name__)
    raise AttributeError(f"module 'dynlm' has no attribute {name!r}")
