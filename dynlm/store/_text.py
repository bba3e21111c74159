"""Tables of text, row by row; what is wrong in one is named by its line."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float

from .._fields import brief, shown, unreadable
from .._io import BadArgument

LINES = 512  # that are looked at at once; the text of more leaves the cache and takes twice as long


@final
class Reader:
    """The rows of a table with the numbers of their lines; what is wrong has a sentence."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path, self.line, self.rows = path, 0, self._rows(delimiter)

    def header(self) -> tuple[list[str], list[tuple[list[str], int]]]:
        """The names of the columns, and the first row if it is none of names."""
        first = next(self.rows, None)
        if first is None:
            raise BadArgument(f"{self.path} is empty. Check that it is the right file.")
        if any(_number(cell) is None for cell in first[0]):
            return [name.strip() for name in first[0]], []
        return [str(k + 1) for k in range(len(first[0]))], [first]

    def chunks(
        self, first: list[tuple[list[str], int]]
    ) -> Iterator[tuple[list[list[str]], list[int]]]:
        """The rows some thousand at a time, with the numbers of their lines."""
        rows, lines = [row for row, _ in first], [line for _, line in first]
        for row, line in self.rows:
            rows.append(row)
            lines.append(line)
            if len(rows) >= LINES:
                yield rows, lines
                rows, lines = [], []
        if rows:
            yield rows, lines

    def _rows(self, delimiter: str) -> Iterator[tuple[list[str], int]]:
        opened: Callable[..., Any] = gzip.open if self.path.suffix.lower() == ".gz" else open
        try:
            with opened(self.path, "rb") as file:
                text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
                # Strict: a quote that is never closed would else take in the rest of the file.
                reader = csv.reader(text, delimiter=delimiter, strict=True)
                for row in reader:
                    self.line = reader.line_num
                    if row:
                        yield row, self.line
        except gzip.BadGzipFile as error:
            raise self._damaged(error) from None
        except OSError as error:
            raise unreadable(self.path, error) from None
        except (csv.Error, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> BadArgument:
        return BadArgument(
            f"{self.path} cannot be read beyond line {self.line} ({brief(error)}). Check that it "
            "is a whole table of text in UTF-8."
        )


def numbers(cells: list[str], path: Path, lines: list[int], name: str) -> Float[np.ndarray, " row"]:
    """Cells of one column as numbers; the first that is none is named by its line."""
    try:
        values = np.array(list(map(float, cells)))
    except ValueError:
        values = np.array([_number(cell) for cell in cells], float)
    # Python reads 1_0 as 10, which nobody means in a table.
    if not np.isfinite(values).all() or "_" in "".join(cells):
        k = next(k for k, cell in enumerate(cells) if "_" in cell or not np.isfinite(values[k]))
        raise BadArgument(
            f"{path}, line {lines[k]}, column {shown(name)} holds {shown(cells[k])}, which is no "
            "finite number. Mend or drop the line; or choose the columns of the state with "
            "`columns`, of times with `time` and of names of paths with `path_column`."
        )
    return values


def _number(cell: str) -> float | None:
    """What the cell says, or None if that is no number."""
    try:
        return float(cell)
    except ValueError:
        return None
