"""Forecast states as next-token distributions, against a model whose every law is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from circle_model import (
    TURN,
    VOCAB,
    WIDTH,
    circle,
    divergence,
    log_softmax,
    rotation,
    states_of,
    texts,
    whole,
)

from dynlm import SDE, diffusions, drifts
from dynlm._io import BadArgument
from dynlm.analysis.findings import Verdict, plain
from dynlm.baselines import Autoregressive
from dynlm.studies._decoding import decoded
from dynlm.studies._token_sums import log_of_mean

MODEL, PROJECTION = circle(), whole()
MIX = np.asarray(MODEL.mix, float)
SEQUENCES, DOCS = texts(1, 12), np.arange(12) // 2
TRAIN = states_of(MODEL, texts(2, 20), "final", PROJECTION, noise=0.1)
HORIZONS = (1, 3)
OPTIONS = {"horizons": HORIZONS, "draws": 8, "origins": 20}


def counts():
    return np.arange(VOCAB)


def step(angle, noise=1e-4):
    """A step round the circle, in the coordinates of the final states."""
    f = MIX @ rotation(angle) @ MIX.T
    arrays = f[None], np.zeros(WIDTH), noise * np.eye(WIDTH), 0.0
    return Autoregressive(*(jnp.asarray(x, jnp.float32) for x in arrays))


def euler(angle, noise=1e-4):
    """The same as an SDE whose Euler step it is."""
    matrix = MIX @ (rotation(angle) - np.eye(WIDTH)) @ MIX.T
    drift = drifts.Linear(jnp.asarray(matrix, jnp.float32), jnp.zeros(WIDTH, jnp.float32))
    return SDE(drift, diffusions.Scalar(noise, WIDTH))


def run(predictors, sequences=SEQUENCES, docs=DOCS, **options):
    given = {"train": TRAIN, "counts": counts(), "key": jr.key(0)} | OPTIONS | options
    return decoded(MODEL, predictors, PROJECTION, sequences, docs, **given)


@pytest.fixture(scope="module")
def found():
    return run({"right": euler(TURN), "wrong": euler(-TURN), "still": step(0.0)})


def laws():
    """The model's law of the next token by the angle of its state, which is all that it reads."""
    final = np.asarray(MODEL.table, float) @ MIX.T
    return log_softmax(final @ np.asarray(MODEL.unembedding, float).T)


def places(h):
    """Every token from the second on whose state, and the token after it, are in the row."""
    return [(row, t) for row in SEQUENCES for t in range(1, len(row) - 1 - h)]


@pytest.mark.parametrize("k, h", list(enumerate(HORIZONS)))
def test_scores_are_those_of_a_loop(found, k, h):
    law = laws()
    wanted = {
        "model": np.mean([law[row[t + h], row[t + h + 1]] for row, t in places(h)]),
        "still": np.mean([law[row[t], row[t + h + 1]] for row, t in places(h)]),
        "wrong": np.mean([law[(row[t] - h) % VOCAB, row[t + h + 1]] for row, t in places(h)]),
        "unigram": np.mean(
            [np.log((row[t + h + 1] + 1) / np.sum(counts() + 1)) for row, t in places(h)]
        ),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(found.score[name][k].value, value, atol=2e-3, err_msg=name)
    assert found.positions[k] == len(places(h))
    np.testing.assert_allclose(found.score["right"][k].value, wanted["model"], atol=2e-3)
    np.testing.assert_allclose(found.score["projected"][k].value, wanted["model"], atol=1e-5)


@pytest.mark.parametrize("k, h", list(enumerate(HORIZONS)))
def test_divergences_are_those_of_a_loop(found, k, h):
    law = laws()
    still = np.mean([divergence(law[row[t + h]], law[row[t]]) for row, t in places(h)])
    back = [divergence(law[row[t + h]], law[(row[t] - h) % VOCAB]) for row, t in places(h)]
    np.testing.assert_allclose(found.divergence["still"][k].value, still, rtol=1e-2)
    np.testing.assert_allclose(found.divergence["wrong"][k].value, np.mean(back), rtol=1e-2)
    assert abs(found.divergence["right"][k].value) < 1e-3
    assert abs(found.divergence["projected"][k].value) < 1e-5
    assert found.divergence["model"][k].value == 0


def test_a_flipped_drift_loses(found):
    by = {x.what: x for x in found.findings}
    for name, verdict in (("right", Verdict.ABOVE), ("wrong", Verdict.BELOW)):
        assert (
            by[f"gain of the {name} forecast over the linear one 1 step ahead"].verdict is verdict
        )
        saved = f"divergence from the model that the {name} forecast saves over the linear one"
        assert by[f"{saved} 1 step ahead"].verdict is verdict
    for over in ("the shares of tokens", "that of i.i.d. states"):
        assert by[f"gain of the right forecast over {over} 1 step ahead"].verdict is Verdict.ABOVE
    assert found.documents == 6
    assert plain(found)["findings"][0]["verdict"] == "above"


def test_wide_draws_average_their_laws():
    """Of i.i.d. states the forecast is the mean law over their Gaussian, by numpy's own draws."""
    mean, spread = MIX @ np.array([0.4, 0.2, 0.0, 0.0]), 0.8
    arrays = np.zeros((1, WIDTH, WIDTH)), mean, spread * np.eye(WIDTH), 0.0
    wide = Autoregressive(*(jnp.asarray(x, jnp.float32) for x in arrays))
    found = run({"wide": wide}, draws=400, horizons=(1,))
    z = mean + spread * np.random.default_rng(0).standard_normal((20_000, WIDTH))
    law = np.log(np.mean(np.exp(log_softmax(z @ np.asarray(MODEL.unembedding, float).T)), axis=0))
    want = np.mean([law[row[t + 2]] for row, t in places(1)])
    np.testing.assert_allclose(found.score["wide"][0].value, want, atol=0.02)


@pytest.mark.parametrize("draws", [16, 33])
def test_few_draws_do_not_bias_the_log_of_their_mean(draws):
    """By as much as numpy's own mean of 200,000 laws; the plain logarithm is far too low."""
    rng = np.random.default_rng(1)
    mean, spread = np.array([0.0, 1.0, -1.0, 0.5]), 1.5
    true = np.exp(log_softmax(mean + spread * rng.standard_normal((200_000, 4)))).mean(axis=0)
    laws = log_softmax(mean + spread * rng.standard_normal((4000, draws, 4)))
    error = np.asarray(log_of_mean(jnp.asarray(laws)), float) - np.log(true)
    plain = np.log(np.mean(np.exp(laws), axis=1)) - np.log(true)
    z = lambda x: x.mean(axis=0) / (x.std(axis=0) / np.sqrt(len(x)))  # noqa: E731
    assert np.abs(z(error)).max() < 4
    assert z(plain).min() < -5
    assert (error.std(axis=0) < 1.1 * plain.std(axis=0)).all()


def test_what_the_projection_loses_is_said(found):
    basis = MIX[:, :1]  # one of the two directions that the circle lies in
    projection = whole(basis)
    train = states_of(MODEL, texts(2, 20), "final", projection, noise=0.1)
    options = OPTIONS | {"train": train, "counts": counts(), "key": jr.key(0)}
    flat = Autoregressive(jnp.ones((1, 1, 1)), jnp.zeros(1), jnp.full((1, 1), 1e-4), jnp.zeros(()))
    seen = decoded(MODEL, {"flat": flat}, projection, SEQUENCES, DOCS, **options)
    point = np.asarray(MODEL.table, float)[:, 0]
    cut = log_softmax(point[:, None] * (MIX[:, 0] @ np.asarray(MODEL.unembedding, float).T)[None])
    law = laws()
    lost = np.mean([divergence(law[row[t + 1]], cut[row[t + 1]]) for row, t in places(1)])
    np.testing.assert_allclose(seen.divergence["projected"][0].value, lost, rtol=1e-4)
    assert seen.divergence["projected"][0].value > 0.1


def test_rows_and_padding_do_not_matter(found):
    """The model's padding is NaN; a longer row in the batch changes how much of it there is."""
    longer = [*SEQUENCES, np.arange(2)]
    more = run({"still": step(0.0)}, longer, np.append(DOCS, 9))
    np.testing.assert_allclose(more.score["still"][0].value, found.score["still"][0].value, 1e-5)
    assert more.positions == found.positions and more.documents == 6


def test_a_predictor_that_blows_up_is_left_out(found):
    more = run({"wild": step(0.0, noise=np.nan), "right": euler(TURN)})
    assert list(more.lost) == ["wild"] and "wild" not in more.score
    verdicts = {x.verdict for x in more.findings if "the wild" in x.what}
    assert verdicts == {Verdict.WITHHELD}
    np.testing.assert_allclose(more.score["right"][0].value, found.score["right"][0].value, 1e-4)


@pytest.mark.slow
def test_float64(x64):
    cast = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: jnp.asarray(np.asarray(x, float)) if eqx.is_inexact_array(x) else x, tree
    )
    model, projection = cast(circle()), cast(whole())
    train = states_of(model, texts(2, 20), "final", projection, noise=0.1)
    given = OPTIONS | {"train": cast(train), "counts": counts(), "key": jr.key(0)}
    found = decoded(model, {"right": cast(step(TURN))}, projection, SEQUENCES, DOCS, **given)
    want = np.mean([laws()[row[t + 1], row[t + 2]] for row, t in places(1)])
    np.testing.assert_allclose(found.score["model"][0].value, want, atol=1e-6)
    np.testing.assert_allclose(found.score["right"][0].value, want, atol=1e-3)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"predictors": {}}, "`predictors` is empty"),
        ({"predictors": {"linear": 1}}, "taken"),
        ({"predictors": {"x": 1}}, "is a int"),
        ({"horizons": (0, 1)}, "`horizons`"),
        ({"horizons": (1, 40)}, "allows up to 11"),
        ({"draws": 1}, "`draws` is 1"),
        ({"counts": np.ones(3)}, "each of the 24 tokens"),
        ({"docs": np.arange(3)}, "`docs` has shape"),
        ({"sequences": [np.zeros(3)] * 12}, "token ids"),
        ({"sequences": [np.arange(3)] * 12}, "4 or more"),
    ],
)
def test_what_cannot_be_done_is_refused(change, words, unchecked):
    given = {"predictors": {"right": step(TURN)}} | change
    with pytest.raises(BadArgument, match=words):
        run(given.pop("predictors"), **given)
    with pytest.raises(BadArgument, match="`model` is a int"):
        decoded(3, {}, PROJECTION, [], [], train=TRAIN, counts=counts(), key=jr.key(0))
