"""Processes and states that analyses of stability are tested on."""

import jax
import jax.numpy as jnp
import numpy as np

from dynlm import SDE, Trajectory, diffusions, drifts

A = np.array([[-1.0, 3.0], [-0.5, -2.0]])
Q = np.array([[2.0, 0.3], [0.3, 1.0]])
NOISE = np.array([[0.5, 0.0], [0.2, 0.7]])


def ou(a=A, b=(0.2, -0.1), noise=NOISE):
    dtype = jnp.result_type(float)
    drift = drifts.Linear(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
    return SDE(drift, diffusions.Constant(jnp.asarray(noise, dtype)))


def cubic(sign=1.0):
    """Two wells along x, a turn towards y = 0: fixed points at x = -1, 0, 1."""
    return drifts.Function(
        lambda t, y: sign * jnp.stack([y[0] - y[0] ** 3, -0.5 * y[1] + 0.1 * y[0] * y[1]])
    )


def batch(ys, lengths=None, fill=0.0):
    """Paths of the states given, padded with `fill`."""
    ys = np.array(ys, float)
    lengths = np.full(len(ys), ys.shape[1]) if lengths is None else np.asarray(lengths)
    mask = np.arange(ys.shape[1])[None] < lengths[:, None]
    ys[~mask] = fill
    ts = np.minimum(np.arange(ys.shape[1])[None], lengths[:, None] - 1)
    dtype = jnp.result_type(float)
    return jax.vmap(Trajectory)(jnp.asarray(ts, dtype), jnp.asarray(ys, dtype), jnp.asarray(mask))


def normal(paths=24, steps=20, dim=2, seed=0):
    return np.random.default_rng(seed).normal(size=(paths, steps, dim))


def first(found):
    """The value of the first finding: the share of states where the function falls."""
    value = found.findings[0].value
    assert value is not None
    return value
