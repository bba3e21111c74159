"""The fused kernel through `rollout`, and the choice between kernels."""

import time
import warnings

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dynlm import SDE, diffusions, drifts, rollout
from dynlm.simulate import (
    AtSteps,
    Every,
    Fused,
    JaxNoise,
    Last,
    Moments,
    Running,
    Scan,
    _choice,
    _kernels,
)

KEY = jr.key(5)
SDE_3 = SDE(
    drifts.MLP(3, width=16, depth=1, key=jr.key(0)),
    diffusions.Diagonal.learned(3, width=8, depth=1, key=jr.key(1)),
)
SDE_F = SDE(drifts.Function(lambda t, y: -y), diffusions.Scalar(1.0, 3))
ADDITIVE = SDE(SDE_3.drift, diffusions.Scalar(1.0, 3))
Y0S = jr.normal(jr.key(2), (20, 3))


def fused(target="gpu"):
    return Fused(target=target, interpret=True, block=16)


def close(a, b, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("target", ["gpu", "tpu"])
@pytest.mark.parametrize(
    "save",
    [Last(), Every(2), AtSteps([1, 4, 5]), Running(Moments())],
    ids=["last", "2", "uneven", "moments"],
)
def test_the_fused_kernel_runs_the_paths_of_the_loop(target, save):
    ours = rollout(SDE_3, Y0S, (0.5, 1.5, 6), key=KEY, save=save, kernel=fused(target))
    close(ours, rollout(SDE_3, Y0S, (0.5, 1.5, 6), key=KEY, save=save))


def test_uneven_times_and_several_launches(monkeypatch):
    monkeypatch.setattr(_kernels, "_LAUNCH", 4)
    ts = np.array([0.0, 0.1, 0.1, 0.5, 0.6, 1.0])
    ours = rollout(SDE_3, Y0S, ts, key=KEY, kernel=fused(), substeps=1)
    close(ours, rollout(SDE_3, Y0S, ts, key=KEY))
    last = rollout(SDE_3, Y0S, (0.0, 1.0, 10), key=KEY, kernel=fused())
    close(last, rollout(SDE_3, Y0S, (0.0, 1.0, 10), key=KEY))


def test_its_derivatives_are_those_of_the_loop():
    def loss(sde, y0s, kernel):
        save = Every(3)
        return jnp.sum(
            jnp.sin(rollout(sde, y0s, (0.0, 1.0, 6), key=KEY, save=save, kernel=kernel).ys)
        )

    of = eqx.filter_value_and_grad(lambda pair, kernel: loss(*pair, kernel))
    close(of((SDE_3, Y0S), fused()), of((SDE_3, Y0S), Scan()), rtol=1e-4)
    along = [
        jax.jvp(
            lambda y, k=k: rollout(SDE_3, y, (0.0, 1.0, 6), key=KEY, kernel=k),
            (Y0S,),
            (jnp.ones_like(Y0S),),
        )
        for k in (fused(), Scan())
    ]
    close(*along, rtol=1e-4)


@pytest.mark.parametrize(
    "sentence, arguments",
    [
        ("`scheme` is ItoMilstein", dict(scheme=dfx.ItoMilstein(), sde=ADDITIVE)),
        ("`noise` is JaxNoise", dict(noise=JaxNoise())),
        ("float64", dict(x64=True)),
        ("times of its own", dict(ts=np.array([[0.0, 1.0]] * 20))),
        ("controls of its own", dict(sde=lambda u: SDE_3, controls=jnp.ones((20, 1)))),
        ("the default device is a cpu", dict(kernel=Fused())),
        ("has the drift `Function`", dict(sde=SDE_F)),
        ("`target` is 'cpu'", lambda: dict(kernel=Fused(target="cpu"))),
    ],
)  # fmt: skip
def test_refusals(sentence, arguments, unchecked):
    with pytest.raises(ValueError) as error:
        given = arguments() if callable(arguments) else dict(arguments)
        x64 = given.pop("x64", False)
        sde, ts = given.pop("sde", SDE_3), given.pop("ts", (0.0, 1.0, 4))
        with jax.enable_x64(x64):
            y0s = Y0S.astype(jnp.float64) if x64 else Y0S
            if x64:
                sde = jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_array(x) else x, sde)
            rollout(sde, y0s, ts, key=KEY, **({"kernel": fused()} | given))
    message = str(error.value)
    assert sentence in message and ("Scan" in message or "target" in message)


# The choice ------------------------------------------------------------------------------------


def timed(seconds, value):
    """A kernel's run, as far as the choice can see."""

    def run():
        time.sleep(seconds)
        return jnp.asarray(value)

    return run


def chosen(first, second):
    """Which of two kernels `fastest` takes, the first being the one to agree with."""
    one, two = Scan(), Scan(unroll=2)
    return _choice.fastest(lambda kernel: (first if kernel == one else second)(), (one, two))


def test_the_faster_kernel_is_chosen():
    slow, quick = timed(0.02, [1.0, 2.0]), timed(0.0, [1.0, 2.0 + 1e-5])
    assert chosen(slow, quick) == Scan(unroll=2)
    assert chosen(quick, slow) == Scan()


@pytest.mark.parametrize("value", [[1.0, 2.1], [1.0, jnp.nan], [jnp.inf, 2.0]])
def test_a_kernel_that_is_wrong_is_warned_of_and_not_chosen(value):
    with pytest.warns(UserWarning, match="gave other numbers"):
        assert chosen(timed(0.02, [1.0, 2.0]), timed(0.0, value)) == Scan()


def test_a_kernel_that_fails_is_warned_of_and_not_chosen():
    def run(kernel):
        if kernel != Scan():
            raise RuntimeError("no such instruction")
        return jnp.ones(2)

    with pytest.warns(UserWarning, match="no such instruction"):
        assert _choice.fastest(run, (Scan(), Fused())) == Scan()


def test_the_choice_is_made_once_for_each_shape(monkeypatch):
    """As on a GPU, with a kernel that is interpreted, hence slower and never chosen."""
    calls = []

    def counted(run, kernels):
        calls.append(kernels)
        return _choice.Scan()

    monkeypatch.setattr(_choice, "fastest", counted)
    monkeypatch.setattr(_choice, "_chosen", {})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            ends = rollout(SDE_3, Y0S, (0.0, 1.0, 6), key=KEY)
        assert len(calls) == 1 and calls[0] == (Scan(), Fused())
        rollout(SDE_3, Y0S[:17], (0.0, 1.0, 6), key=KEY)
        assert len(calls) == 2
        jax.jit(lambda y: rollout(SDE_3, y, (0.0, 1.0, 6), key=KEY))(Y0S[:9])
        rollout(SDE_F, Y0S, (0.0, 1.0, 6), key=KEY)
        rollout(SDE_3, Y0S, (0.0, 1.0, 6), key=KEY, kernel=Scan())
        level = lambda a: diffusions.Diagonal(lambda t, y: a * jnp.ones(3), 3, "time")  # noqa: E731
        jax.jit(lambda a: rollout(SDE(SDE_3.drift, level(a)), Y0S, (0.0, 1.0, 6), key=KEY))(0.3)
        assert len(calls) == 2  # traced, not for the kernel, forced, traced in a closure
    close(ends, rollout(SDE_3, Y0S, (0.0, 1.0, 6), key=KEY, kernel=Scan()))
