"""States to fit models to: of a trained model that reads stories, or of the embedded one."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynlm import lm
from dynlm._judge import Rows, rows_from, shuffled_rows
from dynlm.store import Store, fit_projection

MODEL, TEXT = "lm/stories260k", "text/tinystories.txt"
HERE = Path(__file__).resolve().parents[1]
SHARES = {"train": 0.8, "valid": 0.0, "test": 0.2}


class Size(NamedTuple):
    """How much is read: documents, tokens of each, and principal components of their states."""

    documents: int
    tokens: int
    dim: int


class Table(NamedTuple):
    """Rows to fit to, rows to score, and the share of the variance that their components hold."""

    train: Rows
    test: Rows
    kept: float


def exported(data: str | None, folder: Path, size: Size, layers: tuple[Any, ...]) -> Store:
    """The states of passages, cut at blank lines, of those with tokens enough."""
    if data is None:
        print("There is no `--data`: the embedded model reads this project's own pages instead.")
        model = lm.load("demo")
        pages = sorted((HERE / "docs").glob("*.md"))
        # A page is read in stretches, for its paragraphs are short.
        stretches = [re.findall(r"(?s).{1,400}", page.read_text()) for page in pages]
        passages = [one for page in stretches for one in page]
    else:
        for name in (MODEL, TEXT):
            if not (Path(data) / name).exists():
                raise SystemExit(f"`--data` is {data}, which has no {name}. Leave `--data` out.")
        model = lm.load(Path(data) / MODEL)
        passages = (Path(data) / TEXT).read_text().split("\n\n")
    texts = [text.strip() for text in passages if text.strip()]
    found: Any = model.tokenizer(texts, verbose=False)
    ids = [np.asarray(one, np.int32) for one in found["input_ids"] if len(one) >= size.tokens]
    ids = [one[: size.tokens] for one in ids[: size.documents]]
    if len(ids) < size.documents:
        print(f"There are {len(ids)} passages of {size.tokens} tokens or more.")
    return lm.export(model, ids, folder, layers=layers, dtype="float32", shares=SHARES, quiet=True)


def tables(store: Store, size: Size, layers: tuple[Any, ...], shuffled: Any) -> dict[str, Table]:
    """Whitened components of each layer, and of one of them in a random order in time."""
    found = {}
    for layer in layers:
        projection = fit_projection(store, layer, size.dim, whiten=True)
        train, test = (rows_from(store.split(one), layer, projection) for one in ("train", "test"))
        found[f"layer {layer}"] = Table(train, test, projection.kept)
        if layer == shuffled:
            mixed = shuffled_rows(train, seed=0), shuffled_rows(test, seed=1)
            found[f"layer {layer}, shuffled in time"] = Table(*mixed, projection.kept)
    return found
