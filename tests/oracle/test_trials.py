"""What a running trial is asked besides its outcome: how many patients it needs, blinded, and how many came to which stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import TTestIndPower

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadInput, BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.consort_flow import ConsortFlow
from aimer2.statistics.sample_size_review import SampleSizeReview, for_means, for_rates


@pytest.mark.parametrize(("difference", "ratio", "power"), [(0.5, 1.0, 0.9), (0.2, 1.0, 0.8), (1.1, 1.0, 0.95), (0.3, 2.0, 0.9)])
def test_sizes_of_t_tests(difference: float, ratio: float, power: float) -> None:
    """As many as statsmodels' power needs, and not one fewer."""
    first, second = for_means(4.0, 2 * difference, ratio, 0.05, power)
    exact = TTestIndPower().solve_power(difference, alpha=0.05, power=power, ratio=ratio)
    assert first in (np.ceil(exact), np.ceil(exact) + (ratio != 1))
    assert second == np.ceil(ratio * first)


def test_published_sizes() -> None:
    """Half a standard deviation with 80 % power: 64 in each group (Cohen 1988, table 2.4.1). Rates of 60 % and 75 %, by hand:
    (1.96 √(2 · 0.675 · 0.325) + 0.8416 √(0.6 · 0.4 + 0.75 · 0.25))² / 0.15² = 151.9."""
    assert for_means(1.0, 0.5, 1.0, 0.05, 0.8) == (64, 64)
    assert for_rates(0.675, 0.15, 1.0, 0.05, 0.8) == (152, 152)
    with pytest.raises(BadInput, match="cannot be that of two groups"):
        for_rates(0.02, 0.15, 1.0, 0.05, 0.8)
    with pytest.raises(BadInput, match="varies less"):
        for_means(0.0, 0.15, 1.0, 0.05, 0.8)


@pytest.fixture
def trial() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    y = 1e6 + rng.normal(0, 3, 200)
    return pd.DataFrame({"y": y, "cured": np.where(rng.random(200) < 0.4, "yes", "no")})


@pytest.mark.parametrize("adjusted", [True, False])
def test_hospitals_are_asked_blinded(trial: pd.DataFrame, ask: Any, part: Any, adjusted: bool) -> None:
    method = SampleSizeReview(formula="y ~ 1", features=(Feature(name="y"),), difference=1.5, adjusted=adjusted, planned=100)
    table = ask(method, part(trial, "y")).table()
    variance = trial["y"].var() - (1.5**2 / 4 if adjusted else 0)
    assert table.facts["standard_deviation"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    sizes = for_means(variance, 1.5, 1.0, 0.05, 0.9)
    assert [row[1] for row in table.rows] == [*sizes, sum(sizes), sum(sizes) - 100]


def test_hospitals_are_asked_for_a_rate(trial: pd.DataFrame, ask: Any) -> None:
    cured = Feature(name="cured", kind="category", categories=("no", "yes"))
    table = ask(SampleSizeReview(formula="cured ~ 1", features=(cured,), outcome="rate", difference=0.2), [trial.iloc[::2], trial.iloc[1::2]]).table()
    rate = (trial["cured"] == "yes").mean()
    assert table.facts["rate"] == pytest.approx(rate)
    assert (table.rows[0][1], table.rows[1][1]) == for_rates(rate, 0.2, 1.0, 0.05, 0.9)


FLOW = (
    Feature(name="eligible"),
    Feature(name="allocated"),
    Feature(name="analysed", kind="category", categories=("no", "yes")),
    Feature(name="arm", kind="category", categories=("new", "old")),
)


def test_a_flow_of_patients(ask: Any) -> None:
    """A stage is come to by way of all before it; who has no arm stands under none; missing is no."""
    data = pd.DataFrame(
        {
            "eligible": [1, 1, 1, 1, 1, 0, np.nan, 1.0],
            "allocated": [1, 1, 1, 1, 0, 1, 1, np.nan],
            "analysed": ["yes", "yes", "no", None, "yes", "yes", "yes", "no"],
            "arm": ["new", "old", "old", "new", None, None, None, None],
        }
    )
    method = ConsortFlow(formula="~ eligible + allocated + analysed + strata(arm)", features=FLOW)
    found = ask(method, [data.iloc[:3], data.iloc[3:]]).frame().set_index(["arm", "stage"])
    assert found.loc["all", "patients"].tolist() == [8, 6, 4, 2]
    assert found.loc["all", "lost"].tolist() == [0, 2, 2, 2]
    assert found.loc["new", "patients"].tolist() == found.loc["old", "patients"].tolist() == [2, 2, 2, 1]
    assert found.loc["none", "patients"].tolist() == [4, 2, 0, 0]
    with pytest.raises(BadData, match="neither 0 nor 1"):
        ask(method, [data.assign(eligible=2.0)])


def test_few_losses_are_told_in_secret_only() -> None:
    frame = Frame({"eligible": np.ones(40), "allocated": (np.arange(40) < 31).astype(float)}, np.arange(40, dtype=np.uint64))
    method = ConsortFlow(formula="~ eligible + allocated", features=FLOW[:2])
    assert list(method.against(frame, Disclosure(), secure=False)) == ["fewer than 10 patients come to some stage, or are lost there"]
    assert not list(method.against(frame, Disclosure(), secure=True)) and not list(method.against(frame, Disclosure(minimum_cell=9), secure=False))


@pytest.mark.parametrize(
    ("method", "formula", "options", "why"),
    [
        ("sample_size_review", "y ~ arm", {"difference": 1.0}, "no group"),
        ("sample_size_review", "y ~ 1", {}, "difference"),
        ("sample_size_review", "y ~ 1", {"difference": 2.0, "outcome": "rate"}, "below 1"),
        ("consort_flow", "y ~ arm", {}, "stages joined"),
        ("consort_flow", "~ y + strata(y)", {}, "one category"),
    ],
)
def test_questions_that_cannot_be_asked(method: str, formula: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadStudy, match=why):
        catalogue.make(Analysis(method=method, formula=formula, options=options), (Feature(name="y"), FLOW[-1]))
