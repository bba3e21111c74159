"""Losses of a whole path: Zhang's pair, Girsanov's divergence, quadratic variation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from dynlm import SDE, Trajectory, diffusions, drifts, losses
from dynlm.losses._divergence import girsanov
from dynlm.losses._likelihood import transition_nll
from dynlm.losses._variation import quadratic_variation
from dynlm.losses._zhang import _second_moment, zhang, zhang_pair

# What is compiled here runs a few times: time goes into compiling, so let that be quick.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

A = np.array([[-0.8, 0.5], [-0.3, -0.6]])
B = np.array([0.2, -0.4])
TS = np.array([0.0, 0.1, 0.35, 0.35, 0.5, 0.8, 1.0, 1.0, 1.0])
SEEN = np.array([True] * 7 + [False] * 2)
STEPS = np.array([0, 1, 3, 4, 5])  # from where a seen transition takes time


def strengths(t, y):
    return 0.4 + 0.3 * jnp.tanh(y) ** 2 + 0.1 * t


def sde_of(params):
    f = drifts.Linear(params["a"], params["b"])
    return SDE(f, diffusions.Diagonal(Partial(scaled, params["s"]), 2, "component"))


def scaled(s, t, y):
    return s * strengths(t, y)


def params():
    return {"a": jnp.asarray(A), "b": jnp.asarray(B), "s": jnp.asarray([1.0, 1.5])}


def path_of(mask=SEEN, seed=3):
    ys = np.random.default_rng(seed).normal(size=(len(TS), 2))
    return Trajectory(*map(jnp.asarray, (TS, np.where(mask[:, None], ys, 0.0), mask)))


def by_hand(path):
    """Of each seen step: its length, what it is off the drift per unit of time, and Sigma."""
    ys, out = np.asarray(path.ys), []
    for k in STEPS:
        dt = TS[k + 1] - TS[k]
        s = np.array([1.0, 1.5]) * np.asarray(strengths(TS[k], ys[k]))
        out.append((dt, (ys[k + 1] - ys[k]) / dt - A @ ys[k] - B, np.diag(s**2)))
    return out


def shrunk_by_hand(r):
    """Schaefer and Strimmer's estimate, entry by entry."""
    n, w = len(r), np.array([np.outer(x, x) for x in r])
    s = w.mean(axis=0)
    variance = w.var(axis=0, ddof=1) / n
    share = min(1.0, variance[0, 1] / s[0, 1] ** 2)
    return np.where(np.eye(2) > 0, s, (1 - share) * s), share


@pytest.mark.parametrize("shrinkage", [0.3, None])
def test_zhangs_pair_step_by_step(shrinkage, x64):
    path = path_of(seed=18)  # one whose shrinkage is neither 0 nor 1
    steps = by_hand(path)
    r = np.array([off * np.sqrt(dt) for dt, off, _ in steps])
    s, share = shrunk_by_hand(r)
    assert 0.1 < share < 1
    if shrinkage is not None:
        s = r.T @ r / len(r)
        s = np.where(np.eye(2) > 0, s, 0.7 * s)
    kls = [
        np.trace(np.linalg.solve(sigma, s)) - 2 - np.log(np.linalg.det(np.linalg.solve(sigma, s)))
        for _, _, sigma in steps
    ]
    found = jit(functools.partial(zhang_pair, shrinkage=shrinkage))(sde_of(params()), path)
    np.testing.assert_allclose(found.drift, np.mean([off @ off for _, off, _ in steps]), rtol=1e-9)
    np.testing.assert_allclose(found.diffusion, np.mean(kls) / 2, rtol=1e-9)
    np.testing.assert_allclose(found.total, found.drift + found.diffusion, rtol=1e-12)


def test_zhangs_diffusion_loss_is_zero_at_the_residuals_covariance(x64):
    path = path_of()
    r = np.array([off * np.sqrt(dt) for dt, off, _ in by_hand(path)])
    root = np.linalg.cholesky(r.T @ r / len(r))
    for factor, expected in ((1.0, 0.0), (2.0, 0.5 * (2 / 4 - 2 + 2 * np.log(4)))):
        g = diffusions.Constant(jnp.asarray(factor * root))
        sde = SDE(drifts.Linear(jnp.asarray(A), jnp.asarray(B)), g)
        found = jit(functools.partial(zhang_pair, shrinkage=0.0))(sde, path)
        np.testing.assert_allclose(found.diffusion, expected, atol=1e-9)


def test_zhangs_losses_do_not_move_each_others_part(x64):
    path = path_of()

    def losses(params):
        out = zhang_pair(sde_of(params), path)
        return out.drift, out.diffusion

    drift, diffusion = jit(jax.jacrev(losses))(params())
    assert jnp.all(drift["a"] != 0) and not jnp.any(drift["s"])
    assert jnp.all(diffusion["s"] != 0) and not jnp.any(diffusion["a"])


def test_bad_shrinkage_is_refused(unchecked):
    with pytest.raises(ValueError, match="`shrinkage` is 1.5. Use 0 to 1"):
        zhang(sde_of(params()), path_of(), shrinkage=1.5)


def test_girsanov_against_gaussian_moments_of_the_chain(x64):
    r"""Two Ornstein-Uhlenbeck processes with one correlated noise, uneven times and padding.

    $E\tfrac12\sum|f_p - f_q|^2_{\Sigma^{-1}}\Delta t$ from the chain's means and covariances; the
    losses are quadratic in the path, and so their mean over symmetric points of
    its law is exact. It is also the mean log-likelihood ratio of the two chains.
    """
    root = np.array([[0.5, 0.0], [0.3, 0.4]])
    a_q, b_q = A + np.array([[0.3, -0.2], [0.1, 0.4]]), B + np.array([0.5, 0.1])
    p, q = (
        SDE(drifts.Linear(jnp.asarray(a), jnp.asarray(b)), diffusions.Full(jnp.asarray(root)))
        for a, b in ((A, B), (a_q, b_q))
    )
    dts = np.diff(TS) * (SEEN[1:] & SEEN[:-1])
    n = 2 * len(dts)
    mean, law = [np.array([1.0, -0.5])], [np.zeros((2, n))]  # the path is mean + law @ noise
    m, c, expected = mean[0], np.zeros((2, 2)), 0.0
    weight = np.linalg.inv(root @ root.T)
    for k, dt in enumerate(dts):
        gap = A - a_q
        off = gap @ m + B - b_q
        expected += 0.5 * dt * (off @ weight @ off + np.trace(weight @ gap @ c @ gap.T))
        f = np.eye(2) + A * dt
        m, c = f @ m + B * dt, f @ c @ f.T + root @ root.T * dt
        step = f @ law[-1]
        step[:, 2 * k : 2 * k + 2] += root * np.sqrt(dt)
        mean.append(m)
        law.append(step)
    points = np.sqrt(n) * np.concatenate([np.eye(n), -np.eye(n)])
    ys = np.where(
        SEEN[:, None], np.array(mean) + np.einsum("tdn,kn->ktd", np.array(law), points), 0
    )

    def each(ys):
        path = Trajectory(jnp.asarray(TS), ys, jnp.asarray(SEEN))
        ratio = (transition_nll(q, path) - transition_nll(p, path)) * len(STEPS)
        return girsanov(p, q, path), ratio

    divergences, ratios = jit(jax.vmap(each))(jnp.asarray(ys))
    np.testing.assert_allclose(np.mean(divergences), expected, rtol=1e-9)
    np.testing.assert_allclose(np.mean(ratios), expected, rtol=1e-9)
    assert np.std(divergences) > 0.01 * expected  # a mean of unequal values
    np.testing.assert_array_equal(girsanov(p, p, path_of()), 0.0)


def test_girsanov_between_stratonovich_and_ito_forms_is_zero(x64):
    sde = sde_of(params())
    other = SDE(sde.to_stratonovich().drift, sde.diffusion, "stratonovich")
    np.testing.assert_allclose(girsanov(sde, other, path_of()), 0.0, atol=1e-20)


def test_quadratic_variation_step_by_step(x64):
    path = path_of()
    ys = np.asarray(path.ys)
    r = sum(np.outer(ys[k + 1] - ys[k], ys[k + 1] - ys[k]) for k in STEPS)
    m = sum(dt * sigma for dt, _, sigma in by_hand(path))
    expected = np.linalg.norm(r - m) ** 2 / np.linalg.norm(r) ** 2
    np.testing.assert_allclose(quadratic_variation(sde_of(params()), path), expected, rtol=1e-9)
    moved = params() | {"a": 3 * jnp.asarray(A)}
    np.testing.assert_allclose(quadratic_variation(sde_of(moved), path), expected, rtol=1e-9)


def test_quadratic_variation_falls_with_the_step(x64):
    """At the truth, on Brownian paths: by the inverse moments of a chi-squared number."""
    sde = SDE(drifts.Linear(jnp.zeros((1, 1)), jnp.zeros(1)), diffusions.Scalar(0.7, 1))
    rng = np.random.default_rng(0)
    for n in (64, 1024):
        dy = 0.7 * np.sqrt(3 / n) * rng.normal(size=(400, n))
        ys = jnp.asarray(np.cumsum(np.pad(dy, ((0, 0), (1, 0))), axis=1))[:, :, None]
        ts = jnp.linspace(0.0, 3.0, n + 1)
        value = jit(
            jax.vmap(lambda y: quadratic_variation(sde, Trajectory(ts, y, ts >= 0)))  # noqa: B023
        )(ys)
        # (1 - n / X)^2 with X chi-squared of n degrees, whose inverse moments are known
        expected = 1 - 2 * n / (n - 2) + n**2 / ((n - 2) * (n - 4))
        error = 4 * np.std(value) / np.sqrt(400)
        assert abs(np.mean(value) - expected) < error < 0.5 * expected


WORN = {
    "padding and equal times": SEEN,
    "two seen steps": np.arange(len(TS)) < 3,
    "one seen step": np.arange(len(TS)) < 2,
    "one seen state": np.arange(len(TS)) < 1,
    "nothing seen": np.zeros(len(TS), bool),
}


@functools.cache
def values_and_gradients():
    """By parameters, states and times, of noise that is zero at the zeros of padding."""

    def losses(s, ys, ts, mask):
        f = drifts.Linear(s[:, None] * jnp.eye(2), s)
        p = SDE(f, diffusions.Diagonal(Partial(lambda s, t, y: s * y, s), 2, "component"))
        q = SDE(drifts.Linear(jnp.eye(2), jnp.ones(2)), p.diffusion)
        path = Trajectory(ts, ys, mask)
        both = zhang_pair(p, path)
        values = (both.drift, both.diffusion, girsanov(p, q, path), quadratic_variation(p, path))
        return jnp.stack(values)

    def both(*args):
        return losses(*args), jax.jacrev(losses, argnums=(0, 1, 2))(*args)

    return jit(both)


@pytest.mark.parametrize("worn", WORN)
def test_gradients_are_finite(worn):
    mask = WORN[worn]
    path = path_of(mask)
    ys, ts = path.ys.astype(jnp.float32), path.ts.astype(jnp.float32)
    values, grads = values_and_gradients()(jnp.array([0.7, 1.2]), ys, ts, path.mask)
    assert bool(jnp.isfinite(values).all())
    assert all(bool(jnp.isfinite(g).all()) for g in grads)
    if mask.sum() < 2:
        assert not jnp.any(values) and all(not jnp.any(g) for g in grads)
    else:
        assert jnp.all(values != 0)
    assert not jnp.any(grads[1][:, ~mask])


def test_one_residual_and_constant_components_have_a_covariance(x64):
    """Of rank one, and with a zero on the diagonal: the KL divergence is finite."""
    ys = jnp.asarray(np.column_stack([np.random.default_rng(1).normal(size=9), np.zeros(9)]))
    sde = SDE(drifts.Linear(jnp.zeros((2, 2)), jnp.zeros(2)), diffusions.Scalar(0.5, 2))
    for shrinkage in (None, 0.0):
        for mask in (WORN["one seen step"], np.ones(9, bool)):
            path = Trajectory(jnp.arange(9.0), ys, jnp.asarray(mask))
            assert np.isfinite(zhang_pair(sde, path, shrinkage=shrinkage).diffusion)


def test_default_shrinkage_is_good(x64):
    """Over many small samples it is nearer to the true covariance than none and than all."""
    rng, true = np.random.default_rng(7), np.array([[1.0, 0.4], [0.4, 1.0]])
    r = rng.normal(size=(300, 8, 2)) @ np.linalg.cholesky(true).T
    seen = jnp.ones(8, bool)
    error = {}
    for shrinkage in (0.0, None, 1.0):
        s = jit(jax.vmap(lambda r: _second_moment(r, seen, shrinkage)))(jnp.asarray(r))  # noqa: B023
        error[shrinkage] = np.mean(np.sum((np.asarray(s) - true) ** 2, axis=(1, 2)))
    assert error[None] < error[0.0] + 1e-12 and error[None] < error[1.0]


def shared(scale=1.0):
    noise = diffusions.Constant(scale * jnp.asarray([[0.5, 0.0], [0.3, 0.4]]))
    return SDE(drifts.Linear(jnp.asarray(A), jnp.asarray(B)), noise)


def test_girsanov_between_two_diffusions_is_refused_where_they_are_known():
    p, path = shared(), path_of()
    other = SDE(drifts.Linear(jnp.zeros((2, 2)), jnp.zeros(2)), shared(1.1).diffusion)
    with pytest.raises(ValueError, match="`q` has another diffusion than `p`"):
        girsanov(p, other, path)
    with pytest.raises(ValueError, match="`q` has another diffusion than `p`"):
        jax.vmap(lambda path: girsanov(p, other, path))(jax.tree.map(lambda x: x[None], path))
    # One covariance by another class is one diffusion; and traced ones are not looked at.
    full = SDE(other.drift, diffusions.Full(p.diffusion(0.0, jnp.ones(2)).as_matrix()))
    assert float(girsanov(p, full, path)) > 0
    assert np.isfinite(jit(girsanov)(p, other, path))


def test_a_loss_of_other_arguments_is_refused_by_each_with_what_to_pass():
    with pytest.raises(ValueError, match=r"takes \(p: .*functools.partial\(losses.girsanov, p\)"):
        losses.each(girsanov)
    loss = losses.each(functools.partial(girsanov, shared()))
    q = SDE(drifts.Linear(jnp.zeros((2, 2)), jnp.zeros(2)), shared().diffusion)
    paths = jax.tree.map(lambda x: jnp.stack([x, x]), path_of())
    found = loss(q, paths, jax.random.key(0))
    np.testing.assert_allclose(found, girsanov(shared(), q, path_of()), rtol=1e-5)
