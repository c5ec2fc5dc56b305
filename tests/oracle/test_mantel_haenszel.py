"""The common odds ratio from what eight cities send, against statsmodels on their tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from statsmodels.datasets import china_smoking
from statsmodels.stats.contingency_tables import StratifiedTable

from aimer2.core.errors import BadInput
from aimer2.statistics.mantel_haenszel import TERMS, common, homogeneity, homogeneity_terms, terms


def cities() -> list[Any]:
    rows: Any = china_smoking.load_pandas().data
    return [
        np.array([[r.smoking_yes_cancer_yes, r.smoking_yes_cancer_no], [r.smoking_no_cancer_yes, r.smoking_no_cancer_no]]) for r in rows.itertuples()
    ]


def test_smoking_in_eight_cities() -> None:
    oracle = StratifiedTable(cities())
    found = common(np.sum([terms(city) for city in cities()], axis=0))
    assert found.odds_ratio.estimate == pytest.approx(2.17448191998, rel=1e-10)
    assert found.odds_ratio.error == pytest.approx(oracle.logodds_pooled_se, rel=1e-10)
    np.testing.assert_allclose(found.odds_ratio[2:], oracle.oddsratio_pooled_confint(), rtol=1e-10)
    assert found.risk_ratio.estimate == pytest.approx(1.519153252484, rel=1e-10)
    assert (found.test.statistic, found.corrected.statistic) == (pytest.approx(280.137537053, rel=1e-10), pytest.approx(279.375740464, rel=1e-10))
    assert found.test.p == pytest.approx(oracle.test_null_odds().pvalue, rel=1e-8)
    assert found.strata == 8
    same = homogeneity(np.sum([homogeneity_terms(city, found.odds_ratio.estimate) for city in cities()], axis=0))
    assert same.breslow_day.statistic == pytest.approx(5.199704846953, rel=1e-10)
    adjusted = oracle.test_equal_odds(adjust=True)
    assert (same.tarone.statistic, same.tarone.p) == (pytest.approx(adjusted.statistic, rel=1e-9), pytest.approx(adjusted.pvalue, rel=1e-9))


def test_one_stratum_is_its_own_table() -> None:
    """The estimates are those of the table; the risk ratio's standard error is Katz's, the odds ratio's Woolf's."""
    found = common(terms([[189, 10845], [104, 10933]]))
    assert found.odds_ratio.estimate == pytest.approx(189 * 10933 / (10845 * 104))
    assert found.odds_ratio.error == pytest.approx(np.sqrt(1 / 189 + 1 / 10845 + 1 / 104 + 1 / 10933))
    assert found.risk_ratio.error == pytest.approx(np.sqrt(1 / 189 - 1 / 11034 + 1 / 104 - 1 / 11037))


def test_a_hospital_where_all_fell_ill_speaks_of_the_risk_only() -> None:
    tables = [*cities(), np.array([[7, 0], [9, 0]])]
    found, before = (common(np.sum([terms(one) for one in some], axis=0)) for some in (tables, cities()))
    assert found.risk_ratio.estimate == pytest.approx(StratifiedTable(tables).riskratio_pooled, rel=1e-10)
    assert found.risk_ratio.estimate < before.risk_ratio.estimate
    assert (found.odds_ratio, found.test, found.strata) == (before.odds_ratio, before.test, 8)


def test_a_stratum_that_says_nothing() -> None:
    """One class at a site, or one exposure, or nobody: zeros, not a division by zero."""
    silent = [[[0, 5], [0, 4]], [[0, 0], [3, 9]], [[0, 0], [0, 0]]]
    assert np.array_equal(terms(silent), np.zeros(len(TERMS)))
    assert np.array_equal(homogeneity_terms(silent, 2.0), np.zeros(4))
    with pytest.raises(BadInput, match="No odds ratio"):
        common(terms(silent))
    with pytest.raises(BadInput, match="two strata"):
        homogeneity(homogeneity_terms([[9, 5], [4, 8]], 2.0))


@pytest.mark.parametrize("odds_ratio", [1.0, 1 + 1e-9, 4.0, 0.01, 1e4])
def test_the_expected_cell_has_that_odds_ratio(odds_ratio: float) -> None:
    """The excess over the expected count is what is left of a table made to have the odds ratio; near 1 nothing cancels."""
    b, c, d = 30.0, 20.0, 50.0
    a = odds_ratio * b * c / d
    assert homogeneity_terms([[a, b], [c, d]], odds_ratio)[1] == pytest.approx(0, abs=1e-9 * (a + 1))
