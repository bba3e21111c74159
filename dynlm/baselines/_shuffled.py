"""`time_shuffled`: the null in which states have no order."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..trajectory import Trajectory
from ._pairs import check_paths


def time_shuffled(paths: Trajectory, *, seed: int, burn: int = 1) -> Trajectory:
    """Each row's seen states in random order; its times, its padding and its first states stay.

    States keep their law, row by row, and lose all dynamics: what a model gains here over i.i.d.
    it did not learn from time.

    Args:
        paths: The rows.
        seed: Another seed gives another order.
        burn: How many states at the start of each row stay where they are, as they are left out of
            fits and scores: the first token's state may lie far from all others.
    """
    check_paths(paths, 0, needs=0)
    mask = np.asarray(paths.mask)
    # Padding sorts to the end, where it was.
    rank = np.where(mask, np.random.default_rng(seed).random(mask.shape), 2.0)
    rank[:, :burn] = np.where(mask[:, :burn], -1.0, 2.0)
    order = np.argsort(rank, axis=1, kind="stable")
    ys = jnp.take_along_axis(paths.ys, jnp.asarray(order)[:, :, None], axis=1)
    return eqx.tree_at(lambda paths: paths.ys, paths, ys)
