"""`Decoder`: one Flax NNX module for every family that a `Config` can describe."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ._attention import attend, rotate
from ._config import Config, Layer, Rope
from ._names import Edit, Layers, Name, Positions, States, Tokens, check_name

Angles = tuple[Float[Array, "batch time pairs"], Float[Array, "batch time pairs"]]
KV = tuple[Float[Array, "batch heads slot dim"], Float[Array, "batch heads slot dim"]]

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


@final
class Cache(NamedTuple):
    """Keys and values of every token read so far, in arrays whose shapes never change.

    All rows of a batch write to the same slots. A row that has nothing to write there writes a
    token of position -1, which no other sees: so rows differ in length without moving.
    """

    keys: tuple[Float[Array, "batch kv_heads slot dim"], ...]
    values: tuple[Float[Array, "batch kv_heads slot dim"], ...]
    positions: Int[Array, "batch slot"]
    slot: Int[Array, ""]
    lengths: Int[Array, " batch"]


@final
class Out(NamedTuple):
    """What a decoder makes of some tokens: the input of the unembedding, and states by layer.

    `cache` is what it was given with these tokens in it, or None.
    """

    final: States
    states: Layers
    cache: Any


@final
class Here(NamedTuple):
    """Where the tokens being read stand, and which positions they may see.

    `slot` is where they go in the cache, if there is one.
    """

    positions: Positions
    seen: Int[Array, "batch slot"]
    slot: Int[Array, ""] | None


@final
class Norm(nnx.Module):
    """Root-mean-square or layer norm over the last axis, in float32 whatever the states are."""

    def __init__(self, config: Config, width: int, *, dtype: Any) -> None:
        self.centred = config.norm == "layer"
        self.eps, self.shift = config.norm_eps, config.norm_shift
        self.scale = nnx.Param(jnp.full(width, 1.0 - self.shift, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype)) if self.centred else None

    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        y = x.astype(jnp.float32)
        if self.centred:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + self.eps)
        along = (None,) * (x.ndim - 1)
        y = y * (self.scale[...].astype(jnp.float32) + self.shift)[along]
        if self.bias is not None:
            y = y + self.bias[...].astype(jnp.float32)[along]
        return y.astype(x.dtype)


@final
class Attention(nnx.Module):
    """Queries, keys and values, their norms and turns, and the way back to the stream."""

    def __init__(self, config: Config, layer: Layer, *, dtype: Any, rngs: nnx.Rngs) -> None:
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        width, bias = config.width, config.qkv_bias
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.layer, self.cap, self.per_head = layer, config.attention_cap, config.qk_norm == "head"
        self.q = linear(width, queries, bias=bias, dtype=dtype, rngs=rngs)
        self.k = linear(width, keys, bias=bias, dtype=dtype, rngs=rngs)
        self.v = linear(width, keys, bias=bias, dtype=dtype, rngs=rngs)
        self.o = linear(
            queries, width, bias=config.out_bias, dtype=dtype, rngs=rngs, depth=config.depth
        )
        normed = config.qk_norm != "none"
        sizes = (config.head_dim,) * 2 if self.per_head else (queries, keys)
        self.q_norm = Norm(config, sizes[0], dtype=dtype) if normed else None
        self.k_norm = Norm(config, sizes[1], dtype=dtype) if normed else None

    def __call__(
        self, x: States, here: Here, angles: Angles | None, cached: KV | None
    ) -> tuple[States, KV]:
        q = self.project(x, self.q, self.q_norm, self.heads)
        k = self.project(x, self.k, self.k_norm, self.kv_heads)
        v = self.project(x, self.v, None, self.kv_heads)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if cached is not None:
            k, v = (write(old, new, here.slot, axis=2) for old, new in zip(cached, (k, v)))
        mixed = attend(q, k, v, here.positions, here.seen, self.layer, self.cap)
        batch, heads, time, dim = mixed.shape
        return self.o(jnp.moveaxis(mixed, 1, 2).reshape(batch, time, heads * dim)), (k, v)

    def project(self, x: States, to: nnx.Linear, norm: Norm | None, heads: int) -> Array:
        """Heads first, as attention reads them; a norm of the whole row comes before the split."""
        y = to(x)
        if norm is not None and not self.per_head:
            y = norm(y)
        y = y.reshape(*y.shape[:2], heads, -1)
        if norm is not None and self.per_head:
            y = norm(y)
        return jnp.moveaxis(y, 2, 1)


@final
class Feedforward(nnx.Module):
    """`down(activation(gate(x)) * up(x))`, or without the gate."""

    def __init__(self, config: Config, *, dtype: Any, rngs: nnx.Rngs) -> None:
        width, hidden, bias = config.width, config.hidden, config.mlp_bias
        self.activation = config.activation
        make = partial(linear, width, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.gate = make() if config.gated else None
        self.up = make()
        self.down = linear(hidden, width, bias=bias, dtype=dtype, rngs=rngs, depth=config.depth)

    def __call__(self, x: States) -> States:
        act = ACTIVATIONS[self.activation]
        up = self.up(x)
        return self.down(act(up) if self.gate is None else act(self.gate(x)) * up)


@final
class Block(nnx.Module):
    """One layer: attention and feed-forward, each added to the stream that it read."""

    def __init__(self, config: Config, layer: Layer, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.parallel = config.residual == "parallel"
        before, after = config.residual != "post", config.residual in ("post", "sandwich")
        norms = [Norm(config, config.width, dtype=dtype) if on else None
                 for on in (before, after, before, after)]  # fmt: skip
        self.norm_attention, self.norm_attention_out, self.norm_mlp, self.norm_mlp_out = norms
        self.attention = Attention(config, layer, dtype=dtype, rngs=rngs)
        self.mlp = Feedforward(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: States, here: Here, angles: Angles | None, cached: KV | None
    ) -> tuple[States, KV]:
        mixed, kv = self.attention(through(self.norm_attention, x), here, angles, cached)
        middle = x + through(self.norm_attention_out, mixed)
        read = x if self.parallel else middle
        y = self.mlp(through(self.norm_mlp, read))
        return middle + through(self.norm_mlp_out, y), kv


@final
class Decoder(nnx.Module):
    """A causal language model.

    Args:
        config: Its sizes and layout.
        dtype: Of the parameters, and of the states.
        rngs: For the initial values: normal, their standard deviation .02, or less where the
            layers add up.
    """

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> None:
        self.config = config
        normal = nnx.initializers.normal(INIT)
        self.embed = nnx.Embed(
            config.vocab, config.width, param_dtype=dtype, embedding_init=normal, rngs=rngs
        )
        learned = partial(
            nnx.Embed, config.context, config.width, param_dtype=dtype, embedding_init=normal
        )
        self.positions = learned(rngs=rngs) if config.learned_positions else None
        self.blocks = nnx.List(
            [Block(config, layer, dtype=dtype, rngs=rngs) for layer in config.layers]
        )
        self.norm = Norm(config, config.width, dtype=dtype)
        head = partial(linear, config.width, config.vocab, bias=False, dtype=dtype)
        self.head = None if config.tied else head(rngs=rngs)

    def __call__(
        self,
        tokens: Tokens,
        positions: Positions,
        *,
        cache: Cache | None = None,
        edit: Mapping[Name, Edit] | None = None,
        layers: Collection[Name] = (),
    ) -> Out:
        """Reads `tokens`; a position of -1 marks padding.

        Args:
            tokens: What to read.
            positions: Where each token stands in its own row.
            cache: What the rows read before; None if nothing.
            edit: By layer, what replaces its states, as a function of them and their positions.
                Padding keeps its own.
            layers: Which states to return: 0 is the embedding, `depth` the last layer's output,
                `"final"` that after the last norm. All are as they are after editing.
        """
        edit, states = edit or {}, Layers()
        for argument, names in (("edit", edit), ("layers", layers)):
            for name in names:
                check_name(argument, name, self.config.depth)

        def mark(name: Name, x: States) -> States:
            if name in edit:
                x = edited(name, edit[name], x, positions)
            if name in layers:
                states[name] = x
            return x

        if cache is None:
            here, lengths = Here(positions, positions, None), 1 + jnp.max(positions, axis=1)
        else:
            seen = write(cache.positions, positions, cache.slot, axis=1)
            here, lengths = Here(positions, seen, cache.slot), cache.lengths
        angles = self.angles(positions, lengths)
        x = mark(0, self.embedded(tokens, positions))
        kept = []
        for number, (block, layer) in enumerate(zip(self.blocks, self.config.layers)):
            old = None if cache is None else (cache.keys[number], cache.values[number])
            x, kv = block(x, here, angles[layer.rope], old)
            x = mark(number + 1, x)
            kept.append(kv)
        x = mark("final", self.norm(x))
        if cache is not None:
            keys, values = zip(*kept)
            cache = Cache(keys, values, here.seen, cache.slot + tokens.shape[1], lengths)
        return Out(x, states, cache)

    def embedded(self, tokens: Tokens, positions: Positions) -> States:
        """The states of layer 0."""
        x = jnp.take(self.embed.embedding[...], tokens, axis=0)
        if self.config.embed_scale != 1.0:
            x = x * jnp.asarray(self.config.embed_scale, x.dtype)
        if self.positions is None:
            return x
        return x + jnp.take(self.positions.embedding[...], jnp.maximum(positions, 0), axis=0)

    def unembed(self, final: Float[Array, "*axes width"]) -> Float[Array, "*axes vocab"]:
        """Logits, in float32, of states after the last norm."""
        table = self.embed.embedding[...]
        logits = final @ table.T if self.head is None else self.head(final)
        logits, cap = logits.astype(jnp.float32), self.config.logit_cap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def empty(self, batch: int, slots: int, lengths: Int[Array, " batch"]) -> Cache:
        """A cache for `slots` tokens a row, of which row `i` is to hold `lengths[i]`."""
        shape = (batch, self.config.kv_heads, slots, self.config.head_dim)
        zeros = jnp.zeros(shape, self.embed.embedding[...].dtype)
        return Cache(
            keys=(zeros,) * self.config.depth,
            values=(zeros,) * self.config.depth,
            positions=jnp.full((batch, slots), -1, jnp.int32),
            slot=jnp.zeros((), jnp.int32),
            lengths=lengths,
        )

    def angles(
        self, positions: Positions, lengths: Int[Array, " batch"]
    ) -> dict[Rope | None, Angles | None]:
        """Scaled cosines and sines, once for each kind of rotary positions."""
        found: dict[Rope | None, Angles | None] = {None: None}
        for rope in {layer.rope for layer in self.config.layers}:
            if rope is None:
                continue
            turn = jnp.asarray(rope.frequencies, jnp.float32)[None, None]
            if rope.long is not None:
                long = jnp.asarray(rope.long, jnp.float32)[None, None]
                turn = jnp.where((lengths > rope.switch)[:, None, None], long, turn)
            angle = positions.astype(jnp.float32)[:, :, None] * turn
            found[rope] = (rope.scale * jnp.cos(angle), rope.scale * jnp.sin(angle))
        return found


INIT = 0.02


def linear(
    inside: int, outside: int, *, bias: bool, dtype: Any, rngs: nnx.Rngs, depth: int | None = None
) -> nnx.Linear:
    """A linear map; those that write to the stream start smaller, as `depth` pairs of them add."""
    deviation = INIT if depth is None else INIT / (2 * depth) ** 0.5
    init = nnx.initializers.normal(deviation)
    return nnx.Linear(
        inside, outside, use_bias=bias, param_dtype=dtype, kernel_init=init, rngs=rngs
    )


def edited(name: Name, edit: Edit, x: States, positions: Positions) -> States:
    """`edit(x, positions)` in the type of `x`, at real tokens alone.

    At padding, where the edit is given position 0, its values are not used: one that is not finite
    there would reach the others.
    """
    y = jnp.asarray(edit(x, jnp.maximum(positions, 0)))
    if y.shape != x.shape:
        raise ValueError(
            f"`edit[{name!r}]` returned shape {y.shape} for states of shape {x.shape}. Return one "
            "state for each: broadcast what is added."
        )
    return jnp.where((positions >= 0)[:, :, None], y.astype(x.dtype), x)


def through(norm: Norm | None, x: States) -> States:
    """`norm(x)`, or `x` where there is no norm."""
    return x if norm is None else norm(x)


def write(old: Array, new: Array, slot: Int[Array, ""] | None, *, axis: int) -> Array:
    """`old` with `new` from `slot` on."""
    assert slot is not None
    return jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis=axis)
