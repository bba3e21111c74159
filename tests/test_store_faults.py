"""Whatever happens while a store is written, it ends with the same bytes and says what it lacks."""

import json
import os
import random

import numpy as np
import pytest
from store_files import Faults, Killed, contents, drawn, make, texts, tiny

from dynlm._io import BadArgument
from dynlm.lm._export import export
from dynlm.store import fit_projection, save_projection
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


def test_so_do_samples(tmp_path, monkeypatch):
    counted = Faults(tmp_path / "whole", None)
    with counted.striking(monkeypatch):
        assert len(drawn(tmp_path / "whole").manifest.shards) >= 3
    for at in range(0, len(counted.calls), 3):
        folder = tmp_path / f"killed-{at}"
        with Faults(folder, at).striking(monkeypatch), pytest.raises(Killed):
            drawn(folder)
        drawn(folder)
        assert contents(folder) == contents(tmp_path / "whole"), counted.calls[at]


def test_a_full_disk_is_a_sentence_and_nothing_is_lost(tmp_path, monkeypatch, whole):
    calls = points(tmp_path, monkeypatch)
    for at in range(len(calls)):
        folder = tmp_path / f"full-{at}"
        with Faults(folder, at, full=True).striking(monkeypatch):
            with pytest.raises(BadArgument, match="there is no space left.*run the same command"):
                make(folder)
        assert not folder.exists() or not [x for x in os.listdir(folder) if x.endswith(".part")]
        if (folder / MANIFEST).exists():
            assert open_store(folder).complete == (contents(folder) == whole[1])
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
    assert not open_store(tmp_path / "store").complete
    make(tmp_path / "store")
    assert contents(tmp_path / "store") == whole[1]


def test_no_time_and_no_place_is_in_the_manifest(tmp_path):
    for name in ("a", "b"):
        make(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    text = json.dumps(json.loads((tmp_path / "a" / MANIFEST).read_bytes()))
    assert str(tmp_path) not in text


def test_shards_without_a_manifest_are_kept_from_those_who_mean_something_else(tmp_path, whole):
    make(tmp_path / "s")
    (tmp_path / "s" / MANIFEST).unlink()
    before = contents(tmp_path / "s")
    with pytest.raises(BadArgument, match="holds shards, but no manifest"):
        open_store(tmp_path / "s")
    for other in (dict(stride=2), dict(count=5)):
        with pytest.raises(BadArgument, match="was made with other settings"):
            make(tmp_path / "s", **other)
    assert contents(tmp_path / "s") == before
    make(tmp_path / "s")
    assert contents(tmp_path / "s") == whole[1]


def test_what_is_equal_may_be_written_in_another_way(unchecked, tmp_path, monkeypatch, whole):
    folder = tmp_path / "store"
    faults = Faults(folder, len(points(tmp_path, monkeypatch)) // 2)
    with faults.striking(monkeypatch), pytest.raises(Killed):
        make(folder)
    make(folder, shares={"test": 0.1, "valid": 0.1, "train": 0.8}, stride=np.int64(1))
    assert contents(folder) == whole[1]


def test_a_lost_or_damaged_plan_is_made_again(tmp_path, whole):
    make(tmp_path / "s")
    for data in (None, b"", whole[1][PLAN][:-1] + b"x"):
        (tmp_path / "s" / PLAN).unlink()
        if data is not None:
            (tmp_path / "s" / PLAN).write_bytes(data)
        assert len(open_store(tmp_path / "s").verify()) == 1
        make(tmp_path / "s")
        assert contents(tmp_path / "s") == whole[1]


def test_a_complete_store_in_a_folder_that_cannot_be_written_is_returned(whole, monkeypatch):
    faults = Faults(whole[0], 1, full=True)  # all but the lock is refused
    with faults.striking(monkeypatch):
        assert make(whole[0]).complete
    assert faults.calls == ["open"]


def test_files_of_others_stay(tmp_path, whole):
    make(tmp_path / "s")
    (tmp_path / "s" / ".DS_Store").write_bytes(b"mine")
    (tmp_path / "s" / ".my.download.part").write_bytes(b"mine")
    (tmp_path / "s" / "shard-00000.safetensors").unlink()
    make(tmp_path / "s")
    assert (tmp_path / "s" / ".my.download.part").exists()
    assert {k: v for k, v in contents(tmp_path / "s").items() if v != b"mine"} == whole[1]


def test_a_store_is_not_a_file_and_an_empty_folder_is_not_left(tmp_path):
    (tmp_path / "s").write_text("a text")
    with pytest.raises(BadArgument, match="is a file. Choose a folder"):
        make(tmp_path / "s")
    with pytest.raises(BadArgument, match="holds no text"):
        make(tmp_path / "t", count=0)
    assert not (tmp_path / "t").exists()


def test_an_error_of_what_is_read_is_not_the_folders(tmp_path):
    def documents():
        yield from texts(300)
        open("/nowhere/b.txt")

    with pytest.raises(FileNotFoundError, match="/nowhere/b.txt"):
        export(tiny, documents(), tmp_path / "s", quiet=True)


def test_one_of_two_processes_makes_its_half_and_one_alone_the_rest(tmp_path, monkeypatch, whole):
    count = len(open_store(whole[0]).manifest.shards)
    for me in (0, 1):
        folder = tmp_path / f"by-{me}"
        if me == 1:  # the first process planned, and was killed
            faults = Faults(folder, points(tmp_path, monkeypatch).index("replace") + 5)
            with faults.striking(monkeypatch), pytest.raises(Killed):
                make(folder)
        with monkeypatch.context() as patch:
            patch.setattr("jax.process_count", lambda: 2)
            patch.setattr("jax.process_index", lambda me=me: me)
            patch.setattr("dynlm.lm._work.meet", lambda *args, sound=True: sound)
            patch.setattr("dynlm.lm._export.meet", lambda *args, sound=True: sound)
            if me == 0:
                with pytest.raises(BadArgument, match="lacks .* of its"):
                    make(folder)
            else:
                make(folder)
        mine = {f"shard-{k:05d}.safetensors" for k in range(me, count, 2)}
        assert {name for name in contents(folder) if name.startswith("shard")} == mine
        make(folder)
        assert contents(folder) == whole[1]


def test_a_process_with_other_programs_may_not_join(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        patch.setattr("jax.process_count", lambda: 2)
        patch.setattr("jax.process_index", lambda: 1)
        patch.setattr("dynlm.lm._work.meet", lambda *args, sound=True: sound)
        patch.setattr("dynlm.lm._export.meet", lambda *args, sound=True: sound)
        patch.setattr("dynlm.lm._export.versions", lambda: {"jax": "9.9"})
        with pytest.raises(BadArgument, match="begun with other programs"):
            make(whole[0])
        with pytest.raises(BadArgument, match="another configuration"):
            make(whole[0], stride=2)


def test_a_damaged_projection_is_found(tmp_path):
    store = make(tmp_path / "s", 40)
    projection = fit_projection(store, 1, 2)
    path = save_projection(store, "two", projection)
    assert store.verify() == []
    data = bytearray(path.read_bytes())
    for at in (9, len(data) // 2, len(data) - 1):
        spoilt = bytearray(data)
        spoilt[at] ^= 4
        path.write_bytes(spoilt)
        (wrong,) = store.verify()
        assert "projections/two.safetensors is damaged" in wrong
