"""`Budget`: what each stage of a study took, in seconds and in compiled programs."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, final

import jax

from .._io import duration, progress

EVENT = "/jax/core/compile/backend_compile_duration"
LONG = 0.1  # seconds of compiling from which a program is counted; a lone sum takes a hundredth


@final
class Stage(NamedTuple):
    """What one stage took.

    Args:
        stage: Its name.
        seconds: From its begin to its end.
        compiled: Programs whose compiling took a tenth of a second or more.
        compile_seconds: Of all compiling, short programs too.
    """

    stage: str
    seconds: float
    compiled: int
    compile_seconds: float


@final
class Budget:
    """Stages one after the other: what is done in `with budget.stage("fits"):` is timed so."""

    def __init__(self, *, quiet: bool = False, expected: int | None = None) -> None:
        self.stages: list[Stage] = []
        self.quiet, self.expected = quiet, expected
        self.started = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done within."""
        _listen()
        with progress(name, 1, quiet=True) as advance:
            advance(0)  # ends here where Ctrl-C was pressed
        begun, before = time.monotonic(), len(_compiled)
        number = f"{len(self.stages) + 1}" + (f"/{self.expected}" if self.expected else "")
        if not self.quiet:
            print(f"[{number}] {name} ...", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            self._ended(name, number, begun, before)

    def _ended(self, name: str, number: str, begun: float, before: int) -> None:
        took = _compiled[before:]
        done = Stage(
            name, time.monotonic() - begun, sum(one >= LONG for one in took), float(sum(took))
        )
        self.stages.append(done)
        if not self.quiet:
            print(f"[{number}] {_line(done)}", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Since the budget was made."""
        return time.monotonic() - self.started

    def to_json(self) -> list[dict[str, Any]]:
        """A row a stage."""
        return [stage._asdict() for stage in self.stages]

    def table(self) -> str:
        """A line a stage, and the sum."""
        total = Stage(
            "in all",
            self.seconds,
            sum(one.compiled for one in self.stages),
            sum(one.compile_seconds for one in self.stages),
        )
        wide = max(len(one.stage) for one in [*self.stages, total])
        lines = [f"  {'stage':<{wide}}{'seconds':>10}{'compiled':>10}{'compiling':>11}"]
        for one in [*self.stages, total]:
            lines.append(
                f"  {one.stage:<{wide}}{one.seconds:>10.1f}{one.compiled:>10}"
                f"{one.compile_seconds:>9.1f} s"
            )
        return "\n".join(lines)


_compiled: list[float] = []  # seconds of each compilation of this process since the first budget
_listening: list[bool] = []


def _listen() -> None:
    if not _listening:
        _listening.append(True)
        jax.monitoring.register_event_duration_secs_listener(_heard)


def _heard(event: str, duration_secs: float, **kwargs: Any) -> None:
    del kwargs
    if event == EVENT:
        _compiled.append(duration_secs)


def _line(done: Stage) -> str:
    text = f"{done.stage}: {duration(done.seconds)}"
    if done.compile_seconds >= 0.05:
        programs = f"{done.compiled} program" + "s" * (done.compiled != 1)
        text += f", of which {done.compile_seconds:.1f} s compiling ({programs})"
    return text
