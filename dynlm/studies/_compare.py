"""`study_revisions`: the same study of several stores, such as checkpoints, side by side."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .. import stats
from .._io import BadArgument, counted
from ..analysis.findings import Finding, Verdict, finding
from ..store import Store
from ..store._revisions import folder_name
from ._budget import Budget
from ._differences import CAUTION, difference
from ._frames import section, table
from ._plan import Plan
from ._study import card, lower
from ._text import FORMAT, LEAD, MARKS, Done, study_store, written

TOKENS = 4096  # that the states of two stores are compared on, at most
CARDS = 8
OTHERS = 8  # ways to set documents beside others that their alignment is a mean over


def study_revisions(
    stores: Mapping[str, Store],
    layer: int | str | None,
    out: str | Path,
    *,
    dim: int = 16,
    plan: Plan | None = None,
    model: Callable[[str], Any] | None = None,
    untrained: Any = None,
    title: str = "The dynamics along training",
    quiet: bool = False,
) -> Done:
    """The study of each store in a folder of its own, and one report of what differs.

        stores = dynlm.store.open_revisions("checkpoints")
        done = study_revisions(stores, 3, "along", model=lambda name: load("demo", revision=name))

    Args:
        stores: By name, in order: the same texts through several models.
        layer: Which.
        out: Folder; each store has its own within.
        dim: Components, at most, of each store's own.
        plan: How much is done.
        model: The model of a name, for decoding and the causal test.
        untrained: The same model before training: the null of depth, of each of them.
        title: Of the report.
        quiet: No progress.
    """
    if len(stores) < 2:
        raise BadArgument(f"`stores` has {len(stores)} of them. Pass two or more to compare.")
    out, budget = Path(out), Budget(quiet=quiet)
    done = {}
    for name, store in stores.items():
        with budget.stage(f"study of {name}"):
            own = None if model is None else model(name)
            done[name] = study_store(
                store, layer, out / folder_name(name), dim=dim, plan=plan, model=own,
                untrained=untrained, title=f"{title}: {name}", quiet=True,
            )  # fmt: skip
    results = compared({name: one.results for name, one in done.items()}, title)
    first = next(iter(stores.values()))
    if all(np.array_equal(one.lengths, first.lengths) for one in stores.values()):
        with budget.stage("states beside each other"):
            seed = (plan or Plan()).seed
            of = first.layers[0] if layer is None else _named(first, layer)
            results["sections"].append(alike_section(stores, of, seed))
    return written(results, out, budget)


def compared(results: Mapping[str, dict[str, Any]], title: str) -> dict[str, Any]:
    """A results document of what differs between those of several studies.

    Args:
        results: Documents of `study_store`, by name.
        title: Of the report.
    """
    first, *_, last = results
    sections = [_cards_section(results)]
    shared = [one["id"] for one in next(iter(results.values()))["sections"]]
    for id in shared:
        found = {
            name: next((x for x in one["sections"] if x["id"] == id), None)
            for name, one in results.items()
        }
        parts = {name: part for name, part in found.items() if part is not None}
        if len(parts) == len(results) and any(part["findings"] for part in parts.values()):
            sections.append(_beside(id, parts))
    cards = [
        card(label, difference(of[last]["what"], of, first, last), _both(label, of, first, last))
        for label, of in _by_label(results).items()
        if of[first] is not None and of[last] is not None
    ]
    facts = {f"{name}, {key}": x for name, one in results.items() for key, x in one["facts"].items()
             if key in ("documents", "states", "share of the variance kept")}  # fmt: skip
    return {
        "format": FORMAT,
        "title": title,
        "lead": LEAD,
        "marks": MARKS,
        "cards": cards[:CARDS],
        "sections": sections,
        "facts": facts,
    }


def _by_label(results: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The findings of cards, by label and study; None where a study lacks one."""
    labels = dict.fromkeys(card["label"] for one in results.values() for card in one["cards"])
    return {
        label: {
            name: next((c["finding"] for c in one["cards"] if c["label"] == label), None)
            for name, one in results.items()
        }
        for label in labels
    }


def _both(label: str, of: Mapping[str, Any], first: str, last: str) -> str:
    told = " ".join(
        f"{name[:1].upper() + name[1:]}: {lower(of[name]['sentence'])}" for name in (first, last)
    )
    return f"{label}. {told}"


def _cards_section(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    by_label = _by_label(results)
    labels = list(by_label)
    rows, said, findings = [], [], []
    for label, of in by_label.items():
        rows.append([label, *(_ends(one) for one in of.values())])
        said += [f"{name}: {one['sentence']}" for name, one in of.items() if one is not None]
        known = [name for name, one in of.items() if one is not None]
        pairs = list(zip(known, known[1:]))
        pairs += [(known[0], known[-1])] if len(known) > 2 else []
        findings += [difference(of[b]["what"], of, a, b) for a, b in pairs]
    groups = []
    for k, name in enumerate(results, start=1):
        cells = [row[k] or dict.fromkeys(("value", "low", "high")) for row in rows]
        ends = {key: [cell[key] for cell in cells] for key in ("low", "high")}
        groups.append({"name": name, "values": [cell["value"] for cell in cells]} | ends)
    return section(
        "beside",
        "The figures that matter, side by side",
        "What differs between these models on the same texts?",
        "Each model's states have components of their own, and models differ in more than their "
        "training. " + CAUTION,
        found=said,
        findings=findings,
        most=0,
        tables=[table("Figures that matter", ["figure", *results], rows)],
        figures=[
            {
                "id": "figures",
                "title": "Figures that matter",
                "kind": "bars",
                "labels": labels,
                "groups": groups,
                "null": 0.0,
                "xlabel": "nats",
                "caption": "With intervals by document; zero is where there is nothing.",
                "alt": "A group of bars for each figure, a bar for each model.",
            }
        ],
        mark="ours",
    )


def _beside(id: str, parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """All numbers of a section, a column a study."""
    whats = list(dict.fromkeys(f["what"] for part in parts.values() for f in part["findings"]))
    first, *_, last = parts
    rows, differences = [], []
    for what in whats:
        of = {
            name: next((f for f in part["findings"] if f["what"] == what), None)
            for name, part in parts.items()
        }
        change = difference(what, of, first, last)
        rows.append([what, *(_ends(one) for one in of.values()), change])
        differences.append(change)
    known = [one for one in differences if one.verdict is not Verdict.WITHHELD]
    differ = [one for one in known if one.beyond]
    number = counted(len(known), "difference")
    said = f"{len(differ)} of {number} between {first} and {last} leave zero out; one in twenty "
    said += "would by chance."
    if not known:
        said = "No number here has an interval, so that none is compared."
    of_last = parts[last]
    heads = ["number", *parts, f"{last} less {first}"]
    return section(
        f"of-{id}",
        of_last["title"],
        of_last["asked"],
        of_last["trust"] + " " + CAUTION,
        found=[said],
        findings=sorted(differ, key=_strength, reverse=True),
        tables=[table(of_last["title"], heads, rows)],
        mark=of_last.get("mark"),
    )


def _strength(one: Finding) -> float:
    """How far the interval is from zero, in its own widths."""
    assert one.low is not None and one.high is not None
    return max(one.low, -one.high) / max(one.high - one.low, 1e-30)


def _ends(one: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The cell of a finding as JSON has it."""
    return None if one is None else {k: one[k] for k in ("value", "low", "high")}


def alike_section(stores: Mapping[str, Store], layer: int | str, seed: int) -> dict[str, Any]:
    """How alike the states of the same tokens are, whatever their coordinates."""
    states, docs = same_tokens(stores, layer, seed)
    names = list(stores)
    values = [[1.0 if a == b else alignment(states[a], states[b]) for b in names] for a in names]
    findings = []
    for a, b in zip(names, names[1:]):
        null = alignment_of_others(states[a], states[b], docs, seed)
        found = aligned(states[a], states[b], docs, seed)
        what = f"alignment of the states of {a} and {b}"
        findings.append(finding(what, found, null, of_null="of one document's with another's"))
    return section(
        "alike",
        "The same states?",
        "Do two models have the same states of the same tokens, but for a rotation and a scale?",
        "Linear centred kernel alignment: 1 where one is the other rotated and scaled. It is "
        "dominated by the directions of greatest variance.",
        findings=findings,
        figures=[
            {
                "id": "alignment",
                "title": "Alignment of states",
                "kind": "matrix",
                "rows": names,
                "columns": names,
                "values": values,
                "label": "alignment",
                "caption": f"Of {len(docs):,} tokens at layer {layer}.",
                "alt": "A matrix of alignments between models.",
            }
        ],
        mark="ours",
    )


def same_tokens(
    stores: Mapping[str, Store], layer: int | str, seed: int
) -> tuple[dict[str, Float[np.ndarray, "token _"]], np.ndarray]:
    """States of the same tokens in every store, and the document of each."""
    first = next(iter(stores.values()))
    ends = np.cumsum(first.lengths)
    count = min(TOKENS, int(ends[-1]))
    picked = np.sort(np.random.default_rng(seed).choice(int(ends[-1]), count, replace=False))
    rows = np.searchsorted(ends, picked, side="right")
    at = picked - (ends - first.lengths)[rows]
    found = {}
    for name, store in stores.items():
        parts = [store.states(int(r), layer)[at[rows == r]].astype(float) for r in np.unique(rows)]
        found[name] = np.concatenate(parts)
    return found, np.asarray(first.docs)[rows]


def alignment(x: Float[np.ndarray, "token a"], y: Float[np.ndarray, "token b"]) -> float:
    r"""$|X^\top Y|_F^2 / (|X^\top X|_F\,|Y^\top Y|_F)$, both centred."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    cross, own, other = (np.linalg.norm(a.T @ b) for a, b in ((x, y), (x, x), (y, y)))
    return float(cross**2 / (own * other)) if own * other > 0 else 0.0


def alignment_of_others(
    x: Float[np.ndarray, "token a"], y: Float[np.ndarray, "token b"], docs: Any, seed: int
) -> float:
    """The mean alignment where each document's states are set beside those of another one.

    Pairing single tokens at random would leave out that states of a document are alike.
    """
    names, rng = np.unique(docs), np.random.default_rng(seed)
    rows = [np.flatnonzero(docs == name) for name in rng.permutation(names)]
    found = []
    for shift in rng.permutation(np.arange(1, len(rows)))[:OTHERS]:
        pairs = list(zip(rows, [*rows[shift:], *rows[:shift]]))
        left = np.concatenate([a[: len(b)] for a, b in pairs])
        right = np.concatenate([b[: len(a)] for a, b in pairs])
        found.append(alignment(x[left], y[right]))
    return float(np.mean(found)) if found else 1.0


def aligned(
    x: Float[np.ndarray, "token a"], y: Float[np.ndarray, "token b"], docs: Any, seed: int
) -> stats.Interval:
    """The alignment with an interval: whole documents are left out, one after the other."""
    value, names = alignment(x, y), np.unique(docs)
    groups = np.array_split(np.random.default_rng(seed).permutation(names), min(20, len(names)))
    left = [alignment(x[at], y[at]) for group in groups if (at := ~np.isin(docs, group)).any()]
    count = len(left)
    error = float(np.sqrt((count - 1) / count * np.sum((np.array(left) - np.mean(left)) ** 2)))
    wide = stats.student(0.975, max(count - 1, 1)) * error
    return stats.Interval(value, value - wide, value + wide, 0.95, len(names))


def _named(store: Store, layer: int | str) -> int | str:
    return next((name for name in store.layers if str(name) == str(layer)), layer)
