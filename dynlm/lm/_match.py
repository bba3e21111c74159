"""Which tensor of a checkpoint is which of its layout, and everything that does not fit."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, final

from .._fields import brief
from .._io import BadArgument
from .._safetensors import FLOATS, Stored, equal, mapped
from ._files import CONFIG, Found
from ._layouts import Entry, Layout, entry_name

SHOWN = 5  # tensors of each kind of fault that a message names
TIED = "unlike what it is tied to"
UNTIE = (
    f'The head is tied to the embedding by {CONFIG}: set "tie_word_embeddings": false there if the '
    "head is to be used."
)


@final
class Wanted(NamedTuple):
    """One tensor of the layout, its name on disk, and where it is stored."""

    name: str
    entry: Entry
    stored: Stored


def matched(layout: Layout, stored: Mapping[str, Stored], found: Found) -> list[Wanted]:
    """The tensors of the layout among those of a checkpoint.

    All that is missing, unexpected, there twice, mis-shaped or no weight is reported together.
    """
    here: dict[str, list[str]] = {}
    for name in stored:
        entry = entry_name(layout, name)
        if entry is not None:
            here.setdefault(entry, []).append(name)
    faults: dict[str, list[str]] = {}
    for copy, of in layout.copies:
        names = here.pop(copy, [])
        if of not in here:
            here[of] = names
        elif names and not _same(stored[names[0]], stored[here[of][0]]):
            faults.setdefault(TIED, []).append(names[0])
    out = []
    for entry in layout.entries:
        names = here.pop(entry.name, [])
        fault, text = _fault(entry, names, stored)
        if fault:
            faults.setdefault(fault, []).append(text or disk_name(layout, entry))
        else:
            out.append(Wanted(names[0], entry, stored[names[0]]))
    unexpected = [name for names in here.values() for name in names]
    if unexpected:
        faults["unexpected"] = unexpected
    if faults:
        raise BadArgument(
            f"The weights in {found.folder} do not belong to its {CONFIG}: "
            + "; ".join(f"{len(names)} {what} ({some(names)})" for what, names in faults.items())
            + ". Fetch both again, from one revision."
            + (f" {UNTIE}" if TIED in faults else "")
        )
    return out


def _fault(entry: Entry, names: list[str], stored: Mapping[str, Stored]) -> tuple[str, str]:
    """What is wrong with the tensors that stand for an entry, and with which."""
    if not names:
        return "missing", ""
    if len(names) > 1:
        return "there twice", " and ".join(names)
    one = stored[names[0]]
    if one.dtype not in FLOATS and one.scale is None:
        return f"stored as none of {', '.join(FLOATS)}", f"{names[0]} is {one.dtype}"
    if one.shape != entry.shape:
        return "of another shape", f"{names[0]} is {_x(one.shape)} and not {_x(entry.shape)}"
    return "", ""


def disk_name(layout: Layout, entry: Entry) -> str:
    """What transformers calls the tensor of an entry when it saves one."""
    is_head = any(part.path.startswith("head.") for part in entry.parts)
    return entry.name if is_head else layout.prefix + entry.name


def some(names: Iterable[str]) -> str:
    """The first few of some names."""
    shown = [brief(name) for name in names]
    return ", ".join(shown[:SHOWN]) + (", ..." if len(shown) > SHOWN else "")


def _same(a: Stored, b: Stored) -> bool:
    floats = all(one.dtype in FLOATS or one.scale is not None for one in (a, b))
    return floats and a.shape == b.shape and equal(mapped(a), mapped(b))


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
