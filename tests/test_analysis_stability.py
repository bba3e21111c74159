"""Fixed points, basins and the generator against truth, and all of stability together."""

import itertools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
from stability_cases import NOISE, A, Q, batch, cubic, first, normal, ou

from dynlm import SDE, diffusions, drifts, problems, rollout
from dynlm._io import BadArgument
from dynlm.analysis._basins import Euler, RungeKutta, basins
from dynlm.analysis._descent import learn_lyapunov
from dynlm.analysis._fixed_points import fixed_points, kind, sample
from dynlm.analysis._generator import generator, lyapunov, lyapunov_matrix
from dynlm.analysis._lipschitz import lipschitz
from dynlm.analysis.findings import Verdict

# Fixed points


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fixed_points_of_two_wells(x64, sign):
    starts = normal(1, 100)[0]
    found = fixed_points(cubic(sign), starts)
    order = np.argsort(found.points[:, 0])
    assert np.allclose(found.points[order], [[-1, 0], [0, 0], [1, 0]], atol=1e-8)
    wells = "stable node" if sign > 0 else "unstable node"
    assert [found.kinds[i] for i in order] == [wells, "saddle", wells]
    assert [found.stable[i] for i in order] == [sign > 0, False, sign > 0]
    for i, rates in zip(order, ([-2, -0.6], [1, -0.5], [-2, -0.4])):
        assert np.allclose(np.sort(found.eigenvalues[i].real), np.sort(sign * np.array(rates)))
    assert found.starts.sum() == 100 and (found.reached >= 0).all()
    assert found.residuals.max() < 1e-9
    assert [f.value for f in found.findings[:2]] == [3.0, 1.0]


def test_fixed_points_of_lorenz():
    """The origin and $(\\pm\\sqrt{72}, \\pm\\sqrt{72}, 27)$, in single precision."""
    starts = normal(1, 200, 3)[0] * 12 + np.array([0, 0, 20.0])
    found = fixed_points(problems.lorenz().sde, starts)
    order = np.argsort(found.points[:, 0])
    far = np.sqrt(72)
    truth = np.array([[-far, -far, 27], [0, 0, 0], [far, far, 27]])
    assert np.allclose(found.points[order], truth, atol=1e-2)
    assert [found.kinds[i] for i in order] == ["saddle focus", "saddle", "saddle focus"]
    for i, (x, y, z) in zip(order, truth):
        j = [[-10, 10, 0], [28 - z, -1, -x], [y, x, -8 / 3]]
        truth_rates = np.sort_complex(np.linalg.eigvals(j))
        assert np.allclose(np.sort_complex(found.eigenvalues[i]), truth_rates, atol=2e-2)


def test_a_chain_may_leave_a_point_that_the_flow_comes_to():
    sde = ou(np.diag([-2.5, -0.5]), np.zeros(2))
    flow = fixed_points(sde, normal(1, 30)[0])
    chain = fixed_points(sde, normal(1, 30)[0], dt=1.0)
    assert flow.kinds == chain.kinds == ("stable node",)
    assert flow.stable == (True,) and chain.stable == (False,)
    assert chain.multipliers is not None
    assert np.allclose(np.sort(chain.multipliers[0].real), [-1.5, 0.5], atol=1e-5)
    assert "1.5, beside 1" in chain.findings[2].sentence()


def test_a_point_outside_the_data_is_flagged():
    drift = drifts.Function(lambda t, y: -y * (1 - y / 10))
    data = normal(1, 300, 1)[0]
    found = fixed_points(drift, np.concatenate([data[:50], [[9.0]]]), data=data)
    assert np.allclose(found.points[:, 0], [0, 10], atol=1e-3)
    assert found.inside == (True, False) and found.starts.tolist() == [50, 1]
    mean, deviation = data.mean(), data.std(ddof=1)
    assert np.isclose(found.distance[1], (10 - mean) / deviation, rtol=1e-3)
    assert found.findings[0].value == 1.0 and "1 more" in found.findings[0].note


def test_no_fixed_point_is_no_fixed_point():
    found = fixed_points(drifts.Function(lambda t, y: 1 + y**2), normal(1, 30, 1)[0])
    assert found.points.shape == (0, 1) and (found.reached == -1).all()
    assert found.findings[0].value == 0.0 and found.findings[1].value == 0.0


def test_newton_comes_back_from_where_the_drift_is_not_a_number():
    """From 3 the whole step leads to -.3, where the logarithm is NaN."""
    found = fixed_points(drifts.Function(lambda t, y: jnp.log(y)), np.array([[3.0], [0.5]]))
    assert np.allclose(found.points, [[1.0]], atol=1e-4) and found.starts.tolist() == [2]
    assert found.kinds == ("unstable node",)


def test_time_of_a_drift_is_held():
    drift = drifts.Function(lambda t, y: t - y)
    assert np.allclose(fixed_points(drift, normal(1, 5, 1)[0], t=3.0).points, 3.0, atol=1e-4)


@pytest.mark.parametrize(
    "rates, name",
    [
        ([-1, -2], "stable node"),
        ([-1 + 1j, -1 - 1j], "stable focus"),
        ([1, 2], "unstable node"),
        ([1 + 1j, 1 - 1j], "unstable focus"),
        ([-1, 2], "saddle"),
        ([-1 + 1j, -1 - 1j, 1], "saddle focus"),
        ([1j, -1j], "centre"),
        ([0, -1], "degenerate"),
        ([0, 0], "degenerate"),
    ],
)
def test_kinds(rates, name):
    assert kind(np.array(rates, complex)) == name


def test_states_are_drawn_behind_the_first_and_never_from_padding():
    ys = np.arange(24.0).reshape(2, 6, 2)
    seen = sample(batch(ys, [6, 3], fill=np.nan), np.array(["a", "b"]))
    assert seen.ys[:, 0].tolist() == [2, 4, 6, 8, 10, 14, 16]
    assert seen.docs.tolist() == ["a"] * 5 + ["b"] * 2
    assert (seen.path.tolist(), seen.step.tolist()) == ([0] * 5 + [1] * 2, [1, 2, 3, 4, 5, 1, 2])
    assert seen.gap == 1.0 and seen.ts.tolist() == seen.step.tolist()
    some = sample(batch(ys), np.arange(2), most=4, seed=1)
    assert len(some.ys) == 4 and len({tuple(y) for y in some.ys}) == 4


# Basins


def test_basins_of_two_wells():
    sde = SDE(cubic(), diffusions.Scalar(0.1, 2))
    starts, docs = normal(1, 200)[0] + np.array([0.3, 0.0]), np.arange(200) // 5
    points = fixed_points(sde, starts)
    found = basins(RungeKutta(sde, 0.1), points, starts, docs)
    assert (points.points[found.which, 0] * starts[:, 0] > 0.5 * np.abs(starts[:, 0])).all()
    right = int(np.argmax(points.points[:, 0]))
    share = found.shares[right]
    assert share.value == np.mean(starts[:, 0] > 0) and share.low < share.value < share.high
    assert found.nowhere.value == 0 and found.taken < 1000
    assert len(found.findings) == 3  # two basins, none of the saddle; and none nowhere
    assert all(f.null == 0.5 for f in found.findings[:2])


def test_the_chain_comes_to_nothing_where_the_flow_comes_to_rest():
    sde, starts = ou(np.diag([-2.5, -0.5]), np.zeros(2)), normal(1, 40)[0]
    points, docs = fixed_points(sde, starts), np.arange(40)
    flow = basins(RungeKutta(sde, 0.1), points, starts, docs)
    chain = basins(Euler(sde, 1.0), points, starts, docs)
    assert flow.shares[0].value == 1 and flow.findings[-1].verdict is Verdict.LEVEL
    (only,) = flow.findings[:-1]  # one basin: no other to be compared with
    assert only.verdict is Verdict.STATED and only.null is None and "equal" not in only.sentence()
    assert chain.nowhere.value == 1 and chain.findings[-1].verdict is Verdict.ABOVE


# The generator


def test_generator_of_a_quadratic_is_its_closed_form(x64):
    y, centre = jnp.asarray([0.7, -1.1]), jnp.asarray([0.1, 0.4])
    v = lambda y: (y - centre) @ jnp.asarray(Q) @ (y - centre)  # noqa: E731
    x, f = np.asarray(y - centre), A @ np.asarray(y) + np.array([0.2, -0.1])
    truth = 2 * x @ Q @ f + np.trace(NOISE.T @ Q @ NOISE)
    assert np.isclose(generator(ou(), v, y), truth, rtol=1e-12)


def test_generator_of_any_function_is_what_small_steps_give(x64):
    """$E V(y + f h + g \\sqrt h z) - V(y)$ over h, by Gauss-Hermite nodes."""
    sde = problems.gbm_noncommutative(A, [[[0.1, 0.3], [0.0, 0.2]], [[0.2, 0.0], [0.4, 0.1]]]).sde
    y = jnp.asarray([0.7, -1.1])
    v = lambda y: jnp.sin(y[0]) * y[1] ** 2 + jnp.exp(y[0])  # noqa: E731
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    f, g, h = np.asarray(sde.drift(0.0, y)), np.asarray(sde.diffusion(0.0, y).as_matrix()), 1e-4
    mean = 0.0
    for (z0, w0), (z1, w1) in itertools.product(zip(nodes, weights), repeat=2):
        at = np.asarray(y) + f * h + g @ np.array([z0, z1]) * np.sqrt(h)
        mean += w0 * w1 / (2 * np.pi) * (np.sin(at[0]) * at[1] ** 2 + np.exp(at[0]))
    assert np.isclose(generator(sde, v, y), (mean - float(v(y))) / h, rtol=2e-3)


@pytest.mark.parametrize("dt", [None, 1.0])
def test_lyapunov_on_data_is_the_closed_form_state_by_state(dt):
    paths, centre = batch(normal(seed=3)), np.array([0.1, 0.4])
    found = lyapunov(ou(), paths, np.arange(24), centre=centre, q=Q, dt=dt)
    ys = np.asarray(paths.ys)[found.path, found.step]
    f = ys @ A.T + np.array([0.2, -0.1])
    truth = 2 * np.einsum("si,ij,sj->s", ys - centre, Q, f) + np.trace(NOISE.T @ Q @ NOISE)
    if dt is not None:  # the mean of V after one step of the chain, written out
        after = np.einsum("si,ij,sj->s", ys + f - centre, Q, ys + f - centre)
        before = np.einsum("si,ij,sj->s", ys - centre, Q, ys - centre)
        truth = after + np.trace(NOISE.T @ Q @ NOISE) - before
    assert np.allclose(found.lv, truth, atol=1e-4)
    assert found.findings[0].value == pytest.approx(np.mean(truth <= 0), abs=1e-9)
    assert np.array_equal(found.worst, np.argsort(-truth)[:10])
    assert found.radius == pytest.approx(np.sqrt(found.v[truth > 0].max()), rel=1e-4)
    assert (found.step >= 1).all()


def test_the_radius_of_an_ornstein_uhlenbeck_process():
    """$LV = 2s^2 - 2\\theta|x|^2$ in two dimensions: it falls beyond $|x| = s/\\sqrt\\theta$."""
    sde = ou(-2.0 * np.eye(2), np.zeros(2), 1.5 * np.eye(2))
    found = lyapunov(sde, batch(normal(100, 21)), np.arange(100), centre=np.zeros(2))
    assert np.isclose(found.radius, 1.5 / np.sqrt(2), atol=0.01)
    assert np.isclose(found.beyond, np.exp(-(1.5**2) / 4), atol=0.05)
    assert (np.diff(found.falling) >= 0).all() and found.falling[0] == 0 and found.falling[-1] == 1
    growing = lyapunov(
        ou(2.0 * np.eye(2), np.zeros(2)), batch(normal()), np.arange(24), centre=np.zeros(2)
    )
    assert growing.findings[0].value == 0 and growing.findings[0].verdict is Verdict.BELOW
    assert growing.findings[1].verdict is Verdict.ABOVE
    assert growing.findings[2].verdict is Verdict.WITHHELD


def test_in_a_stationary_process_no_function_falls_in_the_mean():
    problem = problems.ou(np.array([[1.0, -0.5], [0.5, 1.0]]), sigma=0.8)
    spread = np.linalg.cholesky(np.asarray(problem.stationary_covariance))
    ys = normal(200, 21, seed=5) @ spread.T
    found = lyapunov(problem.sde, batch(ys), np.arange(200), centre=np.zeros(2), q=Q, most=10_000)
    assert found.findings[1].verdict is Verdict.LEVEL
    away = lyapunov(problem.sde, batch(2 * ys), np.arange(200), centre=np.zeros(2), q=Q)
    assert away.findings[1].verdict is Verdict.BELOW


def test_states_without_order_fall_as_often_as_their_null_says():
    """The fit of i.i.d. states has drift mean - x: what it shows of stability is not dynamics."""
    paths = batch(normal(200, 11, seed=6))
    sde = ou(-np.eye(2), np.zeros(2), np.eye(2))
    for dt in (None, 1.0):
        found = lyapunov(sde, paths, np.arange(200), centre=np.zeros(2), dt=dt)
        assert first(found) > 0.3 and abs(first(found) - found.findings[0].null) < 0.05


def test_padding_may_hold_anything():
    lengths = np.random.default_rng(1).integers(3, 20, 24)
    results = []
    for fill in (0.0, np.nan):
        paths = batch(normal(seed=7), lengths, fill)
        one = lyapunov(ou(), paths, np.arange(24), centre=np.zeros(2))
        two = lipschitz(ou(), paths, np.arange(24), key=jr.key(0))
        three = learn_lyapunov(
            ou(), paths, np.arange(24), centre=np.zeros(2), key=jr.key(0), steps=5
        )
        results.append((one.lv, one.findings, two.growth, two.findings, three.learned.lv))
    for a, b in zip(*results):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_the_matrix_of_a_stable_point_solves_its_equation():
    q = lyapunov_matrix(A)
    assert np.allclose(q, scipy.linalg.solve_continuous_lyapunov(A.T, -np.eye(2)))
    assert (np.linalg.eigvalsh(q) > 0).all()
    with pytest.raises(BadArgument, match="real part 1"):
        lyapunov_matrix(np.diag([-1.0, 1.0]))
    with pytest.raises(BadArgument, match="eigenvectors"):
        lyapunov_matrix(np.array([[-1.0, 1.0], [0.0, -1.0]]))


# All of it


def test_in_double_precision_on_simulated_paths(x64):
    """What is found of a process on paths of its own: one point, a share above chance or not."""
    problem = problems.ou(A * -1.0, sigma=0.3)
    paths = rollout(problem.sde, normal(40, 1)[:, 0], np.arange(0, 5, 0.25), key=jr.key(0), dt=0.05)
    seen = sample(paths, np.arange(40))
    found = fixed_points(problem.sde, seen.ys[:100])
    assert found.points.dtype == np.float64 and found.residuals.max() < 1e-11
    assert found.kinds == ("stable focus",) and seen.gap == 0.25
    judged = lyapunov(
        problem.sde, paths, np.arange(40), centre=found.points[0],
        q=lyapunov_matrix(found.jacobians[0]),
    )  # fmt: skip
    assert first(judged) > 0.3


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: fixed_points(cubic(), np.ones(2)), "`starts`"),
        (lambda p: sample(p, np.arange(3)), "`docs`"),
        (lambda p: sample(p, np.arange(24), burn=20), "first 20"),
        (lambda p: lyapunov(ou(), p, np.arange(24), centre=np.zeros(3)), "`centre`"),
        (lambda p: lyapunov(ou(), p, np.arange(24), centre=np.zeros(2), q=-Q), "`q`"),
        (lambda p: lipschitz(ou(), p, np.arange(24), key=jr.key(0), around=0.0), "`around`"),
        (
            lambda p: learn_lyapunov(
                ou(), p, np.zeros(24), centre=np.zeros(2), key=jr.key(0)
            ),
            "1 documents",
        ),
        (lambda p: lyapunov_matrix(np.ones(3)), "`jacobian`"),
    ],
)  # fmt: skip
def test_what_is_refused(call, message):
    with pytest.raises(BadArgument, match=message):
        call(batch(normal()))
