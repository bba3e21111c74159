"""Mixtures of Gaussians against scipy, numpy and their own draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from dynlm.laws import DiagonalMixture, Mixture, gaussian

W = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[0.0, 1.0], [2.0, -1.0], [-3.0, 0.5]])
ROOTS = np.array([[[1.0, 0], [0.5, 0.3]], [[0.2, 0], [-0.1, 2.0]], [[1.5, 0], [0.0, 0.7]]])
SCALES = np.array([[1.0, 0.3], [0.2, 2.0], [1.5, 0.7]])
YS = np.array([[0.3, 0.2], [2.1, -2.0], [-4.0, 5.0], [40.0, -40.0]])


def laws():
    full = Mixture(jnp.log(W), jnp.asarray(MEANS), jnp.asarray(ROOTS))
    diagonal = DiagonalMixture(jnp.log(W), jnp.asarray(MEANS), jnp.asarray(SCALES))
    covariances = [l @ l.T for l in ROOTS], [np.diag(s**2) for s in SCALES]
    return zip((full, diagonal), covariances, strict=True)


def test_density_and_distribution_function_are_those_of_scipy(x64):
    for law, covariances in laws():
        parts = [stats.multivariate_normal(m, c) for m, c in zip(MEANS, covariances, strict=True)]
        for y in YS[:3]:
            expected = np.log(sum(w * p.pdf(y) for w, p in zip(W, parts, strict=True)))
            np.testing.assert_allclose(law.logpdf(jnp.asarray(y)), expected, rtol=1e-9)
            for i in range(2):
                sds = np.sqrt([c[i, i] for c in covariances])
                below = W @ stats.norm.cdf(y[i], MEANS[:, i], sds)
                np.testing.assert_allclose(law.cdf(jnp.asarray(y))[i], below, rtol=1e-9)


def test_draws_have_the_mean_and_the_distribution_function_of_the_law():
    for law, _ in laws():
        law = jax.tree.map(lambda x: x.astype(jnp.float32), law)
        draws = jax.vmap(law.sample)(jr.split(jr.key(0), 4000))
        np.testing.assert_allclose(draws.mean(axis=0), W @ MEANS, atol=5 * 2.2 / 4000**0.5)
        np.testing.assert_allclose(law.mean(), W @ MEANS, rtol=1e-5)
        at = jax.vmap(law.cdf)(draws)
        for i in range(2):
            assert stats.kstest(at[:, i], "uniform").pvalue > 1e-3
        # Components are drawn together: the covariance between the two tells.
        inside = jnp.cov(draws.T)[0, 1]
        between = np.cov(MEANS.T, aweights=W, ddof=0)[0, 1]
        if isinstance(law, DiagonalMixture):
            np.testing.assert_allclose(inside, between, atol=0.25)


def test_a_gaussian_is_a_mixture_of_one():
    mean, covariance = jnp.array([1.0, -2.0]), jnp.array([[2.0, 0.6], [0.6, 0.5]])
    law, y = gaussian(mean, covariance), jnp.array([0.5, 0.5])
    expected = stats.multivariate_normal(mean, covariance).logpdf(y)
    np.testing.assert_allclose(law.logpdf(y), expected, rtol=1e-5)
    np.testing.assert_array_equal(law.mean(), mean)


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_gradients_are_finite_far_away_and_without_weight(far):
    """A component of weight zero, as EM makes them, and a state where all densities vanish."""
    y = jnp.array([far, -far])
    for law, _ in laws():
        law = jax.tree.map(lambda x: x.astype(jnp.float32), law)
        law = eqx.tree_at(lambda one: one.log_weights, law, jnp.array([-jnp.inf, 0.0, -jnp.inf]))

        def loss(law, y):
            return law.logpdf(y) + jnp.sum(law.cdf(y))

        value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(law, y)
        assert np.isfinite(value)
        for slope in jax.tree.leaves(slopes):
            assert np.isfinite(slope).all()


def test_a_distribution_function_never_passes_one():
    weights = jax.nn.log_softmax(jr.normal(jr.key(0), (500, 64)), axis=1)
    ones, zeros = jnp.ones((64, 1)), jnp.zeros((64, 1))
    at = jax.vmap(lambda w: DiagonalMixture(w, zeros, ones).cdf(jnp.array([20.0])))(weights)
    assert (at <= 1).all() and (at > 0.9999).all()
