"""Files written whole or not at all, and progress that suits where it is printed."""

import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable


class BadArgument(ValueError):
    """What a command was given cannot be done; the message is all that its user needs."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader finds the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@runtime_checkable
class Advance(Protocol):
    """Called with how much was done and a short note."""

    def __call__(self, amount: int, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Iterator[Advance]:
    """A bar with rate and time left on a terminal, a line per tenth elsewhere, nothing if quiet."""
    if quiet:
        yield lambda amount, note="": None
    elif sys.stderr.isatty():
        yield from _bar(label, total)
    else:
        yield _lines(label, total)


def _bar(label: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, note="", rate="")

        def advance(amount: int, note: str = "") -> None:
            bar.update(task, advance=amount)
            speed = bar.tasks[0].speed
            bar.update(task, note=note, rate=f"{speed:.0f}/s " if speed else "")

        yield advance


def _lines(label: str, total: int) -> Advance:
    done, start = 0, time.monotonic()

    def advance(amount: int, note: str = "") -> None:
        nonlocal done
        before, done = done, done + amount
        if done * 10 // total > before * 10 // total:
            spent = time.monotonic() - start
            left = spent * (total - done) / done
            print(
                f"{label}: {done}/{total}, {done / spent:.0f}/s, {left:.0f} s left {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    return advance
