"""Being asked to stop: SIGTERM and Ctrl-C are heeded between two compiled calls."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array


@final
class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has stopped, after a checkpoint if it has a folder.

    Its `step` is the last that was taken, `number` that of the signal, and `kept` whether there is
    a checkpoint of this step.
    """

    def __init__(self, step: int, number: int, kept: bool, why: str = "") -> None:
        how = ": the same call goes on from there." if kept else f". {why}"
        super().__init__(f"Stopped after step {step}{how}")
        self.step, self.number, self.kept = step, number, kept


@final
class Asked:
    """Which signal came, if one did."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.sent: Array | None = None

    def anywhere(self) -> bool:
        """Whether this process was asked to stop, or any other that it trains with.

        With several processes it tells what they had heard at the call before. That is there
        already, so none waits for another, and all find the same.
        """
        if jax.process_count() == 1:
            return self.number is not None
        before, self.sent = self.sent, _most(self.number or 0)
        if before is not None:
            self.number = int(np.asarray(before.addressable_data(0))) or self.number
            return bool(np.asarray(before.addressable_data(0)))
        return False

    def interruption(self, step: int, kept: bool, why: str) -> Interrupted:
        """What to raise."""
        return Interrupted(step, self.number or signal.SIGINT, kept, why)


def _most(number: int) -> Array:
    """The largest of the processes' numbers; begun, not waited for."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    own = np.full(jax.local_device_count(), number, np.int32)
    parts = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("all")), own)
    return jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))(parts)


@contextmanager
def asked() -> Iterator[Asked]:
    """Inside, the first SIGTERM or Ctrl-C is noted; a second Ctrl-C interrupts at once."""
    found = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and found.number is not None:
            raise KeyboardInterrupt
        found.number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
