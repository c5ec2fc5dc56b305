"""The ranking figures from bins: exact on the rounded scores, and within their stated bounds of scikit-learn on the raw ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from aimer2.metrics import binned_scores
from aimer2.metrics.binned_scores import BINS, EDGES

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

COARSE = np.array([0.0, 1e-9, 0.02, 0.3, 0.5, 0.77, 0.9, 1 - 1e-7, 1.0])  # one score per bin, ties on purpose


def model(separation: float, scale: float, n: int = 3000, share: float = 0.2) -> tuple[Floats, Labels]:
    """Scores of a model whose logits differ by ``separation`` between the classes."""
    rng = np.random.default_rng(7)
    positive = rng.random(n) < share
    logits = scale * (rng.normal(size=n) + separation * positive) - 2
    return 1 / (1 + np.exp(-logits)), positive


MODELS = {
    "strong": model(4.0, 3.0),
    "weak": model(0.3, 1.0),
    "rare": model(1.5, 1.0, share=0.01),
    "useless": model(0.0, 1.0),
    "inverted": model(-2.0, 1.0),
}


def test_by_hand() -> None:
    # Positives 0.8, 0.6; negatives 0.6, 0.1, 0.1: of 6 pairs 5 are won and one is tied, so 5.5 / 6.
    scores, positive = np.array([0.8, 0.6, 0.6, 0.1, 0.1]), np.array([True, True, False, False, False])
    counts = binned_scores.histogram(scores, positive)
    assert binned_scores.auc(counts).value == pytest.approx(5.5 / 6)
    assert binned_scores.auc_range(counts) == pytest.approx((5 / 6, 1.0))
    # Precision 1 at the first positive, 2/3 at the second.
    assert binned_scores.average_precision(counts).value == pytest.approx((1 + 2 / 3) / 2)
    # Placements: positives 1, 2.5/3 (variance 1/72); negatives 0.75, 1, 1 (variance 1/48). 1/72/2 + 1/48/3.
    assert binned_scores.delong_variance(counts) == pytest.approx(1 / 144 + 1 / 144)


def test_bins_cover_the_unit_interval_and_one_half_is_an_edge() -> None:
    assert len(EDGES) == BINS - 1
    assert (np.diff(EDGES) > 0).all()
    assert 0.5 in EDGES
    places = binned_scores.histogram(np.array([0.0, np.nextafter(0.5, 0), 0.5, 1.0]), np.ones(4, bool))[1].nonzero()[0]
    assert places.tolist() == [0, BINS // 2 - 1, BINS // 2, BINS - 1]


@pytest.mark.parametrize("name", MODELS)
def test_bounds_hold_against_the_raw_scores_and_are_small(name: str) -> None:
    scores, positive = MODELS[name]
    counts = binned_scores.histogram(scores, positive)
    low, high = binned_scores.auc_range(counts)
    assert low - 1e-12 <= roc_auc_score(positive, scores) <= high + 1e-12
    assert (low + high) / 2 == pytest.approx(binned_scores.auc(counts).value)
    assert high - low < 0.01
    low, high = binned_scores.average_precision_range(counts)
    assert low - 1e-12 <= average_precision_score(positive, scores) <= high + 1e-12
    assert high - low < 0.03


def test_saturated_scores_have_a_wide_bound_that_still_holds() -> None:
    scores, positive = model(1.0, 12.0)
    counts = binned_scores.histogram(scores, positive)
    low, high = binned_scores.auc_range(counts)
    assert high - low > 0.05  # a sixth of the records lies beyond logits of 12 on either side
    assert low <= roc_auc_score(positive, scores) <= high


def test_binned_in_the_logit_a_strong_model_keeps_what_equal_bins_lose() -> None:
    scores, positive = model(1.0, 1.0)
    scores = scores**4  # nearly all below 0.001
    low, high = binned_scores.auc_range(binned_scores.histogram(scores, positive))
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    equal = np.stack([np.bincount(place[positive == label], minlength=BINS) for label in (False, True)])
    equal_low, equal_high = binned_scores.auc_range(equal)
    assert high - low < 0.01
    assert equal_high - equal_low > 0.1


def test_a_constant_model_is_at_one_half_and_the_note_says_that_bins_cannot_know() -> None:
    positive = np.arange(40) % 4 == 0
    read = binned_scores.auc(binned_scores.histogram(np.full(40, 0.25), positive))
    assert read.value == roc_auc_score(positive, np.full(40, 0.25)) == 0.5
    assert (read.low, read.high) == (None, None)
    assert "0.00000 to 1.00000" in read.note


def test_complete_separation_of_few_is_not_certain() -> None:
    read = binned_scores.auc(binned_scores.histogram(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])))
    assert (read.value, read.high) == (1.0, 1.0)
    assert read.low is not None and 0.2 < read.low < 0.6


def direct_delong(scores: Floats, positive: Labels) -> float:
    """DeLong's variance from the P x N kernel matrix."""
    difference = scores[positive][:, None] - scores[~positive][None, :]
    kernel = (difference > 0) + 0.5 * (difference == 0)
    by_positive, by_negative = kernel.mean(axis=1), kernel.mean(axis=0)
    return float(by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative))


records = st.lists(st.tuples(st.sampled_from(range(len(COARSE))), st.booleans()), max_size=60)


@given(records)
def test_on_tied_scores_all_figures_are_the_oracles(drawn: list[tuple[int, bool]]) -> None:
    scores, positive = COARSE[[i for i, _ in drawn]], np.array([y for _, y in drawn], dtype=bool)
    counts = binned_scores.histogram(scores, positive)
    read = binned_scores.auc(counts)
    if positive.all() or not positive.any():
        assert read.value is None
        assert binned_scores.average_precision(counts).value is None
        assert binned_scores.roc_points(counts) is None
        assert binned_scores.precision_recall_points(counts) is None
        return
    # 1e-9 and 0 share the lowest bin, 1 - 1e-7 and 1 the highest.
    rounded = np.searchsorted(EDGES, scores, side="right").astype(float)
    assert read.value == pytest.approx(roc_auc_score(positive, rounded))
    assert binned_scores.average_precision(counts).value == pytest.approx(average_precision_score(positive, rounded))
    low, high = binned_scores.average_precision_range(counts)
    assert low - 1e-12 <= average_precision_score(positive, scores) <= high + 1e-12
    if 2 <= positive.sum() <= len(positive) - 2:
        assert binned_scores.delong_variance(counts) == pytest.approx(direct_delong(rounded, positive), abs=1e-14)
    else:
        assert binned_scores.delong_variance(counts) is None
        assert (read.low is None) == (0 < (read.value or 0) < 1)


@given(records, records)
def test_two_sites_add_up_to_the_pooled_records(one: list[tuple[int, bool]], other: list[tuple[int, bool]]) -> None:
    def counts(drawn: list[tuple[int, bool]]) -> NDArray[np.int64]:
        return binned_scores.histogram(COARSE[[i for i, _ in drawn]], np.array([y for _, y in drawn], dtype=bool))

    np.testing.assert_array_equal(counts(one) + counts(other), counts(one + other))


def test_curves_pass_through_the_points_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    scores, positive = rng.choice(COARSE[2:7], 200), rng.random(200) < 0.4
    counts = binned_scores.histogram(scores, positive)
    roc, pr = binned_scores.roc_points(counts), binned_scores.precision_recall_points(counts)
    assert roc is not None
    assert pr is not None
    expected = roc_curve(positive, scores, drop_intermediate=False)
    points = set(zip(roc[0].round(12), roc[1].round(12), strict=True))
    assert points == set(zip(expected[0].round(12), expected[1].round(12), strict=True))
    assert (roc[0][0], roc[1][0], roc[2][0]) == (0, 0, np.inf)
    assert (roc[0][-1], roc[1][-1], roc[2][-1]) == (1, 1, 0)
    precision, recall, _ = precision_recall_curve(positive, scores)
    expected_points = set(zip(precision[:-1].round(12), recall[:-1].round(12), strict=True))
    assert set(zip(pr[0].round(12), pr[1].round(12), strict=True)) == expected_points


def test_threshold_table_counts_what_a_threshold_calls() -> None:
    scores, positive = MODELS["weak"]
    thresholds, table = binned_scores.threshold_table(binned_scores.histogram(scores, positive))
    for place in (0, 100, 400, 512, 600, 1024):
        called = scores >= thresholds[place]
        expected = [[(~called & ~positive).sum(), (called & ~positive).sum()], [(~called & positive).sum(), (called & positive).sum()]]
        assert table[place].tolist() == expected


def test_several_classes_are_the_mean_of_each_against_the_rest() -> None:
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 3, 400)
    logits = rng.normal(size=(400, 3)) + 1.5 * (targets[:, None] == np.arange(3))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counts = binned_scores.one_against_rest(scores, targets)
    read = binned_scores.macro(binned_scores.auc, binned_scores.auc_range, counts)
    assert read.value == pytest.approx(roc_auc_score(targets, scores, multi_class="ovr"), abs=2e-3)
    assert read.n == 400
    absent = binned_scores.macro(binned_scores.auc, binned_scores.auc_range, binned_scores.one_against_rest(scores, np.minimum(targets, 1)))
    assert absent.value is None
    assert "class 2: only one class present" in absent.note
