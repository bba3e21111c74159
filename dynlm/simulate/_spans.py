"""The steps of a rollout from what its user says of times."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._types import concrete
from ._checks import checked_times
from ._grid import cut, refine
from ._saves import AbstractSave, AtSteps, Every, Last
from ._stepper import Steps

_LAST = Last()


def steps_of(
    ts: Any, y0s: Float[Array, "paths dim"], dt: float | None, substeps: int | None
) -> tuple[Steps, AbstractSave]:
    """The steps, and what is kept of them unless told."""
    if isinstance(ts, tuple) and len(ts) == 3 and isinstance(ts[2], int | np.integer):
        for name, value in (("dt", dt), ("substeps", substeps)):
            if value is not None:
                raise ValueError(
                    f"`{name}` is {value}, but `ts` is (t0, t1, n), which says the steps. Leave "
                    f"`{name}` out, or pass times to save as an array."
                )
        return _even(*ts, y0s.dtype), _LAST
    if dt is not None and substeps is not None:
        raise ValueError(f"`dt={dt}` and `substeps={substeps}` are both given. Pass one.")
    if np.ndim(ts) == 2:
        return _each(ts, y0s, dt, substeps)
    times, ts = checked_times(ts, y0s[0])
    ts = jax.lax.stop_gradient(ts)
    if dt is None:
        return _refined(ts, substeps)
    fine, saved, even = cut(times, dt, y0s.dtype)
    number = int(saved[-1])
    if even is None:
        steps = Steps(None, None, jnp.asarray(fine, y0s.dtype), number)
    else:
        steps = Steps(y0s.dtype.type(fine[0]), y0s.dtype.type(even), None, number)
    return steps, AtSteps(saved)


def _even(t0: Any, t1: Any, number: int, dtype: Any) -> Steps:
    if isinstance(number, bool) or not 1 <= number < 2**31:
        raise ValueError(
            f"`ts` is ({t0}, {t1}, {number}), with {number} steps. Use 1 to 2^31 - 1; a vector of "
            "times is an array or a list."
        )
    if isinstance(t0, float | int) and isinstance(t1, float | int):
        return _even_known(float(t0), float(t1), int(number), dtype)
    start, end = concrete(t0), concrete(t1)
    if start is not None and end is not None and not (start.ndim or end.ndim):
        return _even_known(float(start), float(end), int(number), dtype)
    t0, t1 = (jax.lax.stop_gradient(jnp.asarray(t, dtype)) for t in (t0, t1))
    if t0.ndim or t1.ndim:
        raise ValueError(f"`ts` is ({t0}, {t1}, {number}). Pass two numbers, t0 before t1.")
    return Steps(t0, (t1 - t0) / number, None, int(number))


@lru_cache(maxsize=256)  # a call costs less than making these anew
def _even_known(t0: float, t1: float, number: int, dtype: Any) -> Steps:
    if not (np.isfinite(t0) and np.isfinite(t1) and t0 < t1):
        raise ValueError(f"`ts` is ({t0}, {t1}, {number}). Pass finite times, t0 before t1.")
    h = (t1 - t0) / number
    ulp = float(np.spacing(np.asarray(max(abs(t0), abs(t1)), dtype)))
    if h < 8 * ulp:
        raise ValueError(
            f"`ts` is ({t0}, {t1}, {number}), whose steps of {h:.1e} {dtype.name} cannot tell "
            f"apart there. Use fewer steps, float64, or times nearer to 0."
        )
    return Steps(dtype.type(t0), dtype.type(h), None, number)


def _refined(ts: Array, substeps: int | None) -> tuple[Steps, AbstractSave]:
    times = refine(ts, 1 if substeps is None else substeps)
    number = times.shape[-1] - 1
    return Steps(None, None, times, number), Every(1 if substeps is None else int(substeps))


def _each(
    ts: ArrayLike | Sequence, y0s: Float[Array, "paths dim"], dt: float | None, substeps: int | None
) -> tuple[Steps, AbstractSave]:
    """Times of its own for each path."""
    if dt is not None:
        raise ValueError(
            f"`dt` is {dt}, but paths whose times differ take equal numbers of steps. Pass "
            "`substeps`, the number of steps between two times."
        )
    known = concrete(ts)
    rows = np.shape(ts)
    if rows[0] != y0s.shape[0] or rows[1] < 2:
        raise ValueError(
            f"`ts` has shape {rows}, and `y0s` has {y0s.shape[0]} rows. Pass one row of two times "
            "or more per path, or one vector for all."
        )
    if known is not None and not (np.isfinite(known).all() and (np.diff(known) >= 0).all()):
        bad = ~np.isfinite(known).all(axis=1) | (np.diff(known) < 0).any(axis=1)
        raise ValueError(
            f"`ts[{int(np.argmax(bad))}]` is not finite, or decreases. Sort the times of each path."
        )
    return _refined(jax.lax.stop_gradient(jnp.asarray(ts, y0s.dtype)), substeps)
