"""What tests of path scores and of discrepancies of sets share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dynlm import Trajectory

SCALES = (0.6, 1.7)
SETS = 20_000


def batch(ys, lengths=None):
    """Paths at times 0, 1, ...; what lies beyond a length is a number that must not matter."""
    ys = np.asarray(ys)
    n, steps, _ = ys.shape
    lengths = np.full(n, steps) if lengths is None else lengths
    mask = np.arange(steps) < np.asarray(lengths)[:, None]
    ts = np.minimum(np.arange(steps), np.maximum(lengths - 1, 0)[:, None]).astype(ys.dtype)
    return jax.vmap(Trajectory)(jnp.asarray(ts), jnp.asarray(ys), jnp.asarray(mask))


def near(values, expected):
    """Within four standard errors of the mean of independent values."""
    values = np.asarray(values, np.float64)
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - expected) < 4 * error, (values.mean(), expected, error)


def expected_kernel(mean, variance, dim):
    """Of the difference N(mean, variance) of every entry, under the mean square per entry."""
    total = 0.0
    for s in SCALES:
        width = dim * s**2
        one = np.sqrt(width / (width + variance)) * np.exp(-(mean**2) / (2 * (width + variance)))
        total += one**dim
    return total


def finite(gradients):
    return all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradients))


def name(f):
    return f.func.__name__ if isinstance(f, partial) else f.__name__
