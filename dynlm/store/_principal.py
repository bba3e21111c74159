"""Fitting a `Projection`: means, scales and principal components of the states of a store."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, final, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._fields import shown
from .._io import Advance, BadArgument, progress
from . import _moments as moments
from ._format import Name
from ._projection import Fit, Projection, block_steps
from ._reader import Store

Scale = Literal["none", "each", "all"]
Method = Literal["exact", "randomised"]
Matrix = Float[np.ndarray, "dim kept"]
Vector = Float[np.ndarray, " dim"]

AUTO_SHARE, AUTO_MOST = 0.95, 64  # of the variance, and components at most, where `dim` is "auto"
MATRIX_BYTES = 1_000_000_000  # that the exact method's covariance may have
SPARE = 16  # directions that the randomised method takes beside those it is asked for


def fit_projection(
    store: Store,
    layer: Name | Sequence[Name],
    dim: int | float | Literal["auto"] | None = None,
    *,
    split: str | None = "train",
    scale: Scale = "none",
    whiten: bool = False,
    method: Method = "exact",
    seed: int = 0,
    passes: int = 6,
    quiet: bool = True,
) -> Projection:
    """The projection of the states of a store, from its training documents alone.

    Args:
        store: Whose states.
        layer: Of which layer; where several are given, one projection for all of them.
        dim: How many principal components; between 0 and 1, the least number that keeps this
            share of the variance; "auto" for a share of 0.95, but at most 64; None for the
            coordinates themselves, centred and scaled.
        split: Of the documents; None for all rows of `store`.
        scale: What states are divided by once they are centred. "each": every coordinate by its
            standard deviation, before components are sought. "all": all by one number, so that
            the kept components have a mean variance of one. "none": nothing.
        whiten: Whether every component is divided by its own standard deviation as well.
        method: "exact" reads the states once and takes the square of their dimension in memory;
            "randomised" reads them `passes` times and takes `passes * dim` times their dimension.
        seed: Of the randomised method.
        passes: Of the randomised method, 3 or more. The first is for means and variances.
        quiet: Whether no progress is shown.

    A coordinate that does not vary is divided by one. Variances are mean squared deviations.
    """
    data = _data(store, layer, split)
    most = None
    if dim == "auto":
        dim, most = AUTO_SHARE, AUTO_MOST
    wish = _Wish(dim, scale, whiten, None if dim is None else method, int(seed), passes, most)
    _check(wish, data)
    readings = passes if wish.method == "randomised" else 1
    with progress("projection", data.steps * readings, quiet=quiet) as advance:
        arrays, kept = _fitted(wish, data, advance)
    fit = Fit(
        layers=data.layers,
        split=split,
        rows=len(data.rows),
        steps=data.steps,
        scale=scale,
        whiten=whiten,
        method=wish.method,
        seed=wish.seed if wish.method == "randomised" else None,
        kept=kept,
        digest=store.digest,
    )
    on_device: dict[str, Any] = jax.tree.map(jnp.asarray, arrays)
    return Projection(**on_device, fit=fit)


@final
class _Wish(NamedTuple):
    """What was asked for."""

    dim: int | float | None
    scale: str
    whiten: bool
    method: str | None
    seed: int
    passes: int
    most: int | None  # components, where a share of the variance is asked for


@final
class _Data(NamedTuple):
    """The states that a projection is fitted on."""

    rows: Store
    layers: tuple[Name, ...]
    split: str | None
    dim: int
    steps: int

    def __str__(self) -> str:
        where = "the store" if self.split is None else f"the split {self.split!r}"
        return f"{where} at layer {', '.join(map(str, self.layers))}"

    def blocks(self, advance: Advance) -> Iterator[tuple[Name, Float[np.ndarray, "step dim"]]]:
        for layer in self.layers:
            for block in self.rows.chunks(layer, block_steps(self.dim)):
                yield layer, block
                advance(len(block))


def _data(store: Store, layer: Name | Sequence[Name], split: str | None) -> _Data:
    layers = (layer,) if isinstance(layer, int | np.integer | str) else tuple(dict.fromkeys(layer))
    if not layers or any(one not in store.layers for one in layers):
        raise BadArgument(
            f"`layer` is {shown(layer)}. This store has the layers {list(store.layers)}."
        )
    layers = tuple(store.layers[store.layers.index(one)] for one in layers)
    dims = {one: store.dims[one] for one in layers}
    if len(set(dims.values())) > 1:
        raise BadArgument(
            f"The layers of `layer` differ in dimension: {dims}. Fit one projection for each."
        )
    rows = store if split is None else store.split(split)
    data = _Data(rows, layers, split, dims[layers[0]], int(rows.lengths.sum()) * len(layers))
    if not data.steps:
        raise BadArgument(
            f"There is no state in {data} of {store.folder}. Use another `split`, or None for all "
            "rows."
        )
    return data


def _check(wish: _Wish, data: _Data) -> None:
    dim, most = wish.dim, min(data.dim, data.steps)
    for name, known in (("scale", Scale), ("method", Method)):
        if (value := getattr(wish, name)) not in (*get_args(known), None):
            raise BadArgument(f"`{name}` is {shown(value)}. Use one of {list(get_args(known))}.")
    if dim is None:
        if wish.whiten:
            raise BadArgument("`whiten` is for principal components: give their number as `dim`.")
        return
    share = isinstance(dim, float) and 0 < dim < 1
    if not share and (not isinstance(dim, int | np.integer) or not 1 <= dim <= most):
        raise BadArgument(
            f"`dim` is {shown(dim)}, and {data} has {data.steps} states of dimension {data.dim}. "
            f'Use 1 to {most} components, a share of the variance between 0 and 1, or "auto".'
        )
    if wish.method == "randomised":
        if share:
            raise BadArgument(
                f"`dim` is {dim}. The randomised method needs the number of components."
            )
        if wish.passes < 3:
            raise BadArgument(f"`passes` is {wish.passes}. Use 3 or more.")
    elif (size := 8 * data.dim**2) > MATRIX_BYTES:
        raise BadArgument(
            f"`method` is 'exact', and the covariance in {data.dim} dimensions takes "
            f"{size / 1e9:.1f} GB. Use 'randomised'."
        )


def _fitted(wish: _Wish, data: _Data, advance: Advance) -> tuple[dict[str, Any], float]:
    """The arrays of a projection, and the share of the variance that they keep."""
    seen = _moments_of(data, wish.method == "exact", advance)
    variance = moments.variance(seen)
    if wish.scale == "each":
        unit = np.where(variance > 0, np.sqrt(variance), 1.0)
    else:
        unit = np.ones(data.dim)
    spread = variance / unit**2
    basis, spectrum, kept = None, spread, 1.0
    if wish.dim is not None:
        if not spread.any():
            raise BadArgument(f"The states of {data} do not vary: they have no components.")
        if wish.method == "exact":
            basis, spectrum = _exact(wish, seen, unit)
        else:
            basis, spectrum = _randomised(wish, data, seen.mean, unit, spread, advance)
        kept = min(1.0, float(spectrum.sum() / spread.sum()))
        basis = basis * np.where(basis[np.abs(basis).argmax(0), range(basis.shape[1])] < 0, -1, 1)
        if wish.whiten:
            _refuse_noise(data, basis, spectrum, spread)
    if wish.scale == "all" and spectrum.any():
        number = math.sqrt(spectrum.mean())
        unit, spectrum = unit * number, spectrum / number**2
    width = np.sqrt(spectrum) if wish.whiten else np.ones(len(spectrum))
    arrays = dict(mean=seen.mean, scale=unit, basis=basis, width=width, variance=spectrum)
    return arrays, kept


def _moments_of(data: _Data, crossed: bool, advance: Advance) -> moments.Moments:
    begin = (moments.nothing_crossed if crossed else moments.nothing)(data.dim)
    seen = begin
    for layer, block in data.blocks(advance):
        try:
            seen = moments.add(seen, block)
        except BadArgument:
            raise _strange(data.rows, layer) from None
    return seen


def _strange(rows: Store, layer: Name) -> BadArgument:
    """The error that a state is not finite, with its row."""
    for i in range(len(rows)):
        states = rows.states(i, layer)
        try:
            moments.add(moments.nothing(states.shape[1]), states)
        except BadArgument as error:
            return BadArgument(
                f"Row {rows.rows[i]} of {rows.folder} (document {rows.docs[i]}) cannot be used at "
                f"layer {layer}. {error} Fit on a selection of rows without it."
            )
    return BadArgument(f"A state of layer {layer} of {rows.folder} is not finite.")


def _exact(
    wish: _Wish, seen: moments.Moments, unit: Vector
) -> tuple[Matrix, Float[np.ndarray, " kept"]]:
    """Eigenvectors and eigenvalues of the covariance of the scaled states, largest first."""
    matrix = moments.covariance(seen)
    matrix /= unit
    matrix /= unit[:, None]
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    dim = wish.dim
    if isinstance(dim, float):
        share = 1 + int(np.searchsorted(np.cumsum(values), dim * values.sum()))
        dim = min(share, len(values), wish.most or len(values))
    return vectors[:, :dim], values[:dim]


def _randomised(
    wish: _Wish,
    data: _Data,
    mean: Vector,
    unit: Vector,
    spread: Vector,
    advance: Advance,
) -> tuple[Matrix, Float[np.ndarray, " kept"]]:
    r"""The same for the leading ones, in the span of all $C^i G$ with random directions $G$.

    Every pass multiplies the newest orthonormal block by the covariance $C$, and the rest of the
    product is the next block. The result is the eigenvectors of $Q^\top C Q$, where $Q$ is all
    blocks together: no more passes are needed, as $C Q$ is known.
    """
    assert isinstance(wish.dim, int | np.integer)
    size = wish.dim + SPARE
    level = math.sqrt(spread.mean())  # so that products neither overflow nor vanish in float32
    basis = images = np.empty((data.dim, 0))
    image = np.random.default_rng(wish.seed).standard_normal((data.dim, size))
    for left in range(wish.passes - 1, 0, -1):
        if (known := basis.shape[1]) == data.dim:
            advance(left * data.steps)
            break
        # Householder's QR: new directions are orthonormal even where `image` adds none. It may turn
        # the signs of the known ones, so these stay as they are.
        new = np.linalg.qr(np.hstack([basis, image])[:, : data.dim])[0][:, known:]
        image = np.zeros_like(new)
        for _, block in data.blocks(advance):
            image += moments.scatter_times(block, mean, unit * level, new)
        basis, images = np.hstack([basis, new]), np.hstack([images, image / data.steps])
    small = basis.T @ images
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    leading = slice(None, -wish.dim - 1, -1)
    return basis @ vectors[:, leading], np.maximum(values[leading], 0.0) * level**2


def _refuse_noise(
    data: _Data,
    basis: Matrix,
    spectrum: Float[np.ndarray, " kept"],
    spread: Vector,
) -> None:
    """Refuses to whiten components that rounding made.

    The error of a product is relative to the deviations of its two coordinates, so that of a
    component's variance is relative to what it would be if coordinates were independent; that of
    the eigenvalues is relative to the largest. Sixteen times both is well above what is seen.
    """
    product, double = (np.finfo(x).eps for x in (moments.precision(data.rows.dtype), np.float64))
    noise = 16 * (product * (spread @ basis**2) + double * spectrum[0])
    if (real := int(np.sum(spectrum > noise))) < len(spectrum):
        raise BadArgument(
            f"`whiten` would divide by rounding errors: of {len(spectrum)} components only {real} "
            f"vary in {data}. Use a `dim` of at most {real}, or do not whiten."
        )
