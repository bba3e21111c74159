"""A language model whose states go round a circle, so that all it does is known in closed form."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dynlm.store import Projection
from dynlm.store._projection import Fit
from dynlm.trajectory import Trajectory, stack

VOCAB, WIDTH, TURN = 24, 4, 2 * np.pi / 24


class Cache(NamedTuple):
    positions: Any
    slot: Any


class Out(NamedTuple):
    final: Any
    states: dict
    cache: Any


class Circle(eqx.Module):
    """Token v is a point at angle `v TURN`; layer 1 holds it, `final` is `mix` times it.

    The logits are `unembedding` times that. Padding holds NaN at every layer.
    """

    table: jax.Array
    mix: jax.Array
    unembedding: jax.Array

    def __call__(self, tokens, positions, *, cache=None, edit=None, layers=()):
        real = (positions >= 0)[:, :, None]
        x = jnp.where(real, self.table[tokens], jnp.nan)
        states = {}
        for name in (1, "final"):
            if name == "final":
                x = x @ self.mix.T
            if edit and name in edit:
                x = jnp.where(real, edit[name](x, positions), x)
            if name in layers:
                states[name] = x
        return Out(x, states, cache)

    def unembed(self, final):
        return final @ self.unembedding.T

    def empty(self, batch, slots, lengths):
        return Cache(jnp.full((batch, slots), -1), jnp.zeros((), int))


def circle(seed=0):
    """The model: its mixing is a rotation of all dimensions, its logits point to the next token."""
    rng = np.random.default_rng(seed)
    angle = TURN * np.arange(VOCAB)
    table = np.zeros((VOCAB, WIDTH))
    table[:, 0], table[:, 1] = np.cos(angle), np.sin(angle)
    mix = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    unembedding = 3 * np.roll(table, -1, axis=0) @ mix.T
    return Circle(*(jnp.asarray(x, jnp.float32) for x in (table, mix, unembedding)))


def rotation(angle):
    """Of the first two dimensions; the others stay."""
    r = np.eye(WIDTH)
    r[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return r


def whole(basis=None):
    """A projection that leaves states as they are, or keeps the directions of `basis`."""
    kept = WIDTH if basis is None else basis.shape[1]
    fit = Fit(("final",), None, 0, 0, "none", False, None, None, 1.0, "")
    ones = jnp.ones(kept, jnp.float32)
    return Projection(
        mean=jnp.zeros(WIDTH, jnp.float32),
        scale=jnp.ones(WIDTH, jnp.float32),
        basis=None if basis is None else jnp.asarray(basis, jnp.float32),
        width=ones,
        variance=ones,
        fit=fit,
    )


def texts(seed, rows, longest=14):
    """Each token follows the one before it round the circle; rows differ in start and length."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(longest - 4, longest + 1, rows)
    lengths[0] = longest
    return [(rng.integers(VOCAB) + np.arange(n)) % VOCAB for n in lengths]


def states_of(model, sequences, layer, projection, noise=0.0, seed=0):
    """Paths of the model's states in the components of a projection, with some noise."""
    rng = np.random.default_rng(seed)
    paths = []
    for row in sequences:
        x = np.asarray(model.table)[row]
        x = x if layer == 1 else x @ np.asarray(model.mix).T
        z = projection.project_rows(x.astype(np.float32))
        paths.append(Trajectory.from_arrays(z + noise * rng.standard_normal(z.shape, np.float32)))
    return stack(paths)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def divergence(log_p, log_q):
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
