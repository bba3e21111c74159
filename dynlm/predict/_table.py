"""`ScoreTable`: what `score` found, as a plain dict and as a plain text table."""

import dataclasses
import math
from typing import Any, NamedTuple, final

from ..stats import Interval


@final
class Failure(NamedTuple):
    """A number that a model has not, and why."""

    reason: str


Measure = Interval | Failure
ByHorizon = dict[int, Measure]


@final
class Calibration(NamedTuple):
    """The probability integral transform: the distribution function at what came, uniform if true.

    Args:
        histogram: The share of components in each of 20 equal bins, all components together.
        distance: The largest difference of its distribution function from the uniform one (of
            Kolmogorov), at 100 levels. Where the interval reaches zero, it may be chance.
        inside50: How often a component fell inside the middle 50 % of its law.
        inside90: Inside the middle 90 %.
    """

    histogram: tuple[float, ...] | Failure
    distance: Measure
    inside50: Measure
    inside90: Measure


@final
class ModelScores(NamedTuple):
    """The scores of one model.

    Args:
        nll: Negative log density per step and dimension, in nats. Lower is better.
        gain: The reference's `nll` minus this one's, paired by document. Higher is better.
        r2: Of the one-step expectation: one minus squared error over squared distance from the mean
            of the states that were scored, both summed over components.
        mse: The squared error of the one-step expectation, per component.
        crps: Of forecasts by horizon, mean over components. Lower is better.
        energy: The energy score likewise, of the whole state in its own norm: the root of the
            dimension times what `dynlm.losses.energy_score` is for such a step.
        pit: Calibration of the one-step law.
        raw_r2: In raw units, None where none were given.
        raw_mse: Likewise.
        raw_crps: Likewise, and empty where there are none.
        raw_energy: Likewise.
        note: How the model was taken, if that needs a word.
    """

    nll: Measure
    gain: Measure | None
    r2: Measure
    mse: Measure
    crps: ByHorizon
    energy: ByHorizon
    pit: Calibration
    raw_r2: Measure | None
    raw_mse: Measure | None
    raw_crps: ByHorizon
    raw_energy: ByHorizon
    note: str | None


@final
@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """Scores of several models on the same held-out documents.

    Args:
        models: By name.
        reference: The model that gains are over, if any.
        documents: How many documents were scored.
        paths: How many rows that were.
        transitions: How many transitions counted, from the state numbered `burn` on.
        burn: See `transitions`.
        horizons: Of the forecasts, in steps.
        draws: Of each forecast.
        origins: Forecasts start from at most so many states of a path.
        level: Of the intervals.
        raw_unit: What raw scores are of: "lift" (the raw states that components stand for), "raw"
            (the true ones, so that what the projection leaves out is an error), or None.
        unit: What counts as a document: documents, or such as "blocks of one series".
    """

    models: dict[str, ModelScores]
    reference: str | None
    documents: int
    paths: int
    transitions: int
    burn: int
    horizons: tuple[int, ...]
    draws: int
    origins: int
    level: float
    raw_unit: str | None
    unit: str = "documents"

    def to_json(self) -> dict[str, Any]:
        """A plain dict of numbers, strings, lists and None."""
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        models = {name: plain(scores) for name, scores in self.models.items()}
        return head | {"horizons": list(self.horizons), "models": models}

    def table(self) -> str:
        """Rows of models, in blocks: one step, calibration, forecasts, and raw units."""
        one = self.unit.split()[0].removesuffix("s")
        lines = [
            f"{self.documents:,} {self.unit}, {self.transitions:,} transitions; intervals of "
            f"{self.level:.0%} by {one}"
        ]
        gain = {"gain": f"gain over {self.reference}"} if self.reference else {}
        lines += self._block(
            "One step ahead", {"nll": "nats per step and dim", **gain, "r2": "R2", "mse": "mse"}
        )
        calibration = {"distance": "PIT distance", "inside50": "in 50 %", "inside90": "in 90 %"}
        lines += self._block("Calibration", calibration)
        for name, title in (("crps", "CRPS"), ("energy", "Energy score")):
            heads = {f"{name}:{h}": f"{h} step{'s'[: h > 1]}" for h in self.horizons}
            lines += self._block(f"{title} of forecasts", heads) if heads else []
        if self.raw_unit:
            lines += self._block("Raw units, one step ahead", {"raw_r2": "R2", "raw_mse": "mse"})
            for name, title in (("raw_crps", "CRPS"), ("raw_energy", "Energy score")):
                heads = {f"{name}:{h}": f"{h} step{'s'[: h > 1]}" for h in self.horizons}
                lines += self._block(f"Raw units, {title}", heads) if heads else []
        return "\n".join(lines + self._notes())

    def _block(self, title: str, heads: dict[str, str]) -> list[str]:
        rows = [[title, *heads.values()]]
        for name, scores in self.models.items():
            rows.append([name, *(_shown(_measure(scores, key)) for key in heads)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *cells in rows:
            padded = [c.ljust(w) for c, w in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
        return ["", lines[0], "-" * (sum(widths) + 2 * len(heads)), *lines[1:]]

    def _notes(self) -> list[str]:
        notes = []
        for name, scores in self.models.items():
            notes += [f"{name}: {scores.note}."] if scores.note else []
            for reason in dict.fromkeys(_reasons(scores)):
                notes.append(f"{name}: none ({reason}).")
        return ["", *notes] if notes else []


def _measure(scores: ModelScores, key: str) -> Measure | None:
    name, _, horizon = key.partition(":")
    if horizon:
        return getattr(scores, name)[int(horizon)]
    return getattr(scores if hasattr(scores, name) else scores.pit, name)


def _shown(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    return "none" if isinstance(measure, Failure) else str(measure)


def _reasons(value: Any) -> list[str]:
    if isinstance(value, Failure):
        return [value.reason]
    if isinstance(value, dict):
        value = tuple(value.values())
    inside = value if isinstance(value, tuple) and not isinstance(value, Interval) else ()
    return [reason for item in inside for reason in _reasons(item)]


def plain(value: Any) -> Any:
    """Plain values for JSON, which knows no number that is not finite."""
    if isinstance(value, Failure):
        return {"value": None, "reason": value.reason}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value
