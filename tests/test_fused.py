"""The fused kernel: against a plain scan, its noise bit for bit, what it refuses, how it lowers."""

import contextlib
import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import diffusions, drifts
from dynlm.sde import SDE
from dynlm.simulate import _fused, _fused_spec, _noise

TARGETS = ("gpu", "tpu")
STEPS = 5

DRIFTS = {
    "MLP": lambda dim, key: drifts.MLP(dim, width=24, depth=2, key=key),
    "autonomous": lambda dim, key: drifts.MLP(dim, width=8, depth=1, time=None, key=key),
    "Fourier": lambda dim, key: drifts.MLP(
        dim, width=40, depth=3, activation=jnp.tanh, time=drifts.Fourier((0.5, 1.0)), key=key
    ),
    "Linear": lambda dim, key: drifts.Linear(jr.normal(key, (dim, dim)), jnp.ones(dim)),
}
DIFFUSIONS = {
    "Scalar": lambda dim, key: diffusions.Scalar(0.7, dim),
    "Diagonal": lambda dim, key: diffusions.Diagonal(jnp.linspace(-1.0, 1.0, dim)),
    "Constant": lambda dim, key: diffusions.Constant(
        jnp.eye(dim) + 0.1 * jr.normal(key, (dim, dim))
    ),
    "a function of time": lambda dim, key: diffusions.Diagonal(
        lambda t, y: jnp.full_like(y, jnp.sin(t)), dim, "time"
    ),
    **{
        f"{family.__name__} on {on}": lambda dim, key, family=family, on=on: family.learned(
            dim, on=on, width=24, scale=0.5, floor=0.1, key=key
        )
        for family in (diffusions.Scalar, diffusions.Diagonal)
        for on in ("nothing", "time", "state")
    },
}
# Every family of drift with every one of diffusion, at dimensions that are and are not padded.
CASES = [
    (drift, diffusion, (1, 3, 16, 20)[(i + 2 * j) % 4], TARGETS[(i + j) % 2])
    for i, diffusion in enumerate(DIFFUSIONS)
    for j, drift in enumerate(("MLP", "Linear"))
] + [
    (drift, "Diagonal on state", 3, target)
    for drift in ("autonomous", "Fourier")
    for target in TARGETS
]


def sde_of(drift="MLP", diffusion="Diagonal on state", dim=3, key=0):
    one, two = jr.split(jr.key(key))
    return SDE(DRIFTS[drift](dim, one), DIFFUSIONS[diffusion](dim, two))


def inputs(dim, paths=21, steps=STEPS):
    """States and streams, uneven steps of which one is 0, and a first number past 2^31."""
    hs = jnp.abs(jnp.sin(jnp.arange(steps, dtype=jnp.float32))) * 0.2  # sin 0 = 0
    ts = 3.0 + jnp.cumsum(hs) - hs
    streams = jax.vmap(_noise.stream)(jr.split(jr.key(7), paths))
    return jr.normal(jr.key(8), (paths, dim)), streams, ts, hs, jnp.uint32(2**31 + 11)


@eqx.filter_jit
def plain(sde, ys, streams, ts, hs, first):
    def step(ys, at):
        number, t, h = at

        def one(y, stream):
            dw = jnp.sqrt(h) * _noise.normals(stream, number, sde.noise_dim)
            return y + sde.drift(t, y) * h + sde.diffusion(t, y).mv(dw)

        return jax.vmap(one)(ys, streams), None

    numbers = first + jnp.arange(len(hs), dtype=jnp.uint32)
    return jax.lax.scan(step, ys, (numbers, ts, hs))[0]


@eqx.filter_jit
def fused(sde, *args, **how):
    return _fused.advance(_fused_spec.spec_of(sde), *args, interpret=True, **{"block": 16} | how)


@pytest.mark.parametrize("drift, diffusion, dim, target", CASES)
def test_it_makes_the_steps_of_a_plain_scan(drift, diffusion, dim, target):
    sde = sde_of(drift, diffusion, dim)
    args = inputs(dim)
    expected = plain(sde, *args)
    assert jnp.max(jnp.abs(expected - args[0])) > 0.1
    states = fused(sde, *args, target=target)
    np.testing.assert_allclose(states, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_wide_layers_are_summed_in_chunks(target, monkeypatch):
    key = jr.key(1)
    sde = SDE(
        drifts.MLP(40, width=70, key=key),
        diffusions.Scalar.learned(40, on="state", width=100, key=key),
    )
    args = inputs(40)
    assert jnp.allclose(fused(sde, *args, target=target), plain(sde, *args), atol=2e-5)
    rounded = fused(sde, *args, target=target, dtype=jnp.bfloat16)
    monkeypatch.setattr(_fused, "SHARED", 0)  # as if bfloat16 factors were too many to stay
    chunked = fused(sde, *args, target=target, dtype=jnp.bfloat16, block=32)
    assert jnp.allclose(chunked, rounded, atol=0.01)


NUMBERS = (0, 5, 2**31 + 3, 2**32 - 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dim", [1, 20])  # JAX 0.12 rounds 3 and 4 otherwise: docs/noise.md
def test_its_noise_is_that_of_normals_bit_for_bit(target, dim):
    still = drifts.Linear(jnp.zeros((dim, dim)), jnp.zeros(dim))
    sde, paths, one = SDE(still, diffusions.Scalar(1.0, dim)), 37, jnp.ones(1)
    streams = jax.vmap(_noise.stream)(jr.split(jr.key(3), paths))
    draw = jax.jit(jax.vmap(lambda s, n: _noise.normals(s, n, dim), in_axes=(0, None)))
    for number in map(jnp.uint32, NUMBERS):
        drawn = fused(sde, jnp.zeros((paths, dim)), streams, one, one, number, target=target)
        np.testing.assert_array_equal(
            drawn.view(jnp.uint32), draw(streams, number).view(jnp.uint32)
        )


def test_its_random_bits_are_those_of_the_noise():
    streams = jax.vmap(_noise.stream)(jr.split(jr.key(3), 16))
    words = jr.bits(jr.key(4), (9,))
    for number in map(jnp.uint32, NUMBERS):
        expected = jax.vmap(_noise.bits, in_axes=(0, None, None))(streams, number, words)
        ours = _noise.hashed(streams[:, :1], streams[:, 1:], number, words[None])
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_several_launches_are_one(target):
    sde, (ys, streams, ts, hs, first) = sde_of(), inputs(3, steps=6)
    once = fused(sde, ys, streams, ts, hs, first, target=target)
    for part in (slice(0, 3), slice(3, 6)):
        number = first + jnp.uint32(part.start)
        ys = fused(sde, ys, streams, ts[part], hs[part], number, target=target)
    np.testing.assert_array_equal(once, ys)


def test_neither_neighbours_nor_blocks_change_a_path():
    sde, (ys, streams, *rest) = sde_of(), inputs(3)
    everyone = fused(sde, ys, streams, *rest, target="gpu")
    few = fused(sde, ys[4:9], streams[4:9], *rest, target="gpu", block=64)
    np.testing.assert_allclose(everyone[4:9], few, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_no_steps_or_no_paths(target):
    sde, (ys, streams, ts, hs, first) = sde_of(), inputs(3)
    same = fused(sde, ys, streams, ts[:0], hs[:0], first, target=target)
    assert jnp.array_equal(same, ys)
    assert fused(sde, ys[:0], streams[:0], ts, hs, first, target=target).shape == (0, 3)


@pytest.mark.parametrize("target, diffusion", [("gpu", "Diagonal on state"), ("tpu", "Constant")])
def test_bfloat16_is_near_and_not_the_same(target, diffusion):
    sde, args = sde_of(diffusion=diffusion), inputs(3)
    exact = fused(sde, *args, target=target)
    rounded = fused(sde, *args, target=target, dtype=jnp.bfloat16)
    assert rounded.dtype == jnp.float32
    error = float(jnp.max(jnp.abs(rounded - exact)))
    assert 1e-5 < error < 0.02  # a factor has 8 bits


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("activation", _fused_spec.ACTIVATIONS, ids=lambda f: f.__name__)
def test_every_activation_in_the_table_lowers(activation, target):
    drift = drifts.MLP(3, width=8, depth=1, activation=activation, key=jr.key(0))
    sde = SDE(drift, diffusions.Scalar(1.0, 3))
    assert isinstance(_fused_spec.spec_of(sde), _fused_spec.Spec)
    assert KERNEL[target] in lowered(sde, inputs(3), target)


def net_diagonal(s):
    return SDE(drifts.Linear(-jnp.eye(2), jnp.zeros(2)), diffusions.Diagonal(s, 2, "state"))


MLP2 = drifts.MLP(2, width=8, key=jr.key(0))
ON_STATE = diffusions.Diagonal.learned(2, on="state", width=8, key=jr.key(1))
ONE = diffusions.Scalar(1.0, 2)


@pytest.mark.parametrize(
    "sde, sentence",
    [
        (SDE(drifts.Function(lambda t, y: -y), ONE), "has the drift `Function`.*`drifts.MLP` and"),
        (SDE(drifts.Sum(MLP2, MLP2), ONE), "has the drift `Sum`"),
        (
            SDE(MLP2, diffusions.Full(jnp.eye(2))),
            "has the diffusion `Full`; .*`diffusions.Diagonal`, `Scalar` and `Constant`",
        ),
        (
            SDE(MLP2, diffusions.Diagonal.learned(2, on="component", width=4, key=jr.key(2))),
            "`diffusions.Diagonal` that depends on 'component' and is no network",
        ),
        (net_diagonal(lambda t, y: jnp.abs(y)), "depends on 'state' and is no network"),
        (
            SDE(drifts.MLP(2, activation=jax.nn.elu, key=jr.key(0)), ONE),
            "the activation `elu`; the fused kernel runs jax.nn's silu, tanh, relu, softplus, gelu",
        ),
        (SDE(MLP2, ON_STATE, "stratonovich"), "is stratonovich, its drift written as strat"),
        (SDE(MLP2, ON_STATE, "ito", "stratonovich"), "is ito, its drift written as stratonovich"),
        (SDE(MLP2, diffusions.Scalar(1.0, 3)), "of dimension 3 has a network from and to"),
        (
            SDE(drifts.Linear(jnp.eye(2, dtype=jnp.float16), jnp.zeros(2, jnp.float16)), ONE),
            "holds parameters of dtype float16; the fused kernel runs float32 ones",
        ),
    ],
)
def test_what_it_does_not_run_is_refused_in_a_sentence(sde, sentence):
    refusal = _fused_spec.spec_of(sde)
    assert isinstance(refusal, str)
    assert re.search(sentence, refusal), refusal
    assert refusal.startswith("`sde` ") and refusal.endswith(". Use `kernel=Scan()`.")


def test_additive_noise_has_one_calculus():
    sde = SDE(MLP2, ONE, "stratonovich")
    args = inputs(2)
    assert jnp.allclose(fused(sde, *args, target="gpu"), plain(sde, *args), atol=1e-5)


def test_bad_arguments(unchecked):
    spec, (ys, *rest) = _fused_spec.spec_of(sde_of()), inputs(3)
    for block in (8, 48):
        with pytest.raises(ValueError, match=f"`block` is {block}. Use a power of two from 16"):
            _fused.advance(spec, ys, *rest, target="gpu", block=block)
    with pytest.raises(ValueError, match="`dtype` is float16. Use float32 or bfloat16"):
        _fused.advance(spec, ys, *rest, target="gpu", dtype=jnp.float16)
    with pytest.raises(ValueError, match="`y`, `ts` and `hs` are bfloat16, float32 and float32"):
        _fused.advance(spec, ys.astype(jnp.bfloat16), *rest, target="gpu")


KERNEL = {"gpu": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}
PLATFORM = {"gpu": "cuda", "tpu": "tpu"}


def a_gpu():
    """JAX 0.12 asks which one, where none is there."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H200", num_cores=None, platform="gpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def lowered(sde, args, target, **how):
    """The text of the program for `target`; any warning is an error."""
    spec = _fused_spec.spec_of(sde)

    def run(*args):
        return _fused.advance(spec, *args, target=target, **how)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated")  # from 0.12
        with a_gpu() if target == "gpu" else contextlib.nullcontext():
            program = jax.jit(run).trace(*args).lower(lowering_platforms=(PLATFORM[target],))
    return program.as_text()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "diffusion, dtype",
    [(diffusion, jnp.float32) for diffusion in DIFFUSIONS]
    + [("Diagonal on state", jnp.bfloat16), ("Constant", jnp.bfloat16)],
)
def test_both_targets_lower_without_their_hardware(target, diffusion, dtype):
    sde = sde_of("MLP" if "on" in diffusion else "Linear", diffusion, 20)
    assert KERNEL[target] in lowered(sde, inputs(20), target, dtype=dtype)


def test_the_kernel_does_not_grow_with_the_steps():
    sde = sde_of(dim=64)
    for target in TARGETS:
        few, many = (len(lowered(sde, inputs(64, steps=n), target)) for n in (4, 4000))
        assert abs(few - many) < 0.02 * few
