"""Simulation: `solve` through Diffrax, and Brownian noise that can be repeated."""

from ._brownian import CounterBrownianPath as CounterBrownianPath
from ._solve import RESULTS as RESULTS
from ._solve import Solution as Solution
from ._solve import solve as solve
from ._support import STRONG_ORDER as STRONG_ORDER
from ._support import refusal as refusal
