r"""Directions along which a cloud of points is least Gaussian: where mixtures hide few parts of.

Of points z with covariance one, $u \leftarrow E[z\,(u\cdot z)^3] - 3u$ climbs the excess kurtosis
of $u\cdot z$, and $u \leftarrow E[z\,(u\cdot z)^2]$ its skewness (Hyvarinen's fixed points).
"""

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "point dim"]
Directions = Float[np.ndarray, "dim direction"]

STARTS = 48  # random ones, beside the axes
ROUGH = 4096  # points that all starts climb on
CLIMB, POLISH = 10, 5  # steps on those, and on all points
FAR = 4.0  # standard deviations; no point counts as farther
ALIKE = 0.9  # of two directions with a larger cosine one is kept


def whitened(z: Points) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim kept"]]:
    """The mean, and what points less it are multiplied by for a covariance of one."""
    mean = z.mean(axis=0)
    w, v = np.linalg.eigh((z - mean).T @ (z - mean) / max(len(z), 1))
    seen = w > 1e-6 * max(w[-1], 1e-300)  # a direction without spread is none
    return mean, v[:, seen] / np.sqrt(w[seen])


def directions(
    z: Points, rng: np.random.Generator, *, kurtosis: int, skewness: int = 0
) -> Directions:
    """Columns u: points times u have variance one and large kurtosis, or skewness, in size."""
    mean, white = whitened(z)
    points = (z - mean) @ white
    dim = points.shape[1]
    some = points[rng.permutation(len(points))[:ROUGH]]
    axes = np.linalg.pinv(white)  # what the components of z are
    starts = _unit(np.column_stack([axes, rng.standard_normal((dim, STARTS))]))
    found: list[np.ndarray] = []
    for power, number in ((3, kurtosis), (2, skewness)):
        if number == 0:
            continue
        u = starts
        for _ in range(CLIMB):
            u, _ = _climbed(some, u, power)
        size = np.abs(_climbed(some, u, power)[1])
        kept: list[np.ndarray] = []
        for i in np.argsort(-size):
            if len(kept) < number and all(abs(u[:, i] @ v) < ALIKE for v in [*kept, *found]):
                kept.append(u[:, i])
        if not kept:
            continue
        best = np.column_stack(kept)
        for _ in range(POLISH):
            best, _ = _climbed(points, best, power)
        found += list(best.T)
    return white @ np.column_stack(found) if found else np.zeros((len(white), 0))


def _climbed(
    z: Points, u: Directions, power: int
) -> tuple[Directions, Float[np.ndarray, " direction"]]:
    """One step of every direction, and the cumulant it climbs, before the step."""
    s = np.clip(z @ u, -FAR, FAR)
    s2 = s * s
    if power == 3:
        step = z.T @ (s2 * s) / len(z) - 3 * np.mean(s2, axis=0) * u
        return _unit(step), np.mean(s2 * s2, axis=0) - 3 * np.mean(s2, axis=0) ** 2
    return _unit(z.T @ s2 / len(z)), np.mean(s2 * s, axis=0)


def _unit(u: Directions) -> Directions:
    size = np.linalg.norm(u, axis=0, keepdims=True)
    return u / np.where(size > 0, size, 1.0)
