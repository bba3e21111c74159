"""`judge`: a fitted run beside its baselines and its null, and what may be said of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from . import baselines
from ._data import precision_of
from ._io import BadArgument
from ._run import SCHEMES, SOLVERS, TOLERANCE, Law, Run, solved_by
from ._types import RandomKey
from .predict import (
    Embedding,
    Power,
    Refinement,
    ScoreTable,
    refinement,
    score,
)
from .predict._table import Measure, plain
from .stats import Interval
from .store import Windows
from .trajectory import Trajectory

HORIZONS = (1, 4, 16)  # steps ahead, as far as paths are long enough
LENGTH = 256  # longest stretch of a row that is scored as one
STATES = 2**20  # about how many states are taken of a store, at most
BYTES = 2**30  # of raw states that are held at a time, at most, or one stretch
CONTINUOUS = "rates, relaxation times, Lyapunov exponents and moments between the data's times"


@final
class Rows(NamedTuple):
    """Paths, the document of each, and their raw states where they were projected."""

    paths: Trajectory
    docs: np.ndarray
    raw: Any = None


@final
class Verdict(NamedTuple):
    """What a run is worth.

    Args:
        scores: Of the run, its null, and the baselines, on held-out documents.
        embedding: Whether the linear one-step model belongs to a process in continuous time.
        refinement: Whether the run has the same one-step law when it is solved more finely; None
            where its loss names no scheme.
        continuous: Whether claims in continuous time may be made.
        reason: Why not, or why so.
        power: The least nonlinear effect that so many documents could have shown, if measured.
        null_gain: What the fit of shuffled states gains on shuffled test states over a linear
            model of such: as much is gained without any order in time.
    """

    scores: ScoreTable
    embedding: Embedding | None
    refinement: Refinement | None
    continuous: bool
    reason: str
    power: Power | None
    null_gain: Measure | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""

        embedding = None if self.embedding is None else self.embedding._asdict()
        for name, x in (embedding or {}).items():
            if embedding is not None and isinstance(x, np.ndarray):
                embedding[name] = x.tolist()
        return {
            "scores": self.scores.to_json(),
            "embedding": plain(embedding),
            "refinement": plain(self.refinement),
            "null_gain": plain(self.null_gain),
            "continuous": self.continuous,
            "reason": self.reason,
            "power": None if self.power is None else self.power.to_json(),
            "beyond_linear": beyond_linear(self),
        }

    def text(self) -> str:
        """The table, and a sentence for each thing that may or may not be said."""
        lines = [self.scores.table(), ""]
        if self.scores.unit != "documents":
            lines.append(
                f"The intervals are by block, since {self.scores.unit} stand in the place of "
                "documents. Where a series remembers for longer than a block, they are too narrow."
            )
        lines.append(beyond_linear(self))
        may = "may be made" if self.continuous else "are withheld"
        lines.append(f"Claims in continuous time ({CONTINUOUS}) {may}: {self.reason}")
        if self.power is not None:
            lines += ["", "Planted nonlinear effects:", str(self.power)]
        return "\n".join(lines)


def quick_baselines(rows: Rows, key: RandomKey, burn: int = 1) -> dict[str, Any]:
    """The baselines of every table, fitted to training rows."""
    switch_key, mix_key = jr.split(key)
    paths, docs = rows.paths, rows.docs
    return {
        "random walk": baselines.random_walk(paths, burn=burn),
        "iid": baselines.iid(paths, burn=burn),
        "var1": baselines.var1(paths, burn=burn),
        "ou": baselines.ou(paths, docs=docs, burn=burn),
        "ar4": baselines.autoregression(paths, 4, docs=docs, burn=burn),
        "switching4": baselines.switching(paths, 4, key=switch_key, burn=burn),
        "mixture8": baselines.mixture_density(paths, 8, key=mix_key, docs=docs, burn=burn),
    }


def judge(
    run: Run,
    train: Rows,
    test: Rows,
    *,
    key: RandomKey,
    null: Run | None = None,
    make: Callable[[Trajectory, RandomKey], Mapping[str, Any]] | None = None,
    lift: Callable | None = None,
    power: Power | None = None,
    unit: str = "documents",
    burn: int = 1,
    **options: Any,
) -> Verdict:
    """Scores a run on held-out documents beside baselines, and checks what it is a model of.

    Args:
        run: A run with one model.
        train: Rows that baselines are fitted to.
        test: Rows of held-out documents; see `rows_of`.
        key: Random key.
        null: The same fit to `baselines.time_shuffled` rows.
        make: Gives the baselines by name, of training paths and a key; by default the usual ones.
        lift: From a state to raw units.
        power: What `predict.power` found, if it was asked.
        unit: What the rows of `test` with one number in `docs` are, where they are no documents,
            such as "blocks of one series".
        burn: Transitions out of a row's first `burn` states are left out, of scores, of the usual
            baselines and of what is said of the linear model.
        options: For `predict.score`.
    """
    fit_key, score_key, fine_key = jr.split(key, 3)
    _check_step(run.law, test.paths)
    models: dict[str, Any] = {"fit": _predictor(run)}
    if null is not None:
        models["fit of shuffled"] = _predictor(null)  # scored on states that do have their order
    models |= make(train.paths, fit_key) if make else quick_baselines(train, fit_key, burn)
    longest = int(np.max(np.sum(np.asarray(test.paths.mask), axis=1)))
    options.setdefault("horizons", tuple(h for h in HORIZONS if h < longest - burn))
    options["burn"] = burn
    scores = score(models, test.paths, test.docs, key=score_key, lift=lift, raw=test.raw, **options)
    scores = dataclasses.replace(scores, unit=unit)
    embedding = None
    if run.law.step is not None:
        embedding = baselines.embedding(train.paths, docs=train.docs, burn=burn)
    fine, ok, reason = refined(run, test.paths, fine_key)
    if embedding is None:
        ok, reason = (
            False,
            f"{_stopped(reason)} With uneven gaps it was not checked that they may be.",
        )
    elif not embedding.ok:
        ok, reason = False, f"{_stopped(reason)} The linear one-step model: {embedding.reason}"
    gain = scores.models["fit"].gain
    if isinstance(gain, Interval) and gain.high is not None and gain.high < 0:
        ok, reason = (
            False,
            f"The fit is worse than {scores.reference}; and {reason}",
        )
    null_gain = None if null is None else _null_gain(null, train, test, score_key, options)
    return Verdict(scores, embedding, fine, ok, reason, power, null_gain)


def _null_gain(
    null: Run, train: Rows, test: Rows, key: RandomKey, options: dict[str, Any]
) -> Measure | None:
    """The gain of the null on shuffled rows."""
    burn = options["burn"]
    linear = baselines.var1(shuffled_rows(train, seed=0, burn=burn).paths, burn=burn)
    rows = shuffled_rows(test, seed=1, burn=burn)
    models = {"null": _predictor(null), "var1": linear}
    rest: dict[str, Any] = options | {"horizons": ()}
    found = score(models, rows.paths, rows.docs, key=key, **rest)
    return found.models["null"].gain


def beyond_linear(verdict: Verdict) -> str:
    """Whether dynamics beyond a linear model were seen; never "none" without the power."""
    scores = verdict.scores
    found = scores.models["fit"].gain
    if scores.reference is None or not isinstance(found, Interval):
        return "Nothing is said of dynamics beyond linear: there is no gain over a linear model."
    gain = f"{found.value:.4f} [{_end(found.low)}, {_end(found.high)}] nats per step and dimension"
    if found.low is not None and found.low > 0:
        null = verdict.null_gain
        if not isinstance(null, Interval):
            return (
                f"The fit gains {gain} over {scores.reference}. Without a fit of shuffled states "
                "it is not said that this is dynamics: documents that merely differ gain too."
            )
        same = f"the same fit of shuffled states gains {null.value:.4f} on shuffled ones"
        if not found.low > null.high:
            return (
                f"The fit gains {gain} over {scores.reference}, and {same}: no order is seen in it."
            )
        beside = f" Of that, time is the cause: {same}."
        return f"Beyond linear: the fit gains {gain} over {scores.reference}.{beside}"
    if verdict.power is None:
        return (
            f"The fit gains {gain} over {scores.reference}. From that nothing follows: it was not "
            f"measured which effect so many {scores.unit} could have shown (`power`)."
        )
    power = verdict.power
    trials = f"{power.repeats} trials with {power.documents} {scores.unit}"
    share = f"in {power.wanted:.0%} of {trials}"
    could = (
        f"even the strongest effect that was planted was not seen {share}"
        if power.smallest is None
        else f"planted effects of strength {power.smallest:g} and more were seen {share}"
    )
    return (
        f"No dynamics beyond linear were seen in {scores.documents} {scores.unit} ({gain}); "
        f"{could}, and {power.false_alarms:.0%} were false alarms where there was none."
    )


def _check_step(law: Law, paths: Trajectory) -> None:
    """Refuses rows whose gaps are not those that the run was fitted on.

    Times that were rounded leave single gaps an error of that size, and of it the mean gap of a
    row has little.
    """
    times = np.asarray(paths.ts)
    gaps = np.diff(times.astype(np.float64), axis=1)
    seen = np.asarray(paths.mask)[:, 1:] & (gaps > 0)
    if law.step is None or not seen.any():
        return
    number = seen.sum(axis=1)
    number, means = number[number > 0], np.sum(gaps, axis=1, where=seen)[number > 0]
    found = np.concatenate([gaps[seen], means / number])
    rounding = float(np.finfo(times.dtype).eps) * float(np.abs(times).max())
    rounding = np.concatenate([np.full(seen.sum(), rounding), rounding / number])
    off = np.abs(found - law.step) - rounding
    worst = found[np.argmax(off)]
    if off.max() > TOLERANCE * law.step:
        raise BadArgument(
            f"`test` has the step {worst:g}, and the run was fitted on {law.step:g}. At another "
            "step it is another process: score it on rows with its own."
        )


def _stopped(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _end(x: float | None) -> str:
    return "?" if x is None or not np.isfinite(x) else f"{x:.4f}"


def _predictor(run: Run) -> Any:
    try:
        return run.predictor()
    except BadArgument as error:
        return _None(str(error))


@final
class _None(NamedTuple):
    """A model that cannot be scored."""

    reason: str

    def __bool__(self) -> bool:
        return False


def refined(run: Run, paths: Trajectory, key: RandomKey) -> tuple[Refinement | None, bool, str]:
    """Whether a run is a process in continuous time, and why not."""
    law: Law = run.law
    if law.scheme is None:
        return None, False, "the loss names no scheme, so it is not known what was fitted."
    if law.scheme not in (*SCHEMES, *SOLVERS):
        return None, False, f"{law.scheme} was not checked: `rollout` does not take it."
    if law.scheme in SCHEMES:
        sde, scheme = run.model, SCHEMES[law.scheme]()
    else:
        sde, scheme = solved_by(run)
    factors = tuple(law.substeps * k for k in (1, 4, 16))
    found = refinement(sde, paths, key=key, scheme=scheme, factors=factors)
    return found, found.ok, found.reason


def rows_from(
    store: Any,
    layer: Any,
    projection: Any = None,
    *,
    raw: bool = False,
    from_zero: bool = False,
) -> Rows:
    """Stretches of the rows of a store, at most about a million states, evenly chosen.

    Raw states are kept of fewer: those of a wide model would not fit. With `from_zero` the times of
    each start there, for models that do not know of time.
    """
    length = int(min(np.max(store.lengths), LENGTH))
    dtype = precision_of(store.dtype)
    how: dict[str, Any] = dict(dtype=dtype, from_zero=from_zero)
    windows = Windows(store, layer, length, projection=projection, **how)
    some = max(1, BYTES // (length * store.dims[layer] * np.dtype(dtype).itemsize))
    most = max(1, STATES // length)
    most = min(most, some) if raw else most
    numbers = np.unique(np.linspace(0, len(windows) - 1, min(most, len(windows))).round())
    numbers = numbers.astype(np.int64)
    plain = Windows(store, layer, length, **how).gather(numbers).ys if raw else None
    parts = [windows.gather(numbers[k : k + some]) for k in range(0, len(numbers), some)]
    paths = parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    return Rows(paths, windows.docs(numbers), plain)


def shuffled_rows(rows: Rows, *, seed: int, burn: int = 1) -> Rows:
    """The same with the states of each row, after the first `burn`, in a random order."""
    return Rows(baselines.time_shuffled(rows.paths, seed=seed, burn=burn), rows.docs)
