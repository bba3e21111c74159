"""The loop over saved times."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ._adjoints import AbstractAdjoint
from ._kernels import AbstractKernel
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
            carried, more = self._gaps(carry, carried, when)
            asides = jax.tree.map(lambda x, xs: jnp.concatenate([x, xs]), asides, more)
        return recorder.left(carried, asides)

    def _advance(self, adjoint: AbstractAdjoint, carry: Carry, *steps: Any) -> Carry:
        return self.kernel.advance(adjoint, self.stepper, self.model, carry, *steps)

    def _keep(self, carry: Carry, carried: Any, k: Any) -> tuple[Any, Any]:
        ys = self.stepper.states(carry)
        return self.save.recorder().keep(carried, self.stepper.steps.time(k), ys, self.real)

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
