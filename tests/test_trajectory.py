import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynlm
from dynlm import Trajectory


def path(n=6, dim=2):
    ts = np.cumsum([0.0, 0.1, 0.4, 0.2, 0.05, 1.0][:n])
    return Trajectory.from_arrays(np.arange(n * dim, dtype=np.float32).reshape(n, dim), ts)


def test_from_arrays_defaults_and_dtypes():
    p = Trajectory.from_arrays(np.arange(3))
    assert p.ys.shape == (3, 1) and p.ys.dtype == p.ts.dtype == jnp.float32
    np.testing.assert_array_equal(p.ts, [0, 1, 2])
    half = Trajectory.from_arrays(np.zeros((600, 2), jnp.bfloat16))
    assert half.ys.dtype == jnp.bfloat16 and half.ts.dtype == jnp.float32
    np.testing.assert_array_equal(half.ts, np.arange(600))


def test_windows_are_slices():
    p, w = path(), path().windows(3, stride=2)
    for i, start in enumerate([0, 2]):
        np.testing.assert_array_equal(w.ys[i], p.ys[start : start + 3])
        np.testing.assert_array_equal(w.ts[i], p[start : start + 3].ts)
    assert w.ys.shape == (2, 3, 2)


def test_stack_pads_at_the_end_with_the_last_time():
    batch = dynlm.stack([path(6), path(4)])
    np.testing.assert_array_equal(batch.length, [6, 4])
    np.testing.assert_array_equal(batch.mask[1], [1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(batch.ts[1, 4:], np.repeat(path(4).ts[-1], 2))
    assert dynlm.stack([path(3)], length=5).ys.shape == (1, 5, 2)


def test_vmap_over_a_stack_equals_a_loop():
    paths = [path(6), path(4), path(5)]

    def energy(p):
        return jnp.sum(p.ys**2, where=p.mask[:, None])

    np.testing.assert_allclose(
        jax.vmap(energy)(dynlm.stack(paths)), jnp.stack([energy(p) for p in paths])
    )


def test_padding_may_hold_anything():
    mask = [True, True, False]
    p = Trajectory.from_arrays([[1.0], [2.0], [np.nan]], mask=mask)
    assert np.isfinite(p.ys).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(ys=np.zeros((3, 2)), ts=[0.0, np.nan, 1.0]), r"`ts\[1\]` is nan"),
        (dict(ys=np.zeros((3, 2)), ts=[0.0, 2.0, 1.0]), r"`ts` decreases at 1: 2.0 .* 1.0"),
        (dict(ys=np.zeros((3, 2)), ts=[0.0, 1.0]), r"3 rows, `ts` has shape \(2,\)"),
        (dict(ys=np.zeros((3, 2)), mask=[True, False, True]), "`mask` has a hole: entry 1"),
        (dict(ys=np.zeros((3, 2, 1))), r"shape \(3, 2, 1\).*stack"),
        (dict(ys=[[0.0], [np.inf]]), r"`ys\[1\]` is not finite"),
        (dict(ys=np.zeros((2, 1)), ts=[1.7e9, 1.7e9 + 1]), "are equal in float32"),
        (dict(ys=np.zeros((2, 1), complex)), "dtype complex128"),
    ],
)
def test_bad_arrays_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Trajectory.from_arrays(**arguments)


def test_bad_fields_are_refused(unchecked):
    ts, ys, mask = jnp.arange(3.0), jnp.zeros((3, 1)), jnp.ones(3, bool)
    with pytest.raises(ValueError, match="one time, one state and one mask"):
        Trajectory(ts, jnp.zeros((4, 1)), mask)
    with pytest.raises(ValueError, match=r"must be \(time,\), \(time, dim\)"):
        Trajectory(ts, ts, mask)
    with pytest.raises(ValueError, match=r"\(float32\) must be"):
        Trajectory(ts, ys, mask.astype(jnp.float32))
    batch = dynlm.stack([Trajectory(ts, ys, mask)] * 2)
    for call in (lambda: batch.windows(2), lambda: batch[:1]):
        with pytest.raises(ValueError, match="A batch has no steps"):
            call()
    with pytest.raises(ValueError, match="While tracing"):
        jax.jit(Trajectory.from_arrays)(ys)
    with pytest.raises(ValueError, match="`ts` is float16 and `ys` is float32"):
        Trajectory(ts.astype(jnp.float16), ys, mask)
    with pytest.raises(ValueError, match="`length` is 4; the path has 3"):
        Trajectory(ts, ys, mask).windows(4)
    with pytest.raises(ValueError, match="`stride` is 0"):
        Trajectory(ts, ys, mask).windows(2, stride=0)
    with pytest.raises(TypeError, match=r"path\[2\]"):
        Trajectory(ts, ys, mask)[2]
    with pytest.raises(ValueError, match="`paths` is empty"):
        dynlm.stack([])
    with pytest.raises(ValueError, match="differ in state shape"):
        dynlm.stack([Trajectory(ts, ys, mask), path()])
    with pytest.raises(ValueError, match="a path has 6 steps"):
        dynlm.stack([path(6)], length=3)
