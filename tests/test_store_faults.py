"""Whatever happens while a store is written, it ends with the same bytes and says what it lacks."""

import json
import os
import random

import numpy as np
import pytest
from store_files import Faults, Killed, contents, make, texts, tiny

from dynlm._io import BadArgument
from dynlm.lm._export import export
from dynlm.store._format import MANIFEST, PLAN, read_manifest
from dynlm.store._reader import open_store
from dynlm.store._writer import locked


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "store"
    store = make(folder)
    assert store.complete and len(store.manifest.shards) >= 3
    return folder, contents(folder)


def points(tmp_path, monkeypatch):
    counted = Faults(tmp_path / "counted", None)
    with counted.striking(monkeypatch):
        make(tmp_path / "counted")
    return counted.calls


def test_killed_at_any_point_it_opens_and_goes_on_to_the_same_bytes(tmp_path, monkeypatch, whole):
    calls = points(tmp_path, monkeypatch)
    assert {"open", "write", "fsync", "replace"} <= set(calls) and len(calls) > 40
    shards = set()
    for at in range(len(calls)):
        folder = tmp_path / f"killed-{at}"
        with Faults(folder, at).striking(monkeypatch), pytest.raises(Killed):
            make(folder)
        if (folder / MANIFEST).exists():
            store = open_store(folder)
            assert store.verify() in ([], [f"{PLAN} cannot be read: No such file or directory"])
            assert store.complete == (contents(folder)[MANIFEST] == whole[1][MANIFEST])
            shards.add(len(store.manifest.shards))
            for row in store:
                assert len(row.states[1]) == len(row.tokens)
        make(folder)
        assert contents(folder) == whole[1], calls[at]
    assert shards >= {0, 1, 2, 3}


def test_a_full_disk_is_a_sentence_and_nothing_is_lost(tmp_path, monkeypatch, whole):
    calls = points(tmp_path, monkeypatch)
    writes = [at for at, name in enumerate(calls) if name == "write"]
    for at in writes:
        folder = tmp_path / f"full-{at}"
        with Faults(folder, at, full=True).striking(monkeypatch):
            with pytest.raises(BadArgument, match="there is no space left.*run the same command"):
                make(folder)
        assert not [name for name in os.listdir(folder) if name.endswith(".part")] or at < 4
        if (folder / MANIFEST).exists():
            assert not open_store(folder).complete
        make(folder)
        assert contents(folder) == whole[1]


def test_a_torn_manifest_is_named_and_mended_without_making_shards_again(tmp_path, whole):
    folder, truth = whole
    random.seed(0)
    kept = truth[MANIFEST]
    for size in (0, 1, len(kept) // 2, len(kept) - 2, *random.sample(range(len(kept)), 4)):
        (folder / MANIFEST).write_bytes(kept[:size])
        with pytest.raises(BadArgument, match="is damaged, or was changed by hand"):
            open_store(folder)
        before = {name: os.stat(folder / name).st_mtime_ns for name in truth if name != PLAN}
        make(folder)
        after = {name: os.stat(folder / name).st_mtime_ns for name in truth if name != PLAN}
        assert contents(folder) == truth
        assert {k for k in after if after[k] != before[k]} == {MANIFEST}


def test_one_corrupted_byte_anywhere_is_found(whole):
    folder, truth = whole
    dice = random.Random(3)
    names = list(truth)
    for trial in range(200):
        name = names[trial % len(names)] if trial < 40 else dice.choice(names)
        data = bytearray(truth[name])
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        (folder / name).write_bytes(data)
        if name == MANIFEST:
            with pytest.raises(BadArgument, match="damaged|version"):
                open_store(folder)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *args, **more: None)
                wrong = open_store(folder).verify()
            assert len(wrong) == 1 and name in wrong[0], wrong
        (folder / name).write_bytes(truth[name])
    assert open_store(folder).verify() == []


def test_a_damaged_shard_is_named_and_the_rest_stays_readable(whole):
    folder, truth = whole
    name = "shard-00001.safetensors"
    sound = open_store(folder)
    for data in (None, truth[name][:-1], b"\0" * 8 + truth[name][8:]):
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)
        with pytest.warns(UserWarning, match=name):
            store = open_store(folder)
        assert list(store.damaged) == [name] and not store.complete
        assert len(store) == len(sound) - sound.manifest.shards[1].rows
        for place, number in enumerate(store.rows):
            assert np.array_equal(store.states(place, 1), sound.states(int(number), 1))
        make(folder)
        assert contents(folder) == truth


def test_two_writers_are_refused(tmp_path):
    (tmp_path / "store").mkdir()
    with locked(tmp_path / "store"):
        with pytest.raises(BadArgument, match="Another process writes to"):
            make(tmp_path / "store")
    assert make(tmp_path / "store").complete


def test_a_finished_export_is_left_alone(whole, monkeypatch):
    folder, truth = whole
    before = {name: os.stat(folder / name).st_mtime_ns for name in truth}

    def computes(*args):
        raise AssertionError("nothing was left to compute")

    computes.__qualname__ = tiny.__wrapped__.__qualname__
    monkeypatch.setattr("dynlm.lm._passes._call", computes)
    make(folder)
    assert {name: os.stat(folder / name).st_mtime_ns for name in truth} == before


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"dtype": "float32"}, '`dtype` is "bfloat16" there, "float32" here'),
        ({"stride": 2}, "`stride` is 1 there, 2 here"),
        ({"layers": (1,)}, "`layers` is"),
        ({"count": 23}, "`text.rows` is 24 there, 23 here"),
        ({"batch_tokens": 65}, "`batch_tokens` is 64 there, 65 here"),
        ({"name": "other"}, '`model.name` is "tiny" there, "other" here'),
        ({"split_seed": 1}, "`split.seed` is 0 there, 1 here"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(whole, settings, difference):
    folder, truth = whole
    with pytest.raises(BadArgument) as error:
        make(folder, **settings)
    assert difference in str(error.value) and "another folder" in str(error.value)
    assert contents(folder) == truth


def test_other_programs_do_not_go_on_with_a_store(tmp_path, monkeypatch, whole):
    folder = tmp_path / "store"
    faults = Faults(folder, len(points(tmp_path, monkeypatch)) // 2)
    with faults.striking(monkeypatch), pytest.raises(Killed):
        make(folder)
    other = {"jax": "9.9"} | {k: v for k, v in read_manifest(folder).versions.items() if k != "jax"}
    monkeypatch.setattr("dynlm.lm._export.versions", lambda: other)
    with pytest.raises(
        BadArgument, match="begun with other programs.*`jax` is .* there, .9.9. here"
    ):
        make(folder)
    make(whole[0])  # a complete one may be looked at by any


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(BadArgument, match="holds thesis.tex, which belongs to no store"):
        make(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["thesis.tex"]


def test_states_that_are_not_finite_end_the_export_with_a_sentence(tmp_path):
    def broken(tokens, positions):
        logits, states = tiny(tokens, positions)
        return logits, {0: states[0] * 1e6}

    settings = dict(layers=(0,), batch_tokens=64, quiet=True, name="broken")
    with pytest.raises(BadArgument, match="too large for float16. Choose bfloat16"):
        export(broken, texts(4), tmp_path / "a", dtype="float16", **settings)
    assert export(broken, texts(4), tmp_path / "b", dtype="bfloat16", **settings).complete


def test_a_lack_of_memory_is_a_sentence(tmp_path, monkeypatch, whole):
    real, count = tiny, 0

    def hungry(tokens, positions):
        nonlocal count
        count += 1
        if count == 5:
            raise MemoryError
        return real(tokens, positions)

    hungry.__qualname__ = "tiny"
    monkeypatch.setattr("store_files.tiny", hungry)
    with pytest.raises(BadArgument, match="not enough memory.*run the same command"):
        make(tmp_path / "store")
    assert len(open_store(tmp_path / "store").manifest.shards) >= 0
    make(tmp_path / "store")
    assert contents(tmp_path / "store") == whole[1]


def test_no_time_and_no_place_is_in_the_manifest(tmp_path):
    for name in ("a", "b"):
        make(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    text = json.dumps(json.loads((tmp_path / "a" / MANIFEST).read_bytes()))
    assert str(tmp_path) not in text
