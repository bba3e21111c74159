"""Stores of series from anywhere, stores side by side, and what a store is said to hold."""

import json
import os
import tracemalloc
import urllib.parse

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dynlm import Trajectory, stack
from dynlm._io import BadArgument, readable
from dynlm.store._import import from_arrays
from dynlm.store._inspect import summary, table
from dynlm.store._reader import open_store
from dynlm.store._revisions import folder_name, open_revisions, read_revisions, write_revisions

LENGTHS = [5, 1, 9, 3, 12, 2, 7]


def walks(dim=3, dtype=np.float32, lengths=LENGTHS):
    rng = np.random.default_rng(len(lengths))
    return [np.cumsum(rng.normal(size=(n, dim)), axis=0).astype(dtype) for n in lengths]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_what_was_stored_comes_back_bit_for_bit(tmp_path, dtype):
    series = walks(dtype=dtype)
    scores = np.linspace(-1, 1, len(series))
    docs = [0, 0, 1, 2, 2, 3, 4]
    store = from_arrays(tmp_path / "s", series, docs=docs, columns={"a b": scores}, shard_bytes=90)
    assert store.complete and len(store) == len(series) and store.dtype == dtype
    assert len(store.manifest.shards) > 2 and store.verify() == []
    np.testing.assert_array_equal(store.docs, docs)
    np.testing.assert_array_equal(store.lengths, LENGTHS)
    np.testing.assert_array_equal(store.column("a b"), scores)
    for i, y in enumerate(series):
        assert store.states(i, 0).tobytes() == y.tobytes()
        assert store.times(i).tolist() == list(range(len(y)))
    row = store[4]
    assert row.tokens is None and row.prompt == 0 and row.columns == {"a b": scores[4]}


def test_one_array_of_paths_is_a_series_each(tmp_path):
    paths = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(">f8")
    for k, given in enumerate(
        [paths, jnp.asarray(paths.astype(np.float32)), list(paths), paths[::-1][::-1]]
    ):
        store = from_arrays(tmp_path / str(k), given)
        assert store.dtype == (np.float32 if k == 1 else np.float64)
        for i, path in enumerate(paths):
            np.testing.assert_array_equal(store.states(i, 0), path.astype(store.dtype))


def test_times_and_padding_of_a_trajectory(tmp_path):
    ys = walks(lengths=[5, 3])
    times = [np.array([0.0, 0.5, 0.5, 2.0, 7.25]), np.array([-3.0, 1.0, 1.5])]
    paths = [Trajectory.from_arrays(y, t) for y, t in zip(ys, times)]
    batch = stack(paths, length=8)
    padded = [Trajectory(batch.ts[i], batch.ys[i], batch.mask[i]) for i in range(2)]
    given = [paths, batch, padded, list(zip(ys, times))]
    stores = [from_arrays(tmp_path / str(k), one) for k, one in enumerate(given)]
    for store in stores:
        for i in range(2):
            np.testing.assert_array_equal(store.states(i, 0), ys[i])
            np.testing.assert_array_equal(store.times(i), times[i])
        assert store.manifest.fields == ("times",)
    assert len({store.digest for store in stores}) == 1


def test_beside_series_with_times_one_without_counts_its_steps(tmp_path):
    late = (np.ones((2, 1)), [3.0, 9.0])
    store = from_arrays(tmp_path / "s", [np.zeros((3, 1)), late], shard_bytes=1)
    assert [store.times(i).tolist() for i in range(2)] == [[0, 1, 2], [3, 9]]


def test_several_layers_of_one_series(tmp_path):
    early, late = walks(2), walks(4)
    given = [({"final": b, 0: a}, np.arange(len(a)) / 2) for a, b in zip(early, late)]
    store = from_arrays(tmp_path / "s", given)
    assert store.dims == {"final": 4, 0: 2}
    for i in range(len(early)):
        np.testing.assert_array_equal(store.states(i, 0), early[i])
        np.testing.assert_array_equal(store.states(i, "final"), late[i])
    np.testing.assert_array_equal(open_store(tmp_path / "s").times(2), np.arange(9) / 2)


def test_vectors_and_whole_numbers_are_taken(tmp_path):
    store = from_arrays(tmp_path / "s", [[1, 2, 3], np.arange(4, dtype=np.uint8)], layer="price")
    assert store.layers == ("price",) and store.dims == {"price": 1}
    assert store.dtype == np.float32 and store.states(1, "price")[:, 0].tolist() == [0, 1, 2, 3]
    wide = from_arrays(tmp_path / "w", walks(dtype=np.float32), dtype="float64")
    assert wide.dtype == np.float64


def test_a_shard_ends_with_the_series_that_reaches_its_size(tmp_path):
    store = from_arrays(tmp_path / "s", [np.zeros((10, 1))] * 10, shard_bytes=300)
    assert [one.rows for one in store.manifest.shards] == [3, 3, 3, 1]  # 80 + 28 bytes a row
    large = from_arrays(tmp_path / "l", [np.zeros((10, 1))] * 3, shard_bytes=1)
    assert [one.rows for one in large.manifest.shards] == [1, 1, 1]


def test_documents_are_split_whole(tmp_path):
    docs = np.repeat(np.arange(10), 2)
    store = from_arrays(
        tmp_path / "s",
        [np.zeros(3)] * 20,
        docs=docs,
        shares={"train": 0.5, "valid": 0.2, "test": 0.3},
        split_seed=4,
    )
    parts = {name: store.split(name).docs for name in ("train", "valid", "test")}
    assert {name: len(x) for name, x in parts.items()} == dict(train=10, valid=4, test=6)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == docs.tolist()
    assert not set(parts["train"]) & set(parts["test"])


def test_killed_at_any_write_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    series, settings = walks(), dict(shard_bytes=150, columns={"k": np.arange(len(LENGTHS))})
    from_arrays(tmp_path / "whole", series, **settings)
    whole, replace = contents(tmp_path / "whole"), os.replace
    for strike in range(100):
        folder, calls = tmp_path / str(strike), 0

        def fatal(a, b, strike=strike):
            nonlocal calls
            calls += 1
            if calls > strike:
                raise Killed
            replace(a, b)

        monkeypatch.setattr(os, "replace", fatal)
        try:
            from_arrays(folder, series, **settings)
            break
        except Killed:
            pass
        finally:
            monkeypatch.setattr(os, "replace", replace)
        if strike:
            store = open_store(folder)
            assert not store.complete and len(store) <= len(series)
            assert "INCOMPLETE" in table(summary(store))
        from_arrays(folder, series, **settings)
        assert contents(folder) == whole
    shards = len([name for name in whole if name.startswith("shard")])
    assert strike == 2 * shards + 2  # before each shard and manifest, the first and the last too


def test_the_same_again_writes_nothing_and_other_contents_are_refused(tmp_path):
    series, folder = walks(), tmp_path / "s"
    from_arrays(folder, series)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    from_arrays(folder, [y.copy() for y in series])
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    changed = [y.copy() for y in series]
    changed[3][1, 2] += 1
    with pytest.raises(BadArgument, match="another configuration: `import.sha256`"):
        from_arrays(folder, changed)
    for other in (
        dict(docs=[0, 0, 1, 2, 3, 4, 5]),
        dict(columns={"a": np.zeros(7)}),
        dict(layer=1),
    ):
        with pytest.raises(BadArgument, match="another configuration"):
            from_arrays(folder, series, **other)
    with pytest.raises(BadArgument, match='`dtype` is "float32" there, "float16" here'):
        from_arrays(folder, series, dtype="float16")
    with pytest.raises(BadArgument, match=r"`layers` is \[0\] there, \[\"x\"\] here"):
        from_arrays(folder, series, layer="x")
    with pytest.raises(BadArgument, match="another configuration"):
        from_arrays(folder, [(y, np.arange(len(y))) for y in series])


def test_large_mapped_series_never_stand_in_memory(tmp_path, unchecked):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(64, 4096, 32)).astype(np.float32))
    series = np.load(path, mmap_mode="r")  # 32 MiB
    tracemalloc.start()
    try:
        from_arrays(tmp_path / "s", series, shard_bytes=2**20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 2**20, peak


GOOD = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("series", "more", "words"),
    [
        ([], {}, ["`series` is empty"]),
        (GOOD, {}, ["one array of shape (3, 2)", "[array]"]),
        ((GOOD, GOOD), {}, ["`series` is of type tuple"]),
        (iter([GOOD]), {}, ["Give a list"]),
        ([1.0, 2.0], {}, ["`series[0]` has the shape ()"]),
        ([GOOD, GOOD[:, :1]], {}, ["`series[1]` has 1 dimensions", "the first 2"]),
        ([GOOD, GOOD[:0]], {}, ["`series[1]` has no steps"]),
        ([GOOD, [[1, 2], [3]]], {}, ["`series[1]` is a list of lists of different lengths"]),
        ([np.array(["a"])], {}, ["`series[0]` has the dtype <U1", "real numbers"]),
        ([GOOD, GOOD + [0, np.nan]], {}, ["`series[1]` at step 0 is nan"]),
        (
            [GOOD, np.full((2, 2), 1e6)],
            {"dtype": "float16"},
            ["series[1]", "too large for float16"],
        ),
        ([{0: GOOD, 1: GOOD}, {0: GOOD}], {}, ["`series[1]` has the layers [0]"]),
        ([{0: GOOD, 1: GOOD[1:]}], {}, ["`series[0]` has 2 and 3 steps"]),
        ([{}], {}, ["`series[0]` has no layers"]),
        ([{True: GOOD}], {}, ["layer", "True"]),
        ([{"3": GOOD}], {}, ["layer", "'3'"]),
        ([(GOOD, [0, 1])], {}, ["3 states and 2 times"]),
        ([GOOD, (GOOD, [0, 2, 1])], {}, ["`series[1]` at step 2 has the time 1.0, after 2.0"]),
        ([(GOOD, [0, np.inf, 1])], {}, ["`series[0]` at step 1 has the time inf"]),
        ([(GOOD, np.zeros(3, "M8[s]"))], {}, ["datetime64", "seconds since its start"]),
        ([(GOOD, GOOD, GOOD)], {}, ["a tuple of 3"]),
        ([GOOD], {"dtype": "int32"}, ["`dtype` is 'int32'", "float64"]),
        ([GOOD], {"layer": -1}, ["-1"]),
        ([GOOD], {"docs": [0, 1]}, ["`docs` has the shape (2,)"]),
        ([GOOD] * 2, {"docs": [3, 9]}, ["`docs` holds 2 numbers from 3 to 9", "np.unique"]),
        ([GOOD], {"columns": {"a": ["x"]}}, ["`columns['a']`"]),
        ([GOOD], {"columns": {"a": [np.nan]}}, ["`columns['a']` is nan for row 0"]),
        ([GOOD], {"shares": {"train": 0.5}}, ["`shares`", "sum to 0.5"]),
        ([GOOD], {"shard_bytes": 0}, ["`shard_bytes` is 0"]),
    ],
)
def test_what_cannot_be_stored_is_refused_by_a_sentence(tmp_path, unchecked, series, more, words):
    with pytest.raises(BadArgument) as caught:
        from_arrays(tmp_path / "s", series, **more)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert str(caught.value).endswith((".", "`."))
    assert not (tmp_path / "s").exists()


def test_a_summary_is_of_what_the_store_holds(tmp_path):
    series = walks(dim=2, dtype=np.float64)
    store = from_arrays(
        tmp_path / "s", series, columns={"a": np.arange(7.0)}, docs=[0, 0, 1, 2, 3, 4, 5]
    )
    found = summary(store)
    json.dumps(found, allow_nan=False)
    x = np.concatenate(series)
    assert found["rows"] == {"there": 7, "planned": 7} and found["states"] == len(x)
    assert found["documents"] == {"there": 6, "planned": 6}
    assert found["columns"] == {"a": {"min": 0.0, "mean": 3.0, "max": 6.0}}
    (layer,) = found["layers"]
    assert layer["bytes"] == x.nbytes and layer["dim"] == 2
    assert layer["mean_norm"] == pytest.approx(np.linalg.norm(x, axis=1).mean(), rel=1e-12)
    assert layer["rms"] == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-12)
    assert found["lengths"]["median"] == 5 and found["lengths"]["max"] == 12
    assert sum(one["states"] for one in found["splits"].values()) == len(x)
    assert found["bytes"] == sum(map(len, contents(tmp_path / "s").values()))
    text = table(found)
    assert "complete" in text and "INCOMPLETE" not in text
    assert "states/row  min 1  5 % 1.3  median 5  mean 5.571" in text
    assert max(map(len, text.split("\n")[1:])) < 100  # the first has the folder
    assert found["tokens"] is None and found["logprob"] is None


def test_too_few_documents_for_the_splits_are_counted(tmp_path):
    shares = {"train": 0.5, "valid": 0.5}
    text = table(summary(from_arrays(tmp_path / "one", walks(lengths=[4]), shares=shares)))
    assert "1 document; 2 are needed to split them as the store says." in text
    text = table(summary(from_arrays(tmp_path / "two", walks(lengths=[4, 5]))))
    assert "2 documents; 3 are needed" in text
    long = table(summary(from_arrays(tmp_path / "long", [np.zeros(99_999), np.zeros(123_456)])))
    assert "max 123,456" in long and max(map(len, long.split("\n")[1:])) < 100


def test_sizes_of_a_large_store_are_of_states_all_over_it(tmp_path):
    series = [np.full((400, 1), k, np.float32) for k in range(20)]
    (layer,) = summary(from_arrays(tmp_path / "s", series))["layers"]
    assert layer["mean_norm"] == pytest.approx(9.5, rel=0.01)
    assert layer["rms"] == pytest.approx(np.sqrt(np.mean(np.arange(20.0) ** 2)), rel=0.01)


def test_numbers_near_the_limit_of_float64_have_a_size(tmp_path):
    (layer,) = summary(from_arrays(tmp_path / "s", [np.full((5, 4), 1e300)]))["layers"]
    assert layer["mean_norm"] == pytest.approx(2e300) and layer["rms"] == pytest.approx(1e300)


def test_bytes_for_people():
    sizes = [0, 999, 1000, 999_499, 999_600, 2.5e9, 1e13]
    shown = ["0 bytes", "999 bytes", "1 kB", "999 kB", "1 MB", "2.5 GB", "10 TB"]
    assert [readable(size) for size in sizes] == shown


# Stores side by side


def test_no_two_names_share_a_folder_and_none_leads_elsewhere():
    random = np.random.default_rng(0)
    alphabet = list("aA0-_.@/%:\\ 2Fé\n")
    names = {"".join(random.choice(alphabet, random.integers(1, 6))) for _ in range(3000)}
    folders = {folder_name(name): name for name in names}
    assert len(folders) == len(names)
    for folder, name in folders.items():
        assert urllib.parse.unquote(folder) == name  # an inverse that is not ours
        assert not set(folder) & set("/\\: \n") and not folder.startswith(".")
    assert folder_name("step1000") == "step1000" and folder_name("a/b@c") == "a%2Fb@c"
    for name in ("", "x" * 300, "\ud800"):
        with pytest.raises(BadArgument):
            folder_name(name)


def test_revisions_open_in_the_order_they_were_named_in(tmp_path):
    folder, names = tmp_path / "r", ["late", "a/b", "early"]
    write_revisions(folder, names)
    with pytest.raises(BadArgument, match="none can be opened: late is missing"):
        open_revisions(folder)
    for name in ("early", "late"):
        from_arrays(folder / folder_name(name), walks())
    with pytest.warns(UserWarning, match="a/b is missing"):
        assert list(open_revisions(folder)) == ["late", "early"]
    from_arrays(folder / folder_name("a/b"), walks())
    assert list(open_revisions(folder)) == names
    (folder / "early" / "shard-00000.safetensors").unlink()
    with pytest.warns(UserWarning) as said:
        open_revisions(folder)
    assert "early is incomplete" in str(said[-1].message)


def test_more_revisions_may_be_named_later_and_only_those_without_a_store_dropped(tmp_path):
    folder = tmp_path / "r"
    write_revisions(folder, ["a", "c"])
    before = (folder / "revisions.json").stat().st_mtime_ns
    write_revisions(folder, ["a", "c"])
    assert (folder / "revisions.json").stat().st_mtime_ns == before
    write_revisions(folder, ["a", "b", "c"])
    assert read_revisions(folder) == ["a", "b", "c"]
    from_arrays(folder / "a", walks())
    with pytest.raises(BadArgument, match="stores of the revisions a, and `names` lacks a"):
        write_revisions(folder, ["b", "c"])
    write_revisions(folder, ["d", "a"])
    assert read_revisions(folder) == ["d", "a"]
    with pytest.raises(BadArgument, match="'a' twice"):
        write_revisions(folder, ["a", "a"])


def test_one_store_is_no_folder_of_revisions_nor_the_other_way_round(tmp_path):
    from_arrays(tmp_path / "s", walks())
    with pytest.raises(BadArgument, match="holds a store"):
        write_revisions(tmp_path / "s", ["a"])
    with pytest.raises(BadArgument, match="use `open_store`"):
        open_revisions(tmp_path / "s")
    write_revisions(tmp_path / "r", ["a"])
    with pytest.raises(BadArgument, match="`open_revisions`"):
        open_store(tmp_path / "r")
    with pytest.raises(BadArgument, match="revisions.json, which belongs to no store"):
        from_arrays(tmp_path / "r", walks())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(BadArgument, match="thesis.tex"):
        write_revisions(tmp_path / "other", ["a"])


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": "dynlm revisions"}', b"\xff"])
def test_a_damaged_list_of_revisions_gets_a_sentence(tmp_path, data):
    (tmp_path / "revisions.json").write_bytes(data)
    with pytest.raises(BadArgument, match="revisions.json is"):
        open_revisions(tmp_path)
