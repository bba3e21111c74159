"""What every test runs under: strict JAX, fixed keys, slow tests last, compiled programs kept."""

import gc
import os
from pathlib import Path

# Read by JAX when it is imported, here and in the subprocesses that tests start.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("MPLBACKEND", "agg")

import jax  # noqa: E402
import jax.random as jr  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


MAPS = 30_000  # of memory, of the 65,530 that Linux lets a process have


def pytest_runtest_teardown(item):
    """Forgets compiled programs before there are too many: each has maps of memory of its own.

    A process that has no more of them ends with a segmentation fault.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def getkey():
    """A new key at each call, the same ones in every run."""
    key = jr.key(5678)

    def get():
        nonlocal key
        key, this = jr.split(key)
        return this

    return get


@pytest.fixture
def x64():
    """The test runs with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """The test runs without type checks, as users do, so that it meets the errors they meet."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
