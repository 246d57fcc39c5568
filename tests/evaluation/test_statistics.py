"""Intervals and tests against scipy and statsmodels, and against counting by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar

from avrt.evaluation.statistics import bootstrap, compare, majority, mcnemar, pass_at_k


@pytest.mark.parametrize(("count", "share"), [(30, 0.5), (240, 0.83), (1197, 0.43), (1000, 0.02)])
def test_bootstrap_interval_agrees_with_scipy(count, share):
    values = np.zeros(count)
    values[: round(share * count)] = 1
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    ours = bootstrap(values.tolist())
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1.5 / count + 2e-3)


def test_paired_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.random(400) < 0.6, rng.random(400) < 0.5
    ours = compare(first.tolist(), second.tolist()).difference
    theirs = stats.bootstrap(
        (first.astype(float), second.astype(float)), lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True, vectorized=True, n_resamples=10_000, method="percentile", rng=2,
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=6e-3)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 9), (40, 41), (120, 60), (0, 12)])
def test_mcnemar_agrees_with_statsmodels(b, c):
    theirs = their_mcnemar([[10, b], [c, 10]], exact=True).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(theirs, abs=1e-12)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer():
    answers = [1, 0, 0, 1, 0]
    for k in range(1, 6):
        subsets = list(itertools.combinations(answers, k))
        assert pass_at_k(5, 2, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))
    with pytest.raises(ValueError, match="pass@6"):
        pass_at_k(5, 2, 6)


def test_majority_ignores_what_cannot_be_read():
    assert majority(["B", None, "A", "B", None, None], tie="first") == "B"
    assert majority([None, None], tie="first") is None


def test_a_majority_says_what_a_tie_means():
    assert majority(["C", "A"], tie="first") == "C"
    assert majority(["C", "A"], tie=None) is None
    assert majority(["A", "B", "A"], tie=None) == "A"
    assert majority(["A", None, None], tie=None) == "A"
    assert majority([None], tie=None) is None
    assert majority([], tie=None) is None


def test_no_items_have_no_mean():
    assert math.isnan(bootstrap([]).mean)


def test_a_comparison_counts_each_students_own_and_gives_the_first_minus_the_second():
    first = [True] * 9 + [False] * 4 + [True, False]
    second = [False] * 9 + [True] * 4 + [True, False]
    found = compare(first, second)
    assert (found.only_first, found.only_second) == (9, 4)
    assert found.difference.mean == pytest.approx(5 / 15)
    assert found.difference.count == 15
    assert found.p_value == pytest.approx(stats.binomtest(4, 13).pvalue)
    turned = compare(second, first)
    assert (turned.only_first, turned.only_second) == (4, 9)
    assert turned.difference.mean == pytest.approx(-5 / 15)


def test_a_comparison_of_unequal_lengths_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        compare([True, False], [True])


def test_the_seed_decides_the_interval():
    first, second = [i % 3 == 0 for i in range(2999)], [i % 5 == 0 for i in range(2999)]
    same = compare(first, second, seed=1).difference
    assert same == compare(first, second, seed=1).difference
    others = {(found.low, found.high) for found in (compare(first, second, seed=s).difference for s in range(8))}
    assert len(others) > 1
    values = np.random.default_rng(3).random(97).tolist()
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)
    assert bootstrap(values) == bootstrap(values, seed=0)


def test_a_lower_level_and_fewer_resamples_change_the_interval():
    values = np.random.default_rng(0).random(200).tolist()
    wide, narrow = bootstrap(values), bootstrap(values, level=0.5)
    assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)
    assert narrow.low < narrow.mean < narrow.high
    assert (wide.mean - wide.low) == pytest.approx(wide.high - wide.mean, rel=0.15)
    assert bootstrap(values, resamples=1).low == bootstrap(values, resamples=1).high


def test_all_wrong_or_all_right_leaves_pass_at_k_no_doubt():
    assert pass_at_k(4, 0, 2) == 0
    assert pass_at_k(4, 4, 4) == 1
    assert pass_at_k(4, 1, 4) == 1
