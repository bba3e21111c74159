"""Lipschitz and growth constants, sampled and certified, against truth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from stability_cases import NOISE, A, batch, cubic, normal, ou

from dynlm import SDE, diffusions, drifts, problems
from dynlm.analysis._fixed_points import sample
from dynlm.analysis._lipschitz import SLOPES, certified, certified_noise, lipschitz
from dynlm.analysis.findings import Verdict


def test_a_linear_drift_is_as_steep_everywhere_as_its_matrix():
    found = lipschitz(ou(), batch(normal()), np.arange(24), key=jr.key(0))
    assert np.allclose(found.drift, np.linalg.norm(A, 2), atol=1e-5)
    assert np.allclose(found.nearby, np.linalg.norm(A, 2), atol=1e-5)
    assert np.allclose(found.one_sided, np.linalg.eigvalsh((A + A.T) / 2)[-1], atol=1e-5)
    assert found.certified.value == pytest.approx(np.linalg.norm(A, 2), rel=1e-6)
    assert found.certified_noise.value == 0 and (found.noise == 0).all()
    assert found.findings[4].verdict is Verdict.LEVEL
    seen = sample(batch(normal()), np.arange(24), most=512)
    f = seen.ys @ A.T + np.array([0.2, -0.1])
    truth = (np.sum(f**2, axis=1) + np.sum(NOISE**2)) / (1 + np.sum(seen.ys**2, axis=1))
    assert np.allclose(found.growth[0], truth, rtol=1e-4)
    flipped = lipschitz(ou(-A), batch(normal()), np.arange(24), key=jr.key(0))
    assert np.allclose(flipped.one_sided, -np.linalg.eigvalsh((A + A.T) / 2)[0], atol=1e-5)


def test_noise_in_proportion_to_the_state_has_its_factor_as_constant():
    """$g = \\mathrm{diag}(s_i y_i)$: the Frobenius norm changes by $\\max_i |s_i|$ at most."""
    found = lipschitz(problems.gbm(0.5, [0.4, 1.3]).sde, batch(normal()), np.arange(24),
                      key=jr.key(0))  # fmt: skip
    assert np.allclose(found.noise, 1.3, atol=1e-5)
    assert found.findings[4].verdict is Verdict.ABOVE
    assert found.certified_noise.value is None


def test_what_states_without_order_show_is_the_null():
    paths = batch(normal(200, 11, seed=6))
    sde = ou(-np.eye(2), np.zeros(2), np.eye(2))
    found = lipschitz(sde, paths, np.arange(200), key=jr.key(0))
    nulls = [f.null for f in found.findings[:2]]
    assert nulls == [1.0, -1.0]
    assert np.allclose([f.value for f in found.findings[:2]], nulls, atol=1e-5)


def test_no_state_is_steeper_than_what_is_certified(getkey):
    kwargs = dict(width=16, time=drifts.raw_time)
    fields = [
        drifts.MLP(2, key=getkey(), **kwargs),
        drifts.MLP(2, activation=jnp.tanh, depth=1, time=None, key=getkey()),
        drifts.ResidualMLP(2, key=getkey(), **kwargs),
        drifts.LipschitzMLP(2, lipschitz=0.7, key=getkey(), **kwargs),
        drifts.Sum(drifts.Linear(jnp.asarray(A, float), jnp.zeros(2)), drifts.MLP(2, key=getkey())),
    ]
    fields = jax.tree.map(lambda x: 2 * x if eqx.is_inexact_array(x) else x, fields)
    ys = jnp.asarray(3 * normal(1, 200)[0], float)

    @eqx.filter_jit
    def slopes(fields, ys):
        return [jax.vmap(jax.jacfwd(lambda y, f=f: f(1.0, y)))(ys) for f in fields]

    for field, slope in zip(fields, slopes(fields, ys)):
        met = np.linalg.norm(np.asarray(slope, float), 2, axis=(1, 2)).max()
        bound = certified(field).value
        assert bound is not None and 0 < met <= bound * (1 + 1e-5)
    noise = diffusions.Diagonal.learned(2, width=16, scale=0.7, key=getkey())
    found = lipschitz(SDE(fields[0], noise), batch(3 * normal()), np.arange(24), key=getkey())
    met = max(found.drift.max(), found.nearby.max())
    assert found.certified.value is not None
    assert 0.01 * found.certified.value < met <= found.certified.value
    assert 0 < found.noise.max() <= found.certified_noise.value
    assert found.findings[2].value == met and found.findings[3].value == found.certified.value


def test_the_certificate_is_reached_where_every_layer_is_at_its_steepest(getkey):
    """One unit a layer, all weights 1, biases that put both at 2.3994, the inflection of silu."""
    steepest = 2.3994
    net = drifts.MLP(1, width=1, depth=2, time=None, key=getkey())
    net = jax.tree.map(lambda x: jnp.ones_like(x) if eqx.is_inexact_array(x) else x, net)
    biases = jnp.asarray([[steepest], [steepest - float(jax.nn.silu(steepest))]])
    net = eqx.tree_at(lambda n: [layer.bias for layer in n.net.net.layers[:2]], net, list(biases))
    slope = jax.grad(lambda y: net(0.0, y[None])[0])(jnp.zeros(()))
    bound = certified(net).value
    assert bound is not None and slope <= bound < slope + 1e-4


@pytest.mark.parametrize("activation", SLOPES)
def test_slopes_of_activations_are_the_greatest(x64, activation):
    x = jnp.linspace(-8, 8, 20_001)
    slopes = np.abs(np.asarray(jax.vmap(jax.grad(lambda x: activation(x)))(x)))
    assert slopes.max() <= SLOPES[activation] < slopes.max() + 1e-3


def test_what_has_no_certificate_says_why(getkey):
    found = lipschitz(
        SDE(cubic(), diffusions.Scalar(0.1, 2)), batch(normal()), np.arange(24), key=getkey()
    )
    assert found.certified.value is None and found.findings[3].verdict is Verdict.WITHHELD
    assert "`Function` drift" in found.findings[3].sentence()
    unknown = drifts.MLP(2, activation=lambda x: x**2, key=getkey())
    assert certified(unknown).value is None and "slope" in certified(unknown).reason
    both = drifts.Sum(ou().drift, cubic())
    assert certified(both).value is None
    assert certified_noise(diffusions.Scalar.learned(2, width=8, key=getkey())).value is not None
