"""Meta-analysis of the 13 BCG trials (Colditz et al., JAMA 1994; log risk ratios) as metafor and statsmodels do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from statsmodels.stats.meta_analysis import combine_effects

from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.statistics.meta_analysis import Measure, MetaAnalysis, Spread, Weighted, combine, combined, of_counts, weigh

# Tuberculosis and none among the vaccinated, tuberculosis and none among the others.
BCG = np.array(
    [
        [4, 119, 11, 128],
        [6, 300, 29, 274],
        [3, 228, 11, 209],
        [62, 13536, 248, 12619],
        [33, 5036, 47, 5761],
        [180, 1361, 372, 1079],
        [8, 2537, 10, 619],
        [505, 87886, 499, 87892],
        [29, 7470, 45, 7232],
        [17, 1699, 65, 1600],
        [186, 50448, 141, 27197],
        [5, 2493, 3, 2338],
        [27, 16886, 29, 17825],
    ],
    np.float64,
)
A, B, C, D = BCG.T
Y, V = np.log(A / (A + B) / (C / (C + D))), 1 / A - 1 / (A + B) + 1 / C - 1 / (C + D)


@pytest.mark.parametrize(
    ("method", "estimate", "error", "tau_squared"),
    [
        ("fixed", -0.430285163654, 0.040498751711, 0.0),
        ("dersimonian_laird", -0.714117222072, 0.178742089535, 0.308760262862),
        ("paule_mandel", -0.714968153493, 0.180892191538, 0.318068452205),
        ("reml", -0.714532342158, 0.179781516105, 0.313243258136),
    ],
)
def test_the_bcg_trials(method: Spread, estimate: float, error: float, tau_squared: float) -> None:
    found = combine(Y, V, method)
    assert (found.estimate, found.standard_error) == (pytest.approx(estimate, rel=1e-10), pytest.approx(error, rel=1e-10))
    assert found.tau_squared == pytest.approx(tau_squared, rel=1e-9)
    assert (found.q, found.q_p) == (pytest.approx(152.233008082, rel=1e-11), pytest.approx(0, abs=1e-25))


def test_what_metafor_prints() -> None:
    """rma(yi, vi, data=dat.bcg), confint() and test="knha" of metafor 4 (Viechtbauer, J. Statistical Software 36, 2010), to its digits."""
    found = combine(Y, V)
    assert (round(found.statistic, 4), round(found.interval[0], 4), round(found.interval[1], 4)) == (-3.9744, -1.0669, -0.3622)
    assert round(100 * found.i_squared, 2) == 92.22
    assert found.tau_squared_interval is not None
    assert [round(end, 4) for end in found.tau_squared_interval] == [0.1197, 1.1115]
    knapp = combine(Y, V, hartung_knapp=True)
    assert (round(knapp.standard_error, 4), round(knapp.p, 4)) == (0.1808, 0.0019)
    assert [round(end, 4) for end in knapp.interval] == [-1.1084, -0.3206]


@pytest.mark.parametrize(("method", "theirs"), [("dersimonian_laird", "chi2"), ("paule_mandel", "iterated")])
def test_hartung_and_knapp_as_statsmodels_does_it(method: Spread, theirs: str) -> None:
    oracle = combine_effects(Y, V, method_re=theirs, atol=1e-12)
    found = combine(Y, V, method, hartung_knapp=True, level=0.9)
    np.testing.assert_allclose(found.standard_error, oracle.sd_eff_w_re_hksj, rtol=1e-8)
    np.testing.assert_allclose(found.interval, oracle.conf_int(alpha=0.1, use_t=True)[3], rtol=1e-8)


def test_hospitals_that_agree() -> None:
    """Nothing varies more than chance allows: random effects are the fixed effect, and the prediction interval is Student's with k − 2."""
    found = combine([1.0, 1.1, 0.9, 1.0], [0.04] * 4)
    assert (found.tau_squared, found.i_squared, found.standard_error) == (0.0, 0.0, pytest.approx(0.1))
    assert found.tau_squared_interval is not None and found.tau_squared_interval[0] == 0.0
    assert found.prediction == (pytest.approx(1 - 4.302652729696 * 0.1), pytest.approx(1 + 4.302652729696 * 0.1))


def test_sums_over_hospitals_are_all_it_needs() -> None:
    """Each hospital sends the sums of its own estimate; added up they give the answer to the last digits."""

    def ask(tau_squared: float, centre: float) -> Weighted:
        each = [weigh(y, v, tau_squared, centre) for y, v in zip(Y, V, strict=True)]
        return Weighted(*(sum(parts) for parts in list(zip(*each, strict=True))[:8]), centre, tau_squared)

    assert combined(ask, "reml", hartung_knapp=True).estimate == pytest.approx(combine(Y, V, "reml").estimate, rel=1e-13)


def test_no_estimate_of_nothing() -> None:
    with pytest.raises(BadInput, match="two hospitals"):
        combine([1.0], [0.1])
    for variance in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(BadInput, match="variance above 0"):
            combine([1.0, 2.0], [0.1, variance])


def hospitals(table: Any) -> list[pd.DataFrame]:
    """Each trial as a hospital with its patients."""
    return [
        pd.DataFrame({"tb": np.repeat([1.0, 0.0, 1.0, 0.0], row.astype(int)), "arm": np.repeat(["bcg", "bcg", "none", "none"], row.astype(int))})
        for row in table
    ]


FEATURES = (Feature(name="tb"), Feature(name="arm", kind="category", categories=("none", "bcg")))


@pytest.mark.parametrize("method", ["fixed", "dersimonian_laird", "paule_mandel", "reml"])
@pytest.mark.parametrize("knapp", [False, True])
def test_hospitals_are_asked(ask: Any, method: Spread, knapp: bool) -> None:
    """Six of the trials as hospitals with all their patients; the search by sixteen points a round finds what the iterations do."""
    chosen = [0, 1, 2, 6, 9, 5]
    question = MetaAnalysis(formula="tb ~ arm", features=FEATURES, measure="log_risk_ratio", spread=method, hartung_knapp=knapp)
    table = ask(question, hospitals(BCG[chosen])).table()
    expected = combine(Y[chosen], V[chosen], method, hartung_knapp=knapp)
    line = table.rows[0]
    np.testing.assert_allclose(line[1:6], [expected.estimate, expected.standard_error, *expected.interval, expected.statistic], rtol=1e-9)
    assert table.facts["tau_squared"] == pytest.approx(expected.tau_squared, rel=1e-8)
    assert table.facts["q"] == pytest.approx(expected.q, rel=1e-10)
    if expected.tau_squared_interval is not None and expected.prediction is not None:
        low, high = table.facts["tau_squared_low"], table.facts["tau_squared_high"]
        np.testing.assert_allclose([low, high], expected.tau_squared_interval, rtol=1e-8)
        np.testing.assert_allclose(table.rows[1][3:5], expected.prediction, rtol=1e-8)


def test_a_hospital_without_an_estimate_is_left_out(ask: Any) -> None:
    """One class at a hospital, one arm only, one patient, nobody: not counted, and nothing of the answer moves."""
    chosen = [0, 1, 6]
    silent = np.array([[0, 50, 0, 40], [3, 40, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    question = MetaAnalysis(formula="tb ~ arm", features=FEATURES, measure="log_odds_ratio")
    with_them, without = (ask(question, hospitals(rows)).table() for rows in ([*BCG[chosen], *silent], BCG[chosen]))
    assert with_them.facts["hospitals"] == 3 and with_them.rows == without.rows
    nothing = ask(question, hospitals(silent)).table()
    assert nothing.title == "No answer" and "two hospitals" in nothing.notes[0]


def test_differences_of_means(ask: Any) -> None:
    cancer: Any = load_breast_cancer()
    rows = pd.DataFrame({"radius": cancer.data[:, 0], "kind": np.where(cancer.target == 0, "malignant", "benign")})
    sites = [rows.iloc[place::5] for place in range(5)]
    each = [[site.loc[site["kind"] == kind, "radius"] for kind in ("malignant", "benign")] for site in sites]
    y, v = [a.mean() - b.mean() for a, b in each], [a.var() / len(a) + b.var() / len(b) for a, b in each]
    features = (Feature(name="radius"), Feature(name="kind", kind="category", categories=("benign", "malignant")))
    found = ask(MetaAnalysis(formula="radius ~ kind", features=features, spread="paule_mandel"), sites).table().rows[0]
    expected = combine(y, v, "paule_mandel")
    np.testing.assert_allclose(found[1:5], [expected.estimate, expected.standard_error, *expected.interval], rtol=1e-9)


@pytest.mark.parametrize(
    ("measure", "estimate", "variance"),
    [
        ("log_odds_ratio", np.log(4 * 128 / (119 * 11)), 1 / 4 + 1 / 119 + 1 / 11 + 1 / 128),
        ("log_risk_ratio", Y[0], V[0]),
        ("risk_difference", 4 / 123 - 11 / 139, 4 * 119 / 123**3 + 11 * 128 / 139**3),
    ],
)
def test_a_hospital_s_own_estimate(measure: Measure, estimate: float, variance: float) -> None:
    assert of_counts(measure, (4, 123), (11, 139)) == (pytest.approx(estimate), pytest.approx(variance))
