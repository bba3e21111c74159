"""Lines of thought: how tokens move from layer to layer, after arXiv 2410.01545."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from .. import stats
from .._io import BadArgument
from ..stats import Interval
from ._depth_maps import (
    Ensemble,
    Pairs,
    Sums,
    numbers_of,
    pairs_of,
    reduced,
    singular,
    steps_of,
    summed,
)
from ._depth_noise import (
    GROWTH,
    PerPair,
    beside,
    growth_findings,
    growth_parts,
    laws_of_growth,
    shape_findings,
    shape_of,
)
from .findings import Finding, Verdict, finding, stated, withheld

Column = Float[np.ndarray, "token 1"]

LEAST = 1e-12  # of the variance: residuals below it are rounding
ENOUGH = 0.95  # of what all directions explain


@final
class Depth(NamedTuple):
    """The law from layer t to layer t + s, and what it explains of held-out documents.

    Args:
        pairs: The numbers of the two layers of each pair.
        r_squared: By predictor, the share of the variance that it explains from layer to layer.
        variance: Of the residuals of the law, per direction.
        fitted: The same by $a\\,e^{l(t+s)}$.
        explained: The share of the variance that the law's first k directions explain.
        directions: How many of them explain 95 % of the most that any number does.
        kurtosis: Excess kurtosis of the residuals, mean over directions; zero of a Gaussian.
        isotropy: $(\\mathrm{tr}\\,C)^2 / (d\\,\\mathrm{tr}\\,C^2)$ of their covariance, at most 1.
        spread: Singular values at each layer, as standard deviations.
        growth: $l$, per layer. Its finding is withheld where the law explains nothing.
        amplitude: $a$.
        slope: $\\log$ of the variance per layer between the two, at one target layer.
        findings: What follows.
        untrained: The same of the untrained model, if it was given.
    """

    pairs: Int[np.ndarray, "pair 2"]
    r_squared: dict[str, PerPair]
    variance: PerPair
    fitted: PerPair
    explained: Float[np.ndarray, "pair dim"]
    directions: Int[np.ndarray, " pair"]
    kurtosis: PerPair
    isotropy: PerPair
    spread: Float[np.ndarray, "layer dim"]
    growth: Interval | None
    amplitude: Interval | None
    slope: Interval | None
    findings: tuple[Finding, ...]
    untrained: Any = None


def depth(
    states: Float[np.ndarray, "token layer raw"],
    docs: Any,
    *,
    seed: int,
    untrained: Float[np.ndarray, "token layer raw"] | None = None,
    dim: int | None = 32,
    spans: tuple[int, ...] | None = None,
    layers: Sequence[int] | None = None,
) -> Depth:
    r"""$x_{t+s} = m_{t+s} + U_{t+s} \Lambda U_t^\top (x_t - m_t) + w$, $w \sim N(0, a e^{l(t+s)})$.

    $U_t$ has the singular vectors of the tokens' states at layer t, and
    $\Lambda = S_{t+s}/S_t$ the ratios of their singular values, with the signs that make the
    components of the two layers correlate positively. All maps are fitted on one half of the
    documents and judged on the other, both ways.

    Args:
        states: Of each token at each layer; see `depth_sample`.
        docs: The document of each token.
        seed: Of the halves, the shuffled pairing and the bootstrap.
        untrained: The same tokens in the model before training: the null.
        dim: Principal components of all layers together to work in; None for all coordinates.
        spans: How many places apart two layers stand among those given; by default all.
        layers: Their numbers, in increasing order; by default 0 to L. Pairs are named by them, and
            growth is per layer by them.
    """
    docs = np.asarray(docs)
    _check(states, docs, untrained, dim, spans)
    pairs = pairs_of(states.shape[1], spans)
    named = numbers_of(layers, states.shape[1])[pairs]
    states = reduced(np.asarray(states, float), dim)
    sums = summed(states, docs, pairs, seed)
    found = _described(states, sums, docs, pairs, named, seed)
    if untrained is None:
        return found
    untrained = reduced(np.asarray(untrained, float), dim)
    null_sums = summed(untrained, docs, pairs, seed)
    null = _described(untrained, null_sums, docs, pairs, named, seed)
    mine, other = (next(x for x in one.findings if x.what == GROWTH) for one in (found, null))
    told = all(x.verdict is not Verdict.WITHHELD for x in (mine, other))
    more = _against(sums, null_sums, docs, pairs, named, told, seed)
    own = (beside(x, other) if x is mine else x for x in found.findings)
    return found._replace(findings=(*own, *more), untrained=null)


def _check(states: Any, docs: np.ndarray, untrained: Any, dim: Any, spans: Any) -> None:
    if np.ndim(states) != 3 or states.shape[1] < 2 or not np.isfinite(states).all():
        raise BadArgument(
            f"`states` has shape {np.shape(states)}. Pass finite states of tokens at two layers "
            "or more, (token, layer, dim)."
        )
    if docs.shape != states.shape[:1] or len(np.unique(docs)) < 4:
        raise BadArgument(
            f"`docs` has shape {docs.shape} and {len(np.unique(docs))} documents, for "
            f"{len(states)} tokens. Pass the document of each, 4 or more of them."
        )
    if untrained is not None and np.shape(untrained) != states.shape:
        raise BadArgument(
            f"`untrained` has shape {np.shape(untrained)} and `states` {states.shape}. Pass the "
            "same tokens."
        )
    if dim is not None and dim < 1:
        raise BadArgument(f"`dim` is {dim}. Use 1 or more, or None for all coordinates.")
    if spans is not None and not all(1 <= s < states.shape[1] for s in spans):
        raise BadArgument(f"`spans` is {spans}. Use numbers from 1 to {states.shape[1] - 1}.")
    half, kept = len(states) // 2, min(states.shape[2], dim or states.shape[2])
    if half < 2 * kept:
        raise BadArgument(
            f"`states` has {len(states)} tokens for `dim` {kept}. Pass {4 * kept} or more, or "
            "fewer dimensions."
        )


def _described(
    states: Ensemble,
    sums: Sums,
    docs: np.ndarray,
    pairs: Pairs,
    named: Pairs,
    seed: int,
) -> Depth:
    spread = np.stack([singular(x - x.mean(axis=0))[0] for x in states.swapaxes(0, 1)])
    count, _, dim = sums.residuals.shape
    total = sums.total.sum(axis=0)
    r_squared = {name: 1 - x.sum(axis=0) / total for name, x in sums.errors.items()}
    variance = sums.errors["law"].mean(axis=0) / dim
    explained = np.cumsum(sums.gained.sum(axis=0), axis=1) / total[:, None]
    best = explained.max(axis=1, keepdims=True)
    directions = 1 + np.argmax(explained >= ENOUGH * best, axis=1)
    shapes = [shape_of(sums.residuals[:, p], docs) for p in range(len(pairs))]
    rounding = bool(np.any(variance <= LEAST * total / (count * dim)))
    growth = amplitude = slope = None
    fitted = np.full(len(pairs), np.nan)
    if not rounding:
        growth, amplitude, slope = laws_of_growth(sums, docs, named, seed)
        if growth is not None and amplitude is not None:
            fitted = amplitude.value * np.exp(growth.value * named[:, 1])
    found = Depth(
        pairs=named,
        r_squared=r_squared,
        variance=variance,
        fitted=fitted,
        explained=explained,
        directions=directions,
        kurtosis=np.array([one.kurtosis.mean() for one in shapes]),
        isotropy=np.array([one.isotropy.mean() for one in shapes]),
        spread=spread,
        growth=growth,
        amplitude=amplitude,
        slope=slope,
        findings=(),
    )
    shares = _explained(sums, docs, pairs, named, seed)
    findings = (
        *shares,
        *growth_findings(growth, slope, variance, fitted, amplitude, shares[0]),
        *shape_findings(shapes, docs, pairs, seed, rounding),
        stated(
            "number of singular directions that explain 95 % of what the law explains",
            float(np.max(directions[steps_of(pairs)])),
            unit=f"of {dim}",
            note="It is the largest over steps from one layer to the next.",
        ),
    )
    return found._replace(findings=findings)


def _shares(sums: Sums, pairs: Pairs) -> tuple[dict[str, Column], Column]:
    """Errors and squared distances of each token, mean over steps that count alike."""
    step = steps_of(pairs)
    total = sums.total[:, step].sum(axis=0)
    errors = {k: (x[:, step] / total).mean(axis=1)[:, None] for k, x in sums.errors.items()}
    return errors, (sums.total[:, step] / total).mean(axis=1)[:, None]


def _explained(
    sums: Sums, docs: np.ndarray, pairs: Pairs, named: Pairs, seed: int
) -> tuple[Finding, ...]:
    errors, total = _shares(sums, pairs)
    law = errors["law"]
    names = ("identity", "rotation", "linear")
    over = [total - law, *(errors[k] - law for k in names), total - errors["linear"]]
    share, stays, turn, gap, linear = stats.ratios(
        np.concatenate(over, axis=1), total, docs, seed=seed
    )
    wrong = 1 - float(errors["shuffled"].sum() / total.sum())
    paired = f"With tokens paired at random it is {wrong:.2f}."
    some = named[steps_of(pairs)]
    if np.any(some[:, 1] - some[:, 0] != 1):
        paired += f" Steps are {', '.join(f'{t} to {u}' for t, u in some)}."
    what = "share of the next layer's variance that"
    return (
        finding(f"{what} the law explains", share, 0.0, of_null="of the mean alone", note=paired),
        finding(f"{what} the law explains beyond states that stay where they are", stays, 0.0),
        finding(f"{what} the law explains beyond the best rotation with such scales", turn, 0.0),
        finding(f"{what} the law explains beyond a least-squares map", gap, 0.0),
        finding(f"{what} a least-squares map explains", linear, 0.0, of_null="of the mean alone"),
    )


def _against(
    mine: Sums,
    null: Sums,
    docs: np.ndarray,
    pairs: Pairs,
    named: Pairs,
    told: bool,
    seed: int,
) -> tuple[Finding, ...]:
    """What training changed, on the same tokens."""
    columns, names = [], []
    for k, what in (("identity", "states that stay"), ("linear", "a least-squares map")):
        gains = [
            len(docs) * (e[k] - e["law"]) for e, _ in (_shares(x, pairs) for x in (mine, null))
        ]
        columns.append(gains[0] - gains[1])
        names.append(f"difference that training makes to the law's gain over {what}")
    what, why = "difference that training makes to the growth exponent", ()
    if told:
        parts = [growth_parts(x, named)["growth"] for x in (mine, null)]
        columns.append(parts[0] - parts[1])
        names.append(what)
    else:
        why = (withheld(what, "the growth exponent of one of the two models is"),)
    one = np.ones((len(docs), 1))
    found = stats.ratios(np.concatenate(columns, axis=1), one, docs, seed=seed)
    return *(finding(name, x, 0.0) for name, x in zip(names, found, strict=True)), *why
