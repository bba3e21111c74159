"""`study_store` and `study`: from states on disk or in memory to a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from .. import analysis, baselines
from .._data import part_of
from .._fields import shown
from .._io import BadArgument
from ..report import write_report
from ..store import Store
from ._budget import Budget
from ._frames import guarded, guarded_all
from ._given import given_paths, given_store
from ._plan import Plan
from ._sections_groups import groups_sections, means_by_document
from ._sections_text import depth_section
from ._spoken import check_model, deep, sentence_ends, spoken
from ._study import dynamics, facts, main_cards

FORMAT = "dynlm-report-1"
LEAD = (
    "Text generation as a stochastic differential equation on hidden states, after Zhang 2024. "
    "Estimates stand beside the value they have where there is nothing to be found, and claims of "
    "dynamics beside simpler models and beside the same states in random order."
)
MARKS = (
    "Marks say where a section's method comes from: read, seen in a paper itself; told, from "
    "summaries of it; ours, our own construction."
)


@final
class Done(NamedTuple):
    """A finished study.

    Args:
        page: The report.
        results: All numbers, as in `results.json` beside it.
        budget: Where the time went.
    """

    page: Path
    results: dict[str, Any]
    budget: Budget

    def text(self) -> str:
        """The figures that matter, where the time went, and where the report is."""
        lines = ["", self.results["title"]]
        for one in self.results["cards"]:
            lines.append(f"  {one['label'] + ':':<22}{one['finding']['sentence']}")
        failed = [one for one in self.results["sections"] if "error" in one]
        lines += [f"  Not done: {one['title']} ({one['error']})" for one in failed]
        return "\n".join([*lines, "", self.budget.table(), "", f"  {self.page}"])


def study_store(
    store: Store,
    layer: int | str | None,
    out: str | Path,
    *,
    dim: int = 16,
    plan: Plan | None = None,
    model: Any = None,
    untrained: Any = None,
    by: str | Sequence[str] = (),
    budget: Budget | None = None,
    work: Path | None = None,
    before: Any = (),
    title: str | None = None,
    quiet: bool = False,
) -> Done:
    """The whole study of the states of one layer of a store, with its report.

        done = study_store(store, 3, "study", model=dynlm.lm.load("demo"))

    Args:
        store: Where the states are.
        layer: Which; None where there is only one.
        out: Folder of the report and of the fits; what is done there is read.
        dim: Components, at most.
        plan: How much is done; by default `Plan()`.
        model: The model that the states are of: adds decoding, the causal test, and depth.
        untrained: The same model before training: the null of depth.
        by: Columns of the store, such as scores of the documents: adds gains by their groups.
        budget: Goes on with this one.
        work: Folder of the fits, if it is another than that of the report.
        before: Sections to put first.
        title: Of the report.
        quiet: No progress.
    """
    plan, out = plan or Plan(), Path(out)
    budget, work = budget or Budget(quiet=quiet), work or out
    by = (by,) if isinstance(by, str) else tuple(by)
    for name in by:
        if name not in store.columns:
            known = ", ".join(store.columns) or "no columns"
            raise BadArgument(f"`by` is {shown(name)}. The store has {known}.")
    columns = {name: means_by_document(store.docs, store.column(name)) for name in by}
    if model is not None:
        check_model(store, model)
    with budget.stage("projection"):
        given = given_store(store, layer, dim, raw=False)
    marks = None if model is None else sentence_ends(part_of(store, "train"), given, model)
    made = dynamics(given, plan, budget=budget, out=work / "fits", marks=marks)
    sections, b = made.sections, made.basis
    cards = main_cards(b, made.order)
    if model is not None:
        more, found = spoken(store, model, b, given, budget=budget, out=work, dim=dim)
        sections[made.claims : made.claims] = more
        cards += found
    layers = sum(isinstance(k, int) for k in store.layers)
    if (model is not None or layers >= 3) and "depth" not in plan.skip:
        with budget.stage("along depth"):
            one = guarded("depth", "Along depth", "", lambda: depth_section(
                deep(model, untrained, store, plan)))  # fmt: skip
            sections.append(one)
    if by:
        models = {
            "iid": baselines.iid(given.train.paths, burn=plan.burn),
            "linear": b.linear,
            "fit": b.run.predictor(),
        }
        told = f"By {', '.join(by)}"
        with budget.stage(told.lower()):
            make = lambda: groups_sections(b, models, columns)  # noqa: E731
            sections += guarded_all("groups", told, "", make)
    return written(
        _document(
            title or f"The dynamics of {store.folder.name}, layer {given.layer}",
            cards, [*before, *sections], facts(given, plan, b),
        ),
        out, budget,
    )  # fmt: skip


def study(
    paths: Any,
    docs: Any,
    out: str | Path,
    *,
    plan: Plan | None = None,
    title: str = "A study of paths",
    quiet: bool = False,
) -> Done:
    """The study of paths in memory: all of `study_store` that needs no store and no model.

    Args:
        paths: A batch of paths, or an array (paths, time, dim); best of unit variance.
        docs: The document of each; None where each path is one.
        out: Folder of the report and of the fits.
        plan: How much is done; by default `Plan()`.
        title: Of the report.
        quiet: No progress.
    """
    plan, out = plan or Plan(), Path(out)
    budget = Budget(quiet=quiet)
    given = given_paths(paths, docs, seed=plan.seed)
    made = dynamics(given, plan, budget=budget, out=out / "fits")
    cards = main_cards(made.basis, made.order)
    about = facts(given, plan, made.basis)
    return written(_document(title, cards, made.sections, about), out, budget)


def _document(title: str, cards: Any, sections: Any, facts: Any) -> dict[str, Any]:
    head = {"format": FORMAT, "title": title, "lead": LEAD, "marks": MARKS}
    return head | {"cards": cards, "sections": sections, "facts": facts}


def written(results: dict[str, Any], out: Path, budget: Budget) -> Done:
    """The report, and what it is made from."""
    results = results | {"budget": budget.to_json()}
    with budget.stage("report"):
        page = write_report(results, out)
    return Done(page, analysis.findings.plain(results), budget)
