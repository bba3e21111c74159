"""The compiled calls of training: many steps in one, and the evaluation between them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from .._types import RandomKey
from ._devices import same_on_all
from ._trainer import Info, Model, Trainer, TrainState, where


@final
class Guard(NamedTuple):
    """What is done about losses that are not finite. Each such step is skipped, and told.

    Args:
        patience: So many of them in a row, and the state goes back to the last good one.
        factor: What the rate is multiplied by then.
        most: More returns than this end the run with an error.
    """

    patience: int = 10
    factor: float = 0.5
    most: int = 5


@final
class Carry(eqx.Module):
    """A state of training, and what is needed to go back.

    Args:
        state: Where training is.
        good: Parameters, moments and average at the start of the last chunk that ended with a
            finite loss; so its own loss was finite, and the steps from there led to a finite one.
        bad: Steps skipped in a row, up to now.
        returns: How often it went back to `good`.
        best: Parameters with the least held-out loss so far, its value, and its step.
    """

    state: TrainState
    good: PyTree
    bad: Int[Array, ""]
    returns: Int[Array, ""]
    best: PyTree
    best_value: Float[Array, ""]
    best_step: Int[Array, ""]


@final
class Fixed(NamedTuple):
    """What a run reads and does not change."""

    trainer: Trainer
    guard: Guard
    batch: Callable
    resident: PyTree


@final
class Layout:
    """What a tree is beside its arrays; two that are equal share a compiled call.

    It is made once in a run. To flatten and hash modules in every call takes longer than a hundred
    steps of a small model.
    """

    def __init__(self, tree: PyTree) -> None:
        leaves, treedef = jax.tree.flatten(tree)
        moving = tuple(map(eqx.is_array, leaves))
        rest = tuple(None if moves else x for x, moves in zip(leaves, moving))
        self.parts = treedef, moving, rest
        self.hash = hash(self.parts)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Layout) and self.parts == other.parts)

    def arrays(self, tree: PyTree) -> list[Array]:
        """The arrays of a tree of this layout."""
        return [x for x, moves in zip(jax.tree.leaves(tree), self.parts[1], strict=True) if moves]

    def tree(self, arrays: list[Array]) -> PyTree:
        """The tree that these are the arrays of."""
        treedef, moving, rest = self.parts
        left = iter(arrays)
        return jax.tree.unflatten(treedef, [next(left) if m else x for m, x in zip(moving, rest)])


@final
class Plan(NamedTuple):
    """What a compiled chunk is made for."""

    fixed: Layout
    carry: Layout
    seeds: bool
    mesh: Mesh | None


@final
class Shown(NamedTuple):
    """What a chunk shows: a row of `info` a step, and what the guard has done up to its end."""

    info: Info
    returns: Int[Array, ""]
    rate: Float[Array, ""]


def begin(trainer: Trainer, model: Model) -> Carry:
    """The carry at the start. Nothing in it shares memory, so that it can be donated.

    Nor is a dtype in it weak: those become strong in the first step, and the second one would be
    compiled anew.
    """
    state = trainer.init(model)
    params = eqx.filter(model, eqx.is_inexact_array)
    zero = jnp.zeros((), jnp.int32)
    carry = Carry(
        state, _parts(state), zero, zero, params, jnp.full((), jnp.inf, jnp.float32), zero
    )
    return jax.tree.map(lambda x: jnp.array(x, x.dtype) if eqx.is_array(x) else x, carry)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_chunk(
    plan: Plan, arrays: list[Array], fixed: list[Array], payload: PyTree, key: Array
) -> tuple[list[Array], Shown]:
    """As many steps as the payload has, in one call; of all seeds, on the same batches."""
    reads: Fixed = plan.fixed.tree(fixed)
    carry: Carry = plan.carry.tree(arrays)
    if plan.seeds:
        one = lambda carry, key: _chunk(reads, payload, carry, key)  # noqa: E731
        carry, shown = eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0))(carry, key)
        info = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), shown.info)  # steps before seeds
        shown = shown._replace(info=info)
    else:
        carry, shown = _chunk(reads, payload, carry, key)
    return same_on_all((plan.carry.arrays(carry), shown), plan.mesh)


def _chunk(fixed: Fixed, payload: PyTree, carry: Carry, key: RandomKey) -> tuple[Carry, Shown]:
    begun, static = eqx.partition((carry.state, carry.bad), eqx.is_array)

    def step(moving: Any, payload: PyTree) -> tuple[Any, Info]:
        state, bad = eqx.combine(moving, static)
        batch = fixed.batch(fixed.resident, payload)
        state, info = fixed.trainer.step(state, batch, jr.fold_in(key, state.step))
        bad = jnp.where(info.sound, 0, bad + 1)
        return eqx.filter((state, bad), eqx.is_array), info

    ended, info = lax.scan(step, begun, payload)
    state, bad = eqx.combine(ended, static)
    good = where(info.sound[-1], _parts(carry.state), carry.good)
    back = bad >= fixed.guard.patience
    model, moments, average = where(back, good, _parts(state))
    rate = jnp.where(back, state.rate * fixed.guard.factor, state.rate)
    model = eqx.combine(model, state.model)
    state = TrainState(model, moments, average, state.step, rate)
    returns = carry.returns + back.astype(jnp.int32)
    bad = jnp.where(back, 0, bad)
    best = (carry.best, carry.best_value, carry.best_step)
    return Carry(state, good, bad, returns, *best), Shown(info, returns, rate)


def _parts(state: TrainState) -> tuple[PyTree, PyTree, PyTree]:
    """What a step changes, without the count and the rate."""
    return eqx.filter(state.model, eqx.is_inexact_array), state.moments, state.average


@eqx.filter_jit
def run_evaluation(evaluate: Callable, carry: Carry, seeds: bool, mesh: Mesh | None) -> Any:
    """The carry with the best parameters so far, and the held-out loss; of all seeds."""
    one = lambda carry: _evaluation(evaluate, carry)  # noqa: E731
    many = eqx.filter_vmap(one, in_axes=(eqx.if_array(0),)) if seeds else one
    return same_on_all(many(carry), mesh)


def _evaluation(evaluate: Callable, carry: Carry) -> tuple[Carry, Float[Array, ""]]:
    smooth = carry.state.smooth
    value = evaluate(smooth).astype(jnp.float32)
    better = value < carry.best_value
    best = where(better, eqx.filter(smooth, eqx.is_inexact_array), carry.best)
    found = (jnp.where(better, value, carry.best_value),)
    step = jnp.where(better, carry.state.step, carry.best_step)
    kept = (carry.state, carry.good, carry.bad, carry.returns)
    return Carry(*kept, best, *found, step), value
