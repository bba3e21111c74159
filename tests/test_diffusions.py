import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

from dynlm import diffusions as D

DIM = 3
ROOT = jnp.array([[0.8, 0.0, 0.0], [0.3, 0.6, 0.0], [-0.2, 0.1, 0.9]])


def families():
    keys = iter(jr.split(jr.key(3), 20))
    yield "constant", D.Constant(ROOT + 0.1), "additive"
    yield "scalar number", D.Scalar(0.4, DIM), "additive"
    yield "diagonal vector", D.Diagonal(jnp.array([0.3, 0.5, 0.9])), "additive"
    yield (
        "diagonal of time",
        D.Diagonal(lambda t, y: (1 + t) * jnp.ones(DIM), DIM, "time"),
        "additive",
    )
    yield "diagonal y", D.Diagonal(lambda t, y: 0.3 * y, DIM, "component"), "commutative"
    yield "low rank", D.LowRank(jnp.ones(DIM), ROOT[:, :2]), "additive"
    yield "full", D.Full(ROOT), "additive"
    for on in ("nothing", "time", "state"):
        noise = "general" if on == "state" else "additive"
        size = dict(on=on, width=6, depth=1)
        yield f"scalar on {on}", D.Scalar.learned(DIM, **size, key=next(keys)), noise
        yield f"diagonal on {on}", D.Diagonal.learned(DIM, **size, key=next(keys)), noise
        yield f"low rank on {on}", D.LowRank.learned(DIM, rank=2, **size, key=next(keys)), noise
        yield f"full on {on}", D.Full.learned(DIM, **size, key=next(keys)), noise
    each = D.Diagonal.learned(DIM, on="component", width=6, key=next(keys))
    yield "diagonal on component", each, "commutative"


FAMILIES = [pytest.param(g, noise, id=name) for name, g, noise in families()]
Y = jnp.array([0.7, -1.1, 0.4])


@pytest.mark.parametrize(("g", "noise"), FAMILIES)
def test_algebra_against_dense(g, noise, getkey):
    r, w = jr.normal(getkey(), (DIM,)), jr.normal(getkey(), (g.noise_dim,))
    operator = g(0.3, Y)
    assert isinstance(operator, lx.AbstractLinearOperator)
    root = np.asarray(operator.as_matrix(), np.float64)
    assert root.shape == (g.dim, g.noise_dim)
    sigma = root @ root.T
    np.testing.assert_allclose(operator.mv(w), root @ np.asarray(w), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(g.covariance(0.3, Y).as_matrix(), sigma, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        g.covariance(0.3, Y).mv(r), sigma @ np.asarray(r), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(g.solve(0.3, Y, r), np.linalg.solve(sigma, r), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(g.logdet(0.3, Y), np.linalg.slogdet(sigma)[1], rtol=1e-3, atol=1e-4)
    square, logdet = g.quadratic(0.3, Y, r)
    np.testing.assert_allclose(square, r @ np.linalg.solve(sigma, r), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(sigma)[1], rtol=1e-3, atol=1e-4)


def test_quadratic_evaluates_each_callable_once():
    """`solve` and `logdet` evaluate them once each, and reverse mode would go back through both."""
    calls = []

    def counted(shape):
        def value(t, y):
            calls.append(shape)
            return jnp.ones(shape) + (jnp.eye(DIM) if shape == (DIM, DIM) else 0.0) + 0 * jnp.sum(y)

        return value

    for g, names in (
        (D.Scalar(counted(()), DIM, "state"), 1),
        (D.Diagonal(counted((DIM,)), DIM, "state"), 1),
        (D.LowRank(counted((DIM,)), counted((DIM, 2)), DIM, 2, "state"), 2),
        (D.Full(counted((DIM, DIM)), DIM, "state"), 1),
    ):
        calls.clear()
        g.quadratic(0.3, Y, Y)
        assert len(calls) == names


@pytest.mark.parametrize(("g", "noise"), FAMILIES)
def test_declared_noise_class_is_the_measured_one(g, noise):
    assert g.noise == noise
    jacobian = jax.jacfwd(lambda y: g(0.3, y).as_matrix())(Y)
    assert (float(jnp.abs(jacobian).max()) < 1e-7) == (noise == "additive")
    assert (float(jnp.abs(D.commutator(g, 0.3, Y)).max()) < 1e-6) == (noise != "general")


@pytest.mark.parametrize(("g", "noise"), FAMILIES)
def test_correction_against_finite_differences(g, noise, x64):
    g = jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, g)
    y = np.asarray(Y, np.float64)

    def root(y):
        return np.asarray(g(0.3, jnp.asarray(y)).as_matrix())

    expected, eps = np.zeros(DIM), 1e-6
    for column in range(g.noise_dim):
        step = eps * root(y)[:, column]
        expected += 0.5 * (root(y + step) - root(y - step))[:, column] / (2 * eps)
    np.testing.assert_allclose(g.correction(0.3, jnp.asarray(y)), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scale", [-50.0, 0.0, 50.0])
def test_learned_families_are_positive_whatever_their_weights(scale, getkey):
    for g in (
        D.Scalar.learned(DIM, key=getkey()),
        D.Diagonal.learned(DIM, key=getkey()),
        D.Diagonal.learned(DIM, on="component", key=getkey()),
        D.LowRank.learned(DIM, rank=1, key=getkey()),
        D.Full.learned(DIM, key=getkey()),
    ):
        g = jax.tree.map(lambda x: scale * x if eqx.is_inexact_array(x) else x, g)
        smallest = jnp.diagonal(g(0.1, Y).as_matrix()).min()
        assert float(smallest) >= 0.99e-3
        grads = eqx.filter_grad(lambda g: jnp.sum(g(0.1, Y).mv(jnp.ones(g.noise_dim))))(g)
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(grads))


def test_learned_scale_is_the_starting_scale(getkey):
    g = D.Diagonal.learned(DIM, on="nothing", scale=0.25, key=getkey())
    np.testing.assert_allclose(jnp.diagonal(g(0.0, Y).as_matrix()), 0.25, rtol=0.05)


def test_function_multiplies_and_refuses_to_invert():
    g = D.Function(lambda t, y: jnp.stack([-y[1:], y[:1]]), 2, 1)
    y = jnp.array([0.6, 0.8])
    np.testing.assert_allclose(g(0.0, y).mv(jnp.ones(1)), [-0.8, 0.6])
    np.testing.assert_allclose(g.correction(0.0, y), -0.5 * y, rtol=1e-6)
    for call in (
        lambda: g.solve(0.0, y, y),
        lambda: g.logdet(0.0, y),
        lambda: g.quadratic(0.0, y, y),
    ):
        with pytest.raises(ValueError, match=r"\(2 x 1\) of rank 1, .* in dimension 2"):
            call()
    with pytest.raises(ValueError, match="of rank at most 1"):
        jax.jit(g.logdet)(0.0, y)
    with pytest.raises(ValueError, match=r"returned shape \(2, 1\).*promise \(2, 3\)"):
        D.Function(g.g, 2, 3)(0.0, y)


def test_scalar_in_one_dimension_commutes():
    assert D.Scalar(lambda t, y: y[0], 1, "state").noise == "commutative"
    assert D.Diagonal(lambda t, y: y, 1, "state").noise == "commutative"
    assert D.Diagonal(lambda t, y: y[::-1], 2, "state").noise == "general"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: D.Constant(jnp.ones((2, 2))), "`g` has rank 1 in dimension 2"),
        (lambda: D.Diagonal(lambda t, y: y, 2), "`depends` is None"),
        (lambda: D.Scalar(lambda t, y: y[0], 2, "component"), "`depends` is 'component'"),
        (lambda: D.Diagonal(lambda t, y: y, depends="state"), "`dim` is None"),
        (lambda: D.Diagonal(0.3), "diffusions.Scalar"),
        (lambda: D.LowRank(jnp.ones(2), jnp.ones((3, 1))), r"shape \(3, 1\).*needs \(2, 1\)"),
        (lambda: D.LowRank(jnp.ones(2), lambda t, y: y, depends="time"), "`rank` is None"),
        (lambda: D.LowRank(jnp.ones(2), jnp.ones(2)), r"`u` has shape \(2,\)"),
        (lambda: D.Function(lambda t, y: y, 2, 2, "diagonal"), "`noise` is 'diagonal'"),
        (lambda: D.Full.learned(2, scale=-1.0, key=jr.key(0)), "`scale` is -1.0"),
        (lambda: D.Diagonal(D.Diagonal.learned(2, key=jr.key(0)).s, 2, "time"), "says that it dep"),
        (lambda: D.Diagonal(jnp.ones(2), depends="state"), "the value is an array"),
        (lambda: D.Scalar(lambda t, y: y, 3, "state")(0.0, Y), r"shape \(3,\); it needs \(\)"),
        (lambda: D.Full(lambda t, y: jnp.eye(2), 3, "time").logdet(0.0, Y), r"it needs \(3, 3\)"),
        (lambda: D.Full.learned(2, on="component", key=jr.key(0)), "`on` is 'component'"),
        (lambda: D.Diagonal.learned(2, floor=0.0, key=jr.key(0)), "`floor` 0.0"),
    ],
)
def test_bad_arguments_are_refused(make, sentence, unchecked):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_softplus_against_numpy():
    """To a few roundings from -80 to 80, with its derivatives, in both precisions."""
    from dynlm.diffusions._learned import softplus

    x = np.concatenate([np.linspace(-80, 80, 20_001), [0.0, -0.0]]).astype(np.float32)
    exact = np.logaddexp(0, x.astype(np.float64))
    np.testing.assert_allclose(softplus(jnp.asarray(x)), exact, rtol=4e-7)
    slope = jax.vmap(jax.grad(softplus))(jnp.asarray(x))
    np.testing.assert_allclose(slope, np.exp(-np.logaddexp(0, -x.astype(np.float64))), rtol=1e-6)
    curvature = jax.vmap(jax.grad(jax.grad(softplus)))(jnp.linspace(-5.0, 5.0, 11))
    s = 1 / (1 + np.exp(-np.linspace(-5.0, 5.0, 11)))
    np.testing.assert_allclose(curvature, s * (1 - s), rtol=1e-5)
    with jax.enable_x64(True):
        wide = jnp.linspace(-40.0, 40.0, 1001, dtype=jnp.float64)
        np.testing.assert_allclose(softplus(wide), np.logaddexp(0, np.asarray(wide)), rtol=1e-14)
