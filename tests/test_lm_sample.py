"""Sampling against the plain forward of the same tokens, rows against themselves alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

from dynlm import lm
from dynlm.lm import _sample

CONFIG = lm.llama(vocab=300, width=32, depth=2, heads=4, kv_heads=2, hidden=48, context=96)
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12], [7]]
ALL = (0, 1, 2, "final")
BUDGET = 12
MIXED = lm.Decoding(temperature=np.array([0.0, 0.8, 1.3]), top_k=np.array([5, 20, 300]), top_p=0.9)


@pytest.fixture(scope="module")
def decoder():
    made = lm.Decoder(CONFIG, rngs=nnx.Rngs(0))
    return jax.tree.map(lambda x: 5 * x if x.ndim == 2 else x, made)  # or every token is as likely


@pytest.fixture(scope="module")
def model(decoder):
    return lm.LanguageModel(decoder)


@pytest.fixture(scope="module")
def sampled(decoder):
    return lm.sample(
        decoder, PROMPTS, key=jr.key(0), budget=BUDGET, decoding=MIXED, layers=None, top=3
    )


def close(a, b, tolerance=1e-5):
    a, b = np.asarray(a), np.asarray(b)
    assert np.max(np.abs(a - b)) <= tolerance * np.max(np.abs(b))


def test_rows_hold_prompt_and_what_was_sampled(sampled):
    for number, prompt in enumerate(PROMPTS):
        row = sampled.row(number)
        assert row.tokens[: row.prompt].tolist() == prompt
        assert row.tokens.size == len(prompt) + BUDGET
        at = np.flatnonzero(np.asarray(sampled.positions[number]) >= 0)
        assert np.asarray(sampled.positions[number])[at].tolist() == list(range(row.tokens.size))


def test_states_and_scores_are_those_of_reading_the_whole_row(sampled, model):
    for number in range(len(PROMPTS)):
        row = sampled.row(number)
        tokens, positions = model.batch([row.tokens])
        logits, states = model(tokens, positions)
        size = row.tokens.size
        for name in ALL:
            close(row.states[name], states[name][0, :size])
        logp = np.asarray(jax.nn.log_softmax(logits[0, :size]), np.float64)
        own = logp[np.arange(size - 1), row.tokens[1:]]
        assert np.isnan(row.scores.logprobs[0])
        np.testing.assert_allclose(row.scores.logprobs[1:], own, atol=2e-4)
        entropy = -np.sum(np.exp(logp) * logp, axis=1)[:-1]
        np.testing.assert_allclose(row.scores.entropies[1:], entropy, atol=2e-4)
        order = np.argsort(-logp, axis=1)[:-1, :3]
        np.testing.assert_array_equal(row.scores.top_ids[1:], order)
        assert row.scores.top_ids[0].tolist() == [-1] * 3


def test_score_gives_what_the_logits_give(sampled, model):
    """More than one block of columns, and rows of several lengths."""
    rows = [np.tile(sampled.row(1).tokens, 3), sampled.row(0).tokens]
    tokens, positions = model.batch(rows)
    scores, states = model.score(tokens, positions, layers=(1,), top=2)
    logits, _ = model(tokens, positions, layers=())
    assert list(states) == [1]
    for number, row in enumerate(rows):
        logp = np.asarray(jax.nn.log_softmax(logits[number, : row.size - 1]))
        own = logp[np.arange(row.size - 1), row[1:]]
        np.testing.assert_allclose(scores.logprobs[number, 1 : row.size], own, atol=1e-5)
        assert np.isnan(scores.logprobs[number, row.size :]).all()


def test_a_row_does_not_know_its_neighbours(sampled, decoder):
    key = jr.fold_in(jr.key(0), 1)
    alone = lm.sample(
        decoder,
        PROMPTS[1:2],
        key=key[None],
        budget=BUDGET,
        decoding=lm.Decoding(0.8, top_k=20, top_p=0.9),
        layers=None,
        top=3,
    ).row(0)
    row = sampled.row(1)
    np.testing.assert_array_equal(alone.tokens, row.tokens)
    for name in ALL:
        close(alone.states[name], row.states[name])


def test_the_first_row_is_greedy(sampled, model):
    row = sampled.row(0)
    logits, _ = model(row.tokens[None], layers=())
    likeliest = np.argmax(np.asarray(logits[0]), axis=1)
    np.testing.assert_array_equal(row.tokens[row.prompt :], likeliest[row.prompt - 1 : -1])


def test_a_model_without_a_cache_samples_the_same(sampled, decoder):
    def call(decoder, tokens, positions, *, edit):
        out = decoder(tokens, positions, edit=edit, layers=ALL)
        return decoder.unembed(out.final), out.states

    slow = lm.Uncached(Partial(call, decoder))
    other = lm.sample(
        slow, PROMPTS, key=jr.key(0), budget=BUDGET, decoding=MIXED, layers=ALL, top=3
    )
    np.testing.assert_array_equal(other.tokens, sampled.tokens)
    for number in range(len(PROMPTS)):
        for name in ALL:
            close(other.row(number).states[name], sampled.row(number).states[name])


def steer(vector, states, positions):
    """From position 5 on, along `vector`."""
    return states + jnp.where(positions >= 5, 1.0, 0.0)[:, :, None] * vector[None, None]


def test_an_edit_holds_while_sampling(decoder, model):
    edit = {1: Partial(steer, jnp.linspace(-1.0, 1.0, 32)), "final": Partial(steer, jnp.ones(32))}
    greedy = dict(key=jr.key(1), budget=BUDGET, decoding=lm.Decoding(0.0), layers=None)
    plain = lm.sample(decoder, PROMPTS, **greedy)
    edited = lm.sample(decoder, PROMPTS, **greedy, edit=edit)
    row = edited.row(1)
    assert not np.array_equal(row.tokens, plain.row(1).tokens)
    logits, states = model(row.tokens[None], edit=edit)
    for name in ALL:
        close(row.states[name], states[name][0])
    likeliest = np.argmax(np.asarray(logits[0]), axis=1)
    np.testing.assert_array_equal(row.tokens[row.prompt :], likeliest[row.prompt - 1 : -1])
    before = np.asarray(states[1][0, :5])
    close(before, plain.row(1).states[1][:5])  # nothing happened before position 5


def test_stop_tokens_end_a_row_and_stay_in_it(decoder, sampled):
    stop = [int(sampled.row(1).tokens[len(PROMPTS[1]) + 4]), 299]
    short = lm.sample(
        decoder,
        PROMPTS,
        key=jr.key(0),
        budget=BUDGET,
        decoding=MIXED,
        layers=None,
        top=3,
        stop=stop,
    )
    for number in range(len(PROMPTS)):
        whole, row = sampled.row(number), short.row(number)
        new = whole.tokens[whole.prompt :]
        ends = np.flatnonzero(np.isin(new, stop))
        size = whole.prompt + (ends[0] + 1 if ends.size else new.size)
        np.testing.assert_array_equal(row.tokens, whole.tokens[:size])
        np.testing.assert_allclose(
            row.scores.logprobs[1:], whole.scores.logprobs[1:size], atol=1e-4
        )
    assert short.row(1).tokens.size < sampled.row(1).tokens.size
    gone = np.asarray(short.positions) < 0
    assert np.isnan(np.asarray(short.scores.entropies)[gone]).all()


def test_all_rows_stopped_leave_the_rest_empty(decoder):
    ended = lm.sample(decoder, [[5, 6]], key=jr.key(2), budget=BUDGET, stop=list(range(300)), top=1)
    assert ended.row(0).tokens.size == 3
    assert (np.asarray(ended.positions[0, 9:]) == -1).all()


def test_a_repetition_penalty_sees_the_prompt_and_what_was_sampled(decoder):
    never = lm.Decoding(0.0, repetition_penalty=1e6)
    row = lm.sample(decoder, [[3, 4, 5]], key=jr.key(0), budget=40, decoding=never).row(0)
    assert len(set(row.tokens.tolist())) == row.tokens.size


def test_any_function_of_the_logits_decodes(decoder):
    def even(logits, seen):
        return jnp.where(jnp.arange(logits.size) % 2 == 0, logits, -jnp.inf)

    row = lm.sample(decoder, PROMPTS, key=jr.key(0), budget=BUDGET, decoding=even).row(2)
    assert (row.tokens[row.prompt :] % 2 == 0).all()


def test_long_prompts_are_read_in_chunks(decoder, sampled, monkeypatch):
    monkeypatch.setattr(_sample, "CHUNK", 4)
    read = []

    def spy(tokens, positions, *, cache):
        read.append(tokens.shape)
        return decoder(tokens, positions, cache=cache, layers=ALL)

    tokens, positions = sampled.tokens[:, :16], sampled.positions[:, :16]
    out = _sample.prefill(spy, tokens, positions, decoder.empty(3, 20, sampled.prompts))
    assert set(read) == {(3, 4)}  # traced for a scan over four chunks
    for number, prompt in enumerate(PROMPTS):
        for name in ALL:
            size = len(prompt)
            close(out.states[name][number, :size], sampled.states[name][number, :size])


def test_nothing_is_compiled_again_within_a_bucket(decoder):
    settings = dict(budget=BUDGET, layers=(1,))
    lm.sample(decoder, PROMPTS, key=jr.key(0), decoding=MIXED, **settings)
    before = _sample._sample._cache_size()
    other = lm.Decoding(temperature=0.3, top_k=7, top_p=np.array([0.1, 0.2, 0.3]))
    prompts = [[9] * 16, [8, 7], [1] * 10]
    lm.sample(decoder, prompts, key=jr.key(5), decoding=other, **settings)
    assert _sample._sample._cache_size() == before


def test_keys_of_both_kinds_and_one_a_row(decoder):
    def tokens(key):
        return np.asarray(lm.sample(decoder, PROMPTS, key=key, budget=BUDGET).tokens)

    want = tokens(jr.key(3))
    np.testing.assert_array_equal(tokens(jr.PRNGKey(3)), want)
    keys = jnp.stack([jr.fold_in(jr.key(3), k) for k in range(3)])
    np.testing.assert_array_equal(tokens(keys), want)
    assert not np.array_equal(tokens(jr.key(4)), want)


class Tiny(linen.Module):
    """Somebody's own model: an embedding, a causal mean, and a readout, in Linen."""

    @linen.compact
    def __call__(self, tokens, positions, edit):
        x = linen.Embed(40, 8)(tokens)
        x = edit.get(0, lambda x, positions: x)(x, positions)
        real = (positions >= 0).astype(x.dtype)[:, :, None]
        mean = jnp.cumsum(x * real, axis=1) / jnp.maximum(jnp.cumsum(real, axis=1), 1.0)
        y = jnp.tanh(linen.Dense(8)(mean))
        return linen.Dense(40)(y), {0: x, 1: y}


def test_a_foreign_linen_model_fits_the_contract():
    module, rows = Tiny(), [[1, 2, 3, 4], [5, 6]]
    first = jnp.zeros((1, 4), jnp.int32)
    params = module.init(jr.key(0), first, first, {})

    def call(params, tokens, positions, *, edit):
        return module.apply(params, tokens, positions, edit)

    foreign = lm.Uncached(Partial(call, params))
    out = lm.sample(foreign, rows, key=jr.key(1), budget=6, layers=(0, 1))
    for number in range(2):
        row = out.row(number)
        positions = jnp.arange(row.tokens.size, dtype=jnp.int32)[None]
        logits, states = call(params, jnp.asarray(row.tokens)[None], positions, edit={})
        close(row.states[1], states[1][0])
        logp = np.asarray(jax.nn.log_softmax(logits[0]))
        own = logp[np.arange(row.tokens.size - 1), row.tokens[1:]]
        np.testing.assert_allclose(row.scores.logprobs[1:], own, atol=1e-5)
    with pytest.raises(ValueError, match=r"names \[7\], which the model does not return"):
        lm.sample(foreign, rows, key=jr.key(1), budget=6, layers=(7,))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(prompts=[]), "at least one row"),
        (dict(prompts=[[1], []]), "`prompts[1]` is empty"),
        (dict(prompts=["text"]), "`prompts[0]` is text"),
        (
            dict(prompts=[[1, 300]]),
            "Entry 1 of `prompts[0]` is 300. This model has tokens 0 to 299",
        ),
        (dict(prompts=[[1, -1]]), "is -1"),
        (dict(prompts=[[1.5]]), "Give one row of integers"),
        (dict(prompts=[[1], [2] * 90]), "`prompts[1]` has 90 tokens and `budget` is 12"),
        (dict(budget=0), "`budget` is 0"),
        (dict(top=-1), "`top` is -1"),
        (dict(stop=[300]), "`stop` is 300"),
        (dict(layers=(3,)), "`layers` names layer 3. This model has 0 (the embedding) to 2"),
        (dict(edit={"last": lambda x, p: x}), "`edit` names layer 'last'"),
        (dict(edit={1: 2.0}), "Give a function"),
        (dict(key=jr.split(jr.key(0), 5)), "one a prompt"),
        (dict(key=5), "`key` is 5. Make one"),
        (dict(stop=5), "`stop` is 5. Give a list"),
        (dict(layers=1), "`layers` is 1. Give a tuple"),
        (dict(layers="final"), "Give a tuple of names"),
        (dict(budget=2.0), "`budget` is 2.0. Use a whole number"),
        (dict(top=301), "`top` is 301. This model has 300 tokens"),
        (dict(edit={1: lambda x, p: x[:, -1:]}), "`edit[1]` returned shape"),
    ],
)
def test_what_cannot_be_sampled_is_refused(decoder, change, words, unchecked):
    wanted = dict(prompts=PROMPTS, key=jr.key(0), budget=BUDGET) | change
    with pytest.raises((ValueError, TypeError)) as caught:
        lm.sample(decoder, wanted.pop("prompts"), **wanted)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((np.zeros(3, np.int32),), "`tokens` has shape (3,)"),
        ((np.zeros((1, 3), np.int32), np.zeros((1, 2), np.int32)), "`positions` has shape (1, 2)"),
        ((np.full((1, 3), 300),), "is 300. This model has tokens 0 to 299"),
        ((np.zeros((1, 2)),), "`tokens` are of type float64"),
        ((np.zeros((1, 97), np.int32),), "`positions` go from 0 to 96. The context"),
        ((np.zeros((1, 2), np.int32), np.full((1, 2), -2)), "go from -2"),
    ],
)
def test_what_cannot_be_read_is_refused(model, arguments, words, unchecked):
    with pytest.raises(ValueError) as caught:
        model(*arguments)
    assert words in str(caught.value)


def test_texts_need_a_tokenizer(model):
    with pytest.raises(ValueError, match="the model has no tokenizer. Give token ids."):
        model.batch(["text"])
    with pytest.raises(ValueError, match="has 100 tokens. The context of this model is 96"):
        model.batch([[1] * 100])


def test_a_length_beyond_the_context_is_refused(model):
    with pytest.raises(ValueError, match="`length` is 500. .* the context 96"):
        model.batch([[1, 2]], length=500)
    assert model.batch([[1, 2]], length=5)[0].shape == (1, 5)


def test_rows_beyond_the_last_are_refused(sampled):
    with pytest.raises(IndexError, match="`number` is 3. There are rows 0 to 2"):
        sampled.row(3)


def test_scores_need_the_token_before(model):
    """Padding may stand anywhere; what follows a gap has no score."""
    tokens = np.array([[0, 0, 4, 5, 6], [7, 8, 0, 9, 3]], np.int32)
    positions = np.array([[-1, -1, 0, 1, 2], [0, 1, -1, 2, 3]], np.int32)
    scores, _ = model.score(tokens, positions)
    seen = np.isfinite(np.asarray(scores.logprobs))
    assert seen.tolist() == [[False] * 3 + [True] * 2, [False, True, False, False, True]]
    alone, _ = model.score(tokens[:1, 2:])
    np.testing.assert_allclose(scores.logprobs[0, 3:], alone.logprobs[0, 1:], atol=1e-5)


def test_what_an_edit_makes_of_padding_reaches_nobody(decoder):
    tokens, positions = jnp.array([[3, 4, 5, 0, 0]]), jnp.array([[0, 1, 2, -1, -1]])

    def final(vector, tokens, positions):
        def edit(x, at):  # the root of -1 is not a number, nor is its slope
            return x + vector[None, None] * jnp.sqrt(at.astype(x.dtype) + 0.5)[:, :, None]

        return decoder(tokens, positions, edit={1: edit}).final[:, :3]

    vector = jnp.linspace(-1.0, 1.0, 32)
    close(final(vector, tokens, positions), final(vector, tokens[:, :3], positions[:, :3]))
    slope = jax.grad(lambda v: jnp.sum(final(v, tokens, positions) ** 2))(vector)
    assert np.isfinite(slope).all()

    def spoil(x, at):
        return jnp.where(jnp.arange(5)[None, :, None] < 3, x, jnp.nan)

    edited = decoder(tokens, positions, edit={1: spoil}).final
    assert np.isfinite(edited).all()


def test_a_float32_edit_of_a_bfloat16_model_keeps_its_type(decoder):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), decoder)
    edit = {1: Partial(steer, jnp.ones(32))}
    with jax.numpy_dtype_promotion("standard"):  # of the edit's own sum
        out = lm.sample(half, PROMPTS, key=jr.key(0), budget=4, layers=(1, 2), edit=edit)
        row = out.row(0)
        logits, states = lm.LanguageModel(half)(row.tokens[None], edit=edit)
    assert row.states[1].dtype == row.states[2].dtype == states[2].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    close(row.states[2].astype(np.float32), states[2][0].astype(jnp.float32), 0.03)


def test_layers_and_edits_that_there_are_not_are_refused_inside_jit_too(decoder):
    for wrong in (dict(layers=(99,)), dict(edit={-1: lambda x, at: x})):
        with pytest.raises(ValueError, match="This model has 0"):
            decoder(jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2), jnp.int32), **wrong)


class Net(eqx.Module):
    """Somebody's own model, with leaves that are no arrays."""

    table: jax.Array
    mlp: eqx.nn.MLP

    def __call__(self, tokens, positions, *, edit):
        x = self.table[tokens]
        if 0 in edit:
            x = edit[0](x, positions)
        y = jnp.cumsum(jax.vmap(jax.vmap(self.mlp))(x), axis=1)
        return y @ self.table.T, {0: x, 1: y}


class Push(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, x, positions):
        return x + jax.vmap(jax.vmap(self.mlp))(x)


def test_equinox_modules_and_plain_functions_are_models_and_edits():
    net = Net(jr.normal(jr.key(0), (40, 8)), eqx.nn.MLP(8, 8, 16, 1, key=jr.key(1)))
    push = Push(eqx.nn.MLP(8, 8, 4, 1, key=jr.key(2)))
    settings = dict(key=jr.key(3), budget=5, layers=(0, 1), edit={0: push})
    rows = [[1, 2, 3], [4]]
    one = lm.sample(lm.Uncached(net, context=8), rows, **settings)

    def plain(tokens, positions, *, edit):
        return net(tokens, positions, edit=edit)

    two = lm.sample(lm.Uncached(plain), rows, **settings)
    np.testing.assert_array_equal(one.tokens, two.tokens)
    row = one.row(0)
    _, states = net(row.tokens[None], np.arange(8)[None], edit={0: push})
    close(row.states[1], states[1][0])
    with pytest.raises(ValueError, match="The context of this model is 8 tokens"):
        lm.sample(lm.Uncached(net, context=8), [[1] * 6], **settings)


def test_a_model_that_is_not_wrapped_is_refused(unchecked):
    with pytest.raises(TypeError, match="`model` is a function. Give a Decoder"):
        lm.sample(lambda tokens, positions, *, edit: None, [[1]], key=jr.key(0), budget=1)
