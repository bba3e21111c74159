"""Files written whole or not at all, and progress that suits where it is printed."""

import errno
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


class BadArgument(ValueError):
    """What a command was given cannot be done; the message is all that its user needs."""


CHUNK = 2**20  # bytes that go to the system at a time
PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # what a file is called until it is whole


def write_atomic(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` to `path` so that a reader finds the old file or the new one, never a part.

    When it returns, the file is on the disk under its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            for piece in parts:
                write_all(descriptor, piece)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(part, path)
        sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data`, also where the system takes less than it was given."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left[:CHUNK]) :]


def sync_folder(folder: Path) -> None:
    """Put on the disk which files a folder has, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems of networks have no such thing
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove what `write_atomic` left of files when it was killed."""
    for part in folder.glob(".*.part"):
        if PART.fullmatch(part.name):
            part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder against every other process; the system lets go when this one ends."""
    try:
        import fcntl
    except ImportError:  # there is no such lock on Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BadArgument(
                    f"Another process writes to {folder}. Wait for it, or choose another folder."
                ) from None
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
                raise  # else a file system without locks
        yield
    finally:
        os.close(descriptor)


_asked = False  # whether Ctrl-C was pressed


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C is not lost where Python swallows what is raised, as in a callback of JAX.

    It is raised at once, and if that came to nothing, when `progress` advances.
    """
    global _asked

    def ask(number: int, frame: Any) -> None:
        global _asked
        _asked = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        _asked = False
        signal.signal(signal.SIGINT, before)


@runtime_checkable
class Advance(Protocol):
    """Called with how much was done and a short note."""

    def __call__(self, amount: int, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Iterator[Advance]:
    """A bar with rate and time left on a terminal, a line per tenth elsewhere, nothing if quiet."""
    if quiet:
        showing = nullcontext(lambda amount, note="": None)
    elif sys.stderr.isatty():
        showing = _bar(label, total)
    else:
        showing = nullcontext(_lines(label, total))
    with showing as show:

        def advance(amount: int, note: str = "") -> None:
            if _asked:
                raise KeyboardInterrupt
            show(amount, note)

        yield advance


@contextmanager
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
            spent = max(time.monotonic() - start, 1e-9)
            left = spent * (total - done) / done
            pace = f"{done / spent:,.0f}/s, {left:.0f} s left"
            line = f"{label}: {done:,}/{total:,}, {pace} {note}".rstrip()
            print(line, file=sys.stderr, flush=True)

    return advance


def counted(number: int, what: str) -> str:
    """`1 shard`, `1,200 shards`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def readable(size: int | float) -> str:
    """A number of bytes for people."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:.3g} TB"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
