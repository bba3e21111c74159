"""Parameters are found again from data, as well as the best estimate finds them, and no worse."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TRAINED = dict(steps=300, batch=1024)
SETS = 8


@pytest.fixture(scope="module")
def tools():
    """What the benchmark is made of."""
    names = "_recovery_cases", "_recovery_fit"
    sys.path.insert(0, str(BENCHMARKS))
    yield [importlib.import_module(name) for name in names]
    sys.path.remove(str(BENCHMARKS))
    for name in names:
        sys.modules.pop(name)


def root_mean_square(x):
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.slow
def test_a_linear_process_is_found_where_least_squares_finds_it(tools, getkey):
    """The exact likelihood of an Ornstein-Uhlenbeck process has its maximum at these estimates."""
    cases, fits = tools
    case, errors = cases.ou(), []
    for transitions in (512, 2048):
        data = fits.made(case, transitions, SETS, key=getkey())
        found = fits.recovered(case, data, key=getkey(), **TRAINED)
        exact = [least_squares(one, case.gap) for one in data]
        for name, best in zip(("matrix", "bias"), zip(*exact)):
            truth = getattr(case.truth.base, name)
            best = fits.distance(np.stack(best), np.asarray(truth))
            assert np.abs(found[name] - best).max() < 0.15 * root_mean_square(best), name
        errors.append(root_mean_square(fits.overall(found)))
    assert 1.4 < errors[0] / errors[1] < 2.9, errors


def least_squares(data, gap):
    """Drift matrix and bias from the regression of next states, through the logarithm."""
    dim = data.shape[-1]
    x, y = data[:, :-1].reshape(-1, dim), data[:, 1:].reshape(-1, dim)
    x = np.column_stack([x, np.ones(len(x))]).astype(float)
    f, v = np.split(np.linalg.lstsq(x, y.astype(float), rcond=None)[0].T, [dim], axis=1)
    matrix = scipy.linalg.logm(f).real / gap
    return matrix, matrix @ np.linalg.solve(f - np.eye(dim), v[:, 0])


@pytest.mark.slow
def test_errors_of_a_double_well_halve_with_four_times_the_data(tools, getkey):
    cases, fits = tools
    case, errors = cases.double_well(), []
    for transitions in (1024, 4096):
        data = fits.made(case, transitions, SETS, key=getkey())
        errors.append(fits.recovered(case, data, key=getkey(), **TRAINED))
    first, second = (root_mean_square(fits.overall(found)) for found in errors)
    assert 1.4 < first / second < 2.9, (first, second)
    # The variance of steps gives the noise to one over the root of twice their number.
    known = [np.sqrt(2 * n) * found["sigma"] for found, n in zip(errors, (1024, 4096))]
    assert 0.6 < root_mean_square(known) < 1.6, known


@pytest.mark.slow
def test_errors_of_a_lorenz_system_with_its_noise_halve_with_four_times_the_data(tools, getkey):
    """Noise in proportion to the state."""
    cases, fits = tools
    case, errors = cases.lorenz(), []
    for transitions in (1024, 4096):
        data = fits.made(case, transitions, SETS, key=getkey())
        found = fits.recovered(case, data, key=getkey(), steps=400, batch=1024)
        errors.append(root_mean_square(fits.overall(found)))
    assert 1.3 < errors[0] / errors[1] < 3.2, errors


@pytest.mark.slow
def test_a_matrix_and_bias_in_64_dimensions_are_those_of_least_squares(tools, getkey):
    """4,160 numbers, whose likelihood has the same maximum whatever the noise, here of rank 4."""
    cases, fits = tools
    case = cases.low_rank()
    data = fits.made(case, 8192, 2, key=getkey())
    found = fits.recovered(case, data, key=getkey(), steps=1000, batch=2048)
    exact = [least_squares(one, case.gap) for one in data]
    for name, best in zip(("matrix", "bias"), zip(*exact)):
        best = fits.distance(np.stack(best), np.asarray(getattr(case.truth.base, name)))
        assert np.abs(found[name] - best).max() < 0.15 * root_mean_square(best), (name, best)
    assert root_mean_square(found["noise covariance"]) < 0.08, found


@pytest.mark.slow
def test_fits_side_by_side_are_those_that_each_set_has_alone(tools, getkey):
    cases, fits = tools
    case, key = cases.ou(), getkey()
    data = fits.made(case, 256, 2, key=getkey())
    options = dict(key=key, steps=20, batch=256)
    both = fits.recovered(case, data, **options)
    alone = fits.recovered(case, data[1:], **options)
    for name in alone:
        np.testing.assert_allclose(both[name][1], alone[name][0], rtol=1e-3)


def test_slopes_are_those_of_errors_that_fall_as_the_root(tools):
    _, fits = tools
    draw = np.random.default_rng(0)
    sizes = [100, 400, 1600]
    errors = [np.abs(draw.normal(size=4000)) / np.sqrt(size) for size in sizes]
    found = fits.slope(sizes, errors, seed=1)
    assert abs(found["value"] + 0.5) < 0.02
    assert found["low"] < found["value"] < found["high"] < found["low"] + 0.1
