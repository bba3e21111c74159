"""Documents as rows of tokens: what the tokenizer adds, where rows are cut, what is the prompt."""

import os
from pathlib import Path

import numpy as np
import pytest

from dynlm._io import BadArgument
from dynlm.lm import _pieces, _textfile
from dynlm.lm._documents import Document, read_documents, read_prompts
from dynlm.lm._files import locate
from dynlm.lm._pieces import prompt_rows, token_rows
from dynlm.lm._tokenizer import read_tokenizer

DATA = Path(os.environ.get("DYNLM_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="set DYNLM_DATA to the folder of data")

START, END, UNKNOWN = 0, 1, 2
AROUND = {"both": "<s> $A </s>", "start": "<s> $A", "end": "$A </s>", "none": "$A"}


def words(around: str = "both", unknown: str = "<unk>"):
    """A tokenizer of w3, w4, ..., which puts tokens around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocab = {"<s>": START, "</s>": END, "<unk>": UNKNOWN} | {f"w{k}": k for k in range(3, 60)}
    core = Tokenizer(models.WordLevel(vocab, unk_token=unknown))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = TemplateProcessing(
        single=AROUND[around], special_tokens=[("<s>", START), ("</s>", END)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=4)


def text(*ids: int) -> str:
    return " ".join(f"w{k}" for k in ids)


def rows(tokenizer, documents, most=100, **more):
    """(doc, piece, tokens, prompt) of each row."""
    found = list(token_rows(tokenizer, documents, most=most, **more))
    assert all(row.tokens.dtype == np.int32 for row in found)
    return [(row.doc, row.piece, row.tokens.tolist(), row.prompt) for row in found]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("unknown", ["<unk>", "<s>"])
def test_a_text_is_what_the_tokenizer_makes_of_it(around, unknown):
    tokenizer = words(around, unknown)
    documents = [
        Document(text(5, 6)),
        Document("strange w7"),
        Document("w8 </s> w9"),
        Document("w3"),
    ]
    expected = [tokenizer(item.text)["input_ids"] for item in documents]
    assert expected[2].count(END) == 1 + (around in ("both", "end"))
    assert rows(tokenizer, documents) == [(k, 0, ids, 0) for k, ids in enumerate(expected)]


def test_a_prompt_starts_the_row_and_the_end_ends_it():
    document = Document(text(7, 8, 9), prompt=text(5, 6) + "\n")
    for around, row, prompt in [
        ("both", [START, 5, 6, 7, 8, 9, END], 3),
        ("start", [START, 5, 6, 7, 8, 9], 3),
        ("end", [5, 6, 7, 8, 9, END], 2),
        ("none", [5, 6, 7, 8, 9], 2),
    ]:
        assert rows(words(around), [document]) == [(0, 0, row, prompt)]
    assert rows(words(), [Document("w3", prompt=" ")]) == [(0, 0, [START, 3, END], 0)]


def test_token_ids_stay_as_they_are():
    documents = [
        Document([5, 6]),
        Document(np.array([7, 8], np.uint16), prompt=[START, 4]),
        Document("w9", prompt=[4, 5]),
        Document([9], prompt="w4"),
    ]
    expected = [
        (0, 0, [5, 6], 0),
        (1, 0, [START, 4, 7, 8], 2),
        (2, 0, [4, 5, 9, END], 2),
        (3, 0, [START, 4, 9], 2),
    ]
    assert rows(words(), documents, vocab=60) == expected
    assert rows(None, documents[:2]) == expected[:2]


def test_ids_that_do_not_fit_are_refused(unchecked):
    for document, sentence in [
        (
            Document([5, 60]),
            "Entry 1 of the tokens of document 1 is 60. This model has tokens 0 to",
        ),
        (Document([5, 2**40]), "document 1 is 1099511627776"),
        (Document("w59 w3", where="a.txt, line 7"), "Entry 1 of the tokens of a.txt, line 7 is 59"),
        (Document([[1, 2]]), "Document 1 has token ids of shape (1, 2)"),
        (Document([1.5]), "type float64"),
        (Document([[1], [2, 3]]), "rows of different lengths"),
        (Document("a\ud83d"), "The text of document 1 holds '\\ud83d', half of a surrogate pair"),
    ]:
        vocab = 59 if isinstance(document.text, str) else 60
        with pytest.raises(BadArgument) as caught:
            rows(words(), [Document("w3"), document], vocab=vocab)
        assert sentence in str(caught.value)
    with pytest.raises(BadArgument, match="no tokenizer"):
        rows(None, [Document("w3")])


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("most", [2, 3, 4, 5, 7, 50])
@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 20])
def test_pieces_rebuild_the_document(around, most, size):
    tokenizer, ids = words(around), list(range(3, 3 + size))
    whole = tokenizer(text(*ids))["input_ids"]
    lead = whole[: around in ("both", "start")]
    found = rows(tokenizer, [Document(text(*ids))], most)
    first, *later = [row for _, _, row, _ in found]
    assert [piece for _, piece, _, _ in found] == list(range(len(found)))
    assert all(len(row) == most for row in [first, *later][:-1]) and len(found[-1][2]) <= most
    assert all(row[: len(lead)] == lead for row in later)
    rebuilt = first + [token for row in later for token in row[len(lead) :]]
    dropped = not lead and len(whole) > most and len(whole) % most == 1
    assert rebuilt == (whole[:-1] if dropped else whole)
    assert all(len(row) >= 2 for row in [first, *later]) or len(whole) == 1


def test_the_prompt_of_a_piece_is_what_of_it_lies_there():
    document = Document(text(8, 9, 10, 11), prompt=text(3, 4, 5, 6, 7))
    assert rows(words(), [document], 4) == [
        (0, 0, [START, 3, 4, 5], 4),
        (0, 1, [START, 6, 7, 8], 3),
        (0, 2, [START, 9, 10, 11], 0),
        (0, 3, [START, END], 0),
    ]
    assert rows(words("none"), [document], 4) == [
        (0, 0, [3, 4, 5, 6], 4),
        (0, 1, [7, 8, 9, 10], 1),
    ]


def test_a_piece_may_be_all_prompt():
    document = Document(text(12), prompt=text(*range(3, 12)))
    assert rows(words("start"), [document], 4) == [
        (0, 0, [START, 3, 4, 5], 4),
        (0, 1, [START, 6, 7, 8], 4),
        (0, 2, [START, 9, 10, 11], 4),
        (0, 3, [START, 12], 0),
    ]


def test_ids_begin_again_with_the_start_tokens_only_if_they_do():
    assert [row for _, _, row, _ in rows(words(), [Document([START, 3, 4, 5])], 3)] == [
        [START, 3, 4],
        [START, 5],
    ]
    assert [row for _, _, row, _ in rows(words(), [Document([3, 4, 5, 6])], 3)] == [[3, 4, 5]]


def test_pieces_of_a_stream_are_documents_by_themselves():
    documents = [
        Document(text(3, 4, 5)),
        Document(text(6, 7, 8), stream=True),
        Document("", columns={"x": 1.0}),  # has no tokens of its own, and no number
        Document(text(9, 10, 11), columns={"x": 2.0}),
    ]
    found = list(token_rows(words("start"), documents, most=3))
    assert [(row.doc, row.piece) for row in found] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
        (3, 0),
        (3, 1),
    ]
    assert [dict(row.columns) for row in found] == [{}, {}, {}, {}, {"x": 2.0}, {"x": 2.0}]


@pytest.mark.parametrize("group", [1, 2, 5, 256])
@pytest.mark.parametrize("part", [1, 7, 30, 2**20])
def test_how_documents_are_grouped_changes_nothing(monkeypatch, group, part):
    monkeypatch.setattr(_pieces, "GROUP", group)
    monkeypatch.setattr(_pieces, "PART", part)
    monkeypatch.setattr(_textfile, "PART", max(part, 8))  # a word fits
    draw = np.random.default_rng(1)
    ids = [draw.integers(3, 60, size).tolist() for size in (1, 3, 0, 40, 2, 1, 9, 30)]
    documents = [Document(text(*ids[k]), prompt=text(*ids[k - 1])) for k in range(8)]
    expected = [
        (k, 0, [START, *ids[k - 1], *ids[k], END], len(ids[k - 1]) and len(ids[k - 1]) + 1)
        for k in range(8)
    ]
    assert rows(words(), iter(documents)) == expected


def test_rows_come_before_the_documents_are_all_read():
    def documents():
        for number in range(10**9):
            assert number < 2 * _pieces.GROUP, "read too far ahead"
            yield Document(text(3, 4))

    found = token_rows(words(), documents(), most=9)
    assert [next(found).doc for _ in range(_pieces.GROUP + 1)][-1] == _pieces.GROUP


def test_prompts_are_never_cut_and_have_no_end(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("w3 w4\n\nw5\n")
    found = list(prompt_rows(words(), read_prompts(path), most=3, vocab=60))
    assert [(row.doc, row.piece, row.tokens.tolist(), row.prompt) for row in found] == [
        (0, 0, [START, 3, 4], 3),
        (1, 0, [START, 5], 2),
    ]
    (both,) = prompt_rows(words(), [Document("w4", prompt="w3")], most=3)
    assert both.tokens.tolist() == [START, 3, 4] and both.prompt == 3
    (empty,) = prompt_rows(words(), [Document("")], most=3)
    assert empty.tokens.tolist() == [START] and empty.prompt == 1
    with pytest.raises(BadArgument, match="at .*prompts.txt, line 1 has 3 tokens, .* room for 2"):
        list(prompt_rows(words(), read_prompts(path), most=2))
    with pytest.raises(BadArgument, match="at document 0 has no tokens"):
        list(prompt_rows(words("end"), [Document("")], most=2))


def test_a_length_without_room_for_text_is_refused_at_once():
    with pytest.raises(ValueError, match="`most` is 1. Use a whole number from 2"):
        token_rows(words(), [], most=1)

    def three(texts, add_special_tokens, **more):
        return {"input_ids": [[9, 9, 9] * add_special_tokens + [4] for _ in texts]}

    with pytest.raises(BadArgument, match="`most` is 3. .* begins a text with 3 tokens"):
        token_rows(three, [], most=3)
    assert rows(three, [Document("abc")], 4) == [(0, 0, [9, 9, 9, 4], 0)]


def test_a_tokenizer_that_cannot_be_taken_apart_is_refused():
    def odd(texts, add_special_tokens, **more):
        return {"input_ids": [[len(text) + add_special_tokens] for text in texts]}

    with pytest.raises(BadArgument, match="changes the tokens of a text"):
        token_rows(odd, [], most=9)


def test_long_texts_are_tokenised_without_a_warning(caplog):
    """That they are longer than the tokenizer says a model can read: they are cut."""
    assert len(rows(words(), [Document(text(*range(3, 30)))], 4)) == 10
    assert not caplog.records


def test_the_embedded_model_reads_texts_as_it_does_one_by_one():
    tokenizer = read_tokenizer(locate("demo", None).folder, 10**6)
    documents = [Document("A café,\n" * k + "twice.", prompt="Äh" * (k % 2)) for k in range(1, 9)]
    for row, item in zip(token_rows(tokenizer, documents, most=999), documents, strict=True):
        prompt = tokenizer(item.prompt)["input_ids"] if item.prompt else []
        own = tokenizer(item.text, add_special_tokens=not item.prompt)["input_ids"]
        assert row.tokens.tolist() == prompt + own and row.prompt == len(prompt)


@needs_data
def test_a_book_in_parts_is_almost_what_it_is_in_one(monkeypatch):
    tokenizer = read_tokenizer(DATA / "lm" / "stories260k", 512)
    book = (DATA / "text" / "shakespeare.txt").read_text()[:200_000]
    whole = tokenizer(book, verbose=False)["input_ids"]
    monkeypatch.setattr(_textfile, "PART", 50_000)
    ((_, _, found, _),) = rows(tokenizer, [Document(book)], len(whole) + 9)
    assert 0 <= len(found) - len(whole) <= 4 and found[0] == whole[0]  # it puts a space before each
    assert tokenizer.decode(found, skip_special_tokens=True).replace(" ", "") == book.replace(
        " ", ""
    )


@needs_data
def test_stories_are_tokenised_as_one_by_one():
    tokenizer = read_tokenizer(DATA / "lm" / "stories260k", 512)
    documents = read_documents(DATA / "text" / "tinystories.txt", separator=r"\n\n")
    some = [document for _, document in zip(range(600), documents)]
    found = rows(tokenizer, some, 10**6, vocab=512)
    assert [row for _, _, row, _ in found] == [tokenizer(x.text)["input_ids"] for x in some]
