"""A tiny model of the contract, stores made with it, and faults that strike meanwhile."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynlm.cli import main
from dynlm.lm._export import export
from dynlm.lm._foreign import Uncached
from dynlm.lm._grid import Sampling

VOCAB, WIDTH = 23, 8
TABLE = np.random.default_rng(0).normal(size=(VOCAB, WIDTH)).astype(np.float32)


@jax.jit
def tiny(tokens: jax.Array, positions: jax.Array) -> tuple[jax.Array, dict[Any, jax.Array]]:
    """A causal mean of embeddings, and a readout."""
    table = jnp.asarray(TABLE)
    x = table[tokens] * (positions >= 0).astype(jnp.float32)[:, :, None]
    mean = jnp.cumsum(x, axis=1) / jnp.maximum(positions + 1, 1).astype(jnp.float32)[:, :, None]
    return jnp.tanh(mean) @ table.T, {0: x, 1: mean}


def texts(count: int, seed: int = 1, longest: int = 30) -> list[np.ndarray]:
    """Rows of token ids of all lengths."""
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCAB, random.integers(2, longest)) for _ in range(count)]


def make(folder: Path, count: int = 24, **settings: Any) -> Any:
    """A store of a few shards."""
    usual: dict[str, Any] = dict(batch_tokens=64, shard_bytes=4000, quiet=True, layers=(0, 1))
    return export(tiny, texts(count), folder, **usual | settings)


def drawn(folder: Path) -> Any:
    """A store of samples, of a few shards."""
    model = Uncached(lambda tokens, positions, *, edit: tiny(tokens, positions), context=64)
    sampling = Sampling(2, 6, temperature=(0.5, 1.0), stop=(3,))
    usual: dict[str, Any] = dict(batch_tokens=64, shard_bytes=900, quiet=True, name="tiny")
    return export(model, [[1, 2], [4], [5, 6, 7]], folder, sampling=sampling, **usual)


def run(*arguments: Any) -> Any:
    """The exit code of a command."""
    try:
        main(list(map(str, arguments)))
    except SystemExit as end:
        return end.code
    return 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Killed(BaseException):
    """The process is gone: nothing that it would do afterwards happens."""


class Faults:
    """Counts what is done to a folder, and strikes at one moment.

    Args:
        folder: What is done elsewhere is let through.
        at: Which of the calls fails; None counts only.
        full: The disk is full from then on; else the process dies.
    """

    def __init__(self, folder: Path, at: int | None, *, full: bool = False) -> None:
        self.folder, self.at, self.full = str(folder), at, full
        self.calls: list[str] = []
        self.open: set[int] = set()

    @property
    def dead(self) -> bool:
        return self.at is not None and len(self.calls) > self.at

    def concerns(self, thing: Any) -> bool:
        if isinstance(thing, int):
            return thing in self.open
        return os.fspath(thing).startswith(self.folder)

    def strike(self, what: str, thing: Any, *, write: bool = False) -> bool:
        """Whether to do half of it before dying."""
        if not self.concerns(thing):
            return False
        if self.full:
            self.calls.append(what)
            now = len(self.calls) - 1 == self.at and what in ("open", "fsync", "replace")
            if now or (self.dead and write):
                raise OSError(errno.ENOSPC, "No space left on device")
            return False
        if self.dead:
            raise Killed
        self.calls.append(what)
        if self.dead and not write:
            raise Killed
        return self.dead

    @contextmanager
    def striking(self, monkeypatch: Any) -> Iterator[None]:
        real = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink")}

        def open_(path: Any, *args: Any, **more: Any) -> int:
            self.strike("open", path)
            descriptor = real["open"](path, *args, **more)
            if self.concerns(path):
                self.open.add(descriptor)
            return descriptor

        def write(descriptor: int, data: Any) -> int:
            if self.strike("write", descriptor, write=True):
                real["write"](descriptor, data[: len(data) // 2])
                raise Killed
            return real["write"](descriptor, data)

        def fsync(descriptor: int) -> None:
            self.strike("fsync", descriptor)
            real["fsync"](descriptor)

        def replace(a: Any, b: Any) -> None:
            self.strike("replace", b)
            real["replace"](a, b)

        def unlink(path: Any, *args: Any, **more: Any) -> None:
            self.strike("unlink", path)
            real["unlink"](path, *args, **more)

        with monkeypatch.context() as patch:
            for fake in (open_, write, fsync, replace, unlink):
                patch.setattr(os, fake.__name__.rstrip("_"), fake)
            yield
