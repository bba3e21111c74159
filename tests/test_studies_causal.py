"""Steps written into a model: a circle on which every effect is known, and a real decoder."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from circle_model import (
    TURN,
    WIDTH,
    circle,
    divergence,
    log_softmax,
    rotation,
    states_of,
    texts,
    whole,
)

import dynlm
from dynlm import SDE, baselines, diffusions, drifts
from dynlm._io import BadArgument
from dynlm.analysis.findings import Verdict, plain
from dynlm.studies._causal import caused
from dynlm.studies._directions import directions, places_of, training_of
from dynlm.studies._steered import KINDS, OTHERS, _pushed, steered
from dynlm.studies._unembedded import layers_of, predictors_of
from dynlm.studies._written import Foreseen, moved

MODEL, PROJECTION = circle(), whole()
MIX = np.asarray(MODEL.mix, float)
SEQUENCES, DOCS = texts(1, 12), np.arange(12) // 2
PLACES = [(row, t) for row in SEQUENCES for t in range(1, len(row) - 1)]


def euler(angle, layer=1):
    """A turn of the states of a layer as the Euler step of an SDE."""
    matrix = rotation(angle) - np.eye(WIDTH)
    matrix = matrix if layer == 1 else MIX @ matrix @ MIX.T
    drift = drifts.Linear(jnp.asarray(matrix, jnp.float32), jnp.zeros(WIDTH, jnp.float32))
    return SDE(drift, diffusions.Scalar(0.1, WIDTH))


def run(predictors, layer=1, sequences=SEQUENCES, docs=DOCS, **options):
    train = states_of(MODEL, texts(2, 20), layer, PROJECTION, noise=0.05)
    given = {"train": train, "seed": 0, "origins": 20} | options
    return caused(MODEL, predictors, layer, PROJECTION, sequences, docs, **given)


def law(points):
    """Of states of layer 1, through the rest of the model."""
    return log_softmax(points @ MIX.T @ np.asarray(MODEL.unembedding, float).T)


def effect_of(step):
    """The mean fall of the divergence when `step(point, next_point)` is written, by a loop."""
    table = np.asarray(MODEL.table, float)
    falls = []
    for row, t in PLACES:
        here, after = table[row[t]], table[row[t + 1]]
        length = np.linalg.norm(rotation(TURN) @ here - here)
        delta = step(here, after)
        delta = delta * length / np.linalg.norm(delta)
        target = law(after)
        falls.append(divergence(target, law(here)) - divergence(target, law(here + delta)))
    return np.mean(falls)


@pytest.fixture(scope="module")
def found():
    return run({"forward": euler(TURN), "backward": euler(-TURN)}, final=(euler(TURN, 2), whole()))


def test_effects_are_those_of_a_loop(found):
    table = np.asarray(MODEL.table, float)
    far = np.mean([divergence(law(table[r[t + 1]]), law(table[r[t]])) for r, t in PLACES])
    np.testing.assert_allclose(found.far.value, far, rtol=1e-4)
    np.testing.assert_allclose(found.effect["forward"].value, far, rtol=1e-4)  # it arrives
    np.testing.assert_allclose(found.effect["true step"].value, far, rtol=1e-4)
    np.testing.assert_allclose(found.effect["true step, whole"].value, far, rtol=1e-4)
    back = effect_of(lambda x, y: rotation(-TURN) @ x - x)
    np.testing.assert_allclose(found.effect["backward"].value, back, rtol=1e-3)
    train = states_of(MODEL, texts(2, 20), 1, PROJECTION, noise=0.05)
    mean = np.asarray(train.ys, float)[:, 1:][np.asarray(train.mask)[:, 1:]].mean(axis=0)
    np.testing.assert_allclose(
        found.effect["to the mean"].value, effect_of(lambda x, y: mean - x), rtol=1e-3
    )
    assert found.positions == len(PLACES) and found.documents == 6
    assert abs(found.length - 1) < 1e-4


def test_random_directions_do_as_those_of_a_loop(found):
    """Another set of draws has the same mean effect, within four standard errors of both."""
    rng = np.random.default_rng(9)
    several = [effect_of(lambda x, y: rng.standard_normal(WIDTH)) for _ in range(40)]
    error = np.std(several) * np.sqrt(1 / 40 + 1 / 3)
    assert abs(found.effect["random"].value - np.mean(several)) < 4 * error


def test_verdicts_follow_the_sign_of_the_drift(found):
    by = {x.what: x for x in found.findings}
    for name, verdict in (("forward", Verdict.ABOVE), ("backward", Verdict.BELOW)):
        what = f"effect of the {name} step in layer 1"
        assert by[what].verdict is verdict
        for other in ("random directions", "a step to the mean state", "the mean step"):
            assert by[f"{what} beyond {other}"].verdict is verdict, other
        changes = f"correlation of what the {name} step in layer 1 changes with"
        assert by[f"{changes} the true change"].verdict is verdict
        assert by[f"{changes} the one foreseen"].verdict is verdict
    assert (
        abs(by["effect of the forward step in layer 1 beyond the linear model's step"].value) < 0.02
    )
    assert by["effect of the true step in layer 1"].verdict is Verdict.ABOVE
    np.testing.assert_allclose(found.agreement["forward"].value, 1, atol=1e-4)
    np.testing.assert_allclose(found.as_foreseen["forward"].value, 1, atol=1e-4)
    assert plain(found)["findings"][0]["verdict"] == "above"


def test_agreement_is_a_weighted_correlation(found):
    table = np.asarray(MODEL.table, float)
    values = []
    for row, t in PLACES:
        here, after = table[row[t]], table[row[t + 1]]
        before, target, edited = law(here), law(after), law(rotation(-TURN) @ here)
        weight = (np.exp(before) + np.exp(target)) / 2
        c = np.cov(edited - before, target - before, aweights=weight, bias=True)
        values.append(c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]))
    np.testing.assert_allclose(found.agreement["backward"].value, np.mean(values), rtol=1e-3)


def test_final_layer_says_that_it_is_trivial():
    found = run({"forward": euler(TURN, "final")}, layer="final")
    np.testing.assert_allclose(found.effect["forward"].value, found.far.value, rtol=1e-4)
    (first,) = [
        x for x in found.findings if x.what == "effect of the forward step in the final states"
    ]
    assert "Only the unembedding follows" in first.note
    assert not any("foreseen" in x.what for x in found.findings)
    np.testing.assert_allclose(found.as_foreseen["forward"].value, 1, atol=1e-4)


def test_a_predictor_that_is_not_finite_is_left_out(found):
    matrix = jnp.full((WIDTH, WIDTH), jnp.nan, jnp.float32)
    wild = SDE(drifts.Linear(matrix, jnp.zeros(WIDTH)), diffusions.Scalar(0.1, WIDTH))
    more = run({"wild": wild, "forward": euler(TURN)})
    assert list(more.lost) == ["wild"] and more.findings[0].verdict is Verdict.WITHHELD
    np.testing.assert_allclose(more.effect["forward"].value, found.effect["forward"].value)
    with pytest.raises(BadArgument, match="no finite states"):
        run({"wild": wild})


def test_short_rows_do_not_count(found):
    more = run({"forward": euler(TURN)}, 1, [*SEQUENCES, np.arange(2)], np.append(DOCS, 9))
    assert more.positions == found.positions and more.documents == 6
    np.testing.assert_allclose(more.effect["forward"].value, found.effect["forward"].value, 1e-5)


def test_directions_have_one_length_and_stay_in_the_span():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((WIDTH, 2)))[0]
    projection = whole(basis)
    train = states_of(MODEL, texts(2, 20), 1, projection, noise=0.05)
    z, step, true = rng.standard_normal((3, 5, 4, 2))
    raw = rng.standard_normal((5, 4, WIDTH))
    known = training_of(train, 1)
    at, all_ = directions(
        {"a": step, "b": 3 * true}, z, true, raw, known, projection, size=0.5, randoms=3, seed=0
    )
    lengths = np.linalg.norm(all_, axis=-1)
    own = 0.5 * np.linalg.norm(step @ basis.T, axis=-1)
    np.testing.assert_allclose(lengths[:, :, :-1], np.tile(own[:, :, None], 11), rtol=1e-5)
    np.testing.assert_allclose(all_[:, :, at["true step, whole"][0]], raw, rtol=1e-6)
    off = all_[:, :, :-1] - all_[:, :, :-1] @ basis @ basis.T
    assert np.abs(off).max() < 1e-6
    np.testing.assert_allclose(all_[:, :, at["b"][0]], all_[:, :, at["true step"][0]], atol=1e-6)
    ys, mask = np.asarray(train.ys, float), np.asarray(train.mask)
    steps = np.diff(ys, axis=1)[:, 1:][(mask[:, 1:] & mask[:, :-1])[:, 1:]]
    np.testing.assert_allclose(known.root @ known.root.T, np.cov(steps.T), rtol=1e-6)
    np.testing.assert_allclose(known.step, steps.mean(axis=0), rtol=1e-6)


def test_places_are_spread_and_real():
    places = places_of(np.array([3, 14, 2, 0]), 4, 1)
    assert places.at[0].tolist()[0] == 1 and places.real[0].tolist() == [True, False, False, False]
    assert places.at[1].tolist() == [1, 4, 8, 12] and places.real[1].all()
    assert not places.real[2:].any()


def decoder_of_config():
    from flax import nnx

    config = dynlm.lm.llama(
        width=16, depth=2, heads=2, kv_heads=1, hidden=32, context=32, vocab=37, tied=True
    )
    decoder = dynlm.lm.Decoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    return jax.tree.map(lambda x: 3 * x, decoder)  # larger than at the start of training


@pytest.mark.slow
def test_cached_edits_are_those_of_a_whole_pass():
    """Each edit by cached decoding gives the law of a pass over the whole row with that edit."""
    decoder = decoder_of_config()
    rng = np.random.default_rng(0)
    tokens, positions = rng.integers(37, size=(2, 9)), np.tile(np.arange(9), (2, 1))
    positions[1, 7:] = -1
    at, deltas = np.array([[2, 5], [1, 5]]), rng.standard_normal((2, 2, 3, 16))
    arrays = [jnp.asarray(x, jnp.int32) for x in (tokens, positions, at)]
    final = rng.standard_normal((2, 2, 2, 16))
    foreseen = Foreseen(*(jnp.asarray(x, jnp.float32) for x in final))

    @jax.jit
    def whole_pass(decoder, row, place, delta, chosen):
        def edit(c):
            return lambda x, p: jnp.where((p == place)[:, :, None], x + c * delta[None, None], x)

        changes = {k: edit(c) for k, c in zip((0, 1, 2, "final"), chosen, strict=True)}
        out = decoder(*(x[row][None] for x in arrays[:2]), edit=changes)
        return jax.nn.log_softmax(decoder.unembed(out.final[0]))

    for layer in (0, 1, "final"):
        names, chosen = layers_of(decoder, layer)
        chosen = jnp.asarray(chosen)
        assert names == (0, 1, 2, "final") and chosen.sum() == 1
        got = moved(decoder, *arrays, jnp.asarray(deltas, jnp.float32), chosen, foreseen, names)
        for i in range(2):
            for j, k in enumerate(at[i]):
                zero = jnp.zeros(16)
                plain_law = np.asarray(whole_pass(decoder, i, k, zero, chosen), float)
                np.testing.assert_allclose(
                    got.far[i, j], divergence(plain_law[k + 1], plain_law[k]), rtol=1e-3
                )
                for n in range(3):
                    delta = jnp.asarray(deltas[i, j, n], jnp.float32)
                    edited = np.asarray(whole_pass(decoder, i, k, delta, chosen), float)
                    want = divergence(plain_law[k + 1], edited[k])
                    np.testing.assert_allclose(got.edited[i, j, n], want, rtol=2e-3)


@pytest.mark.slow
def test_a_trained_model_moves_as_its_own_states_do():
    """In the embedded model the true step leads to the next law, and random ones do not."""
    model = dynlm.lm.load("demo")
    lines = ["It is a truth that I had seen the old man in the garden of the house", "To be or not"]
    prompts = [f"{line} and {word}" for line in lines for word in ("then", "when", "so", "the")]
    docs = np.arange(8)
    rows = model.ids(prompts)
    tokens, positions = model.batch(prompts)
    states = model(tokens, positions, layers=(3,))[1][3]
    x = np.asarray(states, float)[np.asarray(positions) > 0]
    basis = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:8].T
    fitted = whole()
    projection = dynlm.store.Projection(
        mean=jnp.asarray(x.mean(axis=0), jnp.float32),
        scale=jnp.ones(128),
        basis=jnp.asarray(basis, jnp.float32),
        width=jnp.ones(8),
        variance=jnp.ones(8),
        fit=fitted.fit,
    )
    paths = [
        dynlm.Trajectory.from_arrays(projection.project_rows(np.asarray(one)[: len(row)]))
        for one, row in zip(states, rows, strict=True)
    ]
    train = dynlm.stack(paths)
    still = SDE(drifts.Linear(-jnp.eye(8), jnp.zeros(8)), diffusions.Scalar(0.1, 8))
    found = caused(model, {"to zero": still}, 3, projection, rows, docs, train=train, seed=0)
    assert found.effect["true step, whole"].low > 0.5 * found.far.value
    assert found.effect["true step"].value > found.effect["random"].value
    low, high = found.effect["to the mean"].low, found.effect["to the mean"].high
    assert low < found.effect["to zero"].value < high  # the mean is the origin of the components

    steps = steered(
        model, still, 3, projection, prompts, docs, train=train, key=jr.key(0), budget=6, size=1.0
    )
    assert all(len(row) == 6 for rows in steps.tokens.values() for row in rows)
    plain_ = model.sample(prompts, key=jr.split(jr.key(0), 8), budget=6, stop=())
    for k, row in enumerate(steps.tokens["unedited"]):
        np.testing.assert_array_equal(row, plain_.row(k).tokens[-6:])
    assert steps.score["predicted"].value < steps.score["unedited"].value
    for one, other in zip(steps.tokens["predicted"], steps.tokens["to the mean"], strict=True):
        np.testing.assert_array_equal(one, other)  # the fit predicts the mean, as above
    assert len(steps.findings) == len(OTHERS)
    assert all("entropy of the laws" in x.note for x in steps.findings)


def test_steps_added_at_new_tokens_have_one_length_and_their_own_ways():
    train = states_of(MODEL, texts(2, 20), 1, PROJECTION, noise=0.05)
    fit = predictors_of({"predicted": euler(-TURN)}, ())["predicted"]
    linear, mean = baselines.var1(train), jnp.asarray(training_of(train, 1).mean, jnp.float32)
    x = np.asarray(np.random.default_rng(0).standard_normal(WIDTH), np.float32)
    away = np.ones((5, WIDTH), np.float32)
    rows = np.broadcast_to(x, (5, 3, WIDTH))
    at = np.tile(np.arange(3, dtype=np.int32), (5, 1))
    added = jax.jit(_pushed)(
        fit, PROJECTION, linear, mean, away, np.eye(5, dtype=np.float32)[:, 1:], np.float32(0.5),
        np.full(5, 2, np.int32), rows, at,
    ) - rows  # fmt: skip
    assert not np.any(added[:, 0]) and not np.any(added[0])  # the prompt, and unedited texts
    ways = {
        "predicted": rotation(-TURN) @ x - x,
        "linear": np.asarray(linear.matrix) @ x + np.asarray(linear.bias) - x,
        "to the mean": np.asarray(mean) - x,
        "random": away[0],
    }
    length = 0.5 * np.linalg.norm(ways["predicted"])
    for k, way in zip(map(KINDS.index, ways), ways.values(), strict=True):
        np.testing.assert_allclose(added[k, 1], length * way / np.linalg.norm(way), atol=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"origins": 0}, "`origins` is 0"),
        ({"randoms": 0}, "`randoms` is 0"),
        ({"size": 0.0}, "`size` is 0.0"),
        ({"predictors": {"random": 1}}, "taken"),
        ({"sequences": [np.arange(2)] * 12}, "3 or more"),
    ],
)
def test_what_cannot_be_done_is_refused(change, words, unchecked):
    given = {"predictors": {"forward": euler(TURN)}} | change
    with pytest.raises(BadArgument, match=words):
        run(given.pop("predictors"), **given)
