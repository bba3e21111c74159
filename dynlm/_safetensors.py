"""Tensors in safetensors files, mapped into memory after everything in the header was checked."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, final

import ml_dtypes
import numpy as np

from ._fields import brief, unreadable
from ._io import BadArgument

HEADER = 16_000_000  # bytes that a header may have; one of 10,000 tensors has 1 or 2 million
PREFIX = 8  # bytes, of the header's length
AXES = 8  # that a tensor may have
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}
FLOATS = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
SCALE = ".scale"  # ends the name of the row scales of a tensor of 8-bit integers
TOP = 127
CHUNK = 2**20  # numbers that are tested at a time


@final
class Stored(NamedTuple):
    """One tensor of a file: what its bytes mean, where they begin, and their scales, if any."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    scale: "Stored | None" = None


@final
class Header(NamedTuple):
    """Tensors and free text of a header, where the data begin, and how many bytes they are."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]
    begin: int
    size: int


def stored_in(path: Path) -> dict[str, Stored]:
    """Every tensor of a safetensors file, by name, once the whole header has been checked."""
    return header(path).tensors


def header(path: Path) -> Header:
    """The header of a safetensors file, checked whole."""
    entries, begin, size = _header(path)
    found, spans = {}, []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        dtype, shape, first, last = _entry(path, name, entry)
        if last > size:
            raise BadArgument(
                f"{path} is cut short: its header places `{brief(name)}` at bytes {first} to "
                f"{last}, but only {size} follow the header. Fetch or copy the file again."
            )
        found[name] = Stored(path, dtype, shape, begin + first)
        spans.append((first, last, name))
    _check_spans(path, sorted(spans), size)
    notes = entries.get("__metadata__")
    notes = notes if isinstance(notes, dict) else {}
    return Header(found, {k: v for k, v in notes.items() if isinstance(v, str)}, begin, size)


def mapped(stored: Stored) -> np.ndarray:
    """The values of a tensor: a view of the mapped file, of which only what is used is read.

    Integers with scales are multiplied at once, and are no view.
    """
    dtype = np.dtype("i1") if stored.scale is not None else FLOATS[stored.dtype]
    if 0 in stored.shape:
        return np.empty(stored.shape, dtype)
    x = np.asarray(np.memmap(stored.file, dtype, "r", stored.begin, stored.shape or 1))
    x = x.reshape(stored.shape)
    if stored.scale is None:
        return x
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        return x.astype(np.float32) * mapped(stored.scale)[:, None]


def quantised(named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices as 8-bit integers, with one scale a row under `NAME.scale`; the rest in float32."""
    out = {}
    for name, x in named.items():
        x = np.asarray(x, np.float32)
        if x.ndim != 2:
            out[name] = x
            continue
        top = np.max(np.abs(x), axis=1, initial=0.0)
        scale = np.where(top > 0, top / TOP, 1.0).astype(np.float32)
        out[name] = np.clip(np.rint(x / scale[:, None]), -TOP, TOP).astype(np.int8)
        out[name + SCALE] = scale
    return out


def restored(named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `quantised` was given, but for its rounding: half a scale at most."""
    out = {}
    for name, x in named.items():
        if x.dtype == np.int8:
            out[name] = x.astype(np.float32) * named[name + SCALE][:, None]
        elif named.get(name.removesuffix(SCALE), x).dtype != np.int8:
            out[name] = x
    return out


def with_scales(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Joins each matrix of 8-bit integers with the scales of its rows, where it has them."""
    out = dict(stored)
    for name, one in stored.items():
        scale = stored.get(name + SCALE)
        if one.dtype == "I8" and len(one.shape) == 2 and scale is not None:
            if scale.dtype == "F32" and scale.shape == one.shape[:1]:
                out[name] = one._replace(scale=scale)
                del out[name + SCALE]
    return out


def finite(x: np.ndarray) -> bool:
    """Whether all numbers are; tested in chunks, as the answers take memory too."""
    flat = x.reshape(-1)
    parts = range(0, flat.size, CHUNK)
    with np.errstate(invalid="ignore"):  # a signalling NaN in bfloat16 or float16 would warn
        return all(bool(np.isfinite(flat[k : k + CHUNK]).all()) for k in parts)


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape have the same numbers, likewise."""
    a, b = a.reshape(-1), b.reshape(-1)
    parts = range(0, a.size, CHUNK)
    with np.errstate(invalid="ignore"):
        return all(np.array_equal(a[k : k + CHUNK], b[k : k + CHUNK]) for k in parts)


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The parsed header, where the tensors begin, and how many bytes there are from there on."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(PREFIX)
            length = int.from_bytes(head, "little")
            if head == b"version ":
                raise BadArgument(
                    f"{path} is a pointer of Git LFS, not the tensors. Run `git lfs pull` there."
                )
            if len(head) < PREFIX or length > size - PREFIX:
                raise BadArgument(
                    f"{path} is no whole safetensors file: its {size} bytes begin with a header "
                    f"length of {length}. Fetch or copy the file again."
                )
            if length > HEADER:
                raise BadArgument(
                    f"{path} declares a header of {length} bytes; at most {HEADER} are read. It is "
                    "damaged, or not meant to be loaded: fetch or copy the file again."
                )
            text = file.read(length)
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadArgument(
            f"The header of {path} is damaged ({brief(error, 200)}). Fetch or copy the file again."
        ) from None
    if not isinstance(header, dict):
        raise BadArgument(
            f"The header of {path} is damaged (no JSON object). Fetch or copy the file again."
        )
    return header, PREFIX + length, size - PREFIX - length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"`{brief(name)}` stands there twice")
        found[name] = value
    return found


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Data type, shape, first and last byte of one tensor."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, span = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if isinstance(dtype, str) and _naturals(shape) and _naturals(span) and len(span) == 2:
        first, last = span
        bits = BITS.get(dtype)
        if bits is None:
            raise BadArgument(
                f"`{brief(name)}` in {path} has the data type {brief(dtype)!r}. Weights are read "
                f"from {', '.join(FLOATS)}: save the model in one of these."
            )
        if len(shape) <= AXES and last - first == math.prod(shape) * bits // 8:
            return dtype, tuple(shape), first, last
    raise BadArgument(
        f"The header of {path} is damaged: `{brief(name)}` has {brief(entry)}, which is no data "
        "type, shape and span of bytes that agree. Fetch or copy the file again."
    )


def _naturals(x: Any) -> TypeGuard[list[int]]:
    return isinstance(x, list) and all(type(k) is int and k >= 0 for k in x)


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """The tensors must follow one another without overlap or gap, to the end of the file."""
    here, last = 0, "the header"
    for first, end, name in [*spans, (size, size, "the end of the file")]:
        if first != here:
            what = "overlaps" if first < here else "leaves a gap after"
            raise BadArgument(
                f"The header of {path} is damaged: {brief(name)} {what} {brief(last)}. Fetch or "
                "copy the file again."
            )
        here, last = end, name
