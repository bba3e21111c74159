"""Text out of files, some of it at a time: decoded, cut at separators, split into parts.

Text is UTF-8; a byte-order mark is dropped, and the line ends of Windows and of old Macs become
newlines. A file is gzipped if its first bytes say so, whatever its name.
"""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .._fields import brief, shown
from .._io import BadArgument

PART = 2**18  # characters of a long text that are in hand at a time
CHUNK = 2**18  # bytes that are read at a time


def decoded(path: Path) -> Iterator[str]:
    """The text of a file, some of it at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset, line, start = 0, 1, True
    for chunk in _bytes(path):
        waiting = len(decoder.getstate()[0])
        if start and chunk.startswith(codecs.BOM_UTF8):
            offset, chunk = len(codecs.BOM_UTF8), chunk[len(codecs.BOM_UTF8) :]
        start = False
        try:
            text = newlines.decode(decoder.decode(chunk, not chunk), not chunk)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode().replace("\r\n", "\n")
            line += before.count("\n") + before.count("\r")
            raise BadArgument(
                f"{path} is not UTF-8: byte {offset - waiting + error.start}, on line {line}, is "
                f"0x{error.object[error.start]:02x}. Save the file as UTF-8; if it is no text, "
                "leave it out."
            ) from None
        offset += len(chunk)
        line += text.count("\n")
        if text:
            yield text


def cut(chunks: Iterator[str], separator: str) -> Iterator[tuple[int, str]]:
    """What stands between separators, and the line on which each begins."""
    held, line, searched = "", 1, 0
    for chunk in chunks:
        held += chunk
        start = 0
        while (end := held.find(separator, max(start, searched))) >= 0:
            yield line, held[start:end]
            line += held.count("\n", start, end) + separator.count("\n")
            start = end + len(separator)
        held = held[start:]
        searched = max(0, len(held) - len(separator) + 1)
    yield line, held


def parts(chunks: Iterable[str]) -> Iterator[str]:
    """A long text in parts of at most `PART` characters, which end with a line where that can be.

    Else they end before a space, and where there is none either, wherever they are full.
    """
    held = ""
    for chunk in chunks:
        held, start = held + chunk, 0
        while len(held) - start > PART:
            line = held.rfind("\n", start, start + PART) + 1
            space = 0 if line else held.rfind(" ", start + 1, start + PART)
            end = line or max(space, 0) or start + PART
            yield held[start:end]
            start = end
        held = held[start:]
    if held:
        yield held


def check_text(text: str, where: str) -> None:
    """Refuses text that no file can hold: JSON may spell half of a character."""
    try:
        _ = text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        half = shown(text[error.start])
        raise BadArgument(
            f"{where} holds {half}, half of a surrogate pair, which is no character. Mend the "
            "text, or leave it out."
        ) from None


def _bytes(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked; an empty chunk stands for its end."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                while chunk := file.read(CHUNK):
                    yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadArgument(
            f"{path} is gzipped, and damaged: {brief(error).rstrip('.')}. Fetch or pack it again."
        ) from None
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise BadArgument(f"{path} cannot be read: {reason}. Check that you may read it.") from None
    yield b""
