"""Differentiable stochastic dynamics in JAX, for language models and other learned dynamics."""

from importlib.metadata import version as _version

from . import diffusions as diffusions
from . import drifts as drifts
from . import problems as problems
from .sde import SDE as SDE
from .sde import Langevin as Langevin
from .simulate import RESULTS as RESULTS
from .simulate import CounterBrownianPath as CounterBrownianPath
from .simulate import Solution as Solution
from .simulate import rollout as rollout
from .simulate import solve as solve
from .trajectory import Trajectory as Trajectory
from .trajectory import stack as stack

__version__ = _version("dynlm")
