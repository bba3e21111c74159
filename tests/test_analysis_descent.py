"""Learned Lyapunov functions against the generator, brute force and what cannot be learned."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from stability_cases import NOISE, Q, batch, first, normal, ou

from dynlm.analysis._descent import LearnedFunction, learn_lyapunov
from dynlm.analysis._generator import generator
from dynlm.analysis.findings import Verdict


def test_the_rate_of_a_learned_function_is_that_of_the_generator(x64):
    rng = np.random.default_rng(2)
    w, b, a, centre = (jnp.asarray(rng.normal(size=n)) for n in ((5, 2), 5, 5, 2))
    v = LearnedFunction(w, b, a, centre, jnp.asarray(Q), jnp.asarray([0.5, 2.0]), jnp.ones(()))
    y = jnp.asarray([0.7, -1.1])
    rate = v.rate(y, ou().drift(0.0, y), jnp.asarray(NOISE))
    assert np.isclose(rate, generator(ou(), v, y), rtol=1e-10)
    assert float(v(centre)) == 0 and np.allclose(jax.grad(v)(centre), 0)
    slopes = [float(jax.grad(v)(centre + s * y) @ y) for s in (-2.0, -0.5, 0.5, 2.0)]
    assert (np.diff(slopes) > 0).all()  # convex along a line through the centre


def test_a_learned_function_falls_where_the_plain_one_does_not():
    """A sheared sink: the squared distance grows in a wide cone, though some V falls everywhere."""
    sde = ou([[-1.0, 8.0], [0.0, -1.0]], np.zeros(2), 0.02 * np.eye(2))
    found = learn_lyapunov(
        sde, batch(normal(60, 30)), np.arange(60), centre=np.zeros(2), key=jr.key(1), rate=0.03
    )
    assert first(found.quadratic) < 0.75 and first(found.learned) > 0.9
    assert found.gain.low > 0.1 and found.findings[-1].verdict is Verdict.ABOVE
    assert found.losses[-50:].mean() < 0.5 * found.losses[:5].mean()
    assert len(set(found.learned.docs.tolist())) == 18  # only what was held out is judged


def test_nothing_is_learned_that_falls_along_a_source():
    """Turned round, a sink is a source, from which no convex function falls anywhere."""
    for sign, share in ((1.0, 0.0), (-1.0, 1.0)):
        found = learn_lyapunov(
            ou(sign * np.eye(2), np.zeros(2), 1e-4 * np.eye(2)),
            batch(normal(60, 30)),
            np.arange(60),
            centre=np.zeros(2),
            key=jr.key(1),
        )
        assert found.learned.findings[0].value == share == found.quadratic.findings[0].value


@pytest.mark.parametrize("dt", [1e-4, 1.0, 4.0])
def test_the_rate_of_a_chain_is_the_mean_change_over_its_step(x64, dt):
    """Against nodes in the plane of the noise, of which the function itself knows nothing."""
    rng = np.random.default_rng(2)
    w, b, a, centre = (jnp.asarray(rng.normal(size=n)) for n in ((5, 2), 5, 5, 2))
    v = LearnedFunction(w, b, a, centre, jnp.asarray(Q), jnp.asarray([0.5, 2.0]), jnp.ones(()))
    y = jnp.asarray([0.7, -1.1])
    f = ou().drift(0.0, y)
    z = np.linspace(-7, 7, 281)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    draws = np.stack(np.meshgrid(z, z, indexing="ij"), axis=-1).reshape(-1, 2)
    ends = np.asarray(y + f * dt) + np.sqrt(dt) * draws @ NOISE.T
    after = jax.vmap(v)(jnp.asarray(ends))
    truth = (np.outer(weight, weight).ravel() @ np.asarray(after) - float(v(y))) / dt
    found = float(v.chain_rate(y, f, jnp.asarray(NOISE), dt))
    assert np.isclose(found, truth, rtol=1e-5)
    if dt < 1:
        assert np.isclose(found, v.rate(y, f, jnp.asarray(NOISE)), rtol=0.01)


def test_a_chain_that_overshoots_falls_along_nothing():
    """At the step 1, $x' = -1.5 x$ leaves the centre that the flow of the same drift comes to."""
    sde, paths = ou(-2.5 * np.eye(2), np.zeros(2), 1e-3 * np.eye(2)), batch(normal(60, 30))
    shares = [
        first(
            learn_lyapunov(
                sde, paths, np.arange(60), centre=np.zeros(2), key=jr.key(1), dt=dt, steps=100
            ).learned
        )
        for dt in (None, 1.0)
    ]
    assert shares == [1.0, 0.0]


@pytest.mark.parametrize("dt", [None, 1.0])
def test_the_null_of_a_learned_function_is_that_of_states_without_order(dt):
    """The fit of i.i.d. states, judged as one that was learned, is where its null says."""
    paths, sde = batch(normal(200, 11, seed=6)), ou(-np.eye(2), np.zeros(2), np.eye(2))
    found = learn_lyapunov(
        sde, paths, np.arange(200), centre=np.zeros(2), key=jr.key(1), dt=dt, steps=100
    ).learned
    assert first(found) > 0.3 and abs(first(found) - found.findings[0].null) < 0.05
