"""Kramers-Moyal coefficients: drift and diffusion read from the paths alone, in bins."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import State, Time
from ..predict._steps import by_rows, on_host
from ..sde import SDE
from ..stats import Interval
from ..trajectory import Trajectory
from ._correlation import Rows, by_influence, ends, measured, rows_of, with_tails
from ._variation import AT_ONCE, check_dim
from .findings import Finding, finding, stated

Bins = Float[np.ndarray, " bin"]
TAIL = "fourth moment of a step over three times the square of its second"
LEAST = 5  # steps in a bin, below which its tails say nothing


@final
class KramersMoyal(NamedTuple):
    r"""What `kramers_moyal` found along one direction.

    Args:
        direction: The unit vector $u$.
        edges: Of the bins, in $x = u^\top y$.
        centres: The mean of $x$ in each bin.
        count: Steps that start in each.
        drift: $D_1$, with ends.
        diffusion: $D_2$, with ends.
        fourth: $D_4$, with ends.
        sde_drift: What the SDE expects of $D_1$ at the same states; None without one.
        sde_diffusion: Of $D_2$.
        findings: The fourth moment; with an SDE how its drift and diffusion agree.
    """

    direction: Float[np.ndarray, " dim"]
    edges: Float[np.ndarray, " edge"]
    centres: Bins
    count: Bins
    drift: Float[np.ndarray, "bin 3"]
    diffusion: Float[np.ndarray, "bin 3"]
    fourth: Float[np.ndarray, "bin 3"]
    sde_drift: Bins | None
    sde_diffusion: Bins | None
    findings: tuple[Finding, ...]


def kramers_moyal(
    paths: Trajectory,
    docs: Any,
    *,
    sde: SDE | None = None,
    direction: Any = None,
    bins: int = 20,
    burn: int = 1,
    seed: int = 0,
) -> KramersMoyal:
    r"""$D_n(x) = E[\Delta x^n \mid x] / (n!\,\Delta t)$ for n = 1, 2, 4, with $x = u^\top y$.

    Of an SDE the same averages are taken over the same states, by the moments of one Euler step:
    $u^\top f$ and $\tfrac12(u^\top gg^\top u + (u^\top f)^2\Delta t)$. So a model fitted by such
    steps is compared exactly, and what the bins average over does not matter. As drift and
    diffusion of a process in continuous time, $D_1$ and $D_2$ are wrong by the order of $\Delta t$.

    Args:
        paths: A batch of paths.
        docs: The document of each path.
        sde: What to compare with; a Stratonovich one is converted.
        direction: $u$, or the number of a component; by default the first principal direction.
        bins: How many, with equally many states in each.
        burn: Steps out of the first `burn` states of each path are left out.
        seed: Of the resampling.
    """
    if not (isinstance(bins, int) and bins >= 1):
        raise BadArgument(f"`bins` is {bins!r}. Use 1 or more.")
    rows = rows_of(paths, docs, burn)
    u = direction_of(direction, rows)
    x = rows.ys @ u
    path, k = np.nonzero(rows.steps)
    at, dx = x[path, k], x[path, k + 1] - x[path, k]
    dt = rows.ts[path, k + 1] - rows.ts[path, k]
    edges = np.unique(np.quantile(at, np.linspace(0, 1, bins + 1)))
    number = max(len(edges) - 1, 1)
    bin_ = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, number - 1)

    def total(values: Any) -> Any:
        flat = np.bincount(path * number + bin_, values, minlength=len(x) * number)
        return flat.reshape(len(x), number)

    time, count = total(dt), total(np.ones(len(at))).sum(axis=0)
    powers = [total(dx), total(dx**2) / 2, total(dx**4) / 24]
    found = measured(
        np.concatenate(powers, axis=1), np.concatenate([time] * 3, axis=1), rows.docs, seed
    )
    each = ends(found).reshape(3, number, 3)
    tails = _tails(path, bin_, dx, count)
    if sde is None:
        ratio = _fourth(path, rows, tails, seed)
        results = (finding(TAIL, ratio, 1.0, of_null="of a Gaussian step"),)
        expected = (None, None)
    else:
        check_dim(sde, paths)
        f, v = (part[path, k] for part in on_host(_along(sde, paths, u.astype(paths.ts.dtype))))
        f, second = f * dt, v * dt + (f * dt) ** 2
        own = _tail_ratio(path, len(x), *_expected_tails(bin_, f, v * dt, count))
        ratio = _fourth(path, rows, tails, seed)
        results = (
            finding(TAIL, ratio, own[0], of_null="of a Gaussian step of the model"),
            *_agreement(rows, total, path, (dx, f), (dx**2, second), dt, seed),
        )
        under = time.sum(axis=0)
        expected = (total(f).sum(axis=0) / under, total(second).sum(axis=0) / (2 * under))
    centres = total(at).sum(axis=0) / np.maximum(count, 1)
    return KramersMoyal(u, edges, centres, count, each[0], each[1], each[2], *expected, results)


def direction_of(direction: Any, rows: Rows) -> Float[np.ndarray, " dim"]:
    """A unit vector: of a vector, of the number of a component, or the first principal one."""
    dim = rows.ys.shape[2]
    if direction is None:
        x = rows.centred().reshape(-1, dim)
        u = np.linalg.eigh(x.T @ x)[1][:, -1]
        return u * np.sign(u[np.argmax(np.abs(u))])
    if isinstance(direction, int | np.integer) and 0 <= direction < dim:
        return np.eye(dim)[direction]
    u = np.asarray(direction, float)
    if u.shape != (dim,) or not np.isfinite(u).all() or not u.any():
        raise BadArgument(
            f"`direction` is {direction!r}. Use a vector of {dim} numbers that are not all zero, "
            f"or the number of a component, 0 to {dim - 1}."
        )
    return u / np.linalg.norm(u)


def _agreement(
    rows: Rows, total: Any, path: Any, first: Any, second: Any, dt: Any, seed: int
) -> list[Finding]:
    r"""Per coefficient: in how many bins it agrees; and $\sum a\,b/\sum b^2$ of steps on model."""
    out = []
    time = total(dt)
    for name, (seen, model) in (("drift", first), ("diffusion", second)):
        off = ends(measured(total(seen - model), time, rows.docs, seed))
        share = float(np.mean((off[:, 1] <= 0) & (off[:, 2] >= 0)))
        products = [np.bincount(path, p, minlength=len(rows.ys)) for p in (seen * model, model**2)]
        (slope,) = measured(products[0][:, None], products[1][:, None], rows.docs, seed)
        moment = {"drift": "steps on the model's", "diffusion": "squared steps on the model's"}[
            name
        ]
        out += [
            stated(
                f"share of bins where the model's {name} is within the interval",
                share,
                0.95,
                of_null="of a true model",
            ),
            finding(f"slope of {moment} {name}", slope, 1.0, of_null="of a true model"),
        ]
    return out


def _tails(path: Any, bin_: Any, dx: Any, count: Any) -> tuple[Any, Any, Any]:
    """Of steps standardised in their bin: what each adds to the ratio, and to its influence.

    By a mean and a variance of the bin itself, n Gaussian steps have the ratio (n - 1)/(n + 1) on
    average, which is taken out.
    """
    sums = [np.bincount(bin_, dx**p, minlength=len(count)) for p in (1, 2)]
    mean = sums[0] / np.maximum(count, 1)
    var = sums[1] / np.maximum(count, 1) - mean**2
    keep = ((count >= LEAST) & (var > 0))[bin_]
    s2 = np.where(keep, (dx - mean[bin_]) ** 2 / np.where(var > 0, var, 1)[bin_], 0.0)
    each = s2**2 / 3 * ((count + 1) / np.maximum(count - 1, 1))[bin_]
    ratio = np.bincount(bin_, each, minlength=len(count)) / np.maximum(count, 1)
    return each, np.where(keep, each - 2 * ratio[bin_] * (s2 - 1), 0.0), keep


def _fourth(path: Any, rows: Rows, tails: tuple[Any, Any, Any], seed: int) -> Interval:
    """The ratio of the data: a third of a kurtosis."""
    found = by_influence(*_tail_ratio(path, len(rows.ys), *tails), rows.docs, seed)
    return with_tails(found, int(tails[2].sum()), 1 / 3)


def _expected_tails(bin_: Any, f: Any, v: Any, count: Any) -> tuple[Any, Any, Any]:
    """The same of the mixture of the Gaussians that a model expects in each bin."""
    mean = np.bincount(bin_, f, minlength=len(count)) / np.maximum(count, 1)
    d = f - mean[bin_]
    var = np.bincount(bin_, v + d**2, minlength=len(count)) / np.maximum(count, 1)
    keep = ((count >= LEAST) & (var > 0))[bin_]
    fourth = (3 * v**2 + 6 * v * d**2 + d**4) / np.where(var > 0, var, 1)[bin_] ** 2 / 3
    return np.where(keep, fourth, 0.0), np.where(keep, fourth, 0.0), keep


def _tail_ratio(path: Any, number: int, values: Any, parts: Any, keep: Any) -> tuple[float, Any]:
    """The mean over steps, and each path's influence on it."""
    n = keep.sum()
    if n == 0:
        return float("nan"), np.zeros(number)
    value = float(values.sum() / n)
    return value, np.bincount(path, np.where(keep, parts - value, 0.0), minlength=number) / n


@eqx.filter_jit
def _along(
    sde: SDE, paths: Trajectory, u: Float[Array | np.ndarray, " dim"]
) -> tuple[Float[Array, "path step"], Float[Array, "path step"]]:
    r"""$u^\top f$ and $u^\top gg^\top u$ at every state but the last."""
    ito, u = sde.to_ito(), jnp.asarray(u)

    def one(path: Trajectory) -> tuple[Array, Array]:
        def at(t: Time, y: State) -> tuple[Array, Array]:
            return u @ ito.drift(t, y), u @ ito.diffusion.covariance(t, y).mv(u)

        ys = jnp.where(path.mask[:, None], path.ys, 0).astype(path.ts.dtype)
        return jax.vmap(at)(path.ts[:-1], ys[:-1])

    return by_rows(one, (paths,), AT_ONCE)
