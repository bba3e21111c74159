"""Whether a fitted one-step law belongs to a process in continuous time."""

from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import ArrayLike, Float

from .._io import BadArgument
from ..stats import Interval

Square = Float[np.ndarray, "dim dim"]
Vector = Float[np.ndarray, " dim"]

ROUNDING = 1e-10  # what a float64 computation of a noise covariance may lose, relatively
ZERO = 1e-9  # an eigenvalue of the one-step matrix, as a share of the largest, that counts as zero
DEFECTIVE = 1e7  # condition of the eigenvectors from which they are not used
MARGIN = 0.1  # how far below zero, as a share of the largest, the interval of a noise may reach
SMALL = 40  # dimension up to which a matrix without eigenvectors can be served


@final
class Embedding(NamedTuple):
    r"""Whether $y' = F y + N(0, Q)$ is $dy = A y\,dt + N(0, S\,dt)$ seen at a step.

    Args:
        ok: Whether it is.
        reason: Why, in a sentence.
        drift_matrix: $A$, or None where there is no real one.
        noise_covariance: $S$, also where it is no covariance, or None.
        least: The least eigenvalue of $S$, as a share of the one of largest modulus, or None.
        interval: What `dynlm.baselines.embedding` measured of the least noise, in the same units.
    """

    ok: bool
    reason: str
    drift_matrix: Square | None
    noise_covariance: Square | None
    least: float | None = None
    interval: Interval | None = None


def embeddable(
    f: ArrayLike, q: ArrayLike, dt: float = 1.0, *, tolerance: float = 1e-3
) -> Embedding:
    r"""Whether the one-step law $y' \sim N(F y + b, Q)$ is that of an Ornstein-Uhlenbeck process.

    It is if $F = e^{A\,dt}$ for the real principal logarithm $A\,dt$, and the $S$ with
    $Q = \int_0^{dt} e^{As}\,S\,e^{A^\top s}\,ds$ is positive semi-definite. Where it is not, no
    linear SDE has this one-step law, and nothing may be said about rates, relaxation times or
    what happens between two steps. An estimate has errors: `least` says how far it is from it.

    Args:
        f: $F$.
        q: $Q$.
        dt: The step.
        tolerance: An $S$ whose least eigenvalue is negative by less than this share of the
            largest is refused too, but the reason says how little is missing.
    """
    f, q = _checked(f, q, dt)
    values = np.linalg.eigvals(f)
    reason = _no_logarithm(values)
    if reason is not None:
        return Embedding(False, reason, None, None)
    a = logarithm(f) / dt
    back, _ = flow(a, dt)
    if not np.allclose(back, f, rtol=0, atol=1e-6 * np.abs(f).max()):
        reason = "the logarithm of the one-step matrix cannot be computed: it is near to singular"
        return Embedding(False, reason, None, None)
    s = _noise(a, q, dt)
    if s is None:
        reason = (
            f"the one-step matrix has no basis of eigenvectors, and dimension {len(f)} is too "
            "large to do without one"
        )
        return Embedding(False, reason, a, None)
    w = np.linalg.eigvalsh(s)
    size = max(float(np.abs(w).max()), np.finfo(float).tiny)
    least = float(w[0]) / size
    if least >= -ROUNDING:
        return Embedding(True, "a real logarithm and a noise covariance", a, s, least)
    reason = (
        f"the noise covariance has a negative eigenvalue, {w[0]:.3g}, which is {-least:.2g} of the "
        f"largest ({int(np.sum(w < -ROUNDING * size))} of {len(w)} are negative)"
    )
    if least >= -tolerance:
        reason += f"; that little, within {tolerance:g}, may be an error of estimation"
    return Embedding(False, reason, a, s, least)


def measured(found: Embedding, interval: Interval | None) -> Embedding:
    """What is said of a noise with a negative eigenvalue once its error is known.

    Args:
        found: By `embeddable`, of an estimate.
        interval: The noise along some direction that was not chosen by the same data, in the units
            of `least`; None where it could not be measured.
    """
    if interval is None:
        reason = f"{found.reason}; its error could not be measured on so few states"
        return found._replace(reason=reason)
    value, low, high = interval[:3]
    found = found._replace(interval=interval)
    ends = f"{value:.2g} [{low:.2g}, {high:.2g}] of the largest on documents that did not choose it"
    if high < -ROUNDING:
        return found._replace(
            reason=f"{found.reason}; along the direction of the least it is {ends}"
        )
    if low < -MARGIN:
        return found._replace(
            reason=f"it cannot be decided on so few states: the least part of the noise is {ends}"
        )
    reason = f"a real logarithm, and a noise whose least part may be zero: it is {ends}"
    return found._replace(ok=True, reason=reason)


def _checked(f: ArrayLike, q: ArrayLike, dt: float) -> tuple[Square, Square]:
    f, q = np.asarray(f, float), np.asarray(q, float)
    if f.ndim != 2 or f.shape[0] != f.shape[1] or q.shape != f.shape:
        raise BadArgument(
            f"`f` has shape {f.shape} and `q` {q.shape}. Pass two square matrices of one size."
        )
    if not (np.isfinite(f).all() and np.isfinite(q).all()):
        raise BadArgument("`f` or `q` is not finite. Pass a fitted one-step law.")
    if not (np.isfinite(dt) and dt > 0):
        raise BadArgument(f"`dt` is {dt}. Use the step between two states, a positive number.")
    if np.abs(q - q.T).max() > 1e-4 * max(np.abs(q).max(), np.finfo(float).tiny):
        raise BadArgument("`q` is not symmetric. Pass the covariance of the one-step noise.")
    return f, (q + q.T) / 2


def _no_logarithm(values: Any) -> str | None:
    """Why these eigenvalues have no real principal logarithm, if so."""
    size = np.abs(values).max()
    zero = np.abs(values) <= ZERO * size
    if size == 0 or zero.any():
        rank = int(np.sum(~zero))
        return f"the one-step matrix has a zero eigenvalue (rank {rank} of {len(zero)})"
    real = np.abs(values.imag) <= 1e-9 * size
    negative = np.sort(values.real[real & (values.real < 0)])
    if len(negative) == 0:
        return None
    groups = np.split(negative, np.flatnonzero(np.diff(negative) > 1e-6 * size) + 1)
    if all(len(group) % 2 == 0 for group in groups):
        return (
            f"the one-step matrix has paired negative eigenvalues, {negative[0]:.3g}: not by the "
            "principal logarithm, though another logarithm may be real"
        )
    unpaired = next(group for group in groups if len(group) % 2)
    return f"the one-step matrix has an unpaired negative eigenvalue, {unpaired[0]:.3g}"


def logarithm(f: Square) -> Square:
    r"""The principal logarithm of a matrix with no eigenvalue on the negative real axis or at zero.

    Square roots until $F$ is near the identity, then $\log X = 2\,\mathrm{artanh}\,Z$ with
    $Z = (X - 1)(X + 1)^{-1}$; real throughout, and it needs no eigenvectors.
    """
    one, x, halvings = np.eye(len(f)), f, 0
    while np.abs(x - one).sum(axis=0).max() > 0.25 and halvings < 60:
        x, halvings = _root(x), halvings + 1
    z = np.linalg.solve((x + one).T, (x - one).T).T
    power, total = z, z.copy()
    for k in range(3, 30, 2):
        power = power @ z @ z
        total = total + power / k
    return 2.0 ** (halvings + 1) * total


def _root(x: Square) -> Square:
    """The principal square root, by the product form of Denman and Beavers, scaled."""
    m, y, one = x, x, np.eye(len(x))
    for _ in range(50):
        inverse = np.linalg.inv(m)
        scale = float(np.abs(np.linalg.det(m))) ** (-1 / (2 * len(x)))
        scale = scale if np.isfinite(scale) and np.linalg.norm(m - one) > 1e-2 else 1.0
        y = 0.5 * scale * (y @ (one + inverse / scale**2))
        m = 0.5 * (one + 0.5 * (scale**2 * m + inverse / scale**2))
        if np.linalg.norm(m - one) < 1e-14 * len(x):
            break
    return y


def flow(a: Square, dt: float) -> tuple[Square, Square]:
    r"""$e^{A\,dt}$ and $\int_0^{dt} e^{As}\,ds$, by a Taylor series and doubling."""
    size = np.abs(a).sum(axis=0).max() * dt
    k = max(0, int(np.ceil(np.log2(max(size, 1e-300) / 0.25))))
    h, one = dt / 2**k, np.eye(len(a))
    g = one.copy()
    for j in range(14, 1, -1):
        g = one + (a * h / j) @ g
    g = h * g
    e = a @ g  # e^{Ah} - 1, which keeps its digits as it doubles
    for _ in range(k):
        g, e = 2 * g + e @ g, 2 * e + e @ e
    return one + e, g


def covariance_after(a: Square, s: Square, dt: float) -> Square:
    r"""$Q = \int_0^{dt} e^{As}\,S\,e^{A^\top s}\,ds$, by a Taylor series and doubling."""
    size = np.abs(a).sum(axis=0).max() * dt
    k = max(0, int(np.ceil(np.log2(max(size, 1e-300) / 0.25))))
    h = dt / 2**k
    q = term = h * s
    for j in range(2, 15):
        term = (h / j) * (a @ term + term @ a.T)
        q = q + term
    e = flow(a, h)[0]
    for _ in range(k):
        q, e = q + e @ q @ e.T, e @ e
    return (q + q.T) / 2


def _noise(a: Square, q: Square, dt: float) -> Square | None:
    r"""The S with $Q = \int_0^{dt} e^{As}\,S\,e^{A^\top s}\,ds$.

    In a basis of eigenvectors each entry of Q is that of S times
    $(e^{(\mu_i + \bar\mu_j)\,dt} - 1)/(\mu_i + \bar\mu_j)$.
    """
    mu, v = np.linalg.eig(a)
    if np.linalg.cond(v) < DEFECTIVE:
        inverse = np.linalg.inv(v)
        total = mu[:, None] + mu.conj()[None, :]
        near = np.abs(total) * dt < 1e-12
        growth = np.where(near, dt, np.expm1(total * dt) / np.where(near, 1.0, total))
        s = v @ ((inverse @ q @ inverse.conj().T) / growth) @ v.conj().T
        return (s.real + s.real.T) / 2
    if len(a) > SMALL:
        return None
    one = np.eye(len(a))
    _, g = flow(np.kron(a, one) + np.kron(one, a), dt)
    s = np.linalg.solve(g, q.ravel()).reshape(q.shape)
    return (s + s.T) / 2
