"""Where batches come from: arrays that the device holds, or anything asked for by step."""

import abc
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, final, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._io import BadArgument
from ..store._order import ROUNDS, checked_seed, mixed
from ._devices import is_key


class AbstractSource(abc.ABC):
    """Batches by the number of the step, made partly on the host and partly in the compiled step.

    `rows` is how many items a batch has, over all hosts; `resident` is what the device holds all
    the time; `payload(steps)` is made on the host, the steps stacked on a leading axis, this host's
    part of them; `batch(resident, payload)` makes the batch of one step, on the device. If there
    are `facts`, JSON, a run goes on only with equal ones.
    """

    rows: int
    resident: PyTree

    @abc.abstractmethod
    def payload(self, steps: range) -> PyTree: ...

    @staticmethod
    @abc.abstractmethod
    def batch(resident: PyTree, payload: PyTree) -> PyTree: ...


@final
class InMemory(AbstractSource):
    """Items that the device holds, in a new order every epoch; only their numbers are sent.

    Args:
        items: A pytree of arrays with one leading axis: the items.
        size: Items in a batch, over all hosts.
        seed: Another seed gives other orders.
        host: Which of `hosts` equal parts of a batch this host sends.
    """

    def __init__(
        self, items: PyTree, size: int, *, seed: int, host: int = 0, hosts: int = 1
    ) -> None:
        counts = {np.shape(x)[:1] for x in jax.tree.leaves(items)}
        if len(counts) != 1 or counts == {()}:
            raise BadArgument(
                f"`items` have the first axes {sorted(counts)}. Pass arrays whose first axes are "
                "alike: that of the items."
            )
        (self.count,) = counts.pop()
        if self.count == 0:
            raise BadArgument("`items` are none. Pass at least one.")
        if hosts < 1 or not 0 <= host < hosts:
            raise BadArgument(
                f"`host` is {host} and `hosts` is {hosts}. Number the hosts from 0 to `hosts - 1`."
            )
        if size < 1 or size % hosts:
            raise BadArgument(
                f"`size` is {size} and there are {hosts} hosts. Use a positive multiple of them."
            )
        self.rows, self.resident, self.seed = size, items, checked_seed(seed)
        self.host, self.hosts = host, hosts
        self.facts = {"items": self.count, "order": self.seed}
        self._order = _Order(self.count, self.seed, 0)

    def payload(self, steps: range) -> PyTree:
        first, part = self.host * (self.rows // self.hosts), self.rows // self.hosts
        places = self._places(steps.start * self.rows, steps.stop * self.rows)
        return places.reshape(len(steps), self.rows)[:, first : first + part]

    @staticmethod
    def batch(resident: PyTree, payload: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.take(x, payload, axis=0), resident)

    def _places(self, here: int, stop: int) -> np.ndarray:
        found = []
        while here < stop:
            epoch, place = divmod(here, self.count)
            end = min(place + stop - here, self.count)
            if self._order.epoch != epoch:
                self._order = _Order(self.count, self.seed, epoch)
            found.append(self._order.at(np.arange(place, end)))
            here += end - place
        return np.concatenate(found).astype(np.int32)


@final
class _Order:
    """The order that `shuffled` gives to an epoch, in a quarter of the time.

    The halves that its network mixes have few bits: a table for each round holds what they become.
    """

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self.count, self.epoch = count, epoch
        bits = max(count - 1, 0).bit_length()
        self.low = (bits + 1) // 2
        sizes = bits - self.low, self.low
        keys = mixed(int(mixed(seed, epoch)[0]), np.arange(ROUNDS, dtype=np.uint64))
        tables = []
        for this, other, turn in ((*sizes, keys[::2]), (*sizes[::-1], keys[1::2])):
            mix = mixed((np.arange(2**other, dtype=np.uint64) ^ turn[:, None]).reshape(-1))
            table = (mix & np.uint64(2**this - 1)).astype(np.intp)
            tables.append(table.reshape(len(turn), -1))
        self.tables = [table for two in zip(*tables) for table in two] if bits else []

    def at(self, places: np.ndarray) -> np.ndarray:
        out = self._permuted(places)
        while (outside := np.flatnonzero(out >= self.count)).size:
            out[outside] = self._permuted(out[outside])
        return out

    def _permuted(self, x: np.ndarray) -> np.ndarray:
        this, other = x >> self.low, x & (2**self.low - 1)
        for table in self.tables:
            this ^= table.take(other)
            this, other = other, this
        return (this << self.low) | other


@runtime_checkable
class ByStep(Protocol):
    """What gives the batch of any step, such as `dynlm.store.Batches`."""

    def at(self, step: int, /) -> Any: ...


@final
class Streamed(AbstractSource):
    """Batches of a `ByStep`, each made on the host: for data that the device cannot hold."""

    def __init__(self, batches: ByStep, size: int) -> None:
        self.batches, self.rows, self.resident = batches, size, None

    def payload(self, steps: range) -> PyTree:
        return jax.tree.map(_stack, *[self.batches.at(step) for step in steps])

    @staticmethod
    def batch(resident: PyTree, payload: PyTree) -> PyTree:
        return payload


def _stack(*xs: Any) -> Any:
    """Steps side by side, on the host: what stands on a device would be compiled and moved."""
    if is_key(xs[0]):
        return jnp.stack(xs)
    return np.stack([np.asarray(x) for x in xs])


def check_rows(payload: PyTree, steps: range, rows: int) -> None:
    """Refuses payloads with other numbers of steps or items than they should have."""
    part = rows // jax.process_count()
    for x in jax.tree.leaves(payload):
        if x.shape[:2] != (len(steps), part):
            raise BadArgument(
                f"The source gives {x.shape[:2]} for {len(steps)} steps and this host's part of a "
                f"batch, which is {part} of {rows} items. Give its `size` as the items in a batch "
                "over all hosts; with several, `host=jax.process_index()` and "
                "`hosts=jax.process_count()`."
            )


@contextmanager
def ahead(
    make: Callable[[range], Any], chunks: list[range], depth: int = 2
) -> Iterator[Iterator[Any]]:
    """What `make` gives for each of `chunks`, made by a thread up to `depth` chunks ahead.

    What goes wrong in the thread is raised where its result would have been taken.
    """
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[Any, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for steps in chunks:
                if not put((make(steps), None)):
                    return
        except BaseException as error:
            put((None, error))

    def taken() -> Iterator[Any]:
        for _ in chunks:
            item, error = made.get()
            if error is not None:
                raise error
            yield item

    thread = threading.Thread(target=work, name="dynlm-prefetch", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()
