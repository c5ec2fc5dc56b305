"""Regressions with an intercept for each hospital are the pooled ones that have a column for each, against statsmodels; and no intercept leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.discrete.discrete_model import NegativeBinomial

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.study import Feature
from aimer2.core.study.formula import parse
from aimer2.statistics.glm import Glm

ARM = Feature(name="arm", kind="category", categories=("a", "b", "c"))
SITES = (150, 60, 90)


def fixed(formula: str, **options: Any) -> Glm:
    features = (ARM, *(Feature(name=name) for name in parse(formula).columns if name != "arm"))
    return Glm(formula=formula, features=features, sites="fixed", **options)


def closely(found: Any, expected: Any, rtol: float = 1e-8) -> None:
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=rtol)


@pytest.fixture(scope="module")
def trial() -> pd.DataFrame:
    """Hospitals of other sizes, other patients and other outcomes: a common intercept would be wrong."""
    rng = np.random.default_rng(21)
    site = np.repeat([0, 1, 2], SITES)
    data = pd.DataFrame({"site": site, "x": rng.normal(2000 + 5 * site, 4), "arm": rng.choice(["a", "b", "c"], len(site))})
    data["years"], data["w"] = rng.uniform(1, 4, len(site)), rng.integers(1, 4, len(site)) * 1.0
    eta = 0.15 * (data["x"] - 2005) + 0.5 * (data["arm"] == "c") - 1.2 * site + 0.8
    data["number"] = eta + rng.normal(size=len(site))
    data["event"] = (rng.random(len(site)) < 1 / (1 + np.exp(-eta))) * 1.0
    data["count"] = rng.poisson(np.exp(eta / 2) * data["years"]) * 1.0
    data["many"] = rng.negative_binomial(2, 2 / (2 + np.exp(eta / 2) * data["years"])) * 1.0
    data["cost"] = rng.gamma(2.0, np.exp(eta / 2)) + 0.01
    return data


def parts(data: pd.DataFrame) -> list[pd.DataFrame]:
    return [one for _, one in data.groupby("site")]


def columns(data: pd.DataFrame) -> pd.DataFrame:
    """Columns of the terms about a round number, so that the pooled fit keeps its digits, and one of each hospital."""
    terms = {"x": data["x"] - 2005, "b": (data["arm"] == "b") * 1.0, "c": (data["arm"] == "c") * 1.0}
    return pd.DataFrame(terms | {f"site {one}": (data["site"] == one) * 1.0 for one in sorted(data["site"].unique())})


def pooled(data: pd.DataFrame, response: str, family: Any, **given: Any) -> Any:
    fit = {name: given.pop(name) for name in ("cov_type", "cov_kwds") if name in given}
    return sm.GLM(data[response], columns(data), family, **given).fit(tol=1e-14, maxiter=200, **fit)


def test_linear_regression_is_that_with_a_column_for_each_hospital(trial: pd.DataFrame, ask: Any) -> None:
    found = ask(fixed("number ~ x + arm"), parts(trial))
    line, facts = found.frame(), found.table().facts
    full = sm.OLS(trial["number"], columns(trial)).fit()
    without = sm.OLS(trial["number"], columns(trial).iloc[:, 3:]).fit()
    closely(line[["estimate", "standard_error", "p"]], np.column_stack([full.params, full.bse, full.pvalues])[:3])
    closely(line[["low", "high"]], full.conf_int().iloc[:3])
    f, p, _ = full.compare_f_test(without)
    told = [facts[name] for name in ("log_likelihood", "aic", "bic", "dispersion", "residual_freedom", "parameters", "f", "f_p")]
    closely(told, [full.llf, full.aic + 2, full.bic + np.log(full.nobs), full.scale, full.df_resid, 6, f, p])
    assert facts["r_squared_within"] == pytest.approx(1 - full.ssr / without.ssr, rel=1e-9) and "r_squared" not in facts
    assert list(line["term"]) == ["x", "arm = b", "arm = c"] and facts["intercepts_of_sites"] == 3


@pytest.mark.parametrize(
    ("response", "options", "family"),
    [
        ("event", {"family": "binomial"}, sm.families.Binomial()),
        ("event", {"family": "binomial", "link": "probit"}, sm.families.Binomial(sm.families.links.Probit())),
        ("event", {"family": "binomial", "link": "cloglog"}, sm.families.Binomial(sm.families.links.CLogLog())),
        ("count", {"family": "poisson"}, sm.families.Poisson()),
        ("cost", {"family": "gamma"}, sm.families.Gamma(sm.families.links.Log())),
        ("many", {"family": "negative_binomial", "alpha": 0.5}, sm.families.NegativeBinomial(alpha=0.5)),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_families_and_links_with_offset_and_weights(trial: pd.DataFrame, ask: Any, response: str, options: Any, family: Any) -> None:
    offset = np.log(trial["years"]) if response in ("count", "many") else None
    formula = f"{response} ~ x + arm + weights(w)" + (" + offset(log(years))" if offset is not None else "")
    found = ask(fixed(formula, rounds=60, **options), parts(trial))
    full = pooled(trial, response, family, offset=offset, freq_weights=trial["w"])
    closely(found.frame()["estimate"], full.params[:3], 1e-7)
    closely(found.frame()["standard_error"], full.bse[:3], 1e-6)
    facts = found.table().facts
    closely([facts["deviance"], facts["pearson_chi2"], facts["residual_freedom"]], [full.deviance, full.pearson_chi2, full.df_resid])
    if response != "cost":
        without = sm.GLM(trial[response], columns(trial).iloc[:, 3:], family, offset=offset, freq_weights=trial["w"]).fit(tol=1e-14, maxiter=200)
        closely([facts["log_likelihood"], facts["aic"]], [full.llf, full.aic])
        closely([facts["likelihood_ratio_chi2"], facts["null_deviance"]], [2 * (full.llf - without.llf), without.deviance], 1e-7)


def test_a_negative_binomial_estimates_its_alpha_too(trial: pd.DataFrame, ask: Any) -> None:
    found = ask(fixed("many ~ x + arm + offset(log(years))", family="negative_binomial", rounds=60), parts(trial))
    full = NegativeBinomial(trial["many"], columns(trial), offset=np.log(trial["years"])).fit(disp=0, maxiter=500, gtol=1e-10, method="bfgs")
    closely(found.frame()["estimate"], full.params[:3], 1e-4)
    closely([found.table().facts["alpha"], found.table().facts["log_likelihood"]], [full.params.iloc[-1], full.llf], 2e-5)
    assert found.table().facts["log_likelihood"] >= full.llf - 1e-9
    assert not any("converged" in note for note in found.table().notes)


@pytest.mark.parametrize("errors", ["robust", "patients", "sites"])
def test_robust_errors_count_the_hospitals_intercepts(trial: pd.DataFrame, ask: Any, errors: str) -> None:
    clusters = {"patients": np.arange(len(trial)) // 3, "sites": trial["site"]}.get(errors)
    given = {"cov_type": "HC0"} if clusters is None else {"cov_type": "cluster", "cov_kwds": {"groups": clusters}}
    patients = [one.index.to_numpy() // 3 for one in parts(trial)]
    found = ask(fixed("event ~ x + arm", family="binomial", errors=errors), parts(trial), patients=patients)
    closely(found.frame()["standard_error"], pooled(trial, "event", sm.families.Binomial(), **given).bse[:3], 1e-7)


def test_a_hospital_with_one_outcome_says_nothing_and_is_counted(trial: pd.DataFrame, ask: Any) -> None:
    data = trial.assign(event=trial["event"].where(trial["site"] != 1, 1.0))
    found = ask(fixed("event ~ x + arm", family="binomial"), parts(data))
    others = pooled(data[data["site"] != 1], "event", sm.families.Binomial())
    closely(found.frame()["estimate"], others.params[:3])
    closely(found.frame()["standard_error"], others.bse[:3])
    closely([found.table().facts["log_likelihood"]], [others.llf])
    assert any(note.startswith("of 3 sites 1 have one outcome alone") for note in found.table().notes)
    assert found.table().facts["rows"] == len(data) and found.table().facts["parameters"] == 6


def test_what_does_not_vary_within_hospitals_has_no_estimate(trial: pd.DataFrame, ask: Any) -> None:
    """What is the same for all patients of a hospital cannot be told apart from the hospital."""
    data = trial.assign(beds=0.1 + 0.7 * trial["site"])
    table = ask(fixed("number ~ x + beds + x:beds"), parts(data)).table()
    assert [line[1] is None for line in table.rows] == [False, True, False] and "beds" in table.notes[0]
    assert "the same at each hospital" in table.notes[0]


def test_penalties_spare_the_intercepts(trial: pd.DataFrame, ask: Any) -> None:
    """At the optimum the profile's score is the penalty's gradient, and nothing is left of each hospital's own."""
    found = ask(fixed("event ~ x + arm", family="binomial", ridge=2.0), parts(trial)).frame()
    matrix, own = columns(trial).to_numpy(), np.zeros(3)
    rest = matrix[:, :3] @ found["estimate"].to_numpy()
    for place in range(3):
        at = trial["site"].to_numpy() == place
        for _ in range(50):
            mean = 1 / (1 + np.exp(-rest[at] - own[place]))
            own[place] += (trial["event"].to_numpy()[at] - mean).sum() / (mean * (1 - mean)).sum()
    score = matrix.T @ (trial["event"] - 1 / (1 + np.exp(-rest - own @ matrix[:, 3:].T)))
    np.testing.assert_allclose(score[:3], 2.0 * found["estimate"], atol=1e-8)


def test_no_mean_of_a_hospital_leaves(trial: pd.DataFrame) -> None:
    """Of a linear regression: outcomes that are all 7 higher, and columns moved by what they like, give the same sums."""
    method = fixed("number ~ x")
    values = {"beta": np.array([0.3]), "centre": np.zeros(1), "spread": np.array([4.0]), "alpha": np.ones(1)}
    one = trial[trial["site"] == 0]
    there, moved = (
        Frame({"number": one["number"].to_numpy() + shift, "x": one["x"].to_numpy() + 3 * shift}, np.arange(len(one), dtype=np.uint64))
        for shift in (0.0, 7.0)
    )
    for number in (1, 2):
        for name, told in method.sums(values, there, number).items():
            np.testing.assert_allclose(method.sums(values, moved, number)[name], told, rtol=1e-9, atol=1e-9, err_msg=name)


def test_what_cannot_be_asked_and_what_is_refused() -> None:
    assert any("own intercept is not one number" in fault for fault in fixed("y ~ x", family="gamma", link="inverse").faults())
    assert any("leave out 0" in fault for fault in fixed("y ~ 0 + x").faults())
    assert list(fixed("y ~ 1").faults()) == ["there is no term to estimate"]
    frame = Frame({"y": np.arange(25.0), "x": np.arange(25.0) ** 2}, np.arange(25, dtype=np.uint64))
    limits = Disclosure(minimum_cell=5, patients_per_parameter=10)
    assert list(fixed("y ~ x").against(frame.at(np.arange(15)), limits, secure=True)) == ["2 coefficients are too many for the patients here"]
    assert not list(fixed("y ~ x").against(frame, limits, secure=True))
