"""A step written into one layer at one token, by cached decoding, and where the next token goes."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ..predict import AbstractPredictor
from ..predict._forecast import _carries
from ..predict._steps import by_rows
from ..trajectory import Trajectory
from ._unembedded import LogProbs, divergence, log_probs, rows_at_once


@final
class Foreseen(NamedTuple):
    """The final states that a prediction goes from and to, at each place."""

    now: Float[Array, "*places width"]
    after: Float[Array, "*places width"]


@final
class Moved(NamedTuple):
    """What each direction does at each place.

    Args:
        far: The divergence of the law at t from that at t + 1, unedited.
        edited: The divergence of the law at t, edited, from that at t + 1.
        agreement: The correlation of the change of log probabilities with that from t to t + 1.
        as_foreseen: With the change that was foreseen; NaN where nothing was.
        entropy: Of the edited law.
    """

    far: Float[Any, "*places"]
    edited: Float[Any, "*places direction"]
    agreement: Float[Any, "*places direction"]
    as_foreseen: Float[Any, "*places direction"]
    entropy: Float[Any, "*places direction"]


@eqx.filter_jit
def expected(
    model: AbstractPredictor, paths: Trajectory, at: Int[Array, "row origin"]
) -> Float[Array, "row origin dim"]:
    """The mean of the next state at some states of each path, one unit of time later."""

    def one(path: Trajectory, at: Int[Array, " origin"]) -> Float[Array, "origin dim"]:
        def mean(k: Int[Array, ""], carry: Any) -> Float[Array, " dim"]:
            return model.law(carry, path.ts[k] + 1).mean()

        return jax.vmap(mean)(at, _carries(model, path, at))

    return by_rows(one, (paths, at), 64)


@eqx.filter_jit
def moved(
    decoder: Any,
    tokens: Int[Array, "row time"],
    positions: Int[Array, "row time"],
    at: Int[Array, "row origin"],
    deltas: Float[Array, "row origin direction width"],
    chosen: Float[Array, " layer"],
    foreseen: Foreseen | None,
    names: tuple[Any, ...],
) -> Moved:
    """Each row is read once; then token t is read again for each direction, with it added.

    The cache holds the row as it is. The token's own old keys and values are hidden, and it sees
    only what stands before it, so that nothing but the edit differs from the first reading.
    """
    number = deltas.shape[2]

    def one(
        tokens: Int[Array, " time"],
        positions: Int[Array, " time"],
        at: Int[Array, " origin"],
        deltas: Float[Array, "origin direction width"],
        foreseen: Foreseen | None,
    ) -> Moved:
        length = 1 + jnp.max(positions, keepdims=True)
        empty = decoder.empty(1, len(tokens) + 1, length)
        out = decoder(tokens[None], positions[None], cache=empty, edit=None, layers=())

        def place(x: tuple[Array, Array, Any]) -> Moved:
            k, delta, foreseen = x
            delta = jnp.concatenate([jnp.zeros_like(delta[:1]), delta])

            def again(k: Int[Array, ""], delta: Float[Array, "direction width"]) -> Any:
                cache = jax.tree.map(lambda c: _repeated(c, number + 1), out.cache)
                cache = cache._replace(positions=cache.positions.at[:, k].set(-1))
                column = jnp.broadcast_to(k, (number + 1, 1))
                edit = {
                    name: jax.tree_util.Partial(_add, c * delta)
                    for c, name in zip(chosen, names, strict=True)
                }
                token = jnp.broadcast_to(tokens[k], (number + 1, 1))
                return decoder(token, column, cache=cache, edit=edit, layers=()).final[:, 0]

            log_q = log_probs(decoder, again(k, delta))
            target = log_probs(decoder, out.final[0, k + 1])
            change = None
            if foreseen is not None:
                both = (x.astype(out.final.dtype) for x in (foreseen.after, foreseen.now))
                after, now = (log_probs(decoder, x) for x in both)
                change = after - now
            return _measured(target, log_q[0], log_q[1:], change)

        return lax.map(place, (at, deltas, foreseen))

    vocab = jax.eval_shape(lambda d: d.unembed(jnp.zeros(deltas.shape[-1:], deltas.dtype)), decoder)
    size = min(8, rows_at_once(8 * number * vocab.shape[-1]))
    return by_rows(one, (tokens, positions, at, deltas, foreseen), size)


def _repeated(x: Array, times: int) -> Array:
    """A cache of one row for several; its slot number has no rows."""
    return x if x.ndim == 0 else jnp.broadcast_to(x, (times, *x.shape[1:]))


def _add(delta: Float[Array, "batch width"], x: Any, positions: Any) -> Any:
    del positions
    return x + delta[:, None].astype(x.dtype)


def _measured(
    target: LogProbs,
    before: LogProbs,
    edited: Float[Array, "direction vocab"],
    foreseen: LogProbs | None,
) -> Moved:
    weight = 0.5 * (jnp.exp(before) + jnp.exp(target))
    truth = target - before
    nothing = jnp.full(edited.shape[:1], jnp.nan, edited.dtype)

    def agreed(log_q: LogProbs, change: LogProbs) -> Float[Array, ""]:
        return _correlation(log_q - before, change, weight)

    return Moved(
        far=divergence(target, before),
        edited=jax.vmap(lambda q: divergence(target, q))(edited),
        agreement=jax.vmap(lambda q: agreed(q, truth))(edited),
        as_foreseen=nothing
        if foreseen is None
        else jax.vmap(lambda q: agreed(q, foreseen))(edited),
        entropy=-jnp.sum(jnp.exp(edited) * edited, axis=1),
    )


def _correlation(a: LogProbs, b: LogProbs, weight: LogProbs) -> Float[Array, ""]:
    """Weighted by how likely tokens are, so that the many that never come count for little."""
    weight = weight / jnp.sum(weight)
    a, b = a - weight @ a, b - weight @ b
    under = jnp.sqrt((weight @ a**2) * (weight @ b**2))
    return jnp.where(under > 0, (weight @ (a * b)) / jnp.where(under > 0, under, 1), 0)
