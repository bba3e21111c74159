"""Values by name out of someone's JSON; a bad one is refused by its name and its value."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from ._io import BadArgument

LARGEST = 2**31 - 1
LONGEST = 100  # characters of a name that a message shows
SHOWN = 60  # of a value
JSON_BYTES = 32 * 2**20  # that a config or an index may have


@final
class Fields:
    """What `get(name)` returns, checked. None counts as absent.

    Args:
        get: The value of a name.
        within: What stands before a name where a message speaks of it.
    """

    def __init__(self, get: Callable[[str], Any], within: str = "") -> None:
        self.get, self.within = get, within

    def whole(
        self, name: str, default: int | None = None, *, least: int = 1, most: int = LARGEST
    ) -> int:
        """An integer between two bounds, both included."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(name, f"It must be an integer from {least} to {most}.")
        return value

    def number(self, name: str, default: float | None = None, *, zero: bool = False) -> float:
        """A finite number above zero; zero itself where it is allowed."""
        value = self._given(name, default)
        if not _finite(value) or value < 0 or (value == 0 and not zero):
            least = "of at least 0" if zero else "above 0"
            raise self.wrong(name, f"It must be a number {least}.")
        return float(value)

    def maybe(self, name: str, *, zero: bool = False) -> float | None:
        """The same, or None."""
        return None if self.get(name) is None else self.number(name, zero=zero)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._given(name, default)
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise self.wrong(name, "It must be true or false.")
        return bool(value)

    def numbers(self, name: str, count: int) -> list[float]:
        """A list of so many finite numbers above 0."""
        values = self._given(name, None)
        if not isinstance(values, list | tuple) or len(values) != count:
            raise self.wrong(name, f"It must be a list of {count} numbers.")
        if not all(_finite(value) and value > 0 for value in values):
            raise self.wrong(name, "Its entries must be numbers above 0.")
        return [float(value) for value in values]

    def choice(self, name: str, known: dict[str, Any], what: str) -> Any:
        """What `known` has for the value, which is the name of some `what`."""
        value = self._given(name, None)
        if not isinstance(value, str) or value not in known:
            raise BadArgument(
                f"`{self.within}{name}` names the {what} {shown(value)}, which is not supported. "
                f"Supported are {', '.join(known)}."
            )
        return known[value]

    def wrong(self, name: str, must: str) -> BadArgument:
        """The error that `name` has a value of the wrong kind."""
        return BadArgument(f"`{self.within}{name}` is {shown(self.get(name))}. {must}")

    def _given(self, name: str, default: Any) -> Any:
        value = self.get(name)
        if value is None and default is None:
            raise BadArgument(f"`{self.within}{name}` is missing, which this type of model needs.")
        return default if value is None else value


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size  # to read a number of bytes takes them all first
            data = file.read() if size <= JSON_BYTES else None
    except OSError as error:
        raise unreadable(path, error) from None
    if data is None:
        raise BadArgument(
            f"{path} is larger than {JSON_BYTES} bytes, as no such file is. Fetch it again."
        )
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadArgument(f"{path} is no valid JSON ({brief(error)}). Fetch it again.") from None
    if not isinstance(found, dict):
        raise BadArgument(f"{path} holds no JSON object. Fetch it again.")
    return found


def unreadable(path: Path, error: OSError) -> BadArgument:
    """The error that the system does not give out a file."""
    return BadArgument(
        f"{path} cannot be read: {error.strerror or error}. Check that it is there, and that you "
        "may read it; else fetch or copy it again."
    )


def brief(x: object, most: int = LONGEST) -> str:
    """What a message shows of something from a file: printable, and no more than its beginning."""
    try:
        text = str(x)[: most + 1]
    except RecursionError:  # a list within a list within a list
        text = type(x).__name__
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= most else f"{text[:most]}..."


def shown(value: object) -> str:
    """The same of a value, as Python writes it."""
    try:
        return brief(repr(value), SHOWN)
    except RecursionError:
        return type(value).__name__
