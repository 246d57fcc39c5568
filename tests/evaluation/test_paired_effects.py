"""Paired effects: the t distribution against SciPy, errors of the first kind and coverage by simulation, power."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from avrt.evaluation import student_t
from avrt.evaluation.paired_effects import AnswerGrid, Layout, clip_of, compare_grids, grid_layout, holm, together
from avrt.evaluation.power import Design, PowerSpec, expected_error, found_with
from avrt.evaluation.predictions import Prediction
from tests.conftest import make_sample

CLIPS = tuple(f"c{i // 4}" for i in range(600))


@pytest.mark.parametrize("freedom", [1, 2.5, 10, 400.3])
def test_the_t_distribution_is_scipys(freedom):
    for t in (0.0, 0.1, 2, 12):
        assert student_t.two_sided_p(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9)
    for share in (0.2, 0.975, 0.9995):
        assert student_t.quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9)
    critical = stats.t.ppf(0.9975, freedom)
    for shift in (0.0, 2, 6):
        exact = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
        assert student_t.power(shift, freedom, 0.005) == pytest.approx(exact, rel=5e-3)
    found = student_t.shift_found(freedom, 0.05, 0.8)
    assert student_t.power(found, freedom, 0.05) == pytest.approx(0.8, abs=1e-4)


def test_holm_is_statsmodels():
    p = [0.01, 0.04, 0.03, 0.005, 0.5]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def students(rng, seeds, seed_sd, clip_sd, gain=0.0):
    """Two students' answers to 150 clips of 4 questions: a probit model with effects of seeds and clips on each."""
    question = rng.normal(0, 1, (1, 1, 150, 4)) + rng.normal(0, 0.7, (1, 1, 150, 1))
    own = rng.normal(0, seed_sd, (2, seeds, 1, 1)) + rng.normal(0, clip_sd, (2, 1, 150, 1))
    shift = np.array([gain, 0.0]).reshape(2, 1, 1, 1)
    right = question + own + shift + rng.normal(0, 0.7, (2, seeds, 150, 4)) > 0
    return [AnswerGrid(x.reshape(seeds, 600).astype(float), tuple(range(seeds)), CLIPS) for x in right]


@pytest.mark.parametrize(("seeds", "seed_sd", "clip_sd"), [(3, 0.1, 0), (3, 0, 0.5), (3, 0.1, 0.5), (6, 0.05, 0.3)])
def test_errors_and_coverage_are_as_stated(seeds, seed_sd, clip_sd):
    """400 comparisons without a difference: their share below 0.05, which is that outside of the interval."""
    rng = np.random.default_rng(1)
    effects = [compare_grids(*students(rng, seeds, seed_sd, clip_sd)).effect() for _ in range(400)]
    found = np.mean([e.p < 0.05 for e in effects])
    assert found == np.mean([not e.low <= 0 <= e.high for e in effects])
    # 5 % of 400 comparisons have a standard deviation of 1.1 points; the method may be conservative
    assert 0.005 <= found <= 0.083
    naive = np.mean([abs(e.difference) > 1.96 * _error_over_questions(e) for e in effects])
    assert naive > found + 0.02


def _error_over_questions(effect):
    """The error if all answers were independent and a quarter of them discordant."""
    return (0.25 / (effect.questions * effect.seeds)) ** 0.5


def test_comparisons_made_together_find_more_and_err_no_more():
    """Studies of 10 students and 3 seeds without a difference, then with one; Holm's correction over 9 claims."""
    rng = np.random.default_rng(8)

    def study(gain, wild):
        """The corrected p-values together and each alone; contributions are drawn from the model."""
        spread = np.where(np.arange(10) < 8, 0.01, wild)
        own = rng.normal(0, 1, (3, 1, 10)) * spread + rng.normal(0, 0.14, (1, 150, 10))
        z = own + rng.normal(0, 0.2, (3, 150, 10)) + gain * (np.arange(10) > 0)
        layouts = [Layout.of(z[:, :, k] - z[:, :, 0], 600) for k in range(1, 10)]
        return [holm([e.p for e in effects]) for effects in (together(layouts, 8), together(layouts, 0))]

    assert np.mean([min(study(0, 0.04)[0]) < 0.05 for _ in range(200)]) < 0.09
    shared, alone = (np.array([study(0.065, 0.01) for _ in range(40)]) < 0.05).mean((0, 2))
    assert shared > alone + 0.1


def test_the_seeds_of_one_student_are_not_made_surer_by_others():
    rng = np.random.default_rng(9)
    calm = [Layout.of(rng.normal(0, 0.3, (3, 150)), 600) for _ in range(5)]
    wild = Layout.of(rng.normal(0, 0.3, (3, 150)) + np.array([[-0.2], [0.0], [0.2]]), 600)
    shared, own = together([wild, *calm], 5)[0], wild.effect()
    assert shared.error == pytest.approx(own.error)
    assert own.seed_sd == pytest.approx(0.2, abs=0.05)
    assert shared.freedom > own.freedom
    few = together([wild, calm[0]], 0)
    assert few == [wild.effect(), calm[0].effect()]


def test_a_planted_difference_is_found_and_its_true_value_covered():
    rng = np.random.default_rng(2)
    effects = [compare_grids(*students(rng, 4, 0.05, 0.3, gain=0.5)).effect() for _ in range(60)]
    true = np.mean([e.difference for e in effects])
    assert true > 0.08
    assert np.mean([e.p < 0.05 for e in effects]) > 0.9
    assert np.mean([e.low <= true <= e.high for e in effects]) > 0.88


def test_contributions_have_the_difference_as_their_mean():
    """Also of groups that share no question, and of clips with different numbers of questions."""
    rng = np.random.default_rng(3)
    clips = tuple(f"c{i}" for i in np.sort(rng.integers(0, 40, 200)))
    credit = (rng.random((3, 200)) < 0.6).astype(float)
    easy = np.arange(200) % 3 == 0
    first = AnswerGrid(credit[:, easy], (0, 1, 2), tuple(c for c, e in zip(clips, easy, strict=True) if e))
    second = AnswerGrid(credit[:, ~easy], (0, 1, 2), tuple(c for c, e in zip(clips, easy, strict=True) if not e))
    effect = compare_grids(first, second).effect()
    assert effect.difference == pytest.approx(first.accuracy - second.accuracy)
    # against resampled clips: seeds add nothing here, since all answers are independent
    names = sorted(set(clips))
    place = np.array([names.index(c) for c in clips])
    drawn = []
    for _ in range(2000):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[place]
        a, b = weight * easy, weight * ~easy
        drawn.append((credit.mean(0) @ a) / a.sum() - (credit.mean(0) @ b) / b.sum())
    assert effect.error == pytest.approx(np.std(drawn), rel=0.25)


def test_one_model_for_all_seeds_adds_no_seeds():
    rng = np.random.default_rng(4)
    first, second = students(rng, 4, 0.1, 0.3)
    single = AnswerGrid(second.credit[:1], (0,), CLIPS, once=True)
    repeated = AnswerGrid(np.repeat(second.credit[:1], 4, 0), (0, 1, 2, 3), CLIPS)
    assert compare_grids(first, single) == compare_grids(first, repeated)
    other = AnswerGrid(first.credit[:1], (0,), CLIPS, once=True)
    alone = compare_grids(other, single).effect()
    copies = compare_grids(AnswerGrid(np.repeat(first.credit[:1], 4, 0), (0, 1, 2, 3), CLIPS), repeated).effect()
    assert (alone.seeds, copies.seeds) == (1, 4)
    # the same answers four times are no more evidence than once
    assert copies.error == pytest.approx(alone.error)
    z = (other.credit - single.credit).reshape(150, 4).mean(1)
    assert alone.p == pytest.approx(stats.ttest_1samp(z, 0).pvalue)


def test_seeds_are_paired_by_their_number():
    rng = np.random.default_rng(5)
    first, second = students(rng, 4, 0.3, 0.0)
    turned = AnswerGrid(second.credit[::-1], second.seeds[::-1], CLIPS)
    assert compare_grids(first, turned) == compare_grids(first, second)
    partly = AnswerGrid(second.credit[1:3], (1, 2), CLIPS)
    assert compare_grids(first, partly).seeds == 2
    with pytest.raises(ValueError, match="no seed in common"):
        compare_grids(first, AnswerGrid(second.credit[:1], (9,), CLIPS))


def test_equal_answers_have_no_difference_and_one_clip_no_interval():
    first, _ = students(np.random.default_rng(6), 3, 0.1, 0.1)
    same = compare_grids(first, first).effect()
    assert (same.difference, same.error, same.p) == (0, 0, 1)
    assert grid_layout(first).effect().difference == pytest.approx(first.accuracy)
    with pytest.raises(ValueError, match="one clip alone"):
        Layout.of(np.zeros((3, 1)), 4)


def test_the_clip_is_a_field_or_the_id_up_to_its_last_part():
    assert clip_of(Prediction.from_sample(make_sample("test-0-000012-3"), 0)) == "test-0-000012"
    assert clip_of(Prediction.from_sample(make_sample("q-1", metadata={"clip": "v7"}), 0)) == "v7"
    assert clip_of(Prediction.from_sample(make_sample("q1"), 0)) == "q1"


def test_stated_power_is_what_simulated_comparisons_find():
    """Contributions drawn from the assumptions themselves."""
    assumed, design = PowerSpec(seed_sd=1.0, seeds_correlation=0.5), Design(seeds=5, clips=150, questions=600)
    error, freedom = expected_error(assumed, design)
    stated = found_with(error, freedom, assumed, 1)
    rng = np.random.default_rng(7)
    of_clip = 0.25 * (1 + 3 * 0.1) / 4
    found = []
    for _ in range(500):
        z = stated.smallest / 100 + rng.normal(0, 0.01, (5, 1)) + rng.normal(0, (of_clip / 2) ** 0.5, (1, 150))
        found.append(Layout.of(z + rng.normal(0, (of_clip / 2) ** 0.5, (5, 150)), 600).effect())
    assert np.mean([e.p < 0.05 for e in found]) == pytest.approx(0.8, abs=0.06)
    assert np.std([e.difference for e in found]) == pytest.approx(error / 100, rel=0.1)


def test_stated_power_allows_for_what_comparisons_share():
    """Claims between 8 students with 3 seeds, at the first step of Holm's correction."""
    assumed = PowerSpec(seed_sd=2.0)
    error, freedom = expected_error(assumed, Design(seeds=3, clips=150, questions=600, pooled=3))
    stated = found_with(error, freedom, assumed, 8)
    of_clip, rng, found = 0.25 * 1.3 / 4 / 2, np.random.default_rng(10), []
    for _ in range(40):
        z = rng.normal(0, 0.02 / 2**0.5, (3, 1, 9)) + rng.normal(0, (of_clip * 0.3) ** 0.5, (1, 150, 9))
        z = z + rng.normal(0, (of_clip * 0.7) ** 0.5, (3, 150, 9))
        layouts = [Layout.of(z[:, :, k] - z[:, :, k + 1] + stated.smallest / 100, 600) for k in range(8)]
        found += [e.p < 0.05 / 8 for e in together(layouts, 7)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


def test_more_claims_seeds_and_questions_move_power_as_they_should():
    assumed = PowerSpec()

    def smallest(claims=1, **fields):
        error, freedom = expected_error(assumed, Design(**{"seeds": 4, "clips": 150, "questions": 600} | fields))
        return found_with(error, freedom, assumed, claims, published=4.0).smallest

    assert smallest(claims=15) > 1.5 * smallest()
    assert smallest(seeds=6) < smallest() < smallest(seeds=3)
    assert smallest(questions=300) > smallest()
    assert smallest(grouped=True) > smallest()
    assert smallest(unpaired=True) > smallest(grouped=True)
