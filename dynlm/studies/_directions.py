"""What is written at each place: predicted steps, and others of equal length to compare with."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int

from ..store import Projection
from ..trajectory import Trajectory

Steps = Float[np.ndarray, "row origin kept"]


@final
class Places(NamedTuple):
    """Tokens of each row that are written at; `real` is false where a row has fewer."""

    at: Int[np.ndarray, "row origin"]
    real: Bool[np.ndarray, "row origin"]


@final
class Training(NamedTuple):
    """What training states say of a step that no state has a part in."""

    mean: Float[np.ndarray, " kept"]
    step: Float[np.ndarray, " kept"]
    root: Float[np.ndarray, "kept kept"]


def places_of(lengths: Int[np.ndarray, " row"], origins: int, burn: int) -> Places:
    """Evenly spread tokens from `burn` to the last but one, each once."""
    room = lengths - 1 - burn  # tokens that another one follows
    j = np.arange(origins)[None]
    at = burn + j * (room[:, None] - 1) // max(origins - 1, 1)
    new = np.concatenate([np.ones((len(room), 1), bool), at[:, 1:] > at[:, :-1]], axis=1)
    real = new & (room[:, None] > 0)
    return Places(np.where(real, at, 0).astype(np.int32), real)


def training_of(train: Trajectory, burn: int) -> Training:
    """Mean state, mean step, and a root of the covariance of steps."""
    ys, mask = np.asarray(train.ys, float), np.asarray(train.mask).copy()
    both = mask[:, 1:] & mask[:, :-1]
    both[:, :burn] = False
    mask[:, :burn] = False
    steps = (ys[:, 1:] - ys[:, :-1])[both]
    w, v = np.linalg.eigh(np.atleast_2d(np.cov(steps.T)))
    return Training(ys[mask].mean(axis=0), steps.mean(axis=0), v * np.sqrt(np.maximum(w, 0)))


def directions(
    predicted: dict[str, Steps],
    z: Steps,
    true: Steps,
    raw_true: Float[np.ndarray, "row origin width"],
    known: Training,
    projection: Projection,
    *,
    size: float,
    randoms: int,
    seed: int,
) -> tuple[dict[str, list[int]], Float[np.ndarray, "row origin direction width"]]:
    """All steps in the units of the model's states, and which of them each name stands for.

    All but "true step, whole" have `size` times the length of the first predicted step.
    """
    rng = np.random.default_rng(seed)
    steps = {name: [x] for name, x in predicted.items()}
    steps["to the mean"] = [known.mean - z]
    steps["mean step"] = [np.broadcast_to(known.step, z.shape)]
    steps["covariance"] = [rng.standard_normal(z.shape) @ known.root.T for _ in range(randoms)]
    steps["true step"] = [true]
    at, raw = {}, []
    for name, several in steps.items():
        at[name] = list(range(len(raw), len(raw) + len(several)))
        raw += [_raw(projection, z, x) for x in several]
    at["random"] = list(range(len(raw), len(raw) + randoms))
    for _ in range(randoms):
        raw.append(_spanned(projection, rng.standard_normal(z.shape)))
    length = size * np.linalg.norm(raw[0], axis=-1, keepdims=True)
    scaled = [length * _unit(x) for x in raw]
    at["true step, whole"] = [len(scaled)]
    return at, np.stack([*scaled, raw_true], axis=2).astype(np.float32)


def _unit(x: Any) -> Any:
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(norm > 0, x / np.where(norm > 0, norm, 1), 0)


def _raw(projection: Projection, z: Steps, step: Steps) -> Float[np.ndarray, "row origin width"]:
    """The change of the state when its components change by a step."""
    flat = np.asarray(step, float).reshape(-1, z.shape[-1])
    moved = projection.lift_rows(flat) - projection.lift_rows(np.zeros_like(flat[:1]))
    return moved.reshape(*z.shape[:-1], -1)


def _spanned(projection: Projection, g: Steps) -> Float[np.ndarray, "row origin width"]:
    """A direction alike in all directions that the projection keeps."""
    basis = projection.basis
    x = g if basis is None else g @ np.asarray(basis, float).T
    return x * np.asarray(projection.scale, float)
