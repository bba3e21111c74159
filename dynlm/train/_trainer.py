"""`Trainer(init, step)`: one step of training as a pure function over any pytree."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast, final, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._types import RandomKey

Model = Any
Batch = PyTree[Array]
Loss = Callable[[Model, Batch, RandomKey], Float[Array, ""]]
T = TypeVar("T")


@runtime_checkable
class Optimiser(Protocol):
    """Any optimiser of Optax: `init(params)` and `update(gradient, moments, params)`."""

    @property
    def init(self) -> Callable: ...
    @property
    def update(self) -> Callable: ...


@final
class TrainState(eqx.Module):
    """All that training carries from step to step.

    Args:
        model: As it is trained, its parameters in the precision they were given in.
        moments: What the optimiser carries.
        average: The moving average of the parameters, or None.
        step: How many steps were taken, skipped ones included.
        rate: What every change is multiplied by: 1, or less after the guard has lowered it.
    """

    model: Model
    moments: PyTree
    average: PyTree
    step: Int[Array, ""]
    rate: Float[Array, ""]

    @property
    def smooth(self) -> Model:
        """The model with averaged parameters, where there is an average."""
        return self.model if self.average is None else eqx.combine(self.average, self.model)


@final
class Info(NamedTuple):
    """What a step shows.

    Args:
        loss: Of the batch, before the step.
        gradient: Norm of the gradient, before any clipping.
        sound: Whether both are finite, and the parameters that come of them. If not, the step has
            changed nothing but the count.
    """

    loss: Float[Array, ""]
    gradient: Float[Array, ""]
    sound: Bool[Array, ""]


@final
class Trainer(NamedTuple):
    """`init(model) -> state` and `step(state, batch, key) -> (state, info)`, both pure."""

    init: Callable[[Model], TrainState]
    step: Callable[[TrainState, Batch, RandomKey], tuple[TrainState, Info]]


def trainer(
    loss: Loss,
    optimiser: Optimiser,
    *,
    accumulate: int = 1,
    average: float | None = None,
    dtype: Any = None,
) -> Trainer:
    """Training of the floating-point arrays of a model by gradients of a loss.

    A step whose loss, gradient or change is not finite leaves all but the count as it was.

    Args:
        loss: A callable `(model, batch, key) -> scalar`. If it has a method `weight(batch)`, parts
            of a batch are averaged with these weights, and with equal ones otherwise. A part of
            weight zero is left out, whatever its loss.
        optimiser: Any of Optax, with schedules, clipping, decay, freezing as Optax has them.
        accumulate: Equal parts that a batch is worked off in, one after the other, to save memory.
        average: Decay of a moving average of the parameters, such as 0.999; the first steps average
            over fewer.
        dtype: Precision that the model's parameters are cast to inside the loss. Gradients and
            the parameters that are trained keep their own.
    """
    import optax  # as long to load as all the rest

    if accumulate < 1:
        raise ValueError(f"`accumulate` is {accumulate}. Use 1 or more.")
    if average is not None and not 0 <= average < 1:
        raise ValueError(f"`average` is {average}. Use a decay from 0 to below 1, or None.")

    def init(model: Model) -> TrainState:
        params = eqx.filter(model, eqx.is_inexact_array)
        if not jax.tree.leaves(params):
            raise ValueError(
                "`model` has no floating-point arrays, so there is nothing to train. Numbers that "
                "are to be learned must be JAX arrays."
            )
        kept = None if average is None else jax.tree.map(jnp.copy, params)
        step, rate = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
        return TrainState(model, optimiser.init(params), kept, step, rate)

    def step(state: TrainState, batch: Batch, key: RandomKey) -> tuple[TrainState, Info]:
        params, rest = eqx.partition(state.model, eqx.is_inexact_array)
        value, slope = _slope(loss, params, rest, batch, key, accumulate, dtype)
        norm = optax.tree.norm(slope)
        with jax.numpy_dtype_promotion("standard"):  # which Optax relies on in its schedules
            change, moments = optimiser.update(slope, state.moments, params)
        change = jax.tree.map(lambda x: x * state.rate.astype(x.dtype), change)
        # A finite gradient can make an infinite change: the model must never be what is not finite.
        sound = jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(change))
        moved = cast(PyTree, optax.apply_updates(params, change))
        kept = state.average
        if average is not None:
            early = (1 + state.step) / (10 + state.step)
            decay = jnp.minimum(average, early.astype(jnp.float32))
            kept = jax.tree.map(lambda a, p: a + (p - a) * (1 - decay).astype(p.dtype), kept, moved)
        new = (moved, moments, kept)
        moved, moments, kept = where(sound, new, (params, state.moments, state.average))
        model = eqx.combine(moved, rest)
        return TrainState(model, moments, kept, state.step + 1, state.rate), Info(
            value.astype(jnp.float32), norm.astype(jnp.float32), sound
        )

    return Trainer(init, step)


def where(condition: Bool[Array, ""], yes: T, no: T) -> T:
    """One tree or the other; leaves that are no arrays are alike in both."""
    pick = lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a  # noqa: E731
    return jax.tree.map(pick, yes, no)


def weighs(loss: Loss) -> bool:
    """Whether a loss says how much a batch counts; one that is made of others has `weighs`."""
    return getattr(loss, "weighs", hasattr(loss, "weight"))


def weight_of(loss: Loss, batch: Batch) -> Float[Array, ""]:
    """How much the loss of a batch counts where several are averaged."""
    weight = getattr(loss, "weight", None)
    one = jnp.ones((), jnp.float32)
    return one if weight is None else jnp.asarray(weight(batch)).astype(one.dtype)


def weighted(value: T, weight: Float[Array, ""]) -> T:
    """A tree times a weight. Nothing comes of a weight of zero, not even from NaN."""
    return jax.tree.map(
        lambda x: jnp.where(weight == 0, jnp.zeros_like(x), x * weight.astype(x.dtype)), value
    )


def cast_model(model: Model, dtype: Any) -> Model:
    """The model with its floating-point arrays in `dtype`, if there is one."""
    if dtype is None:
        return model
    floating = lambda x: eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: x.astype(dtype) if floating(x) else x, model)


def _slope(
    loss: Loss, params: PyTree, rest: PyTree, batch: Batch, key: RandomKey, parts: int, dtype: Any
) -> tuple[Float[Array, ""], PyTree]:
    """Loss and gradient of a batch, part by part."""

    @jax.value_and_grad
    def of(params: PyTree, batch: Batch, key: RandomKey) -> Float[Array, ""]:
        value = loss(cast_model(eqx.combine(params, rest), dtype), batch, key)
        return value.astype(jnp.float32) if value.dtype.itemsize < 4 else value

    if parts == 1:
        return of(params, batch, key)

    def split(x: Array) -> Array:
        if x.shape[0] % parts:
            raise ValueError(
                f"`accumulate` is {parts}, and a batch has {x.shape[0]} items. Make it a multiple."
            )
        # Every part takes items from all over the batch, so that each device has some of it.
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def add(total: tuple, part: tuple[Batch, RandomKey]) -> tuple[tuple, None]:
        weight = weight_of(loss, part[0])
        value, slope = of(params, *part)
        scaled = weighted((value, slope), weight)
        return jax.tree.map(jnp.add, total, (*scaled, weight)), None

    parted = jax.tree.map(split, batch)
    shape = jax.eval_shape(of, params, jax.tree.map(lambda x: x[0], parted), key)[0]
    start = jnp.zeros((), shape.dtype), jax.tree.map(jnp.zeros_like, params)
    zero = (*start, jnp.zeros((), jnp.float32))
    (value, slope, weight), _ = lax.scan(add, zero, (parted, jr.split(key, parts)))
    weight = jnp.where(weight > 0, weight, 1.0)
    return jax.tree.map(lambda s: s / weight.astype(s.dtype), (value, slope))
