"""Quadratic variation: whether the paths are as rough as the diffusion says."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._io import BadArgument
from .._types import State, Time
from ..predict._steps import by_rows, on_host, scored
from ..sde import SDE
from ..trajectory import Trajectory
from ._correlation import ends, measured, rows_of
from .findings import Finding, finding, stated

AT_ONCE = 32  # paths

PerComponent = Float[Array, "path dim"]


@final
class Variation(NamedTuple):
    """What `variation` found.

    Args:
        realised: Squared steps over what the model expects of them, with ends.
        residual: Squared steps less the drift over the integrated diffusion, with ends.
        component: The same of each component.
        drift_share: The part of the expected variation that the drift makes.
        findings: The two ratios, the drift's share, and how many components are right.
    """

    realised: Float[np.ndarray, " 3"]
    residual: Float[np.ndarray, " 3"]
    component: Float[np.ndarray, "dim 3"]
    drift_share: float
    findings: tuple[Finding, ...]


def variation(sde: SDE, paths: Trajectory, docs: Any, *, burn: int = 1, seed: int = 0) -> Variation:
    r"""$\sum|\Delta y|^2 / \sum(\mathrm{tr}(gg^\top)\,\Delta t + |f|^2\Delta t^2)$, one if true.

    The denominator is what one Euler step of each gap expects, so the ratio is one for a model
    that was fitted by such steps, whatever their length. The second ratio,
    $\sum|\Delta y - f\,\Delta t|^2 / \sum\mathrm{tr}(gg^\top)\,\Delta t$, blames the diffusion
    alone where the drift is right, and the drift too where it is not.

    Args:
        sde: The SDE; a Stratonovich one is converted.
        paths: A batch of paths.
        docs: The document of each path.
        burn: Steps out of the first `burn` states of each path are left out.
        seed: Of the resampling.
    """
    check_dim(sde, paths)
    rows = rows_of(paths, docs, burn)
    square, error, noise, drift = on_host(_sums(sde, paths, burn))
    whole = [x.sum(axis=1, keepdims=True) for x in (square, error, noise + drift, noise)]
    numerators = np.concatenate([*whole[:2], error], axis=1)
    denominators = np.concatenate([*whole[2:], noise], axis=1)
    found = measured(numerators, denominators, rows.docs, seed)
    share = float(drift.sum() / max((noise + drift).sum(), 1e-300))
    component = ends(found[2:])
    right = float(np.mean((component[:, 1] <= 1) & (component[:, 2] >= 1)))
    results = (
        finding("realised quadratic variation over that of the model", found[0], 1.0),
        finding("squared residuals over the integrated diffusion", found[1], 1.0),
        stated("share of the expected variation that the drift makes", share),
        stated(
            "share of components whose interval holds the model's diffusion",
            right,
            0.95,
            of_null="of a true model",
        ),
    )
    return Variation(ends(found[:1])[0], ends(found[1:2])[0], component, share, results)


def check_dim(sde: SDE, paths: Trajectory) -> None:
    """Refuses an SDE of another dimension."""
    if sde.dim != paths.ys.shape[-1]:
        raise BadArgument(
            f"`sde` has dimension {sde.dim} and `paths` {paths.ys.shape[-1]}. Pass paths in the "
            "coordinates that it was fitted in."
        )


@eqx.filter_jit
def _sums(sde: SDE, paths: Trajectory, burn: int) -> tuple[PerComponent, ...]:
    ito = sde.to_ito()

    def one(path: Trajectory) -> tuple[State, ...]:
        counts = scored(path, burn)[:, None]
        ys = jnp.where(path.mask[:, None], path.ys, 0).astype(path.ts.dtype)

        def step(t: Time, y: State, dt: Float[Array, ""], dy: State) -> tuple[State, ...]:
            f, sigma = ito.drift(t, y) * dt, ito.diffusion.covariance(t, y).as_matrix()
            return dy**2, (dy - f) ** 2, jnp.diagonal(sigma) * dt, f**2

        each = jax.vmap(step)(path.ts[:-1], ys[:-1], jnp.diff(path.ts), jnp.diff(ys, axis=0))
        return tuple(jnp.sum(jnp.where(counts, x, 0), axis=0) for x in each)

    return by_rows(one, (paths,), AT_ONCE)
