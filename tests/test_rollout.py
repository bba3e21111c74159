"""`rollout`: the same paths as `solve`, the same bits whatever the company, and what is refused."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import SDE, Langevin, Trajectory, diffusions, drifts, problems, rollout, solve
from dynlm.simulate import (
    At,
    AtSteps,
    Checkpointed,
    CounterNoise,
    Every,
    Fold,
    Histogram,
    JaxNoise,
    Last,
    Moments,
    Reversible,
    Running,
    Scan,
)

KEY = jr.key(11)

# On a CPU under JAX 0.10 the bits are the same; under later versions, and on other devices,
# programs whose shapes differ may round differently in the last places.
EXACT = jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11)


def same(a, b):
    if EXACT:
        np.testing.assert_array_equal(a, b)
    else:
        tolerance = 2e-6 if jax.default_backend() == "cpu" else 1e-5
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def mlp(dim=3, width=12, on="state"):
    return SDE(
        drifts.MLP(dim, width=width, depth=2, key=jr.key(1)),
        diffusions.Diagonal.learned(dim, on=on, width=width, depth=1, key=jr.key(2)),
    )


def states(n, dim, key=KEY):
    return jr.normal(jr.fold_in(key, 99), (n, dim))


def solved(sde, y0s, ts, solver, key=KEY, **kwargs):
    """The same paths, one at a time, by Diffrax."""

    def one(i, y0, ts):
        return solve(sde, y0, ts, key=jr.fold_in(key, i), solver=solver, **kwargs).path.ys

    axis = 0 if np.ndim(ts) == 2 else None
    return jax.vmap(one, in_axes=(0, 0, axis))(jnp.arange(len(y0s)), y0s, ts)


# Families of diffusions -----------------------------------------------------------------------

DIFFUSIONS = {
    "constant": lambda: diffusions.Constant(jnp.array([[0.4, 0.1], [0.0, 0.3]])),
    "scalar": lambda: diffusions.Scalar(0.3, 2),
    "component": lambda: diffusions.Diagonal(lambda t, y: 0.3 * jnp.cos(y), 2, "component"),
    "diagonal in time": lambda: diffusions.Diagonal(
        lambda t, y: 0.3 + 0.5 * t * jnp.ones(2), 2, "time"
    ),
    "low rank": lambda: diffusions.LowRank.learned(2, rank=1, width=6, depth=1, key=jr.key(4)),
    "full": lambda: diffusions.Full.learned(2, width=6, depth=1, key=jr.key(5)),
    "function": lambda: diffusions.Function(lambda t, y: 0.3 * y[:, None] * jnp.ones((2, 1)), 2, 1),
}
DRIFT = drifts.Function(lambda t, y: jnp.sin(2 * y) - t * y[::-1])


def pairs():
    for name, make in DIFFUSIONS.items():
        noise = make().noise
        yield name, dfx.Euler(), "ito"
        yield name, dfx.Heun(), "stratonovich"
        if name in ("component", "low rank", "full"):
            yield name, dfx.ReversibleHeun(), "stratonovich"
        if noise == "commutative":
            yield name, dfx.ItoMilstein(), "ito"
            yield name, dfx.StratonovichMilstein(), "stratonovich"
        if noise == "additive":
            yield name, dfx.ShARK(), "ito"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scheme", "calculus"),
    list(pairs()),
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_the_paths_of_solve(name, scheme, calculus):
    """Saved states of five paths, step by step those of Diffrax."""
    sde = SDE(DRIFT, DIFFUSIONS[name](), calculus)
    y0s = states(5, 2)
    ts = np.linspace(0.0, 1.0, 5)
    ours = rollout(sde, y0s, ts, key=KEY, scheme=scheme, dt=1 / 16)
    theirs = solved(sde, y0s, ts, scheme, dt=1 / 16)
    assert isinstance(ours, Trajectory) and ours.mask.all()
    np.testing.assert_allclose(ours.ts, jnp.broadcast_to(ts, (5, 5)), rtol=1e-6)
    np.testing.assert_allclose(ours.ys, theirs, rtol=2e-5, atol=2e-6)


# Times ----------------------------------------------------------------------------------------


def test_uneven_times_equal_times_and_times_of_their_own():
    sde, y0s = mlp(), states(4, 3)
    padded = np.array([0.0, 0.1, 0.35, 1.0, 1.0])
    ours = rollout(sde, y0s, padded, key=KEY, substeps=3)
    theirs = solved(sde, y0s, padded, dfx.Euler(), substeps=3)
    np.testing.assert_allclose(ours.ys, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ours.ys[:, 3], ours.ys[:, 4])
    inside = rollout(sde, y0s, np.array([0.0, 0.0, 0.2, 0.2, 1.0]), key=KEY)
    np.testing.assert_array_equal(inside.ys[:, 0], inside.ys[:, 1])
    np.testing.assert_array_equal(inside.ys[:, 2], inside.ys[:, 3])
    own = np.sort(jr.uniform(KEY, (4, 5)), axis=1) + np.arange(4)[:, None]
    ours = rollout(sde, y0s, own, key=KEY, substeps=2)
    theirs = solved(sde, y0s, jnp.asarray(own), dfx.Euler(), substeps=2)
    np.testing.assert_allclose(ours.ys, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.ts, own)


def test_dt_cuts_gaps_unevenly_as_solve_does():
    sde, y0s = mlp(), states(3, 3)
    ts = np.array([0.0, 0.1, 0.35, 1.0])  # 3, 7 and 17 steps
    ours = rollout(sde, y0s, ts, key=KEY, dt=0.04)
    theirs = solved(sde, y0s, ts, dfx.Euler(), dt=0.04)
    np.testing.assert_allclose(ours.ys, theirs, rtol=1e-4, atol=1e-5)


def test_equal_times_repeat_the_state_even_where_the_drift_is_infinite():
    """A bridge to 1 at time 1, whose drift has no value there."""
    sde = SDE(drifts.Function(lambda t, y: (1 - y) / (1 - t)), diffusions.Scalar(0.5, 1))
    paths = rollout(sde, jnp.zeros((3, 1)), np.array([0.0, 0.5, 1.0, 1.0]), key=KEY, substeps=4)
    assert paths.mask.all()
    np.testing.assert_array_equal(paths.ys[:, 2], paths.ys[:, 3])


def test_saved_times_are_those_given():
    ts = np.array([0.0, 0.3, 0.6, 0.9], np.float32)
    paths = rollout(mlp(), states(3, 3), ts, key=KEY, dt=0.1)
    np.testing.assert_array_equal(paths.ts, np.broadcast_to(ts, (3, 4)))


def test_times_to_save_may_be_asked_for_inside_jit():
    run = jax.jit(lambda y: rollout(OU, y, (0.0, 1.0, 8), key=KEY, save=At([0.0, 0.5])).ys)
    every = rollout(OU, Y0S, (0.0, 1.0, 8), key=KEY, save=Every(4)).ys
    np.testing.assert_allclose(run(Y0S), every[:, :2], rtol=1e-6)


def test_times_may_be_traced():
    sde, y0s = mlp(), states(3, 3)
    plain = rollout(sde, y0s, (0.5, 2.0, 12), key=KEY)
    traced = jax.jit(lambda t0, t1: rollout(sde, y0s, (t0, t1, 12), key=KEY))(0.5, 2.0)
    np.testing.assert_allclose(traced, plain, rtol=1e-5)
    vector = jax.jit(lambda ts: rollout(sde, y0s, ts, key=KEY).ys[:, -1])
    np.testing.assert_allclose(vector(jnp.linspace(0.5, 2.0, 13)), plain, rtol=1e-5)


# The same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sde",
    [
        mlp(1, 5),
        mlp(3, 20),
        mlp(16, 64),
        SDE(drifts.MLP(3, key=jr.key(1)), diffusions.Scalar(0.3, 3)),
    ],
    ids=["1", "3", "16", "additive"],
)
@pytest.mark.parametrize("steps", [1, 9])
def test_bits_do_not_depend_on_how_a_batch_is_split(sde, steps):
    y0s = states(70, sde.dim)
    whole = np.asarray(rollout(sde, y0s, (0.0, 1.0, steps), key=KEY))
    for a, b in ((0, 1), (1, 2), (3, 6), (0, 16), (16, 33), (33, 70)):
        same(rollout(sde, y0s[a:b], (0.0, 1.0, steps), key=KEY, first=a), whole[a:b])


def test_keys_whose_draws_depend_on_the_batch_are_refused(unchecked):
    rbg = jr.key(3, impl="rbg")
    whole = rollout(OU, jnp.ones((40, 2)), (0.0, 1.0, 4), key=rbg)
    same(rollout(OU, jnp.ones((20, 2)), (0.0, 1.0, 4), key=rbg, first=20), whole[20:])
    for key, noise in ((rbg, JaxNoise()), (jr.key(3, impl="unsafe_rbg"), None)):
        with pytest.raises(ValueError, match="depend on the batch"):
            rollout(OU, jnp.ones((40, 2)), (0.0, 1.0, 4), key=key, noise=noise)


@pytest.mark.parametrize("noise", [CounterNoise(), JaxNoise()], ids=["counter", "jax"])
def test_bits_do_not_depend_on_chunks(noise):
    sde, y0s = mlp(), states(5, 3)
    runs = [
        np.asarray(rollout(sde, y0s, (0.0, 1.0, 11), key=KEY, noise=noise, kernel=Scan(chunk=c)))
        for c in (1, 4, 11, 16)
    ]
    for run in runs[1:]:
        same(run, runs[0])
    np.testing.assert_allclose(
        rollout(sde, y0s, (0.0, 1.0, 11), key=KEY, noise=noise, kernel=Scan(unroll=4)),
        runs[0],
        rtol=1e-5,
    )


@pytest.mark.parametrize("noise", [CounterNoise(), JaxNoise()], ids=["counter", "jax"])
@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_noise_is_bit_identical(noise, chunk):
    """Drift 0, diffusion 1, step 1: the increment is the draw itself."""
    sde = SDE(drifts.Function(lambda t, y: jnp.zeros_like(y)), diffusions.Scalar(1.0, 5))
    path = rollout(
        sde,
        jnp.zeros((37, 5)),
        (0.0, 1.0, 1),
        key=KEY,
        noise=noise,
        first=2**32 - 20,  # numbers wrap, so the last are those of paths 0 to 16
        kernel=Scan(chunk=chunk),
    )

    def draw(i):
        return noise.normals(noise.stream(jr.fold_in(KEY, i)), jnp.uint32(0), 5, jnp.float32)

    numbers = jnp.arange(48, dtype=jnp.uint32) + jnp.uint32(2**32 - 20)
    same(path, jax.jit(jax.vmap(draw))(numbers)[:37])


def test_jax_noise_has_the_right_law():
    p = problems.ou(theta=1.0, sigma=0.6)
    n = 20_000
    ends = rollout(p.sde, jnp.tile(p.y0, (n, 1)), (0.0, 1.0, 64), key=KEY, noise=JaxNoise())
    mean, var = p.mean(1.0, p.y0)[0], p.covariance(1.0, p.y0)[0, 0]
    assert abs(ends.mean() - mean) < 4 * np.sqrt(var / n) + 0.005
    assert abs(ends.var() - var) < 5 * var * np.sqrt(2 / n) + 0.005


def test_models_share_their_noise():
    """The difference of two OU processes driven by one key has no noise left in it."""
    y0s = states(6, 2)
    a, b = (
        SDE(drifts.Linear(-jnp.eye(2), jnp.full(2, c)), diffusions.Scalar(0.5, 2))
        for c in (0.0, 1.0)
    )
    ends = [rollout(sde, y0s, (0.0, 1.0, 50), key=KEY) for sde in (a, b)]
    np.testing.assert_allclose(ends[1] - ends[0], 1 - (1 - 1 / 50) ** 50, rtol=1e-4)
    other = rollout(a, y0s, (0.0, 1.0, 50), key=jr.key(12))
    assert np.abs(other - ends[0]).max() > 0.1


# Controls, transformations, compilation ---------------------------------------------------------


class Force(eqx.Module):
    """What makes the SDE of one control; its arrays can be learned."""

    ts: jax.Array
    gain: jax.Array

    def __call__(self, us):
        path = dfx.LinearInterpolation(self.ts, us)
        drift = drifts.Controlled(
            drifts.Linear(-jnp.eye(2), jnp.zeros(2)), lambda t, y, u: self.gain * u, path
        )
        return SDE(drift, diffusions.Scalar(0.2, 2))


def test_controls_drive_each_path_by_its_own():
    times = jnp.linspace(0.0, 1.0, 4)
    us, y0s = jr.normal(KEY, (5, 4, 2)), states(5, 2)
    force = Force(times, jnp.array(0.7))
    ours = rollout(force, y0s, (0.0, 1.0, 12), key=KEY, controls=us)
    for i in range(5):
        one = solve(
            force(us[i]), y0s[i], [0.0, 1.0], key=jr.fold_in(KEY, i), dt=1 / 12, solver=dfx.Euler()
        )
        np.testing.assert_allclose(ours[i], one.path.ys[-1], rtol=1e-4, atol=1e-5)

    def loss(force, us):
        return jnp.sum(rollout(force, y0s, (0.0, 1.0, 12), key=KEY, controls=us) ** 2)

    by_force, by_us = jax.grad(loss, argnums=(0, 1))(force, us)
    eps = 1e-2
    up = loss(eqx.tree_at(lambda f: f.gain, force, force.gain + eps), us)
    down = loss(eqx.tree_at(lambda f: f.gain, force, force.gain - eps), us)
    np.testing.assert_allclose(by_force.gain, (up - down) / (2 * eps), rtol=1e-2)
    bump = jnp.zeros_like(us).at[2, 1, 0].set(eps)
    slope = (loss(force, us + bump) - loss(force, us - bump)) / (2 * eps)
    np.testing.assert_allclose(by_us[2, 1, 0], slope, rtol=1e-2)


def test_ensembles_of_models_under_vmap():
    models = eqx.filter_vmap(
        lambda key: SDE(drifts.MLP(2, width=6, depth=1, key=key), diffusions.Scalar(0.3, 2))
    )(jr.split(jr.key(3), 3))
    y0s = states(4, 2)
    together = eqx.filter_vmap(lambda sde: rollout(sde, y0s, (0.0, 1.0, 8), key=KEY))(models)
    for m in range(3):
        one = jax.tree.map(lambda x, m=m: x[m] if eqx.is_array(x) else x, models)
        np.testing.assert_allclose(
            together[m], rollout(one, y0s, (0.0, 1.0, 8), key=KEY), rtol=1e-5, atol=1e-6
        )


def test_compiles_once_for_each_shape():
    traces = []

    def f(t, y):
        traces.append(1)
        return -y

    drift = drifts.Function(f)

    def run(scale, paths, t1, key, first):
        sde = SDE(drift, diffusions.Scalar(jnp.float32(scale), 2))
        return rollout(sde, states(paths, 2, key), (0.0, t1, 8), key=key, first=first)

    run(0.3, 5, 1.0, jr.key(0), 0)
    once = len(traces)
    for i in range(3):
        run(0.3 + i, 5, 1.0 + i, jr.key(i), i)
    assert len(traces) == once
    run(0.3, 6, 1.0, jr.key(0), 0)
    assert len(traces) > once


def test_a_path_that_diverges_leaves_the_others_alone():
    sde = SDE(drifts.Function(lambda t, y: y**3), diffusions.Scalar(0.1, 1))
    y0s = jnp.array([[0.1], [50.0], [0.2]])
    paths = rollout(sde, y0s, np.linspace(0.0, 1.0, 9), key=KEY)
    assert paths.mask[0].all() and paths.mask[2].all()
    assert paths.mask[1, 0] and not paths.mask[1, -1]
    alone = rollout(sde, y0s[:1], np.linspace(0.0, 1.0, 9), key=KEY)
    np.testing.assert_array_equal(paths.ys[0], alone.ys[0])


def test_float64(x64):
    sde = SDE(drifts.Linear(-jnp.eye(2), jnp.ones(2)), diffusions.Scalar(0.5, 2))
    y0s = jnp.ones((3, 2))
    ours = rollout(sde, y0s, np.linspace(0.0, 1.0, 3), key=KEY, dt=1 / 8)
    assert ours.ys.dtype == jnp.float64
    np.testing.assert_allclose(
        ours.ys, solved(sde, y0s, np.linspace(0.0, 1.0, 3), dfx.Euler(), dt=1 / 8), rtol=1e-12
    )


COUNT = Fold(0, lambda count, t, y: count + 1)


@pytest.mark.parametrize(
    "save", [Last(), Running(Moments()), COUNT], ids=["last", "moments", "fold"]
)
def test_memory_does_not_grow_with_steps(save):
    """By what the compiler allocates, not by what a run happens to use."""
    sde = mlp()

    def bytes_of(steps):
        run = jax.jit(lambda y0s, key: rollout(sde, y0s, (0.0, 1.0, steps), key=key, save=save))
        memory = run.lower(states(64, 3), KEY).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    assert bytes_of(16) == bytes_of(4096)
    every = jax.jit(lambda y0s: rollout(sde, y0s, (0.0, 1.0, 4096), key=KEY, save=Every(1)))
    memory = every.lower(states(64, 3)).compile().memory_analysis()
    assert memory.output_size_in_bytes > 4096 * 64 * 3 * 4  # so that the test above can fail


# What is refused --------------------------------------------------------------------------------

OU = SDE(drifts.Linear(-jnp.eye(2), jnp.zeros(2)), diffusions.Scalar(0.5, 2))
Y0S = jnp.ones((4, 2))
GENERAL = SDE(DRIFT, diffusions.Full.learned(2, width=4, depth=1, key=jr.key(0)))
STRATONOVICH = SDE(DRIFT, GENERAL.diffusion, "stratonovich")
LANGEVIN = Langevin(lambda x: x, jnp.ones(1), jnp.ones(1))


@pytest.mark.parametrize(
    "sentence, arguments",
    [
        ("`y0s` has shape (2,)", dict(y0s=jnp.ones(2))),
        ("`y0s` has shape (4, 2) and dtype int32", dict(y0s=jnp.ones((4, 2), jnp.int32))),
        ("`y0s[1]` is", dict(y0s=np.array([[1.0, 1.0], [np.nan, 0.0]], np.float32))),
        ("dimension 2", dict(y0s=jnp.ones((4, 3)))),
        ("Use 1 to 2^31", dict(ts=(0.0, 1.0, 0))),
        ("three times to save", dict(ts=(0.0, 1.0, True))),
        ("three times to save", dict(ts=(0.0, 1.0, 8.0))),
        ("`first` is -1", dict(first=-1)),
        ("`first` is 1.5", dict(first=1.5)),
        ("`key` is 0", dict(key=0)),
        ("Pass one key", dict(key=jr.split(KEY, 4))),
        ("which says how and not when", lambda: dict(save=Moments())),
        ("Pass an instance", lambda: dict(save=Every(2, Moments))),
        ("`k` is 9", lambda: dict(save=Every(9))),
        ("Return what `init` is", lambda: dict(save=Fold(0.0, lambda c, t, y: y))),
        ("counts component 5", lambda: dict(save=Last(Histogram([0.0, 1.0], 5)))),
        ("Return a number", lambda: dict(save=Last(Histogram([0.0, 1.0], lambda y: y)))),
        ("whole numbers", lambda: dict(save=AtSteps([0.5]))),
        ("t0 before t1", dict(ts=(1.0, 0.0, 8))),
        ("cannot tell apart", dict(ts=(1e6, 1e6 + 1, 1000))),
        ("`dt` is 0.1, but `ts` is (t0, t1, n)", dict(dt=0.1)),
        ("both given", dict(ts=[0.0, 1.0], dt=0.1, substeps=2)),
        ("`ts` decreases", dict(ts=[0.0, 1.0, 0.5])),
        ("one row of two times", dict(ts=np.ones((3, 2)))),
        ("`ts[2]` is not finite, or decreases", dict(ts=np.array([[0, 1]] * 2 + [[1, 0]] * 2))),
        ("Pass `substeps`", dict(ts=np.array([[0.0, 1.0]] * 4), dt=0.1)),
        ("`scheme` is", dict(scheme=dfx.Midpoint())),
        ("`scheme` is", dict(scheme=dfx.Tsit5())),
        ("Pass an instance", dict(scheme=dfx.Euler)),
        ("converges to the ito solution", dict(sde=STRATONOVICH, scheme=dfx.Euler())),
        ("needs commutative noise", dict(sde=GENERAL, scheme=dfx.ItoMilstein())),
        ("needs additive noise", dict(sde=GENERAL, scheme=dfx.ShARK())),
        ("cannot be taken back", dict(adjoint=Reversible())),
        ("`levels` is 9", lambda: dict(adjoint=Checkpointed(9))),
        ("`chunk` is 0", lambda: dict(kernel=Scan(chunk=0))),
        ("Pass an instance", dict(save="last")),
        ("`k` is 0", dict(save=Every(0))),
        ("`since` is 9", dict(save=Running(Moments(), since=9))),
        ("increasing numbers from 0 to 8", dict(save=AtSteps([3, 9]))),
        ("not the end of a step", dict(save=At([0.0, 0.3]))),
        ("`At(", lambda: dict(save=At([]))),
        ("a callable that makes the SDE", dict(sde=LANGEVIN)),
        ("`controls` are given", dict(controls=jnp.ones((4, 1)))),
        ("Pass one row per path", dict(sde=lambda u: OU, controls=jnp.ones((3, 1)))),
        ("Return a `dynlm.SDE`", dict(sde=lambda u: None, controls=jnp.ones((4, 1)))),
    ],
)  # fmt: skip
def test_refusals(sentence, arguments, unchecked):
    with pytest.raises(ValueError) as error:
        arguments = arguments() if callable(arguments) else arguments
        defaults = dict(sde=OU, y0s=Y0S, ts=(0.0, 1.0, 8))
        sde, y0s, ts, rest = (lambda sde, y0s, ts, **rest: (sde, y0s, ts, rest))(
            **(defaults | arguments)
        )
        rollout(sde, y0s, ts, **({"key": KEY} | rest))
    assert sentence in str(error.value).replace("\n", " ")


def test_folds_of_each_path():
    """The largest norm so far and the number of steps, by hand."""
    y0s = states(5, 2)
    fold = Fold((0.0, 0), lambda c, t, y: (jnp.maximum(c[0], jnp.sum(y**2)), c[1] + 1))
    largest, count = rollout(OU, y0s, (0.0, 1.0, 8), key=KEY, save=fold)
    ys = rollout(OU, y0s, (0.0, 1.0, 8), key=KEY, save=Every(1)).ys
    np.testing.assert_allclose(largest, jnp.max(jnp.sum(ys**2, axis=-1), axis=1), rtol=1e-6)
    np.testing.assert_array_equal(count, 9)
