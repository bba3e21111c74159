"""`Trajectory`: one path, the noun that every part of dynlm exchanges."""

from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from ._types import concrete, jax_dtype


@final
class Trajectory(eqx.Module):
    """One path: its times, its states, and which of its steps are real.

    Args:
        ts: Times, never decreasing. They need not be evenly spaced, and every path has its own.
        ys: The state at each time.
        mask: False where a step is padding. Padding stands at the end only.

    A batch of paths is a `Trajectory` whose arrays have one more leading axis: build it with
    `stack`, and use it under `jax.vmap`. Nothing in dynlm takes "a path or a batch".
    """

    ts: Float[Array, " time"]
    ys: Float[Array, "time dim"]
    mask: Bool[Array, " time"]

    def __check_init__(self) -> None:
        if (self.ts.ndim, self.ys.ndim, self.mask.ndim) != (1, 2, 1) or self.mask.dtype != bool:
            raise ValueError(
                f"`ts` {self.ts.shape}, `ys` {self.ys.shape} and `mask` {self.mask.shape} "
                f"({self.mask.dtype}) must be (time,), (time, dim) and (time,) of booleans. "
                "Use `Trajectory.from_arrays`, and `dynlm.stack` for a batch."
            )
        if self.ts.shape[:1] != self.ys.shape[:1] or self.ts.shape != self.mask.shape:
            raise ValueError(
                f"`ts` {self.ts.shape}, `ys` {self.ys.shape} and `mask` {self.mask.shape} must "
                "share their first axis. Pass one time, one state and one mask entry per step."
            )
        if self.ts.dtype != time_dtype(self.ys.dtype):
            raise ValueError(
                f"`ts` is {self.ts.dtype} and `ys` is {self.ys.dtype}. Use "
                "`Trajectory.from_arrays`: times have the states' dtype, or float32 if it is less."
            )
        ts, mask = concrete(self.ts), concrete(self.mask)
        if ts is None or mask is None:
            return
        if mask.size and np.any(mask[1:] & ~mask[:-1]):
            hole = int(np.argmax(~mask))
            raise ValueError(
                f"`mask` has a hole: entry {hole} is False and a later one is True. Padding may "
                "only stand at the end; split the path with `path[a:b]` or interpolate the gap."
            )
        if not np.all(np.isfinite(ts)):
            where = int(np.argmax(~np.isfinite(ts)))
            raise ValueError(f"`ts[{where}]` is {ts[where]}. Times must be finite, padding too.")
        if np.any(np.diff(ts) < 0):
            where = int(np.argmax(np.diff(ts) < 0))
            raise ValueError(
                f"`ts` decreases at {where}: {ts[where]} is followed by {ts[where + 1]}. "
                "Sort the path by time (and repeat the last time in padding)."
            )

    @staticmethod
    def from_arrays(
        ys: ArrayLike | Sequence,
        ts: ArrayLike | Sequence | None = None,
        mask: ArrayLike | Sequence | None = None,
        *,
        dtype: Any = None,
    ) -> "Trajectory":
        """A path from arrays of anywhere; times default to 0, 1, 2, ..., the mask to all True.

        Args:
            ys: States, one row per step; a vector is taken as a path in one dimension.
            ts: Times, one per row.
            mask: False where a row is padding; values there are replaced by zeros.
            dtype: Floating dtype of times and states; by default that of `ys` where it is a
                floating one, else JAX's default.
        """
        if any(concrete(x) is None for x in (ys, ts, mask)):
            raise ValueError("`from_arrays` checks values. While tracing, build `Trajectory(...)`.")
        ys = np.asarray(ys)
        ys = ys[:, None] if ys.ndim == 1 else ys
        if ys.ndim != 2:
            raise ValueError(
                f"`ys` has shape {ys.shape}. One path is (time, dim); stack several with "
                "`dynlm.stack`."
            )
        if ys.dtype.kind not in "biuf" and not jnp.issubdtype(ys.dtype, jnp.floating):
            raise ValueError(f"`ys` has dtype {ys.dtype}. Pass real numbers.")
        if dtype is None:
            dtype = ys.dtype if jnp.issubdtype(ys.dtype, jnp.floating) else float
        dtype = jax_dtype(dtype)
        ts = np.arange(len(ys)) if ts is None else np.asarray(ts)
        mask = np.ones(len(ys), bool) if mask is None else np.asarray(mask, bool)
        if ts.shape != (len(ys),) or mask.shape != (len(ys),):
            raise ValueError(
                f"`ys` has {len(ys)} rows, `ts` has shape {ts.shape} and `mask` {mask.shape}. "
                "Pass one time and one mask entry per row."
            )
        finite = np.isfinite(ys).all(axis=1) | ~mask
        if not finite.all():
            raise ValueError(
                f"`ys[{int(np.argmax(~finite))}]` is not finite. Drop the row, or end the path "
                "before it with `mask`."
            )
        ys = np.where(mask[:, None], ys, 0)
        times = jnp.asarray(ts, time_dtype(dtype))
        lost = (np.diff(ts) > 0) & (np.diff(np.asarray(times)) == 0)
        if lost.any():
            where = int(np.argmax(lost))
            raise ValueError(
                f"`ts[{where}]` {ts[where]} and {ts[where + 1]} are equal in {times.dtype}. "
                "Count time from the start of the path, or use float64."
            )
        return Trajectory(times, jnp.asarray(ys, dtype), jnp.asarray(mask))

    @property
    def dim(self) -> int:
        """Dimension of the state."""
        return self.ys.shape[-1]

    @property
    def length(self) -> Array:
        """How many steps are real."""
        return jnp.sum(self.mask, axis=-1)

    def __getitem__(self, steps: slice) -> "Trajectory":
        """The path over a slice of its steps."""
        if not isinstance(steps, slice):
            raise TypeError(
                f"`path[{steps!r}]`: slice it, as in `path[2:10]`, or take `path.ys[i]`."
            )
        if self.ts.ndim != 1:
            raise ValueError("A batch has no steps of its own: slice one path, under `jax.vmap`.")
        return Trajectory(self.ts[steps], self.ys[steps], self.mask[steps])

    def windows(self, length: int, stride: int = 1) -> "Trajectory":
        """All stretches of `length` steps, `stride` apart, stacked on a new leading axis.

        A window that reaches into padding keeps it in its mask.
        """
        if self.ts.ndim != 1:
            raise ValueError("A batch has no steps of its own: take windows under `jax.vmap`.")
        steps = self.ts.shape[0]
        if not 1 <= length <= steps:
            raise ValueError(f"`length` is {length}; the path has {steps} steps. Use 1 to {steps}.")
        if stride < 1:
            raise ValueError(f"`stride` is {stride}. Use 1 or more.")
        rows = np.arange(0, steps - length + 1, stride)[:, None] + np.arange(length)
        return jax.tree.map(lambda x: x[rows], self)


def time_dtype(dtype: Any) -> Any:
    """The dtype of the times of states of `dtype`: no narrower than float32."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def stack(paths: Sequence[Trajectory], length: int | None = None) -> Trajectory:
    """Paths of any lengths as one batch: padded at the end, a new leading axis.

    Args:
        paths: Paths of one dimension and dtype.
        length: Steps to pad to; by default the longest path's.
    """
    if not paths:
        raise ValueError("`paths` is empty. Pass one path or more.")
    dims = sorted({(path.ys.shape[1:], str(path.ys.dtype)) for path in paths})
    if len(dims) > 1:
        raise ValueError(f"`paths` differ in state shape or dtype: {dims}. Stack those alike.")
    longest = max(path.ts.shape[0] for path in paths)
    length = longest if length is None else length
    if length < longest:
        raise ValueError(
            f"`length` is {length}, but a path has {longest} steps. "
            "Use a larger `length`, or cut the path with `path[:length]`."
        )

    def pad(path: Trajectory) -> Trajectory:
        extra = length - path.ts.shape[0]
        return Trajectory(
            jnp.pad(path.ts, (0, extra), mode="edge"),
            jnp.pad(path.ys, ((0, extra), (0, 0))),
            jnp.pad(path.mask, (0, extra)),
        )

    return jax.tree.map(lambda *xs: jnp.stack(xs), *[pad(path) for path in paths])
