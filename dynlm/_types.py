"""Names for the arrays and scalars that every module speaks of."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.errors import TracerArrayConversionError
from jaxtyping import Array, Float, Key, UInt32

Scalar = float | int | Float[Array, ""]
Time = Scalar
State = Float[Array, " dim"]
Noise = Float[Array, " noise"]
RandomKey = Key[Array, ""] | UInt32[Array, " words"]

Calculus = Literal["ito", "stratonovich"]
NoiseClass = Literal["additive", "commutative", "general"]


def concrete(x: Any) -> np.ndarray | None:
    """The values of `x` as a numpy array, or None while they are being traced."""
    try:
        return np.asarray(x)
    except TracerArrayConversionError:
        return None


def jax_dtype(dtype: Any) -> Any:
    """The dtype that JAX gives an array of `dtype`: 64 bits only where they are enabled."""
    return jnp.asarray(np.empty(0, dtype)).dtype
