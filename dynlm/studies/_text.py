"""`study_store` and `demo`: from states on disk, or from nothing, to a report."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, final

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .. import analysis, baselines
from .._data import part_of
from .._io import BadArgument
from .._judge import LENGTH
from ..report import write_report
from ..store import Store
from ._budget import Budget
from ._fits import fitted
from ._frames import guarded
from ._given import Given, given_paths, given_store
from ._openings import openings
from ._plan import DEMO, QUICK, Plan
from ._sections_text import (
    causal_section,
    causes,
    decoding_section,
    depth_of,
    depth_section,
    groups_section,
    means_by_document,
    samples_section,
    steering,
    words,
)
from ._study import card, dynamics, facts, lower, main_cards

FORMAT = "dynlm-report-1"
TEXTS = 128  # held-out texts that the model reads again, at most
DEPTH_TOKENS = 4096
TEMPERATURES = (0.3, 0.7, 1.0, 1.3)
ENDS = (".", "!", "?")
LEAD = (
    "Text generation as a stochastic differential equation on hidden states, after Zhang 2024. "
    "Every number stands beside the value it has where there is nothing to be found, and every "
    "claim beside simpler models and beside the same states in random order."
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
    by: str | None = None,
    budget: Budget | None = None,
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
        by: A column of the store: adds gains by its groups.
        budget: Goes on with this one.
        before: Sections to put first.
        title: Of the report.
        quiet: No progress.
    """
    plan, out = plan or Plan(), Path(out)
    budget = budget or Budget(quiet=quiet)
    values = None if by is None else store.column(by)  # refuses a name it does not have
    with budget.stage("projection"):
        given = given_store(store, layer, dim, raw=False)
    marks = None if model is None else sentence_ends(part_of(store, "train"), given, model)
    sections, b, order = dynamics(
        given, plan, budget=budget, out=out / "fits", marks=marks, quiet=True
    )
    cards = main_cards(b, order)
    if model is not None and "final" in store.layers:
        more, found = _spoken(store, model, b, given, plan, budget, out, dim)
        sections[3:3] = more
        cards += found
    deep = sum(isinstance(k, int) for k in store.layers) >= 3
    if (model is not None or deep) and "depth" not in plan.skip:
        _add(sections, budget, "depth", "Along depth",
             lambda: depth_section(_deep(model, untrained, store, plan)))  # fmt: skip
    if values is not None:
        models = {
            "iid": baselines.iid(given.train.paths, burn=plan.burn),
            "linear": b.linear,
            "fit": b.run.predictor(),
        }
        of_doc = means_by_document(store.docs, values)
        _add(sections, budget, "groups", f"By {by}",
             lambda: groups_section(by or "", b, models, of_doc))  # fmt: skip
    results = {
        "format": FORMAT,
        "title": title or f"The dynamics of {store.folder.name}, layer {given.layer}",
        "lead": LEAD,
        "marks": MARKS,
        "cards": cards,
        "sections": [*before, *sections],
        "budget": budget.to_json(),
        "facts": facts(given, plan, b),
    }
    return written(results, out, budget)


def written(results: dict[str, Any], out: Path, budget: Budget) -> Done:
    """The report, and what it is made from."""
    with budget.stage("report"):
        page = write_report(results, out)
    return Done(page, analysis.findings.plain(results), budget)


def _add(sections: list[Any], budget: Budget, id: str, title: str, make: Any) -> None:
    with budget.stage(title.lower()):
        sections.append(guarded(id, title, "", make))


def _spoken(
    store: Store,
    model: Any,
    b: Any,
    given: Given,
    plan: Plan,
    budget: Budget,
    out: Path,
    dim: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Decoding and the causal test, and their figures that matter."""
    keys = jr.split(jr.fold_in(jr.key(plan.seed), 2), 3)
    if given.layer == "final":
        last, run = given, b.run
    else:
        with budget.stage("fit of the final states"):
            last = given_store(store, "final", dim, raw=False)
            short = dataclasses.replace(plan, fits=plan.fits[:1], seeds=1)
            fits = fitted(last, short, key=keys[0], out=out / "fits-final", null=False, quiet=True)
            run = fits.main
    sequences, docs = texts_of(part_of(store, "test"), TEXTS, plan.seed)
    train, _ = texts_of(part_of(store, "train"), len(store), plan.seed)
    counts = np.bincount(np.concatenate(train), minlength=model.config.vocab)
    sections, cards = [], []

    def decode() -> dict[str, Any]:
        found = words(model, run, last, plan, sequences, docs, counts, keys[1])
        one = next(x for x in found.findings if "SDE forecast over" in x.what)
        cards.append(card("Words", one, "Whether the SDE knows text beyond the linear model."))
        return decoding_section(found)

    def cause() -> dict[str, Any]:
        tests = causes(model, b, (run, last), plan, sequences, docs)
        steer = None
        if plan.steer and given.layer != "final":
            prompts = [ids[: max(2, len(ids) // 2)] for ids in sequences[: plan.steer]]
            steer = steering(model, b, prompts, docs[: plan.steer], keys[2])
        one = next(x for x in tests[0].findings if x.what.startswith("effect of the SDE"))
        linear = next(x for x in tests[0].findings if "beyond the linear" in x.what)
        why = "Whether the running model follows the learned drift. Beside it: "
        cards.append(card("Cause", one, why + lower(linear.sentence())))
        return causal_section(tests, steer)

    if "decoding" not in plan.skip:
        _add(sections, budget, "decoding", "Does it know words?", decode)
    if "causal" not in plan.skip:
        _add(sections, budget, "causal", "Does the model follow?", cause)
    return sections, cards


def texts_of(store: Store, most: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of at most so many rows, drawn once, and the document of each."""
    count = len(store)
    at = np.arange(count)
    if count > most:
        at = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
    rows = [store[int(k)] for k in at]
    if any(row.tokens is None for row in rows):
        raise BadArgument("`store` has no tokens: it was not made by a language model.")
    ids = [np.asarray(row.tokens)[:LENGTH] for row in rows]
    return ids, np.asarray([row.doc for row in rows])


def sentence_ends(store: Store, given: Given, model: Any) -> np.ndarray | None:
    """Which training states are the last of a sentence; None where rows were cut."""
    shape = given.train.paths.mask.shape
    if model.tokenizer is None or len(store) != shape[0] or store.stride != 1:
        return None
    pieces: dict[int, bool] = {}
    marks = np.zeros(shape, bool)
    for k in range(len(store)):
        tokens = store[k].tokens
        if tokens is None or len(tokens) > shape[1]:
            return None
        for t, token in enumerate(tokens.tolist()):
            if token not in pieces:
                pieces[token] = model.text([token]).rstrip().endswith(ENDS)
            marks[k, t] = pieces[token]
    return marks


def _deep(model: Any, untrained: Any, store: Store, plan: Plan) -> Any:
    """Depth, of tokens that the model reads again, and of the same before training.

    Without the model, of tokens in the store.
    """
    if model is None:
        sample = analysis.depth_sample(store, count=DEPTH_TOKENS, seed=plan.seed, burn=plan.burn)
        return depth_of(*sample, None, plan.seed)
    sequences, docs = texts_of(part_of(store, "test"), TEXTS, plan.seed)
    states, of = states_by_layer(model, sequences, docs, plan)
    null = None if untrained is None else states_by_layer(untrained, sequences, docs, plan)[0]
    return depth_of(states, of, null, plan.seed)


def states_by_layer(
    model: Any, sequences: list[np.ndarray], docs: np.ndarray, plan: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """States of some tokens at every numbered layer, and the document of each."""
    layers = tuple(range(model.config.depth + 1))
    tokens, positions = model.batch([ids.tolist() for ids in sequences])
    states = model.score(tokens, positions, layers=layers)[1]
    real = np.asarray(positions) >= plan.burn
    row, t = np.nonzero(real)
    if len(row) > DEPTH_TOKENS:
        at = np.sort(np.random.default_rng(plan.seed).choice(len(row), DEPTH_TOKENS, False))
        row, t = row[at], t[at]
    found = np.stack([np.asarray(states[k])[row, t].astype(float) for k in layers], axis=1)
    return found, np.asarray(docs)[row]


def demo(
    out: str | Path = "dynlm-demo", *, quick: bool = False, seed: int = 0, quiet: bool = False
) -> Done:
    """The whole way with the model in this package: texts, states, fits, words, causes, report.

    Args:
        out: Folder of everything; what was finished there is used again.
        quick: Fewer texts and steps, and only the main analyses.
        seed: Of everything random.
        quiet: No progress.
    """
    from .. import lm

    out, plan = Path(out), dataclasses.replace(QUICK if quick else DEMO, seed=seed)
    budget = Budget(quiet=quiet)
    with budget.stage("language model"):
        model = lm.load("demo")
    with budget.stage("texts at several temperatures"):
        rows = _samples(model, seed)
    with budget.stage("states of sampled texts"):
        texts, length = (256, 48) if quick else (640, 62)
        store = lm.export(
            model, openings(texts), out / "store", layers=(3, "final"), quiet=True,
            sampling=lm.Sampling(1, budget=length, temperature=1.0, seed=seed),
            batch_tokens=texts * (length + 16),
        )  # fmt: skip
    untrained = None if quick else lm.load("demo", revision="untrained")
    return study_store(
        store, 3, out, plan=plan, model=model, untrained=untrained, budget=budget,
        before=[samples_section(rows)], quiet=quiet,
        title="The dynamics of text in a small language model",
    )  # fmt: skip


def _samples(model: Any, seed: int) -> list[tuple[float, str, float, float]]:
    from .. import lm

    t = np.asarray(TEMPERATURES)
    found = model.sample(
        ["It was a dark"] * len(t), key=jr.key(seed), budget=40,
        decoding=lm.Decoding(temperature=jnp.asarray(t, jnp.float32)),
    )  # fmt: skip
    rows = []
    for k, temperature in enumerate(TEMPERATURES):
        row = found.row(k)
        new = slice(row.prompt, None)
        score, entropy = (
            float(np.mean(x[new])) for x in (row.scores.logprobs, row.scores.entropies)
        )
        rows.append((temperature, model.text(row.tokens), score, entropy))
    return rows


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
    sections, b, order = dynamics(given, plan, budget=budget, out=out / "fits", quiet=True)
    results = {
        "format": FORMAT,
        "title": title,
        "lead": LEAD,
        "marks": MARKS,
        "cards": main_cards(b, order),
        "sections": sections,
        "budget": budget.to_json(),
        "facts": facts(given, plan, b),
    }
    return written(results, out, budget)
