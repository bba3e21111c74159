"""The sections that need the model: texts, words from learned dynamics, causes, and depth."""

from typing import Any

import numpy as np

from .. import analysis
from .._run import Run
from ..analysis.findings import Finding
from ._causal import caused
from ._decoding import Decoded, decoded
from ._effects import Caused
from ._frames import section, table
from ._plan import Plan
from ._sde import Basis
from ._steered import steered

SHORT = 160  # characters of a sampled text that are shown
PUBLISHED = (
    "The paper has, for the last token of pieces of 50 in GPT-2 medium, noise of variance "
    "a exp(l t) at layer t with a about .64 and l about .18. The l found here is the growth "
    "exponent above, and a the factor in its note; both depend on how many layers there are and on "
    "the scale of the states, so that other models need not have those values."
)


def samples_section(rows: list[tuple[float, str, float, float]]) -> dict[str, Any]:
    """Texts at several temperatures: temperature, text, mean log probability, mean entropy."""
    body = [[t, text[:SHORT], score, entropy] for t, text, score, entropy in rows]
    return section(
        "samples",
        "Texts",
        "What does the model write, from cool to hot?",
        "The texts that are studied were sampled at temperature 1. These are for the eye.",
        found=[f"{len(rows)} texts were continued from the same words."],
        tables=[
            table(
                "Samples",
                ["temperature", "text", "log probability a token", "entropy"],
                body,
                "In nats, at temperature 1 whatever the text was drawn at.",
            )
        ],
    )


def decoding_section(found: Decoded) -> dict[str, Any]:
    """What rolled-out final states say of the words to come."""
    names = {"SDE": "neural SDE", "linear": "VAR(1)", "iid": "independent states",
             "random walk": "state stays", "unigram": "token frequencies",
             "projected": "the model, through the projection", "model": "the model"}  # fmt: skip
    heads = ["forecast", *(f"{h} ahead" for h in found.horizons)]
    body = [[names.get(name, name), *x] for name, x in found.score.items()]
    apart = [[names.get(name, name), *x] for name, x in found.divergence.items()]
    wanted = ("SDE", "linear", "random walk", "unigram", "projected")
    shown = [name for name in wanted if name in found.score]
    series = []
    for name in shown:
        value, low, high = np.array([[x.value, x.low, x.high] for x in found.score[name]]).T
        one = {"name": names[name], "x": found.horizons, "y": value}
        series.append(one | ({"low": low, "high": high} if name == "SDE" else {}))
    note = (
        f"{found.positions[0]:,} forecasts in {found.documents} documents. The model has read the "
        "tokens between, which no forecast knows."
    )
    return section(
        "decoding",
        "Does it know words?",
        "Final states rolled out by the learned dynamics go through the model's own unembedding: "
        "do they say which words come, better than the linear model and than word frequencies?",
        "The log probability of the token that came is a proper score. What the projection alone "
        "loses is the line of the model through it: to look at, and no bound. A forecast is the "
        "mean of a few dozen draws, whose logarithm is freed to first order of what is due to so "
        "few.",
        findings=sorted(found.findings, key=_rank),
        most=8,
        tables=[
            table("Log probability of what came, nats", heads, body, note),
            table("Divergence from the model that knows the words between, nats", heads, apart),
        ],
        figures=[
            {
                "id": "words",
                "title": "Log probability of the token that came",
                "kind": "lines",
                "series": series,
                "xlabel": "states ahead",
                "ylabel": "nats a token",
                "xlog": True,
                "caption": "Higher is better. Forecasts fall towards the token frequencies.",
                "alt": "Log probability by horizon for each forecast.",
            }
        ],
        mark="ours",
    )


def _rank(one: Finding) -> int:
    """First what the SDE gains over the linear model and over frequencies, at all horizons."""
    heads = ("gain of the SDE forecast over the linear", "gain of the SDE forecast over the shares")
    return next((k for k, head in enumerate(heads) if one.what.startswith(head)), len(heads))


def causal_section(tests: list[Caused], steer: Any = None) -> dict[str, Any]:
    """What a predicted step does when it is written into the running model."""
    findings: list[Finding] = [one for test in tests for one in test.findings]
    if steer is not None:
        findings += list(steer.findings)
    tables, figures = [], []
    for test in tests:
        where = f"layer {test.layer}" if test.layer != "final" else "the final states"
        body = []
        for name, effect in test.effect.items():
            row = [_step(name), effect, test.agreement.get(name), test.as_foreseen.get(name)]
            body.append([*row, test.entropy.get(name)])
        heads = ["step", "effect, nats", "correlation with the true change", "with the foreseen"]
        note = (
            f"{test.positions:,} places in {test.documents} documents. All steps at a place have "
            f"one length: {test.length:.0%} of the true step's. Before, the two laws are "
            f"{test.far.value:.3f} nats apart."
        )
        tables.append(table(f"Steps written into {where}", [*heads, "entropy"], body, note))
        kept = {n: x for n, x in test.effect.items() if np.isfinite(x.value)}
        figures.append(
            {
                "id": f"effects-{test.layer}",
                "title": f"What steps written into {where} do",
                "kind": "bars",
                "labels": [_step(n) for n in kept],
                "groups": [
                    {
                        "name": "effect",
                        "values": [x.value for x in kept.values()],
                        "low": [x.low for x in kept.values()],
                        "high": [x.high for x in kept.values()],
                    }
                ],
                "null": 0.0,
                "xlabel": "nats nearer to the law one token later",
                "caption": "How much nearer the law of the next token comes to the one it will "
                "have a token later. Random directions of the same length are the null.",
                "alt": "A bar for each kind of step.",
            }
        )
    return section(
        "causal",
        "Does the model follow?",
        "A good fit is no mechanism. When the step that the SDE predicts is written into the "
        "running model, do its next words move to where they will be a token later, more than by "
        "random directions and by the linear model's step of the same length?",
        "In the final states only the unembedding follows, so an effect there shows what a step "
        "means. In an inner layer the rest of the model has to take it up. A step common to all "
        "places can have an effect too: see the mean step.",
        findings=findings,
        tables=tables,
        figures=figures,
        mark="ours",
    )


def _step(name: str) -> str:
    return {"SDE": "neural SDE", "linear": "VAR(1)", "covariance": "random, as states vary"}.get(
        name, name
    )


def words(
    model: Any, run: Run, given: Any, plan: Plan, sequences: Any, docs: Any, counts: Any, key: Any
) -> Decoded:
    """`decoded` with what a plan says."""
    return decoded(
        model, {"SDE": run}, given.projection, sequences, docs,
        train=given.train.paths, counts=counts, key=key, seed=plan.seed, draws=plan.draws,
        burn=plan.burn,
    )  # fmt: skip


def causes(
    model: Any, b: Basis, final: tuple[Run, Any] | None, plan: Plan, sequences: Any, docs: Any
) -> list[Caused]:
    """The causal test in the layer of a study, and in the final states if there are any."""
    how: dict[str, Any] = dict(seed=plan.seed, burn=plan.burn)
    layer, projection = b.given.layer, b.given.projection
    assert layer is not None and projection is not None
    tests = []
    if layer != "final":
        foreseen = None if final is None else (final[0], final[1].projection)
        tests.append(
            caused(
                model, {"SDE": b.run}, layer, projection, sequences, docs,
                train=b.given.train.paths, final=foreseen, **how,
            )
        )  # fmt: skip
    if final is not None:
        run, given = final
        last = caused(
            model, {"SDE": run}, "final", given.projection, sequences, docs,
            train=given.train.paths, **how,
        )  # fmt: skip
        tests.append(last)
    return tests


def steering(model: Any, b: Basis, prompts: Any, docs: Any, key: Any) -> Any:
    """Texts sampled with the predicted step added at every new token."""
    layer, projection = b.given.layer, b.given.projection
    assert layer is not None and projection is not None
    return steered(
        model, b.run, layer, projection, prompts, docs,
        train=b.given.train.paths, key=key, seed=b.plan.seed, burn=b.plan.burn,
    )  # fmt: skip


def depth_section(found: Any) -> dict[str, Any]:
    """Lines of thought: the linear map from layer to layer and its noise."""
    near: dict[int, int] = {}  # of each layer, the pair with the next one
    for k, (t, u) in enumerate(found.pairs):
        if t not in near or u < found.pairs[near[t]][1]:
            near[int(t)] = k
    heads = ["from layer", "to", *found.r_squared, "directions", "noise variance", "kurtosis"]
    body = []
    for t, k in near.items():
        row: list[Any] = [int(t), int(found.pairs[k][1])]
        row += [float(x[k]) for x in found.r_squared.values()]
        body.append(
            [*row, int(found.directions[k]), float(found.variance[k]), float(found.kurtosis[k])]
        )
    at = list(near.values())
    to = [int(found.pairs[k][1]) for k in at]
    series = [
        {"name": "residual variance", "x": to, "y": found.variance[at], "style": "points"},
        {"name": "fitted law", "x": to, "y": found.fitted[at]},
    ]
    if found.untrained is not None:
        other = {"name": "untrained model", "x": to, "y": found.untrained.variance[at]}
        series.append(other | {"style": "dashed"})
    return section(
        "depth",
        "Along depth",
        "From layer to layer, is the state a linear map of the one before with noise that grows "
        "exponentially in depth, as in arXiv 2410.01545?",
        "Maps are fitted on half of the documents and judged on the other. The residual stream "
        "alone makes neighbouring layers alike, so the identity is beside"
        + (
            ", and the untrained model."
            if found.untrained is not None
            else "; the untrained model, which is the null of this, was not given."
        ),
        findings=found.findings,
        tables=[table("One layer on: share of the variance explained", heads, body, PUBLISHED)],
        figures=[
            {
                "id": "depth-noise",
                "title": "Noise by depth",
                "kind": "lines",
                "series": series,
                "xlabel": "layer",
                "ylabel": "variance per direction",
                "ylog": True,
                "caption": "Of what the map from the layer before leaves unexplained.",
                "alt": "Residual variance by layer with a fitted exponential.",
            }
        ],
        mark="read",
    )


def depth_of(states: Any, docs: Any, untrained: Any, seed: int, layers: Any = None) -> Any:
    """`depth` of as many directions as there are tokens for."""
    dim = int(min(32, states.shape[-1], max(2, len(states) // 20)))
    return analysis.depth(states, docs, seed=seed, untrained=untrained, dim=dim, layers=layers)
