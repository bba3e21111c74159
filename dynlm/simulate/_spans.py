"""The steps of a rollout from what its user says of times."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import equinox as eqx
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
) -> tuple[Steps, AbstractSave, Array | None]:
    """The steps; and what is kept of them unless told, and at which times if they were given."""
    if isinstance(ts, tuple) and len(ts) == 3:
        for name, value in (("dt", dt), ("substeps", substeps)):
            if value is not None:
                raise ValueError(
                    f"`{name}` is {value}, but `ts` is (t0, t1, n), which says the steps. Leave "
                    f"`{name}` out, or pass times to save as an array."
                )
        return _even(ts[0], ts[1], _whole(ts), y0s.dtype), _LAST, None
    if dt is not None and substeps is not None:
        raise ValueError(f"`dt={dt}` and `substeps={substeps}` are both given. Pass one.")
    if np.ndim(ts) == 2:
        ts = _each(ts, y0s, dt)
        return *_refined(ts, substeps), None
    times, ts = checked_times(ts, y0s[0])
    ts = jax.lax.stop_gradient(ts)
    if dt is None:
        return *_refined(ts, substeps), ts
    fine, saved, even = cut(times, dt, y0s.dtype)
    number = int(saved[-1])
    if even is None:
        steps = Steps(None, None, jnp.asarray(fine, y0s.dtype), number)
    else:
        steps = Steps(y0s.dtype.type(fine[0]), y0s.dtype.type(even), None, number)
    return steps, AtSteps(saved), ts


def _whole(ts: tuple) -> int:
    """The number of steps in `(t0, t1, n)`."""
    number = concrete(ts[2])
    if number is None or number.ndim or number.dtype.kind not in "iu":
        raise ValueError(
            f"`ts` is {ts}, whose number of steps is not a whole number that is known. Pass (t0, "
            "t1, n) with an int n; or three times to save, as a list or an array."
        )
    if not 1 <= number < 2**31:
        raise ValueError(f"`ts` is {ts}, with {number} steps. Use 1 to 2^31 - 1.")
    return int(number)


def _even(t0: Any, t1: Any, number: int, dtype: Any) -> Steps:
    if isinstance(t0, float | int) and isinstance(t1, float | int):
        return _even_known(float(t0), float(t1), number, dtype)
    start, end = concrete(t0), concrete(t1)
    if start is not None and end is not None and not (start.ndim or end.ndim):
        return _even_known(float(start), float(end), number, dtype)
    t0, t1 = (jax.lax.stop_gradient(jnp.asarray(t, dtype)) for t in (t0, t1))
    if t0.ndim or t1.ndim:
        raise ValueError(f"`ts` is ({t0}, {t1}, {number}). Pass two numbers, t0 before t1.")
    h = (t1 - t0) / number
    bad = ~(jnp.isfinite(h) & (h > 0))
    h = eqx.error_if(h, bad, "`ts` is (t0, t1, n) whose times are not finite, or t0 is not before.")
    return Steps(t0, h, None, number)


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
    ts: ArrayLike | Sequence, y0s: Float[Array, "paths dim"], dt: float | None
) -> Float[Array, "paths times"]:
    """Times of its own for each path, checked."""
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
    out = jax.lax.stop_gradient(jnp.asarray(ts, y0s.dtype))
    if known is None:
        bad = ~(jnp.all(jnp.isfinite(out)) & jnp.all(jnp.diff(out) >= 0))
        # By way of one number: what is checked itself is sent to the first device and back.
        checked = eqx.error_if(
            jnp.zeros((), out.dtype), bad, "`ts` must be finite and never decrease."
        )
        return out + checked
    if ((np.diff(known) > 0) & (np.diff(known.astype(out.dtype)) == 0)).any():
        raise ValueError(
            f"`ts` holds distinct times that are equal in {out.dtype}. Count time from nearer to "
            "0, or use float64."
        )
    return out
