"""Fields, planes and decompositions against closed forms and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynlm import SDE, Trajectory, diffusions, drifts
from dynlm._io import BadArgument
from dynlm.analysis._decomposition import decompose
from dynlm.analysis._fields import along, curl, divergence, rotation
from dynlm.analysis._planes import plane, principal_plane
from dynlm.analysis._states import transitions
from dynlm.analysis.findings import Verdict

TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


def batch(ys, lengths=None, fill=np.nan, gap=1.0):
    """Paths at even times; what lies beyond a length is padding, filled with anything."""
    ys = np.array(ys)
    n, steps, _ = ys.shape
    lengths = np.full(n, steps) if lengths is None else np.asarray(lengths)
    mask = np.arange(steps) < lengths[:, None]
    ys[~mask] = fill
    ts = gap * np.minimum(np.arange(steps), lengths[:, None] - 1).astype(ys.dtype)
    return jax.vmap(Trajectory)(jnp.asarray(ts), jnp.asarray(ys), jnp.asarray(mask))


def linear(matrix, sigma=1.0, bias=None):
    matrix = jnp.asarray(matrix)
    bias = jnp.zeros(len(matrix), matrix.dtype) if bias is None else jnp.asarray(bias)
    drift = drifts.Linear(matrix, bias)
    return SDE(drift, diffusions.Scalar(jnp.asarray(sigma, matrix.dtype), len(matrix)))


def independent(seed=0, paths=24, steps=40, dim=2, mean=0.0):
    return mean + np.random.default_rng(seed).standard_normal((paths, steps, dim))


def chain(matrix, noise, seed=0, paths=60, steps=60):
    """Euler's chain of a linear drift with the step 1."""
    rng, ys = np.random.default_rng(seed), []
    y = rng.standard_normal((paths, len(matrix)))
    for _ in range(steps):
        ys.append(y)
        y = y + y @ matrix.T + noise * rng.standard_normal(y.shape)
    return np.stack(ys, axis=1)


def named(found, start):
    (one,) = [f for f in found if f.what.startswith(start)]
    return one


def value(found, start):
    number = named(found, start).value
    assert number is not None
    return number


def swirl(t, y):
    return jnp.stack([y[0] * y[1], jnp.sin(y[0]) - y[1] ** 3])


# Along data


def test_independent_states_have_the_drift_of_no_dynamics_and_are_told_so():
    mean = np.array([1.0, -2.0])
    ys = independent(mean=mean)
    paths, docs = batch(ys), np.arange(len(ys))
    found = along(linear(-np.eye(2), bias=mean), paths, docs).findings
    ratio, pull = named(found, "drift-to-noise"), named(found, "pull")
    assert ratio.null == pytest.approx(np.sqrt(np.pi) / 2, abs=0.02)
    # tr g g^T is 2, and E|y - m| is sqrt(pi / 2): the same ratio, but for the error of 24 paths
    assert ratio.value == pytest.approx(np.sqrt(np.pi / 2) / np.sqrt(2), abs=0.03)
    assert pull.value == pytest.approx(1.0, abs=1e-4)
    way = named(found, "cosine between the drift and the way")
    assert way.value == pytest.approx(1, abs=1e-2) and way.null == 1.0
    forward = named(found, "cosine between the drift and the next")
    assert value((forward,), "cosine") > 0.5
    assert forward.value == pytest.approx(forward.null, abs=0.01)
    assert "way to the mean" in forward.of_null and not forward.beyond
    assert named(found, "excess of the drift").verdict is Verdict.LEVEL


def test_along_equals_a_loop_and_a_drift_with_its_sign_turned_is_told():
    a = np.array([[-0.3, 0.2], [-0.2, -0.3]])
    ys = chain(a, 0.5)
    lengths = np.random.default_rng(1).integers(8, 60, len(ys))
    paths, docs = batch(ys, lengths, gap=0.5), np.arange(len(ys)) // 2
    sde = linear(2 * a, np.sqrt(0.5))
    result = along(sde, paths, docs, burn=2)
    speeds, ratios, cosines = [], [], []
    for path, length in zip(ys, lengths, strict=True):
        for k in range(2, length - 1):
            f, dy = 2 * a @ path[k], path[k + 1] - path[k]
            speeds.append(np.linalg.norm(f))
            ratios.append(np.linalg.norm(f) * 0.5 / np.sqrt(2 * 0.5 * 0.5))
            cosines.append(f @ dy / np.linalg.norm(f) / np.linalg.norm(dy))
    found = result.findings
    assert len(result.ratio) == len(ratios)
    assert value(found, "mean size of the drift") == pytest.approx(np.mean(speeds), rel=1e-4)
    assert value(found, "mean size of the noise") == pytest.approx(1.0, rel=1e-5)
    assert value(found, "drift-to-noise") == pytest.approx(np.mean(ratios), rel=1e-4)
    forward = named(found, "cosine between the drift and the next")
    assert forward.value == pytest.approx(np.mean(cosines), abs=1e-4)
    excess = named(found, "excess of the drift")
    assert excess.verdict is Verdict.ABOVE  # it turns, which the way to the mean does not
    assert excess.value == pytest.approx(forward.value - forward.null, abs=1e-6)
    turned = along(linear(-2 * a), paths, docs, burn=2).findings
    assert named(turned, "excess of the drift").verdict is Verdict.BELOW
    assert value(turned, "pull") < 0


def test_padding_that_is_nan_and_first_states_that_are_burnt_change_nothing(x64):
    a = np.array([[-0.3, 0.2], [-0.2, -0.3]])
    ys = chain(a, 0.5, paths=12)
    lengths = np.random.default_rng(1).integers(8, 60, 12)
    docs = np.arange(12)
    wild = ys.copy()
    wild[:, 0] = 1e6
    sde = linear(a)
    for run in (along, rotation, decompose):
        results = [
            run(sde, batch(y, lengths, fill=fill), docs).findings
            for y, fill in ((ys, np.nan), (wild, np.inf), (ys, 0.0))
        ]
        assert results[0] == results[1] == results[2]
        assert all(f.verdict is not Verdict.WITHHELD for f in results[0])


def test_no_drift_and_no_noise_are_withheld_not_divided_by():
    paths, docs = batch(independent()), np.arange(24)
    found = along(linear(np.zeros((2, 2)), 0.0), paths, docs).findings
    for start in ("drift-to-noise", "excess of the drift", "cosine between the drift and the next"):
        assert named(found, start).verdict is Verdict.WITHHELD
    still = rotation(linear(np.zeros((2, 2))), paths, docs).findings
    assert named(still, "rotational").verdict is Verdict.WITHHELD


def test_one_document_gives_numbers_without_a_test():
    found = along(linear(-np.eye(2)), batch(independent()), np.zeros(24)).findings
    assert all(f.verdict is Verdict.STATED and f.low is None for f in found)


def test_what_cannot_be_read_is_refused(unchecked):
    paths, docs, sde = batch(independent()), np.arange(24), linear(-np.eye(2))
    hole = batch(independent(), fill=0.0)
    hole = jax.vmap(Trajectory)(hole.ts, hole.ys.at[3, 5].set(jnp.nan), hole.mask)
    for call in (
        lambda: along(sde, paths, docs[1:]),
        lambda: along(sde, paths, docs, burn=-1),
        lambda: along(sde, paths, docs, burn=40),
        lambda: along(linear(-np.eye(3)), paths, docs),
        lambda: along(sde, hole, docs),
        lambda: along("sde", paths, docs),
        lambda: decompose(sde, paths, np.zeros(24)),
        lambda: plane(sde, origin=[0, 0], directions=[[1, 0], [2, 0]], extent=[[-1, 1]] * 2),
    ):
        with pytest.raises(BadArgument, match=r"`|dimension|document|noise"):
            call()


def test_padding_has_no_place_in_transitions():
    ys = independent(paths=3, steps=6)
    at = transitions(batch(ys, [6, 3, 1]), np.arange(3), 1)
    assert at.row.tolist() == [0, 0, 0, 0, 1]
    assert at.dy[-1] == pytest.approx(ys[1, 2] - ys[1, 1], abs=1e-6)


# Derivatives


def test_divergence_and_curl_are_those_of_the_formula(x64):
    sde = SDE(drifts.Function(swirl), diffusions.Scalar(1.0, 2))
    y = independent(3)[0]
    assert divergence(sde, y) == pytest.approx(y[:, 1] - 3 * y[:, 1] ** 2, abs=1e-12)
    odd = (y[:, 0] - np.cos(y[:, 0])) / 2
    even = (y[:, 0] + np.cos(y[:, 0])) / 2
    size = np.sqrt(y[:, 1] ** 2 + 9 * y[:, 1] ** 4 + 2 * even**2)
    assert curl(sde, y) == pytest.approx(np.sqrt(2) * np.abs(odd) / size, abs=1e-12)


def test_the_ito_drift_is_what_is_measured(x64):
    """In the Stratonovich sense y o dW has the Ito drift y / 2, whose divergence is 1 in 2-d."""
    noise = diffusions.Diagonal(lambda t, y: y, 2, depends="component")
    sde = SDE(drifts.Linear(jnp.zeros((2, 2)), jnp.zeros(2)), noise, "stratonovich")
    assert divergence(sde, independent()[0]) == pytest.approx(np.ones(40))


def test_rotation_of_a_linear_drift_is_exact_and_one_of_a_gradient_is_nothing():
    paths, docs = batch(independent()), np.arange(24)
    found = rotation(linear(-0.5 * np.eye(2) + 1.5 * TURN), paths, docs, states=200)
    assert len(found.ys) == 200
    assert found.divergence == pytest.approx(np.full(200, -1.0), abs=1e-5)
    share = named(found.findings, "rotational")
    assert share.value == pytest.approx(1.5**2 / (1.5**2 + 0.5**2), abs=1e-5)
    mean = named(found.findings, "mean divergence")
    assert mean.verdict is Verdict.BELOW and "-2" in mean.note
    well = SDE(drifts.Gradient(lambda y: jnp.sum(y**4) + y[0] * y[1]), diffusions.Scalar(1.0, 2))
    assert value(rotation(well, paths, docs).findings, "rotational") < 1e-10


# Planes


def test_a_plane_shows_what_lies_in_it_and_what_leaves(x64):
    matrix = np.random.default_rng(4).standard_normal((4, 4))
    sde = SDE(
        drifts.Linear(jnp.asarray(matrix), jnp.zeros(4)),
        diffusions.Diagonal(lambda t, y: 1 + y**2, 4, depends="component"),
    )
    u, v = np.linalg.qr(np.random.default_rng(5).standard_normal((4, 2)))[0].T
    origin = np.array([0.1, 0.2, -0.3, 0.4])
    shown = plane(
        sde, origin=origin, directions=[2 * u, v + u], extent=[[-1, 2], [0, 3]], size=7, time=2.0
    )
    a, b = shown.first[5], shown.second[2]
    y = origin + a * u + b * v
    f = matrix @ y
    assert shown.drift[2, 5] == pytest.approx([f @ u, f @ v])
    rest = f - (f @ u) * u - (f @ v) * v
    assert shown.leaving[2, 5] == pytest.approx(np.linalg.norm(rest))
    assert shown.noise[2, 5] == pytest.approx(np.linalg.norm(1 + y**2))
    assert shown.divergence == pytest.approx(np.full((7, 7), np.trace(matrix)))
    (share,) = shown.findings
    assert 0 < value((share,), "share") < 1 and share.null == 0.5


def test_the_principal_plane_finds_the_directions_of_most_variance():
    rng = np.random.default_rng(6)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    ys = (rng.standard_normal((40, 50, 3)) * [3.0, 1.0, 0.1]) @ turn.T + [5.0, 6.0, 7.0]
    ys[:, 0] = 1e5
    found = principal_plane(batch(ys.astype(np.float32), np.full(40, 45)))
    assert np.abs(found.directions @ turn[:, :2]) == pytest.approx(np.eye(2), abs=0.05)
    assert found.origin == pytest.approx([5, 6, 7], abs=0.3)
    assert found.extent[0] == pytest.approx([-2.576 * 3 * 1.1, 2.576 * 3 * 1.1], rel=0.15)


# Gradient and rotation


@pytest.mark.parametrize("a, b", [(1.0, 0.0), (0.0, 1.0), (0.6, 0.8)])
def test_gradient_and_rotation_of_a_linear_drift_have_their_known_shares(a, b):
    paths, docs = batch(independent(paths=80, dim=2)), np.arange(80)
    found = decompose(linear(-a * np.eye(2) + b * TURN), paths, docs)
    gradient, turned = (named(found.findings, n) for n in ("gradient share", "rotational share"))
    assert gradient.value == pytest.approx(a**2, abs=0.03)
    assert turned.value == pytest.approx(b**2, abs=0.03)
    assert value(found.findings, "antisymmetric") == pytest.approx(b**2, abs=1e-4)
    assert found.symmetric == pytest.approx(-a * np.eye(2), abs=1e-3)
    assert found.antisymmetric == pytest.approx(b * TURN, abs=1e-3)
    for start in ("share of the drift within", "share of the drift that is linear"):
        assert value(found.findings, start) == pytest.approx(1.0, abs=1e-3)
    if b:
        assert turned.low > 0.9 * b**2


def test_a_nonlinear_gradient_in_odd_coordinates_is_explained(x64):
    """A symmetric matrix with unequal axes, and an energy that is no polynomial."""
    scale = np.array([3.0, 1.0, 0.3])
    ys = independent(paths=60, dim=3) * scale

    def force(t, y):
        return -jnp.tanh(y) - 0.1 * jnp.sum(y)

    sde = SDE(drifts.Function(force), diffusions.Scalar(1.0, 3))
    found = decompose(sde, batch(ys), np.arange(60)).findings
    assert value(found, "gradient share") > 0.97
    assert value(found, "share of the drift that is linear") < 0.95
    assert abs(value(found, "rotational share")) < 0.01


def test_what_is_out_of_reach_is_not_called_rotation():
    ys = independent(paths=40)
    ripple = SDE(drifts.Function(lambda t, y: jnp.sin(60.0 * y[::-1])), diffusions.Scalar(1.0, 2))
    found = decompose(ripple, batch(ys.astype(np.float32)), np.arange(40)).findings
    assert value(found, "share of the drift within") < 0.2
    assert value(found, "rotational share") < 0.2
