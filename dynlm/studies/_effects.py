"""What written steps did, by name, with intervals by document and what follows."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool

from .. import stats
from ..analysis.findings import Finding, finding, withheld
from ..stats import Interval
from ._written import Moved

OTHERS = {
    "linear": "the linear model's step",
    "to the mean": "a step to the mean state",
    "mean step": "the mean step",
    "random": "random directions",
    "covariance": "random steps of the true covariance",
}
TRUE = ("true step", "true step, whole")


@final
class Caused(NamedTuple):
    """What each written step does to the law of the next token, by name.

    Beside the predictors there are "linear" (the step of a VAR(1)), "to the mean" (what i.i.d.
    states predict), "mean step" (one for all places), "random" and "covariance" (several
    directions each, alike in all that the projection keeps, or as true steps are), and as ceilings
    "true step" (in the components, of the same length) and "true step, whole" (as it was).

    Args:
        layer: Where it was written.
        effect: By how much the divergence from the law one token later falls, in nats.
        agreement: The correlation of the change of log probabilities with the true one.
        as_foreseen: With the one that the fit of the final states foresees.
        entropy: Of the edited law, in nats.
        far: The divergence before.
        length: Mean length of a step, as a share of the mean length of a true one.
        lost: Why a predictor has no effect.
        positions: How many places were written at.
        documents: In how many documents.
        findings: What follows.
    """

    layer: int | str
    effect: dict[str, Interval]
    agreement: dict[str, Interval]
    as_foreseen: dict[str, Interval]
    entropy: dict[str, Interval]
    far: Interval
    length: float
    lost: dict[str, str]
    positions: int
    documents: int
    findings: tuple[Finding, ...]


def compared(
    found: Moved,
    at: dict[str, list[int]],
    real: Bool[np.ndarray, "row origin"],
    docs: np.ndarray,
    layer: int | str,
    length: float,
    lost: dict[str, str],
    seed: int,
) -> Caused:
    """Means over places, and over the directions of one name; all from the same resamples."""
    count = real.sum(axis=1, keepdims=True).astype(float)
    far = np.asarray(found.far, float)
    kinds = {"effect": far[:, :, None] - np.asarray(found.edited, float)}
    for name in ("agreement", "as_foreseen", "entropy"):
        kinds[name] = np.asarray(getattr(found, name), float)
    foreseen = bool(np.isfinite(kinds["as_foreseen"][real]).all())
    columns = {("far", ""): np.where(real, far, 0).sum(axis=1)}
    for kind, x in kinds.items():
        if kind != "as_foreseen" or foreseen:
            for name, which in at.items():
                mean = x[:, :, which].mean(axis=2)
                columns[kind, name] = np.where(real, mean, 0).sum(axis=1)

    def over(columns: dict[Any, np.ndarray]) -> dict[Any, Interval]:
        made = stats.ratios(np.stack(list(columns.values()), axis=1), count, docs, seed=seed)
        return dict(zip(columns, made, strict=True))

    all_ = over(columns)
    by_kind = {k: {n: x for (kind, n), x in all_.items() if kind == k} for k in kinds}
    gains: dict[Any, np.ndarray] = {}
    mine = [name for name in at if name not in (*OTHERS, *TRUE)]
    for name in mine:
        for other in OTHERS:
            gains["effect", name, other] = columns["effect", name] - columns["effect", other]
        for kind in ("agreement", "as_foreseen") if foreseen else ("agreement",):
            gains[kind, name, "random"] = columns[kind, name] - columns[kind, "random"]
    return Caused(
        layer=layer,
        **by_kind,
        far=all_["far", ""],
        length=length,
        lost=lost,
        positions=int(real.sum()),
        documents=len(np.unique(docs[real.any(axis=1)])),
        findings=_findings(mine, by_kind, over(gains), layer, lost),
    )


def _findings(
    mine: list[str],
    by_kind: dict[str, dict[str, Interval]],
    gains: dict[Any, Interval],
    layer: int | str,
    lost: dict[str, str],
) -> tuple[Finding, ...]:
    there = f"in layer {layer}" if layer != "final" else "in the final states"
    only = "Only the unembedding follows, so this says what the step means and not that it is used."
    note = only if layer == "final" else ""
    effect = by_kind["effect"]
    found = [withheld(f"effect of the {name} step {there}", why) for name, why in lost.items()]
    for name in mine:
        what = f"effect of the {name} step {there}"
        null = effect[
            "random"
        ].value  # a push of any kind flattens the law, which may bring it near
        found.append(
            finding(
                what, effect[name], null, unit="nats", of_null="of random directions", note=note
            )
        )
        for other, called in OTHERS.items():
            gain = gains["effect", name, other]
            found.append(finding(f"{what} beyond {called}", gain, 0.0, unit="nats"))
        what = f"correlation of what the {name} step {there} changes with"
        for kind, whose in (("agreement", "the true change"), ("as_foreseen", "the one foreseen")):
            # At the last layer the edit is what is foreseen: they agree by construction.
            if by_kind[kind] and not (kind == "as_foreseen" and layer == "final"):
                found.append(finding(f"{what} {whose}", by_kind[kind][name], 0.0))
                beyond = f"excess over random directions in the {what} {whose}"
                found.append(finding(beyond, gains[kind, name, "random"], 0.0))
    ceiling = "It shows what this test could have seen."
    true = finding(
        f"effect of the true step {there}", effect["true step"], 0.0, unit="nats", note=ceiling
    )
    return (*found, true)
