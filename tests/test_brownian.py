"""`CounterBrownianPath`: its law, its grid, what it refuses, and every adjoint of Diffrax."""

import re
from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from scipy import stats

from dynlm.simulate import _noise as noise
from dynlm.simulate._brownian import CounterBrownianPath

AREAS = [dfx.BrownianIncrement, dfx.SpaceTimeLevyArea, dfx.SpaceTimeTimeLevyArea]
UNEVEN = (0.0, 0.05, 0.2, 0.21, 0.21, 0.5, 0.75, 1.0)


def path(shape=(3,), seed=0, dt=0.25, **kwargs):
    return CounterBrownianPath(shape, jr.key(seed), None if "ts" in kwargs else dt, **kwargs)


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


# What it is --------------------------------------------------------------------------------------


def test_increment_is_the_noise_of_the_step():
    bm = path()
    for k in range(4):
        z = noise.normals(noise.stream(jr.key(0)), k, 3)
        np.testing.assert_array_equal(bm.evaluate(0.25 * k, 0.25 * (k + 1)), 0.5 * z)


@pytest.mark.parametrize("area", AREAS)
def test_increment_does_not_depend_on_the_area(area):
    bm = path(levy_area=area)
    found = bm.evaluate(0.5, 0.75, use_levy=True)
    assert type(found) is area and found.dt == 0.25 and found.dt.dtype == jnp.float32
    np.testing.assert_array_equal(found.W, path().evaluate(0.5, 0.75))
    np.testing.assert_array_equal(bm.evaluate(0.5, 0.75), found.W)


def test_law_of_increment_and_areas():
    keys = jr.split(jr.key(1), 2**16)

    def draw(key):
        bm = CounterBrownianPath((), key, 0.3, levy_area=dfx.SpaceTimeTimeLevyArea)
        a, b = bm.evaluate(0.3, 0.6, use_levy=True), bm.evaluate(0.6, 0.9, use_levy=True)
        return jnp.stack([a.W, a.H, a.K, b.W, b.H, b.K])

    draws = np.asarray(jax.vmap(draw)(keys), np.float64)
    scaled = draws / np.sqrt(0.3 * np.array([1, 1 / 12, 1 / 720] * 2))
    for column in scaled.T:
        assert stats.kstest(column, stats.norm.cdf).pvalue > 1e-5
    np.testing.assert_allclose(scaled.T @ scaled / 2**16, np.eye(6), atol=4.5 * 2**0.5 / 2**8)


def test_leaves_of_a_pytree_are_parts_of_one_vector():
    shape = {"a": struct(2, 3), "b": struct(), "c": (struct(4, dtype=jnp.bfloat16), struct(0))}
    found = path(shape, levy_area=dfx.SpaceTimeLevyArea).evaluate(0.25, 0.5, use_levy=True)
    vector = path((11,), levy_area=dfx.SpaceTimeLevyArea).evaluate(0.25, 0.5, use_levy=True)
    for tree, flat in ((found.W, vector.W), (found.H, vector.H)):
        assert jax.tree.map(lambda x: struct(*x.shape, dtype=x.dtype), tree) == shape
        np.testing.assert_array_equal(tree["a"], flat[:6].reshape(2, 3))
        np.testing.assert_array_equal(tree["b"], flat[6])
        np.testing.assert_array_equal(tree["c"][0], flat[7:].astype(jnp.bfloat16))
    assert jax.tree.map(lambda x: float(x), found.dt) == {"a": 0.25, "b": 0.25, "c": (0.25, 0.25)}


def test_float64(x64):
    bm = path({"wide": struct(5, dtype=jnp.float64), "narrow": struct(5)}, dt=0.1)
    found = bm.evaluate(0.1, 0.2)
    assert found["wide"].dtype == jnp.float64 and found["narrow"].dtype == jnp.float32
    wide = path((10,), dt=0.1).evaluate(0.1, 0.2)
    assert wide.dtype == jnp.float64
    np.testing.assert_array_equal(found["wide"], wide[5:])  # leaves in order of their names
    np.testing.assert_allclose(found["narrow"], wide[:5], rtol=1e-5)
    mixed = path((10,), dt=jnp.float32(0.1)).evaluate(jnp.float32(0.1), jnp.float32(0.2))
    np.testing.assert_allclose(mixed, wide, rtol=1e-7)


@pytest.mark.parametrize("size", [3, 8])
def test_vmapped_increments_are_those_of_each_path(size):
    """To the last place; where a compiler treats 3 or 4 numbers alone by other means, to a few."""
    keys = jr.split(jr.key(2), 16)
    draw = eqx.filter_jit(lambda key: CounterBrownianPath((size,), key, 0.1).evaluate(0.3, 0.4))
    together = jax.jit(jax.vmap(draw))(keys)
    alone = np.stack([draw(key) for key in keys])
    if size == 8:
        np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert len(np.unique(together)) == 16 * size


def test_second_call_does_not_retrace():
    traced = []

    @eqx.filter_jit
    def draw(bm, t):
        traced.append(None)
        return bm.evaluate(t, t + 0.25)

    for seed in range(3):
        draw(path(seed=seed, dt=jnp.float32(0.25)), jnp.float32(seed))
    assert len(traced) == 1


# Many cells --------------------------------------------------------------------------------------


def by_quadrature(ts, cells):
    """W, H, K over a grid from those of its cells, by integrating a path that has them.

    In a cell, v from 0 to 1: W v + 6 H v (1 - v) + 60 K v (1 - v)(1 - 2v).
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    v, weights = (nodes + 1) / 2, weights / 2
    start, total = ts[0], ts[-1] - ts[0]
    w_end = sum(w for w, _, _ in cells)
    h_sum, k_sum, w0 = 0.0, 0.0, 0.0
    for a, b, (w, h, k) in zip(ts, ts[1:], cells, strict=False):
        y = w0 + w * v + 6 * h * v * (1 - v) + 60 * k * v * (1 - v) * (1 - 2 * v)
        u = (a - start + (b - a) * v) / total
        bridge = (y - u * w_end) * weights * (b - a) / total
        h_sum, k_sum, w0 = h_sum + sum(bridge), k_sum + sum(bridge * (0.5 - u)), w0 + w
    return w_end, h_sum, k_sum


@pytest.mark.parametrize("ts", [UNEVEN, np.linspace(0, 1, 7)], ids=["uneven", "even"])
def test_joined_areas_are_integrals_of_the_path(x64, ts):
    area = dfx.SpaceTimeTimeLevyArea
    ts = jnp.asarray(ts)
    fine = CounterBrownianPath((), jr.key(3), ts=ts, levy_area=area)
    whole = CounterBrownianPath((), jr.key(3), ts=ts, levy_area=area, cells=7)
    cells = []
    for k in range(len(ts) - 1):
        c = fine._cell(jnp.uint32(k), ts[k + 1] - ts[k])
        cells.append([float(x) for x in c])
    for i, j in ((0, 6), (0, 3), (2, 6), (1, 2)):
        found = whole.evaluate(ts[i], ts[j], use_levy=True)
        first = int(np.searchsorted(ts, ts[i], side="right")) - 1
        last = int(np.searchsorted(ts, ts[j], side="left"))
        expected = by_quadrature(np.asarray(ts)[first : last + 1], cells[first:last])
        np.testing.assert_allclose([found.W, found.H, found.K], expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(found.dt, ts[j] - ts[i], rtol=1e-12)


def test_joined_areas_have_the_law_of_one_cell():
    keys = jr.split(jr.key(4), 2**15)

    def draw(key):
        area = dfx.SpaceTimeTimeLevyArea
        a = CounterBrownianPath((), key, 0.1, levy_area=area, cells=5).evaluate(
            0.2, 0.7, use_levy=True
        )
        return jnp.stack([a.W, a.H, a.K])

    scaled = np.asarray(jax.vmap(draw)(keys)) / np.sqrt(0.5 * np.array([1, 1 / 12, 1 / 720]))
    np.testing.assert_allclose(scaled.T @ scaled / 2**15, np.eye(3), atol=4.5 * 2**0.5 / 2**7.5)


def test_coarse_increments_are_sums_of_fine_ones():
    fine, coarse = path(dt=0.125), path(dt=0.125, cells=4)
    parts = [np.asarray(fine.evaluate(0.125 * k, 0.125 * (k + 1))) for k in range(8)]
    np.testing.assert_allclose(coarse.evaluate(0.5, 1.0), sum(parts[4:]), rtol=1e-5)
    np.testing.assert_allclose(coarse.evaluate(0.5, 0.75), sum(parts[4:6]), rtol=1e-5)
    np.testing.assert_allclose(fine.evaluate(1.0), sum(parts), rtol=1e-5)
    np.testing.assert_array_equal(fine.evaluate(0.0), np.zeros(3))


# The grid ----------------------------------------------------------------------------------------


def test_a_grid_of_equal_cells_is_an_even_grid():
    even, listed = path(dt=0.25), path(ts=jnp.linspace(0.0, 1.0, 5))
    assert even.t0 == listed.t0 == 0.0 and listed.t1 == 1.0 and even.t1 == float("inf")
    for k in range(4):
        query = (0.25 * k, 0.25 * (k + 1))
        np.testing.assert_array_equal(even.evaluate(*query), listed.evaluate(*query))


@pytest.mark.parametrize("cells", [1, 2])
def test_equal_grid_times_hold_no_noise(cells):
    bm = path(ts=jnp.array([0.0, 0.5, 0.5, 1.0, 1.0]), cells=cells)
    np.testing.assert_array_equal(bm.evaluate(0.5, 0.5), np.zeros(3))
    np.testing.assert_array_equal(bm.evaluate(1.0, 1.0), np.zeros(3))
    z = noise.normals(noise.stream(jr.key(0)), 2, 3)  # the cell from the second .5 on
    np.testing.assert_allclose(bm.evaluate(0.5, 1.0), 0.5**0.5 * z, rtol=1e-6)


def test_a_query_of_no_time_is_nothing_anywhere():
    assert not np.any(path().evaluate(0.1, 0.1))
    assert not np.any(path(cells=3).evaluate(-7.0, -7.0))


def solver_times(t0, t1, n, dtype):
    """As `diffrax.ConstantStepSize` computes them."""
    t0, t1 = dtype(t0), dtype(t1)
    i = np.arange(n + 1).astype(dtype)
    return np.append((t0 + (t1 - t0) * (i / dtype(n)))[:-1], t1)


GRIDS = [  # t0 of the path, t0 of the solve, dt, number of steps
    (0.0, 0.0, 0.1, 100_000),
    (0.0, 0.0, 1 / 3, 100_000),
    (0.0, 0.0, 7e-4, 300_000),
    (0.0, 0.0, 0.01, 1_000_000),
    (0.0, 9_900.0, 0.01, 10_000),
    (-3.0, -3.0, 1e-3, 6_000),
    (-3.0, 0.3, 0.1, 50),
    (100.0, 100.0, 0.01, 10_000),
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_solver_times_find_their_cells(grid):
    begin, t0, dt, n = grid
    ts = solver_times(t0, t0 + n * dt, n, np.float32)
    bm = path((), dt=dt, t0=begin)
    first, count, refused = eqx.filter_jit(jax.vmap(lambda a, b: bm._locate(a, b, most=1)))(
        jnp.asarray(ts[:-1]), jnp.asarray(ts[1:])
    )
    assert not np.any(refused)
    np.testing.assert_array_equal(first, np.arange(n) + round((t0 - begin) / dt))
    np.testing.assert_array_equal(count, np.ones(n))


def test_float64_times_reach_far(x64):
    bm = path((), dt=1e-3)
    t = 1e-3 * (2**32 - 1)
    first, count, _ = bm._locate(t, 1e-3 * 2**32, most=1)
    assert (int(first), int(count)) == (2**32 - 1, 1)
    with pytest.raises(RuntimeError, match="is not within the path"):
        bm.evaluate(1e-3 * 2**32, 1e-3 * (2**32 + 1))


REFUSED = [
    ({}, (0.1, 0.35), "begin and end on the grid.*dt0"),
    ({}, (0.25, 0.4), "begin and end on the grid"),
    ({}, (0.0, 0.28), "begin and end on the grid"),
    ({}, (float("nan"), 0.25), "begin and end on the grid"),
    ({}, (0.0, float("inf")), "begin and end on the grid"),
    ({"dt": 1e-2}, (40_000.0, 40_000.01), "too large for their dtype"),
    ({}, (-0.25, 0.0), "not within the path.*`t0`"),
    ({}, (0.0, 0.5), "does not span 0 to 1 cells.*`cells`"),
    ({"cells": 2}, (0.0, 0.75), "does not span 0 to 2 cells"),
    ({}, (0.5, 0.25), "does not span 0 to 1 cells"),
    ({"ts": UNEVEN}, (0.05, 0.1), "begin and end on the grid.*StepTo"),
    ({"ts": UNEVEN}, (0.0, 0.2), "does not span"),
    ({"ts": UNEVEN}, (0.75, 1.25), "begin and end on the grid"),
    ({"ts": UNEVEN}, (-0.1, 0.0), "begin and end on the grid"),
    ({"ts": (0.0, 1.0, 2.0)}, (0.9999, 1.0), "begin and end on the grid"),
    ({"dt": 1.0}, (0.9999, 1.0), "begin and end on the grid"),
    ({"ts": (0.0, 1.0, 1.001, 2.0)}, (1.01, 2.0), "begin and end on the grid"),
    ({"ts": (1e4, 1e4 + 2**-8, 2e4)}, (1e4 + 2**-9, 2e4), "begin and end on the grid"),
]


@pytest.mark.parametrize("kwargs, query, message", REFUSED)
def test_refused(kwargs, query, message):
    if "ts" in kwargs:
        kwargs = {"ts": jnp.array(kwargs["ts"])}
    bm = path(**kwargs)
    with pytest.raises(RuntimeError, match=f"(?s)CounterBrownianPath.*{message}"):
        bm.evaluate(*query)
    times = jnp.array(query)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        eqx.filter_jit(lambda bm, t: bm.evaluate(t[0], t[1]))(bm, times)


def test_refusal_says_what_was_asked():
    with pytest.raises(RuntimeError, match=r"dt=0.25, t0=0.0, cells=1.*asked for \[0.1, 0.35\]"):
        path().evaluate(0.1, 0.35)


def test_one_bad_path_of_a_batch_is_refused():
    keys, starts = jr.split(jr.key(0), 4), jnp.array([0.0, 0.25, 0.3, 0.5])
    draw = jax.vmap(lambda k, t: CounterBrownianPath((3,), k, 0.25).evaluate(t, t + 0.25))
    with pytest.raises(RuntimeError, match="begin and end on the grid"):
        eqx.filter_jit(draw)(keys, starts)
    with pytest.raises(RuntimeError, match="begin and end on the grid"):
        eqx.filter_jit(eqx.filter_grad(lambda y: jnp.sum(y * draw(keys, starts))))(jnp.ones((4, 3)))


@pytest.mark.parametrize("cells", [1, 2])
def test_refusal_is_nan_where_errors_are_off(cells):
    bm = path(cells=cells, levy_area=dfx.SpaceTimeTimeLevyArea)
    one, yes = jnp.uint32(1), jnp.asarray(True)
    for count in (0 * one, one):
        for x in jax.tree.leaves(bm._between(one, count, yes, cells > 1, True)):
            assert np.all(np.isnan(x))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"dt": None}, "exactly one of `dt`"),
        ({"dt": 0.1, "ts": jnp.arange(3.0)}, "exactly one of `dt`"),
        ({"dt": 0.0}, "`dt` is 0.0.*step"),
        ({"dt": -0.1}, "`dt` is -0.1"),
        ({"dt": float("nan")}, "`dt` is nan"),
        ({"dt": 0.1, "cells": 0}, "`cells` is 0"),
        ({"dt": 0.1, "levy_area": float}, "`levy_area` is.*SpaceTimeLevyArea"),
        ({"ts": jnp.array([0.0, 1.0, 0.5])}, "never decrease"),
        ({"ts": jnp.array([0.0, float("nan"), 0.5])}, "finite"),
        ({"ts": jnp.array([0.0])}, r"`ts` is float32\[1\]"),
        ({"ts": jnp.arange(3)}, r"`ts` is int32\[3\]"),
        ({"ts": jnp.arange(3.0), "t0": 0.0}, "Leave out `t0`"),
        ({"dt": 0.1, "shape": struct(3, dtype=jnp.int32)}, "int32.*floating"),
        ({"dt": 0.1, "shape": struct(3, dtype=jnp.complex64)}, "complex64.*floating"),
    ],
)
def test_bad_arguments(unchecked, kwargs, message):
    with pytest.raises(ValueError, match=message):
        CounterBrownianPath(**({"shape": (3,), "key": jr.key(0)} | kwargs))


def test_bad_traced_arguments():
    def draw(**kwargs):
        return CounterBrownianPath((3,), jr.key(0), **kwargs).evaluate(0.0, 0.5)

    with pytest.raises(RuntimeError, match="positive and finite"):
        eqx.filter_jit(draw)(dt=jnp.float32(-0.5))
    with pytest.raises(RuntimeError, match="never decrease"):
        eqx.filter_jit(draw)(ts=jnp.array([0.0, 0.5, 0.25]))


def test_the_page_runs():
    page = (Path(__file__).parents[1] / "docs" / "noise.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    assert len(examples) == 3
    exec(compile("\n".join(examples), "noise.md", "exec"), {"__name__": "page"})


# Inside Diffrax ----------------------------------------------------------------------------------


def last(sol):
    assert sol.ys is not None
    return sol.ys[-1]


def gbm_terms(bm, a, b):
    return dfx.MultiTerm(
        dfx.ODETerm(lambda t, y, args: a * y),
        dfx.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(b * y), bm),
    )


@eqx.filter_jit
def solve(bm, params, solver, adjoint, t0=0.0, t1=1.0, n=64, y0=1.0):
    a, b = params
    y0 = jnp.broadcast_to(jnp.asarray(y0), (2,))
    sol = dfx.diffeqsolve(
        gbm_terms(bm, a, b), solver, t0, t1, (t1 - t0) / n, y0, adjoint=adjoint, max_steps=4096
    )
    return last(sol)


@jax.jit
def by_hand(params):
    a, b = params
    stream = noise.stream(jr.key(5))
    y = jnp.ones(2)

    def step(y, k):
        return y + a * y / 64 + b * y * noise.normals(stream, k, 2) / 8, None

    return jax.lax.scan(step, y, jnp.arange(64))[0]


PARAMS = (jnp.float32(0.3), jnp.float32(0.4))


@pytest.mark.parametrize(
    "adjoint", [dfx.RecursiveCheckpointAdjoint(), dfx.DirectAdjoint(), dfx.ForwardMode()], ids=repr
)
def test_gradients_are_those_of_the_loop(adjoint):
    def loss(params):
        return jnp.sum(solve(path((2,), 5, 1 / 64), params, dfx.Euler(), adjoint))

    diff = jax.jacfwd if isinstance(adjoint, dfx.ForwardMode) else jax.grad
    expected = jax.grad(lambda p: jnp.sum(by_hand(p)))(PARAMS)
    np.testing.assert_allclose(eqx.filter_jit(diff(loss))(PARAMS), expected, rtol=2e-5)


def test_vmapped_gradient_with_the_default_adjoint():
    keys = jr.split(jr.key(4), 8).at[3].set(jr.key(5))

    def loss(params, key):
        bm = CounterBrownianPath((2,), key, 1 / 64, cells=2)
        return jnp.sum(solve(bm, params, dfx.Euler(), dfx.RecursiveCheckpointAdjoint()))

    each = eqx.filter_jit(jax.vmap(jax.grad(loss), (None, 0)))(PARAMS, keys)
    expected = jax.grad(lambda p: jnp.sum(by_hand(p)))(PARAMS)
    np.testing.assert_allclose([g[3] for g in each], expected, rtol=2e-5)
    assert len(np.unique(each[1])) == 8


def test_backsolve_adjoint_on_stratonovich_gbm():
    # y = exp(a t + b W), hence dy/da = t y and dy/db = W y.
    n = 1024
    bm = path((2,), 5, 1 / n)

    def loss(params):
        def field(t, y, params):
            return params[0] * y

        def noisy(t, y, params):
            return lx.DiagonalLinearOperator(params[1] * y)

        terms = dfx.MultiTerm(dfx.ODETerm(field), dfx.ControlTerm(noisy, bm))
        sol = dfx.diffeqsolve(
            terms, dfx.Heun(), 0.0, 1.0, 1 / n, jnp.ones(2), params, adjoint=dfx.BacksolveAdjoint()
        )
        return jnp.sum(last(sol))

    value, gradient = eqx.filter_jit(jax.value_and_grad(loss))(PARAMS)
    a, b = PARAMS
    w = bm.evaluate(1.0)
    y = jnp.exp(a + b * w)
    np.testing.assert_allclose(value, jnp.sum(y), rtol=2e-3)
    np.testing.assert_allclose(gradient, (jnp.sum(y), jnp.sum(w * y)), rtol=5e-3)


def test_backward_in_time_is_the_same_noise():
    bm = path((2,), 5, 1 / 64)
    adjoint = dfx.ForwardMode()
    end = solve(bm, PARAMS, dfx.Heun(), adjoint)
    start = solve(bm, PARAMS, dfx.Heun(), adjoint, t0=1.0, t1=0.0, y0=end)
    np.testing.assert_allclose(start, np.ones(2), rtol=1e-3)
    other = solve(path((2,), 6, 1 / 64), PARAMS, dfx.Heun(), adjoint, t0=1.0, t1=0.0, y0=end)
    assert np.abs(other - 1).min() > 0.02


def test_half_solver_takes_two_cells():
    adjoint = dfx.ForwardMode()
    halved = solve(
        path((2,), 5, 1 / 64, cells=2), PARAMS, dfx.HalfSolver(dfx.Euler()), adjoint, n=32
    )
    plain = solve(path((2,), 5, 1 / 64), PARAMS, dfx.Euler(), adjoint)
    np.testing.assert_allclose(halved, plain, rtol=1e-5)


def test_a_solver_that_needs_areas():
    adjoint = dfx.RecursiveCheckpointAdjoint()

    def loss(b):
        bm = path((2,), 5, 1 / 16, levy_area=dfx.SpaceTimeLevyArea)
        terms = dfx.MultiTerm(
            dfx.ODETerm(lambda t, y, args: -y),
            dfx.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(b * jnp.ones(2)), bm),
        )
        sol = dfx.diffeqsolve(terms, dfx.ShARK(), 0.0, 1.0, 1 / 16, jnp.ones(2), adjoint=adjoint)
        return jnp.sum(last(sol))

    value, slope = eqx.filter_jit(jax.value_and_grad(loss))(jnp.float32(0.5))
    np.testing.assert_allclose(value - 0.5 * slope, 2 * np.exp(-1), rtol=1e-3)  # linear in b
    assert abs(slope) > 1e-3


def test_an_adaptive_solve_is_refused():
    bm = path((2,), 5, 1 / 64, levy_area=dfx.SpaceTimeLevyArea)
    with pytest.raises(RuntimeError, match="begin and end on the grid|does not span"):
        dfx.diffeqsolve(
            gbm_terms(bm, *PARAMS),
            dfx.SPaRK(),
            0.0,
            1.0,
            1 / 64,
            jnp.ones(2),
            stepsize_controller=dfx.PIDController(rtol=1e-2, atol=1e-2),
            max_steps=256,
        )


def test_every_path_on_its_own_grid():
    grids = jnp.array([[0.0, 0.1, 0.5, 1.0], [0.0, 0.7, 0.7, 1.0], [0.0, 0.25, 0.5, 1.0]])
    keys = jr.split(jr.key(6), 3)

    @eqx.filter_jit
    def end(scale, key, ts):
        bm = CounterBrownianPath((2,), key, ts=ts)

        def step(y, times):
            return y + scale * y * bm.evaluate(times[0], times[1]), None

        return jnp.sum(jax.lax.scan(step, jnp.ones(2), jnp.stack([ts[:-1], ts[1:]], 1))[0])

    def total(scale, grids):
        return jnp.sum(jax.vmap(end, (None, 0, 0))(scale, keys, grids))

    for i in range(3):
        z = [noise.normals(noise.stream(keys[i]), k, 2) for k in range(3)]
        factors = [1 + 0.4 * h**0.5 * zk for h, zk in zip(np.diff(grids[i]), z, strict=True)]
        expected = jnp.sum(factors[0] * factors[1] * factors[2])
        np.testing.assert_allclose(end(0.4, keys[i], grids[i]), expected, rtol=1e-5)
    slope, by_time = eqx.filter_jit(jax.grad(total, (0, 1)))(jnp.float32(0.4), grids)
    assert np.isfinite(slope)
    np.testing.assert_array_equal(by_time, np.zeros_like(grids))  # times are not differentiated


def test_step_to_on_an_uneven_grid():
    ts = jnp.array([0.0, 0.05, 0.2, 0.21, 0.5, 0.75, 1.0])
    bm = path((2,), 5, ts=ts)
    sol = dfx.diffeqsolve(
        gbm_terms(bm, *PARAMS),
        dfx.Euler(),
        0.0,
        1.0,
        None,
        jnp.ones(2),
        stepsize_controller=dfx.StepTo(ts),
    )
    y = jnp.ones(2)
    for k in range(6):
        h, z = ts[k + 1] - ts[k], noise.normals(noise.stream(jr.key(5)), k, 2)
        y = y + PARAMS[0] * y * h + PARAMS[1] * y * jnp.sqrt(h) * z
    np.testing.assert_allclose(last(sol), y, rtol=1e-5)
