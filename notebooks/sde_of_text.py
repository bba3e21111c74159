# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The SDE of text, step by step
#
# `dynlm demo` and `dynlm study` go from a language model to a report in one command. Here is the
# same way by API: texts, states, the question whether their order in time holds anything, a fit,
# what it is worth, some analyses, words, causes, and a report.
#
# The model is the small one in this package, and the texts are its own, so nothing is downloaded.

# %%
import dataclasses
import os
import tempfile
from pathlib import Path

import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import dynlm
from dynlm import analysis, baselines, studies
from dynlm.report import write_report

SMALL = os.environ.get("DYNLM_SMALL") == "1"  # a quick pass, for tests
TEXTS, LENGTH = (128, 32) if SMALL else (640, 62)
DIM = 8 if SMALL else 16
plan = dataclasses.replace(
    studies.QUICK, steps=150 if SMALL else 1500, width=32 if SMALL else 64, seed=0
)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Texts and their states
#
# Every prompt is a document of its own, and documents are divided into those for training, for the
# choice of the best step, and for the test. Whatever is said below is said of the last.

# %%
model = dynlm.lm.load("demo")
openings = ["It was", "The", "I am", "When the", "He said", "She had", "In the", "We may"]
store = dynlm.lm.export(
    model,
    [openings[k % len(openings)] for k in range(TEXTS)],
    folder / "store",
    sampling=dynlm.lm.Sampling(1, budget=LENGTH, seed=0),
    layers=(3, "final"),
    quiet=True,
)
print(model.text(store[5].tokens))

# %% [markdown]
# `given_store` projects the states of one layer to whitened principal components, which it takes
# from the training documents, and makes rows of them.

# %%
given = studies.given_store(store, 3, DIM, raw=False)
rows = given.test
print(f"{given.about['share of the variance kept']:.0%} of the variance in {given.dim} components")

# %% [markdown]
# ## Does the order in time hold anything?
#
# This is asked first, before any network. States that are independent in time have $E[y_{k+1} -
# y_k \mid y_k] = m - y_k$: a drift fitted to them is a strong pull to the mean, and looks like
# dynamics. So the same is asked of the same states in random order, where the answer is known.

# %%
found = analysis.order(given.train.paths, given.train.docs, seed=0)
print(found.verdict.value)
for one in found.findings:
    print("-", one.sentence())

shuffled = baselines.time_shuffled(given.train.paths, seed=1)
print(analysis.order(shuffled, given.train.docs, seed=0).verdict.value, "once shuffled")

# %% [markdown]
# ## A fit, and what it is worth
#
# `fitted` makes the fits of a plan, and the first of them once more from shuffled states. `judge`
# puts both beside baselines on the test documents. It also solves the fit more finely: only if the
# one-step law stays what it was, and the linear model could be of a process in continuous time,
# may rates and relaxation times be spoken of.
#
# So few texts and steps may leave the fit behind the linear model: then the numbers say so, and
# what follows below describes a fit that is not worth much. `studies.Plan()` takes more of both.

# %%
fits = studies.fitted(given, plan, key=jr.key(0), out=folder / "fits", quiet=True)
run = fits.main


def simple(paths, key):
    """A few of the baselines; without `make`, all of them."""
    return {
        "random walk": baselines.random_walk(paths, burn=plan.burn),
        "iid": baselines.iid(paths, burn=plan.burn),
        "var1": baselines.var1(paths, burn=plan.burn),
    }


judged = dynlm.judge(
    run, given.train, rows, key=jr.key(1), null=fits.null, make=simple, horizons=()
)
print(judged.text())

# %% [markdown]
# ## Analyses
#
# Each takes an SDE, or paths with the document of each, and gives findings: a number, its interval
# by document, the value that it has where there is nothing to be found, and what follows. The
# sentence is made from these, so it cannot say more.

# %%
along = analysis.along(run.model, rows.paths, rows.docs, burn=plan.burn)
missed = analysis.residuals(run.predictor(), rows.paths, rows.docs, burn=plan.burn)
memory = analysis.autocorrelation(rows.paths, rows.docs, lags=(1, 4), burn=plan.burn)
states = analysis.sample(rows.paths, rows.docs, most=256, burn=plan.burn)
points = analysis.fixed_points(run.model, states.ys, dt=run.law.step)
for one in (*along.findings, *missed.findings[:2], *memory.findings[:2], *points.findings[:1]):
    print("-", one.sentence())

# %% [markdown]
# A plane through the two directions of most variance: arrows are the drift within the plane,
# colour the share of the drift that leaves it. Where that is large, arrows mislead.

# %%
section = analysis.principal_plane(rows.paths, burn=plan.burn)
plane = analysis.plane(run.model, **section._asdict(), size=16)
inside = np.hypot(plane.drift[..., 0], plane.drift[..., 1])
share = plane.leaving / np.maximum(np.hypot(inside, plane.leaving), 1e-12)

fig, ax = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
drawn = ax.pcolormesh(
    plane.first, plane.second, share, vmin=0, vmax=1, cmap="Blues", shading="auto"
)
ax.quiver(plane.first, plane.second, plane.drift[..., 0], plane.drift[..., 1])
fig.colorbar(drawn, label="share that leaves the plane")
ax.set(xlabel="first direction", ylabel="second direction", title="The learned drift")
fig

# %% [markdown]
# ## Does it know words?
#
# Final states determine the next token. A fit of *them* is rolled out from held-out texts and
# pushed through the model's own unembedding: do the draws know which tokens come, better than the
# linear model's draws do?

# %%
last = studies.given_store(store, "final", DIM, raw=False)
ending = studies.fitted(last, plan, key=jr.key(2), null=False, quiet=True).main
test = [row for row in store.split("test")]
sequences, docs = [np.asarray(row.tokens) for row in test], [row.doc for row in test]
written = np.concatenate([np.asarray(row.tokens) for row in store.split("train")])
known = studies.decoded(
    model,
    {"SDE": ending},
    last.projection,
    sequences,
    docs,
    train=last.train.paths,
    counts=np.bincount(written, minlength=model.config.vocab),
    key=jr.key(3),
    horizons=(1, 4),
    draws=16,
)
for one in known.findings[:4]:
    print("-", one.sentence())

# %% [markdown]
# ## Does the model follow?
#
# A good fit is no mechanism. So the step that it predicts is written into layer 3 of the running
# model, and the next token's law should move to where it will be a token later, more than by a
# random step of the same length, and more than by the linear model's.

# %%
followed = studies.caused(
    model,
    {"SDE": run},
    3,
    given.projection,
    sequences,
    docs,
    train=given.train.paths,
    seed=0,
    final=(ending, last.projection),
)
for one in followed.findings:
    print("-", one.sentence())

# %%
names = ["true step", "SDE", "linear", "to the mean", "mean step", "random"]
effects = [followed.effect[name] for name in names]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ends = [[x.value - x.low for x in effects], [x.high - x.value for x in effects]]
ax.errorbar([x.value for x in effects], range(len(names)), xerr=ends, fmt="o")
ax.axvline(0, color="0.7", linewidth=0.8)
ax.set_yticks(range(len(names)), names)
ax.set(xlabel="nats nearer to the law one token later", title="Steps written into layer 3")
fig

# %% [markdown]
# ## A report of one's own
#
# `write_report` makes a page of any document of findings, tables and figures. It refuses one whose
# sentences say other than its numbers.


# %%
def section_of(name, title, asked, trust, findings):
    """A section with nothing but findings."""
    return {
        "id": name,
        "title": title,
        "asked": asked,
        "found": [one.sentence() for one in findings],
        "trust": trust,
        "findings": list(findings),
        "tables": [],
        "figures": [],
    }


page = write_report(
    {
        "format": "dynlm-report-1",
        "title": "Layer 3 of a small language model",
        "lead": "Its own texts, as a stochastic differential equation.",
        "cards": [
            {"label": "Order", "finding": found.findings[0], "why": "Without it, no dynamics."},
            {"label": "Cause", "finding": followed.findings[0], "why": "Does the model follow?"},
        ],
        "sections": [
            section_of(
                "order",
                "Does the order hold anything?",
                "Do states predict the next one on documents not seen?",
                "Few texts. Chance passes the random orders once in forty.",
                found.findings,
            ),
            section_of(
                "causal",
                "Does the model follow?",
                "Do next tokens move as the fit predicts?",
                "One token of one layer was edited, in one small model.",
                followed.findings,
            ),
        ],
    },
    folder / "report",
)
print(page.name, f"{page.stat().st_size / 1000:.0f} kB")

# %% [markdown]
# All of it, with every analysis, in one call: `studies.study_store(store, 3, "study",
# model=model)`.
