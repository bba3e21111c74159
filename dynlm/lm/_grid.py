"""`Sampling`: how prompts are continued, and the grid that lists of settings make."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from .._fields import shown
from .._io import BadArgument
from ._decoding import LIMITS
from ._pieces import Piece
from ._plan import Work
from ._prompts import check_whole

Numbers = float | int | Sequence[float] | Sequence[int] | None
SETTINGS = tuple(LIMITS)


@final
@dataclass(frozen=True)
class Sampling:
    """How each prompt is continued, by how many samples.

    A setting may be a list; lists make a grid, and every prompt gets `samples` samples in each of
    its cells. A row's random numbers depend on the seed and on the number of the row alone.

    Args:
        samples: Of each prompt, in each cell of the grid.
        budget: The most tokens to sample after a prompt.
        temperature: 0 is greedy.
        top_k: How many of the likeliest tokens may be drawn.
        top_p: Which share of the probability may be drawn.
        min_p: The least probability that may be drawn, relative to the likeliest token's.
        repetition_penalty: Above 1, tokens that the row has become less likely.
        seed: Of the random numbers.
        stop: Tokens that end a row; by default those that end a text of the model.
    """

    samples: int = 1
    budget: int = 128
    temperature: Numbers = 1.0
    top_k: Numbers = None
    top_p: Numbers = None
    min_p: Numbers = None
    repetition_penalty: Numbers = None
    seed: int = 0
    stop: tuple[int, ...] | None = None

    def check(self) -> None:
        """Refuses what cannot be done."""
        check_whole("samples", self.samples, 1)
        check_whole("budget", self.budget, 1)
        check_whole("seed", self.seed, 0)
        if self.seed >= 2**63:
            raise BadArgument(f"`seed` is {self.seed}. Use a number below 2**63.")
        for name, values in self.grid().items():
            low, high, words = LIMITS[name]
            for value in values:
                if not isinstance(value, int | float | np.number) or not low <= value <= high:
                    raise BadArgument(f"`{name}` is {shown(value)}. {words}")

    def grid(self) -> dict[str, list[Any]]:
        """The values of every setting that is used."""
        found = {}
        for name in SETTINGS:
            value = getattr(self, name)
            if value is None:
                continue
            found[name] = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
            if not found[name]:
                raise BadArgument(f"`{name}` is an empty list. Give a number, or leave it out.")
        return found

    def as_json(self) -> dict[str, Any]:
        """All that decides what is sampled, in numbers of one kind."""
        whole = {name: int(getattr(self, name)) for name in ("samples", "budget", "seed")}
        stop = None if self.stop is None else [int(k) for k in self.stop]
        return whole | {
            "grid": {k: list(map(float, v)) for k, v in self.grid().items()},
            "stop": stop,
        }

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that are used."""
        return tuple(self.grid())

    def columns(self) -> tuple[str, ...]:
        """What is kept of each row: its settings, and which of the samples it is."""
        return (*self.settings, "sample")

    def work(self, prompts: Iterable[Piece], columns: Sequence[str]) -> Iterator[Work]:
        """Every sample of every prompt; `columns` are those that prompts have themselves."""
        cells = list(itertools.product(*self.grid().values()))
        for one in prompts:
            own = tuple(one.columns[name] for name in columns)
            for cell in cells:
                for number in range(self.samples):
                    values = (*own, *map(float, cell), float(number))
                    yield Work(one.doc, one.tokens, len(one.tokens), values)
