"""Stores side by side: the same texts through several revisions of a model, or several models."""

import json
import os
import string
import warnings
from collections.abc import Sequence
from pathlib import Path

from .._fields import brief, shown
from .._io import BadArgument, write_atomic
from ._format import MANIFEST, REVISIONS
from ._reader import Store, open_store

FORMAT, VERSION = "dynlm revisions", 1
PLAIN = frozenset(string.ascii_letters + string.digits + "-_@.")  # stand for themselves
LONGEST = 200  # bytes of a folder's name


def open_revisions(folder: str | Path) -> dict[str, Store]:
    """The stores of a folder of revisions by name, in the order in which they were asked for.

        stores = dynlm.store.open_revisions("checkpoints")   # {"step0": <Store ...>, ...}

    One that is missing, incomplete or damaged is named in a warning; what there is of it can be
    read.

    Raises:
        BadArgument: There is no such folder, or no store in it yet.
    """
    folder = Path(folder)
    names, found, lacking = read_revisions(folder), {}, []
    for name in names:
        inside = folder / folder_name(name)
        if not inside.is_dir():
            lacking.append(f"{name} is missing")
            continue
        try:
            found[name] = open_store(inside)
        except BadArgument as error:
            lacking.append(f"{name} cannot be opened ({error})")
            continue
        if not found[name].complete:
            lacking.append(f"{name} is incomplete")
    if not found:
        raise BadArgument(
            f"{folder} is to hold the revisions {', '.join(names)}, and none can be opened: "
            f"{'; '.join(lacking)}. Run the command that makes them again: it goes on."
        )
    if lacking:
        warnings.warn(
            f"{folder}: {'; '.join(lacking)}. The command that makes them goes on where it was.",
            stacklevel=2,
        )
    return found


def write_revisions(folder: str | Path, names: Sequence[str]) -> None:
    """Says in a folder which revisions it is to hold, before there are any.

    More may be added to those of an earlier call, at any place: `names` is the order of the axis.
    Those that have no folder yet may be dropped.

    Raises:
        BadArgument: The folder holds stores of others, or something else.
    """
    folder = Path(folder)
    names = list(names)
    if not names:
        raise BadArgument("`names` is empty. Name at least one revision.")
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise BadArgument(f"`names` has {shown(twice[0])} twice. Name each revision once.")
    own = {folder_name(name) for name in names}
    there = read_revisions(folder) if (folder / REVISIONS).exists() else []
    if there == names:
        return
    begun = [name for name in there if os.path.lexists(folder / folder_name(name))]
    if gone := [name for name in begun if name not in names]:
        raise BadArgument(
            f"{folder} holds stores of the revisions {', '.join(begun)}, and `names` lacks "
            f"{gone[0]}. Name these and more, or use another folder."
        )
    try:
        present = sorted(os.listdir(folder)) if folder.exists() else []
        if (folder / MANIFEST).exists():
            raise BadArgument(
                f"{folder} holds a store. Choose a new folder: revisions are stores inside it."
            )
        strange = [name for name in present if name not in own and not _may_be(name)]
        if strange:
            raise BadArgument(
                f"{folder} holds {strange[0]}, which belongs to no revision. Choose a new or empty "
                "folder."
            )
        body = {"format": FORMAT, "version": VERSION, "names": names}
        text = json.dumps(body, indent=1, ensure_ascii=False) + "\n"
        write_atomic(folder / REVISIONS, text.encode())
    except OSError as error:
        raise BadArgument(f"{folder} cannot be written: {error.strerror or error}.") from error


def read_revisions(folder: Path) -> list[str]:
    """The names of the revisions that a folder is to hold."""
    path = folder / REVISIONS
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError:
        one = "It holds one store: use `open_store`." if (folder / MANIFEST).exists() else ""
        raise BadArgument(
            f"{folder} holds no revisions: there is no {REVISIONS} in it. "
            + (one or "Give the folder that `dynlm export --revisions` wrote.")
        ) from None
    except OSError as error:
        raise BadArgument(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError):
        raise _damaged(path) from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise _damaged(path)
    if body.get("version") != VERSION:
        raise BadArgument(
            f"{path} is of version {brief(body.get('version'))}; this dynlm reads version "
            f"{VERSION}. Use the dynlm that made it."
        )
    names = body.get("names")
    if not isinstance(names, list) or not names or not all(isinstance(k, str) for k in names):
        raise _damaged(path)
    for name in names:
        folder_name(name)
    return names


def folder_name(name: str) -> str:
    """The folder of a revision: letters, digits, `-_@.` stay, every other byte is %XX.

    As a percent sign is written as %25, no two names share a folder; a name that begins with a
    point begins with %2E there, so that none is hidden, or leads elsewhere.
    """
    try:
        data = name.encode()
    except UnicodeEncodeError:
        data = b""
    text = "".join(chr(c) if chr(c) in PLAIN else f"%{c:02X}" for c in data)
    text = "%2E" + text[1:] if text.startswith(".") else text
    if not 0 < len(text) <= LONGEST:
        raise BadArgument(
            f"The revision {shown(name)} cannot be the name of a folder. Use one of 1 to "
            f"{LONGEST} letters."
        )
    return text


def _may_be(name: str) -> bool:
    return name == REVISIONS or (name.startswith(".") and name.endswith(".part"))


def _damaged(path: Path) -> BadArgument:
    return BadArgument(
        f"{path} is damaged, or was changed by hand. Remove it and run the command that made it "
        "again: it keeps the stores that are there."
    )
