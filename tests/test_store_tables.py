import gzip
import io
import zipfile

import numpy as np
import pytest

from dynlm._io import BadArgument
from dynlm.store._tables import read_series
from dynlm.trajectory import Trajectory

TRACKS = """name,sec,x,y
b,0,1.5,-2
a,0.5,3,4e-3
b,1,5,6
a,0.5,7,8
b,1.25,"9",10
"""


def written(tmp_path, name, data):
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


def saved(tmp_path, array, name="x.npy"):
    np.save(tmp_path / name, array)
    return tmp_path / name


# Tables of text


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x.csv", str.encode),
        ("x.TSV", lambda text: text.replace(",", "\t").encode()),
        ("x.csv.gz", lambda text: gzip.compress(text.encode(), mtime=0)),
        ("x.csv", lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
        ("x.csv", lambda text: text.replace("\n", "\n\n").rstrip().encode()),
        ("x.csv", lambda text: text.replace(",", ", ").replace('"', "").encode()),
    ],
)
def test_rows_are_grouped_into_paths_in_the_order_of_their_first(tmp_path, name, change):
    file = written(tmp_path, name, change(TRACKS))
    b, a = read_series(file, time="sec", path_column="name")
    np.testing.assert_array_equal(b.ys, [[1.5, -2], [5, 6], [9, 10]])
    np.testing.assert_array_equal(b.ts, [0, 1, 1.25])
    np.testing.assert_array_equal(a.ys, [[3, 0.004], [7, 8]])
    np.testing.assert_array_equal(a.ts, [0.5, 0.5])
    assert (b.doc, a.doc) == (0, 1) and b.ys.dtype == b.ts.dtype == np.float64
    assert Trajectory.from_arrays(b.ys, b.ts).dim == 2


def test_columns_choose_the_state_and_its_order(tmp_path):
    file = written(tmp_path, "x.csv", TRACKS)
    (one,) = read_series(file, columns=["y", "sec"])
    np.testing.assert_array_equal(one.ys[:2], [[-2, 0], [0.004, 0.5]])
    assert one.ts is None and one.doc == 0


def test_a_table_without_names_is_numbered_from_one(tmp_path):
    file = written(tmp_path, "x.csv", "0,1,2\n0.5,3,4\n")
    (one,) = read_series(file, time="1")
    np.testing.assert_array_equal(one.ys, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(one.ts, [0, 0.5])
    (other,) = read_series(file)
    assert other.ys.shape == (2, 3)


def test_a_long_table_is_read_as_numpy_reads_it(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(3001, 4)) * 10.0 ** rng.integers(-9, 9, (3001, 4))
    file = tmp_path / "x.csv"
    np.savetxt(file, table, delimiter=",", fmt="%.17g", header="a,b,c,d", comments="")
    (one,) = read_series(file)
    np.testing.assert_array_equal(one.ys, table)
    names = rng.integers(0, 7, 3001)
    lines = file.read_text().splitlines()
    text = "\n".join([lines[0] + ",k", *(f"{x},{k}" for x, k in zip(lines[1:], names))])
    found = read_series(written(tmp_path, "y.csv", text), path_column="k")
    order = list(dict.fromkeys(names.tolist()))
    assert len(found) == 7
    for one, k in zip(found, order):
        np.testing.assert_array_equal(one.ys, table[names == k])


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("", {}, "is empty"),
        ("a,b\n", {}, "has no rows of numbers"),
        ("a,b\n1,2\n3\n", {}, "line 3 has 1 cells and the first line 2"),
        ("a,b\n1,2\n\n3,x\n", {}, "line 4, column 'b' holds 'x'"),
        ("a,b\n1,2\n3,\n", {}, "line 3, column 'b' holds ''"),
        ("a,b\n1,2\n3,nan\n", {}, "line 3, column 'b' holds 'nan'"),
        ("a,b\n1,2\n3,1e999\n", {}, "line 3, column 'b' holds '1e999'"),
        ("a,b\n1,2\n3,1_0\n", {}, "line 3, column 'b' holds '1_0'"),
        ("1,nan\n1,2\n", {}, "line 1, column '2' holds 'nan'"),
        ("a;b\n1;2\n", {}, "line 2, column 'a;b' holds '1;2'"),
        (TRACKS, {}, "line 2, column 'name' holds 'b'.*`path_column`"),
        (TRACKS, dict(time="name", columns=["x"]), "line 2, column 'name' holds 'b'"),
        (TRACKS, dict(time="t"), "`time` names 't'.*no such column.*'name', 'sec', 'x', 'y'"),
        (TRACKS, dict(columns=["x", "z"]), "`columns` names 'z'"),
        (TRACKS, dict(columns="x"), "`columns` is 'x'. Pass a list"),
        (TRACKS, dict(columns=[]), "leaves no column"),
        (TRACKS, dict(path_column="id"), "`path_column` names 'id'"),
        (TRACKS, dict(time="sec", columns=["x"]), "line 5 has the time 0.5, after 1.0"),
        ("a,a\n1,2\n", dict(columns=["a"]), "two columns of that name"),
        (",a\n0,2\n", {}, "column 1 has no name.*`columns`"),
        ('a,b\n1,2\n3,"4\n5,6\n', {}, "cannot be read beyond line 2"),
        (b"a,b\n1,2\n3,\xff4\n", {}, "cannot be read beyond line .*UTF-8"),
    ],
)
def test_bad_tables_are_refused_with_the_place(tmp_path, unchecked, text, options, sentence):
    with pytest.raises(BadArgument, match=sentence) as caught:
        read_series(written(tmp_path, "x.csv", text), **options)
    assert "x.csv" in str(caught.value) or "`columns` is" in str(caught.value)


def test_a_bad_cell_far_down_is_named_by_its_line(tmp_path):
    lines = ["a,b", *("1,2" for _ in range(2000))]
    lines[1500] = "1,oops"
    with pytest.raises(BadArgument, match="line 1501, column 'b' holds 'oops'"):
        read_series(written(tmp_path, "x.csv", "\n".join(lines)))


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("x.csv.gz", gzip.compress(TRACKS.encode(), mtime=0)[:-12], "cannot be read beyond line"),
        ("x.csv.gz", b"no gzip", "cannot be read beyond line 0"),
        ("x.xlsx", b"", "is of no kind that can be read"),
        ("x.npy.gz", b"", "is of no kind that can be read"),
        ("x.npy", b"", "cannot be read as arrays"),
        ("x.npy", b"text", "cannot be read as arrays.*pickles, are never read"),
        ("x.npz", b"PK\x03\x04", "cannot be read as arrays"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, name, data, sentence):
    with pytest.raises(BadArgument, match=sentence):
        read_series(written(tmp_path, name, data))


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.npy", "x.npz"])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(BadArgument, match="x.* is not there. Pass a file"):
        read_series(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(BadArgument, match="is a folder. Pass the files in it"):
        read_series(tmp_path / name)


# Arrays


def test_arrays_are_one_path_or_several(tmp_path):
    ys = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    found = read_series(saved(tmp_path, ys))
    assert [one.doc for one in found] == [0, 1, 2]
    for one, expected in zip(found, ys):
        np.testing.assert_array_equal(one.ys, expected)
        assert one.ts is None and one.ys.dtype == np.float32
    (one,) = read_series(saved(tmp_path, ys[0]))
    np.testing.assert_array_equal(one.ys, ys[0])
    (one,) = read_series(saved(tmp_path, np.arange(4, dtype=">i2")))
    np.testing.assert_array_equal(one.ys, [[0.0], [1.0], [2.0], [3.0]])
    assert one.ys.dtype == np.float64
    (one,) = read_series(saved(tmp_path, ys[0].astype(">f4")))
    np.testing.assert_array_equal(one.ys, ys[0])
    assert one.ys.dtype == np.float32 and one.ys.dtype.isnative


def test_columns_of_an_array_are_numbered_from_one(tmp_path):
    ys = np.arange(12.0).reshape(2, 3, 2)
    ys[1, 2] = np.nan
    first, second = read_series(saved(tmp_path, ys), time="1")
    np.testing.assert_array_equal(first.ts, [0, 2, 4])
    np.testing.assert_array_equal(first.ys, [[1], [3], [5]])
    np.testing.assert_array_equal(second.ts, [6, 8])
    np.testing.assert_array_equal(read_series(tmp_path / "x.npy", columns=["2"])[0].ys, first.ys)


def test_rows_of_nan_at_the_end_are_padding(tmp_path):
    ys = np.ones((2, 9000, 2))
    ys[0, 5:] = np.nan
    ys[1, 8500:] = np.nan
    assert [len(one.ys) for one in read_series(saved(tmp_path, ys))] == [5, 8500]


def test_a_npz_holds_as_many_paths_as_its_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones((4, 2)), b=np.zeros((3, 5, 2)))
    found = read_series(tmp_path / "x.npz")
    assert [one.ys.shape for one in found] == [(4, 2), (5, 2), (5, 2), (5, 2)]
    assert [one.doc for one in found] == [0, 1, 2, 3]


def hole(shape, *place):
    ys = np.zeros(shape)
    ys[place] = np.nan
    return ys


@pytest.mark.parametrize(
    ("array", "options", "sentence"),
    [
        (hole((9000, 2), 8700, 1), {}, r"x.npy\[8700, 1\] is nan"),
        (hole((2, 4, 2), 1, 2), {}, r"x.npy\[1\]\[2, 0\] is nan"),
        (hole((2, 4, 2), 1), {}, r"x.npy\[1\] is NaN throughout"),
        (np.array([[0.0, 1.0], [np.inf, 1.0]]), dict(columns=["2", "1"]), r"\[1, 0\] is inf"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), dict(time="1"), r"\[1, 0\] is nan"),
        (np.array([[1.0, 1.0], [0.0, 1.0]]), dict(time="1"), r"x.npy\[1\] has the time 0.0, after"),
        (np.zeros((2, 2)), dict(time="3"), "`time` names '3'.*its columns are '1', '2'"),
        (np.zeros((2, 2)), dict(path_column="1"), "`path_column` is '1' and .* holds arrays"),
        (np.zeros((2, 2, 2, 2)), {}, r"shape \(2, 2, 2, 2\)"),
        (np.zeros((0, 2)), {}, r"shape \(0, 2\)"),
        (np.float64(1.0), {}, r"shape \(\)"),
        (np.zeros(3, complex), {}, "dtype complex128"),
        (np.array(["a"]), {}, "dtype <U1"),
        (np.array([True]), {}, "dtype bool"),
        (np.array([{}, 1], dtype=object), {}, "pickles, are never read"),
    ],
)
def test_bad_arrays_are_refused_with_the_place(tmp_path, array, options, sentence):
    with pytest.raises(BadArgument, match=sentence):
        read_series(saved(tmp_path, array), **options)


def test_a_npz_of_unlike_or_no_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones((4, 2)), b=np.zeros((3, 3)))
    with pytest.raises(BadArgument, match="paths of 2 and of 3 dimensions"):
        read_series(tmp_path / "x.npz")
    assert len(read_series(tmp_path / "x.npz", columns=["2"])) == 2
    with zipfile.ZipFile(tmp_path / "y.npz", "w"):
        pass
    with pytest.raises(BadArgument, match="holds no arrays"):
        read_series(tmp_path / "y.npz")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as file:
        file.writestr("a.txt", "no array")
    with pytest.raises(BadArgument, match="z.npz"):
        read_series(tmp_path / "z.npz")


# Damage


def samples():
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.arange(12.0).reshape(2, 3, 2))
    np.savez_compressed(npz, a=np.arange(8.0).reshape(4, 2), b=np.ones((3, 2), np.float32))
    return {
        "x.csv": TRACKS.encode(),
        "x.csv.gz": gzip.compress(TRACKS.encode(), mtime=0),
        "x.npy": npy.getvalue(),
        "x.npz": npz.getvalue(),
    }


def mutated(data, rng):
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data)))
        kind = rng.integers(5)
        if kind == 0:
            data[at] = rng.integers(256)
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[at:at] = rng.choice([b",", b"\n", b'"', b"9", b"-", b"\x00", b"e", b"(", b"nan"])
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 9))]
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def assert_refused_or_sound(file, options):
    try:
        found = read_series(file, **options)
    except BadArgument as error:
        assert str(error).endswith(".") and len(str(error)) < 1000
        return 1
    for k, one in enumerate(found):
        assert one.doc == k and one.ys.ndim == 2 and one.ys.size and np.isfinite(one.ys).all()
        assert one.ts is None or (one.ts.shape == (len(one.ys),) and np.all(np.diff(one.ts) >= 0))
    return 0


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.npy", "x.npz"])
def test_a_damaged_file_is_refused_or_sound(tmp_path, name):
    rng = np.random.default_rng(1)
    options = dict(time="sec", path_column="name") if ".csv" in name else {}
    data = samples()[name]
    refused = 0
    for _ in range(250):
        file = written(tmp_path, name, mutated(data, rng))
        refused += assert_refused_or_sound(file, options)
    assert 50 < refused < 250
