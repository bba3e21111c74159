"""`time_shuffled`: the null in which states have no order."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..trajectory import Trajectory
from ._pairs import check_paths


def time_shuffled(paths: Trajectory, *, seed: int) -> Trajectory:
    """Each row's seen states in random order; its times and its padding stay.

    States keep their law, row by row, and lose all dynamics: what a model gains here over i.i.d.
    it did not learn from time.
    """
    check_paths(paths, 0, needs=0)
    mask = np.asarray(paths.mask)
    # Padding sorts to the end, where it was.
    rank = np.where(mask, np.random.default_rng(seed).random(mask.shape), 2.0)
    order = np.argsort(rank, axis=1, kind="stable")
    ys = jnp.take_along_axis(paths.ys, jnp.asarray(order)[:, :, None], axis=1)
    return eqx.tree_at(lambda paths: paths.ys, paths, ys)
