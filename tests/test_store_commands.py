"""`dynlm export`, `dynlm inspect`, `dynlm import`: what they write, print, and refuse."""

import gzip
import json
import re
import warnings

import numpy as np
import pytest
from store_files import run

from dynlm import lm
from dynlm.lm import Sampling, export
from dynlm.store import fit_projection, save_projection
from dynlm.store._reader import open_store
from dynlm.store._revisions import open_revisions
from dynlm.store._writer import Writer

SMALL = ["--batch-tokens", "256", "--shard-mb", "0.06", "--layers", "0", "final"]
BOOK = "\n".join(
    f"On day {k} the ship went {k % 7} miles to the north, and it was cold." for k in range(40)
)
TEXTS = ["The moor was dark.", "He came home late, and nobody spoke.", "Yes, she said, and left."]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test has a folder of its own, with a few files of text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(BOOK)
    (tmp_path / "prompts.txt").write_text("The moor was\n\nNatural\n")
    rows = [{"prompt": f"Q{k}?", "response": text, "score": k} for k, text in enumerate(TEXTS)]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def read(out, *more, quiet=True):
    return run("export", "--model", "demo", "--text", "book.txt", "--max-tokens", 64, "--out", out,
               *SMALL, *(["--quiet"] if quiet else []), *more)  # fmt: skip


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def logprobs(row):
    assert row.logprobs is not None
    return row.logprobs.astype(np.float64)


# Export


def test_an_export_is_that_of_the_python_function(here, capsys):
    assert read("store", "--stride", 2, "--top", 2, "--shares", 0.5, 0.25, 0.25, quiet=False) == 0
    told = capsys.readouterr()
    export(
        lm.load("demo"),
        lm.read_documents(["book.txt"]),
        here / "python",
        layers=(0, "final"),
        max_tokens=64,
        stride=2,
        top=2,
        batch_tokens=256,
        shard_bytes=int(0.06 * 2**20),
        shares={"train": 0.5, "valid": 0.25, "test": 0.25},
        quiet=True,
    )
    assert contents(here / "store") == contents(here / "python")
    assert "store: " in told.out and "complete" in told.out and "final" in told.out
    assert "tokens/s" in told.err and "rows" in told.err and "Traceback" not in told.err


def test_a_quiet_export_says_nothing_and_json_is_one_line(here, capfd):
    assert read("store") == 0
    assert capfd.readouterr() == ("", "")
    assert read("store", "--json") == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert read("store", "--json", quiet=False) == 0  # the table is not for a program
    told = capfd.readouterr()
    assert told.out == line + "\n" and "complete" in told.err and "final" in told.err
    found = json.loads(line)
    store = open_store("store")
    assert found["complete"] and found["shards"]["planned"] > 2
    assert found["tokens"] == sum(len(row.tokens) for row in store) == found["states"]
    scores = np.concatenate([logprobs(row)[1:] for row in store])
    assert found["logprob"]["mean"] == pytest.approx(scores.mean(), rel=1e-6)
    assert found["logprob"]["perplexity"] == pytest.approx(np.exp(-scores.mean()), rel=1e-6)
    x = np.concatenate([store.states(i, "final") for i in range(len(store))]).astype(np.float64)
    assert found["layers"][1]["rms"] == pytest.approx(np.sqrt(np.mean(x**2)), rel=0.05)


def test_samples_of_a_grid(here, capsys):
    settings = ("--samples", 2, "--temperature", 0, 0.8, "--max-new-tokens", 8, "--seed", 3)
    command = ("export", "--model", "demo", "--prompts", "prompts.txt", "--out", "drawn", *settings)
    assert run(*command, *SMALL) == 0
    out = capsys.readouterr().out
    assert "2 samples of at most 8 tokens" in out and "temperature 0 0.8" in out
    store = open_store("drawn")
    assert len(store) == 2 * 2 * 2 and store.columns == ("temperature", "sample")
    sampling = Sampling(2, 8, temperature=[0.0, 0.8], seed=3)
    same = export(lm.load("demo"), ["The moor was", "Natural"], "python", sampling=sampling,
                  layers=(0, "final"), batch_tokens=256, quiet=True)  # fmt: skip
    for a, b in zip(store, same):
        np.testing.assert_array_equal(a.tokens, b.tokens)
    after = np.concatenate([logprobs(row)[row.prompt :] for row in store])
    assert run("inspect", "drawn", "--json") == 0
    logprob = json.loads(capsys.readouterr().out)["logprob"]
    assert logprob["tokens"] == len(after) and logprob["after_prompts"]
    assert logprob["mean"] == pytest.approx(after.mean(), rel=1e-6)
    assert run(*command[:-1], 4, *SMALL) == 2
    assert "`sampling.seed` is 3 there, 4 here" in capsys.readouterr().err


def test_fields_of_json_lines_and_a_limit(here):
    fields = ("--field", "response", "--prompt-field", "prompt", "--keep", "score", "--limit", 2)
    assert run("export", "--model", "demo", "--text", "qa.jsonl", "--out", "qa", *fields, *SMALL,
               "--quiet") == 0  # fmt: skip
    store = open_store("qa")
    assert store.columns == ("score",) and store.column("score").tolist() == [0, 1]
    words = lm.load("demo").tokenizer
    assert TEXTS[1] in words.decode(store[1].tokens) and (store.prompts > 0).all()


def test_the_limit_of_a_stream_counts_its_pieces(here):
    assert read("whole") == 0 and read("part", "--limit", 5) == 0
    whole, part = open_store("whole"), open_store("part")
    assert len(part) == 5 < len(whole) and part.docs.tolist() == [0, 1, 2, 3, 4]
    for i in range(5):
        np.testing.assert_array_equal(part[i].tokens, whole[i].tokens)


def test_the_layout_of_helpsteer_end_to_end(here):
    scores = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rows = [
        {"prompt": f"Q{k}?", "response": text} | {name: k + j for j, name in enumerate(scores)}
        for k, text in enumerate(TEXTS)
    ]
    with gzip.open(here / "hs.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert run("export", "--model", "demo", "--text", "hs.jsonl.gz", "--layout", "helpsteer",
               "--out", "hs", *SMALL, "--quiet") == 0  # fmt: skip
    store, words = open_store("hs"), lm.load("demo").tokenizer
    assert store.columns == scores and len(store) == len(TEXTS)
    for j, name in enumerate(scores):
        assert store.column(name).tolist() == [j, j + 1, j + 2]
    for row, text in zip(store, TEXTS):
        assert row.tokens is not None and 0 < row.prompt < len(row.tokens)
        assert text in words.decode(row.tokens[row.prompt :])
        assert text not in words.decode(row.tokens[: row.prompt])


def test_a_separator_makes_documents_and_layers_may_have_commas(here):
    (here / "stories.txt").write_text("\n\n".join(TEXTS))
    assert run("export", "--model", "demo", "--text", "stories.txt", "--separator", "\\n\\n",
               "--layers", "0,final", "--out", "s", "--quiet") == 0  # fmt: skip
    store, words = open_store("s"), lm.load("demo").tokenizer
    assert store.layers == (0, "final") and store.docs.tolist() == [0, 1, 2]
    for row, text in zip(store, TEXTS):
        assert text in words.decode(row.tokens)


def test_the_size_that_is_announced_is_that_of_the_shards(here, capsys):
    assert run("export", "--model", "demo", "--text", "book.txt", "--out", "s") == 0
    found = re.search(r"tokens, ([\d.]+) (kB|MB) in 1 shard to s", capsys.readouterr().err)
    assert found is not None
    announced = float(found[1]) * {"kB": 1e3, "MB": 1e6}[found[2]]
    size = sum(path.stat().st_size for path in (here / "s").glob("shard-*.safetensors"))
    assert announced == pytest.approx(size, rel=0.03)


# Stopped, damaged, done again


def test_stopped_by_the_user_it_says_what_is_there_and_goes_on(here, monkeypatch, capsys):
    assert read("whole") == 0
    put, calls = Writer.put, []

    def stopped(self, number, parts):
        calls.append(number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        put(self, number, parts)

    monkeypatch.setattr(Writer, "put", stopped)
    assert read("store") == 130
    count = open_store("whole").manifest.count
    sentence = f"dynlm: stopped; 2 of {count} shards are there: the same command goes on.\n"
    assert capsys.readouterr().err == sentence
    assert run("inspect", "store") == 0
    out = capsys.readouterr().out
    assert f"INCOMPLETE, 2 of {count} shards" in out and "Run the command" in out
    assert read("store") == 0
    assert contents(here / "store") == contents(here / "whole")


def test_a_damaged_shard_is_named_and_made_again(here, capsys):
    assert read("store") == 0
    before, path = contents(here / "store"), here / "store" / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run("inspect", "store") == 0  # no header shows it
    capsys.readouterr()
    assert run("inspect", "store", "--verify") == 1
    told = capsys.readouterr()
    assert "DAMAGED, 1 of the files" in told.out and "Delete those of the files" in told.out
    assert "The other shards can be read" in told.out
    assert path.name in told.out and "shard-00000" not in told.out
    path.unlink()
    assert run("inspect", "store") == 0
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("dynlm: store: shard-00001.safetensors is missing.")
    assert "INCOMPLETE" in told.out
    assert run("inspect", "store", "--verify", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["wrong"] == ["shard-00001.safetensors is missing"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read("store") == 0
    assert contents(here / "store") == before
    assert run("inspect", "store", "--verify") == 0
    assert "Every byte is as it was written" in capsys.readouterr().out


def test_a_damaged_projection_is_to_be_fitted_again_not_exported_again(here, capsys):
    np.save(here / "a.npy", np.random.default_rng(0).normal(size=(12, 5, 3)))
    assert run("import", "a.npy", "--out", "s", "--quiet") == 0
    store = open_store("s")
    path = save_projection(store, "p", fit_projection(store, 0, 2))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run("inspect", "s", "--verify") == 1
    out = capsys.readouterr().out
    assert f"projections/{path.name} is damaged" in out and "fit them again" in out
    assert "run the command" not in out and "other shards" not in out
    next((here / "s").glob("shard-*")).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run("inspect", "s", "--verify") == 1
    out = capsys.readouterr().out
    assert "fit them again" in out and "run the command" in out and "other shards" not in out


def test_a_torn_manifest_gets_a_sentence(here, capsys):
    assert read("store") == 0
    path = here / "store" / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    assert run("inspect", "store") == 2
    err = capsys.readouterr().err
    assert "manifest.json is damaged" in err and err.count("\n") == 1


# Revisions


def test_the_same_text_through_revisions(here, monkeypatch, capsys):
    names = ["untrained", "early", "demo@"]
    more = ("--revisions", ",".join(names), "--limit", 6)
    finish, done = Writer.finish, []

    def stopped(self):
        done.append(self)
        if len(done) == 2:
            raise KeyboardInterrupt
        return finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finish", stopped)
        assert read("all", *more) == 130
    assert "shards are there: the same command goes on" in capsys.readouterr().err
    first = contents(here / "all" / "untrained")
    times = {path: path.stat().st_mtime_ns for path in (here / "all" / "untrained").iterdir()}
    assert run("inspect", "all") == 0
    told = capsys.readouterr()
    assert "early is incomplete; demo@ is missing" in told.err and "not there yet" in told.out
    assert read("all", *more, quiet=False) == 0
    told = capsys.readouterr()
    assert "A row has as many states in each" in told.out and "demo@, 3 of 3" in told.err
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert first == contents(here / "all" / "untrained")
    stores = open_revisions("all")
    assert list(stores) == names
    for store in stores.values():
        assert store.complete and len(store) == 6
        for a, b in zip(store, stores["early"]):
            np.testing.assert_array_equal(a.tokens, b.tokens)
    one = [stores[name].states(0, "final").tobytes() for name in names]
    assert len(set(one)) == 3
    assert read("alone", "--revision", "early", "--limit", 6) == 0
    assert open_store("alone").digest == stores["early"].digest
    assert run("inspect", "all", "--verify", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal_lengths"] and found["complete"] and found["wrong"] == []
    assert list(found["revisions"]) == names
    (here / "all" / "demo@" / "plan.safetensors").unlink()
    assert run("inspect", "all", "--verify") == 1
    out = capsys.readouterr().out
    assert "demo@: plan.safetensors cannot be read" in out and "run the command" in out
    assert "other shards" not in out


def test_another_model_joins_only_with_the_same_tokenizer(here, capsys):
    model, other = lm.load("demo"), here / "other"
    lm.save(other, model.decoder, model.tokenizer)
    more = ("--revisions", f"early,{other}@", "--limit", 2)
    assert read("same", *more) == 0
    assert list(open_revisions("same")) == ["early", "other"]
    assert read("same", "--revisions", f"early,{other}") == 2
    err = capsys.readouterr().err
    assert f"Write {other}@ for that model" in err and "`--model`" in err
    path = other / "tokenizer.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "Lowercase"}})
    )
    assert read("all", *more) == 2
    assert "different tokenizers" in capsys.readouterr().err and not (here / "all").exists()


def test_a_call_that_failed_does_not_bind_the_next_to_its_revisions(here, capsys):
    assert read("all", "--revisions", "untrained,early", "--top", 99999) == 2
    assert "`--top` is 99999" in capsys.readouterr().err
    assert read("all", "--revisions", "early,demo@", "--limit", 2) == 0
    assert list(open_revisions("all")) == ["early", "demo@"]
    assert read("all", "--revisions", "demo@", "--limit", 2) == 2
    assert "`--revisions` lacks early" in capsys.readouterr().err


# Import


def test_series_of_a_table_are_imported(here, capsys):
    (here / "w.csv").write_text("t,who,x,y\n0,a,1,2\n0.5,a,2,3\n0,b,5,5\n1,b,5,6\n0,c,1,1\n")
    (here / "more.csv").write_text("t,who,x,y\n3,a,0,0\n")
    columns = ("--time", "t", "--path-column", "who", "--columns", "y", "x")
    assert run("import", "w.csv", "more.csv", "--out", "walks", *columns) == 0
    assert "complete" in capsys.readouterr().out
    store = open_store("walks")
    assert store.docs.tolist() == [0, 1, 2, 3] and store.lengths.tolist() == [2, 2, 1, 1]
    assert store.states(1, 0).tolist() == [[5, 5], [6, 5]] and store.times(0).tolist() == [0, 0.5]
    assert run("import", "w.csv", "--out", "walks", *columns, "--quiet") == 2
    assert "`import.rows` is 4 there, 3 here" in capsys.readouterr().err
    one = ("import", "more.csv", "--out", "one", "--time", "t", "--columns", "x")
    assert run(*one, "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["complete"] and "one: 1 shard" in told.err
    assert "import: reading more.csv, without its columns who, y\n" in told.err
    assert run(*one, "--dtype", "float16") == 2
    assert '`--dtype` is "float64" there, "float16" here' in capsys.readouterr().err


def test_arrays_are_imported_in_the_dtype_that_is_asked_for(here, capsys):
    np.save(here / "a.npy", np.random.default_rng(0).normal(size=(12, 5, 2)))
    assert run("import", "a.npy", "--out", "s", "--dtype", "float16", "--quiet", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dtype"] == "float16" and found["rows"]["there"] == 12
    assert [one["rows"] for one in found["splits"].values()] == [10, 1, 1]
