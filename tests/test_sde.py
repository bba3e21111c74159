import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import SDE, Langevin, diffusions, drifts

DIM = 3


def general(getkey):
    return SDE(
        drifts.MLP(DIM, width=6, key=getkey()),
        diffusions.Full.learned(DIM, width=6, depth=1, key=getkey()),
    )


def test_generator_of_the_squared_norm(getkey):
    sde, y = general(getkey), jr.normal(getkey(), (DIM,))
    g = sde.diffusion(0.2, y).as_matrix()
    expected = 2 * y @ sde.drift(0.2, y) + jnp.sum(g**2)
    np.testing.assert_allclose(sde.generator(lambda t, y: y @ y)(0.2, y), expected, rtol=1e-5)


def test_generator_against_finite_differences_with_time(getkey, x64):
    """The mean of V one small step on, over symmetric noise with the right first moments."""
    sde = SDE(drifts.MLP(DIM, width=6, key=getkey()), diffusions.Full.learned(DIM, key=getkey()))
    y, h = jr.normal(getkey(), (DIM,)), 1e-5

    def v(t, y):
        return jnp.sin(t) * y[0] * y[1] + jnp.exp(-y[2])

    f, g = sde.drift(0.3, y), sde.diffusion(0.3, y).as_matrix()
    ends = [y + h * f + s * jnp.sqrt(DIM * h) * g[:, j] for j in range(DIM) for s in (-1, 1)]
    mean = np.mean([v(0.3 + h, end) for end in ends])
    rate = (mean - v(0.3, y)) / h
    np.testing.assert_allclose(sde.generator(v)(0.3, y), rate, rtol=1e-3)


def test_conversion_there_and_back_is_the_same_drift(getkey):
    sde, y = general(getkey), jr.normal(getkey(), (DIM,))
    there = sde.to_stratonovich()
    assert there.calculus == "stratonovich" and sde.to_ito().drift is sde.drift
    np.testing.assert_allclose(
        there.drift(0.1, y), sde.drift(0.1, y) - sde.diffusion.correction(0.1, y), rtol=1e-5
    )
    assert there.to_ito().drift is sde.drift
    additive = SDE(sde.drift, diffusions.Scalar(0.3, DIM))
    assert additive.to_stratonovich().drift is sde.drift


def test_a_converted_sde_has_one_diffusion_and_follows_it(getkey):
    """Through a pytree operation and an update of the diffusion, as training makes them."""
    sde, y = general(getkey), jr.normal(getkey(), (DIM,))
    there = jax.tree.map(lambda x: 1.0 * x, sde.to_stratonovich())
    assert len(jax.tree.leaves(there)) == len(jax.tree.leaves(sde))
    moved = jax.tree.map(lambda x: 1.3 * x, there)
    expected = moved.base(0.1, y) - moved.diffusion.correction(0.1, y)
    np.testing.assert_allclose(moved.drift(0.1, y), expected, rtol=1e-5)
    np.testing.assert_allclose(moved.to_ito().drift(0.1, y), moved.base(0.1, y))


def test_relabelling_a_converted_drift_corrects_it_again(getkey):
    sde, y = general(getkey), jr.normal(getkey(), (DIM,))
    half = sde.to_stratonovich().drift  # f - c, now taken for an Ito drift
    again = SDE(half, sde.diffusion, "ito").to_stratonovich()
    c = sde.diffusion.correction(0.1, y)
    np.testing.assert_allclose(again.drift(0.1, y), sde.drift(0.1, y) - 2 * c, rtol=1e-5)


def test_generator_does_not_depend_on_the_calculus(getkey):
    sde, y = general(getkey), jr.normal(getkey(), (DIM,))

    def v(t, y):
        return jnp.sum(y**3) + t * y[0]

    np.testing.assert_allclose(
        sde.to_stratonovich().generator(v)(0.1, y), sde.generator(v)(0.1, y), rtol=1e-4
    )


def test_terms_are_drift_and_diffusion(getkey):
    sde, y = general(getkey), jr.normal(getkey(), (DIM,))
    path = dfx.VirtualBrownianTree(0.0, 1.0, 1e-3, (DIM,), getkey())
    drift, diffusion = sde.terms(path).terms
    np.testing.assert_allclose(drift.vf(0.1, y, None), sde.drift(0.1, y))
    dw = diffusion.contr(0.25, 0.5)
    np.testing.assert_allclose(
        diffusion.vf_prod(0.25, y, None, dw),
        sde.diffusion(0.25, y).as_matrix() @ dw,
        rtol=1e-4,
        atol=1e-6,
    )


def test_langevin_as_an_sde():
    langevin = Langevin(lambda x: x**3 - x, jnp.array([0.5, 1.0]), jnp.array([2.0, 1.0]))
    sde, y = langevin.sde(), jnp.array([0.3, -0.2, 1.0, 0.5])
    assert (langevin.dim, langevin.noise_dim, sde.dim, sde.noise_dim) == (4, 2, 4, 2)
    x, v = y[:2], y[2:]
    force = -langevin.gamma * v - langevin.u * (x**3 - x)
    np.testing.assert_allclose(sde.drift(0.0, y), jnp.concatenate([v, force]), rtol=1e-6)
    root = sde.diffusion(0.0, y).as_matrix()
    np.testing.assert_allclose(root @ root.T, np.diag([0, 0, 2.0, 2.0]), atol=1e-6)
    assert sde.noise == "additive" and jax.tree.leaves(sde)


def test_bad_arguments_are_refused(unchecked):
    f, g = drifts.Linear(-jnp.eye(1), jnp.zeros(1)), diffusions.Scalar(0.3, 1)
    with pytest.raises(ValueError, match="`calculus` is 'strat'"):
        SDE(f, g, "strat")  # pyright: ignore
    with pytest.raises(ValueError, match="`gamma` is"):
        Langevin(lambda x: x, jnp.array([-1.0]), jnp.ones(1))
