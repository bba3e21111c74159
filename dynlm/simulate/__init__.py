"""Simulation: `solve` through Diffrax, `rollout` of many paths, and noise that can be repeated."""

from ._adjoints import Checkpointed as Checkpointed
from ._adjoints import Reversible as Reversible
from ._brownian import CounterBrownianPath as CounterBrownianPath
from ._generators import AbstractNoise as AbstractNoise
from ._generators import CounterNoise as CounterNoise
from ._generators import JaxNoise as JaxNoise
from ._kernels import Fused as Fused
from ._kernels import Scan as Scan
from ._reductions import AbstractReduction as AbstractReduction
from ._reductions import Histogram as Histogram
from ._reductions import Moments as Moments
from ._rollout import rollout as rollout
from ._saves import AbstractSave as AbstractSave
from ._saves import At as At
from ._saves import AtSteps as AtSteps
from ._saves import Every as Every
from ._saves import Fold as Fold
from ._saves import Last as Last
from ._saves import Running as Running
from ._solve import RESULTS as RESULTS
from ._solve import Solution as Solution
from ._solve import solve as solve
from ._support import STRONG_ORDER as STRONG_ORDER
from ._support import refusal as refusal
