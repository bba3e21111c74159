"""An SDE at many states at once, and means over transitions with their intervals by document."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from .._io import BadArgument
from .._types import State, Time
from ..sde import SDE
from ..stats import Interval, ratios
from ..trajectory import Trajectory
from .findings import Finding, Verdict, finding

LEAST = 1024  # states that a program is compiled for, so that most calls share one
BLOCK, FINE = 1024, 128  # states that are worked on at once, and where matrices are made of each

Rows = Float[np.ndarray, "state dim"]
Numbers = Float[np.ndarray, " state"]


@final
class Transitions(NamedTuple):
    """The transitions that count: out of state `burn` of a path or a later one, into a real one.

    Args:
        row: The path of each.
        ts: When each begins.
        ys: Where each begins, in the paths' own dtype.
        dt: How long each takes.
        dy: Where each leads, less where it began.
        docs: The document of each path.
    """

    row: Int[np.ndarray, " state"]
    ts: Numbers
    ys: Rows
    dt: Numbers
    dy: Rows
    docs: Shaped[np.ndarray, " path"]

    def chosen(self, number: int) -> "Transitions":
        """At most so many of them, evenly spread."""
        if number < 1:
            raise BadArgument(f"`states` is {number}. Use 1 or more; 1024 is usual.")
        which = np.unique(np.linspace(0, len(self.row) - 1, min(number, len(self.row))).astype(int))
        row, ts, ys, dt, dy = (x[which] for x in self[:-1])
        return Transitions(row, ts, ys, dt, dy, self.docs)


def transitions(paths: Trajectory, docs: Any, burn: int) -> Transitions:
    """On the host, so that what stands in padding is never seen."""
    if not isinstance(paths, Trajectory) or paths.ys.ndim != 3:
        raise BadArgument(
            "`paths` is no batch of paths, (path, time, dim). Make one by `dynlm.stack([...])`."
        )
    docs = np.asarray(docs)
    if docs.shape != paths.ts.shape[:1]:
        raise BadArgument(
            f"`docs` has shape {docs.shape}, and there are {len(paths.ts)} paths. Pass the "
            "document of each path."
        )
    if isinstance(burn, bool) or not isinstance(burn, int) or burn < 0:
        raise BadArgument(f"`burn` is {burn!r}. Use 0 or more: how many first states to skip.")
    ts, ys = np.asarray(paths.ts, np.float64), np.asarray(paths.ys)
    counts = np.asarray(paths.mask)[:, 1:] & (np.diff(ts, axis=1) > 0)
    counts[:, :burn] = False
    row, k = np.nonzero(counts)
    if not len(row):
        raise BadArgument(
            f"`paths` has no transition after the first {burn} states of each path. Pass longer "
            "paths, or a smaller `burn`."
        )
    y0, y1 = ys[row, k], ys[row, k + 1]
    finite = np.isfinite(y0).all(axis=1) & np.isfinite(y1).all(axis=1)
    if not finite.all():
        i = int(np.argmin(finite))
        raise BadArgument(
            f"`paths.ys[{row[i]}]` is not finite at step {k[i]} or the next. Drop the path, or end "
            "it before with `mask`."
        )
    dt = ts[row, k + 1] - ts[row, k]
    return Transitions(row, ts[row, k], y0, dt, y1.astype(float) - y0.astype(float), docs)


def check_sde(sde: Any, dim: int) -> None:
    """Refuses what is no SDE of states in `dim` dimensions."""
    if not isinstance(sde, SDE):
        raise BadArgument(f"`sde` is a {type(sde).__name__}. Pass a `dynlm.SDE`.")
    if sde.dim != dim:
        raise BadArgument(
            f"`sde` has dimension {sde.dim}, and the states have {dim}. Pass states of the space "
            "that it was fitted in."
        )


def fields(sde: SDE, ts: Any, ys: Any) -> tuple[Rows, Numbers]:
    r"""The Ito drift $f$ and $\mathrm{tr}\,g g^\top$ at each state."""
    f, noise = _on_host(_fields, sde, ts, ys)
    return f, noise


def slopes(sde: SDE, ts: Any, ys: Any) -> tuple[Rows, Numbers, Numbers, Numbers, Numbers]:
    r"""The same, and of $Df$ its trace and the squares of its symmetric and antisymmetric part."""
    f, noise, trace, even, odd = _on_host(_slopes, sde, ts, ys)
    return f, noise, trace, even, odd


def coefficients(sde: SDE, ts: Any, ys: Any) -> tuple[Rows, Float[np.ndarray, "state dim dim"]]:
    r"""The Ito drift $f$ and all of $g g^\top$ at each state: for few dimensions."""
    f, covariance = _on_host(_coefficients, sde, ts, ys)
    return f, covariance


def pooled(
    at: Transitions,
    values: Float[np.ndarray, "state column"],
    weights: Float[np.ndarray, "state weight"] | None = None,
    *,
    seed: int,
) -> list[Interval]:
    """Means over transitions, with intervals by document: sum of values over sum of weights."""
    weights = np.ones((len(values), 1)) if weights is None else weights
    rows = len(at.docs)
    top, under = (
        np.stack([np.bincount(at.row, c, minlength=rows) for c in x.T], axis=1)
        for x in (values, weights)
    )
    return ratios(top, under, at.docs, seed=seed)


def described(
    what: str, found: Interval, null: float | None = None, *, of_null: str = "", note: str = ""
) -> Finding:
    """An estimate with its interval, of which nothing is tested."""
    one = finding(what, found, null=0.0, of_null=of_null, note=note)
    if one.verdict is Verdict.WITHHELD:
        return one
    return one._replace(null=null, verdict=Verdict.STATED)


def floating(sde: SDE) -> Any:
    """The dtype that a model computes in: the widest of its arrays."""
    leaves = jax.tree.leaves(eqx.filter(sde, eqx.is_inexact_array))
    return jnp.result_type(*leaves) if leaves else jnp.result_type(float)


@eqx.filter_jit
def _fields(sde: SDE, ts: Array, ys: Array) -> tuple:
    ito = sde.to_ito()

    def one(t: Time, y: State) -> tuple:
        return ito.drift(t, y), jnp.sum(lx.diagonal(ito.diffusion.covariance(t, y)))

    return lax.map(lambda x: one(*x), (ts, ys), batch_size=BLOCK)


@eqx.filter_jit
def _slopes(sde: SDE, ts: Array, ys: Array) -> tuple:
    ito = sde.to_ito()

    def one(t: Time, y: State) -> tuple:
        f, pushed = jax.linearize(lambda y: ito.drift(t, y), y)
        j = jax.vmap(pushed, out_axes=1)(jnp.eye(len(y), dtype=y.dtype))
        noise = jnp.sum(lx.diagonal(ito.diffusion.covariance(t, y)))
        even, odd = jnp.sum(((j + j.T) / 2) ** 2), jnp.sum(((j - j.T) / 2) ** 2)
        return f, noise, jnp.trace(j), even, odd

    return lax.map(lambda x: one(*x), (ts, ys), batch_size=FINE)


@eqx.filter_jit
def _coefficients(sde: SDE, ts: Array, ys: Array) -> tuple:
    ito = sde.to_ito()

    def one(t: Time, y: State) -> tuple:
        return ito.drift(t, y), ito.diffusion.covariance(t, y).as_matrix()

    return lax.map(lambda x: one(*x), (ts, ys), batch_size=BLOCK)


def _on_host(program: Any, sde: SDE, ts: Any, ys: Any) -> tuple[np.ndarray, ...]:
    """A program at any number of states: filled up to a power of two, then cut."""
    ys = np.asarray(ys)
    number, dtype = len(ys), jnp.result_type(floating(sde), jax.dtypes.canonicalize_dtype(ys.dtype))
    size = max(LEAST, 2 ** (number - 1).bit_length())
    which = np.minimum(np.arange(size), number - 1)
    ts = np.broadcast_to(np.asarray(ts, np.float64), (number,))
    # Numpy arrays of the right dtype: to make JAX's of them would compile programs.
    out = program(sde, *(np.asarray(x[which], dtype) for x in (ts, ys)))
    return tuple(np.asarray(x, np.float64)[:number] for x in out)
