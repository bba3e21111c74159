"""Documents as rows of token ids, cut to a length, and what of each row is its prompt."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Int32, Int64

from .._io import BadArgument
from ._documents import Document
from ._names import Ids
from ._prompts import check_ids, check_whole
from ._textfile import PART, check_text, parts

GROUP = 256  # documents that are tokenised by one call, or fewer that have `PART` characters
PROBES = ("a", "The end.", "0 1")


@final
class Piece(NamedTuple):
    """One row of tokens.

    Args:
        doc: The document, counted from 0.
        piece: Which piece of the document, counted from 0.
        tokens: Token ids.
        prompt: How many of them, at the front, are the prompt.
        columns: The numbers that belong to the document.
    """

    doc: int
    piece: int
    tokens: Int32[np.ndarray, " time"]
    prompt: int
    columns: Mapping[str, float]


def token_rows(
    tokenizer: Any, documents: Iterable[Document], *, most: int, vocab: int | None = None
) -> Iterator[Piece]:
    """Tokens of documents, in rows of at most `most`.

    A text becomes what the tokenizer makes of it, with the tokens that it puts at the start and at
    the end of a text. A prompt is tokenised by itself: the row is the start tokens, the tokens of
    the prompt, those of the text, the end tokens; the start tokens count as the prompt's. Token ids
    stay as they are, with nothing put around them.

    A longer row is cut into pieces that follow on one another. Each later piece begins with the
    start tokens again, if the document does, so that it is read as a text is. They do not count
    as a prompt: that of a piece is what of the document's prompt lies in it, with the start tokens
    before that, and 0 once the prompt is over. A last piece of a single token, which has no
    transition, is dropped, unless it is the whole document.

    Pieces of a document share its number. Of a stream, each piece is a document by itself. A
    document without any tokens of its own is left out and gets no number.

    A text of more than `PART` characters is tokenised in parts that end with a line, so that time
    and memory stay in proportion. Where they meet, tokens may differ from those of the whole.

    Args:
        tokenizer: Hugging Face's, or None if all documents are token ids.
        documents: Texts with what came with them.
        most: Tokens in a row.
        vocab: How many tokens the model knows, where that is known.
    """
    check_whole("most", most, 2)
    start, end = _marks(tokenizer)
    if most <= len(start):
        raise BadArgument(
            f"`most` is {most}. The tokenizer begins a text with {len(start)} tokens of its own: "
            f"use at least {len(start) + 1}."
        )
    return _rows(tokenizer, documents, start, end, most, vocab)


def prompt_rows(
    tokenizer: Any, documents: Iterable[Document], *, most: int, vocab: int | None = None
) -> Iterator[Piece]:
    """Tokens of prompts to be continued: as `token_rows`, but none is cut, and all of it is prompt.

    No end tokens follow, as the text goes on. An empty prompt is the start tokens alone.

    Raises:
        BadArgument: A prompt has more than `most` tokens, or none.
    """
    check_whole("most", most, 1)
    start, _ = _marks(tokenizer)
    return _prompts(tokenizer, documents, start, most, vocab)


def _rows(
    tokenizer: Any,
    documents: Iterable[Document],
    start: list[int],
    end: list[int],
    most: int,
    vocab: int | None,
) -> Iterator[Piece]:
    doc = 0
    for number, document, before, own in _tokenised(tokenizer, documents):
        if not len(before) + len(own):
            continue
        tokens, prompt = _row(document, before, own, start, end)
        check_ids(tokens, vocab, f"the tokens of {_place(document, number)}")
        for piece, (row, given) in enumerate(_pieces(tokens.astype(np.int32), prompt, start, most)):
            yield Piece(doc, 0 if document.stream else piece, row, given, document.columns)
            doc += document.stream
        doc += not document.stream


def _prompts(
    tokenizer: Any, documents: Iterable[Document], start: list[int], most: int, vocab: int | None
) -> Iterator[Piece]:
    for number, document, before, own in _tokenised(tokenizer, documents):
        tokens, _ = _row(document, before, own, start, [])
        place = _place(document, number)
        check_ids(tokens, vocab, f"the tokens of {place}")
        if not tokens.size:
            raise BadArgument(
                f"The prompt at {place} has no tokens. A model predicts from at least one: leave "
                "the prompt out."
            )
        if tokens.size > most:
            raise BadArgument(
                f"The prompt at {place} has {tokens.size} tokens, and there is room for {most}. "
                "Shorten it, or leave it out."
            )
        yield Piece(number, 0, tokens.astype(np.int32), tokens.size, document.columns)


def _row(
    document: Document,
    before: Int64[np.ndarray, " prompt"],
    own: Int64[np.ndarray, " text"],
    start: list[int],
    end: list[int],
) -> tuple[Int64[np.ndarray, " time"], int]:
    """All tokens of a document, and how many are its prompt."""
    first = document.prompt if len(document.prompt) else document.text
    front = start if isinstance(first, str) else []
    back = end if isinstance(document.text, str) else []
    row = np.concatenate([np.array(front, np.int64), before, own, np.array(back, np.int64)])
    return row, len(front) + len(before) if len(before) else 0


def _pieces(
    tokens: Int32[np.ndarray, " time"], prompt: int, start: list[int], most: int
) -> Iterator[tuple[Int32[np.ndarray, " piece"], int]]:
    """A row in pieces, and how many tokens of each are the prompt."""
    yield tokens[:most], min(prompt, most)
    lead = tokens[: len(start)] if tokens[: len(start)].tolist() == start else tokens[:0]
    step = most - len(lead)
    for at in range(most, len(tokens), step):
        piece = np.concatenate([lead, tokens[at : at + step]])
        if len(piece) > 1:
            left = min(prompt - at, step)
            yield piece, len(lead) + left if left > 0 else 0


def _tokenised(
    tokenizer: Any, documents: Iterable[Document]
) -> Iterator[tuple[int, Document, Int64[np.ndarray, " prompt"], Int64[np.ndarray, " text"]]]:
    """Each document with its place and the tokens of its prompt and of its text."""
    for group in _groups(documents):
        fields = [
            (field, _place(document, number))
            for number, document in group
            for field in (document.prompt, document.text)
        ]
        for field, place in fields:
            if isinstance(field, str):
                check_text(field, f"The text of {place}")
        found = iter(_texts(tokenizer, [field for field, _ in fields if isinstance(field, str)]))
        ids = [next(found) if isinstance(x, str) else _given(x, place) for x, place in fields]
        for (number, document), before, own in zip(group, ids[::2], ids[1::2]):
            yield number, document, before, own


def _groups(documents: Iterable[Document]) -> Iterator[list[tuple[int, Document]]]:
    """Documents in groups that are tokenised together, each with its place among all."""
    group, size = [], 0
    for number, document in enumerate(documents):
        group.append((number, document))
        size += len(document.prompt) + len(document.text)
        if len(group) >= GROUP or size >= PART:
            yield group
            group, size = [], 0
    if group:
        yield group


def _texts(tokenizer: Any, texts: list[str]) -> list[Int64[np.ndarray, " time"]]:
    """The tokens of some texts, without any at their ends; about `PART` characters a call."""
    found: list[list[np.ndarray]] = [[] for _ in texts]
    waiting: list[tuple[int, str]] = []
    size = 0
    for number, text in enumerate(texts):
        for part in parts([text] if text else []):
            if waiting and size + len(part) > PART:
                _call(tokenizer, waiting, found)
                waiting, size = [], 0
            waiting.append((number, part))
            size += len(part)
    if waiting:
        _call(tokenizer, waiting, found)
    return [np.concatenate([np.zeros(0, np.int64), *arrays]) for arrays in found]


def _call(tokenizer: Any, some: list[tuple[int, str]], found: list[list[np.ndarray]]) -> None:
    rows = _ids(tokenizer, [text for _, text in some], special=False)
    for (number, _), row in zip(some, rows):
        found[number].append(np.array(row, np.int64))


def _ids(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    if tokenizer is None:
        raise BadArgument("There is no tokenizer for the texts. Give token ids.")
    return tokenizer(
        texts,
        add_special_tokens=special,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # else it says that long texts are longer than the model's context
    )["input_ids"]


def _marks(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts at the start and at the end of any text."""
    if tokenizer is None:
        return [], []
    fits = []
    plain = _ids(tokenizer, list(PROBES), special=False)
    for bare, full in zip(plain, _ids(tokenizer, list(PROBES), special=True)):
        here = [
            (full[:k], full[k + len(bare) :])
            for k in range(len(full) - len(bare), -1, -1)
            if full[k : k + len(bare)] == bare
        ]
        fits.append(here)
    both = [pair for pair in fits[0] if all(pair in here for here in fits)]
    if not both:
        raise BadArgument(
            "The tokenizer changes the tokens of a text where it adds special ones, so that texts "
            "cannot be cut. Give token ids instead."
        )
    return both[0]  # of several, as where all words are unknown, the most at the start


def _given(ids: Ids, place: str) -> Int64[np.ndarray, " time"]:
    begin = f"{place[0].upper()}{place[1:]} has token ids"
    try:
        found = np.asarray(ids)
    except ValueError:
        raise BadArgument(
            f"{begin} in rows of different lengths. Give one row of integers a document."
        ) from None
    if found.ndim != 1 or (found.size and not np.issubdtype(found.dtype, np.integer)):
        raise BadArgument(
            f"{begin} of shape {found.shape} and type {found.dtype}. Give one row of integers."
        )
    return found.astype(np.int64)


def _place(document: Document, number: int) -> str:
    return document.where or f"document {number}"
