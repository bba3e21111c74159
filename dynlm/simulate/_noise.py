"""Normal draws that are a function of (stream, step, component), with no state to carry.

    stream  = whiten(key data)                        64 bits, one for each path
    a       = mix(step + stream[0])
    bits    = round3(round2(round1(word * G + a) + stream[1]) + step * S)
    normal  = the inverse of the normal distribution function at `bits`

`word` is the component and the kind of draw. Each line is uint32 arithmetic that can be undone, so
the index (stream, step, word) enters whole; docs/noise.md has the argument.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, UInt32

from .._types import RandomKey

Stream = UInt32[Array, "2"]
Step = int | Int[Array, ""] | UInt32[Array, ""]
Kind = Literal[0, 1, 2]

W, H, K = 0, 1, 2  # kinds of draw: increment, space-time and space-time-time Levy area
MAX_COMPONENTS = 2**29  # a word is 8 * component + kind, and 4 more for the low half of a float64

# Multipliers and shifts of Chris Wellons' `triple32`, which a search for low bias found.
_ROUNDS = ((17, 0xED5AD4BB, 11), (0, 0xAC4C1B51, 15), (0, 0x31848BAB, 14))
_WORD = 0x9E3779B1  # odd, hence word * _WORD loses nothing; and so below
_STEP = 0x85EBCA6B
_WHITEN = (
    0x243F6A88,
    0x85A308D3,
    0x13198A2E,
    0x03707344,
    0xA4093822,
    0x299F31D0,
    0x082EFA98,
    0xEC4E6C89,
)

# Least-largest-error fits; tests/test_noise.py makes them again.
# -(log2(1 + t) / t) / 16 on [1/sqrt 2 - 1, sqrt 2 - 1], error 5e-8 in log2.
_LOG2 = (
    -0.09016842395067215,
    0.04508482292294502,
    -0.030058713629841805,
    0.02250545844435692,
    -0.017919259145855904,
    0.015629304572939873,
    -0.014805364422500134,
    0.009108670987188816,
)
# sqrt(2) erfinv(x) / x in powers of -log2(1 - x^2) / 16 - 1, relative error 6.4e-7.
_NORMAL = (
    4.4753618240356445,
    2.3691041469573975,
    -0.574368417263031,
    0.26592788100242615,
    -0.1449539065361023,
    0.08827917277812958,
    -0.005042293108999729,
    -0.13012565672397614,
    0.010442789644002914,
    0.23686830699443817,
    0.17295673489570618,
    -0.5586612224578857,
    -0.08185683190822601,
    0.4431457817554474,
    -0.004067657049745321,
    -0.11938007175922394,
)


def stream(key: RandomKey) -> Stream:
    """The 64-bit stream of `key`: a bijection of its two words, so distinct keys never share one.

    Four words (`rbg`, `unsafe_rbg`) are made two: the last two, whitened, are xored to the first.
    """
    data = jr.key_data(key)
    if data.shape == (4,):
        first, second = _whiten(data[2], data[3])
        data = jnp.stack([data[0] ^ first, data[1] ^ second])
    if data.shape != (2,):
        raise ValueError(
            f"`key` holds data of shape {data.shape}, but one path takes one key, of 2 or 4 words. "
            "Use `jax.random.key(seed)`; for many keys, `jax.vmap`."
        )
    return jnp.stack(_whiten(data[0], data[1]))


def bits(stream: Stream, step: Step, words: UInt32[Array, " words"]) -> UInt32[Array, " words"]:
    """32 random bits for each of `words`: for one `stream` and `step`, a bijection of the word."""
    step = jnp.asarray(step, jnp.uint32) if isinstance(step, int) else step.astype(jnp.uint32)
    return hashed(stream[0], stream[1], step, words)


def hashed(one: Array, two: Array, step: Array, words: Array) -> Array:
    """`bits` of a stream whose two words stand apart, of whatever shapes go together."""
    x = words * _u(_WORD) + _mix(one + step)
    x = _round(x, 0) + two
    x = _round(x, 1) + step * _u(_STEP)
    return _round(x, 2)


def normals(
    stream: Stream,
    step: Step,
    components: int,
    dtype: Any = jnp.float32,
    *,
    kind: Kind = W,
    first: int = 0,
) -> Float[Array, " components"]:
    """Independent standard normals, from number `first` on, at one step of one stream.

    Args:
        step: from 0 to 2^32 - 1.
        dtype: float64 hashes a second word for each draw; narrower than float32 is rounded from it.
        kind: distinct kinds are independent, and what is drawn of one does not change another.
    """
    if first + components > MAX_COMPONENTS:
        raise ValueError(
            f"`components` reach number {first + components}, but a step has {MAX_COMPONENTS}. "
            "Split them over several keys."
        )
    words = lax.iota(jnp.uint32, components) * _u(8) + _u(8 * first + kind)
    high = bits(stream, step, words)
    if jnp.dtype(dtype).itemsize > 4:
        return to_normal64(high, bits(stream, step, words + _u(4))).astype(dtype)
    return to_normal(high).astype(dtype)


@jax.jit
def to_normal(h: UInt32[Array, " n"]) -> Float[Array, " n"]:
    r"""The $z$ with $P(Z < z) = \frac12 + (s + \frac12) / 2^{32}$, $s$ being `h` read as signed.

    The size is found apart from the sign, so that `h` and `~h` give exactly $\pm z$; its tail is
    counted in integers, and so keeps its relative precision down to the last: $|z| \le 6.34$.
    """
    size = _size(h)
    x = (size.astype(jnp.float32) + _f(0.5)) * _f(2.0**-31)
    p = ((jnp.int32(2**31 - 1) - size).astype(jnp.float32) + _f(0.5)) * _f(2.0**-31)
    y = p * (_f(1.0) + x)  # 1 - x^2 > 2^-32, hence never subnormal
    # v = -log2(y) / 16 - 1, from the exponent of y and a polynomial in the rest.
    shifted = lax.bitcast_convert_type(y, jnp.int32) - jnp.int32(0x3F3504F3)  # that of sqrt(1/2)
    exponent = (shifted >> jnp.int32(23)).astype(jnp.float32)
    rest = lax.bitcast_convert_type(
        (shifted & jnp.int32(0x7FFFFF)) + jnp.int32(0x3F3504F3), jnp.float32
    ) - _f(1.0)
    v = rest * _polynomial(_LOG2, rest) - (exponent * _f(1 / 16) + _f(1.0))
    z = x * _polynomial(_NORMAL, v)
    sign = h & _u(0x80000000)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(z, jnp.uint32) | sign, jnp.float32)


def to_normal64(h: UInt32[Array, " n"], low: UInt32[Array, " n"]) -> Float[Array, " n"]:
    """As `to_normal`, where `low` says which part of the cell of `h` it is: $|z| \\le 9.16$."""
    f = jnp.float64
    size = _size(h)
    p = (jnp.int32(2**31 - 1) - size).astype(f) + ((~low).astype(f) + f(0.5)) * f(2.0**-32)
    z = -ndtri(p * f(2.0**-32))
    return jnp.where(h >> _u(31) == _u(1), -z, z)


def _size(h: Array) -> Array:
    signed = lax.bitcast_convert_type(h, jnp.int32)
    return signed ^ (signed >> jnp.int32(31))


def _whiten(x: Array, y: Array) -> tuple[Array, Array]:
    """Eight Feistel rounds: a bijection of 64 bits, whatever the round function."""
    for constant in _WHITEN:
        x, y = y, x ^ _mix(y + _u(constant))
    return x, y


def _mix(x: Array) -> Array:
    for number in range(3):
        x = _round(x, number)
    return x


def _round(x: Array, number: int) -> Array:
    before, factor, after = _ROUNDS[number]
    if before:
        x = x ^ (x >> _u(before))
    x = x * _u(factor)
    return x ^ (x >> _u(after))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    total = _f(coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + _f(c)
    return total


def _u(x: int) -> Any:
    return jnp.uint32(x)


def _f(x: float) -> Any:
    return jnp.float32(x)
