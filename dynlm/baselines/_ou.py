"""`ou`: the Ornstein-Uhlenbeck process that belongs to a VAR(1), where there is one."""

from dataclasses import dataclass
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .. import diffusions, drifts
from .._factors import cholesky
from .._io import BadArgument
from .._types import State, Time
from ..laws import Mixture
from ..predict._embedding import Embedding, covariance_after, embeddable, flow, measured
from ..predict._predictor import AbstractPredictor
from ..sde import SDE
from ..stats import Interval, student
from ..trajectory import Trajectory
from ._linear import one_gaussian
from ._pairs import (
    Moments,
    Sums,
    added,
    blocks,
    check_paths,
    documents_of,
    floating,
    folds_of,
    moments,
    on_device,
    origin_of,
    root_of,
    sums,
)

Matrix = Float[Array, "dim dim"]

EVEN = 1e-3  # gaps differ by no more than this share, or they are uneven
ROUNDED = 0.1  # share of a gap that rounding of its times may take, and it can still be told
SAME = 1e-4  # a gap that differs by less from the data's step is that step
LONGER = 8  # doublings beyond the data's step: gaps to 256 steps are exact
TERMS = 8  # of the Taylor series over the shortest step
GROUPS = 20  # of documents, that an interval is made of
LEVEL = 0.95  # of that interval


@final
@dataclass(frozen=True, repr=False)
class NotEmbeddable:
    """What stands in place of a process that does not exist: false, and printed as "none (...)"."""

    reason: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"none ({self.reason})"

    def __repr__(self) -> str:
        return str(self)


@final
class OrnsteinUhlenbeck(AbstractPredictor):
    r"""$dy = (A y + c)\,dt + S^{1/2}\,dW$, by its exact transitions over any gap.

    Args:
        matrix: $A$.
        bias: $c$.
        noise: $S$.
        step: The gap at which it was fitted.
        at_step: $F$, $b$ and the Cholesky factor of $Q$ over `step`.
        doublings: In how many doublings a gap is reached from a short one.
    """

    matrix: Matrix
    bias: State
    noise: Matrix
    step: Float[Array, ""]
    at_step: tuple[Matrix, State, Matrix]
    doublings: int = eqx.field(static=True)

    def sde(self) -> SDE:
        """The process as an SDE: a linear drift and a constant diffusion."""
        root = root_of(np.asarray(self.noise, float))
        return SDE(
            drifts.Linear(self.matrix, self.bias),
            diffusions.Constant(jnp.asarray(root, self.noise.dtype)),
        )

    def start(self) -> tuple[Array, State]:
        return jnp.zeros_like(self.step), jnp.zeros_like(self.bias)

    def see(self, carry: tuple[Array, State], t: Time, y: State) -> tuple[Array, State]:
        return jnp.asarray(t, self.step.dtype), y.astype(self.bias.dtype)

    def law(self, carry: tuple[Array, State], t: Time) -> Mixture:
        before, y = carry
        # Equal times would leave a covariance of zero, which has no Cholesky factor.
        dt = jnp.maximum(jnp.asarray(t, self.step.dtype) - before, 1e-6 * self.step)
        same = jnp.abs(dt - self.step) <= SAME * self.step
        dt = jnp.where(same, self.step, dt)
        f, b, q = self.transition(dt)
        # A factor made in float32 fails where directions have very unequal noise.
        eps = 4 * jnp.finfo(q.dtype).eps * jnp.trace(q)
        root = cholesky(q + eps * jnp.eye(len(q), dtype=q.dtype))
        f, b, root = (jnp.where(same, x, z) for x, z in zip(self.at_step, (f, b, root)))
        return one_gaussian(f @ y + b, root)

    def transition(self, dt: Float[Array, ""]) -> tuple[Matrix, State, Matrix]:
        r"""$F = e^{A\,dt}$, $b = \int_0^{dt} e^{As} c\,ds$ and $Q$, by doubling a short gap.

        $F - 1$ is what is doubled, so that short gaps keep their digits; and $Q$ stays a sum of
        covariances.
        """
        a, one = self.matrix, jnp.eye(len(self.bias), dtype=self.bias.dtype)
        h = dt * 0.5**self.doublings
        g, q, term = one, self.noise, self.noise
        for j in range(TERMS, 1, -1):
            g = one + (h / j) * (a @ g)
        for j in range(2, TERMS + 1):
            term = (h / j) * (a @ term + term @ a.T)
            q = q + term
        g, q = h * g, h * q
        e, b = a @ g, g @ self.bias

        def double(ebq: tuple[Matrix, State, Matrix], _: None) -> tuple[Any, None]:
            e, b, q = ebq
            eq = e @ q
            return (2 * e + e @ e, 2 * b + e @ b, 2 * q + eq + eq.T + eq @ e.T), None

        (e, b, q), _ = lax.scan(double, (e, b, q), length=self.doublings)
        return one + e, b, (q + q.T) / 2


def ou(paths: Trajectory, *, docs: Any = None, burn: int = 1) -> OrnsteinUhlenbeck | NotEmbeddable:
    r"""The Ornstein-Uhlenbeck process whose transition over the data's step is the VAR(1).

    It has the likelihood of the VAR(1) on training data, so it is the fit of greatest likelihood
    among all such processes. Where the VAR(1) belongs to none (see `embedding`), or gaps are uneven
    so that there is no VAR(1) to go by, the answer is a `NotEmbeddable`. Where its noise has
    eigenvalues below zero by no more than chance, they are set to zero.

    Args:
        paths: Training rows, evenly spaced.
        docs: The document of each row; by default each row is one.
        burn: Transitions out of a row's first `burn` states are left out.
    """
    found = embedding(paths, docs=docs, burn=burn)
    if not found.ok or found.drift_matrix is None or found.noise_covariance is None:
        return NotEmbeddable(found.reason)
    m = moments(paths, burn)
    dt, _ = _step_of(paths, burn)
    a, s = found.drift_matrix, found.noise_covariance
    f, q = _law_of(m)
    w, v = np.linalg.eigh(s)
    if w[0] < 0:
        s = (v * np.maximum(w, 0)) @ v.T
        q = covariance_after(a, s, dt)
    return _process(a, s, f, q, m.y - f @ m.x, dt, paths)


def embedding(paths: Trajectory, *, docs: Any = None, burn: int = 1) -> Embedding:
    r"""Whether the VAR(1) of these rows is an Ornstein-Uhlenbeck process seen at their step.

    `dynlm.predict.embeddable` of the fitted law, with its error. Where the true noise is of low
    rank, an estimate of it has a negative eigenvalue more often than not, so that it is refused
    only for one that is negative beyond chance. The direction of the least noise is chosen on half
    of the documents, and the noise along it is measured on the others: where it was chosen it
    is too low. Its interval, by leaving out some of the documents at a time, has to lie below zero.
    Of fewer than four documents stretches are taken for documents.

    Args:
        paths: Training rows, evenly spaced.
        docs: The document of each row; by default each row is one.
        burn: Transitions out of a row's first `burn` states are left out.
    """
    check_paths(paths, burn)
    dt, reason = _step_of(paths, burn)
    m = moments(paths, burn)
    # Least squares in float64: an estimate that went through float32 may lose its embedding.
    w = np.linalg.eigvalsh(m.xx)
    if w[0] <= 1e-10 * max(w[-1], 1e-300):
        reason = reason or "the states do not span all their dimensions"
    if reason is not None:
        return Embedding(False, reason, None, None)
    found = embeddable(*_law_of(m), dt, tolerance=0.0)
    if found.ok or found.noise_covariance is None:
        return found
    size = float(np.abs(np.linalg.eigvalsh(found.noise_covariance)).max())
    return measured(found, _least_noise(paths, docs, burn, dt, size))


def _step_of(paths: Trajectory, burn: int) -> tuple[float, str | None]:
    """The gap of the rows, and what is wrong with it."""
    gaps = np.concatenate([block.dt for block in blocks(paths, burn)])
    dt = float(gaps.mean())
    if not dt > 0:
        raise BadArgument("`paths` has no two states at different times. Give times that increase.")
    off, ts = np.abs(gaps - dt).max(), np.asarray(paths.ts)
    last = float(np.abs(ts).max())
    rounding = float(np.finfo(ts.dtype).eps) * last
    if off <= EVEN * dt or off <= EVEN * dt + rounding <= ROUNDED * dt:
        return dt, None
    if off <= EVEN * dt + rounding:
        return dt, (
            f"whether gaps of {dt:.3g} are even cannot be told of times up to {last:.3g} in "
            f"{ts.dtype}: count the times of each row from its start"
        )
    return dt, (
        f"gaps are uneven, from {gaps.min():.3g} to {gaps.max():.3g}: bring the states to even "
        "times first"
    )


def _law_of(m: Moments) -> tuple[np.ndarray, np.ndarray]:
    """$F$ and $Q$ by least squares."""
    f = np.linalg.solve(m.xx, m.xy).T
    return f, (m.yy - f @ m.xy) / m.count


def _least_noise(
    paths: Trajectory, docs: Any, burn: int, dt: float, size: float
) -> Interval | None:
    r"""The noise, over `size`, along a direction of least noise of other documents.

    Of $K$ groups of documents each leaves out one in turn, and $K S - (K - 1) S_{-k}$, which is
    that group's part in $S$ to first order, are as independent as the groups.
    """
    fold = folds_of(paths, docs, burn, 2 * GROUPS, least=4)
    origin = origin_of(paths)
    parts = [sums(paths, burn, 1, fold == k, origin) for k in range(int(fold.max()) + 1)]

    def noise(some: list[Sums]) -> Any:
        law = _law_of(added(some).moments(paths.ys.shape[2]))
        return embeddable(*law, dt).noise_covariance

    choosing, rest = parts[::2], parts[1::2]
    number = len(rest)
    if number < 2:
        return None
    left = [rest[:k] + rest[k + 1 :] for k in range(number)]
    try:
        first, whole, *others = (noise(some) for some in (choosing, rest, *left))
    except np.linalg.LinAlgError:
        return None
    if any(s is None for s in (first, whole, *others)):
        return None
    v = np.linalg.eigh(first)[1][:, 0]
    values = np.array([v @ (number * whole - (number - 1) * s) @ v for s in others]) / size
    value, error = float(values.mean()), float(values.std(ddof=1)) / number**0.5
    wide = student((1 + LEVEL) / 2, number - 1) * error
    used = len(np.unique(documents_of(paths, docs)[((fold >= 0) & (fold % 2 == 1)).any(axis=1)]))
    return Interval(value, value - wide, value + wide, LEVEL, used)


def _process(
    a: np.ndarray,
    s: np.ndarray,
    f: np.ndarray,
    q: np.ndarray,
    b: np.ndarray,
    dt: float,
    paths: Trajectory,
) -> OrnsteinUhlenbeck:
    c = np.linalg.solve(flow(a, dt)[1], b)
    size = np.abs(a).sum(axis=0).max() * dt
    doublings = max(0, int(np.ceil(np.log2(max(size, 1e-300) / 0.25)))) + LONGER
    dtype = floating(paths)
    at_step = (on_device(f, dtype), on_device(b, dtype), on_device(root_of(q), dtype))
    return OrnsteinUhlenbeck(
        on_device(a, dtype),
        on_device(c, dtype),
        on_device(s, dtype),
        on_device(np.asarray(dt), dtype),
        at_step,
        doublings,
    )
