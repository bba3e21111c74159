"""Writing a store so that it may be killed at any moment, and goes on from there."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import final

from .._io import BadArgument, locked, remove_parts, write_atomic
from ._format import (
    MANIFEST,
    PLAN,
    PROJECTIONS,
    SHARD,
    Manifest,
    differences,
    file_digest,
    manifest_bytes,
    read_manifest,
    shard_name,
)
from ._shard import Parts, fault, record_of, run_of, write_shard

SHOWN = 6  # differences that a message lists
OFTEN = 64  # the manifest lacks at most this part of the shards that are there
AGAIN = "Nothing that was written is lost: run the same command again when that is mended."


@final
class Writer:
    """Puts shards into a store, hidden behind whoever computes them.

    A shard is written and reaches the disk under its name before the manifest names it. At most
    one shard waits while another is written.

    Args:
        folder: The store.
        manifest: What it will be; its shards are those that are there already.
        leader: Whether this process writes the manifest. Of several processes that share the
            work, one does.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, leader: bool = True) -> None:
        self.folder, self.manifest, self.leader = folder, manifest, leader
        self.run = manifest.run
        self.records = {one.number: one for one in manifest.shards}
        self.published = len(self.records)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        self.waiting: Future | None = None

    def missing(self) -> list[int]:
        """The shards that are not there yet, in order."""
        return [k for k in range(self.manifest.count) if k not in self.records]

    def put(self, number: int, parts: Parts) -> None:
        """Writes a shard in the background, once the one before is on the disk."""
        self.wait()
        self.waiting = self.pool.submit(self._write, number, parts)

    def wait(self) -> None:
        """Until what was put is on the disk; its error is raised here."""
        if self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            waiting.result()

    def close(self) -> None:
        """Ends the thread; what is being written is finished or fails."""
        self.pool.shutdown(wait=True)

    def finish(self) -> Manifest:
        """Declares the store complete, when all shards are there."""
        self.wait()
        if not self.leader or self.manifest.complete:
            return self.manifest
        self._gather()
        if missing := self.missing():
            raise BadArgument(
                f"{self.folder} lacks {len(missing)} of its {self.manifest.count} shards, "
                f"{shard_name(missing[0])} first. Run the same command again."
            )
        self.manifest = self.manifest.with_shards(self.records, complete=True)
        self._publish()
        return self.manifest

    def _write(self, number: int, parts: Parts) -> None:
        self.records[number] = write_shard(self.folder, number, parts, self.run)
        if self.leader:
            self._gather()
            self.manifest = self.manifest.with_shards(self.records)
            # Else ten thousand shards would spend their time on writing lists of one another. Those
            # that the manifest does not name yet are found again by their headers.
            if len(self.records) - self.published > len(self.records) // OFTEN:
                self._publish()

    def _gather(self) -> None:
        """Shards that other processes have finished meanwhile."""
        for number in sorted(present(self.folder) - set(self.records)):
            if (record := record_of(self.folder, number, self.run)) is not None:
                self.records[number] = record

    def _publish(self) -> None:
        write_atomic(self.folder / MANIFEST, manifest_bytes(self.manifest))
        self.published = len(self.manifest.shards)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A folder for a store, which no other process writes to meanwhile.

    Where the disk refuses, what stands in the folder stays, and a sentence says so.

    Raises:
        BadArgument: Another process writes to this folder, or it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise BadArgument(f"{folder} is a file. Choose a folder for the store.")
    with trouble(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _refuse_strangers(folder)
            remove_parts(folder)
            remove_parts(folder / PROJECTIONS)
            try:
                yield
            finally:
                remove_parts(folder)
                if not os.listdir(folder):  # nothing came of it
                    folder.rmdir()


@contextmanager
def writing(folder: Path, manifest: Manifest, plan: Path | None = None) -> Iterator[Writer]:
    """A writer of the store that `manifest` describes, new or begun before, in a held folder.

    Args:
        folder: The store.
        manifest: What it will be.
        plan: A file in that folder, which becomes the plan of the store.
    """
    writer = Writer(folder, begin(folder, manifest, plan))
    try:
        yield writer
    finally:
        writer.close()


@contextmanager
def joining(folder: Path, manifest: Manifest) -> Iterator[Writer]:
    """A writer of shards for a store that another process leads."""
    with trouble(folder):
        there = read_manifest(folder)
        _refuse_other(folder, there, manifest)
        _refuse_versions(folder, there, manifest)
        writer = Writer(folder, there, leader=False)
        try:
            yield writer
        finally:
            writer.close()


def begin(folder: Path, manifest: Manifest, plan: Path | None) -> Manifest:
    """The manifest on disk, with every sound shard that there is of the same work."""
    try:
        there = read_manifest(folder) if (folder / MANIFEST).exists() else None
    except BadArgument:  # it was torn; the shards carry the digest of what made them
        there = None
    if there is None:
        _refuse_foreign(folder, manifest.run)
    else:
        _refuse_other(folder, there, manifest)
    records = {} if there is None else {one.number: one for one in there.shards}
    records = {k: one for k, one in records.items() if fault(folder, one, whole=False) is None}
    if there is not None and there.complete and len(records) == there.count:
        if plan is not None:
            os.replace(plan, folder / PLAN)
        return there
    if there is not None:
        _refuse_versions(folder, there, manifest)
        manifest = there  # what is equal may still be written in another way, as 1 and 1.0
    for number in sorted(present(folder) - set(records)):
        record = record_of(folder, number, manifest.run)
        if record is not None and fault(folder, record, whole=True) is None:
            records[number] = record
        else:
            (folder / shard_name(number)).unlink()
    if plan is not None:
        os.replace(plan, folder / PLAN)
    began = manifest.with_shards(records)
    if there is None or there != began:
        write_atomic(folder / MANIFEST, manifest_bytes(began))
    return began


def finished(folder: Path) -> Manifest | None:
    """The manifest of a store that is complete, with a sound plan and shards by their headers."""
    try:
        there = read_manifest(folder)
    except BadArgument:
        return None
    sound = all(fault(folder, one, whole=False) is None for one in there.shards)
    plan = there.plan_sha256 is None or _same(folder / PLAN, there.plan_sha256)
    return there if there.complete and sound and plan else None


def present(folder: Path) -> set[int]:
    """The numbers of the shards in a folder."""
    return {int(m[1]) for name in os.listdir(folder) if (m := SHARD.fullmatch(name))}


@contextmanager
def trouble(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses into a sentence."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(folder)):
            raise  # it is another file's, one of those that are read
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "there is no space left"
        raise BadArgument(f"{folder} cannot be written: {why}. {AGAIN}") from error


def _refuse_other(folder: Path, there: Manifest, here: Manifest) -> None:
    lines = differences(there.config, here.config)
    if not lines:
        bare = {"shards": (), "complete": False, "versions": {}}
        lines = differences(vars(replace(there, **bare)), vars(replace(here, **bare)))
    if lines:
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise BadArgument(
            f"{folder} holds a store of another configuration: {'; '.join(lines[:SHOWN])}{more}. "
            "Use the same settings, or another folder."
        )


def _refuse_versions(folder: Path, there: Manifest, here: Manifest) -> None:
    if lines := differences(there.versions, here.versions):
        raise BadArgument(
            f"{folder} was begun with other programs, whose results may differ in their last bits: "
            f"{'; '.join(lines)}. Go on with those, or begin anew in another folder."
        )


def _same(path: Path, sha256: str | None) -> bool:
    try:
        return file_digest(path) == sha256
    except FileNotFoundError:
        return False


def _refuse_strangers(folder: Path) -> None:
    """A folder that holds something else than a store."""
    known = (MANIFEST, PLAN, PROJECTIONS)
    names = sorted(os.listdir(folder))
    strange = [
        name
        for name in names
        if name not in known and not SHARD.fullmatch(name) and not name.startswith(".")
    ]
    if strange:
        raise BadArgument(
            f"{folder} holds {strange[0]}, which belongs to no store. Choose a new or empty folder."
        )


def _refuse_foreign(folder: Path, run: str) -> None:
    """Shards without a manifest that were made in another way; somebody may want them."""
    for number in sorted(present(folder)):
        other = run_of(folder, number)
        if other is not None and other != run:
            raise BadArgument(
                f"{folder} has no sound {MANIFEST}, and its {shard_name(number)} was made with "
                "other settings, or by other versions of the programs. Use those again, which "
                "mends it, or another folder."
            )
