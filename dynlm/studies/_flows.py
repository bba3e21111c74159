"""`Flow`: what a fit is a law of, in continuous time or from step to step, and how that is said."""

from typing import NamedTuple, final

from .._run import Run
from ._sde import Basis

CHAIN = (
    "The fit is a chain with one Euler step a token, so these are properties of that chain: "
    "multipliers and changes over one step, not rates in continuous time."
)
FLOW = "The fit passed the refinement check: this is of a process in continuous time."
NEITHER = (
    "The fit is neither shown to be a process in continuous time nor a chain of Euler steps of one "
    "length, so nothing is said of where it flows, of rates, or of exponents."
)


@final
class Flow(NamedTuple):
    """A fit, and whether claims in continuous time may be made of it."""

    run: Run
    continuous: bool

    @property
    def step(self) -> float | None:
        """The step of the chain that the fit is; None where it is a process in continuous time."""
        if self.continuous or self.run.law.scheme != "euler":
            return None
        return self.run.law.step

    @property
    def known(self) -> bool:
        """Whether the fit is a process in continuous time, or a chain of Euler steps."""
        return self.continuous or self.step is not None

    @property
    def trust(self) -> str:
        """How far claims about the fit's flow reach."""
        if not self.known:
            return NEITHER
        return FLOW if self.step is None else CHAIN


def flow_of(b: Basis) -> Flow:
    """That of the fit that is analysed."""
    return Flow(b.run, b.judged.continuous)
