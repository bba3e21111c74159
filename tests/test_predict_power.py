"""Power: against the theory of likelihood ratios, with a fit whose answer is known."""

import json
from typing import Any, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from dynlm import Trajectory, problems, stack
from dynlm.laws import Mixture
from dynlm.predict import AbstractPredictor, FromSDE, SolverSteps, power
from dynlm.predict._planted import linear_step, planted, simulated, units_of

F, B, L = np.array([[0.6]]), np.array([0.5]), np.array([[0.8]])
LENGTH = 12


@final
class Polynomial(AbstractPredictor):
    """A Gaussian around a polynomial of the last state, in one dimension."""

    coefficients: Any
    sd: Any

    def start(self):
        return jnp.zeros(1)

    def see(self, carry, t, y):
        return y

    def law(self, carry, t):
        mean = jnp.polyval(self.coefficients, carry)
        return Mixture(jnp.zeros(1), mean[None], self.sd[None, None, None])


def least_squares(degree):
    def fit(paths, key=None):
        ys, mask = np.asarray(paths.ys, float)[..., 0], np.asarray(paths.mask)
        seen = mask[:, 1:-1] & mask[:, 2:]
        y, y1 = ys[:, 1:-1][seen], ys[:, 2:][seen]
        coefficients = np.polyfit(y, y1, degree)
        sd = np.std(y1 - np.polyval(coefficients, y))
        return Polynomial(jnp.asarray(coefficients, jnp.float32), jnp.asarray(sd, jnp.float32))

    return fit


def batch(documents, length=LENGTH):
    """Only lengths and first states matter."""
    rng = np.random.default_rng(0)
    ys = np.zeros((documents, length, 1), np.float32)
    ys[:, :2] = 1.25 + rng.standard_normal((documents, 1, 1))
    ts = np.broadcast_to(np.arange(length, dtype=np.float32), ys.shape[:2])
    paths = stack([Trajectory.from_arrays(y) for y in ys[:1]] * documents)
    return eqx.tree_at(lambda p: (p.ts, p.ys), paths, (jnp.asarray(ts), jnp.asarray(ys)))


REFERENCE = Polynomial(jnp.array([F[0, 0], B[0]]), jnp.array(L[0, 0]))


def ask(documents, strengths, repeats, **changes):
    train, test = batch(240), batch(documents)
    return power(
        least_squares(2), REFERENCE, train, np.arange(240), test, np.arange(documents),
        key=jr.key(0), linear=least_squares(1), strengths=strengths, repeats=repeats,
        **dict(resamples=400) | changes,
    )  # fmt: skip


def expected(strength, documents):
    """Of a log likelihood ratio: mean n g and variance 2 n g, with g nats a step.

    Of the mean, n/2 times one over the steps of 240 training documents is lost to the fit.

    A parabola holds all but a tenth of the cosine: w^4 e^{-w^2} / 2 of its variance, w = 1.
    """
    held = np.exp(-1) / 2 / ((1 + np.exp(-2)) / 2 - np.exp(-1))
    g, n = 0.5 * np.log1p(held * strength**2), documents * (LENGTH - 2)
    mean = n * (g - 1 / (2 * 240 * (LENGTH - 2)))
    return stats.norm.cdf(mean / np.sqrt(2 * n * g) - 1.96)


def test_detection_grows_with_strength_as_likelihood_ratios_do():
    found = ask(40, (0.1, 0.2, 0.4), 60)
    assert [p.strength for p in found.at] == [0.0, 0.1, 0.2, 0.4]
    for row in found.at[1:]:
        rate = expected(row.strength, 40)
        error = np.sqrt(rate * (1 - rate) / 60) + 0.03
        assert abs(row.rate - rate) < 3 * error
        assert row.low <= row.rate <= row.high
        # The effect moves the states to where it is a little larger.
        truth = 0.5 * np.log1p(row.strength**2)
        error = 3 * np.sqrt(2 * truth / (400 * 60)) + 4e-4
        assert abs(row.nats - truth) < truth * row.strength**2 + error
    assert found.smallest == 0.4 and found.documents == 40
    assert found.false_alarms <= 0.05
    assert "strength 0.4" in str(found) and json.dumps(found.to_json(), allow_nan=False)


def test_detection_grows_with_documents():
    few, many = (ask(n, (0.2,), 30).at[1].rate for n in (12, 160))
    assert few < 0.5 < 0.9 < many
    assert many >= expected(0.2, 160) - 0.1


def test_nothing_is_detectable_in_few_documents_and_that_is_said():
    found = ask(6, (0.05,), 5)
    assert found.smallest is None
    assert "None of these strengths" in str(found)


def test_the_effect_is_nonlinear_and_of_the_strength_that_was_asked_for():
    """Any effect, here a skewed one, by a regression of simulated steps."""
    like = batch(400, 30)
    step = linear_step(REFERENCE, like)
    truth = planted(step, units_of(step, like, 1, jr.key(1)), jnp.exp, 0.5, jr.key(2))
    z = jr.normal(jr.key(3), (20_000, 1))
    h = np.asarray(jax.vmap(truth.h)(z))[:, 0]
    exact = (np.exp(z[:, 0]) - np.exp(0.5) * (1 + z[:, 0])) / np.sqrt(np.e * (np.e - 2))
    np.testing.assert_allclose(h, exact, atol=0.15)
    y = truth.m[None] + z / truth.w[0, 0]
    means = jax.vmap(lambda y: truth.law(y, 0.0).mean())(y)
    np.testing.assert_allclose(
        means, np.asarray(y) @ F.T + B + 0.5 * L[0, 0] * h[:, None], rtol=1e-3, atol=1e-3
    )
    truth = planted(step, units_of(step, like, 1, jr.key(1)), None, 0.5, jr.key(2))  # bounded
    ys = simulated(truth, like, 1, jr.key(4)).ys
    np.testing.assert_array_equal(ys[:, :2], like.ys[:, :2])
    left = ys[:, 2:] - jax.vmap(jax.vmap(lambda y: truth.law(y, 0.0).mean()))(ys[:, 1:-1])
    np.testing.assert_allclose(left.std(), L[0, 0], rtol=0.02)


def test_padding_is_kept():
    like = batch(3)
    like = eqx.tree_at(lambda p: p.mask, like, like.mask.at[1, 5:].set(False))
    step = linear_step(REFERENCE, batch(20))
    truth = planted(step, units_of(step, batch(20), 1, jr.key(1)), None, 0.5, jr.key(2))
    paths = simulated(truth, like, 1, jr.key(4))
    assert (paths.ys[1, 5:] == 0).all() and (paths.ys[0, 5:] != 0).all()


def test_a_fit_that_breaks_is_counted_and_not_detected():
    def broken(paths, key):
        return Polynomial(jnp.array([jnp.nan, 0.0]), jnp.array(1.0))

    train = batch(20)
    found = power(
        broken, REFERENCE, train, np.arange(20), train, np.arange(20),
        key=jr.key(0), linear=least_squares(1), strengths=(0.4,), repeats=2,
    )  # fmt: skip
    assert [p.failed for p in found.at] == [2, 2] and found.smallest is None

    def diverging(paths, key):
        raise FloatingPointError("The losses did not become finite again.")

    again = power(
        diverging, REFERENCE, train, np.arange(20), train, np.arange(20),
        key=jr.key(0), linear=least_squares(1), strengths=(0.4,), repeats=2,
    )  # fmt: skip
    assert again.to_json() == found.to_json()


def test_a_fit_without_a_density_is_refused_at_once():
    def drawn(paths, key):
        return FromSDE(problems.ou().sde, SolverSteps(dfx.Euler(), 4))

    train = batch(20)
    with pytest.raises(ValueError, match="4 steps of Euler has no density.*fit by a likelihood"):
        power(
            drawn, REFERENCE, train, np.arange(20), train, np.arange(20),
            key=jr.key(0), linear=least_squares(1), strengths=(0.4,), repeats=2,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(strengths=()), "`strengths` is"),
        (dict(repeats=0), "`repeats` is 0"),
        (dict(effect=lambda z: 2 * z + 1), "`effect` is a linear function"),
    ],
)
def test_bad_arguments_are_refused(changes, sentence):
    with pytest.raises(Exception, match=sentence):
        ask(6, **dict(strengths=(0.1,), repeats=1) | changes)
    square = Polynomial(jnp.array([0.2, 0.5, 0.1]), jnp.array(1.0))
    with pytest.raises(ValueError, match="`reference` is a Polynomial"):
        linear_step(square, batch(3))
