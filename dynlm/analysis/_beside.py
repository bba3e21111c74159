"""A number of a fit beside the same number of fits of states without order."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ..stats import Interval, ratios, student
from .findings import Finding, finding, stated, withheld

FITS = "of the same fit to states in random order"
ONE = "It is of one such fit, and how much they differ is not known"

Numbers = Float[np.ndarray, " state"]


def paired(
    what: str,
    top: Numbers,
    others: Sequence[Numbers],
    under: Numbers,
    docs: Any,
    *,
    seed: int,
    **kwargs: Any,
) -> Finding:
    r"""$\sum a_i / \sum b_i$ of a fit against that of other fits at the same states.

    The difference is paired by document, and widened as in `compared`.

    Args:
        what: As of a finding.
        top: $a_i$ of the fit, at each state.
        others: The same of each other fit.
        under: $b_i$, of all of them; zero where a state does not count.
        docs: The document of each state.
        seed: Of the resampling.
        **kwargs: `unit` and `note` of the finding.
    """
    every = np.stack([top, *others]).astype(float)
    known = np.isfinite(every).all(axis=0) & (under > 0)
    if not known.any():
        return withheld(what, "it is finite at no state")
    every, b = every[:, known], under[known].astype(float)
    both = np.stack([every[0], every[0] - every[1:].mean(axis=0)], axis=1)
    found, gap = ratios(both, b[:, None], np.asarray(docs)[known], seed=seed)
    return compared(what, found, gap, [float(x.sum() / b.sum()) for x in every[1:]], **kwargs)


def compared(
    what: str, found: Interval, gap: Interval, others: Sequence[float], **kwargs: Any
) -> Finding:
    r"""$v$ against the mean of the $v_1, \dots, v_K$ of other fits.

    Two fits of states drawn from one law differ by more than documents tell: a net learns the noise
    of its own states. So the interval of the difference is widened by what a further fit would
    differ by, $t_{K-1}\, s \sqrt{1 + 1/K}$ with the standard deviation $s$ of the $v_k$. One such
    fit alone tells nothing of $s$, and nothing is tested.

    Args:
        what: As of a finding.
        found: $v$.
        gap: The interval of $v$ less the mean of the others.
        others: $v_k$.
        **kwargs: `unit` and `note` of the finding.
    """
    null, number = found.value - gap.value, len(others)
    kwargs = {"of_null": FITS} | kwargs
    if not (math.isfinite(found.value) and math.isfinite(null)):
        return withheld(what, "it is not finite, of the fit or of the one to shuffled states")
    if number < 2:
        note = ". ".join(x for x in (kwargs.pop("note", ""), ONE) if x)
        return stated(what, found.value, null, note=note, **kwargs)
    wide = student((1 + found.level) / 2, number - 1) * float(np.std(others, ddof=1))
    wide *= math.sqrt(1 + 1 / number)
    low = found.value - math.hypot(gap.value - gap.low, wide)
    high = found.value + math.hypot(gap.high - gap.value, wide)
    return finding(what, found._replace(low=low, high=high), null, **kwargs)
