"""The section on documents of different scores: gains by group, and their slope on the score."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from .._judge import Rows
from ..analysis._correlation import by_influence
from ..analysis.findings import Finding, finding, withheld
from ..predict._steps import nll_sums, on_host
from ..stats import by_document, ratios
from ._differences import apart
from ._frames import section, table
from ._sde import Basis

PerRow = Float[np.ndarray, " row"]

MOST_GROUPS = 8
UNIT = "nats per step and dimension"
NAMED = {
    "linear": "gain of VAR(1) over independent states",
    "fit": "gain of the neural SDE over VAR(1)",
}


def groups_sections(
    b: Basis, models: Mapping[str, Any], columns: Mapping[str, Mapping[Any, float]]
) -> list[dict[str, Any]]:
    """Gains of the linear model and of the fit by columns of the documents, a section a column.

    Args:
        b: The fits.
        models: "iid", "linear" and "fit".
        columns: By name, the number of each document.
    """
    rows: Rows = b.given.test
    sums = {k: on_host(nll_sums(m, rows.paths, b.plan.burn)) for k, m in models.items()}
    gains = {
        "linear": sums["iid"][0] - sums["linear"][0],
        "fit": sums["linear"][0] - sums["fit"][0],
    }
    under = sums["fit"][1] * b.given.dim
    return [
        _section(number, name, values, rows.docs, gains, under, b.plan.seed)
        for number, (name, values) in enumerate(columns.items())
    ]


def _section(
    number: int,
    name: str,
    values: Mapping[Any, float],
    docs: np.ndarray,
    gains: Mapping[str, PerRow],
    under: PerRow,
    seed: int,
) -> dict[str, Any]:
    of_row = np.asarray([values[doc] for doc in docs])
    body, findings = [], [slope(name, of_row, docs, gains["fit"], under, seed)]
    for label, which in grouped(of_row):
        row: list[Any] = [label, len(np.unique(docs[which]))]
        for kind, over in gains.items():
            what = f"{NAMED[kind]} where {name} is {label}"
            if row[1] < 2:
                findings.append(withheld(what, "there are fewer than two documents"))
                row.append(None)
                continue
            parts = over[which][:, None], under[which][:, None]
            (found,) = ratios(*parts, docs[which], seed=seed)
            findings.append(finding(what, found, 0.0, unit=UNIT))
            row.append(found)
        body.append(row)
    if len(body) > 1:
        findings.insert(1, _apart(name, body))
    return section(
        "groups" if number == 0 else f"groups-{number + 1}",
        f"By {name}",
        f"Do the dynamics differ between documents of different {name}?",
        "Groups differ in more than this column: a difference is no effect of it. Of several "
        "columns one in twenty has a slope by chance.",
        findings=findings,
        tables=[table(f"By {name}", [name, "documents", *NAMED.values()], body)],
        mark="ours",
    )


def slope(
    name: str, of_row: PerRow, docs: np.ndarray, over: PerRow, under: PerRow, seed: int
) -> Finding:
    r"""How the gain changes with a column: $\sum_d u_d\,x_d\,g_d / \sum_d u_d\,x_d^2$.

    Args:
        name: Of the column.
        of_row: Its value in each row.
        docs: The document of each row.
        over: What each row gains, in nats.
        under: Over how much, $u$; the gain $g$ of a document is the ratio of their sums.
        seed: Of the resampling.
    """
    what = f"change of the neural SDE's gain for one deviation more of {name}"
    gain, u, x = by_document(np.stack([over, under, of_row * under], axis=1), docs).T
    x, g = x / np.maximum(u, 1e-300), gain / np.maximum(u, 1e-300)
    total = max(float(u.sum()), 1e-300)
    x, mean = x - (u @ x) / total, float(u @ g) / total
    spread = float(np.sqrt((u @ x**2) / total))
    if len(u) < 3 or not spread > 0:
        return withheld(what, "it does not vary between documents, or there are fewer than three")
    x = x / spread
    value = float(u @ (x * g)) / total
    change = u * x * (g - mean - value * x) / total
    return finding(what, by_influence(value, change, np.arange(len(u)), seed), 0.0, unit=UNIT)


def _apart(name: str, body: list[list[Any]]) -> Finding:
    """The fit's gain in the last group less that in the first; the two share no documents."""
    what = (
        f"gain of the neural SDE where {name} is {body[-1][0]} less that where it is {body[0][0]}"
    )
    a, b = body[0][3], body[-1][3]
    if a is None or b is None:
        return withheld(what, "one of the groups has fewer than two documents")
    return finding(what, apart(a, b), 0.0, unit=UNIT)


def grouped(values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Rows by value; by quarters where there are more values than groups."""
    kinds = np.unique(values)
    if len(kinds) <= MOST_GROUPS:
        return [(f"{kind:g}", np.flatnonzero(values == kind)) for kind in kinds]
    cuts = np.quantile(values, [0.25, 0.5, 0.75])
    number = np.searchsorted(cuts, values, side="left")
    ends = [values.min(), *cuts, values.max()]
    return [
        (f"{ends[k]:.3g} to {ends[k + 1]:.3g}", np.flatnonzero(number == k))
        for k in range(4)
        if np.any(number == k)
    ]


def means_by_document(docs: np.ndarray, values: np.ndarray) -> dict[Any, float]:
    """The mean of a column over the rows of each document."""
    pairs = by_document(np.stack([values, np.ones(len(values))], axis=1), docs)
    return {doc: float(a / n) for doc, (a, n) in zip(np.unique(docs), pairs, strict=True)}
