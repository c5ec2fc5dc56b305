"""Intervals: statsmodels for Wilson, coverage for the area under the curve, and none where none can be had."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from aimer2.metrics import binned_scores, confusion, intervals


def test_by_hand() -> None:
    # Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
    assert intervals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert intervals.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_that_of_statsmodels(counts: tuple[int, int]) -> None:
    found = intervals.wilson(*counts)
    assert found is not None
    assert found == pytest.approx(proportion_confint(*counts, method="wilson"), abs=1e-12)
    assert 0 <= found[0] <= counts[0] / counts[1] <= found[1] <= 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5), (1, -2)])
def test_no_proportion_no_interval(successes: float, trials: float) -> None:
    assert intervals.wilson(successes, trials) is None


def test_logit_interval_stays_inside_and_refuses_the_ends() -> None:
    found = intervals.logit_interval(0.99, 0.02**2)
    assert found is not None
    assert 0 < found[0] < 0.99 < found[1] < 1
    # ln 3 = 1.098612, half width 1.959964 x 0.05 / 0.1875 = 0.522657: 0.575955 and 1.621269 on the logit scale.
    assert intervals.logit_interval(0.75, 0.05**2) == pytest.approx((0.640136, 0.834970), abs=1e-6)
    assert intervals.logit_interval(0.01, 10.0) == pytest.approx((0.0, 1.0))
    for value, variance in ((1.0, 0.01), (0.0, 0.01), (0.5, 0.0)):
        assert intervals.logit_interval(value, variance) is None


def test_balanced_accuracy_has_the_interval_of_newcombe() -> None:
    # The mean of sensitivity and specificity is half of (sensitivity - (1 - specificity)) + 1/2: Newcombe's interval of a difference.
    low, high = confint_proportions_2indep(42, 50, 12, 80, method="newcomb", compare="diff", correction=False)
    read = confusion.balanced_accuracy(np.array([[68, 12], [8, 42]]))
    assert (read.low, read.high) == pytest.approx(((low + 1) / 2, (high + 1) / 2))


def test_the_interval_of_the_area_covers_as_often_as_it_says() -> None:
    # Normal scores one deviation apart: the true area is Phi(1 / sqrt 2) = 0.760250.
    rng, truth, held = np.random.default_rng(17), 0.7602499389065233, 0
    positive = np.arange(120) < 40
    for _ in range(400):
        logits = rng.normal(size=120) + positive
        read = binned_scores.auc(binned_scores.histogram(1 / (1 + np.exp(-logits)), positive))
        assert read.low is not None
        assert read.high is not None
        held += read.low <= truth <= read.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_mean_of_one_record_has_no_interval() -> None:
    read = intervals.mean(3.0, 9.0, 1)
    assert (read.value, read.low, read.high, read.n) == (3.0, None, None, 1)


@pytest.mark.parametrize(("positives", "negatives"), [(4, 16), (13, 18), (1, 1), (100, 3)])
def test_a_perfect_area_is_not_certain(positives: int, negatives: int) -> None:
    """The bound is the area whose own standard error (Hanley and McNeil's, equal spread) just reaches 1."""
    found = intervals.extreme_auc_interval(1.0, positives, negatives)
    assert found is not None
    low, high = found
    q1, q2 = low / (2 - low), 2 * low**2 / (1 + low)
    each = (positives + negatives) / 2 - 1
    variance = (low * (1 - low) + each * (q1 - low**2 + q2 - low**2)) / (positives * negatives)
    assert high == 1
    assert (1 - low) / math.sqrt(variance) == pytest.approx(1.959964, abs=1e-4)
    assert intervals.extreme_auc_interval(0.0, positives, negatives) == (0.0, pytest.approx(1 - low))
    more = intervals.extreme_auc_interval(1.0, 10 * positives, 10 * negatives)
    assert more is not None and more[0] > low


def test_an_area_between_or_without_a_class_has_no_extreme_interval() -> None:
    assert intervals.extreme_auc_interval(0.9, 10, 10) is None
    assert intervals.extreme_auc_interval(1.0, 0, 10) is None
