"""Stores of given arrays, for tests."""

from typing import NamedTuple

import numpy as np

from dynlm.store._format import FLOATS, Manifest
from dynlm.store._reader import Store, open_store
from dynlm.store._writer import writing


class Made(NamedTuple):
    store: Store
    rows: list[np.ndarray]  # the states of layer 0, as they were rounded

    def of(self, split):
        chosen = self.store.split(split).rows if split else range(len(self.rows))
        return np.concatenate([self.rows[i].astype(np.float64) for i in chosen])


def made(folder, rows, dtype="float32", layers=(0,), docs=None):
    """A store of rows given as arrays; layer k holds them times k + 1."""
    dims = {k: rows[0].shape[1] for k in layers}
    docs = list(range(len(rows))) if docs is None else docs
    manifest = Manifest(
        layers=dims,
        dtype=dtype,
        stride=1,
        fields=(),
        columns=(),
        top=0,
        rows=len(rows),
        documents=max(docs) + 1,
        count=2,
        plan_sha256=None,
        split={"shares": {"train": 0.6, "valid": 0.2, "test": 0.2}, "seed": 0},
        config={},
        versions={},
    )
    kept = [np.asarray(x).astype(FLOATS[dtype]) for x in rows]
    half = len(rows) // 2
    folder.mkdir(exist_ok=True)
    with writing(folder, manifest) as writer:
        for number, span in enumerate((range(half), range(half, len(rows)))):
            sizes = np.array([len(rows[i]) for i in span], np.int64)
            parts = {
                "offsets": [np.concatenate([[0], np.cumsum(sizes)])],
                "rows": [np.array(span, np.int64)],
                "docs": [np.array([docs[i] for i in span], np.int64)],
                "prompts": [np.zeros(len(span), np.int32)],
            }
            for k in layers:
                factor = kept[0].dtype.type(k + 1)
                parts[f"layer_{k}"] = [kept[i] * factor for i in span]
            writer.put(number, parts)
        writer.finish()
    return Made(open_store(folder), kept)


def rows_of(rng, count=30, dim=8, most=20):
    """Correlated states of decaying variance far from zero, ragged."""
    mix = rng.standard_normal((dim, dim)) * 0.7 ** np.arange(dim)[:, None]
    sizes = rng.integers(1, most, count)
    return [rng.standard_normal((n, dim)) @ mix + 3 for n in sizes]
