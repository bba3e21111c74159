"""Rotary frequencies, in float32 and in the order of operations of transformers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float

from .._fields import Fields, brief
from .._io import BadArgument

Frequencies = Float[np.ndarray, " pairs"]


@final
class Turns(NamedTuple):
    """The fields of `Rope`, which says what they mean."""

    frequencies: tuple[float, ...]
    scale: float = 1.0
    long: tuple[float, ...] | None = None
    switch: int = 0


def rotary(dim: int, theta: float) -> tuple[float, ...]:
    r"""The frequencies $\theta^{-2j/d}$ of $d$ = `dim` turning dimensions."""
    return floats(_inverse(_powers(dim, theta)))


def turns(parameters: dict[str, Any], head_dim: int, context: int) -> Turns:
    """The rotary positions that a config's dictionary describes.

    Args:
        parameters: `rope_type` and what that type needs, in the words of transformers 5.
        head_dim: Of each head, of which `partial_rotary_factor` turns.
        context: The longest sequence, from which some types reckon what they scale by.
    """
    fields = Fields(parameters.get, "rope_parameters.")
    kind = fields.choice("rope_type", _TYPES, "rope type")
    dim = int(head_dim * fields.number("partial_rotary_factor", 1.0))
    if not 1 <= dim <= head_dim:
        raise fields.wrong("partial_rotary_factor", f"It turns {dim} dimensions of {head_dim}.")
    try:
        with np.errstate(all="ignore"):
            found = kind(fields, dim, context)
    except (ArithmeticError, ValueError) as error:
        if isinstance(error, BadArgument):
            raise
        found = Turns((math.nan,))
    numbers = (*found.frequencies, *(found.long or ()), found.scale)
    if not all(math.isfinite(x) and x >= 0 for x in numbers):
        raise BadArgument(
            "`rope_parameters` give frequencies that are no finite numbers: "
            f"{brief(parameters, 300)}. Mend them, or fetch the checkpoint again."
        )
    return found


def floats(x: np.ndarray) -> tuple[float, ...]:
    """The values of `x` as the hashable entries of a config, rounded to float32."""
    return tuple(float(value) for value in np.asarray(x, np.float32))


def _powers(dim: int, theta: float) -> Frequencies:
    """`theta ** (2j / dim)`, correctly rounded: numpy's own float32 power is off by 2 ulp."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float64(np.float32(theta)) ** exponents.astype(np.float64)).astype(np.float32)


def _inverse(x: Frequencies) -> Frequencies:
    return np.float32(1.0) / x


def _theta(fields: Fields) -> float:
    return fields.number("rope_theta")


def _default(fields: Fields, dim: int, context: int) -> Turns:
    return Turns(rotary(dim, _theta(fields)))


def _linear(fields: Fields, dim: int, context: int) -> Turns:
    """Positions divided by `factor`."""
    factor = np.float32(fields.number("factor"))
    return Turns(floats(_inverse(_powers(dim, _theta(fields))) / factor))


def _llama3(fields: Fields, dim: int, context: int) -> Turns:
    """Low frequencies divided by `factor`, high ones kept, and a ramp between."""
    turn = _inverse(_powers(dim, _theta(fields)))
    factor = np.float32(fields.number("factor"))
    low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
    old = fields.whole("original_max_position_embeddings", context)
    wave = _inverse(turn) * np.float32(2 * math.pi)
    scaled = np.where(wave > np.float32(old / low), turn / factor, turn)
    share = (_inverse(wave) * np.float32(old) - np.float32(low)) / np.float32(high - low)
    mixed = (np.float32(1.0) - share) * scaled / factor + share * scaled
    between = ~(wave < np.float32(old / high)) & ~(wave > np.float32(old / low))
    return Turns(floats(np.where(between, mixed, scaled)))


def _yarn(fields: Fields, dim: int, context: int) -> Turns:
    """A ramp over the dimensions from kept to divided frequencies; larger queries and keys."""
    theta = _theta(fields)
    old = fields.whole("original_max_position_embeddings", context)
    factor = fields.number("factor", context / old)
    scale = fields.maybe("attention_factor")
    if scale is None:
        some, every = (fields.maybe(name, zero=True) for name in ("mscale", "mscale_all_dim"))
        scale = _mscale(factor, 1.0)
        if some and every:
            scale = _mscale(factor, some) / _mscale(factor, every)
    fast, slow = fields.maybe("beta_fast", zero=True), fields.maybe("beta_slow", zero=True)

    def dimension(rotations: float) -> float:
        """The dimension that turns so many times within the old context."""
        return dim * math.log(old / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(fast or 32.0), dimension(slow or 1.0)
    if fields.flag("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    last = last + 0.001 if first == last else last
    steps = np.arange(dim // 2, dtype=np.float32) - np.float32(first)
    kept = np.float32(1.0) - np.clip(steps / np.float32(last - first), 0, 1)
    powers = _powers(dim, theta)
    near, far = _inverse(powers), _inverse(np.float32(factor) * powers)
    return Turns(floats(far * (np.float32(1.0) - kept) + near * kept), float(scale))


def _mscale(factor: float, by: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0


def _longrope(fields: Fields, dim: int, context: int) -> Turns:
    """Two lists of divisors, one of which holds for sequences longer than the old context."""
    old = fields.whole("original_max_position_embeddings", context)
    factor = fields.number("factor", context / old)
    scale = fields.maybe("attention_factor")
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(old))
    powers = _powers(dim, _theta(fields))

    def divided(name: str) -> tuple[float, ...]:
        divisors = np.asarray(fields.numbers(name, len(powers)), np.float32)
        return floats(_inverse(divisors * powers))

    return Turns(divided("short_factor"), float(scale), divided("long_factor"), old)


_TYPES: dict[str, Callable[[Fields, int, int], Turns]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
