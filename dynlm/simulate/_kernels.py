"""What runs the steps between two saved times: a loop of JAX's, or one launch of a fused kernel."""

import abc
from typing import Any, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..sde import SDE
from . import _fused
from ._adjoints import AbstractAdjoint, Checkpointed
from ._fused_spec import spec_of
from ._generators import AbstractNoise, CounterNoise
from ._schemes import Carry
from ._stepper import Index, Model, Stepper

_LAUNCH = 1024  # steps at most in one launch, whose rows must fit the memory of a TPU's core


class AbstractKernel(eqx.Module):
    """What runs the steps between two saved times."""

    @property
    @abc.abstractmethod
    def loop(self) -> "Scan":
        """How the steps run where JAX runs them: always, or for derivatives."""

    @abc.abstractmethod
    def refusal(
        self,
        sde: SDE,
        solver: dfx.AbstractSolver,
        noise: AbstractNoise,
        adjoint: AbstractAdjoint,
        y0s: Float[Array, "paths dim"],
        own: str | None,
    ) -> str | None:
        """Why it cannot run this, as a sentence; `own` names what each path has of its own."""

    @abc.abstractmethod
    def advance(
        self,
        adjoint: AbstractAdjoint,
        stepper: Stepper,
        model: Model,
        carry: Carry,
        first: Index,
        steps: int,
        count: Index | None = None,
    ) -> Carry:
        """`carry` after `steps` steps from number `first` on; after `count` of them, if given."""


@final
class Scan(AbstractKernel):
    """The loop over steps as `jax.lax` runs it, on any device, for any SDE.

    Args:
        chunk: Steps whose noise is drawn at once; by default what the generator does best with.
            The draws are the same.
        unroll: Steps in one turn of the loop.
    """

    chunk: int | None = eqx.field(static=True, default=None)
    unroll: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("unroll", self.unroll)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"`{name}` is {value!r}. Use a whole number, 1 or more.")

    @property
    def loop(self) -> "Scan":
        return self

    def refusal(
        self,
        sde: SDE,
        solver: dfx.AbstractSolver,
        noise: AbstractNoise,
        adjoint: AbstractAdjoint,
        y0s: Float[Array, "paths dim"],
        own: str | None,
    ) -> str | None:
        return None

    def advance(
        self,
        adjoint: AbstractAdjoint,
        stepper: Stepper,
        model: Model,
        carry: Carry,
        first: Index,
        steps: int,
        count: Index | None = None,
    ) -> Carry:
        return adjoint.advance(stepper, model, carry, first, steps, count)


@final
class Fused(AbstractKernel):
    """One launch of a Pallas kernel for all steps between two saved times.

    The states stay on the chip and the noise is made there. It runs Euler's scheme in float32 with
    `CounterNoise`, for an MLP or linear drift and a diagonal, scalar or constant diffusion, and
    says why where it cannot. Derivatives run the loop again, and are those of float32.

    Args:
        dtype: `jnp.bfloat16` rounds both sides of every matrix product to it.
        block: Paths in one program of the kernel, a power of two from 16 on.
        target: "gpu" (through Triton) or "tpu" (through Mosaic); the default device's unless told.
        interpret: Run it as plain JAX, on any device: slow, to see what it computes.
    """

    dtype: Any = eqx.field(static=True, default=jnp.float32)
    block: int | None = eqx.field(static=True, default=None)
    target: _fused.Target | None = eqx.field(static=True, default=None)
    interpret: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        if self.target not in (None, "gpu", "tpu"):
            raise ValueError(f"`target` is {self.target!r}. Use 'gpu', 'tpu', or leave it out.")

    @property
    def loop(self) -> Scan:
        return Scan()

    def refusal(
        self,
        sde: SDE,
        solver: dfx.AbstractSolver,
        noise: AbstractNoise,
        adjoint: AbstractAdjoint,
        y0s: Float[Array, "paths dim"],
        own: str | None,
    ) -> str | None:
        reason = None
        if type(solver) is not dfx.Euler:
            reason = f"`scheme` is {type(solver).__name__}", "Euler's scheme"
        elif not isinstance(noise, CounterNoise):
            reason = f"`noise` is {type(noise).__name__}", "`CounterNoise()`"
        elif not isinstance(adjoint, Checkpointed):
            reason = f"`adjoint` is {type(adjoint).__name__}", "`Checkpointed(levels)`"
        elif y0s.dtype != jnp.float32:
            reason = f"`y0s` is {y0s.dtype}", "float32"
        elif own is not None:
            reason = f"every path has {own} of its own", "what all paths share"
        elif not self._runs(jax.default_backend()):
            reason = (
                f"the default device is a {jax.default_backend()}",
                "a GPU or TPU; anywhere else `interpret=True` with `target='gpu'` or 'tpu'",
            )
        if reason is not None:
            return f"{reason[0]}; the fused kernel takes {reason[1]}. Use `kernel=Scan()`."
        spec = spec_of(sde)
        return spec if isinstance(spec, str) else None

    def _runs(self, backend: str) -> bool:
        if self.interpret:
            return (self.target or backend) in ("gpu", "tpu")
        return backend in ("gpu", "tpu") and self.target in (None, backend)

    def advance(
        self,
        adjoint: AbstractAdjoint,
        stepper: Stepper,
        model: Model,
        carry: Carry,
        first: Index,
        steps: int,
        count: Index | None = None,
    ) -> Carry:
        return _advance(model, carry, stepper, first, steps, count, self, adjoint)


@eqx.filter_custom_jvp
def _advance(
    model: Model,
    y: Array,
    stepper: Stepper,
    first: Index,
    steps: int,
    count: Index | None,
    kernel: Fused,
    adjoint: AbstractAdjoint,
) -> Array:
    spec = spec_of(model.of(None))
    assert not isinstance(spec, str)

    def launch(number: int, done: Index, y: Array) -> Array:
        ks = first + done + jnp.arange(number)
        ts, hs = stepper.steps.time(ks), stepper.steps.lengths(ks)
        some = None if count is None else jnp.clip(jnp.asarray(count) - done, 0, number)
        return _fused.advance(
            spec,
            y,
            stepper.streams,
            ts,
            hs,
            jnp.asarray(first + done),
            some,
            target=kernel.target or jax.default_backend(),  # pyright: ignore[reportArgumentType]
            block=kernel.block,
            dtype=kernel.dtype,
            interpret=kernel.interpret,
        )

    launches, rest = divmod(steps, _LAUNCH)
    if launches:
        y = lax.fori_loop(0, launches, lambda i, y: launch(_LAUNCH, i * _LAUNCH, y), y)
    return launch(rest, launches * _LAUNCH, y) if rest else y


@_advance.def_jvp
def _along(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The derivative of the loop, computed again from where it began in reverse mode too."""
    model, y, stepper, first, steps, count, _, adjoint = primals
    learned, rest = eqx.partition(model, eqx.is_inexact_array)

    def loop(learned: Model, y: Array) -> Array:
        return adjoint.advance(stepper, eqx.combine(learned, rest), y, first, steps, count)

    moves = jax.tree.map(
        lambda x, dx: None if x is None else jnp.zeros_like(x) if dx is None else dx,
        (learned, y),
        (tangents[0], tangents[1]),
        is_leaf=lambda x: x is None,
    )
    _, along = jax.jvp(jax.checkpoint(loop), (learned, y), moves)
    return _advance(*primals), along
