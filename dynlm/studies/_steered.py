"""`steered`: texts sampled with a step added at every new token, and how likely they are."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import baselines, stats
from .._io import BadArgument
from .._types import RandomKey
from ..analysis.findings import Finding, finding, shown
from ..predict import AbstractPredictor
from ..stats import Interval
from ..store import Projection
from ..trajectory import Trajectory
from ._directions import training_of
from ._unembedded import predictors_of

KINDS = ("unedited", "predicted", "linear", "to the mean", "random")
OTHERS = {
    "unedited": "no steps",
    "linear": "the linear model's steps",
    "to the mean": "steps to the mean state",
    "random": "steps in random directions",
}


@final
class Steered(NamedTuple):
    """Texts sampled with and without steps added, by kind.

    Args:
        layer: Where the steps were added.
        score: Mean log probability of the sampled tokens under the model as it is, in nats.
        entropy: Of the laws of the model as it is, along these texts.
        tokens: What was sampled, for each prompt.
        findings: What follows.
    """

    layer: int | str
    score: dict[str, Interval]
    entropy: dict[str, Interval]
    tokens: dict[str, list[Int[np.ndarray, " new"]]]
    findings: tuple[Finding, ...]


def steered(
    model: Any,
    predictor: Any,
    layer: int | str,
    projection: Projection,
    prompts: Sequence[Any],
    docs: Any,
    *,
    train: Trajectory,
    key: RandomKey,
    seed: int = 0,
    budget: int = 24,
    size: float = 1.0,
    burn: int = 1,
) -> Steered:
    r"""Samples with $x \to x + c\,(\mathrm{lift}(E[z' | z]) - \mathrm{lift}(z))$ at each new token.

    A step of equal length that the linear model predicts, towards the mean training state (which
    is what independent states predict), or in one random direction a text, is added likewise.
    Equal random numbers draw the tokens of one prompt, so that the kinds are compared in pairs.

    Likelihood rewards dull text: a model finds its own repetitions likely. Steps that lower the
    entropy of the laws gain likelihood by that alone, so each finding names what the entropy does.

    Args:
        model: A `LanguageModel`.
        predictor: A run, predictor or SDE of that layer's states, which is asked from the newest
            state alone.
        layer: Where to add.
        projection: Of that layer.
        prompts: Texts, or token ids.
        docs: The document of each.
        train: Paths of training states in the same components, for the linear model and the mean.
        key: Of what is sampled.
        seed: Of random directions and of the bootstrap.
        budget: Tokens to sample for each prompt.
        size: $c$.
        burn: Transitions out of a row's first `burn` states are left out of the linear model.
    """
    rows, docs = model.ids(prompts), np.asarray(docs)
    if docs.shape != (len(rows),):
        raise BadArgument(
            f"`docs` has shape {docs.shape}, and there are {len(rows)} `prompts`. Pass the "
            "document of each."
        )
    fit = predictors_of({"predicted": predictor}, ())["predicted"]
    linear = baselines.var1(train, burn=burn)
    mean = training_of(train, burn).mean
    count, times = len(rows), len(KINDS)
    rng = np.random.default_rng(seed)
    away = np.tile(rng.standard_normal((count, len(linear.bias))), (times, 1))
    kinds = np.repeat(np.eye(times)[:, 1:], count, axis=0)
    starts = np.tile([len(row) for row in rows], times)
    arrays = [jnp.asarray(x, jnp.float32) for x in (mean, away, kinds, size)]
    edit = jax.tree_util.Partial(
        _pushed, fit, projection, linear, *arrays, jnp.asarray(starts, jnp.int32)
    )
    keys = jax.random.split(key, count)
    sampled = model.sample(
        [*rows] * times,
        key=jnp.concatenate([keys] * times),
        budget=budget,
        edit={layer: edit},
        stop=(),
    )
    slots = np.asarray(sampled.positions) >= 0
    whole = [row[real] for row, real in zip(np.asarray(sampled.tokens), slots, strict=True)]
    tokens, positions = model.batch(whole)  # without the empty slots behind shorter prompts
    plain, _ = model.score(tokens, positions)
    return _compared(np.asarray(tokens), np.asarray(positions), plain, starts, docs, layer, seed)


def _pushed(
    fit: AbstractPredictor,
    projection: Projection,
    linear: baselines.Autoregressive,
    centre: Float[Array, " kept"],
    away: Float[Array, "batch kept"],
    kinds: Float[Array, "batch 4"],
    size: Float[Array, ""],
    starts: Int[Array, " batch"],
    x: Float[Array, "batch time width"],
    positions: Int[Array, "batch time"],
) -> Float[Array, "batch time width"]:
    """The edit: nothing, or one of four steps of one length, from the prompt's last token on."""

    def one(x: Array, position: Array, away: Array, kind: Array, start: Array) -> Array:
        z = projection.project(x)
        t = position.astype(z.dtype)
        mean = fit.law(fit.see(fit.start(), t, z), t + 1).mean()
        regressed = linear.matrix.astype(z.dtype) @ z + linear.bias.astype(z.dtype)
        others = regressed, centre.astype(z.dtype), z + away
        here = projection.lift(z)
        steps = jnp.stack([projection.lift(y) - here for y in (mean, *others)])
        length = jnp.linalg.norm(steps, axis=1, keepdims=True)
        steps = steps * (length[:1] / jnp.maximum(length, 1e-12))
        step = size.astype(z.dtype) * (kind.astype(z.dtype) @ steps)
        return x + jnp.where(position >= start - 1, step, 0).astype(x.dtype)

    along = jax.vmap(one, in_axes=(0, 0, None, None, None))
    return jax.vmap(along)(x, positions, away.astype(x.dtype), kinds, starts)


def _compared(
    tokens: Int[np.ndarray, "row time"],
    positions: Int[np.ndarray, "row time"],
    plain: Any,
    starts: Int[np.ndarray, " row"],
    docs: np.ndarray,
    layer: Any,
    seed: int,
) -> Steered:
    new = positions >= starts[:, None]
    count = new.sum(axis=1).reshape(len(KINDS), -1).T.astype(float)
    columns = {}
    for name in ("logprobs", "entropies"):
        x = np.where(new, np.asarray(getattr(plain, name), float), 0).sum(axis=1)
        columns[name] = x.reshape(len(KINDS), -1).T
    made = [stats.ratios(x, count, docs, seed=seed) for x in columns.values()]
    score, entropy = (dict[str, Interval](zip(KINDS, x, strict=True)) for x in made)
    gains, duller = (
        stats.ratios(_beyond(x / np.maximum(count, 1)), np.ones((len(docs), 1)), docs, seed=seed)
        for x in columns.values()
    )
    what = f"gain in likelihood of texts with predicted steps in layer {layer} over"
    findings = [
        finding(f"{what} {other}", gain, 0.0, unit="nats a token", note=_entropy(change))
        for other, gain, change in zip(OTHERS.values(), gains, duller, strict=True)
    ]
    rows = [row[mask] for row, mask in zip(tokens, new, strict=True)]
    texts = {kind: rows[k * len(docs) : (k + 1) * len(docs)] for k, kind in enumerate(KINDS)}
    return Steered(layer, score, entropy, texts, tuple(findings))


def _beyond(x: Float[np.ndarray, "text kind"]) -> Float[np.ndarray, "text other"]:
    """What the predicted steps have more than each other kind."""
    own = x[:, [KINDS.index("predicted")]]
    return own - x[:, [KINDS.index(other) for other in OTHERS]]


def _entropy(change: Interval) -> str:
    return (
        f"The entropy of the laws differs by {shown(change.value)} nats a token "
        f"[{shown(change.low)}, {shown(change.high)}], and dull text is likely text"
    )
