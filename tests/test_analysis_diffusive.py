"""Coarse-graining against loops; jump tests on processes with and without jumps; the fair scale."""

from collections import namedtuple

import jax
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from dynlm import Trajectory, stack
from dynlm._io import BadArgument
from dynlm.analysis._diffusive import Fairness, Margins, diffusive, judged
from dynlm.analysis._jumps import (
    GAP,
    GAP_SUM,
    KINDS,
    WORST,
    MixtureSize,
    gaussian_tail,
    jumps,
    mixture_gaps,
    steps_of,
)
from dynlm.analysis._scales import coarse, sentence_means
from dynlm.analysis.findings import Verdict, stated, withheld

SMALL = MixtureSize(width=16, steps=150, batch=128, train=2**11, held=2**9, test=2**11)


def batch(ys, lengths=None, fill=0.0, dtype=np.float32):
    """Paths of any lengths; what stands in padding is `fill`."""
    ys = np.array(ys, dtype)
    lengths = np.full(len(ys), ys.shape[1]) if lengths is None else np.asarray(lengths)
    mask = np.arange(ys.shape[1]) < lengths[:, None]
    ys[~mask] = fill
    ts = np.minimum(np.arange(ys.shape[1]), lengths[:, None] - 1).astype(dtype)
    one = jax.tree.structure(Trajectory.from_arrays(np.zeros((2, 1))))
    return jax.tree.unflatten(one, jax.device_put((ts, ys, mask)))


def process(rng, paths, steps, noise, back=0.05):
    """x' = (1 - back) x + noise."""
    x, states = np.zeros(paths), []
    for _ in range(steps + 60):
        x = (1 - back) * x + noise(rng, paths)
        states.append(x)
    return np.array(states[60:]).T[:, :, None]


def gaussian(rng, paths):
    return rng.standard_normal(paths)


def jumping(rng, paths):
    """A Gaussian step, and a tenth of the time a jump four times as large."""
    return rng.standard_normal(paths) + 4 * rng.standard_normal(paths) * (rng.random(paths) < 0.1)


def compound(rng, paths):
    """The sum of a Poisson number of normal jumps, three on average."""
    return np.sqrt(rng.poisson(3.0, paths)) * rng.standard_normal(paths)


@pytest.mark.parametrize("how", ["strided", "averaged"])
@pytest.mark.parametrize("width", [1, 3, 50])
def test_coarse_paths_are_those_of_loops(how, width):
    rng, lengths = np.random.default_rng(0), [11, 1, 2, 7, 12]
    ys = rng.standard_normal((5, 12, 2))
    found = coarse(batch(ys, lengths, np.nan), width, how, burn=1)
    for i, n in enumerate(lengths):
        if how == "strided":
            kept = [(float(k), ys[i, k]) for k in range(1, n, width)]
        else:
            starts = range(1, n - width + 1, width)
            kept = [(k + (width - 1) / 2, ys[i, k : k + width].mean(axis=0)) for k in starts]
        mask = np.asarray(found.mask[i])
        assert mask.sum() == len(kept) and not np.diff(mask.astype(int)).clip(0).any()
        for k, (t, y) in enumerate(kept):
            assert float(found.ts[i, k]) == pytest.approx(t)
            np.testing.assert_allclose(found.ys[i, k], y, rtol=1e-5)
        assert np.isfinite(np.asarray(found.ys[i])).all()
        assert (np.diff(np.asarray(found.ts[i])) >= 0).all()


def test_a_way_that_is_none_is_refused(unchecked):
    with pytest.raises(BadArgument, match="`how` is 'mean'"):
        coarse(batch(np.zeros((2, 9, 1))), 2, "mean")


def test_a_coarse_step_lasts_as_many_steps_and_keeps_an_ou_process_one():
    ys = process(np.random.default_rng(1), 200, 121, gaussian, back=0.2)
    found = coarse(batch(ys), 4, burn=1)
    np.testing.assert_array_equal(np.diff(np.asarray(found.ts)), 4.0)
    x, y = (np.asarray(found.ys)[:, a, 0].ravel() for a in (slice(None, -1), slice(1, None)))
    assert abs(x @ y / (x @ x) - 0.8**4) < 4 / np.sqrt(len(x))


def test_means_of_sentences_are_those_of_loops():
    ys = np.random.default_rng(2).standard_normal((2, 9, 2))
    marks = np.zeros((2, 9), bool)
    marks[0, [0, 3, 4, 8]] = marks[1, [2, 7]] = True
    found = sentence_means(batch(ys, [8, 9], np.nan), marks, burn=1)
    wanted = [[(1, 4), (4, 5)], [(1, 3), (3, 8)]]  # what has no end or is padding is left out
    for i, spans in enumerate(wanted):
        assert np.asarray(found.mask[i]).sum() == len(spans)
        for k, (a, b) in enumerate(spans):
            np.testing.assert_allclose(found.ys[i, k], ys[i, a:b].mean(axis=0), rtol=1e-5)
            assert float(found.ts[i, k]) == pytest.approx((a + b - 1) / 2)
    with pytest.raises(BadArgument, match="`marks` has shape"):
        sentence_means(batch(ys), marks[:1])


def test_jump_tests_know_the_law_of_the_residuals():
    """A Gaussian mixture's bipower ratio, kurtosis and tail are known in closed form."""
    rng, docs = np.random.default_rng(3), np.arange(150)
    still = jumps(batch(process(rng, 150, 101, gaussian)), docs)
    assert [one.verdict for one in still.findings] == [Verdict.LEVEL] * 3
    found = jumps(batch(process(rng, 150, 101, jumping)), docs)
    variance, fourth = 1 + 0.1 * 16, 3 * (0.9 + 0.1 * 17**2)
    ratio = (0.9 + 0.1 * np.sqrt(17)) ** 2 / variance  # (pi/2) E|e|^2 over E e^2
    law = (scipy.stats.norm(), scipy.stats.norm(scale=np.sqrt(17)))

    def survival(x):
        return 2 * (0.9 * law[0].sf(x) + 0.1 * law[1].sf(x))

    q = scipy.optimize.brentq(lambda x: survival(x) - 0.02, 0.1, 30)
    tail = scipy.integrate.quad(lambda x: survival(x) / x / 0.02, q, np.inf)[0]
    wanted = ratio, fourth / variance**2 - 3, tail
    for one, truth, verdict in zip(found.findings, wanted, ("below", "above", "above")):
        assert one.verdict.value == verdict
        assert one.low is not None and one.high is not None and one.value is not None
        error = (one.high - one.low) / 4
        assert abs(one.value - truth) < 4 * error + 0.01 * truth, one.what
    assert found.residuals.shape == (found.transitions, 1) == (150 * 99, 1)


def test_the_tail_of_a_gaussian_is_its_integral():
    for share in (0.01, 0.05):
        q = scipy.stats.norm.isf(share / 2)
        exact = 2 * scipy.integrate.quad(lambda x: scipy.stats.norm.sf(x) / x, q, np.inf)[0] / share
        assert gaussian_tail(share) == pytest.approx(exact, rel=1e-3)


def test_noise_that_depends_on_the_state_is_no_jump():
    """Raw residuals of this diffusion have heavy tails; over their standard deviation none."""
    x, states, rng = np.zeros(200), [], np.random.default_rng(4)
    for _ in range(120):
        x = 0.97 * x + 0.2 * np.exp(0.7 * np.tanh(x)) * rng.standard_normal(200)
        states.append(x)
    ys = np.array(states[40:]).T[:, :, None]
    found = jumps(batch(ys), np.arange(200)).findings[1]
    steps = steps_of(batch(ys), np.arange(200), seed=0, burn=1, most=2**15)
    assert scipy.stats.kurtosis(steps.linear[:, 0]) > 0.3
    assert abs(found.value) < 0.1


def test_padding_and_float64(x64):
    rng = np.random.default_rng(5)
    ys, lengths = process(rng, 60, 40, jumping).astype("f4"), rng.integers(3, 41, 60)
    for width in (1, 2):
        grained = [
            jumps(coarse(batch(ys, lengths, fill, d), width), np.arange(60), burn=0)
            for fill, d in ((0.0, "f4"), (np.nan, "f4"), (np.nan, "f8"))
        ]
        assert grained[0].findings == grained[1].findings
        for one, other in zip(grained[0].findings, grained[2].findings):
            assert one.value == pytest.approx(other.value, rel=1e-4)


@pytest.fixture(scope="module")
def gaps():
    """The mixture's gain on residuals with and without jumps, of one program."""
    rng, docs = np.random.default_rng(6), np.arange(100)
    scales = [
        steps_of(batch(process(rng, 100, 61, noise)), docs, seed=0, burn=1, most=2**15)
        for noise in (gaussian, jumping)
    ]
    return mixture_gaps(scales, key=jr.key(0), seed=0, level=0.95, size=SMALL)


@pytest.mark.slow
def test_the_mixture_gains_what_the_shape_is_worth(gaps):
    """The entropy of a Gaussian of equal variance less that of the mixture."""
    (level,), (above,) = gaps
    assert abs(level.value) < 0.02 and level.high < 0.03
    density = lambda x: (  # noqa: E731
        0.9 * scipy.stats.norm.pdf(x) + 0.1 * scipy.stats.norm.pdf(x, scale=np.sqrt(17))
    )
    entropy = 2 * scipy.integrate.quad(lambda x: -density(x) * np.log(density(x)), 0, 40)[0]
    worth = 0.5 * np.log(2 * np.pi * np.e * (1 + 0.1 * 16)) - entropy
    assert above.verdict is Verdict.ABOVE
    assert 0.7 * worth < above.value < 1.25 * worth, worth


Case = namedtuple("Case", "noise back fairness scale")
CASES = {
    "OU": Case(gaussian, 0.05, Fairness.FAIR, {1}),
    "jump-diffusion": Case(jumping, 0.05, Fairness.JUMPS, {None}),
    "compound Poisson": Case(compound, 0.0, Fairness.FAIR, {4, 8}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_scale_from_which_a_diffusion_is_fair(name):
    """Sums of ever more jumps become Gaussian; those that a drift takes back in time do not."""
    case = CASES[name]
    ys = process(np.random.default_rng(7), 120, 321, case.noise, case.back)
    widths = (1, 4, 8, 16)
    found = diffusive(batch(ys), np.arange(120), key=jr.key(0), widths=widths, mixture=False)
    assert found.fairness is case.fairness and found.scale in case.scale
    assert found.scales[0].fairness is (Fairness.FAIR if name == "OU" else Fairness.JUMPS)
    assert len(found.findings) == 1 + 3 * len(widths)
    assert found.findings[0].verdict is (Verdict.STATED if found.scale else Verdict.WITHHELD)
    kurtosis = [float(scale.findings[1].value or 0) for scale in found.scales]
    if name == "compound Poisson":
        # The excess kurtosis of a Poisson number of normal jumps is 3 over its mean.
        np.testing.assert_allclose(kurtosis, 1 / np.array(widths), atol=0.3)
        assert kurtosis[0] > 0.7


@pytest.mark.slow
def test_all_tests_at_all_scales_with_sentences():
    """One program trains the densities of every scale."""
    rng = np.random.default_rng(8)
    ys = process(rng, 80, 121, jumping)
    marks = rng.random((80, 121)) < 0.25
    how = dict(key=jr.key(1), widths=(1, 2, 4), marks=marks, size=SMALL)
    found = diffusive(batch(ys), np.arange(80), **how)
    assert [one.name for one in found.scales] == ["1 step", "2 steps", "4 steps", "sentences"]
    assert 3.5 < found.scales[3].width < 4.5
    gaps = [one.findings[3] for one in found.scales]
    assert all(gap.what == GAP for gap in gaps)
    assert [gap.verdict for gap in gaps[:2]] == [Verdict.ABOVE] * 2
    worth = [float(gap.value or 0) for gap in gaps]
    assert worth[0] > worth[1] > worth[2]
    assert (
        found.fairness is Fairness.JUMPS and "given the state at 1 step" in found.findings[0].note
    )
    part = diffusive(batch(ys), np.arange(80), **(how | dict(marks=None, mixture=(2,))))
    assert [len(one.findings) for one in part.scales] == [3, 4, 3]


@pytest.fixture(scope="module")
def two_valued():
    """Independent states at one of two values, with a little noise."""
    rng = np.random.default_rng(11)
    ys = rng.choice([-1.0, 1.0], (100, 129, 1)) + 0.1 * rng.standard_normal((100, 129, 1))
    return batch(ys), np.arange(100)


def test_states_of_two_values_are_no_diffusion(two_valued):
    """Their kurtosis is -2 and not 0, on the side where jumps are not."""
    how = dict(key=jr.key(0), widths=(1, 4), mixture=False)
    found = diffusive(*two_valued, **how)
    assert [one.fairness for one in found.scales] == [Fairness.JUMPS] * 2
    assert (found.scale, found.shuffled, found.coarser) == (None, None, ())
    assert found.scales[0].findings[1].value == pytest.approx(-2, abs=0.15)
    assert "at 1 step and 4 steps tails are lighter" in found.findings[0].sentence()


def test_averages_are_set_beside_those_of_states_in_random_order(two_valued):
    """Averages of independent states become Gaussian by themselves."""
    how = dict(key=jr.key(0), widths=(1, 2, 8), mixture=False, how="averaged")
    found = diffusive(*two_valued, **how)
    assert found.scale == found.shuffled == 8
    said = found.findings[0].sentence()
    assert "the same states in random order are fair from 8 steps" in said
    assert "only moments and tails were tested" in said
    # Averages of values that are held as long stay two-valued; not so in random order.
    rng = np.random.default_rng(12)
    held = np.repeat(rng.choice([-1.0, 1.0], (100, 16, 1)), 8, axis=1)
    held = np.concatenate([held[:, :1], held], axis=1)  # the first state is left out
    noisy = batch(held + 0.1 * rng.standard_normal(held.shape))
    found = diffusive(noisy, np.arange(100), **how)
    assert found.scale is None and found.shuffled == 8


def test_random_orders_leave_first_states_and_padding_where_they_are():
    rng = np.random.default_rng(14)
    ys, lengths = process(rng, 200, 101, gaussian, back=0.5), rng.integers(50, 102, 200)
    wild = ys.copy()
    wild[:, 0] += 1e3
    how = dict(key=jr.key(0), widths=(1,), mixture=False)
    ours, theirs = (
        diffusive(batch(y, lengths, fill), np.arange(200), **how)
        for y, fill in ((ys, 0.0), (wild, np.nan))
    )
    assert ours.shuffled == theirs.shuffled == 1


def test_coarser_scales_that_are_not_gaussian_are_named():
    """A double well: Gaussian given the state from step to step, and not over many steps."""
    rng = np.random.default_rng(15)
    x, states = rng.choice([-1.0, 1.0], 120), []
    for _ in range(321):
        x = x + 0.2 * (x - x**3) + 0.3 * rng.standard_normal(120)
        states.append(x)
    marks = np.zeros((120, 321), bool)
    marks[:, ::8] = True
    paths = batch(np.array(states).T[:, :, None])
    how = dict(key=jr.key(0), mixture=False, marks=marks)
    found = diffusive(paths, np.arange(120), widths=(1, 8), **how)
    assert found.scale == 1 and found.fairness is Fairness.FAIR
    wrong = tuple(one.name for one in found.scales if one.fairness is Fairness.JUMPS)
    assert found.coarser == wrong == ("8 steps", "sentences")
    said = found.findings[0].sentence()
    assert "and at 8 steps and sentences not" in said and "finest scale" in said


def of_sixteen(rng, size, turn=False, paths=200, steps=61):
    """Sixteen components, of one of which three steps in ten have `size` times the noise."""
    x, states = np.zeros((paths, 16)), []
    for _ in range(steps + 20):
        noise = rng.standard_normal((paths, 16))
        noise[:, 5] *= np.where(rng.random(paths) < 0.3, size, 1.0)
        x = 0.6 * x + noise
        states.append(x)
    ys = np.array(states[20:]).swapaxes(0, 1)
    ys /= ys.std(axis=(0, 1))
    return ys @ np.linalg.qr(rng.standard_normal((16, 16)))[0] if turn else ys


@pytest.mark.parametrize("turn", [False, True])
def test_one_component_of_sixteen_that_jumps_is_seen(turn):
    rng, docs = np.random.default_rng(16), np.arange(200)
    paths, how = batch(of_sixteen(rng, 5.0, turn)), dict(key=jr.key(0), mixture=False)
    found = diffusive(paths, docs, widths=(1,), **how)
    tests = found.scales[0].findings
    assert found.fairness is Fairness.JUMPS
    assert [one.what for one in tests] == [*KINDS, *WORST]
    assert judged(tests[:3], found.margins) is Fairness.FAIR  # means over components are blind
    assert tests[4].verdict is Verdict.ABOVE and float(tests[4].value or 0) > 3
    name = "the one found on other documents" if turn else "of 17 directions"
    assert name in tests[4].note


@pytest.mark.parametrize("seed", [17, 18])
def test_sixteen_gaussian_components_are_fair_and_of_few_steps_undecided(seed):
    ys, how = of_sixteen(np.random.default_rng(seed), 1.0), dict(key=jr.key(0), mixture=False)
    found = diffusive(batch(ys), np.arange(200), widths=(1,), **how)
    assert found.fairness is Fairness.FAIR
    few = diffusive(batch(ys[:40]), np.arange(40), widths=(1,), **how)
    assert few.fairness is Fairness.UNDECIDED
    assert judged(few.scales[0].findings[:2], few.margins) is Fairness.FAIR


@pytest.mark.slow
def test_the_mixture_sees_one_of_sixteen_and_leaves_gaussian_steps_one():
    """Eight Gaussians that start as clusters cannot be put together again, those nearly one can."""
    docs = np.arange(200)
    plain, jumps = (of_sixteen(np.random.default_rng(19), size) for size in (1.0, 5.0))
    twofold = np.random.default_rng(20).standard_normal(plain.shape)
    twofold[..., 5] = 0.3 * twofold[..., 5] + np.sign(twofold[..., 5])
    twofold[..., 5] /= twofold[..., 5].std()
    steps = [
        steps_of(batch(ys), docs, seed=0, burn=1, most=2**15) for ys in (plain, jumps, twofold)
    ]
    how = dict(key=jr.key(0), seed=0, level=0.95, size=MixtureSize())
    found = [both[1] for both in mixture_gaps(steps, **how)]
    level, heavy, split = ((float(one.low or 0), float(one.high or 0)) for one in found)
    margin = Margins().gap_sum
    assert found[0].what == GAP_SUM and -margin < level[0] < level[1] < margin
    assert heavy[0] > margin and split[0] > margin


def test_few_steps_decide_nothing():
    rng = np.random.default_rng(9)
    ys = process(rng, 30, 17, gaussian)
    found = diffusive(batch(ys), np.arange(30), key=jr.key(0), widths=(1, 4, 8), mixture=False)
    assert found.fairness is Fairness.UNDECIDED and found.scale is None
    assert "not enough steps" in found.findings[0].sentence()
    assert found.scales[2].findings[0].verdict is Verdict.WITHHELD


def test_a_scale_is_judged_by_the_far_ends():
    def one(value, half, null):
        what = {1.0: KINDS[0], 0.0: KINDS[1], 0.13: KINDS[2]}[null]
        what = GAP if half == 0.002 else what
        return stated(what, value, null)._replace(low=value - half, high=value + half)

    margins, fair = Margins(), [one(0.98, 0.03, 1.0), one(0.1, 0.2, 0.0), one(0.13, 0.02, 0.13)]
    for what, near, far in ((WORST[0], 0.08, 0.2), (WORST[1], 0.4, 0.6), (GAP_SUM, 0.04, 0.06)):
        worst = stated(what, near, 0.0)._replace(low=0.0, high=near)
        assert judged([*fair, worst], margins) is Fairness.FAIR
        assert judged([*fair, worst._replace(high=far)], margins) is Fairness.UNDECIDED
        sure = worst._replace(value=far, low=near, high=far + near)
        assert judged([*fair, sure], margins) is Fairness.JUMPS
    assert judged(fair, margins) is Fairness.FAIR
    assert judged([*fair, withheld(GAP, "few")], margins) is Fairness.FAIR
    assert judged([*fair, one(0.009, 0.002, 0.0)], margins) is Fairness.UNDECIDED
    assert judged([*fair, one(0.02, 0.002, 0.0)], margins) is Fairness.JUMPS
    assert judged([*fair, one(-0.02, 0.002, 0.0)], margins) is Fairness.FAIR
    for i, wrong in enumerate((one(0.8, 0.1, 1.0), one(1.0, 0.2, 0.0), one(0.3, 0.1, 0.13))):
        assert judged([*fair[:i], wrong, *fair[i + 1 :]], margins) is Fairness.JUMPS
    for i, (value, null) in enumerate(((1.2, 1.0), (-0.7, 0.0))):  # two-sided
        assert judged([*fair[:i], one(value, 0.1, null), *fair[i + 1 :]], margins) is Fairness.JUMPS
    undecided = [fair[0], one(-0.4, 0.2, 0.0), fair[2]]
    assert judged(undecided, margins) is Fairness.UNDECIDED
    assert judged([*fair[:2], one(0.05, 0.02, 0.13)], margins) is Fairness.FAIR
    assert judged([withheld("ratio", "few"), *fair[1:]], margins) is Fairness.UNDECIDED


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(widths=(4, 2)), "`widths` is"),
        (dict(widths=(0,)), "`width` is 0"),
        (dict(docs=np.arange(3)), "`docs` has shape"),
        (dict(share=0.9), "`share` is 0.9"),
        (dict(burn=99), "`burn` is 99"),
        (dict(paths=Trajectory.from_arrays(np.zeros((5, 1)))), "Pass a batch"),
    ],
)
def test_what_cannot_be_tested_is_refused(change, match):
    walk = np.random.default_rng(10).standard_normal((20, 9, 1))
    paths = stack([Trajectory.from_arrays(ys) for ys in walk])
    given = dict(paths=paths, docs=np.arange(20), key=jr.key(0), mixture=False)
    with pytest.raises(BadArgument, match=match):
        diffusive(**(given | change))
