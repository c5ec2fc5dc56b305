"""Rank tests and the comparison of two areas under the curve from histograms, against scipy and DeLong's definition on pooled patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_wine

from aimer2.core.errors import BadData, BadInput
from aimer2.core.study import Feature
from aimer2.metrics.binned_scores import EDGES, auc, delong_variance, histogram
from aimer2.statistics.auc_comparison import AucComparison, compare, placements, products
from aimer2.statistics.rank_test import RankTest, kruskal_wallis, kruskal_wallis_range, mann_whitney, undecided

CANCER: Any = load_breast_cancer()


def binned(values: Any, groups: Any, edges: Any) -> Any:
    bins = np.searchsorted(edges, values, side="right")
    return np.array([np.bincount(bins[groups == group], minlength=len(edges) + 1) for group in np.unique(groups)])


@pytest.mark.parametrize("bins", [5, 40, 2000])
@pytest.mark.parametrize("continuity", [True, False])
def test_mann_whitney_is_that_of_the_binned_values(bins: int, continuity: bool) -> None:
    values, groups = CANCER.data[:, 9], CANCER.target
    edges = np.linspace(values.min(), values.max(), bins)
    found = mann_whitney(binned(values, groups, edges), continuity=continuity)
    rounded = np.searchsorted(edges, values, side="right")
    oracle = stats.mannwhitneyu(rounded[groups == 0], rounded[groups == 1], use_continuity=continuity, method="asymptotic")
    assert (found.u, found.test.p) == (pytest.approx(oracle.statistic), pytest.approx(oracle.pvalue, rel=1e-9))
    exact = stats.mannwhitneyu(values[groups == 0], values[groups == 1]).statistic / (212 * 357)
    assert found.possible[0] <= exact <= found.possible[1]
    assert found.possible[1] - found.possible[0] == pytest.approx(undecided(binned(values, groups, edges)))
    if bins == 2000:
        assert found.superiority == pytest.approx(exact, abs=1e-3)


def test_the_bound_of_binning_is_reached() -> None:
    """0, 1, 5 against 2, 6, 7, 8 and 2, 3, 9 against 1, 6, 7, 8 have these counts about the edge 4: above in one pair of twelve, and in six."""
    assert mann_whitney([[2, 1], [1, 3]]).possible == (pytest.approx(1 / 12), pytest.approx(6 / 12))


def test_kruskal_wallis() -> None:
    rows: Any = load_wine()
    edges = np.unique(rows.data[:, 3])
    table = binned(rows.data[:, 3], rows.target, edges)
    oracle = stats.kruskal(*(rows.data[rows.target == group, 3] for group in range(3)))
    found = kruskal_wallis(np.vstack([table, np.zeros(table.shape[1])]))
    assert (found.statistic, found.p, found.freedom) == (pytest.approx(oracle.statistic, rel=1e-10), pytest.approx(oracle.pvalue, rel=1e-9), (2,))


@pytest.mark.parametrize("bins", [3, 6, 30, 300])
def test_kruskal_wallis_of_the_exact_values_lies_within_its_range(bins: int) -> None:
    """However the values of a bin lie: as they are, all tied, and each group in turn below the others of its bin."""
    rng, groups = np.random.default_rng(9), np.repeat([0, 1, 2], [30, 45, 25])
    values = rng.gamma(2.0, 1 + 0.25 * groups)
    edges = np.linspace(0, values.max() + 1e-9, bins + 1)[1:-1]
    low, high = kruskal_wallis_range(binned(values, groups, edges))
    bin_of = np.searchsorted(edges, values, side="right")
    orders = [values, bin_of] + [bin_of + ((groups - first) % 3 + rng.random(100)) / 4 for first in range(3)]
    found = [stats.kruskal(*(order[groups == group] for group in range(3))).statistic for order in orders]
    assert all(low - 1e-9 <= one <= high + 1e-9 for one in found)
    if bins == 300:
        assert high - low < 0.5 * found[0]


def test_without_ties_of_groups_the_range_is_the_statistic() -> None:
    table = np.array([[3, 0, 0, 2], [0, 4, 0, 0], [0, 0, 5, 0]])
    low, high = kruskal_wallis_range(table)
    found = kruskal_wallis(table).statistic
    assert high == pytest.approx(found) and low <= found


def test_ranks_of_nothing() -> None:
    for table in ([[0, 9], [0, 4]], [[5, 4], [0, 0]]):
        with pytest.raises(BadInput):
            mann_whitney(table)
        with pytest.raises(BadInput):
            kruskal_wallis(table)


def by_definition(scores: Any, positive: Any) -> tuple[Any, Any]:
    """Areas and their covariance from all pairs of patients, DeLong equations 4 to 8."""
    won = [(s[positive][:, None] > s[~positive]) + 0.5 * (s[positive][:, None] == s[~positive]) for s in scores.T]
    areas = [one.mean() for one in won]
    ten, one = np.array([w.mean(axis=1) for w in won]), np.array([w.mean(axis=0) for w in won])
    return areas, np.cov(ten) / positive.sum() + np.cov(one) / (~positive).sum()


def test_two_models_over_three_hospitals() -> None:
    """The first of them has patients without the disease only."""
    positive = CANCER.target == 0
    scores = np.column_stack([stats.rankdata(CANCER.data[:, column]) / 600 for column in (4, 9)])
    hospital = np.where(positive, 1 + np.arange(569) % 2, np.arange(569) % 3)
    each = [(scores[hospital == one], positive[hospital == one]) for one in range(3)]
    histograms = sum(np.stack([histogram(s[:, model], y) for model in range(2)]) for s, y in each)
    placed = placements(histograms)
    found = compare(np.sum([products(s, y, placed) for s, y in each], axis=0), level=0.9)
    areas, covariance = by_definition(np.searchsorted(EDGES, scores, side="right"), positive)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    np.testing.assert_allclose(found.areas, areas, rtol=1e-12)
    np.testing.assert_allclose(found.areas, [auc(one).value for one in histograms], rtol=1e-12)
    assert found.difference.error == pytest.approx(error, rel=1e-10)
    assert found.correlation == pytest.approx(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]), rel=1e-9)
    assert delong_variance(histograms[0]) == pytest.approx(covariance[0, 0], rel=1e-9)
    assert found.difference.high - found.difference.estimate == pytest.approx(stats.norm.ppf(0.95) * error)
    assert found.test.p == pytest.approx(2 * stats.norm.sf(abs(areas[0] - areas[1]) / error), rel=1e-9)


def test_a_model_against_itself() -> None:
    positive = CANCER.target == 0
    scores = np.column_stack([stats.rankdata(CANCER.data[:, 4]) / 600] * 2)
    placed = placements(np.stack([histogram(scores[:, 0], positive)] * 2))
    assert compare(products(scores, positive, placed)).test == (0.0, 1.0, ())
    with pytest.raises(BadInput, match="with the event and without"):
        placements(np.stack([histogram(scores[:, 0], np.zeros(569, bool))] * 2))


@pytest.mark.parametrize("groups", [2, 3])
def test_hospitals_are_asked_for_a_rank_test(ask: Any, part: Any, groups: int) -> None:
    """Values are whole multiples of the bins' width, so binning moves nothing."""
    rows: Any = load_wine()
    data = pd.DataFrame({"x": np.round(rows.data[:, 3]), "g": np.array(["a", "b", "c"])[rows.target]})
    data = data[data["g"] < "abc"[groups - 1] + "a"]
    features = (Feature(name="x", minimum=0, maximum=50), Feature(name="g", kind="category", categories=("a", "b", "c")[:groups]))
    found = ask(RankTest(formula="x ~ g", features=features, bins=50), part(data, "x"))[0]
    values = [data.loc[data["g"] == level, "x"] for level in "abc"[:groups]]
    oracle = stats.kruskal(*values) if groups == 3 else stats.mannwhitneyu(values[1], values[0])
    assert found.rows[0][-1] == pytest.approx(oracle.pvalue, rel=1e-9)
    if groups == 2:
        assert found.facts["superiority"] == pytest.approx(oracle.statistic / len(values[0]) / len(values[1]))


def test_a_value_outside_of_the_range_is_no_value(ask: Any) -> None:
    features = (Feature(name="x", minimum=0, maximum=9), Feature(name="g", kind="category", categories=("a", "b")))
    with pytest.raises(BadData, match="outside of the study's range"):
        ask(RankTest(formula="x ~ g", features=features), [pd.DataFrame({"x": [1.0, 9.5], "g": ["a", "b"]})])


@pytest.mark.parametrize("kind", ["category", "number"])
def test_hospitals_are_asked_which_model_ranks_better(ask: Any, part: Any, kind: str) -> None:
    """DeLong's definition on all pairs of the pooled patients, of scores rounded to their bins."""
    positive = CANCER.target == 0
    scores = np.column_stack([stats.rankdata(CANCER.data[:, column]) / 600 for column in (4, 9)])
    data = pd.DataFrame(
        {"a": scores[:, 0], "b": scores[:, 1], "ill": np.where(positive, "yes", "no") if kind == "category" else positive.astype(float)}
    )
    event = Feature(name="ill", kind="category", categories=("no", "yes")) if kind == "category" else Feature(name="ill")
    found = ask(AucComparison(formula="ill ~ a + b", features=(Feature(name="a"), Feature(name="b"), event)), part(data, "ill")).frame()
    areas, covariance = by_definition(np.searchsorted(EDGES, scores, side="right"), positive)
    np.testing.assert_allclose(found["estimate"], [*areas, areas[0] - areas[1]], rtol=1e-10)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found["standard_error"][2] == pytest.approx(error, rel=1e-9)


def test_areas_of_one_class(ask: Any) -> None:
    data = pd.DataFrame({"a": [0.1, 0.2], "b": [0.3, 0.4], "ill": [1.0, 1.0]})
    method = AucComparison(formula="ill ~ a + b", features=(Feature(name="a"), Feature(name="b"), Feature(name="ill")))
    assert ask(method, [data]).table().title == "No answer"
    with pytest.raises(BadData, match="between 0 and 1"):
        ask(method, [data.assign(a=1.5)])
