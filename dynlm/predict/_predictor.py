"""`AbstractPredictor`: what every model that can be scored answers."""

import abc
from typing import Any

import equinox as eqx

from .._types import State, Time
from ..laws import AbstractLaw

Carry = Any  # a pytree of arrays whose structure and shapes stay the same along the path


class AbstractPredictor(eqx.Module):
    """The law of the next state of one path, from what was seen of it.

        seen = predictor.see(predictor.see(predictor.start(), t0, y0), t1, y1)
        law = predictor.law(seen, t2)

    All three are pure, and work under `jit`, `vmap` and `scan`.
    """

    @abc.abstractmethod
    def start(self) -> Carry:
        """What is carried before anything was seen."""

    @abc.abstractmethod
    def see(self, carry: Carry, t: Time, y: State) -> Carry:
        """What is carried once the state `y` at time `t` was seen."""

    @abc.abstractmethod
    def law(self, carry: Carry, t: Time) -> AbstractLaw:
        """The law of the next state, which will be seen at time `t`."""
