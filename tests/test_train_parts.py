"""Parts of a batch: how many are chosen, and that what is fitted does not depend on it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import specs
from dynlm.train._parts import parts_in_cache


def net(width):
    return specs.NeuralSDE(8, width=width, scale=0.5).build(key=jr.key(0))


@pytest.mark.parametrize(
    "width, items, rows, parts",
    [
        (256, 512, 32, 16),  # 1024 rows of 256 numbers are a MiB
        (64, 512, 32, 4),
        (512, 128, 32, 2),  # four rows a column, though they are more than a MiB
        (64, 64, 31, 1),
        (256, 48, 64, 3),
        (256, 7, 4096, 7),  # no divisor but the items themselves
    ],
)
def test_a_part_is_a_mebibyte_of_the_widest_layer(width, items, rows, parts):
    assert parts_in_cache(net(width), items, rows) == parts


def test_numbers_of_eight_bytes_take_twice_the_parts():
    matrix = np.zeros((64, 64), np.float64)
    assert parts_in_cache(matrix, 512, 32) == 8
    assert parts_in_cache(matrix.astype("f4"), 512, 32) == 4


def test_other_devices_take_batches_whole(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert parts_in_cache(net(256), 512, 32) == 1


def test_a_model_of_numbers_alone_takes_batches_whole():
    assert parts_in_cache({"a": jnp.ones(3)}, 512, 32) == 1
