"""Regressions over hospitals are the pooled ones: against statsmodels, NIST's certified values and published figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import ElasticNet
from statsmodels.discrete.discrete_model import NegativeBinomial

from aimer2.core.study import Feature
from aimer2.core.study.formula import parse
from aimer2.statistics.glm import Glm

Part = Callable[..., list[pd.DataFrame]]


def glm(formula: str, *categories: Feature, **options: Any) -> Glm:
    listed = {one.name for one in categories}
    return Glm(formula=formula, features=(*categories, *(Feature(name=name) for name in parse(formula).columns if name not in listed)), **options)


def closely(found: Any, expected: Any, rtol: float = 1e-8) -> None:
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=rtol)


@pytest.fixture(scope="module")
def cancer() -> pd.DataFrame:
    found: Any = load_breast_cancer(as_frame=True)
    data = found.data.rename(columns=lambda name: name.replace(" ", "_"))
    return data.assign(malignant=1.0 - found.target, size=pd.cut(data["mean_area"], [0, 500, 800, 1e4], labels=["s", "m", "l"]).astype(str))


COLUMNS = ["mean_radius", "mean_texture", "mean_smoothness", "mean_concavity", "mean_symmetry"]


def test_logistic_regression_of_breast_cancer(cancer: pd.DataFrame, ask: Any, part: Part) -> None:
    found = ask(glm(f"malignant ~ {' + '.join(COLUMNS)}", family="binomial"), part(cancer, "malignant"))
    line, facts = found.frame(), found.table().facts
    closely(line["estimate"], [-40.73798025, 1.300653352, 0.3828008831, 102.7973758, 18.5184779, 14.37445986])
    closely(line["standard_error"], [5.0705533, 0.16363503, 0.062610991, 22.403746, 4.1994022, 10.725186], 1e-7)
    pooled = sm.Logit(cancer["malignant"], sm.add_constant(cancer[COLUMNS])).fit(disp=0, method="newton", maxiter=100, tol=1e-14)
    closely(line["estimate"], pooled.params)
    closely(line["standard_error"], pooled.bse)
    closely(line["p"], pooled.pvalues, 1e-7)
    closely(line[["low", "high"]], pooled.conf_int())
    closely(line["odds_ratio"], np.exp(pooled.params))
    closely([facts[name] for name in ("log_likelihood", "aic", "bic", "likelihood_ratio_chi2")], [pooled.llf, pooled.aic, pooled.bic, pooled.llr])


def test_linear_regression_of_diabetes(ask: Any, part: Part) -> None:
    raw: Any = load_diabetes(as_frame=True, scaled=False)
    data = raw.data.assign(y=raw.target)
    found = ask(glm(f"y ~ {' + '.join(raw.data.columns)}"), part(data, "age"))
    line, facts = found.frame(), found.table().facts
    pooled = sm.OLS(data["y"], sm.add_constant(raw.data)).fit()
    closely(line["estimate"], pooled.params)
    closely(line[["standard_error", "statistic", "p"]], np.column_stack([pooled.bse, pooled.tvalues, pooled.pvalues]))
    closely(line[["low", "high"]], pooled.conf_int())
    closely(line["estimate"].iloc[:4], [-334.5671385, -0.03636122, -22.85964809, 5.60296209], 2e-7)
    closely(
        [facts[name] for name in ("r_squared", "adjusted_r_squared", "f", "f_p", "log_likelihood", "dispersion")],
        [pooled.rsquared, pooled.rsquared_adj, pooled.fvalue, pooled.f_pvalue, pooled.llf, pooled.scale],
    )


def test_longley_to_the_certified_digits(ask: Any) -> None:
    """NIST StRD, level of difficulty: higher."""
    loaded: Any = sm.datasets.longley.load_pandas()
    data = loaded.exog.assign(y=loaded.endog)
    found = ask(glm("y ~ GNPDEFL + GNP + UNEMP + ARMED + POP + YEAR"), [data.iloc[place::3] for place in range(3)])
    certified = [
        -3482258.63459582,
        15.0618722713733,
        -0.0358191792925910,
        -2.02022980381683,
        -1.03322686717359,
        -0.0511041056535807,
        1829.15146461355,
    ]
    errors = [890420.383607373, 84.9149257747669, 0.0334910077722432, 0.488399681651699, 0.214274163161675, 0.226073200069370, 455.478499142212]
    closely(found.frame()["estimate"], certified, 1e-9)
    closely(found.frame()["standard_error"], errors, 1e-9)
    closely(found.table().facts["r_squared"], 0.995479004577296, 1e-9)


def test_poisson_regression_of_cpunish(ask: Any, part: Part) -> None:
    loaded: Any = sm.datasets.cpunish.load_pandas()
    data = loaded.exog.assign(y=loaded.endog)
    found = ask(glm(f"y ~ {' + '.join(loaded.exog.columns)}", family="poisson"), part(data, "INCOME"))
    pooled = sm.GLM(data["y"], sm.add_constant(loaded.exog), sm.families.Poisson()).fit(tol=1e-13)
    closely(found.frame()["estimate"], [-4.770212977, 0.0002566657573, 0.07367587969, -0.09248670213, 0.0001887376557, 2.3108277, -19.12765883], 1e-8)
    closely(found.frame()["standard_error"], pooled.bse)
    facts = found.table().facts
    closely([facts[name] for name in ("log_likelihood", "deviance", "pearson_chi2")], [-32.1255985877, pooled.deviance, pooled.pearson_chi2])


@pytest.fixture(scope="module")
def counts() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"x": rng.normal(50, 10, 400), "arm": rng.choice(["a", "b", "c"], 400), "years": rng.uniform(1, 9, 400)})
    rate = np.exp(-3 + 0.03 * data["x"] + 0.4 * (data["arm"] == "c")) * data["years"]
    y, weight = rng.negative_binomial(2, 2 / (2 + rate)), rng.integers(1, 4, 400)
    return data.assign(y=y.astype(float), cost=rng.gamma(2, rate / 2) + 0.1, w=weight.astype(float))


def dummies(data: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"const": 1.0, "x": data["x"], "b": (data["arm"] == "b") * 1.0, "c": (data["arm"] == "c") * 1.0})


@pytest.mark.parametrize(
    ("response", "options", "family"),
    [
        ("y", {"family": "poisson"}, sm.families.Poisson()),
        ("cost", {"family": "gamma"}, sm.families.Gamma(sm.families.links.Log())),
        ("cost", {"family": "gamma", "link": "inverse"}, sm.families.Gamma()),
        ("y", {"family": "negative_binomial", "alpha": 0.5}, sm.families.NegativeBinomial(alpha=0.5)),
        ("cost", {"family": "gaussian", "link": "log"}, sm.families.Gaussian(sm.families.links.Log())),
        ("any", {"family": "binomial"}, sm.families.Binomial()),
        ("any", {"family": "binomial", "link": "probit"}, sm.families.Binomial(sm.families.links.Probit())),
        ("any", {"family": "binomial", "link": "cloglog"}, sm.families.Binomial(sm.families.links.CLogLog())),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_families_and_links_with_offset_weights_and_categories(counts: pd.DataFrame, ask: Any, response: str, options: Any, family: Any) -> None:
    data = counts.assign(any=(counts["y"] > 5) * 1.0)
    offset = {"poisson": np.log(data["years"]), "negative_binomial": np.log(data["years"])}.get(options["family"], 0 * data["x"])
    formula = f"{response} ~ x + C(arm) + offset(log(years)) + weights(w)" if offset.any() else f"{response} ~ x + C(arm) + weights(w)"
    arm = Feature(name="arm", kind="category", categories=("a", "b", "c"))
    found = ask(glm(formula, arm, rounds=60, **options), [data.iloc[:1], data.iloc[1:150], data.iloc[150:]])
    pooled = sm.GLM(data[response], dummies(data), family, offset=offset, freq_weights=data["w"]).fit(tol=1e-14, maxiter=300)
    closely(found.frame()["estimate"], pooled.params, 1e-7)
    closely(found.frame()["standard_error"], pooled.bse, 1e-6)
    facts = found.table().facts
    closely([facts["deviance"], facts["pearson_chi2"]], [pooled.deviance, pooled.pearson_chi2])
    if options["family"] in ("binomial", "poisson", "negative_binomial"):
        closely([facts["log_likelihood"]], [pooled.llf])
    if not offset.any() and "null_deviance" in facts:
        closely([facts["null_deviance"]], [pooled.null_deviance])


def test_a_negative_binomial_estimates_its_alpha(counts: pd.DataFrame, ask: Any) -> None:
    arm = Feature(name="arm", kind="category", categories=("a", "b", "c"))
    found = ask(glm("y ~ x + arm + offset(log(years))", arm, family="negative_binomial", rounds=60), [counts.iloc[::2], counts.iloc[1::2]])
    pooled = NegativeBinomial(counts["y"], dummies(counts), offset=np.log(counts["years"])).fit(disp=0, maxiter=500, gtol=1e-10, method="bfgs")
    closely(found.frame()["estimate"], pooled.params[:4], 2e-5)
    closely([found.table().facts["alpha"], found.table().facts["log_likelihood"]], [pooled.params.iloc[-1], pooled.llf], 2e-5)
    assert found.table().facts["log_likelihood"] >= pooled.llf - 1e-9


@pytest.mark.parametrize(("errors", "options"), [("robust", {"cov_type": "HC0"}), ("sites", {}), ("patients", {})])
def test_robust_errors(cancer: pd.DataFrame, ask: Any, errors: str, options: Any) -> None:
    sites = [cancer.iloc[place::5] for place in range(5)]
    groups = np.arange(len(cancer)) % 5 if errors == "sites" else np.arange(len(cancer))
    given = options or {"cov_type": "cluster", "cov_kwds": {"groups": groups}}
    found = ask(glm("malignant ~ mean_texture + mean_symmetry", family="binomial", errors=errors), sites)
    pooled = sm.GLM(cancer["malignant"], sm.add_constant(cancer[["mean_texture", "mean_symmetry"]]), sm.families.Binomial()).fit(tol=1e-14, **given)
    closely(found.frame()["standard_error"], pooled.bse, 1e-7)
    assert any("sites" in note for note in found.table().notes) == (errors == "sites")


def test_ridge_is_the_penalised_optimum(cancer: pd.DataFrame, ask: Any) -> None:
    """At the optimum the score is the penalty's gradient, whatever the units of a column."""
    found = ask(glm("malignant ~ mean_radius + mean_smoothness", family="binomial", ridge=3.0), [cancer.iloc[::2], cancer.iloc[1::2]]).frame()
    beta = found["estimate"].to_numpy()
    matrix = np.column_stack([np.ones(len(cancer)), cancer[["mean_radius", "mean_smoothness"]]])
    score = matrix.T @ (cancer["malignant"] - 1 / (1 + np.exp(-matrix @ beta)))
    np.testing.assert_allclose(score, 3.0 * np.array([0, *beta[1:]]), atol=1e-8)


def test_interactions_no_intercept_and_a_level_that_one_site_has_alone(cancer: pd.DataFrame, ask: Any) -> None:
    size = Feature(name="size", kind="category", categories=("s", "m", "l"))
    by_size = [cancer[cancer["size"] == level] for level in ("s", "m", "l")]
    found = ask(glm("mean_texture ~ 0 + size + size:mean_radius", size), by_size)
    slopes = [np.polyfit(part["mean_radius"], part["mean_texture"], 1) for part in by_size]
    lines = found.frame().set_index("term")["estimate"]
    closely([lines[f"size = {level}"] for level in "sml"], [slope[1] for slope in slopes], 1e-7)


def test_what_follows_from_other_terms_is_named(cancer: pd.DataFrame, ask: Any) -> None:
    data = cancer.assign(twice=2 * cancer["mean_radius"] + 3)
    size = Feature(name="size", kind="category", categories=("s", "m", "l", "huge"))
    found = ask(glm("mean_texture ~ mean_radius + twice + size", size), [data.iloc[::2], data.iloc[1::2]])
    lines = found.frame().set_index("term")
    assert lines["estimate"].isna().to_dict() == {
        name: name in ("twice", "size = huge") for name in ("intercept", "mean_radius", "twice", "size = m", "size = l", "size = huge")
    }
    pooled = sm.OLS(data["mean_texture"], np.column_stack([np.ones(len(data)), data["mean_radius"], data["size"] == "m", data["size"] == "l"])).fit()
    closely(lines["estimate"].dropna(), pooled.params)
    assert "twice, size = huge" in found.table().notes[0]


def test_separation_is_named_and_does_not_run_on(cancer: pd.DataFrame, ask: Any) -> None:
    data = cancer.assign(sure=(cancer["malignant"] == 1) & (cancer["mean_radius"] > 18) * 1.0, noise=np.sin(np.arange(len(cancer))))
    data["sure"] = data["sure"].astype(float)
    [table] = ask(glm("malignant ~ noise + sure", family="binomial"), [data.iloc[::2], data.iloc[1::2]])
    assert any(note.startswith("separation: the outcome follows from sure") for note in table.notes)
    ridge = ask(glm("malignant ~ noise + sure", family="binomial", ridge=0.1), [data.iloc[::2], data.iloc[1::2]]).table()
    assert not any(note.startswith("separation") for note in ridge.notes)


def test_missing_cells_leave_rows_out(cancer: pd.DataFrame, ask: Any) -> None:
    data = cancer.assign(mean_texture=cancer["mean_texture"].where(np.arange(len(cancer)) % 5 > 0))
    found = ask(glm("mean_radius ~ mean_texture"), [data.iloc[::2], data.iloc[1::2]])
    pooled = sm.OLS(data["mean_radius"], sm.add_constant(data[["mean_texture"]]), missing="drop").fit()
    closely(found.frame()["estimate"], pooled.params)
    assert found.table().facts["rows"] == pooled.nobs


@pytest.mark.parametrize(("ratio", "strength"), [(1.0, 1.5), (0.4, 20.0)])
def test_elastic_net_of_a_linear_model_is_scikit_learn_s(ask: Any, part: Part, ratio: float, strength: float) -> None:
    raw: Any = load_diabetes(as_frame=True, scaled=False)
    data, columns = raw.data.assign(y=raw.target), list(raw.data.columns)
    pooled = ElasticNet(alpha=strength, l1_ratio=ratio, tol=1e-14, max_iter=1_000_000).fit(raw.data, raw.target)
    n = len(data)
    found = ask(glm(f"y ~ {' + '.join(columns)}", lasso=n * strength * ratio, ridge=n * strength * (1 - ratio)), part(data, "age"))
    closely(found.frame()["estimate"], [pooled.intercept_, *pooled.coef_], 1e-6)
    assert (found.frame()["estimate"] == 0).sum() == (pooled.coef_ == 0).sum() > 0
    assert found.frame()["standard_error"].isna().all() and found.table().facts["parameters"] == 1 + (pooled.coef_ != 0).sum()


def test_lasso_of_a_logistic_model_meets_its_conditions_of_optimality(cancer: pd.DataFrame, ask: Any, part: Part) -> None:
    """At the optimum the score is the penalty's gradient where a coefficient is not 0, and no larger than the penalty where it is."""
    lasso = 4.0
    found = ask(glm(f"malignant ~ {' + '.join(COLUMNS)}", family="binomial", lasso=lasso), part(cancer, "malignant")).frame()
    beta = found["estimate"].to_numpy()
    matrix = np.column_stack([np.ones(len(cancer)), cancer[COLUMNS]])
    score = matrix.T @ (cancer["malignant"] - 1 / (1 + np.exp(-matrix @ beta)))
    inside, outside = np.flatnonzero(beta[1:]) + 1, np.flatnonzero(beta == 0)
    assert len(inside) and len(outside)
    np.testing.assert_allclose(score[inside], lasso * np.sign(beta[inside]), atol=1e-7)
    assert abs(score[0]) < 1e-7 and (np.abs(score[outside]) < lasso).all()


def test_a_lasso_of_separated_outcomes_ends(cancer: pd.DataFrame, ask: Any) -> None:
    data = cancer.assign(sure=cancer["malignant"], noise=np.sin(np.arange(len(cancer))))
    table = ask(glm("malignant ~ noise + sure", family="binomial", lasso=2.0), [data.iloc[::2], data.iloc[1::2]]).table()
    assert not any("converged" in note or note.startswith("separation") for note in table.notes)


def test_what_a_lasso_cannot_have() -> None:
    assert list(glm("y ~ x", lasso=1.0, errors="robust").faults()) == ["a lasso has no standard errors: leave out `errors`"]
    assert any("needs its `alpha`" in fault for fault in glm("y ~ x", lasso=1.0, family="negative_binomial").faults())
