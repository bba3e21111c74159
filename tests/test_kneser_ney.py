"""The n-gram baseline against the same formula, written once more and slowly with dictionaries."""

import importlib
import math
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
VOCAB = 7


@pytest.fixture(scope="module")
def kn():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("_kneser_ney")
    patch.undo()


def text(length: int, seed: int = 0, vocab: int = VOCAB) -> np.ndarray:
    """A chain that likes some successors, and leaves the last token of the vocabulary out."""
    draw = np.random.default_rng(seed)
    table = draw.dirichlet(np.full(vocab - 1, 0.3), size=(vocab, vocab))
    tokens = [0, 1]
    while len(tokens) < length:
        tokens.append(int(draw.choice(vocab - 1, p=table[tokens[-2], tokens[-1]])))
    return np.array(tokens[:length])


class Slow:
    """Modified Kneser-Ney from strings of tokens in dictionaries, by recursion over the order."""

    def __init__(self, tokens: list[int], order: int, vocab: int) -> None:
        self.order, self.vocab = order, vocab
        self.counts: dict[int, Counter] = {n: Counter() for n in range(1, order + 1)}
        before = defaultdict(set)
        for end in range(len(tokens)):
            for n in range(1, order + 1):
                if end + 1 >= n:
                    gram = tuple(tokens[end + 1 - n : end + 1])
                    before[gram].add(tokens[end - n] if end >= n else "nothing")
                    if n == order:
                        self.counts[n][gram] += 1
        for gram, lefts in before.items():
            if len(gram) < order:
                self.counts[len(gram)][gram] = len(lefts)
        self.after = {n: defaultdict(dict) for n in range(1, order + 1)}
        for n, counter in self.counts.items():
            for gram, count in counter.items():
                self.after[n][gram[:-1]][gram[-1]] = count

    def discount(self, n: int, count: int) -> float:
        number = Counter(self.counts[n].values())
        if 0 in (number[k] for k in (1, 2, 3, 4)):
            return {1: 0.5, 2: 1.0}.get(count, 1.5)
        share = number[1] / (number[1] + 2 * number[2])
        values = [
            1 - 2 * share * number[2] / number[1],
            2 - 3 * share * number[3] / number[2],
            3 - 4 * share * number[4] / number[3],
        ]
        return (values if min(values) > 0 else [0.5, 1.0, 1.5])[min(count, 3) - 1]

    def p(self, word: int, history: tuple[int, ...]) -> float:
        history = history[max(0, len(history) - self.order + 1) :]
        n = len(history) + 1
        below = 1 / self.vocab if n == 1 else self.p(word, history[1:])
        followers = self.after[n].get(history)
        if followers is None:
            return below
        left = sum(self.discount(n, count) for count in followers.values())
        own = followers.get(word, 0)
        kept = own - self.discount(n, own) if own else 0.0
        return (kept + left * below) / sum(followers.values())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [12, 400])
def test_it_is_what_the_formula_says(kn, order, length):
    read, other = text(length), text(120, seed=1)
    slow = Slow(read.tolist(), order, VOCAB)
    expected = [
        -math.log(slow.p(int(other[k]), tuple(other[:k].tolist()))) for k in range(len(other))
    ]
    found = kn.nats(kn.fit(read, order, VOCAB), other)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_discounts_are_those_of_the_counts_and_not_the_fallback(kn):
    tables = kn.fit(text(400), 5, VOCAB).tables
    slow = Slow(text(400).tolist(), 5, VOCAB)
    for n in (4, 5):
        assert not np.array_equal(tables[n - 1].discounts, kn.FALLBACK)
        expected = [slow.discount(n, k) for k in (1, 2, 3)]
        np.testing.assert_allclose(tables[n - 1].discounts, expected, rtol=1e-12)


def test_probabilities_of_all_tokens_add_up_to_one(kn):
    read = text(400)
    model = kn.fit(read, 4, VOCAB)
    seen, unseen = read[10:13], np.full(3, VOCAB - 1)
    partly = np.array([VOCAB - 1, read[20], read[21]])
    short = np.array([VOCAB, VOCAB, read[5]])
    for history in (seen, unseen, partly, short, np.full(3, VOCAB)):
        grams = np.column_stack([np.tile(history, (VOCAB, 1)), np.arange(VOCAB)])
        p = kn.probabilities(model, grams)
        assert (p > 0).all()
        assert p.sum() == pytest.approx(1, abs=1e-12)


def test_a_longer_history_helps_where_the_text_has_one(kn):
    read, other = text(20_000), text(2_000)  # the same chain, of order 2
    by_order = [kn.nats(kn.fit(read, n, VOCAB), other).mean() for n in (1, 2, 3)]
    assert by_order[0] > by_order[1] + 0.05 and by_order[1] > by_order[2] + 0.05


def test_a_vocabulary_of_thousands_fits_and_is_fast(kn):
    draw = np.random.default_rng(0)
    read = (2048 * draw.random(200_000) ** 4).astype(np.int64)
    start = time.perf_counter()
    found = kn.nats(kn.fit(read, 5, 2048), read[:1000])
    assert time.perf_counter() - start < 20  # .4 s here
    assert np.isfinite(found).all() and found.mean() < np.log(2048)


@pytest.mark.parametrize(
    "tokens, order, words",
    [
        (np.zeros(9, int), 0, "`order` 0 .* from 1 to 21"),
        (np.zeros(9, int), 22, "`order` 22"),
        (np.zeros(2, int), 3, "`tokens` has 2 entries"),
        (np.array([0, VOCAB]), 2, "from 0 to 6"),
        (np.array([0, -1]), 2, "from 0 to 6"),
    ],
)
def test_what_cannot_be_counted_is_refused(kn, tokens, order, words):
    with pytest.raises(ValueError, match=words):
        kn.fit(tokens, order, VOCAB)
