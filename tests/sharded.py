"""Run by test_rollout_sharding.py in a process that sees four devices: prints what went wrong."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dynlm import SDE, diffusions, drifts, rollout
from dynlm.simulate import (
    CounterNoise,
    Every,
    Fold,
    Histogram,
    JaxNoise,
    Last,
    Moments,
    Reversible,
    Running,
)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
assert len(jax.devices()) == 4

KEY = jr.key(5)
MODEL = SDE(
    drifts.MLP(3, width=20, depth=2, key=jr.key(1)),
    diffusions.Diagonal.learned(3, width=12, depth=1, key=jr.key(2)),
)
STRATONOVICH = SDE(MODEL.drift, MODEL.diffusion, "stratonovich")
Y0S = jr.normal(KEY, (44, 3))  # 11 a device, padded to 16
FOUR = jax.make_mesh((4,), ("paths",))
GRID = jax.make_mesh((2, 2), ("data", "model"))
AUTO = jax.make_mesh((4,), ("paths",), axis_types=(AxisType.Auto,))


def both(mesh, sde=MODEL, ts=(0.0, 1.0, 9), **kwargs):
    """On one device, and spread over the mesh."""
    return [rollout(sde, Y0S, ts, key=KEY, mesh=m, **kwargs) for m in (None, mesh)]


def same(a, b):
    """To the bit where the compiler keeps bits (JAX 0.10), else in all but the last places."""
    if jax.__version_info__ < (0, 11):
        np.testing.assert_array_equal(a, b)
    else:
        last_places(a, b)


def last_places(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def same_bits():
    for mesh in (FOUR, AUTO, GRID):
        for noise in (CounterNoise(), JaxNoise()):
            alone, spread = both(mesh, noise=noise)
            same(alone, spread)
    assert len(spread.sharding.device_set) == 4
    assert {s.data.shape for s in spread.addressable_shards} == {(11, 3)}


def arrays_bound_to_one_device():
    y0s = jax.device_put(Y0S, jax.devices()[0])
    key = jax.device_put(KEY, jax.devices()[2])
    spread = rollout(MODEL, y0s, (0.0, 1.0, 9), key=key, mesh=FOUR)
    same(spread, rollout(MODEL, Y0S, (0.0, 1.0, 9), key=KEY))


def saves():
    alone, spread = both(FOUR, save=Every(3))
    same(alone.ys, spread.ys)
    for save in (Last(Moments()), Running(Moments()), Every(3, Moments("diagonal"))):
        alone, spread = both(FOUR, save=save)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), alone, spread
        )
    alone, spread = both(FOUR, save=Running(Histogram(np.linspace(-2.0, 2.0, 9), 1)))
    same(alone.counts, spread.counts)
    alone, spread = both(FOUR, save=Fold(0.0, lambda c, t, y: jnp.maximum(c, y[0])))
    same(alone, spread)


def times_and_controls():
    ts = np.sort(jr.uniform(KEY, (44, 5)), axis=1)
    alone, spread = both(FOUR, ts=ts, substeps=2)
    same(alone.ys, spread.ys)
    make = lambda u: SDE(drifts.Linear(-jnp.eye(3), u), diffusions.Scalar(0.3, 3))  # noqa: E731
    alone, spread = both(FOUR, sde=make, controls=jr.normal(KEY, (44, 3)))
    same(alone, spread)


def gradients():
    def loss(sde, y0s, mesh, **kwargs):
        return jnp.sum(jnp.sin(rollout(sde, y0s, (0.0, 1.0, 9), key=KEY, mesh=mesh, **kwargs)))

    for sde, kwargs in (
        (MODEL, {}),
        (STRATONOVICH, dict(scheme=dfx.ReversibleHeun(), adjoint=Reversible())),
    ):
        of = eqx.filter_grad(lambda pair, mesh, k=kwargs: loss(*pair, mesh, **k))
        alone, spread = of((sde, Y0S), None), of((sde, Y0S), FOUR)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone, spread
        )

    def mean(scale, mesh):
        sde = SDE(drifts.Linear(-scale * jnp.eye(3), jnp.ones(3)), diffusions.Scalar(0.3, 3))
        save = Running(Moments())
        return jnp.sum(rollout(sde, Y0S, (0.0, 1.0, 9), key=KEY, mesh=mesh, save=save).covariance)

    alone, spread = (jax.grad(mean)(jnp.float32(1.0), mesh) for mesh in (None, FOUR))
    np.testing.assert_allclose(alone, spread, rtol=1e-4)


def inside_jit_with_sharded_inputs():
    y0s = jax.device_put(Y0S, NamedSharding(FOUR, PartitionSpec("paths")))
    spread = jax.jit(lambda y0s: rollout(MODEL, y0s, (0.0, 1.0, 9), key=KEY, mesh=FOUR))(y0s)
    alone = rollout(MODEL, Y0S, (0.0, 1.0, 9), key=KEY)
    last_places(spread, alone)  # the model's arrays are constants there, and laid out otherwise
    legacy = rollout(MODEL, y0s, (0.0, 1.0, 9), key=jr.key_data(KEY), mesh=FOUR)
    same(legacy, alone)


def nothing_is_moved_in_the_loop():
    """No device hears of another, but for joining what was reduced, once."""

    def run(save):
        return jax.jit(lambda y: rollout(MODEL, y, (0.0, 1.0, 9), key=KEY, mesh=FOUR, save=save))

    text = run(Last()).lower(Y0S).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "collective-permute"))
    text = run(Running(Moments())).lower(Y0S).compile().as_text()
    assert "all-gather" in text or "all-reduce" in text


def a_number_of_paths_that_does_not_fit_is_refused():
    try:
        rollout(MODEL, Y0S[:41], (0.0, 1.0, 9), key=KEY, mesh=FOUR)
    except ValueError as error:
        assert "41 paths" in str(error) and "44" in str(error)
    else:
        raise AssertionError("not refused")


for check in (
    same_bits,
    arrays_bound_to_one_device,
    saves,
    times_and_controls,
    gradients,
    inside_jit_with_sharded_inputs,
    nothing_is_moved_in_the_loop,
    a_number_of_paths_that_does_not_fit_is_refused,
):
    check()
    print("passed", check.__name__)
