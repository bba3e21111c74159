"""Beginnings of texts, from which a model continues where nobody gave texts."""

import numpy as np

OPENINGS = (
    "It was", "The", "I am", "When the", "There is", "He said", "She had", "In the", "My lord,",
    "We may", "As for", "Upon", "But", "If it", "They were", "No one", "At last", "What is",
    "You have", "Then",
)  # fmt: skip


def openings(count: int) -> list[str]:
    """So many beginnings, one after the other."""
    return [OPENINGS[k] for k in np.arange(count) % len(OPENINGS)]
