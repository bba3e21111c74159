"""Where a fixed-step solve steps: every saved time, and equal steps between."""

from typing import Any, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import concrete

_NEAR_END = 128  # units in the last place; Diffrax takes a time within 100 of the end for the end


@final
class Grid(eqx.Module):
    """Step times, strictly increasing, and which of them are saved.

    Args:
        times: Step times, or the saved times where a controller chooses the steps.
        dt: The step where it is the same everywhere, else None.
        saved: Indices in `times` of the saved times, or None where `stride` says it.
        stride: Steps between saved times where that is the same everywhere, else None.
        extra: Steps beyond the last saved time, whose result is dropped.
    """

    times: Float[Array, " steps"]
    dt: Float[Array, ""] | None
    saved: tuple[int, ...] | None = eqx.field(static=True)
    stride: int | None = eqx.field(static=True)
    extra: int = eqx.field(static=True, default=0)

    def saveat(self, by_time: bool) -> dfx.SaveAt:
        """Diffrax's `SaveAt`: by step count where it can, which costs less than by time."""
        if self.stride is not None and not by_time:
            return dfx.SaveAt(t0=True, steps=self.stride)
        steps = self.times.shape[0] - 1 - self.extra
        saved = range(0, steps + 1, self.stride) if self.stride is not None else self.saved
        return dfx.SaveAt(ts=self.times[np.asarray(saved)])


def cut(
    times: np.ndarray | None, dt: float, dtype: Any
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Each gap of `times` in equal steps no longer than `dt`.

    Returns:
        The times of all steps, which of them are `times`, and the step, if all are of one length.
    """
    step = concrete(dt)
    if step is None or times is None:
        raise ValueError(
            "`dt` with traced times: the number of steps would not be known. Make `ts` with numpy, "
            "or outside `jit`; or pass `substeps`, the number of steps between two times."
        )
    if step.dtype.kind not in "iuf" or not (np.isfinite(step) and step > 0):
        raise ValueError(f"`dt` is {dt!r}. Use a positive step.")
    times = times.astype(np.float64)
    ulp = float(np.spacing(np.asarray(np.abs(times).max(), dtype)))
    if step < 8 * ulp:
        raise ValueError(
            f"`dt` is {dt}, but {jnp.dtype(dtype).name} times up to {times[-1]} cannot tell such "
            f"steps apart. Use `dt` of {8 * ulp:.1e} or more, float64, or times nearer to 0."
        )
    exact = np.diff(times) / float(step)
    counts = np.maximum(np.ceil(exact - 1e-6 - 4 * ulp / float(step)), 1).astype(int)
    saved = np.concatenate([[0], np.cumsum(counts)])
    n = int(saved[-1])
    dt_even = (times[-1] - times[0]) / n
    even = times[0] + dt_even * np.arange(n + 1)
    if np.abs(even[saved] - times).max() <= 4 * ulp and dt_even > _NEAR_END * ulp:
        return even, saved, dt_even
    pieces = [a + (b - a) * np.arange(n) / n for a, b, n in zip(times, times[1:], counts)]
    return np.append(np.concatenate(pieces), times[-1]), saved, None


def grid_by_dt(times: np.ndarray | None, dt: float, dtype: Any) -> Grid:
    """Each gap of `times` in equal steps no longer than `dt`."""
    steps, saved, even = cut(times, dt, dtype)
    counts = np.diff(saved)
    stride = int(counts[0]) if (counts == counts[0]).all() else None
    index = None if stride is not None else tuple(int(i) for i in saved)
    steps = jnp.asarray(steps, dtype)
    if even is not None:
        return Grid(steps, jnp.asarray(even, dtype), index, stride)
    return Grid(_uneven(steps), None, index, stride, extra=1)


def grid_by_substeps(ts: Float[Array, " time"], substeps: int) -> Grid:
    """Each gap of `ts` in `substeps` equal steps; `ts` may be traced."""
    times = _uneven(refine(ts, substeps))
    return Grid(times, None, None, int(substeps), extra=1)


def refine(ts: Float[Array, "*paths times"], substeps: int) -> Float[Array, "*paths steps"]:
    """Each gap of `ts` in `substeps` equal steps, along the last axis."""
    if isinstance(substeps, bool) or substeps != int(substeps) or substeps < 1:
        raise ValueError(f"`substeps` is {substeps}. Use a whole number, 1 or more.")
    part = jnp.arange(int(substeps), dtype=ts.dtype) / int(substeps)
    part = part.reshape((1,) * ts.ndim + part.shape)
    inside = ts[..., :-1, None] + jnp.diff(ts)[..., None] * part
    return jnp.concatenate([inside.reshape(*ts.shape[:-1], -1), ts[..., -1:]], axis=-1)


def _uneven(times: Float[Array, " steps"]) -> Float[Array, " more_steps"]:
    """`times`, strictly increasing as Diffrax needs, and one more beyond.

    Equal times are moved apart by units in the last place; others stay where they are. The one
    more is there because Diffrax takes any time that is near the end for the end.
    """
    still = jnp.append(False, times[1:] <= times[:-1])
    count = jnp.cumsum(still)
    run = count - jax.lax.cummax(jnp.where(still, 0, count))  # place in a run of equal times
    largest = jnp.max(jnp.abs(times))
    ulp = jnp.nextafter(largest, jnp.full_like(largest, jnp.inf)) - largest
    apart = times + run.astype(times.dtype) * ulp
    return jnp.append(apart, apart[-1] + 2 * _NEAR_END * ulp)


def repeat_at_equal_times(ts: Float[Array, " time"], ys: Array) -> Array:
    """The first of the states at each distinct time, wherever that time stands."""
    moved = jnp.append(True, ts[1:] > ts[:-1])
    return ys[jax.lax.cummax(jnp.where(moved, jnp.arange(len(ts)), 0))]
