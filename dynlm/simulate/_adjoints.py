"""The loop over steps, and how it is differentiated."""

import abc
import math
from collections.abc import Callable
from typing import Any, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._schemes import Carry, Scheme
from ._stepper import Index, Model, Stepper

Turn = Callable[[Carry, Index], Carry]


class AbstractAdjoint(eqx.Module):
    """How a rollout is differentiated."""

    @abc.abstractmethod
    def check(self, scheme: Scheme, solver: dfx.AbstractSolver) -> None:
        """Refuse a scheme that cannot be differentiated so."""

    @abc.abstractmethod
    def split(self) -> tuple[Callable[[Callable], Callable], "AbstractAdjoint"]:
        """What to do with the loop over saved times, and the adjoint of each gap between them."""

    @abc.abstractmethod
    def advance(
        self,
        stepper: Stepper,
        model: Model,
        carry: Carry,
        first: Index,
        steps: int,
        count: Index | None = None,
    ) -> Carry:
        """`carry` after `steps` steps from number `first` on; after `count` of them, if given."""


@final
class Checkpointed(AbstractAdjoint):
    """Forward mode, and reverse mode that keeps few states and computes the rest again.

    With n steps and `levels` L of 1 or more, about L n^(1/L) states are kept, and (L + 1) n steps
    are computed beside the derivative itself. `levels=0` keeps everything that a step computes, and
    computes nothing twice. Noise is made again, and only kept with `levels=0`. With saved states on
    the way, the gaps between them count as one level.

    Args:
        levels: 1 was fastest on a CPU; 2 or more where memory is short.
    """

    levels: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        if isinstance(self.levels, bool) or self.levels not in range(9):
            raise ValueError(f"`levels` is {self.levels}. Use a whole number from 0 to 8.")

    def check(self, scheme: Scheme, solver: dfx.AbstractSolver) -> None:
        pass

    def split(self) -> tuple[Callable[[Callable], Callable], AbstractAdjoint]:
        if self.levels < 2:
            return lambda body: body, self
        return lambda body: jax.checkpoint(body, prevent_cse=False), Checkpointed(self.levels - 1)

    def advance(
        self,
        stepper: Stepper,
        model: Model,
        carry: Carry,
        first: Index,
        steps: int,
        count: Index | None = None,
    ) -> Carry:
        def one(carry: Carry, j: Index) -> Carry:
            k = first + j
            return stepper.step(model, carry, k, stepper.draw(jnp.asarray(k)))

        if count is not None:

            def some(carry: Carry, j: Index) -> Carry:
                return lax.cond(j < count, lambda carry: one(carry, j), lambda same: same, carry)

            return _nested(some, carry, 0, steps, self.levels, 1)
        if stepper.chunk == 1:
            return _nested(one, carry, 0, steps, self.levels, stepper.unroll)

        def many(size: int) -> Turn:
            def turn(carry: Carry, start: Index) -> Carry:
                normals = jax.vmap(stepper.draw)(start + jnp.arange(size))

                def one(carry: Carry, j: Index) -> Carry:
                    now = [z[j] for z in normals]
                    return stepper.step(model, carry, start + j, now)

                return _nested(one, carry, 0, size, min(self.levels, 1), stepper.unroll)

            return turn

        chunks, rest = divmod(steps, stepper.chunk)
        if chunks:
            turn = many(stepper.chunk)
            carry = _nested(
                lambda carry, c: turn(carry, first + c * stepper.chunk),
                carry,
                0,
                chunks,
                self.levels,
                1,
            )
        if not rest:
            return carry
        last = many(rest)
        last = jax.checkpoint(last) if self.levels else last
        return last(carry, first + steps - rest)


def _nested(one: Turn, carry: Carry, first: Index, steps: int, levels: int, unroll: int) -> Carry:
    """`steps` turns, in loops within loops, each of which keeps what enters its turns."""
    if levels > 1 and steps > 3:
        inner = math.ceil(steps ** ((levels - 1) / levels))
        outer, rest = divmod(steps, inner)

        def part(s: Index, carry: Carry) -> Carry:
            return _nested(one, carry, first + s * inner, inner, levels - 1, unroll)

        carry = lax.fori_loop(0, outer, _kept(part), carry)
        end = first + outer * inner
        return _nested(one, carry, end, rest, levels - 1, unroll) if rest else carry

    def plain(j: Index, carry: Carry) -> Carry:
        return one(carry, first + j)

    if steps == 1:
        return (jax.checkpoint(one) if levels else one)(carry, first)
    turn = _kept(plain) if levels else plain
    return lax.fori_loop(0, steps, turn, carry, unroll=min(unroll, steps))


def _kept(turn: Callable[[Index, Carry], Carry]) -> Callable[[Index, Carry], Carry]:
    """Computed again from what goes in; safe without barriers, being the body of a loop."""
    return jax.checkpoint(turn, prevent_cse=False)


@final
class Reversible(AbstractAdjoint):
    """For `diffrax.ReversibleHeun`: reverse mode that keeps no states, and takes the steps back.

    Memory does not grow with the steps between saved times. Going back undoes the arithmetic of
    going forward, so the derivative is that of the very steps that were taken, to rounding. There
    is no forward mode, and what a callable closes over cannot be differentiated. The scheme has a
    mode that grows where the drift contracts for long, which no shorter step cures.
    """

    def check(self, scheme: Scheme, solver: dfx.AbstractSolver) -> None:
        if scheme.undo is None:
            raise ValueError(
                f"`adjoint=Reversible()`, but steps of `scheme={type(solver).__name__}` cannot be "
                "taken back. Use `scheme=diffrax.ReversibleHeun()`, or `Checkpointed(levels)`."
            )

    def split(self) -> tuple[Callable[[Callable], Callable], AbstractAdjoint]:
        return lambda body: body, self

    def advance(
        self,
        stepper: Stepper,
        model: Model,
        carry: Carry,
        first: Index,
        steps: int,
        count: Index | None = None,
    ) -> Carry:
        return _forth((model, carry), stepper, first, steps if count is None else count)


@eqx.filter_custom_vjp
def _forth(differentiated: Any, stepper: Stepper, first: Index, steps: Index) -> Carry:
    model, carry = differentiated

    def turn(j: Index, carry: Carry) -> Carry:
        k = first + j
        return stepper.step(model, carry, k, stepper.draw(jnp.asarray(k)))

    return lax.fori_loop(0, steps, turn, carry)


@_forth.def_fwd
def _forth_and_keep(
    perturbed: Any, differentiated: Any, stepper: Stepper, first: Index, steps: Index
) -> tuple[Carry, Carry]:
    end = _forth(differentiated, stepper, first, steps)
    return end, end


@_forth.def_bwd
def _back(
    end: Carry,
    by_end: Carry,
    perturbed: Any,
    differentiated: Any,
    stepper: Stepper,
    first: Index,
    steps: Index,
) -> Any:
    learned, rest = eqx.partition(differentiated[0], eqx.is_inexact_array)
    by_end = jax.tree.map(lambda x, g: jnp.zeros_like(x) if g is None else g, end, by_end)

    def turn(j: Index, state: Any) -> Any:
        new, by_new, by_learned = state
        k = first + steps - 1 - j
        normals = stepper.draw(jnp.asarray(k))
        old = stepper.undo(differentiated[0], new, k, normals)
        _, pull = jax.vjp(
            lambda learned, old: stepper.step(eqx.combine(learned, rest), old, k, normals),
            learned,
            old,
        )
        more, by_old = pull(by_new)
        return old, by_old, jax.tree.map(jnp.add, by_learned, more)

    none = jax.tree.map(jnp.zeros_like, learned)
    _, by_start, by_learned = lax.fori_loop(0, steps, turn, (end, by_end, none))
    return by_learned, by_start
