"""Documents and prompts out of files, in every layout that text comes in."""

import codecs
import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from dynlm._io import BadArgument
from dynlm.lm import _textfile
from dynlm.lm._documents import Document, read_documents, read_prompts

DATA = Path(os.environ.get("DYNLM_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="set DYNLM_DATA to the folder of data")

ROWS = [
    {
        "id": 7,
        "turns": ["One?", "Two?"],
        "a": {"b": "deep"},
        "text": "first",
        "score": 3,
        "ok": True,
    },
    {
        "id": 8,
        "turns": ["Three?"],
        "a": {"b": "deeper"},
        "text": "second",
        "score": 0.5,
        "ok": False,
    },
]


def put(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(*rows: object, end: str = "\n") -> str:
    return "".join(json.dumps(row) + end for row in rows)


def texts(documents) -> list[str]:
    return [document.text for document in documents]


def refused(call, *words: str) -> str:
    """The sentence of the refusal holds these words."""
    with pytest.raises(BadArgument) as caught:
        list(call())
    sentence = str(caught.value)
    for word in words:
        assert word in sentence, sentence
    assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < 600, sentence
    return sentence


@pytest.fixture
def small(monkeypatch):
    """Files are read a few bytes at a time, and parts are short."""
    monkeypatch.setattr(_textfile, "CHUNK", 3)
    monkeypatch.setattr(_textfile, "PART", 10)


@pytest.mark.parametrize("name", ["a.txt", "a.raw", "a.md", "a", "a.txt.gz", "a.json"])
def test_plain_text_without_separator_is_one_stream(tmp_path, name):
    path = put(tmp_path / name, "One day.\n\nTwo days.\n")
    (found,) = read_documents(path)
    assert found == Document("One day.\n\nTwo days.\n", stream=True, where=str(path))


def test_a_stream_comes_in_parts_that_end_with_a_line(tmp_path, small):
    text = "ab cd\nefg\nhi jk lm no p\nqrstuvwxyzqrstuvwxyz\n\n"
    found = list(read_documents(put(tmp_path / "a.txt", text)))
    whole = ["ab cd\nefg\n", "hi jk lm", " no p\n", "qrstuvwxyz", "qrstuvwxyz", "\n\n"]
    assert texts(found) == whole[:-1]  # the last has no text
    assert all(document.stream for document in found)
    for chunks in ([text], iter(text)):
        assert list(_textfile.parts(chunks)) == whole


@pytest.mark.parametrize("separator", ["\n\n", r"\n\n", r"\r\n\r\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_separator_cuts_whatever_the_line_ends(tmp_path, small, separator, end):
    text = "\n\nOne\nday.\n\nTwo.\n\n\n\n \n\nThree.\n".replace("\n", end)
    found = read_documents(put(tmp_path / "a.txt", text), separator=separator)
    assert texts(found) == ["One\nday.", "Two.", "Three."]
    assert [item.where.rsplit(" ", 1)[1] for item in found] == ["3", "6", "12"]
    assert not any(document.stream for document in found) and found.skipped == 0


@pytest.mark.parametrize("chunk", range(1, 14))
def test_a_separator_is_found_across_the_chunks_that_are_read(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(_textfile, "CHUNK", chunk)
    text = "äö<|end|>\nb<|en|>c<|end|<|end|>\n<|end|>d"
    found = read_documents(put(tmp_path / "a.txt", text), separator="<|end|>")
    assert texts(found) == [piece.strip("\n") for piece in text.split("<|end|>") if piece.strip()]
    assert texts(found) == ["äö", "b<|en|>c<|end|", "d"]


def test_escapes_stand_for_what_is_hard_to_type(tmp_path):
    path = put(tmp_path / "a.txt", "a\tb\\nc")
    assert texts(read_documents(path, separator=r"\t")) == ["a", "b\\nc"]
    assert texts(read_documents(path, separator=r"\\n")) == ["a\tb", "c"]
    refused(lambda: read_documents(path, separator=""), "`separator` is empty")


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz", "a.txt", "A.JSONL"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_each_line_of_json_lines_is_a_document(tmp_path, name, end):
    path = put(tmp_path / name, lines(*ROWS, end=end))
    found = list(read_documents([path], field="text", prompt_field="a.b", keep=("score", "ok")))
    second = f"{path}, line {1 + end.count(chr(10))}"
    assert found == [
        Document("first", "deep\n", {"score": 3.0, "ok": 1.0}, where=f"{path}, line 1"),
        Document("second", "deeper\n", {"score": 0.5, "ok": 0.0}, where=second),
    ]


def test_gzip_is_known_by_its_first_bytes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(lines(*ROWS).encode()))
    assert texts(read_documents(path, field="text")) == ["first", "second"]
    plain = tmp_path / "b.jsonl.gz"
    plain.write_text(lines(*ROWS))
    assert texts(read_documents(plain, field="text")) == ["first", "second"]


def test_a_dotted_path_goes_through_lists_and_objects(tmp_path):
    path = put(tmp_path / "a.jsonl", lines(*ROWS, {"turns": {"0": "named"}}, {"turns.0": "dotted"}))
    assert texts(read_documents(path, field="turns.0")) == ["One?", "Three?", "named", "dotted"]
    sentence = refused(lambda: read_documents(path, field="turns.1"), f"{path}, line 2,", "turns.0")
    assert "no field 'turns.1'" in sentence
    refused(lambda: read_documents(path, field="turns"), "line 1,", "no text", "turns.0, turns.1")


def test_a_byte_order_mark_is_dropped(tmp_path, small):
    mark = codecs.BOM_UTF8
    path = put(tmp_path / "a.txt", mark + b"\xef\xbb\xbfOne")  # only the first is a mark
    assert texts(read_documents(path)) == ["\ufeffOne"]
    path = put(tmp_path / "a.jsonl", mark + lines(*ROWS).encode())
    assert texts(read_documents(path, field="text")) == ["first", "second"]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("chunk", [3, 4, 5, 2**18])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe4b", b"\xc3"])
def test_a_byte_that_is_not_utf8_is_named(tmp_path, monkeypatch, mark, chunk, bad):
    monkeypatch.setattr(_textfile, "CHUNK", chunk)
    before = mark + "ä\r\nbü\n€".encode()
    path = put(tmp_path / "a.txt", before + bad)
    refused(
        lambda: read_documents(path),
        f"{path} is not UTF-8: byte {len(before)}, on line 3, is 0x{bad[0]:02x}",
    )


def test_a_damaged_archive_is_refused(tmp_path):
    path = put(tmp_path / "a.txt.gz", "word " * 9999)
    whole = path.read_bytes()
    for data in (whole[:-20], whole[:30] + b"xxxx" + whole[34:], whole[:-8] + b"12345678"):
        path.write_bytes(data)
        refused(lambda: read_documents(path), f"{path} is gzipped, and damaged", "again")


@pytest.mark.parametrize(
    "line, words",
    [
        ("{'text': 1}", "is no valid JSON (Expecting property name"),
        ("[1, 2]", "is [1, 2]"),
        ("{", "is no valid JSON"),
        ("[" * 100_000, "no JSON that can be read"),
        ('{"text": ' + "1" * 5000 + "}", "no JSON that can be read"),
        ('{"body": "x"}', "no field 'text'. It has the fields body."),
        ('{"text": 5}', "has 5 in the field 'text', which is no text"),
        (r'{"text": "a\ud83d"}', "half of a surrogate pair"),
        ('{"text": "x"}', "no field 'score'"),
        ('{"text": "x", "score": "3"}', "has '3' in the field 'score', which is no number"),
        ('{"text": "x", "score": null}', "has None"),
        ('{"text": "x", "score": NaN}', "has nan"),
        ('{"text": "x", "score": 1' + "0" * 400 + "}", "no number to keep"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, words):
    path = put(tmp_path / "a.jsonl", lines(*ROWS) + line + "\n")
    documents = iter(read_documents(path, field="text", keep=["score"]))
    assert [next(documents).text, next(documents).text] == ["first", "second"]
    refused(lambda: documents, f"{path}, line 3,", words)


def test_empty_documents_are_skipped_and_counted(tmp_path):
    rows = [{"text": x, "p": p} for x, p in [("", "q"), (" \n", "q"), (None, "q"), ("x", "")]]
    documents = read_documents(
        put(tmp_path / "a.jsonl", lines(*rows)), field="text", prompt_field="p"
    )
    for _ in range(2):  # they can be read again
        assert [(item.text, item.prompt) for item in documents] == [("x", "")]
        assert documents.skipped == 3
    documents = read_documents([put(tmp_path / "a.txt", ""), put(tmp_path / "b.txt", "\n")])
    assert list(documents) == [] and documents.skipped == 2


def test_helpsteer_is_known_by_name(tmp_path):
    scores = dict(helpfulness=4, correctness=3, coherence=4, complexity=2, verbosity=1)
    rows = [
        {"prompt": "What is it?\n", "response": "A thing.", **scores, "extra": 9},
        {"prompt": "And now?", "response": "Another.", **scores, "extra": 9},
    ]
    path = put(tmp_path / "train.jsonl.gz", lines(*rows))
    one, two = read_documents(path, layout="helpsteer", keep=("extra",))
    assert (one.prompt, one.text) == ("What is it?\n\n", "A thing.")
    assert (two.prompt, two.text) == ("And now?\n", "Another.")
    assert one.columns == {name: float(score) for name, score in scores.items()} | {"extra": 9.0}
    refused(lambda: read_documents(path, layout="steer"), "'steer'", "Known are helpsteer")
    refused(lambda: read_documents(path, layout="helpsteer", field="x"), "Leave `field` or")
    put(path, lines({k: v for k, v in rows[0].items() if k != "verbosity"}))
    refused(lambda: read_documents(path, layout="helpsteer"), "line 1,", "'verbosity'")


def test_what_cannot_be_read_is_refused_before_anything_is(tmp_path):
    def now(path, **more):  # the call alone refuses
        read_documents(path, **more)
        raise AssertionError("not refused")

    plain, rows = put(tmp_path / "a.txt", "x"), put(tmp_path / "a.jsonl", lines(*ROWS))
    refused(lambda: now([]), "No files")
    refused(lambda: now(tmp_path), "is a folder", f"{tmp_path}/*.txt")
    refused(lambda: now(tmp_path / "*.txt"), "*.txt is not there")
    refused(lambda: now(rows), "no `field`", "id, turns.0, turns.1, a.b, text, score, ok")
    refused(lambda: now(put(tmp_path / "e.jsonl", "")), "the file is empty")
    refused(lambda: now(rows, keep=["score"]), "`keep`", "`field`")
    refused(lambda: now(rows, prompt_field="id"), "`prompt_field`", "`field`")
    refused(lambda: now([plain, rows], field="text"), f"{plain} is plain text", "'text'")
    refused(lambda: now(rows, field="text", separator="\n"), "`separator`", str(rows))
    refused(lambda: now(put(tmp_path / "l.json", " [{}]"), field="text"), "one JSON list", "jq")
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: now(tmp_path / "pipe"), "no regular file")


def test_a_file_that_goes_away_in_between(tmp_path):
    path = put(tmp_path / "a.txt", "x")
    documents = read_documents(path)
    path.unlink()
    refused(lambda: documents, f"{path} cannot be read: No such file")


def test_prompts_are_lines_or_a_field(tmp_path):
    plain = put(tmp_path / "a.txt", "Call me\r\n\r\n  It was \nA last one")
    rows = put(tmp_path / "a.jsonl", lines(*ROWS))
    assert list(read_prompts(plain)) == [
        Document(text, where=f"{plain}, line {line}")
        for text, line in [("Call me", 1), ("  It was ", 3), ("A last one", 4)]
    ]
    assert texts(read_prompts(rows, field="turns.0")) == ["One?", "Three?"]
    refused(lambda: read_prompts(rows), "no `field`", "turns.0")


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "a.txt"
    with open(path, "w") as file:
        for number in range(20_000):
            file.write(f"{number} " + "word " * 120 + "\n\n")
    assert path.stat().st_size > 10 * 2**20
    for options in ({}, {"separator": "\n\n"}):
        tracemalloc.start()
        count = sum(1 for _ in read_documents(path, **options))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        parts = -(-path.stat().st_size // _textfile.PART)
        assert count == 20_000 if options else parts <= count <= parts + 1
        assert peak < 4 * 2**20


@needs_data
def test_files_of_others():
    tasks = list(read_prompts(DATA / "prompts/seed_tasks.jsonl", field="instruction"))
    raw = [
        json.loads(line) for line in (DATA / "prompts/seed_tasks.jsonl").read_text().splitlines()
    ]
    assert texts(tasks) == [row["instruction"] for row in raw] and len(tasks) == 175
    turns = read_prompts(DATA / "prompts/mt_bench_question.jsonl", field="turns.0")
    assert len(texts(turns)) == 80
    text = (DATA / "text/tinystories.txt").read_text()
    stories = read_documents(DATA / "text/tinystories.txt", separator=r"\n\n")
    expected = [piece.strip("\n") for piece in text.split("\n\n") if piece.strip()]
    assert texts(stories) == expected and len(expected) > 4000
    wiki = list(read_documents(DATA / "text/wikitext2-test.raw"))
    assert "".join(texts(wiki)) == (DATA / "text/wikitext2-test.raw").read_text()
    assert all(item.text.endswith("\n") and len(item.text) <= _textfile.PART for item in wiki)
