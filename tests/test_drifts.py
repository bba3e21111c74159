import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import drifts

DIM = 3


def test_linear_and_sum_and_function(getkey):
    a, b, y = jr.normal(getkey(), (DIM, DIM)), jr.normal(getkey(), (DIM,)), jnp.arange(3.0)
    linear = drifts.Linear(a, b)
    np.testing.assert_allclose(linear(0.0, y), np.asarray(a) @ np.asarray(y) + b, rtol=1e-5)
    both = drifts.Sum(linear, drifts.Function(lambda t, y: t * y))
    np.testing.assert_allclose(both(2.0, y), linear(0.0, y) + 2 * y, rtol=1e-6)
    with pytest.raises(ValueError, match="no drifts"):
        drifts.Sum()


def test_mlp_against_numpy(getkey):
    f = drifts.MLP(DIM, width=5, depth=1, key=getkey())
    first, last = f.net.net.layers
    y = jr.normal(getkey(), (DIM,))
    h = np.asarray(first.weight) @ np.append(y, 0.7) + first.bias
    h = h / (1 + np.exp(-h))
    np.testing.assert_allclose(f(0.7, y), last.weight @ h + last.bias, rtol=1e-5)


@pytest.mark.parametrize("time", [drifts.raw_time, drifts.Fourier((0.5, 1.0)), None])
def test_time_features(time, getkey):
    f = drifts.MLP(DIM, width=8, time=time, key=getkey())
    y = jnp.ones(DIM)
    moves = float(jnp.max(jnp.abs(f(0.1, y) - f(0.35, y))))
    assert (moves == 0) == (time is None)


def test_fourier_has_its_periods():
    phi = drifts.Fourier((2.0,))
    np.testing.assert_allclose(phi(jnp.array(0.125))[1:], [1.0, 0.0], atol=1e-6)


def test_residual_mlp_with_no_blocks_is_affine(getkey):
    f = drifts.ResidualMLP(DIM, width=8, blocks=0, time=None, key=getkey())
    x, y = jr.normal(getkey(), (2, DIM))
    np.testing.assert_allclose(
        f(0.0, 0.3 * x + 0.7 * y), 0.3 * f(0.0, x) + 0.7 * f(0.0, y), rtol=1e-4, atol=1e-6
    )
    g = drifts.ResidualMLP(DIM, width=8, blocks=2, key=getkey())
    assert g(0.0, x).shape == (DIM,) and len(g.blocks) == 2


def test_gradient_is_minus_the_gradient_and_curl_free(getkey):
    known = drifts.Gradient(lambda y: 0.5 * jnp.sum(y**2) + y[0])
    y = jr.normal(getkey(), (DIM,))
    np.testing.assert_allclose(known(0.0, y), -y - jnp.array([1.0, 0, 0]), rtol=1e-5)
    learned = drifts.Gradient.learned(DIM, width=8, key=getkey())
    jacobian = jax.jacfwd(lambda y: learned(0.0, y))(y)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-5)


def test_controlled_adds_the_force_of_its_own_context(getkey):
    ts = jnp.linspace(0.0, 1.0, 5)
    us = jr.normal(getkey(), (2, 5, DIM))

    def make(us):
        context = dfx.LinearInterpolation(ts, us)
        base = drifts.Linear(-jnp.eye(DIM), jnp.zeros(DIM))
        return drifts.Controlled(base, lambda t, y, u: 2.0 * u, context)

    y = jnp.ones(DIM)
    batch = eqx.filter_vmap(make)(us)
    out = eqx.filter_vmap(lambda f: f(0.375, y), in_axes=(eqx.if_array(0),))(batch)
    np.testing.assert_allclose(out, -1.0 + (us[:, 1] + us[:, 2]), rtol=1e-5)


@pytest.mark.parametrize("gain", [0.01, 1.0, 100.0])
def test_certified_lipschitz_constant_holds(gain, getkey):
    f = drifts.LipschitzMLP(DIM, lipschitz=2.5, width=16, key=getkey())
    f = jax.tree.map(lambda x: gain * x if eqx.is_array(x) else x, f)  # whatever training does
    ys = 2 * jr.normal(getkey(), (200, DIM))
    norms = jax.vmap(lambda y: jnp.linalg.norm(jax.jacfwd(lambda y: f(0.1, y))(y), 2))(ys)
    assert f.lipschitz == 2.5
    assert float(norms.max()) <= 2.5 * (1 + 1e-5)
    assert gain != 1.0 or float(norms.max()) > 0.05  # not the zero function


def test_lipschitz_gradients_finite_at_zero_weights(getkey):
    f = drifts.LipschitzMLP(DIM, lipschitz=1.0, width=4, key=getkey())
    f = jax.tree.map(lambda x: 0 * x if eqx.is_array(x) else x, f)
    grads = eqx.filter_grad(lambda f: jnp.sum(f(0.0, jnp.ones(DIM))))(f)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))
    with pytest.raises(ValueError, match="`lipschitz` is 0"):
        drifts.LipschitzMLP(DIM, lipschitz=0.0, key=getkey())
