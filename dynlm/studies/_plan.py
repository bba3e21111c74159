"""`Plan`: how much a study does, as plain values."""

import dataclasses
from dataclasses import dataclass
from typing import Any, final

from .._io import BadArgument

DIFFUSIONS = ("scalar", "diagonal", "lowrank", "full")
SECTIONS = (
    "scales", "coarse", "memory", "residuals", "fields", "density", "passage", "stability",
    "moments", "decoding", "causal", "depth",
)  # fmt: skip
LOSSES = ("euler", "local_linear", "strang", "zhang")


@final
@dataclass(frozen=True)
class Plan:
    """How much a study does. The first of `fits` is the one that is analysed.

    Args:
        fits: Pairs of a diffusion ("scalar", "diagonal", "lowrank", "full") and a loss ("euler",
            "local_linear", "strang", "zhang").
        steps: Optimiser steps of each fit.
        width: Of the networks' hidden layers.
        rank: Of low-rank noise.
        batch: Windows a step.
        window: States in a window.
        nulls: Fits of the same states in random orders, an order each, that the first fit is
            compared with. How they differ tells what chance does to a fit, so of fewer than two
            nothing is tested; 0 leaves them out.
        seeds: Models of each fit, which differ in their first weights and their batches.
        horizons: Steps ahead that forecasts are scored at.
        mixture_steps: Optimiser steps of the mixture density among the baselines.
        switching_starts: Starts of the switching model among them; 0 leaves it out.
        power: Trials of each strength of a planted effect; 0 leaves the power out.
        scales: Widths of coarse-graining in time.
        mixture: Whether the gap between a Gaussian and a mixture step is measured at each scale.
        states: Documents of the test that costly analyses take, at most.
        exponents: Steps of the fit that Lyapunov exponents are taken over.
        replicas: Independent paths that they are taken of.
        lyapunov: Steps of training of a Lyapunov function; 0 leaves the learned one out.
        steer: Texts that are sampled with predicted steps added; 0 leaves that out.
        draws: Simulated states of each forecast that is decoded into words.
        skip: Sections to leave out, of SECTIONS.
        burn: States at the start of each row whose transitions are left out.
        seed: Of everything random.
    """

    fits: tuple[tuple[str, str], ...] = (
        ("diagonal", "euler"),
        ("full", "euler"),
        ("lowrank", "euler"),
        ("diagonal", "local_linear"),
        ("diagonal", "zhang"),
    )
    steps: int = 3000
    width: int = 128
    rank: int = 4
    batch: int = 64
    window: int = 32
    seeds: int = 3
    nulls: int = 3
    horizons: tuple[int, ...] = (1, 4, 16)
    mixture_steps: int = 2000
    switching_starts: int = 4
    power: int = 0
    scales: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    mixture: bool = True
    states: int = 256
    exponents: int = 2000
    replicas: int = 8
    lyapunov: int = 400
    steer: int = 64
    draws: int = 32
    skip: tuple[str, ...] = ()
    burn: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.fits:
            raise BadArgument("`fits` is empty. Name at least one, as (('diagonal', 'euler'),).")
        for diffusion, loss in self.fits:
            if diffusion not in DIFFUSIONS:
                known = ", ".join(DIFFUSIONS)
                raise BadArgument(f"`fits` has the diffusion {diffusion!r}. Use one of {known}.")
            if loss not in LOSSES:
                known = ", ".join(LOSSES)
                raise BadArgument(f"`fits` has the loss {loss!r}. Use one of {known}.")
        if len(set(self.fits)) < len(self.fits):
            raise BadArgument(f"`fits` is {self.fits}, with one of them twice. Name each once.")
        least = dict(steps=1, width=1, rank=1, batch=1, window=2, seeds=1, power=0, states=2)
        least |= dict(exponents=10, replicas=2, steer=0, lyapunov=0, draws=2, burn=0, seed=0)
        least |= dict(mixture_steps=1, switching_starts=0, nulls=0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BadArgument(f"`{name}` is {getattr(self, name)}. Use {low} or more.")
        odd = sorted(set(self.skip) - set(SECTIONS))
        if odd:
            raise BadArgument(f"`skip` has {odd[0]!r}. Use some of {', '.join(SECTIONS)}.")
        if not self.scales or any(k < 1 for k in self.scales):
            raise BadArgument(f"`scales` is {self.scales}. Use whole numbers from 1 on.")

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return dataclasses.asdict(self)


DEMO = Plan(
    fits=(("diagonal", "euler"), ("full", "euler")),
    steps=1500,
    width=64,
    seeds=1,
    horizons=(),
    mixture_steps=600,
    switching_starts=2,
    states=64,
    exponents=400,
    replicas=4,
    steer=0,
    skip=("coarse",),
)
QUICK = dataclasses.replace(
    DEMO,
    fits=(("diagonal", "euler"),),
    steps=300,
    width=32,
    mixture_steps=200,
    mixture=False,
    switching_starts=0,
    scales=(1, 4, 16),
    exponents=200,
    lyapunov=0,
    nulls=1,
    draws=16,
    skip=("coarse", "density", "passage", "moments", "depth"),
)
