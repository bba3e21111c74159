"""What a rollout keeps: states, reductions or folds, and after which of its steps."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from .._types import State, concrete
from ..trajectory import Trajectory
from ._reductions import AbstractReduction
from ._stepper import Steps

States = Float[Array, "paths dim"]


class Recorder(NamedTuple):
    """What happens at a saved time, and what is left of it when the loop is over.

    Args:
        start: `(ys) -> carried`.
        keep: `(carried, t, ys, real) -> (carried, aside)`; `t` is a number, or one per path.
        left: `(carried, asides) -> tree`; what was put aside has a leading axis over saved times.
        join: what is left of two sets of paths, from what is left of each; or None where it has a
            leading axis over paths.
    """

    start: Callable[[States], PyTree[Array]]
    keep: Callable[..., tuple[PyTree[Array], PyTree[Array]]]
    left: Callable[[Any, Any], PyTree[Array]]
    join: Callable[[Any, Any], PyTree[Array]] | None


def _states(reduce: AbstractReduction | None) -> Recorder:
    """The states at each saved time, or a reduction over the paths at each."""
    if reduce is None:
        return Recorder(
            start=lambda ys: None,
            keep=lambda _, t, ys, real: (None, ys),
            left=lambda _, asides: jnp.swapaxes(asides, 0, 1),
            join=None,
        )
    return Recorder(
        start=lambda ys: None,
        keep=lambda _, t, ys, real: (None, reduce.of(ys, real)),
        left=lambda _, asides: asides,
        join=jax.vmap(reduce.join),
    )


class Reduced(NamedTuple):
    """A reduction at each saved time: the times, and `value` with a leading axis over them."""

    ts: Float[Array, " time"]
    value: Any


class AbstractSave(eqx.Module):
    """What is kept, and after which steps."""

    @abc.abstractmethod
    def after(self, steps: Steps) -> np.ndarray:
        """Increasing numbers of steps after which something is kept; 0 is the start."""

    @abc.abstractmethod
    def recorder(self) -> Recorder:
        """How it is kept."""

    @abc.abstractmethod
    def finish(self, left: Any, ts: Array) -> Any:
        """What the user sees; `ts` are the saved times."""


@final
class Last(AbstractSave):
    """The states at the end, an array (paths, dim); or a reduction of them."""

    reduce: AbstractReduction | None = None

    def __check_init__(self) -> None:
        if self.reduce is not None:
            _check_reduction("Last", self.reduce)

    def after(self, steps: Steps) -> np.ndarray:
        return np.array([steps.number])

    def recorder(self) -> Recorder:
        return _states(self.reduce)

    def finish(self, left: Any, ts: Array) -> Any:
        if self.reduce is None:
            return left[:, 0]
        return self.reduce.finish(jax.tree.map(lambda x: x[0], left))


@final
class Every(AbstractSave):
    """The states after 0, k, 2k, ... steps, a batched `Trajectory`; or a reduction of each.

    Args:
        k: Steps between saved times. Steps after the last multiple of `k` are not taken.
        reduce: A reduction over the paths, such as `Moments()`; it is returned as `(ts, value)`.
    """

    k: int = eqx.field(static=True, default=1)
    reduce: AbstractReduction | None = None

    def __check_init__(self) -> None:
        if self.reduce is not None:
            _check_reduction("Every", self.reduce)

    def after(self, steps: Steps) -> np.ndarray:
        return _multiples("k", self.k, 0, steps)

    def recorder(self) -> Recorder:
        return _states(self.reduce)

    def finish(self, left: Any, ts: Array) -> Any:
        return _at_times(self.reduce, left, ts)


@final
class AtSteps(AbstractSave):
    """The states after these numbers of steps, a batched `Trajectory`; or a reduction of each.

    Args:
        numbers: Increasing; 0 is the start.
    """

    numbers: tuple[int, ...] = eqx.field(static=True)
    reduce: AbstractReduction | None

    def __init__(
        self, numbers: Sequence[int] | np.ndarray, reduce: AbstractReduction | None = None
    ):
        known = np.asarray(numbers)
        if known.ndim != 1 or known.dtype.kind not in "iu":
            raise ValueError(
                f"`AtSteps({numbers!r})`: pass whole numbers, as in `AtSteps([0, 8])`."
            )
        self.numbers = tuple(int(n) for n in known)
        if reduce is not None:
            _check_reduction("AtSteps", reduce)
        self.reduce = reduce

    def after(self, steps: Steps) -> np.ndarray:
        numbers = np.asarray(self.numbers)
        inside = numbers.size and numbers[0] >= 0 and numbers[-1] <= steps.number
        if not inside or (np.diff(numbers) <= 0).any():
            raise ValueError(
                f"`AtSteps` is {list(self.numbers)}. Pass increasing numbers from 0 to "
                f"{steps.number}, the number of steps."
            )
        return numbers

    def recorder(self) -> Recorder:
        return _states(self.reduce)

    def finish(self, left: Any, ts: Array) -> Any:
        return _at_times(self.reduce, left, ts)


@final
class At(AbstractSave):
    """The states at these times, a batched `Trajectory`; or a reduction of each.

    Nothing is interpolated: each time is one at which a step ends. To have any times you like,
    pass them as `ts` of `rollout`, and `substeps` or `dt`.

    Args:
        ts: Increasing times.
    """

    ts: tuple[float, ...] = eqx.field(static=True)
    reduce: AbstractReduction | None

    def __init__(self, ts: ArrayLike | Sequence[float], reduce: AbstractReduction | None = None):
        known = concrete(ts)
        if known is None or known.ndim != 1 or not known.size:
            raise ValueError(f"`At({ts!r})`: pass one time or more, known outside `jit`.")
        self.ts = tuple(float(t) for t in known)
        if reduce is not None:
            _check_reduction("At", reduce)
        self.reduce = reduce

    def after(self, steps: Steps) -> np.ndarray:
        grid = steps.known()
        if grid is None:
            raise ValueError(
                "`save=At(...)`, but the steps of this rollout are traced, or differ from path to "
                "path. Use `AtSteps`, with the numbers of the steps."
            )
        wanted = np.asarray(self.ts)
        above = np.clip(np.searchsorted(grid, wanted), 1, steps.number)
        numbers = above - (wanted - grid[above - 1] < grid[above] - wanted)
        slack = 1e-5 * np.diff(grid).max() + 4 * np.spacing(np.abs(grid).max())
        off = np.abs(grid[numbers] - wanted) > slack
        if off.any() or (np.diff(numbers) <= 0).any():
            which = int(np.argmax(off)) if off.any() else int(np.argmax(np.diff(numbers) <= 0)) + 1
            raise ValueError(
                f"`save=At(...)` asks for {wanted[which]}, which is not the end of a step of its "
                f"own, after the time before it; the nearest is {grid[numbers[which]]}. Pass "
                "increasing times of the grid, or pass these times as `ts`, with `substeps` or "
                "`dt`."
            )
        return numbers

    def recorder(self) -> Recorder:
        return _states(self.reduce)

    def finish(self, left: Any, ts: Array) -> Any:
        return _at_times(self.reduce, left, ts)


@final
class Running(AbstractSave):
    """One reduction over all paths and saved times; memory does not grow with steps.

    Args:
        reduce: Such as `Moments()` or `Histogram(edges)`.
        every: Steps between the states that are counted.
        since: The number of the step from which on states are counted.
    """

    reduce: AbstractReduction
    every: int = eqx.field(static=True, default=1)
    since: int = eqx.field(static=True, default=0)

    def __check_init__(self) -> None:
        _check_reduction("Running", self.reduce)

    def after(self, steps: Steps) -> np.ndarray:
        return _multiples("every", self.every, self.since, steps)

    def recorder(self) -> Recorder:
        def start(ys: States) -> PyTree[Array]:
            return self.reduce.of(ys, jnp.zeros(ys.shape[0], bool))

        def keep(carried: Any, t: Array, ys: States, real: Bool[Array, " paths"]) -> Any:
            return self.reduce.join(carried, self.reduce.of(ys, real)), None

        return Recorder(start, keep, lambda carried, _: carried, self.reduce.join)

    def finish(self, left: Any, ts: Array) -> Any:
        return self.reduce.finish(left)


@final
class Fold(AbstractSave):
    """Any fold along each path; the result has a leading axis over paths.

    Args:
        init: What one path's fold begins with, a pytree of arrays.
        update: `(folded, t, y) -> folded`, for one path.
        every: Steps between the states that are folded in; the start is the first.
    """

    init: PyTree[Array] = eqx.field(converter=lambda tree: jax.tree.map(_array, tree))
    update: Callable[[PyTree[Array], Array, State], PyTree[Array]]
    every: int = eqx.field(static=True, default=1)

    def after(self, steps: Steps) -> np.ndarray:
        return _multiples("every", self.every, 0, steps)

    def recorder(self) -> Recorder:
        def start(ys: States) -> PyTree[Array]:
            def repeated(x: Array) -> Array:
                return jnp.broadcast_to(x, (ys.shape[0], *x.shape))

            return jax.tree.map(repeated, self.init)

        def keep(carried: Any, t: Array, ys: States, real: Bool[Array, " paths"]) -> Any:
            axis = 0 if t.ndim else None
            new = jax.vmap(self.update, in_axes=(0, axis, 0))(carried, t, ys)
            was, now = (jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (carried, new))
            if was != now:
                raise ValueError(
                    f"`Fold`: `update` turned {_shapes(carried)} into {_shapes(new)}. Return what "
                    "`init` is, in shape and dtype."
                )
            return new, None

        return Recorder(start, keep, lambda carried, _: carried, None)

    def finish(self, left: Any, ts: Array) -> Any:
        return left


def _array(x: ArrayLike) -> Array:
    return jnp.asarray(x, jnp.result_type(x))  # with a dtype named, hence not weakly typed


def _shapes(carried: PyTree[Array]) -> str:
    """What one path carries, for a message."""
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", carried))


def _check_reduction(save: str, reduce: Any) -> None:
    if not isinstance(reduce, AbstractReduction):
        raise ValueError(f"`{save}` reduces by {reduce!r}. Pass an instance, such as `Moments()`.")


def _multiples(name: str, k: int, since: int, steps: Steps) -> np.ndarray:
    for what, value, least in ((name, k, 1), ("since", since, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"`{what}` is {value!r}. Use a whole number, {least} or more.")
    for what, value in (("since", since), (name, k)):
        if value > steps.number:
            raise ValueError(f"`{what}` is {value}, but there are {steps.number} steps. Use fewer.")
    return np.arange(since, steps.number + 1, k)


def _at_times(reduce: AbstractReduction | None, left: Any, ts: Array) -> Any:
    if reduce is not None:
        if ts.ndim == 2:
            raise ValueError(
                "`save` reduces over the paths at each saved time, but every path has times of its "
                "own. Keep the states, or use `Running(...)`, which does not speak of times."
            )
        return Reduced(ts, reduce.finish(left))
    finite = jnp.all(jnp.isfinite(left), axis=-1)
    ts = jnp.broadcast_to(ts, finite.shape)
    return jax.vmap(Trajectory)(ts, left, jnp.cumsum(~finite, axis=1) == 0)
