"""`decoded`: what simulated states say of the next tokens, through the model's own unembedding."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .. import stats
from .._io import BadArgument, counted
from .._types import RandomKey
from ..analysis.findings import Finding, finding, withheld
from ..predict._steps import on_host
from ..stats import Interval
from ..store import Projection
from ..trajectory import Trajectory
from ._token_sums import TokenSums, forecast_sums, known_sums
from ._unembedded import (
    decoder_of,
    linear_family,
    predictors_of,
    rows_at_once,
    states_at,
    texts_of,
)

REFERENCES = ("model", "projected", "unigram")
BASELINES = ("linear", "iid", "random walk")
CALLED = {
    "linear": "the linear one",
    "iid": "that of i.i.d. states",
    "random walk": "that of a state that stays",
    "unigram": "the shares of tokens",
}


@final
class Decoded(NamedTuple):
    """What each predictor knows of the text, by horizon.

    Beside the predictors there are "model" (which has read the tokens between), "projected" (its
    own state through the projection: what that alone loses), "unigram" (the shares of tokens in
    the training text), and the baselines "linear", "iid" and "random walk".

    Args:
        horizons: Steps from the last state that was seen to the one that is unembedded.
        score: Of the token after that state: mean log probability, in nats. Higher is better.
        divergence: From the model, which has read the text up to that state, in nats.
        lost: Why a predictor has none.
        positions: How many states were forecast at each horizon.
        documents: Of how many documents.
        findings: What follows.
    """

    horizons: tuple[int, ...]
    score: dict[str, tuple[Interval, ...]]
    divergence: dict[str, tuple[Interval, ...]]
    lost: dict[str, str]
    positions: tuple[int, ...]
    documents: int
    findings: tuple[Finding, ...]


def decoded(
    model: Any,
    predictors: Mapping[str, Any],
    projection: Projection,
    sequences: Sequence[Any],
    docs: Any,
    *,
    train: Trajectory,
    counts: Float[np.ndarray, " vocab"] | Int[np.ndarray, " vocab"],
    key: RandomKey,
    seed: int = 0,
    horizons: tuple[int, ...] = (1, 2, 4, 8),
    draws: int = 32,
    origins: int = 8,
    burn: int = 1,
) -> Decoded:
    r"""$q_k = \frac1n \sum_i \mathrm{softmax}(W\,\mathrm{lift}(z^i_{t+k}))$ against what comes.

    The state at t determines the model's law of token t + 1. One drawn k steps later says
    something of token t + k + 1 without knowing those between: its log probability there is a
    proper score. The divergence is from the model that knows them, so no forecast can reach zero.

    Args:
        model: A `LanguageModel`, or a decoder of its contract.
        predictors: Runs, predictors or SDEs of layer "final" by name.
        projection: Of layer "final", the one that they were fitted with.
        sequences: Token ids of held-out texts.
        docs: The document of each.
        train: Paths of training states in the same components, for the baselines.
        counts: How often each token stands in the training text; one is added to each.
        key: Of the draws.
        seed: Of the bootstrap.
        horizons: Steps ahead.
        draws: Simulated states for each forecast.
        origins: Forecasts of a row start from at most so many states.
        burn: States at the start of a row that no forecast starts from.
    """
    _check(horizons, draws, origins, burn)
    decoder, texts = decoder_of(model), texts_of(sequences, docs, least=burn + 2 + min(horizons))
    reach = texts.tokens.shape[1] - 2 - burn  # from the first origin to the last state but one
    if max(horizons) > reach:
        raise BadArgument(
            f"`horizons` is {horizons}. The longest row allows up to {reach}: leave out more."
        )
    models = predictors_of(predictors, (*REFERENCES, *BASELINES)) | linear_family(train, burn)
    tokens = jnp.asarray(texts.tokens)
    states = states_at(decoder, projection, tokens, jnp.asarray(texts.positions), "final")
    shape = jax.eval_shape(lambda d, x: d.unembed(x), decoder, states.final[:, 0])
    vocab = shape.shape[-1]
    fixed: dict[str, Any] = {"horizons": horizons, "origins": origins, "burn": burn}
    known = known_sums(decoder, projection, _unigram(counts, vocab), states, tokens, **fixed)
    sums: dict[str, TokenSums] = {k: on_host(x) for k, x in zip(REFERENCES, known, strict=True)}
    fixed |= {"key": key, "draws": draws}
    size = rows_at_once(draws * len(horizons) * vocab)
    for name, one in models.items():
        found = forecast_sums(decoder, projection, one, states, tokens, **fixed, size=size)
        sums[name] = on_host(found)
    return _compared(sums, tuple(predictors), horizons, texts.docs, seed)


def _check(horizons: tuple[int, ...], draws: int, origins: int, burn: int) -> None:
    if not horizons or min(horizons) < 1 or len(set(horizons)) < len(horizons):
        raise BadArgument(f"`horizons` is {horizons}. Use different whole numbers from 1 on.")
    for name, value, least in (("draws", draws, 2), ("origins", origins, 1), ("burn", burn, 0)):
        if value < least:
            raise BadArgument(f"`{name}` is {value}. Use {least} or more.")


def _unigram(counts: Any, vocab: int) -> Float[np.ndarray, " vocab"]:
    counts = np.asarray(counts, float)
    if counts.shape != (vocab,) or not (counts >= 0).all():
        raise BadArgument(
            f"`counts` has shape {counts.shape}. Pass how often each of the {vocab} tokens stands "
            "in the training text: `np.bincount(tokens, minlength=vocab)`."
        )
    return np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)


def _compared(
    sums: dict[str, TokenSums],
    mine: tuple[str, ...],
    horizons: tuple[int, ...],
    docs: np.ndarray,
    seed: int,
) -> Decoded:
    count = sums["model"].count
    sound, lost = {}, {}
    for name, x in sums.items():
        if np.isfinite(x.score).all() and np.isfinite(x.divergence).all():
            sound[name] = x
        else:
            lost[name] = "a state that it draws, or what follows from it, is not finite"

    def over(columns: list[np.ndarray]) -> list[tuple[Interval, ...]]:
        """Means over forecasts, a tuple over horizons of each; all from the same resamples."""
        under = np.tile(count, (1, len(columns)))
        found = stats.ratios(np.concatenate(columns, axis=1), under, docs, seed=seed)
        n = len(horizons)
        return [tuple(found[k : k + n]) for k in range(0, len(found), n)]

    score = dict(zip(sound, over([x.score for x in sound.values()]), strict=True))
    apart = dict(zip(sound, over([x.divergence for x in sound.values()]), strict=True))
    findings: list[Finding] = []
    for a, b in ((a, b) for a in (*mine, "linear") for b in CALLED if a != b):
        gain = f"gain of the {a} forecast over {CALLED[b]}"
        saved = f"divergence from the model that the {a} forecast saves over {CALLED[b]}"
        if a in lost or b in lost:
            findings.append(withheld(gain, lost[a if a in lost else b]))
            continue
        one, two = sound[a], sound[b]
        gains, less = over([one.score - two.score, two.divergence - one.divergence])
        for what, of, unit in ((gain, gains, "nats a token"), (saved, less, "nats")):
            for h, x in zip(horizons, of, strict=True):
                findings.append(finding(f"{what} {counted(h, 'step')} ahead", x, 0.0, unit=unit))
    positions = tuple(int(n) for n in count.sum(axis=0))
    documents = len(np.unique(docs[count.sum(axis=1) > 0]))
    return Decoded(horizons, score, apart, lost, positions, documents, tuple(findings))
