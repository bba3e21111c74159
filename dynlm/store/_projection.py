"""`Projection`: states centred, scaled and turned into few components, and back again."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import brief, shown
from .._io import BadArgument, write_atomic
from .._types import State
from ._format import Name
from ._reader import Store
from ._sealed import sealed, unsealed
from ._writer import trouble

Component = Float[Array, " kept"]

BLOCK = 2**24  # numbers that are read at a time, unless that is very few or very many states
FOLDER, SUFFIX = "projections", ".safetensors"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def block_steps(dim: int) -> int:
    """How many states of a dimension are worked on at a time."""
    return min(max(BLOCK // max(dim, 1), 256), 8192)


@final
class Fit(NamedTuple):
    """Where a projection comes from.

    Args:
        layers: The layers whose states it was fitted on, together.
        split: The split, or None for all rows.
        rows: How many rows that were.
        steps: How many states, over all layers.
        scale: What was asked of the scale.
        whiten: Whether components were brought to unit variance.
        method: How the components were found; None where none were asked for.
        seed: Of the randomised method.
        kept: Share of the total variance that the components hold.
        digest: What the store's shards held.
    """

    layers: tuple[Name, ...]
    split: str | None
    rows: int
    steps: int
    scale: str
    whiten: bool
    method: str | None
    seed: int | None
    kept: float
    digest: str


@final
class Projection(eqx.Module):
    r"""$z = B^\top ((x - m) / s) / w$ and its inverse $x = m + s\,B(w z)$.

    Made by `fit_projection`. Both ways are written for one state: use `jax.vmap` for many, and
    gradients go through. `project_rows` and `lift_rows` do the same for numpy arrays of any
    length.

    Args:
        mean: Of the states.
        scale: What each coordinate is divided by; ones where no scale was asked for.
        basis: Orthonormal directions, the one of largest variance first, each with its largest
            entry positive. None keeps the coordinates themselves.
        width: What each component is divided by: its standard deviation if whitened, else one.
        variance: Of each component of the scaled states, before whitening.
        fit: Where it comes from; `fit.kept` is the share of the variance that is kept.
    """

    mean: Float[Array, " dim"]
    scale: Float[Array, " dim"]
    basis: Float[Array, "dim kept"] | None
    width: Component
    variance: Component
    fit: Fit = eqx.field(static=True)

    def __check_init__(self) -> None:
        dim, kept = self.mean.shape[-1:], self.width.shape[-1:]
        basis = dim + dim if self.basis is None else self.basis.shape[-2:]
        if self.scale.shape[-1:] != dim or self.variance.shape[-1:] != kept or basis != dim + kept:
            raise ValueError(
                f"`mean` {dim}, `scale` {self.scale.shape}, `basis` {basis}, `width` {kept} and "
                f"`variance` {self.variance.shape} do not agree. Use `fit_projection`."
            )

    @property
    def kept(self) -> float:
        """Share of the total variance that the components hold."""
        return self.fit.kept

    def project(self, x: State) -> Component:
        """The components of a state."""
        x = jnp.asarray(x)
        dtype = max(x.dtype, self.mean.dtype, key=lambda one: one.itemsize)
        return _components(jax.tree.map(lambda a: a.astype(dtype), self), x.astype(dtype), _product)

    def lift(self, z: Component) -> State:
        """The state that has these components, and none beside them."""
        z = jnp.asarray(z)
        dtype = max(z.dtype, self.mean.dtype, key=lambda one: one.itemsize)
        return _state(jax.tree.map(lambda a: a.astype(dtype), self), z.astype(dtype), _product)

    def project_rows(self, states: Float[np.ndarray, "time dim"]) -> Float[np.ndarray, "time kept"]:
        """The components of many states, a few thousand at a time."""
        return _by_blocks(_components, self, states, len(self.width))

    def lift_rows(
        self, components: Float[np.ndarray, "time kept"]
    ) -> Float[np.ndarray, "time dim"]:
        """The states that have these components, likewise."""
        return _by_blocks(_state, self, components, len(self.mean))


def save_projection(store: Store, name: str, projection: Projection) -> Path:
    """Keeps a projection beside the data that it was fitted on, under a plain name.

    One of the same name is replaced.
    """
    path = _path(store, name)
    _refuse_foreign(store, f"`projection` ({shown(name)})", projection.fit)
    with trouble(path.parent):
        write_projection(path, projection)
    return path


def load_projection(store: Store, name: str) -> Projection:
    """The projection that was saved under this name.

    Raises:
        BadArgument: There is none, it is damaged, or it was fitted on other states than these.
    """
    path = _path(store, name)
    if not path.is_file():
        there = ", ".join(projections(store)) or "none"
        raise BadArgument(
            f"`name` is {shown(name)}. The projections in {store.folder} are: {there}. Fit one "
            "with `fit_projection`, and keep it with `save_projection`."
        )
    try:
        projection = read_projection(path)
    except BadArgument as error:
        raise BadArgument(f"{error}. Fit and save it again.") from None
    _refuse_foreign(store, str(path), projection.fit)
    return projection


def write_projection(path: Path, projection: Projection) -> None:
    """Writes a projection to a file, whole or not at all, with the digest of what is in it."""
    arrays = {k: np.asarray(x) for k, x in _named(projection).items() if x is not None}
    fit = projection.fit._asdict() | {"layers": list(projection.fit.layers)}
    write_atomic(path, sealed(arrays, fit))


def read_projection(path: Path) -> Projection:
    """The projection in a file, whatever store it was fitted on.

    Raises:
        BadArgument: What is wrong with it, without a word of what to do.
    """
    arrays, notes = unsealed(path)
    try:
        fit = Fit(**notes | {"layers": tuple(notes["layers"])})
        whole: dict[str, Any] = {"basis": None} | {k: jnp.asarray(x) for k, x in arrays.items()}
        return Projection(**whole, fit=fit)
    except (ValueError, KeyError, TypeError) as error:
        raise BadArgument(f"{path} cannot be used: {brief(error, 200)}") from None


def projections(store: Store) -> tuple[str, ...]:
    """The names under which projections were saved beside a store."""
    files = (store.folder / FOLDER).glob(f"*{SUFFIX}")
    return tuple(sorted(n for file in files if NAME.fullmatch(n := file.name[: -len(SUFFIX)])))


def _components(p: Projection, x: Any, product: Callable) -> Any:
    z = (x - p.mean) / p.scale
    return (z if p.basis is None else product(z, p.basis)) / p.width


def _state(p: Projection, z: Any, product: Callable) -> Any:
    z = z * p.width
    return p.mean + p.scale * (z if p.basis is None else product(z, p.basis.T))


def _product(a: Float[Array, " in"], b: Float[Array, "in out"]) -> Float[Array, " out"]:
    return jnp.matmul(a, b, precision="highest")  # accelerators would take 10 bits of each factor


def _by_blocks(
    what: Callable, p: Projection, rows: Float[np.ndarray, "time _"], dim: int
) -> Float[np.ndarray, "time _"]:
    dtype = np.promote_types(rows.dtype, p.mean.dtype)
    p = jax.tree.map(lambda a: np.asarray(a, dtype), p)
    out = np.empty((len(rows), dim), dtype)
    size = block_steps(p.mean.size)
    for k in range(0, len(rows), size):
        out[k : k + size] = what(p, rows[k : k + size].astype(dtype), np.matmul)
    return out


def _named(p: Projection) -> dict[str, Any]:
    return {name: getattr(p, name) for name in ("mean", "scale", "basis", "width", "variance")}


def _path(store: Store, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise BadArgument(
            f"`name` is {shown(name)}. Use up to 100 letters, digits, `_`, `-` and `.`, the first "
            "of them a letter, a digit or `_`."
        )
    return store.folder / FOLDER / f"{name}{SUFFIX}"


def _refuse_foreign(store: Store, what: str, fit: Fit) -> None:
    if fit.digest != store.digest:
        raise BadArgument(
            f"{what} was fitted on other states than those in {store.folder}: the store was "
            "continued or made anew since, or another one was meant. Fit it again with "
            "`fit_projection`, or open the store that it was fitted on."
        )
