"""What one batch of an export becomes: states, tokens and scores of each row, without padding."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._io import BadArgument
from ..store._format import tensor_name
from ._decoder import Decoder
from ._decoding import Decoding
from ._foreign import Uncached
from ._names import Layers, Name
from ._plan import Plan, Sizes
from ._sample import Sampled, sample
from ._score import Scores, score_text
from ._static import Static, join, split

Parts = dict[str, list[np.ndarray]]


@final
class Keep(NamedTuple):
    """What is kept of a row: which layers, in which type, every `stride`-th state, top tokens."""

    layers: tuple[Name, ...]
    dtype: np.dtype
    stride: int
    top: int


@final
class Reading:
    """Texts as they are.

    Args:
        model: A decoder, or a callable of the contract, which is called as it is.
    """

    def __init__(self, model: Any, keep: Keep, sizes: Sizes) -> None:
        self.keep, self.sizes = keep, sizes
        if isinstance(model, Decoder):
            self.read: Callable[..., Any] = partial(_read, *split((model,)))
        else:
            self.read = partial(_call, model)

    def start(self, plan: Plan, rows: Int[np.ndarray, " row"]) -> Any:
        """States and scores, on their way."""
        longest = int(plan.lengths(rows).max())
        count, time = self.sizes.count(longest), self.sizes.time(longest)
        tokens = np.zeros((count, time), np.int32)
        positions = np.full((count, time), -1, np.int32)
        full = [*rows.tolist(), *[int(rows[-1])] * (count - len(rows))]  # repeats its last row
        for place, number in enumerate(full):
            row = plan.row(number)
            tokens[place, : len(row)] = row
            positions[place, : len(row)] = np.arange(len(row))
        return self.read(jnp.asarray(tokens), jnp.asarray(positions), self.keep)

    def parts(self, plan: Plan, rows: Int[np.ndarray, " row"], begun: Any) -> Parts:
        """The same row by row, as views."""
        scores, states, sound = begun
        check_sound(self.keep, sound)
        lengths = plan.lengths(rows)
        out: Parts = {"tokens": [plan.row(row) for row in rows.tolist()]}
        for name, x in named(scores, self.keep).items():
            x = np.asarray(x)
            out[name] = [x[k, :n] for k, n in enumerate(lengths)]
        for name, x in states.items():
            x = np.asarray(x)
            kept = -(-lengths // self.keep.stride)
            out[tensor_name(name)] = [x[k, :n] for k, n in enumerate(kept)]
        return out


@final
class Continuing:
    """Prompts, and what is sampled after each; a row has its own key and settings.

    Args:
        settings: Names of the settings that are columns of the plan.
    """

    def __init__(
        self,
        model: Decoder | Uncached,
        keep: Keep,
        sizes: Sizes,
        *,
        seed: int,
        settings: Sequence[str],
        stop: Sequence[int],
    ) -> None:
        self.model, self.keep, self.sizes = model, keep, sizes
        self.key, self.settings, self.stop = jr.key(seed), tuple(settings), tuple(stop)

    def start(self, plan: Plan, rows: Int[np.ndarray, " row"]) -> Any:
        """Samples, on their way."""
        count = self.sizes.count(int(plan.lengths(rows).max()))
        full = rows[np.minimum(np.arange(count), len(rows) - 1)]
        values = plan.values_of(full)
        at = {name: plan.columns.index(name) for name in self.settings}
        sampled = sample(
            self.model,
            [plan.row(row) for row in full.tolist()],
            key=_keys(self.key, jnp.asarray(full.astype(np.uint32))),
            budget=self.sizes.more,
            decoding=Decoding(**{name: values[:, k] for name, k in at.items()}),
            stop=self.stop,
            layers=self.keep.layers,
            top=self.keep.top,
        )
        keep = self.keep._replace(stride=1)
        states, sound = _kept(sampled.states, sampled.scores, sampled.positions, keep)
        return sampled._replace(states=Layers()), states, sound

    def parts(self, plan: Plan, rows: Int[np.ndarray, " row"], begun: Any) -> Parts:
        """The same row by row, without the empty slots between a prompt and its continuation."""
        sampled: Sampled = begun[0]
        check_sound(self.keep, begun[2])
        at = [np.flatnonzero(x >= 0) for x in np.asarray(sampled.positions)[: len(rows)]]
        tokens = np.asarray(sampled.tokens)
        out: Parts = {"tokens": [tokens[k][slots] for k, slots in enumerate(at)]}
        for name, x in named(sampled.scores, self.keep).items():
            x = np.asarray(x)
            out[name] = [x[k][slots] for k, slots in enumerate(at)]
        for name, x in begun[1].items():
            x = np.asarray(x)
            step = self.keep.stride
            out[tensor_name(name)] = [x[k][slots[::step]] for k, slots in enumerate(at)]
        return out


Pass = Reading | Continuing  # begins a batch, in the background; and takes what came of it


def named(scores: Scores, keep: Keep) -> dict[str, Any]:
    """Scores by the names that they have in a shard."""
    found = scores._asdict()
    return found if keep.top else {name: found[name] for name in ("logprobs", "entropies")}


def check_sound(keep: Keep, sound: Bool[Array, " one"]) -> None:
    """Refuses states that are not finite, or do not fit their type, and scores that are NaN."""
    bad = [name for name, ok in zip(keep.layers, np.asarray(sound)) if not ok]
    if bad:
        advice = (
            "Choose bfloat16 or float32."
            if keep.dtype == np.float16
            else "Check the weights of the model."
        )
        raise BadArgument(
            f"States of layer {bad[0]!r} are NaN, infinite or too large for {keep.dtype}. {advice}"
        )
    if not sound[-1]:
        raise BadArgument("Log-probabilities of tokens are NaN. Check the logits of the model.")


@partial(jax.jit, static_argnames=("rest", "keep"))
def _read_decoder(
    arrays: list[Any],
    tokens: Int[Array, "batch time"],
    positions: Int[Array, "batch time"],
    *,
    rest: Static,
    keep: Keep,
) -> tuple[Scores, Layers, Bool[Array, " layer"]]:
    (decoder,) = join(arrays, rest)
    out = decoder(tokens, positions, layers=keep.layers)
    scores = score_text(lambda x: decoder.unembed(x), out.final, tokens, positions, keep.top)
    return scores, *_cut(out.states, scores, positions, keep)


def _read(arrays: list[Any], rest: Static, tokens: Array, positions: Array, keep: Keep) -> Any:
    return _read_decoder(arrays, tokens, positions, rest=rest, keep=keep)


def _call(model: Callable[..., Any], tokens: Array, positions: Array, keep: Keep) -> Any:
    logits, states = model(tokens, positions)
    absent = [name for name in keep.layers if name not in states]
    if absent:
        raise BadArgument(
            f"`layers` names {absent}, which the model does not return. It returns the states of "
            f"{list(states)}."
        )
    chosen = Layers({name: jnp.asarray(states[name]) for name in keep.layers})
    for what, x in {"logits": logits, **{f"layer {k!r}": x for k, x in chosen.items()}}.items():
        if np.ndim(x) != 3 or np.shape(x)[:2] != tokens.shape:
            raise BadArgument(
                f"The model returns {what} of shape {np.shape(x)} for tokens of {tokens.shape}. "
                "They must be (batch, time, dim)."
            )
    scores = _scores(jnp.asarray(logits), tokens, positions, keep.top)
    return scores, *_kept(chosen, scores, positions, keep)


@partial(jax.jit, static_argnums=3)
def _scores(
    logits: Float[Array, "batch time vocab"], tokens: Array, positions: Array, top: int
) -> Scores:
    return score_text(lambda x: x.astype(jnp.float32), logits, tokens, positions, top)


def _cut(
    states: Layers, scores: Scores, positions: Int[Array, "batch time"], keep: Keep
) -> tuple[Layers, Bool[Array, " one"]]:
    """The states that are kept, in their type; by layer whether all are finite, and the scores."""
    real = positions[:, :: keep.stride] >= 0
    cut = Layers({k: x[:, :: keep.stride].astype(keep.dtype) for k, x in states.items()})
    sound = [jnp.all(jnp.isfinite(cut[k]) | ~real[:, :, None]) for k in keep.layers]
    scored = jnp.all(~jnp.isnan(scores.logprobs) | (positions <= 0))  # -inf may be right
    return cut, jnp.stack([*sound, scored])


_kept = jax.jit(_cut, static_argnums=3)


@jax.jit
def _keys(key: Any, rows: Any) -> Any:
    return jax.vmap(jr.fold_in, in_axes=(None, 0))(key, rows)
