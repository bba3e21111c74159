"""`Finding`: a number, its interval, the value it has where there is nothing, and what follows.

found = finding("lag-1 correlation", interval, null=0.0)
found.verdict       # Verdict.ABOVE
found.sentence()    # "The lag-1 correlation is .42 [.38, .46], above 0, its value by chance."
"""

import dataclasses
import enum
import math
from collections.abc import Iterable
from typing import Any, NamedTuple, final

import jax
import numpy as np

from .._io import BadArgument, counted
from ..stats import Interval


@final
class Verdict(enum.Enum):
    """What follows from an estimate, its interval and its null value."""

    ABOVE = "above"  # the whole interval is above the null value
    BELOW = "below"  # the whole interval is below it
    LEVEL = "level"  # the null value is inside: not told apart from nothing
    STATED = "stated"  # computed, not estimated, or without a null value: nothing was tested
    WITHHELD = "withheld"  # no claim may be made, and `note` says why


@final
class Finding(NamedTuple):
    """One number and what follows from it.

    Args:
        what: The noun that a sentence begins with, without its article: "lag-1 correlation".
        value: The estimate; None where it is withheld.
        low: The lower end of its interval; None where there is none.
        high: The upper end.
        null: What it is where there is nothing to be found; None where there is no such value.
        verdict: What follows.
        unit: What it is counted in, such as "tokens"; may be empty.
        of_null: What the null value is of: "of states shuffled in time".
        note: A sentence to go with it, or why it is withheld; may be empty.
        level: How often such an interval holds the true number.
    """

    what: str
    value: float | None
    low: float | None
    high: float | None
    null: float | None
    verdict: Verdict
    unit: str = ""
    of_null: str = ""
    note: str = ""
    level: float = 0.95

    @property
    def beyond(self) -> bool:
        """Whether the interval leaves the null value out."""
        return self.verdict in (Verdict.ABOVE, Verdict.BELOW)

    def sentence(self) -> str:
        """In words, its null value always beside it."""
        if self.verdict is Verdict.WITHHELD:
            return f"The {self.what} is withheld: {_ended(self.note)}"
        unit = f" {self.unit}" if self.unit else ""
        text = f"The {self.what} is {shown(self.value)}{unit}"
        if self.low is not None and self.high is not None:
            text += f" [{shown(self.low)}, {shown(self.high)}]"
        if self.null is not None:
            null = shown(self.null) + (f", the value {self.of_null}" if self.of_null else "")
            text += {
                Verdict.ABOVE: f", above {null}",
                Verdict.BELOW: f", below {null}",
                Verdict.LEVEL: f", which is not told apart from {null}",
                Verdict.STATED: f", beside {null}; nothing was tested",
            }[self.verdict]
        return text + "." + (f" {_ended(self.note)}" if self.note else "")

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return plain(self._asdict()) | {"sentence": self.sentence()}


def finding(
    what: str, found: Interval, null: float, *, unit: str = "", of_null: str = "", note: str = ""
) -> Finding:
    """An estimate with an interval, compared with its null value."""
    value, low, high = (float(x) for x in (found.value, found.low, found.high))
    if not math.isfinite(value):
        return withheld(what, note or "it is not a finite number")
    if not (math.isfinite(low) and math.isfinite(high)):
        few = f"it is over {counted(found.documents, 'document')}, too few for an interval"
        return Finding(what, value, None, None, null, Verdict.STATED, unit, of_null, note or few)
    verdict = Verdict.ABOVE if low > null else Verdict.BELOW if high < null else Verdict.LEVEL
    return Finding(what, value, low, high, null, verdict, unit, of_null, note, found.level)


def stated(
    what: str,
    value: float,
    null: float | None = None,
    *,
    unit: str = "",
    of_null: str = "",
    note: str = "",
) -> Finding:
    """A number that was computed and not estimated, so that it has no interval and no test."""
    if not math.isfinite(float(value)):
        return withheld(what, note or "it is not a finite number")
    return Finding(what, float(value), None, None, null, Verdict.STATED, unit, of_null, note)


def withheld(what: str, why: str) -> Finding:
    """A number of which nothing may be said, and why."""
    if not why:
        raise BadArgument("`why` is empty. Say why nothing may be said.")
    return Finding(what, None, None, None, None, Verdict.WITHHELD, note=why)


def sentences(found: Iterable[Finding]) -> list[str]:
    """What was found, a sentence each."""
    return [one.sentence() for one in found]


def shown(x: float | None) -> str:
    """A number as it stands in a sentence: three digits that count."""
    if x is None:
        return "none"
    if x == 0:
        return "0"
    if not 1e-4 <= abs(x) < 1e6:
        return f"{x:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    text = f"{x:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain(value: Any) -> Any:
    """Plain values for JSON: named tuples and dataclasses as dicts, what is not finite as None."""
    if isinstance(value, Finding):
        return value.to_json()
    if isinstance(value, enum.Enum):
        return value.value
    if hasattr(value, "_asdict"):
        return {k: plain(v) for k, v in value._asdict().items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, jax.Array | np.ndarray):
        return plain(np.asarray(value).tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
