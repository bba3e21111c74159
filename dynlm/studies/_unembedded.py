"""Texts read by a model, its states in few components, and these as next-token distributions."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import baselines
from .._io import BadArgument
from ..losses import EulerMaruyama
from ..predict import AbstractPredictor, FromSDE
from ..predict._steps import by_rows
from ..sde import SDE
from ..store import Projection
from ..trajectory import Trajectory, time_dtype

AT_ONCE = 2**24  # logits that are held at a time

LogProbs = Float[Array, " vocab"]
Tokens = Int[Array, "row time"]


@final
class Texts(NamedTuple):
    """Token ids padded at the end, position -1 there, and the document of each row."""

    tokens: Int[np.ndarray, "row time"]
    positions: Int[np.ndarray, "row time"]
    docs: np.ndarray


@final
class States(NamedTuple):
    """What a model makes of texts.

    Args:
        paths: The states of one layer, projected, along the tokens.
        raw: The states themselves.
        final: The input of the unembedding.
    """

    paths: Trajectory
    raw: Float[Array, "row time width"]
    final: Float[Array, "row time width"]


def texts_of(sequences: Sequence[Any], docs: Any, *, least: int) -> Texts:
    """Rows of token ids as one array.

    Args:
        sequences: Token ids of each row.
        docs: The document of each row.
        least: How many tokens the longest row needs.
    """
    rows = [np.asarray(row) for row in sequences]
    docs = np.asarray(docs)
    if docs.shape != (len(rows),):
        raise BadArgument(
            f"`docs` has shape {docs.shape}, and there are {len(rows)} `sequences`. Pass the "
            "document of each."
        )
    wrong = [row for row in rows if row.ndim != 1 or row.dtype.kind not in "iu"]
    if wrong:
        raise BadArgument(
            f"`sequences` holds {wrong[0].dtype} of shape {wrong[0].shape}. Pass the token ids of "
            "each row: `model.ids(texts)`, or the tokens of a store's rows."
        )
    time = max((len(row) for row in rows), default=0)
    if time < least:
        raise BadArgument(
            f"`sequences` has at most {time} tokens in a row. Pass rows of {least} or more."
        )
    tokens = np.zeros((len(rows), time), np.int32)
    positions = np.full((len(rows), time), -1, np.int32)
    for k, row in enumerate(rows):
        tokens[k, : len(row)] = row
        positions[k, : len(row)] = np.arange(len(row))
    return Texts(tokens, positions, docs)


def decoder_of(model: Any) -> Any:
    """What reads tokens: of a `LanguageModel` its decoder, else the model itself.

    It is a pytree, called as `decoder(tokens, positions, edit=edit, layers=layers)`; what it
    returns has `states` by layer and `final`, of which `decoder.unembed` makes logits.
    """
    decoder = getattr(model, "decoder", model)
    if not (callable(decoder) and hasattr(decoder, "unembed")):
        raise BadArgument(
            f"`model` is a {type(model).__name__}. Pass what `dynlm.lm.load` returns, or a "
            "decoder of the same contract with `unembed`."
        )
    return decoder


def predictors_of(models: Any, taken: Sequence[str]) -> dict[str, AbstractPredictor]:
    """One-step predictors by name, of predictors, runs and SDEs (one Euler step to a token).

    Args:
        models: By name.
        taken: Names that others have.
    """
    if not models:
        raise BadArgument("`predictors` is empty. Pass a dict of names and runs or predictors.")
    found = {}
    for name, model in models.items():
        if name in taken:
            raise BadArgument(f"`predictors` has the name {name!r}, which is taken. Use another.")
        if isinstance(model, AbstractPredictor):
            found[name] = model
        elif isinstance(model, SDE):
            found[name] = FromSDE(model, EulerMaruyama())
        elif hasattr(model, "predictor"):
            found[name] = model.predictor()
        else:
            raise BadArgument(
                f"`predictors[{name!r}]` is a {type(model).__name__}. Pass a run, a predictor or "
                "an `SDE`."
            )
    return found


def linear_family(train: Trajectory, burn: int) -> dict[str, AbstractPredictor]:
    """VAR(1), i.i.d. states and the random walk, of one structure: they share compiled programs."""
    linear = baselines.var1(train, burn=burn)
    iid, walk = baselines.iid(train, burn=burn), baselines.random_walk(train, burn=burn)

    def made(matrix: np.ndarray, bias: Any, root: Any) -> AbstractPredictor:
        matrices = jnp.asarray(matrix[None], linear.bias.dtype)
        return baselines.Autoregressive(matrices, jnp.asarray(bias), root, linear.ridge)

    dim = len(linear.bias)
    zeros = np.zeros(dim, linear.bias.dtype)
    return {
        "linear": linear,
        "iid": made(np.zeros((dim, dim)), iid.mean, iid.root),
        "random walk": made(np.eye(dim), zeros, walk.root),
    }


def rows_at_once(held: int) -> int:
    """How many rows are worked on at a time, if each holds so many numbers."""
    return max(1, min(64, AT_ONCE // max(held, 1)))


def layers_of(decoder: Any, layer: Any) -> tuple[tuple[Any, ...], Float[np.ndarray, " layer"]]:
    """All layers of a decoder and a one at `layer`, so that no layer needs a program of its own.

    Of a decoder that does not say how deep it is, that layer and the last one.
    """
    depth = getattr(getattr(decoder, "config", None), "depth", None)
    names = (layer,) if depth is None else tuple(range(depth + 1))
    names = tuple(dict.fromkeys((*names, "final")))
    if layer not in names:
        raise BadArgument(f"`layer` is {layer!r}. This model has 0 to {depth}, and 'final'.")
    return names, np.array([name == layer for name in names], np.float32)


def states_at(
    decoder: Any, projection: Projection, tokens: Tokens, positions: Tokens, layer: Any
) -> States:
    """The states of texts at a layer, and those that are unembedded. Padding holds zeros."""
    names, chosen = layers_of(decoder, layer)
    return _read(decoder, projection, tokens, positions, jnp.asarray(chosen), names)


@eqx.filter_jit
def _read(
    decoder: Any,
    projection: Projection,
    tokens: Tokens,
    positions: Tokens,
    chosen: Float[Array, " layer"],
    names: tuple[Any, ...],
) -> States:
    def one(tokens: Int[Array, " time"], positions: Int[Array, " time"]) -> States:
        out = decoder(tokens[None], positions[None], edit=None, layers=names)
        real = positions >= 0
        states = {k: jnp.where(real[:, None], x[0], 0) for k, x in out.states.items()}
        raw = jnp.zeros_like(states["final"])
        for c, name in zip(chosen, names, strict=True):
            raw = raw + c.astype(raw.dtype) * states[name]
        z = jax.vmap(projection.project)(raw)
        z = jnp.where(real[:, None], z, 0)
        ts = jnp.arange(len(real), dtype=time_dtype(z.dtype))
        return States(Trajectory(ts, z, real), raw, states["final"])

    return by_rows(one, (tokens, positions), 16)


def log_probs(decoder: Any, final: Float[Array, "*axes width"]) -> Float[Array, "*axes vocab"]:
    """Next-token distributions of states after the last norm."""
    return jax.nn.log_softmax(decoder.unembed(final), axis=-1)


def divergence(log_p: LogProbs, log_q: LogProbs) -> Float[Array, ""]:
    r"""$\sum_i p_i (\log p_i - \log q_i)$ in nats."""
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), jnp.zeros((), p.dtype)))


def lifted(
    projection: Projection, z: Float[Array, "*axes kept"], dtype: Any
) -> Float[Array, "*axes width"]:
    """States that have these components, in the type that a model reads."""
    flat = jax.vmap(projection.lift)(z.reshape(-1, z.shape[-1]))
    return flat.reshape(*z.shape[:-1], flat.shape[-1]).astype(dtype)
