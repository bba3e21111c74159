"""`LanguageModel`: a decoder, its tokenizer, and where both come from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._io import BadArgument
from .._types import concrete
from ._config import Config
from ._decoder import Decoder
from ._names import Batch, Edit, Ids, Layers, Name, Positions, RowKeys, Tokens, chosen, edits
from ._prompts import check_ids, check_room, check_rows, check_top, padded
from ._sample import DEFAULT, Sampled, sample
from ._score import Scores, score_text
from ._static import Static, join, split

Text = Sequence[str] | Batch


@final
@dataclass(frozen=True)
class Source:
    """What was loaded: the name asked for, its revision, and the files that held the weights."""

    name: str
    revision: str | None
    files: tuple[Path, ...]


HERE = Source("the model", None, ())


@final
@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A decoder with its tokenizer, and the contract that everything downstream uses.

        tokens, positions = model.batch(["Call me", "It was a dark and"])
        logits, states = model(tokens, positions)             # states[0], ..., states["final"]
        logits, states = model(tokens, positions, edit={3: fn}, layers=(3, 4))

    Its methods compile once for each shape. Inside your own `jax.jit`, use `model.decoder`, which
    is a pytree, as one of the arguments.

    Args:
        decoder: The Flax NNX module.
        tokenizer: Hugging Face's, or None.
        source: Where they come from; by default, from nowhere but here.
        stop: Tokens that end a text.
    """

    decoder: Decoder
    tokenizer: Any = None
    source: Source = HERE
    stop: tuple[int, ...] = ()

    @property
    def config(self) -> Config:
        """Sizes and layout."""
        return self.decoder.config

    def __call__(
        self,
        tokens: Tokens | np.ndarray,
        positions: Positions | np.ndarray | None = None,
        *,
        edit: Mapping[Name, Edit] | None = None,
        layers: Collection[Name] | None = None,
    ) -> tuple[Float[Array, "batch time vocab"], Layers]:
        """Logits, and states by layer.

        Args:
            tokens: Token ids, one row a sequence.
            positions: Where each token stands in its row, -1 for padding; by default 0, 1, 2, ...
                What comes out at padding means nothing.
            edit: By layer, a function of its states and their positions whose value takes their
                place. One made by `jax.tree_util.Partial(function, array)` is not compiled again
                when the array changes.
            layers: Whose states to return, by default all: 0 is the embedding, k the output of
                block k, `"final"` the input of the unembedding. The states are those after editing.
        """
        tokens, positions = self._checked(tokens, positions)
        names, changes = chosen(layers, self.config.depth), edits(edit, self.config.depth)
        arrays, rest = split((self.decoder, changes))
        return _logits(arrays, tokens, positions, rest=rest, layers=names)

    def score(
        self,
        tokens: Tokens | np.ndarray,
        positions: Positions | np.ndarray | None = None,
        *,
        edit: Mapping[Name, Edit] | None = None,
        layers: Collection[Name] | None = (),
        top: int = 0,
    ) -> tuple[Scores, Layers]:
        """Log-probabilities and entropies of the tokens themselves, and states by layer.

        In contrast to `model(...)` it never holds the logits of a whole text. The score of a
        token is under the distribution given all before it, so the first token has none (NaN),
        nor has one that does not follow the token before it in its row.
        """
        tokens, positions = self._checked(tokens, positions)
        check_top(top, self.config.vocab)
        names, changes = chosen(layers, self.config.depth), edits(edit, self.config.depth)
        arrays, rest = split((self.decoder, changes))
        return _scores(arrays, tokens, positions, rest=rest, layers=names, top=top)

    def sample(
        self,
        prompts: Text,
        *,
        key: RowKeys,
        budget: int,
        decoding: Any = DEFAULT,
        stop: Sequence[int] | None = None,
        layers: Collection[Name] | None = (),
        edit: Mapping[Name, Edit] | None = None,
        top: int = 0,
    ) -> Sampled:
        """Continues each prompt by up to `budget` tokens; see `dynlm.lm.sample`.

        Prompts are texts or token ids. `stop` is by default the tokens that end a text.
        """
        return sample(
            self.decoder,
            self.ids(prompts),
            key=key,
            budget=budget,
            decoding=decoding,
            stop=self.stop if stop is None else stop,
            layers=layers,
            edit=edit,
            top=top,
        )

    def batch(
        self, texts: Text, *, length: int | None = None
    ) -> tuple[Int[Array, "batch time"], Int[Array, "batch time"]]:
        """Tokens and positions of some texts, padded to a length that many batches share."""
        rows = self.ids(texts)
        check_rows(rows, self.config.vocab, "texts")
        check_room(rows, 0, self.config.context, "texts")
        return padded(rows, length=length, most=self.config.context)

    def ids(self, texts: Text) -> list[Ids]:
        """Token ids of some texts; rows that are ids already stay."""
        if isinstance(texts, str):
            raise BadArgument(
                f"A text stands where a list of texts is asked for. Write [{texts!r}]."
            )
        rows: list[Any] = list(texts)
        if not any(isinstance(row, str) for row in rows):
            return rows
        if self.tokenizer is None:
            raise BadArgument(f"{self.source.name} has no tokenizer. Give token ids.")
        return [self.tokenizer(row)["input_ids"] if isinstance(row, str) else row for row in rows]

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some token ids."""
        if self.tokenizer is None:
            raise BadArgument(f"{self.source.name} has no tokenizer. Read the ids as they are.")
        return self.tokenizer.decode([int(k) for k in ids], skip_special_tokens=True)

    def _checked(self, tokens: Any, positions: Any) -> tuple[Tokens, Positions]:
        shape = np.shape(tokens)
        if len(shape) != 2 or 0 in shape:
            raise BadArgument(
                f"`tokens` has shape {shape}. Give one row a sequence, (batch, time): `batch` "
                "makes them from texts."
            )
        if positions is None:
            positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        if np.shape(positions) != shape:
            raise BadArgument(
                f"`positions` has shape {np.shape(positions)} and `tokens` {shape}. Give one "
                "position a token."
            )
        known = concrete(tokens)
        if known is not None and not np.issubdtype(known.dtype, np.integer):
            raise BadArgument(f"`tokens` are of type {known.dtype}. Give token ids, as integers.")
        if known is not None:
            check_ids(known, self.config.vocab, "`tokens`")
        where = concrete(positions)
        if where is not None and not (-1 <= where.min() and where.max() < self.config.context):
            raise BadArgument(
                f"`positions` go from {where.min()} to {where.max()}. The context of this model "
                f"is {self.config.context} tokens: use 0 to {self.config.context - 1}, and -1 for "
                "padding."
            )
        return jnp.asarray(tokens, jnp.int32), jnp.asarray(positions, jnp.int32)


@partial(jax.jit, static_argnames=("rest", "layers"))
def _logits(
    arrays: list[Any],
    tokens: Tokens,
    positions: Positions,
    *,
    rest: Static,
    layers: tuple[Name, ...],
) -> tuple[Array, Layers]:
    decoder, edit = join(arrays, rest)
    out = decoder(tokens, positions, edit=edit, layers=layers)
    return decoder.unembed(out.final), out.states


@partial(jax.jit, static_argnames=("rest", "layers", "top"))
def _scores(
    arrays: list[Any],
    tokens: Tokens,
    positions: Positions,
    *,
    rest: Static,
    layers: tuple[Name, ...],
    top: int,
) -> tuple[Scores, Layers]:
    decoder, edit = join(arrays, rest)
    out = decoder(tokens, positions, edit=edit, layers=layers)
    return score_text(lambda x: decoder.unembed(x), out.final, tokens, positions, top), out.states
