"""What the host makes of a run: the means of a row, and whether a folder is this run's alone."""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._fields import shown
from .._io import BadArgument, locked

LOOSE = ("chunk", "devices", "jax", "parts")  # of no more than the last bits, or what a guard sees


def means(pending: list[list]) -> dict[str, Any]:
    """Loss and gradient over the sound steps, and how many were skipped.

    Args:
        pending: A row a step: loss, gradient, soundness; lists of them with several seeds.
    """
    loss, gradient = (np.asarray([row[i] for row in pending], np.float64) for i in (0, 1))
    sound = np.asarray([row[2] for row in pending], bool)
    count = sound.sum(axis=0)
    mean = [np.where(sound, x, 0).sum(axis=0) / np.maximum(count, 1) for x in (loss, gradient)]
    loss, gradient = (np.where(count, x, math.nan).tolist() for x in mean)
    return {"loss": loss, "gradient": gradient, "skipped": (len(pending) - count).tolist()}


def agreed(answer: bool) -> bool:
    """The answer of the first of several processes."""
    if jax.process_count() == 1:
        return answer
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer, np.int32)))


@contextmanager
def alone(folder: str | Path | None) -> Iterator[None]:
    """Inside, no other run trains into this folder; of several processes, the first holds it.

    A call of `dynlm.fit` holds the folder of the run, and the `train.fit` in it the checkpoints'.
    """
    refusal: Exception | None = None
    with ExitStack() as held:
        if folder is not None and jax.process_index() == 0:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(Path(folder)))
            except (BadArgument, OSError) as error:
                refusal = error
        if folder is not None and not agreed(refusal is None):  # else the others would wait for it
            raise refusal or BadArgument(f"The first process could not begin to train in {folder}.")
        yield


def plain(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts as they are read again, tuples as lists."""
    try:
        return json.loads(json.dumps(facts))
    except (TypeError, ValueError) as error:
        raise BadArgument(
            f"`run` holds what JSON does not ({error}). Use text, numbers, lists and dictionaries."
        ) from None


def check_facts(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuses to go on with what another run has left; tells what makes other bits."""
    other = {
        name: f"`{name}` is {shown(there.get(name))} there, {shown(here.get(name))} here"
        for name in sorted({*there, *here})
        if json.dumps(there.get(name)) != json.dumps(here.get(name))  # NaN is not equal to itself
    }
    strict = [text for name, text in other.items() if name not in LOOSE]
    if strict:
        raise BadArgument(
            f"{folder} is of a run with other settings: {'; '.join(strict)}. Go on with what it "
            "had, or use another folder."
        )
    if other:
        warnings.warn(
            f"{folder} is of a run where {'; '.join(other.values())}. It goes on, but not with the "
            "bits that it would have ended with there.",
            stacklevel=2,
        )
