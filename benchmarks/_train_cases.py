"""What is trained in `train.py`, and the rows that any loss has: ours, and the same by hand."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _models import Problem, nets_of, neural
from _rows import Build, Run, bytes_of, jitted

from dynlm import Trajectory, losses, rollout, specs, train
from dynlm.train._chunks import Fixed, Layout, Plan, begin, run_chunk
from dynlm.train._parts import parts_in_cache

RATE = 1e-3
OURS = "dynlm, a chunk of fit"
WHOLE = f"{OURS}, batches whole"
GRADIENT, LOSS = "dynlm, loss and gradient", "dynlm, loss alone"
KEY = jr.key(1)


class Case(NamedTuple):
    """A model, paths to fit it to, and steps of training on batches of them.

    `problem` has the model, and the sizes that peers need. Steps of ours work a batch off in
    `parts`, as `dynlm.fit` does unless it is told.
    """

    problem: Problem
    items: Trajectory
    rows: int  # of `items` in a batch
    steps: int  # of training, in one call of a row
    loss: Callable
    parts: int = 1

    @property
    def source(self) -> train.InMemory:
        return train.InMemory(self.items, self.rows, seed=0)

    def batches(self) -> np.ndarray:
        """Which items each step takes."""
        return self.source.payload(range(self.steps))

    @property
    def transitions(self) -> int:
        """In a batch."""
        return self.rows * (self.items.ts.shape[1] - 1)

    def flops(self) -> int:
        """Of the matrix products of one step: forward, by the weights, and by what is hidden."""
        sizes = [[weight.size for weight, _ in net] for net in self.nets]
        return sum(2 * (3 * sum(net) - net[0]) for net in sizes) * self.transitions

    @property
    def nets(self) -> list[Any]:
        nets = self.problem.nets
        assert nets is not None
        return [nets.drift, nets.sigma]


def transitions(
    number: int, dtype: Any, *, dim: int, width: int, steps: int, window: int = 33, depth: int = 2
) -> Case:
    """Euler's likelihood of so many transitions in windows, of four batches of autoregressions."""
    rows = number // (window - 1)
    random = np.random.default_rng(0)
    ys = np.zeros((4 * rows, window, dim))
    ys[:, 0] = random.normal(size=ys[:, 0].shape)
    for k in range(1, window):
        ys[:, k] = 0.9 * ys[:, k - 1] + 0.4 * random.normal(size=ys[:, 0].shape)
    sde = specs.NeuralSDE(dim, width=width, depth=depth, scale=0.5).build(key=jr.key(2026))
    sde = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, sde)
    nets = nets_of(sde)
    problem = Problem("transitions", sde, ys[0, 0], rows, window - 1, np.dtype(dtype), nets)
    items = batch_of(np.arange(window), ys.astype(dtype))
    parts = parts_in_cache(sde, rows, window - 1)
    return Case(problem, items, rows, steps, losses.each(losses.transition_nll), parts)


def through_paths(
    paths: int, points: int, dtype: Any, *, dim: int, width: int, depth: int, steps: int
) -> Case:
    """The mean square of simulated less observed paths; both start in one place."""
    problem = neural(
        paths, points, np.dtype(dtype), dim=dim, width=width, depth=depth, name=f"depth {depth}"
    )
    others = neural(paths, points, np.dtype(dtype), dim=dim, width=8, depth=1)
    ts = np.linspace(0.0, 1.0, points + 1)
    saved: Any = rollout(others.sde, problem.starts(), ts, key=jr.key(7))
    loss = losses.simulated(mean_square, simulate=rollout, draws=1)
    return Case(problem, batch_of(ts, np.asarray(saved.ys)), paths, steps, loss)


def mean_square(draws: Trajectory, path: Trajectory) -> Any:
    """Of the differences after the start. No proper score: noise is trained away."""
    return jnp.mean((draws.ys[:, 1:] - path.ys[None, 1:]) ** 2)


def batch_of(ts: np.ndarray, ys: np.ndarray) -> Trajectory:
    """Whole paths at the same times."""
    ts = np.tile(ts.astype(ys.dtype), (len(ys), 1))
    mask = np.ones(ts.shape, bool)
    return jax.vmap(Trajectory)(jnp.asarray(ts), jnp.asarray(ys), jnp.asarray(mask))


class Chunks:
    """The compiled calls of `fit`: a batch, a step, the guard, many times; its state goes on."""

    def __init__(self, trainer: train.Trainer, model: Any, source: train.InMemory):
        fixed = Fixed(trainer, train.Guard(), source.batch, source.resident)
        carry = begin(trainer, model)
        plan = Plan(Layout(fixed), Layout(carry), False, None)
        self.plan, self.fixed = plan, plan.fixed.arrays(fixed)
        self.arrays, self.call = plan.carry.arrays(carry), functools.partial(run_chunk, plan)

    def compile(self, numbers: Any) -> Any:
        """For chunks like this one, and nothing else from now on."""
        lowered = run_chunk.lower(self.plan, self.arrays, self.fixed, numbers, KEY)
        self.call = lowered.compile()
        return self.call

    def __call__(self, numbers: Any) -> Any:
        """The info of each step."""
        self.arrays, shown = self.call(self.arrays, self.fixed, numbers, KEY)
        return shown.info

    @property
    def model(self) -> Any:
        return self.plan.carry.tree(self.arrays).state.model


def chunk_of_fit(case: Case) -> Build:
    """One compiled call of `fit`."""

    def build() -> Run:
        trainer = train.trainer(case.loss, optax.adam(RATE), accumulate=case.parts)
        chunks, numbers = Chunks(trainer, case.problem.sde, case.source), case.batches()
        compiled = chunks.compile(numbers)

        def call() -> Any:
            info = chunks(numbers)
            jax.block_until_ready((chunks.arrays, info))
            return info.loss, info.gradient

        return Run(call, lambda: bytes_of(compiled), jax.default_backend())

    return build


def one_by_one(case: Case) -> Build:
    """`trainer.step`, compiled, called once for each step, as a loop of a user's own would."""

    def build() -> Run:
        trainer = train.trainer(case.loss, optax.adam(RATE), accumulate=case.parts)
        numbers = jnp.asarray(case.batches())

        @eqx.filter_jit(donate="all-except-first")
        def step(items: Any, state: Any, rows: Any) -> Any:
            batch = train.InMemory.batch(items, rows)
            return trainer.step(state, batch, jr.fold_in(KEY, state.step))

        state = begin(trainer, case.problem.sde).state

        def call() -> Any:
            nonlocal state
            infos = []
            for rows in numbers:
                state, info = step(case.items, state, rows)
                infos.append(info)
            jax.block_until_ready((eqx.filter(state, eqx.is_array), infos))
            losses, norms = ([float(x) for x in xs] for xs in zip(*[i[:2] for i in infos]))
            return np.asarray(losses), np.asarray(norms)

        return Run(call, lambda: None, jax.default_backend())

    return build


def in_a_scan(case: Case, loss: Callable, *, only: str | None = None, parts: int = 1) -> Build:
    """The steps in one `lax.scan`, written by hand, with Optax's Adam.

    Args:
        loss: `(model, batch, key) -> scalar`.
        only: "loss" or "gradient", and nothing is trained.
        parts: a batch is worked off in, for the gradient.
    """
    arrays, static = eqx.partition(case.problem.sde, eqx.is_inexact_array)
    adam = optax.adam(RATE)

    def of(arrays: Any, batch: Any, key: Any) -> Any:
        return loss(eqx.combine(arrays, static), batch, key)

    def run(arrays: Any, items: Any, numbers: Any, key: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            arrays, moments = carry
            batch = jax.tree.map(lambda y: jnp.take(y, x[1], axis=0), items)
            key_k = jr.fold_in(key, x[0])
            if only == "loss":
                return carry, (of(arrays, batch, key_k),)
            value, slope = mean_of_parts(jax.value_and_grad(of), parts)(arrays, batch, key_k)
            shown = value, optax.tree.norm(slope)
            if only == "gradient":
                return (arrays, jax.tree.map(jnp.add, moments, slope)), shown
            with jax.numpy_dtype_promotion("standard"):
                change, moments = adam.update(slope, moments, arrays)
            return (optax.apply_updates(arrays, change), moments), shown

        zeros = jax.tree.map(jnp.zeros_like, arrays)
        begun = arrays, (zeros if only else adam.init(arrays))
        ended, shown = jax.lax.scan(step, begun, (jnp.arange(len(numbers)), numbers))
        return *shown, ended

    return jitted(run, arrays, case.items, jnp.asarray(case.batches()), KEY)


def mean_of_parts(of: Callable, parts: int) -> Callable:
    """A function of `(arrays, batch, key)` as the mean of what it is of parts of the batch."""
    if parts == 1:
        return of

    def mean(arrays: Any, batch: Any, key: Any) -> Any:
        parted = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

        def add(total: Any, part: Any) -> Any:
            return jax.tree.map(jnp.add, total, of(arrays, part, key)), None

        shapes = jax.eval_shape(of, arrays, batch, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, parted)
        return jax.tree.map(lambda x: x / parts, total)

    return mean


def parts_of_a_step(case: Case) -> dict[str, Build]:
    """Ours: the whole step, and how much of it is what."""
    whole = {WHOLE: chunk_of_fit(case._replace(parts=1))} if case.parts > 1 else {}
    return {
        OURS: chunk_of_fit(case),
        **whole,
        "dynlm, trainer.step from Python": one_by_one(case),
        GRADIENT: in_a_scan(case, case.loss, only="gradient", parts=case.parts),
        LOSS: in_a_scan(case, case.loss, only="loss"),
    }
