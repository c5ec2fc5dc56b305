"""Meta-analysis of the 13 BCG trials (Colditz et al., JAMA 1994; log risk ratios) as metafor and statsmodels do it."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from aimer2.core.errors import BadInput
from aimer2.statistics.meta_analysis import Spread, Weighted, combine, combined, weigh

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
