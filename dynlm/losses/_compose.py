"""Losses for training: `loss(model, paths, key)`, a number for a batch of paths.

Any callable of that form will do. Those made here are modules and compare by what they are made
of, so that two that are alike are one to `jit`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol, final, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._io import BadArgument
from .._types import RandomKey
from ..train._trainer import weighs
from ..trajectory import Trajectory


@runtime_checkable
class Loss(Protocol):
    """What training asks of a loss."""

    def __call__(self, model: Any, paths: Trajectory, key: RandomKey, /) -> Float[Array, ""]: ...


@final
class Each(eqx.Module):
    """A loss of one path as a loss of a batch; see `each`."""

    loss: Callable
    keyed: bool = eqx.field(static=True)

    def __call__(self, model: Any, paths: Trajectory, key: RandomKey) -> Float[Array, ""]:
        check_batch(paths)

        def one(path: Trajectory, i: Array) -> Float[Array, ""]:
            if self.keyed:
                return self.loss(model, path, key=jr.fold_in(key, i))
            return self.loss(model, path)

        losses = jax.vmap(one)(paths, jnp.arange(len(paths.ys)))
        transitions = transitions_of(paths).astype(losses.dtype)
        total = jnp.sum(jnp.where(transitions > 0, transitions * losses, 0))
        return total / jnp.maximum(jnp.sum(transitions), 1)

    def weight(self, paths: Trajectory) -> Float[Array, ""]:
        """How many transitions the batch has: what its loss counts for among others."""
        return jnp.sum(transitions_of(paths)).astype(paths.ys.dtype)


def each(loss: Callable) -> Each:
    """A loss of a batch from one of a path, `loss(model, path)` or `loss(model, path, key)`.

    The mean over the paths, weighted by their seen transitions, so that what is a mean over the
    transitions of a path is one over those of the batch. A batch of padding gives 0. A loss that
    takes a `key` gets another for each path.
    """
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError) as error:
        raise BadArgument(
            f"`loss` is {loss!r}, whose arguments cannot be known. Pass a function of (model, "
            "path) or (model, path, key)."
        ) from error
    keyed = "key" in signature.parameters
    try:
        signature.bind(None, None, **({"key": None} if keyed else {}))
    except TypeError:
        raise BadArgument(
            f"`loss` is {loss!r}, which takes {signature}. Pass a function of (model, path) or "
            "(model, path, key), such as `functools.partial(losses.girsanov, p)` with an SDE p."
        ) from None
    return Each(comparable(loss), keyed)


@final
class Weighted(eqx.Module):
    """A weighted sum of losses; see `weighted`."""

    weights: tuple[Any, ...]
    losses: tuple[Callable, ...]

    def __call__(self, model: Any, paths: Trajectory, key: RandomKey) -> Float[Array, ""]:
        keys = jr.split(key, len(self.losses))
        values = [loss(model, paths, k) for loss, k in zip(self.losses, keys)]
        parts = [v * jnp.asarray(w, v.dtype) for w, v in zip(self.weights, values)]
        return jnp.sum(jnp.stack(parts))

    @property
    def weighs(self) -> bool:
        """Whether any of the losses says how much a batch counts."""
        return any(weighs(loss) for loss in self.losses)

    def weight(self, paths: Trajectory) -> Float[Array, ""]:
        """What the batch counts for to the first of the losses that says so."""
        for loss in self.losses:
            if weighs(loss):
                return loss.weight(paths)  # pyright: ignore[reportFunctionMemberAccess]
        return jnp.ones((), paths.ys.dtype)


def weighted(*terms: tuple[Any, Callable]) -> Weighted:
    """The weighted sum of losses of a batch: `weighted((1.0, a), (0.5, b))`.

    Each loss gets a key of its own. A weight that is an array is traced, and may change from step
    to step without compiling again.
    """
    for term in terms:
        if not isinstance(term, tuple) or len(term) != 2 or not callable(term[1]):
            raise BadArgument(f"`terms` holds {term!r}. Pass pairs of a weight and a loss.")
    if not terms:
        raise BadArgument("`terms` is empty. Pass pairs of a weight and a loss.")
    weights, losses = zip(*terms)
    return Weighted(weights, tuple(comparable(loss) for loss in losses))


@final
class Partial(eqx.Module):
    """A `functools.partial` that is equal to another of the same function and arguments."""

    function: Callable
    args: tuple[Any, ...]
    names: tuple[str, ...] = eqx.field(static=True)
    values: tuple[Any, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*self.args, *args, **(dict(zip(self.names, self.values)) | kwargs))


def comparable(function: Callable) -> Callable:
    """`function`; as a `Partial` if it is a `functools.partial`, which equals only itself."""
    if not isinstance(function, functools.partial):
        return function
    names = tuple(sorted(function.keywords))
    values = tuple(function.keywords[name] for name in names)
    return Partial(function.func, function.args, names, values)


def transitions_of(paths: Trajectory) -> Int[Array, " path"]:
    """How many transitions are seen of each path; one that takes no time is none."""
    moves = jnp.diff(paths.ts, axis=1) > 0
    return jnp.sum(paths.mask[:, :-1] & paths.mask[:, 1:] & moves, axis=1)


def check_batch(paths: Trajectory) -> None:
    """Refuse one path where a batch belongs."""
    if paths.ys.ndim != 3:
        raise BadArgument(
            f"`paths` has states {paths.ys.shape}. Pass a batch, (paths, time, dim): "
            "`dynlm.stack([path])` for one."
        )
