"""Factors of one matrix against numpy, alone and in batches, with their derivatives; none waits."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dynlm import _factors
from dynlm._factors import (
    MOST,
    cholesky,
    inverse_and_log,
    inverse_lower,
    log_abs_det,
    root_and_inverse,
    solve_cholesky,
    solve_lower,
)
from dynlm.losses._flow import normal_logpdf

HERE = Path(__file__).parent
DIMS = (1, 2, 5, 16, 17, 24, MOST + 1)

OPERATIONS = {
    "cholesky": (lambda a, b: cholesky(a), lambda a, b: np.linalg.cholesky(a)),
    "inverse of the root": (
        lambda a, b: root_and_inverse(a)[1],
        lambda a, b: np.linalg.inv(np.linalg.cholesky(a)),
    ),
    "inverse_lower": (lambda a, b: inverse_lower(a), lambda a, b: np.linalg.inv(np.tril(a))),
    "solve_lower": (lambda a, b: solve_lower(a, b), lambda a, b: np.linalg.solve(np.tril(a), b)),
    "solve_lower, a vector": (
        lambda a, b: solve_lower(a, b[:, 0]),
        lambda a, b: np.linalg.solve(np.tril(a), b)[:, 0],
    ),
    "solve_cholesky": (
        lambda a, b: solve_cholesky(a, b),
        lambda a, b: np.linalg.solve(np.tril(a) @ np.tril(a).T, b),
    ),
    "log_abs_det": (lambda a, b: log_abs_det(a), lambda a, b: np.linalg.slogdet(a)[1]),
    "inverse": (lambda a, b: inverse_and_log(a)[0], lambda a, b: np.linalg.inv(a)),
}

# What the library would do, for derivatives.
LIBRARY = {
    "cholesky": lambda a, b: jnp.linalg.cholesky(a),
    "inverse of the root": lambda a, b: jnp.linalg.inv(jnp.linalg.cholesky(a)),
    "inverse_lower": lambda a, b: jnp.linalg.inv(jnp.tril(a)),
    "solve_lower": lambda a, b: jnp.linalg.solve(jnp.tril(a), b),
    "solve_lower, a vector": lambda a, b: jnp.linalg.solve(jnp.tril(a), b[:, 0]),
    "solve_cholesky": lambda a, b: jnp.linalg.solve(jnp.tril(a) @ jnp.tril(a).T, b),
    "log_abs_det": lambda a, b: jnp.linalg.slogdet(a)[1],
    "inverse": lambda a, b: jnp.linalg.inv(a),
}


def sample(dim: int, number: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(dim)
    m = rng.standard_normal((number, dim, dim))
    a = m @ m.transpose(0, 2, 1) / dim + np.eye(dim)
    return a.astype(dtype), rng.standard_normal((number, dim, 3)).astype(dtype)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_numpy(name: str, dtype: type):
    ours, theirs = OPERATIONS[name]
    for dim in DIMS if dtype == np.float32 else (2, 17):
        with jax.enable_x64(dtype == np.float64):
            a, b = sample(dim, 3, dtype)
            want = np.stack([theirs(*one) for one in zip(a.astype(float), b.astype(float))])
            got = [jax.vmap(ours)(a, b)]
            if dim in (2, 17):
                got = [*got, ours(jnp.asarray(a[0]), jnp.asarray(b[0]))[None]]
        near = dict(rtol=0, atol=(2e-5 if dtype == np.float32 else 1e-12) * np.abs(want).max())
        for x in got:
            assert x.dtype == dtype
            np.testing.assert_allclose(x, want[: len(x)], err_msg=str(dim), **near)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dim", [5, 17, MOST + 1])
def test_derivatives(name: str, dim: int):
    with jax.enable_x64(True):
        a, b = (jnp.asarray(x) for x in sample(dim, 2, np.float64))
        da, db = jr.normal(jr.key(0), a.shape), jr.normal(jr.key(1), b.shape)

        def symmetric(f):
            return lambda a, b: f((a + a.T) / 2, b)

        ours, theirs = (
            jax.vmap(symmetric(x[name])) for x in ({name: OPERATIONS[name][0]}, LIBRARY)
        )
        y, dy = jax.jvp(ours, (a, b), (da, db))
        _, want = jax.jvp(theirs, (a, b), (da, db))
        np.testing.assert_allclose(dy, want, rtol=0, atol=1e-10 * float(jnp.abs(want).max()))
        back, wanted = (jax.vjp(f, a, b)[1](jnp.cos(y)) for f in (ours, theirs))
        for x, z in zip(back, wanted):
            np.testing.assert_allclose(x, z, rtol=0, atol=1e-10 * float(jnp.abs(z).max() + 1))


@pytest.mark.parametrize("name", ["cholesky", "solve_lower", "solve_cholesky", "log_abs_det"])
def test_second_derivatives(name: str):
    with jax.enable_x64(True):
        a, b = (jnp.asarray(x[0]) for x in sample(5, 1, np.float64))
        da = jr.normal(jr.key(0), a.shape)

        def along(f):
            line = lambda s: jnp.sum(jnp.sin(f(a + s * (da + da.T), b)))  # noqa: E731
            return jax.grad(jax.grad(line))(0.0), jax.jacfwd(jax.grad(line))(0.0)

        for x, z in zip(along(OPERATIONS[name][0]), along(LIBRARY[name])):
            np.testing.assert_allclose(x, z, rtol=1e-8)


def test_second_derivative_of_a_normal_law():
    with jax.enable_x64(True):
        a, r = jnp.asarray(sample(5, 1, np.float64)[0][0]), jnp.arange(5.0)

        def library(s):
            c = a + s * jnp.eye(5)
            form = r @ jnp.linalg.solve(c, r) + jnp.linalg.slogdet(c)[1]
            return -0.5 * (form + 5 * jnp.log(2 * jnp.pi))

        line = lambda s: normal_logpdf(r, a + s * jnp.eye(5))  # noqa: E731
        for f in (lambda f: f, jax.grad, lambda f: jax.grad(jax.grad(f))):
            np.testing.assert_allclose(f(line)(0.1), f(library)(0.1), rtol=1e-9)


@pytest.mark.parametrize("dim", [1, 5, 16, 17, MOST + 1])
def test_indefinite_is_nan(dim: int):
    good = np.eye(dim, dtype=np.float32)
    for k in {0, dim // 2, dim - 1}:
        bad = np.stack([good, good, good])
        bad[1, k, k], bad[2, k, k] = -1.0, 0.0
        roots, inverses = jax.vmap(root_and_inverse)(bad)
        for x in (roots, inverses):
            np.testing.assert_array_equal(x[0], good)
            assert np.isnan(np.diagonal(x[1])).all() and np.isnan(np.diagonal(x[2])).all()
        if k == 0:
            assert np.isnan(normal_logpdf(jnp.ones(dim), jnp.asarray(bad[1])))


def test_signs_and_zeros():
    a = np.random.default_rng(0).standard_normal((4, 20, 20)).astype(np.float32)
    np.testing.assert_allclose(jax.vmap(log_abs_det)(a), np.linalg.slogdet(a)[1], rtol=1e-4)
    assert log_abs_det(jnp.zeros((3, 3))) == -jnp.inf
    swap = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])  # without a pivot this divides by zero
    np.testing.assert_array_equal(inverse_and_log(swap)[0], swap)


def test_badly_scaled():
    with jax.enable_x64(True):
        scale = np.geomspace(1e-6, 1e6, 24)
        a = sample(24, 1, np.float64)[0][0] * scale[:, None] * scale[None]
        l = cholesky(jnp.asarray(a))
        np.testing.assert_allclose(l, np.linalg.cholesky(a), rtol=1e-9)
        np.testing.assert_allclose(log_abs_det(jnp.asarray(a)), np.linalg.slogdet(a)[1], rtol=1e-9)
        hilbert = 1 / (1.0 + np.arange(40)[:, None] + np.arange(40)[None]) + 1e-9 * np.eye(40)
        l, w = root_and_inverse(jnp.asarray(hilbert))
        np.testing.assert_allclose(l @ l.T, hilbert, atol=1e-14)
        np.testing.assert_allclose(w @ l, np.eye(40), atol=1e-8)
        got, want = log_abs_det(jnp.asarray(hilbert)), np.linalg.slogdet(hilbert)[1]
        np.testing.assert_allclose(got, want, rtol=1e-8)


@pytest.mark.parametrize("dim", [5, MOST + 1])
def test_nested_batches_and_shared_sides(dim: int):
    a, b = sample(dim, 6, np.float32)
    l = np.linalg.cholesky(a)
    want = np.linalg.solve(l, b)
    l, b = jnp.asarray(l), jnp.asarray(b)
    rows = jax.vmap(jax.vmap(solve_lower, (None, 1), 1))(l, b)  # one matrix, many vectors
    np.testing.assert_allclose(rows, want, atol=1e-4)
    nested = jax.vmap(jax.vmap(solve_lower))(l.reshape(2, 3, dim, dim), b.reshape(2, 3, dim, 3))
    np.testing.assert_allclose(nested.reshape(want.shape), want, atol=1e-4)
    shared = jax.vmap(solve_lower, (0, None))(l, b[0])  # many matrices, one side
    np.testing.assert_allclose(shared, np.linalg.solve(l, b[:1]), atol=1e-4)


@pytest.mark.parametrize("dim", [17, MOST + 1])
def test_inside_shard_map(dim: int):
    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))
    a, b = sample(dim, 4, np.float32)

    def each(a: jax.Array, b: jax.Array) -> jax.Array:
        l = jax.vmap(cholesky)(a)
        return jax.vmap(solve_cholesky)(l, b) + jax.vmap(log_abs_det)(a)[:, None, None]

    def total(a: jax.Array) -> jax.Array:
        split = jax.shard_map(each, mesh=mesh, in_specs=(P("rows"), P("rows")), out_specs=P("rows"))
        return jnp.sum(split(a, b) ** 2)

    plain = jax.grad(lambda a: jnp.sum(each(a, b) ** 2))(a)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(a), plain, rtol=1e-4, atol=1e-4)


def test_compiled_once():
    """A call outside of `jit` does not compile anew each time."""
    a = jnp.asarray(sample(6, 1, np.float32)[0][0])
    cholesky(a)
    before = _factors._root_and_inverse._cache_size()
    for k in range(3):
        cholesky(a + k)
    assert _factors._root_and_inverse._cache_size() == before


@pytest.mark.parametrize("way", ["factors", "held_out"])
def test_independent_batches_end(way: str):
    """Where the library's batches wait for each other, the process never ends."""
    command = [sys.executable, str(HERE / "factors_victim.py"), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ended"
