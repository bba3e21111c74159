"""The study of trained and less trained models on the same texts: what differs?

    python benchmarks/studies.py --data DATA --out results/DATE-studies.json

Two comparisons, each of stores made on the spot: stories260k beside its under-trained twin
llama2xs, on stories (DATA holds `lm/` and `text/`); and the embedded model beside its own early
and untrained checkpoints, on texts that it sampled itself. Without --data, the second alone.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import dynlm
from dynlm import lm, studies
from dynlm.studies._openings import openings

LENGTH = 64  # tokens of a text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with lm/ and text/")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder of stores and reports, to keep them")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--quick", action="store_true", help="few texts and steps, for tests")
    wish = parser.parse_args(arguments)
    if wish.quick:
        wish.texts, wish.steps, wish.seeds = 60, 20, 1
    with tempfile.TemporaryDirectory() as temporary:
        work = wish.work or Path(temporary)
        found = {"config": config_of(wish), "comparisons": {}}
        if wish.data is not None:
            found["comparisons"]["stories"] = stories(wish, work / "stories")
        found["comparisons"]["embedded"] = embedded(wish, work / "embedded")
    text = json.dumps(found, allow_nan=False)
    if wish.out:
        wish.out.write_text(text + "\n")
    for name, one in found["comparisons"].items():
        print(f"\n{name}, {one['seconds']:.0f} s")
        for said in one["sections"][0]["found"]:
            print(" ", said)
    return found


def config_of(wish):
    kept = {name: getattr(wish, name) for name in ("texts", "steps", "seeds")}
    return kept | {"length": LENGTH, "dynlm": dynlm.__version__, "jax": jax.__version__}


def plan_of(wish):
    plan = dataclasses.replace(studies.DEMO, steps=wish.steps, seeds=wish.seeds, states=128)
    if wish.quick:
        plan = dataclasses.replace(plan, fits=plan.fits[:1], width=8, mixture_steps=5, exponents=20)
    return plan


def stories(wish, work):
    """The first tokens of stories that have enough of them, through both models."""
    text = (wish.data / "text" / "tinystories.txt").read_text()
    models = {name: lm.load(wish.data / "lm" / name) for name in ("llama2xs", "stories260k")}
    ids = []
    for story in text.split("\n"):
        row = models["stories260k"].ids([story])[0] if len(story) > 2 * LENGTH else []
        ids += [row[:LENGTH]] if len(row) >= LENGTH else []
        if len(ids) == wish.texts:
            break
    return compared(wish, work, models, ids, 3)


def embedded(wish, work):
    """Texts that the trained checkpoint sampled, through all three."""
    names = ("untrained", "early", "trained")
    models = {name: lm.load("demo", revision=None if name == "trained" else name) for name in names}
    ids = []
    for k in range(0, wish.texts, 200):
        prompts = openings(wish.texts)[k : k + 200]
        drawn = models["trained"].sample(prompts, key=jax.random.key(k), budget=LENGTH)
        ids += [np.asarray(drawn.row(i).tokens)[:LENGTH].tolist() for i in range(len(prompts))]
    return compared(wish, work, models, ids, 3)


def compared(wish, work, models, ids, layer):
    start = time.monotonic()
    stores = {}
    for name, model in models.items():
        folder = work / "stores" / name
        stores[name] = lm.export(model, ids, folder, layers=(layer, "final"), quiet=True)
    done = studies.study_revisions(
        stores, layer, work / "reports", plan=plan_of(wish), model=models.get
    )
    print(f"report: {done.page}", file=sys.stderr)
    light = [{k: v for k, v in one.items() if k != "figures"} for one in done.results["sections"]]
    kept = {key: done.results[key] for key in ("cards", "facts", "budget")}
    return kept | {"sections": light, "seconds": time.monotonic() - start}


if __name__ == "__main__":
    main()
