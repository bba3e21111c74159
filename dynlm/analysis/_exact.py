"""`clopper_pearson`: the exact interval of a probability, from how often it came true."""

import math

from .._io import BadArgument

HALVINGS = 100  # of the unit interval: more than a float64 can tell apart


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    r"""The ends $p$ where $P(X \ge s;\, p)$ and $P(X \le s;\, p)$ are $(1 - \mathrm{level})/2$.

    X counts the successes of so many independent trials. The interval holds the true probability
    at least as often as its level says, at any number of trials.

    Args:
        successes: How often it came true.
        trials: How often it was tried.
        level: How often such an interval shall hold the truth.
    """
    if not (isinstance(trials, int) and trials >= 1):
        raise BadArgument(f"`trials` is {trials!r}. Use a whole number from 1 on.")
    if not (isinstance(successes, int) and 0 <= successes <= trials):
        raise BadArgument(f"`successes` is {successes!r}. Use a whole number from 0 to {trials}.")
    if not 0 < level < 1:
        raise BadArgument(f"`level` is {level}. Use a number between 0 and 1, such as .95.")
    tail = (1 - level) / 2
    # The lower end is one minus the upper end of the failures.
    low = 1 - _upper(trials - successes, trials, tail)
    return low, _upper(successes, trials, tail)


def _upper(successes: int, trials: int, tail: float) -> float:
    """Where so few successes or fewer have the probability `tail`, by bisection."""
    if successes == trials:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _at_most(successes, trials, middle) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _at_most(successes: int, trials: int, p: float) -> float:
    """The probability of so many successes or fewer."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 else float(successes >= trials)
    whole, yes, no = math.lgamma(trials + 1), math.log(p), math.log1p(-p)
    terms = (
        whole - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * yes + (trials - k) * no
        for k in range(successes + 1)
    )
    return math.fsum(math.exp(term) for term in terms)
