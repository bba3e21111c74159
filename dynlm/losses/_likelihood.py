r"""Likelihoods of an observed path under an SDE, transition by transition."""

from typing import NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..sde import SDE
from ..trajectory import Trajectory
from ._schemes import AbstractScheme, EulerMaruyama, LocalLinear, Strang

_EULER, _LOCAL_LINEAR, _STRANG = EulerMaruyama(), LocalLinear(), Strang()


class Transitions(NamedTuple):
    """The transitions of a path, made harmless where there are none: `dt` is 1 there."""

    ts: Float[Array, " steps"]
    ys: Float[Array, "steps dim"]
    dts: Float[Array, " steps"]
    next_ys: Float[Array, "steps dim"]
    seen: Bool[Array, " steps"]


def transitions(path: Trajectory) -> Transitions:
    """Every step of a path with its length, and whether it counts.

    It does not where it leads into padding or takes no time. There the states are
    replaced by the first one of the path, at which an SDE is defined, and so is its gradient: at
    the zeros of padding it need not be. A path of padding alone has ones.
    """
    seen = path.mask[:-1] & path.mask[1:] & (jnp.diff(path.ts) > 0)
    first = jnp.where(path.mask[0], path.ys[0], 1.0)
    ys, next_ys = (
        jnp.where(seen[:, None], ys, first[None, :]) for ys in (path.ys[:-1], path.ys[1:])
    )
    # before anything divides by it: masking what comes out would leave NaN gradients
    dts = jnp.where(seen, jnp.diff(path.ts), 1.0).astype(path.ys.dtype)
    return Transitions(path.ts[:-1], ys, dts, next_ys, seen)


def mean_seen(values: Float[Array, " steps"], seen: Bool[Array, " steps"]) -> Float[Array, ""]:
    """The mean over what is seen; 0 where nothing is."""
    count = jnp.maximum(jnp.sum(seen), 1).astype(values.dtype)
    return jnp.sum(jnp.where(seen, values, 0.0)) / count


def transition_nlls(
    sde: SDE, path: Trajectory, scheme: AbstractScheme = _EULER
) -> tuple[Float[Array, " steps"], Bool[Array, " steps"]]:
    r"""$-\log p(y_{k+1} \mid y_k)$ of each transition, and which of them are seen.

    The values of those that are not are zero.
    """
    t, y, dt, y_next, seen = transitions(path)
    logpdf = jax.vmap(scheme.logpdf, in_axes=(None, 0, 0, 0, 0))
    return jnp.where(seen, -logpdf(sde, t, y, dt, y_next), 0.0), seen


@final
class TransitionNLL(eqx.Module):
    r"""Mean of $-\log p(y_{k+1} \mid y_k)$ over the seen transitions of a path, in nats per step.

    A proper score of one-step laws. Transitions into padding and of equal times do not
    count; a path without any has loss 0.

    Args:
        scheme: The one-step law p. Simulate what was fitted with it by the same scheme and step.
    """

    scheme: AbstractScheme

    def __call__(self, sde: SDE, path: Trajectory) -> Float[Array, ""]:
        return mean_seen(*transition_nlls(sde, path, self.scheme))


def nll_by(scheme: AbstractScheme) -> TransitionNLL:
    """The loss `(sde, path) -> nats per step` by a scheme; two by equal schemes are equal."""
    return TransitionNLL(scheme)


def transition_nll(sde: SDE, path: Trajectory) -> Float[Array, ""]:
    r"""Mean of $-\log N(y_{k+1};\; y_k + f\,\Delta t,\; \Sigma\,\Delta t)$ over the seen steps.

    Euler's one-step law, in nats per step: the default loss. It fits the chain that Euler
    makes at the data's step, which is another process than the SDE solved finely unless the step
    is small: see `local_linear_nll`.
    """
    return TransitionNLL(_EULER)(sde, path)


def local_linear_nll(sde: SDE, path: Trajectory) -> Float[Array, ""]:
    """`transition_nll` by local linearisation: exact for linear SDEs at any step."""
    return TransitionNLL(_LOCAL_LINEAR)(sde, path)


def strang_nll(sde: SDE, path: Trajectory) -> Float[Array, ""]:
    """`transition_nll` by Strang splitting: additive noise only, and the law may be skewed."""
    return TransitionNLL(_STRANG)(sde, path)
