"""What an export holds is what the model does on the same tokens, for texts and for samples."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from store_files import TABLE, make, texts, tiny

import dynlm
from dynlm import lm
from dynlm._io import BadArgument
from dynlm.lm._export import export
from dynlm.lm._grid import Sampling
from dynlm.store._reader import open_store

TEXTS = [
    "The moor was dark, and the wind came over it from the sea.",
    "Natural selection",
    "It is a truth that a man in possession of a good fortune must be in want of a wife, " * 3,
    "Yes.",
    "He was old and tired, and had walked since the morning, and now he sat down by the road.",
]
LAYERS = (0, 3, 6, "final")
USUAL = dict(batch_tokens=256, quiet=True)


@pytest.fixture(scope="module")
def model():
    return lm.load("demo")


@pytest.fixture(scope="module")
def read(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("read") / "store"
    return export(
        model, TEXTS, folder, layers=LAYERS, dtype="float32", top=3, shard_bytes=2**15, **USUAL
    )


@pytest.fixture(scope="module")
def sampled(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled") / "store"
    sampling = Sampling(2, 24, temperature=(0.0, 0.9), top_p=0.95, seed=5, stop=(6,))
    prompts = ["The moor was", "Natural", "It is a truth that a man in possession"]
    return export(
        model, prompts, folder, sampling=sampling, layers=LAYERS, dtype="float32", top=3, **USUAL
    )


def truth(model, tokens):
    """A direct forward of one row alone, at a length that the rows share."""
    batch, positions = model.batch([tokens], length=256)
    logits, states = model(batch, positions, layers=LAYERS)
    size = len(tokens)
    cut = {name: np.asarray(x[0, :size]) for name, x in states.items()}
    return np.asarray(logits[0, :size]), cut


@pytest.mark.parametrize("which", ["read", "sampled"])
def test_states_are_those_of_a_direct_forward(request, model, which):
    store = request.getfixturevalue(which)
    assert len(set(store.lengths)) > 2 and store.complete
    for row in store:
        logits, states = truth(model, row.tokens)
        logprobs = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
        for name in LAYERS:
            assert row.states[name].shape == states[name].shape
            scale = np.abs(states[name]).max()
            assert np.abs(row.states[name] - states[name]).max() < 1e-5 * scale
        after = logprobs[np.arange(len(row.tokens) - 1), row.tokens[1:]]
        assert np.isnan(row.logprobs[0]) and np.allclose(row.logprobs[1:], after, atol=2e-4)
        entropies = -np.sum(np.exp(logprobs) * logprobs, axis=1)[:-1]
        assert np.allclose(row.entropies[1:], entropies, atol=2e-4)
        best = np.sort(logprobs, axis=1)[:-1, ::-1][:, :3]
        assert np.allclose(row.top_logprobs[1:], best, atol=2e-4)
        assert np.all(row.top_ids[0] == -1)


@pytest.mark.parametrize("which", ["read", "sampled"])
def test_row_t_is_the_state_from_which_token_t_plus_1_is_predicted(request, model, which):
    """The convention of the format: the next-token scores, made again from `final` alone."""
    store = request.getfixturevalue(which)
    for row in store:
        logits = model.decoder.unembed(jnp.asarray(np.array(row.states["final"])))
        logprobs = np.asarray(jax.nn.log_softmax(logits))
        again = logprobs[np.arange(len(row.tokens) - 1), row.tokens[1:]]
        assert np.allclose(row.logprobs[1:], again, atol=2e-5)
        shifted = logprobs[np.arange(1, len(row.tokens)), row.tokens[1:]]
        assert len(row.tokens) < 3 or not np.allclose(row.logprobs[1:], shifted, atol=0.1)


def test_layer_0_is_the_embedding(read, model):
    table = np.asarray(model.decoder.embed.embedding[...])
    for row in read:
        assert np.array_equal(row.states[0], table[row.tokens])


def test_rows_stand_in_the_order_of_the_texts(read, model):
    assert read.docs.tolist() == list(range(len(TEXTS)))
    for row, ids in zip(read, model.ids(TEXTS)):
        assert row.tokens.tolist() == ids and row.prompt == 0
    assert len(read.manifest.shards) > 1


def test_every_sample_has_its_own_settings_and_keeps_its_prompt(sampled, model):
    assert len(sampled) == 3 * 2 * 2
    assert sampled.columns == ("temperature", "top_p", "sample")
    assert sampled.column("temperature").tolist() == [0.0, 0.0, 0.9, 0.9] * 3
    assert sampled.column("sample").tolist() == [0.0, 1.0] * 6
    assert sampled.docs.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    rows = [row.tokens.tolist() for row in sampled]
    for doc in range(3):
        first, second, third, fourth = rows[4 * doc : 4 * doc + 4]
        assert first == second and third != fourth
    for row in sampled:
        ended = row.tokens[row.prompt :].tolist()
        assert len(ended) == 24 or ended[-1] == 6
        assert 6 not in ended[:-1]


def test_a_row_is_what_the_model_samples_with_the_key_of_its_number(sampled, model):
    rows = [2, 7, 11]
    again = model.sample(
        [sampled[k].tokens[: sampled[k].prompt] for k in rows],
        key=jax.vmap(lambda k: jr.fold_in(jr.key(5), k))(jnp.asarray(rows)),
        budget=24,
        decoding=lm.Decoding(temperature=0.9, top_p=0.95),
        stop=(6,),
    )
    for place, k in enumerate(rows):
        assert again.row(place).tokens.tolist() == sampled[k].tokens.tolist()


def test_narrow_types_are_the_rounded_states(model, read, tmp_path):
    for dtype in ("bfloat16", "float16"):
        store = export(
            model, TEXTS, tmp_path / dtype, layers=LAYERS, dtype=dtype, top=3, shard_bytes=2**15,
            **USUAL,
        )  # fmt: skip
        assert store.dtype == jnp.dtype(dtype) and store.states(0, 3).dtype == jnp.dtype(dtype)
        for row, full in zip(store, read):
            for name in LAYERS:
                assert np.array_equal(row.states[name], full.states[name].astype(dtype))


def test_a_stride_keeps_every_so_manieth_state_and_all_tokens(model, read, tmp_path):
    store = export(
        model, TEXTS, tmp_path / "s", layers=LAYERS, dtype="float32", top=3, stride=3, **USUAL
    )
    for number, (row, full) in enumerate(zip(store, read)):
        assert np.array_equal(row.tokens, full.tokens)
        assert np.array_equal(row.times, full.times[::3])
        for name in LAYERS:
            assert np.allclose(row.states[name], full.states[name][::3], atol=1e-4)
        assert store.lengths[number] == -(-read.lengths[number] // 3)


def test_a_stride_of_samples_counts_from_the_start_of_the_prompt(model, sampled, tmp_path):
    sampling = Sampling(2, 24, temperature=(0.0, 0.9), top_p=0.95, seed=5, stop=(6,))
    prompts = ["The moor was", "Natural", "It is a truth that a man in possession"]
    store = export(
        model, prompts, tmp_path / "s", sampling=sampling, layers=LAYERS, dtype="float32", top=3,
        stride=4, **USUAL,
    )  # fmt: skip
    for row, full in zip(store, sampled):
        assert np.array_equal(row.tokens, full.tokens)
        assert np.array_equal(row.states[3], full.states[3][::4])


def test_the_two_axes_of_time(read):
    row = read[2]
    along = read.path(2, 3)
    assert np.array_equal(along.ys, row.states[3]) and np.array_equal(along.ts, row.times)
    deep = read.depth(2, 10)
    assert np.array_equal(deep.ts, [0.0, 3.0, 6.0])
    assert np.array_equal(deep.ys, np.stack([row.states[k][10] for k in (0, 3, 6)]))
    assert np.array_equal(read.depth(2, -1, layers=(3, 6)).ys[1], row.states[6][-1])
    for layers, token in (((3, "final"), 0), (None, len(row.tokens))):
        with pytest.raises(BadArgument):
            read.depth(2, token, layers=layers)


def test_long_texts_become_rows_of_one_document(model, tmp_path):
    store = export(model, TEXTS, tmp_path / "s", layers=(3,), max_tokens=16, **USUAL)
    ids = model.ids(TEXTS)
    for doc in range(len(TEXTS)):
        rows = store.doc(doc)
        assert max(rows.lengths) <= 16
        begin = 1 if len(ids[doc]) and ids[doc][0] in (model.tokenizer.all_special_ids or ()) else 0
        joined = [t for k, row in enumerate(rows) for t in row.tokens.tolist()[begin * (k > 0) :]]
        assert joined in (ids[doc], ids[doc][:-1])


def test_prompts_of_documents_are_counted(model, tmp_path):
    documents = [lm.Document("over the sea.", prompt="The wind came ", columns={"score": 2.5})]
    store = export(model, documents, tmp_path / "s", layers=(3,), **USUAL)
    row = store[0]
    assert model.text(row.tokens[: row.prompt]).strip() == "The wind came"
    assert row.columns == {"score": 2.5} and store.column("score").tolist() == [2.5]


def test_any_callable_of_the_contract_is_read_and_sampled(tmp_path):
    rows = texts(9)
    store = make(tmp_path / "read", 9, dtype="float32")
    for row, tokens in zip(store, rows):
        x = TABLE[tokens]
        mean = np.cumsum(x, axis=0) / np.arange(1, len(x) + 1)[:, None]
        assert np.allclose(row.states[0], x) and np.allclose(row.states[1], mean, atol=1e-5)
        logits = np.tanh(mean) @ TABLE.T
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        own = logprobs[np.arange(len(x) - 1), tokens[1:]]
        assert np.allclose(row.logprobs[1:], own, atol=1e-4)

    def call(tokens, positions, *, edit):
        return tiny(tokens, positions)

    mine = lm.Uncached(call, context=64)
    sampled = export(
        mine,
        rows[:3],
        tmp_path / "s",
        sampling=Sampling(2, 5),
        dtype="float32",
        name="mine",
        **USUAL,
    )
    assert sampled.layers == (0, 1) and len(sampled) == 6
    for row in sampled:
        assert np.allclose(row.states[0], TABLE[row.tokens])
    again = export(mine, rows, tmp_path / "u", dtype="float32", name="mine", **USUAL)
    assert np.array_equal(again.states(4, 1), store.states(4, 1))
    with pytest.raises(BadArgument, match="cannot be told from others"):
        export(mine, rows, tmp_path / "v", **USUAL)
    with pytest.raises(BadArgument, match="must be wrapped"):
        export(tiny, rows[:3], tmp_path / "t", sampling=Sampling(), quiet=True)


def test_neither_order_nor_batch_size_changes_what_a_row_is(model, read, tmp_path):
    order = [3, 1, 4, 0, 2]
    other = export(
        model, [TEXTS[k] for k in order], tmp_path / "s", layers=LAYERS, dtype="float32",
        batch_tokens=1024, quiet=True,
    )  # fmt: skip
    for place, k in enumerate(order):
        assert np.allclose(other.states(place, 6), read.states(k, 6), atol=1e-3)


def test_views_are_of_the_file_and_cannot_be_written(read):
    x = read.states(0, 3)
    assert x.base is not None and not x.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 0.0
    assert x.ctypes.data == read.states(0, 3).ctypes.data


def test_indexing_and_splits(tmp_path):
    store = make(tmp_path / "s", 40)
    assert len(store[3:9]) == 6 and store[3:9].rows.tolist() == list(range(3, 9))
    odd = store[np.arange(40) % 2 == 1]
    assert odd.rows.tolist() == list(range(1, 40, 2))
    assert np.array_equal(odd.states(4, 1), store.states(9, 1))
    assert odd[2:5].rows.tolist() == [5, 7, 9] and store[-1].number == 39
    parts = [store.split(name) for name in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert sorted(np.concatenate([part.docs for part in parts]).tolist()) == list(range(40))
    other = store.split("test", seed=1)
    assert other.docs.tolist() != parts[2].docs.tolist()
    for view in (store, odd, parts[0], store[:0]):
        got = [chunk for chunk in view.chunks(1, 16)]
        sizes = [len(chunk) for chunk in got]
        assert all(16 <= n < 48 for n in sizes[:-1])
        order = np.argsort(view._at)
        want = [view.states(int(k), 1) for k in order]
        assert not want or np.array_equal(np.concatenate(got), np.concatenate(want))
    for wrong in (40, -41):
        with pytest.raises(IndexError, match="There are 40 rows"):
            store[wrong]
    for wrong in ("a", np.zeros((2, 2), int), 1.5):
        with pytest.raises(BadArgument, match="index it by"):
            store[wrong]
    with pytest.raises(BadArgument, match="This store has the layers"):
        store.states(0, 7)
    with pytest.raises(BadArgument, match="The splits are"):
        store.split("dev")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(dtype="int8"), "`dtype` is 'int8'. Use bfloat16"),
        (dict(stride=0), "`stride` is 0"),
        (dict(layers=(9,)), "`layers` names layer 9"),
        (dict(layers=()), "`layers` is empty"),
        (dict(max_tokens=9999), "`max_tokens` is 9999. The context"),
        (dict(batch_tokens=0), "`batch_tokens` is 0"),
        (dict(sampling=Sampling(temperature=-1.0)), "`temperature` is -1.0. Use 0"),
        (dict(sampling=Sampling(temperature=())), "`temperature` is an empty list"),
        (dict(sampling=Sampling(budget=10_000)), "`budget` is 10000"),
        (dict(sampling=Sampling(samples=0)), "`samples` is 0"),
        (dict(documents=[]), "`documents` holds no text"),
        (dict(documents="a text"), "`documents` is one text"),
        (dict(documents=[[1, 2, 10**6]]), "10000"),
        (dict(shares={"train": 2.0}), "`shares`"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(unchecked, model, tmp_path, settings, sentence):
    documents = settings.pop("documents", TEXTS)
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        export(model, documents, tmp_path / "s", **USUAL | settings)
    assert not (tmp_path / "s" / "manifest.json").exists()


def test_a_folder_without_a_store_is_a_sentence(tmp_path):
    with pytest.raises(BadArgument, match="holds no store"):
        open_store(tmp_path)
    assert dynlm.open_store is open_store


def test_numbers_of_numpy_are_numbers(unchecked, tmp_path):
    whole, share = np.int64, np.float32
    settings = dict(stride=whole(2), top=whole(1), batch_tokens=whole(64), max_tokens=whole(20))
    shares = {"test": share(0.5), "train": share(0.5)}
    store = make(tmp_path / "a", **settings, shares=shares, split_seed=whole(3))
    assert store.stride == 2 and len(store.split("train")) >= 1
    call = lm.Uncached(lambda tokens, positions, *, edit: tiny(tokens, positions), context=64)
    sampling = Sampling(
        whole(2), whole(3), np.linspace(0.5, 1.0, 2), seed=whole(1), stop=(whole(3),)
    )
    drawn = export(call, texts(2), tmp_path / "b", sampling=sampling, name="tiny", quiet=True)
    assert drawn.column("temperature").tolist() == [0.5, 0.5, 1.0, 1.0] * 2
    other = Sampling(2, 3, (0.5, 1), seed=1, stop=(3,))
    assert len(export(call, texts(2), tmp_path / "b", sampling=other, name="tiny", quiet=True)) == 8


def test_a_prompt_with_a_number_called_like_a_setting_is_refused(tmp_path):
    prompt = lm.Document([1, 2, 3], columns={"temperature": 0.0})
    mine = lm.Uncached(lambda tokens, positions, *, edit: tiny(tokens, positions), context=64)
    with pytest.raises(BadArgument, match="a number called 'temperature'"):
        export(mine, [prompt], tmp_path / "s", sampling=Sampling(budget=5), name="tiny", quiet=True)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda logits, x: (logits * np.nan, x), "Log-probabilities of tokens are NaN"),
        (lambda logits, x: (logits, {0: x[0][:, :1]}), "of shape .* for tokens of"),
        (lambda logits, x: (logits[:1, :1], x), "The model returns logits of shape"),
        (lambda logits, x: (logits, {0: x[0].at[:, 0].set(np.nan)}), "States of layer 0 are NaN"),
    ],
)
def test_what_no_model_should_return_is_refused(tmp_path, spoil, sentence):
    with pytest.raises(BadArgument, match=sentence):
        export(
            lambda tokens, positions: spoil(*tiny(tokens, positions)),
            texts(4), tmp_path / "s", layers=(0,), name="spoilt", **USUAL,
        )  # fmt: skip
