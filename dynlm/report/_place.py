"""`Place`: a value of a JSON document together with where it stands."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn, final

from .._io import BadArgument
from ..analysis.findings import shown


@final
class Place(NamedTuple):
    """A value and its JSON pointer, such as `/sections/3/findings/0/value`.

    Whatever the page shows is taken from a place, so that value and pointer cannot part.
    """

    value: Any
    path: str = ""

    def at(self, key: str | int) -> "Place":
        """What stands under a key that is there."""
        part = str(key).replace("~", "~0").replace("/", "~1")
        return Place(self.value[key], f"{self.path}/{part}")

    def has(self, key: str) -> bool:
        """Whether there is something under the key, neither null nor empty."""
        return self.value.get(key) not in (None, "", [], {})

    def each(self, key: str | None = None) -> Iterator["Place"]:
        """The items of this list or dict, or of the one under a key; nothing where it is not."""
        if key is not None:
            if self.has(key):
                yield from self.at(key).each()
            return
        for k in self.value if isinstance(self.value, dict) else range(len(self.value)):
            yield self.at(k)

    def wrong(self, what: str, do: str) -> NoReturn:
        """Says where the document is wrong, what stands there and what to do."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise BadArgument(f"The report at {self.path or '/'}: {what}; it is {shown}. {do}")


def digits(number: int | float) -> str:
    """A number as it is read: a count whole, all else by three digits that count."""
    return f"{number:,}" if isinstance(number, int) else shown(number)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
