"""The parts that the format of a report is put together from."""

import re
from collections.abc import Callable, Mapping

from ._place import Place, is_number

Check = Callable[[Place], None]


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """A dict with these keys and no others; what is optional may be null."""
    optional = optional or {}

    def checked(place: Place) -> None:
        if not isinstance(place.value, dict):
            place.wrong("a dict is needed", f"Give one with the keys {', '.join(required)}.")
        for key in required:
            if key not in place.value:
                place.wrong(f"there is no `{key}`", f"Add `{key}`.")
        for key in place.value:
            one = required.get(key) or optional.get(key)
            if one is None:
                known = ", ".join([*required, *optional])
                place.wrong(f"`{key}` is no key of it", f"Remove it, or write one of {known}.")
            if key in required or place.value[key] is not None:
                one(place.at(key))

    return checked


def each(one: Check, least: int = 0, most: int | None = None) -> Check:
    """A list, every item of which is `one`."""

    def checked(place: Place) -> None:
        if not isinstance(place.value, list):
            place.wrong("a list is needed", "Put it into a list.")
        if len(place.value) < least or (most is not None and len(place.value) > most):
            bound = f"at least {least}" if len(place.value) < least else f"at most {most}"
            place.wrong(f"a list of {bound} is needed", f"Give {bound}.")
        for item in place.each():
            one(item)

    return checked


def text(place: Place) -> None:
    if not isinstance(place.value, str) or not place.value.strip():
        place.wrong("some text is needed", "Write it, or leave the key out where that is allowed.")


def any_text(place: Place) -> None:
    if not isinstance(place.value, str):
        place.wrong("a string is needed", "Write one; it may be empty.")


def number(place: Place) -> None:
    if not is_number(place.value):
        place.wrong("a finite number is needed", "Write one, or null where none is allowed.")


def number_or_none(place: Place) -> None:
    if place.value is not None:
        number(place)


def flag(place: Place) -> None:
    if not isinstance(place.value, bool):
        place.wrong("true or false is needed", "Write one of them.")


def one_of(*choices: str) -> Check:
    def checked(place: Place) -> None:
        if place.value not in choices:
            place.wrong("this is not known here", f"Write one of {', '.join(choices)}.")

    return checked


def name(place: Place) -> None:
    """An id: it becomes a file name and an anchor."""
    if not isinstance(place.value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", place.value):
        place.wrong("this is no id", "Use small letters, digits, - and _.")
