"""Documents and prompts out of text files: plain or JSON lines, gzipped or not, one at a time.

JSON lines are files called `.jsonl` or `.ndjson`, and those that begin with `{` if they are called
`.json` or a field is asked for. Every other file is plain text.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, final

from .._fields import brief, shown
from .._io import BadArgument
from ._names import Ids
from ._textfile import check_text, cut, decoded, parts

NAMES = 12  # fields that a message lists
NOTHING: Mapping[str, float] = MappingProxyType({})
JSON_LINES = (".jsonl", ".ndjson")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


@final
class Document(NamedTuple):
    """A text, and what came with it.

    Args:
        text: The text, or its token ids.
        prompt: What comes before the text; its tokens count as the prompt.
        columns: Numbers that belong to the document.
        stream: Whether the text is a stretch of a longer one without documents of its own. Each
            piece that it is cut into then counts as a document.
        where: The file and the line, for messages.
    """

    text: str | Ids
    prompt: str | Ids = ""
    columns: Mapping[str, float] = NOTHING
    stream: bool = False
    where: str = ""


@final
class Layout(NamedTuple):
    """The fields of a JSON object that make a document: a dotted path each, like `turns.0`."""

    field: str
    prompt_field: str | None = None
    keep: tuple[str, ...] = ()


LAYOUTS = {
    "helpsteer": Layout(
        "response",
        "prompt",
        ("helpfulness", "correctness", "coherence", "complexity", "verbosity"),
    ),
}


@final
class Documents:
    """Documents that are read anew from their files each time one goes through them.

    `skipped` is how many were left out for being empty when that was last done.
    """

    def __init__(self, read: Callable[[], Iterator[Document]]) -> None:
        self._read, self.skipped = read, 0

    def __iter__(self) -> Iterator[Document]:
        self.skipped = 0
        for document in self._read():
            if isinstance(document.text, str) and not document.text.strip():
                self.skipped += 1
            else:
                yield document


def read_documents(
    files: str | Path | Sequence[str | Path],
    *,
    field: str | None = None,
    prompt_field: str | None = None,
    keep: Sequence[str] = (),
    layout: str | None = None,
    separator: str | None = None,
) -> Documents:
    r"""The documents of some files, in order.

        read_documents(["book.txt"])                              # a stream: see below
        read_documents(["stories.txt"], separator=r"\n\n")        # a document each
        read_documents(["tasks.jsonl.gz"], field="instances.0.output", prompt_field="instruction")
        read_documents(["helpsteer.jsonl"], layout="helpsteer")

    A line of JSON lines is a document. Plain text is cut at the separator, and newlines at the
    ends of a document are dropped with it. Plain text without a separator has no documents: it is
    a stream, whose pieces count as documents of their own, so that one book can be split into
    parts to fit and to test on. Neighbouring pieces are then not independent.

    A document whose text is empty or null has no trajectory; it is skipped and counted.

    Args:
        files: Paths.
        field: Of JSON lines, the one that holds the text, such as `text` or `turns.0`.
        prompt_field: The one with what comes before the text. A newline is put between them, and
            counts as the prompt's.
        keep: Fields with numbers to keep by document.
        layout: The name of a dataset in `LAYOUTS`, in place of field and prompt field.
        separator: What stands between documents in plain text. As on a command line, where `\n`,
            `\t` and `\r` are hard to type otherwise, these stand for a newline, a tab and a
            carriage return, and `\\` for a backslash.
    """
    fields = _fields(field, prompt_field, tuple(keep), layout)
    between = None if separator is None else _typed(separator)
    sources = [_source(path, fields) for path in _listed(files)]
    for source in sources:
        if source.fields is not None and between is not None:
            raise BadArgument(
                f"`separator` is {shown(separator)}, and {source.path} holds JSON lines, each of "
                "which is a document. Leave `separator` out, or read that file apart."
            )
    return Documents(lambda: (item for source in sources for item in _documents(source, between)))


def read_prompts(
    files: str | Path | Sequence[str | Path], *, field: str | None = None
) -> Documents:
    """Prompts, each as the text of a document: the lines of plain text, or a field of JSON lines.

    Blank lines are skipped.
    """
    fields = _fields(field, None, (), None)
    sources = [_source(path, fields) for path in _listed(files)]
    return Documents(lambda: (item for source in sources for item in _documents(source, "\n")))


class _Source(NamedTuple):
    path: Path
    fields: Layout | None  # None for plain text


def _listed(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """The paths as a list, each of a file that is there."""
    paths = [Path(path) for path in ([files] if isinstance(files, str | Path) else files)]
    if not paths:
        raise BadArgument("No files of text are given. Name at least one.")
    for path in paths:
        if path.is_dir():
            raise BadArgument(f"{path} is a folder. Name the files in it, such as {path}/*.txt.")
        if not path.exists():
            raise BadArgument(f"{path} is not there. Check the name, and the folder it starts in.")
        if not path.is_file():
            raise BadArgument(
                f"{path} is no regular file, and text is read more than once. Save it to a file."
            )
    return paths


def _fields(
    field: str | None, prompt_field: str | None, keep: tuple[str, ...], layout: str | None
) -> Layout | None:
    """The fields asked for, or None if none are."""
    if layout is None:
        if field is None and (prompt_field is not None or keep):
            other = f"`keep` is {shown(keep)}" if keep else f"`prompt_field` is {prompt_field!r}"
            raise BadArgument(f"{other}, but no `field` is given. Name the field with the text.")
        return None if field is None else Layout(field, prompt_field, tuple(dict.fromkeys(keep)))
    if layout not in LAYOUTS:
        raise BadArgument(f"`layout` is {shown(layout)}. Known are {', '.join(LAYOUTS)}.")
    if field is not None or prompt_field is not None:
        name = "prompt_field" if field is None else "field"
        raise BadArgument(
            f"`layout` is {layout!r}, which names the fields itself. Leave `{name}` or `layout` "
            "out."
        )
    known = LAYOUTS[layout]
    return known._replace(keep=tuple(dict.fromkeys(known.keep + keep)))


def _typed(separator: str) -> str:
    """A separator as it was meant, with the line ends that text is read with."""
    meant = re.sub(r"\\([ntr\\])", lambda found: ESCAPES[found[1]], separator)
    meant = meant.replace("\r\n", "\n").replace("\r", "\n")
    if not meant:
        raise BadArgument("`separator` is empty. Give what stands between documents, such as \\n.")
    return meant


def _source(path: Path, fields: Layout | None) -> _Source:
    """A file with the fields to read of it, after a look at its name and, in doubt, inside."""
    name = path.name.lower().removesuffix(".gz")
    lines = name.endswith(JSON_LINES)
    if not lines and (name.endswith(".json") or fields is not None):
        first = next(decoded(path), "").lstrip()[:1]
        lines = first == "{"
        if name.endswith(".json") and first == "[":
            raise BadArgument(
                f"{path} is one JSON list. Write its entries one a line, as `jq -c '.[]'` does."
            )
    if lines and fields is None:
        raise BadArgument(
            f"{path} holds JSON lines, and no `field` says which one is the text. Its first line "
            f"has {_first_names(path)}."
        )
    if not lines and fields is not None:
        raise BadArgument(
            f"{path} is plain text, which has no field {fields.field!r}. Leave the fields out, or "
            "give JSON lines: an object a line."
        )
    return _Source(path, fields if lines else None)


def _documents(source: _Source, separator: str | None) -> Iterator[Document]:
    """All documents of a file, the empty ones too."""
    path, fields = source
    if fields is not None:
        for where, record in _records(path):
            yield _document(record, fields, where)
    elif separator is None:
        empty = True
        for text in parts(decoded(path)):
            if text.strip():
                empty = False
                yield Document(text, stream=True, where=str(path))
        if empty:
            yield Document("", stream=True, where=str(path))
    else:
        for line, text in cut(decoded(path), separator):
            if text.strip():
                line += len(text) - len(text.lstrip("\n"))
                yield Document(text.strip("\n"), where=f"{path}, line {line}")


def _document(record: dict[str, Any], fields: Layout, where: str) -> Document:
    prompt = "" if fields.prompt_field is None else _string(record, fields.prompt_field, where)
    return Document(
        text=_string(record, fields.field, where),
        prompt=f"{prompt}\n" if prompt else "",
        columns={name: _number(record, name, where) for name in fields.keep} or NOTHING,
        where=where,
    )


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of JSON lines, and where each stands."""
    for line, text in cut(decoded(path), "\n"):
        if not text.strip():
            continue
        where = f"{path}, line {line}"
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at column {error.colno}"
            raise _no_object(where, f"is no valid JSON ({reason})") from None
        except (ValueError, RecursionError) as error:
            raise _no_object(where, f"is no JSON that can be read ({brief(error)})") from None
        if not isinstance(record, dict):
            raise _no_object(where, f"is {shown(record)}")
        yield where, record


def _no_object(where: str, what: str) -> BadArgument:
    return BadArgument(f"{where}, {what}. Each line of JSON lines must be one whole object.")


def _value(record: dict[str, Any], path: str, where: str) -> Any:
    """What a dotted path leads to; a name that has a dot itself is taken as it is."""
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        index = isinstance(value, list) and re.fullmatch("[0-9]{1,9}", part)
        key: Any = int(part) if index else part
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise BadArgument(f"{where}, has no field {path!r}. It has {_names(record)}.") from None
    return value


def _string(record: dict[str, Any], path: str, where: str) -> str:
    value = _value(record, path, where)
    if value is None:
        return ""
    if not isinstance(value, str):
        inside = f" It has {_names({path: value})}." if isinstance(value, list | dict) else ""
        raise BadArgument(
            f"{where}, has {shown(value)} in the field {path!r}, which is no text.{inside} Name a "
            "field with text."
        )
    check_text(value, f"{where}, field {path!r},")
    return value


def _number(record: dict[str, Any], path: str, where: str) -> float:
    value = _value(record, path, where)
    try:
        number = float(value) if isinstance(value, bool | int | float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadArgument(
            f"{where}, has {shown(value)} in the field {path!r}, which is no number to keep. Leave "
            "that field out of `keep`, or the line out of the file."
        )
    return number


def _names(record: dict[str, Any]) -> str:
    """The dotted paths to what an object holds, one step deep into lists and objects."""
    found: list[str] = []
    for name, value in record.items():
        inner = range(len(value)) if isinstance(value, list) else value
        deep = isinstance(value, list | dict) and value
        found += [f"{name}.{key}" for key in inner] if deep else [name]
    more = f" and {len(found) - NAMES} more" if len(found) > NAMES else ""
    return "the fields " + ", ".join(brief(name) for name in found[:NAMES]) + more


def _first_names(path: Path) -> str:
    first = next(_records(path), None)
    return "nothing: the file is empty" if first is None else _names(first[1])
