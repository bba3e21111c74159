"""Checkpoints of a run, through Orbax: asynchronous, atomic, the best and the latest kept."""

import json
import logging
import math
import os
import re
import traceback
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from .._fields import brief
from .._io import BadArgument
from ._devices import is_key
from ._facts import agreed

LATEST = 2  # so that a damaged latest one has a predecessor
GONE = FileNotFoundError | NotADirectoryError | IsADirectoryError
# How TensorStore's errors begin where the system fails, and not what it has read.
REFUSED = (
    "UNKNOWN PERMISSION_DENIED RESOURCE_EXHAUSTED UNAVAILABLE ABORTED DEADLINE_EXCEEDED".split()
)
NO_THREAD = "can't start new thread"
Named = dict[str, Array]


@final
class _Kept:
    """Which checkpoints stay, as Orbax asks it: the latest two, and the one with the least loss.

    Its own policies will not do. `max_to_keep` with `best_fn` deletes the latest; `BestN` without
    `best_fn` has forgotten the metrics when the folder is opened again, and with it a damaged file
    of metrics keeps the folder from being opened at all.
    """

    def __init__(self) -> None:
        self.losses: dict[int, float | None] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [int(one.step) for one in checkpoints]
        losses = {step: self.losses.get(step) for step in steps}
        known = {k: x for k, x in losses.items() if x is not None and math.isfinite(x)}
        kept = {*steps[-LATEST:]} | ({min(known, key=known.__getitem__)} if known else set())
        return [step in kept for step in steps]


@final
class Checkpoints:
    """The checkpoints in a folder, by the number of the step.

    Saving copies the arrays at once and writes them while training goes on. A checkpoint that
    cannot be written is told as a warning, and training goes on. Kept are the latest two and the
    one with the least held-out loss.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.kept = _Kept()
        self.manager = self._open()
        self._learn()

    def _open(self) -> Any:
        import orbax.checkpoint as ocp

        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_told_by_us)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self.kept, cleanup_tmp_directories=True
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _learn(self) -> None:
        """Reads how good the checkpoints are that are there."""
        for step in self.steps():
            try:
                self.kept.losses[step] = self.notes(step)["held_out"]
            except Exception:  # `restore` tells what is damaged
                continue

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of."""
        return sorted(int(step) for step in self.manager.all_steps())

    def save(self, step: int, arrays: Named, notes: dict[str, Any], held_out: float | None) -> None:
        """Begins to write a checkpoint; waits for the one before."""
        import orbax.checkpoint as ocp

        self.settle()
        full = {name: x for name, x in arrays.items() if x.size}  # Orbax refuses empty ones
        notes = notes | {"digests": {name: _digest(x) for name, x in full.items()}}
        notes = notes | {"held_out": held_out}
        self.kept.losses[step] = held_out
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(full), notes=ocp.args.JsonSave(sealed(notes))
                ),
            )
        except Exception as error:
            self._failed(error)

    def settle(self) -> bool:
        """Waits until what was begun is on the disk; whether it is."""
        try:
            self.manager.wait_until_finished()
        except Exception as error:
            self._failed(error)
            return False
        return True

    def restore(self, like: Named) -> tuple[int, Named, dict[str, Any]] | None:
        """The latest sound checkpoint: its step, arrays and notes; None if there are none at all.

        A damaged one is told as a warning, and set aside once an older one is found sound. One that
        the system does not let be read may be sound: that is an error.
        """
        damaged: list[tuple[int, str]] = []
        for step in reversed(self.steps()):
            try:
                arrays, notes = self._read(step, like)
            except BadArgument:
                raise
            except Exception as error:
                refuse_unread(self.folder / str(step), error)
                damaged.append((step, first_line(error)))
                continue
            for bad, why in damaged:
                warnings.warn(
                    f"The checkpoint of step {bad} in {self.folder} is damaged ({why}) and kept "
                    f"there as {self._set_aside(bad)}. Going on from step {step}.",
                    stacklevel=2,
                )
            if damaged:
                self.close()
                agreed(True)  # the first process has renamed them before any other looks again
                self.manager = self._open()
            return step, arrays, notes
        if damaged:
            raise BadArgument(
                f"No checkpoint in {self.folder} is sound; the latest, of step {damaged[0][0]}, "
                f"fails with: {damaged[0][1]}. Restore them from a copy, or use another folder."
            )
        return None

    def _set_aside(self, step: int) -> str:
        """Gives a checkpoint a name that is no step; which one."""
        name, taken = f"{step}.damaged", {one.name for one in self.folder.iterdir()}
        while name in taken:
            name += "-again"
        if jax.process_index() == 0:
            os.rename(self.folder / str(step), self.folder / name)
        return name

    def notes(self, step: int) -> dict[str, Any]:
        """What was noted beside the arrays of a step."""
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(notes=ocp.args.JsonRestore())
        return unsealed(self.manager.restore(step, args=args)["notes"])

    def _read(self, step: int, like: Named) -> tuple[Named, dict[str, Any]]:
        import orbax.checkpoint as ocp

        notes = self.notes(step)
        _check_alike(self.folder, like, notes)
        wanted = {name: _struct(x) for name, x in like.items() if x.size}
        found = self.manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        )["state"]
        for name, x in found.items():
            if _digest(x) != notes["digests"][name]:
                raise ValueError(f"`{name}` is not what was written")
        return like | found, notes

    def _failed(self, error: Exception) -> None:
        warnings.warn(
            f"A checkpoint could not be written to {self.folder} ({brief(str(error) or error)}). "
            "Training goes on, and the next one is tried. Free space there, if the disk is full.",
            stacklevel=3,
        )
        try:
            self.manager.close()
        except Exception:  # it has the same error to tell
            pass
        self.manager = self._open()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self.settle()
        self.manager.close()


def refuse_unread(path: Path, error: Exception) -> None:
    """Raises where the system did not let a checkpoint be read, which tells nothing of its bytes.

    To go back to an older one would then undo what may be read tomorrow.
    """
    why = None
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError) or str(error) == NO_THREAD:
        raise error
    if isinstance(error, OSError) and not isinstance(error, GONE):
        why = error.strerror or str(error)
    elif str(error).split(":")[0] in REFUSED:
        why = re.split(r" \[[a-z]", str(error))[0].rsplit(": ", 1)[-1]  # then how it was opened
    if why is not None:
        raise BadArgument(
            f"{path} cannot be read: {brief(why)}. It may be sound, so none before it is taken. "
            "Call again when that is mended."
        ) from error


def first_line(error: Exception) -> str:
    """What a message shows of an error."""
    return brief(str(error).splitlines()[0] if str(error) else type(error).__name__)


def named(tree: PyTree) -> Named:
    """The arrays of a tree under their paths; of random keys, their numbers."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path): jr.key_data(leaf) if is_key(leaf) else leaf
        for path, leaf in flat
    }


def unnamed(arrays: Named, like: PyTree) -> PyTree:
    """The tree that these are the arrays of."""
    leaves = [
        jr.wrap_key_data(x, impl=jr.key_impl(own)) if is_key(own) else x
        for x, own in zip((arrays[name] for name in named(like)), jax.tree.leaves(like))
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def sealed(notes: dict[str, Any]) -> dict[str, Any]:
    """A copy of the notes with a checksum of what they say.

    A copy, since they are written while training goes on to append to its log.
    """
    copy = json.loads(json.dumps(notes))
    return copy | {"seal": _seal(copy)}


def unsealed(notes: dict[str, Any]) -> dict[str, Any]:
    """The notes as they were sealed. A bit may have changed in them, and still be JSON."""
    found = {name: value for name, value in notes.items() if name != "seal"}
    if _seal(found) != notes.get("seal"):
        raise ValueError("the notes are not what was written")
    return found


def _seal(notes: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


def shapes_of(arrays: Named) -> dict[str, str]:
    """Shape and dtype of each array, as they are noted."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}


def _check_alike(folder: Path, like: Named, notes: dict[str, Any]) -> None:
    there, here = notes["shapes"], shapes_of(like)
    other = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if other:
        name = other[0]
        raise BadArgument(
            f"{folder} is of another model or optimiser: {len(other)} arrays differ, such as "
            f"`{name}`, {there.get(name, 'absent')} there and {here.get(name, 'absent')} here. "
            "Use the same settings, or another folder."
        )


def _told_by_us(record: logging.LogRecord) -> bool:
    """Whether a record of a log is none of Orbax's troubles.

    A disk that is full makes hundreds of lines, up to much later, of what `Checkpoints` tells in a
    sentence.
    """
    if record.levelno < logging.WARNING:
        return True
    where = [record.pathname]
    if record.exc_info and record.exc_info[2]:
        where += [frame.filename for frame in traceback.extract_tb(record.exc_info[2])]
    return not any("orbax" in name for name in where)


def _struct(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _digest(x: Array) -> int:
    """A checksum of the values; every process holds all of them."""
    local = x.addressable_data(0) if isinstance(x, jax.Array) else x
    return zlib.crc32(np.ascontiguousarray(np.asarray(local)).tobytes())
