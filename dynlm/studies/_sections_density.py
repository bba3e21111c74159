"""The section on where states gather: the law that the learned dynamics settle to."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, final

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int, Shaped

from .. import analysis
from .._judge import Rows, refined
from .._types import RandomKey
from ..analysis.findings import Finding, finding, withheld
from ..stats import bootstrap
from ._fits import fitted
from ._flows import NEITHER, Flow
from ._frames import section
from ._given import Given
from ._plan import Plan

INNER = (0.005, 0.995)  # quantiles of training states along each component
MARGIN = 1 / 3  # of what lies between them, that the box is wider at each end
FLOOR = 1e-12  # of an even density: no cell counts as emptier
CELLS = 48  # along each direction
DRAWN, BLOCKS = 24, 16  # of them in a figure, and in the histogram of training states
GAIN = "gain of the learned law over a Gaussian one on held-out states"
MOST = "gain of a histogram of training states over a Gaussian law on held-out states"

Cells = Float[np.ndarray, "*cells"]


@final
class Seen(NamedTuple):
    """Held-out states on the cells of a box.

    Args:
        cells: Their cell along each direction, of those inside.
        docs: The document of each of them.
        outside: The share that is not.
    """

    cells: tuple[Int[np.ndarray, " state"], ...]
    docs: Shaped[np.ndarray, " state"]
    outside: float


def density_section(
    given: Given, plan: Plan, key: RandomKey, *, main: Flow | None = None, out: Path | None = None
) -> dict[str, Any]:
    """The stationary law of a fit to two components beside held-out states.

    Args:
        given: The rows.
        plan: Its first fit is made of the two components.
        key: Random key.
        main: The fit that is analysed, which serves where there are no more than two.
        out: Folder of the fit, which is read where it is done.
    """
    part = _first(given)
    flow = main if main is not None and given.dim <= 2 else _fitted(part, plan, key, out)
    which = "the one component" if given.dim == 1 else "the two components"
    if given.dim > 2:
        which = "the two components of most variance alone"
        which = which if given.projection is not None else "the first two components alone"
    law, found, figures = None, [withheld(GAIN, NEITHER)], []
    if flow.known:
        ys, _ = _states(part.train, plan.burn)
        low, high = _box(ys)
        law = analysis.stationary(flow.run.model, low=low, high=high, size=CELLS, dt=flow.step)
        seen = _placed(law, *_states(part.test, plan.burn))
        found = [*_gains(law, ys, seen, plan.seed), *law.findings]
        figures = [_figure(law, seen)]
    rest = (
        f" The fit is of these two of {given.dim} components. What they do next depends on the "
        "others too, which such a fit takes for noise." if given.dim > 2 else ""
    )  # fmt: skip
    return section(
        "density",
        "Where states gather",
        f"Of {which}: does the law that the learned dynamics settle to fit held-out states, and "
        "has it more than one centre?",
        f"{flow.trust}{rest} Both laws are taken on the cells of one box, so that no law gains by "
        "the grid. Steps are Gaussian: states drawn anew from several heaps are fitted by one "
        "heap, and more than one centre is there only where the drift leads to each. The histogram "
        "of training states says how much a law of any shape would gain.",
        findings=found,
        figures=figures,
        mark="ours",
    )


def _first(given: Given) -> Given:
    """The first two components."""

    def first(rows: Rows) -> Rows:
        ys = jnp.asarray(np.asarray(rows.paths.ys)[..., :2])
        return Rows(eqx.tree_at(lambda paths: paths.ys, rows.paths, ys), rows.docs)

    train, valid, test = (first(x) for x in (given.train, given.valid, given.test))
    return given._replace(train=train, valid=valid, test=test)


def _fitted(part: Given, plan: Plan, key: RandomKey, out: Path | None) -> Flow:
    fit_key, fine_key = jr.split(key)
    short = dataclasses.replace(plan, fits=plan.fits[:1], seeds=1)
    folder = None if out is None else out / "plane"
    run = fitted(part, short, key=fit_key, out=folder, null=False, quiet=True).main
    return Flow(run, refined(run, part.test.paths, fine_key)[1])


def _states(rows: Rows, burn: int) -> tuple[Float[np.ndarray, "state dim"], np.ndarray]:
    """All states after the first of each row, and the document of each."""
    ys, mask = np.asarray(rows.paths.ys, float)[:, burn:], np.asarray(rows.paths.mask)[:, burn:]
    return ys[mask], np.repeat(rows.docs, mask.sum(axis=1))


def _box(ys: Float[np.ndarray, "state dim"]) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(ys, INNER, axis=0)
    margin = MARGIN * np.maximum(high - low, 1e-6)
    return low - margin, high + margin


def _placed(law: Any, ys: Float[np.ndarray, "state dim"], docs: np.ndarray) -> Seen:
    axes = [np.asarray(axis) for axis in law.axes]
    places = [
        np.floor((y - axis[0]) / (axis[1] - axis[0]) + 0.5).astype(int)
        for y, axis in zip(ys.T, axes)
    ]
    inside = np.all([(k >= 0) & (k < len(axis)) for k, axis in zip(places, axes)], axis=0)
    return Seen(tuple(k[inside] for k in places), docs[inside], float(1 - inside.mean()))


def _gains(
    law: Any, ys: Float[np.ndarray, "state dim"], seen: Seen, seed: int
) -> tuple[Finding, Finding]:
    """Mean log densities of held-out states, less that under a Gaussian law."""
    gaussian = _gaussian(law, ys)
    even = gaussian.mean()
    ours = np.maximum(law.density, FLOOR * even)
    made = []
    for density in (ours, _histogram(law, ys, gaussian)):
        gained = np.log(density / gaussian)[seen.cells]
        made.append(bootstrap(gained, np.ones(len(gained)), seen.docs, seed=seed))
    how: dict[str, Any] = dict(unit="nats per state", of_null="of a Gaussian law")
    most = finding(MOST, made[1], 0.0, **how)
    doubt = next((x.note for x in law.findings if x.value is None), "")
    if doubt:
        return withheld(GAIN, doubt), most
    note = f"{seen.outside:.2%} of the states are outside the box and were left out"
    empty = (law.density < ours)[seen.cells].mean()
    if empty > 0:
        note += f"; {empty:.2%} are where the law is empty, and count as where it is nearly so"
    return finding(GAIN, made[0], 0.0, note=note, **how), most


def _counted(law: Any, seen: Seen) -> Cells:
    counts = np.zeros(law.density.shape)
    np.add.at(counts, seen.cells, 1.0)
    return counts


def _gaussian(law: Any, ys: Float[np.ndarray, "state dim"]) -> Cells:
    """The Gaussian law with the mean and covariance of these states, on the same cells."""
    grid = np.stack(np.meshgrid(*law.axes, indexing="ij"), axis=-1) - ys.mean(axis=0)
    inverse = np.linalg.inv(np.cov(ys.T).reshape(ys.shape[1], -1))
    density = np.exp(-np.einsum("...i,ij,...j->...", grid, inverse, grid) / 2)
    density *= law.density.sum() / density.sum()
    return np.maximum(density, FLOOR * density.mean())


def _histogram(law: Any, ys: Float[np.ndarray, "state dim"], gaussian: Cells) -> Cells:
    """The Gaussian law, made higher or lower in each of some blocks to hold what states it does."""
    counts = _counted(law, _placed(law, ys, np.arange(len(ys))))
    wanted = gaussian * counts.sum() / gaussian.sum()
    cells = CELLS // BLOCKS
    blocks = [_merged(x, BLOCKS) * cells**x.ndim for x in (counts, wanted)]
    ratio = (blocks[0] + 1) / (blocks[1] + 1)  # one state more in each: some have none
    for axis in range(ratio.ndim):
        ratio = np.repeat(ratio, cells, axis=axis)
    return gaussian * ratio * gaussian.sum() / (gaussian * ratio).sum()


def _figure(law: Any, seen: Seen) -> dict[str, Any]:
    volume = np.prod([axis[1] - axis[0] for axis in law.axes])
    counts = _counted(law, seen) / (len(seen.docs) * volume)
    axes, modes = [_merged(axis, DRAWN) for axis in law.axes], law.findings[1].value
    both = {"learned law": law.density, "held-out states": counts}
    both = {name: _merged(x, DRAWN) for name, x in both.items()}
    head = {
        "id": "density",
        "title": "The learned law and held-out states",
        "caption": "The density that the learned dynamics settle to, and the histogram of "
        "held-out states on the same cells.",
        "alt": "Two densities over the same states"
        + ("." if modes is None else f"; the learned one has {modes:.0f} modes."),
    }
    if len(axes) == 1:
        series = [{"name": name, "x": axes[0], "y": y} for name, y in both.items()]
        series[1]["style"] = "points"
        names = {"xlabel": "state", "ylabel": "density"}
        return head | {"kind": "lines", "series": series} | names
    panels = [
        {
            "kind": "heat", "title": name, "x": axes[0], "y": axes[1], "z": z.T,
            "xlabel": "first component", "ylabel": "second component", "label": "density",
        }
        for name, z in both.items()
    ]  # fmt: skip
    return head | {"kind": "panels", "panels": panels}


def _merged(x: Cells, number: int) -> Float[np.ndarray, "*merged"]:
    """Means over neighbouring cells, so that there are so many along each direction."""
    for axis in range(x.ndim):
        x = np.moveaxis(x, axis, 0)
        x = x.reshape(number, -1, *x.shape[1:]).mean(axis=1)
        x = np.moveaxis(x, 0, axis)
    return x
