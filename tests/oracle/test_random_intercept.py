"""Regression with a random intercept per hospital, against statsmodels' mixed models and published figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar
from statsmodels.datasets import grunfeld
from statsmodels.formula.api import mixedlm, ols

from aimer2.core.errors import BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.random_intercept import RandomIntercept

FEATURES = (Feature(name="invest"), Feature(name="value"), Feature(name="capital"))


@pytest.fixture(scope="module")
def firms() -> Any:
    return grunfeld.load_pandas().data


def dense(data: pd.DataFrame, formula: str, group: str, *, restricted: bool) -> tuple[Any, Any, float]:
    """Coefficients, standard errors and log-likelihood with the whole covariance matrix of all patients, its λ by scipy's search."""
    model = ols(formula, data)
    x, y = model.exog, model.endog
    same = np.equal.outer(data[group].to_numpy(), data[group].to_numpy()).astype(float)

    def fit(share: float) -> tuple[Any, Any, float]:
        v = np.eye(len(y)) + share / (1 - share) * same
        a = x.T @ np.linalg.solve(v, x)
        beta = np.linalg.solve(a, x.T @ np.linalg.solve(v, y))
        freedom = len(y) - (x.shape[1] if restricted else 0)
        variance = (y - x @ beta) @ np.linalg.solve(v, y - x @ beta) / freedom
        likelihood = -freedom * (np.log(2 * np.pi * variance) + 1) - np.linalg.slogdet(v)[1] - (np.linalg.slogdet(a)[1] if restricted else 0)
        return beta, np.sqrt(variance * np.diag(np.linalg.inv(a))), likelihood / 2

    best = minimize_scalar(lambda share: -fit(share)[2], bounds=(0, 1 - 1e-9), method="bounded", options={"xatol": 1e-12}).x
    return fit(best)


@pytest.mark.parametrize("restricted", [True, False])
def test_firms_as_hospitals(firms: Any, ask: Any, restricted: bool) -> None:
    method = RandomIntercept(formula="invest ~ value + capital", features=FEATURES, restricted=restricted)
    found = ask(method, [own for _, own in firms.groupby("firm")])
    oracle = mixedlm("invest ~ value + capital", firms, groups="firm").fit(reml=restricted)
    lines, told = found.frame().set_index("term"), found.table().facts
    np.testing.assert_allclose(lines["estimate"], oracle.fe_params, rtol=2e-5)
    np.testing.assert_allclose(lines["standard_error"], oracle.bse_fe, rtol=2e-3)  # statsmodels lets them be moved by the variances, R does not
    exact = dense(firms, "invest ~ value + capital", "firm", restricted=restricted)
    np.testing.assert_allclose(lines["standard_error"], exact[1], rtol=1e-6)
    assert told["variance_between_hospitals"] == pytest.approx(float(oracle.cov_re.iloc[0, 0]), rel=2e-3)
    assert told["variance_within"] == pytest.approx(oracle.scale, rel=1e-4)
    assert told["log_likelihood"] == pytest.approx(oracle.llf, abs=1e-5)
    assert told["log_likelihood"] >= oracle.llf - 1e-7, "at least as high as statsmodels came"
    assert told["hospitals"] == 11
    if restricted:
        np.testing.assert_allclose(lines["estimate"], [-54.03182, 0.1093520, 0.3081997], rtol=1e-6)
        assert told["variance_between_hospitals"] == pytest.approx(6740.90, abs=0.01)
        assert told["variance_within"] == pytest.approx(2527.552, abs=1e-3)


def test_a_balanced_trial_in_closed_form(ask: Any) -> None:
    """Equal hospitals without covariates: σ² and the variance between follow from the mean squares (Searle, Casella, McCulloch 1992, section 3.8)."""
    rng = np.random.default_rng(6)
    y = 1e5 + rng.normal(size=(8, 15)) + 2 * rng.normal(size=(8, 1))
    found = ask(RandomIntercept(formula="y ~ 1", features=(Feature(name="y"),)), [pd.DataFrame({"y": own}) for own in y]).table()
    within = y.var(axis=1, ddof=1).mean()
    between = 15 * y.mean(axis=1).var(ddof=1)
    assert found.facts["variance_within"] == pytest.approx(within, rel=1e-7)
    assert found.facts["variance_between_hospitals"] == pytest.approx((between - within) / 15, rel=1e-7)
    assert found.rows[0][1:3] == (pytest.approx(y.mean(), rel=1e-12), pytest.approx(np.sqrt(between / 120), rel=1e-7))


def test_hospitals_that_do_not_differ(ask: Any) -> None:
    """The same patients everywhere: the variance between is 0, estimates are ordinary regression's, and a hospital with nobody is none."""
    rng = np.random.default_rng(6)
    own = pd.DataFrame({"y": rng.normal(size=50), "x": rng.normal(size=50)})
    method = RandomIntercept(formula="y ~ x", features=(Feature(name="y"), Feature(name="x")))
    found = ask(method, [own, own, own, own.iloc[:0]])
    oracle = ols("y ~ x", pd.concat([own] * 3)).fit()
    assert found.table().facts["variance_between_hospitals"] == 0 and found.table().facts["no_difference_p"] == 1.0
    np.testing.assert_allclose(found.frame()["estimate"], oracle.params, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.frame()["standard_error"], oracle.bse, rtol=1e-10)
    assert found.table().facts["hospitals"] == 3


def test_unequal_hospitals_and_a_category(ask: Any) -> None:
    """One patient alone at a hospital, a category at some only; and the test that hospitals do not differ."""
    rng = np.random.default_rng(9)
    sizes = [1, 5, 40, 80, 23, 61]
    hospital = np.repeat(np.arange(6), sizes)
    sex = np.where(hospital % 2, "f", rng.choice(["f", "m"], len(hospital)))
    x = rng.normal(size=len(hospital))
    data = pd.DataFrame({"y": 2 + x - (sex == "m") + rng.normal(size=6)[hospital] * 0.4 + rng.normal(size=len(x)), "x": x, "sex": sex, "h": hospital})
    features = (Feature(name="y"), Feature(name="x"), Feature(name="sex", kind="category", categories=("f", "m")))
    method = RandomIntercept(formula="y ~ x + sex", features=features, restricted=False)
    found = ask(method, [own for _, own in data.groupby("h")])
    beta, errors, likelihood = dense(data, "y ~ x + C(sex)", "h", restricted=False)
    np.testing.assert_allclose(found.frame()["estimate"], beta[[0, 2, 1]], rtol=1e-6)
    np.testing.assert_allclose(found.frame()["standard_error"], errors[[0, 2, 1]], rtol=1e-6)
    alone = ols("y ~ x + C(sex)", data).fit().llf
    assert found.table().facts["no_difference_p"] == pytest.approx(stats.chi2.sf(2 * (likelihood - alone), 1) / 2, rel=1e-6)


def test_a_term_that_follows_from_others_is_named(ask: Any, firms: Any) -> None:
    twice = firms.assign(double=2 * firms["value"])
    method = RandomIntercept(formula="invest ~ value + double", features=(*FEATURES[:2], Feature(name="double")))
    found = ask(method, [own for _, own in twice.groupby("firm")]).table()
    assert found.rows[2][1] is None and "double" in found.notes[0]


@pytest.mark.parametrize(
    ("formula", "why"), [("~ value", "one response"), ("invest ~ 0 + value", "intercept"), ("invest ~ value + cluster(firm)", "no cluster")]
)
def test_questions_that_cannot_be_asked(formula: str, why: str) -> None:
    with pytest.raises(BadStudy, match=why):
        catalogue.make(
            Analysis(method="random_intercept", formula=formula), (*FEATURES, Feature(name="firm", kind="category", categories=("a", "b")))
        )
