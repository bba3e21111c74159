"""`Run`: what a fit left behind, simulated the way it was fitted; and `load_run`."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, final

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ._data import projection_digest
from ._fields import read_json, shown
from ._io import BadArgument, write_atomic
from ._types import RandomKey, concrete, jax_dtype
from .losses import AbstractScheme, EulerMaruyama, LocalLinear, LocalSkew, Strang
from .predict import FromSDE, SolverSteps
from .simulate import rollout, solve
from .specs import from_json
from .store import Projection
from .store._projection import read_projection, write_projection
from .trajectory import Trajectory

FORMAT = 1
RUN, PROJECTION = "run.json", "projection.safetensors"
SCHEMES: dict[str, type[AbstractScheme]] = {
    scheme.name: scheme for scheme in (EulerMaruyama, LocalLinear, Strang, LocalSkew)
}
SOLVERS: dict[str, type[dfx.AbstractSolver]] = {
    solver.__name__: solver
    for solver in (
        dfx.Euler,
        dfx.Heun,
        dfx.ItoMilstein,
        dfx.StratonovichMilstein,
        dfx.ShARK,
        dfx.ReversibleHeun,
    )
}
TOLERANCE = 1e-3  # of the step, within which another counts as the same


@final
class Law(NamedTuple):
    """The scheme and the step that a model was fitted with: the process that was fitted.

    Args:
        scheme: The name of a one-step scheme ("euler", "local_linear", "strang", "local_skew"), of
            a Diffrax solver ("Heun"), or None where the loss names none.
        step: The one gap of the data's times, or None where gaps differ.
        substeps: Steps of the scheme in a gap.
    """

    scheme: str | None
    step: float | None
    substeps: int


@final
class Run(NamedTuple):
    """A fitted model, and how it was fitted.

    Args:
        model: With the least held-out loss, or the last where nothing was held out. With several
            seeds, its arrays have a leading axis: see `seed`.
        last: After the last step.
        log: The rows of metrics.
        law: The scheme and the step of the fit.
        facts: All that was recorded, as in `run.json`.
        ended: Why training ended: "steps", "patience", or None of a run that has not.
        projection: What the states were projected by, if anything: `run.projection.project_rows`
            brings new ones to the model, and `to_raw` brings its states back.
    """

    model: Any
    last: Any
    log: list[dict[str, Any]]
    law: Law
    facts: dict[str, Any]
    ended: str | None
    projection: Any = None

    def seed(self, number: int) -> "Run":
        """The run of one of several seeds."""
        seeds = self.facts.get("seeds")
        if seeds is None or not 0 <= number < seeds:
            raise BadArgument(f"`number` is {number}, and the run has {seeds or 'no'} seeds.")
        pick = lambda x: x[number] if eqx.is_array(x) else x  # noqa: E731
        model, last = (jax.tree.map(pick, tree) for tree in (self.model, self.last))
        facts = self.facts | {"seeds": None, "seed_of": [number, seeds]}
        return self._replace(model=model, last=last, facts=facts)

    def predictor(self) -> FromSDE:
        """The one-step law that was fitted, to be scored beside the baselines.

        One of a solver's steps has draws and no density: its log-likelihood is "none".
        """
        self._check_one()
        if self.law.scheme in SCHEMES and self.law.substeps == 1:
            return FromSDE(self.model, _scheme(self.law))
        if self.law.scheme not in ("euler", *SOLVERS):
            raise BadArgument(
                f"This model was fitted by {_named(self.law)}, so its law from state to state is "
                "not known here. Fit by `transition_nll`, or through a solver of `rollout`."
            )
        sde, solver = solved_by(self)
        return FromSDE(sde, SolverSteps(solver, self.law.substeps))

    def simulate(
        self, y0s: Float[Array, "path dim"], ts: Any, *, key: RandomKey, other: bool = False
    ) -> Trajectory:
        """Paths from `y0s` at the times `ts`, by the scheme and step of the fit.

        Args:
            y0s: States at the first time, a row a path.
            ts: Times, with the step of the fit between them.
            key: Random key.
            other: Whether times may have another step than that of the fit. Unless the model passes
                `refinement`, that is another process than the one that was fitted.
        """
        self._check_one()
        if not other:
            self._check_step(ts)  # before rounding: gaps of late times lose digits
        ts = jnp.asarray(ts, y0s.dtype)
        if self.law.scheme in ("euler", *SOLVERS):
            sde, scheme = solved_by(self)
            return rollout(sde, y0s, ts, key=key, scheme=scheme, substeps=self.law.substeps)
        if self.law.scheme is None:
            if not other:
                raise BadArgument(
                    "This model was fitted by a loss that names no scheme, so it is not known what "
                    "to simulate. Pass `other=True` for the default of `dynlm.rollout`, or fit by "
                    "a loss of `dynlm.losses`."
                )
            return rollout(self.model, y0s, ts, key=key, substeps=self.law.substeps)
        if self.law.scheme in SCHEMES:
            return _chains(self.model, _scheme(self.law), y0s, ts, key)
        return _solved(self, y0s, ts, key)

    def to_raw(self, ys: Float[Array, "*paths dim"]) -> Float[Array, "*paths raw"]:
        """States of the model, such as `run.simulate(...).ys`, in the coordinates of the data."""
        if self.projection is None:
            if (self.facts.get("data") or {}).get("projection") is None:
                return ys
            raise BadArgument(
                f"The folder of this run has no {PROJECTION}: only a `dynlm.store.Projection` is "
                "kept there. Use the one that was passed to `fit`."
            )
        lifted = jax.vmap(self.projection.lift)(jnp.reshape(ys, (-1, ys.shape[-1])))
        return jnp.reshape(lifted, (*ys.shape[:-1], lifted.shape[-1]))

    def _check_one(self) -> None:
        if self.facts.get("seeds") is not None:
            raise BadArgument(
                f"The run has {self.facts['seeds']} seeds. Take one of them: `run.seed(0)`."
            )

    def _check_step(self, ts: Any) -> None:
        step, times = self.law.step, concrete(ts)
        if step is None or times is None:
            return
        gaps = np.diff(np.asarray(times, np.float64))
        wrong = np.abs(gaps - step) > TOLERANCE * step
        if wrong.any():
            raise BadArgument(
                f"`ts` has the step {gaps[np.argmax(wrong)]:g}, and the model was fitted by "
                f"{_named(self.law)}. At another step it is another process: use the step of the "
                "fit, or pass `other=True` if `dynlm.predict.refinement` says that it may be."
            )


def solved_by(run: Run) -> tuple[Any, dfx.AbstractSolver]:
    """What to solve, and by which solver, to have the law of a fit by a solver's steps.

    Euler's likelihood is that of the Ito form, whatever form the model has.
    """
    solver = SOLVERS.get(run.law.scheme or "", dfx.Euler)()
    sde = run.model.to_ito() if isinstance(solver, dfx.Euler) else run.model
    return sde, solver


def _solved(
    run: Run, y0s: Float[Array, "path dim"], ts: Float[Array, " time"], key: RandomKey
) -> Trajectory:
    """Paths by a Diffrax solver that `rollout` does not take."""
    kind = getattr(dfx, run.law.scheme or "", None)
    if kind is None:
        raise BadArgument(
            f"This model was fitted by {_named(run.law)}, which is no solver of Diffrax. Simulate "
            "`run.model` by it with `dynlm.solve`."
        )

    def one(i: Array, y0: Float[Array, " dim"]) -> Trajectory:
        options: dict[str, Any] = dict(solver=kind(), substeps=run.law.substeps)
        return solve(run.model, y0, ts, key=jr.fold_in(key, i), **options).path

    return eqx.filter_jit(jax.vmap(one))(jnp.arange(len(y0s)), y0s)


def write_run(folder: Path, facts: dict[str, Any]) -> None:
    """Keeps what a run is, in a folder."""
    text = json.dumps({"format": FORMAT} | facts, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomic(folder / RUN, text.encode() + b"\n")


def keep_projection(folder: Path, projection: Any) -> None:
    """Keeps in the folder of a run what its states were projected by."""
    if isinstance(projection, Projection):
        write_projection(folder / PROJECTION, projection)


def _projection(folder: Path, facts: dict[str, Any]) -> Projection | None:
    """The projection in the folder of a run, if it was kept: see `Run.to_raw`."""
    path, wanted = folder / PROJECTION, (facts.get("data") or {}).get("projection")
    if wanted is None or not path.exists():
        return None
    try:
        found = read_projection(path)
    except BadArgument as error:
        raise BadArgument(f"{error}. Restore it from a copy.") from None
    if projection_digest(found) != wanted:
        raise BadArgument(f"{path} is of another run than {folder / RUN}. Restore it from a copy.")
    return found


def load_run(folder: str | Path, like: Any = None) -> Run:
    """A run from its folder: of the latest sound checkpoint, whether or not it has ended.

    Args:
        folder: Where `fit` kept it.
        like: A model of the same structure. Needed only where the model was no spec of
            `dynlm.specs`, which so far has `NeuralSDE`: nothing that is read here can make objects
            of arbitrary classes.
    """
    from .train._saved import read_latest

    folder = Path(folder)
    facts = read_json(folder / RUN)
    if facts.get("format") != FORMAT:
        raise BadArgument(
            f"{folder / RUN} has the format {shown(facts.get('format'))}; this version reads "
            f"{FORMAT}. Use the version of dynlm that wrote it ({shown(facts.get('dynlm'))})."
        )
    missing = [name for name in ("law", "held_out", "steps") if name not in facts]
    if missing:
        raise BadArgument(f"{folder / RUN} lacks {', '.join(missing)}. Restore it from a copy.")
    if (facts.get("data") or {}).get("dtype") == "float64" and jax_dtype(float) != np.float64:
        raise BadArgument(
            f"{folder} was trained in float64, which JAX does not have now. Enable it first: "
            '`jax.config.update("jax_enable_x64", True)`.'
        )
    seeds = facts.get("seeds")
    if like is None:
        spec = facts.get("model")
        if not isinstance(spec, dict):
            raise BadArgument(
                f"{folder} has a model that is no spec ({shown(facts.get('made_of'))}). Make one "
                "like it and pass it: `load_run(folder, like=model)`."
            )
        like = from_json(spec).build(key=jr.key(0))
    elif seeds is not None:
        like = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (seeds, *x.shape)) if eqx.is_array(x) else x, like
        )
        seeds = None
    if seeds is not None:
        like = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (seeds, *x.shape)) if eqx.is_array(x) else x, like
        )
    found = read_latest(folder / "checkpoints")
    if found is None:
        raise BadArgument(f"{folder} has no checkpoint yet. Train on: call `fit` with it again.")
    arrays, notes = found
    if notes["facts"].get("law") != facts["law"]:
        raise BadArgument(
            f"{folder / RUN} says that the run was fitted by {shown(facts['law'])}, its checkpoint "
            f"by {shown(notes['facts'].get('law'))}. Restore the file from a copy."
        )
    averaged = any(name.startswith(".state.average") for name in arrays)
    last = _filled(like, arrays, ".state.model", folder)
    if averaged:
        last = _filled(last, arrays, ".state.average", folder, floating=True)
    best = last
    if facts["held_out"] and np.isfinite(np.asarray(arrays[".best_value"])).all():
        best = _filled(last, arrays, ".best", folder, floating=True)
    law = Law(**facts["law"])
    projection = _projection(folder, facts)
    return Run(best, last, notes["log"], law, facts, _ended(facts, notes), projection)


def _ended(facts: dict[str, Any], notes: dict[str, Any]) -> str | None:
    log = notes["log"]
    if log and log[-1]["step"] >= facts["steps"]:
        return "steps"
    patience = facts.get("patience")
    if log and patience and log[-1]["step"] - np.max(log[-1]["best_step"]) >= patience:
        return "patience"
    return None


def _filled(
    like: Any, arrays: dict[str, Array], prefix: str, folder: Path, floating: bool = False
) -> Any:
    """`like` with the arrays that stand under a prefix."""
    wanted = eqx.is_inexact_array if floating else eqx.is_array
    chosen, rest = eqx.partition(like, wanted)
    flat, treedef = jax.tree_util.tree_flatten_with_path(chosen)
    names = [prefix + jax.tree_util.keystr(path) for path, _ in flat]
    there = {name for name in arrays if re.match(re.escape(prefix) + r"($|[.\[])", name)}
    wrong = sorted(there ^ {name for name, (_, x) in zip(names, flat) if x.size}) or [
        name
        for name, (_, x) in zip(names, flat)
        if x.size and (arrays[name].shape, arrays[name].dtype) != (x.shape, x.dtype)
    ]
    if wrong:
        raise BadArgument(
            f"`like` is not of the structure of the model in {folder}: {len(wrong)} arrays differ, "
            f"such as `{wrong[0]}`. Make it as it was made for `fit`."
        )
    leaves = [arrays.get(name, x) for name, (_, x) in zip(names, flat)]
    return eqx.combine(jax.tree.unflatten(treedef, leaves), rest)


def _scheme(law: Law) -> AbstractScheme:
    return SCHEMES.get(law.scheme or "", EulerMaruyama)()


def _named(law: Law) -> str:
    step = "the data's uneven gaps" if law.step is None else f"the step {law.step:g}"
    cut = "" if law.substeps == 1 else f", each cut into {law.substeps}"
    return f"{law.scheme or 'a loss that names no scheme'} on {step}{cut}"


@eqx.filter_jit
def _chains(
    sde: Any,
    scheme: AbstractScheme,
    y0s: Float[Array, "path dim"],
    ts: Float[Array, " time"],
    key: RandomKey,
) -> Trajectory:
    """Paths of a one-step scheme; path i has the key `fold_in(key, i)`."""

    def one(i: Array, y0: Float[Array, " dim"]) -> Trajectory:
        keys = jr.split(jr.fold_in(key, i), len(ts) - 1)

        def step(y: Array, now: Any) -> tuple[Array, Array]:
            t, dt, key = now
            moving = jnp.where(dt > 0, dt, 1.0)
            y = jnp.where(dt > 0, scheme.sample(sde, t, y, moving, key=key), y)
            return y, y

        _, ys = lax.scan(step, y0, (ts[:-1], jnp.diff(ts), keys))
        ys = jnp.concatenate([y0[None], ys])
        finite = jnp.cumprod(jnp.isfinite(ys).all(axis=1)).astype(bool)
        return Trajectory(ts, ys, finite)

    return jax.vmap(one)(jnp.arange(len(y0s)), y0s)
