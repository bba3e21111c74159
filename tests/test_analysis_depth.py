"""The law from layer to layer: recovered where it holds, refused where it does not."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from made_store import made, rows_of

from dynlm._io import BadArgument
from dynlm.analysis._depth import depth
from dynlm.analysis._depth_maps import depth_sample
from dynlm.analysis._depth_noise import shape_findings, shape_of
from dynlm.analysis.findings import Verdict, plain, shown

DOCS, EACH, LAYERS = 30, 80, 6
SPREAD = 4.0 * 0.6 ** np.arange(5)  # far apart, so that singular vectors are known well


def turned(rng, dim=5):
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


def simulated(seed, a, l, signs=None, noise=None):
    """Exactly the law: $x_{t+1} = U_{t+1} \\Lambda U_t^T x_t + w$, its noise $a e^{l(t+1)}$."""
    rng = np.random.default_rng(seed)
    u = [turned(rng) for _ in range(LAYERS)]
    draw = rng.standard_normal if noise is None else noise
    count = DOCS * EACH
    states = [(rng.standard_normal((count, 5)) * SPREAD) @ u[0].T]
    signs = np.ones(5) if signs is None else signs
    for t in range(LAYERS - 1):
        w = np.sqrt(a * np.exp(l * (t + 1))) * draw((count, 5))
        states.append(states[-1] @ u[t] @ np.diag(1.1 * signs) @ u[t + 1].T + w)
    return np.stack(states, axis=1), np.repeat(np.arange(DOCS), EACH)


def named(found, words) -> Any:
    (one,) = [x for x in found.findings if words in x.what]
    return one


@pytest.mark.parametrize("l", [0.3, -0.3])
def test_growth_of_the_noise_is_recovered(l):
    a = 2e-4 if l > 0 else 2e-3
    found = depth(*simulated(0, a, l), seed=0, spans=(1,))
    error = (found.growth.high - found.growth.low) / 4
    assert abs(found.growth.value - l) < 4 * error + 0.01 and error < 0.01
    assert abs(np.log(found.amplitude.value / a)) < 0.1
    verdict = Verdict.ABOVE if l > 0 else Verdict.BELOW
    assert named(found, "growth exponent of the noise").verdict is verdict
    np.testing.assert_allclose(found.variance, a * np.exp(l * found.pairs[:, 1]), rtol=0.1)
    np.testing.assert_allclose(found.fitted, found.variance, rtol=0.1)


def test_rotations_and_signs_are_recovered():
    signs = np.array([1, -1, 1, -1, -1.0])
    states, docs = simulated(1, 1e-4, 0.1, signs=signs)
    found = depth(states, docs, seed=0)
    assert found.r_squared["law"].min() > 0.999
    assert found.r_squared["identity"].max() < 0.9
    assert found.r_squared["shuffled"].max() < -0.8
    assert named(found, "that the law explains beyond states").verdict is Verdict.ABOVE


def test_directions_that_matter_are_counted():
    states, docs = simulated(2, 1e-4, 0.1)
    found = depth(states, docs, seed=0, spans=(1,))
    share = np.cumsum(SPREAD**2) / np.sum(SPREAD**2)
    np.testing.assert_allclose(found.explained, np.tile(share, (5, 1)), atol=0.03)
    assert (found.directions == 1 + np.argmax(share >= 0.95)).all()


def test_swapped_directions_refute_the_law_and_not_the_rotation():
    """Each direction is kept, but the order of their sizes is not: matching by order is wrong."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((DOCS * EACH, 5)) * SPREAD
    y = x / SPREAD * SPREAD[[1, 0, 3, 2, 4]] + 0.01 * rng.standard_normal(x.shape)
    docs = np.repeat(np.arange(DOCS), EACH)
    found = depth(np.stack([x, y], axis=1), docs, seed=0)
    assert found.r_squared["rotation"][0] > 0.99 and found.r_squared["linear"][0] > 0.99
    assert found.r_squared["law"][0] < -0.5
    assert named(found, "beyond the best rotation").verdict is Verdict.BELOW
    assert named(found, "growth exponent of the noise").verdict is Verdict.WITHHELD


def test_linear_map_explains_what_it_should():
    """$y = A x + w$: its share is one minus the noise's, though no rotation does as well."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((DOCS * EACH, 4))
    map_ = rng.standard_normal((4, 4))
    y = x @ map_ + rng.standard_normal(x.shape)
    found = depth(np.stack([x, y], axis=1), np.repeat(np.arange(DOCS), EACH), seed=0)
    assert abs(found.r_squared["linear"][0] - (1 - 4 / (np.sum(map_**2) + 4))) < 0.03
    residual = y[:, None] - x[:, None]
    own = 1 - np.sum((residual[:, 0] - residual.mean(axis=0)) ** 2) / np.sum((y - y.mean(0)) ** 2)
    assert abs(found.r_squared["identity"][0] - own) < 0.01


def test_layers_without_relation():
    """The law is as far off as two draws are from each other. A regression gains nothing."""
    rng = np.random.default_rng(5)
    states = rng.standard_normal((DOCS * EACH, 3, 6)) * np.linspace(1, 2, 6)
    found = depth(states, np.repeat(np.arange(DOCS), EACH), seed=0)
    assert np.all(np.abs(found.r_squared["law"] + 1) < 0.12)
    assert np.all(np.abs(found.r_squared["linear"]) < 0.02)


def test_noise_that_is_the_states_themselves_has_no_growth():
    """States without relation that grow by layer: so do residuals of a law that is not there."""
    rng = np.random.default_rng(5)
    states = rng.standard_normal((DOCS * EACH, 3, 6)) * np.exp(0.5 * np.arange(3))[:, None]
    found = depth(states, np.repeat(np.arange(DOCS), EACH), seed=0)
    assert found.growth is not None and found.growth.low > 0
    for words in ("growth exponent of the noise", "per layer between"):
        assert named(found, words).verdict is Verdict.WITHHELD
    assert "states themselves" in named(found, "growth exponent of the noise").sentence()
    law, docs = simulated(5, 1e-3, 0.1)
    lawless = rng.standard_normal(law.shape)
    change = named(depth(law, docs, seed=0, untrained=lawless), "makes to the growth exponent")
    assert change.verdict is Verdict.WITHHELD


def test_layers_by_their_numbers():
    """Every fourth layer of a law with the growth l per layer."""
    states, docs = simulated(0, 2e-4, 4 * 0.1)
    names = (2, 6, 10, 14, 18, 22)
    found = depth(states, docs, seed=0, spans=(1,), layers=names)
    assert found.pairs.tolist() == [[k, k + 4] for k in names[:-1]]
    assert abs(found.growth.value - 0.1) < 0.01
    np.testing.assert_allclose(found.fitted, found.variance, rtol=0.1)
    assert "2 to 6, 6 to 10" in found.findings[0].note
    same = depth(states, docs, seed=0, spans=(1,))
    assert abs(same.growth.value - 4 * found.growth.value) < 1e-9
    uneven = depth(states, docs, seed=0, spans=(1,), layers=(0, 1, 2, 3, 4, 9))
    np.testing.assert_array_equal(uneven.directions, same.directions)
    assert named(uneven, "kurtosis") == named(same, "kurtosis")  # of all steps, the long one too


def test_noise_that_is_not_gaussian_or_not_alike():
    rng = np.random.default_rng(6)
    states, docs = simulated(6, 1e-3, 0.05)
    gaussian = depth(states, docs, seed=0, spans=(1,))
    assert abs(named(gaussian, "kurtosis").value) < 0.1
    heavy = lambda shape: rng.standard_t(6, shape) / np.sqrt(1.5)  # noqa: E731 (excess 3)
    states, docs = simulated(6, 1e-3, 0.05, noise=heavy)
    found = depth(states, docs, seed=0, spans=(1,))
    assert named(found, "kurtosis").verdict is Verdict.ABOVE
    assert named(found, "kurtosis").value > 1

    widths = np.array([2.0, 1, 1, 0.5, 0.5])
    uneven = lambda shape: rng.standard_normal(shape) * widths  # noqa: E731
    states, docs = simulated(6, 1e-3, 0.05, noise=uneven)
    found = depth(states, docs, seed=0, spans=(1,))
    truth = np.sum(widths**2) ** 2 / (5 * np.sum(widths**4))
    assert abs(named(found, "isotropy").value - truth) < 0.06
    assert named(found, "isotropy").verdict is Verdict.BELOW
    assert abs(named(gaussian, "isotropy").value - 1) < 0.03
    assert named(gaussian, "isotropy").verdict is Verdict.LEVEL


def test_noise_that_tokens_of_a_document_share_is_no_direction():
    """A third of the variance is of the document: tokens are alike, directions are not unequal."""
    rng, verdicts = np.random.default_rng(7), []
    docs = np.repeat(np.arange(40), 50)
    for _ in range(20):
        r = np.sqrt(0.7) * rng.standard_normal((2000, 16))
        r += np.sqrt(0.3) * rng.standard_normal((40, 16))[docs]
        shapes, pairs = [shape_of(r, docs)], np.array([[0, 1]])
        found = shape_findings(shapes, docs, pairs, 0, False)[1]
        verdicts.append(found.verdict)
        assert found.value is not None and abs(found.value - 1) < 0.1
    assert verdicts.count(Verdict.LEVEL) >= 17


def test_noise_that_gathers_over_layers_is_found():
    """In a chain the residual of a longer span has the noise of all layers between."""
    found = depth(*simulated(7, 1e-3, 0.0), seed=0)
    assert named(found, "per layer between").verdict is Verdict.ABOVE
    by_span = [found.variance[found.pairs[:, 1] - found.pairs[:, 0] == s].mean() for s in (1, 2)]
    kept = 1.1**2  # a step stretches the noise that came before it
    assert abs(by_span[1] / by_span[0] - (1 + kept)) < 0.25


def test_untrained_layers_that_pass_states_on():
    states, docs = simulated(8, 1e-3, 0.1)
    still = np.repeat(states[:, :1], LAYERS, axis=1)
    found = depth(states, docs, seed=0, untrained=still)
    null = found.untrained
    np.testing.assert_allclose(null.r_squared["identity"], 1)
    assert named(null, "growth exponent of the noise").verdict is Verdict.WITHHELD
    assert named(null, "kurtosis").verdict is Verdict.WITHHELD
    assert named(found, "training makes to the law's gain over states").verdict is Verdict.ABOVE
    moving = still + 0.1 * np.random.default_rng(0).standard_normal(still.shape)
    found = depth(states, docs, seed=0, untrained=moving, spans=(1,))
    change = named(found, "difference that training makes to the growth exponent")
    expected = found.growth.value - found.untrained.growth.value
    assert abs(change.value - expected) < 1e-9 and change.verdict is Verdict.ABOVE
    note = named(found, "growth exponent of the noise").note
    assert f"In the untrained model it is {shown(found.untrained.growth.value)} [" in note


def test_few_components_of_many():
    """Three directions of the stream move; the rest is small: three components hold the law."""
    states, docs = simulated(9, 1e-4, 0.1)
    rng = np.random.default_rng(0)
    wide = np.linalg.qr(rng.standard_normal((20, 5)))[0]
    raw = states @ wide.T + 1e-3 * rng.standard_normal((len(docs), LAYERS, 20)) + 5.0
    found = depth(raw.astype(np.float32), docs, seed=0, dim=5, spans=(1,))
    same = depth(states, docs, seed=0, spans=(1,))
    np.testing.assert_allclose(found.r_squared["law"], same.r_squared["law"], atol=1e-3)
    assert plain(found)["findings"][0]["verdict"] == "above"


def test_tokens_of_a_store(tmp_path):
    rng = np.random.default_rng(0)
    store = made(tmp_path / "store", rows_of(rng, dim=4), layers=(0, 1, 2)).store
    states, docs, layers = depth_sample(store, count=10**6, seed=0)
    assert layers == (0, 1, 2)
    apart = made(tmp_path / "apart", rows_of(rng, dim=4), layers=(2, 10, 6)).store
    few, _, numbers = depth_sample(apart, count=5, seed=0)
    assert numbers == (2, 6, 10)
    np.testing.assert_allclose(few[:, 2], few[:, 0] * 11 / 3, rtol=1e-6)
    lengths = np.asarray(store.lengths)
    assert len(states) == np.maximum(lengths - 1, 0).sum()
    np.testing.assert_allclose(states[:, 2], 3 * states[:, 0], rtol=1e-6)
    want = np.concatenate([store.states(i, 0)[1:] for i in range(len(store))])
    np.testing.assert_array_equal(states[:, 0], want)
    np.testing.assert_array_equal(docs, np.repeat(store.docs, np.maximum(lengths - 1, 0)))
    some, *_ = depth_sample(store, count=7, seed=1)
    again, *_ = depth_sample(store, count=7, seed=1)
    assert some.shape == (7, 3, 4) and jnp.array_equal(some, again)
    with pytest.raises(BadArgument, match="two numbered layers"):
        depth_sample(made(tmp_path / "one", rows_of(rng, dim=4)).store, count=5, seed=0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"docs": np.zeros(2400)}, "4 or more"),
        ({"dim": 0}, "`dim` is 0"),
        ({"spans": (6,)}, "`spans`"),
        ({"layers": (0, 1, 2)}, "`layers` is"),
        ({"layers": (0, 2, 1, 3, 4, 5)}, "`layers` is"),
        ({"untrained": np.zeros((3, 2, 5))}, "same"),
        ({"states": np.full((2400, 6, 5), np.nan)}, "finite"),
        ({"states": np.zeros((12, 2, 5)), "docs": np.arange(12)}, "20 or more"),
    ],
)
def test_what_cannot_be_done_is_refused(change, words, unchecked):
    states, docs = simulated(0, 1e-3, 0.1)
    given = {"states": states, "docs": docs, "seed": 0} | change
    with pytest.raises(BadArgument, match=words):
        depth(given.pop("states"), given.pop("docs"), **given)
