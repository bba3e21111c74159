"""The loop of a run: what is carried on the device, and what the host knows of it."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from .._io import BadArgument, counted, progress
from ._checkpoints import Checkpoints, named, shapes_of, unnamed
from ._chunks import (
    Carry,
    Fixed,
    Guard,
    Layout,
    Plan,
    Shown,
    run_chunk,
    run_evaluation,
)
from ._devices import is_key, on_all, split_rows
from ._facts import agreed, check_facts, means, plain
from ._held_out import HeldOut
from ._signals import Asked
from ._sources import AbstractSource, ahead, check_rows
from ._trainer import Model, Trainer

Row = dict[str, Any]


@final
class Settings(NamedTuple):
    """How a run goes on; see `fit`."""

    steps: int
    every: int
    chunk: int
    patience: int | None
    seeds: int | None
    guard: Guard
    save_seconds: float
    quiet: bool


@final
class Trained(NamedTuple):
    """What came of a run.

    Args:
        model: After the last step; with averaged parameters, where an average was asked for.
        best: With the least held-out loss; `model` if nothing was held out.
        log: The rows of metrics.
        ended: Why it ended: "steps" or "patience".
    """

    model: Model
    best: Model
    log: list[Row]
    ended: str


@final
class NotKept(OSError):
    """Training has ended, and its last checkpoint could not be written.

    Its `trained` is what the call would have returned, so that the model is not lost.
    """

    def __init__(self, why: str, trained: Any) -> None:
        super().__init__(why)
        self.trained = trained
        # Shown where it is not caught; the message itself is also that of the command.
        self.add_note("The trained model is not lost: it is in `trained` of this error.")


@final
class Loop:
    """A run from where its folder has it to its end."""

    def __init__(
        self,
        trainer: Trainer,
        source: AbstractSource,
        evaluate: Callable | None,
        settings: Settings,
        mesh: Mesh | None,
        keeper: Checkpoints | None,
        carry: Carry,
        key: Array,
        run: dict[str, Any],
    ) -> None:
        self.source, self.settings, self.mesh = source, settings, mesh
        self.keeper, self.key = keeper, on_all(key, mesh)
        if isinstance(evaluate, HeldOut):
            evaluate = dataclasses.replace(evaluate, mesh=mesh)
        self.evaluate = None if evaluate is None else on_all(evaluate, mesh)
        self.facts = getattr(source, "facts", {}) | run
        self.facts |= {"every": settings.every, "chunk": settings.chunk, "rows": source.rows}
        self.facts |= {"seeds": settings.seeds, "guard": list(settings.guard)}
        self.facts |= {"noise": np.asarray(jr.key_data(key) if is_key(key) else key).tolist()}
        self.facts |= {"devices": 1 if mesh is None else mesh.size, "jax": jax.__version__}
        self.facts = plain(self.facts)
        fixed = on_all(Fixed(trainer, settings.guard, source.batch, source.resident), mesh)
        self.plan = Plan(Layout(fixed), Layout(carry), settings.seeds is not None, mesh)
        self.fixed, self.arrays = self.plan.fixed.arrays(fixed), self._arrays(on_all(carry, mesh))
        self.done, self.log = 0, []
        self.pending: list[list] = []  # loss, gradient and soundness of the steps since a row
        self.saved_at = time.monotonic()
        self._resume()
        self.returns: Any = np.asarray(self.carry.returns).tolist()
        self.rate: Any = np.asarray(self.carry.state.rate).tolist()

    @property
    def carry(self) -> Carry:
        return self.plan.carry.tree(self.arrays)

    def _arrays(self, carry: Carry) -> list[Array]:
        return self.plan.carry.arrays(carry)

    def _resume(self) -> None:
        like = eqx.filter(self.carry, eqx.is_array)
        found = None if self.keeper is None else self.keeper.restore(named(like))
        if self.keeper is None or found is None:
            return
        self.done, arrays, notes = found
        check_facts(self.keeper.folder, notes["facts"], self.facts)
        if self.done > self.settings.steps:
            raise BadArgument(
                f"{self.keeper.folder} is of a run that has taken {self.done} steps, and `steps` "
                f"is {self.settings.steps}. Pass as many or more, or use another folder."
            )
        self.arrays = jax.tree.leaves(unnamed(arrays, like))
        self.log, self.pending = notes["log"], notes["pending"]

    def run(self, write: Callable[[Row], None], stop: Asked) -> Trained:
        """To the end."""
        settings = self.settings
        ended = self._early()
        todo = chunks(self.done, settings.steps, settings.every, settings.chunk)
        left = max(settings.steps - self.done, 1)
        with (
            progress("fit", left, quiet=settings.quiet or jax.process_index() > 0) as advance,
            ahead(self._payload, [] if ended else todo) as payloads,
        ):
            before = None
            for steps, payload in zip(todo, payloads):
                shown = self._advance(payload)
                self.done = steps.stop
                if before is not None:  # of the last chunk, while the device works on this one
                    advance(*self._take(*before))
                before = (steps, shown)
                boundary = self.done % settings.every == 0 or self.done == settings.steps
                stopping = stop.anywhere()
                if boundary or stopping:
                    advance(*self._take(*before))
                    before = None
                if boundary:
                    write(self._row())
                    ended = self._early()
                    if self._due():
                        self._save()
                if stopping:
                    kept = self._keep()
                    raise stop.interruption(self.done, kept, self._lost())
                if ended:
                    break
        if self.keeper is not None and not self._keep():
            why = f"Training has ended after step {self.done}. {self._lost()}"
            raise NotKept(why, self._trained(ended or "steps"))
        return self._trained(ended or "steps")

    def _payload(self, steps: range) -> PyTree:
        payload = self.source.payload(steps)
        check_rows(payload, steps, self.source.rows)
        return split_rows(payload, self.mesh, axis=1)

    def _advance(self, payload: PyTree) -> Shown:
        self.arrays, shown = run_chunk(self.plan, self.arrays, self.fixed, payload, self.key)
        return shown

    def _take(self, steps: range, shown: Shown) -> tuple[int, str]:
        """Reads what a chunk has shown; tells what went wrong."""
        loss, gradient, sound = (np.asarray(x).tolist() for x in shown.info)
        self.pending += [list(row) for row in zip(loss, gradient, sound)]
        wrong = ~np.asarray(sound, bool).reshape(len(steps), -1).all(axis=1)
        if wrong.any():
            first = steps[int(np.argmax(wrong))]
            _warn(
                f"{counted(int(wrong.sum()), 'step')} from step {first} on had a loss, gradient or "
                "change that is not finite, and did not change the model."
            )
        self._judge(steps.stop, shown)
        return len(steps), f"loss {float(np.mean(loss[-1])):.4g}"

    def _judge(self, step: int, shown: Shown) -> None:
        """Tells what the guard has done, and ends the run where it may do no more."""
        before = np.asarray(self.returns)
        self.returns, self.rate = (np.asarray(x).tolist() for x in (shown.returns, shown.rate))
        returns, most = np.asarray(self.returns), self.settings.guard.most
        which = "" if returns.ndim == 0 else f" of seed {np.flatnonzero(returns > before).tolist()}"
        if (returns > most).all():
            raise FloatingPointError(
                f"Up to step {step} training went back to a good state {returns.min()} times, and "
                "the loss is not finite again. Lower the learning rate, clip the gradient, or look "
                "for values in the data that are not finite."
            )
        if (returns > before).any():
            _warn(
                f"Losses{which} stayed not finite up to step {step}: training went back to the "
                f"last good state, and goes on with {np.min(self.rate):.3g} of the rate."
            )

    def _row(self) -> Row:
        """A row of metrics, the held-out loss in it."""
        row: Row = {"step": self.done} | means(self.pending)
        if self.evaluate is not None:
            carry, value = run_evaluation(self.evaluate, self.carry, self.plan.seeds, self.mesh)
            self.arrays = self._arrays(carry)
            row["held_out"] = np.asarray(value).tolist()
            row["best_step"] = np.asarray(carry.best_step).tolist()
        row |= {"rate": self.rate, "returns": self.returns}
        self.pending = []
        self.log.append(row)
        return row

    def _early(self) -> str | None:
        patience = self.settings.patience
        if patience is None or not self.log:
            return None
        best = int(np.max(self.log[-1]["best_step"]))
        return "patience" if self.log[-1]["step"] - best >= patience else None

    def _due(self) -> bool:
        """Whether it is time for a checkpoint; where there are several clocks, by the first."""
        return agreed(time.monotonic() - self.saved_at >= self.settings.save_seconds)

    def _save(self) -> None:
        if self.keeper is None:
            return
        arrays = named(eqx.filter(self.carry, eqx.is_array))
        notes = {"facts": self.facts, "log": self.log, "pending": self.pending}
        notes |= {"shapes": shapes_of(arrays)}
        last = self.log[-1] if self.log else {}
        held_out = last.get("held_out") if last.get("step") == self.done else None
        if held_out is not None:
            held_out = float(np.mean(np.asarray(held_out, np.float64)))
        self.keeper.save(self.done, arrays, notes, held_out)
        self.saved_at = time.monotonic()

    def _keep(self) -> bool:
        """Sees to it that there is a checkpoint of this step on the disk; whether there is."""
        if self.keeper is None:
            return False
        for _ in range(2):
            if self.keeper.settle() and self.done in self.keeper.steps():
                return True
            self._save()
        return self.keeper.settle() and self.done in self.keeper.steps()

    def _lost(self) -> str:
        if self.keeper is None:
            return "Nothing is kept without a folder: pass `folder`."
        return (
            f"Its checkpoint could not be written to {self.keeper.folder}. Free space there, and "
            "call again: training goes on from the checkpoint before."
        )

    def _trained(self, ended: str) -> Trained:
        carry = self.carry
        model = carry.state.smooth
        best = model if self.evaluate is None else eqx.combine(carry.best, carry.state.model)
        if self.evaluate is not None and not np.isfinite(np.asarray(carry.best_value)).all():
            _warn(
                "The held-out loss was never finite, so there is no best model: the last is taken. "
                "Look for values in the held-out data that are not finite."
            )
            best = model
        return Trained(model, best, self.log, ended)


def chunks(done: int, steps: int, every: int, chunk: int) -> list[range]:
    """The calls from `done` on; they end where those of an uninterrupted run end."""
    marks = [0, *range(every, steps, every), steps]
    ends = [end for a, b in zip(marks, marks[1:]) for end in [*range(a + chunk, b, chunk), b]]
    ends = [end for end in ends if end > done]
    return [range(a, b) for a, b in zip([done, *ends], ends)]


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
