"""The loop over saved times."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ._adjoints import AbstractAdjoint, Checkpointed
from ._kernels import AbstractKernel, Scan
from ._saves import AbstractSave
from ._schemes import Carry
from ._stepper import Model, Stepper


class When(NamedTuple):
    """After which steps something is kept: after the first, and these numbers of steps later."""

    first: int
    gaps: tuple[int, ...] | tuple[int, int]  # all of them, or (gap, how many) if they are equal
    equal: bool

    @staticmethod
    def of(numbers: np.ndarray) -> "When":
        if len(numbers) == 1:
            return When(int(numbers[0]), (), False)
        gaps = np.diff(numbers)
        if len(gaps) and (gaps == gaps[0]).all():
            return When(int(numbers[0]), (int(gaps[0]), len(gaps)), True)
        return When(int(numbers[0]), tuple(int(gap) for gap in gaps), False)

    def numbers(self) -> np.ndarray:
        gaps = [self.gaps[0]] * self.gaps[1] if self.equal else self.gaps
        return np.cumsum([self.first, *gaps])


class Loop(NamedTuple):
    stepper: Stepper
    model: Model
    kernel: AbstractKernel
    adjoint: AbstractAdjoint
    save: AbstractSave
    real: Array

    def run(self, y0s: Array, when: When) -> Any:
        """What is left of all paths after the last saved time."""
        recorder = self.save.recorder()
        carry = self.stepper.init(self.model, y0s)
        if when.first:
            carry = self._advance(self.adjoint, carry, 0, when.first)
        carried, aside = self._keep(carry, recorder.start(y0s), when.first)
        asides = jax.tree.map(lambda x: x[None], aside)
        if when.gaps:
            whole = when.equal or not self._cut_gaps()
            carried, more = (self._gaps if whole else self._parts)(carry, carried, when)
            asides = jax.tree.map(lambda x, xs: jnp.concatenate([x, xs]), asides, more)
        return recorder.left(carried, asides)

    def _advance(self, adjoint: AbstractAdjoint, carry: Carry, *steps: Any) -> Carry:
        return self.kernel.advance(adjoint, self.stepper, self.model, carry, *steps)

    def _keep(self, carry: Carry, carried: Any, k: Any) -> tuple[Any, Any]:
        ys = self.stepper.states(carry)
        return self.save.recorder().keep(carried, self.stepper.steps.time(k), ys, self.real)

    def _cut_gaps(self) -> bool:
        """Whether gaps of unequal length are run in parts; else each is told its length."""
        return isinstance(self.kernel, Scan) and isinstance(self.adjoint, Checkpointed)

    def _parts(self, carry: Carry, carried: Any, when: When) -> tuple[Any, Any]:
        """Unequal gaps, in parts as long as their greatest common divisor.

        So many steps are taken as there are, and the states kept for the backward pass are theirs.
        """
        numbers = when.numbers()
        part = int(np.gcd.reduce(when.gaps))
        ends = np.arange(numbers[0] + part, numbers[-1] + 1, part)
        slots = np.searchsorted(numbers[1:], ends)
        kept = numbers[1:][slots] == ends
        outer, inner = self.adjoint.split() if part > 1 else (lambda body: body, self.adjoint)
        advance = outer(lambda carry, k: self._advance(inner, carry, k, part))

        def put_aside(at: tuple) -> tuple:
            carry, carried, aside, k, slot = at
            carried, more = self._keep(carry, carried, k)
            return carried, jax.tree.map(lambda xs, x: xs.at[slot].set(x), aside, more)

        def turn(state: tuple, at: tuple) -> tuple[tuple, None]:
            carry, carried, aside, k = state
            slot, keep = at
            carry = advance(carry, k)
            now = (carry, carried, aside, k + part, slot)
            carried, aside = lax.cond(keep, put_aside, lambda now: (now[1], now[2]), now)
            return (carry, carried, aside, k + part), None

        one = jax.eval_shape(lambda: self._keep(carry, carried, when.first)[1])
        room = jax.tree.map(lambda x: jnp.zeros((len(when.gaps), *x.shape), x.dtype), one)
        start = (carry, carried, room, jnp.asarray(when.first))
        (_, carried, room, _), _ = lax.scan(turn, start, (jnp.asarray(slots), jnp.asarray(kept)))
        return carried, room

    def _gaps(self, carry: Carry, carried: Any, when: When) -> tuple[Any, Any]:
        most = when.gaps[0] if when.equal else max(when.gaps)
        outer, inner = self.adjoint.split() if most > 1 else (lambda body: body, self.adjoint)

        def gap(state: tuple, count: Array | None) -> tuple[tuple, Any]:
            carry, carried, k = state
            carry = self._advance(inner, carry, k, most, count)
            k = k + (most if count is None else count)
            carried, aside = self._keep(carry, carried, k)
            return (carry, carried, k), aside

        counts = None if when.equal else jnp.asarray(when.gaps)
        length = when.gaps[1] if when.equal else len(when.gaps)
        start = (carry, carried, jnp.asarray(when.first))
        (_, carried, _), asides = lax.scan(outer(gap), start, counts, length)
        return carried, asides
