"""Training by random batches in one compiled loop. A trainer may take its place: `descend` alone
is used outside."""

from typing import Any, NamedTuple, TypeVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, Int

from .._types import RandomKey

ROUNDS = 25  # how often the held-out score is looked at
PART = 2048  # held-out transitions that are scored at a time

Model = TypeVar("Model", bound=eqx.Module)
Pairs = tuple[Float[Array, "step dim"], Float[Array, "step dim"]]
Held = tuple[Float[Array, "held dim"], Float[Array, "held dim"]]


@final
class Descent(NamedTuple):
    """How to train; see `mixture_density`. `average` is the share that a moving average keeps."""

    steps: int
    batch: int
    rate: float
    decay: float
    average: float = 0.99


@eqx.filter_jit
def descend(
    model: Model, pairs: Pairs, held: Held | None, *, key: RandomKey, how: Descent
) -> tuple[Model, Float[Array, " round"], Int[Array, ""]]:
    """Minimises the mean of `-model.logpdf(x, y)` over pairs; see `mixture_density`.

    Fields called `mean`, `deviation` and `floor` are not learned. From the first step whose loss is
    not finite on, nothing is learned any more.

    Returns:
        The moving average of the weights, where it was best on the held-out pairs if there are
        any; its scores on them; and the number of that first step, or 0.
    """
    learned, rest = eqx.partition(model, _learned(model))
    optimiser = _optimiser(how)
    x, y = pairs

    def loss(learned: Any, x: Array, y: Array) -> Array:
        return -jnp.mean(jax.vmap(eqx.combine(learned, rest).logpdf)(x, y))

    def step(carry: Any, key: RandomKey) -> tuple[Any, Array]:
        learned, average, state, sound = carry
        which = jr.randint(key, (how.batch,), 0, len(x))
        value, gradient = jax.value_and_grad(loss)(learned, x[which], y[which])
        sound = sound & jnp.isfinite(value)
        # Averaged is only what has had a finite loss, so whatever comes later does no harm.
        part = 1 - how.average
        average = jax.tree.map(
            lambda a, b: jnp.where(sound, a + part * (b - a), a), average, learned
        )
        with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to a whole number
            updates, state = optimiser.update(gradient, state, learned)
        learned = jax.tree.map(jnp.add, learned, updates)
        return (learned, average, state, sound), sound

    def rounds(carry: Any, keys: Any) -> tuple[Any, tuple[Array, Array]]:
        carry, best, least = carry
        carry, sound = lax.scan(step, carry, keys)
        done, average = jnp.sum(sound), carry[1]
        if held is None:
            return (carry, average, least), (least, done)
        log = lax.map(lambda z: eqx.combine(average, rest).logpdf(*z), held, batch_size=PART)
        score = -jnp.mean(log)
        better = score < least  # false for NaN
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), average, best)
        return (carry, best, jnp.where(better, score, least)), (score, done)

    number = min(ROUNDS, how.steps)
    each = -(-how.steps // number)
    keys = jr.split(key, (number, each))
    state = (learned, learned, optimiser.init(learned), jnp.asarray(True))
    start = (state, learned, jnp.asarray(jnp.inf, x.dtype))
    (_, best, _), (scores, done) = lax.scan(rounds, start, keys)
    failed = jnp.where(jnp.sum(done) < number * each, jnp.sum(done) + 1, 0)
    return eqx.combine(best, rest), scores, failed


def _optimiser(how: Descent) -> Any:
    import optax  # as long to load as all the rest

    rate = optax.warmup_cosine_decay_schedule(
        0.0, how.rate, max(1, how.steps // 20), max(2, how.steps), 0.01 * how.rate
    )
    return optax.chain(
        optax.clip_by_global_norm(10.0), optax.adamw(rate, b2=0.99, weight_decay=how.decay)
    )


def _learned(model: eqx.Module) -> Any:
    flags = jax.tree.map(eqx.is_inexact_array, model)
    names = ("mean", "deviation", "floor")
    return eqx.tree_at(lambda m: [getattr(m, name) for name in names], flags, [False] * 3)
