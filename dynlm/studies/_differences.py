"""What differs between two studies: one number less the same of another, with an interval."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..analysis.findings import Finding, finding, withheld
from ..stats import Interval

CAUTION = (
    "Intervals of differences take the two numbers for independent. Where both are of the same "
    "texts they are too wide if anything: what makes a text easy makes it so for both."
)


def apart(a: Interval, b: Interval) -> Interval:
    """$b - a$ of two independent estimates: what lies between each and its ends adds in squares."""
    low = float(np.hypot(b.value - b.low, a.high - a.value))
    high = float(np.hypot(b.high - b.value, a.value - a.low))
    value = b.value - a.value
    return Interval(value, value - low, value + high, a.level, min(a.documents, b.documents))


def interval_of(found: Mapping[str, Any] | None) -> Interval | None:
    """The interval of a finding as JSON has it; None where there is none."""
    if found is None or any(found.get(k) is None for k in ("value", "low", "high")):
        return None
    value, low, high = (float(found[k]) for k in ("value", "low", "high"))
    return Interval(value, low, high, found.get("level", 0.95), 0)


def difference(
    what: str, found: Mapping[str, Mapping[str, Any] | None], first: str, last: str
) -> Finding:
    """The number of `last` less that of `first`.

    Args:
        what: The noun.
        found: Findings as JSON has them, by study.
        first: The study that is subtracted.
        last: The one that it is subtracted from.
    """
    what = f"{what}: {last} less {first}"
    a, b = interval_of(found[first]), interval_of(found[last])
    if a is None or b is None:
        lacking = " and ".join(n for n, x in ((first, a), (last, b)) if x is None)
        return withheld(what, f"{lacking} has no interval of it")
    unit = (found[last] or {}).get("unit", "")
    return finding(what, apart(a, b), 0.0, unit=unit, of_null="of no difference")
