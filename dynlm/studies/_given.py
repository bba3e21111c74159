"""`Given`: what a study is of, as rows for training, validation and test."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

from .. import _data
from .._fields import shown
from .._io import BadArgument
from .._judge import Rows, rows_from
from ..analysis import coarse
from ..store import SHARES, Projection, Store, fit_projection
from ..store._split import split_docs
from ..trajectory import Trajectory


@final
class Given(NamedTuple):
    """Rows of three sets of documents.

    Args:
        train: What is fitted to.
        valid: What the best step of a fit is chosen by.
        test: What everything is measured on.
        unit: What the rows of `test` with one number in `docs` are.
        projection: What the states were projected by, if they were.
        layer: Of the model, if they are of one.
        about: Facts for the report.
    """

    train: Rows
    valid: Rows
    test: Rows
    unit: str = "documents"
    projection: Projection | None = None
    layer: int | str | None = None
    about: Mapping[str, Any] = MappingProxyType({})

    @property
    def dim(self) -> int:
        """Dimension of the states."""
        return int(self.train.paths.ys.shape[-1])


def given_store(
    store: Store, layer: int | str | None = None, dim: int | None = 16, *, raw: bool = True
) -> Given:
    """The rows of a store, projected to whitened principal components of its training documents.

    Args:
        store: Where they are.
        layer: Which; by default the only one there is.
        dim: Components; None keeps all coordinates, each scaled to unit variance.
        raw: Whether raw states of the test are kept beside.
    """
    layer = layer_of(store, layer)
    if dim is not None:
        dim = min(dim, store.dims[layer])
    scale = "each" if dim is None else "none"
    cut = _data.IN_TIME in store.columns  # what is for training is no split then
    rows, split = (_data.part_of(store, "train"), None) if cut else (store, "train")
    projection = fit_projection(
        rows, layer, dim, split=split, scale=scale, whiten=dim is not None, quiet=True
    )
    parts = [
        rows_from(_data.part_of(store, name), layer, projection, raw=raw and name == "test",
                  from_zero=True)
        if len(_data.part_of(store, name)) else None
        for name in ("train", "valid", "test")
    ]  # fmt: skip
    missing = [name for name, part in zip(("train", "valid", "test"), parts) if part is None]
    if missing:
        count = len(np.unique(store.docs))
        raise BadArgument(
            f"`store` has {count} documents, and none for {', '.join(missing)}. Export more."
        )
    about = {
        "rows": len(store),
        "documents": len(np.unique(store.docs)),
        "states": int(np.sum(store.lengths)),
        "layer": str(layer),
        "raw dimension": store.dims[layer],
        "components": len(projection.width),
        "share of the variance kept": projection.kept,
    }
    train, valid, test = parts
    assert train is not None and valid is not None and test is not None
    return Given(train, valid, test, _data.unit_of(store), projection, layer, about)


def layer_of(store: Store, layer: int | str | None) -> int | str:
    """A layer of a store by its name; of None the only one there is."""
    names = {str(name): name for name in store.layers}
    if layer is None and len(names) == 1:
        layer = store.layers[0]
    if str(layer) not in names:
        raise BadArgument(
            f"`layer` is {shown(layer)}. The store has the layers {', '.join(names)}."
        )
    return names[str(layer)]


def given_paths(paths: Any, docs: Any = None, *, seed: int = 0) -> Given:
    """Rows in memory, divided by document.

    Args:
        paths: A batch of paths, or an array (paths, time, dim).
        docs: The document of each; by default each path is one.
        seed: Of the division.
    """
    if not isinstance(paths, Trajectory):
        ys = jnp.asarray(paths)
        if ys.ndim != 3:
            raise BadArgument(f"`paths` has shape {ys.shape}. Pass (paths, time, dim).")
        ts = jnp.broadcast_to(jnp.arange(ys.shape[1], dtype=ys.dtype), ys.shape[:2])
        paths = jax.vmap(Trajectory)(ts, ys, jnp.ones(ys.shape[:2], bool))
    count = len(paths.ts)
    docs = np.arange(count) if docs is None else np.asarray(docs)
    if docs.shape != (count,):
        raise BadArgument(f"`docs` has shape {docs.shape}, and there are {count} paths.")
    names, numbers = np.unique(docs, return_inverse=True)
    chosen = split_docs(np.arange(len(names)), SHARES, seed)
    parts = [_part(paths, docs, np.isin(numbers, chosen[name])) for name in SHARES]
    if any(len(part.docs) == 0 for part in parts):
        raise BadArgument(
            f"`docs` has {len(names)} documents, too few to hold some out. Pass more paths."
        )
    about = {"rows": count, "documents": len(names), "states": int(np.sum(paths.mask))}
    train, valid, test = parts
    return Given(train, valid, test, about=about)


def coarser(given: Given, width: int, burn: int) -> Given:
    """The same averaged over so many steps; the first `burn` states are left out."""
    parts = [
        Rows(coarse(part.paths, width, "averaged", burn=burn), part.docs)
        for part in (given.train, given.valid, given.test)
    ]
    about = {**given.about, "steps averaged": width}
    return given._replace(train=parts[0], valid=parts[1], test=parts[2], about=about)


def _part(paths: Trajectory, docs: np.ndarray, which: np.ndarray) -> Rows:
    at = np.flatnonzero(which)
    return Rows(_taken(paths, at), docs[at])


def _taken(tree: Any, at: np.ndarray) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[at]), tree)


def some(rows: Rows, most: int, seed: int = 0) -> Rows:
    """All rows of at most so many documents, drawn once."""
    names = np.unique(rows.docs)
    if len(names) <= most:
        return rows
    kept = np.random.default_rng(seed).choice(names, most, replace=False)
    at = np.flatnonzero(np.isin(rows.docs, kept))
    return Rows(_taken(rows.paths, at), rows.docs[at], _taken(rows.raw, at))
