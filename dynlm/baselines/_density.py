"""`mixture_density`: the law of the next state as a mixture that a network makes of this one."""

import warnings
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from .._factors import cholesky, inverse_lower
from .._io import BadArgument
from .._nets import Dense
from .._types import RandomKey, State, Time
from ..laws import LOG_2PI, AbstractLaw, DiagonalMixture, Mixture
from ..predict._predictor import AbstractPredictor
from ..trajectory import Trajectory
from ._clusters import clusters
from ._descent import Descent, descend
from ._pairs import blocks, check_paths, floating, folds_of

RANGE = 4.0  # a log scale moves at most so far from where it starts
SEEN = 2**14  # transitions that the components start from
TENTHS = 10  # one part of so many is held out

Points = Float[Array, "step dim"]


@final
class MixtureDensity(AbstractPredictor):
    r"""$y' \sim \sum_k w_k(y)\,N(m_k(y),\, S_k(y) S_k(y)^\top)$ with $w, m, S$ from one network.

    In units in which the training states have mean zero and variance one, and with features
    $h = [\mathrm{net}(z),\, z]$ of the state $z$,
    $w = \mathrm{softmax}(a + A h)$, $m_k = c_k + C_k h$,
    $s_k = \epsilon + \exp(d_k + 4\tanh(D_k h / 4))$ and $S_k = \mathrm{diag}(s_k)\,U_k^{-1}$ with
    a unit lower triangular $U_k$, the identity for diagonal components.

    Args:
        net: The hidden layers.
        head: $[A; C; D]$ and their biases.
        weights: $a$.
        centres: $c$.
        log_scales: $d$.
        mixing: $U$, of which the strictly lower part is used; None for diagonal components.
        mean: Of the training states.
        deviation: Their standard deviations.
        floor: $\epsilon$.
        history: Score of the held-out rows along the training, nats per step and dimension.
    """

    net: Dense
    head: eqx.nn.Linear
    weights: Float[Array, " component"]
    centres: Float[Array, "component dim"]
    log_scales: Float[Array, "component dim"]
    mixing: Float[Array, "component dim dim"] | None
    mean: State
    deviation: State
    floor: Float[Array, ""]
    history: Float[Array, " round"] | None = None

    def start(self) -> State:
        return jnp.zeros_like(self.mean)

    def see(self, carry: State, t: Time, y: State) -> State:
        return y.astype(carry.dtype)

    def law(self, carry: State, t: Time) -> AbstractLaw:
        log_w, m, s = self.parts((carry - self.mean) / self.deviation)
        m = self.mean[None] + m * self.deviation[None]
        s = s * self.deviation[None]
        if self.mixing is None:
            return DiagonalMixture(log_w, m, s)
        return Mixture(log_w, m, s[:, :, None] * jax.vmap(_inverse)(self.mixing))

    def parts(self, z: State) -> tuple[Array, Array, Array]:
        """Log weights, means and scales in standard units."""
        h = jnp.concatenate([jax.nn.silu(self.net(z)), z])
        components, dim = self.centres.shape
        a, m, v = jnp.split(self.head(h), [components, components * (1 + dim)])
        m, v = m.reshape(components, dim), v.reshape(components, dim)
        s = self.floor + jnp.exp(self.log_scales + RANGE * jnp.tanh(v / RANGE))
        return jax.nn.log_softmax(self.weights + a), self.centres + m, s

    def logpdf(self, z: State, z_next: State) -> Float[Array, ""]:
        """The log density in standard units; $U$ is applied, so that nothing is inverted."""
        log_w, m, s = self.parts(z)
        u = (z_next[None] - m) / s
        if self.mixing is not None:
            u = jnp.einsum("kij,kj->ki", jax.vmap(_unit)(self.mixing), u)
        each = -0.5 * (u**2 + LOG_2PI) - jnp.log(s)
        return logsumexp(log_w + jnp.sum(each, axis=1))


def _unit(mixing: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    return jnp.tril(mixing, -1) + jnp.eye(len(mixing), dtype=mixing.dtype)


def _inverse(mixing: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    return inverse_lower(_unit(mixing))


def mixture_density(
    paths: Trajectory,
    components: int,
    *,
    key: RandomKey,
    width: int = 256,
    depth: int = 3,
    diagonal: bool = True,
    steps: int = 2000,
    batch: int = 512,
    rate: float = 3e-3,
    decay: float = 1e-3,
    floor: float = 1e-2,
    docs: Any = None,
    valid: Trajectory | None = None,
    burn: int = 1,
) -> MixtureDensity:
    r"""A mixture of Gaussians whose weights, means and scales a network makes of the state.

    It is trained by Adam with a rate that rises and falls, on random batches of transitions, in
    one compiled loop. Components start from clusters of the states that come next. The model is
    the moving average of its weights; of those looked at, the one that is best on the held-out
    rows. A step counts as a step, whatever its gap.

    Args:
        paths: Training rows.
        components: How many.
        key: Random key.
        width, depth: Of the network's hidden layers.
        diagonal: Whether components have diagonal covariances. Else each has correlations of its
            own, which do not depend on the state while their scales do.
        steps: Of the optimiser.
        batch: Transitions to a step.
        rate: The highest learning rate.
        decay: Weight decay.
        floor: The least standard deviation of a component, as a share of that of the states. No
            density is bounded where states repeat exactly, as at an embedding layer: there the
            score is a matter of this number.
        docs: The document of each row of `paths`; by default each row is one.
        valid: Rows to choose by; by default every tenth document of `paths`, which is not trained
            on. With fewer than ten documents it is a tenth of the transitions, in one stretch; with
            fewer than ten transitions the last model is taken.
        burn: Transitions out of a row's first `burn` states are left out.
    """
    wishes = dict(components=components, width=width, depth=depth, steps=steps, batch=batch)
    for name, value in wishes.items():
        if not (isinstance(value, int) and value >= 1):
            raise BadArgument(f"`{name}` is {value!r}. Use 1 or more.")
    for name, value in (("rate", rate), ("floor", floor)):
        if not (np.isfinite(value) and value > 0):
            raise BadArgument(f"`{name}` is {value}. Use a positive number.")
    check_paths(paths, burn, needs=components)
    train, held = _divided(paths, docs, valid, burn)
    mean = np.concatenate([train[0], train[1]]).mean(axis=0)
    deviation = np.concatenate([train[0], train[1]]).std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    dtype = floating(paths)
    z, z_next, *others = (jnp.asarray((x - mean) / deviation, dtype) for x in (*train, *held))
    apart = (others[0], others[1]) if others else None
    first, rest = jr.split(key)
    model = _initial(z, z_next, components, [width] * depth, diagonal, key=first)
    model = eqx.tree_at(
        lambda m: (m.mean, m.deviation, m.floor),
        model,
        (jnp.asarray(mean, dtype), jnp.asarray(deviation, dtype), jnp.asarray(floor, dtype)),
    )
    how = Descent(steps, batch, rate, decay)
    model, scores, failed = descend(model, (z, z_next), apart, key=rest, how=how)
    _warn(int(failed), rate, None if apart is None else np.asarray(scores))
    units = np.log(deviation).mean()
    history = None if apart is None else scores / z.shape[1] + jnp.asarray(units, dtype)
    return eqx.tree_at(lambda m: m.history, model, history, is_leaf=lambda x: x is None)


def _warn(failed: int, rate: float, scores: np.ndarray | None) -> None:
    """Says where training stopped before its end, and what the model is then."""
    cure = f"Use a lower `rate` (it is {rate:g}), or look for states that are far from all others."
    if failed:
        warnings.warn(
            f"The loss of the mixture density was not finite at step {failed}, and training "
            f"stopped: the model is of the steps before. {cure}",
            stacklevel=3,
        )
    elif scores is not None and not np.isfinite(scores).any():
        warnings.warn(
            "No held-out score of the mixture density was finite: the model is the one that "
            f"training began with. {cure}",
            stacklevel=3,
        )


def _divided(
    paths: Trajectory, docs: Any, valid: Trajectory | None, burn: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Transitions to train on, and those to choose by, which may be none."""
    if valid is not None:
        check_paths(valid, burn)
        return _pairs(paths, burn), _pairs(valid, burn)
    fold = folds_of(paths, docs, burn, TENTHS, least=TENTHS)
    if fold.max() + 1 < TENTHS:
        return _pairs(paths, burn), ()
    return _pairs(paths, burn, fold > 0), _pairs(paths, burn, fold == 0)


def _pairs(paths: Trajectory, burn: int, chosen: Any = None) -> tuple[np.ndarray, ...]:
    found = list(blocks(paths, burn, 1, chosen))
    return tuple(np.concatenate([getattr(block, name) for block in found]) for name in ("x", "y"))


@eqx.filter_jit
def _initial(
    z: Points,
    z_next: Points,
    components: int,
    hidden: list[int],
    diagonal: bool,
    *,
    key: RandomKey,
) -> MixtureDensity:
    """Components at clusters of the next states, whatever this one."""
    pick, seed, net, head = jr.split(key, 4)
    dim = z.shape[1]
    some = z_next
    if len(z_next) > SEEN:
        some = z_next[jr.randint(pick, (SEEN,), 0, len(z_next))]
    centres, member = clusters(some, components, key=seed)
    one = jax.nn.one_hot(member, components, dtype=z.dtype)
    count = jnp.sum(one, axis=0)
    away = some - centres[member]
    scatter = lax.map(lambda w: (w[:, None] * away).T @ away, one.T)
    # A cluster of few points is given the shape of all, and one of equal points some width.
    few = dim + 2.0
    shared = jnp.sum(scatter, axis=0) / len(some) + 1e-3 * jnp.eye(dim, dtype=z.dtype)
    spread = (scatter + few * shared[None]) / (count + few)[:, None, None]
    variances = jnp.diagonal(spread, axis1=1, axis2=2)
    mixing = None
    if not diagonal:
        roots = jax.vmap(cholesky)(spread)
        variances = jnp.diagonal(roots, axis1=1, axis2=2) ** 2
        mixing = jax.vmap(_inverse)(roots / jnp.sqrt(variances)[:, :, None])
    linear = eqx.nn.Linear(hidden[-1] + dim, components * (1 + 2 * dim), key=head, dtype=z.dtype)
    dense = Dense([dim, *hidden], jax.nn.silu, key=net)
    return MixtureDensity(
        net=jax.tree.map(lambda x: x.astype(z.dtype), dense),
        head=jax.tree.map(lambda x: 0.1 * x, linear),
        weights=jnp.log((count + 1) / jnp.sum(count + 1)),
        centres=centres,
        log_scales=0.5 * jnp.log(variances),
        mixing=mixing,
        mean=jnp.zeros(dim, z.dtype),
        deviation=jnp.ones(dim, z.dtype),
        floor=jnp.zeros((), z.dtype),
    )
