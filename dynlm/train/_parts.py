"""How many parts a batch is worked off in."""

import jax
from jaxtyping import PyTree

CACHED = 2**20  # bytes of what a layer makes of a part
LEAST = (
    4  # rows of a part, for each column of the widest layer: below, adding gradients up costs more
)


def parts_in_cache(model: PyTree, items: int, rows: int) -> int:
    """Equal parts of a batch of so many items that a CPU works off within its cache.

    At 16,384 rows and width 256 it takes 16, and a step then two thirds of the time and a ninth of
    the memory of one of the whole. Other devices are the faster the more there is to do at once:
    one part.

    Args:
        items: In a batch, on one device.
        rows: Of each item, such as the transitions of a window.
    """
    if jax.default_backend() != "cpu":
        return 1
    matrices = [x for x in jax.tree.leaves(model) if getattr(x, "ndim", 0) >= 2]
    width = max((max(x.shape[-2:]) for x in matrices), default=1)
    itemsize = max((x.dtype.itemsize for x in matrices), default=4)
    most = max(CACHED // (width * itemsize), LEAST * width)
    wanted = items * rows / most
    return next(n for n in range(1, items + 1) if items % n == 0 and (n >= wanted or n == items))
