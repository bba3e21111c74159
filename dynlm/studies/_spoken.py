"""What a study needs the model for: words, causes, depth, and the ends of sentences."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np

from .. import analysis
from .._data import part_of
from .._io import BadArgument
from .._judge import LENGTH
from ..store import Store
from ._budget import Budget
from ._effects import Caused
from ._fits import fitted
from ._frames import guarded
from ._given import Given, given_store
from ._plan import Plan
from ._sde import Basis
from ._sections_text import causal_section, causes, decoding_section, depth_of, steering, words
from ._study import card, lower

TEXTS = 128  # held-out texts that the model reads again, at most
DEPTH_TOKENS = 4096
ENDS = (".", "!", "?")


def check_model(store: Store, model: Any) -> None:
    """Refuses a model whose states these are not, and states that are not of every token."""
    from ..lm._identity import model_identity

    if "tokens" not in store.manifest.fields and store[0].tokens is None:
        raise BadArgument("`store` has no tokens: it was not made by a language model.")
    if store.stride != 1:
        raise BadArgument(
            f"`store` keeps every {store.stride}th state, and `model` reads every token. Export "
            "with a stride of 1, or leave the model out."
        )
    known = store.manifest.config.get("model") or {}
    found = model_identity(model, known.get("name"))
    if known.get("sha256") and found["sha256"] and known["sha256"] != found["sha256"]:
        raise BadArgument(
            f"`model` has other weights than the one that `store` was made with "
            f"({known.get('name')}). Pass that one, in the same precision."
        )


def spoken(
    store: Store,
    model: Any,
    b: Basis,
    given: Given,
    *,
    budget: Budget,
    out: Path,
    dim: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Decoding and the causal test: their sections, and their figures that matter."""
    plan = b.plan
    sections: list[dict[str, Any]] = []
    cards: list[dict[str, Any]] = []
    wanted = [id for id in ("decoding", "causal") if id not in plan.skip]
    if not wanted:
        return sections, cards
    keys = jr.split(jr.fold_in(jr.key(plan.seed), 2), 3)
    sequences, docs = texts_of(part_of(store, "test"), TEXTS, plan.seed)
    final = _final(store, b, given, plan, keys[0], budget, out, dim)

    def decode() -> dict[str, Any]:
        if final is None:
            raise BadArgument("The store has no final states. Export with the layer `final` too.")
        train, _ = texts_of(part_of(store, "train"), len(store), plan.seed)
        counts = np.bincount(np.concatenate(train), minlength=model.config.vocab)
        run, last = final
        found = words(model, run, last, plan, sequences, docs, counts, keys[1])
        gains = [x for x in found.findings if x.what.startswith("gain of the SDE forecast over")]
        far = next((x for x in reversed(gains) if "over the shares" in x.what), None)
        why = "Whether the SDE knows text beyond the linear model. "
        why += "" if far is None else f"Beside it: {lower(far.sentence())}"
        cards.append(card("Words", gains[0], why))
        return decoding_section(found)

    def cause() -> dict[str, Any]:
        tests = causes(model, b, final, plan, sequences, docs)
        steer = None
        if plan.steer and given.layer != "final":
            prompts = [ids[: max(2, len(ids) // 2)] for ids in sequences[: plan.steer]]
            steer = steering(model, b, prompts, docs[: plan.steer], keys[2])
        why = (
            "Whether the running model follows the learned drift more than a step to where states "
        )
        why += f"usually are. Beside it: {lower(_beyond(tests[0], 'the linear').sentence())}"
        cards.append(card("Cause", _beyond(tests[0], "a step to the mean"), why))
        return causal_section(tests, steer)

    made = {
        "decoding": ("Does it know words?", decode),
        "causal": ("Does the model follow?", cause),
    }
    for id in wanted:
        title, make = made[id]
        with budget.stage(title.lower()):
            sections.append(guarded(id, title, "", make))
    return sections, cards


def _beyond(test: Caused, other: str) -> Any:
    """The finding on the first predictor's step beside another one."""
    for one in test.findings:
        if one.what.startswith("effect of the SDE step") and f"beyond {other}" in one.what:
            return one
    raise BadArgument(f"`tests` has no finding beyond {other}: {'; '.join(test.lost.values())}")


def _final(
    store: Store,
    b: Basis,
    given: Given,
    plan: Plan,
    key: Any,
    budget: Budget,
    out: Path,
    dim: int,
) -> tuple[Any, Given] | None:
    """A fit of the final states and its rows; None where the store has none."""
    if given.layer == "final":
        return b.run, given
    if "final" not in store.layers:
        return None
    with budget.stage("fit of the final states"):
        last = given_store(store, "final", dim, raw=False)
        short = dataclasses.replace(plan, fits=plan.fits[:1], seeds=1)
        fits = fitted(last, short, key=key, out=out / "fits-final", null=False, quiet=True)
    return fits.main, last


def texts_of(store: Store, most: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of at most so many rows, drawn once, and the document of each."""
    at = np.arange(len(store))
    if len(at) > most:
        at = np.sort(np.random.default_rng(seed).choice(len(at), most, replace=False))
    rows = [store[int(k)] for k in at]
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


def deep(model: Any, untrained: Any, store: Store, plan: Plan) -> Any:
    """Depth, of tokens that the model reads again, and of the same before training.

    Without the model, of tokens in the store.
    """
    if model is None:
        states, docs, layers = analysis.depth_sample(
            store, count=DEPTH_TOKENS, seed=plan.seed, burn=plan.burn
        )
        return depth_of(states, docs, None, plan.seed, layers)
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
