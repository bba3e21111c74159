"""`Config`: all that distinguishes one decoder from another, whatever family it comes from."""

from dataclasses import dataclass
from typing import Literal, final

from ._rope import rotary

Norm = Literal["rms", "layer"]
Residual = Literal["pre", "post", "sandwich", "parallel"]
QKNorm = Literal["none", "head", "whole"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@final
@dataclass(frozen=True)
class Rope:
    r"""Rotary positions: the pair $(x_j, x_{j+n})$ turns by the angle `frequencies[j]` a token.

    Args:
        frequencies: One angle for each of the $n$ pairs; dimensions beyond the first $2n$ stay.
        scale: What queries and keys are multiplied by while they turn.
        long: The frequencies of sequences longer than `switch` tokens, where those differ.
        switch: The length from which on, exclusive, `long` holds.
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0
    long: tuple[float, ...] | None = None
    switch: int = 0


@final
@dataclass(frozen=True)
class Layer:
    """What one layer may have to itself.

    Args:
        rope: Its rotary positions, if it has any.
        window: How many tokens back it sees, itself included; None for all of them.
        scale: What the products of queries and keys are multiplied by.
    """

    rope: Rope | None
    window: int | None
    scale: float


@final
@dataclass(frozen=True)
class Config:
    """A decoder: sizes, then where it departs from the layout of Llama.

    Args:
        family: The model type, in the words of Hugging Face.
        vocab: How many tokens there are.
        width: Of the residual stream.
        heads: Of queries.
        kv_heads: Of keys and values; a divisor of `heads`.
        head_dim: Of each head.
        hidden: Width inside the feed-forward part.
        context: The longest sequence that it was made for.
        layers: One entry a layer.
        norm: `"rms"`, or `"layer"` (which subtracts the mean and has a bias).
        norm_eps: Added to the variance.
        norm_shift: Added to the weights of every norm.
        residual: Where the norms stand. `"pre"`: before attention and feed-forward; `"post"`:
            after them, before their sum; `"sandwich"`: both; `"parallel"`: before, and both
            parts read the same state.
        qk_norm: Norms of queries and keys: `"none"`, one a `"head"`, or of the `"whole"` row.
        qkv_bias: Biases of queries, keys and values.
        out_bias: A bias after attention.
        mlp_bias: Biases of the feed-forward part.
        gated: The feed-forward part multiplies two projections.
        activation: Of the feed-forward part.
        learned_positions: Positions are learned vectors, added to the tokens'.
        embed_scale: What the tokens' vectors are multiplied by.
        attention_cap: `cap * tanh(x / cap)` of the scores, before masking.
        logit_cap: The same of the logits.
        tied: The unembedding is the transpose of the embedding.
    """

    family: str
    vocab: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    context: int
    layers: tuple[Layer, ...]
    norm: Norm = "rms"
    norm_eps: float = 1e-5
    norm_shift: float = 0.0
    residual: Residual = "pre"
    qk_norm: QKNorm = "none"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    activation: Activation = "silu"
    learned_positions: bool = False
    embed_scale: float = 1.0
    attention_cap: float | None = None
    logit_cap: float | None = None
    tied: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab", "width", "heads", "kv_heads", "head_dim", "hidden", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}. It must be at least 1.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"`heads` {self.heads} is no multiple of `kv_heads` {self.kv_heads}. Each head of "
                "keys and values serves the same number of queries."
            )
        if not self.layers:
            raise ValueError("`layers` is empty. A decoder has at least one layer.")
        for number, layer in enumerate(self.layers):
            if layer.rope is not None and 2 * len(layer.rope.frequencies) > self.head_dim:
                raise ValueError(
                    f"`layers[{number}].rope` turns {2 * len(layer.rope.frequencies)} dimensions "
                    f"of heads of {self.head_dim}. Give at most one frequency for two of them."
                )
            if layer.window is not None and layer.window < 1:
                raise ValueError(
                    f"`layers[{number}].window` is {layer.window}. A token sees itself: use 1 or "
                    "more, or None for no window."
                )

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self.layers)


def llama(
    *,
    vocab: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    context: int,
    kv_heads: int | None = None,
    theta: float = 10_000.0,
    tied: bool = True,
    norm_eps: float = 1e-5,
) -> Config:
    """A decoder of the Llama layout, for training from scratch."""
    if width % heads or (width // heads) % 2:
        raise ValueError(
            f"`width` {width} over `heads` {heads} must be an even number of dimensions a head."
        )
    head_dim = width // heads
    layer = Layer(Rope(rotary(head_dim, theta)), None, head_dim**-0.5)
    return Config(
        family="llama",
        vocab=vocab,
        width=width,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        context=context,
        layers=(layer,) * depth,
        norm_eps=norm_eps,
        tied=tied,
    )
