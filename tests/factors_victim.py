"""A program with independent batches of factors: `python factors_victim.py factors | held_out`.

With `library` in place of `factors` it does the same by jaxlib's batches, which may never end.
"""

import sys

import jax
import jax.numpy as jnp
import jax.random as jr

import dynlm
from dynlm import _factors
from dynlm.train import HeldOut

ROUNDS = 50


def factors(own: bool) -> None:
    @jax.jit
    def program(a: jax.Array) -> jax.Array:
        if own:
            operations = (_factors.cholesky, _factors.inverse_lower, _factors.log_abs_det)
        else:
            operations = (jnp.linalg.cholesky, jnp.linalg.inv, lambda a: jnp.linalg.slogdet(a)[1])
        each = [jax.vmap(f)(a * k) for f in operations for k in (1.0, 2.0)]
        return sum((jnp.sum(x) for x in each), jnp.zeros(()))

    for dim in (16, 20, _factors.MOST + 2):
        m = jr.normal(jr.key(0), (2000 if dim <= 20 else 100, dim, dim))
        a = m @ m.mT / dim + jnp.eye(dim)
        for _ in range(ROUNDS):
            program(a).block_until_ready()


def held_out() -> None:
    """A part in a loop, and the rest, nearly as large, beside it."""
    dim, size = 16, 200
    noise = dynlm.diffusions.Full.learned(dim, width=8, key=jr.key(0))
    sde = dynlm.SDE(dynlm.drifts.Linear(-jnp.eye(dim), jnp.zeros(dim)), noise)
    ys = jnp.cumsum(jr.normal(jr.key(1), (2 * size - 1, 32, dim)), axis=1)
    ts, mask = jnp.arange(32.0), jnp.ones(32, bool)
    paths = jax.vmap(lambda y: dynlm.Trajectory(ts, y, mask))(ys)

    def loss(sde: dynlm.SDE, paths: dynlm.Trajectory, key: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(lambda path: dynlm.losses.transition_nll(sde, path))(paths))

    evaluate = jax.jit(HeldOut(loss, paths, jr.key(2), size).__call__)
    for _ in range(ROUNDS):
        evaluate(sde).block_until_ready()


if __name__ == "__main__":
    way = sys.argv[1]
    held_out() if way == "held_out" else factors(way == "factors")
    print("ended")
