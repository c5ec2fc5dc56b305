"""Rates and shares over hospitals: exact limits against scipy, standardisation against published examples and its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadInput, BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.incidence import Incidence
from aimer2.statistics.rates import counted, directly, incidence, indirectly, prevalence


@pytest.mark.parametrize(
    ("events", "low", "high"), [(0, 0.0, 3.688879), (1, 0.025318, 5.571643), (10, 4.795389, 18.390356), (100, 81.363991, 121.626794)]
)
def test_limits_of_a_count(events: int, low: float, high: float) -> None:
    """Garwood's limits, as tables have them, and by the Poisson distribution itself."""
    found = counted(events)
    assert found == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))
    assert stats.poisson.cdf(events, found[1]) == pytest.approx(0.025)
    if events:
        assert stats.poisson.sf(events - 1, found[0]) == pytest.approx(0.025)


@pytest.mark.parametrize(("events", "n"), [(0, 20), (3, 20), (20, 20), (481, 1000)])
def test_limits_of_a_share(events: int, n: int) -> None:
    found = prevalence(events, n, 0.9)
    np.testing.assert_allclose([found.low, found.high], proportion_confint(events, n, alpha=0.1, method="beta"), atol=1e-12)


def test_direct_standardisation_by_fay_and_feuer() -> None:
    """Births with Down syndrome by birth order in Michigan, 1950-64, as Fay and Feuer (1997) have them: 92.3 per 100,000 births; the limits by their
    definition, gamma distributions of the same mean and variance."""
    events, births = np.array([107, 141, 60, 40, 39, 25]), np.array([230061, 329449, 114920, 39487, 14208, 3052])
    standard = np.array([319933, 931318, 786511, 488235, 237863, 61313])
    found = directly(events, births, standard)
    weights = standard / standard.sum() / births
    value, variance, largest = weights @ events, weights**2 @ events, weights.max()
    assert found.estimate * 1e5 == pytest.approx(92.3, abs=0.05)
    low = stats.gamma.ppf(0.025, value**2 / variance, scale=variance / value)
    high = stats.gamma.ppf(0.975, (value + largest) ** 2 / (variance + largest**2), scale=(variance + largest**2) / (value + largest))
    np.testing.assert_allclose(found[1:], [np.sqrt(variance), low, high], rtol=1e-9)


def test_standards_in_their_limits() -> None:
    """With the standard's strata those seen, the standardised rate is the crude one, and for one stratum its limits are the exact ones."""
    events, time = np.array([4.0, 9.0]), np.array([100.0, 300.0])
    assert directly(events, time, time).estimate == pytest.approx(13 / 400)
    np.testing.assert_allclose(directly([7.0], [50.0], [3.0]), incidence(7, 50), rtol=1e-10)
    expected, ratio = indirectly(13, time, events / time)
    assert (expected, ratio.estimate) == (pytest.approx(13), pytest.approx(1.0))
    assert directly([0.0, 0.0], time, time).low == 0
    with pytest.raises(BadInput, match="every stratum"):
        directly(events, [0.0, 1.0], [1.0, 1.0])
    with pytest.raises(BadInput, match="expected"):
        indirectly(1, [0.0, 0.0], [0.1, 0.1])


AGES = Feature(name="age", kind="category", categories=("young", "old"))
ARMS = Feature(name="arm", kind="category", categories=("a", "b"))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    arm, age = rng.choice(["a", "b"], 400), rng.choice(["young", "old"], 400)
    years = rng.uniform(0.5, 5, 400)
    return pd.DataFrame({"arm": arm, "age": age, "years": years, "falls": rng.poisson(years * np.where(age == "old", 0.4, 0.1)).astype(float)})


def test_hospitals_are_asked_for_rates(rows: pd.DataFrame, ask: Any, part: Any) -> None:
    features = (Feature(name="falls"), Feature(name="years"), ARMS, AGES)
    method = Incidence(
        formula="falls ~ arm + strata(age) + offset(years)", features=features, population=(70.0, 30.0), rates=(120.0, 390.0), per=1000.0
    )
    found = ask(method, part(rows, "years"))
    lines = found.frame("Incidence").set_index(["group", "stratum"])
    sums = rows.groupby(["arm", "age"])[["falls", "years"]].sum()
    crude = sums.groupby("arm").sum()
    for arm in ("a", "b"):
        expected = incidence(crude.loc[arm, "falls"], crude.loc[arm, "years"])
        np.testing.assert_allclose(
            lines.loc[(arm, ""), ["estimate", "low", "high"]].to_numpy(float), 1000 * np.array(expected)[[0, 2, 3]], rtol=1e-10
        )
        rate = sums.loc[(arm, "old"), "falls"] / sums.loc[(arm, "old"), "years"]
        assert lines.loc[(arm, "age = old"), "estimate"] == pytest.approx(1000 * rate)
        standardised = found.frame("Directly standardised").set_index("group").loc[arm, "estimate"]
        own = [sums.loc[(arm, age), "falls"] / sums.loc[(arm, age), "years"] for age in ("young", "old")]
        assert standardised == pytest.approx(1000 * (0.7 * own[0] + 0.3 * own[1]))
        ratio = found.frame("Standardised ratio").set_index("group").loc[arm]
        assert ratio["expected"] == pytest.approx(0.12 * sums.loc[(arm, "young"), "years"] + 0.39 * sums.loc[(arm, "old"), "years"])
        assert ratio["estimate"] == pytest.approx(crude.loc[arm, "falls"] / ratio["expected"])


def test_hospitals_are_asked_for_shares(rows: pd.DataFrame, ask: Any, part: Any) -> None:
    fell = rows.assign(fell=np.where(rows["falls"] > 0, "yes", "no"))
    event = Feature(name="fell", kind="category", categories=("no", "yes"))
    line = ask(Incidence(formula="fell ~ 1", features=(event,)), part(fell, "years")).frame().iloc[0]
    count = (rows["falls"] > 0).sum()
    np.testing.assert_allclose([line["low"], line["high"]], proportion_confint(count, 400, method="beta"), rtol=1e-10)


def test_an_arm_at_no_hospital_has_no_rate(rows: pd.DataFrame, ask: Any) -> None:
    features = (Feature(name="falls"), Feature(name="years"), ARMS, AGES)
    method = Incidence(formula="falls ~ arm + strata(age) + offset(years)", features=features, population=(1.0, 1.0), rates=(1.0, 1.0))
    found = ask(method, [rows[rows["arm"] == "a"]])
    assert pd.isna(found.frame("Incidence").set_index(["group", "stratum"]).loc[("b", ""), "estimate"])
    assert found.table("Directly standardised").notes[0].startswith("b: Direct standardisation needs")


@pytest.mark.parametrize(
    ("formula", "options", "why"),
    [
        ("falls ~ arm + strata(age)", {"population": [1.0]}, "one number for each of the 2 strata"),
        ("falls ~ arm", {"rates": [1.0]}, "needs strata"),
        ("falls ~ arm + cluster(age)", {}, "knows no cluster"),
    ],
)
def test_questions_that_cannot_be_asked(formula: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadStudy, match=why):
        catalogue.make(Analysis(method="incidence", formula=formula, options=options), (Feature(name="falls"), ARMS, AGES))


def test_what_is_no_number_of_events(ask: Any) -> None:
    frame = pd.DataFrame({"falls": [0.0, 2.0], "years": [1.0, 0.0]})
    both = (Feature(name="falls"), Feature(name="years"))
    with pytest.raises(BadData, match="0 or 1"):
        ask(Incidence(formula="falls ~ 1", features=both), [frame])
    with pytest.raises(BadData, match="not above 0"):
        ask(Incidence(formula="falls ~ 1 + offset(years)", features=both), [frame])


def test_few_cases_are_refused() -> None:
    frame = Frame({"falls": (np.arange(100) < 9).astype(float)}, np.arange(100, dtype=np.uint64))
    method = Incidence(formula="falls ~ 1", features=(Feature(name="falls"),))
    assert list(method.against(frame, Disclosure(), secure=True)) == ["fewer than 10 patients in a group of a stratum have the event, or not"]
    assert not list(method.against(frame, Disclosure(minimum_cell=9), secure=True))
