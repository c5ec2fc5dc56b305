"""The weighted effect over hospitals is that of the pooled patients, against statsmodels' treatment effects and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.treatment.treatment_effects import TreatmentEffect

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.propensity_weighting import PropensityWeighting

FEATURES = (
    Feature(name="y"),
    Feature(name="age"),
    Feature(name="sex", kind="category", categories=("f", "m")),
    Feature(name="arm", kind="category", categories=("none", "drug")),
)


def patients(n: int = 600, seed: int = 3, effect: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age, male = rng.normal(60, 10, n), rng.random(n) < 0.5
    drug = rng.random(n) < 1 / (1 + np.exp(-(age - 60) / 12 - 0.8 * male + 0.3))
    y = 0.1 * age - male + effect * drug + rng.normal(size=n)
    return pd.DataFrame({"y": y, "age": age, "sex": np.where(male, "m", "f"), "arm": np.where(drug, "drug", "none")})


@pytest.mark.parametrize("estimand", ["ate", "att"])
def test_as_statsmodels_on_the_pooled_patients(ask: Any, part: Any, estimand: Any) -> None:
    data = patients()
    found = ask(PropensityWeighting(formula="y ~ arm + age + sex", features=FEATURES, estimand=estimand), part(data, "age"))
    treated = (data["arm"] == "drug").astype(float)
    x = sm.add_constant(pd.DataFrame({"age": data["age"], "male": (data["sex"] == "m").astype(float)}))
    logit = sm.Logit(treated, x).fit(disp=0, tol=1e-14)
    oracle = TreatmentEffect(sm.OLS(data["y"], x), treated, results_select=logit).ipw(effect_group="all" if estimand == "ate" else 1)
    line = found[0].rows[-1]
    assert line[1] == pytest.approx(oracle.effect[0], rel=1e-6)
    assert line[2] == pytest.approx(oracle.results_gmm.bse[0], rel=1e-4)
    assert line[2] == pytest.approx(by_definition(data, x, treated, logit, estimand), rel=1e-6)
    model = found.frame("Propensity model")
    np.testing.assert_allclose(model["estimate"], logit.params, rtol=1e-8)
    np.testing.assert_allclose(model["standard_error"], logit.bse, rtol=1e-7)


def by_definition(data: pd.DataFrame, x: Any, treated: Any, logit: Any, estimand: str) -> float:
    """The sandwich of the stacked estimating equations, their derivatives taken numerically."""
    design, a, y = x.to_numpy(), treated.to_numpy(), data["y"].to_numpy()

    def equations(theta: Any) -> Any:
        e = 1 / (1 + np.exp(-design @ theta[:3]))
        w1, w0 = (a / e, (1 - a) / (1 - e)) if estimand == "ate" else (a, (1 - a) * e / (1 - e))
        return np.column_stack([design * (a - e)[:, None], w1 * (y - theta[3]), w0 * (y - theta[4])])

    e = 1 / (1 + np.exp(-design @ logit.params.to_numpy()))
    w1, w0 = (a / e, (1 - a) / (1 - e)) if estimand == "ate" else (a, (1 - a) * e / (1 - e))
    theta = np.array([*logit.params, (w1 @ y) / w1.sum(), (w0 @ y) / w0.sum()])
    steps = np.diag(1e-5 * np.maximum(np.abs(theta), 0.01))
    bread = np.column_stack([(equations(theta + step) - equations(theta - step)).sum(axis=0) / (2 * step.sum()) for step in steps])
    turned = np.linalg.inv(bread)
    covariance = turned @ (equations(theta).T @ equations(theta)) @ turned.T
    return float(np.sqrt(covariance[3, 3] + covariance[4, 4] - 2 * covariance[3, 4]))


def test_weighting_balances_and_finds_the_effect(ask: Any) -> None:
    """Plain means are off by the age of those treated; the weighted effect is within its interval, and what the model holds is balanced."""
    data = patients(4000, seed=5)
    found = ask(PropensityWeighting(formula="y ~ arm + age + sex", features=FEATURES), [data.iloc[place::4] for place in range(4)])
    plain = data.groupby("arm")["y"].mean()
    low, high = found[0].rows[-1][3:5]
    assert low < 1.0 < high and not low < plain["drug"] - plain["none"] < high
    balance = found.frame("Balance")
    assert (balance["difference_before"].abs() > 0.1).all() and (balance["difference_after"].abs() < 0.05).all()
    age = data.groupby("arm")["age"]
    spread = np.sqrt((age.var(ddof=0)["drug"] + age.var(ddof=0)["none"]) / 2)
    assert balance["difference_before"][0] == pytest.approx((age.mean()["drug"] - age.mean()["none"]) / spread)


@pytest.mark.parametrize(("data", "why"), [("separated", "no overlap"), ("one group", "no patients")])
def test_no_overlap_has_no_answer(ask: Any, data: str, why: str) -> None:
    rows = patients(200)
    arm = np.where(rows["age"] > 60, "drug", "none") if data == "separated" else "drug"
    assert why in ask(PropensityWeighting(formula="y ~ arm + age", features=FEATURES), [rows.assign(arm=arm)]).table("No answer").notes[0]


def test_few_of_an_outcome_are_refused() -> None:
    columns = {"y": (np.arange(100) % 11 == 0).astype(float), "age": np.arange(100.0), "arm": (np.arange(100) % 2).astype(float)}
    features = (Feature(name="y", kind="category", categories=("no", "yes")), *FEATURES[1:2], FEATURES[3])
    method = PropensityWeighting(formula="y ~ arm + age", features=features)
    assert any("one of the outcomes" in why for why in method.against(Frame(columns, np.arange(100, dtype=np.uint64)), Disclosure(), secure=True))


@pytest.mark.parametrize(
    ("formula", "why"), [("y ~ arm", "what decided"), ("y ~ age + arm", "two categories"), ("y ~ arm + age + strata(sex)", "no strata")]
)
def test_questions_that_cannot_be_asked(formula: str, why: str) -> None:
    with pytest.raises(BadStudy, match=why):
        catalogue.make(Analysis(method="propensity_weighting", formula=formula), FEATURES)
