"""Batches of windows in a shuffled order that any step can be asked for."""

import itertools
import operator
from collections.abc import Iterator
from typing import final

import numpy as np
from jaxtyping import Int64

from .._io import BadArgument
from ..trajectory import Trajectory
from ._order import checked_seed, mixed, shuffled
from ._windows import Windows

BLOCK = 4096  # places whose order is computed at once: alone, a batch's would take much longer


@final
class Batches:
    """Shuffled batches for training, as a function of the number of the step.

        batches = Batches(windows, 256, seed=0)
        batches.at(1000)           # the same whenever and wherever it is asked for
        batches.since(1000)        # iterates from there: training goes on where it stopped

    Each epoch is a new order of all windows. The epochs follow each other without a gap, and step
    k takes the places k size, ..., (k + 1) size - 1 of the whole: every batch is full, and every
    window comes once an epoch. A batch may hold the end of one epoch and the start of the next, so
    an epoch need not be a whole number of batches.

    Args:
        windows: What is trained on.
        size: Windows in a batch, over all hosts.
        seed: Another seed gives other orders.
        host: Which part of each batch to give, of `hosts` equal ones; put side by side they are
            the batch of one host.
        hosts: How many parts there are.
    """

    def __init__(
        self, windows: Windows, size: int, *, seed: int, host: int = 0, hosts: int = 1
    ) -> None:
        if len(windows) == 0:
            raise BadArgument(
                "`windows` is empty: no row has two states. Use another part of the store."
            )
        if hosts < 1 or not 0 <= host < hosts:
            raise BadArgument(
                f"`host` is {host} and `hosts` is {hosts}. Number the hosts from 0 to `hosts - 1`."
            )
        if size < 1 or size % hosts:
            raise BadArgument(
                f"`size` is {size} and `hosts` is {hosts}. Use a positive multiple of `hosts`: "
                "each takes an equal part."
            )
        self.windows, self.size, self.seed = windows, size, checked_seed(seed)
        self.host, self.hosts = host, hosts
        self._last: tuple[tuple[int, int], np.ndarray] = (-1, -1), np.empty(0, np.int64)

    @property
    def per_epoch(self) -> float:
        """Batches in an epoch; seldom a whole number."""
        return len(self.windows) / self.size

    def epoch(self, step: int) -> int:
        """The epoch that the first window of the batch belongs to."""
        return _checked(step) * self.size // len(self.windows)

    def first(self, epoch: int) -> int:
        """The first step with nothing left of the epochs before: `first(n)` steps are n epochs."""
        return -(-epoch * len(self.windows) // self.size)

    def at(self, step: int) -> Trajectory:
        """The batch of a step: this host's part of it, stacked."""
        return self.windows.gather(self.indices(step))

    def indices(self, step: int) -> Int64[np.ndarray, " window"]:
        """The numbers of the windows in it."""
        part, n = self.size // self.hosts, len(self.windows)
        here = _checked(step) * self.size + self.host * part
        stop, found = here + part, []
        while here < stop:
            epoch, place = divmod(here, n)
            order, offset = self._order(epoch, place // BLOCK), place % BLOCK
            found.append(order[offset : offset + stop - here])
            here += len(found[-1])
        return np.concatenate(found)

    def since(self, step: int = 0) -> Iterator[tuple[int, Trajectory]]:
        """Each step from `step` on with its batch, without end."""
        return ((k, self.at(k)) for k in itertools.count(_checked(step)))

    def _order(self, epoch: int, block: int) -> Int64[np.ndarray, " window"]:
        """A block of the order of an epoch; the one asked for last is kept."""
        which, order = self._last  # read once: another thread may put its own there
        if which != (epoch, block):
            n, start = len(self.windows), block * BLOCK
            key = int(mixed(self.seed, epoch)[0])
            order = shuffled(n, key, np.arange(start, min(start + BLOCK, n)))
            self._last = (epoch, block), order
        return order


def _checked(step: int) -> int:
    step = operator.index(step)
    if step < 0:
        raise BadArgument(f"`step` is {step}. Steps are numbered from 0.")
    return step
