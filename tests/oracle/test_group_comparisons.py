"""t tests, analysis of variance and tables of counts from sums, against scipy and statsmodels on pooled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from statsmodels.formula.api import ols
from statsmodels.stats.oneway import anova_oneway
from statsmodels.stats.proportion import confint_proportions_2indep

from aimer2.core.errors import BadInput
from aimer2.statistics.anova import Cells, Within, one_way, welch, with_hospitals, within
from aimer2.statistics.contingency import associate, difference, fisher, risks
from aimer2.statistics.t_test import Sample, compare

CANCER: Any = load_breast_cancer()


def sample(values: Any) -> Sample:
    return Sample(len(values), float(values.mean()), float(((values - values.mean()) ** 2).sum()))


def cells(values: Any, groups: Any, count: int, centre: float = 0.0) -> Cells:
    shifted = np.asarray(values, float) - centre
    return Cells(*(np.bincount(groups, part, minlength=count).astype(float) for part in (np.ones(len(groups)), shifted, shifted**2)))


@pytest.mark.parametrize(("equal", "statistic"), [(True, 25.435821610057), (False, 22.208797758465)])
def test_t_tests_of_the_mean_radius(equal: bool, statistic: float) -> None:
    first, second = CANCER.data[CANCER.target == 0, 0], CANCER.data[CANCER.target == 1, 0]
    found = compare(sample(first), sample(second), equal_variances=equal, level=0.9)
    oracle = stats.ttest_ind(first, second, equal_var=equal)
    assert found.test.statistic == pytest.approx(statistic, rel=1e-10)
    assert (found.test.p, found.test.freedom[0]) == (pytest.approx(oracle.pvalue, rel=1e-9), pytest.approx(oracle.df, rel=1e-12))
    np.testing.assert_allclose([found.difference.low, found.difference.high], oracle.confidence_interval(0.9), rtol=1e-10)
    if not equal:
        assert found.test.freedom[0] == pytest.approx(289.712738051580, rel=1e-10)


def test_hedges_correction_is_the_exact_one() -> None:
    """Of two groups of five whose means lie one pooled standard deviation apart: J(8) = Γ(4) / (√4 Γ(3.5)) = 0.9027 (Hedges 1981, table 1)."""
    assert compare(Sample(5, 1.0, 4.0), Sample(5, 0.0, 4.0)).hedges_g == pytest.approx(0.9027, abs=5e-5)


def test_a_t_test_of_too_little() -> None:
    with pytest.raises(BadInput, match="two patients"):
        compare(Sample(1, 1.0, 0.0), Sample(9, 0.0, 4.0))
    with pytest.raises(BadInput, match="does not vary"):
        compare(Sample(5, 1.0, 0.0), Sample(5, 0.0, 0.0))


@pytest.mark.parametrize(("load", "column", "statistic"), [(load_wine, 0, 135.077624242799), (load_iris, 0, 119.264502184505)])
def test_one_way(load: Any, column: int, statistic: float) -> None:
    rows: Any = load()
    sums = cells(rows.data[:, column], rows.target, 3, centre=10.0)
    groups, residual = one_way(sums)
    assert groups.test is not None
    assert groups.test.statistic == pytest.approx(statistic, rel=1e-10)
    assert (groups.freedom, residual.freedom) == (2, len(rows.data) - 3)
    oracle = anova_oneway([rows.data[rows.target == group, column] for group in range(3)], use_var="unequal")
    found = welch(sums)
    assert (found.statistic, found.p) == (pytest.approx(oracle.statistic, rel=1e-9), pytest.approx(oracle.pvalue, rel=1e-9))


def total(parts: list[Any]) -> Any:
    return type(parts[0])(*(sum(one) for one in zip(*parts, strict=True)))


@pytest.mark.parametrize("split", ["evenly", "by the outcome", "a group at one hospital only", "one patient alone"])
def test_hospitals_as_a_factor(split: str) -> None:
    """statsmodels' type II table of outcome ~ group + hospital, whatever lies where; the hospitals send no mean."""
    rows: Any = load_wine()
    values, groups = rows.data[:, 0], rows.target
    hospital = np.arange(len(values)) % 4
    if split == "by the outcome":
        hospital = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values)
    elif split == "a group at one hospital only":
        hospital = np.where(groups == 2, 0, hospital)
    elif split == "one patient alone":
        hospital = np.where(np.arange(len(values)) == 77, 4, hospital)
    table = sm.stats.anova_lm(ols("y ~ C(g) + C(h)", pd.DataFrame({"y": values, "g": groups, "h": hospital})).fit(), typ=2)
    each = [cells(values[hospital == one], groups[hospital == one], 3, centre=13.0) for one in np.unique(hospital)]
    lines = with_hospitals(total(each), total([within(one) for one in each]))
    np.testing.assert_allclose([line.squares for line in lines], table["sum_sq"], rtol=1e-9)
    np.testing.assert_allclose([line.freedom for line in lines], table["df"])
    found = [line.test for line in lines if line.test is not None]
    np.testing.assert_allclose([one.statistic for one in found], table["F"][:2], rtol=1e-9)
    np.testing.assert_allclose([one.p for one in found], table["PR(>F)"][:2], rtol=1e-8)


def test_groups_that_are_hospitals() -> None:
    each = [
        Cells(np.array([9.0, 0.0]), np.array([4.0, 0.0]), np.array([8.0, 0.0])),
        Cells(np.array([0.0, 9.0]), np.array([0.0, 4.0]), np.array([0.0, 8.0])),
    ]
    with pytest.raises(BadInput, match="No hospital has patients of two groups"):
        with_hospitals(total(each), total([within(one) for one in each]))
    nobody = within(Cells(np.zeros(2), np.zeros(2), np.zeros(2)))
    assert nobody.hospitals == 0 and isinstance(nobody, Within)


TABLES = [[[17, 268], [195, 89]], [[3, 1], [1, 3]], [[0, 7], [9, 2]], [[10, 20, 30], [6, 9, 12]], [[4, 5, 0], [0, 0, 0], [7, 1, 0]]]


@pytest.mark.parametrize("table", TABLES)
def test_association(table: list[list[int]]) -> None:
    found = associate(np.array(table))
    kept = np.array(table)[np.sum(table, axis=1) > 0][:, np.sum(table, axis=0) > 0]
    pearson = stats.chi2_contingency(kept, correction=False)
    assert (found.pearson.statistic, found.pearson.p) == (pytest.approx(pearson.statistic, rel=1e-12), pytest.approx(pearson.pvalue, rel=1e-10))
    likelihood = stats.chi2_contingency(kept, correction=False, lambda_="log-likelihood")
    assert found.likelihood_ratio.statistic == pytest.approx(likelihood.statistic, rel=1e-10)
    assert found.smallest_expected == pytest.approx(pearson.expected_freq.min())
    assert found.cramers_v == pytest.approx(stats.contingency.association(kept, "cramer"))
    if kept.shape == (2, 2):
        assert found.yates is not None
        assert found.yates.statistic == pytest.approx(stats.chi2_contingency(kept).statistic, rel=1e-12)
        assert found.fisher_p == pytest.approx(stats.fisher_exact(kept).pvalue, rel=1e-9)


def test_the_lady_tasting_tea() -> None:
    """Fisher, The Design of Experiments (1935): three of four cups right has a chance of 17 in 70 or more, two-sided 34 in 70."""
    assert fisher(np.array([[3.0, 1.0], [1.0, 3.0]])) == pytest.approx(34 / 70, rel=1e-12)


def test_risks() -> None:
    """Of the physicians' trial of aspirin (New England J. Medicine 321 (1989), by Agresti's table 2.3) and by statsmodels."""
    found = risks(np.array([[189, 10845], [104, 10933]]))
    oracle = sm.stats.Table2x2([[189, 10845], [104, 10933]])
    np.testing.assert_allclose(found.odds_ratio, [oracle.oddsratio, oracle.log_oddsratio_se, *oracle.oddsratio_confint()], rtol=1e-10)
    np.testing.assert_allclose(found.risk_ratio, [oracle.riskratio, oracle.log_riskratio_se, *oracle.riskratio_confint()], rtol=1e-10)
    assert [round(value, 2) for value in (found.risk_ratio.estimate, found.odds_ratio.estimate)] == [1.82, 1.83]


@pytest.mark.parametrize(("first", "second"), [((56, 70), (48, 80)), ((9, 10), (3, 10)), ((10, 10), (0, 20)), ((0, 10), (0, 10))])
def test_the_difference_of_two_proportions(first: tuple[int, int], second: tuple[int, int]) -> None:
    """The first three are Newcombe's examples (1998, table II, method 10); of the first he prints 0.0524 to 0.3339."""
    found = difference(first, second)
    oracle = confint_proportions_2indep(*first, *second, method="newcomb", compare="diff")
    np.testing.assert_allclose([found.low, found.high], oracle, atol=1e-12)
    if first == (56, 70):
        assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_a_risk_of_nothing() -> None:
    assert np.isnan(risks(np.array([[0, 9], [4, 5]])).odds_ratio.estimate)
    with pytest.raises(BadInput, match="both rows"):
        risks(np.array([[0, 0], [4, 5]]))
    with pytest.raises(BadInput, match="two rows"):
        associate(np.array([[5, 0], [4, 0]]))
