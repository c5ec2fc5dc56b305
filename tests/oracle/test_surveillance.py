"""Detectors of weeks with too many cases against their definitions and statsmodels' regressions; reporting delay against a published triangle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.aberration import cusum, ears, expected_in_full, farrington
from aimer2.statistics.surveillance import Surveillance


def series(weeks: int = 330, seed: int = 4, trend: float = 0.0) -> Any:
    rng = np.random.default_rng(seed)
    week = np.arange(weeks)
    mean = np.exp(2.2 + 0.6 * np.cos(2 * np.pi * week / 52) + trend * week)
    counts = rng.negative_binomial(mean, 0.5).astype(float)
    counts[[60, 61, 62]] += 60  # a past outbreak, that must not hide the next
    return counts


@pytest.mark.parametrize("lag", [0, 2])
def test_ears_one_and_two_are_rolling_standard_scores(lag: int) -> None:
    counts = pd.Series(series())
    before = counts.shift(lag + 1).rolling(7)
    np.testing.assert_allclose(
        ears(counts.to_numpy(), lag=lag, summed=False, deviations=3).statistic, (counts - before.mean()) / before.std(), rtol=1e-9
    )


def test_ears_three_sums_three_weeks() -> None:
    counts = pd.Series(series())
    before = counts.shift(3).rolling(7)
    expected = ((counts - before.mean()) / before.std() - 1).clip(lower=0).rolling(3).sum()
    found = ears(counts.to_numpy(), lag=2, summed=True, deviations=3)
    np.testing.assert_allclose(found.statistic[11:], expected[11:], rtol=1e-9, atol=1e-12)
    assert (found.limit == 2).all() and found.alarms[60:63].any()


def test_a_baseline_that_does_not_vary() -> None:
    found = ears(np.array([2.0] * 8 + [3.0, 2.0]), lag=0, summed=False, deviations=3)
    assert found.statistic[7] == 0 and found.statistic[8] == math.inf and found.alarms.tolist() == [False] * 8 + [True, False]


def test_cusum_adds_up_and_begins_anew() -> None:
    """By hand: mean 4; y = 9: z = (9 − 12 + 2·6)/4 = 2.25; y = 4: 0; y = 16: (16 − 12 + 16)/4 = 5."""
    found = cusum(np.array([4.0, 4, 9, 4, 9, 9, 16, 4]), baseline=2, reference=1.0, limit=2.4)
    np.testing.assert_allclose(found.statistic[2:], [1.25, 0.25, 1.5, 2.75, 4.0, 0.0])
    assert found.alarms.tolist() == [False] * 5 + [True, True, False]
    assert np.isnan(found.statistic[:2]).all()


def test_cusum_judges_all_weeks_where_noise_has_brought_the_baseline_below_no_case() -> None:
    """By hand: the mean −2 is taken for 0, and z = y/√(0 + 3²): 4/3, 3 and 0; of exact counts without a case nothing is defined."""
    found = cusum(np.array([-1.0, -3, 4, 9, 0]), baseline=2, reference=1.0, limit=2.26, noise=3.0)
    np.testing.assert_allclose(found.statistic[2:], [1 / 3, 7 / 3, 0.0])
    assert (found.expected[2:] == 0).all() and found.alarms.tolist() == [False, False, False, True, False]
    assert np.isnan(cusum(np.array([0.0, 0, 4]), baseline=2, reference=1.0, limit=2.26).statistic).all()


@pytest.mark.parametrize(("trend", "years"), [(0.0, 5), (0.004, 5), (0.004, 2)])
def test_farrington_by_statsmodels(trend: float, years: int) -> None:
    """Every step with statsmodels' weighted Poisson regressions: dispersion, Anscombe residuals, trend, limit on the 2/3 power."""
    counts = series(trend=trend)
    found = farrington(counts, per_year=52, years=years, window=3, alpha=0.01)
    reach = 52 * years + 3
    assert np.isnan(found.limit[:reach]).all() and not np.isnan(found.limit[reach:]).any()
    for week in (reach, 300, 329):
        places = np.sort([week - 52 * year + away for year in range(1, years + 1) for away in range(-3, 4)])
        expected, limit = by_statsmodels(counts[places], places - week, years, 0.01)
        assert (found.expected[week], found.limit[week]) == (pytest.approx(expected, rel=1e-7), pytest.approx(limit, rel=1e-7))


def by_statsmodels(counts: Any, times: Any, years: int, alpha: float) -> tuple[float, float]:
    def fit(design: Any) -> Any:
        weights = np.ones(len(counts))
        for _ in range(2):
            model = sm.GLM(counts, design, family=sm.families.Poisson(), var_weights=weights).fit(tol=1e-14, maxiter=200)
            phi = max(1.0, (weights * (counts - model.fittedvalues) ** 2 / model.fittedvalues).sum() / model.df_resid)
            last, mean = weights, model.fittedvalues
            hat = model.get_hat_matrix_diag()
            anscombe = 1.5 * (counts ** (2 / 3) - mean ** (2 / 3)) / (mean ** (1 / 6) * np.sqrt(phi * (1 - hat))) / mean ** (1 / 6)
            weights = np.where(anscombe > 1, 1 / np.where(anscombe > 1, anscombe, 1) ** 2, 1)
            weights = weights * len(counts) / weights.sum()
        del last
        return model, phi

    line = sm.add_constant(times.astype(float))
    model, phi = fit(line)
    mean = float(np.exp(model.params[0]))
    significant = abs(model.params[1]) > stats.norm.ppf(0.975) * np.sqrt(phi * model.normalized_cov_params[1, 1])
    if not (years >= 3 and significant and mean <= counts.max()):
        model, phi = fit(line[:, :1])
        mean = float(np.exp(model.params[0]))
    tau = phi + mean * phi * model.normalized_cov_params[0, 0]
    return mean, (mean ** (2 / 3) + stats.norm.ppf(1 - alpha) * 2 / 3 * mean ** (1 / 6) * np.sqrt(tau)) ** 1.5


def test_farrington_needs_five_cases_and_finds_an_outbreak() -> None:
    quiet = np.zeros(330)
    quiet[320] = 4
    assert not farrington(quiet, per_year=52, years=5, window=3, alpha=0.005).alarms.any()
    quiet[320] = 5
    assert np.flatnonzero(farrington(quiet, per_year=52, years=5, window=3, alpha=0.005).alarms).tolist() == [320]
    counts = series()
    counts[320] += 80
    assert farrington(counts, per_year=52, years=5, window=3, alpha=0.005).alarms[320]


def test_chain_ladder_of_taylor_and_ashe() -> None:
    """The triangle of Taylor and Ashe (J. Econometrics 23 (1983)), whose reserve Mack (1993) gives as 18,681 thousand."""
    known = [
        [357848, 1124788, 1735330, 2218270, 2745596, 3319994, 3466336, 3606286, 3833515, 3901463],
        [352118, 1236139, 2170033, 3353322, 3799067, 4120063, 4647867, 4914039, 5339085],
        [290507, 1292306, 2218525, 3235179, 3985995, 4132918, 4628910, 4909315],
        [310608, 1418858, 2195047, 3757447, 4029929, 4381982, 4588268],
        [443160, 1136350, 2128333, 2897821, 3402672, 3873311],
        [396132, 1333217, 2180715, 2985752, 3691712],
        [440832, 1288463, 2419861, 3483130],
        [359480, 1421128, 2864498],
        [376686, 1363294],
        [344014],
    ]
    triangle = np.array([np.diff([0, *row, *[row[-1]] * (10 - len(row))]) for row in known], float)
    reserve = expected_in_full(triangle).sum() - sum(row[-1] for row in known)
    assert reserve == pytest.approx(18_680_856, abs=1)


WEEK = Feature(name="week", minimum=1, maximum=60)
REGION = Feature(name="region", kind="category", categories=("north", "south"))


def cases(seed: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    week = rng.integers(1, 61, 900)
    week[:60] = 57
    return pd.DataFrame({"week": week, "known": week + rng.integers(0, 4, 900), "region": rng.choice(["north", "south"], 900)}).astype(
        {"week": float, "known": float}
    )


@pytest.mark.parametrize("detector", ["ears_c1", "ears_c2", "cusum"])
def test_hospitals_are_asked_for_weeks(ask: Any, part: Any, detector: Any) -> None:
    data = cases()
    method = Surveillance(formula="~ week + strata(region)", features=(WEEK, REGION), detector=detector, baseline=20)
    found = ask(method, part(data, "week")).frame().set_index(["stratum", "week"])
    for region, own in data.groupby("region"):
        counts = own["week"].value_counts().reindex(np.arange(1.0, 61.0), fill_value=0).to_numpy(float)
        lines = found.loc[f"region = {region}"]
        assert lines["cases"].tolist() == counts.tolist()
        lag = {"ears_c1": 0, "ears_c2": 2}.get(detector, 0)
        alone = cusum(counts, baseline=20, reference=1, limit=2.26) if detector == "cusum" else ears(counts, lag=lag, summed=False, deviations=3)
        assert (lines["alarm"] == "alarm").tolist() == alone.alarms.tolist() and alone.alarms[56]


def test_what_delay_still_hides(ask: Any) -> None:
    """Only what is known by the last week is in the data; the last weeks are told in full, and weeks long past as they are."""
    data = cases()
    by_now = data[data["known"] <= 60]
    method = Surveillance(formula="known ~ week", features=(WEEK, Feature(name="known")), detector="none", delay=3)
    found = ask(method, [by_now.iloc[::2], by_now.iloc[1::2]]).frame().set_index("week")
    assert (found.loc[:57, "in_full"] == found.loc[:57, "cases"]).all()
    assert (found.loc[58:, "in_full"] > found.loc[58:, "cases"]).all()
    truth = data["week"].value_counts()
    assert abs(found.loc[58:, "in_full"].sum() - truth[[58, 59, 60]].sum()) < abs(found.loc[58:, "cases"].sum() - truth[[58, 59, 60]].sum())


def test_weeks_that_are_none(ask: Any) -> None:
    for week, known, why in ((61.0, 61.0, "no week"), (3.5, 5.0, "no week"), (5.0, 4.0, "before the week")):
        method = Surveillance(formula="known ~ week", features=(WEEK, Feature(name="known")), detector="none")
        with pytest.raises(BadData, match=why):
            ask(method, [pd.DataFrame({"week": [week], "known": [known]})])


def test_weeks_with_few_cases_are_told_in_secret_only() -> None:
    frame = Frame({"week": np.repeat(np.arange(1.0, 11.0), 12)[:-3]}, np.arange(117, dtype=np.uint64))
    method = Surveillance(formula="~ week", features=(WEEK,))
    assert "in some week" in next(iter(method.against(frame, Disclosure(), secure=False)))
    assert not list(method.against(frame, Disclosure(), secure=True)) and list(method.against(frame, Disclosure(exact_values="never"), secure=True))


@pytest.mark.parametrize(
    ("formula", "why"), [("~ region", "whole `minimum` and `maximum`"), ("~ week + region", "~ week"), ("~ week + offset(week)", "no offset")]
)
def test_questions_that_cannot_be_asked(formula: str, why: str) -> None:
    with pytest.raises(BadStudy, match=why):
        catalogue.make(Analysis(method="surveillance", formula=formula), (WEEK, REGION))
