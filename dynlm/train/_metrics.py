"""Writers of metrics: two methods that anyone can write."""

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from .._io import write_all, write_atomic


@runtime_checkable
class Writer(Protocol):
    """Takes the metrics of a run as they come. To plug in your own, write these two methods."""

    def write(self, metrics: dict[str, Any], /) -> None:
        """One row: `step` and what was measured there. Rows come in the order of their steps.

        A run that was killed and goes on gives rows once more that came after its last checkpoint.
        """
        ...

    def close(self) -> None:
        """Nothing comes any more."""
        ...


@final
class JsonLines:
    """A file with one JSON object a row. Numbers that are not finite are written as null.

    Rows that cannot be written are told as a warning, kept, and tried again with the next one.
    """

    def __init__(self, path: str | Path, rows: Sequence[dict[str, Any]] = ()) -> None:
        """Begins the file anew with `rows`, those of the run that goes on.

        Args:
            path: The file.
            rows: What stands in it first.
        """
        self.path = Path(path)
        text = b"".join(map(_line, rows))
        write_atomic(self.path, text)
        self.file = open(self.path, "r+b", buffering=0)
        self.size, self.waiting, self.told = len(text), b"", False

    def write(self, metrics: dict[str, Any], /) -> None:
        self.waiting += _line(metrics)
        self._try()

    def close(self) -> None:
        self.told = False
        if self.waiting:
            self._try()
        self.file.close()

    def _try(self) -> None:
        try:
            self.file.seek(self.size)
            write_all(self.file.fileno(), self.waiting)
        except OSError as error:
            if not self.told:
                warnings.warn(
                    f"{self.path} could not be written ({error}). The rows are kept, and tried "
                    "again with the next one. Free space there, if the disk is full.",
                    stacklevel=3,
                )
            self.told = True
            return
        self.size, self.waiting, self.told = self.size + len(self.waiting), b"", False


def _line(metrics: dict[str, Any]) -> bytes:
    return json.dumps(_plain(metrics), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    if hasattr(x, "tolist"):
        return _plain(x.tolist())
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    return x
