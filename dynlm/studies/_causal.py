"""`caused`: a predicted step written into the running model, and whether its tokens follow."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import baselines
from .._io import BadArgument
from ..predict import AbstractPredictor
from ..store import Projection
from ..trajectory import Trajectory
from ._directions import Places, directions, places_of, training_of
from ._effects import OTHERS, TRUE, Caused, compared
from ._unembedded import States, decoder_of, layers_of, predictors_of, states_at, texts_of
from ._written import Foreseen, expected, moved


def caused(
    model: Any,
    predictors: Mapping[str, Any],
    layer: int | str,
    projection: Projection,
    sequences: Sequence[Any],
    docs: Any,
    *,
    train: Trajectory,
    seed: int,
    final: tuple[Any, Projection] | None = None,
    origins: int = 4,
    randoms: int = 3,
    size: float = 1.0,
    burn: int = 1,
) -> Caused:
    r"""$D(p_{t+1} \| p_t) - D(p_{t+1} \| p_t^{+\delta})$, $\delta$ written into one layer at t.

    $p_t$ is the model's law of the next token at t, $p_{t+1}$ the one that it will have a token
    later. A step that leads forward in time brings the first nearer to the second. All steps at a
    place are of one length, that of the first predictor's, so that what counts is the direction.

    Args:
        model: A `LanguageModel`, or a decoder of its contract.
        predictors: Runs, predictors or SDEs of that layer's states by name.
        layer: Where to write. After "final" comes the unembedding alone, so that an effect there
            shows what the step says, and not that the model uses it.
        projection: Of that layer, the one that they were fitted with.
        sequences: Token ids of held-out texts.
        docs: The document of each.
        train: Paths of training states in the same components, for the other directions.
        seed: Of random directions and of the bootstrap.
        final: A fit of layer "final" and its projection: the change of the law that it foresees is
            compared with what comes. At layer "final" the first predictor's own.
        origins: Places in a row, at most.
        randoms: Random directions of each kind.
        size: Length of the steps written, in lengths of the predicted one.
        burn: States at the start of a row that nothing is written at.
    """
    _check(origins, randoms, size, burn)
    decoder, texts = decoder_of(model), texts_of(sequences, docs, least=burn + 2)
    models = predictors_of(predictors, (*OTHERS, *TRUE))
    tokens, positions = jnp.asarray(texts.tokens), jnp.asarray(texts.positions)
    states = states_at(decoder, projection, tokens, positions, layer)
    places = places_of((texts.positions >= 0).sum(axis=1), origins, burn)
    if not places.real.any():
        raise BadArgument(f"`sequences` has no row of more than {burn + 1} tokens. Pass longer.")
    predicted = {name: _step(one, states.paths, places) for name, one in models.items()}
    lost = {k: "a predicted state is not finite" for k, x in predicted.items() if x is None}
    sound = {name: x for name, x in predicted.items() if x is not None}
    if not sound:
        raise BadArgument("`predictors` predict no finite states. Check how they were fitted.")
    z, linear = _at(states.paths.ys, places.at), baselines.var1(train, burn=burn)
    sound["linear"] = z @ np.asarray(linear.matrix, float).T + np.asarray(linear.bias, float) - z
    whole = _at(states.raw, places.at + 1) - _at(states.raw, places.at)
    options: dict[str, Any] = {"size": size, "randoms": randoms, "seed": seed}
    true = _at(states.paths.ys, places.at + 1) - z
    known = training_of(train, burn)
    at, deltas = directions(sound, z, true, whole, known, projection, **options)
    foreseen = None
    if final is not None:
        fit = predictors_of({"final": final[0]}, ())["final"]
        foreseen = _foreseen(fit, final[1], _final_paths(states, final[1]), places)
    elif layer == "final":
        foreseen = _foreseen(models[next(iter(sound))], projection, states.paths, places)
    where = jnp.asarray(places.at)
    names, chosen = layers_of(decoder, layer)
    edits = (jnp.asarray(deltas), jnp.asarray(chosen))
    found = moved(decoder, tokens, positions, where, *edits, foreseen, names)
    lengths = [np.linalg.norm(x, axis=-1)[places.real].mean() for x in (deltas[:, :, 0], whole)]
    share = float(lengths[0] / lengths[1])
    return compared(found, at, places.real, texts.docs, layer, share, lost, seed)


def _check(origins: int, randoms: int, size: float, burn: int) -> None:
    for name, value, least in (("origins", origins, 1), ("randoms", randoms, 1), ("burn", burn, 0)):
        if value < least:
            raise BadArgument(f"`{name}` is {value}. Use {least} or more.")
    if not (np.isfinite(size) and size > 0):
        raise BadArgument(f"`size` is {size}. Use a number above 0; 1 writes the step as it is.")


def _at(x: Any, at: np.ndarray) -> Float[np.ndarray, "row origin dim"]:
    return np.take_along_axis(np.asarray(x).astype(float), at[:, :, None], axis=1)


def _step(
    model: AbstractPredictor, paths: Trajectory, places: Places
) -> Float[np.ndarray, "row origin dim"] | None:
    """The predicted step at each place; None where one is not finite."""
    mean = np.asarray(expected(model, paths, jnp.asarray(places.at)), float)
    step = mean - _at(paths.ys, places.at)
    return np.where(places.real[:, :, None], step, 0) if np.isfinite(step).all() else None


def _foreseen(
    model: AbstractPredictor, projection: Projection, paths: Trajectory, places: Places
) -> Foreseen | None:
    """The final states that a fit of them goes from and to."""
    step = _step(model, paths, places)
    if step is None:
        return None
    z = _at(paths.ys, places.at)
    both = (projection.lift_rows(x.reshape(-1, z.shape[-1])) for x in (z, z + step))
    now, after = (jnp.asarray(x.reshape(*z.shape[:2], -1), jnp.float32) for x in both)
    return Foreseen(now, after)


def _final_paths(states: States, projection: Projection) -> Trajectory:
    """The final states of the same texts, in the components of their own fit."""
    last = np.asarray(states.final).astype(np.float32)
    ys = projection.project_rows(last.reshape(-1, last.shape[-1])).reshape(*last.shape[:2], -1)
    ys = jnp.asarray(ys, states.paths.ys.dtype)
    return eqx.tree_at(lambda paths: paths.ys, states.paths, ys)
