"""Mean and covariance in time: of the data, and of paths simulated from the same starts."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from .._io import BadArgument
from ..stats import by_document, ratios, student
from ..trajectory import Trajectory
from ._gaps import Draws, Seen, grouped, largest, parts_of
from ._moments import Moments
from ._states import transitions
from .findings import Finding, finding, withheld

SWAPPED = "that one in twenty exceeds where data and simulations are swapped by documents at random"
SIGNED = "that one in twenty exceeds where documents' gaps have random signs"

Paths = Float[np.ndarray, "path time dim"]


@final
class MomentCheck(NamedTuple):
    """Moments at some times; half widths are of intervals at level .95, by document.

    Args:
        steps: How many steps after the start.
        ts: When, in the paths' time.
        mean: Of the data.
        mean_half: The half width of its interval.
        covariance: Of the data.
        covariance_half: The half width of its interval.
        simulated_mean: Of the simulated paths.
        simulated_covariance: Of the simulated paths.
        findings: What follows.
    """

    steps: Int[np.ndarray, " time"]
    ts: Float[np.ndarray, " time"]
    mean: Float[np.ndarray, "time dim"]
    mean_half: Float[np.ndarray, "time dim"]
    covariance: Float[np.ndarray, "time dim dim"]
    covariance_half: Float[np.ndarray, "time dim dim"]
    simulated_mean: Float[np.ndarray, "time dim"]
    simulated_covariance: Float[np.ndarray, "time dim dim"]
    findings: tuple[Finding, ...]


@final
class _Aligned(NamedTuple):
    """The data and the simulations of it at some steps, with zeros where nothing was seen."""

    data: Paths
    drawn: Draws
    seen: Seen
    steps: Int[np.ndarray, " time"]
    ts: Float[np.ndarray, " time"]


@final
class _Set(NamedTuple):
    """Moments of a set of paths."""

    mean: Float[np.ndarray, "time dim"]
    covariance: Float[np.ndarray, "time dim dim"]


def moment_check(
    simulated: Trajectory,
    paths: Trajectory,
    docs: Any,
    *,
    burn: int = 1,
    times: int = 12,
    closure: Moments | None = None,
    seed: int = 0,
) -> MomentCheck:
    r"""Whether simulated paths have the data's mean and covariance at each time.

    The gap of every moment at every time is divided by its standard error by document, simulation
    noise included. The largest is compared with what it is when data and simulation change places
    in random documents, as they may if both have one law: a test that is exact however few the
    documents and however many the simulations of each. A fit is to be simulated by its own scheme
    and step:

        y0s, ts = moment_starts(paths)
        simulated = run.simulate(jnp.asarray(y0s), ts, key=key)

    Args:
        simulated: From `moment_starts(paths, burn=burn)`: path i begins where path i of the data
            does, modulo the number of paths. What is padding in the data is left out of both.
        docs: The document of each path.
        burn: The state that the simulation began at.
        times: At how many times, evenly spread; those where a quarter of the documents are left.
        closure: Moments of `moment_equations` or `moment_chain` at the same times, to be compared
            with the data as well.
        seed: Of the signs and of the resampling.
    """
    at = _aligned(simulated, paths, docs, burn, times)
    docs, data = np.asarray(docs), at.data[None]
    true = _moments(data, at.seen)
    made, name = None, "largest standardised gap of simulated moments"
    if np.isfinite(at.drawn).all():
        made = _moments(at.drawn, at.seen)
        found = [largest(name, _swaps(at, true, made, docs), at.steps, SWAPPED, seed)]
        found.append(_spread(at, true, made, docs, seed))
    else:
        lost = int((~np.isfinite(at.drawn)).any(axis=(0, 2, 3)).sum())
        why = f"simulations of {lost} of {len(docs)} paths have states that are not finite"
        found = [withheld(name, why)]
    if closure is not None:
        found.append(_closed(at, true, closure, docs, seed))
    nothing = _Set(np.full_like(true.mean, np.nan), np.full_like(true.covariance, np.nan))
    return MomentCheck(
        at.steps,
        at.ts,
        true.mean,
        *_halves(at, true, docs),
        *(nothing if made is None else made),
        tuple(found),
    )


def _aligned(
    simulated: Trajectory, paths: Trajectory, docs: Any, burn: int, times: int
) -> _Aligned:
    transitions(paths, docs, burn)  # refuses what cannot be read
    mask = np.asarray(paths.mask)[:, burn:]
    data = np.asarray(paths.ys, np.float64)[:, burn:]
    drawn = _matched(simulated, data.shape)
    mask = mask[:, : drawn.shape[2]]
    steps = _chosen(mask, np.asarray(docs), times)
    seen = mask[:, steps]
    data = np.where(seen[..., None], data[:, steps], 0.0)
    drawn = np.where(seen[None, :, :, None], drawn[:, :, steps], 0.0)
    longest = int(mask.sum(axis=1).argmax())
    ts = np.asarray(paths.ts, np.float64)[longest, burn + steps]
    return _Aligned(data, drawn, seen, steps, ts)


def _matched(simulated: Trajectory, shape: tuple[int, ...]) -> Draws:
    paths, time, dim = shape
    ys = np.asarray(simulated.ys, np.float64)
    if ys.ndim != 3 or len(ys) % paths or ys.shape[2] != dim or not 2 <= ys.shape[1] <= time:
        raise BadArgument(
            f"`simulated.ys` has shape {ys.shape}, and the data after `burn` {shape}. Simulate "
            "from `moment_starts(paths, burn=burn)`, at its times."
        )
    ys = np.where(np.asarray(simulated.mask)[..., None], ys, np.nan)
    return ys.reshape(-1, paths, *ys.shape[1:])


def _chosen(mask: Seen, docs: np.ndarray, times: int) -> Int[np.ndarray, " chosen"]:
    """Steps after the start where enough documents are left."""
    here = by_document(mask.astype(float), docs) > 0
    number = here.sum(axis=0)
    enough = number >= max(2, here.any(axis=1).sum() / 4)
    enough[0] = False
    known = np.flatnonzero(enough)
    if not len(known) or times < 1:
        raise BadArgument(
            f"`times` is {times}, and {len(known)} steps after the start are in two documents or "
            "more. Pass paths of two documents or more, and 1 or more `times`."
        )
    return known[np.unique(np.linspace(0, len(known) - 1, min(times, len(known))).astype(int))]


def _moments(draws: Draws, seen: Seen) -> _Set:
    """Of all draws together, at each time of the paths that are seen there."""
    w = seen[..., None].astype(float)
    total = len(draws) * w.sum(axis=0)
    mean = draws.sum(axis=(0, 1)) / total
    off = (draws - mean) * w
    return _Set(mean, np.einsum("rpti,rptj->tij", off, off) / total[..., None])


def _swaps(at: _Aligned, true: _Set, made: _Set, docs: np.ndarray) -> tuple[Any, Any]:
    """What each document adds to the gaps, when each of its sets of paths stands for the data."""
    draws = np.concatenate([at.data[None], at.drawn])
    centre = (true.mean + made.mean) / 2
    pairs = [parts_of(x[None], at.seen, docs, centre) for x in draws]
    first, second = (np.stack(x) for x in zip(*pairs, strict=True))
    others = len(draws) - 1
    return tuple((x.sum(axis=0) - len(draws) * x) / others for x in (first, second))


def _halves(at: _Aligned, true: _Set, docs: np.ndarray) -> tuple[Any, Any, Any]:
    """Half the width of an interval of the mean; the covariance; and that of its interval."""
    here = grouped(at.seen.astype(float), docs)
    number = int((here.sum(axis=1) > 0).sum())
    wide = student(0.975, number - 1) * np.sqrt(number / (number - 1))
    first, second = parts_of(at.data[None], at.seen, docs, true.mean)
    share = here / here.sum(axis=0)
    second = second - share[..., None, None] * true.covariance
    a, b = (wide * np.sqrt((x**2).sum(axis=0)) for x in (first, second))
    return a, true.covariance, b


def _closed(at: _Aligned, true: _Set, closure: Moments, docs: np.ndarray, seed: int) -> Finding:
    """The data beside moments that were computed."""
    if len(closure.mean) <= at.steps.max() or closure.mean.shape[1:] != true.mean.shape[1:]:
        raise BadArgument(
            f"`closure.mean` has shape {closure.mean.shape}. Integrate over the times of "
            "`moment_starts(paths)`."
        )
    mean, covariance = closure.mean[at.steps], closure.covariance[at.steps]
    centre = (true.mean + mean) / 2
    first, second = parts_of(at.data[None], at.seen, docs, centre)
    here = grouped(at.seen.astype(float), docs)
    share = (here / here.sum(axis=0))[..., None]
    d = mean - centre
    second = share[..., None] * (covariance + d[:, :, None] * d[:, None, :]) - second
    first = share * d - first
    choices = (np.stack([first, -first]), np.stack([second, -second]))
    return largest("largest standardised gap of the closure", choices, at.steps, SIGNED, seed)


def _spread(at: _Aligned, true: _Set, made: _Set, docs: np.ndarray, seed: int) -> Finding:
    name = "total variance of simulated states over that of the data"
    top = ((at.drawn - made.mean) ** 2).sum(axis=3).mean(axis=0)
    under = ((at.data - true.mean) ** 2).sum(axis=2)
    a, b = (np.where(at.seen, x, 0).sum(axis=1)[:, None] for x in (top, under))
    if not b.sum() > 0:
        return withheld(name, "the data do not vary")
    (share,) = ratios(a, b, docs, seed=seed)
    return finding(name, share, 1.0, of_null="of a model with the data's spread")
