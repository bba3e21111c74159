"""Derivatives of rollouts: against Diffrax, between adjoints, in memory, where they might break."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import SDE, diffusions, drifts, rollout, solve
from dynlm.simulate import (
    AtSteps,
    Checkpointed,
    Every,
    JaxNoise,
    Last,
    Moments,
    Reversible,
    Running,
    Scan,
)

KEY = jr.key(3)
Y0S = jr.normal(jr.key(8), (5, 2))


def model(noise="state", calculus="ito"):
    diffusion = {
        "state": lambda: diffusions.Diagonal.learned(2, width=5, depth=1, key=jr.key(2)),
        "component": lambda: diffusions.Diagonal.learned(
            2, on="component", width=4, depth=1, key=jr.key(2)
        ),
        "time": lambda: diffusions.Scalar.learned(2, on="time", width=4, depth=1, key=jr.key(2)),
        "full": lambda: diffusions.Full.learned(2, width=4, depth=1, key=jr.key(2)),
        "low rank": lambda: diffusions.LowRank.learned(2, rank=1, width=4, depth=1, key=jr.key(2)),
    }[noise]()
    return SDE(drifts.MLP(2, width=6, depth=1, key=jr.key(1)), diffusion, calculus)


def weighted(ys):
    """A loss that no two entries enter alike."""
    return jnp.sum(jnp.sin(ys * jnp.arange(1.0, ys.size + 1).reshape(ys.shape)))


def gradient(sde, ts=(0.0, 1.0, 12), y0s=Y0S, key=KEY, save=None, loss=weighted, **kwargs):
    """By the model and by the states at the start."""
    save = Every(4) if save is None else save

    @eqx.filter_jit
    def of(learned, y0s):
        sde_ = eqx.combine(learned, rest)
        out = rollout(sde_, y0s, ts, key=key, save=save, **kwargs)
        return loss(out.ys if hasattr(out, "ys") else out)

    learned, rest = eqx.partition(sde, eqx.is_inexact_array)
    return jax.grad(of, argnums=(0, 1))(learned, y0s)


def close(a, b, rtol=2e-4):
    leaves = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    scale = max(float(jnp.abs(y).max()) for _, y in leaves)
    for x, y in leaves:
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * scale)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "scheme", "calculus"),
    [
        ("state", dfx.Euler(), "ito"),
        ("full", dfx.Euler(), "ito"),
        ("low rank", dfx.Euler(), "ito"),
        ("component", dfx.ItoMilstein(), "ito"),
        ("component", dfx.StratonovichMilstein(), "stratonovich"),
        ("time", dfx.ShARK(), "ito"),
        ("state", dfx.Heun(), "stratonovich"),
        ("full", dfx.ReversibleHeun(), "stratonovich"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_equal_to_diffrax(noise, scheme, calculus):
    """By model and start, through five paths of 12 steps, with Diffrax's DirectAdjoint."""
    sde = model(noise, calculus)
    learned, rest = eqx.partition(sde, eqx.is_inexact_array)
    ts = np.linspace(0.0, 1.0, 4)

    def theirs(learned, y0s):
        def one(i, y0):
            key = jr.fold_in(KEY, i)
            sde = eqx.combine(learned, rest)
            sol = solve(sde, y0, ts, key=key, solver=scheme, dt=1 / 12, adjoint=dfx.DirectAdjoint())
            return sol.path.ys

        return weighted(jax.vmap(one)(jnp.arange(5), y0s))

    expected = jax.jit(jax.grad(theirs, argnums=(0, 1)))(learned, Y0S)
    close(gradient(sde, scheme=scheme), expected)
    if type(scheme) is dfx.ReversibleHeun:
        close(gradient(sde, scheme=scheme, adjoint=Reversible()), expected)


@pytest.mark.parametrize(
    "save", [Every(1), Every(5), AtSteps([1, 2, 7, 11]), Last()], ids=["1", "5", "uneven", "last"]
)
def test_levels_and_chunks_do_not_change_it(save):
    sde = model()
    expected = gradient(sde, ts=(0.0, 1.0, 11), save=save, adjoint=Checkpointed(0))
    for levels in (1, 2, 3):
        close(gradient(sde, ts=(0.0, 1.0, 11), save=save, adjoint=Checkpointed(levels)), expected)
    close(
        gradient(
            sde,
            ts=(0.0, 1.0, 11),
            save=save,
            adjoint=Checkpointed(2),
            kernel=Scan(chunk=4, unroll=2),
        ),
        expected,
    )
    other = gradient(sde, ts=(0.0, 1.0, 11), save=save, noise=JaxNoise())
    assert not np.allclose(jax.tree.leaves(other)[0], jax.tree.leaves(expected)[0], rtol=1e-2)


@pytest.mark.parametrize("noise", ["state", "full"])
@pytest.mark.parametrize(
    "save", [Every(3), AtSteps([0, 5, 6]), Last()], ids=["3", "uneven", "last"]
)
def test_taking_the_steps_back(noise, save, x64):
    """To rounding, the derivative by going back is that by checkpoints; in float64, so exactly."""
    sde = jax.tree.map(
        lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x,
        model(noise, "stratonovich"),
    )
    arguments = dict(
        save=save, y0s=Y0S.astype(jnp.float64), scheme=dfx.ReversibleHeun(), ts=(0.0, 1.0, 12)
    )
    back = gradient(sde, adjoint=Reversible(), **arguments)
    close(back, gradient(sde, **arguments), rtol=1e-9)


def test_forward_mode_is_the_transpose_of_reverse_mode():
    sde = model()

    def end(y0s, scale):
        scaled = eqx.tree_at(
            lambda s: s.base.net.net.layers[0].weight, sde, replace_fn=lambda w: w * scale
        )
        return rollout(scaled, y0s, (0.0, 1.0, 10), key=KEY)

    direction = (jr.normal(KEY, Y0S.shape), jnp.float32(0.7))
    out, along = jax.jvp(end, (Y0S, jnp.float32(1.0)), direction)
    weight = jr.normal(jr.key(4), out.shape)
    back = jax.vjp(end, Y0S, jnp.float32(1.0))[1](weight)
    forward = jnp.vdot(along, weight)
    np.testing.assert_allclose(
        forward, jnp.vdot(back[0], direction[0]) + back[1] * direction[1], rtol=1e-4
    )
    eps = 1e-2
    up, down = (end(Y0S + s * eps * direction[0], 1 + s * eps * direction[1]) for s in (1, -1))
    np.testing.assert_allclose(along, (up - down) / (2 * eps), rtol=2e-2, atol=2e-3)
    jacobian = jax.jacfwd(lambda s: end(Y0S, s))(jnp.float32(1.0))
    assert jacobian.shape == out.shape


@pytest.mark.parametrize("sigma", [0.0, 0.4])
@pytest.mark.parametrize(
    "scheme, adjoint",
    [
        (dfx.Euler(), Checkpointed()),
        (dfx.ReversibleHeun(), Reversible()),
        (dfx.ShARK(), Checkpointed(2)),
    ],
    ids=["euler", "reversible", "shark"],
)
def test_finite_under_padding_equal_times_and_zero_noise(sigma, scheme, adjoint):
    ts = jnp.array([0.0, 0.0, 0.5, 1.0, 1.0])

    def loss(y0s, mu, sigma, ts):
        sde = SDE(
            drifts.Function(lambda t, y: mu * y), diffusions.Scalar(lambda t, y: sigma, 2, "time")
        )
        return jnp.sum(
            rollout(sde, y0s, ts, key=KEY, substeps=2, scheme=scheme, adjoint=adjoint).ys ** 2
        )

    if isinstance(adjoint, Reversible):  # its derivative is by what is passed, not closed over

        def loss(y0s, mu, sigma, ts):  # noqa: F811
            sde = SDE(drifts.Linear(mu * jnp.eye(2), jnp.zeros(2)), diffusions.Scalar(sigma, 2))
            paths = rollout(sde, y0s, ts, key=KEY, substeps=2, scheme=scheme, adjoint=adjoint)
            return jnp.sum(paths.ys**2)

    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(Y0S, jnp.array(0.3), jnp.array(sigma), ts)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in grads)
    assert all(float(jnp.abs(g).max()) > 0 for g in grads[:3])
    assert float(jnp.abs(grads[3]).max()) == 0  # times are not differentiated


def test_through_running_moments():
    """The derivative of the variance by the noise strength, by finite differences."""

    def variance(s):
        sde = SDE(drifts.Linear(-jnp.eye(2), jnp.zeros(2)), diffusions.Scalar(s, 2))
        save = Running(Moments("diagonal"), since=2)
        return jnp.sum(rollout(sde, Y0S, (0.0, 1.0, 8), key=KEY, save=save).covariance)

    s, eps = jnp.float32(0.5), 1e-2
    slope = (variance(s + eps) - variance(s - eps)) / (2 * eps)
    np.testing.assert_allclose(jax.grad(variance)(s), slope, rtol=1e-3)


# Memory -----------------------------------------------------------------------------------------


def temporary(steps, adjoint, noise_dim=2, scheme=None, paths=64, save=None, chunk=None):
    """Bytes that the gradient of the final state needs between its start and its end."""
    wide = jnp.ones((2, noise_dim)) / noise_dim
    sde = SDE(
        drifts.MLP(2, width=16, depth=1, key=KEY),
        diffusions.Function(lambda t, y: wide, 2, noise_dim, "additive"),
    )

    def loss(y0s):
        options = dict(adjoint=adjoint, scheme=scheme, save=save, kernel=Scan(chunk=chunk))
        out = rollout(sde, y0s, (0.0, 1.0, steps), key=KEY, **options)
        return jnp.sum((out if save is None else out.ys) ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((paths, 2))).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_checkpoints():
    """About n states, 2 sqrt(n) and 3 cbrt(n), where a state of 64 paths is 512 bytes."""
    n, state = 1000, 64 * 2 * 4
    none = temporary(1, Checkpointed(1))
    whole, one, two, three = (temporary(n, Checkpointed(levels)) - none for levels in range(4))
    assert whole > 5 * one
    assert 0.95 * n * state < one < 1.2 * n * state
    assert two < 0.15 * one and three < 0.6 * two


def test_the_reversible_adjoint_needs_no_memory_for_steps():
    scheme = dfx.ReversibleHeun()
    few, many = (temporary(n, Reversible(), scheme=scheme) for n in (16, 2048))
    assert few == many
    assert temporary(2048, Checkpointed(1), scheme=scheme) > 20 * many


def test_noise_is_not_kept():
    """With 256 noises for 2 states, what is kept for each step is the states."""
    n = 200
    grown = temporary(n, Checkpointed(1), noise_dim=256) - temporary(n // 2, Checkpointed(1), 256)
    assert grown < 1.2 * (n / 2) * 64 * 2 * 4
    chunk = 16 * 64 * 256 * 4  # bytes; 255 steps are 15 chunks and 15 steps left over
    assert temporary(255, Checkpointed(1), 256, chunk=16) < 4 * chunk


def test_unevenly_saved_states_cost_no_more_steps():
    """Twenty saved steps and then a thousand: the states kept are about as many as the steps."""
    save = AtSteps([*range(20), 1000])
    state = 64 * 2 * 4
    assert temporary(1000, Checkpointed(1), save=save) < 1.3 * 1000 * state + 40 * state
