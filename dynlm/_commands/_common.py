"""What the commands share: plain warnings, being stopped, numbers and shares, results."""

import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO, final

import numpy as np

from .._fields import brief, shown
from .._io import BadArgument, interruptible
from ..store._format import read_manifest
from ..store._inspect import summary, table
from ..store._reader import Store
from ..store._split import SHARES, split_docs

MB = 2**20
POSITIONAL = ("store", "files", "data")  # are given without a flag
# What Python calls otherwise than the command line.
RENAMED = {
    "budget": "max_new_tokens",
    "shard_bytes": "shard_mb",
    "documents": "text",
    "names": "revisions",
    "name": "model",
    "on": "noise_on",
}
SIZES = re.compile(r"`shard_bytes` is (\d+) there, (\d+) here")


@final
class Stopped(Exception):
    """The user stopped a command; the message says what there is, and how it goes on."""


@contextmanager
def going_on(folder: Path) -> Iterator[None]:
    """Turns Ctrl-C into a sentence about the store that was being written."""
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        try:
            manifest = read_manifest(folder)
        except BadArgument:
            raise Stopped("stopped before anything was written.") from None
        there, all_of_them = len(manifest.shards), manifest.count
        raise Stopped(
            f"stopped; {there} of {all_of_them} shards are there: the same command goes on."
        ) from None


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Prints warnings for users as one line each, without a line of the source."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is UserWarning:
            print(f"dynlm: {message}", file=sys.stderr, flush=True)
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def check_numbers(config: Any, least: Mapping[str, int]) -> None:
    """Refuses options below the least that they may be; those that are not given are None."""
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and not low <= value < 2**62:
            flag = name.replace("_", "-")
            raise BadArgument(f"`--{flag}` is {value:g}. Use {low:g} or more.")


def as_typed(message: str, config: Any) -> str:
    """A message with the options of a command by the names that its user types.

    What stands in backticks and is no option stays as it is.
    """
    own = options_of(config).keys() - set(POSITIONAL)
    flags = {name: name for name in own}
    flags |= {name: flag for name, flag in RENAMED.items() if flag in own and name not in own}
    if getattr(config, "prompts", ()):
        flags["documents"] = "prompts"
    if getattr(config, "revisions", None) is not None:
        flags["revision"] = "revisions"

    def flag(found: re.Match[str]) -> str:
        name = flags.get(found[1])
        return found[0] if name is None else f"`--{name.replace('_', '-')}`"

    if "shard_mb" in own:
        message = SIZES.sub(_in_mb, message)
    message = re.sub(r"`([a-z_]+)`", flag, message)
    return re.sub(r",? or None\.(?=\s|$)", ", or leave it out.", message)


def options_of(config: Any) -> dict[str, Any]:
    """The options of a command by name, those in groups too."""
    found: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        found |= options_of(value) if is_dataclass(value) else {one.name: value}
    return found


def join(config: Any) -> bool:
    """Joins the other processes, before anything touches a device; whether there are such."""
    given = (config.coordinator, config.processes, config.process)
    some = [one is not None for one in given]
    if any(some) and (config.distributed or not all(some)):
        raise BadArgument(
            "To share the work, give `--coordinator`, `--processes` and `--process` together; or "
            "`--distributed` alone, on a cluster that JAX recognises."
        )
    if not any(some) and not config.distributed:
        return False
    if config.processes is not None and config.process is not None:
        if config.process >= config.processes:
            raise BadArgument(
                f"`--process` is {config.process} and `--processes` is {config.processes}. "
                f"Processes are counted from 0: use 0 to {config.processes - 1}."
            )
    import jax

    try:
        jax.distributed.initialize(*given)
    except (RuntimeError, ValueError) as error:
        why = brief(error, 300).rstrip(". ")
        raise BadArgument(
            f"The processes could not be joined: {why}. Start each with the same `--coordinator` "
            "and `--processes`, and its own `--process`."
        ) from None
    return True


def _in_mb(found: re.Match[str]) -> str:
    there, here = (f"{int(size) / MB:g}" for size in found.groups())
    return f"`--shard-mb` is {there} there, {here} here"


def shares_of(shares: tuple[float, float, float], seed: int) -> dict[str, float]:
    """The shares of the splits by name, once they have been checked."""
    found = dict(zip(SHARES, shares))
    split_docs(np.arange(len(SHARES)), found, seed)
    return found


def bytes_of(shard_mb: float) -> int:
    """The size of a shard in bytes."""
    if not 0 < shard_mb < 2**40:
        raise BadArgument(f"`--shard-mb` is {shown(shard_mb)}. Use a number above 0.")
    return max(1, int(shard_mb * MB))


def tell(store: Store, *, quiet: bool, as_json: bool) -> None:
    """What a store holds: a table, unless it is to be quiet, and JSON, if asked for.

    Where there is JSON, the standard output has nothing else, and the table is for the eyes.
    """
    if quiet and not as_json:
        return
    found = summary(store)
    if not quiet:
        print(table(found), file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        print_json(found)


def print_json(found: Any) -> None:
    """One line."""
    print(json.dumps(found, ensure_ascii=False, allow_nan=False), flush=True)
