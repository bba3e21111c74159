"""`dynlm study`: the SDE of text after Zhang 2024, of any store, with a report."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from .._io import BadArgument, interruptible
from ..store import open_revisions, open_store
from ..store._format import MANIFEST, REVISIONS
from ._common import Stopped, check_numbers, print_json
from ._options import Name, Names, Whole
from ._revised import choices


@dataclass(frozen=True)
class Study:
    """Study the states of a store as an SDE, and write a report.

    Fits neural SDEs and baselines, checks what may be claimed, and analyses fields, process
    properties, scales, stability and moments; along depth too, where the store has all layers.
    With the model that the store came from, it decodes the learned dynamics into words and tests
    them causally. Killed and called again, fits that were done are read.

    Such as:

      dynlm study store --layer 3 --out study
      dynlm study store --layer final --model demo --out study
      dynlm study walks --dim 2 --out study --quick
      dynlm study answers --by helpfulness verbosity --out study
      dynlm study checkpoints --layer 3 --model demo --out along

    Args:
        store: Folder of a store, which `dynlm export` and `dynlm import` make; or of the stores
            that `dynlm export --revisions` wrote, which are studied side by side.
        layer: Which layer; not needed where there is only one.
        dim: Principal components of the states, at most.
        out: Folder for the report, its figures and numbers, and the fits.
        model: The model that the store came from, for decoding and the causal test.
        revision: Of the model.
        untrained: The same model before training, as NAME@REVISION: the null of depth.
        by: Columns of the store, such as scores of the documents: the gain of the fit and of the
            linear model in groups of each, and how it changes with it.
        quick: One fit and the main analyses.
        seeds: Models of each fit.
        steps: Optimiser steps of each fit.
        power: Trials of each strength of a planted effect: which effect so many documents could
            have shown. Takes a fit each.
        seed: Seed of everything random.
        json: Print the results as one line of JSON, last.
        quiet: No progress and no summary.
    """

    store: Positional[Path]
    layer: Name = None
    dim: int = 16
    out: Path = Path("dynlm-study")
    model: Name = None
    revision: Name = None
    untrained: Name = None
    by: Names = ()
    quick: bool = False
    seeds: Whole = None
    steps: Whole = None
    power: int = 0
    seed: int = 0
    json: bool = False
    quiet: bool = False


def run(config: Study) -> None:
    """Fit, analyse, report."""
    least = {"dim": 1, "seeds": 1, "steps": 1, "power": 0, "seed": 0}
    check_numbers(config, least)
    folder = config.store
    several = (folder / REVISIONS).exists() and not (folder / MANIFEST).exists()
    stores = open_revisions(folder) if several else {}
    store = None if several else open_store(folder)
    if several and config.by:
        raise BadArgument("`by` is for one store, and `store` has several. Study one of them.")
    if several and config.revision is not None:
        raise BadArgument(
            f"`revision` is {config.revision}, and `store` has several stores, each of the "
            "revision that it is named by. Leave it out, or study one of them."
        )
    for flag in ("untrained", "revision"):
        if getattr(config, flag) is not None and config.model is None:
            raise BadArgument(f"`{flag}` goes with `model`, which is not given. Give both.")
    from .. import lm
    from ..studies import QUICK, Plan, study_revisions, study_store
    from ..studies._given import layer_of
    from ..train import Interrupted

    for one in stores.values() if store is None else [store]:
        layer_of(one, config.layer)
    config.out.mkdir(parents=True, exist_ok=True)  # an unwritable one is better known now

    plan = dataclasses.replace(QUICK if config.quick else Plan(), seed=config.seed)
    changes = {name: getattr(config, name) for name in ("seeds", "steps")}
    changes = {name: value for name, value in changes.items() if value is not None}
    plan = dataclasses.replace(plan, power=config.power, **changes)
    name = config.model
    how: dict[str, Any] = dict(dim=config.dim, plan=plan, quiet=config.quiet)

    def load(revision: str) -> Any:
        one = choices(name or "", revision)[0]
        return lm.load(one.model, revision=one.revision)

    try:
        with interruptible():
            how["untrained"] = None if config.untrained is None else load(config.untrained)
            if store is None:
                make = None if name is None else load
                done = study_revisions(stores, config.layer, config.out, model=make, **how)
            else:
                how["model"] = None if name is None else lm.load(name, revision=config.revision)
                done = study_store(store, config.layer, config.out, by=config.by, **how)
    except (KeyboardInterrupt, Interrupted):
        raise Stopped(
            f"stopped. Fits that were finished in {config.out} stay; the same command goes on."
        ) from None
    if not config.quiet:
        print(done.text(), file=sys.stderr if config.json else sys.stdout, flush=True)
    if config.json:
        print_json(done.results)
