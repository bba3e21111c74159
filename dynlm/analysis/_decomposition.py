"""The drift as a gradient and what is left of it: how much of it an energy could explain."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int

from .._io import BadArgument
from ..sde import SDE
from ..stats import complement
from ..trajectory import Trajectory
from ._states import Rows, Transitions, check_sde, described, fields, pooled, transitions
from .findings import Finding, stated, withheld

LARGEST = 64  # dimensions, of which the quadratic energies alone have 2,080
BLOCK = 4096  # states that are worked on at a time
RIDGES = (1e-7, 1e-4, 1e-1, 100.0)  # of features of unit mean square

Square = Float[np.ndarray, "dim dim"]
Features = Float[np.ndarray, "state feature"]


@final
class Decomposition(NamedTuple):
    """The drift at held-out states and its best gradient field there.

    Args:
        ys: Held-out states.
        drift: The drift there.
        gradient: The gradient field nearest to it among those tried.
        free: The nearest field of the same features that need not be a gradient.
        symmetric: The symmetric part of the linear regression of the drift on the state.
        antisymmetric: The antisymmetric part.
        findings: What follows.
    """

    ys: Rows
    drift: Rows
    gradient: Rows
    free: Rows
    symmetric: Square
    antisymmetric: Square
    findings: tuple[Finding, ...]


@final
class _Basis(NamedTuple):
    r"""Functions of one direction each: $\phi_j(y) = h_j(w_j\cdot y)$, $\nabla\phi_j = h_j' w_j$.

    Args:
        slopes: $h_j'$ of states, one column each.
        directions: $w_j$, one row each, of unit length.
        quadratic: How many of the first are of linear and quadratic functions.
    """

    slopes: Callable[[Rows], Features]
    directions: Float[np.ndarray, "feature dim"]
    quadratic: int


def decompose(
    sde: SDE,
    paths: Trajectory,
    docs: Any,
    *,
    burn: int = 1,
    features: int = 96,
    seed: int = 0,
) -> Decomposition:
    r"""The share of the drift that a gradient field explains, and what only a rotation can.

    $$1 - \frac{E|f - \nabla\phi|^2}{E|f|^2}, \qquad
    \phi(y) = b\cdot y + \tfrac12\,y^\top Q\,y + \sum_j a_j\cos(w_j\cdot y + c_j)$$

    The energy $\phi$ is fitted by least squares on half of the documents, with the penalty that
    does best between the halves of that half, and measured on the other documents. Beside it
    stands a field of slopes with free directions: what it explains and no gradient does is
    rotation. What neither explains is out of reach of these features, and is called nothing.

    Args:
        features: How many cosines of the field with free directions; the energy has twice as many,
            for it has fewer numbers to choose.
        seed: Of the halves, of the cosines, and of the resampling of documents.
    """
    at = transitions(paths, docs, burn)
    dim = at.ys.shape[1]
    check_sde(sde, dim)
    if dim > LARGEST:
        raise BadArgument(
            f"The states have {dim} dimensions; `decompose` takes {LARGEST} at most. Fit the SDE "
            "to projected states."
        )
    if features < 1:
        raise BadArgument(f"`features` is {features}. Use 1 or more; 96 is usual.")
    f, _ = fields(sde, at.ts, at.ys)
    if not np.isfinite(f).all() or not (f**2).sum() > 0:
        raise BadArgument("The drift is zero at all states, or not finite. Fit it again.")
    part = _parts(at, seed)
    train = part < 2
    y = at.ys.astype(float)
    basis = _basis(y[train], 2 * features, np.random.default_rng([seed, 1]))
    gradients = _gradients(basis, y, f, part)
    frees = _frees(basis, y, f, part)
    held = at._replace(**{k: getattr(at, k)[~train] for k in ("row", "ts", "ys", "dt", "dy")})
    free = frees["free"]
    matrix = frees["matrix"]
    even, odd = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    found = _findings(held, f[~train], gradients, frees, seed)
    found.append(_linear(odd, matrix))
    return Decomposition(y[~train], f[~train], gradients["gradient"], free, even, odd, tuple(found))


def _findings(
    held: Transitions, f: Rows, gradients: dict[str, Any], frees: dict[str, Any], seed: int
) -> list[Finding]:
    fits = (gradients["gradient"], frees["free"], gradients["quadratic"], frees["linear"])
    lost = np.stack([((f - g) ** 2).sum(axis=1) for g in fits], axis=1)
    gap = (lost[:, 0] - lost[:, 1])[:, None]
    size = (f**2).sum(axis=1, keepdims=True)
    columns = np.concatenate([lost, gap], axis=1)
    *shares, turned = pooled(held, columns, size, seed=seed)
    gradient, free, quadratic, linear = map(complement, shares)
    return [
        described("gradient share of the drift", gradient, 1.0, of_null="of a gradient"),
        described(
            "share of the drift within reach of the features",
            free,
            note="What is beyond is called neither gradient nor rotation",
        ),
        described(
            "rotational share of the drift",
            turned,
            0.0,
            of_null="of a gradient",
            note="A hundredth or two may be a gradient too rough for the features",
        ),
        described("share of the drift that a quadratic energy explains", quadratic),
        described("share of the drift that is linear", linear),
    ]


def _linear(odd: Square, matrix: Square) -> Finding:
    total, name = float((matrix**2).sum()), "antisymmetric share of the linear part"
    if not total > 0:
        return withheld(name, "the drift has no linear part")
    return stated(name, float((odd**2).sum()) / total, 0.0, of_null="of a gradient")


def _parts(at: Transitions, seed: int) -> Int[np.ndarray, " state"]:
    """0 and 1: the two halves of what is fitted; 2: held out. Documents are drawn at random."""
    names, which = np.unique(at.docs[at.row], return_inverse=True)
    if len(names) < 2:
        raise BadArgument(
            "All transitions are of one document. Pass the paths of two or more: one half is "
            "fitted to, the other is held out."
        )
    place = np.random.default_rng([seed, 0]).permutation(len(names))[which]
    fitted = len(names) // 2
    half = place % 2 if fitted > 1 else np.arange(len(place)) % 2
    return np.where(place < fitted, half, 2)


def _basis(y: Rows, features: int, rng: np.random.Generator) -> _Basis:
    mean, dim = y.mean(axis=0), y.shape[1]
    values, vectors = np.linalg.eigh(np.cov(y.T).reshape(dim, dim))
    spread = np.sqrt(np.maximum(values, 1e-12 * max(float(values[-1]), 1e-300)))
    scale = math.sqrt(float((spread**2).mean()))
    pairs = np.array([(i, j) for i in range(dim) for j in range(i + 1)])
    squares = np.zeros((len(pairs), dim))
    squares[np.arange(len(pairs)), pairs[:, 0]] = 1.0
    squares[np.arange(len(pairs)), pairs[:, 1]] = 1.0
    lengths = math.sqrt(dim) * np.array([0.5, 1.0, 2.0])[np.arange(features) % 3]
    waves = (rng.standard_normal((features, dim)) / lengths[:, None] / spread) @ vectors.T
    phases = rng.uniform(0, 2 * np.pi, features)
    directions = np.concatenate([np.eye(dim), squares, waves])

    def slopes(y: Rows) -> Features:
        x = y - mean
        bent = np.sin(x @ waves.T + phases)
        return np.concatenate([np.ones_like(x), x @ squares.T / scale, bent], axis=1)

    length = np.linalg.norm(directions, axis=1, keepdims=True)
    return _Basis(slopes, directions / np.maximum(length, 1e-300), dim + len(squares))


def _gradients(b: _Basis, y: Rows, f: Rows, part: Int[np.ndarray, " state"]) -> dict[str, Any]:
    """Least squares; the Gram matrix of gradients is a product, entry by entry, of two."""
    number, w = len(b.directions), b.directions
    gram, right = np.zeros((2, number, number)), np.zeros((2, number, 1))
    for k in (0, 1):
        for some in _blocks(part == k):
            c = b.slopes(y[some])
            gram[k] += c.T @ c
            right[k, :, 0] += (c * (f[some] @ w.T)).sum(axis=0)
    gram *= w @ w.T
    found = {}
    for name, count in (("quadratic", b.quadratic), ("gradient", number)):
        a = _solved(gram[:, :count, :count], right[:, :count])[:, 0]
        held = _blocks(part == 2)
        found[name] = np.concatenate([(b.slopes(y[s])[:, :count] * a) @ w[:count] for s in held])
    return found


def _frees(b: _Basis, y: Rows, f: Rows, part: Int[np.ndarray, " state"]) -> dict[str, Any]:
    """Half of the slopes, with a free direction each, and the linear ones alone."""
    used = (b.quadratic + len(b.directions)) // 2
    dim, train = y.shape[1], part < 2
    mean, scale = y[train].mean(axis=0), y[train].std() + 1e-300

    def columns(y: Rows) -> Features:
        x = (y - mean) / scale
        return np.concatenate([np.ones((len(x), 1)), x, b.slopes(y)[:, b.quadratic : used]], axis=1)

    number = 1 + dim + used - b.quadratic
    gram, right = np.zeros((2, number, number)), np.zeros((2, number, dim))
    for k in (0, 1):
        for some in _blocks(part == k):
            c = columns(y[some])
            gram[k] += c.T @ c
            right[k] += c.T @ f[some]
    found: dict[str, Any] = {}
    for name, count in (("linear", 1 + dim), ("free", number)):
        a = _solved(gram[:, :count, :count], right[:, :count])
        held = _blocks(part == 2)
        found[name] = np.concatenate([columns(y[some])[:, :count] @ a for some in held])
        if name == "linear":
            found["matrix"] = a[1:].T / scale
    return found


def _solved(gram: Float[np.ndarray, "2 n n"], right: Float[np.ndarray, "2 n out"]) -> Any:
    """With the penalty under which each half does best on the other; features are scaled first."""
    size = np.sqrt(np.maximum(np.diagonal(gram.sum(axis=0)), 1e-300))
    g, r = gram / size / size[:, None], right / size[:, None]
    unit = np.eye(len(size))

    def lost(ridge: float) -> float:
        total = 0.0
        for k in (0, 1):
            a = np.linalg.solve(g[k] + ridge / 2 * unit, r[k])
            total += float((a * (g[1 - k] @ a - 2 * r[1 - k])).sum())
        return total

    best = min(RIDGES, key=lost)
    return np.linalg.solve(g.sum(axis=0) + best * unit, r.sum(axis=0)) / size[:, None]


def _blocks(chosen: Bool[np.ndarray, " state"]) -> list[Int[np.ndarray, " some"]]:
    which = np.flatnonzero(chosen)
    return [which[i : i + BLOCK] for i in range(0, len(which), BLOCK)]
