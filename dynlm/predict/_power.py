"""`power`: the smallest nonlinear effect that this many documents could have shown."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import jax.random as jr
import numpy as np

from .. import stats
from .._io import BadArgument
from .._types import RandomKey
from ..trajectory import Trajectory
from ._planted import Effect, linear_step, planted, simulated, units_of
from ._predictor import AbstractPredictor
from ._steps import nll_sums, on_host
from ._table import plain


@final
class Planted(NamedTuple):
    """What became of an effect of one strength.

    Args:
        strength: Root mean square of the effect, in standard deviations of the innovations.
        share: The part of the linear model's residual variance that the effect is.
        nats: What knowing the effect gains over the linear fit, per step and dimension.
        gain: What the flexible fit gained over the linear fit, likewise.
        rate: How often the gain's interval lay above zero.
        low: Lower end of the rate's interval (Wilson's).
        high: Upper end of it.
        failed: In how many repeats the flexible fit gave no finite number, or ended with a
            `FloatingPointError`; not detected.
    """

    strength: float
    share: float
    nats: float
    gain: float
    rate: float
    low: float
    high: float
    failed: int


@final
class Power(NamedTuple):
    """What could have been detected.

    Args:
        at: A row per strength, rising; the first is zero, where every detection is a false alarm.
        smallest: The least strength from which on all were detected in `wanted` of the repeats or
            more, or None where there is none.
        wanted: That share.
        repeats: How often each strength was planted.
        documents: How many documents the gain was measured on.
        level: Of its intervals.
    """

    at: tuple[Planted, ...]
    smallest: float | None
    wanted: float
    repeats: int
    documents: int
    level: float

    @property
    def false_alarms(self) -> float:
        """How often an effect was seen where there was none."""
        return self.at[0].rate

    def to_json(self) -> dict[str, Any]:
        """A plain dict; what is not finite is None."""
        return plain(self._asdict() | {"at": [row._asdict() for row in self.at]})

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("strength", "share", "nats", "gain", "detected", "of repeats")
        ]
        for p in self.at:
            numbers = (p.strength, p.share, p.nats, p.gain, p.rate)
            rows.append((*(f"{x:.4f}" for x in numbers), f"[{p.low:.2f}, {p.high:.2f}]"))
        lines = ["  ".join(cell.rjust(10) for cell in row) for row in rows]
        if self.smallest is None:
            found = f"None of these strengths was detected in {self.wanted:.0%} of the repeats."
        else:
            found = (
                f"The smallest effect that was detected in {self.wanted:.0%} of the repeats has "
                f"strength {self.smallest:g}."
            )
        return "\n".join([*lines, f"{found} {self.documents:,} held-out documents."])


def power(
    fit: Callable[[Trajectory, RandomKey], AbstractPredictor],
    reference: AbstractPredictor,
    like: Trajectory,
    docs: Any,
    test_like: Trajectory,
    test_docs: Any,
    *,
    key: RandomKey,
    linear: Callable[[Trajectory], AbstractPredictor],
    strengths: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    repeats: int = 20,
    effect: Effect | None = None,
    wanted: float = 0.8,
    burn: int = 1,
    level: float = 0.95,
    resamples: int = 1000,
) -> Power:
    r"""How strong a nonlinear effect must be for these fits to see it in so many documents.

    Paths of $y' = F y + b + L\,(s\,h(z) + \xi)$ are simulated in the place of the real ones, with
    their numbers and lengths and from their own states up to the one numbered `burn`; z is the
    state in standard units of the linear model's own law, and $h$ a fixed map that no linear
    function explains, of mean square one per component. Both models are fitted to each, and the
    effect counts as detected where the interval of the gain in held-out log density lies above
    zero.

    Simulated documents differ by their noise and first states only. Where real ones differ in kind
    too, an effect must be stronger than this says.

    Args:
        fit: The flexible fit, of paths and a key.
        reference: The linear model of the real paths, such as `dynlm.baselines.var1(like)`: a
            predictor whose law is one Gaussian around a linear function of the last state.
        like: The training paths, a batch.
        docs: Their documents; one number or name per path. Paths of one document are simulated
            apart.
        test_like: The held-out paths.
        test_docs: Their documents.
        key: Random key.
        linear: The linear fit, of paths.
        strengths: s; zero is added.
        repeats: How often each is planted, with new noise and directions.
        effect: $h$, of z, before its linear part is taken out and it is brought to scale. By
            default cosines of z along random orthogonal directions.
        wanted: In what share of the repeats an effect must be detected to count as detectable.
        burn: How many transitions at the start of each path do not count.
        level: Of the intervals.
        resamples: How many times the documents are drawn anew.
    """
    test_docs = np.asarray(test_docs)
    _check(like, np.asarray(docs), test_like, test_docs, strengths, repeats)
    step = linear_step(reference, like)
    units_key, *repeat_keys = jr.split(key, repeats + 1)
    units = units_of(step, like, burn, units_key)
    rows = []
    for s in sorted({0.0, *map(float, strengths)}):
        trials = []
        for repeat_key in repeat_keys:
            effect_key, train_key, test_key, fit_key = jr.split(repeat_key, 4)
            truth = planted(step, units, effect, s, effect_key)
            train = simulated(truth, like, burn, train_key)
            test = simulated(truth, test_like, burn, test_key)
            try:
                flexible = _dense(fit(train, fit_key))
            except FloatingPointError:  # losses that did not become finite again
                flexible = None
            models = truth, linear(train), flexible
            trials.append(_gains(models, test, test_docs, burn, level, resamples))
        rows.append(_row(s, trials, level))
    above: list[float] = []  # a strength counts if all stronger ones were seen too
    for row in reversed(rows):
        if row.strength == 0 or row.rate < wanted:
            break
        above.append(row.strength)
    documents = max((t.documents for t in trials), default=0)
    return Power(tuple(rows), min(above, default=None), wanted, repeats, documents, level)


def _dense(model: AbstractPredictor) -> AbstractPredictor:
    """Refuses, at the first fit and not after all of them, a model that cannot gain."""
    none = getattr(model, "no_density", None)
    if none:
        raise BadArgument(
            f"`fit` gives a model that is not compared by density: {none}. Power is measured on "
            "gains in log density; fit by a likelihood, such as `losses.transition_nll`."
        )
    return model


class _Trial(NamedTuple):
    nats: float
    gain: float
    low: float
    documents: int


def _gains(
    models: tuple, test: Trajectory, docs: np.ndarray, burn: int, level: float, resamples: int
) -> _Trial:
    """What truth and flexible fit gain over the linear fit. NaN where that is not finite."""
    *known, flexible = models
    (truth, n), (linear, _) = [on_host(nll_sums(m, test, burn)) for m in known]
    n = n * test.ys.shape[-1]
    nats = float((linear - truth).sum() / n.sum())
    if flexible is None:
        return _Trial(nats, np.nan, -np.inf, 0)
    gains = linear - on_host(nll_sums(flexible, test, burn))[0]
    if not np.isfinite(gains).all():
        return _Trial(nats, np.nan, -np.inf, 0)
    sure = {"seed": 0, "level": level, "resamples": resamples}
    (gain,) = stats.ratios(gains[:, None], n[:, None], docs, **sure)
    return _Trial(nats, gain.value, gain.low, gain.documents)


def _row(strength: float, trials: list[_Trial], level: float) -> Planted:
    hits = sum(t.low > 0 for t in trials)
    gains = [t.gain for t in trials if np.isfinite(t.gain)]
    return Planted(
        strength=strength,
        share=strength**2 / (1 + strength**2),
        nats=float(np.mean([t.nats for t in trials])),
        gain=float(np.mean(gains)) if gains else np.nan,
        rate=hits / len(trials),
        **dict(zip(("low", "high"), stats.wilson(hits, len(trials), level), strict=True)),
        failed=len(trials) - len(gains),
    )


def _check(
    like: Trajectory,
    docs: np.ndarray,
    test_like: Trajectory,
    test_docs: np.ndarray,
    strengths: Sequence[float],
    repeats: int,
) -> None:
    for name, paths, of, which in (
        ("like", like, "docs", docs),
        ("test_like", test_like, "test_docs", test_docs),
    ):
        if paths.ts.ndim != 2 or which.shape != paths.ts.shape[:1]:
            raise BadArgument(
                f"`{name}.ts` has shape {paths.ts.shape} and `{of}` {which.shape}. Pass a batch "
                "of paths, and the document of each."
            )
    if len(np.unique(test_docs)) < 2:
        raise BadArgument("`test_docs` names one document. An interval needs two or more.")
    if not all(s >= 0 for s in strengths) or not len(strengths):
        raise BadArgument(f"`strengths` is {strengths}. Pass numbers of zero or more.")
    if repeats < 1:
        raise BadArgument(f"`repeats` is {repeats}. Use 1 or more; 20 tells 80 % from 60 %.")
