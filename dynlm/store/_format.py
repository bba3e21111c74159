"""The manifest of a store: what its shards hold, what made them, and whether they are all there."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

import ml_dtypes
import numpy as np

from .._fields import brief
from .._io import BadArgument

Name = int | str  # of a layer
MANIFEST, PLAN, PROJECTIONS = "manifest.json", "plan.safetensors", "projections"
REVISIONS = "revisions.json"  # in a folder of several stores
FORMAT, VERSION = "dynlm store", 1
FLOATS = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
LAYER, COLUMN = "layer_", "column."
SHARD = re.compile(r"shard-(\d{5,})\.safetensors")


@final
@dataclass(frozen=True)
class Record:
    """One shard as the manifest knows it.

    The header of a shard holds the digest of the bytes after it, and the manifest the digest of
    the header: so both together cover every byte.
    """

    number: int
    rows: int
    steps: int
    states: int
    bytes: int
    header_sha256: str
    data_sha256: str

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return shard_name(self.number)


@final
@dataclass(frozen=True)
class Manifest:
    """What a store is. Nothing in it depends on when it was made.

    Args:
        layers: Dimension of each layer's states.
        dtype: Of the states.
        stride: Of each row, one state in so many was kept, from its first on.
        fields: Names of what is kept for each step beside the states, tokens for example.
        columns: Names of the numbers that are kept for each row.
        top: How many of the likeliest tokens are kept.
        rows: How many rows there are when it is complete.
        documents: How many documents they come from.
        count: How many shards there are when it is complete.
        plan_sha256: Digest of the plan of the work, if there is one.
        split: Seed and shares of the documents that are for training, validation and test.
        config: What decided every byte of the shards; another one makes another store.
        versions: Of the programs that made it, and the kind of device.
        shards: Those that are there, in order.
        complete: Whether all of them are.
    """

    layers: dict[Name, int]
    dtype: str
    stride: int
    fields: tuple[str, ...]
    columns: tuple[str, ...]
    top: int
    rows: int
    documents: int
    count: int
    plan_sha256: str | None
    split: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    shards: tuple[Record, ...] = field(default=())
    complete: bool = False

    def with_shards(self, found: Mapping[int, Record], *, complete: bool = False) -> "Manifest":
        """The same with these shards."""
        return replace(self, shards=tuple(found[k] for k in sorted(found)), complete=complete)

    @property
    def run(self) -> str:
        """Digest of all that decides the shards' bytes; each shard carries it."""
        body = _body(replace(self, shards=(), complete=False))
        return digest(json.dumps(body, sort_keys=True).encode())


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.safetensors"


def tensor_name(layer: Name) -> str:
    """The tensor that holds the states of a layer."""
    return f"{LAYER}{layer}"


def layer_name(text: str) -> Name:
    """A layer from its name in a file: digits are a number."""
    return int(text) if text.isascii() and text.isdigit() else text


def digest(data: bytes | memoryview) -> str:
    """The sha256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The file of a manifest, which ends with the digest of all that stands before."""
    body = _body(manifest)
    return _json(body | {"sha256": digest(_json(body))}) + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store, once it has been checked whole.

    Raises:
        BadArgument: There is none, or it is damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if (folder / REVISIONS).exists():
            raise BadArgument(
                f"{folder} holds several stores. Open them by `open_revisions`, or one of the "
                "folders in it."
            ) from None
        if any(folder.glob("shard-*.safetensors")):
            raise BadArgument(
                f"{folder} holds shards, but no {MANIFEST}. Run the command that made it again: it "
                "keeps those that are sound."
            ) from None
        if (folder / PLAN).exists() or any(folder.glob(".*.part")):
            raise BadArgument(
                f"{folder} holds no store yet: an export had only begun to plan it. Run the same "
                "command again."
            ) from None
        raise BadArgument(
            f"{folder} holds no store: there is no {MANIFEST} in it. Give the folder that "
            "`dynlm export` or `dynlm import` wrote."
        ) from None
    except OSError as error:
        raise BadArgument(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        body = json.loads(data)
        assert isinstance(body, dict) and body.get("format") == FORMAT
        version = body["version"]
    except (ValueError, RecursionError, AssertionError, KeyError):
        raise _damaged(path) from None
    if version != VERSION:
        raise BadArgument(
            f"{path} is of version {brief(version)} of the format; this dynlm reads version "
            f"{VERSION}. Use the dynlm that made it, or make the store again."
        )
    try:
        manifest = _manifest(body)
        assert manifest_bytes(manifest) == data
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError, RecursionError):
        raise _damaged(path) from None
    return manifest


def differences(there: Any, here: Any, within: str = "") -> list[str]:
    """Where two configurations differ, one sentence each."""
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            line
            for name in dict.fromkeys((*there, *here))
            for line in differences(there.get(name), here.get(name), f"{within}{name}.")
        ]
    if there == here:
        return []
    return [f"`{within[:-1]}` is {brief(json.dumps(there))} there, {brief(json.dumps(here))} here"]


def as_json(config: Any) -> Any:
    """`config` as it will be when it has been written and read again."""
    return json.loads(json.dumps(config))


def _body(manifest: Manifest) -> dict[str, Any]:
    fields = {k: v for k, v in asdict(manifest).items() if k != "layers"}
    layers = [{"name": name, "dim": dim} for name, dim in manifest.layers.items()]
    return {"format": FORMAT, "version": VERSION, "layers": layers} | fields


def _manifest(body: dict[str, Any]) -> Manifest:
    fields = {k: v for k, v in body.items() if k not in ("format", "version", "sha256", "layers")}
    layers = {one["name"]: one["dim"] for one in body["layers"]}
    shards = tuple(Record(**one) for one in fields.pop("shards"))
    tuples = {name: tuple(fields.pop(name)) for name in ("fields", "columns")}
    return Manifest(layers=layers, shards=shards, **tuples, **fields)


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _damaged(path: Path) -> BadArgument:
    return BadArgument(
        f"{path} is damaged, or was changed by hand. Run the command that made the store again: it "
        "keeps every shard that is sound."
    )
