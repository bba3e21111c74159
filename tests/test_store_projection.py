"""Projections against numpy's own singular value decomposition of the same states."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from made_store import made, rows_of

from dynlm._io import BadArgument
from dynlm.store import _principal
from dynlm.store._principal import fit_projection
from dynlm.store._projection import Projection, load_projection, projections, save_projection
from dynlm.store._reader import Store, open_store


def svd(x):
    """Principal directions and variances of the rows of `x`."""
    _, s, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return directions.T, s**2 / len(x)


def same_directions(a, b, atol):
    np.testing.assert_allclose(np.abs(np.sum(np.asarray(a) * b, axis=0)), 1, atol=atol)


def leaves(projection):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(projection)]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    rng = np.random.default_rng(1)
    return made(tmp_path_factory.mktemp("store") / "s", rows_of(rng), layers=(0, 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_that_is_not_finite_is_named(tmp_path, bad, dtype):
    rows = rows_of(np.random.default_rng(0), count=12)
    where = int(made(tmp_path / "sound", rows).store.split("train").rows[3])
    rows[where] = np.ones((4, 8))
    rows[where][2, 5] = bad
    store = made(tmp_path / "s", rows, dtype).store
    with pytest.raises(BadArgument, match=rf"Row {where} .*State 2 is -?(nan|inf) in coordinate 5"):
        fit_projection(store, 0, 2)
    others = np.delete(np.arange(12), where)
    assert np.isfinite(fit_projection(store[others], 0, 2).kept)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("method", ["exact", "randomised"])
def test_components_are_those_of_numpys_svd(tmp_path, dtype, method):
    m = made(tmp_path / "s", rows_of(np.random.default_rng(2)), dtype)
    p = fit_projection(m.store, 0, 3, method=method)
    directions, variance = svd(m.of("train"))
    same_directions(p.basis, directions[:, :3], 1e-5)
    np.testing.assert_allclose(p.variance, variance[:3], rtol=1e-5)
    np.testing.assert_allclose(p.mean, m.of("train").mean(0), rtol=1e-6)
    assert p.kept == pytest.approx(variance[:3].sum() / variance.sum(), rel=1e-5)
    assert np.all(np.abs(p.basis).max(0) == np.max(p.basis, axis=0))
    assert p.fit.rows == len(m.store.split("train")) and p.fit.steps == len(m.of("train"))


def test_scale_each_is_the_svd_of_standardised_states(example):
    x = example.of("train")
    p = fit_projection(example.store, 0, 3, scale="each", whiten=True)
    directions, variance = svd(x / x.std(0))
    same_directions(p.basis, directions[:, :3], 1e-5)
    z = p.project_rows(x)
    np.testing.assert_allclose(np.cov(z, rowvar=False, ddof=0), np.eye(3), atol=1e-5)
    assert p.kept == pytest.approx(variance[:3].sum() / variance.sum(), rel=1e-5)
    plain = fit_projection(example.store, 0, scale="each").project_rows(x)
    np.testing.assert_allclose(plain, (x - x.mean(0)) / x.std(0), atol=1e-5)


@pytest.mark.parametrize("dim", [None, 3])
def test_scale_all_gives_the_kept_components_a_mean_variance_of_one(example, dim):
    x = example.of("train")
    bare = fit_projection(example.store, 0, dim).project_rows(x)
    p = fit_projection(example.store, 0, dim, scale="all")
    z = p.project_rows(x)
    assert z.var(0).mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(z, bare / np.sqrt(bare.var(0).mean()), atol=1e-5)
    np.testing.assert_allclose(p.variance, z.var(0), rtol=1e-4)


def test_several_layers_share_one_projection(example):
    p = fit_projection(example.store, (0, 1), 2)
    x = example.of("train")
    directions, variance = svd(np.concatenate([x, 2 * x]))
    same_directions(p.basis, directions[:, :2], 1e-5)
    np.testing.assert_allclose(p.variance, variance[:2], rtol=1e-5)
    assert p.fit.layers == (0, 1) and p.fit.steps == 2 * len(x)


def test_split_none_takes_all_rows_and_a_view_its_own(example):
    for store, split, x in (
        (example.store, None, example.of(None)),
        (example.store.split("valid"), None, example.of("valid")),
    ):
        np.testing.assert_allclose(
            fit_projection(store, 0, 2, split=split).variance, svd(x)[1][:2], rtol=1e-5
        )


@pytest.mark.parametrize("method", ["exact", "randomised"])
def test_held_out_states_change_no_bit(tmp_path, method):
    rows = rows_of(np.random.default_rng(3), count=20)
    docs = [i // 2 for i in range(20)]
    first = made(tmp_path / "a", rows, docs=docs).store
    train = set(first.split("train").rows.tolist())
    assert 0 < len(train) < 20
    before = fit_projection(first, 0, 3, method=method, scale="each")
    other = [x if i in train else 100 * x**2 for i, x in enumerate(rows)]
    after = fit_projection(
        made(tmp_path / "b", other, docs=docs).store, 0, 3, method=method, scale="each"
    )
    assert leaves(before) == leaves(after) and before.kept == after.kept
    one = min(train)
    third = [2 * x if i == one else x for i, x in enumerate(rows)]
    moved = fit_projection(
        made(tmp_path / "c", third, docs=docs).store, 0, 3, method=method, scale="each"
    )
    assert leaves(before) != leaves(moved)


def test_lift_after_project_is_the_orthogonal_projection(example):
    x = example.of("valid").astype(np.float32)
    centre = example.of("train").mean(0)
    b = svd(example.of("train"))[0][:, :3]
    for scale, whiten in (("none", False), ("all", False), ("none", True), ("all", True)):
        p = fit_projection(example.store, 0, 3, scale=scale, whiten=whiten)
        truth = centre + (x - centre) @ b @ b.T
        np.testing.assert_allclose(p.lift_rows(p.project_rows(x)), truth, atol=2e-4)
    for scale, whiten in (("none", False), ("each", True), ("all", False)):
        p = fit_projection(example.store, 0, 8, scale=scale, whiten=whiten)
        np.testing.assert_allclose(p.lift_rows(p.project_rows(x)), x, atol=2e-4)
    p = fit_projection(example.store, 0, scale="each")
    np.testing.assert_allclose(p.lift_rows(p.project_rows(x)), x, atol=1e-5)


@pytest.mark.parametrize("dim", [None, 3])
def test_one_state_under_jit_and_vmap_is_as_many_in_numpy(example, dim, monkeypatch):
    monkeypatch.setattr("dynlm.store._projection.block_steps", lambda dim: 7)
    p = fit_projection(example.store, 0, dim, scale="each", whiten=dim is not None)
    x = example.of("test").astype(np.float32)
    z = jax.jit(jax.vmap(p.project))(jnp.asarray(x))
    np.testing.assert_allclose(z, p.project_rows(x), atol=1e-5)
    np.testing.assert_allclose(jax.vmap(p.lift)(z), p.lift_rows(np.asarray(z)), atol=1e-4)
    half = x.astype(ml_dtypes.bfloat16)
    assert p.project_rows(half).dtype == p.project(jnp.asarray(half[0])).dtype == np.float32
    assert p.project_rows(x.astype(np.float64)).dtype == np.float64


def test_gradients_go_both_ways(example):
    p = fit_projection(example.store, 0, 3, scale="each", whiten=True)
    x = jnp.asarray(example.rows[0][0])
    there = jax.jacobian(p.project)(x)
    back = jax.jacobian(p.lift)(p.project(x))
    basis, width, scale = (np.asarray(a) for a in (p.basis, p.width, p.scale))
    np.testing.assert_allclose(there, (basis / width).T / scale, rtol=1e-5)
    np.testing.assert_allclose(there @ back, np.eye(3), atol=1e-5)


def test_in_64_bits_it_is_exact_to_twelve_digits(tmp_path, x64):
    m = made(tmp_path / "s", rows_of(np.random.default_rng(4)), "float64")
    p = fit_projection(m.store, 0, 8, whiten=True)
    x = m.of("train")
    assert p.mean.dtype == np.float64
    np.testing.assert_allclose(p.lift_rows(p.project_rows(x)), x, atol=1e-11)
    np.testing.assert_allclose(p.variance, svd(x)[1], rtol=1e-10)


def test_a_share_of_the_variance_takes_the_fewest_components(example):
    variance = svd(example.of("train"))[1]
    shares = np.cumsum(variance) / variance.sum()
    for share in (0.01, 0.5, 0.9, 0.99, 0.999999999):
        p = fit_projection(example.store, 0, share)
        count = len(p.width)
        assert p.kept >= share - 1e-7 and shares[count - 1] >= share - 1e-6
        assert count == 1 or shares[count - 2] < share


@pytest.mark.parametrize("method", ["exact", "randomised"])
def test_fewer_states_than_dimensions(tmp_path, method):
    rows = [x[:1] for x in rows_of(np.random.default_rng(5), count=10, dim=40)]
    m = made(tmp_path / "s", rows)
    x = m.of("train")
    p = fit_projection(m.store, 0, len(x), method=method)
    basis = np.asarray(p.basis)
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(x)), atol=1e-5)
    np.testing.assert_allclose(p.lift_rows(p.project_rows(x)), x, atol=1e-4)
    np.testing.assert_allclose(p.variance[:-1], svd(x)[1][:-1], rtol=1e-3)
    with pytest.raises(BadArgument, match=f"`dim` is {len(x) + 1}, .* {len(x)} states"):
        fit_projection(m.store, 0, len(x) + 1, method=method)
    # Once centred, n states span n - 1 dimensions: the last component is made of rounding.
    with pytest.raises(BadArgument, match=f"only {len(x) - 1} vary"):
        fit_projection(m.store, 0, len(x), method=method, whiten=True)
    assert fit_projection(m.store, 0, len(x) - 1, method=method, whiten=True).kept > 0.999


@pytest.mark.parametrize("method", ["exact", "randomised"])
def test_coordinates_that_do_not_vary_divide_by_nothing(tmp_path, method):
    rows = rows_of(np.random.default_rng(6))
    for x in rows:
        x[:, [2, 5]] = [0.1, -7.0]
    m = made(tmp_path / "s", rows)
    x = m.of("train")
    for dim, whiten in ((None, False), (4, True), (6, True), (8, False)):
        p = fit_projection(m.store, 0, dim, scale="each", whiten=whiten, method=method)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(p))
        lifted = p.lift_rows(p.project_rows(x))
        # In float32, through products with coordinates of the size of one.
        np.testing.assert_allclose(lifted[:, [2, 5]], x[:, [2, 5]], rtol=1e-5, atol=1e-5)
    with pytest.raises(BadArgument, match="of 8 components only 6 vary"):
        fit_projection(m.store, 0, 8, scale="each", whiten=True, method=method)
    flat = made(tmp_path / "flat", [np.ones((3, 4))] * 10).store
    assert fit_projection(flat, 0, scale="all").kept == 1
    with pytest.raises(BadArgument, match="do not vary"):
        fit_projection(flat, 0, 2, method=method)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_randomised_keeps_the_variance_that_exact_does(tmp_path, decay):
    rng = np.random.default_rng(7)
    turn = np.linalg.qr(rng.standard_normal((200, 200)))[0]
    x = rng.standard_normal((6000, 200)) * np.arange(1, 201) ** (-decay / 2) @ turn.T
    store = made(tmp_path / "s", np.split(x, 20), "bfloat16").store
    exact = fit_projection(store, 0, 12, whiten=True)
    p = fit_projection(store, 0, 12, whiten=True, method="randomised")
    assert exact.kept * (1 - 1e-4) < p.kept < exact.kept * (1 + 1e-6)
    cosines = np.linalg.svd(np.asarray(exact.basis).T @ np.asarray(p.basis))[1]
    assert cosines.min() > 0.99
    again = fit_projection(store, 0, 12, whiten=True, method="randomised")
    other = fit_projection(store, 0, 12, whiten=True, method="randomised", seed=1)
    assert leaves(p) == leaves(again) != leaves(other)
    assert p.fit.seed == 0 and exact.fit.seed is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(layer=7), r"`layer` is 7\. This store has the layers \[0, 1\]"),
        (dict(layer=()), "`layer` is"),
        (dict(dim=0), "`dim` is 0, .* 1 to 8 components"),
        (dict(dim=9), "`dim` is 9, .* of dimension 8"),
        (dict(dim=1.0), "`dim` is 1.0, "),
        (dict(dim="3"), "`dim` is '3'"),
        (dict(scale="some"), "`scale` is 'some'. Use one of"),
        (dict(method="fast"), "`method` is 'fast'"),
        (dict(dim=None, whiten=True), "`whiten` is for principal components"),
        (dict(dim=0.5, method="randomised"), "`dim` is 0.5. The randomised"),
        (dict(method="randomised", passes=2), "`passes` is 2"),
        (dict(split="dev"), "'dev'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(example, unchecked, arguments, sentence):
    with pytest.raises(BadArgument, match=sentence):
        fit_projection(example.store, **{"layer": 0, "dim": 2} | arguments)


def test_an_empty_split_and_a_matrix_too_large_are_refused(example, monkeypatch):
    for store in (example.store[:0], example.store.split("valid")):
        with pytest.raises(BadArgument, match="no state in the split 'train' at layer 0"):
            fit_projection(store, 0, 2)
    monkeypatch.setattr(_principal, "MATRIX_BYTES", 8 * 8 * 8 - 1)
    with pytest.raises(BadArgument, match="in 8 dimensions takes .* Use 'randomised'"):
        fit_projection(example.store, 0, 2)
    fit_projection(example.store, 0)
    fit_projection(example.store, 0, 2, method="randomised")


def test_layers_of_different_dimensions_are_refused(example, monkeypatch):
    monkeypatch.setattr(Store, "dims", property(lambda store: {0: 8, 1: 9}))
    with pytest.raises(BadArgument, match="differ in dimension: {0: 8, 1: 9}"):
        fit_projection(example.store, (0, 1), 2)


def test_progress_is_shown_unless_quiet(example, capsys):
    fit_projection(example.store, 0, 2)
    assert capsys.readouterr().err == ""
    fit_projection(example.store, 0, 2, method="randomised", passes=3, quiet=False)
    total = 3 * len(example.of("train"))
    assert f"projection: {total}/{total}" in capsys.readouterr().err


@pytest.mark.parametrize("dim", [None, 2])
def test_a_saved_projection_comes_back_bit_by_bit(tmp_path, dim):
    store = made(tmp_path / "s", rows_of(np.random.default_rng(8))).store
    assert projections(store) == ()
    p = fit_projection(store, 0, dim, scale="all")
    path = save_projection(store, "plain", p)
    assert path == store.folder / "projections" / "plain.safetensors"
    again = load_projection(open_store(store.folder).split("test"), "plain")
    assert leaves(again) == leaves(p) and again.fit == p.fit
    assert (again.basis is None) == (dim is None)
    data = path.read_bytes()
    assert save_projection(store, "plain", again).read_bytes() == data
    save_projection(store, "v2.x-y", fit_projection(store, [0], 1, split=None))
    assert projections(store) == ("plain", "v2.x-y")
    save_projection(store, "plain", fit_projection(store, 0, 3))
    assert len(load_projection(store, "plain").width) == 3


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", ".hidden", "a b", "-x", "x" * 101, "a\\b", "a\n"]
)
def test_a_name_that_is_no_plain_one_is_refused(example, name):
    for call in (
        lambda: save_projection(example.store, name, fit_projection(example.store, 0)),
        lambda: load_projection(example.store, name),
    ):
        with pytest.raises(BadArgument, match="`name` is "):
            call()


def test_a_projection_of_other_states_is_refused(tmp_path):
    rows = rows_of(np.random.default_rng(9))
    store = made(tmp_path / "a", rows).store
    p = fit_projection(store, 0, 2)
    path = save_projection(store, "p", p)
    rows[0][0, 0] += 1
    other = made(tmp_path / "b", rows).store
    with pytest.raises(BadArgument, match="was fitted on other states"):
        save_projection(other, "p", p)
    target = other.folder / "projections" / "p.safetensors"
    target.parent.mkdir()
    target.write_bytes(path.read_bytes())
    with pytest.raises(BadArgument, match="was fitted on other states"):
        load_projection(other, "p")
    with pytest.raises(BadArgument, match="`name` is 'q'. The projections in .* are: p"):
        load_projection(other, "q")


def test_a_damaged_byte_is_found(tmp_path):
    store = made(tmp_path / "s", rows_of(np.random.default_rng(10), dim=3)).store
    p = fit_projection(store, 0, 2)
    path = save_projection(store, "p", p)
    data = path.read_bytes()
    refused = 0
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        try:  # a space of the JSON may become another one, and change nothing
            found = load_projection(store, "p")
            assert leaves(found) == leaves(p) and found.fit == p.fit
        except BadArgument as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0.9 * len(range(0, len(data), 3))
    path.write_bytes(data[:-5])
    with pytest.raises(BadArgument, match="cannot be used: .*Fit and save it again"):
        load_projection(store, "p")


def test_arrays_that_do_not_agree_make_no_projection(example, unchecked):
    p = fit_projection(example.store, 0, 2)
    with pytest.raises(ValueError, match="do not agree"):
        Projection(p.mean, p.scale, p.basis.T, p.width, p.variance, p.fit)
    with pytest.raises(ValueError, match="do not agree"):
        Projection(p.mean, p.scale, None, p.width, p.variance, p.fit)
