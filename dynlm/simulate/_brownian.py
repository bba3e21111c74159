"""A Brownian path that is looked up, not stored: hashed from the index of the step."""

from typing import Any, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree, UInt32

from .._types import RandomKey, Time, concrete
from . import _noise

LevyArea = type[dfx.BrownianIncrement | dfx.SpaceTimeLevyArea | dfx.SpaceTimeTimeLevyArea]
Areas = list[PyTree[Array]]  # [W], [W, H] or [W, H, K]

_KINDS = {dfx.BrownianIncrement: 1, dfx.SpaceTimeLevyArea: 2, dfx.SpaceTimeTimeLevyArea: 3}
_DEVIATIONS = (1.0, 12**-0.5, 720**-0.5)  # of W, H and K over a unit of time

_SLACK = 0.05  # how far off an even grid a query may be, in cells,
_ROUNDOFF = 3.5  # and off any grid, in roundings of t: a solver's t0 + (t1 - t0) * (i / n) has some

_OFF = (
    "does not begin and end on the grid. Solve with `ConstantStepSize` and a `dt0` equal to this "
    "`dt` (or with `StepTo` and this `ts`), from a time on the grid. If you do, then the times are "
    "too large for their dtype to tell one cell from the next: begin nearer to 0, or use float64."
)
_OUTSIDE = (
    "is not within the path. Begin the path (`t0`, or `ts`) at the earliest time that is asked "
    "for, and end `ts` at the latest."
)
_SPAN = (
    "does not span 0 to {} cells. Set `cells` to the most that a step spans (2 for `HalfSolver`), "
    "or `dt` to the step."
)


@final
class CounterBrownianPath(dfx.AbstractBrownianPath):
    r"""Brownian motion on a fixed grid, for `diffrax.ControlTerm`, under every adjoint.

    $$W(t_{k+1}) - W(t_k) = \sqrt{t_{k+1} - t_k}\; z(\text{key}, k)$$

    with `t_k = t0 + k dt`, or `t_k = ts[k]`. One key is one path, however often, in whichever
    order and direction of time it is asked, and whichever `levy_area` is chosen. A query is made
    of whole cells of the grid; any other is an error, hence so is an adaptive step. Times are not
    differentiated.

    Args:
        shape: as for Diffrax's own paths: integers, or a pytree of `jax.ShapeDtypeStruct`.
        key: one key, one path; `jax.vmap` for many.
        dt: the length of a cell, hence the solver's step (half of it, for `HalfSolver`).
        ts: instead of `dt`, the grid itself, never decreasing. Under `vmap` every path may have its
            own.
        t0: with `dt`, where the grid begins; 0 unless told.
        cells: the most cells that one query spans: 2 for `HalfSolver`, n for steps n times coarser
            on the same path. Each is drawn, and increments and areas are joined.
    """

    shape: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)
    stream: UInt32[Array, "2"]
    dt: Time | None
    ts: Float[Array, " times"] | None
    t0: Time
    levy_area: LevyArea = eqx.field(static=True)
    cells: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...] | PyTree[jax.ShapeDtypeStruct],
        key: RandomKey,
        dt: Time | None = None,
        *,
        ts: Float[Array, " times"] | None = None,
        t0: Time | None = None,
        levy_area: LevyArea = dfx.BrownianIncrement,
        cells: int = 1,
    ):
        if (dt is None) == (ts is None):
            raise ValueError("Pass exactly one of `dt`, for an even grid, and `ts`, for any other.")
        if levy_area not in _KINDS:
            known = ", ".join(f"diffrax.{area.__name__}" for area in _KINDS)
            raise ValueError(f"`levy_area` is {levy_area!r}. Use one of {known}.")
        if cells < 1:
            raise ValueError(f"`cells` is {cells}, but a query spans a cell or more. Use 1.")
        if ts is not None and t0 is not None:
            raise ValueError(f"`t0` is {t0}, but a grid `ts` begins at `ts[0]`. Leave out `t0`.")
        self.shape = _structs(shape)
        self.stream = _noise.stream(key)
        self.dt = None if dt is None else _positive(dt)
        self.ts = None if ts is None else _ordered(ts)
        self.t0 = self.ts[0] if self.ts is not None else 0.0 if t0 is None else t0
        self.levy_area = levy_area
        self.cells = cells

    @property
    def t1(self) -> Time:
        """Where the grid ends."""
        return float("inf") if self.ts is None else self.ts[-1]

    def evaluate(
        self, t0: Time, t1: Time | None = None, left: bool = True, use_levy: bool = False
    ) -> PyTree[Array] | dfx.AbstractBrownianIncrement:
        """The increment from `t0` to `t1`; or from the start to `t0`, drawing all cells between.

        Args:
            use_levy: return a `levy_area` (length, increment, areas), not only the increment.
        """
        del left
        whole = t1 is None
        if t1 is None:
            t0, t1 = self.t0, t0
        first, count, refused = self._locate(t0, t1, most=None if whole else self.cells)
        return self._between(first, count, refused, whole or self.cells > 1, use_levy)

    def _locate(
        self, t0: Time, t1: Time, most: int | None
    ) -> tuple[UInt32[Array, ""], UInt32[Array, ""], Bool[Array, ""]]:
        """The first cell from `t0` to `t1`, the number of cells, and whether to refuse."""
        with jax.numpy_dtype_promotion("standard"):
            first, off0 = _on_grid(self, t0, side="right")
            last, off1 = _on_grid(self, t1, side="left")
            empty = jnp.asarray(t0 == t1)  # asked for by some solvers, anywhere: no time, no noise
        count = jnp.where(empty, jnp.zeros_like(last), last - first)
        end = 2.0**32 if self.ts is None else len(self.ts) - 1
        faults = {
            _OFF: (off0 | off1 | (count == 0)) & ~empty,
            _OUTSIDE: ((first < 0) | (last > end)) & ~empty,
            _SPAN.format(most): (count < 0) | (count > (count if most is None else most)),
        }
        first, count = first.astype(jnp.uint32), count.astype(jnp.uint32)
        refused = jnp.asarray(False)
        for fault, found in faults.items():
            refused = refused | found
            if concrete(found) is None or concrete(found):
                first = eqx.error_if(first, found, f"{_describe(self, t0, t1)} {fault}")
        return first, count, refused

    @eqx.filter_jit
    def _between(
        self, first: Array, count: Array, refused: Array, many: bool, use_levy: bool
    ) -> PyTree[Array] | dfx.AbstractBrownianIncrement:
        # A refusal is never a number, even where errors are switched off or cannot be raised. NaN
        # enters at a scalar: a pass over the normals would cost as much as half of them.
        nan = jnp.where(refused, jnp.nan, 0.0)
        if many:
            h, areas = self._length(first, count) + nan, self._joined(first, count, nan)
        else:
            h = jnp.where(count == 0, 0, self._length(first, 1)) + nan
            areas = self._cell(first, h)
        areas = [jtu.tree_map(lambda x, s: x.astype(s.dtype), a, self.shape) for a in areas]
        if not use_levy:
            return areas[0]
        return self.levy_area(jtu.tree_map(lambda s: h.astype(s.dtype), self.shape), *areas)

    def _length(self, first: Array, count: int | Array) -> Array:
        if self.ts is None:
            dt = _time(self.dt)
            return dt * jnp.asarray(count).astype(dt.dtype)
        ts = lax.stop_gradient(self.ts)
        return ts[first + jnp.asarray(count, first.dtype)] - ts[first]

    def _cell(self, k: Array, h: Array) -> Areas:
        """The increment and areas of cell `k`, whose length is `h`."""
        leaves, treedef = jtu.tree_flatten(self.shape)
        before = np.cumsum([0, *(leaf.size for leaf in leaves)]).tolist()

        def draw(leaf, first, kind):
            dtype = _wide(leaf.dtype)
            scale = jnp.sqrt(h.astype(dtype)) * jnp.asarray(_DEVIATIONS[kind], dtype)
            z = _noise.normals(self.stream, k, leaf.size, dtype, kind=kind, first=first)
            return (scale * z).reshape(leaf.shape)

        return [
            treedef.unflatten([draw(*leaf, kind) for leaf in zip(leaves, before, strict=False)])
            for kind in range(_KINDS[self.levy_area])
        ]

    def _joined(self, first: Array, count: Array, start: Array) -> Areas:
        """The increment and areas of `count` cells from `first` on."""

        def add(i, areas):
            h = self._length(first + i, 1)
            return _join(self._length(first, i), areas, h, self._cell(first + i, h))

        zero = jtu.tree_map(lambda s: jnp.full(s.shape, start, _wide(s.dtype)), self.shape)
        return lax.fori_loop(jnp.uint32(0), count, add, [zero] * _KINDS[self.levy_area])


def _join(a: Array, before: Areas, b: Array, after: Areas) -> Areas:
    r"""The areas over two intervals that meet, of lengths $a$ and $b$.

    $$W = W_1 + W_2, \quad h H = a H_1 + b H_2 + \tfrac12 D, \quad
    h^2 K = a^2 K_1 + b^2 K_2 + \tfrac12 a b (H_1 - H_2) + \tfrac1{12} (b - a) D$$

    where $h = a + b$ and $D = b W_1 - a W_2$: over the whole, the bridge is the sum of the two
    bridges and a tent of height $D / h$ where they meet.
    """

    def join(*areas):
        h = jnp.where(a + b > 0, a + b, 1)
        p, q = (a / h).astype(areas[0].dtype), (b / h).astype(areas[0].dtype)
        (w1, *levy1), (w2, *levy2) = areas[: len(before)], areas[len(before) :]
        d = q * w1 - p * w2
        out = [w1 + w2]
        if levy1:
            out.append(p * levy1[0] + q * levy2[0] + d * 0.5)
        if len(levy1) == 2:
            both = p * p * levy1[1] + q * q * levy2[1]
            out.append(both + p * q * (levy1[0] - levy2[0]) * 0.5 + (q - p) * d * (1 / 12))
        return out

    joined = jtu.tree_map(join, *before, *after)
    return jtu.tree_transpose(jtu.tree_structure(before[0]), None, joined)


def _on_grid(path: CounterBrownianPath, t: Time, side: str) -> tuple[Array, Array]:
    """The number of the grid time that `t` is, and whether `t` is none.

    Of equal grid times, the last if `side` is "right", the first if it is "left".
    """
    t, t0, step = _time(t), _time(path.t0), _time(path.t0 if path.dt is None else path.dt)
    eps = max(float(jnp.finfo(x.dtype).eps) for x in (t, t0, step))
    roundoff = _ROUNDOFF * eps * jnp.maximum(jnp.abs(t), jnp.abs(t0))
    if path.ts is None:
        cell = (t - t0) / step
        number = jnp.round(cell)
        slack = _SLACK + roundoff / step
        return number, ~((jnp.abs(cell - number) <= slack) & (slack < 0.5))
    ts = lax.stop_gradient(path.ts)
    above = jnp.clip(jnp.searchsorted(ts, t), 1, len(ts) - 1)
    low, high = ts[above - 1], ts[above]
    nearest = jnp.where(t - low < high - t, low, high)
    slack = jnp.where(roundoff < 0.5 * (high - low), roundoff, 0)  # 0 if it cannot tell them apart
    number = jnp.searchsorted(ts, nearest, side=side) - (side == "right")
    return number, ~(jnp.abs(t - nearest) <= slack)


def _time(t: Time | None) -> Array:
    """`t` as an array of floating point that is not differentiated."""
    t = lax.stop_gradient(jnp.asarray(t))
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.result_type(float))


def _describe(path: CounterBrownianPath, t0: Time, t1: Time) -> str:
    def show(x):
        value = concrete(x)
        return "..." if value is None else str(value)

    grid = f"dt={show(path.dt)}, t0={show(path.t0)}"
    if path.ts is not None:
        grid = f"ts of {len(path.ts)} times"
    return (
        f"`CounterBrownianPath({grid}, cells={path.cells})` was asked for "
        f"[{show(t0)}, {show(t1)}], which"
    )


def _structs(shape: Any) -> PyTree[jax.ShapeDtypeStruct]:
    if isinstance(shape, tuple) and all(isinstance(n, int) for n in shape):
        return jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    for leaf in jtu.tree_leaves(shape):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"`shape` has a leaf of {leaf.dtype}. Use a floating dtype.")
    return shape


def _positive(dt: Time) -> Time:
    message = "`dt` is {}, but the length of a cell is positive and finite. Pass the solver's step."
    value = concrete(dt)
    if value is None:
        return eqx.error_if(dt, ~((dt > 0) & jnp.isfinite(dt)), message.format("out of range"))
    if not (value > 0 and np.isfinite(value)):
        raise ValueError(message.format(value))
    return dt


def _ordered(ts: Any) -> Float[Array, " times"]:
    ts = jnp.asarray(ts)
    if ts.ndim != 1 or len(ts) < 2 or not jnp.issubdtype(ts.dtype, jnp.floating):
        raise ValueError(
            f"`ts` is {ts.dtype}{list(ts.shape)}, but a grid is a vector of two or more floating "
            "times. Convert it; for many paths, use `jax.vmap`."
        )
    message = "`ts` must be finite and never decrease. Sort it, and remove NaN."
    value = concrete(ts)
    if value is None:
        return eqx.error_if(ts, ~(jnp.all(jnp.diff(ts) >= 0) & jnp.all(jnp.isfinite(ts))), message)
    if not (np.all(np.diff(value) >= 0) and np.all(np.isfinite(value))):
        raise ValueError(message)
    return ts


def _wide(dtype: Any) -> Any:
    return jnp.float64 if jnp.dtype(dtype).itemsize > 4 else jnp.float32
